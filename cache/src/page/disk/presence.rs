//! Which pages of a file are held: a bit a page, by extents of 256, with nothing for extents that hold none.
//!
//! Why a tree of masks and not one long bitmap: a file of a terabyte of which the last page is held would take 32 MB of
//! zeros, and a name that lies about its size any amount. Dense, this is about a quarter of a byte a page.

use std::collections::BTreeMap;
use std::ops::{BitOr, Range};

use crate::key::to_u64;

/// Pages of an extent: the unit of eviction.
pub(super) const EXTENT_PAGES: u64 = 256;

const WORD_BITS: u64 = 64;

/// Some pages of an extent, a bit each.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Mask([u64; 4]);

const _: () = assert!(EXTENT_PAGES == 4 * WORD_BITS);

impl Mask {
    fn one(page: u64) -> Self {
        let at = page % EXTENT_PAGES;
        let of_word = |word: u64| {
            if at / WORD_BITS == word {
                1 << (at % WORD_BITS)
            } else {
                0
            }
        };
        Self([0, 1, 2, 3].map(of_word))
    }

    fn has(&self, page: u64) -> bool {
        !self.without(Self::one(page)).eq(self)
    }

    fn without(&self, other: Self) -> Self {
        let mut words = self.0;
        words.iter_mut().zip(other.0).for_each(|(word, gone)| *word &= !gone);
        Self(words)
    }

    fn count(&self) -> u64 {
        self.0.iter().map(|word| u64::from(word.count_ones())).sum()
    }
}

impl BitOr for Mask {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        let mut words = self.0;
        words.iter_mut().zip(other.0).for_each(|(word, more)| *word |= more);
        Self(words)
    }
}

/// The pages of a file that are held.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Presence {
    extents: BTreeMap<u64, Mask>,
    pages: u64,
}

impl Presence {
    pub(super) fn contains(&self, page: u64) -> bool {
        self.extents.get(&extent_of(page)).is_some_and(|mask| mask.has(page))
    }

    pub(super) fn insert(&mut self, page: u64) {
        let mask = self.extents.entry(extent_of(page)).or_default();
        if !mask.has(page) {
            *mask = *mask | Mask::one(page);
            self.pages += 1;
        }
    }

    /// Forgets the pages of a range that lie in one extent, and returns them as a mask.
    pub(super) fn remove(&mut self, extent: u64, range: &Range<u64>) -> Mask {
        let Some(mask) = self.extents.get_mut(&extent) else {
            return Mask::default();
        };
        let removed = pages_of(extent, *mask)
            .filter(|page| range.contains(page))
            .fold(Mask::default(), |removed, page| removed | Mask::one(page));
        *mask = mask.without(removed);
        if *mask == Mask::default() {
            self.extents.remove(&extent);
        }
        self.pages -= removed.count();
        removed
    }

    /// The pages of an extent, as bits.
    pub(super) fn mask(&self, extent: u64) -> Mask {
        self.extents.get(&extent).copied().unwrap_or_default()
    }

    /// The extents that hold pages of a range.
    pub(super) fn extents(&self, range: &Range<u64>) -> Vec<u64> {
        if range.is_empty() {
            return Vec::new();
        }
        let extents = extent_of(range.start)..=extent_of(range.end - 1);
        self.extents.range(extents).map(|(extent, _)| *extent).collect()
    }

    /// How many pages of a range.
    pub(super) fn count(&self, range: &Range<u64>) -> u64 {
        let held = self.extents(range).into_iter().map(|extent| {
            let (pages, mask) = (extent_pages(extent), self.mask(extent));
            if range.start <= pages.start && pages.end <= range.end {
                return mask.count();
            }
            let within = pages_of(extent, mask).filter(|page| range.contains(page));
            to_u64(within.count())
        });
        held.sum()
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
pub(super) fn pages_of(extent: u64, mask: Mask) -> impl Iterator<Item = u64> {
    extent_pages(extent).filter(move |page| mask.has(*page))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_come_and_go() {
        let mut held = Presence::default();
        for page in [3, 255, 256, 600, 3] {
            held.insert(page);
        }
        assert_eq!(held.iter().collect::<Vec<_>>(), [3, 255, 256, 600]);
        assert_eq!(held.pages(), 4);
        assert_eq!(
            [0..256, 4..257, 0..601, 0..600, 5..5, 700..900].map(|range| held.count(&range)),
            [2, 2, 4, 3, 0, 0]
        );
        assert_eq!(held.extents(&(0..256)), [0]);
        assert_eq!(held.extents(&(255..513)), [0, 1, 2]);
        assert_eq!(held.extents(&(5..5)), [] as [u64; 0]);
        assert_eq!(pages_of(0, held.remove(0, &(4..300))).collect::<Vec<_>>(), [255]);
        assert_eq!(held.remove(9, &(0..1000)), Mask::default());
        assert!(held.contains(3) && !held.contains(255) && held.contains(256));
        assert_eq!(held.pages(), 3);
        let rest = held.remove(0, &(0..256)) | held.remove(1, &(0..257)) | held.remove(2, &(0..999));
        assert_eq!(rest, Mask([0b1001, 1 << 24, 0, 0]));
        assert!(held.is_empty());
        assert_eq!(held, Presence::default());
    }
}
