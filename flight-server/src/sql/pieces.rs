//! What a scan reads, cut for those who read it: pieces of one list of owners each, dealt out to partitions.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use arrow::datatypes::{Schema, SchemaRef};
use bytes::Bytes;
use jetbridge_cache::key::RowGroup;
use jetbridge_cache::page::OpenFile;
use jetbridge_cache::scan::{Residency, Split};

use crate::cluster::peers::{PeerReads, Reach};
use crate::dataset::{Dataset, partition_array};
use crate::error::ServiceError;
use crate::node::Node;
use crate::plan::{Plan, Run};
use crate::redeem;
use crate::request::ScanSpec;

/// Pieces that a partition should have at least, where row groups allow it, so that partitions balance.
const PIECES_PER_PARTITION: u64 = 8;
/// A piece below this is not worth a cut, in decoded bytes.
const LEAST_PIECE_BYTES: u64 = 1 << 20;

/// Row groups of one list of owners, read one after another. Cheap to clone.
#[derive(Clone)]
pub struct ScanPiece {
    /// Ids of the nodes that own them: the owner, then its replicas. Empty where no worker has a place.
    pub owners: Arc<[String]>,
    /// Rows in them.
    pub rows: u64,
    /// Decoded bytes of the columns that were asked for when it was planned, about.
    pub bytes: u64,
    splits: Arc<[Split]>,
    numbers: Arc<[u64]>,
    origin: Origin,
}

/// What a piece is made from, and can be sealed from again.
#[derive(Clone)]
enum Origin {
    /// A run of a plan of this node.
    Planned(Arc<Plan>, usize),
    /// A ticket.
    Ticket(Bytes),
}

impl fmt::Debug for ScanPiece {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ScanPiece")
            .field("owners", &self.owners)
            .field("rows", &self.rows)
            .field("bytes", &self.bytes)
            .finish_non_exhaustive()
    }
}

impl ScanPiece {
    /// A ticket that any node can make this piece from. It is a whole ticket: whoever redeems it in a DoGet gets the rows of
    /// the piece, all of the columns that it was planned with.
    ///
    /// # Errors
    /// RESOURCE_EXHAUSTED for a piece of more files than a ticket names.
    pub fn seal(&self, node: &Node) -> Result<Bytes, ServiceError> {
        let (plan, run) = match &self.origin {
            Origin::Ticket(ticket) => return Ok(ticket.clone()),
            Origin::Planned(plan, run) => (plan, plan.runs.get(*run)),
        };
        let run = run.ok_or_else(|| ServiceError::Internal {
            what: "a piece of a scan without its plan".to_owned(),
        })?;
        let expires: SystemTime = node.cluster.now() + node.ticket_ttl;
        let spec = ScanSpec {
            path: plan.dataset.path.to_string(),
            ..ScanSpec::default()
        };
        redeem::Sealer::new(node, plan, &spec, expires).seal(run, node.cluster.holders(&plan.view, run))
    }

    /// The piece that a ticket stands for. Who owns it is not asked again: whoever redeems it was meant to.
    ///
    /// # Errors
    /// As [`redeem::redeem`].
    pub fn redeem(node: &Arc<Node>, ticket: &[u8], rows: u64, bytes: u64) -> Result<Self, ServiceError> {
        let opened = redeem::open(node, ticket)?;
        let request = redeem::scan_request(node, &opened)?;
        Ok(Self {
            owners: opened.holders.into(),
            rows,
            bytes,
            splits: request.splits.into(),
            numbers: opened.splits.into(),
            origin: Origin::Ticket(Bytes::copy_from_slice(ticket)),
        })
    }

    /// Where its columns are on this node now.
    pub async fn residency(&self, node: &Node, read: &SchemaRef) -> Residency {
        let files: Vec<_> = self
            .splits
            .iter()
            .map(|split| (&split.file, split.row_groups.clone()))
            .collect();
        node.cache.residency(&files, read).await
    }

    /// How many row groups it has.
    #[must_use]
    pub fn row_groups(&self) -> usize {
        self.splits.iter().map(|split| split.row_groups.len()).sum()
    }

    /// The row groups, for the cache.
    pub(super) fn splits(&self) -> &[Split] {
        &self.splits
    }

    /// Counts a read of its splits, by which those are found that many read.
    pub(super) fn count_read(&self, node: &Node) {
        node.cluster.count_read(&self.numbers);
    }

    fn of(node: &Node, plan: &Arc<Plan>, at: usize, run: &Run) -> Self {
        let holders: Arc<[String]> = node.cluster.holders(&plan.view, run).into();
        let seats = run.owners.iter().filter_map(|&slot| plan.view.placement.seat(slot));
        let peers = PeerReads::among(&node.cluster.peers, holders, Reach::Owner);
        let splits = run.files.iter().map(|file| {
            let data = &plan.dataset.files[file.file];
            Split {
                file: OpenFile {
                    peers: peers.clone(),
                    ..data.open.clone()
                },
                path: data.path.to_string(),
                row_groups: file.row_groups.iter().copied().map(RowGroup).collect(),
                constants: constants(&plan.dataset, file.file),
            }
        });
        Self {
            owners: seats.map(|seat| seat.id.as_str().to_owned()).collect(),
            rows: run.rows,
            bytes: run.bytes,
            splits: splits.collect(),
            numbers: run.splits.iter().map(|split| split.0).collect(),
            origin: Origin::Planned(Arc::clone(plan), at),
        }
    }
}

/// What one partition of a scan reads, in order.
#[derive(Debug, Clone, Default)]
pub struct ScanPartition {
    /// Its pieces.
    pub pieces: Vec<ScanPiece>,
}

impl ScanPartition {
    /// Rows of its pieces.
    #[must_use]
    pub fn rows(&self) -> u64 {
        self.pieces.iter().map(|piece| piece.rows).sum()
    }

    /// Decoded bytes of its pieces, about.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.pieces.iter().map(|piece| piece.bytes).sum()
    }
}

/// The pieces of a plan, those of one list of owners beside one another.
pub(super) fn pieces(node: &Node, plan: &Arc<Plan>) -> Vec<ScanPiece> {
    let runs = plan.runs.iter().enumerate().filter(|(_, run)| !run.files.is_empty());
    let mut pieces: Vec<ScanPiece> = runs.map(|(at, run)| ScanPiece::of(node, plan, at, run)).collect();
    pieces.sort_by(|a, b| a.owners.cmp(&b.owners));
    pieces
}

/// Deals pieces out to `count` partitions at most, in their order, about as many bytes each. One partition at least, which is
/// empty where there are no pieces.
pub fn partitioned(pieces: Vec<ScanPiece>, count: usize) -> Vec<ScanPartition> {
    let mut left: u64 = pieces.iter().map(|piece| piece.bytes.max(1)).sum();
    let mut partitions = Vec::new();
    let mut open = ScanPartition::default();
    let mut open_bytes = 0;
    for piece in pieces {
        let still = u64::try_from(count.saturating_sub(partitions.len()).max(1)).unwrap_or(u64::MAX);
        let share = (left + open_bytes).div_ceil(still);
        let bytes = piece.bytes.max(1);
        // A piece goes where it brings the partition nearer to its share.
        if still > 1 && !open.pieces.is_empty() && open_bytes + bytes / 2 > share {
            partitions.push(std::mem::take(&mut open));
            open_bytes = 0;
        }
        left -= bytes;
        open_bytes += bytes;
        open.pieces.push(piece);
    }
    if !open.pieces.is_empty() || partitions.is_empty() {
        partitions.push(open);
    }
    partitions
}

/// Decoded bytes of a piece, such that so many partitions balance.
pub(super) fn piece_bytes(dataset: &Dataset, read: &Schema, partitions: usize) -> u64 {
    let bytes: u64 = dataset
        .files
        .iter()
        .map(|file| {
            let columns = crate::plan::read_columns(file, read);
            let groups = file.summary.as_ref().map_or(&[][..], |summary| &summary.row_groups);
            let of_group = |group: &jetbridge_cache::RowGroupInfo| -> u64 {
                columns
                    .iter()
                    .filter_map(|&column| group.decoded_bytes.get(column))
                    .sum()
            };
            groups.iter().map(of_group).sum::<u64>()
        })
        .sum();
    let pieces = u64::try_from(partitions).unwrap_or(1).max(1) * PIECES_PER_PARTITION;
    (bytes / pieces).max(LEAST_PIECE_BYTES)
}

/// The values of the partition columns of a file.
fn constants(dataset: &Dataset, file: usize) -> Vec<(String, arrow::array::ArrayRef)> {
    let values = dataset.files[file].values.iter();
    let columns = dataset.partitions.iter().zip(values);
    columns
        .map(|(column, value)| {
            (
                column.name.clone(),
                partition_array(column.kind, std::iter::once(value)),
            )
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn piece(bytes: u64) -> ScanPiece {
        ScanPiece {
            owners: Arc::from([]),
            rows: bytes,
            bytes,
            splits: Arc::from([]),
            numbers: Arc::from([]),
            origin: Origin::Ticket(Bytes::new()),
        }
    }

    fn dealt(bytes: &[u64], count: usize) -> Vec<u64> {
        let pieces = bytes.iter().copied().map(piece).collect();
        partitioned(pieces, count).iter().map(ScanPartition::bytes).collect()
    }

    #[test]
    fn partitions_have_about_as_many_bytes() {
        assert_eq!(dealt(&[], 4), [0]);
        assert_eq!(dealt(&[5], 4), [5]);
        assert_eq!(dealt(&[10; 8], 2), [40, 40]);
        assert_eq!(dealt(&[10; 7], 2), [40, 30]);
        assert_eq!(dealt(&[30, 1, 1, 1], 2), [30, 3]);
    }

    proptest! {
        #[test]
        fn every_piece_is_in_one_partition_in_order(bytes in prop::collection::vec(0u64..1000, 0..100), count in 1usize..20) {
            let pieces: Vec<ScanPiece> = bytes.iter().copied().map(piece).collect();
            let partitions = partitioned(pieces, count);
            prop_assert!((1..=count).contains(&partitions.len()));
            let dealt: Vec<u64> = partitions.iter().flat_map(|partition| &partition.pieces).map(|piece| piece.bytes).collect();
            let largest = bytes.iter().copied().max().unwrap_or(0);
            let share = bytes.iter().map(|&bytes| bytes.max(1)).sum::<u64>().div_ceil(u64::try_from(count).unwrap());
            prop_assert!(partitions.iter().all(|partition| partition.bytes() <= 2 * (share + largest)));
            prop_assert_eq!(dealt, bytes);
        }
    }
}
