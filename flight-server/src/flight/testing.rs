//! DoGet as tests use it: a ticket, and what a client of the door gets for it.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arrow::array::RecordBatch;
use arrow_flight::Ticket;
use arrow_flight::decode::FlightRecordBatchStream;
use arrow_flight::error::FlightError;
use bytes::Bytes;
use futures::TryStreamExt;

use super::FlightDoor;
use super::message::Message;
use crate::node::Node;
use crate::redeem::Sealer;
use crate::request::ScanSpec;
use crate::streams::{StreamLimits, Streams};
use crate::testing::Lake;

/// The ticket of a scan's first endpoint.
pub(super) async fn first_ticket(lake: &Lake, scan: &str) -> Bytes {
    let spec = ScanSpec::from_json(scan.as_bytes()).unwrap();
    let plan = lake.node.plan(&spec).await.unwrap();
    let expires = SystemTime::now() + Duration::from_secs(60);
    let sealer = Sealer::new(&lake.node, &plan, &spec, expires);
    sealer.seal(&plan.runs[0], Vec::new()).unwrap()
}

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
