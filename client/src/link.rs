//! How fast the way to a server is, and which form suits it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::address::Address;
use crate::fork::Mutex;
use crate::options::Wire;

/// Below this many bits a second compressing takes less time than it saves (`flight/WIRE.md` of the server).
const COMPRESS_BELOW_BITS_PER_S: f64 = 3.5e9;
/// A link is judged by so many bytes at the least.
const ENOUGH_BYTES: u64 = 8 << 20;
/// What was found out holds for so long; then the next stream may be plain again and measures anew.
const HOLDS_FOR: Duration = Duration::from_secs(60);

/// What is asked for where row groups can be decoded here: the server chooses; or, over a slow link, what it sends least for.
const AS_IT_SUITS_THE_SERVER: &str = "auto";
const RAW_ELSE_LZ4: &str = "raw, lz4";

/// What is known of the ways to servers.
#[derive(Debug, Default)]
pub(crate) struct Links {
    known: Mutex<HashMap<Address, Link>>,
}

#[derive(Debug, Default)]
struct Link {
    bytes: u64,
    /// Time that was spent waiting for them, by one stream or by several at once.
    waited: Duration,
    /// Streams that are open.
    streams: u32,
    slow_since: Option<Instant>,
}

/// A stream's part in measuring.
#[derive(Debug)]
pub(crate) struct Gauge {
    links: Arc<Links>,
    address: Address,
}

impl Links {
    /// What a stream from `address` asks for, as the header has it. `decodes`: this client decodes row groups, and has a core to
    /// spare for it.
    pub(crate) fn form(&self, asked: Wire, decodes: bool, address: &Address) -> &'static str {
        if let Some(form) = asked.as_str() {
            return form;
        }
        match (decodes, self.is_slow(address)) {
            (true, false) => AS_IT_SUITS_THE_SERVER,
            (true, true) => RAW_ELSE_LZ4,
            (false, false) => "arrow",
            (false, true) => "lz4",
        }
    }

    fn is_slow(&self, address: &Address) -> bool {
        let known = self.known.lock();
        let slow_since = known.get(address).and_then(|link| link.slow_since);
        slow_since.is_some_and(|since| since.elapsed() < HOLDS_FOR)
    }

    /// Counts a stream, and measures it if it is plain; none where there is nothing to find out: the form is given or was
    /// compressed, or the server is on this host, where a processor that is busy looks like a slow link.
    pub(crate) fn gauge(self: &Arc<Self>, asked: Wire, sent: Option<Wire>, address: &Address) -> Option<Gauge> {
        let is_packed = matches!(sent, Some(Wire::Lz4 | Wire::Zstd));
        if asked != Wire::Auto || is_packed || address.is_local() {
            return None;
        }
        let mut known = self.known.lock();
        let link = known.entry(address.clone()).or_default();
        link.streams += 1;
        Some(Gauge {
            links: Arc::clone(self),
            address: address.clone(),
        })
    }
}

impl Gauge {
    /// So many bytes came plain that the server had in memory, after waiting for them this long. What the server has to read first
    /// says nothing about the link, and neither does what is decoded here while it comes.
    pub(crate) fn saw(&self, bytes: usize, waited: Duration) {
        let mut known = self.links.known.lock();
        let Some(link) = known.get_mut(&self.address) else {
            return;
        };
        link.bytes += u64::try_from(bytes).unwrap_or(u64::MAX);
        // Streams that wait at once share the link.
        link.waited += waited / link.streams.max(1);
        if link.bytes < ENOUGH_BYTES {
            return;
        }
        #[expect(clippy::cast_precision_loss, reason = "an estimate")]
        let bits_per_s = link.bytes as f64 * 8.0 / link.waited.as_secs_f64().max(1e-9);
        link.slow_since = (bits_per_s < COMPRESS_BELOW_BITS_PER_S).then(Instant::now);
        (link.bytes, link.waited) = (0, Duration::ZERO);
    }
}

impl Drop for Gauge {
    fn drop(&mut self) {
        if let Some(link) = self.links.known.lock().get_mut(&self.address) {
            link.streams = link.streams.saturating_sub(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Option<Wire> = Some(Wire::Arrow);

    fn form_after(uri: &str, streams: usize, seconds: f64) -> &'static str {
        let (links, address) = (Arc::new(Links::default()), Address::parse(uri).unwrap());
        assert_eq!(links.form(Wire::Auto, false, &address), "arrow");
        assert_eq!(links.form(Wire::Auto, true, &address), "auto");
        let gauges: Vec<_> = (0..streams)
            .filter_map(|_| links.gauge(Wire::Auto, PLAIN, &address))
            .collect();
        for gauge in &gauges {
            gauge.saw(16 << 20, Duration::from_secs_f64(seconds));
        }
        drop(gauges);
        let form = links.form(Wire::Auto, false, &address);
        let who_decodes = if form == "lz4" { "raw, lz4" } else { "auto" };
        assert_eq!(links.form(Wire::Auto, true, &address), who_decodes);
        form
    }

    #[test]
    fn a_slow_link_is_compressed_for_later_streams() {
        // 16 MiB are 0.134 Gbit.
        assert_eq!(form_after("grpc://far:1", 1, 0.134), "lz4");
        assert_eq!(form_after("grpc://far:1", 1, 0.0134), "arrow");
        assert_eq!(form_after("grpc://127.0.0.1:1", 1, 0.134), "arrow");
    }

    #[test]
    fn streams_at_once_share_the_link() {
        // Each of four gets 1.34 Gbit/s.
        assert_eq!(form_after("grpc://far:1", 4, 0.1), "arrow");
        assert_eq!(form_after("grpc://far:1", 1, 0.1), "lz4");
    }

    #[test]
    fn what_the_caller_asks_for_is_not_measured() {
        let (links, address) = (Arc::new(Links::default()), Address::parse("grpc://far:1").unwrap());
        for decodes in [false, true] {
            assert_eq!(links.form(Wire::Zstd, decodes, &address), "zstd");
            assert_eq!(links.form(Wire::Raw, decodes, &address), "raw");
        }
        assert!(links.gauge(Wire::Arrow, PLAIN, &address).is_none());
    }

    #[test]
    fn what_comes_raw_has_a_share_of_the_link_and_what_is_compressed_is_not_looked_at() {
        let (links, address) = (Arc::new(Links::default()), Address::parse("grpc://far:1").unwrap());
        assert!(links.gauge(Wire::Auto, Some(Wire::Lz4), &address).is_none());
        let raw = links.gauge(Wire::Auto, Some(Wire::Raw), &address);
        let plain = links.gauge(Wire::Auto, PLAIN, &address).unwrap();
        // 2.7 Gbit/s for one of two.
        plain.saw(16 << 20, Duration::from_secs_f64(0.05));
        assert_eq!(links.form(Wire::Auto, false, &address), "arrow");
        drop(raw);
        plain.saw(16 << 20, Duration::from_secs_f64(0.05));
        assert_eq!(links.form(Wire::Auto, false, &address), "lz4");
    }
}
