//! What makes files a dataset: which count, which folders are partitions, where a dataset begins.
//!
//! Pure functions on paths relative to a folder (`year=2024/a.parquet`), without a leading slash, in the raw
//! text in which storage has them. What is inside the files is not looked at.
//!
//! Partition folders are Hive's: `key=value`, percent-encoded where a character could not stand in a file
//! name. A partition is typed as integers where all its values are, else as strings, so that `year=2024` prunes
//! by number. `month=01` is the number 1, as pyarrow, Spark and DuckDB have it.

use std::collections::BTreeSet;

use percent_encoding::percent_decode_str;

/// What Hive, Spark and pyarrow write for a missing value.
pub const NULL_VALUE: &str = "__HIVE_DEFAULT_PARTITION__";

/// The most partition columns that a dataset may have.
pub const MAX_PARTITION_COLUMNS: usize = 128;

/// What ends the names of Parquet files, in any case.
const PARQUET_EXTENSIONS: [&str; 3] = ["parquet", "parq", "pq"];

/// Whether a file is no data: a name that begins with `.` or `_`, its own (`_SUCCESS`) or that of a folder above
/// it (`_delta_log/`). A partition folder counts as data although its key begins with `_` (`_day=1/`).
pub fn is_hidden(rel: &str) -> bool {
    let (folders, name) = split_name(rel);
    let hidden_folder = |folder: &str| folder.starts_with('.') || (folder.starts_with('_') && !folder.contains('='));
    name.starts_with(['.', '_']) || folders.split('/').any(hidden_folder)
}

/// Whether a file is Parquet by its name: it ends in `.parquet`, `.parq` or `.pq`, in any case.
pub fn is_parquet(rel: &str) -> bool {
    let (_, name) = split_name(rel);
    name.rsplit_once('.').is_some_and(|(stem, extension)| {
        !stem.is_empty()
            && PARQUET_EXTENSIONS
                .iter()
                .any(|known| extension.eq_ignore_ascii_case(known))
    })
}

/// The type of a partition column.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PartitionKind {
    /// 64-bit integers.
    Int,
    /// Strings.
    Text,
}

/// A file's value of a partition column; of the column's kind, or null.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum PartitionValue {
    /// In a column of [`PartitionKind::Int`].
    Int(i64),
    /// In a column of [`PartitionKind::Text`], percent-decoded.
    Text(String),
    /// The file's folders name no value, or [`NULL_VALUE`].
    Null,
}

/// A partition column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartitionColumn {
    /// Its name, percent-decoded.
    pub name: String,
    /// Its type.
    pub kind: PartitionKind,
}

/// A file of a dataset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayoutFile {
    /// Where its path stands in what [`layout`] was given.
    pub index: usize,
    /// Its values, one for each of [`Layout::columns`].
    pub values: Vec<PartitionValue>,
}

/// How files make up a dataset.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Layout {
    /// The partition columns, in the order in which the sorted paths bring them up.
    pub columns: Vec<PartitionColumn>,
    /// All files, sorted by the bytes of their paths.
    pub files: Vec<LayoutFile>,
}

/// Sorts the files of a dataset and reads their partition folders. Every path given is a file of it: whoever
/// lists leaves out what [`is_hidden`] and what is not [`is_parquet`].
///
/// # Errors
/// [`LayoutError`], naming the path.
pub fn layout(paths: &[&str]) -> Result<Layout, LayoutError> {
    let mut order: Vec<usize> = (0..paths.len()).collect();
    order.sort_by_key(|&index| paths[index]);
    let mut names: Vec<String> = Vec::new();
    let mut rows = Vec::with_capacity(order.len());
    for &index in &order {
        rows.push(read_partitions(paths[index], &mut names)?);
    }
    let columns: Vec<_> = names
        .into_iter()
        .enumerate()
        .map(|(at, name)| column(name, at, &rows))
        .collect();
    let typed = |row: Vec<Option<String>>| {
        let mut texts = row.into_iter();
        columns
            .iter()
            .map(|column| typed_value(column.kind, texts.next().flatten()))
            .collect()
    };
    let files = order
        .into_iter()
        .zip(rows)
        .map(|(index, row)| LayoutFile {
            index,
            values: typed(row),
        })
        .collect();
    Ok(Layout { columns, files })
}

/// The folders at which datasets begin, in order: those of visible Parquet files, without partition folders at
/// their end. A folder inside such a folder is part of that dataset. `""` is the folder that `paths` are
/// relative to.
pub fn dataset_roots(paths: &[&str]) -> Vec<String> {
    let data = paths.iter().filter(|rel| is_parquet(rel) && !is_hidden(rel));
    let roots: BTreeSet<&str> = data.map(|rel| without_partitions(split_name(rel).0)).collect();
    let nested = |root: &str| folders_above(root).any(|folder| roots.contains(folder));
    roots
        .iter()
        .filter(|root| !nested(root))
        .map(|root| (*root).to_owned())
        .collect()
}

/// Why files do not make a dataset.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LayoutError {
    /// Two folders of one path give a value to the same partition column.
    #[error("the partition column {key:?} has two values in the path of {path:?}")]
    RepeatedKey {
        /// The file.
        path: String,
        /// The column.
        key: String,
    },
    /// A partition folder is percent-encoded, but not as UTF-8.
    #[error("the partition folder {folder:?} in the path of {path:?} does not decode to UTF-8")]
    NotUtf8 {
        /// The file.
        path: String,
        /// The folder as it is written.
        folder: String,
    },
    /// There are more partition columns than [`MAX_PARTITION_COLUMNS`].
    #[error("{path:?} brings the dataset to more than {MAX_PARTITION_COLUMNS} partition columns")]
    TooManyColumns {
        /// The file with the first one too many.
        path: String,
    },
}

/// The folders and the name of a file.
fn split_name(rel: &str) -> (&str, &str) {
    rel.rsplit_once('/').unwrap_or(("", rel))
}

/// The key and value of a partition folder, as they are written.
fn partition(folder: &str) -> Option<(&str, &str)> {
    folder.split_once('=').filter(|(key, _)| !key.is_empty())
}

/// A folder without the partition folders at its end.
fn without_partitions(mut folder: &str) -> &str {
    loop {
        let (above, last) = split_name(folder);
        if partition(last).is_none() {
            return folder;
        }
        folder = above;
    }
}

/// The folders that a folder lies in, from the nearest to `""`; none for `""` itself.
fn folders_above(folder: &str) -> impl Iterator<Item = &str> {
    std::iter::successors(Some(folder), |folder| {
        (!folder.is_empty()).then(|| split_name(folder).0)
    })
    .skip(1)
}

/// The values in a path's folders, one for each of `names`, which grows by those that are new.
fn read_partitions(path: &str, names: &mut Vec<String>) -> Result<Vec<Option<String>>, LayoutError> {
    let mut values: Vec<Option<String>> = Vec::new();
    let mut seen = BTreeSet::new();
    for folder in split_name(path).0.split('/') {
        let Some((key, value)) = partition(folder) else {
            continue;
        };
        let key = decode(key, path, folder)?;
        let at = position(&key, path, names)?;
        if !seen.insert(at) {
            return Err(LayoutError::RepeatedKey {
                path: path.to_owned(),
                key,
            });
        }
        values.resize(names.len(), None);
        if value != NULL_VALUE {
            values[at] = Some(decode(value, path, folder)?);
        }
    }
    Ok(values)
}

/// The place of a column, which is a new one at the end if the name is new.
fn position(key: &str, path: &str, names: &mut Vec<String>) -> Result<usize, LayoutError> {
    if let Some(at) = names.iter().position(|name| name == key) {
        return Ok(at);
    }
    if names.len() == MAX_PARTITION_COLUMNS {
        return Err(LayoutError::TooManyColumns { path: path.to_owned() });
    }
    names.push(key.to_owned());
    Ok(names.len() - 1)
}

fn decode(text: &str, path: &str, folder: &str) -> Result<String, LayoutError> {
    let decoded = percent_decode_str(text).decode_utf8();
    let failed = |_| LayoutError::NotUtf8 {
        path: path.to_owned(),
        folder: folder.to_owned(),
    };
    decoded.map(|text| text.into_owned()).map_err(failed)
}

/// Types the column at one place of all rows. Rows read before the column came up are too short to have it.
fn column(name: String, at: usize, rows: &[Vec<Option<String>>]) -> PartitionColumn {
    let mut values = rows.iter().filter_map(|row| row.get(at)?.as_deref()).peekable();
    // Of nothing but nulls, nobody can do sums.
    let kind = if values.peek().is_some() && values.all(|value| integer(value).is_some()) {
        PartitionKind::Int
    } else {
        PartitionKind::Text
    };
    PartitionColumn { name, kind }
}

fn typed_value(kind: PartitionKind, text: Option<String>) -> PartitionValue {
    match (kind, text) {
        (_, None) => PartitionValue::Null,
        (PartitionKind::Int, Some(text)) => integer(&text).map_or(PartitionValue::Null, PartitionValue::Int),
        (PartitionKind::Text, Some(text)) => PartitionValue::Text(text),
    }
}

/// Reads digits, perhaps after a minus sign. A plus sign or a space makes it a string: nobody writes numbers so.
fn integer(text: &str) -> Option<i64> {
    if text.starts_with('+') { None } else { text.parse().ok() }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::PartitionKind::{Int, Text};
    use super::*;

    fn text(value: &str) -> PartitionValue {
        PartitionValue::Text(value.to_owned())
    }

    fn columns(layout: &Layout) -> Vec<(&str, PartitionKind)> {
        layout
            .columns
            .iter()
            .map(|column| (column.name.as_str(), column.kind))
            .collect()
    }

    /// The values of the first column, in the order of the files.
    fn first_column(paths: &[&str]) -> (PartitionKind, Vec<PartitionValue>) {
        let layout = layout(paths).unwrap();
        (
            layout.columns[0].kind,
            layout
                .files
                .into_iter()
                .map(|mut file| file.values.swap_remove(0))
                .collect(),
        )
    }

    #[test]
    fn what_is_no_data_is_hidden() {
        for rel in [
            "_SUCCESS",
            ".a.parquet",
            "a/_temporary/b.parquet",
            "_delta_log/0.parquet",
            ".x=1/a.parquet",
            "a/_x=1.parquet",
            "a/.b/c",
        ] {
            assert!(is_hidden(rel), "{rel}");
        }
        for rel in [
            "a.parquet",
            "a/b_/c.d",
            "_x=1/a.parquet",
            "a/_year=2024/b.parquet",
            "a_b/c",
            "",
        ] {
            assert!(!is_hidden(rel), "{rel}");
        }
    }

    #[test]
    fn parquet_is_told_by_its_name() {
        for rel in [
            "a.parquet",
            "x/y/a.PARQUET",
            "a.parq",
            "a.Pq",
            "a.b.parquet",
            "a b%2F+.parquet",
        ] {
            assert!(is_parquet(rel), "{rel}");
        }
        for rel in [
            "",
            "parquet",
            ".parquet",
            "a.parquet.crc",
            "a.parquet/b",
            "a.csv",
            "a.parquet.gz",
            "x/.pq",
        ] {
            assert!(!is_parquet(rel), "{rel}");
        }
    }

    #[test]
    fn files_are_sorted_by_the_bytes_of_their_paths() {
        let layout = layout(&["b.parquet", "a/z.parquet", "a-1.parquet", "a.parquet", "\u{e9}.parquet"]).unwrap();
        let order: Vec<_> = layout.files.iter().map(|file| file.index).collect();
        assert_eq!(order, [2, 3, 1, 0, 4]);
        assert!(layout.columns.is_empty() && layout.files.iter().all(|file| file.values.is_empty()));
        assert_eq!(super::layout(&[]), Ok(Layout::default()));
    }

    #[test]
    fn partition_folders_become_columns() {
        let layout = layout(&[
            "year=2024/city=Z%C3%BCrich/b.parquet",
            "year=2023/city=a%2Fb c+d/sub/a.parquet",
        ])
        .unwrap();
        assert_eq!(columns(&layout), [("year", Int), ("city", Text)]);
        let files: Vec<_> = layout.files.into_iter().map(|file| (file.index, file.values)).collect();
        let (old, new) = (PartitionValue::Int(2023), PartitionValue::Int(2024));
        assert_eq!(
            files,
            [(1, vec![old, text("a/b c+d")]), (0, vec![new, text("Z\u{fc}rich")])]
        );
    }

    #[test]
    fn a_missing_value_is_null() {
        let layout = layout(&["a=1/x.parquet", "a=2/b=u/x.parquet", "c=1/x.parquet", "x.parquet"]).unwrap();
        assert_eq!(columns(&layout), [("a", Int), ("b", Text), ("c", Int)]);
        let null = || PartitionValue::Null;
        let values: Vec<_> = layout.files.into_iter().map(|file| file.values).collect();
        assert_eq!(
            values,
            [
                vec![PartitionValue::Int(1), null(), null()],
                vec![PartitionValue::Int(2), text("u"), null()],
                vec![null(), null(), PartitionValue::Int(1)],
                vec![null(), null(), null()],
            ]
        );
    }

    #[test]
    fn a_column_is_of_integers_only_when_all_its_values_are() {
        let int = PartitionValue::Int;
        assert_eq!(first_column(&["k=1/x", "k=-7/x"]), (Int, vec![int(-7), int(1)]));
        assert_eq!(first_column(&["k=01/x", "k=12/x"]), (Int, vec![int(1), int(12)]));
        let (kind, values) = first_column(&["k=9223372036854775807/x", "k=-9223372036854775808/x"]);
        assert_eq!((kind, values), (Int, vec![int(i64::MIN), int(i64::MAX)]));
        assert_eq!(
            first_column(&["k=1/x", "k=__HIVE_DEFAULT_PARTITION__/x"]),
            (Int, vec![int(1), PartitionValue::Null])
        );
        assert_eq!(
            first_column(&["k=__HIVE_DEFAULT_PARTITION__/x"]),
            (Text, vec![PartitionValue::Null])
        );
        for value in ["a", "", "+1", "1.0", " 1", "-", "9223372036854775808", "1_000", "%31x"] {
            let other = format!("k={value}/x");
            let (kind, values) = first_column(&["k=0/x", &other]);
            assert_eq!(kind, Text, "{value:?}");
            assert!(values.contains(&text("0")), "{value:?}: {values:?}");
        }
        assert_eq!(first_column(&["k=%31/x"]), (Int, vec![int(1)]));
        assert_eq!(first_column(&["k=a=b/x"]), (Text, vec![text("a=b")]));
    }

    #[test]
    fn only_folders_with_a_key_are_partitions() {
        for path in ["k=1.parquet", "=1/x.parquet", "a/b/x.parquet"] {
            assert!(layout(&[path]).unwrap().columns.is_empty(), "{path}");
        }
        assert_eq!(columns(&layout(&["a%20b=1/x"]).unwrap()), [("a b", Int)]);
    }

    #[test]
    fn paths_that_do_not_fit_are_named() {
        let error = layout(&["ok=1/x", "a=1/b=2/a=1/x"]).unwrap_err();
        assert_eq!(
            error,
            LayoutError::RepeatedKey {
                path: "a=1/b=2/a=1/x".into(),
                key: "a".into()
            }
        );
        let error = layout(&["a=1/%61=2/x"]).unwrap_err();
        assert_eq!(
            error,
            LayoutError::RepeatedKey {
                path: "a=1/%61=2/x".into(),
                key: "a".into()
            }
        );
        let error = layout(&["a=__HIVE_DEFAULT_PARTITION__/a=1/x"]).unwrap_err();
        assert!(matches!(error, LayoutError::RepeatedKey { .. }));
        let error = layout(&["a=%ff/x"]).unwrap_err();
        assert_eq!(
            error,
            LayoutError::NotUtf8 {
                path: "a=%ff/x".into(),
                folder: "a=%ff".into()
            }
        );
        let many = |count: usize| (0..count).map(|i| format!("k{i}=1/")).collect::<String>() + "x";
        assert!(layout(&[&many(MAX_PARTITION_COLUMNS)]).is_ok());
        let error = layout(&[&many(MAX_PARTITION_COLUMNS + 1)]).unwrap_err();
        assert!(matches!(error, LayoutError::TooManyColumns { .. }));
    }

    #[test]
    fn datasets_begin_above_their_partitions() {
        let roots = dataset_roots(&[
            "trips/year=2024/month=1/a.parquet",
            "trips/year=2024/month=2/a.parquet",
            "trips/extra/b.parquet",
            "taxi/zones.parquet",
            "taxi-zones/z.parquet",
            "deep/er/x.parq",
            "logs/x.csv",
            "hidden/_temporary/x.parquet",
            "a/k=1/sub/x.parquet",
        ]);
        assert_eq!(roots, ["a/k=1/sub", "deep/er", "taxi", "taxi-zones", "trips"]);
        assert_eq!(dataset_roots(&["x.parquet", "a/y.parquet"]), [""]);
        assert_eq!(dataset_roots(&["k=1/x.parquet"]), [""]);
        assert!(dataset_roots(&["_SUCCESS", "a.csv"]).is_empty());
    }

    fn small_paths() -> impl Strategy<Value = Vec<String>> {
        let folder = prop::sample::select(vec![
            "a",
            "b",
            "k=1",
            "k=x",
            "j=2",
            "_t",
            "k=__HIVE_DEFAULT_PARTITION__",
        ]);
        let name = prop::sample::select(vec!["x.parquet", "y.parquet", "_z.parquet", "n.csv"]);
        let path = (prop::collection::vec(folder, 0..4), name)
            .prop_map(|(folders, name)| [folders.join("/"), name.to_owned()].join("/"));
        prop::collection::btree_set(path.prop_map(|path| path.trim_start_matches('/').to_owned()), 0..8)
            .prop_map(|paths| paths.into_iter().rev().collect())
    }

    proptest! {
        #[test]
        fn a_layout_is_a_sorted_table(paths in small_paths()) {
            let paths: Vec<&str> = paths.iter().map(String::as_str).collect();
            let Ok(layout) = layout(&paths) else { return Ok(()) };
            let sorted: Vec<_> = layout.files.iter().map(|file| paths[file.index]).collect();
            let mut expected = paths.clone();
            expected.sort_unstable();
            prop_assert_eq!(sorted, expected);
            for file in &layout.files {
                prop_assert_eq!(file.values.len(), layout.columns.len());
                for (column, value) in layout.columns.iter().zip(&file.values) {
                    let fits = match value {
                        PartitionValue::Int(_) => column.kind == Int,
                        PartitionValue::Text(value) => {
                            column.kind == Text && paths[file.index].contains(&format!("{}={value}/", column.name))
                        }
                        PartitionValue::Null => true,
                    };
                    prop_assert!(fits, "{value:?} in {column:?}");
                }
            }
        }

        #[test]
        fn a_layout_does_not_depend_on_the_order_of_its_input(paths in small_paths()) {
            let there: Vec<&str> = paths.iter().map(String::as_str).collect();
            let back: Vec<&str> = there.iter().rev().copied().collect();
            if let (Ok(one), Ok(two)) = (layout(&there), layout(&back)) {
                prop_assert_eq!(&one.columns, &two.columns);
                for (a, b) in one.files.iter().zip(&two.files) {
                    prop_assert_eq!((there[a.index], &a.values), (back[b.index], &b.values));
                }
            }
        }

        #[test]
        fn every_file_of_data_lies_in_exactly_one_root(paths in small_paths()) {
            let paths: Vec<&str> = paths.iter().map(String::as_str).collect();
            let roots = dataset_roots(&paths);
            let within = |rel: &str, root: &str| root.is_empty() || rel.strip_prefix(root).is_some_and(|rest| rest.starts_with('/'));
            for rel in paths.iter().filter(|rel| is_parquet(rel) && !is_hidden(rel)) {
                prop_assert_eq!(roots.iter().filter(|root| within(rel, root)).count(), 1, "{} in {:?}", rel, roots);
            }
        }
    }
}
