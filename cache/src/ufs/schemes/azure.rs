//! `az://container`: Azure Blob Storage. Without options, the `AZURE_…` variables that Azure's tools read.

use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};

use super::super::credentials::{Bounded, lookup_retry};
use super::super::error::UfsError;
use super::super::options::Options;
use super::super::remote::Remote;
use super::super::spec::{StoreSpec, UfsLimits};
use super::{anonymous, check_endpoint, client, one, retry};

/// Options that hold a secret, and what the client calls them.
const SECRETS: [(&str, AzureConfigKey); 4] = [
    ("access_key", AzureConfigKey::AccessKey),
    ("sas_token", AzureConfigKey::SasKey),
    ("bearer_token", AzureConfigKey::Token),
    ("client_secret", AzureConfigKey::ClientSecret),
];

/// Options in clear, and what the client calls them.
const TEXTS: [(&str, AzureConfigKey); 5] = [
    ("account_name", AzureConfigKey::AccountName),
    ("client_id", AzureConfigKey::ClientId),
    ("tenant_id", AzureConfigKey::AuthorityId),
    ("federated_token_file", AzureConfigKey::FederatedTokenFile),
    ("endpoint", AzureConfigKey::Endpoint),
];

const KEYS: [&str; 6] = [
    "access_key",
    "sas_token",
    "bearer_token",
    "client_id",
    "client_secret",
    "federated_token_file",
];

const NO_CREDENTIALS: &str = "there are no credentials that work: give access_key, sas_token or bearer_token as env:NAME \
    or file:PATH (or client_id, tenant_id and client_secret), or the AZURE_STORAGE_… variables in the environment; for \
    a public container set anonymous=true";

/// Opens a container.
pub(super) fn connect(spec: &StoreSpec, options: &Options<'_>, limits: &UfsLimits) -> Result<Remote, UfsError> {
    let allow_http = options.flag("allow_http")?.unwrap_or(false);
    check_endpoint(options, options.text("endpoint"), allow_http)?;
    let emulator = options.flag("use_emulator")?.unwrap_or(false);
    let anonymous = anonymous(options, &KEYS)?;
    let mut builder = builder(options)?
        .with_container_name(&spec.authority)
        .with_client_options(client(limits, allow_http || emulator))
        .with_retry(retry(limits))
        .with_use_emulator(emulator)
        .with_skip_signature(anonymous);
    if !anonymous && !emulator {
        let donor = builder
            .clone()
            .with_retry(lookup_retry())
            .build()
            .map_err(|e| options.rejected(&e))?;
        builder = builder.with_credentials(Bounded::new(donor.credentials().clone(), NO_CREDENTIALS));
    }
    builder.build().map(one).map_err(|e| options.rejected(&e))
}

fn builder(options: &Options<'_>) -> Result<MicrosoftAzureBuilder, UfsError> {
    let mut builder = if options.any(&KEYS) {
        MicrosoftAzureBuilder::new()
    } else {
        MicrosoftAzureBuilder::from_env()
    };
    for (name, key) in TEXTS {
        if let Some(value) = options.text(name) {
            builder = builder.with_config(key, value);
        }
    }
    for (name, key) in SECRETS {
        if let Some(value) = options.secret(name)? {
            builder = builder.with_config(key, value);
        }
    }
    Ok(builder)
}
