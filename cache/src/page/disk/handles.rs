//! Open files, a bounded number of them; the one that was not asked for the longest is closed for another.
//!
//! Why by serial number and not by file id: a file that is dropped and put again has the same id and is another one on
//! disk. A handle of the old one would take writes that nobody can read back.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io;
use std::sync::Arc;

use parking_lot::Mutex;

/// The open files of a store.
#[derive(Debug)]
pub(super) struct Handles {
    max_files: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    turn: u64,
    open: HashMap<u64, (u64, Arc<File>)>,
    by_turn: BTreeMap<u64, u64>,
}

impl Handles {
    /// Keeps at most so many files open.
    pub(super) fn new(max_files: usize) -> Self {
        Self {
            max_files,
            state: Mutex::default(),
        }
    }

    /// The open file of this number, opened if need be, with no lock held meanwhile.
    pub(super) fn get(&self, serial: u64, open: impl FnOnce() -> io::Result<File>) -> io::Result<Arc<File>> {
        if let Some(held) = self.state.lock().touch(serial) {
            return Ok(held);
        }
        let opened = Arc::new(open()?);
        let mut state = self.state.lock();
        // Another thread may have been faster.
        if let Some(held) = state.touch(serial) {
            return Ok(held);
        }
        let turn = state.next_turn();
        state.open.insert(serial, (turn, Arc::clone(&opened)));
        state.by_turn.insert(turn, serial);
        let closed = state.shrink(self.max_files);
        drop(state);
        // Closing may take a while, so it is done after the lock.
        drop(closed);
        Ok(opened)
    }

    /// Closes a file, as soon as nobody reads it.
    pub(super) fn remove(&self, serial: u64) {
        let mut state = self.state.lock();
        let removed = state.open.remove(&serial);
        if let Some((turn, _)) = &removed {
            state.by_turn.remove(turn);
        }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.state.lock().open.len()
    }
}

impl State {
    fn next_turn(&mut self) -> u64 {
        self.turn += 1;
        self.turn
    }

    fn touch(&mut self, serial: u64) -> Option<Arc<File>> {
        let next = self.next_turn();
        let (turn, open) = self.open.get_mut(&serial)?;
        self.by_turn.remove(turn);
        self.by_turn.insert(next, serial);
        *turn = next;
        Some(Arc::clone(open))
    }

    fn shrink(&mut self, max_files: usize) -> Vec<Arc<File>> {
        let mut closed = Vec::new();
        while self.open.len() > max_files {
            let Some((_, serial)) = self.by_turn.pop_first() else {
                break;
            };
            closed.extend(self.open.remove(&serial).map(|(_, open)| open));
        }
        closed
    }
}
