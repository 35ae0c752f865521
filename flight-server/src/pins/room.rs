//! Whether the workers have room for a pin, beside the others.
//!
//! A pin is charged to the owners of its splits as they are now. Files that several pins cover are charged once. Of a pin
//! whose data cannot be read now, because its mount is gone say, nothing is known and nothing is charged.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use jetbridge_catalog::dataset::dataset_roots;
use jetbridge_catalog::path::NsPath;

use super::PinRecord;
use crate::capacity::{Told, capacities};
use crate::cluster::Role;
use crate::dataset::Dataset;
use crate::error::ServiceError;
use crate::jobs::spec::Tier;
use crate::node::Node;

/// Pins may take this many hundredths of a tier; the rest is left for what is read besides.
const PINNABLE_PERCENT: u64 = 80;
/// Workers that a refusal names.
const NAMED_WORKERS: usize = 5;

/// What a pin asks of the workers.
#[derive(Debug)]
pub(super) struct Demand {
    path: NsPath,
    /// Stored bytes, one copy; 0 where pages are not asked for.
    pub(super) raw_bytes: u64,
    /// Decoded bytes, one copy; 0 where decoded columns are not asked for.
    pub(super) decoded_bytes: u64,
    files: Vec<FileDemand>,
}

/// What a file asks of the workers.
#[derive(Debug)]
struct FileDemand {
    uri: Arc<str>,
    tier: Tier,
    /// Bytes, raw and decoded, by worker.
    workers: Vec<(String, u64, u64)>,
}

/// Bytes by worker, raw and decoded; each file once in each tier.
#[derive(Debug, Default)]
struct Ledger {
    charged: HashSet<(Arc<str>, bool)>,
    workers: BTreeMap<String, (u64, u64)>,
}

impl Demand {
    /// What a pin of this path comes to.
    pub(super) async fn of(node: &Node, path: &NsPath, tier: Tier) -> Result<Self, ServiceError> {
        let mut demand = Self {
            path: path.clone(),
            raw_bytes: 0,
            decoded_bytes: 0,
            files: Vec::new(),
        };
        for dataset in datasets(node, path).await? {
            demand.add(node, &dataset, tier)?;
        }
        Ok(demand)
    }

    fn add(&mut self, node: &Node, dataset: &Arc<Dataset>, tier: Tier) -> Result<(), ServiceError> {
        let lineage = node.lineage(dataset)?;
        let seats = &lineage.view.placement;
        for (at, file) in dataset.files.iter().enumerate() {
            let Ok(summary) = &file.summary else { continue };
            let mut workers = Vec::new();
            for (row_groups, owners) in lineage.now.splits(at) {
                let groups = row_groups.filter_map(|group| summary.row_groups.get(usize::try_from(group).ok()?));
                let (raw, decoded) = groups.fold((0, 0), |(raw, decoded), group| {
                    let sum = |bytes: &[u64]| bytes.iter().sum::<u64>();
                    (raw + sum(&group.stored_bytes), decoded + sum(&group.decoded_bytes))
                });
                let raw = if tier.has_raw() { raw } else { 0 };
                let decoded = if tier.has_decoded() { decoded } else { 0 };
                self.raw_bytes += raw;
                self.decoded_bytes += decoded;
                let owners = owners.iter().filter_map(|&slot| seats.seat(slot));
                let mut ids: Vec<_> = owners.map(|seat| seat.id.to_string()).collect();
                if ids.is_empty() && node.cluster.role() != Role::Coordinator {
                    ids.push(node.cluster.id().to_owned());
                }
                workers.extend(ids.into_iter().map(|id| (id, raw, decoded)));
            }
            self.files.push(FileDemand {
                uri: Arc::clone(&file.open.key.uri),
                tier,
                workers,
            });
        }
        Ok(())
    }

    /// Refuses what the workers could not hold beside other pins.
    pub(super) async fn check(&self, node: &Node, pins: &[(u64, PinRecord)]) -> Result<(), ServiceError> {
        let mut ledger = Ledger::default();
        for (_, pin) in pins.iter().filter(|(_, pin)| pin.path != self.path) {
            match Self::of(node, &pin.path, pin.tier).await {
                Ok(demand) => ledger.charge(&demand),
                Err(error) => {
                    let error = crate::error::chain(&error);
                    tracing::debug!(pin = %pin.path, error, "what this pin comes to is not known now");
                }
            }
        }
        let others = ledger.workers.clone();
        ledger.charge(self);
        let capacities = capacities(node).await;
        refusal(&self.path, &capacities, &others, &ledger.workers)
            .map_or(Ok(()), |what| Err(ServiceError::Full { what }))
    }
}

impl Ledger {
    fn charge(&mut self, demand: &Demand) {
        for file in &demand.files {
            let mut is_new =
                |is_asked: bool, decoded| is_asked && self.charged.insert((Arc::clone(&file.uri), decoded));
            let raw = is_new(file.tier.has_raw(), false);
            let decoded = is_new(file.tier.has_decoded(), true);
            for (id, raw_bytes, decoded_bytes) in &file.workers {
                let sum = self.workers.entry(id.clone()).or_default();
                sum.0 += if raw { *raw_bytes } else { 0 };
                sum.1 += if decoded { *decoded_bytes } else { 0 };
            }
        }
    }
}

/// What does not fit, in words with figures; none where all fits. A worker of whom nothing is known is taken to have room.
fn refusal(
    path: &NsPath,
    capacities: &[(String, Told)],
    others: &BTreeMap<String, (u64, u64)>,
    all: &BTreeMap<String, (u64, u64)>,
) -> Option<String> {
    let words = capacities.iter().filter_map(|(id, capacity)| {
        let (before, after) = (others.get(id).copied().unwrap_or_default(), *all.get(id)?);
        let tier = |name: &str, before: u64, after: u64, capacity: u64| {
            let pinnable = capacity / 100 * PINNABLE_PERCENT;
            (after > before && after > pinnable).then(|| {
                format!("{after} bytes {name} ({before} of them by other pins) of {pinnable} that it may have pinned")
            })
        };
        let raw = tier("raw", before.0, after.0, capacity.raw_bytes);
        let decoded = tier("decoded", before.1, after.1, capacity.decoded_bytes);
        let short: Vec<_> = raw.into_iter().chain(decoded).collect();
        (!short.is_empty()).then(|| format!("worker {id} would have {}", short.join(" and ")))
    });
    let words: Vec<_> = words.collect();
    let more = match words.len().saturating_sub(NAMED_WORKERS) {
        0 => String::new(),
        more => format!("; and {more} workers more"),
    };
    let named = words.iter().take(NAMED_WORKERS).cloned().collect::<Vec<_>>().join("; ");
    (!words.is_empty()).then(|| {
        format!(
            "the pin of {path} does not fit: {named}{more}; pin a part of it, another tier, or unpin something else"
        )
    })
}

/// The datasets that a path comes to: itself, or those below it where it is no table; none of a folder without data.
async fn datasets(node: &Node, path: &NsPath) -> Result<Vec<Arc<Dataset>>, ServiceError> {
    match node.datasets.get(path).await {
        Ok(dataset) => return Ok(vec![dataset]),
        Err(ServiceError::NoDataset { .. }) => {
            node.datasets.tree().place(path).await?;
            return Ok(Vec::new());
        }
        Err(ServiceError::Merge { .. } | ServiceError::Layout { .. }) => {}
        Err(error) => return Err(error),
    }
    let files = node.datasets.tree().data_files(path).await?;
    let relatives: Vec<&str> = files.iter().filter_map(|file| file.strip_prefix(path)).collect();
    let roots = dataset_roots(&relatives);
    let mut found = Vec::new();
    for root in roots.iter().filter_map(|root| path.join(root).ok()) {
        // What is no table together is taken file by file.
        match node.datasets.get(&root).await {
            Ok(dataset) => found.push(dataset),
            Err(ServiceError::Merge { .. } | ServiceError::Layout { .. }) => {
                for file in files.iter().filter(|file| file.strip_prefix(&root).is_some()) {
                    found.push(node.datasets.get(file).await?);
                }
            }
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A worker's id, and bytes, raw and decoded.
    type Share<'a> = (&'a str, u64, u64);

    fn demand(tier: Tier, files: &[(&str, &[Share<'_>])]) -> Demand {
        let files = files.iter().map(|(uri, workers)| FileDemand {
            uri: (*uri).into(),
            tier,
            workers: workers
                .iter()
                .map(|&(id, raw, decoded)| (id.to_owned(), raw, decoded))
                .collect(),
        });
        Demand {
            path: NsPath::root(),
            raw_bytes: 0,
            decoded_bytes: 0,
            files: files.collect(),
        }
    }

    fn sums(entries: &[Share<'_>]) -> BTreeMap<String, (u64, u64)> {
        let sums = entries
            .iter()
            .map(|&(id, raw, decoded)| (id.to_owned(), (raw, decoded)));
        sums.collect()
    }

    #[test]
    fn a_file_of_two_pins_is_charged_once_in_each_tier() {
        let mut ledger = Ledger::default();
        ledger.charge(&demand(Tier::Raw, &[("f", &[("a", 10, 0), ("b", 5, 0)])]));
        ledger.charge(&demand(
            Tier::Both,
            &[("f", &[("a", 10, 30), ("b", 5, 15)]), ("g", &[("b", 1, 2)])],
        ));
        assert_eq!(ledger.workers, sums(&[("a", 10, 30), ("b", 6, 17)]));
    }

    #[test]
    fn what_does_not_fit_is_refused_with_figures() {
        let told = |raw_bytes, decoded_bytes| Told {
            raw_bytes,
            decoded_bytes,
        };
        let capacities = [("a".to_owned(), told(1000, 100)), ("b".to_owned(), told(1000, 1000))];
        let refused = |others: &[_], all: &[_]| refusal(&NsPath::root(), &capacities, &sums(others), &sums(all));
        assert_eq!(refused(&[], &[("a", 800, 80), ("b", 0, 0)]), None);
        assert_eq!(refused(&[], &[("unknown", 9999, 0)]), None);
        let words = refused(&[("a", 300, 0)], &[("a", 801, 81), ("b", 1, 1)]).unwrap();
        assert!(
            words.contains(
                "worker a would have 801 bytes raw (300 of them by other pins) of 800 that it may have pinned and \
                 81 bytes decoded (0 of them by other pins) of 80"
            ),
            "{words}"
        );
        assert!(!words.contains("worker b"), "{words}");
        // Workers that hold too much already, since one has gone say, do not stand in the way of what others hold.
        assert_eq!(refused(&[("a", 900, 0)], &[("a", 900, 0), ("b", 5, 5)]), None);
    }
}
