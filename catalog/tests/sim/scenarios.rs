//! What clusters go through.

use std::time::Duration;

use jetbridge_catalog::membership::{Readiness, Status};

use crate::cluster::Cluster;
use crate::random::Random;

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// A cluster whose workers start within a second of each other, after a while.
fn started(random: Random, workers: usize) -> Cluster {
    let mut cluster = Cluster::new(random);
    for part in 0..4 {
        for _ in 0..workers * (part + 1) / 4 - workers * part / 4 {
            cluster.start();
        }
        cluster.pass(seconds(1) / 4);
    }
    cluster.pass(seconds(30));
    cluster
}

fn seats(cluster: &mut Cluster) -> usize {
    cluster.views()[0].placement.seats().len()
}

#[test]
fn a_cluster_of_three_starts_in_one_epoch() {
    for seed in 0..50 {
        let mut cluster = started(Random::new(seed), 3);
        assert_eq!((seats(&mut cluster), cluster.store.epochs.len()), (3, 1), "seed {seed}");
        cluster.assert_all_agree();
    }
}

/// "a loss is noticed in under 10 s", by every node.
#[test]
fn a_loss_is_noticed_by_all() {
    let mut worst = Duration::ZERO;
    for seed in 0..30 {
        let mut random = Random::new(seed);
        let mut cluster = started(random.clone(), 12);
        let victim = usize::try_from(random.below(12)).unwrap();
        cluster.pass(Duration::from_millis(random.below(4000)));
        let id = cluster.nodes[victim].record.id.clone();
        cluster.kill(victim);
        let start = cluster.now;
        while cluster
            .views()
            .iter()
            .any(|view| view.members[&id].status != Status::Lost)
        {
            cluster.pass(seconds(1) / 4);
        }
        worst = worst.max(cluster.now - start);
        cluster.assert_all_agree();
    }
    println!("a loss was noticed by all of 12 nodes within {worst:?} in 30 runs");
    assert!(worst < seconds(10), "{worst:?}");
}

/// "a rolling restart must move nothing".
#[test]
fn a_rolling_restart_moves_no_seat() {
    let mut cluster = started(Random::of_test("a_rolling_restart_moves_no_seat"), 40);
    let before = cluster.store.epochs.len();
    for number in 0..40 {
        cluster.say(number, Readiness::Draining);
        cluster.pass(seconds(20));
        // Every third one dies without giving its lease back.
        if number % 3 == 0 {
            cluster.kill(number)
        } else {
            cluster.stop(number)
        }
        cluster.pass(seconds(10));
        cluster.restart(number);
        cluster.pass(seconds(15));
    }
    assert_eq!(cluster.store.epochs.len(), before);
    cluster.assert_all_agree();
    assert!(
        cluster.views()[0]
            .members
            .values()
            .all(|member| member.status == Status::Serving)
    );
}

/// "one that flaps each second does not change the epoch again and again".
#[test]
fn flapping_changes_no_epoch() {
    let mut cluster = started(Random::of_test("flapping_changes_no_epoch"), 20);
    let newcomer = cluster.start();
    cluster.stop(newcomer);
    let before = cluster.store.epochs.len();
    for second in 0..900 {
        for number in [3, newcomer] {
            if second % 2 == 0 {
                cluster.stop(number)
            } else {
                cluster.restart(number)
            }
        }
        cluster.pass(seconds(1));
    }
    let by_flapping = cluster.store.epochs.len() - before;
    println!("15 minutes of flapping each second: {by_flapping} epochs");
    assert!(by_flapping <= 1);
    cluster.pass(seconds(400));
    cluster.assert_all_agree();
    assert_eq!(seats(&mut cluster), 21);
}

/// Nodes cut off keep their view and propose nothing; the rest go on; all agree in the end.
#[test]
fn a_partition_heals() {
    let mut cluster = started(Random::of_test("a_partition_heals"), 30);
    let view = cluster.nodes[0].membership.view();
    for number in 0..10 {
        cluster.nodes[number].cut_off = true;
    }
    cluster.pass(seconds(120));
    let away = cluster.nodes[0].membership.view();
    assert!(away.members.values().all(|member| member.status == Status::Serving));
    assert_eq!(
        cluster.nodes[20]
            .membership
            .view()
            .members
            .values()
            .filter(|m| m.status == Status::Lost)
            .count(),
        10
    );
    for number in 0..10 {
        cluster.nodes[number].cut_off = false;
    }
    cluster.pass(seconds(60));
    cluster.assert_all_agree();
    assert_eq!(cluster.nodes[5].membership.view().epoch(), view.epoch());
    // A partition that outlasts the grace period costs the seats, and the same nodes get them back.
    for number in 0..10 {
        cluster.nodes[number].cut_off = true;
    }
    cluster.pass(seconds(400));
    assert_eq!(cluster.nodes[20].membership.view().placement.seats().len(), 20);
    for number in 0..10 {
        cluster.nodes[number].cut_off = false;
    }
    cluster.pass(seconds(120));
    cluster.assert_all_agree();
    let now = cluster.nodes[0].membership.view();
    assert_eq!(now.placement.seats(), view.placement.seats());
}

/// The store is away for longer than leases last: nobody is lost, and no epoch comes of it.
#[test]
fn a_store_away_changes_nothing() {
    let mut cluster = started(Random::of_test("a_store_away_changes_nothing"), 25);
    let before = cluster.store.epochs.len();
    cluster.store.away = true;
    cluster.pass(seconds(1000));
    assert!(
        cluster
            .views()
            .iter()
            .all(|view| view.members.values().all(|m| m.status == Status::Serving))
    );
    cluster.store.away = false;
    for _ in 0..60 {
        cluster.pass(seconds(1));
        let lost = |view: &jetbridge_catalog::View| view.members.values().any(|m| m.status == Status::Lost);
        assert!(!cluster.views().iter().any(lost), "lost {:?}", cluster.now);
    }
    assert_eq!(cluster.store.epochs.len(), before);
    cluster.assert_all_agree();
}

#[test]
fn a_second_process_of_a_node_is_refused() {
    let mut cluster = started(Random::of_test("a_second_process_of_a_node_is_refused"), 3);
    let twin = cluster.start();
    cluster.nodes[twin].record.id = cluster.nodes[0].record.id.clone();
    cluster.nodes[twin].record.generation = 9;
    cluster.restart(twin);
    cluster.pass(seconds(10));
    assert!(cluster.nodes[twin].refused.is_some() && cluster.nodes[0].running);
}

/// Joins, losses, restarts and partitions at random, then quiet.
fn storm(random: Random, workers: usize, steps: u64) {
    let mut random = random;
    let mut cluster = started(random.clone(), workers);
    for _ in 0..steps {
        let number = usize::try_from(random.below(u64::try_from(cluster.nodes.len()).unwrap())).unwrap();
        match random.below(6) {
            0 => drop(cluster.start()),
            1 => cluster.kill(number),
            2 if !cluster.nodes[number].running => cluster.restart(number),
            3 if cluster.nodes[number].running => cluster.say(number, Readiness::Leaving),
            4 => cluster.nodes[number].cut_off = true,
            _ => cluster.nodes[number].cut_off = false,
        }
        cluster.pass(Duration::from_millis(random.below(20_000)));
    }
    for node in &mut cluster.nodes {
        node.cut_off = false;
    }
    cluster.pass(seconds(1000));
    let last = cluster.store.epochs.len();
    cluster.pass(seconds(120));
    assert_eq!(cluster.store.epochs.len(), last, "an epoch after quiet");
    let grows = cluster.store.epochs.windows(2).all(|pair| pair[0].1 < pair[1].1);
    assert!(grows, "{:?}", cluster.store.epochs);
    cluster.assert_all_agree();
    println!(
        "{workers} workers and {steps} events: {last} epochs, {} late writes",
        cluster.store.conflicts
    );
}

#[test]
fn a_storm_of_everything_ends_in_agreement() {
    let mut random = Random::of_test("a_storm_of_everything_ends_in_agreement");
    for _ in 0..5 {
        storm(Random::new(random.next()), 20, 80);
    }
}

/// Thousands of nodes: they start, lose ten, get ten more.
fn many(workers: usize) {
    let mut cluster = started(Random::of_test("thousands_of_nodes"), workers);
    assert_eq!(seats(&mut cluster), workers);
    let begun = cluster.store.epochs.len();
    for number in 0..10 {
        cluster.kill(number * 7);
    }
    cluster.pass(seconds(20));
    for _ in 0..10 {
        cluster.start();
    }
    cluster.pass(seconds(10));
    cluster.assert_all_agree();
    let epochs = cluster.store.epochs.len();
    println!(
        "{workers} nodes: {begun} epochs to start, {} for ten joins, {} late writes",
        epochs - begun,
        cluster.store.conflicts
    );
    assert!(epochs <= begun + 3 && begun <= 4);
}

#[test]
fn hundreds_of_nodes() {
    many(300);
}

#[test]
#[ignore = "minutes"]
fn thousands_of_nodes() {
    many(2000);
}

#[test]
#[ignore = "minutes"]
fn long_storms_end_in_agreement() {
    let mut random = Random::of_test("long_storms_end_in_agreement");
    for _ in 0..20 {
        storm(Random::new(random.next()), 60, 400);
    }
}
