//! Checks of the whole function.

use super::*;

fn seats(weights: &[u64]) -> Seats {
    let seat = |(number, weight): (usize, &u64)| Seat {
        id: format!("node-{number}").parse().unwrap(),
        weight: *weight,
    };
    Seats::new(weights.iter().enumerate().map(seat).collect()).unwrap()
}

fn file(number: u64, sizes: &[u64]) -> Vec<SplitLoad> {
    let file = FileKey(key::mix(number, 77));
    let split = |(index, bytes): (u32, &u64)| SplitLoad {
        file,
        index,
        bytes: *bytes,
    };
    (0..).zip(sizes).map(split).collect()
}

fn counts(assignment: &Assignment, slots: usize) -> Vec<usize> {
    let mut counts = vec![0; slots];
    for owners in assignment.iter() {
        counts[to_usize(owners[0])] += 1;
    }
    counts
}

/// "even to within a split", for any number of equal splits and of equal seats.
#[test]
fn equal_splits_of_a_file_are_even_to_within_one() {
    for slots in 1..20 {
        let placement = Placement::new(1, seats(&vec![5; slots]));
        for count in 0..200 {
            let found = counts(
                &placement.assign(&file(count, &vec![100; usize::try_from(count).unwrap()]), 1),
                slots,
            );
            assert!(
                found.iter().max().unwrap() - found.iter().min().unwrap() <= 1,
                "{slots} {count}: {found:?}"
            );
        }
    }
}

/// "adding a slot at the end moves its share to it and nothing else"; "vacating one more moves its share and
/// nothing else"; "who takes the slot vacated last gets back just that".
#[test]
fn joins_and_leaves_move_nothing_between_others() {
    for number in 0..200 {
        let sizes: Vec<u64> = (0..49).map(|index| 1000 + key::mix(number, index) % 1000).collect();
        let splits = file(number, &sizes);
        let mut now = seats(&[3, 4, 5, 5, 6]);
        let mut before = Placement::new(1, now.clone()).assign(&splits, 1);
        for step in 0..12 {
            let id: NodeId = format!("node-{}", key::mix(number, step) % 8).parse().unwrap();
            let (slot, joined) = match now.slot_of(&id) {
                Some(slot) if now.len() > 1 => {
                    now.leave(&id);
                    (slot, false)
                }
                _ if now.vacant().is_empty() => (now.join(Seat { id, weight: 4 }).unwrap(), true),
                _ => {
                    let last = now.slots()[to_usize(*now.vacant().last().unwrap())].clone();
                    (now.join(last).unwrap(), true)
                }
            };
            let after = Placement::new(1, now.clone()).assign(&splits, 1);
            for (old, new) in before.iter().zip(after.iter()) {
                let moved = if joined { new[0] } else { old[0] };
                assert!(old == new || moved == slot, "{old:?} {new:?} {slot} {now:?}");
            }
            before = after;
        }
    }
}

#[test]
fn no_seats_no_owners() {
    let placement = Placement::new(1, Seats::default());
    let assignment = placement.assign(&file(1, &[1, 2, 3]), 2);
    assert_eq!(assignment.len(), 3);
    assert!(assignment.iter().all(<[u32]>::is_empty));
    assert!(placement.ranked(1, 3).is_empty());
    assert!(Placement::new(1, seats(&[1])).assign(&[], 1).is_empty());
}

#[test]
fn owners_are_distinct_and_as_many_as_asked() {
    for slots in 1..12 {
        let mut now = seats(&vec![1; slots]);
        if slots > 2 {
            now.leave(&"node-1".parse().unwrap());
        }
        let placement = Placement::new(1, now);
        for replicas in 0..6 {
            let assignment = placement.assign(&file(9, &[5; 40]), replicas);
            for owners in assignment.iter() {
                let mut distinct = owners.to_vec();
                distinct.sort_unstable();
                distinct.dedup();
                assert_eq!(distinct.len(), replicas.max(1).min(placement.seats().len()));
                assert!(distinct.iter().all(|slot| placement.seat(*slot).is_some()));
            }
        }
    }
}

/// One split goes the way of many.
#[test]
fn a_single_split_is_no_special_case() {
    let mut now = seats(&[3, 1, 4, 1, 5, 9, 2, 6]);
    for id in ["node-2", "node-5", "node-0"] {
        now.leave(&id.parse().unwrap());
    }
    let table = Table::new(&now);
    for number in 0..5000 {
        let splits = file(number, &[7]);
        let (mut one, mut many) = (Vec::new(), Vec::new());
        FilePlacer::new(&table).place(&splits, &mut one);
        FilePlacer::new(&table).place_many(splits[0].file, &splits, &mut many);
        assert_eq!(one, many);
    }
}

/// Single splits balance over datasets by weight, vacancies or not.
#[test]
fn many_datasets_of_one_split_balance() {
    let mut now = seats(&[1, 2, 3, 4, 2]);
    for _ in 0..2 {
        let placement = Placement::new(1, now.clone());
        let mut found = [0_u64; 5];
        for number in 0..40_000 {
            found[to_usize(placement.assign(&file(number, &[10]), 1).owner(0).unwrap())] += 1;
        }
        let all: u64 = now.taken().map(|(_, seat)| seat.weight).sum();
        for (slot, seat) in now.taken() {
            let share = 40_000 * seat.weight / all;
            assert!(found[to_usize(slot)].abs_diff(share) < 500, "{found:?}");
        }
        now.leave(&"node-3".parse().unwrap());
    }
}

/// Nine eighths of a share and a largest split, whatever the files.
#[test]
fn datasets_of_small_files_are_bounded() {
    for number in 0..300 {
        let splits: Vec<SplitLoad> = (0..60).flat_map(|part| file(number * 100 + part, &[10])).collect();
        let found = counts(&Placement::new(1, seats(&[1; 4])).assign(&splits, 1), 4);
        assert!(found.iter().all(|count| *count <= 17), "{found:?}");
    }
}

/// Small files favour no slot much, early or late, heavy or light: within so many percent of its share.
#[test]
fn files_of_few_splits_balance_over_datasets() {
    const FILES: u64 = 20_000;
    for (heaviest, each, limit) in [
        (1, 2, 15),
        (1, 3, 15),
        (1, 8, 10),
        (1, 30, 10),
        (3, 2, 35),
        (3, 8, 20),
        (3, 30, 10),
    ] {
        let weights: Vec<u64> = (0..40).map(|slot| 1 + slot % heaviest).collect();
        let whole: u64 = weights.iter().sum();
        let placement = Placement::new(1, seats(&weights));
        let mut found = [0_u64; 40];
        for number in 0..FILES {
            for owners in placement.assign(&file(number, &vec![10; each]), 1).iter() {
                found[to_usize(owners[0])] += 1;
            }
        }
        let off = |(slot, weight): (usize, &u64)| {
            let share = FILES * u64::try_from(each).unwrap() * weight / whole;
            100 * found[slot].abs_diff(share) / share
        };
        let worst = weights.iter().enumerate().map(off).max().unwrap();
        println!("{each} splits, weights 1 to {heaviest}: off by {worst} %");
        assert!(worst <= limit, "{each} {heaviest}: {worst} %");
    }
}

/// Writes or checks `testdata/placement.json`, which other implementations check themselves against.
#[test]
fn vectors_hold() {
    // Where tests run, whichever copy of the sources they were built from.
    let path = "testdata/placement.json";
    let found = vectors();
    if std::env::var_os("WRITE_VECTORS").is_some() {
        std::fs::write(path, serde_json::to_string_pretty(&found).unwrap() + "\n").unwrap();
    }
    let written = std::fs::read_to_string(path).unwrap();
    // Keys are in any order: which one depends on what else is built into this program.
    assert_eq!(serde_json::from_str::<serde_json::Value>(&written).unwrap(), found);
}

fn vectors() -> serde_json::Value {
    use serde_json::json;
    let uri = crate::UfsUri::parse("s3://bucket/lineitem/part-0.parquet").unwrap();
    let key = FileKey::of(&uri);
    let keys =
        json!({ "uri": uri.as_str(), "file": key.0, "splits": [key.split(0).0, key.split(1).0, key.split(1000).0] });
    let mut cases = Vec::new();
    let layouts: [(Vec<u64>, Vec<u32>); 6] = [
        (vec![1; 3], vec![]),
        (vec![1; 4], vec![1]),
        (vec![3 << 40, 1 << 40, 2 << 40, 5 << 40, (7 << 40) + 12345], vec![3, 0]),
        (vec![0, 10, 20, 30, 40, 50, 60, 70, 80, 90, 100], vec![10, 2, 7]),
        (vec![u64::MAX, 1, u64::MAX / 2], vec![]),
        ((0..50).map(|slot| 100 + slot % 7).collect(), vec![49, 3, 20]),
    ];
    for (number, (weights, vacant)) in (0..).zip(layouts) {
        let slots = seats(&weights).slots().to_vec();
        let placement = Placement::new(1, Seats::from_parts(slots, vacant.clone()).unwrap());
        let sized = |count: u32| -> Vec<u64> { (0..count).map(|at| 1000 + key::mix(number, at) % 1000).collect() };
        for files in [
            vec![vec![64; 49]],
            vec![sized(20)],
            vec![sized(3), sized(1), sized(90), vec![0, u64::MAX]],
            vec![vec![9]; 30],
        ] {
            let dataset = |(at, sizes): (u64, &Vec<u64>)| file(number * 1000 + at, sizes);
            let splits: Vec<_> = (0..).zip(&files).flat_map(dataset).collect();
            let owners: Vec<Vec<u32>> = placement.assign(&splits, 3).iter().map(<[u32]>::to_vec).collect();
            let splits: Vec<_> = splits
                .iter()
                .map(|split| json!([split.file.0, split.index, split.bytes]))
                .collect();
            cases.push(json!({ "weights": weights, "vacant": vacant, "splits": splits, "owners": owners }));
        }
    }
    let placement = Placement::new(1, seats(&[5, 1, 4, 1, 3]));
    let ranked: Vec<_> = (0..20)
        .map(|at| key::mix(5, at))
        .map(|key| json!([key, placement.ranked(key, 4)]))
        .collect();
    json!({ "keys": keys, "ranked": { "weights": [5, 1, 4, 1, 3], "cases": ranked }, "assign": cases })
}
