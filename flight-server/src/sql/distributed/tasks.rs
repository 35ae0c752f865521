//! Which piece of a scan goes to which task, and which task to which worker.
//!
//! A piece goes to the first of its owners that is in the crew: its owner, else a replica. One that has nobody there
//! goes to whoever has least to do, and is read from storage or from nodes that still hold it. The answer depends on
//! the crew and the pieces alone, so it is found again when tasks are sent and when a plan is explained.

use std::collections::BTreeSet;

use super::crew::Crew;

/// A piece as it counts here: its owners, best first, and its bytes.
pub type Load<'a> = (&'a [String], u64);

/// How many tasks a scan of these pieces is worth: one for each worker that holds some of it.
pub fn wanted<'a>(crew: &Crew, pieces: impl IntoIterator<Item = Load<'a>>) -> usize {
    let homes: BTreeSet<usize> = pieces
        .into_iter()
        .filter_map(|(owners, _)| home(crew, owners))
        .collect();
    homes.len().max(1)
}

/// The pieces of each of so many tasks, by their numbers, ascending. Task `n` is for worker `n` where there are as many
/// tasks as workers; where there are fewer, the workers with pieces have them in their order, and those left over are
/// spread among them.
pub fn shares(crew: &Crew, pieces: &[Load<'_>], tasks: usize) -> Vec<Vec<usize>> {
    let tasks = tasks.max(1);
    let homes: Vec<Option<usize>> = pieces.iter().map(|(owners, _)| home(crew, owners)).collect();
    let chosen: Vec<usize> = if tasks >= crew.len() {
        (0..tasks).collect()
    } else {
        largest(&homes, pieces, tasks)
    };
    let mut shares: Vec<(u64, Vec<usize>)> = vec![(0, Vec::new()); tasks];
    let task_of = |home: &Option<usize>| home.and_then(|home| chosen.iter().position(|&worker| worker == home));
    let mut left = Vec::new();
    for (piece, home) in homes.iter().enumerate() {
        match task_of(home) {
            Some(task) => give(&mut shares[task], piece, pieces[piece].1),
            None => left.push(piece),
        }
    }
    // Only workers take what nobody has: further tasks than those are there for other parts of their stage.
    let takers = tasks.min(crew.len().max(1));
    for piece in left {
        let lightest = (0..takers).min_by_key(|&task| shares[task].0).unwrap_or(0);
        give(&mut shares[lightest], piece, pieces[piece].1);
    }
    shares
        .into_iter()
        .map(|(_, mut pieces)| {
            pieces.sort_unstable();
            pieces
        })
        .collect()
}

/// The position in the crew of the worker of each task, given the pieces that each task has: the one that holds most of
/// them. Tasks that hold nothing take those that are free, by order.
pub fn homes(crew: &Crew, tasks: &[Vec<Load<'_>>]) -> Vec<usize> {
    let count = crew.len().max(1);
    if tasks.len() >= count {
        return (0..tasks.len()).map(|task| task % count).collect();
    }
    let best: Vec<Option<usize>> = tasks.iter().map(|pieces| most(crew, pieces)).collect();
    let taken: BTreeSet<usize> = best.iter().flatten().copied().collect();
    let mut free = (0..count).filter(|worker| !taken.contains(worker));
    best.into_iter()
        .map(|best| best.or_else(|| free.next()).unwrap_or(0))
        .collect()
}

/// The pieces of each partition of a task, by their positions, ascending: of about equal bytes.
pub fn partitions(bytes: &[u64], count: usize) -> Vec<Vec<usize>> {
    let mut parts: Vec<(u64, Vec<usize>)> = vec![(0, Vec::new()); count.max(1)];
    let mut order: Vec<usize> = (0..bytes.len()).collect();
    order.sort_by_key(|&piece| std::cmp::Reverse(bytes[piece]));
    for piece in order {
        if let Some(lightest) = parts.iter_mut().min_by_key(|(total, pieces)| (*total, pieces.len())) {
            give(lightest, piece, bytes[piece]);
        }
    }
    parts
        .into_iter()
        .map(|(_, mut pieces)| {
            pieces.sort_unstable();
            pieces
        })
        .collect()
}

/// The worker that a piece belongs to.
fn home(crew: &Crew, owners: &[String]) -> Option<usize> {
    owners.iter().find_map(|id| crew.position(id))
}

/// The worker that most bytes of these pieces belong to; none where nobody has any.
pub fn most(crew: &Crew, pieces: &[Load<'_>]) -> Option<usize> {
    let mut held = vec![0u64; crew.len()];
    let mut any = false;
    for &(owners, bytes) in pieces {
        if let Some(home) = home(crew, owners) {
            // A piece without bytes counts too: its rows are there.
            held[home] = held[home].saturating_add(bytes.max(1));
            any = true;
        }
    }
    let best = (0..held.len()).max_by_key(|&worker| (held[worker], std::cmp::Reverse(worker)));
    best.filter(|_| any)
}

/// The workers with most bytes, at most so many, by their order.
fn largest(homes: &[Option<usize>], pieces: &[Load<'_>], count: usize) -> Vec<usize> {
    let mut held: Vec<(u64, usize)> = Vec::new();
    for (home, &(_, bytes)) in homes.iter().zip(pieces) {
        let Some(home) = *home else { continue };
        match held.iter_mut().find(|(_, worker)| *worker == home) {
            Some((total, _)) => *total = total.saturating_add(bytes),
            None => held.push((bytes, home)),
        }
    }
    held.sort_by_key(|&(bytes, worker)| (std::cmp::Reverse(bytes), worker));
    held.truncate(count);
    let mut workers: Vec<usize> = held.into_iter().map(|(_, worker)| worker).collect();
    workers.sort_unstable();
    workers
}

fn give(share: &mut (u64, Vec<usize>), piece: usize, bytes: u64) {
    share.0 = share.0.saturating_add(bytes);
    share.1.push(piece);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::crew::tests::crew;
    use super::*;

    fn owners(ids: &[&str]) -> Vec<String> {
        ids.iter().map(|id| (*id).to_owned()).collect()
    }

    #[test]
    fn each_piece_goes_to_its_owner_and_without_him_to_a_replica() {
        let (a, b, c) = (owners(&["a", "b"]), owners(&["b", "c"]), owners(&["c", "a"]));
        let pieces: Vec<Load<'_>> = vec![(&a, 10), (&b, 10), (&c, 10), (&a, 5)];
        let all = crew(&["a", "b", "c"]);
        assert_eq!(wanted(&all, pieces.iter().copied()), 3);
        assert_eq!(shares(&all, &pieces, 3), [vec![0, 3], vec![1], vec![2]]);
        let without_a = crew(&["b", "c"]);
        assert_eq!(shares(&without_a, &pieces, 2), [vec![0, 1, 3], vec![2]]);
    }

    #[test]
    fn what_nobody_of_the_crew_owns_goes_to_who_has_least_to_do() {
        let (a, gone) = (owners(&["a"]), owners(&["gone"]));
        let pieces: Vec<Load<'_>> = vec![(&a, 100), (&gone, 60), (&gone, 60), (&[], 1)];
        let crew = crew(&["a", "b"]);
        assert_eq!(shares(&crew, &pieces, 2), [vec![0, 3], vec![1, 2]]);
        assert_eq!(shares(&crew, &pieces, 1), [vec![0, 1, 2, 3]]);
    }

    #[test]
    fn fewer_tasks_than_workers_go_to_those_who_hold_the_data() {
        let (b, d) = (owners(&["b"]), owners(&["d"]));
        let pieces: Vec<Load<'_>> = vec![(&d, 10), (&b, 20), (&d, 10)];
        let crew = crew(&["a", "b", "c", "d"]);
        assert_eq!(wanted(&crew, pieces.iter().copied()), 2);
        let shared = shares(&crew, &pieces, 2);
        assert_eq!(shared, [vec![1], vec![0, 2]]);
        let loads = |share: &Vec<usize>| share.iter().map(|&piece| pieces[piece]).collect();
        assert_eq!(homes(&crew, &shared.iter().map(loads).collect::<Vec<_>>()), [1, 3]);
        // One that holds nothing takes a worker that is free.
        assert_eq!(homes(&crew, &[vec![], vec![pieces[1]], vec![]]), [0, 1, 2]);
    }

    #[test]
    fn a_task_reads_in_partitions_of_about_equal_bytes() {
        assert_eq!(partitions(&[5, 1, 4, 2], 2), [vec![0, 1], vec![2, 3]]);
        assert_eq!(partitions(&[], 3), [vec![], vec![], Vec::<usize>::new()]);
        assert_eq!(partitions(&[0, 0, 0], 2), [vec![0, 2], vec![1]]);
    }

    proptest! {
        #[test]
        fn every_piece_is_read_once_and_at_its_owner(
            ids in prop::collection::vec(prop::collection::vec("[a-f]", 0..3), 0..40),
            sizes in prop::collection::vec(0u64..1000, 40),
            members in prop::collection::btree_set("[a-f]", 1..6),
            tasks in 1usize..8,
        ) {
            let members: Vec<&str> = members.iter().map(String::as_str).collect();
            let crew = crew(&members);
            let pieces: Vec<Load<'_>> = ids.iter().map(Vec::as_slice).zip(sizes).collect();
            let shared = shares(&crew, &pieces, tasks);
            prop_assert_eq!(shared.len(), tasks);
            let mut seen: Vec<usize> = shared.iter().flatten().copied().collect();
            seen.sort_unstable();
            prop_assert_eq!(seen, (0..pieces.len()).collect::<Vec<_>>());
            if tasks >= wanted(&crew, pieces.iter().copied()) {
                let loads = |share: &Vec<usize>| share.iter().map(|&piece| pieces[piece]).collect::<Vec<_>>();
                let chosen = homes(&crew, &shared.iter().map(loads).collect::<Vec<_>>());
                for (share, worker) in shared.iter().zip(chosen) {
                    for &piece in share {
                        if let Some(own) = home(&crew, pieces[piece].0) {
                            prop_assert_eq!(worker, own, "piece {} is read elsewhere", piece);
                        }
                    }
                }
            }
        }
    }
}
