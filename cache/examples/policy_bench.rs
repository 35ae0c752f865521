//! Prints the hit ratios of the policy beside those of LRU and of W-TinyLFU (1 % window, a main part of 20 % probation
//! and 80 % protected, count-min sketch halved every ten times its items).
//!
//! `cargo run --release --workspace --example policy_bench [keys]`: 4000 keys unless told.

#[path = "../src/policy/tests/traces.rs"]
mod traces;

use std::time::Instant;

use jetbridge_cache::policy::{Policy, Verdict};
use traces::{Between, Cache, Hits, Lru, Random, Sizes, Trace, Zipf, epochs, interleaved, mix, run, run_one, until};

fn main() {
    let keys = std::env::args()
        .nth(1)
        .and_then(|keys| keys.parse().ok())
        .unwrap_or(4000);
    print_epochs(keys);
    print_skewed(keys);
    print_shifts(keys);
    print_fitting_shifts(keys);
    print_rotations(keys);
    print_interleaved(keys);
    print_changing_pace(keys);
    print_bursts(keys);
    print_costs(keys);
}

struct Ours(Policy<u64>);

impl Cache for Ours {
    fn access(&mut self, key: u64, bytes: u64) -> bool {
        let found = self.0.contains(&key);
        if found {
            self.0.touch(key);
        } else {
            let _: Verdict<u64> = self.0.admit(key, bytes);
        }
        found
    }
}

/// Counts of keys that may be too high, never too low until they are halved.
struct Sketch {
    rows: [Vec<u8>; 4],
    added: usize,
    halve_at: usize,
}

impl Sketch {
    fn new(items: usize) -> Self {
        let width = (items * 4).next_power_of_two();
        Self {
            rows: std::array::from_fn(|_| vec![0; width]),
            added: 0,
            halve_at: items * 10,
        }
    }

    fn cells(&mut self, key: u64) -> impl Iterator<Item = &mut u8> {
        self.rows.iter_mut().zip(1_u64..).filter_map(move |(row, seed)| {
            let at = usize::try_from(mix(key ^ mix(seed))).unwrap_or(0) & (row.len() - 1);
            row.get_mut(at)
        })
    }

    fn add(&mut self, key: u64) {
        self.cells(key).for_each(|count| *count = (*count + 1).min(15));
        self.added += 1;
        if self.added == self.halve_at {
            self.added /= 2;
            self.rows.iter_mut().flatten().for_each(|count| *count /= 2);
        }
    }

    fn count(&mut self, key: u64) -> u8 {
        self.cells(key).map(|count| *count).min().unwrap_or(0)
    }
}

struct WTinyLfu {
    main_capacity: u64,
    window: Lru,
    probation: Lru,
    protected: Lru,
    sketch: Sketch,
}

impl WTinyLfu {
    fn new(capacity: u64, items: usize) -> Self {
        let window = capacity / 100;
        Self {
            main_capacity: capacity - window,
            window: Lru::new(window),
            probation: Lru::new(0),
            protected: Lru::new((capacity - window) / 10 * 8),
            sketch: Sketch::new(items.max(16)),
        }
    }

    fn promote(&mut self, key: u64) -> bool {
        let Some(bytes) = self.probation.take(key) else {
            return false;
        };
        self.protected.push(key, bytes);
        while let Some((key, bytes)) = self.protected.overflow() {
            self.probation.push(key, bytes);
        }
        true
    }

    /// Takes in what left the window, if it was read more often than all that must go for it.
    fn contest(&mut self, key: u64, bytes: u64) {
        let count = self.sketch.count(key);
        while self.probation.used() + self.protected.used() + bytes > self.main_capacity {
            let part = if self.probation.oldest().is_some() {
                &mut self.probation
            } else {
                &mut self.protected
            };
            let Some(victim) = part.oldest() else { return };
            if count <= self.sketch.count(victim) {
                return;
            }
            part.take(victim);
        }
        self.probation.push(key, bytes);
    }
}

impl Cache for WTinyLfu {
    fn access(&mut self, key: u64, bytes: u64) -> bool {
        self.sketch.add(key);
        if self.window.touch(key) || self.protected.touch(key) || self.promote(key) {
            return true;
        }
        self.window.push(key, bytes);
        while let Some((key, bytes)) = self.window.overflow() {
            self.contest(key, bytes);
        }
        false
    }
}

fn ours(capacity: u64) -> Ours {
    Ours(Policy::new(capacity))
}

/// Ours, LRU, W-TinyLFU.
fn rivals(capacity: u64, sizes: Sizes, keys: u64) -> [Box<dyn Cache>; 3] {
    let mean = sizes.share(0..keys, 100) / keys;
    let items = usize::try_from(capacity / mean).unwrap_or(0);
    [
        Box::new(ours(capacity)),
        Box::new(Lru::new(capacity)),
        Box::new(WTinyLfu::new(capacity, items)),
    ]
}

/// Mean hits of each over the traces, the first `warm` not counted.
fn compare(capacity: u64, sizes: Sizes, keys: u64, traces: &[Trace], warm: usize) -> [Hits; 3] {
    rivals(capacity, sizes, keys).map(|mut cache| Hits::mean(&run(cache.as_mut(), traces, sizes)[warm..]))
}

fn order(shuffled: bool) -> &'static str {
    if shuffled { "shuffled" } else { "sequential" }
}

fn head(title: &str) {
    println!(
        "\n{title}\n{:<40} {:^13} {:^13} {:^13}",
        "object / byte hit ratio", "ours", "LRU", "W-TinyLFU"
    );
}

fn row(name: &str, hits: [Hits; 3], met: bool) {
    let cells = hits
        .map(|hits| format!("{:.3} / {:.3}", hits.object, hits.byte))
        .join(" ");
    println!("{name:<40} {cells} {}", if met { "" } else { "MISSED" });
}

fn print_epochs(keys: u64) {
    head("1. Five epochs; met: 0.95 of cache/data");
    for sizes in Sizes::BOTH {
        for shuffled in [false, true] {
            for percent in [5_u32, 10, 25, 50, 75, 95, 100, 105] {
                let traces = epochs(0..keys, 5, shuffled, &mut Random(1));
                let hits = compare(sizes.share(0..keys, percent.into()), sizes, keys, &traces, 1);
                let met = hits[0].worse() >= 0.95 * f64::from(percent.min(100)) / 100.0;
                row(&format!("{sizes:?} {} {percent}%", order(shuffled)), hits, met);
            }
        }
    }
}

fn print_skewed(keys: u64) {
    head("2. Zipf, alone and with scans; met: not below LRU");
    let accesses = usize::try_from(keys * 50).unwrap_or(0);
    for sizes in Sizes::BOTH {
        for alpha in [0.7, 0.9, 1.1] {
            let zipf = Zipf::new(keys, alpha);
            let mut traces = vec![("alone".to_owned(), zipf.trace(accesses, &mut Random(2)))];
            let mixed = |kind: Between| (format!("{kind:?}"), kind.trace(&zipf, keys, &mut Random(3)));
            traces.extend(Between::ALL.map(mixed));
            for (kind, trace) in traces {
                for percent in [5, 10, 25, 50] {
                    let capacity = sizes.share(0..keys, percent);
                    let hits = compare(capacity, sizes, keys, std::slice::from_ref(&trace), 0);
                    let met = hits[0].object >= hits[1].object && hits[0].byte >= hits[1].byte;
                    row(&format!("{sizes:?} {alpha} {kind} {percent}%"), hits, met);
                }
            }
        }
    }
}

fn series(hits: &[Hits], bound: f64) -> String {
    hits.iter()
        .map(|hits| format!("{:.3}", hits.worse() / bound))
        .collect::<Vec<_>>()
        .join(" ")
}

fn print_shifts(keys: u64) {
    println!("\n3a. Five epochs of A, then B, as large: share of its bound in each of B's epochs, ours | W-TinyLFU");
    for sizes in Sizes::BOTH {
        for shuffled in [false, true] {
            for percent in [10_u32, 25, 50, 75, 100] {
                let capacity = (keys..2 * keys).map(|key| sizes.of(key)).sum::<u64>() * u64::from(percent) / 100;
                let mut random = Random(4);
                let mut traces = epochs(0..keys, 5, shuffled, &mut random);
                traces.extend(epochs(keys..2 * keys, 5, shuffled, &mut random));
                let [mine, _, other] = rivals(capacity, sizes, keys)
                    .map(|mut cache| series(&run(cache.as_mut(), &traces, sizes)[5..], f64::from(percent) / 100.0));
                println!(
                    "{:<40} {mine} | {other}",
                    format!("{sizes:?} {} {percent}%", order(shuffled))
                );
            }
        }
    }
}

fn print_fitting_shifts(keys: u64) {
    println!("\n3b. Five epochs of A, then a smaller B that fits: hit ratio in each of B's epochs");
    for sizes in Sizes::BOTH {
        for shuffled in [false, true] {
            for (percent, quarters) in [(50, 1), (50, 2), (50, 3), (100, 1), (100, 2), (100, 3)] {
                let smaller = keys..keys + keys * quarters / 4;
                let capacity = sizes.share(0..keys, percent).max(sizes.share(smaller.clone(), 100));
                let mut random = Random(4);
                let mut traces = epochs(0..keys, 5, shuffled, &mut random);
                traces.extend(epochs(smaller, 5, shuffled, &mut random));
                let hits = series(&run(&mut ours(capacity), &traces, sizes)[5..], 1.0);
                let name = format!("{sizes:?} {}, A {percent}%, B/A {quarters}/4", order(shuffled));
                println!("{name:<40} {hits}");
            }
        }
    }
}

fn print_rotations(keys: u64) {
    println!(
        "\n3c. Zipf, every rank moved: accesses until 0.95 of LRU's steady hit ratio, in keys: ours, LRU, W-TinyLFU"
    );
    for alpha in [0.7, 0.9, 1.1] {
        for percent in [5, 10, 25, 50] {
            let zipf = Zipf::new(keys, alpha);
            let accesses = usize::try_from(keys * 25).unwrap_or(0);
            let before = zipf.trace(accesses, &mut Random(5));
            let after: Trace = zipf
                .trace(accesses, &mut Random(6))
                .into_iter()
                .map(|key| (key + keys / 2) % keys)
                .collect();
            let capacity = Sizes::Unit.share(0..keys, percent);
            let steady = run_one(&mut Lru::new(capacity), &before, Sizes::Unit).object;
            let steps = rivals(capacity, Sizes::Unit, keys).map(|mut cache| {
                run_one(cache.as_mut(), &before, Sizes::Unit);
                let accesses = u32::try_from(until(cache.as_mut(), &after, keys, 0.95 * steady)).unwrap_or(0);
                format!(
                    "{:.1}",
                    f64::from(accesses) / f64::from(u32::try_from(keys).unwrap_or(1))
                )
            });
            println!("{:<40} {}", format!("{alpha} {percent}%"), steps.join(" "));
        }
    }
}

fn print_interleaved(keys: u64) {
    head("4. Two epochs side by side, the second so many times as fast; met: 0.95 of cache/data");
    for sizes in Sizes::BOTH {
        for shuffled in [false, true] {
            for speed in [1, 3, 8] {
                for percent in [25_u32, 50, 75, 100] {
                    let traces = interleaved(keys, speed, shuffled, &mut Random(7));
                    let hits = compare(sizes.share(0..2 * keys, percent.into()), sizes, keys, &traces, 1);
                    let met = hits[0].worse() >= 0.95 * f64::from(percent) / 100.0;
                    row(&format!("{sizes:?} {} x{speed} {percent}%", order(shuffled)), hits, met);
                }
            }
        }
    }
}

fn print_changing_pace(keys: u64) {
    println!("\n4b. Epochs with 0 to 60 % of other accesses in between: hit ratio / (cache/data)");
    for shuffled in [false, true] {
        for percent in [25_u32, 50, 75] {
            let mut cache = ours(Sizes::Unit.share(0..keys, percent.into()));
            let mut strangers = 10 * keys..;
            let shares = [0, 0, 60, 10, 30, 5, 50, 0, 20, 40].into_iter();
            let hits: Vec<Hits> = shares
                .zip(epochs(0..keys, 10, shuffled, &mut Random(9)))
                .map(|(share, epoch)| {
                    let (mut hits, mut due) = (0_u32, 0);
                    for key in epoch {
                        hits += u32::from(cache.access(key, Sizes::Unit.of(key)));
                        due += share;
                        if due >= 100 {
                            due -= 100;
                            cache.access(strangers.next().unwrap_or(0), Sizes::Unit.of(0));
                        }
                    }
                    let ratio = f64::from(hits) / f64::from(u32::try_from(keys).unwrap_or(1));
                    Hits {
                        object: ratio,
                        byte: ratio,
                    }
                })
                .collect();
            println!(
                "{:<40} {}",
                format!("Unit {} {percent}%", order(shuffled)),
                series(&hits, f64::from(percent) / 100.0)
            );
        }
    }
}

fn print_bursts(keys: u64) {
    head("5. Each key four times within a part of the cache, then never again (not a target: LRU is right here)");
    let capacity = Sizes::Unit.share(0..keys, 25);
    for part in [16, 4, 2] {
        let gap = (keys / 4 / part / 4).max(1);
        let trace: Trace = (0..15 * keys)
            .flat_map(|at| (0..4).filter_map(move |turn| u64::checked_sub(at, turn * gap)))
            .collect();
        let hits = compare(capacity, Sizes::Unit, keys, &[trace], 0);
        row(&format!("Unit 25%, within 1/{part} of it"), hits, true);
    }
}

fn print_costs(keys: u64) {
    println!("\n6. Cost of a call, mixed sizes");
    for factor in [1, 25] {
        let keys = keys * factor;
        let mut cache = ours(Sizes::Mixed.share(0..keys, 25));
        let zipf = Zipf::new(keys, 0.9).trace(1_000_000, &mut Random(8));
        let loops = epochs(0..keys, 5, true, &mut Random(8)).concat();
        for (name, trace) in [("Zipf 0.9", zipf), ("shuffled epochs", loops)] {
            let sized: Vec<_> = trace.into_iter().map(|key| (key, Sizes::Mixed.of(key))).collect();
            let start = Instant::now();
            let hits = sized.iter().filter(|&&(key, bytes)| cache.access(key, bytes)).count();
            let nanos = start.elapsed().as_nanos() / u128::try_from(sized.len()).unwrap_or(1);
            println!(
                "{keys} keys, {name}: {nanos} ns an access, {hits} hits of {}",
                sized.len()
            );
        }
    }
}
