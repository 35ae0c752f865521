//! What a scan will read, and where: FlightInfo with its endpoints' JSON read.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arrow::datatypes::SchemaRef;
use arrow_flight::{FlightDescriptor, FlightEndpoint, FlightInfo};
use bytes::Bytes;
use prost::Message;
use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind, Result};

/// A planned scan. It can be read as often as one likes, until its tickets expire.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Plan {
    /// The schema of the rows.
    pub schema: SchemaRef,
    /// Parts of the answer, which cover it once; in this order they give files by path and row groups ascending.
    pub endpoints: Vec<Endpoint>,
    /// Rows of the answer, where they are known: not with a filter.
    pub rows: Option<u64>,
    /// Decoded bytes of the answer, estimated, where its rows are known.
    pub bytes: Option<u64>,
    /// Whether the scan asked for the dataset's order.
    pub ordered: bool,
    /// What the server says besides, as JSON.
    pub app_metadata: Bytes,
    /// As the server gave it.
    info: FlightInfo,
}

/// A part of an answer.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Endpoint {
    /// What any server of the cluster takes for it.
    pub ticket: Bytes,
    /// The servers that have it, the best first.
    pub locations: Vec<String>,
    /// Until when the ticket is taken, by the server's clock.
    pub expires: Option<SystemTime>,
    /// What the server says of it.
    pub about: EndpointAbout,
}

/// What a Jetbridge server says of an endpoint; empty where another server said something else.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct EndpointAbout {
    /// The file, or the deepest folder with all files of the endpoint.
    pub path: String,
    /// Row groups in reading order, one number each; of several files one after another.
    pub row_groups: Vec<u32>,
    /// Files that it reads.
    pub files: u64,
    /// Rows that are read; those of the answer where there is no filter.
    pub rows: Option<u64>,
    /// Decoded bytes that are read, estimated.
    pub bytes: Option<u64>,
    /// Where the bytes are on the first node that it names: `decoded`, `raw` or `none`.
    pub cached: String,
    /// The id of that node.
    pub node: Option<String>,
    /// The socket that gives the same rows as shared memory.
    pub memory: Option<String>,
}

impl Plan {
    /// Reads a FlightInfo.
    ///
    /// # Errors
    /// A schema that is none.
    pub(crate) fn new(info: FlightInfo) -> Result<Self> {
        let schema = if info.schema.is_empty() {
            arrow::datatypes::Schema::empty()
        } else {
            info.clone().try_decode_schema()?
        };
        Ok(Self {
            schema: Arc::new(schema),
            endpoints: info.endpoint.iter().map(Endpoint::new).collect(),
            rows: u64::try_from(info.total_records).ok(),
            bytes: u64::try_from(info.total_bytes).ok(),
            ordered: info.ordered,
            app_metadata: info.app_metadata.clone(),
            info,
        })
    }

    /// The plan as bytes, for another process: a FlightInfo in protobuf.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        self.info.encode_to_vec()
    }

    /// The plan that [`Plan::to_bytes`] wrote.
    ///
    /// # Errors
    /// INVALID_ARGUMENT for bytes that are no plan.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let refuse = |error: &dyn std::fmt::Display| {
            Error::new(ErrorKind::InvalidArgument, format!("these bytes are no plan: {error}"))
        };
        let info = FlightInfo::decode(bytes).map_err(|error| refuse(&error))?;
        Self::new(info).map_err(|error| refuse(&error))
    }

    /// What was planned, to plan it anew.
    pub(crate) fn descriptor(&self) -> Option<&FlightDescriptor> {
        self.info.flight_descriptor.as_ref()
    }

    /// An endpoint as the server gave it, its metadata left out.
    pub(crate) fn raw_endpoint(&self, endpoint: usize) -> Option<FlightEndpoint> {
        let endpoint = self.info.endpoint.get(endpoint)?;
        Some(FlightEndpoint {
            app_metadata: Bytes::new(),
            ..endpoint.clone()
        })
    }
}

impl Endpoint {
    fn new(endpoint: &FlightEndpoint) -> Self {
        let ticket = endpoint.ticket.as_ref().map(|ticket| ticket.ticket.clone());
        Self {
            ticket: ticket.unwrap_or_default(),
            locations: endpoint.location.iter().map(|location| location.uri.clone()).collect(),
            expires: endpoint.expiration_time.as_ref().and_then(time),
            about: serde_json::from_slice(&endpoint.app_metadata).unwrap_or_default(),
        }
    }
}

/// A protobuf time; none before 1970.
pub(crate) fn time(timestamp: &prost_types::Timestamp) -> Option<SystemTime> {
    let seconds = u64::try_from(timestamp.seconds).ok()?;
    let nanos = u32::try_from(timestamp.nanos).ok()?;
    UNIX_EPOCH.checked_add(Duration::new(seconds, nanos))
}

#[cfg(test)]
mod tests {
    use arrow::datatypes::{DataType, Field, Schema};
    use arrow_flight::Ticket;

    use super::*;

    fn info() -> FlightInfo {
        let schema = Schema::new(vec![Field::new("a", DataType::Int64, true)]);
        let about =
            r#"{"path":"/t/a.parquet","row_groups":[0,1],"files":1,"rows":10,"bytes":80,"cached":"raw","new":1}"#;
        let endpoint = FlightEndpoint::new()
            .with_ticket(Ticket::new("t"))
            .with_location("grpc://a:1")
            .with_app_metadata(about);
        FlightInfo::new()
            .try_with_schema(&schema)
            .unwrap()
            .with_endpoint(endpoint)
            .with_total_records(10)
            .with_total_bytes(-1)
    }

    #[test]
    fn a_plan_says_what_the_server_said_and_survives_bytes() {
        for plan in [
            Plan::new(info()).unwrap(),
            Plan::from_bytes(&Plan::new(info()).unwrap().to_bytes()).unwrap(),
        ] {
            assert_eq!((plan.rows, plan.bytes, plan.ordered), (Some(10), None, false));
            assert_eq!(plan.schema.field(0).name(), "a");
            let [endpoint] = plan.endpoints.as_slice() else {
                panic!()
            };
            assert_eq!(endpoint.locations, ["grpc://a:1"]);
            assert_eq!(endpoint.ticket, "t");
            assert_eq!(endpoint.about.row_groups, [0, 1]);
            assert_eq!(
                (endpoint.about.rows, endpoint.about.memory.as_deref()),
                (Some(10), None)
            );
        }
        assert!(Plan::from_bytes(b"\xff\xff").is_err());
    }

    #[test]
    fn what_another_server_says_of_an_endpoint_is_passed_over() {
        let mut info = info();
        info.endpoint[0].app_metadata = "not JSON".into();
        let plan = Plan::new(info).unwrap();
        assert_eq!(plan.endpoints[0].about, EndpointAbout::default());
    }
}
