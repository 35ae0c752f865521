//! One read under way: which pages it needs, which it has, and the ranges put together from them.

use std::collections::HashMap;
use std::ops::Range;

use bytes::{Bytes, BytesMut};

use super::runs::pages_of;
use crate::counters::Tally;
use crate::key::{FileId, FileKey, PageIndex, Source, to_u64, to_usize};

/// A read of some ranges of a file.
pub(super) struct Reading {
    pub(super) id: FileId,
    /// The worst place that any byte came from so far.
    pub(super) source: Source,
    file_size: u64,
    page_size: u64,
    /// In order, each once.
    needed: Vec<PageIndex>,
    pieces: HashMap<PageIndex, Piece>,
}

/// Bytes of the file that hold (at least) one page.
#[derive(Clone)]
struct Piece {
    offset: u64,
    bytes: Bytes,
}

impl Piece {
    fn end(&self) -> u64 {
        self.offset + to_u64(self.bytes.len())
    }

    /// A part of the file that lies within.
    fn slice(&self, part: &Range<u64>) -> Bytes {
        self.bytes
            .slice(to_usize(part.start - self.offset)..to_usize(part.end - self.offset))
    }
}

impl Reading {
    pub(super) fn new(file: &FileKey, page_size: u64, ranges: &[Range<u64>]) -> Self {
        Self {
            id: file.id(),
            source: Source::Memory,
            file_size: file.size,
            page_size,
            needed: pages_of(ranges, page_size),
            pieces: HashMap::new(),
        }
    }

    /// The pages that are still to be had.
    pub(super) fn missing(&self) -> Vec<PageIndex> {
        let missing = self.needed.iter().filter(|page| !self.pieces.contains_key(page));
        missing.copied().collect()
    }

    /// Takes runs of pages that a store gave, and says how many they were. A run that does not end where a
    /// page does is none: a miss, as the contract of stores has it.
    pub(super) fn add_held(&mut self, runs: Vec<(PageIndex, Bytes)>, source: Source) -> Tally {
        let mut taken = Tally::default();
        for (first, bytes) in runs {
            let (offset, length) = (first.0.saturating_mul(self.page_size), to_u64(bytes.len()));
            let end = offset.saturating_add(length);
            let whole = length > 0 && (length.is_multiple_of(self.page_size) || end == self.file_size);
            if whole && end <= self.file_size {
                taken.entries += length.div_ceil(self.page_size);
                taken.bytes += length;
                self.source = self.source.max(source);
                self.add(Piece { offset, bytes });
            }
        }
        taken
    }

    /// Takes bytes that a load brought.
    pub(super) fn add_loaded(&mut self, offset: u64, bytes: &Bytes, source: Source) {
        self.source = self.source.max(source);
        self.add(Piece {
            offset,
            bytes: bytes.clone(),
        });
    }

    fn add(&mut self, piece: Piece) {
        let first = self
            .needed
            .partition_point(|page| page.0 * self.page_size < piece.offset);
        let within = self.needed[first..]
            .iter()
            .take_while(|page| page.0 * self.page_size < piece.end());
        for page in within {
            self.pieces.insert(*page, piece.clone());
        }
    }

    /// The bytes of a range; none while a page of it is missing. A range that lies within one run is a slice of it.
    pub(super) fn assemble(&self, range: &Range<u64>) -> Option<Bytes> {
        if range.is_empty() {
            return Some(Bytes::new());
        }
        let first = self.piece_at(range.start)?;
        if first.end() >= range.end {
            return Some(first.slice(range));
        }
        let mut joined = BytesMut::with_capacity(to_usize(range.end - range.start));
        let mut at = range.start;
        while at < range.end {
            let piece = self.piece_at(at)?;
            let end = piece.end().min(range.end);
            joined.extend_from_slice(&piece.slice(&(at..end)));
            at = end;
        }
        Some(joined.freeze())
    }

    fn piece_at(&self, at: u64) -> Option<&Piece> {
        self.pieces.get(&PageIndex(at / self.page_size))
    }
}
