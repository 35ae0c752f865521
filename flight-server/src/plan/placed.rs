//! Which nodes own which row groups of a dataset, under one placement.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use jetbridge_catalog::membership::View;
use jetbridge_catalog::path::NsPath;
use jetbridge_catalog::placement::{FileKey, Placement, SplitKey, SplitLoad};
use moka::sync::Cache as Moka;

use super::{Replicas, splits};
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
    /// Places the splits of `dataset`, each with as many replicas as are said of its file.
    #[must_use]
    pub fn new(placement: &Placement, dataset: &Dataset, replicas: &Replicas) -> Self {
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
        // The owner of a split is the same whatever its replicas, which follow from it alone.
        let assigned = placement.assign(&loads, 1);
        let mut placed = Self {
            placement: placement.clone(),
            files: dataset
                .files
                .iter()
                .map(|file| (FileKey::of_text(&file.open.key.uri), Vec::new()))
                .collect(),
            owners: Vec::new(),
        };
        let mut known: HashMap<Owners, u32> = HashMap::new();
        let mut assigned = loads.iter().zip(assigned.iter());
        let mut slots: Vec<u32> = Vec::new();
        for (file, splits) in bounds {
            let copies = replicas.of(&dataset.files[file].path);
            for (split, (load, owner)) in splits.into_iter().zip(assigned.by_ref()) {
                slots.clear();
                slots.extend_from_slice(owner);
                if let (&[owner], 2..) = (owner, copies) {
                    slots.extend(placement.replicas(owner, load.key(), copies - 1));
                }
                let list = placed.list_of(&slots, &mut known);
                placed.files[file].1.push((split.row_groups.end, list));
            }
        }
        placed
    }

    /// The position of a list of owners, which is kept once.
    fn list_of(&mut self, slots: &[u32], known: &mut HashMap<Owners, u32>) -> u32 {
        if let Some(&list) = known.get(slots) {
            return list;
        }
        let list = u32::try_from(self.owners.len()).unwrap_or(u32::MAX);
        let owners = Owners::from(slots);
        self.owners.push(Arc::clone(&owners));
        known.insert(owners, list);
        list
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
    replicas: Arc<Replicas>,
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
    pub fn lineage(&self, view: View, dataset: &Arc<Dataset>, replicas: &Replicas) -> Lineage {
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
    fn of(&self, placement: &Placement, dataset: &Arc<Dataset>, replicas: &Replicas) -> Arc<Placed> {
        let key = (dataset.path.clone(), placement.epoch());
        if let Some(known) = self.known.get(&key)
            && Arc::ptr_eq(&known.dataset, dataset)
            && *known.replicas == *replicas
        {
            return known.placed;
        }
        let placed = Arc::new(Placed::new(placement, dataset, replicas));
        let known = Known {
            dataset: Arc::clone(dataset),
            replicas: Arc::new(replicas.clone()),
            placed: Arc::clone(&placed),
        };
        self.known.insert(key, known);
        placed
    }
}

#[cfg(test)]
mod tests {
    use jetbridge_catalog::placement::{Seat, Seats};

    use super::*;
    use crate::testing::{Lake, numbers};

    fn placement(workers: usize) -> Placement {
        let seat = |number: usize| Seat {
            id: format!("{number:036}").parse().unwrap(),
            weight: 1,
        };
        Placement::new(1, Seats::new((0..workers).map(seat).collect()).unwrap())
    }

    fn owners(placed: &Placed, file: usize) -> Vec<Owners> {
        placed.splits(file).map(|(_, owners)| owners).collect()
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_file_has_as_many_owners_as_its_own_mount_says() {
        let lake = Lake::of(&[("lake/a.parquet", numbers(3)), ("hot/b.parquet", numbers(3))]).await;
        lake.mount("/lake/hot", "hot", &[("replicas", "3")]).await;
        let dataset = lake.node.dataset("/lake").await.unwrap();
        let paths: Vec<&str> = dataset.files.iter().map(|file| file.path.as_str()).collect();
        assert_eq!(paths, ["/lake/a.parquet", "/lake/hot/b.parquet"]);
        let replicas = Replicas::of_mounts(&lake.node.namespace.table(), &dataset.path).unwrap();
        for workers in [0, 1, 2, 5] {
            let placement = placement(workers);
            let [one, three] = [1, 3].map(|count| Placed::new(&placement, &dataset, &Replicas::all(count)));
            let placed = Placed::new(&placement, &dataset, &replicas);
            assert_eq!(owners(&placed, 0), owners(&one, 0), "{workers} workers");
            assert_eq!(owners(&placed, 1), owners(&three, 1), "{workers} workers");
            assert_eq!(owners(&placed, 1)[0].len(), workers.min(3));
        }
    }
}
