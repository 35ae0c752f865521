//! What the SQL door hands out, sealed like tickets: queries to run, prepared statements, sessions.
//!
//! A query's ticket says all that decides the answer: the text or the plan, the options it runs with, the values of its
//! parameters, and which schema was advertised. So any node runs it, and nothing is kept for it anywhere until then. A prepared
//! statement is the same content under another kind, and so is one with bound parameters: to bind is to get a new handle.

use std::fmt;

use bytes::Bytes;
use prost::Message;

use super::keys::check_validity;
use super::{Kind, TicketError, TicketKeys, unreadable};
use crate::sql::Text;

/// What tells one query or prepared statement from all others.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct StatementId(pub [u8; 16]);

impl StatementId {
    /// An id that no other has.
    #[must_use]
    pub fn new() -> Self {
        Self(uuid::Uuid::now_v7().into_bytes())
    }

    /// Reads what Display writes.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut bytes = [0; 16];
        hex::decode_to_slice(text, &mut bytes).ok()?;
        Some(Self(bytes))
    }
}

impl fmt::Display for StatementId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for StatementId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What a session sets; what it does not set has the server's default.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct SqlOptions {
    /// The catalog of names without one.
    #[prost(string, optional, tag = "1")]
    pub catalog: Option<String>,
    /// The schema of names without one.
    #[prost(string, optional, tag = "2")]
    pub schema: Option<String>,
    /// Rows of a batch.
    #[prost(uint64, optional, tag = "3")]
    pub batch_rows: Option<u64>,
    /// How long a query may take, in milliseconds.
    #[prost(uint64, optional, tag = "4")]
    pub timeout_ms: Option<u64>,
}

/// A query, or a prepared statement.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Statement {
    /// When it ceases to be valid, in milliseconds since 1970 UTC.
    pub expires_unix_ms: u64,
    /// The cluster that it was issued for.
    pub audience: String,
    /// Its id; a prepared statement has the same one however often its parameters are bound.
    pub id: StatementId,
    /// The text, or the plan.
    pub text: Text,
    /// The options of the session that it was made in.
    pub options: SqlOptions,
    /// One row of values for its parameters, as an Arrow IPC stream.
    pub parameters: Option<Bytes>,
    /// [`schema_fingerprint`](super::schema_fingerprint) of the schema that was advertised for the answer.
    pub schema_fingerprint: u64,
}

/// The options of a session, as its cookie holds them.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Session {
    /// When it ceases to be valid, in milliseconds since 1970 UTC.
    pub expires_unix_ms: u64,
    /// The cluster that it was issued for.
    pub audience: String,
    /// What it sets.
    pub options: SqlOptions,
}

impl TicketKeys {
    /// The statement as the bytes that a client is given, for a ticket ([`Kind::Query`]) or a handle ([`Kind::Prepared`]).
    ///
    /// # Errors
    /// [`TicketError::TooLarge`] for one that would not open again.
    pub fn seal_statement(&self, kind: Kind, statement: &Statement) -> Result<Bytes, TicketError> {
        let (sql, plan) = match &statement.text {
            Text::Sql(sql) => (sql.clone(), None),
            Text::Substrait(plan) => (String::new(), Some(plan.clone())),
        };
        let body = StatementBody {
            expires_unix_ms: statement.expires_unix_ms,
            audience: statement.audience.clone(),
            id: statement.id.0.to_vec(),
            sql,
            options: Some(statement.options.clone()),
            parameters: statement.parameters.clone(),
            schema_fingerprint: statement.schema_fingerprint,
            plan,
        };
        self.seal_content(kind, &body.encode_to_vec())
    }

    /// Opens what [`TicketKeys::seal_statement`] gave, for the cluster `audience`, at `now_unix_ms`.
    ///
    /// # Errors
    /// A [`TicketError`] for anything that was not sealed here as this kind, was altered, has expired or is another cluster's.
    pub fn open_statement(
        &self,
        kind: Kind,
        bytes: &[u8],
        audience: &str,
        now_unix_ms: u64,
    ) -> Result<Statement, TicketError> {
        let body = StatementBody::decode(self.open_content(kind, bytes)?);
        let body = body.map_err(|error| unreadable(error.to_string()))?;
        check_validity(&body.audience, body.expires_unix_ms, audience, now_unix_ms)?;
        let id = <[u8; 16]>::try_from(body.id.as_slice()).map_err(|_| unreadable("its id has not 16 bytes"))?;
        Ok(Statement {
            expires_unix_ms: body.expires_unix_ms,
            audience: body.audience,
            id: StatementId(id),
            text: body.plan.map_or(Text::Sql(body.sql), Text::Substrait),
            options: body.options.unwrap_or_default(),
            parameters: body.parameters,
            schema_fingerprint: body.schema_fingerprint,
        })
    }

    /// The session as bytes.
    ///
    /// # Errors
    /// [`TicketError::TooLarge`] for one that would not open again.
    pub fn seal_session(&self, session: &Session) -> Result<Bytes, TicketError> {
        let body = SessionBody {
            expires_unix_ms: session.expires_unix_ms,
            audience: session.audience.clone(),
            options: Some(session.options.clone()),
        };
        self.seal_content(Kind::Session, &body.encode_to_vec())
    }

    /// Opens what [`TicketKeys::seal_session`] gave.
    ///
    /// # Errors
    /// As [`TicketKeys::open_statement`].
    pub fn open_session(&self, bytes: &[u8], audience: &str, now_unix_ms: u64) -> Result<Session, TicketError> {
        let body = SessionBody::decode(self.open_content(Kind::Session, bytes)?);
        let body = body.map_err(|error| unreadable(error.to_string()))?;
        check_validity(&body.audience, body.expires_unix_ms, audience, now_unix_ms)?;
        Ok(Session {
            expires_unix_ms: body.expires_unix_ms,
            audience: body.audience,
            options: body.options.unwrap_or_default(),
        })
    }
}

#[derive(Clone, PartialEq, Message)]
struct StatementBody {
    #[prost(uint64, tag = "1")]
    expires_unix_ms: u64,
    #[prost(string, tag = "2")]
    audience: String,
    #[prost(bytes = "vec", tag = "3")]
    id: Vec<u8>,
    #[prost(string, tag = "4")]
    sql: String,
    #[prost(message, optional, tag = "5")]
    options: Option<SqlOptions>,
    #[prost(bytes = "bytes", optional, tag = "6")]
    parameters: Option<Bytes>,
    #[prost(fixed64, tag = "7")]
    schema_fingerprint: u64,
    #[prost(bytes = "bytes", optional, tag = "8")]
    plan: Option<Bytes>,
}

#[derive(Clone, PartialEq, Message)]
struct SessionBody {
    #[prost(uint64, tag = "1")]
    expires_unix_ms: u64,
    #[prost(string, tag = "2")]
    audience: String,
    #[prost(message, optional, tag = "3")]
    options: Option<SqlOptions>,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::KeyRing;
    use super::*;

    const NOW_MS: u64 = 1_700_000_000_000;
    const CLUSTER: &str = "test-cluster";

    fn keys() -> TicketKeys {
        TicketKeys::new(KeyRing::random().unwrap())
    }

    fn statement() -> Statement {
        Statement {
            expires_unix_ms: NOW_MS + 1,
            audience: CLUSTER.to_owned(),
            id: StatementId::new(),
            text: Text::Sql("select $1".to_owned()),
            options: SqlOptions {
                schema: Some("lake".to_owned()),
                timeout_ms: Some(0),
                ..SqlOptions::default()
            },
            parameters: Some(Bytes::from_static(b"rows")),
            schema_fingerprint: 7,
        }
    }

    #[test]
    fn one_kind_does_not_open_as_another() {
        let keys = keys();
        let kinds = [Kind::Query, Kind::Prepared];
        for kind in kinds {
            let sealed = keys.seal_statement(kind, &statement()).unwrap();
            for other in kinds {
                let opened = keys.open_statement(other, &sealed, CLUSTER, NOW_MS);
                assert_eq!(opened.is_ok(), kind == other, "{kind:?} as {other:?}");
            }
            assert_eq!(keys.open_ticket(&sealed, CLUSTER, NOW_MS), Err(TicketError::NotOurs));
            // A kind that is written over does not fit the seal.
            let mut forged = sealed.to_vec();
            forged[..4].copy_from_slice(b"JBS1");
            assert_eq!(keys.open_session(&forged, CLUSTER, NOW_MS), Err(TicketError::Forged));
        }
    }

    #[test]
    fn what_is_altered_or_old_or_anothers_does_not_open() {
        let keys = keys();
        let sealed = keys.seal_statement(Kind::Query, &statement()).unwrap();
        for at in 0..sealed.len() {
            let mut forged = sealed.to_vec();
            forged[at] ^= 1;
            assert!(
                keys.open_statement(Kind::Query, &forged, CLUSTER, NOW_MS).is_err(),
                "byte {at}"
            );
        }
        let late = keys.open_statement(Kind::Query, &sealed, CLUSTER, NOW_MS + 2_001);
        assert_eq!(late, Err(TicketError::Expired { seconds_ago: 2 }));
        let elsewhere = keys.open_statement(Kind::Query, &sealed, "other", NOW_MS);
        assert_eq!(elsewhere, Err(TicketError::OtherAudience));
    }

    #[test]
    fn a_session_opens_to_the_same() {
        let keys = keys();
        let session = Session {
            expires_unix_ms: NOW_MS + 1,
            audience: CLUSTER.to_owned(),
            options: statement().options,
        };
        let sealed = keys.seal_session(&session).unwrap();
        assert_eq!(keys.open_session(&sealed, CLUSTER, NOW_MS), Ok(session));
    }

    #[test]
    fn an_id_reads_back_from_its_text() {
        let id = StatementId::new();
        assert_eq!(StatementId::parse(&id.to_string()), Some(id));
        assert_eq!(StatementId::parse("1234"), None);
    }

    proptest! {
        #[test]
        fn what_is_sealed_opens_to_the_same(sql: String, catalog: Option<String>, rows: Option<u64>, bound: Option<Vec<u8>>) {
            let keys = keys();
            let statement = Statement {
                text: Text::Sql(sql),
                options: SqlOptions { catalog, batch_rows: rows, ..SqlOptions::default() },
                parameters: bound.map(Bytes::from),
                ..statement()
            };
            let sealed = keys.seal_statement(Kind::Prepared, &statement).unwrap();
            prop_assert_eq!(keys.open_statement(Kind::Prepared, &sealed, CLUSTER, NOW_MS), Ok(statement));
        }

        #[test]
        fn a_plan_opens_to_the_same(plan: Vec<u8>) {
            let keys = keys();
            let statement = Statement { text: Text::Substrait(plan.into()), ..statement() };
            let sealed = keys.seal_statement(Kind::Query, &statement).unwrap();
            prop_assert_eq!(keys.open_statement(Kind::Query, &sealed, CLUSTER, NOW_MS), Ok(statement));
        }

        #[test]
        fn random_bytes_do_not_open(mut bytes: Vec<u8>, claim: bool) {
            if claim {
                bytes.splice(0..0, *b"JBQ1");
            }
            prop_assert!(keys().open_statement(Kind::Query, &bytes, CLUSTER, NOW_MS).is_err());
        }
    }
}
