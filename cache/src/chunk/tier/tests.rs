//! What is admitted, held, evicted and foretold to be kept.

use arrow::array::Int64Array;

use super::*;
use crate::key::{Generation, RowGroup};
use crate::retention::{Quota, Retention, Rule};

fn file() -> FileKey {
    let generation = Generation::parse("etag:x").unwrap();
    FileKey {
        uri: "s3://b/a".into(),
        generation,
        size: 1,
    }
}

fn key(column: u32) -> ChunkKey {
    ChunkKey {
        file: file().id(),
        row_group: RowGroup(0),
        column,
        leaves: 0,
    }
}

fn place(chunks: &ChunkTier, bytes: u64) -> Option<Place> {
    chunks.place(&key(0), &file(), bytes, Reread::Unknown)
}

fn column(rows: usize) -> Vec<ArrayRef> {
    vec![Arc::new(Int64Array::from(vec![1; rows]))]
}

/// Touches the key and, where it is placed, fills it with that many rows of eight bytes.
fn offer(chunks: &ChunkTier, key: ChunkKey, rows: usize) -> bool {
    let place = chunks.place(&key, &file(), u64::try_from(rows * 8).unwrap(), Reread::Unknown);
    place.map(|place| place.fill(column(rows))).is_some()
}

#[test]
fn the_second_touch_is_kept() {
    let budget = Budget::new(1 << 20);
    let chunks = ChunkTier::new(1 << 19, budget.clone(), Retentions::default());
    assert!(!offer(&chunks, key(0), 100));
    assert!(!chunks.contains(&key(0)));
    assert!(offer(&chunks, key(0), 100));
    assert_eq!(chunks.get(&key(0)).unwrap().strides[0].len(), 100);
    assert_eq!(chunks.held(key(0).file), [(key(0), 800)]);
    assert_eq!((chunks.bytes(), budget.used_bytes(Purpose::Chunks)), (800, 800));
    assert_eq!(chunks.remove_file(key(0).file), 800);
    assert_eq!((chunks.bytes(), chunks.files(&HashSet::new()).len()), (0, 0));
}

#[test]
fn a_place_that_is_not_filled_is_given_back() {
    let budget = Budget::new(1 << 20);
    let chunks = ChunkTier::new(1 << 19, budget.clone(), Retentions::default());
    assert!(place(&chunks, 1_000).is_none());
    let placed = place(&chunks, 1_000).unwrap();
    assert_eq!(budget.used_bytes(Purpose::Chunks), 1_000);
    assert!(place(&chunks, 1_000).is_none(), "it is on its way");
    drop(placed);
    assert_eq!(budget.used_bytes(Purpose::Chunks), 0);
    assert!(place(&chunks, 1_000).is_some());
}

#[test]
fn what_turns_out_larger_than_expected_is_charged_as_it_is() {
    let budget = Budget::new(1 << 20);
    let chunks = ChunkTier::new(1 << 19, budget.clone(), Retentions::default());
    assert!(place(&chunks, 8).is_none());
    let chunk = place(&chunks, 8).unwrap().fill(column(1_000));
    assert_eq!((chunk.bytes, budget.used_bytes(Purpose::Chunks)), (8_000, 8_000));
    assert!(chunks.contains(&key(0)));
}

/// The first place was lost to others before it was filled, so that the same column has a second one.
#[test]
fn a_chunk_that_comes_twice_is_held_and_counted_once() {
    let budget = Budget::new(1 << 20);
    let chunks = ChunkTier::new(1 << 16, budget.clone(), Retentions::default());
    assert!(place(&chunks, 8).is_none());
    let first = place(&chunks, 8).unwrap();
    chunks.give_way(u64::MAX);
    let second = place(&chunks, 8).unwrap();
    // The later one is more than the tier has room for.
    let given = (second.fill(column(1_000)), first.fill(column(10_000)));
    assert_eq!(chunks.0.state.lock().policy.bytes(), 8_000);
    chunks.give_way(u64::MAX);
    assert!(!chunks.contains(&key(0)));
    drop(given);
    assert_eq!(budget.used_bytes(Purpose::Chunks), 0);
}

#[test]
fn scans_get_the_memory_of_chunks() {
    let budget = Budget::new(10_000);
    let chunks = ChunkTier::new(8_000, budget.clone(), Retentions::default());
    budget.register(Arc::new(chunks.clone()));
    for column in 0..4 {
        offer(&chunks, key(column), 200);
        assert!(offer(&chunks, key(column), 200));
    }
    assert_eq!(chunks.bytes(), 6_400);
    let _scan = budget.take(6_000, Purpose::Scans).unwrap();
    assert!(chunks.bytes() <= 4_000, "{}", chunks.bytes());
}

#[test]
fn chunks_that_a_reader_holds_do_not_stop_others_from_giving_way() {
    let budget = Budget::new(10_000);
    let chunks = ChunkTier::new(8_000, budget.clone(), Retentions::default());
    budget.register(Arc::new(chunks.clone()));
    for column in 0..4 {
        offer(&chunks, key(column), 200);
        assert!(offer(&chunks, key(column), 200));
    }
    let held: Vec<_> = [0, 1].map(|column| chunks.get(&key(column))).into_iter().collect();
    assert!(budget.take(6_500, Purpose::Scans).is_some());
    drop(held);
}

fn sought(column: u32, decoded_bytes: u64, terms: Terms) -> Sought {
    Sought {
        key: key(column),
        terms,
        decoded_bytes,
        stored_bytes: 1,
        comes_later: false,
    }
}

#[test]
fn the_first_touch_of_a_reader_that_comes_again_is_kept_as_far_as_rules_allow() {
    let retentions = Retentions::default();
    let chunks = ChunkTier::new(1 << 19, Budget::new(1 << 20), retentions.clone());
    let foretold = |column| chunks.place(&key(column), &file(), 800, Reread::Foretold);
    let _ = foretold(0).expect("it will be read again").fill(column(100));
    assert!(chunks.contains(&key(0)));
    assert!(!offer(&chunks, key(1), 100), "of others nothing is known");
    let never = Rule::new("**", Keep::Never).unwrap();
    retentions.set(vec![Retention {
        uri: "s3://b".to_owned(),
        rules: vec![never],
        ..Retention::default()
    }]);
    assert!(foretold(2).is_none(), "a rule forbids it");
}

#[test]
fn chunks_are_warm_that_are_held_on_their_way_or_would_be_kept() {
    let chunks = ChunkTier::new(1 << 19, Budget::new(1 << 20), Retentions::default());
    let three = [0, 1, 2].map(|column| sought(column, 800, Terms::default()));
    for _ in 0..2 {
        assert_eq!(chunks.warm_bytes(&three), 0);
    }
    chunks.pass(&three[..2]);
    assert_eq!(chunks.warm_bytes(&three), 2);
    let later = three.map(|sought| Sought {
        comes_later: true,
        ..sought
    });
    assert_eq!(chunks.warm_bytes(&later), 0, "they are decoded without a reader");
    assert!(offer(&chunks, key(0), 100), "it is the second touch");
    let on_its_way = chunks.place(&key(1), &file(), 800, Reread::Unknown).unwrap();
    assert_eq!(chunks.warm_bytes(&three), 2);
    assert_eq!(chunks.warm_bytes(&later), 2);
    // Neither is touched by it, and the third for the first time.
    chunks.pass(&three);
    assert_eq!(chunks.warm_bytes(&three), 3);
    drop(on_its_way);
    assert_eq!(chunks.warm_bytes(&three), 3);
}

#[test]
fn rules_decide_what_would_be_kept() {
    let chunks = ChunkTier::new(8_000, Budget::new(1 << 20), Retentions::default());
    let kept = |keep| Terms {
        keep,
        ..Terms::default()
    };
    let pinned = Terms {
        pinned_decoded: true,
        ..Terms::default()
    };
    let never = sought(0, 800, kept(Keep::Never));
    let too_large = sought(1, 2_001, Terms::default());
    for _ in 0..3 {
        assert_eq!(chunks.warm_bytes(&[never, too_large]), 0);
        chunks.pass(&[never, too_large]);
    }
    assert_eq!(chunks.warm_bytes(&[sought(2, 800, kept(Keep::AtOnce))]), 1);
    assert_eq!(chunks.warm_bytes(&[sought(3, 800, pinned)]), 1);
}

#[test]
fn no_more_would_be_kept_than_there_is_room_for() {
    let quota = |bytes| Terms {
        quota: Some(Quota { scope: 1, bytes }),
        ..Terms::default()
    };
    for (terms, room) in [(Terms::default(), 10), (quota(1_700), 2), (quota(100), 0)] {
        let chunks = ChunkTier::new(8_000, Budget::new(1 << 20), Retentions::default());
        let many: Vec<Sought> = (0..20).map(|column| sought(column, 800, terms)).collect();
        chunks.pass(&many);
        assert_eq!(chunks.warm_bytes(&many), room, "{terms:?}");
    }
}

/// Else it would be decoded here for each reader anew, and kept for none.
#[test]
fn what_the_policy_would_refuse_is_not_warm_until_it_is_worth_more_than_what_is_held() {
    let chunks = ChunkTier::new(8_000, Budget::new(1 << 20), Retentions::default());
    for column in 0..10 {
        offer(&chunks, key(column), 100);
        assert!(offer(&chunks, key(column), 100));
    }
    let newcomer = [sought(20, 800, Terms::default())];
    let refused = (0..40).take_while(|_| {
        chunks.pass(&newcomer);
        chunks.warm_bytes(&newcomer) == 0
    });
    assert!((2..40).contains(&refused.count()));
    assert!(offer(&chunks, key(20), 100), "it is kept as foretold");
}
