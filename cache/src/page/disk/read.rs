//! Reading pages back.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;

use super::DiskPages;
use super::error::Trouble;
use super::file::{CachedFile, Paths, extents_of};
use super::health::Event;
use super::shape::{SLOT_BYTES, slot_offset};
use super::table::Slot;
use crate::key::{FileId, PageIndex, to_u64, to_usize};

impl DiskPages {
    /// See [`DiskPages::get`].
    pub(super) fn read_pages(&self, file: FileId, pages: &[PageIndex]) -> Vec<(PageIndex, Bytes)> {
        let Some(file) = self.lookup(file) else {
            return Vec::new();
        };
        let mut damaged = 0;
        let read = self.read_held(&file, pages, &mut damaged);
        let page_size = file.shape.page_size;
        let hits = read
            .iter()
            .flat_map(|(first, bytes)| first.0..first.0 + to_u64(bytes.len()).div_ceil(page_size));
        self.touch(&file, &hits.collect::<Vec<_>>());
        read
    }

    /// See [`DiskPages::check`].
    pub(super) fn check_pages(&self, file: FileId, pages: &[PageIndex]) -> (Vec<(PageIndex, Bytes)>, u64) {
        let Some(file) = self.lookup(file) else {
            return (Vec::new(), 0);
        };
        let mut damaged = 0;
        let read = self.read_held(&file, pages, &mut damaged);
        (read, damaged)
    }

    /// Those of these pages that are held, in runs; `damaged` counts those that turn out not to be sound.
    fn read_held(&self, file: &CachedFile, pages: &[PageIndex], damaged: &mut u64) -> Vec<(PageIndex, Bytes)> {
        let Some(_operation) = self.folder_of(file).begin_read() else {
            return Vec::new();
        };
        let mut read = Vec::new();
        for numbers in held_runs(file, pages) {
            match self.read_run(file, numbers.clone(), damaged) {
                Ok(runs) => {
                    self.note(file.folder, Event::Good);
                    read.extend(runs);
                }
                Err(error) => {
                    *damaged += numbers.end - numbers.start;
                    self.read_failed(file, numbers, &error);
                }
            }
        }
        read
    }

    /// The open file of a file version.
    pub(super) fn open_file(&self, file: &CachedFile) -> io::Result<Arc<File>> {
        let opened = self.handles.get(file.serial, || {
            let paths = Paths::of(&self.folder_of(file).path, file.id());
            self.fs().open(&paths.file)
        });
        // A file that was dropped meanwhile would stay open, and its space in use, for as long as it is remembered.
        if file.is_dead() {
            self.handles.remove(file.serial);
        }
        opened
    }

    /// Tells the policy of an access.
    pub(super) fn touch(&self, file: &CachedFile, pages: &[u64]) {
        if pages.is_empty() {
            return;
        }
        let Some(mut account) = self.account_of(file) else {
            return;
        };
        for extent in extents_of(pages) {
            account.touch(file.extent(extent));
        }
    }

    /// Pages that follow one another: those that check as runs, those that do not are looked at again.
    fn read_run(&self, file: &CachedFile, pages: Range<u64>, damaged: &mut u64) -> io::Result<Vec<(PageIndex, Bytes)>> {
        let (bytes, checked) = self.read_checked(file, pages.clone())?;
        if checked.iter().all(|checks| *checks) {
            return Ok(vec![(PageIndex(pages.start), bytes)]);
        }
        let mut runs = Vec::new();
        for (page, checks) in pages.clone().zip(checked) {
            let at = to_usize(file.shape.offset(page) - file.shape.offset(pages.start));
            let found = match checks {
                true => Some(bytes.slice(at..at + to_usize(file.shape.length(page)))),
                false => self.look_again(file, page, damaged)?,
            };
            runs.extend(found.map(|bytes| (PageIndex(page), bytes)));
        }
        Ok(runs)
    }

    /// The bytes of pages, with one read, and which of the pages agree with their slots, which are another.
    fn read_checked(&self, file: &CachedFile, pages: Range<u64>) -> io::Result<(Bytes, Vec<bool>)> {
        let open = self.open_file(file)?;
        let mut slots = vec![0; to_usize((pages.end - pages.start) * SLOT_BYTES)];
        self.fs().read_at(&open, slot_offset(pages.start), &mut slots)?;
        let start = file.shape.offset(pages.start);
        let mut bytes = vec![0; to_usize(file.shape.offset(pages.end) - start)];
        self.fs().read_at(&open, file.shape.lies_at(pages.start), &mut bytes)?;
        let checked = pages.zip(slots.chunks_exact(to_usize(SLOT_BYTES))).map(|(page, slot)| {
            let at = to_usize(file.shape.offset(page) - start);
            let page_bytes = &bytes[at..at + to_usize(file.shape.length(page))];
            Slot::read(slot, file.id(), page).vouches_for(file.id(), page, page_bytes)
        });
        let checked = checked.collect();
        Ok((bytes.into(), checked))
    }

    /// A page that did not check is read once more, with nobody changing the file. If it was dropped meanwhile, that is
    /// all there is to it; if it does not check now either, it is damaged.
    fn look_again(&self, file: &CachedFile, page: u64, damaged: &mut u64) -> io::Result<Option<Bytes>> {
        let mut writer = file.writer.lock();
        if file.is_dead() || !file.presence.read().contains(page) {
            return Ok(None);
        }
        let (bytes, checked) = self.read_checked(file, page..page + 1)?;
        let again = checked.iter().all(|checks| *checks).then_some(bytes);
        if again.is_none() {
            *damaged += 1;
            let folder = self.folder_of(file);
            folder.checksum_failures.fetch_add(1, Ordering::Relaxed);
            metrics::counter!("jetbridge_cache_checksum_failures_total").increment(1);
            tracing::warn!(folder = %folder.path.display(), file = %file.id(), page, "a cached page is damaged; it is dropped");
            self.clear(file, &mut writer, page..page + 1);
            self.drop_if_empty(file, &mut writer);
        }
        Ok(again)
    }

    /// What could not be read is a miss from now on, so that it is fetched and written anew; on a disk that goes on
    /// failing, only in memory.
    fn read_failed(&self, file: &CachedFile, pages: Range<u64>, error: &io::Error) {
        let mut writer = file.writer.lock();
        // Dropped in that moment: its file is not there, and that is how it should be.
        if file.is_dead() {
            return;
        }
        self.failed(file.folder, "read pages", error);
        // The folder itself may be out by now.
        if file.is_dead() {
            return;
        }
        if Trouble::of(error) == Trouble::Missing {
            self.discard(file, &mut writer);
            return;
        }
        if Trouble::of(error) != Trouble::Failing {
            return;
        }
        if let Some(_operation) = self.folder_of(file).begin_write() {
            self.clear(file, &mut writer, pages);
            self.drop_if_empty(file, &mut writer);
        }
    }
}

/// The requested pages that are held, those together that follow one another.
fn held_runs(file: &CachedFile, pages: &[PageIndex]) -> Vec<Range<u64>> {
    let presence = file.presence.read();
    let mut runs: Vec<Range<u64>> = Vec::new();
    for &PageIndex(page) in pages.iter().filter(|page| presence.contains(page.0)) {
        match runs.last_mut() {
            Some(run) if run.end == page => run.end += 1,
            _ => runs.push(page..page + 1),
        }
    }
    runs
}
