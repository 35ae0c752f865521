//! Which snapshot of a dataset answers a request, by the freshness of its mounts.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures::stream::BoxStream;
use jetbridge_cache::Cache;
use jetbridge_cache::page::Errand;
use jetbridge_catalog::mount::Freshness;
use jetbridge_catalog::path::NsPath;
use moka::Entry;
use moka::ops::compute::Op;
use moka::sync::Cache as Moka;
use tokio::sync::Mutex;

use super::load::{self, Files};
use super::{Dataset, Tree, parts};
use crate::cluster::footers::FooterHolders;
use crate::contents;
use crate::error::ServiceError;

/// Most files, summed over all snapshots kept; about 1 KiB of memory each.
const KEPT_FILES: u64 = 2_000_000;

/// A snapshot with a file that could not be read is looked at anew after this at most, since the file may only have been
/// half written.
const BROKEN_MAX_AGE: Duration = Duration::from_secs(10);

/// The snapshots of the datasets that were asked for.
///
/// One lock a dataset, held while its storage is asked: of many requests for a cold dataset one lists it, the others
/// wait for that answer.
#[derive(Debug)]
pub struct Datasets {
    tree: Tree,
    cache: Arc<Cache>,
    footers: Arc<FooterHolders>,
    slots: Moka<NsPath, Arc<Slot>>,
    /// How often something was refreshed: a snapshot whose loading began before a refresh is not kept.
    refreshes: AtomicU64,
}

type Slot = Mutex<Option<Known>>;

#[derive(Debug)]
struct Known {
    dataset: Arc<Dataset>,
    checked: Instant,
    /// Whether every file could be read.
    is_whole: bool,
}

impl Known {
    fn of(dataset: &Arc<Dataset>, checked: Instant) -> Self {
        Self {
            is_whole: dataset.files.iter().all(|file| file.summary.is_ok()),
            dataset: Arc::clone(dataset),
            checked,
        }
    }

    fn is_fresh(&self, freshness: Freshness) -> bool {
        match freshness {
            Freshness::Immutable => self.is_whole || self.checked.elapsed() < BROKEN_MAX_AGE,
            Freshness::MaxAge(limit) if self.is_whole => self.checked.elapsed() < limit,
            Freshness::MaxAge(limit) => self.checked.elapsed() < limit.min(BROKEN_MAX_AGE),
            Freshness::Always => false,
        }
    }
}

impl Datasets {
    /// Datasets of `tree`, their footers read through `cache`, and from other nodes before storage is asked.
    #[must_use]
    pub fn new(tree: Tree, cache: Arc<Cache>, footers: Arc<FooterHolders>) -> Self {
        // A slot weighs what it held when it was last touched by `get`; an empty one weighs one file.
        let slots = Moka::builder()
            .max_capacity(KEPT_FILES)
            .weigher(|_: &NsPath, slot: &Arc<Slot>| slot.try_lock().map_or(1, |known| weight(known.as_ref())))
            .build();
        Self {
            tree,
            cache,
            footers,
            slots,
            refreshes: AtomicU64::new(0),
        }
    }

    /// The namespace tree that datasets are found in.
    #[must_use]
    pub fn tree(&self) -> &Tree {
        &self.tree
    }

    /// The dataset at `path`, as fresh as its mounts ask for.
    ///
    /// # Errors
    /// NOT_FOUND where there is no data, the storage's errors, files that do not merge.
    pub async fn get(&self, path: &NsPath) -> Result<Arc<Dataset>, ServiceError> {
        let freshness = self.tree.freshness(path)?;
        let slot = self.slots.get_with(path.clone(), Arc::default);
        let mut known = slot.lock().await;
        if let Some(known) = known.as_ref()
            && known.is_fresh(freshness)
        {
            return Ok(Arc::clone(&known.dataset));
        }
        let (checked, refreshes) = (Instant::now(), self.refreshes.load(Ordering::SeqCst));
        let (dataset, is_new) = if known.is_some() {
            let files = load::list(&self.tree, path).await?;
            let before = known.take().map(|known| known.dataset);
            self.loaded(path, files, before, None).await?
        } else {
            let loaded = load::listed_and_loaded(&self.cache, &self.footers, &self.tree, path).await?;
            (Arc::new(loaded), true)
        };
        if is_new {
            contents::drop_outdated(&self.cache, self.tree.table(), &dataset).await;
        }
        *known = Some(Known::of(&dataset, checked));
        drop(known);
        self.keep(path, &slot, refreshes);
        Ok(dataset)
    }

    /// The same, its footers read at a pace. Nobody who asks for the dataset meanwhile waits for that: they load it themselves,
    /// and this one goes on with what is read by then.
    ///
    /// # Errors
    /// As [`Datasets::get`].
    pub async fn get_at_pace(&self, path: &NsPath, pace: &Arc<Errand>) -> Result<Arc<Dataset>, ServiceError> {
        let freshness = self.tree.freshness(path)?;
        let slot = self.slots.get_with(path.clone(), Arc::default);
        let before = match slot.lock().await.as_ref() {
            Some(known) if known.is_fresh(freshness) => return Ok(Arc::clone(&known.dataset)),
            known => known.map(|known| Arc::clone(&known.dataset)),
        };
        let (checked, refreshes) = (Instant::now(), self.refreshes.load(Ordering::SeqCst));
        let files = load::list(&self.tree, path).await?;
        let (dataset, is_new) = self.loaded(path, files, before.clone(), Some(pace)).await?;
        // That may have taken hours. What has changed meanwhile is not to be known by it, nor what others cached of it dropped.
        if is_new
            && !load::list(&self.tree, path)
                .await
                .is_ok_and(|now| is_same(&dataset, &now))
        {
            return Ok(dataset);
        }
        if self.slots.get(path).is_some_and(|there| !Arc::ptr_eq(&there, &slot)) {
            return Ok(dataset);
        }
        let mut known = slot.lock().await;
        let is_as_before = |known: &&Known| {
            before
                .as_ref()
                .is_some_and(|before| Arc::ptr_eq(before, &known.dataset))
        };
        if let Some(later) = known
            .as_ref()
            .filter(|known| known.checked >= checked || !is_as_before(known))
        {
            return Ok(Arc::clone(&later.dataset));
        }
        if is_new {
            contents::drop_outdated(&self.cache, self.tree.table(), &dataset).await;
        }
        *known = Some(Known::of(&dataset, checked));
        drop(known);
        self.keep(path, &slot, refreshes);
        Ok(dataset)
    }

    /// The dataset of the files that were listed, and whether it is another than the one that was known.
    async fn loaded(
        &self,
        path: &NsPath,
        files: Files,
        before: Option<Arc<Dataset>>,
        pace: Option<&Arc<Errand>>,
    ) -> Result<(Arc<Dataset>, bool), ServiceError> {
        if let Some(before) = before.filter(|before| is_same(before, &files)) {
            return Ok((before, false));
        }
        let dataset = load::load(&self.cache, &self.footers, path, files, pace).await?;
        Ok((Arc::new(dataset), true))
    }

    /// Keeps what a slot holds now, unless something was refreshed since so many refreshes, or the path has another slot by now.
    fn keep(&self, path: &NsPath, slot: &Arc<Slot>, refreshes: u64) {
        let is_own = |there: Option<Entry<NsPath, Arc<Slot>>>| there.map(|there| Arc::ptr_eq(there.value(), slot));
        self.slots
            .entry_by_ref(path)
            .and_compute_with(|there| match is_own(there) {
                Some(false) => Op::Nop,
                Some(true) | None => Op::Put(Arc::clone(slot)),
            });
        if self.refreshes.load(Ordering::SeqCst) != refreshes {
            self.slots
                .entry_by_ref(path)
                .and_compute_with(|there| match is_own(there) {
                    Some(true) => Op::Remove,
                    Some(false) | None => Op::Nop,
                });
        }
    }

    /// Bytes of the data files of `path`, as its storage lists them now. Nothing is read of them.
    ///
    /// # Errors
    /// NOT_FOUND where there are none; the storage's.
    pub async fn listed_bytes(&self, path: &NsPath) -> Result<u64, ServiceError> {
        let Files { files, .. } = load::list(&self.tree, path).await?;
        Ok(files.iter().map(|(file, _)| file.info.size).sum())
    }

    /// The dataset at `path` in parts, as its files are listed, from the storage as it is now; its footers read at a pace where
    /// one is given. Nothing of it is kept.
    pub fn parts(
        &self,
        path: &NsPath,
        pace: Option<&Arc<Errand>>,
    ) -> BoxStream<'static, Result<Dataset, ServiceError>> {
        parts::parts(
            self.tree.clone(),
            Arc::clone(&self.cache),
            Arc::clone(&self.footers),
            path,
            pace.cloned(),
        )
    }

    /// Forgets what is known of `path`, of what lies below it and above it, so that the next request looks at the storage.
    pub fn refresh(&self, path: &NsPath) {
        self.refreshes.fetch_add(1, Ordering::SeqCst);
        let related: Vec<_> = self
            .slots
            .iter()
            .map(|(known, _)| known)
            .filter(|known| known.strip_prefix(path).is_some() || path.strip_prefix(known).is_some())
            .collect();
        for known in related {
            self.slots.invalidate(known.as_ref());
        }
    }
}

fn weight(known: Option<&Known>) -> u32 {
    known.map_or(1, |known| {
        u32::try_from(known.dataset.files.len()).unwrap_or(u32::MAX).max(1)
    })
}

/// Whether a listing shows the same files at the same generations as a snapshot whose footers were all readable.
fn is_same(dataset: &Dataset, files: &Files) -> bool {
    dataset.files.len() == files.files.len()
        && dataset.files.iter().zip(&files.files).all(|(known, (listed, _))| {
            known.summary.is_ok()
                && known.path == listed.path
                && known.open.key.generation == listed.info.generation
                && known.open.key.size == listed.info.size
                && *known.open.key.uri == *listed.ufs.uri_of(&listed.info.path)
        })
}
