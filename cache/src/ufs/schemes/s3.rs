//! `s3://bucket`: Amazon S3 and every server that speaks its protocol.
//!
//! An option goes before the environment's variable. Keys are one set: where any of the three is an option, none is
//! taken from the environment, since an id of the one and a secret of the other only make refused signatures.

use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use url::Url;

use super::super::credentials::{Bounded, lookup_retry};
use super::super::error::UfsError;
use super::super::options::Options;
use super::super::remote::Remote;
use super::super::spec::{StoreSpec, UfsLimits};
use super::{anonymous, check_endpoint, client, one, retry};

const KEYS: [&str; 3] = ["access_key_id", "secret_access_key", "session_token"];

const NO_CREDENTIALS: &str = "there are no credentials: none are given as options (access_key_id, secret_access_key) or \
    in the environment (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY), and this machine has no role that grants any; for \
    a public bucket set anonymous=true";

/// Where the environment tells how to fetch credentials.
const PROVIDERS: [(&str, AmazonS3ConfigKey); 6] = [
    ("AWS_WEB_IDENTITY_TOKEN_FILE", AmazonS3ConfigKey::WebIdentityTokenFile),
    ("AWS_ROLE_ARN", AmazonS3ConfigKey::RoleArn),
    ("AWS_ROLE_SESSION_NAME", AmazonS3ConfigKey::RoleSessionName),
    (
        "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
        AmazonS3ConfigKey::ContainerCredentialsRelativeUri,
    ),
    (
        "AWS_CONTAINER_CREDENTIALS_FULL_URI",
        AmazonS3ConfigKey::ContainerCredentialsFullUri,
    ),
    (
        "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
        AmazonS3ConfigKey::ContainerAuthorizationTokenFile,
    ),
];

/// Opens a bucket.
pub(super) fn connect(spec: &StoreSpec, options: &Options<'_>, limits: &UfsLimits) -> Result<Remote, UfsError> {
    let allow_http = options.flag_or_env("allow_http", &["AWS_ALLOW_HTTP"])?.unwrap_or(false);
    let mut builder = AmazonS3Builder::new()
        .with_bucket_name(&spec.authority)
        .with_client_options(client(limits, allow_http))
        .with_retry(retry(limits));
    if let Some(region) = options.text_or_env("region", &["AWS_REGION", "AWS_DEFAULT_REGION"]) {
        builder = builder.with_region(region);
    }
    builder = with_endpoint(builder, spec, options, allow_http)?;
    if anonymous(options, &KEYS)? {
        builder = builder.with_skip_signature(true);
        return builder.build().map(one).map_err(|e| options.rejected(&e));
    }
    with_credentials(builder, options)?
        .build()
        .map(one)
        .map_err(|e| options.rejected(&e))
}

fn with_endpoint(
    builder: AmazonS3Builder,
    spec: &StoreSpec,
    options: &Options<'_>,
    allow_http: bool,
) -> Result<AmazonS3Builder, UfsError> {
    let endpoint = options.text_or_env("endpoint", &["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"]);
    check_endpoint(options, endpoint.as_deref(), allow_http)?;
    let path_style = options.flag("path_style")?.unwrap_or(endpoint.is_some());
    let builder = builder.with_virtual_hosted_style_request(!path_style);
    Ok(match endpoint {
        None => builder,
        Some(endpoint) if path_style => builder.with_endpoint(endpoint),
        Some(endpoint) => builder.with_endpoint(virtual_host(options, &endpoint, &spec.authority)?),
    })
}

/// The endpoint with the bucket before its host, which is what the client expects for virtual hosts.
fn virtual_host(options: &Options<'_>, endpoint: &str, bucket: &str) -> Result<String, UfsError> {
    let refuse = || options.invalid("endpoint", "cannot take the bucket as a host name; set path_style=true");
    let mut url = Url::parse(endpoint).map_err(|_| refuse())?;
    let host = match url.host() {
        Some(url::Host::Domain(domain)) => format!("{bucket}.{domain}"),
        _ => return Err(refuse()),
    };
    url.set_host(Some(&host)).map_err(|_| refuse())?;
    Ok(url.as_str().trim_end_matches('/').to_owned())
}

fn with_credentials(mut builder: AmazonS3Builder, options: &Options<'_>) -> Result<AmazonS3Builder, UfsError> {
    let (id, secret, token) = static_keys(options)?;
    if let (Some(id), Some(secret)) = (&id, &secret) {
        builder = builder.with_access_key_id(id).with_secret_access_key(secret);
        return Ok(match token {
            Some(token) => builder.with_token(token),
            None => builder,
        });
    }
    if id.is_some() {
        return Err(options.invalid("secret_access_key", "is missing: there is an access key id without it"));
    }
    if secret.is_some() {
        return Err(options.invalid("access_key_id", "is missing: there is a secret access key without it"));
    }
    if options.any(&KEYS) {
        return Err(options.invalid("access_key_id", "is missing: there is a session token without it"));
    }
    for (name, key) in PROVIDERS {
        if let Some(value) = options.env(&[name]) {
            builder = builder.with_config(key, value);
        }
    }
    let donor = builder
        .clone()
        .with_retry(lookup_retry())
        .build()
        .map_err(|e| options.rejected(&e))?;
    Ok(builder.with_credentials(Bounded::new(donor.credentials().clone(), NO_CREDENTIALS)))
}

type Keys = (Option<String>, Option<String>, Option<String>);

fn static_keys(options: &Options<'_>) -> Result<Keys, UfsError> {
    if options.any(&KEYS) {
        let id = options.text("access_key_id").map(str::to_owned);
        return Ok((
            id,
            options.secret("secret_access_key")?,
            options.secret("session_token")?,
        ));
    }
    let env = |name| options.env(&[name]);
    Ok((
        env("AWS_ACCESS_KEY_ID"),
        env("AWS_SECRET_ACCESS_KEY"),
        env("AWS_SESSION_TOKEN"),
    ))
}
