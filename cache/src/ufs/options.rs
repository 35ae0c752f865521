//! Mount options: which there are, and how their texts are read.
//!
//! An option that a scheme does not have is refused and named, with those that it has: a misspelt `anonymus` must not
//! end in a search for credentials. A secret's value must be a reference; what it resolves to stays in here and in the
//! store's client, and is cut out of any message that a client library makes of it.

use std::collections::BTreeMap;
use std::time::Duration;

use parking_lot::Mutex;

use super::error::{Operation, Subject, UfsError, UfsErrorKind};
use super::spec::{ResolveSecret, StoreSpec, UfsContext, UfsLimits};

/// The options of one mount, all of them known to its scheme.
pub(super) struct Options<'a> {
    subject: Subject,
    values: &'a BTreeMap<String, String>,
    resolve: ResolveSecret,
    environment: &'a dyn Fn(&str) -> Option<String>,
    resolved: Mutex<Vec<String>>,
}

/// Options that every scheme has: `concurrency` (requests at once) and `timeout` (one request, as `10s`; with all its
/// retries at least twice that).
const COMMON: [&str; 2] = ["concurrency", "timeout"];

const S3: [&str; 8] = [
    "access_key_id",
    "allow_http",
    "anonymous",
    "endpoint",
    "path_style",
    "region",
    "secret_access_key",
    "session_token",
];

const GCS: [&str; 5] = [
    "allow_http",
    "anonymous",
    "endpoint",
    "service_account",
    "service_account_key",
];

const AZURE: [&str; 12] = [
    "access_key",
    "account_name",
    "allow_http",
    "anonymous",
    "bearer_token",
    "client_id",
    "client_secret",
    "endpoint",
    "federated_token_file",
    "sas_token",
    "tenant_id",
    "use_emulator",
];

const HTTP: [&str; 1] = ["bearer_token"];

impl<'a> Options<'a> {
    pub(super) fn new(
        spec: &'a StoreSpec,
        context: &UfsContext,
        environment: &'a dyn Fn(&str) -> Option<String>,
    ) -> Result<Self, UfsError> {
        let mount = spec.mount.as_str().into();
        let options = Self {
            subject: Subject {
                mount,
                object: String::new(),
                operation: Operation::Open,
            },
            values: &spec.options,
            resolve: context.resolve_secret.clone(),
            environment,
            resolved: Mutex::default(),
        };
        options.refuse_unknown(&spec.scheme)?;
        Ok(options)
    }

    /// The limits that hold for this mount.
    pub(super) fn limits(&self, defaults: &UfsLimits) -> Result<UfsLimits, UfsError> {
        let mut limits = defaults.clone();
        if let Some(text) = self.text("concurrency") {
            let parsed = text.parse().ok().filter(|n| *n > 0);
            limits.concurrency = parsed.ok_or_else(|| self.invalid("concurrency", "is not a whole number above 0"))?;
        }
        if let Some(text) = self.text("timeout") {
            let parsed = humantime::parse_duration(text).ok().filter(|t| *t > Duration::ZERO);
            limits.request_timeout = parsed.ok_or_else(|| self.invalid("timeout", "is not a time such as 10s"))?;
            // The time for all tries is not the mount's to set: without this it would cut short the one that is.
            limits.retry_timeout = limits.retry_timeout.max(limits.request_timeout.saturating_mul(2));
        }
        Ok(limits)
    }

    /// The option as it is written; `None` when it is not given.
    pub(super) fn text(&self, key: &str) -> Option<&'a str> {
        self.values.get(key).map(String::as_str)
    }

    /// The option, else the first of the environment's variables that is set and not empty.
    pub(super) fn text_or_env(&self, key: &str, names: &[&str]) -> Option<String> {
        self.text(key).map(str::to_owned).or_else(|| self.env(names))
    }

    /// The first of the environment's variables that is set and not empty.
    pub(super) fn env(&self, names: &[&str]) -> Option<String> {
        names
            .iter()
            .find_map(|name| (self.environment)(name).filter(|value| !value.is_empty()))
    }

    /// A yes or no; `None` when it is not given.
    pub(super) fn flag(&self, key: &str) -> Result<Option<bool>, UfsError> {
        self.text(key)
            .map(|text| parse_flag(text).ok_or_else(|| self.invalid(key, "is neither true nor false")))
            .transpose()
    }

    /// A yes or no from the option, else from the environment.
    pub(super) fn flag_or_env(&self, key: &str, names: &[&str]) -> Result<Option<bool>, UfsError> {
        let given = self.flag(key)?;
        Ok(given.or_else(|| self.env(names).as_deref().and_then(parse_flag)))
    }

    /// The secret that the option refers to.
    pub(super) fn secret(&self, key: &str) -> Result<Option<String>, UfsError> {
        let Some(reference) = self.text(key) else {
            return Ok(None);
        };
        if !["env:", "file:"].iter().any(|scheme| reference.starts_with(scheme)) {
            return Err(self.invalid(key, "must be a reference, env:NAME or file:PATH"));
        }
        let secret =
            (self.resolve)(reference).map_err(|reason| self.invalid(key, &format!("cannot be read: {reason}")))?;
        self.resolved.lock().push(secret.clone());
        Ok(Some(secret))
    }

    /// Whether any of these options is given.
    pub(super) fn any(&self, keys: &[&str]) -> bool {
        keys.iter().any(|key| self.values.contains_key(*key))
    }

    /// An error about one option. The reason must not hold its value.
    pub(super) fn invalid(&self, key: &str, reason: &str) -> UfsError {
        let reason = format!("option {key} {reason}");
        UfsError::new(UfsErrorKind::InvalidOption, self.subject.clone(), reason)
    }

    /// An error of a client library that did not accept the options, without the secrets that it may quote.
    pub(super) fn rejected(&self, error: &object_store::Error) -> UfsError {
        let mut reason = format!("the options do not fit together: {error}");
        for secret in self.resolved.lock().iter().filter(|secret| !secret.is_empty()) {
            reason = reason.replace(secret.as_str(), "***");
        }
        UfsError::new(UfsErrorKind::InvalidOption, self.subject.clone(), reason)
    }

    fn refuse_unknown(&self, scheme: &str) -> Result<(), UfsError> {
        let own: &[&str] = match scheme {
            "s3" => &S3,
            "gs" => &GCS,
            "az" => &AZURE,
            "http" | "https" => &HTTP,
            _ => &[],
        };
        let mut known: Vec<_> = own.iter().chain(&COMMON).copied().collect();
        known.sort_unstable();
        match self.values.keys().find(|key| !known.contains(&key.as_str())) {
            None => Ok(()),
            Some(key) => Err(self.invalid(
                key,
                &format!("is unknown for {scheme}://; there are: {}", known.join(", ")),
            )),
        }
    }
}

fn parse_flag(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "1" | "yes" | "on" => Some(true),
        "false" | "0" | "no" | "off" => Some(false),
        _ => None,
    }
}
