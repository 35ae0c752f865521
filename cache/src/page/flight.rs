//! Loads in flight: one for all who wait for the same bytes.
//!
//! A load runs as a task of its own, so that it outlives the reader that began it: others may wait for it, and what has
//! been asked of the store is worth keeping. Its outcome is told to everybody who waits for it by then, an error too;
//! nothing is remembered of an error, and the next reader tries again.
//!
//! States of a page: absent, in flight, held (or refused) by the store. A load puts its pages before it leaves the map
//! of flights, so a reader that looks first at the map and then at the store sees one of the three.
//!
//! Lock order: the map's lock is the only one here; the page store is called under it, and never calls back.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::future::Future;
use std::sync::Arc;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::{BoxFuture, Shared};
use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::key::{FileId, PageIndex, to_u64};
use crate::ufs::UfsError;

/// Bytes of a file that one request brought.
#[derive(Debug)]
pub(super) struct Run {
    /// Where in the file they begin.
    pub(super) offset: u64,
    pub(super) bytes: Bytes,
}

impl Run {
    pub(super) fn end(&self) -> u64 {
        self.offset + to_u64(self.bytes.len())
    }
}

/// What a load brings; `None` when its task died.
pub(super) type Landed = Result<Arc<Run>, Option<UfsError>>;

/// A load that anybody can wait for.
pub(super) type Flight = Shared<BoxFuture<'static, Landed>>;

/// The loads of a tier, by each page that they will bring.
#[derive(Default)]
pub(super) struct Flights {
    by_page: Mutex<Map>,
}

type Map = HashMap<(FileId, PageIndex), Flight>;

impl Flights {
    /// Looks at the flights, and begins others, with nobody in between.
    pub(super) fn board<T>(self: &Arc<Self>, decide: impl FnOnce(&mut Boarding<'_>) -> T) -> T {
        let mut boarding = Boarding {
            flights: self,
            map: &mut self.by_page.lock(),
        };
        decide(&mut boarding)
    }
}

/// The map of flights, locked.
pub(super) struct Boarding<'a> {
    flights: &'a Arc<Flights>,
    map: &'a mut Map,
}

impl Boarding<'_> {
    /// The load that will bring a page.
    pub(super) fn bound_for(&self, file: FileId, page: PageIndex) -> Option<Flight> {
        self.map.get(&(file, page)).cloned()
    }

    /// Begins a load, which others find by any of these pages from now on, until it has ended.
    pub(super) fn begin<F>(&mut self, file: FileId, pages: Vec<PageIndex>, load: F) -> Flight
    where
        F: Future<Output = Result<Run, UfsError>> + Send + 'static,
    {
        let (sender, receiver) = oneshot::channel();
        let flight = async move { receiver.await.unwrap_or(Err(None)) }.boxed().shared();
        let mut taken = Vec::with_capacity(pages.len());
        for page in pages {
            if let Entry::Vacant(entry) = self.map.entry((file, page)) {
                entry.insert(flight.clone());
                taken.push(page);
            }
        }
        let landing = Landing {
            flights: Arc::clone(self.flights),
            file,
            pages: taken,
        };
        tokio::spawn(async move {
            let landed = load.await.map(Arc::new).map_err(Some);
            drop(landing);
            // Nobody may be waiting any more; the pages are kept all the same.
            let _ = sender.send(landed);
        });
        flight
    }
}

/// Takes a load's pages off the map when it ends, also when it panics.
struct Landing {
    flights: Arc<Flights>,
    file: FileId,
    pages: Vec<PageIndex>,
}

impl Drop for Landing {
    fn drop(&mut self) {
        let mut map = self.flights.by_page.lock();
        for page in &self.pages {
            map.remove(&(self.file, *page));
        }
    }
}
