//! The figures that `catalog/PLACEMENT.md` states.

use jetbridge_catalog::placement::{Assignment, FileKey, NodeId, Placement, Seat, Seats, SplitLoad};

use crate::random::Random;

/// How sizes or weights differ.
#[derive(Debug, Clone, Copy)]
enum Spread {
    Equal,
    /// Up to twice the least.
    Double,
}

impl Spread {
    fn draw(self, random: &mut Random) -> u64 {
        match self {
            Self::Equal => 1 << 26,
            Self::Double => (1 << 26) + random.below(1 << 26),
        }
    }
}

/// What was seen in many draws of one case.
#[derive(Debug, Default)]
struct Seen {
    draws: u32,
    balanced: u32,
    worst_balance: f64,
    joins_in_limit: u32,
    leaves_in_limit: u32,
    most_moved: f64,
    between_others: u32,
}

fn id(number: u64) -> NodeId {
    format!("worker-{number}").parse().unwrap()
}

fn file(random: &mut Random, splits: u32, sizes: Spread) -> Vec<SplitLoad> {
    let file = FileKey(random.next());
    (0..splits)
        .map(|index| SplitLoad {
            file,
            index,
            bytes: sizes.draw(random),
        })
        .collect()
}

fn seats(random: &mut Random, workers: u64, weights: Spread) -> Seats {
    let seats = (0..workers).map(|number| Seat {
        id: id(number),
        weight: weights.draw(random),
    });
    Seats::new(seats.collect()).unwrap()
}

#[expect(clippy::cast_precision_loss, reason = "figures are shown with a few digits")]
fn ratio(part: u64, whole: u64) -> f64 {
    part as f64 / whole as f64
}

/// The greatest load over its seat's share.
fn balance(placement: &Placement, splits: &[SplitLoad], owners: &Assignment) -> f64 {
    let mut loads = vec![0; placement.seats().slots().len()];
    for (split, owners) in splits.iter().zip(owners.iter()) {
        loads[usize::try_from(owners[0]).unwrap()] += split.bytes;
    }
    let bytes: u64 = loads.iter().sum();
    let weight: u64 = placement.seats().taken().map(|(_, seat)| seat.weight).sum();
    let over =
        |(slot, seat): (u32, &Seat)| ratio(loads[usize::try_from(slot).unwrap()], bytes) / ratio(seat.weight, weight);
    placement.seats().taken().map(over).fold(0.0, f64::max)
}

/// How many splits have another owner, and how many of those neither came from nor went to this slot.
fn moved(before: &Assignment, after: &Assignment, slot: u32) -> (u64, u64) {
    let (mut moved, mut others) = (0, 0);
    for (old, new) in before.iter().zip(after.iter()) {
        moved += u64::from(old[0] != new[0]);
        others += u64::from(old[0] != new[0] && old[0] != slot && new[0] != slot);
    }
    (moved, others)
}

/// One draw: a balance, a worker that joins, and one of the workers that leaves.
fn draw(random: &mut Random, workers: u64, splits: &[SplitLoad], weights: Spread, seen: &mut Seen) {
    let before = seats(random, workers, weights);
    let mut joined = before.clone();
    let slot = joined
        .join(Seat {
            id: id(workers),
            weight: weights.draw(random),
        })
        .unwrap();
    let mut left = joined.clone();
    let leaver = random.below(workers + 1);
    assert!(left.leave(&id(leaver)));
    let [before, joined, left] = [before, joined, left].map(|seats| Placement::new(1, seats));
    let owners = [&before, &joined, &left].map(|placement| placement.assign(splits, 1));
    let worst = balance(&before, splits, &owners[0]).max(balance(&joined, splits, &owners[1]));
    let all = u64::try_from(splits.len()).unwrap();
    let share = |slot: u64| {
        let seats = joined.seats().slots();
        let weight: u64 = seats.iter().map(|seat| seat.weight).sum();
        ratio(seats[usize::try_from(slot).unwrap()].weight, weight)
    };
    let (join, join_others) = moved(&owners[0], &owners[1], slot);
    let (leave, leave_others) = moved(&owners[1], &owners[2], u32::try_from(leaver).unwrap());
    let (join_share, leave_share) = (ratio(join, all) / share(workers), ratio(leave, all) / share(leaver));
    seen.draws += 1;
    seen.balanced += u32::from(worst <= 1.25);
    seen.worst_balance = seen.worst_balance.max(worst);
    seen.joins_in_limit += u32::from(join_share <= 1.1);
    seen.leaves_in_limit += u32::from(leave_share <= 1.1);
    seen.most_moved = seen.most_moved.max(join_share).max(leave_share);
    seen.between_others += u32::from(join_others + leave_others > 0);
}

fn report(name: &str, seen: &Seen) {
    let part = |count: u32| f64::from(count) / f64::from(seen.draws);
    println!(
        "{name}: {} draws, within 1.25 {:.4} (worst {:.3}), join within 1.1 {:.4}, leave within 1.1 {:.4} (worst {:.3}), \
         moves between others in {:.4}",
        seen.draws,
        part(seen.balanced),
        seen.worst_balance,
        part(seen.joins_in_limit),
        part(seen.leaves_in_limit),
        seen.most_moved,
        part(seen.between_others),
    );
}

/// "49 equal splits over 3 equal workers": always balanced, and a join or a leave never moves more than it must.
#[test]
fn a_file_over_three_workers() {
    let mut random = Random::of_test("a_file_over_three_workers");
    let mut seen = Seen::default();
    for _ in 0..5000 {
        let splits = file(&mut random, 49, Spread::Equal);
        draw(&mut random, 3, &splits, Spread::Equal, &mut seen);
    }
    report("49 equal splits, 3 equal workers", &seen);
    assert_eq!(
        [seen.balanced, seen.joins_in_limit, seen.leaves_in_limit],
        [seen.draws; 3]
    );
    assert_eq!(seen.between_others, 0);
}

/// Other numbers of splits, sizes and weights that differ by up to two.
#[test]
fn other_files_over_few_workers() {
    let mut random = Random::of_test("other_files_over_few_workers");
    for (sizes, weights) in [
        (Spread::Equal, Spread::Equal),
        (Spread::Double, Spread::Equal),
        (Spread::Equal, Spread::Double),
        (Spread::Double, Spread::Double),
    ] {
        for (least, most) in [(20, 40), (49, 49), (41, 100), (101, 200)] {
            for workers in [3, 9] {
                let mut seen = Seen::default();
                for _ in 0..1500 {
                    let count = least + u32::try_from(random.below(u64::from(most - least + 1))).unwrap();
                    let splits = file(&mut random, count, sizes);
                    draw(&mut random, workers, &splits, weights, &mut seen);
                }
                report(
                    &format!("{least}-{most} splits ({sizes:?}), {workers} workers ({weights:?})"),
                    &seen,
                );
                assert_eq!(seen.between_others, 0);
            }
        }
    }
}

/// Datasets of many files of one split each: bounded, and moves between others are the bound's.
#[test]
fn many_small_files_over_few_workers() {
    let mut random = Random::of_test("many_small_files_over_few_workers");
    for (files, workers) in [(49, 3), (200, 3), (200, 9), (2000, 30)] {
        let mut seen = Seen::default();
        for _ in 0..1000 {
            let splits: Vec<_> = (0..files).flat_map(|_| file(&mut random, 1, Spread::Equal)).collect();
            draw(&mut random, workers, &splits, Spread::Equal, &mut seen);
        }
        report(&format!("{files} files of one split, {workers} workers"), &seen);
    }
}

/// "1,500 workers and 1,000,000 splits": as one file, as files of 64 and of one split.
#[test]
fn a_million_splits_over_many_workers() {
    million(1);
}

/// The same over ten seeds.
#[test]
#[ignore = "minutes"]
fn a_million_splits_over_many_workers_again_and_again() {
    million(10);
}

fn million(seeds: u32) {
    const WORKERS: u64 = 1500;
    const SPLITS: u32 = 1_000_000;
    let mut random = Random::of_test("a_million_splits");
    for each in [SPLITS, 64, 1] {
        let (mut worst_balance, mut worst_moved, mut sum) = (0.0_f64, 0.0_f64, 0.0);
        for _ in 0..seeds {
            let files = SPLITS.div_ceil(each);
            let dataset: Vec<SplitLoad> = (0..files)
                .flat_map(|number| file(&mut random, each.min(SPLITS - number * each), Spread::Equal))
                .collect();
            let before = seats(&mut random, WORKERS, Spread::Equal);
            let mut joined = before.clone();
            let slot = joined
                .join(Seat {
                    id: id(WORKERS),
                    weight: 1 << 26,
                })
                .unwrap();
            let mut left = before.clone();
            let leaver = random.below(WORKERS);
            left.leave(&id(leaver));
            let [before, joined, left] = [before, joined, left].map(|seats| Placement::new(1, seats));
            let owners = [&before, &joined, &left].map(|placement| placement.assign(&dataset, 1));
            for (placement, owners) in [&before, &joined, &left].into_iter().zip(&owners) {
                worst_balance = worst_balance.max(balance(placement, &dataset, owners));
            }
            let join = ratio(moved(&owners[0], &owners[1], slot).0, u64::from(SPLITS)) * ratio(WORKERS + 1, 1);
            let slot = u32::try_from(leaver).unwrap();
            let leave = ratio(moved(&owners[0], &owners[2], slot).0, u64::from(SPLITS)) * ratio(WORKERS, 1);
            worst_moved = worst_moved.max(join).max(leave);
            sum += (join + leave) / 2.0;
        }
        let mean = sum / f64::from(seeds);
        println!(
            "{SPLITS} splits in files of {each}, {WORKERS} workers, {seeds} seeds: max/mean {worst_balance:.4}, \
             moved by a join or leave over 1/N: mean {mean:.4}, worst {worst_moved:.4}"
        );
        assert!(worst_balance <= 1.15, "{worst_balance}");
        assert!(seeds < 5 || mean <= 1.05, "{mean}");
        assert!(worst_moved <= 1.2, "{worst_moved}");
    }
}

/// "10 random losses with 2 replicas": how often any split loses both, and how many then do.
#[test]
fn ten_losses_with_two_replicas() {
    const WORKERS: u32 = 1500;
    const SPLITS: u32 = 200_000;
    let mut random = Random::of_test("ten_losses_with_two_replicas");
    let splits = file(&mut random, SPLITS, Spread::Equal);
    let placement = Placement::new(1, seats(&mut random, u64::from(WORKERS), Spread::Equal));
    let owners = placement.assign(&splits, 2);
    let mut pairs = std::collections::HashMap::<(u32, u32), u64>::new();
    for owners in owners.iter() {
        *pairs
            .entry((owners[0].min(owners[1]), owners[0].max(owners[1])))
            .or_default() += 1;
    }
    let (mut safe, mut lost, mut worst) = (0_u32, 0, 0);
    const DRAWS: u32 = 20_000;
    for _ in 0..DRAWS {
        let mut gone = std::collections::BTreeSet::new();
        while gone.len() < 10 {
            gone.insert(u32::try_from(random.below(u64::from(WORKERS))).unwrap());
        }
        let pair = |one: &u32| {
            gone.range(one + 1..)
                .map(|other| pairs.get(&(*one, *other)).unwrap_or(&0))
                .sum::<u64>()
        };
        let found: u64 = gone.iter().map(pair).sum();
        safe += u32::from(found == 0);
        lost += found;
        worst = worst.max(found);
    }
    let safe = f64::from(safe) / f64::from(DRAWS);
    println!(
        "10 of {WORKERS} lost, 2 replicas: {} pairs hold splits; no split lost in {safe:.4} of draws; \
         mean share lost {:.2e}, worst {:.2e}",
        pairs.len(),
        ratio(lost, u64::from(DRAWS) * u64::from(SPLITS)),
        ratio(worst, u64::from(SPLITS)),
    );
    assert!(safe > 0.88, "{safe}");
}
