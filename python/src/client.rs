//! A client as Python sees it: each call is a task.

use std::sync::Arc;
use std::time::Duration;

use futures::stream::BoxStream;
use futures::{StreamExt, TryFutureExt};
use http::{HeaderMap, HeaderName, HeaderValue};
use jetbridge_client::fork::Mutex;
use jetbridge_client::{ClientOptions, Local, ReadOptions, Scan, Wire};
use pyo3::BoundObject;
use pyo3::prelude::*;
use pyo3::types::{PyCapsule, PyDict};
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use crate::datafusion;
use crate::error::Failure;
use crate::plan::Plan;
use crate::process::OfProcess;
use crate::schema::Schema;
use crate::stream::Stream;
use crate::task::Task;
use crate::unpack::UNPACK;

/// One server's address, and the connections to it of this process.
#[pyclass(frozen, module = "jetbridge._native")]
pub(crate) struct Client {
    uri: String,
    options: ClientOptions,
    /// Locked by whoever holds the interpreter's lock, and for moments: so it is free when a process forks.
    live: Mutex<Option<OfProcess<Live>>>,
    is_closed: Mutex<bool>,
}

/// What one process has of a client.
#[derive(Debug, Clone)]
pub(crate) struct Live {
    pub(crate) client: jetbridge_client::Client,
    /// Ends what is under way when the client is closed.
    pub(crate) closed: CancellationToken,
}

#[pymethods]
impl Client {
    #[new]
    #[pyo3(signature = (uri, options=None))]
    fn new(uri: String, options: Option<&Bound<'_, PyDict>>) -> PyResult<Self> {
        let options = options.map_or_else(|| Ok(defaults()), parsed)?;
        let client = Self {
            live: Mutex::new(None),
            is_closed: Mutex::new(false),
            options,
            uri,
        };
        // What is wrong with the address is said now, and not at the first call.
        client.live()?;
        Ok(client)
    }

    #[getter]
    fn uri(&self) -> &str {
        &self.uri
    }

    /// An action with a JSON body and one JSON answer.
    fn action(&self, name: String, body: &str) -> PyResult<Task> {
        let client = self.live()?.client;
        let body = json(body)?;
        let work = async move {
            let answers = client.action(&name, &body).await?;
            Ok(answers.first().unwrap_or(&Value::Null).to_string())
        };
        Task::spawn(work, |py, given| to_object(py, given))
    }

    /// An action whose answers come one after the other.
    fn watch(&self, name: String, body: &str) -> PyResult<Watch> {
        let live = self.live()?;
        let state = WatchState::Idle {
            client: live.client,
            name,
            body: json(body)?,
        };
        Ok(Watch {
            inner: OfProcess::new(Watching {
                state: Arc::new(tokio::sync::Mutex::new(state)),
                closed: live.closed.child_token(),
            }),
        })
    }

    /// The plan of a JSON scan.
    fn plan(&self, scan: &str) -> PyResult<Task> {
        let (client, scan) = (self.live()?.client, scan_of(scan)?);
        let work = async move { Ok(client.plan(&scan).await?) };
        Task::spawn(work, |py, plan| to_object(py, Plan::new(plan)))
    }

    /// The plan of a SQL query.
    fn plan_sql(&self, query: String) -> PyResult<Task> {
        let client = self.live()?.client;
        let work = async move { Ok(client.plan_sql(&query).await?) };
        Task::spawn(work, |py, plan| to_object(py, Plan::new(plan)))
    }

    /// The schema of a JSON scan.
    fn schema(&self, scan: &str) -> PyResult<Task> {
        let (client, scan) = (self.live()?.client, scan_of(scan)?);
        let work = async move { Ok(client.schema(&scan).await?) };
        Task::spawn(work, |py, schema| to_object(py, Schema::new(schema)))
    }

    /// The paths of the datasets at and below a path, or that a glob matches.
    fn datasets(&self, prefix: String) -> PyResult<Task> {
        let client = self.live()?.client;
        let listed = async move { client.list(&prefix).await };
        let work = listed
            .map_ok(|listed| listed.into_iter().map(|dataset| dataset.path).collect::<Vec<_>>())
            .map_err(Failure::from);
        Task::spawn(work, |py, given| to_object(py, given))
    }

    /// Reads a plan, or some of its endpoints in the order given. Nothing happens before the first rows are asked for.
    #[pyo3(signature = (plan, endpoints=None, ordered=true))]
    fn read(&self, plan: &Plan, endpoints: Option<Vec<usize>>, ordered: bool) -> PyResult<Stream> {
        let options = ReadOptions {
            ordered,
            endpoints,
            ..ReadOptions::default()
        };
        Ok(Stream::new(&self.live()?, plan.inner(), options))
    }

    /// A dataset as a table for DataFusion's package, whose session gave the codec: a capsule.
    fn datafusion_table(&self, path: String, codec: &Bound<'_, PyCapsule>) -> PyResult<Task> {
        datafusion::table(self.live()?, path, codec)
    }

    /// All datasets as a catalog for the same.
    fn datafusion_catalog(&self, codec: &Bound<'_, PyCapsule>) -> PyResult<Task> {
        datafusion::catalog(self.live()?, codec)
    }

    /// Ends all connections, and what is under way.
    fn close(&self) {
        *self.is_closed.lock() = true;
        let live = self.live.lock().take();
        if let Some(live) = live.as_ref().and_then(OfProcess::get) {
            live.closed.cancel();
        }
    }
}

impl Client {
    /// What this process has of it, made if there is none.
    pub(crate) fn live(&self) -> Result<Live, Failure> {
        if *self.is_closed.lock() {
            return Err(Failure::closed(&format!("the client of {} is closed", self.uri)));
        }
        let mut live = self.live.lock();
        if let Some(live) = live.as_ref().and_then(OfProcess::get) {
            return Ok(live.clone());
        }
        let made = Live {
            client: jetbridge_client::Client::new(&self.uri, self.options.clone())?,
            closed: CancellationToken::new(),
        };
        // What a parent had is forgotten, and not taken down.
        *live = Some(OfProcess::new(made.clone()));
        Ok(made)
    }
}

/// The answers of an action, one after the other.
#[pyclass(frozen, module = "jetbridge._native")]
pub(crate) struct Watch {
    inner: OfProcess<Watching>,
}

struct Watching {
    state: Arc<tokio::sync::Mutex<WatchState>>,
    closed: CancellationToken,
}

enum WatchState {
    Idle {
        client: jetbridge_client::Client,
        name: String,
        body: Value,
    },
    Open(BoxStream<'static, jetbridge_client::Result<Value>>),
    Over,
}

#[pymethods]
impl Watch {
    /// The next answer; none at the end.
    fn next(&self) -> PyResult<Task> {
        let words = "this was begun in the process that this one was forked from";
        let watching = self.inner.get().ok_or_else(|| Failure::closed(words))?;
        let (state, closed) = (Arc::clone(&watching.state), watching.closed.clone());
        let work = async move {
            tokio::select! {
                biased;
                () = closed.cancelled() => Err(Failure::closed("the watch is closed")),
                answer = async { state.lock().await.next().await } => answer,
            }
        };
        Task::spawn(work, |py, given| to_object(py, given))
    }

    /// Ends it at the server.
    fn close(&self) {
        if let Some(watching) = self.inner.get() {
            watching.closed.cancel();
            // Held only by a call of `next` that is about to end.
            if let Ok(mut state) = watching.state.try_lock() {
                *state = WatchState::Over;
            }
        }
    }
}

impl WatchState {
    async fn next(&mut self) -> Result<Option<String>, Failure> {
        if let Self::Idle { client, name, body } = self {
            let answers = client.watch(name, body).await?;
            *self = Self::Open(answers.boxed());
        }
        let Self::Open(answers) = self else {
            return Ok(None);
        };
        match answers.next().await {
            Some(Ok(answer)) => Ok(Some(answer.to_string())),
            Some(Err(error)) => {
                *self = Self::Over;
                Err(error.into())
            }
            None => {
                *self = Self::Over;
                Ok(None)
            }
        }
    }
}

/// Settings where nothing is said. All clients of the package are made of these.
fn defaults() -> ClientOptions {
    ClientOptions {
        unpack: Some(UNPACK),
        ..ClientOptions::default()
    }
}

fn parsed(given: &Bound<'_, PyDict>) -> PyResult<ClientOptions> {
    let mut options = defaults();
    for (key, value) in given.iter() {
        let key: String = key.extract()?;
        match key.as_str() {
            "timeout" => options.timeout = value.extract::<Option<f64>>()?.map(seconds).transpose()?,
            "connect_timeout" => options.connect_timeout = seconds(value.extract()?)?,
            "headers" => options.headers = headers(&value.extract::<Vec<(String, String)>>()?)?,
            "buffer_bytes" => options.budget_bytes = value.extract()?,
            "streams_per_worker" => options.streams_per_worker = value.extract()?,
            "local" => options.local = if value.extract()? { Local::Auto } else { Local::Off },
            "wire" => options.wire = wire(&value.extract::<String>()?)?,
            "retries" => options.retries = value.extract()?,
            "check_values" => options.check_values = value.extract()?,
            _ => return Err(Failure::new("INVALID_ARGUMENT", format!("there is no option {key}")).into()),
        }
    }
    Ok(options)
}

fn seconds(seconds: f64) -> Result<Duration, Failure> {
    Duration::try_from_secs_f64(seconds).map_err(|error| Failure::new("INVALID_ARGUMENT", error.to_string()))
}

fn headers(pairs: &[(String, String)]) -> Result<HeaderMap, Failure> {
    let refuse = |name: &str, error: &dyn std::fmt::Display| {
        Failure::new(
            "INVALID_ARGUMENT",
            format!("the header {name:?} cannot be sent: {error}"),
        )
    };
    let mut headers = HeaderMap::new();
    for (name, value) in pairs {
        let key = HeaderName::try_from(name).map_err(|error| refuse(name, &error))?;
        let mut value = HeaderValue::try_from(value).map_err(|error| refuse(name, &error))?;
        value.set_sensitive(true);
        headers.append(key, value);
    }
    Ok(headers)
}

fn wire(name: &str) -> Result<Wire, Failure> {
    match name {
        "auto" => Ok(Wire::Auto),
        "arrow" => Ok(Wire::Arrow),
        "lz4" => Ok(Wire::Lz4),
        "zstd" => Ok(Wire::Zstd),
        "raw" => Ok(Wire::Raw),
        _ => Err(Failure::new(
            "INVALID_ARGUMENT",
            format!("there is no wire form {name}"),
        )),
    }
}

fn json(text: &str) -> Result<Value, Failure> {
    serde_json::from_str(text).map_err(|error| Failure::new("INVALID_ARGUMENT", error.to_string()))
}

fn scan_of(text: &str) -> Result<Scan, Failure> {
    serde_json::from_str(text).map_err(|error| Failure::new("INVALID_ARGUMENT", format!("the scan: {error}")))
}

/// A value as a Python object.
pub(crate) fn to_object<'py, T: IntoPyObject<'py>>(py: Python<'py>, value: T) -> PyResult<Py<PyAny>> {
    let object = value.into_pyobject(py).map_err(Into::into)?;
    Ok(object.into_any().into_bound().unbind())
}
