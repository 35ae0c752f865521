//! The superblock: what says that a folder is a cache folder, and of which form. Bytes only; see `FORMAT.md`.

use xxhash_rust::xxh3::xxh3_64;

/// The format that this code writes, and the only one that it reads.
pub(super) const FORMAT_VERSION: u32 = 2;
/// The length of a superblock.
pub(super) const SUPERBLOCK_BYTES: usize = 64;

const MAGIC: [u8; 8] = *b"JBPAGES\0";
const SUM_AT: usize = 56;

/// What a superblock says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Superblock {
    /// The length of a page, in bytes.
    pub(super) page_size: u64,
    /// The folder's own name, drawn when it was first used.
    pub(super) uuid: [u8; 16],
}

impl Superblock {
    pub(super) fn encode(&self) -> [u8; SUPERBLOCK_BYTES] {
        let mut bytes = [0; SUPERBLOCK_BYTES];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..12].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.page_size.to_le_bytes());
        bytes[24..40].copy_from_slice(&self.uuid);
        let sum = xxh3_64(&bytes[..SUM_AT]);
        bytes[SUM_AT..].copy_from_slice(&sum.to_le_bytes());
        bytes
    }

    /// `None` when the bytes are not a whole superblock of this format.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; SUPERBLOCK_BYTES] = bytes.try_into().ok()?;
        let sum = u64::from_le_bytes(bytes[SUM_AT..].try_into().ok()?);
        let version = u32::from_le_bytes(bytes[8..12].try_into().ok()?);
        if !is_ours(bytes) || version != FORMAT_VERSION || sum != xxh3_64(&bytes[..SUM_AT]) {
            return None;
        }
        Some(Self {
            page_size: u64::from_le_bytes(bytes[16..24].try_into().ok()?),
            uuid: bytes[24..40].try_into().ok()?,
        })
    }
}

/// Whether bytes begin as a superblock of any version does.
pub(super) fn is_ours(bytes: &[u8]) -> bool {
    bytes.starts_with(&MAGIC)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// FORMAT: "A superblock is 64 bytes", byte by byte.
    #[test]
    fn the_bytes_are_those_of_the_format() {
        let uuid = [7; 16];
        let block = Superblock { page_size: 65536, uuid };
        let bytes = block.encode();
        let mut expected = b"JBPAGES\0\x02\0\0\0\0\0\0\0\0\0\x01\0\0\0\0\0".to_vec();
        expected.extend([7; 16]);
        expected.extend([0; 16]);
        expected.extend(xxh3_64(&expected.clone()).to_le_bytes());
        assert_eq!(bytes.as_slice(), expected);
        assert_eq!(Superblock::decode(&bytes), Some(block));
    }

    #[test]
    fn no_flipped_bit_and_no_other_length_passes() {
        let bytes = Superblock {
            page_size: 4096,
            uuid: [1; 16],
        }
        .encode();
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes;
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Superblock::decode(&flipped), None, "bit {bit}");
        }
        assert_eq!(Superblock::decode(&bytes[..63]), None);
        assert_eq!(Superblock::decode(&[bytes.as_slice(), &[0]].concat()), None);
        assert_eq!(Superblock::decode(&[]), None);
    }
}
