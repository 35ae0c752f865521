//! The tickets of a read, renewed before they expire: a read that is taken slowly may outlast them.

use std::time::{Duration, SystemTime};

use arrow_flight::{FlightEndpoint, RenewFlightEndpointRequest};
use bytes::Bytes;
use prost::Message;

use crate::calls::Client;
use crate::error::ErrorKind;
use crate::fork::Mutex;
use crate::plan::Plan;

const RENEW: &str = "RenewFlightEndpoint";
/// The shortest time between two renewals.
const SHORTEST: Duration = Duration::from_secs(1);

/// The tickets that are still needed, by the position of their endpoint in the read.
#[derive(Debug)]
pub(crate) struct Tickets(Mutex<Vec<Option<FlightEndpoint>>>);

impl Tickets {
    /// The tickets of these endpoints of a plan.
    pub(crate) fn new(plan: &Plan, endpoints: &[usize]) -> Self {
        Self(Mutex::new(
            endpoints.iter().map(|endpoint| plan.raw_endpoint(*endpoint)).collect(),
        ))
    }

    /// The ticket at a position, as it is now.
    pub(crate) fn get(&self, position: usize) -> Bytes {
        let endpoints = self.0.lock();
        let ticket = endpoints
            .get(position)
            .and_then(Option::as_ref)
            .and_then(|endpoint| endpoint.ticket.as_ref());
        ticket.map(|ticket| ticket.ticket.clone()).unwrap_or_default()
    }

    /// The endpoint at a position is read.
    pub(crate) fn done(&self, position: usize) {
        if let Some(endpoint) = self.0.lock().get_mut(position) {
            *endpoint = None;
        }
    }

    /// Renews what is needed whenever half of its time is over, for as long as it is polled. Ends where nothing expires, where the
    /// server does not renew, and where a new ticket has expired too: then the two clocks differ too much to know when.
    pub(crate) async fn renew(&self, client: &Client) {
        let mut was_expired = false;
        while let Some(left) = self.shortest_life() {
            if left.is_zero() && was_expired {
                return;
            }
            was_expired = left.is_zero();
            tokio::time::sleep((left / 2).max(SHORTEST)).await;
            for position in 0..self.len() {
                if !self.renew_one(client, position).await {
                    return;
                }
            }
        }
    }

    fn len(&self) -> usize {
        self.0.lock().len()
    }

    /// Whether to go on.
    async fn renew_one(&self, client: &Client, position: usize) -> bool {
        let Some(endpoint) = self.0.lock().get(position).cloned().flatten() else {
            return true;
        };
        let request = RenewFlightEndpointRequest {
            endpoint: Some(endpoint),
        };
        match client.action_bytes(RENEW, request.encode_to_vec().into()).await {
            Ok(answers) => {
                let renewed = answers.first().map(|answer| FlightEndpoint::decode(answer.clone()));
                let mut endpoints = self.0.lock();
                // It may be read by now.
                if let (Some(Ok(renewed)), Some(Some(endpoint))) = (renewed, endpoints.get_mut(position)) {
                    *endpoint = renewed;
                }
                true
            }
            Err(error) => {
                tracing::debug!(%error, "a ticket is not renewed");
                error.kind() != ErrorKind::Unimplemented
            }
        }
    }

    /// How long the ticket that expires first is good for; none where none expires.
    fn shortest_life(&self) -> Option<Duration> {
        let endpoints = self.0.lock();
        let expirations = endpoints
            .iter()
            .flatten()
            .filter_map(|endpoint| endpoint.expiration_time.as_ref());
        let first = expirations.filter_map(crate::plan::time).min()?;
        Some(first.duration_since(SystemTime::now()).unwrap_or_default())
    }
}
