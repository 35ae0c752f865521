//! Loads in flight: one for all who wait for the same thing.
//!
//! A load runs as a task of its own, so that it outlives the reader that began it: others may wait for it, and what has
//! been asked of the store is worth keeping. Its outcome is told to everybody who waits for it by then, an error too;
//! nothing is remembered of it, and the next reader tries again.
//!
//! A load that brought nothing, since nobody wanted it any more, leaves the map before it tells its waiters, so that those
//! who want it all the same find it gone, and begin another. A load that takes its time (an errand's) can be made urgent by
//! whoever waits for it.
//!
//! States of a key: absent, in flight, held (or refused) by a store. A load keeps what it brought before it leaves the
//! map. One whose waiters must not wait for a disk tells them before it keeps; one that keeps by itself tells them last, so
//! that they find what they were told of in the store. A reader that looks first at the map and then at the store sees one
//! of the three.
//!
//! Lock order: the map's lock is the only one here; stores may be asked under it, and never call back. Tasks are begun
//! without it.
//!
//! Why each waiter listens for itself, and not all on one `futures::future::Shared`: that one, completed while a waiter
//! polls it, wakes the others too early, and counts on the one that polled to come again. If that one gives up instead
//! (another part of its read failed), the others wait for ever. The first test below failed with it.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::future::Future;
use std::hash::Hash;
use std::sync::Arc;

use futures::future::BoxFuture;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// A load that anybody can wait for.
#[derive(Clone)]
pub(crate) struct Flight<T> {
    landed: watch::Receiver<Option<T>>,
    urgent: CancellationToken,
}

impl<T: Clone> Flight<T> {
    /// What it brought, once it is there; `None` when its task died.
    pub(crate) async fn landed(mut self) -> Option<T> {
        let landed = self.landed.wait_for(Option::is_some).await.ok()?;
        landed.clone()
    }

    /// What it brought, if it has landed.
    pub(crate) fn now(&self) -> Option<T> {
        self.landed.borrow().clone()
    }

    /// Whether both are one load.
    pub(crate) fn is(&self, other: &Self) -> bool {
        self.landed.same_channel(&other.landed)
    }

    /// Tells the load that somebody waits for it.
    pub(crate) fn hurry(&self) {
        self.urgent.cancel();
    }
}

/// Loads by each key that they will bring.
pub(crate) struct Flights<K, T> {
    map: Arc<Mutex<Map<K, T>>>,
    is_nothing: fn(&T) -> bool,
}

type Map<K, T> = HashMap<K, Flight<T>>;

impl<K, T> Default for Flights<K, T> {
    fn default() -> Self {
        Self::new(|_| false)
    }
}

impl<K, T> Flights<K, T> {
    /// No loads yet. `is_nothing` tells what a load gives that nobody wanted any more.
    pub(crate) fn new(is_nothing: fn(&T) -> bool) -> Self {
        Self {
            map: Arc::default(),
            is_nothing,
        }
    }
}

impl<K, T> Flights<K, T>
where
    K: Copy + Eq + Hash + Send + 'static,
    T: Clone + Send + Sync + 'static,
{
    /// Has nobody find those loads of such keys any more that have landed and are still being kept.
    pub(crate) fn forget(&self, is_meant: impl Fn(&K) -> bool) {
        let mut map = self.map.lock();
        map.retain(|key, flight| !is_meant(key) || flight.landed.borrow().is_none());
    }

    /// Looks at the flights, and begins others, with nobody in between.
    pub(crate) fn board<R>(&self, decide: impl FnOnce(&mut Boarding<'_, K, T>) -> R) -> R {
        let mut begun = Vec::new();
        let decided = {
            let mut map = self.map.lock();
            decide(&mut Boarding {
                shared: &self.map,
                map: &mut map,
                is_nothing: self.is_nothing,
                begun: &mut begun,
            })
        };
        // Without the lock: a runtime that is stopping drops at once what it is given, which takes it.
        for load in begun {
            tokio::spawn(load);
        }
        decided
    }
}

/// The map of flights, locked.
pub(crate) struct Boarding<'a, K, T> {
    shared: &'a Arc<Mutex<Map<K, T>>>,
    map: &'a mut Map<K, T>,
    is_nothing: fn(&T) -> bool,
    begun: &'a mut Vec<BoxFuture<'static, ()>>,
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

    /// Begins a load, which others find by any of these keys from now on, until what it brought has been kept. What keeping
    /// gives is dropped last, once nobody finds the load any more.
    pub(crate) fn begin<F, G>(&mut self, keys: Vec<K>, load: F, keep: impl FnOnce(T) -> G + Send + 'static) -> Flight<T>
    where
        F: Future<Output = T> + Send + 'static,
        G: Future<Output: Send> + Send + 'static,
    {
        self.begin_told(keys, CancellationToken::new(), load, keep)
    }

    /// The same, of a load that is told by `urgent` when somebody waits for it.
    pub(crate) fn begin_told<F, G>(
        &mut self,
        keys: Vec<K>,
        urgent: CancellationToken,
        load: F,
        keep: impl FnOnce(T) -> G + Send + 'static,
    ) -> Flight<T>
    where
        F: Future<Output = T> + Send + 'static,
        G: Future<Output: Send> + Send + 'static,
    {
        let is_nothing = self.is_nothing;
        self.start(keys, urgent, move |landing, sender| async move {
            let landed = load.await;
            if is_nothing(&landed) {
                return landing.tell(&sender, landed);
            }
            // Nobody may be waiting any more; what came is kept all the same.
            let _ = sender.send(Some(landed.clone()));
            let last = keep(landed).await;
            drop(landing);
            drop(last);
        })
    }

    /// The same, of a load that has kept what it gives, and is told by `urgent` when somebody waits for it. It leaves the map
    /// before it tells, so that whoever was told finds what was kept and not the load.
    pub(crate) fn begin_kept<F>(&mut self, keys: Vec<K>, urgent: CancellationToken, load: F) -> Flight<T>
    where
        F: Future<Output = T> + Send + 'static,
    {
        self.start(keys, urgent, move |landing, sender| async move {
            let landed = load.await;
            landing.tell(&sender, landed);
        })
    }

    fn start<R>(
        &mut self,
        keys: Vec<K>,
        urgent: CancellationToken,
        run: impl FnOnce(Landing<K, T>, watch::Sender<Option<T>>) -> R,
    ) -> Flight<T>
    where
        R: Future<Output = ()> + Send + 'static,
    {
        let (sender, landed) = watch::channel(None);
        let flight = Flight { landed, urgent };
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
            flight: flight.clone(),
        };
        self.begun.push(Box::pin(run(landing, sender)));
        flight
    }
}

/// Takes a load's keys off the map when it ends, also when it panics.
struct Landing<K: Eq + Hash, T> {
    map: Arc<Mutex<Map<K, T>>>,
    keys: Vec<K>,
    flight: Flight<T>,
}

impl<K: Eq + Hash, T> Landing<K, T> {
    /// Leaves the map, then tells.
    fn tell(self, sender: &watch::Sender<Option<T>>, landed: T) {
        drop(self);
        let _ = sender.send(Some(landed));
    }
}

impl<K: Eq + Hash, T> Drop for Landing<K, T> {
    fn drop(&mut self) {
        let mut map = self.map.lock();
        for key in &self.keys {
            // Where this one was forgotten, another may be there by now.
            if map
                .get(key)
                .is_some_and(|there| there.landed.same_channel(&self.flight.landed))
            {
                map.remove(key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::Duration;

    use futures::FutureExt;

    use super::*;

    /// Whoever looks once and gives up, at any moment, takes nobody's wake-up along.
    #[tokio::test(flavor = "multi_thread", worker_threads = 8)]
    async fn those_who_give_up_take_nobody_along() {
        let flights = Flights::<u32, u32>::default();
        for turn in 0..3_000 {
            let lands = Arc::new(AtomicBool::new(false));
            let signal = lands.clone();
            // It lands at another moment of the others' looking each time.
            let load = async move {
                for _ in 0..(turn % 97) * 20 {
                    std::hint::spin_loop();
                }
                signal.store(true, Ordering::Relaxed);
                7
            };
            let flight = flights.board(|boarding| boarding.begin(vec![turn], load, |_| futures::future::ready(())));
            let waiters = [flight.clone(), flight.clone()].map(|flight| tokio::spawn(flight.landed()));
            let passers = [flight.clone(), flight].map(|flight| {
                let lands = lands.clone();
                tokio::spawn(async move {
                    while !lands.load(Ordering::Relaxed) && flight.clone().landed().now_or_never().is_none() {}
                })
            });
            for waiter in waiters {
                let landed = tokio::time::timeout(Duration::from_secs(60), waiter).await;
                let landed = landed.unwrap_or_else(|_| panic!("a waiter of turn {turn} hangs"));
                assert_eq!(landed.unwrap(), Some(7));
            }
            for passer in passers {
                passer.await.unwrap();
            }
        }
    }

    /// Boards when it is dropped.
    struct BoardsLast(Flights<u32, u32>, std::sync::mpsc::Sender<Flight<u32>>);

    impl Drop for BoardsLast {
        fn drop(&mut self) {
            let load = async { 7 };
            let flight = self
                .0
                .board(|boarding| boarding.begin(vec![1], load, |_| futures::future::ready(())));
            assert!(self.0.board(|boarding| boarding.bound_for(&1).is_none()));
            self.1.send(flight).unwrap();
        }
    }

    #[test]
    fn a_load_that_a_stopping_runtime_does_not_take_is_told() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let (tell, told) = std::sync::mpsc::channel();
        let last = BoardsLast(Flights::default(), tell);
        runtime.spawn(async move {
            let _last = last;
            std::future::pending::<()>().await;
        });
        runtime.block_on(tokio::task::yield_now());
        std::thread::spawn(move || drop(runtime));
        let flight = told.recv_timeout(Duration::from_secs(60)).expect("it hangs");
        assert_eq!(flight.landed().now_or_never(), Some(None));
    }

    #[tokio::test]
    async fn a_load_that_dies_is_told() {
        let flights = Flights::<u32, u32>::default();
        let load = async { panic!("a load that dies") };
        let flight = flights.board(|boarding| boarding.begin(vec![1], load, |_: u32| futures::future::ready(())));
        assert_eq!(flight.landed().await, None);
        tokio::task::yield_now().await;
        assert!(flights.board(|boarding| boarding.bound_for(&1).is_none()));
    }

    #[tokio::test]
    async fn what_is_forgotten_while_it_is_kept_is_loaded_anew() {
        let flights = Flights::<u32, u32>::default();
        let (release, held) = tokio::sync::oneshot::channel::<()>();
        let first = flights.board(|boarding| boarding.begin(vec![1, 2], async { 7 }, |_| held));
        assert_eq!(first.clone().landed().await, Some(7));
        flights.forget(|key| *key == 1);
        let (gate, opened) = tokio::sync::oneshot::channel::<()>();
        let second = flights.board(|boarding| {
            assert!(boarding.bound_for(&1).is_none() && boarding.bound_for(&2).is_some());
            let load = async {
                let _ = opened.await;
                8
            };
            boarding.begin(vec![1], load, |_| async {})
        });
        // What has not landed stays.
        flights.forget(|key| *key == 1);
        release.send(()).unwrap();
        while flights.board(|boarding| boarding.bound_for(&2).is_some()) {
            tokio::task::yield_now().await;
        }
        assert!(flights.board(|boarding| boarding.bound_for(&1).is_some_and(|there| there.is(&second))));
        gate.send(()).unwrap();
        assert_eq!(second.landed().await, Some(8));
    }
}
