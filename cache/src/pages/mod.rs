//! The pages of one column chunk, checked before they are unpacked.
//!
//! Takes the bytes of a column chunk and gives its pages to the decoder. Every size in a page header is checked against
//! the bytes that are there and the limit on pages before anything is allocated by it, and a page that is much larger than
//! pages are takes its bytes from the memory budget for as long as it is in use.
//!
//! Why not the Parquet crate's page reader: it reserves what a page header declares, up to 2 GiB, before it looks
//! whether the page can be that large, and some of its codecs do not stop at the declared size at all.

mod bounds;
mod codec;
mod header;
mod index;
mod words;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use parquet::basic::{Encoding, Type as PhysicalType};
use parquet::column::page::{Page, PageMetadata, PageReader};
use parquet::errors::{ParquetError, Result};
use parquet::file::metadata::ColumnChunkMetaData;

use self::codec::Codec;
use self::header::{Content, PageHeader};
pub(crate) use self::index::{PageBounds, PageLayout};
use self::words::longest_word;
use crate::budget::{Budget, BudgetError, Purpose, Reservation};
use crate::thrift::Refused;

/// Pages up to this size are within what scans have beside their reservations: honest writers stay near 1 MiB.
pub(crate) const LARGE_PAGE_BYTES: u64 = 4 << 20;

/// The largest page that is unpacked, the budget that large ones take their memory from, and what was refused.
///
/// The decoder turns every error into text; this is how its caller learns that it was a limit.
#[derive(Debug)]
pub(crate) struct PageLimit {
    /// In bytes, after decompression.
    pub(crate) bytes: u64,
    budget: Budget,
    exceeded: AtomicU64,
    short: AtomicU64,
}

impl PageLimit {
    pub(crate) fn new(bytes: u64, budget: Budget) -> Self {
        Self {
            bytes,
            budget,
            exceeded: AtomicU64::new(0),
            short: AtomicU64::new(0),
        }
    }

    /// The size of a page that was refused; none where none was.
    pub(crate) fn exceeded(&self) -> Option<u64> {
        Some(self.exceeded.load(Ordering::Relaxed)).filter(|bytes| *bytes > 0)
    }

    /// Why the budget had nothing for a large page; none where it had.
    pub(crate) fn shortage(&self) -> Option<BudgetError> {
        let short = Some(self.short.load(Ordering::Relaxed)).filter(|bytes| *bytes > 0)?;
        Some(self.budget.refusal(short))
    }

    /// The memory of a page; nothing for one of the usual size.
    fn reserve(&self, bytes: u64) -> Result<Option<Reservation>> {
        if bytes <= LARGE_PAGE_BYTES {
            return Ok(None);
        }
        let taken = self.budget.take(bytes, Purpose::Scans);
        taken.map(Some).ok_or_else(|| {
            self.short.fetch_max(bytes, Ordering::Relaxed);
            ParquetError::General(format!(
                "there is no memory for a page of {bytes} bytes: {} are the most for all large ones at once",
                self.budget.capacity_bytes()
            ))
        })
    }

    fn check(&self, bytes: u64) -> Result<()> {
        if bytes <= self.bytes {
            return Ok(());
        }
        self.exceeded.fetch_max(bytes, Ordering::Relaxed);
        Err(ParquetError::General(format!(
            "a page has {bytes} bytes, over the limit of {}",
            self.bytes
        )))
    }
}

/// The decoder makes room for a stride of such values at once, whatever the pages have.
fn fixed_bytes(column: &ColumnChunkMetaData) -> u64 {
    match column.column_type() {
        PhysicalType::FIXED_LEN_BYTE_ARRAY => u64::try_from(column.column_descr().type_length()).unwrap_or(0),
        _ => 0,
    }
}

/// A column chunk, or those of its pages that are needed.
#[derive(Debug, Clone)]
pub(crate) enum ChunkBytes {
    /// All of it.
    Whole(Bytes),
    /// Its parts, in order.
    Parts(Vec<ChunkPart>),
}

/// A part of a column chunk.
#[derive(Debug, Clone)]
pub(crate) enum ChunkPart {
    /// What stands before the data pages: the dictionary, where there is one.
    Before(Bytes),
    /// A data page of so many rows, each of one value.
    Page(Bytes, usize),
    /// Data pages of so many rows together, which were not read.
    Absent(usize),
}

/// Gives the pages of one column chunk in order.
pub(crate) struct PageDecoder {
    /// What is left of the column chunk, or of the part that is being read.
    rest: Bytes,
    /// The parts that follow.
    parts: VecDeque<ChunkPart>,
    /// How many values the next data page must have.
    expected: Option<usize>,
    /// Values that the footer lets follow: by these the memory for a stride was taken.
    values_left: u64,
    codec: Codec,
    limit: Arc<PageLimit>,
    physical: PhysicalType,
    /// Bytes of each value, where all are of one length that the schema gives; 0 otherwise.
    fixed_bytes: u64,
    /// Whether the footer says that values are encoded by what they share with the one before.
    shares_prefixes: bool,
    /// A header that was looked at and whose page was not taken yet.
    peeked: Option<PageHeader>,
    /// The dictionary, where it was looked at and not taken yet.
    dictionary: Option<Page>,
    /// Memory of the dictionary and of the page given last, where they are large.
    large_dictionary: Option<Reservation>,
    large_page: Option<Reservation>,
}

impl PageDecoder {
    /// The pages of a column chunk. What was not read can only be skipped.
    pub(crate) fn new(bytes: ChunkBytes, column: &ColumnChunkMetaData, limit: Arc<PageLimit>) -> Self {
        let (rest, parts) = match bytes {
            ChunkBytes::Whole(bytes) => (bytes, VecDeque::new()),
            ChunkBytes::Parts(parts) => (Bytes::new(), parts.into()),
        };
        Self {
            rest,
            parts,
            expected: None,
            values_left: u64::try_from(column.num_values()).unwrap_or(0),
            codec: Codec::new(column.compression()),
            limit,
            physical: column.column_type(),
            fixed_bytes: fixed_bytes(column),
            shares_prefixes: column
                .encodings()
                .any(|encoding| encoding == Encoding::DELTA_BYTE_ARRAY),
            peeked: None,
            dictionary: None,
            large_dictionary: None,
            large_page: None,
        }
    }

    /// Whether a value may be longer than all the bytes that are its own.
    pub(crate) fn shares_prefixes(&self) -> bool {
        self.shares_prefixes
    }

    /// Bytes of the longest value, as far as it can be known beforehand: of those of a fixed length, and of the words of a
    /// dictionary. 0 where words are certainly no longer than `enough` bytes. To be asked before any page is taken.
    pub(crate) fn longest_word(&mut self, enough: u64) -> Result<u64> {
        if self.fixed_bytes > 0 {
            return Ok(self.fixed_bytes);
        }
        let Some(header) = self.next_header()? else {
            return Ok(0);
        };
        let is_dictionary = matches!(header.content, Content::Dictionary { .. });
        let worth_it = is_dictionary && self.physical == PhysicalType::BYTE_ARRAY && header.uncompressed_bytes > enough;
        self.peeked = Some(header);
        if !worth_it {
            return Ok(0);
        }
        self.dictionary = self.get_next_page()?;
        Ok(self.dictionary.as_ref().map_or(0, |page| longest_word(page.buffer())))
    }

    /// The header of the next page that has values, with `rest` at the page's bytes.
    fn next_header(&mut self) -> Result<Option<PageHeader>> {
        if let Some(header) = self.peeked.take() {
            return Ok(Some(header));
        }
        while self.has_more() {
            let header = PageHeader::read(&self.rest).map_err(refused)?;
            self.rest = self.rest.split_off(header.header_bytes);
            self.check(&header)?;
            self.check_place(&header)?;
            self.check_values(&header)?;
            if header.content != Content::Other {
                return Ok(Some(header));
            }
            self.take_bytes(&header)?;
        }
        Ok(None)
    }

    /// Whether there are bytes to read on: those of the part begun, or of the one that follows.
    fn has_more(&mut self) -> bool {
        while self.rest.is_empty() {
            match self.parts.pop_front() {
                Some(ChunkPart::Before(bytes)) => self.rest = bytes,
                Some(ChunkPart::Page(bytes, rows)) => {
                    self.rest = bytes;
                    self.expected = Some(rows);
                }
                Some(absent @ ChunkPart::Absent(_)) => {
                    self.parts.push_front(absent);
                    return false;
                }
                None => return false,
            }
        }
        true
    }

    /// Rows of the pages that are next and were not read; none where the next page was.
    fn absent_rows(&mut self) -> Option<usize> {
        if self.peeked.is_some() || self.dictionary.is_some() || self.has_more() {
            return None;
        }
        match self.parts.front() {
            Some(ChunkPart::Absent(rows)) => Some(*rows),
            _ => None,
        }
    }

    /// A page that was found by the index is the one that the index means, or the rows behind it would be taken for others.
    fn check_place(&mut self, header: &PageHeader) -> Result<()> {
        let Some(expected) = self.expected.take() else {
            return Ok(());
        };
        let values = match header.content {
            Content::Data { values, .. } | Content::DataV2 { values, .. } => Some(usize::try_from(values)?),
            Content::Dictionary { .. } | Content::Other => None,
        };
        if values != Some(expected) || usize::try_from(header.compressed_bytes)? != self.rest.len() {
            let reason = "a page is not where the page index has it";
            return Err(ParquetError::General(reason.to_owned()));
        }
        Ok(())
    }

    /// A page of a few bytes can have any number of values, all equal: no more than were announced.
    fn check_values(&mut self, header: &PageHeader) -> Result<()> {
        if let Content::Data { values, .. } | Content::DataV2 { values, .. } = header.content {
            let left = self.values_left.checked_sub(u64::from(values));
            let more = || ParquetError::General("it has more values than the footer says".to_owned());
            self.values_left = left.ok_or_else(more)?;
        }
        Ok(())
    }

    fn check(&self, header: &PageHeader) -> Result<()> {
        if header.compressed_bytes > u64::try_from(self.rest.len())? {
            return Err(ParquetError::EOF(format!(
                "a page of {} bytes begins {} bytes before the end of its column",
                header.compressed_bytes,
                self.rest.len()
            )));
        }
        self.limit.check(header.uncompressed_bytes)
    }

    /// A page whose values can be longer than itself must be announced, since strides are chosen by it.
    fn check_encoding(&self, header: &PageHeader) -> Result<()> {
        let encoding = match header.content {
            Content::Data { encoding, .. } | Content::DataV2 { encoding, .. } => encoding,
            Content::Dictionary { .. } | Content::Other => return Ok(()),
        };
        if encoding == Encoding::DELTA_BYTE_ARRAY && !self.shares_prefixes {
            let reason = "a page is encoded as the footer does not say";
            return Err(ParquetError::General(reason.to_owned()));
        }
        Ok(())
    }

    fn take_bytes(&mut self, header: &PageHeader) -> Result<Bytes> {
        let length = usize::try_from(header.compressed_bytes)?;
        if length > self.rest.len() {
            return Err(ParquetError::EOF("a page ends behind its column".to_owned()));
        }
        Ok(self.rest.split_to(length))
    }

    /// The page's bytes as the decoder wants them: levels as they are, values decompressed.
    fn unpack(&mut self, header: &PageHeader, bytes: Bytes) -> Result<Bytes> {
        let (plain, packed) = match header.content {
            Content::DataV2 {
                definition,
                repetition,
                compressed,
                ..
            } => {
                let levels = usize::try_from(u64::from(definition) + u64::from(repetition))?;
                (levels, compressed)
            }
            _ => (0, true),
        };
        let whole = usize::try_from(header.uncompressed_bytes)?;
        if plain > bytes.len() || plain > whole {
            return Err(ParquetError::General(
                "a page's levels are longer than the page".to_owned(),
            ));
        }
        if !packed || self.codec.is_plain() {
            return Ok(bytes);
        }
        let mut out = Vec::with_capacity(whole);
        out.extend_from_slice(&bytes[..plain]);
        // A page of nulls alone has no values, and then nothing that could be decompressed.
        if whole > plain {
            self.codec.decompress(&bytes[plain..], whole - plain, &mut out)?;
        }
        Ok(Bytes::from(out))
    }
}

impl Iterator for PageDecoder {
    type Item = Result<Page>;

    fn next(&mut self) -> Option<Self::Item> {
        self.get_next_page().transpose()
    }
}

impl PageReader for PageDecoder {
    fn get_next_page(&mut self) -> Result<Option<Page>> {
        if let Some(dictionary) = self.dictionary.take() {
            return Ok(Some(dictionary));
        }
        if self.absent_rows().is_some() {
            return Err(ParquetError::General("a page that was not read is needed".to_owned()));
        }
        let Some(header) = self.next_header()? else {
            return Ok(None);
        };
        self.check_encoding(&header)?;
        // The page given last is not used any more: its memory is free before more is taken.
        self.large_page = None;
        if !self.codec.is_plain() {
            let large = self.limit.reserve(header.uncompressed_bytes)?;
            match header.content {
                Content::Dictionary { .. } => self.large_dictionary = large,
                _ => self.large_page = large,
            }
        }
        let bytes = self.take_bytes(&header)?;
        let buf = self.unpack(&header, bytes)?;
        page(header.content, buf).map(Some)
    }

    fn peek_next_page(&mut self) -> Result<Option<PageMetadata>> {
        if self.dictionary.is_some() {
            return Ok(Some(PageMetadata {
                num_rows: None,
                num_levels: None,
                is_dict: true,
            }));
        }
        if let Some(rows) = self.absent_rows() {
            return Ok(Some(PageMetadata {
                num_rows: Some(rows),
                num_levels: Some(rows),
                is_dict: false,
            }));
        }
        let header = self.next_header()?;
        let metadata = match header.as_ref().map(|header| &header.content) {
            Some(Content::Data { values, .. }) => Some(PageMetadata {
                num_rows: None,
                num_levels: Some(usize::try_from(*values)?),
                is_dict: false,
            }),
            Some(Content::DataV2 { values, rows, .. }) => Some(PageMetadata {
                num_rows: Some(usize::try_from(*rows)?),
                num_levels: Some(usize::try_from(*values)?),
                is_dict: false,
            }),
            Some(Content::Dictionary { .. }) => Some(PageMetadata {
                num_rows: None,
                num_levels: None,
                is_dict: true,
            }),
            Some(Content::Other) | None => None,
        };
        self.peeked = header;
        Ok(metadata)
    }

    fn skip_next_page(&mut self) -> Result<()> {
        if self.dictionary.take().is_some() {
            return Ok(());
        }
        if self.absent_rows().is_some() {
            self.parts.pop_front();
            return Ok(());
        }
        if let Some(header) = self.next_header()? {
            self.take_bytes(&header)?;
        }
        Ok(())
    }
}

fn page(content: Content, buf: Bytes) -> Result<Page> {
    Ok(match content {
        Content::Data {
            values,
            encoding,
            definition,
            repetition,
        } => Page::DataPage {
            buf,
            num_values: values,
            encoding,
            def_level_encoding: definition,
            rep_level_encoding: repetition,
            statistics: None,
        },
        Content::DataV2 {
            values,
            nulls,
            rows,
            encoding,
            definition,
            repetition,
            compressed,
        } => Page::DataPageV2 {
            buf,
            num_values: values,
            encoding,
            num_nulls: nulls,
            num_rows: rows,
            def_levels_byte_len: definition,
            rep_levels_byte_len: repetition,
            is_compressed: compressed,
            statistics: None,
        },
        Content::Dictionary {
            values,
            encoding,
            sorted,
        } => Page::DictionaryPage {
            buf,
            num_values: values,
            encoding,
            is_sorted: sorted,
        },
        Content::Other => {
            return Err(ParquetError::General(
                "a page without values was taken for one".to_owned(),
            ));
        }
    })
}

fn refused(refused: Refused) -> ParquetError {
    match refused {
        Refused::Malformed(reason) => ParquetError::General(format!("a page header cannot be read: {reason}")),
        Refused::Over { what, value, limit } => {
            ParquetError::General(format!("a page header has a {what} of {value}, over {limit}"))
        }
    }
}
