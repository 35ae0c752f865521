//! The page index of a column chunk: where its data pages lie, and what their values are at least and at most.
//!
//! Both parts are optional and were written by another program. What does not fit its column chunk counts as no index, so
//! that a file is read as one without. Whether the pages are where the index has them is seen when they are read: a page
//! says itself how many values it has.
//!
//! Why a reader of our own: the Parquet crate's wants the indexes of all columns of a file at once, and reserves what they
//! declare.

use std::ops::Range;

use bytes::Bytes;

use crate::key::to_usize;
use crate::thrift::{Compact, Kind, Refused};

/// Most data pages of a column chunk whose index is used.
const MAX_PAGES: u64 = 1 << 16;

/// One data page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PageAt {
    /// Its bytes in the file, its header among them.
    pub(crate) bytes: Range<u64>,
    /// Its rows in the row group.
    pub(crate) rows: Range<usize>,
}

/// The data pages of a column chunk: all of its rows, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PageLayout {
    /// The bytes of the column chunk before its first data page: those of its dictionary.
    pub(crate) before: Range<u64>,
    /// At least one.
    pub(crate) pages: Vec<PageAt>,
}

impl PageLayout {
    /// The layout that an offset index describes, of a column chunk with these bytes of the file and so many rows; none where it
    /// does not fit.
    pub(crate) fn parse(index: &[u8], chunk: &Range<u64>, rows: usize) -> Option<Self> {
        let located = locations(index).ok()?;
        let mut pages: Vec<PageAt> = Vec::with_capacity(located.len());
        let mut end = chunk.start;
        for (at, (bytes, first_row)) in located.iter().enumerate() {
            let next_row = located.get(at + 1).map_or(rows, |(_, row)| *row);
            let fits = bytes.start >= end && bytes.end <= chunk.end && *first_row < next_row;
            if !fits || next_row > rows {
                return None;
            }
            end = bytes.end;
            pages.push(PageAt {
                bytes: bytes.clone(),
                rows: *first_row..next_row,
            });
        }
        let first = pages.first().filter(|page| page.rows.start == 0)?;
        Some(Self {
            before: chunk.start..first.bytes.start,
            pages,
        })
    }
}

/// What the values of each data page of a column chunk are at least and at most, as the file has them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PageBounds {
    /// The least and the greatest value of each; none of one that has nulls alone.
    pub(crate) values: Vec<Option<(Bytes, Bytes)>>,
    /// How many of its values are null, where that is known.
    pub(crate) nulls: Vec<Option<u64>>,
}

impl PageBounds {
    /// The bounds that a column index has, of the pages of a layout; none where it does not fit it.
    pub(crate) fn parse(index: &Bytes, layout: &PageLayout) -> Option<Self> {
        let read = ColumnIndex::read(index).ok()?;
        let pages = layout.pages.len();
        let has_nulls = read.null_counts.len() == pages;
        if read.null_pages.len() != pages || read.min.len() != pages || read.max.len() != pages {
            return None;
        }
        let nulls = layout
            .pages
            .iter()
            .enumerate()
            .map(|(at, page)| match read.null_pages[at] {
                true => u64::try_from(page.rows.len()).ok(),
                false if has_nulls => u64::try_from(read.null_counts[at]).ok(),
                false => None,
            });
        let bounds = read.min.iter().zip(&read.max).zip(&read.null_pages);
        let values =
            bounds.map(|((min, max), is_null)| (!is_null).then(|| (index.slice_ref(min), index.slice_ref(max))));
        Some(Self {
            values: values.collect(),
            nulls: nulls.collect(),
        })
    }
}

/// Bytes in the file and first row of each page of an offset index.
fn locations(index: &[u8]) -> Result<Vec<(Range<u64>, usize)>, Refused> {
    let mut input = Compact::new(index, MAX_PAGES);
    let (mut last, mut found) = (0, Vec::new());
    while let Some((id, kind)) = input.field(&mut last)? {
        match (id, kind) {
            (1, Kind::LIST) => {
                let (element, count) = input.list()?;
                if element != Kind::STRUCT {
                    return Err(MISFIT);
                }
                for _ in 0..count {
                    found.push(location(&mut input)?);
                }
            }
            _ => input.skip(kind, 0)?,
        }
    }
    Ok(found)
}

fn location(input: &mut Compact<'_>) -> Result<(Range<u64>, usize), Refused> {
    let (mut last, mut offset, mut length, mut row) = (0, None, None, None);
    while let Some((id, kind)) = input.field(&mut last)? {
        match (id, kind) {
            (1, Kind::I64) => offset = u64::try_from(input.zigzag()?).ok(),
            (2, Kind::I32) => length = u64::try_from(input.zigzag()?).ok(),
            (3, Kind::I64) => row = u64::try_from(input.zigzag()?).ok(),
            _ => input.skip(kind, 1)?,
        }
    }
    let (Some(offset), Some(length @ 1..), Some(row)) = (offset, length, row) else {
        return Err(MISFIT);
    };
    let end = offset.checked_add(length).ok_or(MISFIT)?;
    Ok((offset..end, to_usize(row)))
}

const MISFIT: Refused = Refused::Malformed("a page index lacks a field");

/// The lists of a column index, one entry each a page.
#[derive(Default)]
struct ColumnIndex<'a> {
    null_pages: Vec<bool>,
    min: Vec<&'a [u8]>,
    max: Vec<&'a [u8]>,
    null_counts: Vec<i64>,
}

impl<'a> ColumnIndex<'a> {
    fn read(index: &'a [u8]) -> Result<Self, Refused> {
        let mut input = Compact::new(index, MAX_PAGES);
        let (mut last, mut read) = (0, Self::default());
        while let Some((id, kind)) = input.field(&mut last)? {
            match (id, kind) {
                (1, Kind::LIST) => read.null_pages = each(&mut input, &[Kind::TRUE, Kind::FALSE], Compact::flag)?,
                (2, Kind::LIST) => read.min = each(&mut input, &[Kind::BINARY], Compact::binary)?,
                (3, Kind::LIST) => read.max = each(&mut input, &[Kind::BINARY], Compact::binary)?,
                (5, Kind::LIST) => read.null_counts = each(&mut input, &[Kind::I64], Compact::zigzag)?,
                _ => input.skip(kind, 0)?,
            }
        }
        Ok(read)
    }
}

/// The elements of a list of one of these kinds.
fn each<'a, T>(
    input: &mut Compact<'a>,
    kinds: &[Kind],
    read: impl Fn(&mut Compact<'a>) -> Result<T, Refused>,
) -> Result<Vec<T>, Refused> {
    let (element, count) = input.list()?;
    if count > 0 && !kinds.contains(&element) {
        return Err(MISFIT);
    }
    (0..count).map(|_| read(input)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An offset index of these pages: offset, length, first row.
    fn offsets(pages: &[(i64, i64, i64)]) -> Vec<u8> {
        let mut out = vec![0x19, 0xf0 | 0x0c];
        varint(&mut out, u64::try_from(pages.len()).unwrap());
        for &(offset, length, row) in pages {
            for (head, value) in [(0x16, offset), (0x15, length), (0x16, row)] {
                out.push(head);
                varint(&mut out, ((value << 1) ^ (value >> 63)).cast_unsigned());
            }
            out.push(0);
        }
        out.push(0);
        out
    }

    fn varint(out: &mut Vec<u8>, mut value: u64) {
        while value >= 0x80 {
            out.push(u8::try_from(value & 0x7f).unwrap() | 0x80);
            value >>= 7;
        }
        out.push(u8::try_from(value).unwrap());
    }

    fn layout(pages: &[(i64, i64, i64)]) -> Option<Vec<(Range<u64>, Range<usize>)>> {
        let layout = PageLayout::parse(&offsets(pages), &(100..200), 50)?;
        assert_eq!(layout.before, 100..layout.pages[0].bytes.start);
        let pages = layout.pages.into_iter();
        Some(pages.map(|page| (page.bytes, page.rows)).collect())
    }

    #[test]
    fn pages_are_where_the_index_has_them() {
        assert_eq!(
            layout(&[(110, 20, 0), (130, 40, 30), (180, 20, 45)]),
            Some(vec![(110..130, 0..30), (130..170, 30..45), (180..200, 45..50)])
        );
        assert_eq!(layout(&[(100, 100, 0)]), Some(vec![(100..200, 0..50)]));
    }

    #[test]
    fn an_index_that_does_not_fit_its_column_is_none() {
        for pages in [
            &[][..],
            &[(90, 20, 0)],
            &[(110, 91, 0)],
            &[(110, 0, 0)],
            &[(110, -1, 0)],
            &[(-110, 10, 0)],
            &[(110, 10, 1)],
            &[(110, 10, 0), (115, 10, 30)],
            &[(130, 10, 0), (110, 10, 30)],
            &[(110, 10, 0), (120, 10, 0)],
            &[(110, 10, 0), (120, 10, 50)],
            &[(110, 10, 0), (120, 10, 1 << 40)],
            &[(110, i64::MAX, 0)],
        ] {
            assert_eq!(layout(pages), None, "{pages:?}");
        }
        let whole = offsets(&[(110, 20, 0), (130, 40, 30)]);
        for cut in 0..whole.len() {
            assert_eq!(PageLayout::parse(&whole[..cut], &(100..200), 50), None, "{cut}");
        }
    }

    /// A column index of two pages: whether each is null, its bounds, its nulls.
    fn columns(null_pages: [bool; 2], bounds: [&str; 4], nulls: &[u8]) -> Bytes {
        let mut out = vec![0x19, 0x21];
        out.extend(null_pages.map(|is_null| if is_null { 1 } else { 2 }));
        for pair in bounds.chunks(2) {
            out.extend([0x19, 0x28]);
            for value in pair {
                varint(&mut out, u64::try_from(value.len()).unwrap());
                out.extend(value.as_bytes());
            }
        }
        // The order of the bounds, which nobody asks.
        out.extend([0x15, 0x00]);
        if !nulls.is_empty() {
            out.extend([0x19, (u8::try_from(nulls.len()).unwrap() << 4) | 0x06]);
            out.extend(nulls.iter().map(|nulls| nulls << 1));
        }
        out.push(0);
        out.into()
    }

    #[test]
    fn bounds_are_those_of_the_pages() {
        let layout = PageLayout::parse(&offsets(&[(100, 50, 0), (150, 50, 30)]), &(100..200), 50).unwrap();
        let text = |text: &'static str| Bytes::from_static(text.as_bytes());
        let bounds = PageBounds::parse(&columns([false, true], ["a", "", "ccc", ""], &[3, 20]), &layout).unwrap();
        assert_eq!(bounds.values, [Some((text("a"), text("ccc"))), None]);
        assert_eq!(bounds.nulls, [Some(3), Some(20)]);
        let unknown = PageBounds::parse(&columns([false, true], ["a", "", "b", ""], &[]), &layout).unwrap();
        assert_eq!(unknown.nulls, [None, Some(20)]);
        let one = PageLayout::parse(&offsets(&[(100, 50, 0)]), &(100..200), 50).unwrap();
        assert_eq!(
            PageBounds::parse(&columns([false, false], ["a", "b", "c", "d"], &[]), &one),
            None
        );
    }
}
