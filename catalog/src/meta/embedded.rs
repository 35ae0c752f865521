//! A metadata store in one file of this machine: the default, with nothing to install.
//!
//! The file is a [redb](https://docs.rs/redb) database with two tables:
//!
//! | table | key | value |
//! |---|---|---|
//! | `header` | `"format"` | the number [`FORMAT`]; any other is refused |
//! | | `"revision"` | the revision of the last put; only ever grows |
//! | `entries` | the key | its revision, and its bytes |
//!
//! States: a file is opened by one handle in one process, which holds a lock on it until the last clone of the
//! handle is gone; every other opening is refused at once. Every change is on disk before it is answered.
//!
//! Locks: redb's own; one writer at a time, readers do not wait. All calls run on Tokio's blocking threads, as
//! each may touch the disk. A dropped future does not stop its call.
//!
//! Why redb and not a file of JSON: crash safety and compare-and-set are its business, and it is pure Rust. Why
//! not SQLite: a C library for two tables.

use std::fmt;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use redb::backends::InMemoryBackend;
use redb::{Builder, Database, DatabaseError, ReadableDatabase, ReadableTable, TableDefinition};

use super::{Entry, Expect, MetaError, MetaStore, check_key, check_value};

/// The number of the layout that the module's doc describes.
const FORMAT: u64 = 1;

/// What redb may keep of the file in memory, in bytes. The file is small; redb's own default is 1 GiB.
const CACHE_BYTES: usize = 16 * 1024 * 1024;

const HEADER: TableDefinition<'_, &str, u64> = TableDefinition::new("header");
const ENTRIES: TableDefinition<'_, &str, (u64, &[u8])> = TableDefinition::new("entries");
const FORMAT_KEY: &str = "format";
const REVISION_KEY: &str = "revision";

/// A [`MetaStore`] in one file, or in memory. Clones are one handle.
#[derive(Clone)]
pub struct EmbeddedStore {
    database: Arc<Database>,
    path: PathBuf,
}

impl EmbeddedStore {
    /// Opens the file, or makes it where there is none; its folder must exist. Blocks while the file is read
    /// and checked.
    ///
    /// # Errors
    /// [`MetaError::InUse`] when it is open already, here or in another process; [`MetaError::Format`];
    /// [`MetaError::Open`] when it cannot be read, is damaged, or is no such file.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, MetaError> {
        let path = path.as_ref();
        let made = !path.exists();
        let database = builder().create(path).map_err(|error| open_error(path, error))?;
        if made {
            sync_folder(path).map_err(|source| MetaError::Open {
                path: path.to_owned(),
                source: source.into(),
            })?;
        }
        Self::with_database(database, path)
    }

    /// A store that is gone when its last handle is, for tests and for trying things out.
    ///
    /// # Errors
    /// [`MetaError::Open`], in practice never.
    pub fn in_memory() -> Result<Self, MetaError> {
        let path = Path::new(":memory:");
        let database = builder().create_with_backend(InMemoryBackend::new());
        Self::with_database(database.map_err(|error| open_error(path, error))?, path)
    }

    fn with_database(database: Database, path: &Path) -> Result<Self, MetaError> {
        let failed = |source: redb::Error| MetaError::Open {
            path: path.to_owned(),
            source: source.into(),
        };
        let found = format_of(&database).map_err(failed)?;
        if found != FORMAT {
            return Err(MetaError::Format {
                path: path.to_owned(),
                found,
                known: FORMAT,
            });
        }
        Ok(Self {
            database: Arc::new(database),
            path: path.to_owned(),
        })
    }

    /// Runs one operation where it may block.
    async fn run<T, F>(&self, operation: &'static str, work: F) -> Result<T, MetaError>
    where
        T: Send + 'static,
        F: FnOnce(&Database) -> Result<T, MetaError> + Send + 'static,
    {
        let database = Arc::clone(&self.database);
        let done = tokio::task::spawn_blocking(move || work(&database)).await;
        done.map_err(|error| MetaError::Store {
            operation,
            source: error.into(),
        })?
    }
}

impl fmt::Debug for EmbeddedStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EmbeddedStore")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl MetaStore for EmbeddedStore {
    async fn get(&self, key: &str) -> Result<Option<Entry>, MetaError> {
        check_key(key)?;
        let key = key.to_owned();
        self.run("get", move |database| get(database, &key).map_err(store_error("get")))
            .await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<(String, Entry)>, MetaError> {
        let prefix = prefix.to_owned();
        self.run("list", move |database| {
            list(database, &prefix).map_err(store_error("list"))
        })
        .await
    }

    async fn put(&self, key: &str, value: Vec<u8>, expect: Expect) -> Result<u64, MetaError> {
        check_key(key)?;
        check_value(&value)?;
        let key = key.to_owned();
        self.run("put", move |database| {
            put(database, &key, &value, expect).map_err(store_error("put"))?
        })
        .await
    }

    async fn delete(&self, key: &str, expect: Expect) -> Result<(), MetaError> {
        check_key(key)?;
        let key = key.to_owned();
        self.run("delete", move |database| {
            delete(database, &key, expect).map_err(store_error("delete"))?
        })
        .await
    }
}

fn builder() -> Builder {
    let mut builder = Builder::new();
    // Without the check a damaged file may panic much later, in the middle of a read.
    builder.set_cache_size(CACHE_BYTES).set_check_integrity_on_open(true);
    builder
}

fn open_error(path: &Path, error: DatabaseError) -> MetaError {
    let path = path.to_owned();
    match error {
        DatabaseError::DatabaseAlreadyOpen | DatabaseError::LockProtocolMismatch => MetaError::InUse { path },
        source => MetaError::Open {
            path,
            source: source.into(),
        },
    }
}

fn store_error(operation: &'static str) -> impl FnOnce(redb::Error) -> MetaError {
    move |source| MetaError::Store {
        operation,
        source: source.into(),
    }
}

/// Makes the entry of a new file in its folder durable: otherwise a crash may take the whole file along.
fn sync_folder(path: &Path) -> std::io::Result<()> {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => File::open(folder)?.sync_all(),
        _ => File::open(".")?.sync_all(),
    }
}

/// Reads the number of the layout, and writes ours where there is none yet: in a new file.
fn format_of(database: &Database) -> Result<u64, redb::Error> {
    let write = database.begin_write()?;
    let mut header = write.open_table(HEADER)?;
    let found = header.get(FORMAT_KEY)?.map(|found| found.value());
    if let Some(found) = found {
        return Ok(found);
    }
    header.insert(FORMAT_KEY, FORMAT)?;
    drop(header);
    write.open_table(ENTRIES)?;
    write.commit()?;
    Ok(FORMAT)
}

fn get(database: &Database, key: &str) -> Result<Option<Entry>, redb::Error> {
    let entries = database.begin_read()?.open_table(ENTRIES)?;
    Ok(entries.get(key)?.map(|found| entry(found.value())))
}

fn list(database: &Database, prefix: &str) -> Result<Vec<(String, Entry)>, redb::Error> {
    let entries = database.begin_read()?.open_table(ENTRIES)?;
    let mut found = Vec::new();
    for item in entries.range(prefix..)? {
        let (key, value) = item?;
        if !key.value().starts_with(prefix) {
            break;
        }
        found.push((key.value().to_owned(), entry(value.value())));
    }
    Ok(found)
}

/// The outer error is the store's, the inner one a conflict.
fn put(database: &Database, key: &str, value: &[u8], expect: Expect) -> Result<Result<u64, MetaError>, redb::Error> {
    let write = database.begin_write()?;
    let mut entries = write.open_table(ENTRIES)?;
    let found = entries.get(key)?.map(|found| found.value().0);
    if let Err(conflict) = expect.check(key, found) {
        return Ok(Err(conflict));
    }
    let mut header = write.open_table(HEADER)?;
    let revision = header.get(REVISION_KEY)?.map_or(0, |last| last.value()) + 1;
    header.insert(REVISION_KEY, revision)?;
    entries.insert(key, (revision, value))?;
    drop((header, entries));
    write.commit()?;
    Ok(Ok(revision))
}

/// The outer error is the store's, the inner one a conflict.
fn delete(database: &Database, key: &str, expect: Expect) -> Result<Result<(), MetaError>, redb::Error> {
    let write = database.begin_write()?;
    let mut entries = write.open_table(ENTRIES)?;
    let found = entries.get(key)?.map(|found| found.value().0);
    if let Err(conflict) = expect.check(key, found) {
        return Ok(Err(conflict));
    }
    entries.remove(key)?;
    drop(entries);
    write.commit()?;
    Ok(Ok(()))
}

fn entry((revision, value): (u64, &[u8])) -> Entry {
    Entry {
        value: value.to_owned(),
        revision,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::error::Error;
    use std::process::Command;

    use proptest::prelude::*;

    use super::super::conformance;
    use super::*;

    /// Tells the test below, started as a child, which file to open.
    const CHILD_VARIABLE: &str = "JETBRIDGE_TEST_OPEN_STORE";

    fn folder() -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("meta.redb");
        (folder, file)
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn in_memory_it_keeps_the_contract() {
        conformance::suite(Arc::new(EmbeddedStore::in_memory().unwrap()))
            .await
            .unwrap();
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn in_a_file_it_keeps_the_contract() {
        let (_folder, file) = folder();
        conformance::suite(Arc::new(EmbeddedStore::open(file).unwrap()))
            .await
            .unwrap();
    }

    #[tokio::test]
    async fn what_was_put_is_there_after_a_reopen_and_revisions_go_on() {
        let (_folder, file) = folder();
        let store = EmbeddedStore::open(&file).unwrap();
        let first = store.put("a", vec![1], Expect::Absent).await.unwrap();
        let second = store.put("b", vec![2], Expect::Absent).await.unwrap();
        store.delete("b", Expect::Revision(second)).await.unwrap();
        drop(store);
        let store = EmbeddedStore::open(&file).unwrap();
        let entry = Entry {
            value: vec![1],
            revision: first,
        };
        assert_eq!(store.list("").await.unwrap(), [("a".to_owned(), entry)]);
        assert!(store.put("b", vec![3], Expect::Absent).await.unwrap() > second);
    }

    #[tokio::test]
    async fn a_second_handle_is_refused_until_the_last_clone_is_gone() {
        let (_folder, file) = folder();
        let store = EmbeddedStore::open(&file).unwrap();
        let clone = store.clone();
        drop(store);
        let error = EmbeddedStore::open(&file).unwrap_err();
        assert!(
            matches!(&error, MetaError::InUse { path } if *path == file),
            "{error:?}"
        );
        assert!(error.to_string().contains("meta.redb"), "{error}");
        clone.put("a", vec![1], Expect::Any).await.unwrap();
        drop(clone);
        assert!(EmbeddedStore::open(&file).is_ok());
    }

    #[test]
    fn a_second_process_is_refused() {
        let (_folder, file) = folder();
        let store = EmbeddedStore::open(&file).unwrap();
        let child = || {
            let mut child = Command::new(std::env::current_exe().unwrap());
            child.args([
                "--exact",
                "--ignored",
                "--nocapture",
                "meta::embedded::tests::child_opens_the_store",
            ]);
            let output = child.env(CHILD_VARIABLE, &file).output().unwrap();
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            assert!(text.contains("1 passed"), "{text}");
            text
        };
        assert!(child().contains("child: InUse"));
        drop(store);
        assert!(child().contains("child: opened"));
    }

    #[test]
    #[ignore = "is run as a child by the test above"]
    fn child_opens_the_store() {
        let Some(file) = std::env::var_os(CHILD_VARIABLE) else {
            return;
        };
        match EmbeddedStore::open(PathBuf::from(file)) {
            Ok(_) => println!("child: opened"),
            Err(error) => println!("child: {error:?}"),
        }
    }

    #[test]
    fn another_format_is_refused() {
        let (_folder, file) = folder();
        let store = EmbeddedStore::open(&file).unwrap();
        let write = store.database.begin_write().unwrap();
        write
            .open_table(HEADER)
            .unwrap()
            .insert(FORMAT_KEY, FORMAT + 1)
            .unwrap();
        write.commit().unwrap();
        drop(store);
        let error = EmbeddedStore::open(&file).unwrap_err();
        assert!(
            matches!(error, MetaError::Format { found: 2, known: 1, .. }),
            "{error:?}"
        );
    }

    #[test]
    fn what_cannot_be_a_store_is_refused_with_its_name() {
        let (folder, file) = folder();
        std::fs::write(&file, b"not a database").unwrap();
        let missing = folder.path().join("none").join("meta.redb");
        for path in [file.clone(), missing, folder.path().to_owned()] {
            let error = EmbeddedStore::open(&path).unwrap_err();
            assert!(
                matches!(&error, MetaError::Open { path: named, .. } if *named == path),
                "{error:?}"
            );
            assert!(error.source().is_some());
        }
        assert_eq!(
            std::fs::read(&file).unwrap(),
            b"not a database",
            "a file that is not ours is left as it is"
        );
    }

    #[tokio::test]
    async fn a_damaged_file_is_refused_or_repaired_and_never_panics() {
        let (_folder, file) = folder();
        let store = EmbeddedStore::open(&file).unwrap();
        for i in 0..20 {
            store
                .put(&format!("key/{i}"), vec![7; 3000], Expect::Absent)
                .await
                .unwrap();
        }
        let whole = store.list("").await.unwrap();
        drop(store);
        let bytes = std::fs::read(&file).unwrap();
        for cut in [1, 64, 511, 4096, bytes.len() / 2, bytes.len() - 1] {
            std::fs::write(&file, &bytes[..cut]).unwrap();
            assert_damage_is_noticed(&file, &whole).await;
        }
        for position in (0..bytes.len()).step_by(bytes.len() / 97) {
            let mut flipped = bytes.clone();
            flipped[position] ^= 0x10;
            std::fs::write(&file, &flipped).unwrap();
            assert_damage_is_noticed(&file, &whole).await;
        }
    }

    async fn assert_damage_is_noticed(file: &Path, whole: &[(String, Entry)]) {
        match EmbeddedStore::open(file) {
            Ok(store) => assert_eq!(store.list("").await.unwrap(), whole),
            Err(error) => assert!(
                matches!(error, MetaError::Open { .. } | MetaError::Format { .. }),
                "{error:?}"
            ),
        }
    }

    #[derive(Debug, Clone)]
    enum Step {
        Put(&'static str, u8, Guess),
        Delete(&'static str, Guess),
        List(&'static str),
        Reopen,
    }

    /// What a step expects of its key: the revisions are only known when it runs.
    #[derive(Debug, Clone, Copy)]
    enum Guess {
        Any,
        Absent,
        Current,
        Stale,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let key = || prop::sample::select(vec!["a", "a/", "a/b", "a/c", "a0", "b"]);
        let guess = || prop::sample::select(vec![Guess::Any, Guess::Absent, Guess::Current, Guess::Stale]);
        let step = prop_oneof![
            6 => (key(), any::<u8>(), guess()).prop_map(|(key, value, guess)| Step::Put(key, value, guess)),
            3 => (key(), guess()).prop_map(|(key, guess)| Step::Delete(key, guess)),
            2 => prop::sample::select(vec!["", "a", "a/", "c"]).prop_map(Step::List),
            1 => Just(Step::Reopen),
        ];
        prop::collection::vec(step, 1..30)
    }

    /// The store must answer every step as a plain map does.
    async fn compare_with_a_map(file: &Path, steps: Vec<Step>) -> Result<(), TestCaseError> {
        let mut store = EmbeddedStore::open(file).unwrap();
        let mut map: BTreeMap<&str, Entry> = BTreeMap::new();
        let mut last = 0;
        for step in steps {
            match step {
                Step::Put(key, value, guess) => {
                    let (expect, holds) = expectation(map.get(key), guess);
                    let put = store.put(key, vec![value], expect).await;
                    prop_assert_eq!(put.is_ok(), holds, "{:?}", put);
                    if let Ok(revision) = put {
                        prop_assert!(revision > last);
                        last = revision;
                        map.insert(
                            key,
                            Entry {
                                value: vec![value],
                                revision,
                            },
                        );
                    }
                }
                Step::Delete(key, guess) => {
                    let (expect, holds) = expectation(map.get(key), guess);
                    prop_assert_eq!(store.delete(key, expect).await.is_ok(), holds);
                    if holds {
                        map.remove(key);
                    }
                }
                Step::List(prefix) => {
                    let listed = map.iter().filter(|(key, _)| key.starts_with(prefix));
                    let listed: Vec<_> = listed.map(|(key, entry)| ((*key).to_owned(), entry.clone())).collect();
                    prop_assert_eq!(store.list(prefix).await.unwrap(), listed);
                }
                Step::Reopen => {
                    drop(store);
                    store = EmbeddedStore::open(file).unwrap();
                }
            }
        }
        for key in ["a", "a/", "a/b", "a/c", "a0", "b"] {
            let found = store.get(key).await.unwrap();
            prop_assert_eq!(found.as_ref(), map.get(key));
        }
        Ok(())
    }

    fn expectation(found: Option<&Entry>, guess: Guess) -> (Expect, bool) {
        match guess {
            Guess::Any => (Expect::Any, true),
            Guess::Absent => (Expect::Absent, found.is_none()),
            Guess::Current => (
                Expect::Revision(found.map_or(0, |entry| entry.revision)),
                found.is_some(),
            ),
            Guess::Stale => (Expect::Revision(u64::MAX), false),
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        #[test]
        fn it_behaves_as_a_map_does(steps in steps()) {
            let (_folder, file) = folder();
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            runtime.block_on(compare_with_a_map(&file, steps))?;
        }
    }
}
