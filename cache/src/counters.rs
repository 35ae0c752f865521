//! The numbers that the tiers are watched by, each name in one place. No label holds a path or a mount: their number must
//! not grow with the data.
//!
//! Every lookup of a page or a chunk is a hit or a miss; a miss that found its load under way already is counted as
//! coalesced as well. Rates follow: hits by lookups, and loads by misses less coalesced.

use crate::key::Source;

/// A tier of the cache.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Tier {
    Page,
    Chunk,
}

impl Tier {
    fn as_str(self) -> &'static str {
        match self {
            Self::Page => "page",
            Self::Chunk => "chunk",
        }
    }
}

/// Lookups of one request, in pages or chunks.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Lookups {
    pub(crate) hits: u64,
    /// Those included that were coalesced.
    pub(crate) misses: u64,
    pub(crate) coalesced: u64,
}

impl Lookups {
    /// Counts them for a tier.
    pub(crate) fn count(self, tier: Tier) {
        let tier = tier.as_str();
        metrics::counter!("jetbridge_cache_hits_total", "tier" => tier).increment(self.hits);
        metrics::counter!("jetbridge_cache_misses_total", "tier" => tier).increment(self.misses);
        metrics::counter!("jetbridge_cache_coalesced_total", "tier" => tier).increment(self.coalesced);
    }
}

/// Counts bytes of pages that a read took from a store of pages, or had fetched.
pub(crate) fn read_bytes(source: Source, bytes: u64) {
    metrics::counter!("jetbridge_cache_read_bytes_total", "tier" => "page", "source" => source.as_str())
        .increment(bytes);
}

/// Counts bytes that were fetched and not kept, since too many waited to be written.
pub(crate) fn unkept(bytes: u64) {
    metrics::counter!("jetbridge_cache_unkept_bytes_total", "tier" => Tier::Page.as_str()).increment(bytes);
}

/// Counts what was dropped: `capacity` for others of the tier, `budget` for scans, `removed` by request.
pub(crate) fn evictions(tier: Tier, reason: &'static str, entries: usize) {
    let entries = u64::try_from(entries).unwrap_or(u64::MAX);
    metrics::counter!("jetbridge_cache_evictions_total", "tier" => tier.as_str(), "reason" => reason)
        .increment(entries);
}
