//! A dataset in parts, as its files are listed: for work that need not wait for all of them.

use std::sync::Arc;

use futures::stream::BoxStream;
use futures::{StreamExt, stream};
use jetbridge_cache::Cache;
use jetbridge_cache::page::Errand;
use jetbridge_catalog::path::NsPath;

use super::load;
use super::{Dataset, Listed, Tree};
use crate::cluster::footers::FooterHolders;
use crate::error::ServiceError;

/// Files of one part, at most. A listing that is slow gives smaller ones.
const PART_FILES: usize = 256;

/// The parts of a dataset; each is a dataset of some of its files. Their schemas are not compared with each other. Footers are
/// read at a pace where one is given.
pub(super) fn parts(
    tree: Tree,
    cache: Arc<Cache>,
    footers: Arc<FooterHolders>,
    path: &NsPath,
    pace: Option<Arc<Errand>>,
) -> BoxStream<'static, Result<Dataset, ServiceError>> {
    let path = path.clone();
    stream::once(async move {
        let listed = load::listing(&tree, &path).await?;
        Ok::<_, ServiceError>(listed.ready_chunks(PART_FILES).then(move |part| {
            let (cache, footers, path) = (Arc::clone(&cache), Arc::clone(&footers), path.clone());
            let pace = pace.clone();
            async move {
                let part: Result<Vec<Listed>, ServiceError> = part.into_iter().collect();
                let files = load::laid_out(&path, part?)?;
                load::load(&cache, &footers, &path, files, pace.as_ref()).await
            }
        }))
    })
    .flat_map(|parts| match parts {
        Ok(parts) => parts.boxed(),
        Err(error) => stream::iter([Err(error)]).boxed(),
    })
    .boxed()
}
