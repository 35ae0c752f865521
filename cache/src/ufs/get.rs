//! Look-ups and pinned reads of remote objects.
//!
//! A read asks for one range of one generation, and checks the answer's identity and size before a byte is kept, since
//! not every server honours `If-Match`. A body that ends early is resumed where it broke off, from the same
//! generation: what is joined is of one version. A weak generation cannot be named in a second request, so its body
//! starts over.
//!
//! The client library retries what fails before the body, and most that fails within. This loop is for the rest: short
//! bodies, silence, and long reads over slow lines. Its clock starts again with every byte: a transfer that moves is
//! not cut off because it is large.

use std::ops::Range;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use object_store::path::Path;
use object_store::{GetOptions, GetRange, ObjectMeta};

use super::error::{Operation, UfsError, UfsErrorKind, is_missing_bucket};
use super::remote::{Remote, generation_of, info_of};
use super::{ObjectInfo, Shared, metrics};
use crate::key::{FileKey, Generation, to_u64, to_usize};

/// The first pause before a body is resumed; it doubles up to the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// Looks one object up.
pub(super) async fn head(shared: &Shared, remote: &Remote, rel: &str) -> Result<Option<ObjectInfo>, UfsError> {
    let location = shared.location(Operation::Head, rel)?;
    if location.is_root() {
        return Ok(None);
    }
    let _permit = shared.permit().await;
    let started = Instant::now();
    let answer = head_meta(shared, remote, &location).await;
    let outcome = match answer {
        Ok(meta) => Ok(meta.map(|meta| info_of(rel.to_owned(), &meta))),
        Err(failure) => Err(failure.into_error(shared, Operation::Head, rel, None)),
    };
    let counted = outcome.as_ref().map(|_| 0).map_err(UfsError::kind);
    metrics::request(shared, Operation::Head, started, counted);
    outcome.map_err(|e| e.with_tries(1, started))
}

/// Reads a range of one generation. The range is not empty and lies within the file.
pub(super) async fn read(
    shared: &Shared,
    remote: &Remote,
    rel: &str,
    (key, range): (&FileKey, Range<u64>),
) -> Result<Bytes, UfsError> {
    let location = shared.location(Operation::Get, rel)?;
    let _permit = shared.permit().await;
    let started = Instant::now();
    let read = Read {
        shared,
        remote,
        location,
        key,
        range,
    };
    let mut tries = 0;
    let outcome = match read.run(&mut tries).await {
        Ok(bytes) => Ok(bytes),
        Err(Failure::Changed) => {
            let found = head_meta(shared, remote, &read.location).await.ok().flatten();
            let found = found
                .map(|meta| generation_of(&meta))
                .filter(|now| *now != key.generation);
            Err(UfsError::stale(
                shared.subject(Operation::Get, rel),
                &key.generation,
                found,
            ))
        }
        Err(failure) => Err(failure.into_error(shared, Operation::Get, rel, Some(&key.generation))),
    };
    let counted = outcome
        .as_ref()
        .map(|bytes| to_u64(bytes.len()))
        .map_err(UfsError::kind);
    metrics::request(shared, Operation::Get, started, counted);
    outcome.map_err(|e| e.with_tries(tries, started))
}

/// One read with its resumptions.
struct Read<'a> {
    shared: &'a Shared,
    remote: &'a Remote,
    location: Path,
    key: &'a FileKey,
    range: Range<u64>,
}

/// What has arrived.
#[derive(Default)]
struct Body {
    pieces: Vec<Bytes>,
    length: u64,
}

/// Why a try did not bring the rest.
enum Failure {
    /// The store refused; its client has retried already.
    Refused(object_store::Error),
    /// The body broke off.
    Broken(object_store::Error),
    /// Nothing came for so long.
    Silent(Duration),
    /// The body ended before its last byte.
    Short { got: u64, wanted: u64 },
    /// Another generation answered.
    Changed,
    /// More came than was asked for.
    Overlong,
}

impl Read<'_> {
    async fn run(&self, tries: &mut u32) -> Result<Bytes, Failure> {
        let wanted = self.range.end - self.range.start;
        let mut body = Body::default();
        let mut progress = (0, Instant::now());
        let mut pause = FIRST_PAUSE;
        loop {
            *tries += 1;
            let failure = match self.attempt(&mut body).await {
                Ok(()) if body.length == wanted => return Ok(body.join()),
                Ok(()) => Failure::Short {
                    got: body.length,
                    wanted,
                },
                Err(failure) => failure,
            };
            if !self.key.generation.is_strong() {
                body = Body::default();
            }
            if body.length > progress.0 {
                progress = (body.length, Instant::now());
                pause = FIRST_PAUSE;
            }
            let spent = progress.1.elapsed() + pause >= self.shared.limits.retry_timeout;
            if !failure.is_resumable() || spent || *tries > self.shared.limits.max_retries {
                return Err(failure);
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// One request for what is still missing.
    async fn attempt(&self, body: &mut Body) -> Result<(), Failure> {
        let limits = &self.shared.limits;
        let (whole, silence) = (limits.retry_timeout, limits.request_timeout);
        let asked = Instant::now();
        let request = self.remote.read.get_opts(&self.location, self.options(body.length));
        // The library's retries run inside this call, so it may take as long as they may.
        let answer = tokio::time::timeout(whole, request).await;
        let answer = answer.map_err(|_| Failure::Silent(whole))?.map_err(refused)?;
        self.shared.distance.learn(asked.elapsed());
        self.check_identity(&answer.meta)?;
        let wanted = self.range.end - self.range.start;
        let mut stream = answer.into_stream();
        while body.length < wanted {
            let Some(piece) = tokio::time::timeout(silence, stream.next())
                .await
                .map_err(|_| Failure::Silent(silence))?
            else {
                return Ok(());
            };
            body.push(piece.map_err(Failure::Broken)?);
        }
        if body.length > wanted {
            Err(Failure::Overlong)
        } else {
            Ok(())
        }
    }

    fn options(&self, received: u64) -> GetOptions {
        let generation = &self.key.generation;
        if !generation.is_strong() {
            return GetOptions::new();
        }
        let quote = |etag: &str| {
            if self.remote.quoted_etags {
                format!("\"{etag}\"")
            } else {
                etag.to_owned()
            }
        };
        GetOptions::new()
            .with_range(Some(GetRange::Bounded(self.range.start + received..self.range.end)))
            .with_if_match(generation.etag().map(quote))
            .with_version(generation.version())
    }

    fn check_identity(&self, meta: &ObjectMeta) -> Result<(), Failure> {
        let expected = &self.key.generation;
        let same = match expected.version() {
            // The request named the version; a server that answers without its id still answered that request.
            Some(version) => meta.version.as_deref().is_none_or(|found| found == version),
            None => generation_of(meta) == *expected,
        };
        if same && meta.size == self.key.size {
            Ok(())
        } else {
            Err(Failure::Changed)
        }
    }
}

impl Body {
    fn push(&mut self, piece: Bytes) {
        self.length += to_u64(piece.len());
        self.pieces.push(piece);
    }

    fn join(mut self) -> Bytes {
        if self.pieces.len() <= 1 {
            return self.pieces.pop().unwrap_or_default();
        }
        let mut joined = BytesMut::with_capacity(to_usize(self.length));
        for piece in self.pieces {
            joined.extend_from_slice(&piece);
        }
        joined.freeze()
    }
}

impl Failure {
    fn is_resumable(&self) -> bool {
        matches!(self, Self::Broken(_) | Self::Silent(_) | Self::Short { .. })
    }

    fn into_error(self, shared: &Shared, operation: Operation, rel: &str, expected: Option<&Generation>) -> UfsError {
        let subject = shared.subject(operation, rel);
        match (self, expected) {
            (Self::Changed, Some(expected)) => UfsError::stale(subject, expected, None),
            (Self::Changed, None) => UfsError::new(UfsErrorKind::Stale, subject, "the object changed"),
            (Self::Refused(error) | Self::Broken(error), _) => UfsError::from_store(&error, subject),
            (Self::Silent(waited), _) => {
                let reason = format!("no answer within {} s", waited.as_secs_f32());
                UfsError::new(UfsErrorKind::Timeout, subject, reason)
            }
            (Self::Short { got, wanted }, _) => {
                let reason = format!("the answer ended after {got} of {wanted} bytes");
                UfsError::new(UfsErrorKind::Unavailable, subject, reason)
            }
            (Self::Overlong, _) => UfsError::new(
                UfsErrorKind::Other,
                subject,
                "the server sent more bytes than it was asked for",
            ),
        }
    }
}

fn refused(error: object_store::Error) -> Failure {
    match error {
        object_store::Error::Precondition { .. } | object_store::Error::NotModified { .. } => Failure::Changed,
        error => Failure::Refused(error),
    }
}

async fn head_meta(shared: &Shared, remote: &Remote, location: &Path) -> Result<Option<ObjectMeta>, Failure> {
    let request = remote.read.get_opts(location, GetOptions::new().with_head(true));
    let whole = shared.limits.retry_timeout;
    match tokio::time::timeout(whole, request).await {
        Err(_) => Err(Failure::Silent(whole)),
        Ok(Ok(answer)) => Ok(Some(answer.meta)),
        Ok(Err(error @ object_store::Error::NotFound { .. })) if is_missing_bucket(&error) => {
            Err(Failure::Refused(error))
        }
        Ok(Err(object_store::Error::NotFound { .. })) => Ok(None),
        Ok(Err(error)) => Err(Failure::Refused(error)),
    }
}
