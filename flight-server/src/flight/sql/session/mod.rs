//! Sessions: what a client sets once for all its statements.
//!
//! | option | values | default |
//! |---|---|---|
//! | `catalog` | the one catalog that there is | that one |
//! | `schema` | the schema of names without one | the server's |
//! | `timeout` | seconds, or text such as `90s`; 0 is none | none |
//! | `batch_size` | rows of a batch of an answer | the server's |
//!
//! A session is its cookie: the options, sealed as tickets are. So every node knows the session of a call, a restart ends
//! none, and nothing is kept for it here. Many drivers keep no cookies unless they are told to. For them the options are also
//! kept with the connection on which they were set, until it closes; a call with a cookie goes by the cookie alone.
//! On a connection that a proxy opened nothing is kept, since it may carry the calls of many clients.
//!
//! Headers set options for one call, in front of either: `x-jetbridge-sql-schema` and so on, a dash for an underscore.

mod options;
mod wire;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use bytes::Bytes;
use prost::Message;
use tonic::Request;
use tonic::metadata::{Ascii, MetadataMap, MetadataValue};

use self::options::{NAMES, Refused};
use super::super::flow::Connection;
use super::super::parse::decode;
use crate::error::ServiceError;
use crate::node::Node;
use crate::redeem::unix_ms;
use crate::sql::SessionOptions;
use crate::ticket::{Session, SqlOptions};

/// The cookie of a session, as Flight names it.
const COOKIE: &str = "arrow_flight_session_id";
/// What the headers begin with that set an option for one call.
const HEADER_PREFIX: &str = "x-jetbridge-sql-";
/// How long a cookie is good for: as long as any ticket may live.
const SESSION_TTL: Duration = Duration::from_secs(7 * 24 * 3600);
/// Headers by which a proxy shows itself.
const PROXY_HEADERS: [&str; 4] = ["forwarded", "via", "x-forwarded-for", "x-envoy-external-address"];

/// Who calls: what the call says of its session, and where one is kept.
#[derive(Debug)]
pub(in super::super) struct Caller {
    /// The session's cookie as it came.
    cookie: Option<String>,
    /// Options of this call alone, by name, as their headers have them.
    call: Vec<(&'static str, String)>,
    /// The connection, where it may keep a session.
    connection: Option<Arc<Connection>>,
}

/// An answer to an action.
#[derive(Debug, Default)]
pub(in super::super) struct Told {
    /// None for an action that answers nothing.
    pub(in super::super) body: Option<Bytes>,
    /// The cookie to set.
    pub(in super::super) cookie: Option<MetadataValue<Ascii>>,
}

impl Caller {
    /// The caller of a request.
    pub(in super::super) fn of<T>(request: &Request<T>) -> Self {
        let metadata = request.metadata();
        let is_proxied = PROXY_HEADERS.iter().any(|header| metadata.contains_key(*header));
        let connection = request.extensions().get::<Arc<Connection>>();
        Self {
            cookie: cookie(metadata),
            call: call_options(metadata),
            connection: connection.filter(|_| !is_proxied).map(Arc::clone),
        }
    }

    /// The options that hold for the call.
    ///
    /// # Errors
    /// UNAUTHENTICATED for a cookie that is not ours, was altered or is too old; INVALID_ARGUMENT for a header that is wrong.
    pub(super) fn options(&self, node: &Node) -> Result<SqlOptions, ServiceError> {
        let mut options = self.session(node)?;
        for (name, text) in &self.call {
            options::set_text(&mut options, name, text)
                .map_err(|what| ServiceError::invalid(format!("{}: {what}", header_of(name))))?;
        }
        Ok(options)
    }

    /// What the session sets.
    fn session(&self, node: &Node) -> Result<SqlOptions, ServiceError> {
        match (&self.cookie, &self.connection) {
            (Some(cookie), _) => opened(node, cookie),
            (None, Some(connection)) => Ok(connection.session()),
            (None, None) => Ok(SqlOptions::default()),
        }
    }
}

/// What the engine is told of the options.
pub(super) fn for_engine(options: &SqlOptions) -> SessionOptions {
    let mut told = SessionOptions::default();
    if let Some(catalog) = &options.catalog {
        told.catalog.clone_from(catalog);
    }
    if let Some(schema) = &options.schema {
        told.schema.clone_from(schema);
    }
    if let Some(rows) = options.batch_rows {
        told.batch_rows = usize::try_from(rows).unwrap_or(usize::MAX);
    }
    if let Some(timeout) = options.timeout_ms.filter(|&timeout| timeout > 0) {
        told.timeout = Some(Duration::from_millis(timeout));
    }
    told
}

/// SetSessionOptions: what could be set is, and the answer says what could not.
///
/// # Errors
/// A body that is no such request, a cookie that is not ours.
pub(super) async fn set(node: &Arc<Node>, caller: &Caller, body: &[u8]) -> Result<Told, ServiceError> {
    let request: wire::SetSessionOptionsRequest = decode("SetSessionOptions", body)?;
    let mut options = caller.session(node)?;
    let mut errors = HashMap::new();
    for (name, value) in request.session_options {
        let value = match options::set(node, &mut options, &name, &value).await {
            Ok(()) => continue,
            Err(Refused::Name) => wire::ErrorValue::InvalidName,
            Err(Refused::Value(why)) => {
                tracing::debug!(name, why, "a session's option was not set");
                wire::ErrorValue::InvalidValue
            }
        };
        errors.insert(name, wire::OptionError { value: value.into() });
    }
    if let Some(connection) = &caller.connection {
        connection.set_session(options.clone());
    }
    Ok(Told {
        body: Some(wire::SetSessionOptionsResult { errors }.encode_to_vec().into()),
        cookie: Some(set_cookie(&sealed(node, options)?, SESSION_TTL)?),
    })
}

/// GetSessionOptions: every option with the value that holds, which is the default where the session sets none.
///
/// # Errors
/// A body that is no such request, a cookie that is not ours.
pub(super) fn get(node: &Node, caller: &Caller, body: &[u8]) -> Result<Told, ServiceError> {
    let wire::GetSessionOptionsRequest {} = decode("GetSessionOptions", body)?;
    let session_options = options::shown(&for_engine(&caller.options(node)?));
    Ok(Told {
        body: Some(wire::GetSessionOptionsResult { session_options }.encode_to_vec().into()),
        cookie: None,
    })
}

/// CloseSession: the client is told to forget the cookie. Closing what is not open is no error, since drivers always do.
///
/// # Errors
/// A body that is no such request.
pub(super) fn close(caller: &Caller, body: &[u8]) -> Result<Told, ServiceError> {
    let wire::CloseSessionRequest {} = decode("CloseSession", body)?;
    if let Some(connection) = &caller.connection {
        connection.set_session(SqlOptions::default());
    }
    let status = wire::CloseStatus::Closed.into();
    let forget = caller.cookie.as_ref().map(|_| set_cookie("", Duration::ZERO));
    Ok(Told {
        body: Some(wire::CloseSessionResult { status }.encode_to_vec().into()),
        cookie: forget.transpose()?,
    })
}

/// The value of the session's cookie; an empty one is none.
fn cookie(metadata: &MetadataMap) -> Option<String> {
    let headers = metadata.get_all("cookie");
    let found = headers
        .iter()
        .filter_map(|header| header.to_str().ok())
        .find_map(|header| {
            let pairs = header.split(';').filter_map(|pair| pair.trim().split_once('='));
            let mut ours = pairs.filter(|(name, _)| *name == COOKIE);
            ours.next().map(|(_, value)| value.trim_matches('"').to_owned())
        });
    found.filter(|value| !value.is_empty())
}

/// Options of a call, as its headers have them.
fn call_options(metadata: &MetadataMap) -> Vec<(&'static str, String)> {
    let text = |name: &'static str| {
        let value = metadata.get(header_of(name))?;
        Some((name, String::from_utf8_lossy(value.as_bytes()).into_owned()))
    };
    NAMES.into_iter().filter_map(text).collect()
}

fn header_of(name: &str) -> String {
    format!("{HEADER_PREFIX}{}", name.replace('_', "-"))
}

fn opened(node: &Node, cookie: &str) -> Result<SqlOptions, ServiceError> {
    let sealed = BASE64.decode(cookie).unwrap_or_default();
    let (audience, now) = (node.cluster.cluster_id(), unix_ms(node.cluster.now()));
    Ok(node.keys.open_session(&sealed, audience, now)?.options)
}

fn sealed(node: &Node, options: SqlOptions) -> Result<String, ServiceError> {
    let session = Session {
        expires_unix_ms: unix_ms(node.cluster.now() + SESSION_TTL),
        audience: node.cluster.cluster_id().to_owned(),
        options,
    };
    Ok(BASE64.encode(node.keys.seal_session(&session)?))
}

fn set_cookie(value: &str, ttl: Duration) -> Result<MetadataValue<Ascii>, ServiceError> {
    let text = format!("{COOKIE}={value}; Max-Age={}; HttpOnly; SameSite=Strict", ttl.as_secs());
    MetadataValue::try_from(text).map_err(|error| ServiceError::Internal {
        what: format!("the cookie of a session: {error}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metadata(cookies: &[&'static str]) -> MetadataMap {
        let mut metadata = MetadataMap::new();
        for cookie in cookies {
            metadata.append("cookie", MetadataValue::from_static(cookie));
        }
        metadata
    }

    #[test]
    fn the_sessions_cookie_is_found_among_others() {
        let of = |cookies: &[&'static str]| cookie(&metadata(cookies));
        assert_eq!(of(&[]), None);
        assert_eq!(of(&["a=1; arrow_flight_session_id=xyz; b=2"]).as_deref(), Some("xyz"));
        assert_eq!(of(&["a=1", "arrow_flight_session_id=\"xyz\""]).as_deref(), Some("xyz"));
        assert_eq!(of(&["arrow_flight_session_id="]), None);
        assert_eq!(of(&["my_arrow_flight_session_id=x"]), None);
    }

    fn applied(metadata: &MetadataMap) -> Result<SqlOptions, String> {
        let mut options = SqlOptions::default();
        for (name, text) in call_options(metadata) {
            options::set_text(&mut options, name, &text)?;
        }
        Ok(options)
    }

    #[test]
    fn headers_set_options_of_a_call() {
        let mut metadata = MetadataMap::new();
        metadata.insert("x-jetbridge-sql-schema", MetadataValue::from_static("lake.sub"));
        metadata.insert("x-jetbridge-sql-timeout", MetadataValue::from_static("90s"));
        metadata.insert("x-jetbridge-sql-batch-size", MetadataValue::from_static("100"));
        let options = applied(&metadata).unwrap();
        assert_eq!(options.schema.as_deref(), Some("lake.sub"));
        assert_eq!((options.timeout_ms, options.batch_rows), (Some(90_000), Some(100)));
        metadata.insert("x-jetbridge-sql-batch-size", MetadataValue::from_static("many"));
        assert!(applied(&metadata).unwrap_err().contains("many"));
    }

    #[test]
    fn a_connection_that_a_proxy_opened_keeps_no_session() {
        let mut request = Request::new(());
        request.extensions_mut().insert(Arc::<Connection>::default());
        assert!(Caller::of(&request).connection.is_some());
        request
            .metadata_mut()
            .insert("via", MetadataValue::from_static("2 proxy"));
        assert!(Caller::of(&request).connection.is_none());
    }

    #[test]
    fn what_a_session_does_not_set_has_the_default() {
        let engine = for_engine(&SqlOptions::default());
        assert_eq!(engine, SessionOptions::default());
        let set = SqlOptions {
            schema: Some("lake".to_owned()),
            batch_rows: Some(7),
            timeout_ms: Some(1_500),
            ..SqlOptions::default()
        };
        let engine = for_engine(&set);
        assert_eq!((engine.schema.as_str(), engine.batch_rows), ("lake", 7));
        assert_eq!(engine.timeout, Some(Duration::from_millis(1_500)));
        let none = SqlOptions {
            timeout_ms: Some(0),
            ..set
        };
        assert_eq!(for_engine(&none).timeout, None);
    }
}
