//! How fast and how evenly splits are placed, as JSON on standard output.
//!
//! `cargo run --release -p jetbridge-catalog --example place`; `SEED` (default 1) draws other files.

use std::time::Instant;

use jetbridge_catalog::placement::{Assignment, FileKey, Placement, Seat, Seats, SplitLoad};
use serde_json::{Value, json};

/// The workers and splits of the timed runs.
const WORKERS: usize = 1_500;
const SPLITS: usize = 100_000;

/// Each timed run is repeated, and the quickest counts.
const RUNS: usize = 3;

fn main() {
    let seed = std::env::var("SEED")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(1);
    let placement = Placement::new(1, seats(WORKERS));
    let shapes = [1, 2, 8, 64, SPLITS];
    let timed: Vec<Value> = shapes
        .iter()
        .map(|each| time(&placement, dataset(seed, SPLITS, *each), *each))
        .collect();
    let report = json!({ "workers": WORKERS, "splits": SPLITS, "seed": seed, "shapes": timed });
    println!("{report:#}");
}

/// Places a dataset, once for its owners alone and once with one replica more.
fn time(placement: &Placement, dataset: Vec<SplitLoad>, each: usize) -> Value {
    let mut seconds = [f64::MAX; 2];
    let mut found = None;
    for _ in 0..RUNS {
        for (replicas, best) in [1, 2].into_iter().zip(&mut seconds) {
            let start = Instant::now();
            found = Some(placement.assign(&dataset, replicas));
            *best = best.min(start.elapsed().as_secs_f64());
        }
    }
    let [owners_s, with_replicas_s] = seconds;
    json!({
        "splits_a_file": each,
        "owners_s": owners_s,
        "with_replicas_s": with_replicas_s,
        "max_over_mean": found.map(|found| max_over_mean(&found, placement.seats().len())),
    })
}

/// The most splits that a worker owns, over the mean.
fn max_over_mean(assignment: &Assignment, workers: usize) -> f64 {
    let mut counts = vec![0_u32; workers];
    for owner in assignment.iter().filter_map(|owners| owners.first()) {
        if let Some(count) = usize::try_from(*owner).ok().and_then(|slot| counts.get_mut(slot)) {
            *count += 1;
        }
    }
    let all: u32 = counts.iter().sum();
    let most = counts.iter().max().copied().unwrap_or(0);
    f64::from(most) / f64::from(all) * f64::from(u32::try_from(workers).unwrap_or(u32::MAX))
}

fn seats(workers: usize) -> Seats {
    let seat = |number| {
        Some(Seat {
            id: format!("worker-{number}").parse().ok()?,
            weight: 1 << 40,
        })
    };
    Seats::new((0..workers).filter_map(seat).collect()).unwrap_or_default()
}

/// `splits` equal splits in files of `each`.
fn dataset(seed: u64, splits: usize, each: usize) -> Vec<SplitLoad> {
    let files = splits.div_ceil(each);
    let file = |number: u64| FileKey(FileKey(seed).split(0).0 ^ FileKey(number).split(1).0);
    let of_file = |number: usize| {
        let file = file(u64::try_from(number).unwrap_or(0));
        let last = each.min(splits - number * each);
        (0..u32::try_from(last).unwrap_or(0)).map(move |index| SplitLoad {
            file,
            index,
            bytes: 64 << 20,
        })
    };
    (0..files).flat_map(of_file).collect()
}
