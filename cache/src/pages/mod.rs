//! The pages of one column chunk, checked before they are unpacked.
//!
//! Takes the bytes of a column chunk and gives its pages to the decoder. Every size in a page header is checked against
//! the bytes that are there and the limit on pages before anything is allocated by it.
//!
//! Why not the Parquet crate's page reader: it reserves what a page header declares, up to 2 GiB, before it looks
//! whether the page can be that large, and some of its codecs do not stop at the declared size at all.

mod codec;
mod header;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use parquet::column::page::{Page, PageMetadata, PageReader};
use parquet::errors::{ParquetError, Result};
use parquet::file::metadata::ColumnChunkMetaData;

use self::codec::Codec;
use self::header::{Content, PageHeader};
use crate::thrift::Refused;

/// The largest page that is unpacked, and the largest that was asked for beyond it.
///
/// The decoder turns every error into text; this is how its caller learns that it was a limit.
#[derive(Debug)]
pub(crate) struct PageLimit {
    /// In bytes, after decompression.
    pub(crate) bytes: u64,
    exceeded: AtomicU64,
}

impl PageLimit {
    pub(crate) fn new(bytes: u64) -> Self {
        Self {
            bytes,
            exceeded: AtomicU64::new(0),
        }
    }

    /// The size of a page that was refused; none where none was.
    pub(crate) fn exceeded(&self) -> Option<u64> {
        Some(self.exceeded.load(Ordering::Relaxed)).filter(|bytes| *bytes > 0)
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

/// Gives the pages of one column chunk in order.
pub(crate) struct PageDecoder {
    /// What is left of the column chunk.
    rest: Bytes,
    codec: Codec,
    limit: Arc<PageLimit>,
    /// A header that was looked at and whose page was not taken yet.
    peeked: Option<PageHeader>,
}

impl PageDecoder {
    /// The pages in `bytes`, which are all of the column chunk.
    pub(crate) fn new(bytes: Bytes, column: &ColumnChunkMetaData, limit: Arc<PageLimit>) -> Self {
        Self {
            rest: bytes,
            codec: Codec::new(column.compression()),
            limit,
            peeked: None,
        }
    }

    /// The header of the next page that has values, with `rest` at the page's bytes.
    fn next_header(&mut self) -> Result<Option<PageHeader>> {
        if let Some(header) = self.peeked.take() {
            return Ok(Some(header));
        }
        while !self.rest.is_empty() {
            let header = PageHeader::read(&self.rest).map_err(refused)?;
            self.rest = self.rest.split_off(header.header_bytes);
            self.check(&header)?;
            if header.content != Content::Other {
                return Ok(Some(header));
            }
            self.take_bytes(&header)?;
        }
        Ok(None)
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
        let Some(header) = self.next_header()? else {
            return Ok(None);
        };
        let bytes = self.take_bytes(&header)?;
        let buf = self.unpack(&header, bytes)?;
        page(header.content, buf).map(Some)
    }

    fn peek_next_page(&mut self) -> Result<Option<PageMetadata>> {
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
