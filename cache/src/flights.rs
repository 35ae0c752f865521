//! Loads in flight: one for all who wait for the same thing.
//!
//! A load runs as a task of its own, so that it outlives the reader that began it: others may wait for it, and what has
//! been asked of the store is worth keeping. Its outcome is told to everybody who waits for it by then, an error too;
//! nothing is remembered of it, and the next reader tries again.
//!
//! States of a key: absent, in flight, held (or refused) by a store. A load keeps what it brought before it leaves the
//! map, and tells its waiters before it keeps, so that they do not wait for a disk. A reader that looks first at the map
//! and then at the store sees one of the three.
//!
//! Lock order: the map's lock is the only one here; stores may be asked under it, and never call back.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::future::Future;
use std::hash::Hash;
use std::sync::Arc;

use futures::FutureExt;
use futures::future::{BoxFuture, Shared};
use parking_lot::Mutex;
use tokio::sync::oneshot;

/// A load that anybody can wait for; `None` when its task died.
pub(crate) type Flight<T> = Shared<BoxFuture<'static, Option<T>>>;

/// Loads by each key that they will bring.
pub(crate) struct Flights<K, T>(Arc<Mutex<Map<K, T>>>);

type Map<K, T> = HashMap<K, Flight<T>>;

impl<K, T> Default for Flights<K, T> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<K, T> Flights<K, T>
where
    K: Copy + Eq + Hash + Send + 'static,
    T: Clone + Send + Sync + 'static,
{
    /// Looks at the flights, and begins others, with nobody in between.
    pub(crate) fn board<R>(&self, decide: impl FnOnce(&mut Boarding<'_, K, T>) -> R) -> R {
        let mut boarding = Boarding {
            shared: &self.0,
            map: &mut self.0.lock(),
        };
        decide(&mut boarding)
    }
}

/// The map of flights, locked.
pub(crate) struct Boarding<'a, K, T> {
    shared: &'a Arc<Mutex<Map<K, T>>>,
    map: &'a mut Map<K, T>,
}

impl<K, T> Boarding<'_, K, T>
where
    K: Copy + Eq + Hash + Send + 'static,
    T: Clone + Send + Sync + 'static,
{
    /// The load that will bring a key.
    pub(crate) fn bound_for(&self, key: &K) -> Option<Flight<T>> {
        self.map.get(key).cloned()
    }

    /// Begins a load, which others find by any of these keys from now on, until what it brought has been kept.
    pub(crate) fn begin<F, G>(&mut self, keys: Vec<K>, load: F, keep: impl FnOnce(T) -> G + Send + 'static) -> Flight<T>
    where
        F: Future<Output = T> + Send + 'static,
        G: Future<Output = ()> + Send + 'static,
    {
        let (sender, receiver) = oneshot::channel();
        let flight = async move { receiver.await.ok() }.boxed().shared();
        let mut taken = Vec::with_capacity(keys.len());
        for key in keys {
            if let Entry::Vacant(entry) = self.map.entry(key) {
                entry.insert(flight.clone());
                taken.push(key);
            }
        }
        let landing = Landing {
            map: Arc::clone(self.shared),
            keys: taken,
        };
        tokio::spawn(async move {
            let landed = load.await;
            // Nobody may be waiting any more; what came is kept all the same.
            let _ = sender.send(landed.clone());
            keep(landed).await;
            drop(landing);
        });
        flight
    }
}

/// Takes a load's keys off the map when it ends, also when it panics.
struct Landing<K: Eq + Hash, T> {
    map: Arc<Mutex<Map<K, T>>>,
    keys: Vec<K>,
}

impl<K: Eq + Hash, T> Drop for Landing<K, T> {
    fn drop(&mut self) {
        let mut map = self.map.lock();
        for key in &self.keys {
            map.remove(key);
        }
    }
}
