//! Reads endpoints: each from the first of its locations that answers.
//!
//! A location that cannot be reached, or is not taking work, is left for the next one, as long as no batch of the
//! endpoint has been handed on. After that a failure is final.
//!
//! Why not go on at the next location in mid-stream: the batches of two servers need not be cut alike, so rows could
//! come twice or be missing without anyone noticing.

use std::collections::HashMap;

use arrow::record_batch::RecordBatch;
use arrow_flight::decode::DecodedPayload;
use arrow_flight::{FlightEndpoint, Ticket};
use futures::TryStreamExt;

use crate::cli::client::Client;
use crate::cli::error::CliError;

/// The location that stands for the connection the endpoint came by.
const REUSE_CONNECTION: &str = "arrow-flight-reuse-connection://";

/// A batch as it came.
#[derive(Debug)]
pub(in crate::cli) struct Received {
    /// The rows.
    pub(in crate::cli) batch: RecordBatch,
    /// Bytes of its buffers in the message. Decoded batches share buffers, so they cannot tell.
    pub(in crate::cli) body_bytes: u64,
}

/// Open connections, by location.
#[derive(Debug)]
pub(in crate::cli) struct Reader {
    home: Client,
    others: HashMap<String, Client>,
}

impl Reader {
    /// A reader that knows one server, which gave the endpoints.
    pub(in crate::cli) fn new(home: Client) -> Self {
        Self {
            home,
            others: HashMap::new(),
        }
    }

    /// Hands the batches of an endpoint on, in order.
    pub(in crate::cli) async fn read(
        &mut self,
        endpoint: FlightEndpoint,
        mut sink: impl AsyncFnMut(Received) -> Result<(), CliError>,
    ) -> Result<(), CliError> {
        let Some(ticket) = endpoint.ticket else { return Ok(()) };
        let locations = locations(endpoint.location.into_iter().map(|location| location.uri));
        let mut failure = None;
        for location in locations {
            let mut handed_on = false;
            let mut hand_on = async |received| {
                handed_on = true;
                sink(received).await
            };
            match self.read_from(&location, ticket.clone(), &mut hand_on).await {
                Err(error) if error.is_unavailable() && !handed_on => {
                    // The first failure is the one to report: the owner's says more than the last resort's.
                    failure.get_or_insert(error);
                }
                outcome => return outcome,
            }
        }
        failure.map_or(Ok(()), Err)
    }

    async fn read_from(
        &mut self,
        location: &str,
        ticket: Ticket,
        sink: &mut impl AsyncFnMut(Received) -> Result<(), CliError>,
    ) -> Result<(), CliError> {
        let client = self.client(location).await?;
        let mut messages = client.messages(ticket).await?;
        while let Some(message) = messages.try_next().await? {
            let body_bytes = u64::try_from(message.inner.data_body.len()).unwrap_or(u64::MAX);
            if let DecodedPayload::RecordBatch(batch) = message.payload {
                sink(Received { batch, body_bytes }).await?;
            }
        }
        Ok(())
    }

    async fn client(&mut self, location: &str) -> Result<&mut Client, CliError> {
        if location.starts_with(REUSE_CONNECTION) || location == self.home.uri() {
            return Ok(&mut self.home);
        }
        if !self.others.contains_key(location) {
            let client = Client::connect_to(location).await?;
            self.others.insert(location.to_owned(), client);
        }
        // It was put there just now; were it not, the server that we know would serve as well.
        Ok(self.others.get_mut(location).unwrap_or(&mut self.home))
    }
}

/// Where to try, in order: schemes that we do not speak are left out, and no location at all means the same server.
fn locations(uris: impl Iterator<Item = String>) -> Vec<String> {
    let spoken = |uri: &String| {
        ["grpc://", "grpc+tcp://", REUSE_CONNECTION]
            .iter()
            .any(|scheme| uri.starts_with(scheme))
    };
    let mut locations: Vec<String> = uris.filter(spoken).collect();
    if locations.is_empty() {
        locations.push(REUSE_CONNECTION.to_owned());
    }
    locations
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_usable_location_the_same_server_is_asked() {
        let of = |uris: &[&str]| locations(uris.iter().map(|uri| (*uri).to_owned()));
        assert_eq!(of(&[]), [REUSE_CONNECTION]);
        assert_eq!(of(&["https://x/data"]), [REUSE_CONNECTION]);
        assert_eq!(
            of(&["grpc://a:1", "grpc+unix:///s", "arrow-flight-reuse-connection://?"]),
            ["grpc://a:1", "arrow-flight-reuse-connection://?"]
        );
    }
}
