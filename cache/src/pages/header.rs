//! The header in front of each page.

use parquet::basic::Encoding;

use crate::thrift::{Compact, Kind, Refused};

/// What a page says about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PageHeader {
    /// Bytes of the page once decompressed.
    pub(super) uncompressed_bytes: u64,
    /// Bytes that follow the header in the file.
    pub(super) compressed_bytes: u64,
    /// Bytes of the header itself.
    pub(super) header_bytes: usize,
    pub(super) content: Content,
}

/// What kind of page it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Content {
    Data {
        values: u32,
        encoding: Encoding,
        definition: Encoding,
        repetition: Encoding,
    },
    DataV2 {
        values: u32,
        nulls: u32,
        rows: u32,
        encoding: Encoding,
        definition: u32,
        repetition: u32,
        compressed: bool,
    },
    Dictionary {
        values: u32,
        encoding: Encoding,
        sorted: bool,
    },
    /// A kind that carries no values, to be passed over.
    Other,
}

impl PageHeader {
    /// Reads the header at the start of `bytes`.
    pub(super) fn read(bytes: &[u8]) -> Result<Self, Refused> {
        let mut input = Compact::new(bytes, HEADER_LIST_LIMIT);
        let (mut kind, mut uncompressed, mut compressed) = (None, None, None);
        let mut parts = Parts::default();
        let mut last = 0;
        while let Some((id, field)) = input.field(&mut last)? {
            match (id, field) {
                (1, Kind::I32) => kind = Some(input.zigzag()?),
                (2, Kind::I32) => uncompressed = Some(count(input.zigzag()?)?),
                (3, Kind::I32) => compressed = Some(count(input.zigzag()?)?),
                (5 | 7 | 8, Kind::STRUCT) => parts = Parts::read(&mut input)?,
                _ => input.skip(field, 0)?,
            }
        }
        let content = match kind.ok_or(MISSING)? {
            0 => parts.data()?,
            2 => parts.dictionary()?,
            3 => parts.data_v2()?,
            _ => Content::Other,
        };
        Ok(Self {
            uncompressed_bytes: u64::from(uncompressed.ok_or(MISSING)?),
            compressed_bytes: u64::from(compressed.ok_or(MISSING)?),
            header_bytes: input.position(),
            content,
        })
    }
}

/// No list in a page header is longer than its levels.
const HEADER_LIST_LIMIT: u64 = 1 << 10;
const MISSING: Refused = Refused::Malformed("a page header lacks a field");

/// The numbers and flags of the structure inside a page header, by field id; the kinds of pages share the reading.
#[derive(Default)]
struct Parts {
    numbers: [Option<i64>; 8],
    flags: [Option<bool>; 8],
}

impl Parts {
    fn read(input: &mut Compact<'_>) -> Result<Self, Refused> {
        let mut parts = Self::default();
        let mut last = 0;
        while let Some((id, kind)) = input.field(&mut last)? {
            let at = usize::try_from(id).ok().filter(|at| *at < parts.numbers.len());
            match (at, kind) {
                (Some(at), Kind::I32) => parts.numbers[at] = Some(input.zigzag()?),
                (Some(at), Kind::TRUE | Kind::FALSE) => parts.flags[at] = Some(kind == Kind::TRUE),
                _ => input.skip(kind, 1)?,
            }
        }
        Ok(parts)
    }

    fn count(&self, id: usize) -> Result<u32, Refused> {
        count(self.numbers[id].ok_or(MISSING)?)
    }

    fn encoding(&self, id: usize) -> Result<Encoding, Refused> {
        Ok(match self.numbers[id].ok_or(MISSING)? {
            0 => Encoding::PLAIN,
            2 => Encoding::PLAIN_DICTIONARY,
            3 => Encoding::RLE,
            #[expect(deprecated, reason = "old files hold levels in it")]
            4 => Encoding::BIT_PACKED,
            5 => Encoding::DELTA_BINARY_PACKED,
            6 => Encoding::DELTA_LENGTH_BYTE_ARRAY,
            7 => Encoding::DELTA_BYTE_ARRAY,
            8 => Encoding::RLE_DICTIONARY,
            9 => Encoding::BYTE_STREAM_SPLIT,
            _ => return Err(Refused::Malformed("a page has an unknown encoding")),
        })
    }

    fn data(&self) -> Result<Content, Refused> {
        Ok(Content::Data {
            values: self.count(1)?,
            encoding: self.encoding(2)?,
            definition: self.encoding(3)?,
            repetition: self.encoding(4)?,
        })
    }

    fn dictionary(&self) -> Result<Content, Refused> {
        let sorted = self.flags[3].unwrap_or(false);
        Ok(Content::Dictionary {
            values: self.count(1)?,
            encoding: self.encoding(2)?,
            sorted,
        })
    }

    fn data_v2(&self) -> Result<Content, Refused> {
        Ok(Content::DataV2 {
            values: self.count(1)?,
            nulls: self.count(2)?,
            rows: self.count(3)?,
            encoding: self.encoding(4)?,
            definition: self.count(5)?,
            repetition: self.count(6)?,
            compressed: self.flags[7].unwrap_or(true),
        })
    }
}

fn count(value: i64) -> Result<u32, Refused> {
    u32::try_from(value).map_err(|_| Refused::Malformed("a page header has a negative number"))
}
