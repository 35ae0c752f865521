//! The admin address: `/livez`, `/readyz`, `/metrics`. Plain HTTP/1.1 for probes and Prometheus.
//!
//! Readiness is a set of named conditions that others pass or fail; answering a probe only reads them, so that a slow
//! store never makes a probe slow. States: starting (some condition has not passed yet), ready (all have), draining
//! (for good: a server that stops does not become ready again).

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;

use axum::Router;
use axum::extract::{RawQuery, State};
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use metrics_exporter_prometheus::PrometheusHandle;
use parking_lot::Mutex;

/// Prometheus' text format, version and all.
const METRICS_CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

const INDEX: &str = "jetbridge admin\n/livez\n/readyz?verbose\n/metrics\n";

/// Whether the server should be sent work. Clones are one and the same.
#[derive(Clone, Debug)]
pub struct Readiness(Arc<Mutex<Conditions>>);

#[derive(Debug)]
struct Conditions {
    passed: BTreeMap<&'static str, bool>,
    draining: bool,
}

impl Readiness {
    /// Not ready until each of the named conditions has passed.
    pub fn new(conditions: impl IntoIterator<Item = &'static str>) -> Self {
        let passed = conditions.into_iter().map(|name| (name, false)).collect();
        Self(Arc::new(Mutex::new(Conditions {
            passed,
            draining: false,
        })))
    }

    /// Says how a condition stands now; one that was not named at the start is added.
    pub fn set(&self, condition: &'static str, passed: bool) {
        self.0.lock().passed.insert(condition, passed);
    }

    /// Not ready any more, for good.
    pub fn drain(&self) {
        self.0.lock().draining = true;
    }

    /// Whether all conditions have passed and the server is not draining.
    pub fn is_ready(&self) -> bool {
        let conditions = self.0.lock();
        !conditions.draining && conditions.passed.values().all(|passed| *passed)
    }

    /// One line a condition, then the verdict, as Kubernetes' own probes print them.
    fn report(&self) -> String {
        let mut lines = String::new();
        let conditions = self.0.lock();
        let drain = conditions.draining.then_some(("not-draining", false));
        for (name, passed) in conditions
            .passed
            .iter()
            .map(|(name, passed)| (*name, *passed))
            .chain(drain)
        {
            let (sign, word) = if passed { ('+', "ok") } else { ('-', "failed") };
            // Writing to a string does not fail.
            let _ = writeln!(lines, "[{sign}] {name} {word}");
        }
        lines
    }
}

/// The routes of the admin address.
pub fn router(readiness: Readiness, metrics: PrometheusHandle) -> Router {
    Router::new()
        .route("/", get(async || INDEX))
        .route("/livez", get(async || "ok\n"))
        .route("/readyz", get(readyz).with_state(readiness))
        .route("/metrics", get(render_metrics).with_state(metrics))
}

async fn readyz(State(readiness): State<Readiness>, RawQuery(query): RawQuery) -> impl IntoResponse {
    let (code, verdict) = match readiness.is_ready() {
        true => (StatusCode::OK, "ok\n"),
        false => (StatusCode::SERVICE_UNAVAILABLE, "not ready\n"),
    };
    let verbose = query.is_some_and(|query| query.split('&').any(|part| part.split('=').next() == Some("verbose")));
    let body = if verbose {
        readiness.report() + verdict
    } else {
        verdict.to_owned()
    };
    (code, body)
}

async fn render_metrics(State(metrics): State<PrometheusHandle>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, METRICS_CONTENT_TYPE)], metrics.render())
}

#[cfg(test)]
mod tests {
    use axum::body::{Body, to_bytes};
    use axum::http::Request;
    use tower::ServiceExt;

    use super::*;

    async fn get_text(readiness: &Readiness, path: &str) -> (StatusCode, String) {
        let metrics = crate::observe::metrics_recorder().unwrap();
        let request = Request::get(path).body(Body::empty()).unwrap();
        let response = router(readiness.clone(), metrics).oneshot(request).await.unwrap();
        let code = response.status();
        let body = to_bytes(response.into_body(), 1 << 20).await.unwrap();
        (code, String::from_utf8(body.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn ready_means_every_condition_passed_and_no_drain() {
        let readiness = Readiness::new(["flight", "namespace"]);
        assert_eq!(get_text(&readiness, "/livez").await.0, StatusCode::OK);
        readiness.set("flight", true);
        let (code, body) = get_text(&readiness, "/readyz?verbose").await;
        assert_eq!(code, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(body, "[+] flight ok\n[-] namespace failed\nnot ready\n");
        readiness.set("namespace", true);
        assert_eq!(
            get_text(&readiness, "/readyz").await,
            (StatusCode::OK, "ok\n".to_owned())
        );
        readiness.drain();
        readiness.set("flight", true);
        let (code, body) = get_text(&readiness, "/readyz?verbose").await;
        assert_eq!(code, StatusCode::SERVICE_UNAVAILABLE);
        assert!(body.ends_with("[-] not-draining failed\nnot ready\n"), "{body}");
    }

    #[tokio::test]
    async fn metrics_are_prometheus_text() {
        let (code, body) = get_text(&Readiness::new([]), "/metrics").await;
        assert_eq!(code, StatusCode::OK);
        assert!(body.contains("# TYPE jetbridge_build_info gauge"), "{body}");
    }
}
