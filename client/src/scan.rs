//! What to read.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// A scan of one dataset, as the server takes it in JSON.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Scan {
    /// A namespace path, or the URI of something mounted.
    pub path: String,
    /// Columns in the order wanted, a nested one as `a.b`; none given = all, an empty list = rows without columns.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub columns: Option<Vec<String>>,
    /// A SQL predicate; none given = every row.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filter: Option<String>,
    /// Most rows of the answer; none given = all. 0 gives the schema and no rows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u64>,
    /// Whether the answer must come in the dataset's order. Default: no.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub ordered: bool,
    /// Further keys, sent as they are; a server that does not know one refuses the scan and names it.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

impl Scan {
    /// All of a dataset.
    pub fn of(path: impl Into<String>) -> Self {
        Self {
            path: path.into(),
            ..Self::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_given_is_sent() {
        let mut scan = Scan::of("/lake/trips");
        assert_eq!(serde_json::to_string(&scan).unwrap(), r#"{"path":"/lake/trips"}"#);
        scan.columns = Some(Vec::new());
        scan.limit = Some(0);
        scan.ordered = true;
        scan.extra.insert("order".to_owned(), Value::from("later"));
        let text = serde_json::to_string(&scan).unwrap();
        assert_eq!(
            text,
            r#"{"path":"/lake/trips","columns":[],"limit":0,"ordered":true,"order":"later"}"#
        );
        assert_eq!(serde_json::from_str::<Scan>(&text).unwrap(), scan);
    }
}
