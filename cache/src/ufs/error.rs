//! Errors of storage: a few kinds that say what the caller does next, and one sentence for the user.
//!
//! The sentence names operation, object, mount, reason, tries and time. The reason is a digest of what the store said
//! (status, error code, message), made here. Why not the library's own text: it repeats its sources at each level, and
//! it can hold request URLs and the server's whole answer, which for a refused signature includes the key id.

use std::error::Error;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use object_store::client::{HttpError, HttpErrorKind};

use crate::key::Generation;

/// A request to storage failed. Cheap to clone: one failure is told to every reader that waited for it.
#[derive(Debug, Clone)]
pub struct UfsError(Arc<Inner>);

/// What a caller can tell apart, and act on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum UfsErrorKind {
    /// No such object, folder or bucket.
    NotFound,
    /// The credentials do not allow it.
    PermissionDenied,
    /// There are no credentials, or they are not valid.
    Unauthenticated,
    /// The object is no longer the version that was asked for: look it up again and start over.
    Stale,
    /// No answer in time.
    Timeout,
    /// The store cannot be reached, is overloaded or broken: try later.
    Unavailable,
    /// A mount option is unknown, missing or not valid.
    InvalidOption,
    /// A `file` path lies outside the configured roots.
    OutsideRoots,
    /// Nobody wants the answer any more: the errand that it was for was stopped.
    Stopped,
    /// Anything else; the message says what.
    Other,
}

impl UfsErrorKind {
    /// The kind in lower case, as in metric labels.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NotFound => "not_found",
            Self::PermissionDenied => "permission_denied",
            Self::Unauthenticated => "unauthenticated",
            Self::Stale => "stale",
            Self::Timeout => "timeout",
            Self::Unavailable => "unavailable",
            Self::InvalidOption => "invalid_option",
            Self::OutsideRoots => "outside_roots",
            Self::Stopped => "stopped",
            Self::Other => "other",
        }
    }
}

#[derive(Debug)]
struct Inner {
    kind: UfsErrorKind,
    subject: Subject,
    tries: u32,
    elapsed: Duration,
    reason: String,
    stale: Option<(Generation, Option<Generation>)>,
}

impl UfsError {
    pub(crate) fn new(kind: UfsErrorKind, subject: Subject, reason: impl Into<String>) -> Self {
        Self(Arc::new(Inner {
            kind,
            subject,
            tries: 1,
            elapsed: Duration::ZERO,
            reason: reason.into(),
            stale: None,
        }))
    }

    pub(crate) fn with_tries(mut self, tries: u32, started: Instant) -> Self {
        if let Some(inner) = Arc::get_mut(&mut self.0) {
            inner.tries = inner.tries.max(tries);
            inner.elapsed = started.elapsed();
        }
        self
    }

    pub(crate) fn stale(subject: Subject, expected: &Generation, found: Option<Generation>) -> Self {
        let now = found
            .as_ref()
            .map_or_else(|| "another one".to_owned(), ToString::to_string);
        let reason = format!("STALE: the object changed: generation {expected} was asked for, it is now {now}");
        let mut error = Self::new(UfsErrorKind::Stale, subject, reason);
        if let Some(inner) = Arc::get_mut(&mut error.0) {
            inner.stale = Some((expected.clone(), found));
        }
        error
    }

    /// The object that was to be read in a generation is there in none.
    pub(crate) fn gone(subject: Subject, expected: &Generation) -> Self {
        let reason = format!("STALE: the object is gone: generation {expected} was asked for, and there is none now");
        let mut error = Self::new(UfsErrorKind::Stale, subject, reason);
        if let Some(inner) = Arc::get_mut(&mut error.0) {
            inner.stale = Some((expected.clone(), None));
        }
        error
    }

    /// What a library error means, with a sentence of our own.
    pub(crate) fn from_store(error: &object_store::Error, subject: Subject) -> Self {
        let verdict = classify(error);
        tracing::debug!(mount = %subject.mount, object = %subject.object, kind = verdict.kind.as_str(), "request failed");
        Self::new(verdict.kind, subject, verdict.reason).with_retries(verdict.retries)
    }

    fn with_retries(mut self, retries: u32) -> Self {
        if let Some(inner) = Arc::get_mut(&mut self.0) {
            inner.tries = retries.saturating_add(1);
        }
        self
    }

    /// What went wrong, in a word that code can match.
    #[must_use]
    pub fn kind(&self) -> UfsErrorKind {
        self.0.kind
    }

    /// The namespace path of the mount.
    #[must_use]
    pub fn mount(&self) -> &str {
        &self.0.subject.mount
    }

    /// The object's path relative to the mount; empty for the mount itself.
    #[must_use]
    pub fn object(&self) -> &str {
        &self.0.subject.object
    }

    /// For [`UfsErrorKind::Stale`]: the generation that was asked for, and the one that was found, where it is known.
    #[must_use]
    pub fn generations(&self) -> Option<(&Generation, Option<&Generation>)> {
        self.0
            .stale
            .as_ref()
            .map(|(expected, found)| (expected, found.as_ref()))
    }
}

impl fmt::Display for UfsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inner {
            subject,
            tries,
            elapsed,
            reason,
            ..
        } = &*self.0;
        write!(f, "cannot {} ", subject.operation.verb())?;
        if !subject.object.is_empty() {
            write!(f, "{:?} of ", subject.object)?;
        }
        write!(f, "mount {}: {reason}", subject.mount)?;
        if *tries > 1 || *elapsed >= SLOW {
            let tries_word = if *tries == 1 { "try" } else { "tries" };
            write!(f, " ({tries} {tries_word} in {:.1} s)", elapsed.as_secs_f64())?;
        }
        Ok(())
    }
}

impl Error for UfsError {}

/// What was done to storage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Operation {
    Open,
    List,
    Head,
    Get,
}

impl Operation {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::List => "list",
            Self::Head => "head",
            Self::Get => "get",
        }
    }

    fn verb(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::List => "list",
            Self::Head => "look up",
            Self::Get => "read",
        }
    }
}

/// What an operation was about.
#[derive(Debug, Clone)]
pub(crate) struct Subject {
    pub(crate) mount: Arc<str>,
    pub(crate) object: String,
    pub(crate) operation: Operation,
}

/// A failure that took longer tells how long.
const SLOW: Duration = Duration::from_millis(500);

/// The server's message is cut after this many bytes.
const MAX_MESSAGE_BYTES: usize = 200;

struct Verdict {
    kind: UfsErrorKind,
    reason: String,
    retries: u32,
}

/// Whether the text of the error says that the bucket or container itself is missing.
pub(crate) fn is_missing_bucket(error: &object_store::Error) -> bool {
    let text = error.to_string();
    ["NoSuchBucket", "ContainerNotFound"]
        .iter()
        .any(|code| text.contains(code))
}

fn classify(error: &object_store::Error) -> Verdict {
    let text = error.to_string();
    let retries = number_after(&text, "after ").unwrap_or(0);
    let status = number_after(&text, "status code: ");
    let code = between(&text, "<Code>", "</Code>").unwrap_or_default();
    let kind = kind_of(error, status, code);
    let reason = match status {
        Some(status) => status_reason(status, code, between(&text, "<Message>", "</Message>"), kind),
        None if text.contains("without LOCATION") => {
            "the server sent us elsewhere: is the option region right?".to_owned()
        }
        None => innermost(error),
    };
    Verdict { kind, reason, retries }
}

fn kind_of(error: &object_store::Error, status: Option<u32>, code: &str) -> UfsErrorKind {
    use object_store::Error as E;
    if BAD_CREDENTIALS.contains(&code) {
        return UfsErrorKind::Unauthenticated;
    }
    match (error, status) {
        (E::NotFound { .. }, _) | (_, Some(404)) => UfsErrorKind::NotFound,
        (E::Precondition { .. } | E::NotModified { .. }, _) | (_, Some(412)) => UfsErrorKind::Stale,
        (E::Unauthenticated { .. }, _) | (_, Some(401)) => UfsErrorKind::Unauthenticated,
        (E::PermissionDenied { .. }, _) | (_, Some(403)) => UfsErrorKind::PermissionDenied,
        (E::UnknownConfigurationKey { .. }, _) => UfsErrorKind::InvalidOption,
        (_, Some(408 | 429 | 500..)) => UfsErrorKind::Unavailable,
        (_, Some(_)) => UfsErrorKind::Other,
        (_, None) => http_kind(error),
    }
}

/// Codes of the S3 protocol that mean: these credentials are none, whatever the status.
const BAD_CREDENTIALS: [&str; 7] = [
    "InvalidAccessKeyId",
    "SignatureDoesNotMatch",
    "ExpiredToken",
    "InvalidToken",
    "TokenRefreshRequired",
    "AuthenticationFailed",
    "InvalidAuthenticationInfo",
];

fn http_kind(error: &object_store::Error) -> UfsErrorKind {
    let text = error.to_string();
    match chain(error)
        .find_map(|e| e.downcast_ref::<HttpError>())
        .map(HttpError::kind)
    {
        Some(HttpErrorKind::Timeout) => UfsErrorKind::Timeout,
        Some(_) => UfsErrorKind::Unavailable,
        None if text.contains("SlowDown") || text.contains("InternalError") => UfsErrorKind::Unavailable,
        None => match chain(error)
            .find_map(|e| e.downcast_ref::<std::io::Error>())
            .map(std::io::Error::kind)
        {
            Some(std::io::ErrorKind::PermissionDenied) => UfsErrorKind::PermissionDenied,
            Some(std::io::ErrorKind::TimedOut) => UfsErrorKind::Timeout,
            _ => UfsErrorKind::Other,
        },
    }
}

fn status_reason(status: u32, code: &str, message: Option<&str>, kind: UfsErrorKind) -> String {
    let mut reason = format!("the server answered {status}");
    if !code.is_empty() {
        reason.push(' ');
        reason.push_str(clip(code));
    }
    if let Some(message) = message {
        reason.push_str(": ");
        reason.push_str(clip(message.trim_end_matches('.')));
    }
    if matches!(kind, UfsErrorKind::Unauthenticated | UfsErrorKind::PermissionDenied) {
        reason.push_str("; check the mount's credentials and what they allow");
    }
    reason
}

/// The deepest source's own words: the levels above only repeat them.
fn innermost(error: &object_store::Error) -> String {
    let text = chain(error).last().map(ToString::to_string).unwrap_or_default();
    clip(&text).to_owned()
}

fn chain<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |&deeper| deeper.source())
}

fn number_after(text: &str, marker: &str) -> Option<u32> {
    let rest = &text[text.find(marker)? + marker.len()..];
    let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    rest[..end].parse().ok()
}

fn between<'a>(text: &'a str, open: &str, close: &str) -> Option<&'a str> {
    let rest = &text[text.find(open)? + open.len()..];
    Some(&rest[..rest.find(close)?])
}

fn clip(text: &str) -> &str {
    let mut end = text.len().min(MAX_MESSAGE_BYTES);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn generic(text: &str) -> object_store::Error {
        object_store::Error::Generic {
            store: "S3",
            source: text.to_owned().into(),
        }
    }

    fn subject() -> Subject {
        Subject {
            mount: "/lake".into(),
            object: "a.parquet".into(),
            operation: Operation::Get,
        }
    }

    #[test]
    fn a_listing_of_a_missing_bucket_is_not_found() {
        let text = "Error performing list request: Error performing GET http://h/b in 1ms - Server returned non-2xx \
                    status code: 404 Not Found: <Error><Code>NoSuchBucket</Code><Message>The bucket is not there.\
                    </Message></Error>";
        let error = UfsError::from_store(&generic(text), subject());
        assert_eq!(error.kind(), UfsErrorKind::NotFound);
        let expected = "cannot read \"a.parquet\" of mount /lake: the server answered 404 NoSuchBucket: The bucket is \
                        not there";
        assert_eq!(error.to_string(), expected);
        assert!(is_missing_bucket(&generic(text)));
    }

    #[test]
    fn a_bad_key_is_unauthenticated_and_not_repeated() {
        let text = "status code: 403 Forbidden: <Error><Code>SignatureDoesNotMatch</Code><Message>no</Message>\
                    <AWSAccessKeyId>CANARY</AWSAccessKeyId><StringToSign>CANARY</StringToSign></Error>";
        let error = UfsError::from_store(&generic(text), subject());
        assert_eq!(error.kind(), UfsErrorKind::Unauthenticated);
        assert!(!error.to_string().contains("CANARY") && !format!("{error:?}").contains("CANARY"));
    }

    #[test]
    fn tries_and_time_are_told() {
        let text = "Error performing GET http://h/b in 3s, after 4 retries, max_retries: 10, retry_timeout: 30s  - \
                    Server returned non-2xx status code: 503 Service Unavailable: ";
        let error = UfsError::from_store(&generic(text), subject()).with_tries(1, Instant::now());
        assert_eq!(error.kind(), UfsErrorKind::Unavailable);
        assert!(
            error
                .to_string()
                .ends_with("the server answered 503 (5 tries in 0.0 s)"),
            "{error}"
        );
    }

    #[test]
    fn stale_names_both_generations() {
        let old = Generation::parse("etag:a").unwrap();
        let error = UfsError::stale(subject(), &old, Some(Generation::parse("etag:b").unwrap()));
        assert_eq!(error.kind(), UfsErrorKind::Stale);
        assert!(error.to_string().contains("STALE") && error.to_string().contains("etag:a"));
        assert_eq!(error.generations().unwrap().1.unwrap().etag(), Some("b"));
    }
}
