//! Listings of remote folders.
//!
//! Object stores have no folders, but tools leave markers for them: objects of no bytes named `dir/`. The library cuts
//! the slash, so a marker looks like an empty file `dir`. It is told apart by what follows: a store lists in byte order,
//! where `dir/` stands right before what lies in it. The marker of an empty folder has nothing behind it; where its
//! name looks like a folder's (no dot, no leading underscore) the object is looked up, which finds a file but no marker.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use futures::StreamExt;
use futures::stream::{self, BoxStream};
use object_store::path::Path;
use object_store::{ListResult, ObjectMeta};

use super::error::{Operation, UfsError};
use super::remote::{Remote, info_of};
use super::{Backend, DirEntry, ObjectInfo, Shared, get, metrics};

type Listed = Result<ObjectInfo, UfsError>;

/// Every object below a folder, at any depth.
pub(super) fn list(shared: Arc<Shared>, rel: &str) -> BoxStream<'static, Listed> {
    let (Backend::Remote(remote), Ok(prefix)) = (&shared.backend, shared.location(Operation::List, rel)) else {
        // A name that no object can have is a folder with nothing in it.
        return stream::empty().boxed();
    };
    let objects = remote.list.list(below(&prefix).as_ref());
    let walk = Walk {
        objects,
        prefix,
        rel: rel.to_owned(),
        held: None,
        ready: VecDeque::new(),
        started: Instant::now(),
        done: false,
        shared,
    };
    stream::unfold(
        walk,
        |mut walk| async move { walk.next().await.map(|item| (item, walk)) },
    )
    .boxed()
}

/// The names right below a folder.
pub(super) async fn list_dir(shared: &Shared, remote: &Remote, rel: &str) -> Result<Vec<DirEntry>, UfsError> {
    let Ok(prefix) = shared.location(Operation::List, rel) else {
        return Ok(Vec::new());
    };
    let started = Instant::now();
    let answer = remote.list.list_with_delimiter(below(&prefix).as_ref()).await;
    let outcome = answer.map_err(|e| UfsError::from_store(&e, shared.subject(Operation::List, rel)));
    count(shared, started, outcome.as_ref().err());
    Ok(entries(shared, outcome.map_err(|e| e.with_tries(1, started))?, &prefix))
}

fn below(prefix: &Path) -> Option<Path> {
    (!prefix.is_root()).then(|| prefix.clone())
}

fn entries(shared: &Shared, listed: ListResult, prefix: &Path) -> Vec<DirEntry> {
    let folders = listed.common_prefixes.iter().filter_map(|folder| {
        Some(DirEntry {
            name: folder.filename()?.to_owned(),
            info: None,
        })
        .filter(|_| folder != prefix)
    });
    let objects = listed
        .objects
        .iter()
        .filter(|meta| meta.location != *prefix)
        .filter_map(|meta| {
            let path = shared.relative(&meta.location)?;
            Some(DirEntry {
                name: meta.location.filename()?.to_owned(),
                info: Some(info_of(path, meta)),
            })
        });
    let mut entries: Vec<_> = folders.chain(objects).collect();
    entries.sort_by(|a, b| (&a.name, a.info.is_some()).cmp(&(&b.name, b.info.is_some())));
    entries
}

fn count(shared: &Shared, started: Instant, error: Option<&UfsError>) {
    let outcome = error.map_or(Ok(0), |e| Err(e.kind()));
    metrics::request(shared, Operation::List, started, outcome);
}

/// A listing in progress. One object is held back, until the next shows whether it is a marker.
struct Walk {
    shared: Arc<Shared>,
    objects: BoxStream<'static, object_store::Result<ObjectMeta>>,
    prefix: Path,
    rel: String,
    held: Option<ObjectInfo>,
    ready: VecDeque<Listed>,
    started: Instant,
    done: bool,
}

impl Walk {
    async fn next(&mut self) -> Option<Listed> {
        loop {
            if let Some(item) = self.ready.pop_front() {
                return Some(item);
            }
            if self.done {
                return None;
            }
            match self.objects.next().await {
                Some(Ok(meta)) => self.take(&meta).await,
                Some(Err(error)) => self.fail(&error),
                None => self.finish().await,
            }
        }
    }

    async fn take(&mut self, meta: &ObjectMeta) {
        if meta.location == self.prefix {
            return;
        }
        let Some(path) = self.shared.relative(&meta.location) else {
            return;
        };
        let next = info_of(path, meta);
        if let Some(held) = self.held.replace(next) {
            let follows = self.held.as_ref().and_then(|next| next.path.strip_prefix(&held.path));
            let is_marker = held.size == 0 && follows.is_some_and(|rest| rest.starts_with('/'));
            if !is_marker {
                self.release(held).await;
            }
        }
    }

    async fn release(&mut self, held: ObjectInfo) {
        if may_mark_empty_folder(&held) && is_no_object(&self.shared, &held.path).await {
            return;
        }
        self.ready.push_back(Ok(held));
    }

    fn fail(&mut self, error: &object_store::Error) {
        let error = UfsError::from_store(error, self.shared.subject(Operation::List, &self.rel));
        count(&self.shared, self.started, Some(&error));
        self.ready.push_back(Err(error.with_tries(1, self.started)));
        self.done = true;
    }

    async fn finish(&mut self) {
        self.done = true;
        count(&self.shared, self.started, None);
        if let Some(held) = self.held.take() {
            self.release(held).await;
        }
    }
}

async fn is_no_object(shared: &Shared, path: &str) -> bool {
    match &shared.backend {
        Backend::Remote(remote) => matches!(get::head(shared, remote, path).await, Ok(None)),
        Backend::Local(_) => false,
    }
}

fn may_mark_empty_folder(info: &ObjectInfo) -> bool {
    let name = info.path.rsplit('/').next().unwrap_or_default();
    info.size == 0 && !name.contains('.') && !name.starts_with('_')
}
