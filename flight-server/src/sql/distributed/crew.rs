//! The workers of one query.
//!
//! A query takes those that serve when it is planned, in the order of their ids, and keeps them to its end: which task
//! goes to whom is then the same wherever it is asked.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use datafusion::error::DataFusionError;
use datafusion_distributed::WorkerResolver;
use jetbridge_catalog::membership::{MemberView, Status, View};
use url::Url;

use crate::cluster::places_of;

/// A worker that tasks can be sent to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Worker {
    /// The node's id.
    pub id: String,
    /// Which of its lives it is in.
    pub generation: u64,
    /// Where it is reached; see [`address`].
    pub url: Url,
}

/// The workers of one query.
#[derive(Debug)]
pub struct Crew {
    workers: Vec<Worker>,
    own: Option<usize>,
    turn: AtomicUsize,
}

impl Crew {
    /// A crew of these, with the position of the node `own` among them.
    #[must_use]
    pub fn new(mut workers: Vec<Worker>, own: &str) -> Self {
        workers.sort_by(|a, b| a.id.cmp(&b.id));
        Self {
            own: workers.iter().position(|worker| worker.id == own),
            workers,
            turn: AtomicUsize::new(0),
        }
    }

    /// All of them, by id.
    pub fn workers(&self) -> &[Worker] {
        &self.workers
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.workers.len()
    }

    /// Whether there is nobody.
    pub fn is_empty(&self) -> bool {
        self.workers.is_empty()
    }

    /// This node, if it is one of them.
    pub fn own(&self) -> Option<usize> {
        self.own
    }

    /// The position of a node.
    pub fn position(&self, id: &str) -> Option<usize> {
        self.workers.binary_search_by(|worker| worker.id.as_str().cmp(id)).ok()
    }

    /// Whom the tasks of a stage that reads nothing go to: each time another one begins, so that stages of few tasks do
    /// not all meet at the first.
    pub fn in_turn(&self, tasks: usize) -> Vec<Url> {
        let first = self.turn.fetch_add(tasks, Ordering::Relaxed);
        let count = self.workers.len().max(1);
        let chosen = (0..tasks).filter_map(|task| self.workers.get((first.wrapping_add(task)) % count));
        chosen.map(|worker| worker.url.clone()).collect()
    }
}

/// A crew as datafusion-distributed asks for it.
#[derive(Debug, Clone)]
pub struct CrewResolver(pub Arc<Crew>);

impl WorkerResolver for CrewResolver {
    fn get_urls(&self) -> Result<Vec<Url>, DataFusionError> {
        Ok(self.0.workers.iter().map(|worker| worker.url.clone()).collect())
    }
}

/// The workers that serve, as `view` has them, whatever their build. A suspect is left out: this node could not reach
/// it a moment ago, and what it holds is read from replicas or through others meanwhile.
pub(super) fn candidates(view: &View) -> Vec<Worker> {
    let serving = view
        .members
        .values()
        .filter(|member| member.is_worker() && member.status == Status::Serving);
    serving.filter_map(worker_of).collect()
}

fn worker_of(member: &MemberView) -> Option<Worker> {
    let id = member.id.as_str();
    Some(Worker {
        id: id.to_owned(),
        generation: member.record.as_ref()?.generation,
        url: address(id, &places_of(member).network?)?,
    })
}

/// The address of a worker: where its Flight port is, and its id as the fragment, by which whoever calls it knows whom
/// it lost. None for what is no `grpc://host:port`.
pub fn address(id: &str, network: &str) -> Option<Url> {
    let authority = network.strip_prefix("grpc://")?;
    let mut url = Url::parse(&format!("http://{authority}")).ok()?;
    url.set_fragment(Some(id));
    Some(url)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A crew of nodes with these ids, none of which is this one.
    pub(in crate::sql::distributed) fn crew(ids: &[&str]) -> Crew {
        let workers = (1..).zip(ids).map(|(port, id)| Worker {
            id: (*id).to_owned(),
            generation: 1,
            url: address(id, &format!("grpc://127.0.0.1:{port}")).unwrap(),
        });
        Crew::new(workers.collect(), "elsewhere")
    }

    #[test]
    fn an_address_tells_host_and_node() {
        let url = address("a-1", "grpc://node-7:8815").unwrap();
        assert_eq!(
            (url.host_str(), url.port(), url.fragment()),
            (Some("node-7"), Some(8815), Some("a-1"))
        );
        assert_ne!(url, address("a-2", "grpc://node-7:8815").unwrap());
        assert!(address("a", "grpc+unix:///run/x").is_none());
        assert!(address("a", "grpc://").is_none());
    }

    #[test]
    fn stages_that_read_nothing_begin_at_another_worker_each_time() {
        let crew = crew(&["c", "a", "b"]);
        let ids = |urls: Vec<Url>| -> Vec<String> {
            urls.iter()
                .map(|url| url.fragment().unwrap_or_default().to_owned())
                .collect()
        };
        assert_eq!(ids(crew.in_turn(2)), ["a", "b"]);
        assert_eq!(ids(crew.in_turn(2)), ["c", "a"]);
        assert_eq!(ids(crew.in_turn(3)), ["b", "c", "a"]);
        assert_eq!(crew.position("c"), Some(2));
        assert_eq!(crew.position("d"), None);
    }
}
