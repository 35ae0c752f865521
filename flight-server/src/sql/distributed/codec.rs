//! A scan on the wire.
//!
//! A piece travels as its ticket, which is sealed and says all that its reader needs; a partition as its pieces; the
//! table as an Arrow schema; what is given and what must be passed as DataFusion writes expressions. Dynamic filters
//! travel with it: one that is made in the same stage finds its maker again by its number, another stays as it was when
//! it was sent, which passes more rows and none too few.
//!
//! Nothing else of ours travels, and no other leaf reads.

use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use bytes::Bytes;
use datafusion::common::{Result, Statistics, internal_datafusion_err, internal_err, not_impl_err};
use datafusion::error::DataFusionError;
use datafusion::execution::TaskContext;
use datafusion::physical_expr::projection::{ProjectionExpr, ProjectionExprs};
use datafusion::physical_plan::ExecutionPlan;
use datafusion_proto::physical_plan::{
    PhysicalExtensionCodec, PhysicalPlanDecodeContext, PhysicalProtoConverterExtension,
};
use datafusion_proto::protobuf::PhysicalExprNode;
use prost::Message;

use crate::node::Node;
use crate::sql::errors::carried;
use crate::sql::scan::{DatasetScanExec, ScanPartition, ScanPiece, ScanShape};
use crate::ticket::{schema_from_ipc, schema_to_ipc};

/// Writes and reads scans for one node.
pub struct ScanCodec {
    node: Arc<Node>,
}

impl ScanCodec {
    /// A codec that seals with the keys of `node`, and whose scans read through it.
    #[must_use]
    pub fn new(node: Arc<Node>) -> Self {
        Self { node }
    }

    fn seal(&self, partition: &ScanPartition) -> Result<PartitionOnWire> {
        let sealed = |piece: &ScanPiece| -> Result<PieceOnWire> {
            Ok(PieceOnWire {
                ticket: piece.seal(&self.node).map_err(carried)?,
                rows: piece.rows,
                bytes: piece.bytes,
            })
        };
        Ok(PartitionOnWire {
            pieces: partition.pieces.iter().map(sealed).collect::<Result<_>>()?,
        })
    }

    fn redeem(&self, partition: &PartitionOnWire) -> Result<ScanPartition> {
        let redeemed = partition
            .pieces
            .iter()
            .map(|piece| ScanPiece::redeem(&self.node, &piece.ticket, piece.rows, piece.bytes));
        Ok(ScanPartition {
            pieces: redeemed.collect::<Result<_, _>>().map_err(carried)?,
        })
    }
}

impl PhysicalExtensionCodec for ScanCodec {
    fn try_encode(
        &self,
        plan: Arc<dyn ExecutionPlan>,
        out: &mut Vec<u8>,
        converter: &dyn PhysicalProtoConverterExtension,
    ) -> Result<()> {
        let Some(scan) = plan.downcast_ref::<DatasetScanExec>() else {
            return not_impl_err!("{} cannot be sent to another node", plan.name());
        };
        let shape = scan.shape();
        let given = |given: &ProjectionExpr| -> Result<GivenOnWire> {
            Ok(GivenOnWire {
                name: given.alias.clone(),
                value: Some(converter.physical_expr_to_proto(&given.expr, self)?),
            })
        };
        let predicate = shape.predicate.as_ref();
        let on_wire = ScanOnWire {
            dataset: shape.dataset.to_string(),
            table: schema_to_ipc(&shape.table),
            given: shape.projection.iter().map(given).collect::<Result<_>>()?,
            predicate: predicate
                .map(|predicate| converter.physical_expr_to_proto(predicate, self))
                .transpose()?,
            fetch: shape.fetch.map(u64::try_from).transpose().map_err(too_many)?,
            partitions: scan
                .partitions()
                .iter()
                .map(|partition| self.seal(partition))
                .collect::<Result<_>>()?,
        };
        on_wire
            .encode(out)
            .map_err(|error| internal_datafusion_err!("a scan cannot be written: {error}"))
    }

    fn try_decode(
        &self,
        bytes: &[u8],
        inputs: &[Arc<dyn ExecutionPlan>],
        context: &TaskContext,
        converter: &dyn PhysicalProtoConverterExtension,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        if !inputs.is_empty() {
            return internal_err!("a scan has no inputs, and {} were given", inputs.len());
        }
        let on_wire =
            ScanOnWire::decode(bytes).map_err(|error| internal_datafusion_err!("a scan cannot be read: {error}"))?;
        let table: SchemaRef = schema_from_ipc(&on_wire.table)?;
        let context = PhysicalPlanDecodeContext::new(context, self);
        let expression = |written: &PhysicalExprNode| converter.proto_to_physical_expr(written, &table, &context);
        let given = |given: &GivenOnWire| -> Result<ProjectionExpr> {
            let value = given.value.as_ref();
            let value = value.ok_or_else(|| internal_datafusion_err!("a column of a scan has no value"))?;
            Ok(ProjectionExpr::new(expression(value)?, given.name.clone()))
        };
        let projection: Vec<ProjectionExpr> = on_wire.given.iter().map(given).collect::<Result<_>>()?;
        let shape = ScanShape {
            dataset: self.node.locate(&on_wire.dataset).map_err(carried)?,
            projection: ProjectionExprs::new(projection),
            predicate: on_wire.predicate.as_ref().map(expression).transpose()?,
            fetch: on_wire.fetch.map(usize::try_from).transpose().map_err(too_many)?,
            table: Arc::clone(&table),
        };
        let partitions = on_wire
            .partitions
            .iter()
            .map(|partition| self.redeem(partition))
            .collect::<Result<_>>()?;
        // What is known of the rows was used when the plan was made.
        let statistics = Arc::new(Statistics::new_unknown(&table));
        let scan = DatasetScanExec::try_new(Arc::clone(&self.node), shape, partitions, statistics)?;
        Ok(Arc::new(scan))
    }
}

impl std::fmt::Debug for ScanCodec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ScanCodec")
    }
}

/// A scan, as its bytes are laid out.
#[derive(Clone, PartialEq, Message)]
struct ScanOnWire {
    #[prost(string, tag = "1")]
    dataset: String,
    #[prost(bytes = "bytes", tag = "2")]
    table: Bytes,
    #[prost(message, repeated, tag = "3")]
    given: Vec<GivenOnWire>,
    #[prost(message, optional, tag = "4")]
    predicate: Option<PhysicalExprNode>,
    #[prost(uint64, optional, tag = "5")]
    fetch: Option<u64>,
    #[prost(message, repeated, tag = "6")]
    partitions: Vec<PartitionOnWire>,
}

/// A column that it gives.
#[derive(Clone, PartialEq, Message)]
struct GivenOnWire {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(message, optional, tag = "2")]
    value: Option<PhysicalExprNode>,
}

/// One partition of it.
#[derive(Clone, PartialEq, Message)]
struct PartitionOnWire {
    #[prost(message, repeated, tag = "1")]
    pieces: Vec<PieceOnWire>,
}

/// A piece of a partition.
#[derive(Clone, PartialEq, Message)]
struct PieceOnWire {
    #[prost(bytes = "bytes", tag = "1")]
    ticket: Bytes,
    #[prost(uint64, tag = "2")]
    rows: u64,
    #[prost(uint64, tag = "3")]
    bytes: u64,
}

fn too_many(error: std::num::TryFromIntError) -> DataFusionError {
    internal_datafusion_err!("a scan's limit does not fit this machine: {error}")
}
