//! The end of a file, where its footer is stored, read from where that costs least.
//!
//! ```text
//! pages that are held here ── what a peer gave before ── what a peer gives of the footer alone ── pages: of peers, or of storage
//! ```
//! A footer's length stands in its last eight bytes, so whoever reads pages begins with a guess: the file's last 64 KiB, and
//! what is missing of a longer footer after that. A peer that has read the file gives the footer's bytes and no others:
//! whoever plans files that others will read has no use for their pages.
//!
//! Readers wait for no errand's pace. So what is read at one is read where no reader waits for it, and what readers wait for
//! is read at once.

use bytes::Bytes;
use moka::future::Cache as MokaCache;

use super::{FileAt, namespace_path, to_usize};
use crate::error::ReadError;
use crate::key::{FileId, to_u64};
use crate::limits::ReadLimits;
use crate::page::{OpenFile, PageTier};
use crate::thrift::Refused;

/// Bytes of the first read from a file's end; most footers are shorter.
pub(super) const FOOTER_HINT_BYTES: u64 = 64 << 10;
/// The same for a peer, of what is held here: a second read costs no request.
const HELD_HINT_BYTES: u64 = 8 << 10;
/// A file of at most so many bytes is read whole with its footer: one request more costs more than to bring twice the
/// bytes of the first read, and its data is held then.
const WHOLE_FILE_BYTES: u64 = 2 * FOOTER_HINT_BYTES;
/// Length of the footer's length and the magic at the very end.
pub(super) const TAIL_BYTES: u64 = 8;
/// Shortest file that can be Parquet: both magics and a length.
const SHORTEST_FILE_BYTES: u64 = 12;

/// Bytes that storage is asked for first, for the footer of a file of this size of which nothing is held.
#[must_use]
pub fn first_footer_bytes(size: u64) -> u64 {
    match size <= WHOLE_FILE_BYTES {
        true => size,
        false => FOOTER_HINT_BYTES,
    }
}

/// Whether a read waits for the pace of its file's errand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum When {
    Now,
    AtItsPace,
}

/// A footer from its first byte to the end of the file, and whether a peer gave it now; `kept` are those that one gave before.
pub(super) async fn find(
    file: &OpenFile,
    (pages, kept): (&PageTier, &MokaCache<FileId, Bytes>),
    limits: &ReadLimits,
    when: When,
) -> Result<(Bytes, bool), ReadError> {
    if !is_held(file, pages) {
        if let Some(kept) = kept.get(&file.key.id()).await {
            return Ok((kept, false));
        }
        if let Some(given) = ask_peers(file, pages, limits).await {
            return Ok((given, true));
        }
    }
    Ok((read(file, pages, limits.footer_bytes, when).await?, false))
}

/// A footer for a peer, through the page tier; refused where its Thrift bytes are more than `most_bytes`.
pub(super) async fn for_peer(file: &OpenFile, pages: &PageTier, most_bytes: u64) -> Result<Bytes, ReadError> {
    match held(file, pages, most_bytes).await? {
        Some(held) => Ok(held),
        None => read(file, pages, most_bytes, When::Now).await,
    }
}

/// The same where it is held here. Nobody here looked it up, so it is no hit.
pub(super) async fn held(file: &OpenFile, pages: &PageTier, most_bytes: u64) -> Result<Option<Bytes>, ReadError> {
    let (key, size) = (&file.key, file.key.size);
    // Its length and its bytes may be of two versions.
    if !key.generation.is_strong() {
        return Ok(None);
    }
    let start = size.saturating_sub(HELD_HINT_BYTES);
    let Some(end) = pages.read_held(key, start..size).await else {
        return Ok(None);
    };
    let path = namespace_path(file);
    let from = start_of(&end, FileAt { path: &path, size }, most_bytes)?;
    match from.checked_sub(start) {
        Some(skipped) => Ok(Some(end.slice(to_usize(skipped)?..))),
        None => Ok(pages.read_held(key, from..size).await),
    }
}

async fn read(file: &OpenFile, pages: &PageTier, most_bytes: u64, when: When) -> Result<Bytes, ReadError> {
    let path = namespace_path(file);
    let size = file.key.size;
    let at = FileAt { path: &path, size };
    if size < SHORTEST_FILE_BYTES {
        return Err(at.corrupt(format!("not a Parquet file: it has {size} bytes")));
    }
    let start = first_read(file, pages);
    let end = read_one(file, pages, start, when).await?;
    let from = start_of(&end, at, most_bytes)?;
    match from.checked_sub(start) {
        Some(skipped) => Ok(end.slice(to_usize(skipped)?..)),
        None => read_one(file, pages, from, when).await,
    }
}

/// Whether the end of the file is held here, as much of it as is read first elsewhere.
fn is_held(file: &OpenFile, pages: &PageTier) -> bool {
    let size = file.key.size;
    pages.holds(file, &(size.saturating_sub(FOOTER_HINT_BYTES)..size))
}

/// Where the first read begins.
fn first_read(file: &OpenFile, pages: &PageTier) -> u64 {
    let size = file.key.size;
    match size <= WHOLE_FILE_BYTES && !is_held(file, pages) {
        true => 0,
        false => size.saturating_sub(FOOTER_HINT_BYTES),
    }
}

/// What a peer gives of a footer alone. What is none by its own length, or not one of a file of this size, is not taken.
async fn ask_peers(file: &OpenFile, pages: &PageTier, limits: &ReadLimits) -> Option<Bytes> {
    let size = file.key.size;
    let peers = file.peers.as_ref().filter(|_| file.key.generation.is_strong())?;
    let given = peers.footer(&file.key).await?;
    let from = start_of(&given, FileAt { path: "", size }, limits.footer_bytes).ok()?;
    if from.checked_add(to_u64(given.len())) != Some(size) {
        return None;
    }
    pages.count_given(file, &(from..size));
    Some(given)
}

/// Where the footer begins in the file, by the file's last bytes.
pub(super) fn start_of(end: &Bytes, at: FileAt<'_>, most_bytes: u64) -> Result<u64, ReadError> {
    let length = footer_length(end, at)?;
    let before_tail = at.size.saturating_sub(TAIL_BYTES);
    let Some(from) = before_tail.checked_sub(length).filter(|from| *from >= 4) else {
        return Err(at.corrupt(format!(
            "the footer's length of {length} bytes is more than the file has"
        )));
    };
    if length > most_bytes {
        return Err(at.refused(Refused::Over {
            what: "length of the footer in bytes",
            value: length,
            limit: most_bytes,
        }));
    }
    Ok(from)
}

fn footer_length(end: &Bytes, at: FileAt<'_>) -> Result<u64, ReadError> {
    let Some((_, end)) = end.split_last_chunk::<8>() else {
        return Err(at.corrupt("the end of the file could not be read"));
    };
    let [a, b, c, d, magic @ ..] = *end;
    match &magic {
        b"PAR1" => Ok(u64::from(u32::from_le_bytes([a, b, c, d]))),
        b"PARE" => Err(at.corrupt("the footer is encrypted, which is not supported")),
        _ => Err(at.corrupt("not a Parquet file: it does not end in PAR1")),
    }
}

/// The file's bytes from `start` on.
async fn read_one(file: &OpenFile, pages: &PageTier, start: u64, when: When) -> Result<Bytes, ReadError> {
    let range = start..file.key.size;
    let ranges = std::slice::from_ref(&range);
    let (bytes, _) = match when {
        When::Now => pages.read_now(file, ranges).await?,
        When::AtItsPace => pages.read(file, ranges).await?,
    };
    bytes
        .into_iter()
        .next()
        .ok_or_else(|| ReadError::internal("the page tier gave nothing for a range"))
}
