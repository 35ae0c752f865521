//! Which workers hold what of a dataset, wherever placement would have it.
//!
//! A verification is about every copy: those that a preload asked for beyond what the mount says, those that earlier owners
//! have still, and those that came of reads. So each worker that serves is asked once a plan, before it begins, where in which
//! files it holds something. What it answers is as much as it holds, and a task goes to those alone that hold something of it:
//! on a large cluster a dataset costs a call a worker, and no more tasks than there are copies.
//!
//! A worker that does not say, since it is slow, of an older version, or holds more than one answer is to carry
//! (`MOST_HOLDINGS`), may hold anything, and has a task of everything.
//!
//! Why not by the order of those that stand in for an owner: reads may have brought copies anywhere, and most that could have
//! one have none.

use std::collections::{BTreeSet, HashMap};
use std::ops::Range;
use std::sync::Arc;

use futures::future::join_all;
use jetbridge_cache::key::FileId;
use jetbridge_cache::{HeldParts, RowGroupInfo};
use jetbridge_catalog::membership::{Status, View};
use serde::{Deserialize, Serialize};

use crate::dataset::{DataFile, Dataset};
use crate::error::ServiceError;
use crate::node::Node;
use crate::plan::Run;

/// Name of the action that tells where in which files a node holds something.
pub const HOLDS_ACTION: &str = "peer.holds";

/// Ranges and row groups that one answer tells of at most: tens of megabytes, which are read within the time of a call.
const MOST_HOLDINGS: usize = 250_000;
/// Workers that are asked at once.
const ASKED_AT_ONCE: usize = 16;

/// What `peer.holds` is asked.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HoldsRequest {
    /// What the storage URIs of the files begin with.
    pub prefix: String,
}

/// What `peer.holds` answers.
#[derive(Debug, Serialize, Deserialize)]
pub struct HoldsAnswer {
    /// The file versions of which something is held.
    pub files: Vec<Holding>,
}

/// Where something is held of one file version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holding {
    /// Its id, in the cache's text form.
    pub file: String,
    /// Where in the file pages are held: from, to.
    pub ranges: Vec<(u64, u64)>,
    /// Row groups of which columns are held decoded.
    pub row_groups: BTreeSet<u32>,
}

impl From<HeldParts> for Holding {
    fn from(parts: HeldParts) -> Self {
        Self {
            file: parts.file.to_string(),
            ranges: parts.ranges.iter().map(|range| (range.start, range.end)).collect(),
            row_groups: parts.row_groups.iter().map(|row_group| row_group.0).collect(),
        }
    }
}

impl Holding {
    /// Whether something of a row group is held, whose chunks lie in these bytes. Pages are whole: one at an
    /// end may be there for what lies beside it, where more of that is held.
    fn has(&self, row_group: u32, span: &Range<u64>, page_bytes: u64) -> bool {
        let is_long = span.end.saturating_sub(span.start) > page_bytes.saturating_mul(2);
        let shared_bytes = if is_long { page_bytes } else { 0 };
        let is_in = |&(start, end): &(u64, u64)| {
            let (goes_on_before, goes_on_after) = (
                start.saturating_add(page_bytes) <= span.start,
                end >= span.end.saturating_add(page_bytes),
            );
            let from = span.start + if goes_on_before { shared_bytes } else { 0 };
            let to = span.end - if goes_on_after { shared_bytes } else { 0 };
            start < to && from < end
        };
        self.row_groups.contains(&row_group) || self.ranges.iter().any(is_in)
    }
}

/// What this node holds of the files whose URIs begin so.
///
/// # Errors
/// RESOURCE_EXHAUSTED for more than one answer is to carry.
pub async fn own(node: &Node, prefix: String) -> Result<Vec<Holding>, ServiceError> {
    let cache = Arc::clone(&node.cache);
    // A cache may hold millions of files. Looking at each is no work for a thread that answers others.
    let looked = tokio::task::spawn_blocking(move || cache.held_parts(&prefix, MOST_HOLDINGS)).await;
    let held = looked.map_err(|_| ServiceError::Internal {
        what: "looking at what is held".to_owned(),
    })?;
    let held = held.ok_or_else(|| ServiceError::Full {
        what: format!("more is held than one answer tells of, {MOST_HOLDINGS} ranges and row groups"),
    })?;
    Ok(held.into_iter().map(Holding::from).collect())
}

/// The workers that serve, and what each holds of some paths.
#[derive(Debug, Default)]
pub struct Holders {
    /// By id; none for one that did not say.
    workers: Vec<(String, Option<HashMap<FileId, Holding>>)>,
    page_bytes: u64,
}

impl Holders {
    /// Asks those that serve. Where no other than one has a place, that one has all tasks, and is not asked.
    pub async fn of(node: &Node, paths: &[String]) -> Self {
        let view = node.cluster.view();
        if view.placement.seats().len() < 2 {
            return Self::default();
        }
        let prefix = prefix_of(node, paths);
        let mut workers = Vec::new();
        for some in serving(&view).chunks(ASKED_AT_ONCE) {
            let asked: Vec<_> = some.iter().map(|id| held_by(node, id, &prefix)).collect();
            let held = join_all(asked).await;
            workers.extend(some.iter().cloned().zip(held));
        }
        Self {
            workers,
            page_bytes: node.cache.pages().config().page_size_bytes,
        }
    }

    /// The ids of those that may hold something of a run.
    pub fn of_run(&self, dataset: &Dataset, run: &Run) -> impl Iterator<Item = &str> {
        let may_hold = move |held: &Option<HashMap<FileId, Holding>>| {
            let Some(held) = held else { return true };
            run.files.iter().any(|of_run| {
                let file = &dataset.files[of_run.file];
                let holding = held.get(&file.open.key.id());
                holding.is_some_and(|holding| self.has_some(holding, file, &of_run.row_groups))
            })
        };
        let holders = self.workers.iter().filter(move |(_, held)| may_hold(held));
        holders.map(|(id, _)| id.as_str())
    }

    fn has_some(&self, holding: &Holding, file: &DataFile, row_groups: &[u32]) -> bool {
        let infos: &[RowGroupInfo] = match &file.summary {
            Ok(summary) => &summary.row_groups,
            Err(_) => &[],
        };
        row_groups.iter().any(|&row_group| {
            let at = usize::try_from(row_group).unwrap_or(usize::MAX);
            let Some(info) = infos.get(at) else { return false };
            // The footer is compared with its row groups, and behind the last of them.
            let is_last = at + 1 == infos.len();
            let end = if is_last { file.open.key.size } else { info.span.end };
            holding.has(row_group, &(info.span.start..end), self.page_bytes)
        })
    }
}

/// The workers that have a place and serve.
fn serving(view: &View) -> Vec<String> {
    let is_there = |status| matches!(status, Status::Serving | Status::Suspect);
    let members = view.members.values();
    let there = members.filter(|member| member.is_worker() && member.slot.is_some() && is_there(member.status));
    there.map(|member| member.id.to_string()).collect()
}

async fn held_by(node: &Node, id: &str, prefix: &str) -> Option<HashMap<FileId, Holding>> {
    let holdings = match id == node.cluster.id() {
        true => own(node, prefix.to_owned()).await.ok()?,
        false => ask(node, id, prefix).await?,
    };
    let by_file = holdings
        .into_iter()
        .map(|held| Some((FileId::parse(&held.file)?, held)));
    by_file.collect()
}

async fn ask(node: &Node, id: &str, prefix: &str) -> Option<Vec<Holding>> {
    let body = serde_json::json!({ "prefix": prefix });
    let told = node.cluster.peers.call(id, HOLDS_ACTION, &body).await;
    let told = told.and_then(|told| serde_json::from_value::<HoldsAnswer>(told).map_err(|error| error.to_string()));
    match told {
        Ok(told) => Some(told.files),
        Err(reason) => {
            tracing::debug!(reason, "what a worker holds is not known; it has a task of everything");
            None
        }
    }
}

/// What the storage URIs of all that lies at some paths or below begin with; nothing where that is not known of one of them.
fn prefix_of(node: &Node, paths: &[String]) -> String {
    let uris_of = |path: &String| node.datasets.tree().uris(&node.locate(path)?);
    let uris: Result<Vec<Vec<String>>, ServiceError> = paths.iter().map(uris_of).collect();
    let uris = uris.unwrap_or_default();
    common_prefix(uris.iter().flatten().map(String::as_str)).to_owned()
}

/// What all of some texts begin with; nothing where there are none.
fn common_prefix<'a>(mut texts: impl Iterator<Item = &'a str>) -> &'a str {
    let first = texts.next().unwrap_or_default();
    texts.fold(first, |common, text| {
        let same = common
            .char_indices()
            .zip(text.chars())
            .find(|((_, one), other)| one != other);
        let end = same.map_or(common.len().min(text.len()), |((at, _), _)| at);
        common.get(..end).unwrap_or_default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: u64 = 4096;

    fn holding(ranges: &[(u64, u64)], row_groups: &[u32]) -> Holding {
        Holding {
            file: String::new(),
            ranges: ranges.to_vec(),
            row_groups: row_groups.iter().copied().collect(),
        }
    }

    #[test]
    fn a_row_group_is_held_where_some_of_it_is() {
        let span = 100_000..200_000;
        let has = |held: &Holding| held.has(3, &span, PAGE);
        assert!(has(&holding(&[(0, 50_000), (150_000, 154_096)], &[])));
        assert!(has(&holding(&[(0, 1 << 30)], &[])));
        assert!(has(&holding(&[], &[1, 3])), "decoded");
        assert!(!has(&holding(&[(0, 50_000), (300_000, 400_000)], &[1, 2])));
        // Whoever holds what lies beside it has the pages that both share; who holds no more of that may have them for this.
        assert!(!has(&holding(&[(0, 102_400), (196_608, 300_000)], &[])));
        assert!(has(&holding(&[(98_304, 102_400)], &[])), "its first page");
        assert!(has(&holding(&[(196_608, 200_704)], &[])), "its last page");
        // One of less than two pages is all in such.
        assert!(holding(&[(98_304, 102_400)], &[]).has(3, &(100_000..101_000), PAGE));
    }

    #[test]
    fn what_all_names_begin_with_is_asked_for() {
        let common = |texts: &[&'static str]| common_prefix(texts.iter().copied());
        assert_eq!(common(&[]), "");
        assert_eq!(common(&["s3://b/t/a"]), "s3://b/t/a");
        assert_eq!(
            common(&["s3://b/t/a.parquet", "s3://b/t/ab", "s3://b/t/a"]),
            "s3://b/t/a"
        );
        assert_eq!(common(&["s3://b/t/ä", "s3://b/t/ö"]), "s3://b/t/");
        assert_eq!(common(&["s3://b", "file:///b"]), "");
    }
}
