//! Names: which dataset a table name means, and which tables there are.
//!
//! The schema is the folder, its parts joined by dots; datasets at the top of the namespace are in `public`. The table is the
//! dataset's own name, that of a file without its ending. A name that begins with a slash, or is the URI of something mounted,
//! is a path in itself, whatever the schema.
//!
//! A name is looked up when a statement is planned: first as the path that it spells, then in folders whose own names hold a
//! dot. Which path a name meant last is remembered for a few seconds, so that planning does not ask the
//! storage about every spelling each time; whether there is something at that path is asked anew.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt, stream};
use jetbridge_catalog::dataset::is_parquet;
use jetbridge_catalog::path::NsPath;
use moka::sync::Cache as Moka;
use tonic::Code;

use super::{CATALOG, PUBLIC, TableEntry};
use crate::dataset::Dataset;
use crate::error::ServiceError;
use crate::filter::nearest;
use crate::node::Node;

/// Endings that a file may have which is named without.
const ENDINGS: [&str; 3] = [".parquet", ".parq", ".pq"];
/// How long it is remembered which path a name meant.
const REMEMBERED: Duration = Duration::from_secs(10);
/// Most names that are remembered.
const REMEMBERED_NAMES: u64 = 10_000;
/// Most tables that are listed.
const MAX_TABLES: usize = 10_000;
/// Folders that are listed for one name whose folders may hold dots.
const MAX_FOLDER_LOOKS: usize = 32;
/// Datasets that are looked at together when tables are listed.
const DATASETS_AT_ONCE: usize = 8;
/// How long the search for a name that may have been meant may take.
const HINT_TIME: Duration = Duration::from_secs(2);

/// A table's name as it was written.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct TableName {
    /// Folders, joined by dots; `public` for none.
    pub(super) schema: String,
    /// The dataset's name, a path, or a mounted URI.
    pub(super) table: String,
}

impl std::fmt::Display for TableName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.schema == PUBLIC || is_place(&self.table) {
            f.write_str(&self.table)
        } else {
            write!(f, "{}.{}", self.schema, self.table)
        }
    }
}

/// Finds datasets by name. Cheap to clone; clones remember together.
#[derive(Debug, Clone)]
pub(super) struct Names {
    remembered: Moka<TableName, NsPath>,
}

impl Default for Names {
    fn default() -> Self {
        let remembered = Moka::builder()
            .max_capacity(REMEMBERED_NAMES)
            .time_to_live(REMEMBERED)
            .build();
        Self { remembered }
    }
}

impl Names {
    /// The dataset of this name.
    ///
    /// # Errors
    /// NOT_FOUND with the nearest name; those of the storage and of files that are not one table.
    pub(super) async fn find(&self, node: &Node, name: &TableName) -> Result<Arc<Dataset>, ServiceError> {
        match self.look(node, name).await? {
            Some(dataset) => Ok(dataset),
            None => Err(ServiceError::NoSuchTable {
                name: name.to_string(),
                hint: hint(node, name).await,
            }),
        }
    }

    /// The dataset of this name; none where nothing has it.
    ///
    /// # Errors
    /// Those of the storage and of files that are not one table.
    pub(super) async fn look(&self, node: &Node, name: &TableName) -> Result<Option<Arc<Dataset>>, ServiceError> {
        if let Some(path) = self.remembered.get(name)
            && let Some(dataset) = dataset_at(node, &path).await?
        {
            return Ok(Some(dataset));
        }
        for path in spelled(node, name)? {
            if let Some(dataset) = dataset_at(node, &path).await? {
                self.remembered.insert(name.clone(), path);
                return Ok(Some(dataset));
            }
        }
        if name.schema.contains('.') && !is_place(&name.table) {
            for path in in_folders(&dotted_folders(node, &name.schema).await, &name.table) {
                if let Some(dataset) = dataset_at(node, &path).await? {
                    self.remembered.insert(name.clone(), path);
                    return Ok(Some(dataset));
                }
            }
        }
        Ok(None)
    }
}

/// The tables of one schema, or of all, each with its dataset, by schema and name. Those that cannot be read are left out.
pub(super) async fn list(node: &Node, schema: Option<&str>) -> Vec<(TableEntry, Arc<Dataset>)> {
    let concerns = |path: &NsPath| schema.is_none_or(|schema| may_hold(path, schema));
    let candidates = node.datasets.candidates(concerns).await;
    let mut datasets = stream::iter(candidates)
        .map(|candidate| of_candidate(node, candidate))
        .buffered(DATASETS_AT_ONCE);
    let mut found: BTreeMap<(String, String), (TableEntry, Arc<Dataset>)> = BTreeMap::new();
    while let Some(of_one) = datasets.next().await {
        for dataset in of_one {
            if found.len() == MAX_TABLES {
                tracing::warn!(limit = MAX_TABLES, "there are more tables than are listed");
                return found.into_values().collect();
            }
            let Some(mut entry) = entry_of(&dataset.path) else {
                continue;
            };
            if schema.is_some_and(|schema| schema != entry.schema) {
                continue;
            }
            // A folder comes before a file that has its name but for the ending, as it does when the name is looked up.
            if found.contains_key(&(entry.schema.clone(), entry.name.clone())) {
                entry.name = dataset.path.name().unwrap_or_default().to_owned();
            }
            found.insert((entry.schema.clone(), entry.name.clone()), (entry, dataset));
        }
    }
    found.into_values().collect()
}

/// The schemas that hold a dataset, by name.
pub(super) async fn schemas(node: &Node) -> Vec<String> {
    let entries = list(node, None).await;
    let schemas: BTreeSet<String> = entries.into_iter().map(|(entry, _)| entry.schema).collect();
    schemas.into_iter().collect()
}

/// The name under which a path is listed; none of the root.
pub(super) fn entry_of(path: &NsPath) -> Option<TableEntry> {
    let name = path.name()?;
    let folder = path.parent()?;
    let schema: Vec<&str> = folder.segments().collect();
    Some(TableEntry {
        schema: if schema.is_empty() {
            PUBLIC.to_owned()
        } else {
            schema.join(".")
        },
        name: without_ending(name).to_owned(),
        path: path.clone(),
    })
}

/// A candidate itself, or its files when they are no table together.
async fn of_candidate(node: &Node, candidate: NsPath) -> Vec<Arc<Dataset>> {
    let files = match node.datasets.get(&candidate).await {
        Ok(dataset) => return vec![dataset],
        Err(error) if error.code() == Code::FailedPrecondition => node.datasets.tree().data_files(&candidate).await,
        Err(error) => Err(error),
    };
    let left_out = |path: &NsPath, error: &ServiceError| {
        tracing::warn!(dataset = %path, error = crate::error::chain(error), "left out of the tables");
    };
    let mut datasets = Vec::new();
    match files {
        Ok(files) => {
            for file in files {
                match node.datasets.get(&file).await {
                    Ok(dataset) => datasets.push(dataset),
                    Err(error) => left_out(&file, &error),
                }
            }
        }
        Err(error) => left_out(&candidate, &error),
    }
    datasets
}

/// The paths that a name may spell, the likeliest first.
fn spelled(node: &Node, name: &TableName) -> Result<Vec<NsPath>, ServiceError> {
    if is_place(&name.table) {
        return Ok(vec![node.locate(&name.table)?]);
    }
    let mut folders: Vec<NsPath> = NsPath::from_segments(name.schema.split('.')).into_iter().collect();
    if name.schema == PUBLIC {
        folders.insert(0, NsPath::root());
    }
    Ok(in_folders(&folders, &name.table))
}

/// The paths that a table's name may spell in folders: the folder of that name, the file without its ending.
fn in_folders(folders: &[NsPath], table: &str) -> Vec<NsPath> {
    let names = || {
        std::iter::once("")
            .chain(ENDINGS)
            .map(|ending| format!("{table}{ending}"))
    };
    let is_one = !table.is_empty() && !table.contains('/');
    let paths = folders.iter().flat_map(|folder| names().map(|name| folder.join(&name)));
    paths.filter_map(Result::ok).filter(|_| is_one).collect()
}

/// The folders whose names, joined by dots, are those of `schema`, where names may hold dots too.
async fn dotted_folders(node: &Node, schema: &str) -> Vec<NsPath> {
    let parts: Vec<&str> = schema.split('.').collect();
    let mut found = Vec::new();
    let mut open = vec![(NsPath::root(), 0)];
    let mut looks = 0;
    while let Some((folder, at)) = open.pop() {
        if at == parts.len() {
            found.push(folder);
            continue;
        }
        looks += 1;
        if looks > MAX_FOLDER_LOOKS {
            break;
        }
        // A folder that cannot be listed is none that a name leads to.
        let entries = node.datasets.tree().entries(&folder).await.unwrap_or_default();
        for end in at + 1..=parts.len() {
            let name = parts[at..end].join(".");
            if entries.iter().any(|entry| entry.name == name)
                && let Ok(below) = folder.join(&name)
            {
                open.push((below, end));
            }
        }
    }
    found
}

/// The dataset at a path; none where nothing is.
async fn dataset_at(node: &Node, path: &NsPath) -> Result<Option<Arc<Dataset>>, ServiceError> {
    match node.datasets.get(path).await {
        Ok(dataset) => Ok(Some(dataset)),
        Err(error) if error.code() == Code::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// What may have been meant by a name that nothing has.
async fn hint(node: &Node, name: &TableName) -> String {
    let search = async {
        let entries = list(node, None).await;
        let known: Vec<String> = entries
            .iter()
            .map(|(entry, _)| match is_place(&name.table) {
                true => entry.path.to_string(),
                false if entry.schema == PUBLIC => entry.name.clone(),
                false => format!("{}.{}", entry.schema, entry.name),
            })
            .collect();
        let wanted = name.to_string();
        let near = nearest(&wanted, known.iter().map(String::as_str));
        // The right name in the wrong schema is as near as one gets.
        let elsewhere = || {
            known
                .iter()
                .find(|known| known.rsplit('.').next() == Some(name.table.as_str()))
        };
        near.map(str::to_owned).or_else(|| elsewhere().cloned())
    };
    // Nobody waits for long to be told what was wrong.
    let near = tokio::time::timeout(HINT_TIME, search).await.ok().flatten();
    match near {
        Some(near) if is_place(&near) => format!("; did you mean {near:?}?"),
        Some(near) => format!("; did you mean {near}?"),
        None => format!("; information_schema.tables of {CATALOG} lists those that there are"),
    }
}

/// Whether a folder or a dataset may lie on the way to tables of `schema`.
fn may_hold(path: &NsPath, schema: &str) -> bool {
    let segments: Vec<&str> = path.segments().collect();
    let dotted = segments.join(".");
    if schema == PUBLIC {
        return segments.len() <= 1 || dotted.starts_with(PUBLIC);
    }
    dotted.is_empty() || schema.starts_with(&dotted) || dotted.starts_with(schema)
}

fn is_place(table: &str) -> bool {
    table.starts_with('/') || table.contains("://")
}

fn without_ending(name: &str) -> &str {
    match name.rsplit_once('.') {
        Some((stem, _)) if is_parquet(name) => stem,
        _ => name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(path: &str) -> (String, String) {
        let entry = entry_of(&NsPath::parse(path).unwrap()).unwrap();
        (entry.schema, entry.name)
    }

    #[test]
    fn a_path_has_one_name() {
        let named = |schema: &str, name: &str| (schema.to_owned(), name.to_owned());
        assert_eq!(entry("/trips"), named("public", "trips"));
        assert_eq!(entry("/lake/trips"), named("lake", "trips"));
        assert_eq!(entry("/lake/sub/trips.parquet"), named("lake.sub", "trips"));
        assert_eq!(entry("/lake/v1.2"), named("lake", "v1.2"));
        assert_eq!(entry_of(&NsPath::root()), None);
    }

    #[test]
    fn folders_on_the_way_concern_a_schema_and_others_do_not() {
        let concerns = |path: &str, schema: &str| may_hold(&NsPath::parse(path).unwrap(), schema);
        for path in ["/", "/lake", "/lake/sub", "/lake/sub/trips.parquet"] {
            assert!(concerns(path, "lake.sub"), "{path}");
        }
        assert!(!concerns("/other", "lake") && !concerns("/lake/other", "lake.sub"));
        assert!(concerns("/trips", "public") && !concerns("/lake/trips", "public"));
    }
}
