//! Where each value came from, as rows.

use std::path::Path;

use figment::Figment;
use serde::Serialize;
use serde_json::Value;

use super::keys::{self, KEYS, Kind};
use super::layer::{ENVIRONMENT, FILE, FLAG};
use super::value::exact_bytes;
use super::written::{Written, WrittenMount};

/// One line of `jetbridge config show`.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Row {
    /// The setting; a mount is `mounts.` and its path.
    pub key: String,
    /// The value in the form in which it can be written.
    pub value: String,
    /// The layer that gave it: `default`, `file …`, `environment …` or `flag …`.
    pub source: String,
}

/// All settings in the order of the list of keys.
pub(super) fn rows(written: &Written, figment: &Figment, file: Option<&Path>) -> Vec<Row> {
    // What is written is plain data with string keys: they always have a JSON form.
    let values = serde_json::to_value(written).unwrap_or_default();
    let mut rows = Vec::new();
    for key in KEYS {
        if key.kind == Kind::Mounts && !written.mounts.is_empty() {
            rows.extend(written.mounts.iter().map(|(path, mount)| {
                let key = format!("mounts.{path}");
                Row {
                    source: source_of(figment, &key, file),
                    value: mount_text(mount),
                    key,
                }
            }));
            continue;
        }
        let value = value_text(key.kind, values.get(key.name).unwrap_or(&Value::Null));
        rows.push(Row {
            key: key.name.to_owned(),
            value,
            source: source_of(figment, key.name, file),
        });
    }
    rows
}

/// The source of one key's value, for people.
pub(super) fn source_of(figment: &Figment, key: &str, file: Option<&Path>) -> String {
    let tag = match key.strip_prefix("mounts.") {
        // A path may hold dots, on which figment's own look-up would cut it.
        Some(path) => figment
            .find_value("mounts")
            .ok()
            .and_then(|mounts| Some(mounts.as_dict()?.get(path)?.tag())),
        None => figment.find_value(key).ok().map(|value| value.tag()),
    };
    let layer = tag
        .and_then(|tag| figment.get_metadata(tag))
        .map_or("default", |metadata| metadata.name.as_ref());
    describe(layer, key, file)
}

/// A layer's name with the file, variable or flag that set `key` in it.
pub(super) fn describe(layer: &str, key: &str, file: Option<&Path>) -> String {
    let name = key.split('.').next().unwrap_or(key);
    match (layer, file) {
        (FILE, Some(path)) => format!("file {}", path.display()),
        (ENVIRONMENT, _) => format!("environment {}", keys::variable(name)),
        (FLAG, _) => format!("flag {}", keys::flag(name)),
        _ => layer.to_owned(),
    }
}

fn value_text(kind: Kind, value: &Value) -> String {
    match (kind, value) {
        (_, Value::Null) => String::new(),
        (Kind::Bytes, value) => value.as_u64().map_or_else(|| value.to_string(), exact_bytes),
        (_, Value::String(text)) => text.clone(),
        (_, Value::Array(items)) => items.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(":"),
        (_, Value::Object(entries)) if entries.is_empty() => String::new(),
        (_, other) => other.to_string(),
    }
}

/// Secrets among the options are references: any other was refused when the settings were resolved.
fn mount_text(mount: &WrittenMount) -> String {
    let options = mount.options.iter().map(|(key, value)| format!(" {key}={value}"));
    let read_only = if mount.read_only { " (read-only)" } else { "" };
    format!("{}{}{read_only}", mount.uri, options.collect::<String>())
}
