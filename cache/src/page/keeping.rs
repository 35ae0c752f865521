//! Which loads may still be kept, when files are removed meanwhile.
//!
//! What is kept is kept a while after it was read, when the processor has nothing better to do. A file that is removed in
//! between must not come back by that.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::key::{FileId, FileKey};

/// The loads that are under way or wait to be kept. Cheap to clone; clones are one.
#[derive(Debug, Clone, Default)]
pub(super) struct Keeping(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    /// Counts removals.
    clock: u64,
    /// How many of each file are under way.
    under_way: HashMap<FileId, (FileKey, usize)>,
    /// When files were removed, as long as anything is under way that began before.
    removed: HashMap<FileId, u64>,
}

/// One load, from its beginning until it is kept.
#[derive(Debug)]
pub(super) struct Load {
    keeping: Keeping,
    file: FileId,
    began: u64,
}

impl Keeping {
    /// A load begins.
    pub(super) fn begin(&self, key: &FileKey) -> Load {
        let (file, mut state) = (key.id(), self.0.lock());
        state.under_way.entry(file).or_insert_with(|| (key.clone(), 0)).1 += 1;
        Load {
            keeping: self.clone(),
            file,
            began: state.clock,
        }
    }

    /// What is under way of this file is not to be kept; whether anything is.
    pub(super) fn remove(&self, file: FileId) -> bool {
        let mut state = self.0.lock();
        if !state.under_way.is_empty() {
            state.clock += 1;
            let now = state.clock;
            state.removed.insert(file, now);
        }
        state.under_way.contains_key(&file)
    }

    /// Whether nothing is under way.
    pub(super) fn is_empty(&self) -> bool {
        self.0.lock().under_way.is_empty()
    }

    /// The files that anything is under way of.
    pub(super) fn files(&self) -> Vec<FileKey> {
        let state = self.0.lock();
        state.under_way.values().map(|(key, _)| key.clone()).collect()
    }
}

impl Load {
    /// Whether its file was not removed since it began.
    pub(super) fn is_wanted(&self) -> bool {
        let state = self.keeping.0.lock();
        state
            .removed
            .get(&self.file)
            .is_none_or(|removed| *removed <= self.began)
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        let mut state = self.keeping.0.lock();
        if let Entry::Occupied(mut of_file) = state.under_way.entry(self.file) {
            of_file.get_mut().1 -= 1;
            if of_file.get().1 == 0 {
                of_file.remove();
            }
        }
        if state.under_way.is_empty() {
            state.removed.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::Generation;

    fn file(name: &str) -> FileKey {
        let generation = Generation::parse("etag:x").unwrap();
        FileKey {
            uri: name.into(),
            generation,
            size: 1,
        }
    }

    #[test]
    fn what_began_before_a_removal_is_not_wanted_after_it() {
        let keeping = Keeping::default();
        let (before, other) = (keeping.begin(&file("a")), keeping.begin(&file("b")));
        assert!(before.is_wanted());
        keeping.remove(file("a").id());
        let after = keeping.begin(&file("a"));
        assert_eq!(
            (before.is_wanted(), after.is_wanted(), other.is_wanted()),
            (false, true, true)
        );
        drop((before, after, other));
        assert!(keeping.0.lock().removed.is_empty());
        keeping.remove(file("a").id());
        assert!(keeping.begin(&file("a")).is_wanted());
    }

    #[test]
    fn a_file_is_under_way_until_the_last_of_it_is_kept() {
        let keeping = Keeping::default();
        let loads = [keeping.begin(&file("a")), keeping.begin(&file("a"))];
        for load in loads {
            assert_eq!(keeping.files(), [file("a")]);
            drop(load);
        }
        assert!(keeping.files().is_empty());
    }
}
