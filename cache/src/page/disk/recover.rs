//! What a folder holds, told from its tables; and its end.
//!
//! A table that is not what this code writes is removed with its data, as is data without a table and a table that was
//! not renamed yet. A slot that does not check is as an absent one. What slots vouch for is taken as held; their pages'
//! bytes are checked when they are read. Names that are not ours are left alone.
//!
//! Why no log or snapshot of what is held: the tables are 16 bytes a page, so a terabyte of 64 KiB pages is 256 MB of
//! them, which is read in about a second, and there is no second truth to keep in step.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::SystemTime;

use rustix::fs::SeekFrom;

use super::file::{BLOCK_BYTES, Paths, Shape, block_of};
use super::fs::FileSystem;
use super::presence::Presence;
use super::table::{HEADER_BYTES, Header, SLOT_BYTES, Slot, slot_offset};
use crate::key::{FileId, to_usize};

/// How much of a table is read at a time.
const CHUNK_BYTES: u64 = 1 << 20;

/// A file version that a folder holds pages of.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) header: Header,
    pub(super) presence: Presence,
    /// The blocks of slots in use.
    pub(super) blocks: BTreeSet<u64>,
    /// When the table was made, or changed where the file system does not know that.
    pub(super) since: SystemTime,
    /// When a page last came or went.
    modified: SystemTime,
}

/// The file versions in a folder, the one that changed last at the end. What cannot be used is removed.
pub(super) fn scan(folder: &Path, page_size: u64, fs: &dyn FileSystem) -> io::Result<Vec<Found>> {
    let mut found = Vec::new();
    for file in files(folder)? {
        let paths = Paths::of(folder, file.id);
        let kept = match file.kind {
            Kind::Data if paths.table.exists() => continue,
            Kind::Table => load(&paths, file.id, page_size, fs),
            Kind::Data | Kind::Unnamed => Ok(None),
        };
        match kept {
            Ok(Some(file)) => found.push(file),
            Ok(None) => remove(&paths, file.kind, fs),
            // Left as it is: it may be read at the next start, and is replaced when the file is put again.
            Err(error) => tracing::warn!(folder = %folder.display(), %error, "a table of the cache cannot be read"),
        }
    }
    found.sort_by_key(|file| file.modified);
    Ok(found)
}

/// Removes all files of a cache, of whatever version, and returns how many there were.
pub(super) fn wipe(folder: &Path, fs: &dyn FileSystem) -> io::Result<u64> {
    let mut removed = 0;
    for file in files(folder)? {
        let paths = Paths::of(folder, file.id);
        let path = match file.kind {
            Kind::Data => paths.data,
            Kind::Table => paths.table,
            Kind::Unnamed => paths.unnamed,
        };
        fs.remove(&path)?;
        removed += 1;
    }
    Ok(removed)
}

/// Whether a name is that of a folder of files: two hexadecimal digits.
pub(super) fn is_shard(name: &str) -> bool {
    name.len() == 2 && is_hex(name)
}

/// A file with a name of ours.
#[derive(Debug, Clone, Copy)]
struct Named {
    id: FileId,
    kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Data,
    Table,
    Unnamed,
}

fn files(folder: &Path) -> io::Result<Vec<Named>> {
    let mut files = Vec::new();
    for shard in std::fs::read_dir(folder)? {
        let shard = shard?;
        let name = shard.file_name();
        let Some(name) = name.to_str().filter(|name| is_shard(name)) else {
            continue;
        };
        if shard.file_type()?.is_dir() {
            for entry in std::fs::read_dir(shard.path())? {
                let entry = entry?.file_name();
                files.extend(
                    entry
                        .to_str()
                        .and_then(parse)
                        .filter(|_| entry.to_string_lossy().starts_with(name)),
                );
            }
        }
    }
    Ok(files)
}

fn parse(name: &str) -> Option<Named> {
    let (stem, kind) = name.split_once('.')?;
    let kind = match kind {
        "pages" => Kind::Data,
        "table" => Kind::Table,
        "table.tmp" => Kind::Unnamed,
        _ => return None,
    };
    let id = (stem.len() == 32 && is_hex(stem)).then(|| u128::from_str_radix(stem, 16).ok())??;
    Some(Named {
        id: FileId::from_u128(id),
        kind,
    })
}

fn is_hex(text: &str) -> bool {
    text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

fn remove(paths: &Paths, kind: Kind, fs: &dyn FileSystem) {
    let removed = match kind {
        Kind::Unnamed => fs.remove(&paths.unnamed),
        Kind::Data | Kind::Table => fs.remove(&paths.table).and_then(|()| fs.remove(&paths.data)),
    };
    if let Err(error) = removed {
        tracing::warn!(%error, "a file that the cache cannot use was not removed");
    }
}

/// `None` when the file is not to be kept.
fn load(paths: &Paths, id: FileId, page_size: u64, fs: &dyn FileSystem) -> io::Result<Option<Found>> {
    let header = fs.read(&paths.table, HEADER_BYTES)?;
    let Some(header) = Header::decode(&header, page_size, id) else {
        return Ok(None);
    };
    let data = match std::fs::metadata(&paths.data) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        data => data?,
    };
    let table = fs.open(&paths.table)?;
    let shape = Shape {
        page_size,
        file_size: header.size,
    };
    let mut slots = Slots {
        id,
        shape,
        data_bytes: data.len(),
        presence: Presence::default(),
        blocks: BTreeSet::new(),
    };
    slots.read(&table, fs)?;
    if slots.presence.is_empty() {
        return Ok(None);
    }
    let allocated: u64 = slots.presence.iter().map(|page| shape.allocated(page)).sum();
    if data.blocks().saturating_mul(512) > allocated {
        free_gaps(&fs.open(&paths.data)?, shape, &slots.presence, data.len(), fs);
    }
    let about = table.metadata()?;
    let modified = about.modified()?;
    Ok(Some(Found {
        header,
        presence: slots.presence,
        blocks: slots.blocks,
        since: about.created().unwrap_or(modified),
        modified,
    }))
}

/// The slots of a table, as they are read.
struct Slots {
    id: FileId,
    shape: Shape,
    data_bytes: u64,
    presence: Presence,
    blocks: BTreeSet<u64>,
}

impl Slots {
    fn read(&mut self, table: &File, fs: &dyn FileSystem) -> io::Result<()> {
        let end = slot_offset(self.shape.pages()).min(table.metadata()?.len());
        let mut at = HEADER_BYTES;
        while let Some(from) = next_data(table, at).filter(|from| *from < end) {
            let length = CHUNK_BYTES.min(end - from);
            let mut chunk = vec![0; to_usize(length)];
            fs.read_at(table, from, &mut chunk)?;
            self.take(&chunk, (from - HEADER_BYTES) / SLOT_BYTES);
            at = from + length;
        }
        Ok(())
    }

    fn take(&mut self, slots: &[u8], first: u64) {
        for (page, slot) in (first..).zip(slots.chunks_exact(to_usize(SLOT_BYTES))) {
            let slot = Slot::read(slot, self.id, page);
            if slot != Slot::Absent {
                self.blocks.insert(block_of(page));
            }
            let length = self.shape.length(page);
            let end = self.shape.offset(page) + length;
            if matches!(slot, Slot::Held { length: held, .. } if held == length) && end <= self.data_bytes {
                self.presence.insert(page);
            }
        }
    }
}

/// Where the next bytes of a file that are not in a hole begin, from a multiple of a block on.
fn next_data(file: &File, at: u64) -> Option<u64> {
    match rustix::fs::seek(file, SeekFrom::Data(at)) {
        Ok(from) => Some((from / BLOCK_BYTES * BLOCK_BYTES).max(at)),
        Err(rustix::io::Errno::NXIO) => None,
        // A file system that does not know holes has all as data.
        Err(_) => Some(at),
    }
}

/// Gives back what no slot vouches for: bytes that were written when the process ended, before their slots were.
fn free_gaps(data: &File, shape: Shape, presence: &Presence, data_bytes: u64, fs: &dyn FileSystem) {
    let mut gap = 0;
    for page in presence.iter().chain([data_bytes.div_ceil(shape.page_size)]) {
        let part = gap * shape.page_size..page * shape.page_size;
        if !part.is_empty()
            && let Err(error) = fs.punch(data, part)
        {
            tracing::warn!(%error, "space of the cache that is not in use was not freed");
            return;
        }
        gap = page + 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_ours_are_taken() {
        let stem = "0123456789abcdef0123456789abcdef";
        for kind in ["pages", "table", "table.tmp"] {
            assert!(parse(&format!("{stem}.{kind}")).is_some());
        }
        for name in [
            stem.to_owned(),
            format!("{stem}.txt"),
            format!("{}.pages", stem.to_uppercase()),
            format!("{}.pages", &stem[1..]),
            format!("+{}.pages", &stem[1..]),
            ".pages".to_owned(),
        ] {
            assert!(parse(&name).is_none(), "{name}");
        }
        assert!(is_shard("0f") && !is_shard("0F") && !is_shard("0") && !is_shard("00f"));
    }
}
