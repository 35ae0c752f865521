//! The JSON scan: `{"path": ..., "columns": [...], "filter": "...", "limit": n, "ordered": bool}`, and for readers that
//! decide on the order of reading themselves `"parts"` and `"snapshot"`, and for those that come again `"reread"`.
//!
//! Read by hand and not by a derived `Deserialize`, for its messages: they name the key, what it takes and what was given,
//! and a key given twice or not known is refused, where serde would take the last one or list only variants.

mod parts;

use serde::ser::Serialize;
use serde_json::Value;

use crate::filter::nearest;
use crate::pairs::Pairs;

pub use parts::{MAX_PART_ROW_GROUPS, Part};

/// Longest JSON scan, in bytes.
pub const MAX_SCAN_BYTES: usize = 1024 * 1024;
/// Longest piece of a request repeated in a message, in characters.
const MAX_SHOWN_CHARS: usize = 80;
/// The keys of a JSON scan.
const KEYS: [&str; 8] = [
    "path", "columns", "filter", "limit", "ordered", "parts", "snapshot", "reread",
];

/// What to read of one dataset.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct ScanSpec {
    /// A namespace path, or the URI of something mounted.
    pub path: String,
    /// Columns in the order wanted, a nested one as `a.b`; none given = all of the dataset, an empty list = rows without columns.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub columns: Option<Vec<String>>,
    /// A SQL predicate; none given = every row.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub filter: Option<String>,
    /// Most rows of the answer; none given = all. 0 gives the schema and no rows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<u64>,
    /// Whether the answer must come in the dataset's order. Default: no.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub ordered: bool,
    /// Row groups to read, in this order and no others; none given = all, in the dataset's order.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parts: Option<Vec<Part>>,
    /// The fingerprint of the version to read, as `dataset.units` tells it; none given = the one that there is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<String>,
    /// Whether the same will be read again, as by the epochs of a training: decoded columns are then kept at this read, or
    /// behind it where stored bytes are taken, and not at the second. Default: no.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub reread: bool,
}

/// Why a JSON scan was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// Longer than [`MAX_SCAN_BYTES`].
    #[error("the scan has {bytes} bytes; at most {MAX_SCAN_BYTES} are read")]
    TooLarge {
        /// Its length in bytes.
        bytes: usize,
    },
    /// Not JSON, or not one object.
    #[error("the scan is not a JSON object: {reason}")]
    NotAnObject {
        /// What the parser found, with line and column.
        reason: String,
    },
    /// A key that a scan does not have.
    #[error("unknown key {key:?} in the scan{}; the keys are {}", did_you_mean(.nearest), KEYS.join(", "))]
    UnknownKey {
        /// The key, shortened if it is long.
        key: String,
        /// The key that was probably meant.
        nearest: Option<&'static str>,
    },
    /// A key that stands there twice.
    #[error("the key {key:?} is given twice in the scan")]
    RepeatedKey {
        /// The key.
        key: String,
    },
    /// A scan without a path.
    #[error("the scan has no \"path\"")]
    NoPath,
    /// A value of another type than its key takes, or out of its range.
    #[error("{key:?} must be {expected}, not {found}")]
    WrongValue {
        /// The key, or `columns[3]`.
        key: String,
        /// What it takes.
        expected: &'static str,
        /// What was given, shortened if it is long.
        found: String,
    },
    /// More row groups than [`MAX_PART_ROW_GROUPS`].
    #[error("\"parts\" names {row_groups} row groups; at most {MAX_PART_ROW_GROUPS} are read by one scan")]
    TooManyParts {
        /// How many it names.
        row_groups: usize,
    },
    /// A row group that is to be read twice.
    #[error("row group {row_group} of {file:?} is given twice in \"parts\"")]
    RepeatedPart {
        /// The file, shortened if its path is long.
        file: String,
        /// The row group.
        row_group: u32,
    },
}

impl ScanSpec {
    /// Reads a JSON scan. A `null` counts as a key that is not given.
    ///
    /// # Errors
    /// A [`RequestError`] for text that is too long, is not one JSON object, or holds a key or value that a scan does not have.
    pub fn from_json(json: &[u8]) -> Result<Self, RequestError> {
        if json.len() > MAX_SCAN_BYTES {
            return Err(RequestError::TooLarge { bytes: json.len() });
        }
        let pairs: Result<Pairs<Value>, _> = serde_json::from_slice(json);
        let Pairs(pairs) = pairs.map_err(|error| RequestError::NotAnObject {
            reason: shorten(&error.to_string()),
        })?;
        let mut spec = Self::default();
        let mut seen = Vec::with_capacity(KEYS.len());
        for (key, value) in pairs {
            let known = known_key(&key)?;
            if seen.contains(&known) {
                return Err(RequestError::RepeatedKey { key });
            }
            seen.push(known);
            spec.set(known, value)?;
        }
        if spec.path.is_empty() {
            Err(RequestError::NoPath)
        } else {
            Ok(spec)
        }
    }

    /// The scan as JSON that [`ScanSpec::from_json`] reads back; keys that are not given are left out.
    pub fn to_json(&self) -> String {
        let value = self.serialize(serde_json::value::Serializer).unwrap_or_default();
        value.to_string()
    }

    fn set(&mut self, key: &'static str, value: Value) -> Result<(), RequestError> {
        match (key, value) {
            ("path", Value::String(path)) if !path.is_empty() => self.path = path,
            ("path", other) => return Err(wrong(key, "a namespace path or a mounted URI, as a string", &other)),
            (_, Value::Null) => {}
            ("columns", Value::Array(names)) => self.columns = Some(column_names(names)?),
            ("columns", other) => return Err(wrong(key, "a list of column names", &other)),
            ("filter", Value::String(sql)) => self.filter = Some(sql),
            ("filter", other) => return Err(wrong(key, "a SQL predicate, as a string", &other)),
            ("parts", Value::Array(pairs)) => self.parts = Some(parts::from_json(pairs)?),
            ("parts", other) => return Err(wrong(key, "a list of pairs of a file and its row groups", &other)),
            ("snapshot", Value::String(fingerprint)) => self.snapshot = Some(fingerprint),
            ("snapshot", other) => return Err(wrong(key, "a dataset's fingerprint, as a string", &other)),
            ("limit", limit) => {
                self.limit = Some(
                    limit
                        .as_u64()
                        .ok_or_else(|| wrong(key, "a whole number of rows, 0 or more", &limit))?,
                );
            }
            ("reread", Value::Bool(reread)) => self.reread = reread,
            (_, Value::Bool(ordered)) => self.ordered = ordered,
            (_, other) => return Err(wrong(key, "true or false", &other)),
        }
        Ok(())
    }
}

fn known_key(key: &str) -> Result<&'static str, RequestError> {
    let known = KEYS.iter().copied().find(|known| *known == key);
    known.ok_or_else(|| RequestError::UnknownKey {
        key: shorten(key),
        nearest: nearest(key, KEYS.into_iter()),
    })
}

fn column_names(names: Vec<Value>) -> Result<Vec<String>, RequestError> {
    let name = |(index, value)| match value {
        Value::String(name) => Ok(name),
        other => Err(wrong(
            &format!("columns[{index}]"),
            "a column name, as a string",
            &other,
        )),
    };
    names.into_iter().enumerate().map(name).collect()
}

fn wrong(key: &str, expected: &'static str, found: &Value) -> RequestError {
    let found = match found {
        Value::Null => "null".to_owned(),
        Value::Bool(_) | Value::Number(_) => found.to_string(),
        Value::String(text) if text.is_empty() => "an empty string".to_owned(),
        Value::String(text) => format!("the string {:?}", shorten(text)),
        Value::Array(_) => "a list".to_owned(),
        Value::Object(_) => "an object".to_owned(),
    };
    RequestError::WrongValue {
        key: key.to_owned(),
        expected,
        found,
    }
}

fn shorten(text: &str) -> String {
    match text.char_indices().nth(MAX_SHOWN_CHARS) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_owned(),
    }
}

fn did_you_mean(nearest: &Option<&'static str>) -> String {
    nearest
        .map(|key| format!(" (did you mean {key:?}?)"))
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(json: &str) -> String {
        ScanSpec::from_json(json.as_bytes()).unwrap_err().to_string()
    }

    #[test]
    fn every_key_is_read() {
        let json =
            br#"{"path": "/lake/trips", "columns": ["a", "b.c"], "filter": "a > 1", "limit": 10, "ordered": true, "reread": true}"#;
        let spec = ScanSpec::from_json(json).unwrap();
        assert_eq!(spec.path, "/lake/trips");
        assert_eq!(spec.columns, Some(vec!["a".to_owned(), "b.c".to_owned()]));
        assert_eq!(spec.filter.as_deref(), Some("a > 1"));
        assert_eq!(spec.limit, Some(10));
        assert!(spec.ordered && spec.reread);
        assert_eq!(ScanSpec::from_json(spec.to_json().as_bytes()), Ok(spec));
    }

    #[test]
    fn only_the_path_is_needed_and_null_is_as_good_as_nothing() {
        let spec = ScanSpec::from_json(br#"{"path": "/x"}"#).unwrap();
        let nulls = br#"{"path": "/x", "columns": null, "filter": null, "limit": null, "ordered": null, "parts": null, "snapshot": null, "reread": null}"#;
        assert_eq!(ScanSpec::from_json(nulls), Ok(spec.clone()));
        assert_eq!(spec.to_json(), r#"{"path":"/x"}"#);
    }

    #[test]
    fn no_columns_is_not_all_columns() {
        let spec = ScanSpec::from_json(br#"{"path": "/x", "columns": []}"#).unwrap();
        assert_eq!(spec.columns, Some(Vec::new()));
        assert_eq!(ScanSpec::from_json(spec.to_json().as_bytes()), Ok(spec));
    }

    #[test]
    fn limit_zero_is_a_limit_and_a_negative_one_is_refused() {
        assert_eq!(
            ScanSpec::from_json(br#"{"path": "/x", "limit": 0}"#).unwrap().limit,
            Some(0)
        );
        assert_eq!(
            refused(r#"{"path": "/x", "limit": -1}"#),
            r#""limit" must be a whole number of rows, 0 or more, not -1"#
        );
        assert!(refused(r#"{"path": "/x", "limit": 1.5}"#).ends_with("not 1.5"));
        assert!(refused(r#"{"path": "/x", "limit": 1e30}"#).contains("limit"));
        assert!(refused(r#"{"path": "/x", "limit": 18446744073709551616}"#).contains("limit"));
        assert!(refused(r#"{"path": "/x", "limit": "10"}"#).ends_with(r#"not the string "10""#));
    }

    #[test]
    fn an_unknown_key_is_named_with_the_nearest_known_one() {
        assert!(
            refused(r#"{"path": "/x", "colums": ["a"]}"#)
                .starts_with(r#"unknown key "colums" in the scan (did you mean "columns"?); the keys are"#)
        );
        assert!(
            refused(r#"{"path": "/x", "where": "a"}"#).starts_with(r#"unknown key "where" in the scan; the keys are"#)
        );
        assert!(refused(r#"{"Path": "/x"}"#).contains(r#"did you mean "path"?"#));
        assert!(refused(&format!(r#"{{"{}": 1}}"#, "k".repeat(100_000))).len() < 300);
    }

    #[test]
    fn a_repeated_key_is_refused() {
        assert_eq!(
            refused(r#"{"path": "/x", "path": "/y"}"#),
            r#"the key "path" is given twice in the scan"#
        );
        assert_eq!(
            refused(r#"{"path": "/x", "limit": null, "limit": 1}"#),
            r#"the key "limit" is given twice in the scan"#
        );
    }

    #[test]
    fn wrong_types_are_named_with_their_key() {
        for (json, words) in [
            (
                r#"{"path": 1}"#,
                r#""path" must be a namespace path or a mounted URI, as a string, not 1"#,
            ),
            (
                r#"{"path": null}"#,
                r#""path" must be a namespace path or a mounted URI, as a string, not null"#,
            ),
            (
                r#"{"path": ""}"#,
                r#""path" must be a namespace path or a mounted URI, as a string, not an empty string"#,
            ),
            (
                r#"{"path": "/x", "columns": "a"}"#,
                r#""columns" must be a list of column names, not the string "a""#,
            ),
            (
                r#"{"path": "/x", "columns": ["a", 2]}"#,
                r#""columns[1]" must be a column name, as a string, not 2"#,
            ),
            (
                r#"{"path": "/x", "columns": ["a", null]}"#,
                r#""columns[1]" must be a column name, as a string, not null"#,
            ),
            (
                r#"{"path": "/x", "filter": ["a > 1"]}"#,
                r#""filter" must be a SQL predicate, as a string, not a list"#,
            ),
            (
                r#"{"path": "/x", "ordered": "yes"}"#,
                r#""ordered" must be true or false, not the string "yes""#,
            ),
            (
                r#"{"path": "/x", "ordered": {}}"#,
                r#""ordered" must be true or false, not an object"#,
            ),
        ] {
            assert_eq!(refused(json), words);
        }
        assert_eq!(refused("{}"), r#"the scan has no "path""#);
    }

    #[test]
    fn what_is_not_one_object_is_refused_with_the_place() {
        for json in [
            "",
            "null",
            "[]",
            "\"/x\"",
            "{",
            r#"{"path": "/x""#,
            r#"{"path": "/x"} x"#,
            "{'path': 1}",
        ] {
            let message = refused(json);
            assert!(message.starts_with("the scan is not a JSON object: "), "{message}");
            assert!(message.contains("line 1 column"), "{message}");
        }
        assert!(ScanSpec::from_json(b"{\"path\": \"\xff\"}").is_err());
    }

    #[test]
    fn ten_megabytes_are_refused_before_they_are_read() {
        let json = format!(r#"{{"path": "{}"}}"#, "x".repeat(10_000_000));
        assert_eq!(
            ScanSpec::from_json(json.as_bytes()),
            Err(RequestError::TooLarge { bytes: json.len() })
        );
    }

    #[test]
    fn nesting_is_bounded() {
        let deep = format!(r#"{{"path": {}1{}}}"#, "[".repeat(100_000), "]".repeat(100_000));
        assert!(ScanSpec::from_json(deep.as_bytes()).is_err());
    }

    proptest::proptest! {
        #[test]
        fn random_bytes_are_an_error_or_a_scan(bytes: Vec<u8>) {
            let _ = ScanSpec::from_json(&bytes);
        }

        #[test]
        fn what_is_written_reads_back(path in ".{1,40}", columns: Option<Vec<String>>, filter: Option<String>, limit: Option<u64>, ordered: bool) {
            let spec = ScanSpec { path, columns, filter, limit, ordered, ..ScanSpec::default() };
            proptest::prop_assert_eq!(ScanSpec::from_json(spec.to_json().as_bytes()), Ok(spec));
        }
    }
}
