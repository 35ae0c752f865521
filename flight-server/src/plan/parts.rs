//! The row groups that a scan names itself.

use super::Kept;
use crate::dataset::{Dataset, FileSummary};
use crate::error::ServiceError;
use crate::request::Part;

/// The row groups that `parts` names, in its order; parts without row groups are left out.
///
/// # Errors
/// NOT_FOUND for a file that the dataset does not have, INVALID_ARGUMENT for a row group that the file does not have; the
/// file's own error where it cannot be read.
pub(super) fn named(dataset: &Dataset, parts: &[Part]) -> Result<Vec<Kept>, ServiceError> {
    let named = parts.iter().filter(|Part(_, groups)| !groups.is_empty());
    named.map(|part| kept(dataset, part)).collect()
}

/// What is left of `named` where statistics leave only `possible`, which is in reading order.
pub(super) fn in_both(named: Vec<Kept>, possible: &[Kept]) -> Vec<Kept> {
    let is_possible = |file: usize, group: &u32| {
        let found = possible.binary_search_by_key(&file, |kept| kept.file);
        found.is_ok_and(|at| possible[at].row_groups.binary_search(group).is_ok())
    };
    let left = named.into_iter().map(|kept| Kept {
        row_groups: kept
            .row_groups
            .into_iter()
            .filter(|group| is_possible(kept.file, group))
            .collect(),
        ..kept
    });
    left.filter(|kept| !kept.row_groups.is_empty()).collect()
}

fn kept(dataset: &Dataset, Part(file, groups): &Part) -> Result<Kept, ServiceError> {
    let path = dataset
        .path
        .join(file)
        .map_err(|error| ServiceError::invalid(format!("\"parts\" names {file:?}: {}", crate::error::chain(&error))))?;
    let at = dataset.files.binary_search_by(|known| known.path.cmp(&path));
    let at = at.map_err(|_| ServiceError::NoSuchFile {
        path: dataset.path.clone(),
        file: file.clone(),
    })?;
    let FileSummary { row_groups, .. } = match &dataset.files[at].summary {
        Ok(summary) => summary,
        Err(error) => return Err(ServiceError::Read(error.clone())),
    };
    let is_there = |group: &&u32| usize::try_from(**group).is_ok_and(|group| group < row_groups.len());
    match groups.iter().find(|group| !is_there(group)) {
        Some(group) => Err(ServiceError::invalid(format!(
            "\"parts\" names row group {group} of {path}, which has {}",
            row_groups.len()
        ))),
        None => Ok(Kept {
            file: at,
            row_groups: groups.clone(),
        }),
    }
}
