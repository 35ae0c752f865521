//! The few calls of etcd's API (version 3) that the metadata store makes: transactions, leases, watches.
//!
//! | file | what is in it |
//! |---|---|
//! | `lib.rs` | the calls, in plain types |
//! | `connection.rs` | endpoints, one of which is in use; time limits; the token of a user |
//! | `watch.rs` | a stream of changes |
//! | `messages.rs` | what is sent, field by field |
//!
//! Why not the crate etcd-client: its build runs protoc, which this project's build must not need. The messages
//! used here are few, their numbers are frozen by etcd's promise of compatibility, and gRPC itself is tonic's,
//! which the workspace has anyway.
//!
//! Why a crate of its own: the catalog knows no gRPC.
//!
//! TLS to etcd is not offered: endpoints are `http://`, on a network that is trusted.

mod connection;
mod messages;
mod watch;

use std::fmt;
use std::time::Duration;

use connection::Connection;
pub use watch::{Change, Changes};

use messages::{
    CompareRequest, CompareResult, CompareTarget, DeleteRangeRequest, LeaseGrantRequest, LeaseGrantResponse,
    LeaseKeepAliveResponse, LeaseRequest, PutRequest, RangeRequest, Request, RequestOp, Response, Stored, TxnRequest,
    TxnResponse, Wanted,
};

/// A user of etcd, where it asks for one.
#[derive(Clone)]
pub struct Credentials {
    /// The user's name.
    pub user: String,
    /// The password. It is sent to etcd and never printed.
    pub password: String,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("user", &self.user)
            .finish_non_exhaustive()
    }
}

/// What must hold for a transaction to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Compare {
    /// There is no such key.
    Absent(Vec<u8>),
    /// There is such a key, last put at this revision.
    Revision(Vec<u8>, i64),
    /// There is such a key, with this value.
    Value(Vec<u8>, Vec<u8>),
}

/// One step of a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Reads one key.
    Get(Vec<u8>),
    /// Reads all keys that begin with this, which must neither be empty nor end with the byte 255.
    List(Vec<u8>),
    /// Sets a key, bound to a lease; the lease 0 is none.
    Put(Vec<u8>, Vec<u8>, i64),
    /// Removes a key.
    Delete(Vec<u8>),
}

/// A key with its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyValue {
    /// The key.
    pub key: Vec<u8>,
    /// The value; empty where a delete is told.
    pub value: Vec<u8>,
    /// The revision of the last put, or of the delete.
    pub revision: i64,
}

/// What a transaction did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Whether all comparisons held.
    pub succeeded: bool,
    /// The revision of the whole store, after it.
    pub revision: i64,
    /// What each step found; nothing where it was a put or a delete.
    pub found: Vec<Vec<KeyValue>>,
}

/// Why a call of etcd failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EtcdError {
    /// An endpoint is no `http://host:port`.
    #[error("{endpoint:?} is no endpoint of etcd: http://HOST:PORT is expected, without TLS")]
    Endpoint {
        /// As it was given.
        endpoint: String,
    },
    /// No endpoint was given.
    #[error("etcd needs at least one endpoint")]
    NoEndpoint,
    /// It is not there, or has no leader. Whether a change was made is not known.
    #[error("etcd at {endpoint} cannot be reached: {reason}")]
    Unreachable {
        /// The last endpoint that was tried.
        endpoint: String,
        /// What went wrong.
        reason: String,
    },
    /// It did not answer in time. Whether a change was made is not known.
    #[error("etcd at {endpoint} did not answer within {limit:?}")]
    Slow {
        /// The endpoint that was asked.
        endpoint: String,
        /// The limit.
        limit: Duration,
    },
    /// The lease ran out, was revoked, or never was.
    #[error("etcd knows no such lease")]
    NoLease,
    /// It refused the call: no rights, a wrong password, a request too large.
    #[error("etcd refused the call: {reason}")]
    Refused {
        /// In its words.
        reason: String,
    },
    /// What a watch should begin with was compacted.
    #[error("etcd ended a watch: its history begins at revision {first}")]
    Compacted {
        /// The first revision that it still has.
        first: i64,
    },
}

/// A client of one etcd. Clones share their connections.
#[derive(Debug, Clone)]
pub struct Client {
    connection: Connection,
}

impl Client {
    /// A client that connects when it is first used. `limit` is the longest that any call takes.
    ///
    /// Must be called in a Tokio runtime, which it uses from then on.
    ///
    /// # Errors
    /// [`EtcdError::NoEndpoint`], [`EtcdError::Endpoint`].
    pub fn new(endpoints: &[String], credentials: Option<Credentials>, limit: Duration) -> Result<Self, EtcdError> {
        let connection = Connection::new(endpoints, credentials, limit)?;
        Ok(Self { connection })
    }

    /// Takes the steps `then` if all comparisons hold, else the steps `otherwise`, at one moment.
    ///
    /// # Errors
    /// [`EtcdError::NoLease`], [`EtcdError::Unreachable`], [`EtcdError::Slow`], [`EtcdError::Refused`].
    pub async fn transact(
        &self,
        compare: &[Compare],
        then: Vec<Step>,
        otherwise: Vec<Step>,
    ) -> Result<Answer, EtcdError> {
        let request = TxnRequest {
            compare: compare.iter().flat_map(comparisons).collect(),
            success: then.into_iter().map(operation).collect(),
            failure: otherwise.into_iter().map(operation).collect(),
        };
        let answer: TxnResponse = self.connection.unary("/etcdserverpb.KV/Txn", request).await?;
        Ok(Answer {
            succeeded: answer.succeeded,
            revision: answer.header.map_or(0, |header| header.revision),
            found: answer
                .responses
                .into_iter()
                .map(|answer| found(answer.response))
                .collect(),
        })
    }

    /// A new lease. etcd lengthens one that is shorter than it can keep (2 s by default).
    ///
    /// # Errors
    /// [`EtcdError::Unreachable`], [`EtcdError::Slow`], [`EtcdError::Refused`].
    pub async fn grant(&self, ttl_seconds: i64) -> Result<i64, EtcdError> {
        let request = LeaseGrantRequest { ttl: ttl_seconds };
        let answer: LeaseGrantResponse = self.connection.unary("/etcdserverpb.Lease/LeaseGrant", request).await?;
        Ok(answer.id)
    }

    /// Gives a lease its whole time again.
    ///
    /// # Errors
    /// [`EtcdError::NoLease`], [`EtcdError::Unreachable`], [`EtcdError::Slow`], [`EtcdError::Refused`].
    pub async fn keep_alive(&self, lease: i64) -> Result<(), EtcdError> {
        let request = LeaseRequest { id: lease };
        let answer: LeaseKeepAliveResponse = self
            .connection
            .one_of_stream("/etcdserverpb.Lease/LeaseKeepAlive", request)
            .await?;
        // For a lease that it does not know etcd sends no error but a time of 0.
        if answer.ttl > 0 {
            Ok(())
        } else {
            Err(EtcdError::NoLease)
        }
    }

    /// Ends a lease and removes the keys that are bound to it.
    ///
    /// # Errors
    /// [`EtcdError::NoLease`], [`EtcdError::Unreachable`], [`EtcdError::Slow`], [`EtcdError::Refused`].
    pub async fn revoke(&self, lease: i64) -> Result<(), EtcdError> {
        let request = LeaseRequest { id: lease };
        let _: messages::Done = self
            .connection
            .unary("/etcdserverpb.Lease/LeaseRevoke", request)
            .await?;
        Ok(())
    }

    /// All changes of keys that begin with `prefix`, from a revision on.
    ///
    /// # Errors
    /// [`EtcdError::Compacted`], [`EtcdError::Unreachable`], [`EtcdError::Slow`], [`EtcdError::Refused`].
    pub async fn watch(&self, prefix: &[u8], from_revision: i64) -> Result<Changes, EtcdError> {
        Changes::open(&self.connection, prefix, from_revision).await
    }
}

/// The end of the range of all keys with a prefix.
fn range_end(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    if let Some(last) = end.last_mut() {
        *last = last.saturating_add(1);
    }
    end
}

fn comparisons(compare: &Compare) -> Vec<CompareRequest> {
    let one = |key: &Vec<u8>, result: CompareResult, target: CompareTarget, wanted: Wanted| CompareRequest {
        result: result.into(),
        target: target.into(),
        key: key.clone(),
        wanted: Some(wanted),
    };
    let (equal, version) = (CompareResult::Equal, CompareTarget::Version);
    match compare {
        Compare::Absent(key) => vec![one(key, equal, version, Wanted::Version(0))],
        // A key that is not there has the revision 0, so that its presence is compared too.
        Compare::Revision(key, revision) => vec![
            one(key, CompareResult::Greater, version, Wanted::Version(0)),
            one(key, equal, CompareTarget::Mod, Wanted::Mod(*revision)),
        ],
        Compare::Value(key, value) => vec![one(key, equal, CompareTarget::Value, Wanted::Value(value.clone()))],
    }
}

fn operation(step: Step) -> RequestOp {
    let request = match step {
        Step::Get(key) => Request::Range(RangeRequest {
            key,
            range_end: Vec::new(),
        }),
        Step::List(prefix) => Request::Range(RangeRequest {
            range_end: range_end(&prefix),
            key: prefix,
        }),
        Step::Put(key, value, lease) => Request::Put(PutRequest { key, value, lease }),
        Step::Delete(key) => Request::Delete(DeleteRangeRequest { key }),
    };
    RequestOp { request: Some(request) }
}

fn found(response: Option<Response>) -> Vec<KeyValue> {
    match response {
        Some(Response::Range(range)) => range.kvs.into_iter().map(KeyValue::from).collect(),
        Some(Response::Put(_) | Response::Delete(_)) | None => Vec::new(),
    }
}

impl From<Stored> for KeyValue {
    fn from(stored: Stored) -> Self {
        Self {
            key: stored.key,
            value: stored.value,
            revision: stored.mod_revision,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_not_printed() {
        let credentials = Credentials {
            user: "root".into(),
            password: "hunter2".into(),
        };
        assert!(!format!("{credentials:?}").contains("hunter2"));
    }

    #[test]
    fn a_revision_is_only_that_of_a_key_that_is_there() {
        let made = comparisons(&Compare::Revision(b"k".to_vec(), 0));
        assert_eq!(made.len(), 2);
        assert_eq!(made[0].result, i32::from(CompareResult::Greater));
    }

    #[test]
    fn a_range_ends_behind_its_prefix() {
        assert_eq!(range_end(b"/a/"), b"/a0");
        assert_eq!(range_end("é".as_bytes()), [0xc3, 0xaa]);
    }

    #[tokio::test]
    async fn endpoints_are_checked() {
        let new = |endpoints: &[&str]| {
            let endpoints: Vec<String> = endpoints.iter().map(|&text| text.to_owned()).collect();
            Client::new(&endpoints, None, Duration::from_secs(1))
        };
        assert!(new(&["http://127.0.0.1:2379", "http://[::1]:2379"]).is_ok());
        assert!(matches!(new(&[]).unwrap_err(), EtcdError::NoEndpoint));
        for bad in ["", "127.0.0.1:2379", "https://a:1", "http://", "http://a:b"] {
            assert!(matches!(new(&[bad]).unwrap_err(), EtcdError::Endpoint { .. }), "{bad}");
        }
    }
}
