//! Which nodes understand the plans of this one.
//!
//! A plan on the wire is the inside of DataFusion, which promises nothing from one version to the next. So a node is
//! asked for its build before it is sent its first task, and one of another build is not used: while a cluster is being
//! upgraded, queries run on the nodes that are alike.

use std::collections::HashMap;
use std::fmt;
use std::time::Duration;

use datafusion_distributed::{ChannelResolver, GetWorkerInfoRequest};
use futures::future::join_all;
use jetbridge_catalog::membership::View;
use parking_lot::Mutex;
use tokio::time::timeout;

use super::channels::Channels;
use super::crew::{Crew, Worker, candidates};

/// The version of datafusion-distributed, which does not tell it; a test holds it to the lock file.
const DISTRIBUTED_VERSION: &str = "4.0.0";
/// The number of what this module and its neighbours put on the wire; goes up with every change of it.
const WIRE: u32 = 1;
/// How long a node may take to say what it is.
const ASK_TIMEOUT: Duration = Duration::from_secs(2);
/// Most nodes that are remembered.
const MAX_KNOWN: usize = 10_000;

/// What this build says of itself to other nodes.
#[must_use]
pub fn own() -> String {
    format!(
        "jetbridge {} wire {WIRE} datafusion {} distributed {DISTRIBUTED_VERSION}",
        env!("CARGO_PKG_VERSION"),
        datafusion::DATAFUSION_VERSION,
    )
}

/// What is known of the builds of other nodes.
#[derive(Default)]
pub struct Builds {
    /// Whether a process, by its node's id and generation, is of this build.
    known: Mutex<HashMap<(String, u64), bool>>,
}

impl Builds {
    /// The workers that a query can use now, as `view` has them, `without` those of some ids. Asks those that are not
    /// known.
    pub async fn crew(&self, view: &View, own: &str, without: &[String], channels: &Channels) -> Crew {
        let found: Vec<Worker> = candidates(view)
            .into_iter()
            .filter(|worker| !without.contains(&worker.id))
            .collect();
        let known: Vec<Option<bool>> = found.iter().map(|worker| self.known(worker, own)).collect();
        let strangers = found.iter().zip(&known).filter(|(_, known)| known.is_none());
        let asked = strangers.map(|(worker, _)| told(worker.clone(), channels.clone()));
        let mut told = join_all(asked).await.into_iter();
        let fits = |(worker, known): (Worker, Option<bool>)| {
            let fits = known.unwrap_or_else(|| self.heard(&worker, told.next().flatten()));
            fits.then_some(worker)
        };
        Crew::new(found.into_iter().zip(known).filter_map(fits).collect(), own)
    }

    /// Whether a worker is of this build, where that is known.
    fn known(&self, worker: &Worker, own: &str) -> Option<bool> {
        if worker.id == own {
            return Some(true);
        }
        let key = (worker.id.clone(), worker.generation);
        self.known.lock().get(&key).copied()
    }

    /// Takes in what a worker said of its build. Who said nothing is not used now, and asked again next time.
    fn heard(&self, worker: &Worker, told: Option<String>) -> bool {
        let Some(told) = told else { return false };
        let fits = told == own();
        if !fits {
            tracing::warn!(worker = %worker.id, build = %told, "a worker of another build gets no part of queries");
        }
        let mut known = self.known.lock();
        if known.len() >= MAX_KNOWN {
            known.clear();
        }
        known.insert((worker.id.clone(), worker.generation), fits);
        fits
    }
}

impl fmt::Debug for Builds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builds")
            .field("known", &self.known.lock().len())
            .finish()
    }
}

/// What a worker says of its build; empty where it has no such service.
async fn told(worker: Worker, channels: Channels) -> Option<String> {
    let answered = async {
        let mut client = channels.get_worker_client_for_url(&worker.url).await?;
        client.get_worker_info(GetWorkerInfoRequest {}).await
    };
    match timeout(ASK_TIMEOUT, answered).await {
        Ok(Ok(info)) => Some(info.version),
        Ok(Err(error)) if super::lost::told_by(&error).is_none() => {
            tracing::debug!(worker = %worker.id, %error, "a worker does not tell its build");
            Some(String::new())
        }
        Ok(Err(_)) | Err(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_build_names_the_version_that_is_linked() {
        let lock = include_str!("../../../../Cargo.lock");
        let name = "name = \"datafusion-distributed\"\nversion = \"";
        let (_, rest) = lock.split_once(name).unwrap();
        assert_eq!(rest.split('"').next().unwrap(), DISTRIBUTED_VERSION);
        assert!(own().contains(datafusion::DATAFUSION_VERSION), "{}", own());
    }
}
