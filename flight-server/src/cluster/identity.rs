//! Who a node is: an id that stays, and a number that says which of its lives this is.
//!
//! Both are kept in the data folder, beside the cache that makes a node worth recognising: a node that comes back at
//! another address with its cache is the same node. The id is made at the first start. The number grows with each start,
//! so that what a process said before it died is told from what its successor says. It grows by the clock where clocks allow
//! it and, in its last bits, by chance, so that two copies of one data folder do not count alike, even where they start in
//! the same millisecond or behind a clock that was set back: of two processes of one number, each would take the other's
//! lease for its own.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::host;

/// The file in the data folder.
const FILE: &str = "node.json";

/// A node in one of its lives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// A random UUID, in its usual text form.
    pub id: String,
    /// Milliseconds from 1970 to the start times [`CHANCES`], or one more than the last number where that is greater; plus
    /// a random number below [`CHANCES`].
    pub generation: u64,
    /// The numbers of the last lives before that were lived in this very folder. Whoever has the folder's lock knows that
    /// they are over. A copy of the folder has no such predecessors: the original may live.
    ///
    /// Why several: a life that ended before it joined leaves the others still hearing of the one before it.
    pub predecessors: Vec<u64>,
}

/// What stands in the file.
#[derive(Debug, Serialize, Deserialize)]
struct Record {
    id: String,
    generation: u64,
    /// The machine since its start, and device and number of the data folder: what a copy of the folder differs in.
    #[serde(default)]
    folder: String,
    /// Numbers of the lives before, in this folder, the latest first.
    #[serde(default)]
    earlier: Vec<u64>,
}

/// Two starts in one millisecond count alike once in so many times. Lasts until the year 2527.
const CHANCES: u64 = 1 << 20;

/// So many lives are remembered.
const MAX_PREDECESSORS: usize = 16;

/// Why a node cannot tell who it is.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IdentityError {
    /// The file cannot be read or written.
    #[error("the node's identity in {} cannot be {action}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// `read`, `made` or `written`.
        action: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// The file is something else, or damaged.
    #[error("{} does not say who this node is; remove it, and the node joins as a new one", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What was found.
        source: serde_json::Error,
    },
}

impl Identity {
    /// The identity for a start that happens now. The folder must belong to this process.
    ///
    /// # Errors
    /// A file that cannot be read, understood or written.
    pub fn of_this_start(data_dir: &Path) -> Result<Self, IdentityError> {
        let path = data_dir.join(FILE);
        let failed = |action| {
            let path = path.clone();
            move |source| IdentityError::File { path, action, source }
        };
        let known: Option<Record> = match fs::read(&path) {
            Ok(text) => Some(serde_json::from_slice(&text).map_err(|source| IdentityError::Damaged {
                path: path.clone(),
                source,
            })?),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(failed("read")(error)),
        };
        let folder = fs::metadata(data_dir).map_err(failed("read"))?;
        let folder = format!("{} {}:{}", host::name_of_this(), folder.dev(), folder.ino());
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let by_clock = u64::try_from(since_1970.as_millis())
            .unwrap_or(u64::MAX)
            .saturating_mul(CHANCES);
        let generation = known
            .as_ref()
            .map_or(0, |known| known.generation.saturating_add(1))
            .max(by_clock)
            .saturating_add(getrandom::u64().map_err(|error| failed("made")(io::Error::other(error)))? % CHANCES);
        let here = known.as_ref().filter(|known| known.folder == folder);
        let mut predecessors = here.map_or_else(Vec::new, |known| {
            let latest = std::iter::once(known.generation);
            latest.chain(known.earlier.iter().copied()).collect()
        });
        predecessors.truncate(MAX_PREDECESSORS);
        let id = known.map_or_else(|| Uuid::new_v4().to_string(), |known| known.id);
        let record = Record {
            id,
            generation,
            folder,
            earlier: predecessors.clone(),
        };
        write(&path, &record).map_err(failed("written"))?;
        Ok(Self {
            id: record.id,
            generation,
            predecessors,
        })
    }
}

/// Writes beside the file, then renames: a crash leaves the old text or the new one.
fn write(path: &Path, record: &Record) -> io::Result<()> {
    let beside = path.with_extension("json.new");
    let file = fs::File::create(&beside)?;
    serde_json::to_writer(&file, record)?;
    file.sync_all()?;
    fs::rename(&beside, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_id_stays_and_the_generation_grows() {
        let folder = tempfile::tempdir().unwrap();
        let first = Identity::of_this_start(folder.path()).unwrap();
        let second = Identity::of_this_start(folder.path()).unwrap();
        assert!(first.generation < second.generation, "{first:?} {second:?}");
        assert_eq!(first.id, second.id);
        let third = Identity::of_this_start(folder.path()).unwrap();
        assert!(first.predecessors.is_empty(), "{first:?}");
        assert_eq!(third.predecessors, [second.generation, first.generation]);
        let other = tempfile::tempdir().unwrap();
        assert_ne!(Identity::of_this_start(other.path()).unwrap().id, first.id);
    }

    #[test]
    fn a_copy_of_the_folder_has_no_predecessor() {
        let (folder, copy) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let original = Identity::of_this_start(folder.path()).unwrap();
        fs::copy(folder.path().join(FILE), copy.path().join(FILE)).unwrap();
        let copied = Identity::of_this_start(copy.path()).unwrap();
        assert_eq!((&copied.id, copied.predecessors.len()), (&original.id, 0));
    }

    #[test]
    fn copies_do_not_count_alike_whatever_the_clock_says() {
        let (folder, copy) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let of_tomorrow = r#"{"id": "0198c0de-0000-4000-8000-000000000000", "generation": 9000000000000000000}"#;
        let both = [folder, copy].map(|folder| {
            fs::write(folder.path().join(FILE), of_tomorrow).unwrap();
            Identity::of_this_start(folder.path()).unwrap()
        });
        assert_eq!(both[0].id, both[1].id);
        assert_ne!(both[0].generation, both[1].generation);
    }

    #[test]
    fn a_damaged_file_is_refused_and_not_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(FILE);
        fs::write(&path, "nonsense").unwrap();
        let error = Identity::of_this_start(folder.path()).unwrap_err();
        assert!(matches!(error, IdentityError::Damaged { .. }), "{error}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "nonsense");
    }
}
