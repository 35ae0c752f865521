//! `http://host` and `https://host`: any web server. Reads need nothing special of it; listings need WebDAV.
//!
//! Many such servers give no strong ETag, so whole files come in one answer. Such an answer may take long: reads have no
//! limit in total here, only on the wait for its beginning ([`Prompt`]) and on each for the next bytes (which the read
//! loop holds). Listings keep the usual limit and try less often, since a server without WebDAV answers 501, which a
//! client takes for worth a retry.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpService, ReqwestConnector,
};
use object_store::http::{HttpBuilder, HttpStore};
use object_store::{ClientOptions, HeaderMap, HeaderValue, RetryConfig};

use super::super::error::UfsError;
use super::super::options::Options;
use super::super::remote::Remote;
use super::super::spec::{StoreSpec, UfsLimits};
use super::{client, retry};

/// Retries of a listing.
const LIST_RETRIES: usize = 2;

/// Opens a server.
pub(super) fn connect(spec: &StoreSpec, options: &Options<'_>, limits: &UfsLimits) -> Result<Remote, UfsError> {
    let mut client = client(limits, spec.scheme == "http");
    if let Some(token) = options.secret("bearer_token")? {
        client = client.with_default_headers(authorization(options, &token)?);
    }
    let build = |client: ClientOptions, retry: RetryConfig| -> Result<HttpStore, UfsError> {
        HttpBuilder::new()
            .with_url(format!("{}://{}", spec.scheme, spec.authority))
            .with_client_options(client)
            .with_http_connector(Prompt(limits.request_timeout))
            .with_retry(retry)
            .build()
            .map_err(|e| options.rejected(&e))
    };
    let read = build(client.clone().with_timeout_disabled(), retry(limits))?;
    let list = build(
        client,
        RetryConfig {
            max_retries: LIST_RETRIES,
            ..retry(limits)
        },
    )?;
    Ok(Remote::http(Arc::new(read), Arc::new(list)))
}

fn authorization(options: &Options<'_>, token: &str) -> Result<HeaderMap, UfsError> {
    let mut value = HeaderValue::from_str(&format!("Bearer {token}"))
        .map_err(|_| options.invalid("bearer_token", "holds characters that a header cannot"))?;
    value.set_sensitive(true);
    let mut headers = HeaderMap::new();
    headers.insert("authorization", value);
    Ok(headers)
}

/// Connects as usual, to servers of which each must begin its answer to one request within this time.
#[derive(Debug)]
struct Prompt(Duration);

impl HttpConnector for Prompt {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        let inner = ReqwestConnector::default().connect(options)?;
        Ok(HttpClient::new(PromptClient { inner, limit: self.0 }))
    }
}

/// A client whose every try ends in time when nothing comes. The library tries again then, as after any other timeout.
#[derive(Debug)]
struct PromptClient {
    inner: HttpClient,
    limit: Duration,
}

#[async_trait]
impl HttpService for PromptClient {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        match tokio::time::timeout(self.limit, self.inner.execute(request)).await {
            Ok(answer) => answer,
            Err(_) => Err(HttpError::new(HttpErrorKind::Timeout, NoAnswer(self.limit))),
        }
    }
}

/// What a user is told of a server that did not begin its answer.
#[derive(Debug, thiserror::Error)]
#[error("no answer within {} s", .0.as_secs_f32())]
struct NoAnswer(Duration);
