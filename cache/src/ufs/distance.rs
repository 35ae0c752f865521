//! How far a storage is, by how soon it begins to answer reads.
//!
//! Why not by the mean: on a busy machine, or of a busy storage, most answers are late. Of one that is near some come soon all the
//! same; of one that is far none does, but for what a proxy on the way has kept.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// An answer is soon that begins within this. A storage on the same machine or network takes a millisecond or two where nothing
/// else goes on, and the object stores of clouds mostly longer than this.
const SOON: Duration = Duration::from_millis(10);
/// One in so many answers may be soon of a storage that is far. Of one beside a reader that used all of the machine, one in five
/// was, and one in fifteen within 5 ms; of one 30 ms away none.
const ONE_SOON_IN: u64 = 64;
/// Before so many answers nothing is said: the first ones wait for connections, credentials, and for each other.
const FEWEST_ANSWERS: u64 = 8;
/// When there are so many, all count half, so that what was long ago is forgotten.
const MOST_ANSWERS: u64 = 1 << 12;

/// What is known of the way to a storage.
#[derive(Debug, Default)]
pub(super) struct Distance {
    answers: AtomicU64,
    /// Of these, those that began soon.
    soon: AtomicU64,
}

impl Distance {
    /// Takes in how long a read waited until its answer began.
    pub(super) fn learn(&self, waited: Duration) {
        if waited < SOON {
            self.soon.fetch_add(1, Ordering::Relaxed);
        }
        // Two that count at once may halve twice, or count one less: it is a share of thousands.
        if self.answers.fetch_add(1, Ordering::Relaxed) + 1 >= MOST_ANSWERS {
            for count in [&self.answers, &self.soon] {
                count.store(count.load(Ordering::Relaxed) / 2, Ordering::Relaxed);
            }
        }
    }

    /// Whether readers wait for the way there, however idle all machines are. Not so before some were answered.
    pub(super) fn is_far(&self) -> bool {
        let (answers, soon) = (self.answers.load(Ordering::Relaxed), self.soon.load(Ordering::Relaxed));
        answers >= FEWEST_ANSWERS && soon <= answers / ONE_SOON_IN
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(soon: u64, late: u64) -> Distance {
        let distance = Distance::default();
        (0..soon).for_each(|_| distance.learn(SOON - Duration::from_micros(1)));
        (0..late).for_each(|_| distance.learn(SOON));
        distance
    }

    #[test]
    fn a_storage_is_far_of_which_next_to_no_answer_comes_soon() {
        assert!(
            !of(0, 0).is_far() && !of(0, FEWEST_ANSWERS - 1).is_far(),
            "too early to say"
        );
        assert!(of(0, FEWEST_ANSWERS).is_far() && of(0, 63).is_far());
        assert!(!of(1, 0).is_far() && !of(1, 62).is_far(), "some of few came soon");
        assert!(of(1, 63).is_far() && of(10, 1_000).is_far(), "few of many came soon");
        assert!(!of(20, 1_000).is_far());
    }

    #[test]
    fn what_was_long_ago_is_forgotten() {
        let moved = of(0, 1_000_000);
        assert!(moved.is_far());
        (0..MOST_ANSWERS).for_each(|_| moved.learn(Duration::ZERO));
        assert!(!moved.is_far());
        (0..7 * MOST_ANSWERS).for_each(|_| moved.learn(SOON));
        assert!(moved.is_far());
    }
}
