//! Splits: the runs of row groups of a file that are placed, planned and preloaded as one.
//!
//! A split's bounds follow from its file alone, from what the footer says of the row groups, so that every node cuts the
//! same ones whatever the request. A file is cut into about [`SPLITS_PER_FILE`] splits of a size within
//! [`MIN_SPLIT_BYTES`] and [`MAX_SPLIT_BYTES`]: small files balance finely, and large ones make no more endpoints than
//! clients want to handle. A row group is never cut.

use std::ops::Range;

use jetbridge_cache::RowGroupInfo;

/// Splits that a file is cut into, about, where their size allows it.
const SPLITS_PER_FILE: u64 = 64;
/// Splits below this many decoded bytes would cost more in calls than they carry; row groups are not joined beyond it in
/// files that are small.
const MIN_SPLIT_BYTES: u64 = 16 << 20;
/// Splits above this many decoded bytes would not balance, nor go on soon elsewhere when their worker is lost.
const MAX_SPLIT_BYTES: u64 = 256 << 20;

/// A run of row groups of one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SplitBounds {
    /// Its row groups.
    pub(super) row_groups: Range<u32>,
    /// Decoded bytes of all their columns, as estimated from the footer.
    pub(super) bytes: u64,
}

/// The splits of a file, in order; together they are all of its row groups.
#[must_use]
pub(super) fn splits(row_groups: &[RowGroupInfo]) -> Vec<SplitBounds> {
    let sizes = row_groups.iter().map(|group| group.decoded_bytes.iter().sum());
    cut(sizes.collect())
}

fn cut(sizes: Vec<u64>) -> Vec<SplitBounds> {
    let total = sizes.iter().fold(0u64, |total, &size| total.saturating_add(size));
    let target = (total / SPLITS_PER_FILE).clamp(MIN_SPLIT_BYTES, MAX_SPLIT_BYTES);
    let mut splits: Vec<SplitBounds> = Vec::new();
    for (group, size) in (0u32..).zip(sizes) {
        match splits
            .last_mut()
            .filter(|open| open.bytes.saturating_add(size) <= target)
        {
            Some(open) => {
                open.row_groups.end = group + 1;
                open.bytes += size;
            }
            None => splits.push(SplitBounds {
                row_groups: group..group + 1,
                bytes: size,
            }),
        }
    }
    splits
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MIB: u64 = 1 << 20;

    fn lengths(sizes: &[u64]) -> Vec<usize> {
        cut(sizes.to_vec()).iter().map(|split| split.row_groups.len()).collect()
    }

    #[test]
    fn small_row_groups_are_joined_and_large_ones_stand_alone() {
        assert_eq!(lengths(&[]), [0; 0]);
        assert_eq!(lengths(&[1, 1, 1]), [3]);
        assert_eq!(lengths(&[27 * MIB; 12]), [1; 12]);
        assert_eq!(lengths(&[8 * MIB; 5]), [2, 2, 1]);
        assert_eq!(lengths(&[300 * MIB, MIB, 300 * MIB]), [1, 1, 1]);
    }

    #[test]
    fn large_files_have_about_as_many_splits_as_they_should() {
        assert_eq!(lengths(&[MIB; 6400]).len(), 64);
        // The largest splits, where a file would have more of them.
        assert_eq!(lengths(&[64 * MIB; 1000]).len(), 250);
    }

    proptest! {
        #[test]
        fn every_row_group_is_in_one_split(sizes in prop::collection::vec(0u64..600 * MIB, 0..200)) {
            let splits = cut(sizes.clone());
            let mut next = 0;
            for split in &splits {
                prop_assert_eq!(split.row_groups.start, next);
                prop_assert!(split.row_groups.end > next);
                next = split.row_groups.end;
            }
            prop_assert_eq!(usize::try_from(next).unwrap(), sizes.len());
            prop_assert_eq!(splits.iter().map(|split| split.bytes).sum::<u64>(), sizes.iter().sum::<u64>());
        }
    }
}
