//! Which nodes own which row groups of a dataset, under one placement.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use jetbridge_catalog::membership::View;
use jetbridge_catalog::path::NsPath;
use jetbridge_catalog::placement::{FileKey, Placement, SplitKey, SplitLoad};
use moka::sync::Cache as Moka;

use super::splits;
use crate::dataset::Dataset;

/// The slots of those who own a split: the owner, then its replicas. Empty where no worker has a seat.
pub type Owners = Arc<[u32]>;

/// Most splits, summed over all datasets whose owners are kept; about 16 bytes of memory each.
const KEPT_SPLITS: u64 = 4_000_000;

/// The owners of a dataset's row groups.
#[derive(Debug)]
pub struct Placed {
    placement: Placement,
    /// For each file its number, and its splits, ascending: the row group after the last, and the position of the owners.
    files: Vec<(FileKey, Vec<(u32, u32)>)>,
    /// Each list of owners once.
    owners: Vec<Owners>,
}

impl Placed {
    /// Places the splits of `dataset`.
    #[must_use]
    pub fn new(placement: &Placement, dataset: &Dataset, replicas: usize) -> Self {
        let bounds: Vec<(usize, Vec<splits::SplitBounds>)> = dataset
            .files
            .iter()
            .enumerate()
            .filter_map(|(file, data)| Some((file, splits::splits(&data.summary.as_ref().ok()?.row_groups))))
            .collect();
        let loads: Vec<SplitLoad> = bounds
            .iter()
            .flat_map(|(file, splits)| {
                let file = FileKey::of_text(&dataset.files[*file].open.key.uri);
                (0u32..).zip(splits).map(move |(index, split)| SplitLoad {
                    file,
                    index,
                    bytes: split.bytes,
                })
            })
            .collect();
        let assigned = placement.assign(&loads, replicas);
        let mut placed = Self {
            placement: placement.clone(),
            files: dataset
                .files
                .iter()
                .map(|file| (FileKey::of_text(&file.open.key.uri), Vec::new()))
                .collect(),
            owners: Vec::new(),
        };
        let mut known: HashMap<&[u32], u32> = HashMap::new();
        let mut assigned = assigned.iter();
        for (file, splits) in bounds {
            for (split, slots) in splits.into_iter().zip(assigned.by_ref()) {
                let list = *known.entry(slots).or_insert_with(|| {
                    placed.owners.push(slots.into());
                    u32::try_from(placed.owners.len() - 1).unwrap_or(u32::MAX)
                });
                placed.files[file].1.push((split.row_groups.end, list));
            }
        }
        placed
    }

    /// Where a row group is, if its file could be read.
    pub(super) fn find(&self, file: usize, row_group: u32) -> Option<Found> {
        let (key, splits) = self.files.get(file)?;
        let index = splits.partition_point(|&(end, _)| end <= row_group);
        let &(_, list) = splits.get(index)?;
        Some(Found {
            split: key.split(u32::try_from(index).ok()?),
            list,
        })
    }

    /// The ids of the nodes in some slots.
    pub(super) fn ids<'a>(&'a self, owners: &'a [u32]) -> impl Iterator<Item = &'a str> {
        let seats = owners.iter().filter_map(|&slot| self.placement.seat(slot));
        seats.map(|seat| seat.id.as_str())
    }

    /// The owners at a position.
    pub(super) fn owners(&self, list: u32) -> Owners {
        let owners = usize::try_from(list).ok().and_then(|list| self.owners.get(list));
        owners.cloned().unwrap_or_default()
    }

    /// Every split of a file, with its owners.
    pub fn splits(&self, file: usize) -> impl Iterator<Item = (Range<u32>, Owners)> {
        let splits = self.files.get(file).map_or(&[][..], |(_, splits)| splits.as_slice());
        let mut start = 0;
        splits.iter().map(move |&(end, list)| {
            let row_groups = start..end;
            start = end;
            (row_groups, self.owners(list))
        })
    }

    fn weight(&self) -> u32 {
        let splits: usize = self.files.iter().map(|(_, splits)| splits.len() + 2).sum();
        u32::try_from(splits).unwrap_or(u32::MAX)
    }
}

/// Where a row group was found.
#[derive(Debug, Clone, Copy)]
pub(super) struct Found {
    /// Its split.
    pub(super) split: SplitKey,
    /// The position of its owners: row groups of equal positions have the same.
    pub(super) list: u32,
}

/// A dataset's placement now, and under earlier epochs, the latest first.
#[derive(Debug)]
pub struct Lineage {
    /// What is known of the cluster.
    pub view: View,
    /// Now.
    pub now: Arc<Placed>,
    /// Under earlier epochs.
    pub before: Vec<Arc<Placed>>,
}

/// What was placed lately: planning the same dataset again under the same placement costs nothing.
#[derive(Debug)]
pub struct Placements {
    known: Moka<(NsPath, u64), Known>,
}

#[derive(Debug, Clone)]
struct Known {
    dataset: Arc<Dataset>,
    replicas: usize,
    placed: Arc<Placed>,
}

impl Default for Placements {
    fn default() -> Self {
        let weigh = |_: &(NsPath, u64), known: &Known| known.placed.weight();
        Self {
            known: Moka::builder().max_capacity(KEPT_SPLITS).weigher(weigh).build(),
        }
    }
}

impl Placements {
    /// The owners of the splits of a snapshot, as the cluster is seen now.
    pub fn lineage(&self, view: View, dataset: &Arc<Dataset>, replicas: usize) -> Lineage {
        Lineage {
            now: self.of(&view.placement, dataset, replicas),
            before: view
                .earlier
                .iter()
                .map(|earlier| self.of(earlier, dataset, replicas))
                .collect(),
            view,
        }
    }

    /// The owners of the splits of a snapshot.
    fn of(&self, placement: &Placement, dataset: &Arc<Dataset>, replicas: usize) -> Arc<Placed> {
        let key = (dataset.path.clone(), placement.epoch());
        if let Some(known) = self.known.get(&key)
            && Arc::ptr_eq(&known.dataset, dataset)
            && known.replicas == replicas
        {
            return known.placed;
        }
        let placed = Arc::new(Placed::new(placement, dataset, replicas));
        let known = Known {
            dataset: Arc::clone(dataset),
            replicas,
            placed: Arc::clone(&placed),
        };
        self.known.insert(key, known);
        placed
    }
}
