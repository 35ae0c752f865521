//! Writing pages: which of them are wanted, room for them, and then bytes before slots before memory.

use std::collections::hash_map::Entry;
use std::io;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use super::DiskPages;
use super::account::Extent;
use super::error::Trouble;
use super::file::{CachedFile, Paths, Writer, extents_of};
use super::folder::Operation;
use super::health::{Event, FolderHealth};
use super::place::{Candidate, choose};
use super::presence::extent_of;
use super::shape::{SLOT_BYTES, block_of, slot_offset};
use super::table::{Header, Slot};
use crate::counters::{self, Tier};
use crate::key::{FileKey, to_u64, to_usize};
use crate::policy::Offer;
use crate::unkept::Unkept;

/// A file may be dropped while its pages are on the way; so often they are put in another try.
const MAX_TRIES: usize = 4;

/// Whole pages of a file, one after the other.
struct Run<'a> {
    pages: Range<u64>,
    bytes: &'a [u8],
    /// Whose demand they are; by merit where none.
    by: Option<u64>,
}

impl Run<'_> {
    /// The bytes of some of the pages.
    fn part(&self, file: &CachedFile, pages: Range<u64>) -> &[u8] {
        let start = file.shape.offset(self.pages.start);
        let at = |page| to_usize(file.shape.offset(page) - start);
        &self.bytes[at(pages.start)..at(pages.end)]
    }
}

/// What the policy said of some pages.
#[derive(Default)]
struct Decided {
    wanted: Vec<u64>,
    victims: Vec<Extent>,
    refused: Option<Unkept>,
}

impl DiskPages {
    /// See [`DiskPages::put_by`].
    pub(super) fn fill_pages(&self, key: &FileKey, first: u64, bytes: &Bytes, by: Option<u64>) -> Result<(), Unkept> {
        for _ in 0..MAX_TRIES {
            let (file, _operation) = self.file_for(key).ok_or(Unkept::Disk)?;
            let run = Run {
                pages: first..file.shape.whole_until(first, to_u64(bytes.len())),
                bytes,
                by,
            };
            let mut deferred = Vec::new();
            let done = self.fill(&file, &run, &mut deferred);
            self.evict(file.folder, deferred);
            if let Some(done) = done {
                return done;
            }
        }
        Err(Unkept::Dropped)
    }

    /// The file, held or new, and leave to write in its folder.
    fn file_for(&self, key: &FileKey) -> Option<(Arc<CachedFile>, Operation<'_>)> {
        let id = key.id();
        if let Some(file) = self.lookup(id) {
            let operation = self.folders.get(file.folder)?.begin_write()?;
            return Some((file, operation));
        }
        let header = Header::of(key, self.page_size)?;
        let number = choose(id, &self.candidates())?;
        let operation = self.folders.get(number)?.begin_write()?;
        let new = Arc::new(CachedFile::new(self.next_serial(), number, header, self.page_size));
        let other = match self.index.write().entry(id) {
            Entry::Occupied(entry) => Arc::clone(entry.get()),
            Entry::Vacant(entry) => {
                entry.insert(Arc::clone(&new));
                return Some((new, operation));
            }
        };
        let operation = self.folders.get(other.folder)?.begin_write()?;
        Some((other, operation))
    }

    fn candidates(&self) -> Vec<Candidate> {
        let candidate = |(folder, of): (usize, &super::Folder)| {
            let uuid = of.identity.lock().as_ref()?.uuid;
            (of.state() == FolderHealth::Healthy).then(|| Candidate {
                folder,
                uuid,
                capacity_bytes: of.account.lock().capacity_bytes(),
            })
        };
        self.folders.iter().enumerate().filter_map(candidate).collect()
    }

    /// Keeps what is wanted of a run, and says why not all of it; none when the file was dropped before that.
    fn fill(&self, file: &CachedFile, run: &Run<'_>, deferred: &mut Vec<Extent>) -> Option<Result<(), Unkept>> {
        let mut writer = file.writer.lock();
        if file.is_dead() {
            return None;
        }
        let (held, absent): (Vec<_>, Vec<_>) = {
            let presence = file.presence.read();
            run.pages.clone().partition(|page| presence.contains(*page))
        };
        if let Some(by) = run.by {
            self.protect_extents(file, &extents_of(&held), by);
        }
        let offer = self.offer_of(file, run.by);
        let (wanted, mut refused) = self.make_room(file, &mut writer, (&absent, offer), deferred);
        if !wanted.is_empty() {
            match self.write(file, &mut writer, run, &wanted) {
                Ok(()) => self.note(file.folder, Event::Good),
                Err(error) => {
                    refused = Some(Unkept::Disk);
                    self.settle(file, &extents_of(&wanted));
                    self.failed(file.folder, "write pages", &error);
                    // Somebody removed its file; another put makes it anew.
                    if Trouble::of(&error) == Trouble::Missing && !file.is_dead() {
                        self.discard(file, &mut writer);
                    }
                }
            }
        }
        self.drop_if_empty(file, &mut writer);
        Some(refused.map_or(Ok(()), Err))
    }

    /// How pages of a file are offered to the policy.
    fn offer_of(&self, file: &CachedFile, by: Option<u64>) -> Offer {
        let terms = file.header.uri.as_ref().map(|uri| self.retentions.of(uri));
        let terms = terms.unwrap_or_default();
        Offer {
            quota: terms.quota.and_then(|quota| self.share_of(file.folder).of(quota)),
            demanded_by: by,
            pinned: terms.pinned_raw,
        }
    }

    /// Asks the policy about the pages, and drops what has to go for them. What is of another file that is being
    /// written in this moment is left for later. The pages to write, and why others are not wanted.
    fn make_room(
        &self,
        file: &CachedFile,
        writer: &mut Writer,
        offered: (&[u64], Offer),
        deferred: &mut Vec<Extent>,
    ) -> (Vec<u64>, Option<Unkept>) {
        let Decided {
            mut wanted,
            mut victims,
            refused,
        } = self.decide(file, offered);
        loop {
            counters::evictions(Tier::Page, "capacity", victims.len());
            for victim in victims {
                if victim.file == file.id() {
                    wanted.retain(|page| extent_of(*page) != victim.index);
                }
                if !self.try_evict(file, writer, victim) {
                    deferred.push(victim);
                }
            }
            // Dropping pages of this file may have given back parts of its table that the others need.
            let tables = writer.charge(&wanted);
            if tables == 0 {
                return (wanted, refused);
            }
            let Some(mut account) = self.account_of(file) else {
                return (Vec::new(), Some(Unkept::Dropped));
            };
            victims = account.charge_tables(tables);
        }
    }

    /// What the policy says of the pages.
    fn decide(&self, file: &CachedFile, (absent, offer): (&[u64], Offer)) -> Decided {
        let now = self.now();
        let mut decided = Decided::default();
        let Some(mut account) = self.account_of(file) else {
            decided.refused = Some(Unkept::Dropped);
            return decided;
        };
        for pages in absent.chunk_by(|a, b| extent_of(*a) == extent_of(*b)) {
            let bytes = pages.iter().map(|page| file.shape.allocated(*page)).sum();
            let extent = file.extent(extent_of(pages[0]));
            let decision = account.offer(extent, bytes, offer, now);
            if decision.admitted() {
                decided.wanted.extend(pages);
            }
            decided.refused = decided.refused.or(decision.refused);
            decided.victims.extend(decision.evicted);
        }
        decided
    }

    /// Protects extents of a file anew, as if they were demanded now.
    pub(super) fn protect_extents(&self, file: &CachedFile, extents: &[u64], by: u64) {
        let Some(mut account) = self.account_of(file) else {
            return;
        };
        for extent in extents {
            account.protect(file.extent(*extent), by);
        }
    }

    fn write(&self, file: &CachedFile, writer: &mut Writer, run: &Run<'_>, wanted: &[u64]) -> io::Result<()> {
        self.create(file, writer)?;
        for pages in wanted.chunk_by(|a, b| a + 1 == *b) {
            let pages = pages[0]..pages[pages.len() - 1] + 1;
            self.write_part(file, writer, pages.clone(), run.part(file, pages))?;
        }
        Ok(())
    }

    /// Makes the file, empty: what is left under its name from before is gone before anything is written.
    fn create(&self, file: &CachedFile, writer: &mut Writer) -> io::Result<()> {
        if writer.created {
            return Ok(());
        }
        let paths = Paths::of(&self.folder_of(file).path, file.id());
        let made = match self.fs().create(&paths.file) {
            // The first of its shard, of which there are few.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.fs().create_dir(&paths.shard)?;
                self.fs().create(&paths.file)?
            }
            made => made?,
        };
        writer.created = true;
        // Bytes are about to be written: opening it once more would take as long as that.
        self.handles.get(file.serial, || Ok(made))?;
        Ok(())
    }

    /// Pages that follow one another: their bytes, then their slots, and then they are held. What makes a new file one of
    /// ours is its header, which comes after the bytes of its first pages.
    fn write_part(&self, file: &CachedFile, writer: &mut Writer, pages: Range<u64>, bytes: &[u8]) -> io::Result<()> {
        let open = self.open_file(file)?;
        let header = (!writer.headed).then(|| file.header.encode(self.page_size));
        let table = parts_of_table(header, pages.start, slots_of(file, pages.clone(), bytes));
        let written = self.fs().write_at(&open, file.shape.lies_at(pages.start), bytes);
        let written = written.and_then(|()| {
            let mut parts = table.iter();
            parts.try_for_each(|(at, part)| self.fs().write_at(&open, *at, part))
        });
        if let Err(error) = written {
            // A part of it may have been written, and takes space. It is not held, so this may as well fail.
            let _ = self.free(&open, file, pages);
            return Err(error);
        }
        writer.headed = true;
        let mut presence = file.presence.write();
        for page in pages {
            presence.insert(page);
        }
        Ok(())
    }
}

/// The slots of pages that follow one another, which have these bytes.
fn slots_of(file: &CachedFile, pages: Range<u64>, mut bytes: &[u8]) -> Vec<u8> {
    let mut slots = Vec::with_capacity(to_usize((pages.end - pages.start) * SLOT_BYTES));
    for page in pages {
        let (of_page, after) = bytes.split_at(to_usize(file.shape.length(page)));
        Slot::write(&mut slots, file.id(), page, of_page);
        bytes = after;
    }
    slots
}

/// What is written of a table for slots from a page's on, and where: a header too, if it is given, which it is for a file
/// that has none. One write does for it and slots of the block next to it, and most files have no others.
fn parts_of_table(header: Option<Vec<u8>>, first: u64, mut slots: Vec<u8>) -> Vec<(u64, Vec<u8>)> {
    let at = slot_offset(first);
    match header {
        None => vec![(at, slots)],
        Some(mut header) if block_of(first) == 0 => {
            // The file has no slot yet, so what lies between is zeros anyway.
            header.resize(to_usize(at), 0);
            header.append(&mut slots);
            vec![(0, header)]
        }
        Some(header) => vec![(0, header), (at, slots)],
    }
}
