//! What a folder holds, told from the tables that its files begin with; and its end.
//!
//! A file that does not begin with a header of its own, of this format, is removed: it was not yet written when the
//! process ended, or is damaged, or another format's. A slot that does not check is as an absent one. What slots vouch
//! for is taken as held; their pages' bytes are checked when they are read. Names that are not ours are left alone.
//!
//! Why no log or snapshot of what is held: the tables are 16 bytes a page, so a terabyte of 64 KiB pages is 256 MB of
//! them, which is read in about a second, and there is no second truth to keep in step.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rustix::fs::SeekFrom;

use super::file::{EXTENSION, Paths};
use super::fs::FileSystem;
use super::presence::Presence;
use super::shape::{BLOCK_BYTES, HEADER_BYTES, SLOT_BYTES, Shape, block_of, block_range, slot_offset};
use super::table::{Header, Slot};
use crate::key::{FileId, to_u64, to_usize};

/// How much of a table is read at a time.
const CHUNK_BYTES: u64 = 1 << 20;
/// What format 1 called its tables, which had files of their own, and those that were not whole yet.
const OLD_EXTENSIONS: [&str; 2] = ["table", "table.tmp"];

/// A file version that a folder holds pages of.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) header: Header,
    pub(super) presence: Presence,
    /// The blocks of slots in use.
    pub(super) blocks: BTreeSet<u64>,
    /// When the file was made, or changed where the file system does not know that.
    pub(super) since: SystemTime,
    /// When a page last came or went.
    modified: SystemTime,
}

/// The file versions in a folder, the one that changed last at the end. What cannot be used is removed.
pub(super) fn scan(folder: &Path, page_size: u64, fs: &dyn FileSystem) -> io::Result<Vec<Found>> {
    let mut found = Vec::new();
    for file in files(folder)? {
        let path = file.path(folder);
        let kept = match file.extension {
            EXTENSION => load(&path, file.id, page_size, fs),
            _ => Ok(None),
        };
        match kept {
            Ok(Some(file)) => found.push(file),
            Ok(None) => remove(&path, fs),
            // Left as it is: it may be read at the next start, and is replaced when the file is put again.
            Err(error) => tracing::warn!(folder = %folder.display(), %error, "a file of the cache cannot be read"),
        }
    }
    found.sort_by_key(|file| file.modified);
    Ok(found)
}

/// Removes all files of a cache, of whatever version, and returns how many there were.
pub(super) fn wipe(folder: &Path, fs: &dyn FileSystem) -> io::Result<u64> {
    let mut removed = 0;
    for file in files(folder)? {
        fs.remove(&file.path(folder))?;
        removed += 1;
    }
    Ok(removed)
}

/// Whether a name is that of a folder of files: two hexadecimal digits.
pub(super) fn is_shard(name: &str) -> bool {
    name.len() == 2 && is_hex(name)
}

/// A file with a name of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Named {
    id: FileId,
    extension: &'static str,
}

impl Named {
    fn path(self, folder: &Path) -> PathBuf {
        Paths::of(folder, self.id).file.with_extension(self.extension)
    }
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
    let mut ours = [EXTENSION].into_iter().chain(OLD_EXTENSIONS);
    let extension = ours.find(|extension| *extension == kind)?;
    let id = (stem.len() == 32 && is_hex(stem)).then(|| u128::from_str_radix(stem, 16).ok())??;
    Some(Named {
        id: FileId::from_u128(id),
        extension,
    })
}

fn is_hex(text: &str) -> bool {
    text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

fn remove(path: &Path, fs: &dyn FileSystem) {
    if let Err(error) = fs.remove(path) {
        tracing::warn!(%error, "a file that the cache cannot use was not removed");
    }
}

/// `None` when the file is not to be kept.
fn load(path: &Path, id: FileId, page_size: u64, fs: &dyn FileSystem) -> io::Result<Option<Found>> {
    let file = fs.open(path)?;
    let mut header = vec![0; to_usize(HEADER_BYTES)];
    fs.read_at(&file, 0, &mut header)?;
    let Some(header) = Header::decode(&header, page_size, id) else {
        return Ok(None);
    };
    // Before anything of it is freed, which is a change.
    let about = file.metadata()?;
    let mut slots = Slots {
        id,
        shape: Shape {
            page_size,
            file_size: header.size,
        },
        file_bytes: about.len(),
        presence: Presence::default(),
        blocks: BTreeSet::new(),
    };
    slots.read(&file, fs)?;
    if slots.presence.is_empty() {
        return Ok(None);
    }
    if about.blocks().saturating_mul(512) > slots.allocated() {
        slots.free_gaps(&file, fs);
    }
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
    file_bytes: u64,
    presence: Presence,
    blocks: BTreeSet<u64>,
}

impl Slots {
    fn read(&mut self, file: &File, fs: &dyn FileSystem) -> io::Result<()> {
        let end = slot_offset(self.shape.pages()).min(self.file_bytes);
        let mut at = HEADER_BYTES;
        while let Some(from) = next_data(file, at).filter(|from| *from < end) {
            let length = CHUNK_BYTES.min(end - from);
            let mut chunk = vec![0; to_usize(length)];
            fs.read_at(file, from, &mut chunk)?;
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
            let end = self.shape.lies_at(page.saturating_add(1));
            if matches!(slot, Slot::Held { length: held, .. } if held == length) && end <= self.file_bytes {
                self.presence.insert(page);
            }
        }
    }

    /// What the file takes on disk, if it has nothing but what slots vouch for.
    fn allocated(&self) -> u64 {
        let pages: u64 = self.presence.iter().map(|page| self.shape.allocated(page)).sum();
        HEADER_BYTES + to_u64(self.blocks.len()) * BLOCK_BYTES + pages
    }

    /// Gives back what no slot vouches for: bytes that were written when the process ended, before their slots were.
    /// Gaps that are holes already are left alone, since a hole that is punched is a change of the file.
    fn free_gaps(&self, file: &File, fs: &dyn FileSystem) {
        let mut free_from = HEADER_BYTES;
        for used in self.used() {
            let gap = free_from..used.start;
            if !gap.is_empty()
                && next_data(file, gap.start).is_some_and(|from| from < gap.end)
                && let Err(error) = fs.punch(file, gap)
            {
                tracing::warn!(%error, "space of the cache that is not in use was not freed");
                return;
            }
            free_from = used.end;
        }
    }

    /// The parts of the file that are in use after the header, in order, and its end.
    fn used(&self) -> impl Iterator<Item = Range<u64>> {
        let blocks = self.blocks.iter().map(|block| block_range(*block));
        let shape = self.shape;
        let pages = self.presence.iter().map(move |page| {
            let start = shape.lies_at(page);
            start..start + shape.allocated(page)
        });
        let end = self.file_bytes.next_multiple_of(BLOCK_BYTES);
        blocks.chain(pages).chain(std::iter::once(end..end))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_ours_are_taken() {
        let stem = "0123456789abcdef0123456789abcdef";
        for kind in ["pages", "table", "table.tmp"] {
            let name = format!("{stem}.{kind}");
            let path = parse(&name).unwrap().path(Path::new("folder"));
            assert_eq!(path, Path::new("folder/01").join(name));
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
