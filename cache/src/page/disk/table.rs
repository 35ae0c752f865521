//! A page table, with which the file of a file version begins: what that is, and which of its pages are held. Bytes only;
//! see `FORMAT.md`.
//!
//! A header of 4 KiB names the file version; slots of 16 bytes follow, one a page. A slot vouches for the bytes of its
//! page, by a checksum that is seeded with the file's id and the page's index: bytes of another file, or of another page
//! of the same file, do not pass.

use std::sync::Arc;

use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed, xxh3_128};

use super::shape::Shape;
use super::superblock::FORMAT_VERSION;
use crate::key::{FileId, FileKey, Generation, to_u64, to_usize};

/// The longest page that a slot can describe, in bytes.
pub(super) const MAX_PAGE_BYTES: u64 = 1 << 30;

const HEADER_LEN: usize = 4096;
const MAGIC: [u8; 8] = *b"JBTABLE\0";
const TEXT_AT: usize = 72;
const SUM_AT: usize = 4088;
const TEXT_ROOM: usize = SUM_AT - TEXT_AT;
const NOT_KEPT: u32 = u32::MAX;
const HELD: u32 = 1 << 31;

/// One version of one file, as its table names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) id: FileId,
    /// The file's length, in bytes.
    pub(super) size: u64,
    pub(super) uri_hash: u128,
    /// `None` where the URI is too long for the header.
    pub(super) uri: Option<Arc<str>>,
    pub(super) generation: Arc<str>,
}

impl Header {
    /// `None` for a file that cannot be kept: its generation is longer than a header, or it and its table are longer
    /// than files get.
    pub(super) fn of(key: &FileKey, page_size: u64) -> Option<Self> {
        let generation: Arc<str> = key.generation.to_string().into();
        let room = TEXT_ROOM.checked_sub(generation.len())?;
        let shape = Shape {
            page_size,
            file_size: key.size,
        };
        i64::try_from(shape.end()).ok()?;
        Some(Self {
            id: key.id(),
            size: key.size,
            uri_hash: xxh3_128(key.uri.as_bytes()),
            uri: (key.uri.len() <= room).then(|| Arc::clone(&key.uri)),
            generation,
        })
    }

    /// The file version, where its URI is kept.
    pub(super) fn key(&self) -> Option<FileKey> {
        Some(FileKey {
            uri: Arc::clone(self.uri.as_ref()?),
            generation: Generation::parse(&self.generation).ok()?,
            size: self.size,
        })
    }

    pub(super) fn encode(&self, page_size: u64) -> Vec<u8> {
        let uri = self.uri.as_deref();
        let length = |text: &str| u32::try_from(text.len()).unwrap_or(NOT_KEPT);
        let mut bytes = Vec::with_capacity(HEADER_LEN);
        bytes.extend(MAGIC);
        bytes.extend(FORMAT_VERSION.to_le_bytes());
        bytes.extend([0; 4]);
        bytes.extend(page_size.to_le_bytes());
        bytes.extend(self.id.as_u128().to_be_bytes());
        bytes.extend(self.size.to_le_bytes());
        bytes.extend(self.uri_hash.to_be_bytes());
        bytes.extend(uri.map_or(NOT_KEPT, length).to_le_bytes());
        bytes.extend(length(&self.generation).to_le_bytes());
        bytes.extend(uri.unwrap_or_default().as_bytes());
        bytes.extend(self.generation.as_bytes());
        bytes.resize(SUM_AT, 0);
        let sum = xxh3_64(&bytes);
        bytes.extend(sum.to_le_bytes());
        bytes
    }

    /// `None` when the bytes are no header of this format, page size and file.
    pub(super) fn decode(bytes: &[u8], page_size: u64, id: FileId) -> Option<Self> {
        let (body, sum) = bytes.get(..HEADER_LEN)?.split_at(SUM_AT);
        let fits = body.starts_with(&MAGIC)
            && u32_at(body, 8)? == FORMAT_VERSION
            && u64_at(body, 16)? == page_size
            && u128_at(body, 24)? == id.as_u128()
            && u64_at(sum, 0)? == xxh3_64(body);
        if !fits {
            return None;
        }
        let uri_length = Some(u32_at(body, 64)?).filter(|length| *length != NOT_KEPT);
        let (uri, rest) = text(body.get(TEXT_AT..)?, uri_length.unwrap_or(0))?;
        let (generation, _) = text(rest, u32_at(body, 68)?)?;
        let header = Self {
            id,
            size: u64_at(body, 40)?,
            uri_hash: u128_at(body, 48)?,
            uri: uri_length.map(|_| uri.into()),
            generation: generation.into(),
        };
        header.is_consistent().then_some(header)
    }

    /// Whether the id is that of the texts. Where the URI is not kept, there is nothing to compare with.
    fn is_consistent(&self) -> bool {
        let Ok(generation) = Generation::parse(&self.generation) else {
            return false;
        };
        self.uri.as_ref().is_none_or(|uri| {
            let key = FileKey {
                uri: Arc::clone(uri),
                generation,
                size: self.size,
            };
            key.id() == self.id && xxh3_128(uri.as_bytes()) == self.uri_hash
        })
    }
}

/// What a slot says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Slot {
    /// Its page is not held.
    Absent,
    /// Its page is held: so many bytes, of this checksum.
    Held {
        /// In bytes.
        length: u64,
        /// Of the page's bytes, seeded with its place.
        sum: u64,
    },
    /// Not what was written for this page of this file.
    Damaged,
}

impl Slot {
    /// The slot of a page that holds these bytes.
    pub(super) fn of(file: FileId, page: u64, bytes: &[u8]) -> Self {
        Self::Held {
            length: to_u64(bytes.len()),
            sum: xxh3_64_with_seed(bytes, seed(file, page)),
        }
    }

    /// Whether it vouches for these bytes.
    pub(super) fn vouches_for(self, file: FileId, page: u64, bytes: &[u8]) -> bool {
        matches!(self, Self::Held { .. }) && self == Self::of(file, page, bytes)
    }

    /// Appends the slot of a page that holds these bytes.
    pub(super) fn write(slots: &mut Vec<u8>, file: FileId, page: u64, bytes: &[u8]) {
        let sum = xxh3_64_with_seed(bytes, seed(file, page));
        // A page's length is under 2^31 by the limit on page sizes.
        let state = HELD | u32::try_from(bytes.len()).unwrap_or(0);
        slots.extend(state.to_le_bytes());
        slots.extend(check(seed(file, page), state, sum).to_le_bytes());
        slots.extend(sum.to_le_bytes());
    }

    /// Reads the slot of a page.
    pub(super) fn read(slot: &[u8], file: FileId, page: u64) -> Self {
        if slot.iter().all(|byte| *byte == 0) {
            return Self::Absent;
        }
        let (Some(state), Some(written), Some(sum)) = (u32_at(slot, 0), u32_at(slot, 4), u64_at(slot, 8)) else {
            return Self::Damaged;
        };
        if state & HELD == 0 || written != check(seed(file, page), state, sum) {
            return Self::Damaged;
        }
        Self::Held {
            length: u64::from(state & !HELD),
            sum,
        }
    }
}

/// What binds a checksum to a page's place.
fn seed(file: FileId, page: u64) -> u64 {
    let mut place = [0; 24];
    place[..16].copy_from_slice(&file.as_u128().to_be_bytes());
    place[16..].copy_from_slice(&page.to_le_bytes());
    xxh3_64(&place)
}

fn check(seed: u64, state: u32, sum: u64) -> u32 {
    let mut slot = [0; 12];
    slot[..4].copy_from_slice(&state.to_le_bytes());
    slot[4..].copy_from_slice(&sum.to_le_bytes());
    let [a, b, c, d, ..] = xxh3_64_with_seed(&slot, seed).to_le_bytes();
    u32::from_le_bytes([a, b, c, d])
}

fn text(bytes: &[u8], length: u32) -> Option<(&str, &[u8])> {
    let (text, rest) = bytes.split_at_checked(to_usize(u64::from(length)))?;
    Some((std::str::from_utf8(text).ok()?, rest))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

fn u128_at(bytes: &[u8], at: usize) -> Option<u128> {
    Some(u128::from_be_bytes(bytes.get(at..at + 16)?.try_into().ok()?))
}
