//! Pinned reads: open, look, read, look again.
//!
//! Between two looks that see the same generation nothing was written, provided that a write is seen at all: the kernel
//! stamps files by a clock that ticks every few ms, so two writes within one tick look like one; and it stamps a write when
//! that begins, so what is read while one long write goes on is seen with its stamp already. Hence the first look waits
//! until the file's stamp is older than both.
//!
//! What this does not see: a file that is rewritten in place, not longer nor shorter, by a single write that takes longer
//! than that, or through a mapping, which stamps only its first change. Programs that replace files by renaming a new one
//! over the old, as writers of Parquet do, are not concerned.

use std::fs::{File, Metadata};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;

use super::LocalFault;
use super::folder::{changed_ns, generation_of};
use crate::key::{Generation, to_usize};

/// Longer than a tick of the clock that stamps files (1 to 10 ms on Linux), and than a write: 288 MB at once took 79 ms.
const SETTLE_TIME: Duration = Duration::from_millis(100);

/// Reads a range, all of it from the expected generation.
pub(super) fn pinned(file: &File, expected: &Generation, range: Range<u64>) -> Result<Bytes, LocalFault> {
    let before = settled(file)?;
    if !before.is_file() {
        return Err(LocalFault::Io(std::io::ErrorKind::NotFound.into()));
    }
    check(&before, expected)?;
    let mut bytes = vec![0; to_usize(range.end - range.start)];
    let read = file.read_exact_at(&mut bytes, range.start);
    // A file that was cut short is another generation, which says more than an unexpected end.
    check(&file.metadata()?, expected)?;
    read?;
    Ok(bytes.into())
}

/// The file's metadata, once its stamp is old enough to tell this content from the next.
fn settled(file: &File) -> Result<Metadata, LocalFault> {
    let meta = file.metadata()?;
    match fresh_for(&meta) {
        None => Ok(meta),
        Some(rest) => {
            std::thread::sleep(rest);
            Ok(file.metadata()?)
        }
    }
}

/// How long the stamp is still too young; `None` when it is older, or lies in the future of a wrong clock.
fn fresh_for(meta: &Metadata) -> Option<Duration> {
    let changed = u64::try_from(changed_ns(meta)).ok().map(Duration::from_nanos)?;
    let age = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .ok()?
        .checked_sub(changed)?;
    SETTLE_TIME.checked_sub(age).filter(|rest| !rest.is_zero())
}

fn check(meta: &Metadata, expected: &Generation) -> Result<(), LocalFault> {
    let found = generation_of(meta);
    if found == *expected {
        Ok(())
    } else {
        Err(LocalFault::Stale {
            expected: expected.clone(),
            found,
        })
    }
}
