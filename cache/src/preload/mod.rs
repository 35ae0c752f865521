//! Bringing row groups into the tiers before anybody reads them, and comparing what is there with storage.
//!
//! ```text
//!   Cache::preload ── held already? ── verify ──> pages: what is missing, kept as a demand      PageTier::ensure
//!                                          `───> chunks: bytes at the errand's pace, then decoded as a load
//!                                                that readers wait for as for any other        chunks
//!   Cache::verify ─── verify ──> pages and chunks against storage, past the cache              verify
//! ```
//! Nothing here knows of jobs: the file's [`Errand`] says how fast, until when and whether raw pages are kept that were
//! fetched for decoding. What is brought is demanded: it comes in whatever the tiers think of strangers, and stays until as
//! much as a tier holds has been accessed otherwise.
//!
//! A reader never waits for an errand's pace: a load of pages that a reader joins becomes urgent, and a load of chunks begins
//! only once its bytes are there. So it ends within moments too, and readers who joined it need not care whether the
//! errand was stopped.
//!
//! Memory: raw bytes of the columns that are decoded are reserved as for scans, some tens of MiB at a time, and chunks before
//! they are decoded.

mod chunks;
mod verify;

use std::ops::Range;
use std::sync::Arc;

use arrow::datatypes::Schema;

use crate::Cache;
use crate::budget::{Purpose, Reservation};
use crate::chunk::ChunkKey;
use crate::decode::SelectedColumn;
use crate::error::ReadError;
use crate::key::{RowGroup, Source};
use crate::page::{Errand, OpenFile, stopped};
use crate::retention::Pin;
use crate::scan::{Engine, FilePlan, Shape, Split, chunk_key, leaf_ranges};
pub use crate::unkept::Unkept;

/// What of a row group shall be held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Want {
    /// Its bytes as pages, and those of the file's footer.
    pub raw: bool,
    /// Its columns decoded.
    pub decoded: bool,
    /// Where all of that is held already, nothing is touched and nothing verified.
    pub skip_held: bool,
    /// What is held already is compared with storage first; what differs is dropped and loaded anew.
    pub verify: bool,
}

/// What of a row group is held in the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Brought {
    /// Bytes of the columns in the file.
    pub stored_bytes: u64,
    /// Those of them that are held in all tiers that were asked for.
    pub stored_held_bytes: u64,
    /// Bytes of the columns decoded, by the footer; 0 where decoded columns were not asked for.
    pub decoded_bytes: u64,
    /// Those of them, by the footer, that are held decoded.
    pub decoded_held_bytes: u64,
    /// All was held, and nothing was done.
    pub skipped: bool,
    /// What was compared with storage, where that was asked for.
    pub verified: Option<Verified>,
    /// Why something is not held, where that is so.
    pub unkept: Option<Unkept>,
}

/// What was compared with storage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Verified {
    /// Bytes of the file that something held was compared with.
    pub bytes: u64,
    /// Pages that did not check or differ; they were dropped.
    pub damaged_pages: u64,
    /// Decoded columns that differ; they were dropped.
    pub damaged_chunks: u64,
}

/// What the tiers have room for, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capacity {
    /// Bytes of files that can be held as pages; what holding them takes is left out. Pages are whole: where columns that are
    /// wanted lie between others, each end of a part takes up to a page more.
    pub raw_bytes: u64,
    /// Decoded bytes that can be held, with room in the memory budget beside them for what loading takes.
    pub decoded_bytes: u64,
    /// The largest decoded column of a row group that is kept.
    pub largest_chunk_bytes: u64,
    /// Bytes held as pages that are pinned.
    pub pinned_raw_bytes: u64,
    /// Bytes held decoded that are pinned.
    pub pinned_decoded_bytes: u64,
}

/// The budget has one part in this many for what loading takes, beside what is held.
const LOADING_SHARE: u64 = 6;

impl Cache {
    /// Sees to it that a row group is held as wanted: loads what is not, and protects what is. Nothing that is held is read
    /// but what is decoded. `read` are the columns, as the dataset types them; those that the file lacks, and constants,
    /// are nothing to do.
    ///
    /// It is done for the errand of the split's file; without one, for one of its own that keeps raw pages where these are
    /// wanted. Pages that it had to fetch for decoded columns alone are kept where the errand says so.
    ///
    /// # Errors
    /// As a scan of these columns; of kind [`Stopped`](crate::ufs::UfsErrorKind::Stopped) once the errand is stopped. What
    /// cannot be kept is no error, and told by [`Brought::unkept`].
    pub async fn preload(
        &self,
        split: &Split,
        row_group: RowGroup,
        read: &Schema,
        want: Want,
    ) -> Result<Brought, ReadError> {
        let errand = split.file.errand.clone().unwrap_or_else(|| Errand::new(want.raw));
        let (split, errand) = (for_errand(split, &errand), &errand);
        let preloaded = errand.unless_stopped(async {
            let group = Group::open(&self.engine, errand, (&split, row_group), read).await?;
            group.preload(want).await
        });
        preloaded.await.unwrap_or_else(|| Err(stopped(&split.file).into()))
    }

    /// Compares what is held of a row group's columns, as pages and decoded, with storage, and drops what differs. Loads
    /// nothing, and nothing counts as touched. The file's footer is compared too where the row group is the split's first. Of a
    /// file of which nothing is held, nothing is looked at.
    ///
    /// # Errors
    /// As [`Cache::preload`]: a file that has changed since is [`ReadError::Stale`].
    pub async fn verify(&self, split: &Split, row_group: RowGroup, read: &Schema) -> Result<Brought, ReadError> {
        let file = split.file.key.id();
        if self.engine.pages.held_bytes(file) == 0 && self.engine.chunks.held_since(file).is_none() {
            return Ok(Brought {
                verified: Some(Verified::default()),
                ..Brought::default()
            });
        }
        let errand = split.file.errand.clone().unwrap_or_else(|| Errand::new(false));
        let (split, errand) = (for_errand(split, &errand), &errand);
        let compared = errand.unless_stopped(async {
            let group = Group::open(&self.engine, errand, (&split, row_group), read).await?;
            let verified = group.verify().await?;
            let want = Want {
                raw: true,
                decoded: true,
                ..Want::default()
            };
            Ok(Brought {
                verified: Some(verified),
                ..group.held(want)
            })
        });
        compared.await.unwrap_or_else(|| Err(stopped(&split.file).into()))
    }

    /// Sees to it that a file's footer is held, parsed, and as pages where the file's errand keeps these.
    ///
    /// # Errors
    /// As [`Cache::footer`], and [`Cache::preload`] once the errand is stopped.
    pub async fn preload_footer(&self, file: &OpenFile) -> Result<(), ReadError> {
        let errand = file.errand.clone().unwrap_or_else(|| Errand::new(true));
        let brought = errand.unless_stopped(async {
            let footer = self.engine.footer(file).await?;
            if errand.keeps_raw() {
                let tail = std::slice::from_ref(&footer.tail);
                self.engine.pages.ensure(&errand, file, tail).await?;
            }
            Ok(())
        });
        brought.await.unwrap_or_else(|| Err(stopped(file).into()))
    }

    /// What the tiers have room for.
    #[must_use]
    pub fn capacity(&self) -> Capacity {
        let (pages, chunks, budget) = (&self.engine.pages, &self.engine.chunks, self.budget_bytes());
        // Pages in memory take of the same budget.
        let beside = match pages.source() {
            Source::Memory => pages.capacity_bytes(),
            Source::Disk | Source::Peer | Source::Store => 0,
        };
        let left = budget - budget / LOADING_SHARE;
        Capacity {
            raw_bytes: pages.capacity_bytes(),
            decoded_bytes: chunks.capacity_bytes().min(left.saturating_sub(beside)),
            largest_chunk_bytes: chunks.largest_bytes(),
            pinned_raw_bytes: pages.pinned_bytes(),
            pinned_decoded_bytes: chunks.pinned_bytes(),
        }
    }

    /// Says what is pinned from now on: evicted for nothing else, and dropped neither for its age. What is read of it comes in
    /// whatever the tiers think of strangers, decoded at its first read too. A pin loads nothing. What pins alone held beyond a
    /// capacity or a quota is evicted when they are lifted.
    pub async fn set_pins(&self, pins: Vec<Pin>) {
        self.engine.retentions.set_pins(pins);
        self.engine.chunks.set_pins();
        self.engine.pages.set_pins().await;
    }
}

/// A row group of which columns are brought or compared.
struct Group<'a> {
    engine: &'a Arc<Engine>,
    errand: &'a Arc<Errand>,
    plan: Arc<FilePlan>,
    row_group: RowGroup,
}

impl<'a> Group<'a> {
    async fn open(
        engine: &'a Arc<Engine>,
        errand: &'a Arc<Errand>,
        (split, row_group): (&Split, RowGroup),
        read: &Schema,
    ) -> Result<Self, ReadError> {
        let footer = engine.footer(&split.file).await?;
        let plan = FilePlan::new(footer, split.clone(), Arc::new(Shape::of_columns(read)));
        let group = Self {
            engine,
            errand,
            plan: Arc::new(plan),
            row_group,
        };
        match group.plan.group(group.index()) {
            Some(_) => Ok(group),
            None => Err(group.corrupt("the file has no such row group")),
        }
    }

    /// See [`Cache::preload`].
    async fn preload(&self, want: Want) -> Result<Brought, ReadError> {
        if want.skip_held {
            let held = self.held(want);
            if self.is_all(want, &held) {
                return Ok(Brought { skipped: true, ..held });
            }
        }
        let verified = match want.verify {
            true => Some(self.verify().await?),
            false => None,
        };
        let mut unkept = None;
        if want.raw {
            let (file, spans) = (&self.plan.split.file, self.spans(&self.plan.columns));
            unkept = self.engine.pages.ensure(self.errand, file, &spans).await?;
        }
        if want.decoded {
            unkept = unkept.or(self.bring_chunks().await?);
        }
        let held = self.held(want);
        Ok(Brought {
            verified,
            unkept: unkept.filter(|_| !self.is_all(want, &held)),
            ..held
        })
    }

    /// What is held now.
    fn held(&self, want: Want) -> Brought {
        let mut held = Brought::default();
        let key = &self.plan.split.file.key;
        for column in &self.plan.columns {
            let decoded = self.decoded_bytes(column);
            let is_decoded = self.engine.chunks.contains(&self.key(column));
            if want.decoded {
                held.decoded_bytes += decoded;
                held.decoded_held_bytes += if is_decoded { decoded } else { 0 };
            }
            for (_, range) in leaf_ranges(&self.plan.footer, self.row_group, std::iter::once(column)) {
                let bytes = range.end - range.start;
                held.stored_bytes += bytes;
                held.stored_held_bytes += match (want.raw, want.decoded) {
                    (_, true) if !is_decoded => 0,
                    (true, _) => self.engine.pages.held_in(key, &range),
                    (false, _) => bytes,
                };
            }
        }
        held
    }

    /// Whether that is all that is wanted.
    fn is_all(&self, want: Want, held: &Brought) -> bool {
        let (file, tail) = (&self.plan.split.file, &self.plan.footer.tail);
        let is_decoded = |column| self.engine.chunks.contains(&self.key(column));
        held.stored_held_bytes == held.stored_bytes
            && (!want.raw || self.engine.pages.holds(file, tail))
            && (!want.decoded || self.plan.columns.iter().all(is_decoded))
    }

    /// The bytes of columns, and those of the footer.
    fn spans(&self, columns: &[SelectedColumn]) -> Vec<Range<u64>> {
        let ranges = leaf_ranges(&self.plan.footer, self.row_group, columns.iter());
        let spans = ranges.into_iter().map(|(_, range)| range);
        spans.chain([self.plan.footer.tail.clone()]).collect()
    }

    /// Bytes of a column in the file.
    fn stored_bytes(&self, column: &SelectedColumn) -> u64 {
        let ranges = leaf_ranges(&self.plan.footer, self.row_group, std::iter::once(column));
        ranges.into_iter().map(|(_, range)| range.end - range.start).sum()
    }

    /// Bytes of a column decoded, by the footer; at least one, so that a column of nulls can be kept too.
    fn decoded_bytes(&self, column: &SelectedColumn) -> u64 {
        self.plan.decoded_bytes(self.index(), std::iter::once(column)).max(1)
    }

    fn key(&self, column: &SelectedColumn) -> ChunkKey {
        chunk_key(self.plan.split.file.key.id(), self.row_group, column)
    }

    async fn reserve(&self, bytes: u64, purpose: Purpose) -> Result<Reservation, ReadError> {
        let reserved = self.engine.budget.reserve(bytes, purpose).await;
        reserved.map_err(|source| ReadError::Budget {
            path: self.plan.split.path.clone(),
            row_group: Some(self.row_group.0),
            source,
        })
    }

    fn index(&self) -> usize {
        usize::try_from(self.row_group.0).unwrap_or(usize::MAX)
    }

    fn corrupt(&self, reason: &str) -> ReadError {
        ReadError::corrupt(&self.plan.split.path, Some(self.row_group.0), reason)
    }
}

/// The split, read for an errand.
fn for_errand(split: &Split, errand: &Arc<Errand>) -> Split {
    let mut split = split.clone();
    split.file.errand = Some(Arc::clone(errand));
    split
}
