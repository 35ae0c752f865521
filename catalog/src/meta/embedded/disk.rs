//! The file of the embedded store: a [redb](https://docs.rs/redb) database. Each operation is one transaction.
//!
//! | table | key | value |
//! |---|---|---|
//! | `header` | `"format"` | the number [`FORMAT`]; of others only 1 is read |
//! | | `"revision"` | the revision of the last change; only ever grows |
//! | | `"lease"` | the number of the last lease; only ever grows |
//! | `entries` | the key | its revision, and its bytes |
//! | `leases` | the number | its time in milliseconds |
//! | `bindings` | the key | the number of the lease that it is bound to |
//!
//! Format 1 had the first two tables alone, and no leases. A file of it is brought to format 2 when it is opened.
//! Why that must be refused by what knows format 1 only: it would keep for ever what should end with its lease.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use redb::backends::InMemoryBackend;
use redb::{
    Builder, Database, DatabaseError, ReadableDatabase, ReadableTable, Table, TableDefinition, WriteTransaction,
};

use super::history::{Change, Cursor, History};
use super::leases::{Deadlines, Leases, end_leases};
use crate::meta::{CLUSTER_ID_KEY, Entry, Expect, LeaseId, MetaError, WatchEvent, check_cluster};

/// The number of the layout that the module's doc describes.
pub(super) const FORMAT: u64 = 2;

/// The layout without leases.
pub(super) const FORMAT_WITHOUT_LEASES: u64 = 1;

/// What redb may keep of the file in memory, in bytes. The file is small; redb's own default is 1 GiB.
const CACHE_BYTES: usize = 16 * 1024 * 1024;

pub(super) const HEADER: TableDefinition<'_, &str, u64> = TableDefinition::new("header");
pub(super) const ENTRIES: TableDefinition<'_, &str, (u64, &[u8])> = TableDefinition::new("entries");
const LEASES: TableDefinition<'_, u64, u64> = TableDefinition::new("leases");
const BINDINGS: TableDefinition<'_, &str, u64> = TableDefinition::new("bindings");
pub(super) const FORMAT_KEY: &str = "format";
const REVISION_KEY: &str = "revision";
const LEASE_KEY: &str = "lease";

/// Why an operation failed: redb's reason, or the contract's.
pub(super) enum Fault {
    Disk(Box<redb::Error>),
    Contract(MetaError),
}

impl Fault {
    pub(super) fn into_error(self, operation: &'static str) -> MetaError {
        match self {
            Self::Disk(source) => MetaError::Store { operation, source },
            Self::Contract(error) => error,
        }
    }
}

impl From<MetaError> for Fault {
    fn from(error: MetaError) -> Self {
        Self::Contract(error)
    }
}

impl<E: Into<redb::Error>> From<E> for Fault {
    fn from(error: E) -> Self {
        Self::Disk(Box::new(error.into()))
    }
}

/// The open file, its leases and its history.
pub(super) struct Disk {
    database: Database,
    path: PathBuf,
    leases: Arc<Leases>,
    history: History,
}

impl Disk {
    pub(super) fn open(path: &Path) -> Result<Arc<Self>, MetaError> {
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

    pub(super) fn in_memory() -> Result<Arc<Self>, MetaError> {
        let path = Path::new(":memory:");
        let database = builder().create_with_backend(InMemoryBackend::new());
        Self::with_database(database.map_err(|error| open_error(path, error))?, path)
    }

    fn with_database(database: Database, path: &Path) -> Result<Arc<Self>, MetaError> {
        let failed = |fault: Fault| MetaError::Open {
            path: path.to_owned(),
            source: fault.into_error("open").into(),
        };
        let found = format_of(&database).map_err(failed)?;
        if found != FORMAT {
            return Err(MetaError::Format {
                path: path.to_owned(),
                found,
                known: FORMAT,
            });
        }
        let leases = Arc::new(Leases::default());
        restart_leases(&database, &mut leases.deadlines.lock()).map_err(failed)?;
        let disk = Arc::new(Self {
            database,
            path: path.to_owned(),
            leases,
            history: History::new(),
        });
        disk.start_thread()?;
        Ok(disk)
    }

    fn start_thread(self: &Arc<Self>) -> Result<(), MetaError> {
        let (leases, disk) = (Arc::clone(&self.leases), Arc::downgrade(self));
        let thread = std::thread::Builder::new().name("meta-leases".to_owned());
        let started = thread.spawn(move || end_leases(&leases, &disk));
        started.map(drop).map_err(|source| MetaError::Open {
            path: self.path.clone(),
            source: source.into(),
        })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn history(&self) -> &History {
        &self.history
    }

    pub(super) fn get(&self, cluster: Option<&str>, key: &str) -> Result<Option<Entry>, Fault> {
        let entries = self.database.begin_read()?.open_table(ENTRIES)?;
        check(&entries, cluster)?;
        Ok(entries.get(key)?.map(|found| entry(found.value())))
    }

    pub(super) fn list(&self, cluster: Option<&str>, prefix: &str) -> Result<Vec<(String, Entry)>, Fault> {
        let entries = self.database.begin_read()?.open_table(ENTRIES)?;
        check(&entries, cluster)?;
        list(&entries, prefix)
    }

    /// All there is, with the place in the history from which the changes after it are to be had.
    pub(super) fn snapshot(&self, cluster: Option<&str>, prefix: &str) -> Result<(WatchEvent, Cursor), Fault> {
        let (read, cursor) = {
            // Held, no change is between its transaction and its place in the history.
            let _deadlines = self.leases.deadlines.lock();
            (self.database.begin_read()?, self.history.end())
        };
        let entries = read.open_table(ENTRIES)?;
        check(&entries, cluster)?;
        let reset = WatchEvent::Reset {
            entries: list(&entries, prefix)?,
            revision: last(&read.open_table(HEADER)?, REVISION_KEY)?,
        };
        Ok((reset, cursor))
    }

    pub(super) fn put(
        &self,
        cluster: Option<&str>,
        (key, value): (String, Vec<u8>),
        expect: Expect,
        lease: Option<LeaseId>,
    ) -> Result<u64, Fault> {
        self.change(cluster, |draft, deadlines| {
            draft.expect(&key, expect)?;
            match lease {
                Some(lease) if !deadlines.is_alive(lease) => return Err(MetaError::Lease { lease }.into()),
                Some(lease) => draft.bindings.insert(key.as_str(), lease.number())?,
                None => draft.bindings.remove(key.as_str())?,
            };
            draft.put(key, value)
        })
    }

    pub(super) fn delete(&self, cluster: Option<&str>, key: &str, expect: Expect) -> Result<(), Fault> {
        self.change(cluster, |draft, _| {
            draft.expect(key, expect)?;
            draft.remove(key)
        })
    }

    pub(super) fn grant(&self, cluster: Option<&str>, ttl: Duration) -> Result<LeaseId, Fault> {
        // Rounded up: a lease must not end sooner than was asked for.
        let ttl_ms = u64::try_from(ttl.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX);
        let lease = self.change(cluster, |draft, deadlines| {
            let lease = LeaseId::from_number(draft.count(LEASE_KEY)?);
            draft.leases.insert(lease.number(), ttl_ms)?;
            // Before the transaction is made: a deadline without a lease does no harm.
            deadlines.start(lease, Duration::from_millis(ttl_ms));
            Ok(lease)
        })?;
        self.leases.ring();
        Ok(lease)
    }

    pub(super) fn keep_alive(&self, cluster: Option<&str>, lease: LeaseId) -> Result<(), Fault> {
        let mut deadlines = self.leases.deadlines.lock();
        check(&self.database.begin_read()?.open_table(ENTRIES)?, cluster)?;
        if deadlines.renew(lease) {
            Ok(())
        } else {
            Err(MetaError::Lease { lease }.into())
        }
    }

    pub(super) fn revoke(&self, cluster: Option<&str>, lease: LeaseId) -> Result<(), Fault> {
        let mut deadlines = self.leases.deadlines.lock();
        self.change_locked(&mut deadlines, cluster, |draft, deadlines| {
            if !deadlines.is_alive(lease) {
                return Err(MetaError::Lease { lease }.into());
            }
            draft.end(lease)
        })?;
        deadlines.forget(lease);
        Ok(())
    }

    /// Ends a lease, unless it was kept alive in the meantime.
    pub(super) fn end_if_due(&self, lease: LeaseId) -> Result<(), Fault> {
        let mut deadlines = self.leases.deadlines.lock();
        if deadlines.is_alive(lease) {
            return Ok(());
        }
        self.change_locked(&mut deadlines, None, |draft, _| draft.end(lease))?;
        deadlines.forget(lease);
        Ok(())
    }

    /// Makes a change of the store: all of it, with its place in the history, or nothing.
    fn change<T>(
        &self,
        cluster: Option<&str>,
        work: impl FnOnce(&mut Draft<'_>, &mut Deadlines) -> Result<T, Fault>,
    ) -> Result<T, Fault> {
        self.change_locked(&mut self.leases.deadlines.lock(), cluster, work)
    }

    fn change_locked<T>(
        &self,
        deadlines: &mut Deadlines,
        cluster: Option<&str>,
        work: impl FnOnce(&mut Draft<'_>, &mut Deadlines) -> Result<T, Fault>,
    ) -> Result<T, Fault> {
        let write = self.database.begin_write()?;
        let (done, changes) = {
            let mut draft = Draft::new(&write)?;
            check(&draft.entries, cluster)?;
            (work(&mut draft, deadlines)?, draft.changes)
        };
        write.commit()?;
        self.history.add(changes);
        Ok(done)
    }
}

#[cfg(test)]
impl Disk {
    pub(super) fn database(&self) -> &Database {
        &self.database
    }

    pub(super) fn header(&self, name: &str) -> Option<Option<u64>> {
        let header = self.database.begin_read().ok()?.open_table(HEADER).ok()?;
        Some(header.get(name).ok()?.map(|found| found.value()))
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        self.leases.close();
    }
}

/// The tables of a change that is being made, and what those who watch will hear of it.
struct Draft<'a> {
    header: Table<'a, &'static str, u64>,
    entries: Table<'a, &'static str, (u64, &'static [u8])>,
    leases: Table<'a, u64, u64>,
    bindings: Table<'a, &'static str, u64>,
    changes: Vec<Change>,
}

impl<'a> Draft<'a> {
    fn new(write: &'a WriteTransaction) -> Result<Self, Fault> {
        Ok(Self {
            header: write.open_table(HEADER)?,
            entries: write.open_table(ENTRIES)?,
            leases: write.open_table(LEASES)?,
            bindings: write.open_table(BINDINGS)?,
            changes: Vec::new(),
        })
    }

    fn expect(&self, key: &str, expect: Expect) -> Result<(), Fault> {
        let found = self.entries.get(key)?.map(|found| found.value().0);
        Ok(expect.check(key, found)?)
    }

    /// The next number of a count in the header.
    fn count(&mut self, name: &str) -> Result<u64, Fault> {
        let next = last(&self.header, name)? + 1;
        self.header.insert(name, next)?;
        Ok(next)
    }

    fn put(&mut self, key: String, value: Vec<u8>) -> Result<u64, Fault> {
        let revision = self.count(REVISION_KEY)?;
        self.entries.insert(key.as_str(), (revision, value.as_slice()))?;
        self.changes.push(Change {
            key,
            value: Some(value),
            revision,
        });
        Ok(revision)
    }

    fn remove(&mut self, key: &str) -> Result<(), Fault> {
        self.bindings.remove(key)?;
        if self.entries.remove(key)?.is_none() {
            return Ok(());
        }
        let change = Change {
            key: key.to_owned(),
            value: None,
            revision: self.count(REVISION_KEY)?,
        };
        self.changes.push(change);
        Ok(())
    }

    /// Ends a lease and removes what is bound to it.
    fn end(&mut self, lease: LeaseId) -> Result<(), Fault> {
        self.leases.remove(lease.number())?;
        let mut bound = Vec::new();
        for binding in self.bindings.iter()? {
            let (key, number) = binding?;
            if number.value() == lease.number() {
                bound.push(key.value().to_owned());
            }
        }
        bound.iter().try_for_each(|key| self.remove(key))
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

/// Makes the entry of a new file in its folder durable: otherwise a crash may take the whole file along.
fn sync_folder(path: &Path) -> std::io::Result<()> {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => File::open(folder)?.sync_all(),
        _ => File::open(".")?.sync_all(),
    }
}

/// Reads the number of the layout, and brings a new file and one without leases to ours.
fn format_of(database: &Database) -> Result<u64, Fault> {
    let write = database.begin_write()?;
    let mut header = write.open_table(HEADER)?;
    let found = header.get(FORMAT_KEY)?.map(|found| found.value());
    if let Some(found) = found
        && found != FORMAT_WITHOUT_LEASES
    {
        return Ok(found);
    }
    header.insert(FORMAT_KEY, FORMAT)?;
    drop(header);
    // Made here, so that readers find them.
    drop(Draft::new(&write)?);
    write.commit()?;
    Ok(FORMAT)
}

/// Gives each lease of the file its whole time.
fn restart_leases(database: &Database, deadlines: &mut Deadlines) -> Result<(), Fault> {
    for lease in database.begin_read()?.open_table(LEASES)?.iter()? {
        let (number, ttl_ms) = lease?;
        let ttl = Duration::from_millis(ttl_ms.value());
        deadlines.start(LeaseId::from_number(number.value()), ttl);
    }
    Ok(())
}

fn check(entries: &impl ReadableTable<&'static str, (u64, &'static [u8])>, cluster: Option<&str>) -> Result<(), Fault> {
    let Some(cluster) = cluster else { return Ok(()) };
    let found = entries.get(CLUSTER_ID_KEY)?;
    let found = found.as_ref().map(|found| found.value().1);
    Ok(check_cluster(Some(cluster), found)?)
}

fn list(
    entries: &impl ReadableTable<&'static str, (u64, &'static [u8])>,
    prefix: &str,
) -> Result<Vec<(String, Entry)>, Fault> {
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

/// The last number of a count in the header; 0 when nothing was counted yet.
fn last(header: &impl ReadableTable<&'static str, u64>, name: &str) -> Result<u64, Fault> {
    Ok(header.get(name)?.map_or(0, |last| last.value()))
}

fn entry((revision, value): (u64, &[u8])) -> Entry {
    Entry {
        value: value.to_owned(),
        revision,
    }
}
