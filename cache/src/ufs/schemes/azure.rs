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

/// Ways to sign in, each by the option that only it has. The client takes one of them and says nothing of another.
const WAYS: [&str; 5] = [
    "access_key",
    "sas_token",
    "bearer_token",
    "client_secret",
    "federated_token_file",
];

/// Those of them by which an application signs in, and what it is known by there.
const APPLICATION: [&str; 2] = ["client_secret", "federated_token_file"];
const IDENTITY: [&str; 2] = ["client_id", "tenant_id"];

/// What the client does not look at when it speaks to the emulator.
const NOT_OF_EMULATOR: [&str; 5] = [
    "endpoint",
    "client_id",
    "client_secret",
    "tenant_id",
    "federated_token_file",
];

const NO_CREDENTIALS: &str = "there are no credentials that work: give access_key, sas_token or bearer_token as env:NAME \
    or file:PATH (or client_id, tenant_id and client_secret), or the AZURE_STORAGE_… variables in the environment; for \
    a public container set anonymous=true";

/// Opens a container.
pub(super) fn connect(spec: &StoreSpec, options: &Options<'_>, limits: &UfsLimits) -> Result<Remote, UfsError> {
    let allow_http = options.flag("allow_http")?.unwrap_or(false);
    let emulator = options.flag("use_emulator")?.unwrap_or(false);
    if emulator {
        check_emulator(options)?;
    }
    check_endpoint(options, options.text("endpoint"), allow_http)?;
    let anonymous = anonymous(options, &KEYS)?;
    check_ways(options, anonymous)?;
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

/// Refuses what would be left unused beside `use_emulator`: a mount must not speak to another server than it names.
fn check_emulator(options: &Options<'_>) -> Result<(), UfsError> {
    let unused = NOT_OF_EMULATOR.into_iter().find(|key| options.text(key).is_some());
    let Some(key) = unused else { return Ok(()) };
    let reason = match key {
        "endpoint" => {
            "is set and so is use_emulator: the emulator is looked for at AZURITE_BLOB_STORAGE_URL of the environment, \
             else at http://127.0.0.1:10000"
        }
        _ => {
            "is set and so is use_emulator, which takes access_key, sas_token or bearer_token, else the emulator's own key"
        }
    };
    Err(options.invalid(key, reason))
}

/// Refuses a second way to sign in, half a way, and what belongs to none that is given.
fn check_ways(options: &Options<'_>, anonymous: bool) -> Result<(), UfsError> {
    let is_given = |key: &&str| options.text(key).is_some();
    let given: Vec<_> = WAYS.into_iter().filter(is_given).collect();
    if let [one, other, ..] = given[..] {
        let reason = format!("is set and so is {one}: a mount signs in by one of them");
        return Err(options.invalid(other, &reason));
    }
    let fault = match given.first() {
        Some(way) if APPLICATION.contains(way) => {
            let missing = IDENTITY.into_iter().find(|key| !is_given(key));
            missing.map(|key| (key, format!("is missing: there is {way} without it")))
        }
        Some(way) => {
            let unused = IDENTITY.into_iter().find(is_given);
            unused.map(|key| (key, format!("is set and so is {way}, which has no use for it")))
        }
        // Alone, a tenant is one for what the environment holds, and a client id names an identity of this machine.
        None if is_given(&"tenant_id") && (anonymous || is_given(&"client_id")) => {
            let reason = "is set without client_secret or federated_token_file, which alone have a use for it";
            Some(("tenant_id", reason.to_owned()))
        }
        None => None,
    };
    fault.map_or(Ok(()), |(key, reason)| Err(options.invalid(key, &reason)))
}
