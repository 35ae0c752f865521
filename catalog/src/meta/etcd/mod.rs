//! A metadata store in etcd: for clusters that must outlive any of their nodes.
//!
//! Everything of a cluster stands below `/jetbridge/<name>/`; the rest of that etcd is left alone. What the contract
//! wants compared and changed at one moment is one transaction of etcd, revisions are etcd's, leases are etcd's.
//! A lease lasts for whole seconds, and for as long as etcd keeps one at least: 2 s unless it is set up otherwise.
//!
//! A member that is gone is noticed at once; one that is there and silent (paused, or behind a network that
//! swallows packets) fails each operation within its limit, and a watch after 9 s: etcd takes no pings more often.
//!
//! TLS to etcd is not offered, by the client that is used here.
//!
//! Why a watch lists again whenever its connection breaks, where etcd could go on from a revision: an etcd that was
//! restarted empty has revisions too, and they would be taken for news of the cluster.
//!
//! Why the watch of a bound handle hears all keys of its cluster: the cluster's id must be seen to go before what
//! stood beside it, and etcd keeps the order of changes within one watch only.

#[cfg(test)]
mod server;
#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use jetbridge_etcd::{Answer, Change, Changes, Client, Compare, Credentials, EtcdError, KeyValue, Step};

use super::watch::{Source, spawn};
use super::{
    CLUSTER_ID_KEY, DEFAULT_TIME_LIMIT, Entry, Expect, LeaseId, MetaError, MetaStore, Watch, WatchEvent, check_cluster,
    check_key, check_ttl, check_value,
};
use crate::secret::Secret;

/// The longest name of a cluster, in bytes.
const MAX_NAME_BYTES: usize = 64;

/// Where an etcd is, and what is ours in it.
#[derive(Debug)]
pub struct EtcdSettings {
    /// Its members, each as `http://HOST:PORT`. One is asked at a time; when it cannot be reached, the next. TLS is
    /// not offered.
    pub endpoints: Vec<String>,
    /// The name of the cluster, which is part of all keys: 1 to 64 letters, digits, `.`, `_` or `-`.
    pub name: String,
    /// User and password, where etcd asks for them; none by default.
    pub user: Option<(String, Secret)>,
    /// The longest that an operation may take; [`DEFAULT_TIME_LIMIT`] by default.
    pub time_limit: Duration,
}

impl EtcdSettings {
    /// Settings with the defaults.
    #[must_use]
    pub fn new(endpoints: Vec<String>, name: impl Into<String>) -> Self {
        Self {
            endpoints,
            name: name.into(),
            user: None,
            time_limit: DEFAULT_TIME_LIMIT,
        }
    }
}

/// A [`MetaStore`] in etcd. Clones are one handle.
#[derive(Clone)]
pub struct EtcdStore {
    client: Client,
    /// What stands before all keys; ends with a slash.
    prefix: Arc<str>,
    cluster: Option<Arc<str>>,
}

impl EtcdStore {
    /// A store that connects when it is first used. Must be called in a Tokio runtime.
    ///
    /// # Errors
    /// [`MetaError::Settings`].
    pub fn open(settings: EtcdSettings) -> Result<Self, MetaError> {
        check_name(&settings.name)?;
        let credentials = settings.user.map(|(user, password)| Credentials {
            user,
            password: password.expose().to_owned(),
        });
        let client = Client::new(&settings.endpoints, credentials, settings.time_limit);
        Ok(Self {
            client: client.map_err(|error| MetaError::Settings { source: error.into() })?,
            prefix: format!("/jetbridge/{}/", settings.name).into(),
            cluster: None,
        })
    }

    fn full(&self, key: &str) -> Vec<u8> {
        format!("{}{key}", self.prefix).into_bytes()
    }

    /// A key without what stands before all keys.
    fn own(&self, key: Vec<u8>, operation: &'static str) -> Result<String, MetaError> {
        let key = String::from_utf8(key).map_err(|error| MetaError::Store {
            operation,
            source: error.into(),
        })?;
        Ok(key.strip_prefix(&*self.prefix).unwrap_or(&key).to_owned())
    }

    /// A transaction that is made only if the store holds the cluster. The answer has what the steps found.
    async fn transact(
        &self,
        operation: &'static str,
        expect: Option<Compare>,
        then: Vec<Step>,
        mut otherwise: Vec<Step>,
    ) -> Result<Answer, MetaError> {
        let mut compare = Vec::from_iter(expect);
        let anchor = || self.full(CLUSTER_ID_KEY);
        if let Some(cluster) = &self.cluster {
            compare.push(Compare::Value(anchor(), cluster.as_bytes().to_vec()));
            otherwise.push(Step::Get(anchor()));
        }
        let answer = self.client.transact(&compare, then, otherwise).await;
        let mut answer = answer.map_err(|error| failure(operation, None, error))?;
        if !answer.succeeded && self.cluster.is_some() {
            let found = answer.found.pop().unwrap_or_default();
            let found = found.first().map(|kv| kv.value.as_slice());
            check_cluster(self.cluster.as_deref(), found)?;
        }
        Ok(answer)
    }

    /// A change of one key, if what is expected of it holds.
    async fn change(
        &self,
        operation: &'static str,
        (key, step): (&str, Step),
        expect: Expect,
    ) -> Result<Answer, MetaError> {
        let full = self.full(key);
        let compare = match expect {
            Expect::Any => None,
            Expect::Absent => Some(Compare::Absent(full.clone())),
            // No key of etcd has a revision beyond what it counts to.
            Expect::Revision(revision) => Some(Compare::Revision(
                full.clone(),
                i64::try_from(revision).unwrap_or(i64::MAX),
            )),
        };
        let answer = self
            .transact(operation, compare, vec![step], vec![Step::Get(full)])
            .await?;
        if !answer.succeeded {
            let found = answer.found.first().and_then(|found| found.first());
            expect.check(key, found.map(|kv| unsigned(kv.revision)))?;
            return Err(MetaError::Store {
                operation,
                source: "etcd refused what it then found to hold".into(),
            });
        }
        Ok(answer)
    }

    /// For calls that cannot be part of a transaction.
    async fn check_cluster(&self, operation: &'static str) -> Result<(), MetaError> {
        if self.cluster.is_some() {
            self.transact(operation, None, Vec::new(), Vec::new()).await?;
        }
        Ok(())
    }

    async fn listed(&self, operation: &'static str, prefix: &str) -> Result<(Listed, i64), MetaError> {
        let steps = vec![Step::List(self.full(prefix))];
        let answer = self.transact(operation, None, steps, Vec::new()).await?;
        let found = answer.found.into_iter().flatten();
        let entries = found.map(|kv| Ok((self.own(kv.key, operation)?, entry(kv.value, kv.revision))));
        Ok((entries.collect::<Result<_, MetaError>>()?, answer.revision))
    }
}

type Listed = Vec<(String, Entry)>;

impl fmt::Debug for EtcdStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EtcdStore")
            .field("client", &self.client)
            .field("prefix", &self.prefix)
            .field("cluster", &self.cluster)
            .finish()
    }
}

#[async_trait]
impl MetaStore for EtcdStore {
    async fn get(&self, key: &str) -> Result<Option<Entry>, MetaError> {
        check_key(key)?;
        let steps = vec![Step::Get(self.full(key))];
        let answer = self.transact("get", None, steps, Vec::new()).await?;
        let found = answer.found.into_iter().flatten().next();
        Ok(found.map(|kv| entry(kv.value, kv.revision)))
    }

    async fn list(&self, prefix: &str) -> Result<Listed, MetaError> {
        Ok(self.listed("list", prefix).await?.0)
    }

    async fn put_leased(
        &self,
        key: &str,
        value: Vec<u8>,
        expect: Expect,
        lease: Option<LeaseId>,
    ) -> Result<u64, MetaError> {
        check_key(key)?;
        check_value(&value)?;
        let number = lease.map_or(Ok(0), number_of)?;
        let step = Step::Put(self.full(key), value, number);
        let answer = self.change("put", (key, step), expect).await;
        Ok(unsigned(answer.map_err(|error| with_lease(error, lease))?.revision))
    }

    async fn delete(&self, key: &str, expect: Expect) -> Result<(), MetaError> {
        check_key(key)?;
        let step = Step::Delete(self.full(key));
        self.change("delete", (key, step), expect).await?;
        Ok(())
    }

    async fn grant(&self, ttl: Duration) -> Result<LeaseId, MetaError> {
        check_ttl(ttl)?;
        self.check_cluster("grant a lease").await?;
        let whole_seconds = ttl.as_secs() + u64::from(ttl.subsec_nanos() > 0);
        let seconds = i64::try_from(whole_seconds).unwrap_or(i64::MAX);
        let granted = self.client.grant(seconds).await;
        let number = granted.map_err(|error| failure("grant a lease", None, error))?;
        Ok(LeaseId::from_number(unsigned(number)))
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<(), MetaError> {
        let operation = "keep a lease alive";
        self.check_cluster(operation).await?;
        let kept = self.client.keep_alive(number_of(lease)?).await;
        kept.map_err(|error| failure(operation, Some(lease), error))
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), MetaError> {
        let operation = "revoke a lease";
        self.check_cluster(operation).await?;
        let revoked = self.client.revoke(number_of(lease)?).await;
        revoked.map_err(|error| failure(operation, Some(lease), error))
    }

    fn watch(&self, prefix: &str) -> Watch {
        spawn(Watched {
            store: self.clone(),
            prefix: prefix.to_owned(),
            revision: 0,
            changes: None,
        })
    }

    fn bound(&self, cluster: &str) -> Arc<dyn MetaStore> {
        Arc::new(Self {
            cluster: Some(cluster.into()),
            ..self.clone()
        })
    }
}

struct Watched {
    store: EtcdStore,
    prefix: String,
    /// Of the last reset.
    revision: i64,
    changes: Option<Changes>,
}

impl Watched {
    async fn open(&self) -> Result<Changes, EtcdError> {
        let prefix = if self.store.cluster.is_some() { "" } else { &self.prefix };
        self.store
            .client
            .watch(&self.store.full(prefix), self.revision + 1)
            .await
    }

    async fn next(&mut self) -> Result<Vec<Change>, EtcdError> {
        if self.changes.is_none() {
            self.changes = Some(self.open().await?);
        }
        match &mut self.changes {
            Some(changes) => changes.next().await,
            None => Ok(Vec::new()),
        }
    }

    /// What a change means to this watch; `None` when it is not about its prefix.
    fn event(&self, change: Change) -> Result<Option<WatchEvent>, MetaError> {
        let (KeyValue { key, value, revision }, put) = match change {
            Change::Put(kv) => (kv, true),
            Change::Delete(kv) => (kv, false),
        };
        let key = self.store.own(key, "watch")?;
        if key == CLUSTER_ID_KEY {
            check_cluster(self.store.cluster.as_deref(), put.then_some(value.as_slice()))?;
        }
        if !key.starts_with(&self.prefix) {
            return Ok(None);
        }
        Ok(Some(if put {
            let entry = entry(value, revision);
            WatchEvent::Put { key, entry }
        } else {
            let revision = unsigned(revision);
            WatchEvent::Delete { key, revision }
        }))
    }
}

#[async_trait]
impl Source for Watched {
    async fn reset(&mut self) -> Result<WatchEvent, MetaError> {
        self.changes = None;
        let (entries, revision) = self.store.listed("watch", &self.prefix).await?;
        self.revision = revision;
        Ok(WatchEvent::Reset {
            entries,
            revision: unsigned(revision),
        })
    }

    async fn changes(&mut self) -> Result<Option<Vec<WatchEvent>>, MetaError> {
        let changes = match self.next().await {
            Ok(changes) => changes,
            Err(EtcdError::Compacted { .. }) => return Ok(None),
            Err(error) => return Err(failure("watch", None, error)),
        };
        let events = changes.into_iter().filter_map(|change| self.event(change).transpose());
        events.collect::<Result<_, _>>().map(Some)
    }
}

fn check_name(name: &str) -> Result<(), MetaError> {
    let valid = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    if !name.is_empty() && name.len() <= MAX_NAME_BYTES && name.bytes().all(valid) {
        return Ok(());
    }
    Err(MetaError::Settings {
        source: format!("a cluster's name is 1 to {MAX_NAME_BYTES} letters, digits, '.', '_' or '-', not {name:?}")
            .into(),
    })
}

fn entry(value: Vec<u8>, revision: i64) -> Entry {
    let revision = unsigned(revision);
    Entry { value, revision }
}

/// etcd's numbers are positive.
fn unsigned(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

fn number_of(lease: LeaseId) -> Result<i64, MetaError> {
    // 0 is no lease to etcd, and a put with it would be bound to nothing.
    match i64::try_from(lease.number()) {
        Ok(number) if number != 0 => Ok(number),
        _ => Err(MetaError::Lease { lease }),
    }
}

/// A put tells nothing of the lease that it fails for.
fn with_lease(error: MetaError, lease: Option<LeaseId>) -> MetaError {
    match (error, lease) {
        (MetaError::Lease { .. }, Some(lease)) => MetaError::Lease { lease },
        (error, _) => error,
    }
}

fn failure(operation: &'static str, lease: Option<LeaseId>, error: EtcdError) -> MetaError {
    match error {
        EtcdError::NoLease => MetaError::Lease {
            lease: lease.unwrap_or(LeaseId::from_number(0)),
        },
        EtcdError::Unreachable { .. } | EtcdError::Slow { .. } => MetaError::Unavailable {
            operation,
            source: error.into(),
        },
        error => MetaError::Store {
            operation,
            source: error.into(),
        },
    }
}
