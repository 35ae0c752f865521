//! A store for tests: it counts and records what is asked of it, holds requests back, and fails as it is told to.
//!
//! It wraps any other store. Requests can be held at a gate, so that a test can prove "a hundred readers, one GET"
//! without a sleep; faults are queued and each is used up by one read.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetRange, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, ObjectStoreExt, PutMultipartOptions, PutOptions, PutPayload, PutResult, RenameOptions, Result,
};
use parking_lot::Mutex;
use tokio::sync::watch;

use super::{StoreSpec, Ufs};

/// What happens to one read.
#[derive(Debug, Clone)]
pub enum Fault {
    /// The body ends after so many bytes, as if that were all.
    Short(u64),
    /// The body breaks off with an error after so many bytes.
    Broken(u64),
    /// The body breaks off after so many bytes, and by then the object has this content.
    BrokenAndReplaced(u64, Bytes),
    /// The object has this content before the read is looked at.
    Replaced(Bytes),
    /// The answer carries the identity of another version, as from a server that does not honour `If-Match`.
    OtherEtag(String),
    /// No answer: the store cannot be reached.
    Unreachable,
}

/// One read, as it was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Read {
    /// The object's path in the store.
    pub path: String,
    /// The bytes; `None` for the whole object.
    pub range: Option<Range<u64>>,
    /// The ETag that was demanded.
    pub if_match: Option<String>,
}

/// The store.
#[derive(Debug)]
pub struct TestStore {
    inner: Arc<dyn ObjectStore>,
    log: Mutex<Log>,
    arrived: watch::Sender<usize>,
    dropped: watch::Sender<usize>,
    open: watch::Sender<bool>,
}

#[derive(Debug, Default)]
struct Log {
    reads: Vec<Read>,
    heads: usize,
    lists: usize,
    faults: VecDeque<Fault>,
    no_etags: bool,
}

impl TestStore {
    /// A wrapper around a store; its gate is open and it has no faults.
    #[must_use]
    pub fn new(inner: Arc<dyn ObjectStore>) -> Arc<Self> {
        let (arrived, dropped, open) = (watch::Sender::new(0), watch::Sender::new(0), watch::Sender::new(true));
        Arc::new(Self {
            inner,
            log: Mutex::default(),
            arrived,
            dropped,
            open,
        })
    }

    /// It, mounted at `/t`.
    #[must_use]
    pub fn mounted(self: &Arc<Self>) -> Ufs {
        let spec = StoreSpec {
            mount: "/t".to_owned(),
            scheme: "memory".to_owned(),
            authority: "m".to_owned(),
            key: String::new(),
            options: BTreeMap::new(),
        };
        Ufs::from_store(spec, Arc::<Self>::clone(self))
    }

    /// Every read so far, in order of arrival.
    #[must_use]
    pub fn reads(&self) -> Vec<Read> {
        self.log.lock().reads.clone()
    }

    /// How many look-ups there were.
    #[must_use]
    pub fn heads(&self) -> usize {
        self.log.lock().heads
    }

    /// How many listings there were.
    #[must_use]
    pub fn lists(&self) -> usize {
        self.log.lock().lists
    }

    /// Queues a fault for a read to come.
    pub fn fail_next(&self, fault: Fault) {
        self.log.lock().faults.push_back(fault);
    }

    /// From now on no answer to a read or a look-up carries an ETag, as from a server that has none.
    pub fn hide_etags(&self) {
        self.log.lock().no_etags = true;
    }

    /// Closes the gate: reads arrive and are recorded, but wait.
    pub fn hold(&self) {
        self.open.send_replace(false);
    }

    /// Opens the gate.
    pub fn release(&self) {
        self.open.send_replace(true);
    }

    /// Waits until so many reads have arrived, since the beginning.
    pub async fn wait_for_reads(&self, count: usize) {
        // The sender lives as long as `self`, so the wait cannot fail.
        let _ = self.arrived.subscribe().wait_for(|arrived| *arrived >= count).await;
    }

    /// Waits until so many reads have been given up before they were answered, since the beginning.
    pub async fn wait_for_dropped(&self, count: usize) {
        let _ = self.dropped.subscribe().wait_for(|dropped| *dropped >= count).await;
    }

    fn record(&self, location: &Path, options: &GetOptions) -> Option<Fault> {
        let mut log = self.log.lock();
        if options.head {
            log.heads += 1;
            return None;
        }
        let range = match &options.range {
            Some(GetRange::Bounded(range)) => Some(range.clone()),
            Some(GetRange::Offset(_) | GetRange::Suffix(_)) | None => None,
        };
        log.reads.push(Read {
            path: location.to_string(),
            range,
            if_match: options.if_match.clone(),
        });
        let fault = log.faults.pop_front();
        drop(log);
        self.arrived.send_modify(|arrived| *arrived += 1);
        fault
    }

    async fn answer(&self, fault: Option<Fault>, location: &Path, options: GetOptions) -> Result<GetResult> {
        match fault {
            None => self.inner.get_opts(location, options).await,
            Some(Fault::Unreachable) => Err(broken()),
            Some(Fault::Replaced(content)) => {
                self.replace(location, &content).await?;
                self.inner.get_opts(location, options).await
            }
            Some(Fault::OtherEtag(etag)) => {
                let mut answer = self.inner.get_opts(location, options).await?;
                answer.meta.e_tag = Some(etag);
                Ok(answer)
            }
            Some(Fault::Short(after)) => cut(self.inner.get_opts(location, options).await?, after, None).await,
            Some(Fault::Broken(after)) => {
                cut(self.inner.get_opts(location, options).await?, after, Some(broken())).await
            }
            Some(Fault::BrokenAndReplaced(after, content)) => {
                let answer = cut(self.inner.get_opts(location, options).await?, after, Some(broken())).await;
                self.replace(location, &content).await?;
                answer
            }
        }
    }

    async fn replace(&self, location: &Path, content: &Bytes) -> Result<()> {
        self.inner.put(location, content.clone().into()).await.map(|_| ())
    }
}

impl fmt::Display for TestStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TestStore({})", self.inner)
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl ObjectStore for TestStore {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        self.inner.put_opts(location, payload, options).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(location, options).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let fault = self.record(location, &options);
        let mut unanswered = Unanswered((!options.head).then_some(&self.dropped));
        if !options.head {
            let _ = self.open.subscribe().wait_for(|open| *open).await;
        }
        unanswered.0 = None;
        let mut answer = self.answer(fault, location, options).await?;
        if self.log.lock().no_etags {
            answer.meta.e_tag = None;
        }
        Ok(answer)
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.inner.get_ranges(location, ranges).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.log.lock().lists += 1;
        self.inner.list(prefix)
    }

    fn list_with_offset(&self, prefix: Option<&Path>, offset: &Path) -> BoxStream<'static, Result<ObjectMeta>> {
        self.log.lock().lists += 1;
        self.inner.list_with_offset(prefix, offset)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.log.lock().lists += 1;
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }

    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> Result<()> {
        self.inner.rename_opts(from, to, options).await
    }
}

/// A read that waits at the gate; counted when it is given up there.
struct Unanswered<'a>(Option<&'a watch::Sender<usize>>);

impl Drop for Unanswered<'_> {
    fn drop(&mut self) {
        if let Some(dropped) = self.0 {
            dropped.send_modify(|dropped| *dropped += 1);
        }
    }
}

/// The answer with a body that ends, or breaks, after so many bytes.
async fn cut(answer: GetResult, after: u64, then: Option<Error>) -> Result<GetResult> {
    let (meta, range, attributes) = (answer.meta.clone(), answer.range.clone(), answer.attributes.clone());
    let pieces: Vec<Bytes> = answer.into_stream().try_collect().await?;
    let whole = Bytes::from(pieces.concat());
    let kept = whole.slice(..usize::try_from(after).unwrap_or(usize::MAX).min(whole.len()));
    let body = stream::iter([Ok(kept)].into_iter().chain(then.map(Err))).boxed();
    Ok(GetResult {
        payload: GetResultPayload::Stream(body),
        meta,
        range,
        attributes,
    })
}

fn broken() -> Error {
    let source = std::io::Error::new(std::io::ErrorKind::ConnectionReset, "connection reset by the test");
    Error::Generic {
        store: "test",
        source: source.into(),
    }
}
