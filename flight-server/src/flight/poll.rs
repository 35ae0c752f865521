//! PollFlightInfo: the endpoints of a scan as they become warm.
//!
//! While a preload of the scan's dataset is under way, a poll gives those endpoints that can be read without asking storage,
//! and a descriptor to poll for more. Without one nothing would make the rest warm, so the first answer is the whole one:
//! every endpoint can be read at any time.
//!
//! What was given stays given, in its place, and what comes is added at the end. A server keeps nothing for that: the
//! descriptor of the next poll says which endpoints were given, and of which plan. Where the plan has changed meanwhile,
//! other data or other owners, the poll is STALE and begins anew.

use std::collections::HashSet;
use std::time::Duration;

use arrow_flight::{FlightDescriptor, FlightEndpoint, PollInfo};
use prost_types::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use xxhash_rust::xxh3::Xxh3Default;

use super::describe::{self, Asked};
use super::info;
use super::offer::Offer;
use crate::error::ServiceError;
use crate::jobs::record::State;
use crate::jobs::spec::Kind;
use crate::jobs::submit;
use crate::node::Node;
use crate::plan::Plan;
use crate::request::ScanSpec;

/// A poll that has nothing new to tell waits for something, but no longer than this.
const HOLD: Duration = Duration::from_secs(2);
/// How often it looks meanwhile.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);
/// How long the descriptor of the next poll is good for, at least.
const DESCRIPTOR_TTL: Duration = Duration::from_secs(600);

/// The command of a descriptor to poll for more with.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Continuation {
    poll: Given,
}

/// What was given until now.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Given {
    /// The scan, as JSON.
    scan: String,
    /// Of which plan.
    plan: String,
    /// Positions of its endpoints, in the order in which they were given.
    endpoints: Vec<u32>,
}

/// Answers one poll.
///
/// # Errors
/// As a plan of the scan; ABORTED where the plan is another than at the poll before.
pub(super) async fn poll(node: &Node, descriptor: &FlightDescriptor, offer: Offer) -> Result<PollInfo, ServiceError> {
    let before = serde_json::from_slice::<Continuation>(&descriptor.cmd)
        .ok()
        .map(|next| next.poll);
    let spec = match &before {
        Some(before) => ScanSpec::from_json(before.scan.as_bytes())?,
        None => match describe::asked(descriptor)? {
            Asked::Scan(spec) => spec,
            Asked::Sql(_) => return Err(ServiceError::invalid("a statement's flight is whole at once")),
        },
    };
    let until = Instant::now() + HOLD;
    loop {
        let plan = node.plan(&spec).await?;
        let fingerprint = fingerprint(node, &plan);
        if before.as_ref().is_some_and(|before| before.plan != fingerprint) {
            return Err(ServiceError::Replanned {
                path: plan.dataset.path.clone(),
            });
        }
        let is_coming = is_being_preloaded(node, &plan).await?;
        let known = before.as_ref().map_or(&[][..], |before| before.endpoints.as_slice());
        let endpoints = info::endpoints(node, &plan, &spec, offer).await?;
        let order = match spec.ordered {
            true => first(&endpoints, known.len(), !is_coming),
            false => order(&endpoints, known, !is_coming),
        };
        let is_whole = order.len() == endpoints.len();
        if is_whole || order.len() > known.len() || Instant::now() >= until {
            let given = Given {
                scan: spec.to_json(),
                plan: fingerprint,
                endpoints: order,
            };
            return answer(node, &plan, &spec, endpoints, given);
        }
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
}

/// Positions of the endpoints to give: those that were, then those that are warm now, or all.
fn order(endpoints: &[(FlightEndpoint, bool)], known: &[u32], all: bool) -> Vec<u32> {
    let mut seen: HashSet<u32> = known.iter().copied().collect();
    let mut order = known.to_vec();
    for (at, (_, is_warm)) in (0u32..).zip(endpoints) {
        if (all || *is_warm) && seen.insert(at) {
            order.push(at);
        }
    }
    order
}

/// The same where the answer has an order: those before the first that is not warm.
fn first(endpoints: &[(FlightEndpoint, bool)], known: usize, all: bool) -> Vec<u32> {
    let given = (0u32..).zip(endpoints).enumerate();
    let given = given.take_while(|(count, (_, (_, is_warm)))| all || *count < known || *is_warm);
    given.map(|(_, (at, _))| at).collect()
}

fn answer(
    node: &Node,
    plan: &Plan,
    spec: &ScanSpec,
    endpoints: Vec<(FlightEndpoint, bool)>,
    given: Given,
) -> Result<PollInfo, ServiceError> {
    let internal = |what: String| ServiceError::Internal { what };
    let all = endpoints.len().max(1);
    let mut endpoints: Vec<Option<FlightEndpoint>> =
        endpoints.into_iter().map(|(endpoint, _)| Some(endpoint)).collect();
    let is_whole = given.endpoints.len() == endpoints.len();
    let taken = |at: &u32| endpoints.get_mut(usize::try_from(*at).ok()?)?.take();
    let chosen: Vec<FlightEndpoint> = given.endpoints.iter().filter_map(taken).collect();
    let share = ratio(chosen.len()) / ratio(all);
    let info = info::assemble(plan, spec, chosen)?.with_descriptor(FlightDescriptor::new_cmd(given.scan.clone()));
    let next = serde_json::to_vec(&Continuation { poll: given }).map_err(|error| internal(error.to_string()))?;
    let poll = PollInfo::new().with_info(info);
    let poll = poll.try_with_progress(if is_whole { 1.0 } else { share.min(1.0) });
    let poll = poll.map_err(|error| internal(error.to_string()))?;
    if is_whole {
        return Ok(poll);
    }
    let expires = node.cluster.now() + DESCRIPTOR_TTL;
    Ok(poll
        .with_descriptor(FlightDescriptor::new_cmd(next))
        .with_expiration_time(Timestamp::from(expires)))
}

/// Whether a preload is under way that the dataset, or a part of it, belongs to.
async fn is_being_preloaded(node: &Node, plan: &Plan) -> Result<bool, ServiceError> {
    let dataset = &plan.dataset.path;
    let jobs = submit::list(node.cluster.store().as_ref(), None, Some(usize::MAX)).await?;
    let touches = |path: &String| {
        node.locate(path)
            .is_ok_and(|path| path.strip_prefix(dataset).is_some() || dataset.strip_prefix(&path).is_some())
    };
    Ok(jobs.iter().any(|job| {
        let is_under_way = job.state == State::Running || job.state == State::Pending && job.next_run_unix_ms.is_none();
        is_under_way && job.kind == Kind::Preload && job.paths.iter().any(touches)
    }))
}

/// The same for plans of the same endpoints.
fn fingerprint(node: &Node, plan: &Plan) -> String {
    let mut hash = Xxh3Default::new();
    for run in &plan.runs {
        let owner = run.owners.first().and_then(|slot| plan.view.placement.seat(*slot));
        hash.update(owner.map_or(node.cluster.id(), |seat| seat.id.as_str()).as_bytes());
        for file in &run.files {
            let key = &plan.dataset.files[file.file].open.key;
            hash.update(key.uri.as_bytes());
            hash.update(key.generation.to_string().as_bytes());
            file.row_groups
                .iter()
                .for_each(|group| hash.update(&group.to_le_bytes()));
        }
        hash.update(b"/");
    }
    format!("{:032x}", hash.digest128())
}

fn ratio(count: usize) -> f64 {
    jetbridge_cache::gauge(u64::try_from(count).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_given_stays_in_its_place_and_what_is_warm_comes_after() {
        let endpoints: Vec<_> = [false, true, true, false]
            .map(|warm| (FlightEndpoint::new(), warm))
            .into();
        assert_eq!(order(&endpoints, &[], false), [1, 2]);
        assert_eq!(order(&endpoints, &[3, 2], false), [3, 2, 1]);
        assert_eq!(order(&endpoints, &[2], true), [2, 0, 1, 3]);
        assert_eq!(first(&endpoints, 0, false), [0; 0]);
        assert_eq!(first(&endpoints, 1, false), [0, 1, 2]);
        assert_eq!(first(&endpoints, 1, true), [0, 1, 2, 3]);
    }
}
