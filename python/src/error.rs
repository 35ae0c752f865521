//! Errors as the exceptions of `jetbridge.errors`.

use jetbridge_client::ErrorKind;
use pyo3::intern;
use pyo3::prelude::*;

/// What to do where nobody answers.
const NO_SERVER: &str =
    "start a server with `jetbridge serve`, or name another one: connect(\"grpc://HOST:PORT\"), JETBRIDGE_URI";

/// Why something failed, until there is an interpreter to say it to.
#[derive(Debug, Clone)]
pub(crate) struct Failure {
    code: &'static str,
    message: String,
    hint: Option<String>,
}

impl Failure {
    /// A failure of this code, in words.
    pub(crate) fn new(code: &'static str, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            hint: None,
        }
    }

    /// The same, with what to do about it.
    pub(crate) fn with_hint(mut self, hint: &str) -> Self {
        self.hint = Some(hint.to_owned());
        self
    }

    /// What was closed, or is of another process.
    pub(crate) fn closed(what: &str) -> Self {
        Self::new("CANCELLED", what)
    }

    /// The words.
    pub(crate) fn message(&self) -> &str {
        &self.message
    }

    /// As an exception.
    pub(crate) fn to_py(&self, py: Python<'_>) -> PyErr {
        let made = py.import(intern!(py, "jetbridge.errors")).and_then(|errors| {
            let words = (self.code, &self.message, &self.hint);
            errors.call_method1(intern!(py, "from_native"), words)
        });
        match made {
            Ok(error) => PyErr::from_value(error),
            Err(error) => error,
        }
    }
}

impl From<jetbridge_client::Error> for Failure {
    fn from(error: jetbridge_client::Error) -> Self {
        let failure = Self::new(code(error.kind()), error.to_string());
        match error.kind() {
            ErrorKind::Connect => failure.with_hint(NO_SERVER),
            _ => failure,
        }
    }
}

impl From<Failure> for PyErr {
    fn from(failure: Failure) -> Self {
        Python::attach(|py| failure.to_py(py))
    }
}

/// A defect of ours, or of the machine.
pub(crate) fn internal(message: &str) -> PyErr {
    Failure::new("INTERNAL", message).into()
}

/// The gRPC code by name. STALE is one of ours: the server says ABORTED where data changed under a read.
fn code(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::NotFound => "NOT_FOUND",
        ErrorKind::AlreadyExists => "ALREADY_EXISTS",
        ErrorKind::InvalidArgument => "INVALID_ARGUMENT",
        ErrorKind::Unauthenticated => "UNAUTHENTICATED",
        ErrorKind::PermissionDenied => "PERMISSION_DENIED",
        ErrorKind::Unavailable | ErrorKind::Connect => "UNAVAILABLE",
        ErrorKind::DeadlineExceeded => "DEADLINE_EXCEEDED",
        ErrorKind::Stale => "STALE",
        ErrorKind::Aborted => "ABORTED",
        ErrorKind::DataLoss => "DATA_LOSS",
        ErrorKind::ResourceExhausted => "RESOURCE_EXHAUSTED",
        ErrorKind::FailedPrecondition => "FAILED_PRECONDITION",
        ErrorKind::Unimplemented => "UNIMPLEMENTED",
        ErrorKind::Cancelled => "CANCELLED",
        _ => "INTERNAL",
    }
}
