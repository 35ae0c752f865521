//! Which pages of a file are held: a bit a page, by extents of 16, with nothing for extents that hold none.
//!
//! Why a tree of masks and not one long bitmap: a file of a terabyte of which the last page is held would take 2 MB of
//! zeros, and a name that lies about its size any amount. Dense, this is about one byte a page.

use std::collections::BTreeMap;
use std::ops::Range;

/// Pages of an extent: the unit of eviction.
pub(super) const EXTENT_PAGES: u64 = 16;

/// The pages of a file that are held.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Presence {
    extents: BTreeMap<u64, u16>,
    pages: u64,
}

impl Presence {
    pub(super) fn contains(&self, page: u64) -> bool {
        self.mask(extent_of(page)) & bit(page) != 0
    }

    pub(super) fn insert(&mut self, page: u64) {
        let mask = self.extents.entry(extent_of(page)).or_default();
        if *mask & bit(page) == 0 {
            *mask |= bit(page);
            self.pages += 1;
        }
    }

    /// Forgets the pages of a range that lie in one extent, and returns them as a mask.
    pub(super) fn remove(&mut self, extent: u64, range: &Range<u64>) -> u16 {
        let Some(mask) = self.extents.get_mut(&extent) else {
            return 0;
        };
        let removed = pages_of(extent, *mask)
            .filter(|page| range.contains(page))
            .fold(0, |removed, page| removed | bit(page));
        *mask &= !removed;
        if *mask == 0 {
            self.extents.remove(&extent);
        }
        self.pages -= u64::from(removed.count_ones());
        removed
    }

    /// The pages of an extent, as bits.
    pub(super) fn mask(&self, extent: u64) -> u16 {
        self.extents.get(&extent).copied().unwrap_or(0)
    }

    /// The extents that hold pages of a range.
    pub(super) fn extents(&self, range: &Range<u64>) -> Vec<u64> {
        if range.is_empty() {
            return Vec::new();
        }
        let extents = extent_of(range.start)..=extent_of(range.end - 1);
        self.extents.range(extents).map(|(extent, _)| *extent).collect()
    }

    /// Every page, in order.
    pub(super) fn iter(&self) -> impl Iterator<Item = u64> + '_ {
        self.extents.iter().flat_map(|(extent, mask)| pages_of(*extent, *mask))
    }

    /// How many pages.
    pub(super) fn pages(&self) -> u64 {
        self.pages
    }

    pub(super) fn is_empty(&self) -> bool {
        self.pages == 0
    }
}

/// The extent that a page is of.
pub(super) fn extent_of(page: u64) -> u64 {
    page / EXTENT_PAGES
}

/// The pages of an extent.
pub(super) fn extent_pages(extent: u64) -> Range<u64> {
    let first = extent.saturating_mul(EXTENT_PAGES);
    first..first.saturating_add(EXTENT_PAGES)
}

/// The pages that a mask of an extent stands for.
pub(super) fn pages_of(extent: u64, mask: u16) -> impl Iterator<Item = u64> {
    extent_pages(extent).filter(move |page| mask & bit(*page) != 0)
}

fn bit(page: u64) -> u16 {
    1 << (page % EXTENT_PAGES)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_come_and_go() {
        let mut held = Presence::default();
        for page in [3, 15, 16, 40, 3] {
            held.insert(page);
        }
        assert_eq!(held.iter().collect::<Vec<_>>(), [3, 15, 16, 40]);
        assert_eq!(held.pages(), 4);
        assert_eq!(held.extents(&(0..16)), [0]);
        assert_eq!(held.extents(&(15..33)), [0, 1, 2]);
        assert_eq!(held.extents(&(5..5)), [] as [u64; 0]);
        assert_eq!(pages_of(0, held.remove(0, &(4..100))).collect::<Vec<_>>(), [15]);
        assert_eq!(held.remove(9, &(0..1000)), 0);
        assert!(held.contains(3) && !held.contains(15) && held.contains(16));
        assert_eq!(held.pages(), 3);
        assert_eq!(
            held.remove(0, &(0..16)) | held.remove(1, &(0..17)) | held.remove(2, &(0..99)),
            0b1_0000_1001
        );
        assert!(held.is_empty());
        assert_eq!(held, Presence::default());
    }
}
