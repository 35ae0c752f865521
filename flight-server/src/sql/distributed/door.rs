//! The service that runs tasks for other nodes.
//!
//! It is for the nodes of the cluster alone: whoever does not show the cluster's pass is refused before a byte of his
//! plan is read. In a cluster without a key everybody who reaches the port is let in, as to all that nodes ask of each
//! other; what a plan may do there is bounded by `session`.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use datafusion_distributed::{MaybeEncoded, SetPlanRequest, TaskKey, Worker};
use futures::future::BoxFuture;
use futures::{StreamExt, stream};
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body::{Body as HttpBody, Frame};
use tokio::runtime::Handle;
use tokio_util::task::AbortOnDropHandle;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::Service;
use tonic::metadata::MetadataMap;
use url::Url;
use uuid::Uuid;

use super::queries::{Entered, Lasts, Queries};
use super::session;
use crate::cluster::pass::Pass;

/// What the paths of its calls begin with.
pub const PATH: &str = "/worker.WorkerService/";
/// The call that brings a task, and ends with its query.
const BRING: &str = "CoordinatorChannel";
/// Longest message that is taken, in bytes: a plan with the tickets of one task.
const MAX_PLAN_BYTES: usize = 64 << 20;

/// How long after a call's end, and after one another, tasks are swept.
const SWEEP_DELAY: Duration = Duration::from_secs(1);

type Call = dyn Fn(Request<Body>) -> BoxFuture<'static, Response<Body>> + Send + Sync;

/// Lets nodes of the cluster in, and nobody else.
#[derive(Clone)]
pub struct WorkerDoor {
    pass: Pass,
    call: Arc<Call>,
    sweeper: Arc<Sweeper>,
    queries: Queries,
}

impl WorkerDoor {
    /// The door of `worker`, whose tasks run on `threads`.
    #[must_use]
    pub(super) fn new(worker: Worker, pass: Pass, threads: Handle, queries: Queries) -> Self {
        let sweeper = Arc::new(Sweeper {
            worker: worker.clone(),
            threads: threads.clone(),
            queries: queries.clone(),
            is_due: AtomicBool::new(false),
        });
        // Answers are bounded by the rows of a batch; a single row larger than any bound still goes out whole.
        let server = worker.into_worker_server().max_decoding_message_size(MAX_PLAN_BYTES);
        let call = move |request| {
            let mut server = server.clone();
            let called = threads.spawn(async move {
                let Ok(response) = server.call(request).await;
                response
            });
            // Whoever gives up the call ends it.
            let called = AbortOnDropHandle::new(called);
            Box::pin(async move { called.await.unwrap_or_else(|_| died()) }) as BoxFuture<'static, Response<Body>>
        };
        Self {
            pass,
            call: Arc::new(call),
            sweeper,
            queries,
        }
    }

    /// Answers one call.
    pub async fn answer(&self, request: Request<Body>) -> Response<Body> {
        let mut shown = tonic::Request::new(());
        *shown.metadata_mut() = MetadataMap::from_headers(request.headers().clone());
        match self.pass.demand(&shown) {
            Ok(()) => {
                let swept = Swept(Arc::clone(&self.sweeper));
                let lasts = match request.uri().path().strip_prefix(PATH) {
                    Some(BRING) => Lasts::Query,
                    _ => Lasts::Rows,
                };
                let entered = session::query_of(request.headers()).and_then(|id| self.queries.enter(id, lasts));
                (self.call)(request).await.map(|inner| {
                    Body::new(Ending {
                        inner,
                        _entered: entered,
                        _swept: swept,
                    })
                })
            }
            Err(status) => status.into_http(),
        }
    }
}

/// Makes the worker let go of tasks that have ended. It keeps them in a cache that takes notice of what was removed
/// only when it is used again, and with them the memory that their plans hold and what still runs of them.
///
/// It goes on until no task is left, since a task may be removed later than its last call ends: once the thread comes free that
/// has to see to it.
struct Sweeper {
    worker: Worker,
    threads: Handle,
    queries: Queries,
    is_due: AtomicBool,
}

impl Sweeper {
    fn schedule(self: &Arc<Self>) {
        if self.is_due.swap(true, Ordering::Relaxed) {
            return;
        }
        let this = Arc::clone(self);
        self.threads.spawn(async move {
            loop {
                tokio::time::sleep(SWEEP_DELAY).await;
                this.is_due.store(false, Ordering::Relaxed);
                this.sweep().await;
                let is_another_begun = || this.is_due.swap(true, Ordering::Relaxed);
                if this.queries.tasks() == 0 || is_another_begun() {
                    return;
                }
            }
        });
    }

    /// Uses the cache: a task that nobody has is begun, and refused.
    async fn sweep(&self) {
        let Ok(nowhere) = Url::parse("http://localhost/") else {
            return;
        };
        let nothing = SetPlanRequest {
            task_key: TaskKey {
                query_id: Uuid::nil(),
                stage_id: 0,
                task_number: 0,
            },
            task_count: 1,
            plan: MaybeEncoded::Encoded(Vec::new()),
            work_unit_feed_declarations: Vec::new(),
            target_worker_url: nowhere,
            query_start_time_ns: 0,
        };
        let headers = HeaderMap::from_iter([(session::SWEEP, HeaderValue::from_static("1"))]);
        let refused = self
            .worker
            .coordinator_channel(headers, nothing, stream::empty().boxed());
        drop(refused.await);
    }
}

/// Has the tasks swept when it goes.
struct Swept(Arc<Sweeper>);

impl Drop for Swept {
    fn drop(&mut self) {
        self.0.schedule();
    }
}

/// An answer, at whose end there may be a task to let go of.
struct Ending {
    inner: Body,
    _entered: Option<Entered>,
    _swept: Swept,
}

impl HttpBody for Ending {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        Pin::new(&mut self.inner).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }
}

fn died() -> Response<Body> {
    Status::internal("a task panicked").into_http()
}

impl fmt::Debug for WorkerDoor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WorkerDoor")
            .field("pass", &self.pass)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use datafusion_distributed::Worker;
    use tonic::Code;

    use super::*;

    fn pass(key: &str) -> Pass {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        writeln!(file, "{key}").unwrap();
        let reference = format!("file:{}", file.path().display()).parse().unwrap();
        Pass::of(Some(&reference)).unwrap()
    }

    async fn code(door: &WorkerDoor, shown: Option<&Pass>) -> Option<Code> {
        let mut metadata = MetadataMap::new();
        shown.iter().for_each(|pass| pass.show(&mut metadata));
        let mut request = Request::new(Body::empty());
        *request.uri_mut() = format!("{PATH}GetWorkerInfo").parse().unwrap();
        *request.method_mut() = http::Method::POST;
        *request.headers_mut() = metadata.into_headers();
        let answered = door.answer(request).await;
        Status::from_header_map(answered.headers()).map(|status| status.code())
    }

    #[tokio::test]
    async fn who_does_not_show_the_clusters_pass_runs_nothing() {
        let ours = pass("0123456789abcdef");
        let door = WorkerDoor::new(Worker::default(), ours.clone(), Handle::current(), Queries::default());
        assert_eq!(code(&door, None).await, Some(Code::PermissionDenied));
        assert_eq!(
            code(&door, Some(&pass("another 16 bytes"))).await,
            Some(Code::PermissionDenied)
        );
        // The call itself is refused by what answers it, since it has no message.
        assert_ne!(code(&door, Some(&ours)).await, Some(Code::PermissionDenied));
    }
}
