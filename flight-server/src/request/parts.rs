//! `"parts"` of a JSON scan: which row groups to read, in which order.
//!
//! `[["year=2024/a.parquet", [3, 0]], ["b.parquet", [1]]]` is row group 3 of the first file, then its first, then the second
//! one of the other; paths are relative to the dataset, `""` is the dataset that is a file itself. The order of rows is
//! whatever the list says, so that a trainer's order of an epoch is the server's order of reading.

use std::collections::HashSet;

use serde_json::Value;

use super::{RequestError, wrong};

/// Most row groups of one scan's parts; a longer list is to be asked for in pieces.
pub const MAX_PART_ROW_GROUPS: usize = 100_000;

/// Row groups of one file, in the order to read them.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Part(
    /// The file's path relative to the dataset.
    pub String,
    /// Its row groups.
    pub Vec<u32>,
);

/// Reads the value of `"parts"`.
pub(super) fn from_json(pairs: Vec<Value>) -> Result<Vec<Part>, RequestError> {
    let parts: Vec<Part> = pairs
        .into_iter()
        .enumerate()
        .map(|(index, pair)| part(index, pair))
        .collect::<Result<_, _>>()?;
    let row_groups: usize = parts.iter().map(|part| part.1.len()).sum();
    if row_groups > MAX_PART_ROW_GROUPS {
        return Err(RequestError::TooManyParts { row_groups });
    }
    let mut seen = HashSet::with_capacity(row_groups);
    for Part(file, groups) in &parts {
        for &group in groups {
            if !seen.insert((file.as_str(), group)) {
                return Err(RequestError::RepeatedPart {
                    file: super::shorten(file),
                    row_group: group,
                });
            }
        }
    }
    Ok(parts)
}

fn part(index: usize, pair: Value) -> Result<Part, RequestError> {
    let key = format!("parts[{index}]");
    let expected = "a pair of a file's path and a list of its row groups";
    let Value::Array(pair) = pair else {
        return Err(wrong(&key, expected, &pair));
    };
    match <[Value; 2]>::try_from(pair) {
        Ok([Value::String(file), Value::Array(groups)]) => {
            let groups = groups.iter().map(|group| {
                let number = group.as_u64().and_then(|number| u32::try_from(number).ok());
                number.ok_or_else(|| wrong(&key, "row groups as whole numbers from 0 on", group))
            });
            Ok(Part(file, groups.collect::<Result<_, _>>()?))
        }
        Ok([Value::String(_), other] | [other, _]) => Err(wrong(&key, expected, &other)),
        Err(other) => Err(wrong(&key, expected, &Value::Array(other))),
    }
}

#[cfg(test)]
mod tests {
    use super::super::ScanSpec;
    use super::*;

    fn read(parts: &str) -> Result<Vec<Part>, String> {
        let json = format!(r#"{{"path": "/x", "parts": {parts}}}"#);
        let spec = ScanSpec::from_json(json.as_bytes()).map_err(|error| error.to_string())?;
        assert_eq!(ScanSpec::from_json(spec.to_json().as_bytes()).unwrap(), spec);
        Ok(spec.parts.unwrap())
    }

    #[test]
    fn parts_keep_their_order() {
        let parts = read(r#"[["b/c.parquet", [3, 0]], ["", []], ["b/c.parquet", [1]]]"#).unwrap();
        let expected = [("b/c.parquet", vec![3, 0]), ("", vec![]), ("b/c.parquet", vec![1])];
        assert_eq!(parts, expected.map(|(file, groups)| Part(file.to_owned(), groups)));
        assert_eq!(read("[]"), Ok(Vec::new()));
    }

    #[test]
    fn a_row_group_that_stands_there_twice_is_refused() {
        assert_eq!(
            read(r#"[["a", [1, 2]], ["b", [1]], ["a", [1]]]"#).unwrap_err(),
            r#"row group 1 of "a" is given twice in "parts""#
        );
    }

    #[test]
    fn what_is_no_part_is_named_with_its_place() {
        let pair = "must be a pair of a file's path and a list of its row groups, not";
        for (parts, words) in [
            (r#"["a"]"#, format!(r#""parts[0]" {pair} the string "a""#)),
            (r#"[["a", [0]], ["b"]]"#, format!(r#""parts[1]" {pair} a list"#)),
            (r#"[["a", 1]]"#, format!(r#""parts[0]" {pair} 1"#)),
            (r#"[[1, [1]]]"#, format!(r#""parts[0]" {pair} 1"#)),
        ] {
            assert_eq!(read(parts).unwrap_err(), words);
        }
        for group in ["-1", "0.5", "4294967296", "\"1\"", "null"] {
            let message = read(&format!(r#"[["a", [{group}]]]"#)).unwrap_err();
            assert!(
                message.starts_with(r#""parts[0]" must be row groups as whole numbers"#),
                "{message}"
            );
        }
        assert!(read(r#""a""#).unwrap_err().starts_with(r#""parts" must be a list"#));
    }

    #[test]
    fn a_list_that_is_too_long_is_refused() {
        let groups: Vec<String> = (0..=MAX_PART_ROW_GROUPS).map(|group| group.to_string()).collect();
        let message = read(&format!(r#"[["a", [{}]]]"#, groups.join(","))).unwrap_err();
        assert!(message.contains("100001 row groups"), "{message}");
    }
}
