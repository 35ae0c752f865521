//! A ticket's content as protobuf, and schemas as Arrow IPC bytes. The numbers of the fields are written down in `TICKET.md`.
//!
//! The structs are written by hand, so that building needs no `protoc`. A field that is left out reads as its default, and a
//! field of a later version is skipped: what changes the meaning of the others takes a new version byte instead.

use arrow::datatypes::{Schema, SchemaRef};
use arrow::error::ArrowError;
use arrow::ipc::convert::try_schema_from_flatbuffer_bytes;
use arrow::ipc::writer::{DictionaryTracker, IpcDataGenerator, IpcWriteOptions};
use bytes::Bytes;
use prost::Message;
use sha2::{Digest, Sha256};

use super::{Ticket, TicketError, TicketFile, TicketPartition, TicketPartitionKind, TicketValue, unreadable};

/// A schema as an Arrow IPC message, without the length in front. Equal schemas give equal bytes.
pub fn schema_to_ipc(schema: &Schema) -> Bytes {
    let options = IpcWriteOptions::default();
    let mut tracker = DictionaryTracker::new(false);
    let encoded = IpcDataGenerator::default().schema_to_bytes_with_dictionary_tracker(schema, &mut tracker, &options);
    Bytes::from(encoded.ipc_message)
}

/// Reads what [`schema_to_ipc`] wrote.
///
/// # Errors
/// Bytes that are no Arrow IPC schema message.
pub fn schema_from_ipc(ipc: &[u8]) -> Result<SchemaRef, ArrowError> {
    try_schema_from_flatbuffer_bytes(ipc).map(SchemaRef::new)
}

/// The first 8 bytes of the SHA-256 of [`schema_to_ipc`], little endian: equal for equal schemas on every node.
pub fn schema_fingerprint(schema: &Schema) -> u64 {
    let digest = Sha256::digest(schema_to_ipc(schema));
    let mut first = [0u8; 8];
    first.copy_from_slice(&digest[..8]);
    u64::from_le_bytes(first)
}

/// The content of a ticket as protobuf.
pub(super) fn encode(ticket: &Ticket) -> Vec<u8> {
    Body::from(ticket).encode_to_vec()
}

/// Reads what [`encode`] wrote.
pub(super) fn decode(body: &[u8]) -> Result<Ticket, TicketError> {
    Body::decode(body)
        .map_err(|error| unreadable(error.to_string()))?
        .try_into()
}

#[derive(Clone, PartialEq, Message)]
struct Body {
    #[prost(uint64, tag = "1")]
    expires_unix_ms: u64,
    #[prost(string, tag = "2")]
    audience: String,
    #[prost(string, tag = "3")]
    dataset: String,
    #[prost(string, tag = "4")]
    uri: String,
    #[prost(message, optional, tag = "5")]
    columns: Option<Names>,
    #[prost(string, optional, tag = "6")]
    filter: Option<String>,
    #[prost(uint64, optional, tag = "7")]
    limit: Option<u64>,
    #[prost(bool, tag = "8")]
    ordered: bool,
    #[prost(fixed64, tag = "9")]
    schema_fingerprint: u64,
    #[prost(bytes = "bytes", tag = "10")]
    schema_ipc: Bytes,
    #[prost(string, repeated, tag = "11")]
    output: Vec<String>,
    #[prost(message, repeated, tag = "12")]
    partitions: Vec<Partition>,
    #[prost(message, repeated, tag = "13")]
    files: Vec<File>,
    #[prost(uint64, tag = "14")]
    epoch: u64,
    #[prost(string, repeated, tag = "15")]
    holders: Vec<String>,
    #[prost(fixed64, repeated, tag = "16")]
    splits: Vec<u64>,
    #[prost(bool, tag = "17")]
    reread: bool,
}

#[derive(Clone, PartialEq, Message)]
struct Names {
    #[prost(string, repeated, tag = "1")]
    names: Vec<String>,
}

#[derive(Clone, PartialEq, Message)]
struct Partition {
    #[prost(string, tag = "1")]
    name: String,
    /// 1 = whole numbers, 2 = text.
    #[prost(uint32, tag = "2")]
    kind: u32,
}

#[derive(Clone, PartialEq, Message)]
struct File {
    #[prost(string, tag = "1")]
    path: String,
    #[prost(uint64, tag = "2")]
    size: u64,
    #[prost(string, tag = "3")]
    generation: String,
    #[prost(uint32, repeated, tag = "4")]
    row_groups: Vec<u32>,
    #[prost(message, repeated, tag = "5")]
    values: Vec<PartitionValue>,
}

#[derive(Clone, PartialEq, Message)]
struct PartitionValue {
    #[prost(oneof = "Value", tags = "1, 2")]
    value: Option<Value>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum Value {
    #[prost(sint64, tag = "1")]
    Int(i64),
    #[prost(string, tag = "2")]
    Text(String),
}

impl From<&Ticket> for Body {
    fn from(ticket: &Ticket) -> Self {
        Self {
            expires_unix_ms: ticket.expires_unix_ms,
            audience: ticket.audience.clone(),
            dataset: ticket.dataset.clone(),
            uri: ticket.uri.clone(),
            columns: ticket.columns.clone().map(|names| Names { names }),
            filter: ticket.filter.clone(),
            limit: ticket.limit,
            ordered: ticket.ordered,
            schema_fingerprint: ticket.schema_fingerprint,
            schema_ipc: ticket.schema_ipc.clone(),
            output: ticket.output.clone(),
            partitions: ticket.partitions.iter().map(Partition::from).collect(),
            files: ticket.files.iter().map(File::from).collect(),
            epoch: ticket.epoch,
            holders: ticket.holders.clone(),
            splits: ticket.splits.clone(),
            reread: ticket.reread,
        }
    }
}

impl TryFrom<Body> for Ticket {
    type Error = TicketError;

    fn try_from(body: Body) -> Result<Self, TicketError> {
        Ok(Self {
            expires_unix_ms: body.expires_unix_ms,
            audience: body.audience,
            dataset: body.dataset,
            uri: body.uri,
            columns: body.columns.map(|columns| columns.names),
            filter: body.filter,
            limit: body.limit,
            ordered: body.ordered,
            schema_fingerprint: body.schema_fingerprint,
            schema_ipc: body.schema_ipc,
            output: body.output,
            partitions: body
                .partitions
                .into_iter()
                .map(TicketPartition::try_from)
                .collect::<Result<_, _>>()?,
            files: body.files.into_iter().map(TicketFile::from).collect(),
            epoch: body.epoch,
            holders: body.holders,
            splits: body.splits,
            reread: body.reread,
        })
    }
}

impl From<&TicketPartition> for Partition {
    fn from(partition: &TicketPartition) -> Self {
        let kind = match partition.kind {
            TicketPartitionKind::Int => 1,
            TicketPartitionKind::Text => 2,
        };
        Self {
            name: partition.name.clone(),
            kind,
        }
    }
}

impl TryFrom<Partition> for TicketPartition {
    type Error = TicketError;

    fn try_from(partition: Partition) -> Result<Self, TicketError> {
        let kind = match partition.kind {
            1 => TicketPartitionKind::Int,
            2 => TicketPartitionKind::Text,
            other => return Err(unreadable(format!("partition columns of kind {other} are not known"))),
        };
        Ok(Self {
            name: partition.name,
            kind,
        })
    }
}

impl From<&TicketFile> for File {
    fn from(file: &TicketFile) -> Self {
        Self {
            path: file.path.clone(),
            size: file.size,
            generation: file.generation.clone(),
            row_groups: file.row_groups.clone(),
            values: file.values.iter().map(PartitionValue::from).collect(),
        }
    }
}

impl From<File> for TicketFile {
    fn from(file: File) -> Self {
        Self {
            path: file.path,
            size: file.size,
            generation: file.generation,
            row_groups: file.row_groups,
            values: file.values.into_iter().map(TicketValue::from).collect(),
        }
    }
}

impl From<&TicketValue> for PartitionValue {
    fn from(value: &TicketValue) -> Self {
        let value = match value {
            TicketValue::Int(number) => Some(Value::Int(*number)),
            TicketValue::Text(text) => Some(Value::Text(text.clone())),
            TicketValue::Null => None,
        };
        Self { value }
    }
}

impl From<PartitionValue> for TicketValue {
    fn from(value: PartitionValue) -> Self {
        match value.value {
            Some(Value::Int(number)) => Self::Int(number),
            Some(Value::Text(text)) => Self::Text(text),
            None => Self::Null,
        }
    }
}
