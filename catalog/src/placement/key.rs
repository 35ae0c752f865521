//! The numbers that placement goes by: of a file, of a split, and of a pair of numbers.

use xxhash_rust::xxh3::xxh3_64;

use crate::uri::UfsUri;

/// 2^64 divided by the golden ratio, made odd: multiples of it fall evenly between each other.
pub(super) const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;

/// The number of a file: xxh3-64 of its canonical URI. Not of its generation, so that a changed file stays where
/// it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FileKey(pub u64);

impl FileKey {
    /// The number of the file at this URI.
    #[must_use]
    pub fn of(uri: &UfsUri) -> Self {
        Self::of_text(uri.as_str())
    }

    /// The number of any text, by the same rule.
    #[must_use]
    pub fn of_text(text: &str) -> Self {
        Self(xxh3_64(text.as_bytes()))
    }

    /// The number of one of its splits: xxh3-64 of the file's number and the split's index, both little-endian,
    /// in 8 and 4 bytes.
    #[must_use]
    pub fn split(self, index: u32) -> SplitKey {
        let mut bytes = [0; 12];
        bytes[..8].copy_from_slice(&self.0.to_le_bytes());
        bytes[8..].copy_from_slice(&index.to_le_bytes());
        SplitKey(xxh3_64(&bytes))
    }
}

/// The number of a split.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SplitKey(pub u64);

/// A split with its weight, as an item of the list that is placed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SplitLoad {
    /// The file that it is of.
    pub file: FileKey,
    /// Its place among the file's splits, from 0.
    pub index: u32,
    /// What it weighs, in bytes; taken as at least 1 and at most [`MAX_SPLIT_BYTES`].
    pub bytes: u64,
}

impl SplitLoad {
    /// The split's number.
    #[must_use]
    pub fn key(&self) -> SplitKey {
        self.file.split(self.index)
    }

    /// What it counts for.
    pub(super) fn load(&self) -> u64 {
        self.bytes.clamp(1, MAX_SPLIT_BYTES)
    }
}

/// The most that a split counts for, in bytes.
pub const MAX_SPLIT_BYTES: u64 = 1 << 40;

/// A well mixed number of two: the `b`th output of splitmix64 seeded with `a`.
pub(super) fn mix(a: u64, b: u32) -> u64 {
    let mut z = a.wrapping_add((u64::from(b) + 1).wrapping_mul(GOLDEN));
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// An index as a number; the lists here are bounded far below 2^32.
pub(super) fn to_u32(index: usize) -> u32 {
    u32::try_from(index).unwrap_or(u32::MAX)
}

/// A number as an index; `usize` has at least 32 bits wherever this runs.
pub(super) fn to_usize(number: u32) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mix_is_splitmix64() {
        // The first outputs of splitmix64 seeded with 0, as its authors publish them.
        assert_eq!(mix(0, 0), 0xE220_A839_7B1D_CDAF);
        assert_eq!(mix(0, 1), 0x6E78_9E6A_A1B9_65F4);
        assert_eq!(mix(0, 2), 0x06C4_5D18_8009_454F);
    }

    #[test]
    fn keys_differ_by_file_and_index() {
        let file = |text: &str| FileKey::of(&UfsUri::parse(text).unwrap());
        assert_eq!(file("s3a://b//k/"), file("s3://b/k"));
        assert_ne!(file("s3://b/k"), file("s3://b/k2"));
        assert_ne!(file("s3://b/k").split(0), file("s3://b/k").split(1));
    }
}
