//! The numbers that the tiers are watched by, each name in one place. No label holds a path: their number must not grow
//! with the data. A mount is named by its id ([`crate::ufs::Ufs::mount_id`]).
//!
//! Every lookup of a page or a chunk is a hit or a miss; a miss that found its load under way already is counted as
//! coalesced as well. Rates follow: hits by lookups, and loads by misses less coalesced. The same in bytes: of pages as
//! they lie in their files, of chunks decoded (what a miss will have is the footer's guess).
//!
//! A footer that a peer gave is a miss of the pages that it lies in, though it came without them. What peers are given of
//! what is held here is no lookup of this node's: it is the miss of whoever asked.

use std::ops::AddAssign;
use std::sync::Arc;

use metrics::SharedString;

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

/// Pages or chunks, and their bytes.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Tally {
    pub(crate) entries: u64,
    pub(crate) bytes: u64,
}

impl AddAssign for Tally {
    fn add_assign(&mut self, more: Self) {
        self.entries += more.entries;
        self.bytes += more.bytes;
    }
}

impl Tally {
    /// One more.
    pub(crate) fn add(&mut self, bytes: u64) {
        self.entries += 1;
        self.bytes += bytes;
    }

    fn count(self, name: &'static str, name_in_bytes: &'static str, tier: Tier, mount: &Arc<str>) {
        let labels = [
            ("tier", SharedString::const_str(tier.as_str())),
            ("mount", SharedString::from(Arc::clone(mount))),
        ];
        metrics::counter!(name, &labels).increment(self.entries);
        metrics::counter!(name_in_bytes, &labels).increment(self.bytes);
    }
}

/// Lookups of one request.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Lookups {
    pub(crate) hits: Tally,
    /// Those included that were coalesced.
    pub(crate) misses: Tally,
    pub(crate) coalesced: Tally,
}

impl Lookups {
    /// Counts them for a tier and a mount.
    pub(crate) fn count(self, tier: Tier, mount: &Arc<str>) {
        for (tally, name, name_in_bytes) in self.tallies() {
            // Finding a counter takes longer than counting, and most reads have one kind of lookups alone.
            if tally.entries > 0 {
                tally.count(name, name_in_bytes, tier, mount);
            }
        }
    }

    fn tallies(self) -> [(Tally, &'static str, &'static str); 3] {
        [
            (
                self.hits,
                "jetbridge_cache_hits_total",
                "jetbridge_cache_hit_bytes_total",
            ),
            (
                self.misses,
                "jetbridge_cache_misses_total",
                "jetbridge_cache_miss_bytes_total",
            ),
            (
                self.coalesced,
                "jetbridge_cache_coalesced_total",
                "jetbridge_cache_coalesced_bytes_total",
            ),
        ]
    }
}

/// Shows the lookups of a mount as 0, until there are some: whoever watches a rate needs a first value.
pub(crate) fn begin(mount: &Arc<str>) {
    for tier in [Tier::Page, Tier::Chunk] {
        for (none, name, name_in_bytes) in Lookups::default().tallies() {
            none.count(name, name_in_bytes, tier, mount);
        }
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

/// Counts chunks, pages in memory, or extents of pages on disk that were dropped: `capacity` for others of the tier,
/// `budget` for scans, `quota` for a quota that was set anew, `removed` by request.
pub(crate) fn evictions(tier: Tier, reason: &'static str, entries: usize) {
    let entries = u64::try_from(entries).unwrap_or(u64::MAX);
    metrics::counter!("jetbridge_cache_evictions_total", "tier" => tier.as_str(), "reason" => reason)
        .increment(entries);
}

/// Counts a file version that was dropped since its time was over.
pub(crate) fn expired() {
    metrics::counter!("jetbridge_cache_expired_files_total").increment(1);
}

#[cfg(test)]
pub(crate) mod testing {
    //! What is counted, for a test to read.

    use std::collections::HashMap;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    use metrics::{Counter, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit};
    use parking_lot::Mutex;

    /// Counts what is counted, by name and labels.
    #[derive(Default)]
    pub(crate) struct Counters(Mutex<HashMap<String, Arc<AtomicU64>>>);

    impl Counters {
        pub(crate) fn get(&self, name: &str) -> u64 {
            let counts = self.0.lock();
            counts.get(name).map_or(0, |count| count.load(Ordering::Relaxed))
        }
    }

    impl Recorder for Counters {
        fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
        fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
        fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
        fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
            let labels = key
                .labels()
                .map(|label| format!("{{{}={}}}", label.key(), label.value()));
            let name = key.name().to_owned() + &labels.collect::<String>();
            Counter::from_arc(Arc::clone(self.0.lock().entry(name).or_default()))
        }
        fn register_gauge(&self, _: &Key, _: &Metadata<'_>) -> Gauge {
            Gauge::noop()
        }
        fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
            Histogram::noop()
        }
    }
}
