//! Settings as they are written: one value a key, merged from all layers, neither checked nor resolved.
//!
//! The field names are the keys of the file, and what each means and defaults to is told at [`super::Settings`].

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use bytesize::ByteSize;
use figment::value::Value;
use jetbridge_cache::ReadLimits;
use jetbridge_cache::page::PageConfig;
use serde::de::{Deserializer, Error as _};
use serde::{Deserialize, Serialize};

use super::value::{self, Scalar};
use super::{LogFormat, Machine};
use crate::sql::distributed::MIN_SPREAD_BYTES;

/// The smallest byte budget with which one row group of usual size can be decoded.
pub(crate) const MIN_MEMORY_BYTES: u64 = 64 << 20;
/// The byte budget when the size of the machine's memory cannot be found out.
const FALLBACK_MEMORY_BYTES: u64 = 1 << 30;
/// The part of the machine's memory that the byte budget takes: one in this many.
const MEMORY_SHARE: u64 = 3;

/// What the merged layers say.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Written {
    pub(super) data_dir: PathBuf,
    pub(super) flight: String,
    pub(super) admin: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) advertise: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) coordinator: Option<String>,
    pub(super) meta: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) cluster_key: Option<String>,
    #[serde(default, with = "value::optional_bytes", skip_serializing_if = "Option::is_none")]
    pub(super) weight: Option<ByteSize>,
    #[serde(with = "value::duration")]
    pub(super) member_grace: Duration,
    #[serde(with = "value::duration")]
    pub(super) job_history: Duration,
    pub(super) insecure: bool,
    pub(super) local_sockets: bool,
    pub(super) mounts: BTreeMap<String, WrittenMount>,
    pub(super) file_roots: Vec<PathBuf>,
    #[serde(with = "value::bytes")]
    pub(super) memory: ByteSize,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) cache_dirs: Option<Vec<String>>,
    #[serde(with = "value::bytes")]
    pub(super) page_bytes: ByteSize,
    #[serde(with = "value::bytes")]
    pub(super) fetch_bytes: ByteSize,
    #[serde(with = "value::bytes")]
    pub(super) fetch_gap_bytes: ByteSize,
    #[serde(with = "value::bytes")]
    pub(super) max_footer_bytes: ByteSize,
    #[serde(with = "value::bytes")]
    pub(super) max_page_bytes: ByteSize,
    pub(super) max_columns: u64,
    pub(super) max_row_groups: u64,
    pub(super) max_schema_depth: u64,
    #[serde(with = "value::duration")]
    pub(super) ticket_ttl: Duration,
    #[serde(with = "value::bytes")]
    pub(super) endpoint_bytes: ByteSize,
    pub(super) max_streams: usize,
    #[serde(with = "value::duration")]
    pub(super) stall_timeout: Duration,
    pub(super) serve_threads: usize,
    pub(super) decode_threads: usize,
    #[serde(default, with = "value::optional_bytes", skip_serializing_if = "Option::is_none")]
    pub(super) sql_memory: Option<ByteSize>,
    #[serde(default, with = "value::optional_bytes", skip_serializing_if = "Option::is_none")]
    pub(super) sql_query_memory: Option<ByteSize>,
    pub(super) sql_queries: usize,
    pub(super) sql_queue: usize,
    #[serde(with = "value::duration")]
    pub(super) sql_timeout: Duration,
    #[serde(with = "value::bytes")]
    pub(super) sql_spread_bytes: ByteSize,
    pub(super) store_concurrency: usize,
    #[serde(with = "value::duration")]
    pub(super) store_request_timeout: Duration,
    #[serde(with = "value::duration")]
    pub(super) store_connect_timeout: Duration,
    #[serde(with = "value::duration")]
    pub(super) store_retry_timeout: Duration,
    pub(super) log: String,
    pub(super) log_format: LogFormat,
    #[serde(with = "value::duration")]
    pub(super) shutdown_grace: Duration,
}

impl Written {
    /// What holds on `machine` when nothing is written.
    pub(super) fn defaults(machine: &Machine) -> Self {
        let (page, limits) = (PageConfig::default(), ReadLimits::default());
        Self {
            data_dir: default_data_dir(),
            flight: "127.0.0.1:8815".to_owned(),
            admin: "127.0.0.1:8816".to_owned(),
            advertise: None,
            coordinator: None,
            meta: "embedded".to_owned(),
            cluster_key: None,
            weight: None,
            member_grace: Duration::from_secs(300),
            job_history: Duration::from_secs(24 * 3600),
            insecure: false,
            local_sockets: true,
            mounts: BTreeMap::new(),
            file_roots: Vec::new(),
            memory: ByteSize(default_memory_bytes(machine)),
            cache_dirs: None,
            page_bytes: ByteSize(page.page_size_bytes),
            fetch_bytes: ByteSize(page.max_run_bytes),
            fetch_gap_bytes: ByteSize(page.max_gap_bytes),
            max_footer_bytes: ByteSize(limits.footer_bytes),
            max_page_bytes: ByteSize(limits.page_bytes),
            max_columns: limits.leaf_columns,
            max_row_groups: limits.row_groups,
            max_schema_depth: limits.schema_depth,
            ticket_ttl: Duration::from_secs(600),
            endpoint_bytes: ByteSize::mib(256),
            max_streams: 4096,
            stall_timeout: Duration::from_secs(300),
            serve_threads: machine.cores,
            decode_threads: machine.cores,
            sql_memory: None,
            sql_query_memory: None,
            sql_queries: 16,
            sql_queue: 64,
            sql_timeout: Duration::from_secs(600),
            sql_spread_bytes: ByteSize::b(MIN_SPREAD_BYTES),
            store_concurrency: 64,
            store_request_timeout: Duration::from_secs(10),
            store_connect_timeout: Duration::from_secs(3),
            store_retry_timeout: Duration::from_secs(30),
            log: "info".to_owned(),
            log_format: LogFormat::Text,
            shutdown_grace: Duration::from_secs(30),
        }
    }
}

/// A mount as it stands in the file: the URI alone, or a table.
#[derive(Clone, Eq, PartialEq, Serialize)]
pub(super) struct WrittenMount {
    pub(super) uri: String,
    pub(super) options: BTreeMap<String, String>,
    pub(super) read_only: bool,
}

impl fmt::Debug for WrittenMount {
    /// Names the options but shows no value: one may be a secret that does not belong there.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let options: Vec<_> = self.options.keys().collect();
        f.debug_struct("WrittenMount")
            .field("uri", &self.uri)
            .field("options", &options)
            .field("read_only", &self.read_only)
            .finish()
    }
}

impl<'de> Deserialize<'de> for WrittenMount {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let table = match <Value as Deserialize>::deserialize(deserializer)? {
            Value::String(_, uri) => {
                return Ok(Self {
                    uri,
                    options: BTreeMap::new(),
                    read_only: false,
                });
            }
            table => table
                .deserialize::<MountTable>()
                .map_err(|error| D::Error::custom(error.kind))?,
        };
        let options = table
            .options
            .into_iter()
            .map(|(key, value)| (key, value.into()))
            .collect();
        Ok(Self {
            uri: table.uri,
            options,
            read_only: table.read_only,
        })
    }
}

/// A mount's table in TOML or JSON.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct MountTable {
    uri: String,
    #[serde(default)]
    options: BTreeMap<String, Scalar>,
    #[serde(default)]
    read_only: bool,
}

/// Whole mebibytes, so that the number can be read.
fn default_memory_bytes(machine: &Machine) -> u64 {
    const MEBIBYTE: u64 = 1 << 20;
    let share = |total: u64| (total / MEMORY_SHARE / MEBIBYTE * MEBIBYTE).max(MIN_MEMORY_BYTES);
    machine.memory_bytes.map_or(FALLBACK_MEMORY_BYTES, share)
}

fn default_data_dir() -> PathBuf {
    let from = |variable: &str| {
        std::env::var_os(variable)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    };
    from("XDG_DATA_HOME")
        .or_else(|| from("HOME").map(|home| home.join(".local/share")))
        .unwrap_or_else(|| PathBuf::from("/var/lib"))
        .join("jetbridge")
}

#[cfg(test)]
mod tests {
    use super::super::keys;
    use super::*;

    #[test]
    fn every_field_is_a_listed_key_and_the_reverse() {
        let machine = Machine {
            memory_bytes: None,
            cores: 1,
        };
        let written = Written {
            advertise: Some("h:1".to_owned()),
            coordinator: Some("grpc://h:1".to_owned()),
            cluster_key: Some("env:KEY".to_owned()),
            weight: Some(ByteSize::gib(1)),
            sql_memory: Some(ByteSize::gib(1)),
            sql_query_memory: Some(ByteSize::gib(1)),
            cache_dirs: Some(Vec::new()),
            ..Written::defaults(&machine)
        };
        let json = serde_json::to_value(written).unwrap();
        let mut fields: Vec<_> = json.as_object().unwrap().keys().map(String::as_str).collect();
        let mut listed: Vec<_> = keys::names().collect();
        fields.sort_unstable();
        listed.sort_unstable();
        assert_eq!(fields, listed);
    }

    #[test]
    fn the_default_budget_is_a_third_of_what_there_is() {
        let budget = |memory_bytes| default_memory_bytes(&Machine { memory_bytes, cores: 1 });
        assert_eq!(budget(Some(3 << 30)), 1 << 30);
        assert_eq!(budget(Some((3 << 30) + 1_000_000)), 1 << 30);
        assert_eq!(budget(Some(1 << 20)), MIN_MEMORY_BYTES);
        assert_eq!(budget(None), FALLBACK_MEMORY_BYTES);
    }
}
