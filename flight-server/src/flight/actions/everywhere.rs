//! Answers about the caches of all nodes together: each node says what it holds, and the sums are told.

use std::collections::BTreeMap;

use futures::future::join_all;
use jetbridge_catalog::membership::Status as MemberStatus;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::error::ServiceError;
use crate::node::Node;

/// Whose caches an action is about.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Scope {
    /// All nodes that serve.
    #[default]
    Cluster,
    /// The node that is asked.
    Node,
}

/// What is summed; all else is the dataset's, and every node says the same.
const SUMS: [&str; 3] = ["raw_bytes", "decoded_bytes", "outdated_bytes"];
/// Lists whose entries are of one thing each, and what tells the things apart.
const LISTS: [(&str, &[&str]); 2] = [("by_file", &["path", "generation"]), ("by_column", &["column"])];

/// The answer of this node and those of all others, as one.
///
/// # Errors
/// UNAVAILABLE, with its id, where a node that serves does not answer.
pub(super) async fn summed(
    node: &Node,
    action: &str,
    body: &impl Serialize,
    own: &impl Serialize,
) -> Result<Value, ServiceError> {
    let internal = |error: serde_json::Error| ServiceError::Internal {
        what: error.to_string(),
    };
    let mut sum = serde_json::to_value(own).map_err(internal)?;
    let mut body = serde_json::to_value(body).map_err(internal)?;
    body["scope"] = serde_json::to_value(Scope::Node).map_err(internal)?;
    let others = others(node);
    let asked = others.iter().map(|id| node.cluster.peers.call(id, action, &body));
    for answer in join_all(asked).await {
        let answer = answer.map_err(|what| ServiceError::Busy { what })?;
        add(&mut sum, &answer);
    }
    Ok(sum)
}

/// The ids of all other nodes that serve, or may still.
pub(in super::super) fn others(node: &Node) -> Vec<String> {
    let is_there = |status| {
        matches!(
            status,
            MemberStatus::Serving | MemberStatus::Suspect | MemberStatus::Draining
        )
    };
    let view = node.cluster.view();
    let there = view.members.values().filter(|member| is_there(member.status));
    let ids = there.map(|member| member.id.to_string());
    ids.filter(|id| id != node.cluster.id()).collect()
}

/// Adds what another node says to a sum.
fn add(sum: &mut Value, other: &Value) {
    let (Some(sum), Some(other)) = (sum.as_object_mut(), other.as_object()) else {
        return;
    };
    add_numbers(sum, other);
    for (list, keys) in LISTS {
        if let (Some(Value::Array(mine)), Some(Value::Array(theirs))) = (sum.get_mut(list), other.get(list)) {
            add_lists(mine, theirs, keys);
        }
    }
    // What holds of the sums holds of their parts.
    if let (Some(raw), Some(bytes)) = (number(sum, "raw_bytes"), number(sum, "bytes"))
        && sum.contains_key("raw_share")
    {
        let share = jetbridge_cache::gauge(raw) / jetbridge_cache::gauge(bytes.max(1));
        sum.insert("raw_share".to_owned(), Value::from(share.min(1.0)));
    } else if let (Some(raw), Some(decoded), true) = (
        number(sum, "raw_bytes"),
        number(sum, "decoded_bytes"),
        sum.contains_key("dry_run"),
    ) {
        sum.insert("bytes".to_owned(), Value::from(raw + decoded));
        let files = number(sum, "files")
            .unwrap_or(0)
            .max(number(other, "files").unwrap_or(0));
        sum.insert("files".to_owned(), Value::from(files));
    }
}

fn add_numbers(sum: &mut Map<String, Value>, other: &Map<String, Value>) {
    for name in SUMS {
        if let (Some(mine), Some(theirs)) = (number(sum, name), number(other, name)) {
            sum.insert(name.to_owned(), Value::from(mine.saturating_add(theirs)));
        }
    }
}

fn add_lists(mine: &mut Vec<Value>, theirs: &[Value], keys: &[&str]) {
    let name = |entry: &Value| keys.iter().map(|key| entry[*key].to_string()).collect::<Vec<_>>();
    let places: BTreeMap<_, _> = mine.iter().enumerate().map(|(at, entry)| (name(entry), at)).collect();
    for entry in theirs {
        let known = places.get(&name(entry)).and_then(|&at| mine.get_mut(at));
        match (known.and_then(Value::as_object_mut), entry.as_object()) {
            (Some(known), Some(entry)) => add_numbers(known, entry),
            _ => mine.push(entry.clone()),
        }
    }
}

fn number(map: &Map<String, Value>, name: &str) -> Option<u64> {
    map.get(name)?.as_u64()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_nodes_hold_is_summed_and_what_the_dataset_has_is_not() {
        let mut sum = json!({ "path": "/t", "files": 2, "rows": 10, "bytes": 100, "raw_bytes": 30, "raw_share": 0.3,
            "decoded_bytes": 5, "outdated_bytes": 0,
            "by_file": [{ "path": "/t/a", "generation": "g", "bytes": 60, "raw_bytes": 30, "decoded_bytes": 5 }] });
        let other = json!({ "path": "/t", "files": 2, "rows": 10, "bytes": 100, "raw_bytes": 20, "raw_share": 0.2,
            "decoded_bytes": 1, "outdated_bytes": 3,
            "by_file": [{ "path": "/t/a", "generation": "g", "bytes": 60, "raw_bytes": 10, "decoded_bytes": 1 },
                { "path": "/t/b", "generation": "g", "bytes": 40, "raw_bytes": 10, "decoded_bytes": 0 }] });
        add(&mut sum, &other);
        assert_eq!(sum["raw_bytes"], 50);
        assert_eq!(sum["raw_share"], 0.5);
        assert_eq!(
            (&sum["rows"], &sum["bytes"], &sum["files"]),
            (&json!(10), &json!(100), &json!(2))
        );
        assert_eq!(sum["outdated_bytes"], 3);
        assert_eq!(sum["by_file"][0]["raw_bytes"], 40);
        assert_eq!(sum["by_file"][0]["bytes"], 60);
        assert_eq!(sum["by_file"][1]["path"], "/t/b");
    }

    #[test]
    fn what_was_freed_is_the_sum_of_all_nodes() {
        let mut sum =
            json!({ "path": "/t", "files": 1, "bytes": 3, "raw_bytes": 1, "decoded_bytes": 2, "dry_run": true });
        add(
            &mut sum,
            &json!({ "files": 2, "bytes": 7, "raw_bytes": 7, "decoded_bytes": 0, "dry_run": true }),
        );
        assert_eq!(
            (&sum["bytes"], &sum["raw_bytes"], &sum["files"]),
            (&json!(10), &json!(8), &json!(2))
        );
    }
}
