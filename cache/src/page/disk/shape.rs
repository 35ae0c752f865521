//! Where everything of a file version lies in its file: first its table, which is a header and a slot a page, then its
//! pages. Numbers only; see `FORMAT.md`.
//!
//! ```text
//! 0        4096                      data offset
//! ┌────────┬─────────────────────────┬────────┬────────┬──
//! │ header │ slots of 16 bytes       │ page 0 │ page 1 │ …
//! └────────┴─────────────────────────┴────────┴────────┴──
//! ```
//! All of it follows from the length of the file that is cached and the page size, so nothing ever moves.

use std::ops::Range;

use super::presence::EXTENT_PAGES;

/// What file systems allocate by, in bytes; page sizes are multiples of it.
pub(super) const BLOCK_BYTES: u64 = 4096;
/// The length of a table's header, in bytes: slots begin there.
pub(super) const HEADER_BYTES: u64 = 4096;
/// The length of a slot, in bytes.
pub(super) const SLOT_BYTES: u64 = 16;
/// Pages whose slots share a block.
const BLOCK_PAGES: u64 = BLOCK_BYTES / SLOT_BYTES;

const _: () = assert!(BLOCK_PAGES.is_multiple_of(EXTENT_PAGES));
const _: () = assert!(HEADER_BYTES.is_multiple_of(BLOCK_BYTES));

/// How a file of some length is cut into pages, and where they lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Shape {
    pub(super) page_size: u64,
    pub(super) file_size: u64,
}

impl Shape {
    /// How many pages the file has.
    pub(super) fn pages(self) -> u64 {
        self.file_size.div_ceil(self.page_size)
    }

    /// Where in the file that is cached a page, or the file's end, lies.
    pub(super) fn offset(self, page: u64) -> u64 {
        page.saturating_mul(self.page_size).min(self.file_size)
    }

    /// Where on disk the first page lies.
    pub(super) fn data_offset(self) -> u64 {
        slot_offset(self.pages()).next_multiple_of(BLOCK_BYTES)
    }

    /// Where on disk a page, or the last one's end, lies.
    pub(super) fn lies_at(self, page: u64) -> u64 {
        self.data_offset().saturating_add(self.offset(page))
    }

    /// Where on disk the last page ends.
    pub(super) fn end(self) -> u64 {
        self.lies_at(self.pages())
    }

    /// The length of a page in bytes; 0 beyond the file.
    pub(super) fn length(self, page: u64) -> u64 {
        self.offset(page.saturating_add(1)) - self.offset(page)
    }

    /// What a page takes on disk, in bytes.
    pub(super) fn allocated(self, page: u64) -> u64 {
        self.length(page).next_multiple_of(BLOCK_BYTES)
    }

    /// The last of the pages that are whole within so many bytes of the file from a page on, and one.
    pub(super) fn whole_until(self, first: u64, bytes: u64) -> u64 {
        let start = self.offset(first);
        let end = start.saturating_add(bytes);
        if end >= self.file_size {
            return self.pages().max(first);
        }
        end / self.page_size
    }
}

/// Where on disk the slot of a page lies.
pub(super) fn slot_offset(page: u64) -> u64 {
    HEADER_BYTES + page * SLOT_BYTES
}

/// The block of slots that has a page's.
pub(super) fn block_of(page: u64) -> u64 {
    page / BLOCK_PAGES
}

/// The pages whose slots are in a block.
pub(super) fn block_pages(block: u64) -> Range<u64> {
    block * BLOCK_PAGES..(block + 1) * BLOCK_PAGES
}

/// Where on disk a block of slots lies.
pub(super) fn block_range(block: u64) -> Range<u64> {
    let pages = block_pages(block);
    slot_offset(pages.start)..slot_offset(pages.end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_cut_into_pages() {
        let shape = Shape {
            page_size: 8192,
            file_size: 20_000,
        };
        assert_eq!(shape.pages(), 3);
        assert_eq!(
            [0, 1, 2, 3, u64::MAX].map(|page| shape.length(page)),
            [8192, 8192, 3616, 0, 0]
        );
        assert_eq!([0, 2, 3].map(|page| shape.allocated(page)), [8192, 4096, 0]);
        assert_eq!(
            [0, 8191, 8192, 16384, 20_000, 90_000].map(|n| shape.whole_until(0, n)),
            [0, 0, 1, 2, 3, 3]
        );
        assert_eq!([3615, 3616].map(|n| shape.whole_until(2, n)), [2, 3]);
        assert_eq!(shape.whole_until(7, 100), 7);
    }

    #[test]
    fn pages_lie_after_the_slots_of_all() {
        let of_pages = |pages: u64| Shape {
            page_size: 8192,
            file_size: pages * 8192,
        };
        assert_eq!(
            [0, 1, 256, 257, 512, 513].map(|pages| of_pages(pages).data_offset()),
            [4096, 8192, 8192, 12_288, 12_288, 16_384]
        );
        let shape = Shape {
            page_size: 8192,
            file_size: 20_000,
        };
        assert_eq!(
            [0, 1, 2, 3, u64::MAX].map(|page| shape.lies_at(page)),
            [8192, 16_384, 24_576, 28_192, 28_192]
        );
        assert_eq!(shape.end(), 28_192);
        // A size that a damaged header might tell.
        let vast = Shape {
            page_size: 4096,
            file_size: u64::MAX,
        };
        assert_eq!((vast.end(), vast.lies_at(u64::MAX)), (u64::MAX, u64::MAX));
        assert_eq!(block_range(0), 4096..8192);
        assert_eq!((block_of(255), block_of(256), block_range(1)), (0, 1, 8192..12_288));
    }
}
