//! Which loads may still be kept, when files are removed meanwhile.
//!
//! What is kept is kept a while after it was read, when the processor has nothing better to do. A file that is removed in
//! between must not come back by that.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::key::FileId;

/// The loads that are under way or wait to be kept. Cheap to clone; clones are one.
#[derive(Debug, Clone, Default)]
pub(super) struct Keeping(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    /// Counts removals.
    clock: u64,
    under_way: usize,
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
    pub(super) fn begin(&self, file: FileId) -> Load {
        let mut state = self.0.lock();
        state.under_way += 1;
        Load {
            keeping: self.clone(),
            file,
            began: state.clock,
        }
    }

    /// What is under way of this file is not to be kept.
    pub(super) fn remove(&self, file: FileId) {
        let mut state = self.0.lock();
        if state.under_way > 0 {
            state.clock += 1;
            let now = state.clock;
            state.removed.insert(file, now);
        }
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
        state.under_way -= 1;
        if state.under_way == 0 {
            state.removed.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::{FileKey, Generation};

    fn file(name: &str) -> FileId {
        let generation = Generation::parse("etag:x").unwrap();
        FileKey {
            uri: name.into(),
            generation,
            size: 1,
        }
        .id()
    }

    #[test]
    fn what_began_before_a_removal_is_not_wanted_after_it() {
        let keeping = Keeping::default();
        let (before, other) = (keeping.begin(file("a")), keeping.begin(file("b")));
        assert!(before.is_wanted());
        keeping.remove(file("a"));
        let after = keeping.begin(file("a"));
        assert_eq!(
            (before.is_wanted(), after.is_wanted(), other.is_wanted()),
            (false, true, true)
        );
        drop((before, after, other));
        assert!(keeping.0.lock().removed.is_empty());
        keeping.remove(file("a"));
        assert!(keeping.begin(file("a")).is_wanted());
    }
}
