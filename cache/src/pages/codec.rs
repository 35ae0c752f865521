//! Decompression that never writes more than the page header declared.
//!
//! Why not through the Parquet crate: its gzip, brotli and LZ4-frame codecs read until the input says that it has ended,
//! whatever size the page declared, so that a page of a kilobyte can fill memory.

use std::io::{Cursor, Read};

use parquet::basic::Compression;
use parquet::errors::{ParquetError, Result};

/// Decompresses the pages of one column chunk.
pub(super) struct Codec {
    compression: Compression,
    /// Its context is large, and made when the first page needs it.
    zstd: Option<zstd::bulk::Decompressor<'static>>,
}

impl Codec {
    pub(super) fn new(compression: Compression) -> Self {
        Self {
            compression,
            zstd: None,
        }
    }

    /// Whether pages are as they are in the file.
    pub(super) fn is_plain(&self) -> bool {
        self.compression == Compression::UNCOMPRESSED
    }

    /// Appends the decompressed `input` to `out`, which grows by exactly `expected` bytes.
    pub(super) fn decompress(&mut self, input: &[u8], expected: usize, out: &mut Vec<u8>) -> Result<()> {
        let start = out.len();
        match self.compression {
            Compression::ZSTD(_) => self.zstd(input, expected, out)?,
            Compression::GZIP(_) => drain(flate2::read::MultiGzDecoder::new(input), expected, out)?,
            Compression::BROTLI(_) => drain(brotli::Decompressor::new(input, BROTLI_BUFFER_BYTES), expected, out)?,
            blocks => {
                plausible(blocks, input.len(), expected)?;
                out.resize(start + expected, 0);
                fill(blocks, input, &mut out[start..])?;
            }
        }
        exactly(out.len() - start, expected)
    }

    fn zstd(&mut self, input: &[u8], expected: usize, out: &mut Vec<u8>) -> Result<()> {
        let start = u64::try_from(out.len())?;
        out.reserve_exact(expected);
        let decoder = match &mut self.zstd {
            Some(decoder) => decoder,
            none => none.insert(zstd::bulk::Decompressor::new()?),
        };
        // It writes into what is reserved and no further; the allocator may have given more than was asked for.
        let mut cursor = Cursor::new(out);
        cursor.set_position(start);
        decoder.decompress_to_buffer(input, &mut cursor)?;
        Ok(())
    }
}

fn fill(codec: Compression, input: &[u8], out: &mut [u8]) -> Result<()> {
    match codec {
        Compression::SNAPPY => {
            let written = snap::raw::Decoder::new().decompress(input, out).map_err(bad)?;
            exactly(written, out.len())
        }
        Compression::LZ4_RAW => lz4_block(input, out),
        // One name, three layouts: Hadoop's blocks, LZ4 frames, and bare blocks by old C++ writers.
        Compression::LZ4 => hadoop_blocks(input, out)
            .or_else(|_| lz4_frames(input, out))
            .or_else(|_| lz4_block(input, out)),
        other => Err(ParquetError::NYI(format!("pages compressed with {other:?}"))),
    }
}

const BROTLI_BUFFER_BYTES: usize = 4096;

/// What one byte can become at most. Snappy copies up to 64 bytes by two, LZ4 255 by each byte of a length.
const SNAPPY_EXPANSION: usize = 32;
const LZ4_EXPANSION: usize = 256;

/// Refuses what no input of this length unpacks to, before any memory is taken for it.
fn plausible(codec: Compression, packed: usize, expected: usize) -> Result<()> {
    let most = match codec {
        Compression::SNAPPY => packed.saturating_mul(SNAPPY_EXPANSION),
        _ => packed.saturating_mul(LZ4_EXPANSION),
    };
    if expected <= most {
        return Ok(());
    }
    Err(ParquetError::General(format!(
        "a page's header declares {expected} bytes, and its {packed} cannot have more than {most}"
    )))
}

/// Appends what a reader gives, which takes memory as it comes, and no more than one byte over what is expected.
fn drain(from: impl Read, expected: usize, out: &mut Vec<u8>) -> Result<()> {
    let limit = u64::try_from(expected)?.saturating_add(1);
    from.take(limit).read_to_end(out)?;
    Ok(())
}

fn lz4_frames(input: &[u8], out: &mut [u8]) -> Result<()> {
    let mut frames = lz4_flex::frame::FrameDecoder::new(input);
    frames.read_exact(out)?;
    match frames.read(&mut [0])? {
        0 => Ok(()),
        _ => Err(short(out.len() + 1, out.len())),
    }
}

fn lz4_block(input: &[u8], out: &mut [u8]) -> Result<()> {
    let written = lz4_flex::block::decompress_into(input, out).map_err(bad)?;
    exactly(written, out.len())
}

/// Blocks with the lengths before and after decompression in front, big-endian.
fn hadoop_blocks(mut input: &[u8], mut out: &mut [u8]) -> Result<()> {
    let truncated = || ParquetError::EOF("an LZ4 block ends early".to_owned());
    while let Some((plain, rest)) = input.split_first_chunk::<4>() {
        let (packed, rest) = rest.split_first_chunk::<4>().ok_or_else(truncated)?;
        let (plain, packed) = (
            usize::try_from(u32::from_be_bytes(*plain))?,
            usize::try_from(u32::from_be_bytes(*packed))?,
        );
        let (block, after) = rest.split_at_checked(packed).ok_or_else(truncated)?;
        let (room, left) = std::mem::take(&mut out)
            .split_at_mut_checked(plain)
            .ok_or_else(truncated)?;
        lz4_block(block, room)?;
        (input, out) = (after, left);
    }
    if input.is_empty() && out.is_empty() {
        Ok(())
    } else {
        Err(truncated())
    }
}

fn exactly(written: usize, expected: usize) -> Result<()> {
    if written == expected {
        Ok(())
    } else {
        Err(short(written, expected))
    }
}

fn short(written: usize, expected: usize) -> ParquetError {
    ParquetError::General(format!(
        "a page has {written} bytes where its header declares {expected}"
    ))
}

fn bad(error: impl std::error::Error + Send + Sync + 'static) -> ParquetError {
    ParquetError::External(Box::new(error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    const PLAIN: &[u8] = b"some text, some more text, and some text again";

    fn gzip(plain: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(plain).unwrap();
        encoder.finish().unwrap()
    }

    fn brotli(plain: &[u8]) -> Vec<u8> {
        let mut packed = Vec::new();
        brotli::CompressorWriter::new(&mut packed, 4096, 1, 20)
            .write_all(plain)
            .unwrap();
        packed
    }

    fn lz4_frame(plain: &[u8]) -> Vec<u8> {
        let mut encoder = lz4_flex::frame::FrameEncoder::new(Vec::new());
        encoder.write_all(plain).unwrap();
        encoder.finish().unwrap()
    }

    fn hadoop(plain: &[u8]) -> Vec<u8> {
        let (first, second) = plain.split_at(10);
        let blocks = [first, second].map(|part| {
            let packed = lz4_flex::block::compress(part);
            let lengths = [part.len(), packed.len()].map(|n| u32::try_from(n).unwrap().to_be_bytes());
            [lengths.concat(), packed].concat()
        });
        blocks.concat()
    }

    fn all(plain: &[u8]) -> Vec<(Compression, Vec<u8>)> {
        vec![
            (
                Compression::SNAPPY,
                snap::raw::Encoder::new().compress_vec(plain).unwrap(),
            ),
            (Compression::GZIP(Default::default()), gzip(plain)),
            (Compression::BROTLI(Default::default()), brotli(plain)),
            (
                Compression::ZSTD(Default::default()),
                zstd::bulk::compress(plain, 1).unwrap(),
            ),
            (Compression::LZ4_RAW, lz4_flex::block::compress(plain)),
            (Compression::LZ4, lz4_flex::block::compress(plain)),
            (Compression::LZ4, lz4_frame(plain)),
            (Compression::LZ4, hadoop(plain)),
        ]
    }

    #[test]
    fn every_codec_gives_back_what_was_packed_behind_what_is_there() {
        for (codec, packed) in all(PLAIN) {
            let mut out = b"levels".to_vec();
            Codec::new(codec)
                .decompress(&packed, PLAIN.len(), &mut out)
                .unwrap_or_else(|e| panic!("{codec:?}: {e}"));
            assert_eq!(out, [b"levels", PLAIN].concat(), "{codec:?}");
        }
    }

    #[test]
    fn a_page_that_is_not_of_the_declared_size_is_an_error_and_never_larger() {
        for (codec, packed) in all(&vec![7; 10 << 20]) {
            for declared in [0, 1, 1000, (10 << 20) - 1, (10 << 20) + 1] {
                let mut out = Vec::new();
                assert!(
                    Codec::new(codec).decompress(&packed, declared, &mut out).is_err(),
                    "{codec:?} {declared}"
                );
                // A reader's buffer doubles as it fills.
                assert!(out.capacity() <= 2 * declared + 64, "{codec:?} {declared}");
            }
        }
    }
}
