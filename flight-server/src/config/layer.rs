//! One layer of settings as a figment provider, and the readers that make the four of them.
//!
//! A layer carries only its name; which variable, flag or file a value came from follows from that and from the key.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::path::Path;

use figment::providers::{Format, Toml};
use figment::value::{Dict, Map, Value};
use figment::{Metadata, Profile, Provider};
use jetbridge_catalog::path::NsPath;

use super::ConfigError;
use super::flags::ConfigFlags;
use super::keys::{self, Kind};
use super::show::describe;
use super::value::split_mount;
use super::written::Written;
use crate::pairs::Pairs;

/// The names of the layers, weakest first.
pub(super) const DEFAULT: &str = "default";
pub(super) const FILE: &str = "file";
pub(super) const ENVIRONMENT: &str = "environment";
pub(super) const FLAG: &str = "flag";

/// The setting whose entries are merged one by one.
const MOUNTS: &str = "mounts";

/// The prefix of every variable that is a setting.
const PREFIX: &str = "JETBRIDGE_";

/// Variables with our prefix that are read elsewhere: the file's own name, what clients read, and the Makefile's.
const NOT_SETTINGS: &[&str] = &["BIN", "CONFIG", "PROGRESS", "URI"];

/// Prefixes of variables that others set: Kubernetes gives every pod `JETBRIDGE_SERVICE_HOST`, `JETBRIDGE_PORT_…` and
/// the like when a service is called jetbridge; `JETBRIDGE_TEST_…` belongs to test harnesses.
const FOREIGN_PREFIXES: &[&str] = &["SERVICE_HOST", "SERVICE_PORT", "PORT", "TEST_"];

/// Values of one layer.
pub(super) struct Layer {
    name: &'static str,
    values: Dict,
}

impl Layer {
    /// What holds when nothing is written.
    pub(super) fn defaults(written: &Written) -> Self {
        Self {
            name: DEFAULT,
            values: dict_of(written),
        }
    }

    /// The TOML file at `path`.
    pub(super) fn file(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|source| ConfigError::ReadFile {
            path: path.to_owned(),
            source,
        })?;
        let values: Dict = Toml::from_str(&text).map_err(|error| ConfigError::Syntax {
            path: path.to_owned(),
            reason: syntax_reason(&text, error.span().map(|span| span.start), error.message()),
        })?;
        if let Some(key) = values.keys().find(|key| keys::find(key).is_none()) {
            return Err(unknown(key, describe(FILE, key, Some(path)), key));
        }
        Ok(Self { name: FILE, values })
    }

    /// The variables that begin with `JETBRIDGE_`.
    pub(super) fn environment(variables: impl IntoIterator<Item = (OsString, OsString)>) -> Result<Self, ConfigError> {
        let mut values = Dict::new();
        for (name, value) in variables {
            let Some(setting) = name.to_str().and_then(|name| name.strip_prefix(PREFIX)) else {
                continue;
            };
            if NOT_SETTINGS.contains(&setting) || FOREIGN_PREFIXES.iter().any(|prefix| setting.starts_with(prefix)) {
                continue;
            }
            let key = setting.to_ascii_lowercase();
            let Some(known) = keys::find(&key) else {
                return Err(unknown(&format!("{PREFIX}{setting}"), ENVIRONMENT.to_owned(), &key));
            };
            let value = variable_value(known.kind, &value).map_err(|reason| ConfigError::BadValue {
                origin: describe(ENVIRONMENT, &key, None),
                key: key.clone(),
                reason,
            })?;
            values.insert(key, value);
        }
        Ok(Self {
            name: ENVIRONMENT,
            values,
        })
    }

    /// The command line.
    pub(super) fn flags(flags: &ConfigFlags) -> Result<Self, ConfigError> {
        let mut values = dict_of(flags);
        if !flags.mounts.is_empty() {
            let mounts = distinct(flags.mounts.iter().cloned()).map_err(|reason| ConfigError::BadValue {
                origin: describe(FLAG, MOUNTS, None),
                key: MOUNTS.to_owned(),
                reason,
            })?;
            values.insert(MOUNTS.to_owned(), Value::from(mounts));
        }
        Ok(Self { name: FLAG, values })
    }
}

/// Leaves out of each layer the mounts that a stronger one has: figment would merge the two, down to their options. `layers`
/// are the weakest first.
pub(super) fn replace_mounts(layers: &mut [Layer]) {
    let mut taken = BTreeSet::new();
    for layer in layers.iter_mut().rev() {
        let Some(Value::Dict(_, mounts)) = layer.values.get_mut(MOUNTS) else {
            continue;
        };
        let own: Vec<String> = mounts.keys().map(|path| place(path)).collect();
        mounts.retain(|path, _| !taken.contains(&place(path)));
        taken.extend(own);
    }
}

impl Provider for Layer {
    fn metadata(&self) -> Metadata {
        Metadata::named(self.name)
    }

    fn data(&self) -> Result<Map<Profile, Dict>, figment::Error> {
        Ok(Profile::Default.collect(self.values.clone()))
    }
}

/// The fields of a struct of ours as a dictionary. It is empty only if the struct serialises to no map, which neither
/// caller's does.
fn dict_of(fields: &impl serde::Serialize) -> Dict {
    Value::serialize(fields)
        .ok()
        .and_then(Value::into_dict)
        .unwrap_or_default()
}

fn unknown(shown: &str, origin: String, key: &str) -> ConfigError {
    ConfigError::UnknownKey {
        key: shown.to_owned(),
        origin,
        nearest: keys::nearest(key).map(str::to_owned),
    }
}

/// One line for a TOML error, where the library's own text draws several.
fn syntax_reason(text: &str, offset: Option<usize>, message: &str) -> String {
    let line = offset
        .and_then(|offset| text.get(..offset))
        .map(|before| before.matches('\n').count() + 1);
    let message = message.replace('\n', ", ");
    line.map_or_else(
        || format!("not TOML: {message}"),
        |line| format!("not TOML at line {line}: {message}"),
    )
}

fn variable_value(kind: Kind, text: &OsStr) -> Result<Value, String> {
    let text = text.to_str().ok_or_else(|| "not valid UTF-8".to_owned())?;
    match kind {
        Kind::Text | Kind::Bytes => Ok(Value::from(text)),
        Kind::Number => text
            .trim()
            .parse::<u64>()
            .map(Value::from)
            .map_err(|_| format!("{text:?} is not a whole number")),
        Kind::Switch => match text.trim().to_ascii_lowercase().as_str() {
            "1" | "true" | "yes" | "on" => Ok(Value::from(true)),
            "0" | "false" | "no" | "off" | "" => Ok(Value::from(false)),
            _ => Err(format!("{text:?} is neither true nor false")),
        },
        Kind::Paths => Ok(Value::from(
            text.split(':').filter(|part| !part.is_empty()).collect::<Vec<_>>(),
        )),
        Kind::Mounts => variable_mounts(text),
    }
}

/// Mounts in a variable: a JSON object, or `PATH=URI` separated by commas.
fn variable_mounts(text: &str) -> Result<Value, String> {
    if text.trim_start().starts_with('{') {
        let Pairs(mounts) =
            serde_json::from_str::<Pairs<Value>>(text).map_err(|error| format!("not a JSON object: {error}"))?;
        return distinct(mounts).map(Value::from);
    }
    let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
    let mounts = parts.map(split_mount).collect::<Result<Vec<_>, _>>()?;
    distinct(mounts).map(Value::from)
}

/// Mounts by their paths, each of which may be there once: which of two was meant is not ours to say.
fn distinct<V: Into<Value>>(mounts: impl IntoIterator<Item = (String, V)>) -> Result<Dict, String> {
    let (mut found, mut places) = (Dict::new(), BTreeSet::new());
    for (path, mount) in mounts {
        if !places.insert(place(&path)) {
            return Err(format!("{path} is given twice"));
        }
        found.insert(path, mount.into());
    }
    Ok(found)
}

/// The path in the form in which it is looked up; what is no path as it stands, for the error that will name it.
fn place(path: &str) -> String {
    NsPath::parse(path).map_or_else(|_| path.to_owned(), |path| path.to_string())
}
