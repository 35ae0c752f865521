//! Flight's own actions. Their bodies are plain protobuf messages, not JSON and not `Any`.

use arrow_flight::RenewFlightEndpointRequest;
use bytes::Bytes;
use prost::Message;

use super::super::info;
use super::super::parse::decode;
use crate::error::ServiceError;
use crate::node::Node;

/// The endpoint with its ticket sealed anew; a ticket that expired already is refused like in DoGet.
pub(super) fn renew_flight_endpoint(node: &Node, body: &[u8]) -> Result<Bytes, ServiceError> {
    let request: RenewFlightEndpointRequest = decode("RenewFlightEndpoint", body)?;
    let mut endpoint = request
        .endpoint
        .ok_or_else(|| ServiceError::invalid("RenewFlightEndpoint: the request names no endpoint"))?;
    let ticket = endpoint.ticket.take().unwrap_or_default();
    let (ticket, expires) = info::renewed(node, &ticket.ticket)?;
    endpoint.ticket = Some(ticket);
    endpoint.expiration_time = Some(expires);
    Ok(endpoint.encode_to_vec().into())
}
