//! ListFlights: the datasets of the namespace, planned one after another as the client reads.
//!
//! What is a dataset is a guess ([`crate::dataset::Datasets::candidates`]); and where a candidate's files share no columns, as
//! when every table is one file, it is each file by itself.

use std::sync::Arc;

use arrow_flight::{Criteria, FlightDescriptor, FlightInfo};
use futures::{StreamExt, stream};
use globset::{GlobBuilder, GlobMatcher};
use jetbridge_catalog::path::NsPath;
use tonic::{Code, Status};

use super::offer::Offer;
use super::{BoxedStream, info};
use crate::error::ServiceError;
use crate::node::Node;
use crate::request::ScanSpec;

/// Longest criteria, in bytes.
const MAX_CRITERIA_BYTES: usize = 4096;

/// The datasets that `criteria` selects: all, a path and what lies below it, or a glob.
///
/// # Errors
/// INVALID_ARGUMENT for criteria that are no path and no glob; the storage's, for the listing itself.
pub(super) async fn flights(
    node: Arc<Node>,
    offer: Offer,
    criteria: &Criteria,
) -> Result<BoxedStream<FlightInfo>, ServiceError> {
    let filter = Filter::parse(&criteria.expression)?;
    let candidates = node.datasets.candidates(|path| filter.concerns(path)).await;
    let flights = stream::iter(candidates)
        .then(move |candidate| {
            let node = Arc::clone(&node);
            async move { infos(&node, offer, candidate).await }
        })
        .flat_map(stream::iter)
        .filter(move |(path, _)| std::future::ready(filter.selects(path)))
        .map(|(_, info)| info);
    Ok(flights.boxed())
}

/// The flights of one candidate: itself, or its files when they are no table together. What cannot be read is left out, in
/// the log's words: one bad file must not hide the other datasets.
async fn infos(node: &Arc<Node>, offer: Offer, candidate: NsPath) -> Vec<(NsPath, Result<FlightInfo, Status>)> {
    let files = match info_of(node, offer, &candidate).await {
        Ok(info) => return vec![(candidate, Ok(info))],
        Err(error) if error.code() == Code::FailedPrecondition => node.datasets.tree().data_files(&candidate).await,
        Err(error) => Err(error),
    };
    let mut infos = Vec::new();
    for file in files.unwrap_or_else(|error| left_out(&candidate, &error)) {
        match info_of(node, offer, &file).await {
            Ok(info) => infos.push((file, Ok(info))),
            Err(error) => infos.extend(left_out(&file, &error)),
        }
    }
    infos
}

fn left_out<T>(path: &NsPath, error: &ServiceError) -> Vec<T> {
    tracing::warn!(dataset = %path, error = crate::error::chain(error), "left out of ListFlights");
    Vec::new()
}

async fn info_of(node: &Arc<Node>, offer: Offer, path: &NsPath) -> Result<FlightInfo, ServiceError> {
    let spec = ScanSpec {
        path: path.to_string(),
        ..ScanSpec::default()
    };
    let plan = node.plan(&spec).await?;
    let descriptor = FlightDescriptor::new_path(path.segments().map(str::to_owned).collect());
    info::flight_info(node, &plan, &spec, offer)
        .await
        .map(|info| info.with_descriptor(descriptor))
}

/// Which datasets the criteria select.
enum Filter {
    All,
    Below(NsPath),
    /// What the path must match, and the text before its first wildcard.
    Glob(GlobMatcher, String),
}

impl Filter {
    fn parse(expression: &[u8]) -> Result<Self, ServiceError> {
        let text = std::str::from_utf8(expression)
            .ok()
            .filter(|text| text.len() <= MAX_CRITERIA_BYTES);
        let text = text.ok_or_else(|| ServiceError::invalid("the criteria must be a path or a glob, in UTF-8"))?;
        if text.is_empty() {
            return Ok(Self::All);
        }
        if let Some(wildcard) = text.find(['*', '?', '[', '{']) {
            let glob = GlobBuilder::new(text).literal_separator(true).build();
            return glob
                .map(|glob| Self::Glob(glob.compile_matcher(), text[..wildcard].to_owned()))
                .map_err(|error| ServiceError::invalid(format!("the criteria are no glob: {error}")));
        }
        let path = NsPath::parse(text).map_err(|error| ServiceError::invalid(crate::error::chain(&error)))?;
        Ok(Self::Below(path))
    }

    fn selects(&self, path: &NsPath) -> bool {
        match self {
            Self::All => true,
            Self::Below(folder) => path.strip_prefix(folder).is_some(),
            Self::Glob(glob, _) => glob.is_match(path.to_string()),
        }
    }

    /// Whether `path` or something below it may be selected: what is not is neither listed nor planned.
    fn concerns(&self, path: &NsPath) -> bool {
        let path = path.to_string();
        let along = |literal: &str| path.starts_with(literal) || literal.starts_with(&path);
        match self {
            Self::All => true,
            Self::Below(folder) => along(folder.as_ref()),
            Self::Glob(_, literal) => along(literal),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn selects(criteria: &str, path: &str) -> bool {
        Filter::parse(criteria.as_bytes())
            .unwrap()
            .selects(&NsPath::parse(path).unwrap())
    }

    #[test]
    fn a_prefix_ends_at_a_segment() {
        assert!(selects("/lake", "/lake/trips"));
        assert!(selects("/lake/trips", "/lake/trips"));
        assert!(!selects("/lake/tr", "/lake/trips"));
    }

    #[test]
    fn a_star_stays_within_a_segment() {
        assert!(selects("/lake/t*", "/lake/trips"));
        assert!(!selects("/*", "/lake/trips"));
        assert!(selects("/**", "/lake/trips"));
    }

    #[test]
    fn what_cannot_lead_to_a_selected_path_does_not_concern() {
        let concerns = |criteria: &str, path: &str| {
            Filter::parse(criteria.as_bytes())
                .unwrap()
                .concerns(&NsPath::parse(path).unwrap())
        };
        for path in ["/", "/lake", "/lake/trips", "/lake/trips/2024"] {
            assert!(
                concerns("/lake/trips", path) && concerns("/lake/tr*/2024", path),
                "{path}"
            );
        }
        assert!(!concerns("/lake/trips", "/other") && !concerns("/lake/tr*", "/lake/zones"));
    }

    #[test]
    fn what_is_neither_is_refused() {
        assert!(Filter::parse(b"lake").is_err());
        assert!(Filter::parse(&[0xff]).is_err());
        assert!(Filter::parse(b"/lake/[").is_err());
    }
}
