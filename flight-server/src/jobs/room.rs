//! What the workers' tiers have room for, before anything is loaded.
//!
//! Room is counted against what a tier can hold, not against what is free in it now: what a job asks for is worth more
//! than what happens to be there. Copies want workers besides room: more of them than there are workers do not fit either.

use std::collections::BTreeMap;

use serde::Serialize;

use super::board::NewTask;
use super::planner::Batch;
use super::record::{Failure, FailureKind};
use super::spec::JobSpec;
use crate::capacity::{self, Told};
use crate::error::ServiceError;
use crate::node::Node;

/// A tier is taken to hold this many hundredths of its size: pages and segments are rounded up.
const USABLE_PERCENT: u64 = 95;
/// Where as much is to be loaded as there is room for, tasks are cut for this many to fill a worker.
const TASKS_PER_ROOM: u64 = 16;
/// Workers that a refusal names.
const NAMED_WORKERS: usize = 5;

/// Which tiers a job fills.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Demand {
    /// Pages.
    pub raw: bool,
    /// Decoded chunks.
    pub decoded: bool,
}

/// What a job asks of a worker, and what that one can hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Need {
    /// The worker.
    pub id: String,
    /// Stored bytes.
    pub bytes: u64,
    /// Decoded bytes.
    pub decoded_bytes: u64,
    /// What its tier of pages holds; none where it was not asked or did not answer.
    pub raw_capacity_bytes: Option<u64>,
    /// What its tier of chunks holds.
    pub decoded_capacity_bytes: Option<u64>,
}

impl Need {
    fn fits(&self, demand: Demand) -> bool {
        let within = |needed: u64, capacity: Option<u64>| capacity.is_none_or(|capacity| needed <= usable(capacity));
        (!demand.raw || within(self.bytes, self.raw_capacity_bytes))
            && (!demand.decoded || within(self.decoded_bytes, self.decoded_capacity_bytes))
    }
}

/// What all tasks come to, by worker.
pub async fn needs<'a, P: 'a>(node: &Node, tasks: impl Iterator<Item = &'a NewTask<P>>) -> Vec<Need> {
    let mut sums: BTreeMap<String, (u64, u64)> = BTreeMap::new();
    for task in tasks {
        for worker in &task.workers {
            let sum = sums.entry(worker.clone()).or_default();
            *sum = (sum.0 + task.bytes, sum.1 + task.decoded_bytes);
        }
    }
    let capacities: BTreeMap<_, _> = capacity::capacities(node).await.into_iter().collect();
    let needs = sums.into_iter().map(|(id, (bytes, decoded_bytes))| {
        let capacity = capacities.get(&id);
        Need {
            bytes,
            decoded_bytes,
            raw_capacity_bytes: capacity.map(|capacity| capacity.raw_bytes),
            decoded_capacity_bytes: capacity.map(|capacity| capacity.decoded_bytes),
            id,
        }
    });
    needs.collect()
}

/// Whether tasks and so many bytes besides fit as pages, whichever of these workers those bytes are for.
pub fn is_sure_to_fit<'a, P: 'a>(
    tasks: impl Iterator<Item = &'a NewTask<P>>,
    more_bytes: u64,
    capacities: &[(String, Told)],
) -> bool {
    let mut needed: BTreeMap<&str, u64> = BTreeMap::new();
    for task in tasks {
        for worker in &task.workers {
            *needed.entry(worker).or_default() += task.bytes;
        }
    }
    for (id, told) in capacities {
        let needed = needed.remove(id.as_str()).unwrap_or(0);
        if needed.saturating_add(more_bytes) > usable(told.raw_bytes) {
            return false;
        }
    }
    // What is for a worker whose capacity is not known may not fit.
    needed.is_empty()
}

/// Whether all of it fits.
#[must_use]
pub fn fits(needs: &[Need], demand: Demand) -> bool {
    needs.iter().all(|need| need.fits(demand))
}

/// Refuses, with figures, what does not fit.
///
/// # Errors
/// RESOURCE_EXHAUSTED that names the workers.
pub fn check(needs: &[Need], demand: Demand) -> Result<(), ServiceError> {
    let short: Vec<&Need> = needs.iter().filter(|need| !need.fits(demand)).collect();
    if short.is_empty() {
        return Ok(());
    }
    let figures = |need: &&Need| {
        let tier = |name: &str, needed: u64, capacity: Option<u64>| {
            let capacity = capacity.map(usable)?;
            (needed > capacity).then(|| format!("{needed} bytes {name} of {capacity} that it can hold"))
        };
        let raw = tier("raw", need.bytes, need.raw_capacity_bytes.filter(|_| demand.raw));
        let decoded = tier(
            "decoded",
            need.decoded_bytes,
            need.decoded_capacity_bytes.filter(|_| demand.decoded),
        );
        let words: Vec<String> = raw.into_iter().chain(decoded).collect();
        format!("worker {} would need {}", need.id, words.join(" and "))
    };
    let named: Vec<String> = short.iter().take(NAMED_WORKERS).map(figures).collect();
    let more = match short.len().saturating_sub(NAMED_WORKERS) {
        0 => String::new(),
        more => format!("; and {more} workers more"),
    };
    Err(ServiceError::Full {
        what: format!(
            "the data does not fit: {}{more}; ask for fewer columns, another tier, or with `partial` for as much as fits",
            named.join("; ")
        ),
    })
}

/// Refuses, with figures, more copies than there are workers to hold one each.
///
/// # Errors
/// RESOURCE_EXHAUSTED.
pub fn check_copies(node: &Node, spec: &JobSpec) -> Result<(), ServiceError> {
    let workers = node.cluster.view().placement.seats().len();
    let is_more = |copies: &u32| usize::try_from(*copies).is_ok_and(|copies| copies > workers);
    let otherwise = match spec.metadata_only {
        true => "",
        false => ", or with `partial` for as many as there are",
    };
    match spec.replicas.filter(is_more) {
        // Where none has a place yet, that is waited for.
        Some(copies) if workers > 0 => Err(ServiceError::Full {
            what: format!(
                "{copies} workers were to hold each part, and the cluster has {workers}; ask for fewer `replicas`{otherwise}"
            ),
        }),
        _ => Ok(()),
    }
}

/// What the workers have room for while a job is planned.
#[derive(Debug)]
pub struct Room {
    demand: Demand,
    /// Bytes left, raw and decoded, by worker; none where there is no bound.
    left: Option<BTreeMap<String, (u64, u64)>>,
    refused_row_groups: u64,
    refused_bytes: u64,
    /// Workers that are to hold each part; 0 where no number was asked for.
    copies: usize,
    /// Row groups that fewer are to hold, and how many copies of them are missing.
    short_row_groups: u64,
    missing_copies: u64,
}

impl Room {
    /// Room for everything.
    #[must_use]
    pub fn unbounded() -> Self {
        Self {
            demand: Demand {
                raw: false,
                decoded: false,
            },
            left: None,
            refused_row_groups: 0,
            refused_bytes: 0,
            copies: 0,
            short_row_groups: 0,
            missing_copies: 0,
        }
    }

    /// The same where so many workers are to hold each part.
    #[must_use]
    pub fn for_copies(self, copies: Option<u32>) -> Self {
        let copies = copies.and_then(|copies| usize::try_from(copies).ok());
        Self {
            copies: copies.unwrap_or(0),
            ..self
        }
    }

    /// The room of all workers.
    pub async fn of(node: &Node, demand: Demand) -> Self {
        let capacities = capacity::capacities(node).await.into_iter();
        let left = capacities.map(|(id, capacity)| (id, (usable(capacity.raw_bytes), usable(capacity.decoded_bytes))));
        Self {
            demand,
            left: Some(left.collect()),
            ..Self::unbounded()
        }
    }

    /// How large tasks are to be, of which each worker must have room for several to be filled well.
    #[must_use]
    pub fn task_bytes(&self, most: u64) -> u64 {
        let left = self.left.iter().flat_map(BTreeMap::values);
        let room = |(raw, decoded): &(u64, u64)| match self.demand {
            Demand {
                raw: true,
                decoded: true,
            } => *raw.min(decoded),
            Demand { decoded: true, .. } => *decoded,
            Demand { .. } => *raw,
        };
        left.map(room)
            .min()
            .map_or(most, |room| most.min(room / TASKS_PER_ROOM))
    }

    /// The tasks that there is room for.
    #[must_use]
    pub fn fit(&mut self, mut batch: Batch) -> Batch {
        if self.left.is_some() {
            batch.tasks.retain(|task| self.take(task));
        }
        for task in &batch.tasks {
            self.count_copies(task);
        }
        batch
    }

    fn count_copies<P>(&mut self, task: &NewTask<P>) {
        let missing = self.copies.saturating_sub(task.workers.len());
        if missing > 0 {
            self.short_row_groups += task.row_groups;
            self.missing_copies += task.row_groups * u64::try_from(missing).unwrap_or(u64::MAX);
        }
    }

    fn take<P>(&mut self, task: &NewTask<P>) -> bool {
        let Some(left) = &mut self.left else { return true };
        let raw = if self.demand.raw { task.bytes } else { 0 };
        let decoded = if self.demand.decoded { task.decoded_bytes } else { 0 };
        let fits = |worker: &String| left.get(worker).is_none_or(|left| left.0 >= raw && left.1 >= decoded);
        if !task.workers.iter().all(fits) {
            self.refused_row_groups += task.row_groups;
            self.refused_bytes += task.bytes;
            return false;
        }
        for worker in &task.workers {
            if let Some(left) = left.get_mut(worker) {
                *left = (left.0 - raw, left.1 - decoded);
            }
        }
        true
    }

    /// What was left out, as failures of the job.
    #[must_use]
    pub fn refused(&self, path: &str) -> Vec<Failure> {
        let failure = |error: String| Failure {
            path: path.to_owned(),
            row_group: None,
            kind: FailureKind::Capacity,
            error,
            tries: 0,
        };
        let left_out = (self.refused_row_groups > 0).then(|| {
            failure(format!(
                "{} row groups of {} stored bytes were left out: the workers have no room for them",
                self.refused_row_groups, self.refused_bytes
            ))
        });
        let short = (self.missing_copies > 0).then(|| {
            failure(format!(
                "{} workers were to hold each part, and there are not so many: {} copies of {} row groups are missing",
                self.copies, self.missing_copies, self.short_row_groups
            ))
        });
        left_out.into_iter().chain(short).collect()
    }
}

fn usable(capacity_bytes: u64) -> u64 {
    capacity_bytes / 100 * USABLE_PERCENT
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task(workers: &[&str], row_groups: u64) -> NewTask<()> {
        NewTask {
            identity: 0,
            workers: workers.iter().map(|&id| id.to_owned()).collect(),
            files: vec![0],
            row_groups,
            bytes: 100,
            decoded_bytes: 0,
            mount: "/m".to_owned(),
            payload: (),
        }
    }

    #[test]
    fn what_is_sure_to_fit_fits_whoever_it_is_for() {
        let told = |id: &str, raw_bytes| {
            let decoded_bytes = 0;
            (
                id.to_owned(),
                Told {
                    raw_bytes,
                    decoded_bytes,
                },
            )
        };
        let tasks = [task(&["a"], 1), task(&["a", "b"], 1)];
        let is_sure = |more_bytes, capacities: &[_]| is_sure_to_fit(tasks.iter(), more_bytes, capacities);
        // Of 400 bytes, 380 are taken to be of use.
        let both = [told("a", 400), told("b", 400)];
        assert!(is_sure(0, &both) && is_sure(180, &both));
        assert!(
            !is_sure(181, &both),
            "the one that has most to hold may get all the rest"
        );
        assert!(!is_sure(180, &[told("a", 400), told("b", 200)]));
        assert!(!is_sure(0, &both[..1]), "what b can hold is not known");
        assert!(!is_sure(u64::MAX, &both));
    }

    fn failures(copies: Option<u32>) -> Vec<Failure> {
        let mut room = Room::unbounded().for_copies(copies);
        for task in [task(&["a", "b"], 5), task(&["b", "a"], 7)] {
            room.count_copies(&task);
        }
        room.refused("/m")
    }

    #[test]
    fn copies_that_nobody_is_there_for_are_missing() {
        for copies in [None, Some(1), Some(2)] {
            assert_eq!(failures(copies), [], "{copies:?}");
        }
        let missing = failures(Some(4));
        assert_eq!(missing.len(), 1);
        assert_eq!(
            (missing[0].kind, missing[0].path.as_str()),
            (FailureKind::Capacity, "/m")
        );
        assert!(missing[0].error.contains("4 workers") && missing[0].error.contains("24 copies of 12 row groups"));
    }
}
