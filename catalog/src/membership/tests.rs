//! Scenarios as lists of what happens, as one node sees them.

use super::*;
use crate::placement::FileKey;

const HOUR: u64 = 3600;

/// One node and a store that does what it proposes.
struct One {
    membership: Membership,
    now: Time,
    revision: u64,
    epochs: Vec<u64>,
}

fn id(name: &str) -> NodeId {
    name.parse().unwrap()
}

fn member(name: &str, weight: u64, state: Readiness) -> Member {
    Member {
        id: id(name),
        generation: 1,
        addresses: vec![format!("grpc://{name}:1")],
        host: String::new(),
        weight,
        role: Role::Worker,
        state,
        grace_ms: None,
    }
}

impl One {
    /// A node that watches, and is none of those that it is told of.
    fn new() -> Self {
        Self::of("watcher")
    }

    fn of(name: &str) -> Self {
        let mut membership = Membership::new(id(name), 1, Settings::default());
        membership.handle(Time::ZERO, Event::Listed(Listing::default()));
        Self {
            membership,
            now: Time::ZERO,
            revision: 0,
            epochs: Vec::new(),
        }
    }

    fn handle(&mut self, event: Event) {
        self.membership.handle(self.now, event);
    }

    fn put(&mut self, name: &str, weight: u64, state: Readiness) {
        self.handle(Event::Member(member(name, weight, state)));
    }

    fn up(&mut self, name: &str) {
        self.put(name, 10, Readiness::Serving);
        self.handle(Event::Alive(id(name), 1));
    }

    fn down(&mut self, name: &str) {
        self.handle(Event::Lapsed(id(name)));
    }

    /// Lets time pass in steps of a quarter of a second; what is proposed is put.
    fn pass(&mut self, seconds: u64) {
        for _ in 0..seconds * 4 {
            self.now += Duration::from_millis(250);
            self.membership.tick(self.now);
            if let Some(proposal) = self.membership.proposal(self.now) {
                self.revision += 1;
                self.epochs.push(proposal.document.epoch);
                self.handle(Event::Document(proposal.document, self.revision));
            }
        }
    }

    fn seats(&mut self) -> Vec<String> {
        let view = self.membership.view();
        view.placement
            .seats()
            .taken()
            .map(|(_, seat)| seat.id.to_string())
            .collect()
    }

    fn status(&mut self, name: &str) -> Status {
        self.membership.view().members[&id(name)].status
    }
}

fn three() -> One {
    three_seen_by("watcher")
}

fn three_seen_by(name: &str) -> One {
    let mut one = One::of(name);
    for name in ["a", "b", "c"] {
        one.up(name);
        one.now += Duration::from_millis(400);
    }
    one.pass(5);
    one
}

#[test]
fn a_cluster_that_starts_together_gets_one_epoch() {
    let mut one = three();
    assert_eq!(
        (one.seats(), one.epochs.clone()),
        (vec!["a".into(), "b".into(), "c".into()], vec![1])
    );
}

#[test]
fn a_node_leaves_its_own_seat_to_others_unless_it_is_alone() {
    let mut one = One::of("a");
    one.up("b");
    one.pass(5);
    one.up("a");
    one.pass(60);
    assert_eq!(one.seats(), ["b"]);
    one.down("b");
    one.pass(5);
    assert_eq!(one.seats(), ["b", "a"]);
}

#[test]
fn a_lost_worker_keeps_its_seat_for_the_grace_period() {
    let mut one = three();
    one.down("b");
    assert_eq!(one.status("b"), Status::Lost);
    one.pass(299);
    assert_eq!((one.seats().len(), one.epochs.len()), (3, 1));
    one.pass(4);
    assert_eq!(one.seats(), ["a", "c"]);
    one.up("b");
    one.pass(5);
    assert_eq!(one.membership.view().members[&id("b")].slot, Some(1));
    assert_eq!(one.epochs, [1, 2, 3]);
}

#[test]
fn a_workers_own_grace_is_what_counts_whatever_the_others_have() {
    let mut one = three();
    let with_grace = |name: &str, grace_ms: u64| {
        Event::Member(Member {
            grace_ms: Some(grace_ms),
            ..member(name, 10, Readiness::Serving)
        })
    };
    one.handle(with_grace("a", 2_000));
    one.handle(with_grace("b", 900_000));
    one.down("b");
    one.down("c");
    one.pass(310);
    assert_eq!(one.seats(), ["a", "b"]);
    one.pass(570);
    assert_eq!(one.seats(), ["a", "b"]);
    one.pass(30);
    assert_eq!(one.seats(), ["a"]);
}

#[test]
fn a_record_with_the_usual_grace_is_one_that_earlier_nodes_read() {
    let usual = member("a", 10, Readiness::Serving);
    let text = String::from_utf8(usual.encode().unwrap()).unwrap();
    assert!(!text.contains("grace"), "{text}");
    assert_eq!(Member::decode(text.as_bytes()).unwrap(), usual);
    let own = Member {
        grace_ms: Some(2_000),
        ..usual
    };
    assert_eq!(Member::decode(&own.encode().unwrap()).unwrap(), own);
}

#[test]
fn who_flaps_each_second_changes_nothing() {
    let mut one = three();
    for _ in 0..600 {
        one.down("c");
        one.pass(1);
        one.handle(Event::Alive(id("c"), 1));
        one.pass(1);
    }
    assert_eq!(one.epochs, [1]);
    for _ in 0..600 {
        one.up("d");
        one.pass(2);
        one.down("d");
        one.pass(1);
    }
    assert!(one.epochs.len() <= 2, "{:?}", one.epochs);
    for weight in 0..600 {
        one.put("a", weight, Readiness::Serving);
        one.pass(1);
    }
    assert!(one.epochs.len() <= 4, "{:?}", one.epochs);
}

#[test]
fn a_draining_worker_is_not_named_and_a_leaving_one_has_no_seat() {
    let mut one = three();
    one.put("b", 10, Readiness::Draining);
    one.pass(200);
    let view = one.membership.view();
    let key = FileKey(1).split(0);
    for owners in [[0, 1], [1, 0], [1, 2]] {
        let named = view.locations(&owners, key);
        assert!(named.len() == 1 && named[0].id != id("b"), "{named:?}");
    }
    assert_eq!(one.epochs, [1]);
    one.put("b", 10, Readiness::Leaving);
    one.pass(1);
    assert_eq!(
        (one.seats(), one.epochs.clone()),
        (vec!["a".into(), "c".into()], vec![1, 2])
    );
}

#[test]
fn the_living_are_named_before_suspects_and_the_lost_not_at_all() {
    let mut one = three();
    let key = FileKey(1).split(0);
    let names = |one: &mut One, owners: &[u32]| -> Vec<String> {
        let view = one.membership.view();
        view.locations(owners, key)
            .iter()
            .map(|member| member.id.to_string())
            .collect()
    };
    assert_eq!(names(&mut one, &[1, 0]), ["b", "a"]);
    one.membership.reported_unreachable(one.now, &id("b"));
    assert_eq!(names(&mut one, &[1, 0]), ["a", "b"]);
    assert_eq!(names(&mut one, &[1]).len(), 2);
    one.pass(11);
    assert_eq!(names(&mut one, &[1, 0]), ["b", "a"]);
    one.down("b");
    assert_eq!(names(&mut one, &[1, 0]), ["a"]);
    assert_eq!(names(&mut one, &[1]).len(), 1);
}

#[test]
fn while_the_store_is_away_nothing_is_concluded() {
    let mut one = three_seen_by("a");
    one.handle(Event::StoreAway);
    one.pass(HOUR);
    assert_eq!((one.status("b"), one.epochs.len()), (Status::Serving, 1));
    // It is back with its data, without leases.
    let members = ["a", "b", "c"]
        .map(|name| member(name, 10, Readiness::Serving))
        .to_vec();
    let document = Some((one.membership.document.clone(), one.revision));
    one.handle(Event::Listed(Listing {
        members,
        alive: Vec::new(),
        document,
    }));
    assert_eq!(
        (one.status("b"), one.membership.standing()),
        (Status::Serving, Standing::Rejoin)
    );
    one.handle(Event::Alive(id("a"), 1));
    one.handle(Event::Alive(id("b"), 1));
    one.pass(7);
    assert_eq!((one.status("b"), one.status("c")), (Status::Serving, Status::Lost));
    assert_eq!((one.epochs.len(), one.membership.standing()), (1, Standing::Member));
}

#[test]
fn a_store_that_lost_its_data_is_told_again() {
    let mut one = three();
    let seats = one.seats();
    one.handle(Event::StoreAway);
    one.revision = 100;
    one.handle(Event::Listed(Listing::default()));
    one.pass(2);
    for name in ["a", "b", "c"] {
        one.up(name);
    }
    one.pass(20);
    assert_eq!((one.seats(), one.epochs.clone()), (seats, vec![1, 2]));
}

#[test]
fn another_process_under_this_identity_displaces_it() {
    let mut one = One::of("a");
    one.up("a");
    assert_eq!(one.membership.standing(), Standing::Member);
    one.handle(Event::Alive(id("a"), 2));
    assert_eq!(one.membership.standing(), Standing::Displaced { generation: 2 });
}

#[test]
fn a_coordinator_has_no_seat() {
    let mut one = One::new();
    let role = Role::Coordinator;
    one.handle(Event::Member(Member {
        role,
        ..member("a", 1, Readiness::Serving)
    }));
    one.handle(Event::Alive(id("a"), 1));
    one.pass(10);
    assert!(one.seats().is_empty() && one.epochs.is_empty());
    assert_eq!(one.status("a"), Status::Serving);
}

#[test]
fn there_are_no_more_members_than_may_be() {
    let mut one = One::new();
    for number in 0..=MAX_MEMBERS {
        one.handle(Event::Alive(id(&format!("n{number}")), 1));
    }
    assert_eq!((one.membership.nodes.len(), one.membership.ignored()), (MAX_MEMBERS, 1));
}

#[test]
fn records_of_the_long_lost_are_stale() {
    let mut one = three();
    one.down("b");
    one.pass(HOUR + 10);
    assert_eq!(one.membership.stale(), [id("b")]);
}

#[test]
fn earlier_owners_are_known() {
    let mut one = three();
    let splits: Vec<_> = (0..30)
        .map(|index| crate::SplitLoad {
            file: FileKey(9),
            index,
            bytes: 5,
        })
        .collect();
    let before = one.membership.view().placement.assign(&splits, 1);
    one.up("d");
    one.pass(5);
    let view = one.membership.view();
    let (after, earlier) = (view.placement.assign(&splits, 1), view.earlier_owners(&splits));
    let mut moved = 0;
    for split in 0..splits.len() {
        let was = view.earlier[0].seat(before.owner(split).unwrap()).unwrap();
        assert_eq!(earlier.of(split), [&was.id]);
        moved += u32::from(before.owner(split) != after.owner(split));
    }
    assert!((7..=8).contains(&moved), "{moved}");
}
