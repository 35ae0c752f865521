//! `http://host` and `https://host`: any web server. Reads need nothing special of it; listings need WebDAV.
//!
//! Many such servers give no strong ETag, so whole files come in one answer. Such an answer may take long: reads have no
//! limit in total here, only on each wait for the next bytes (which the read loop holds). Listings keep the usual
//! limit and try less often, since a server without WebDAV answers 501, which a client takes for worth a retry.

use std::sync::Arc;

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
