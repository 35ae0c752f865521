//! DoGet as the tests of other modules use it: what a client of the door gets.

use std::sync::Arc;
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow_flight::Ticket;
use arrow_flight::decode::FlightRecordBatchStream;
use arrow_flight::error::FlightError;
use futures::TryStreamExt;

use super::FlightDoor;
use super::message::Message;
use crate::node::Node;
use crate::streams::{StreamLimits, Streams};

/// The batches of a ticket.
pub(crate) async fn do_get(node: &Arc<Node>, ticket: &[u8]) -> Vec<RecordBatch> {
    let limits = StreamLimits {
        max_streams: 64,
        stall_timeout: Duration::from_secs(60),
    };
    let door = FlightDoor::new(Arc::clone(node), Streams::new(limits));
    let request = tonic::Request::new(Ticket::new(ticket.to_vec()));
    let messages = door.messages(request).await.unwrap().into_inner();
    let data = messages.map_ok(Message::into_flight_data).map_err(FlightError::from);
    FlightRecordBatchStream::new_from_flight_data(data)
        .try_collect()
        .await
        .unwrap()
}
