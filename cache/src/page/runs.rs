//! Which pages a read needs, and how missing pages become few requests. Arithmetic only.

use std::ops::Range;

use super::PageConfig;
use crate::key::PageIndex;

/// The pages that hold the ranges, each once, in order. Empty ranges need none.
pub(super) fn pages_of(ranges: &[Range<u64>], page_size: u64) -> Vec<PageIndex> {
    let spans = ranges
        .iter()
        .filter(|r| !r.is_empty())
        .map(|r| r.start / page_size..r.end.div_ceil(page_size));
    let mut pages: Vec<_> = spans.flatten().map(PageIndex).collect();
    pages.sort_unstable();
    pages.dedup();
    pages
}

/// The pages that hold a range.
pub(super) fn span_of(range: &Range<u64>, page_size: u64) -> Range<PageIndex> {
    if range.is_empty() {
        return PageIndex(0)..PageIndex(0);
    }
    PageIndex(range.start / page_size)..PageIndex(range.end.div_ceil(page_size))
}

/// Of all pages of a run, those in its gaps may be one in this many.
const GAP_SHARE: u64 = 6;

/// Joins missing pages (sorted, each once) into runs: across gaps of at most `max_gap_bytes`, since a request costs more
/// than the bytes between; and up to `max_run_bytes`, so that one read is several requests in parallel.
///
/// A run has at most a fifth as many pages in its gaps as it has missing ones. Without that bound, two narrow columns of a
/// wide table had all columns between them fetched: of the 120 pairs of lineitem's columns 89 cost over 1.3 times their
/// bytes, the worst 23 times. And a gap has only pages that `is_absent` says are neither held nor on their way, so that no
/// byte is asked for twice.
pub(super) fn coalesce(
    missing: &[PageIndex],
    is_absent: impl Fn(&PageIndex) -> bool,
    config: &PageConfig,
) -> Vec<Range<PageIndex>> {
    let max_gap = config.max_gap_bytes / config.page_size_bytes;
    let max_run = (config.max_run_bytes / config.page_size_bytes).max(1);
    let mut runs: Vec<Range<PageIndex>> = Vec::new();
    let mut gaps = 0;
    for (at, &PageIndex(page)) in missing.iter().enumerate() {
        // What follows without a break is part of what a gap is bridged for.
        let follows = missing[at..]
            .iter()
            .zip(page..)
            .take_while(|(next, page)| next.0 == *page);
        let joined = runs.last_mut().filter(|run| {
            let gap = page - run.end.0;
            let length = page + 1 - run.start.0;
            let ahead = || u64::try_from(follows.clone().count()).unwrap_or(u64::MAX);
            let is_small = || gap <= max_gap && (gaps + gap) * GAP_SHARE <= length - 1 + ahead();
            let is_all_absent = || (run.end.0..page).all(|page| is_absent(&PageIndex(page)));
            length <= max_run && (gap == 0 || is_small() && is_all_absent())
        });
        match joined {
            Some(run) => {
                gaps += page - run.end.0;
                run.end = PageIndex(page + 1);
            }
            None => {
                gaps = 0;
                runs.push(PageIndex(page)..PageIndex(page + 1));
            }
        }
    }
    runs
}

/// The bytes of a run of pages in a file; the last page of a file is as long as is left.
pub(super) fn bytes_of(run: &Range<PageIndex>, page_size: u64, file_size: u64) -> Range<u64> {
    let at = |PageIndex(page): PageIndex| page.saturating_mul(page_size).min(file_size);
    at(run.start)..at(run.end)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> PageConfig {
        PageConfig {
            page_size_bytes: 10,
            max_gap_bytes: 20,
            max_run_bytes: 80,
            ..PageConfig::default()
        }
    }

    fn runs(missing: &[u64]) -> Vec<(u64, u64)> {
        let missing: Vec<_> = missing.iter().copied().map(PageIndex).collect();
        coalesce(&missing, |page| page.0 != 104, &config())
            .iter()
            .map(|run| (run.start.0, run.end.0))
            .collect()
    }

    #[test]
    fn pages_of_ranges_are_sorted_and_unique() {
        let pages = pages_of(&[25..31, 0..1, 5..5, 29..30, 40..50], 10);
        assert_eq!(pages, [0, 2, 3, 4].map(PageIndex));
    }

    #[test]
    fn small_gaps_are_bridged_and_long_runs_are_cut() {
        assert_eq!(runs(&[]), []);
        assert_eq!(runs(&[3]), [(3, 4)]);
        // A gap of one page for five others, but not for four.
        assert_eq!(runs(&[0, 1, 3, 4, 5]), [(0, 6)]);
        assert_eq!(runs(&[0, 1, 3, 4]), [(0, 2), (3, 5)]);
        // Page 104 is held, or on its way.
        assert_eq!(runs(&[100, 101, 102, 103, 105, 106]), [(100, 104), (105, 107)]);
        assert_eq!(runs(&(0..20).collect::<Vec<_>>()), [(0, 8), (8, 16), (16, 20)]);
    }

    #[test]
    fn the_last_page_is_as_long_as_the_file() {
        assert_eq!(bytes_of(&(PageIndex(1)..PageIndex(3)), 10, 25), 10..25);
    }
}
