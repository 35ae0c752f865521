//! What can go wrong, in a few kinds, each of which tells the caller what to do next.

use std::error::Error as StdError;
use std::fmt;
use std::time::Duration;

use arrow::error::ArrowError;
use tonic::{Code, Status};

use crate::memory::ClientError;

/// What kind of failure it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// No such path, dataset, mount, job.
    NotFound,
    /// It is there already.
    AlreadyExists,
    /// The request is wrong: a column, a filter, SQL, JSON, an address.
    InvalidArgument,
    /// The server does not know who asks, or the ticket is forged or expired.
    Unauthenticated,
    /// The caller, or the server at the storage, may not do this.
    PermissionDenied,
    /// The server has too much to do or goes away; the same may succeed soon or elsewhere.
    Unavailable,
    /// It took longer than the caller allows.
    DeadlineExceeded,
    /// The data changed since it was planned: plan anew.
    Stale,
    /// The server gave up for another reason.
    Aborted,
    /// A file is damaged, or bytes were lost on the way.
    DataLoss,
    /// A limit or a budget is in the way.
    ResourceExhausted,
    /// The state of the files or of the server is in the way.
    FailedPrecondition,
    /// The server cannot do that.
    Unimplemented,
    /// Somebody cancelled it.
    Cancelled,
    /// A defect of the server or of this client.
    Internal,
    /// Nobody answers at the address.
    Connect,
}

/// Why a call failed.
#[derive(Debug, Clone)]
pub struct Error {
    kind: ErrorKind,
    message: String,
    location: Option<String>,
    /// Whether it was the connection that failed, and not the server that refused.
    is_broken: bool,
}

/// The result of a call.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// An error of a kind, in words.
    pub(crate) fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            location: None,
            is_broken: false,
        }
    }

    /// What the server sends makes no sense.
    pub(crate) fn protocol(message: impl fmt::Display) -> Self {
        Self::new(
            ErrorKind::Internal,
            format!("the server's answer makes no sense: {message}"),
        )
    }

    /// The connection broke, or an answer stopped short.
    pub(crate) fn broken(message: impl fmt::Display) -> Self {
        Self {
            is_broken: true,
            ..Self::new(ErrorKind::Unavailable, format!("the connection broke: {message}"))
        }
    }

    /// Nothing came for this long.
    pub(crate) fn silent(after: Duration) -> Self {
        Self::new(
            ErrorKind::DeadlineExceeded,
            format!("the server said nothing for {} s", after.as_secs_f64()),
        )
    }

    /// A connection that could not be made.
    pub(crate) fn connect(source: &(dyn StdError + 'static)) -> Self {
        Self::new(ErrorKind::Connect, format!("cannot connect: {}", chain(source)))
    }

    /// Whether the connection broke, rather than that the server refused.
    pub(crate) fn is_broken(&self) -> bool {
        self.is_broken
    }

    /// The connection was ended for something that this client did: nothing speaks against the server.
    #[must_use]
    pub(crate) fn of_ours(self) -> Self {
        Self {
            is_broken: false,
            ..self
        }
    }

    /// Says which server it was, unless that is said already.
    #[must_use]
    pub(crate) fn at(mut self, location: &str) -> Self {
        self.location.get_or_insert_with(|| location.to_owned());
        self
    }

    /// What kind of failure it was.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// What happened, in words; the server's own where it said something.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The server that it happened at, as `grpc://host:port`, where that is known.
    #[must_use]
    pub fn location(&self) -> Option<&str> {
        self.location.as_deref()
    }

    /// Whether the same call may succeed a little later, or at another server.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        matches!(
            self.kind,
            ErrorKind::Unavailable | ErrorKind::Connect | ErrorKind::DeadlineExceeded
        )
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.location {
            Some(location) => write!(f, "{} (at {location})", self.message),
            None => f.write_str(&self.message),
        }
    }
}

impl StdError for Error {}

impl From<Status> for Error {
    fn from(status: Status) -> Self {
        // tonic makes a status of what the transport says, with an error of the transport below it.
        let is_transport = status.source().is_some();
        if is_transport {
            return transport(&status);
        }
        Self::new(kind_of(status.code(), status.message()), status.message())
    }
}

impl From<ArrowError> for Error {
    fn from(error: ArrowError) -> Self {
        Self::protocol(error)
    }
}

impl From<ClientError> for Error {
    fn from(error: ClientError) -> Self {
        let kind = match &error {
            ClientError::Connect { .. } => ErrorKind::Connect,
            ClientError::Io(_) | ClientError::Broken => return Self::broken(chain(&error)),
            ClientError::Refused { code, message, .. } => {
                return Self::new(kind_of(Code::from(*code), message), message.clone());
            }
            ClientError::Protocol(_) | ClientError::Array(_) => ErrorKind::Internal,
        };
        Self::new(kind, chain(&error))
    }
}

/// An error of the transport in the disguise of a status.
fn transport(status: &Status) -> Error {
    let mut cause: &(dyn StdError + 'static) = status;
    let mut is_refused = false;
    while let Some(next) = cause.source() {
        cause = next;
        is_refused |= cause.is::<tonic::ConnectError>();
    }
    if is_refused {
        return Error::new(ErrorKind::Connect, format!("cannot connect: {cause}"));
    }
    match status.code() {
        Code::DeadlineExceeded => Error::new(ErrorKind::DeadlineExceeded, status.message()),
        Code::Cancelled if cause.is::<tonic::TimeoutExpired>() => {
            Error::new(ErrorKind::DeadlineExceeded, "the call took longer than its timeout")
        }
        _ => Error::broken(cause),
    }
}

/// The kind of a gRPC status. The server says STALE where data changed, which is another thing to do than after an abort.
pub(crate) fn kind_of(code: Code, message: &str) -> ErrorKind {
    match code {
        Code::NotFound => ErrorKind::NotFound,
        Code::AlreadyExists => ErrorKind::AlreadyExists,
        Code::InvalidArgument | Code::OutOfRange => ErrorKind::InvalidArgument,
        Code::Unauthenticated => ErrorKind::Unauthenticated,
        Code::PermissionDenied => ErrorKind::PermissionDenied,
        Code::Unavailable => ErrorKind::Unavailable,
        Code::DeadlineExceeded => ErrorKind::DeadlineExceeded,
        Code::Aborted if message.contains("STALE") => ErrorKind::Stale,
        Code::Aborted => ErrorKind::Aborted,
        Code::DataLoss => ErrorKind::DataLoss,
        Code::ResourceExhausted => ErrorKind::ResourceExhausted,
        Code::FailedPrecondition => ErrorKind::FailedPrecondition,
        Code::Unimplemented => ErrorKind::Unimplemented,
        Code::Cancelled => ErrorKind::Cancelled,
        Code::Ok | Code::Unknown | Code::Internal => ErrorKind::Internal,
    }
}

/// An error and its causes in one line.
pub(crate) fn chain(error: &(dyn StdError + 'static)) -> String {
    let mut line = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        let text = next.to_string();
        // Some libraries repeat their source.
        if !line.ends_with(&text) {
            line = format!("{line}: {text}");
        }
        cause = next.source();
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_keeps_its_meaning_and_words() {
        let of = |code, message: &str| Error::from(Status::new(code, message));
        assert_eq!(of(Code::NotFound, "x").kind(), ErrorKind::NotFound);
        assert_eq!(of(Code::Aborted, "STALE: changed").kind(), ErrorKind::Stale);
        assert_eq!(of(Code::Aborted, "given up").kind(), ErrorKind::Aborted);
        let error = of(Code::Unavailable, "busy").at("grpc://h:1").at("grpc://other:1");
        assert!(error.is_retryable());
        assert_eq!(error.to_string(), "busy (at grpc://h:1)");
        assert!(!of(Code::DataLoss, "x").is_retryable());
    }

    #[test]
    fn shared_memory_errors_have_the_kinds_of_flight() {
        let refused = ClientError::Refused {
            code: 10,
            code_name: "ABORTED".to_owned(),
            message: "STALE: changed".to_owned(),
        };
        assert_eq!(Error::from(refused).kind(), ErrorKind::Stale);
        assert_eq!(Error::from(ClientError::Broken).kind(), ErrorKind::Unavailable);
    }
}
