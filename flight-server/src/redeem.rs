//! Tickets of scans: what a plan's run becomes when it is handed out, and what it is when it comes back.
//!
//! A ticket says everything that the reader needs, so redeeming one lists nothing and reads no footer but those of the files
//! that it names. What it cannot say is where the namespace keeps the dataset now: if other storage is mounted there since, the
//! ticket is stale.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arrow::datatypes::SchemaRef;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use jetbridge_cache::ReadError;
use jetbridge_cache::key::{FileKey, Generation, RowGroup};
use jetbridge_cache::page::{OpenFile, Peers};
use jetbridge_cache::retention::Reread;
use jetbridge_cache::scan::{Ahead, BATCH_BYTES, Pause, Residency, ScanBatch, ScanRequest, Sieve, Split, Taker};
use jetbridge_cache::schema;
use jetbridge_catalog::dataset::{PartitionKind, PartitionValue};
use jetbridge_catalog::path::NsPath;

use crate::cluster::peers::{PeerReads, Reach};
use crate::dataset::{Dataset, partition_array};
use crate::error::ServiceError;
use crate::filter::{PageSieve, Predicate};
use crate::node::Node;
use crate::plan::{Plan, Run, RunFile};
use crate::request::ScanSpec;
use crate::ticket::{
    Ticket, TicketError, TicketFile, TicketPartition, TicketPartitionKind, TicketValue, schema_fingerprint,
    schema_from_ipc, schema_to_ipc,
};

/// Seals the runs of one plan.
pub struct Sealer<'a> {
    node: &'a Node,
    dataset: &'a Dataset,
    /// Everything but the run's own files and limit.
    template: Ticket,
}

impl<'a> Sealer<'a> {
    /// A sealer of tickets that are valid until `expires`.
    #[must_use]
    pub fn new(node: &'a Node, plan: &'a Plan, spec: &ScanSpec, expires: SystemTime) -> Self {
        let template = Ticket {
            expires_unix_ms: unix_ms(expires),
            audience: node.cluster.cluster_id().to_owned(),
            dataset: plan.dataset.path.to_string(),
            uri: storage_uri(node, &plan.dataset.path),
            columns: spec.columns.clone(),
            filter: spec.filter.clone(),
            limit: None,
            ordered: spec.ordered,
            schema_fingerprint: schema_fingerprint(&plan.output),
            schema_ipc: schema_to_ipc(&plan.read),
            output: plan.output.fields().iter().map(|field| field.name().clone()).collect(),
            partitions: plan
                .dataset
                .partitions
                .iter()
                .map(|column| partition(&column.name, column.kind))
                .collect(),
            files: Vec::new(),
            epoch: plan.view.epoch(),
            holders: Vec::new(),
            splits: Vec::new(),
            reread: spec.reread,
        };
        Self {
            node,
            dataset: &plan.dataset,
            template,
        }
    }

    /// The ticket of one run, which nodes of these ids may hold, the likeliest first.
    ///
    /// # Errors
    /// RESOURCE_EXHAUSTED for a run that names more files than a ticket may.
    pub fn seal(&self, run: &Run, holders: Vec<String>) -> Result<Bytes, ServiceError> {
        let files = run.files.iter().map(|file| self.file(file)).collect();
        let ticket = Ticket {
            limit: run.limit,
            files,
            holders,
            splits: run.splits.iter().map(|split| split.0).collect(),
            ..self.template.clone()
        };
        Ok(self.node.keys.seal(&ticket)?)
    }

    fn file(&self, run: &RunFile) -> TicketFile {
        let file = &self.dataset.files[run.file];
        TicketFile {
            path: file
                .path
                .strip_prefix(&self.dataset.path)
                .unwrap_or_default()
                .to_owned(),
            size: file.open.key.size,
            generation: file.open.key.generation.to_string(),
            row_groups: run.row_groups.clone(),
            values: file.values.iter().map(ticket_value).collect(),
        }
    }
}

/// What a ticket stands for, before anything is read.
pub struct Redeemed {
    /// Whose ticket it is.
    pub node: Arc<Node>,
    /// The dataset's path.
    pub dataset: NsPath,
    /// What the cache is to be asked for.
    pub request: ScanRequest,
    /// The numbers of the splits that it reads.
    splits: Vec<u64>,
}

/// The rows of a ticket.
pub struct Rows {
    /// The schema of the batches.
    pub schema: SchemaRef,
    /// The rows, read as they are asked for; ends after the first error.
    pub batches: BoxStream<'static, Result<ScanBatch, ServiceError>>,
    /// Lets go of what the reading holds while nobody asks.
    pub pause: Pause,
}

/// What a ticket stands for.
///
/// # Errors
/// As [`open`] and [`scan_request`].
pub fn redeem(node: &Arc<Node>, ticket: &[u8]) -> Result<Redeemed, ServiceError> {
    let ticket = open(node, ticket)?;
    Ok(Redeemed {
        dataset: node.locate(&ticket.dataset)?,
        request: scan_request(node, &ticket)?,
        splits: ticket.splits,
        node: Arc::clone(node),
    })
}

impl Redeemed {
    /// Where its bytes are now, on this node.
    pub async fn residency(&self) -> Residency {
        let splits = self.request.splits.iter();
        let files: Vec<_> = splits.map(|split| (&split.file, split.row_groups.clone())).collect();
        self.node.cache.residency(&files, &self.request.read).await
    }

    /// Counts a read of its splits, by which those are found that many read.
    pub fn count_read(&self) {
        self.node.cluster.count_read(&self.splits);
    }

    /// Begins to read; errors of storage and files come in the stream.
    #[must_use]
    pub fn rows(self) -> Rows {
        self.count_read();
        let schema = Arc::clone(&self.request.output);
        let (batches, pause) = self.node.cache.pausable_scan(self.request);
        let (node, dataset) = (self.node, self.dataset);
        let batches = batches.map(move |batch| batch.map_err(|error| failed(&node, &dataset, error)));
        Rows {
            schema,
            batches: batches.boxed(),
            pause,
        }
    }
}

/// Why a read of a dataset failed; if its data changed, the next plan looks at the storage anew.
pub fn failed(node: &Node, dataset: &NsPath, error: ReadError) -> ServiceError {
    let error = ServiceError::from(error);
    if error.is_stale() {
        node.datasets.refresh(dataset);
    }
    error
}

/// The content of a ticket, after its seal and its time were checked.
///
/// # Errors
/// UNAUTHENTICATED for what is not ours, altered, or expired.
pub fn open(node: &Node, ticket: &[u8]) -> Result<Ticket, ServiceError> {
    Ok(node
        .keys
        .open_ticket(ticket, node.cluster.cluster_id(), unix_ms(node.cluster.now()))?)
}

/// The same ticket, valid until `expires`.
///
/// # Errors
/// As [`open`].
pub fn renew(node: &Node, ticket: &[u8], expires: SystemTime) -> Result<Bytes, ServiceError> {
    let ticket = Ticket {
        expires_unix_ms: unix_ms(expires),
        ..open(node, ticket)?
    };
    Ok(node.keys.seal(&ticket)?)
}

/// What the cache is asked for to answer `ticket`.
///
/// # Errors
/// ABORTED where other storage is mounted at the dataset's path since; a mount that is gone or cannot be opened.
pub fn scan_request(node: &Node, ticket: &Ticket) -> Result<ScanRequest, ServiceError> {
    let dataset = node.locate(&ticket.dataset)?;
    if storage_uri(node, &dataset) != ticket.uri {
        return Err(ServiceError::Remounted { path: dataset });
    }
    let read = schema_from_ipc(&ticket.schema_ipc).map_err(|error| unreadable(&error))?;
    let output = output_schema(ticket, &read)?;
    let predicate = ticket.filter.as_ref().map(|sql| Predicate::parse(sql, &read));
    let predicate = predicate.transpose()?;
    let filter = predicate
        .as_ref()
        .map(|predicate| predicate.row_filter(&read))
        .transpose()?;
    let sieve = predicate.and_then(|predicate| PageSieve::of(predicate.pruning()));
    let peers = PeerReads::among(&node.cluster.peers, ticket.holders.as_slice().into(), Reach::Owner);
    let splits = ticket
        .files
        .iter()
        .map(|file| split(node, ticket, &dataset, file, peers.clone()))
        .collect::<Result<_, _>>()?;
    Ok(ScanRequest {
        splits,
        read,
        output,
        filter,
        sieve: sieve.map(|sieve| Arc::new(sieve) as Arc<dyn Sieve>),
        limit: ticket.limit,
        skip: 0,
        batch_bytes: BATCH_BYTES,
        taker: Taker::Sends,
        reread: match ticket.reread {
            true => Reread::Foretold,
            false => Reread::Unknown,
        },
        ahead: Ahead::Far,
    })
}

/// The answer's schema: the columns asked for, pruned again where only parts of them were, in the order asked for.
fn output_schema(ticket: &Ticket, read: &SchemaRef) -> Result<SchemaRef, ServiceError> {
    let output = match &ticket.columns {
        Some(columns) => schema::project(read, columns)?,
        None => schema::project(read, &ticket.output)?,
    };
    let advertised = schema_fingerprint(&output) == ticket.schema_fingerprint;
    if advertised {
        Ok(output)
    } else {
        Err(ServiceError::Internal {
            what: "a ticket's schema changed".to_owned(),
        })
    }
}

fn split(
    node: &Node,
    ticket: &Ticket,
    dataset: &NsPath,
    file: &TicketFile,
    peers: Option<Arc<dyn Peers>>,
) -> Result<Split, ServiceError> {
    let path = dataset.join(&file.path).map_err(|error| unreadable(&error))?;
    let (ufs, relative) = node.resolve(&path)?;
    let key = FileKey {
        uri: ufs.uri_of(&relative).into(),
        generation: Generation::parse(&file.generation).map_err(|error| unreadable(&error))?,
        size: file.size,
    };
    let constants = ticket.partitions.iter().zip(&file.values).map(|(column, value)| {
        let kind = partition_kind(column.kind);
        (
            column.name.clone(),
            partition_array(kind, std::iter::once(&partition_value(value))),
        )
    });
    Ok(Split {
        constants: constants.collect(),
        file: OpenFile {
            ufs,
            path: relative,
            key,
            peers,
            errand: None,
        },
        path: path.to_string(),
        row_groups: file.row_groups.iter().copied().map(RowGroup).collect(),
    })
}

/// The storage that the namespace shows at `path`; empty above all mounts.
fn storage_uri(node: &Node, path: &NsPath) -> String {
    let table = node.namespace.table();
    let resolved = table.resolve(path);
    let uri = resolved.and_then(|resolved| resolved.mount.uri.join(&resolved.relative).ok());
    uri.map(|uri| uri.to_string()).unwrap_or_default()
}

fn unreadable(error: &(dyn std::error::Error + 'static)) -> ServiceError {
    ServiceError::Ticket(TicketError::Unreadable {
        reason: crate::error::chain(error),
    })
}

fn partition(name: &str, kind: PartitionKind) -> TicketPartition {
    let kind = match kind {
        PartitionKind::Int => TicketPartitionKind::Int,
        PartitionKind::Text => TicketPartitionKind::Text,
    };
    TicketPartition {
        name: name.to_owned(),
        kind,
    }
}

fn partition_kind(kind: TicketPartitionKind) -> PartitionKind {
    match kind {
        TicketPartitionKind::Int => PartitionKind::Int,
        TicketPartitionKind::Text => PartitionKind::Text,
    }
}

fn ticket_value(value: &PartitionValue) -> TicketValue {
    match value {
        PartitionValue::Int(number) => TicketValue::Int(*number),
        PartitionValue::Text(text) => TicketValue::Text(text.clone()),
        PartitionValue::Null => TicketValue::Null,
    }
}

fn partition_value(value: &TicketValue) -> PartitionValue {
    match value {
        TicketValue::Int(number) => PartitionValue::Int(*number),
        TicketValue::Text(text) => PartitionValue::Text(text.clone()),
        TicketValue::Null => PartitionValue::Null,
    }
}

/// A time in milliseconds since 1970 UTC, as sealed contents have it.
pub(crate) fn unix_ms(time: SystemTime) -> u64 {
    let since_epoch = time.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX)
}
