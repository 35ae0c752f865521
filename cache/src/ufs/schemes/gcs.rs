//! `gs://bucket`: Google Cloud Storage. Without options, application default credentials as Google's tools find them.

use object_store::gcp::GoogleCloudStorageBuilder;

use super::super::credentials::{Bounded, lookup_retry};
use super::super::error::UfsError;
use super::super::options::Options;
use super::super::remote::Remote;
use super::super::spec::{StoreSpec, UfsLimits};
use super::{anonymous, check_endpoint, client, one, retry};

const KEYS: [&str; 2] = ["service_account", "service_account_key"];

const NO_CREDENTIALS: &str = "there are no credentials that work: give service_account_key=env:NAME (or file:PATH) or \
    service_account=PATH as an option, or GOOGLE_APPLICATION_CREDENTIALS in the environment; for a public bucket set \
    anonymous=true";

/// Opens a bucket.
pub(super) fn connect(spec: &StoreSpec, options: &Options<'_>, limits: &UfsLimits) -> Result<Remote, UfsError> {
    let allow_http = options.flag("allow_http")?.unwrap_or(false);
    let endpoint = options.text("endpoint");
    check_endpoint(options, endpoint, allow_http)?;
    let mut builder = if options.any(&KEYS) {
        GoogleCloudStorageBuilder::new()
    } else {
        GoogleCloudStorageBuilder::from_env()
    };
    builder = builder
        .with_bucket_name(&spec.authority)
        .with_client_options(client(limits, allow_http))
        .with_retry(retry(limits));
    if let Some(endpoint) = endpoint {
        builder = builder.with_config(object_store::gcp::GoogleConfigKey::BaseUrl, endpoint);
    }
    if anonymous(options, &KEYS)? {
        builder = builder.with_skip_signature(true);
    } else {
        builder = with_credentials(builder, options)?;
    }
    builder.build().map(one).map_err(|e| options.rejected(&e))
}

fn with_credentials(
    mut builder: GoogleCloudStorageBuilder,
    options: &Options<'_>,
) -> Result<GoogleCloudStorageBuilder, UfsError> {
    if let Some(path) = options.text("service_account") {
        builder = builder.with_service_account_path(path);
    }
    if let Some(key) = options.secret("service_account_key")? {
        builder = builder.with_service_account_key(key);
    }
    let donor = builder
        .clone()
        .with_retry(lookup_retry())
        .build()
        .map_err(|e| options.rejected(&e))?;
    Ok(builder.with_credentials(Bounded::new(donor.credentials().clone(), NO_CREDENTIALS)))
}
