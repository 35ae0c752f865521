//! Splits that are read so much that more nodes serve them than own them.
//!
//! Each node counts the reads of splits that it serves ([`jetbridge_catalog::placement::Heat`]), and tells the others which
//! of them deserve more replicas. Whoever plans a read names these replicas too, in turn, so that the readers spread. A replica
//! fills itself from the owner, as any node does. When the readers have gone, so has the heat, and what was told with it.
//!
//! A node that is one of several that serve a split sees only its part of the readers; so each read counts for as many as
//! there are nodes, and the sum stays what it was.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use jetbridge_catalog::placement::{Heat, HeatSettings, SplitKey};
use parking_lot::{Mutex, RwLock};

/// Keys under which nodes tell what is hot begin with this; the rest is the node's id.
pub(super) const HOT_PREFIX: &str = "hot/";
/// How often a node looks at what it has counted.
pub(super) const LOOK_INTERVAL: Duration = Duration::from_secs(2);
/// Most splits that a node tells of: the hottest.
const MAX_TOLD: usize = 1024;

/// What is hot.
#[derive(Debug)]
pub(super) struct Hot {
    heat: Mutex<Heat>,
    /// What each node told: a split's number, and how many replicas more it deserves.
    told: RwLock<BTreeMap<String, HashMap<u64, u32>>>,
    /// Whose turn it is among the nodes that serve a hot split.
    turn: AtomicUsize,
}

impl Default for Hot {
    fn default() -> Self {
        Self {
            heat: Mutex::new(Heat::new(HeatSettings::default())),
            told: RwLock::default(),
            turn: AtomicUsize::new(0),
        }
    }
}

impl Hot {
    /// Counts a read of a split that this node serves.
    pub(super) fn read(&self, now: Duration, split: SplitKey) {
        let copies = 1 + self.extra(split);
        let mut heat = self.heat.lock();
        for _ in 0..copies {
            heat.read(now, split);
        }
    }

    /// How many replicas more a split deserves, as some node told.
    pub(super) fn extra(&self, split: SplitKey) -> u32 {
        let told = self.told.read();
        told.values()
            .filter_map(|told| told.get(&split.0))
            .copied()
            .max()
            .unwrap_or(0)
    }

    /// What to tell the others now; none where nothing is hot.
    pub(super) fn to_tell(&self, now: Duration) -> Option<Vec<u8>> {
        let hot = self.heat.lock().hot(now);
        let told: BTreeMap<String, u32> = hot
            .into_iter()
            .take(MAX_TOLD)
            .map(|(split, extra)| (format!("{:016x}", split.0), extra))
            .collect();
        if told.is_empty() {
            None
        } else {
            serde_json::to_vec(&told).ok()
        }
    }

    /// Takes in what a node told; what cannot be read is nothing.
    pub(super) fn hear(&self, id: &str, told: &[u8]) {
        let told: BTreeMap<String, u32> = serde_json::from_slice(told).unwrap_or_default();
        let read = |(split, extra): (String, u32)| Some((u64::from_str_radix(&split, 16).ok()?, extra));
        let told = told.into_iter().filter_map(read).collect();
        self.told.write().insert(id.to_owned(), told);
    }

    /// A node has nothing to tell any more.
    pub(super) fn forget(&self, id: &str) {
        self.told.write().remove(id);
    }

    /// All that was told is over.
    pub(super) fn forget_all(&self) {
        self.told.write().clear();
    }

    /// Who is first this time, of so many.
    pub(super) fn turn(&self, of: usize) -> usize {
        self.turn.fetch_add(1, Ordering::Relaxed) % of.max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPLIT: SplitKey = SplitKey(7);

    fn reads(hot: &Hot, at_s: u64, count: usize) {
        (0..count).for_each(|_| hot.read(Duration::from_secs(at_s), SPLIT));
    }

    fn hear_itself(hot: &Hot, at_s: u64) {
        match hot.to_tell(Duration::from_secs(at_s)) {
            Some(told) => hot.hear("me", &told),
            None => hot.forget("me"),
        }
    }

    #[test]
    fn a_split_that_is_read_much_gets_replicas_and_loses_them_again() {
        let hot = Hot::default();
        reads(&hot, 1, 63);
        assert_eq!(hot.to_tell(Duration::from_secs(1)), None);
        reads(&hot, 1, 200);
        hear_itself(&hot, 1);
        let extra = hot.extra(SPLIT);
        assert!((2..=7).contains(&extra), "{extra}");
        assert_eq!(hot.extra(SplitKey(8)), 0);
        hear_itself(&hot, 600);
        assert_eq!(hot.extra(SPLIT), 0);
    }

    #[test]
    fn readers_who_spread_do_not_take_the_replicas_away() {
        let hot = Hot::default();
        // 300 reads a minute; this node sees its part of them.
        let mut least = u32::MAX;
        for second in 1..600 {
            let copies = usize::try_from(1 + hot.extra(SPLIT)).unwrap();
            reads(&hot, second, 5_usize.div_ceil(copies));
            hear_itself(&hot, second);
            if second > 120 {
                least = least.min(hot.extra(SPLIT));
            }
        }
        assert!(least >= 2, "{least}");
    }

    #[test]
    fn nonsense_of_another_node_is_nothing() {
        let hot = Hot::default();
        for told in [&b"nonsense"[..], b"{\"xyz\": 3}", b"[]", b""] {
            hot.hear("other", told);
            assert_eq!(hot.extra(SPLIT), 0);
        }
    }
}
