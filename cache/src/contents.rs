//! What the tiers hold of which files, and letting go of it. Nothing here reads, touches or loads anything.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::ops::Range;
use std::time::SystemTime;

use crate::Cache;
use crate::decode::SelectedColumn;
use crate::error::ReadError;
use crate::key::{FileId, FileKey, RowGroup};
use crate::page::OpenFile;
use crate::scan::leaf_ranges;

/// What is held of one file version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldFile {
    /// Which file, in which generation.
    pub key: FileKey,
    /// When the first of it came.
    pub since: SystemTime,
    /// Bytes of it held as raw pages.
    pub raw_bytes: u64,
    /// Bytes of its columns held decoded.
    pub decoded_bytes: u64,
}

/// What is held of one column of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldColumn {
    /// Its name.
    pub name: String,
    /// Its bytes in the file.
    pub bytes: u64,
    /// How many of those are held as raw pages.
    pub raw_bytes: u64,
    /// Bytes of it held decoded.
    pub decoded_bytes: u64,
}

/// Where something is held of one file version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldParts {
    /// Which.
    pub file: FileId,
    /// Where in the file pages are held, ascending; see [`PageTier::held_ranges`](crate::page::PageTier::held_ranges).
    pub ranges: Vec<Range<u64>>,
    /// Row groups of which columns are held decoded.
    pub row_groups: BTreeSet<RowGroup>,
}

impl Cache {
    /// The file versions that anything is held of, by URI; without those of URIs too long to be written down on disk.
    #[must_use]
    pub fn held_files(&self) -> Vec<HeldFile> {
        let keys = self.held_keys(&HashSet::new()).into_values();
        let mut held: Vec<_> = keys.map(|key| self.held_file(key)).collect();
        held.retain(|file| file.raw_bytes + file.decoded_bytes > 0);
        held.sort_by(|a, b| a.key.uri.cmp(&b.key.uri));
        held
    }

    /// Where something is held of the file versions whose URIs begin with `prefix`; without those that [`Cache::held_files`]
    /// leaves out. None where that is more than `most` ranges and row groups together.
    #[must_use]
    pub fn held_parts(&self, prefix: &str, most: usize) -> Option<Vec<HeldParts>> {
        let (mut held, mut parts) = (Vec::new(), 0);
        for (file, key) in self.held_keys(&HashSet::new()) {
            if !key.uri.starts_with(prefix) {
                continue;
            }
            let chunks = self.engine.chunks.held(file);
            let of_file = HeldParts {
                file,
                ranges: self.engine.pages.held_ranges(&key),
                row_groups: chunks.iter().map(|(chunk, _)| chunk.row_group).collect(),
            };
            match of_file.ranges.len() + of_file.row_groups.len() {
                0 => continue,
                more => parts += more,
            }
            if parts > most {
                return None;
            }
            held.push(of_file);
        }
        Some(held)
    }

    /// The file versions besides these that something may be held of, in no order; without those that [`Cache::held_files`]
    /// leaves out. Much cheaper than that where they are few.
    #[must_use]
    pub fn other_files(&self, besides: &HashSet<FileId>) -> Vec<FileKey> {
        self.held_keys(besides).into_values().collect()
    }

    fn held_keys(&self, besides: &HashSet<FileId>) -> HashMap<FileId, FileKey> {
        let pages = self.engine.pages.files(besides).into_iter();
        let keys = pages.chain(self.engine.chunks.files(besides));
        keys.map(|key| (key.id(), key)).collect()
    }

    /// The file versions of which pages are being loaded, or wait to be kept: whoever lets go of a file lets go of these too,
    /// or they are held a moment later.
    #[must_use]
    pub fn arriving_files(&self) -> Vec<FileKey> {
        self.engine.pages.arriving()
    }

    /// What is held of a file version.
    #[must_use]
    pub fn held_file(&self, key: FileKey) -> HeldFile {
        let id = key.id();
        let since = [self.engine.pages.held_since(id), self.engine.chunks.held_since(id)];
        HeldFile {
            since: since.into_iter().flatten().min().unwrap_or_else(SystemTime::now),
            key,
            raw_bytes: self.engine.pages.held_bytes(id),
            decoded_bytes: self.engine.chunks.held(id).iter().map(|(_, bytes)| bytes).sum(),
        }
    }

    /// What is held of each column of a file, in the file's order.
    ///
    /// # Errors
    /// As [`Cache::footer`], which says where the columns are.
    pub async fn held_columns(&self, file: &OpenFile) -> Result<Vec<HeldColumn>, ReadError> {
        let footer = self.engine.footer(file).await?;
        let mut decoded: HashMap<u32, u64> = HashMap::new();
        for (key, bytes) in self.engine.chunks.held(file.key.id()) {
            *decoded.entry(key.column).or_default() += bytes;
        }
        let groups = u32::try_from(footer.row_groups.len()).unwrap_or(u32::MAX);
        let columns = footer.schema.fields().iter().enumerate().map(|(root, field)| {
            let column = SelectedColumn::new(&footer, root, field.data_type());
            let (mut bytes, mut raw_bytes) = (0, 0);
            for group in (0..groups).map(RowGroup) {
                for (_, range) in leaf_ranges(&footer, group, std::iter::once(&column)) {
                    bytes += range.end - range.start;
                    raw_bytes += self.engine.pages.held_in(&file.key, &range);
                }
            }
            let root = u32::try_from(root).unwrap_or(u32::MAX);
            HeldColumn {
                name: field.name().clone(),
                bytes,
                raw_bytes,
                decoded_bytes: decoded.get(&root).copied().unwrap_or(0),
            }
        });
        Ok(columns.collect())
    }

    /// Drops pages and chunks of one generation of a file. Those who read them now keep what they have.
    pub async fn remove_file(&self, file: FileId) {
        self.engine.chunks.remove_file(file);
        self.engine.pages.remove_file(file).await;
    }
}
