//! The suite notices what it is there for.

use async_trait::async_trait;

use super::*;
use crate::meta::{EmbeddedStore, LeaseId};

/// What a store does wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    IgnoresExpectations,
    RevokesNothing,
    GrantsTooLittle,
    TellsTwice,
    TellsOfOthers,
    IgnoresClusters,
}

#[derive(Debug)]
struct Careless(EmbeddedStore, Fault);

impl Careless {
    fn does(&self, fault: Fault) -> bool {
        self.1 == fault
    }
}

#[async_trait]
impl MetaStore for Careless {
    async fn get(&self, key: &str) -> Result<Option<Entry>, MetaError> {
        self.0.get(key).await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<(String, Entry)>, MetaError> {
        self.0.list(prefix).await
    }

    async fn put_leased(
        &self,
        key: &str,
        value: Vec<u8>,
        expect: Expect,
        lease: Option<LeaseId>,
    ) -> Result<u64, MetaError> {
        let ignores = self.does(Fault::IgnoresExpectations);
        let expect = if ignores { Expect::Any } else { expect };
        self.0.put_leased(key, value, expect, lease).await
    }

    async fn delete(&self, key: &str, expect: Expect) -> Result<(), MetaError> {
        self.0.delete(key, expect).await
    }

    async fn grant(&self, ttl: Duration) -> Result<LeaseId, MetaError> {
        let short = self.does(Fault::GrantsTooLittle) && !ttl.is_zero();
        self.0.grant(if short { ttl / 2 } else { ttl }).await
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<(), MetaError> {
        self.0.keep_alive(lease).await
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), MetaError> {
        if self.does(Fault::RevokesNothing) {
            return Ok(());
        }
        self.0.revoke(lease).await
    }

    fn watch(&self, prefix: &str) -> Watch {
        let all = self.does(Fault::TellsOfOthers);
        let mut inner = self.0.watch(if all { "" } else { prefix });
        let twice = self.does(Fault::TellsTwice);
        let (feed, watch) = Watch::new();
        tokio::spawn(async move {
            loop {
                let event = inner.next().await;
                let again = match &event {
                    WatchEvent::Put { key, entry } if twice => Some(WatchEvent::Put {
                        key: key.clone(),
                        entry: entry.clone(),
                    }),
                    _ => None,
                };
                for event in [Some(event), again].into_iter().flatten() {
                    if feed.send(event).await.is_err() {
                        return;
                    }
                }
            }
        });
        watch
    }

    fn bound(&self, cluster: &str) -> Arc<dyn MetaStore> {
        if self.does(Fault::IgnoresClusters) {
            return Arc::new(self.0.clone());
        }
        self.0.bound(cluster)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_breaks_the_contract_fails() {
    tokio::join!(
        fails(Fault::IgnoresExpectations, "a key that is absent has no revision"),
        fails(Fault::RevokesNothing, "a lease that ended cannot be revoked"),
        fails(
            Fault::GrantsTooLittle,
            "a lease lasts as long as was asked for at least"
        ),
        fails(
            Fault::TellsTwice,
            "a watch tells of a delete, with a revision of its own"
        ),
        fails(Fault::TellsOfOthers, "a reset holds the keys with the prefix"),
        fails(
            Fault::IgnoresClusters,
            "a handle does nothing in the store of another cluster"
        ),
    );
}

async fn fails(fault: Fault, promise: &str) {
    let store = Arc::new(Careless(EmbeddedStore::in_memory().unwrap(), fault));
    let violation = suite(store).await.unwrap_err();
    assert!(violation.to_string().contains(promise), "{fault:?}: {violation}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_suite_leaves_nothing_behind() {
    let store = Arc::new(EmbeddedStore::in_memory().unwrap());
    store.put("mine", vec![1], Expect::Any).await.unwrap();
    suite(Arc::clone(&store) as Arc<dyn MetaStore>).await.unwrap();
    assert_eq!(store.list("").await.unwrap().len(), 1);
}
