//! The settings as flags of `serve` and `config show`.
//!
//! A flag's text is checked here, so that a bad one is wrong usage, but kept as text: the layers are merged first.

use std::path::PathBuf;

use clap::Args;
use serde::Serialize;

use super::LogFormat;
use super::value::{parse_bytes, parse_duration, split_cache_dir, split_mount};

/// Flags that set settings; each wins over its `JETBRIDGE_…` variable, which wins over the file.
#[derive(Args, Clone, Debug, Default, Serialize)]
pub struct ConfigFlags {
    /// TOML file with settings
    #[arg(long, value_name = "FILE", env = "JETBRIDGE_CONFIG", hide_env_values = true)]
    #[serde(skip)]
    pub(super) config: Option<PathBuf>,

    /// Folder for what outlives the process [default: ~/.local/share/jetbridge]
    #[arg(long, value_name = "FOLDER")]
    #[serde(skip_serializing_if = "Option::is_none")]
    data_dir: Option<PathBuf>,

    /// Address of the Flight service; port 0 takes a free one [default: 127.0.0.1:8815]
    #[arg(long, value_name = "HOST:PORT")]
    #[serde(skip_serializing_if = "Option::is_none")]
    flight: Option<String>,

    /// Address of /livez, /readyz and /metrics; port 0 takes a free one [default: 127.0.0.1:8816]
    #[arg(long, value_name = "HOST:PORT")]
    #[serde(skip_serializing_if = "Option::is_none")]
    admin: Option<String>,

    /// Flight address that clients and other nodes are told, perhaps with grpc:// or grpc+tcp:// [default: the bound one]
    #[arg(long, value_name = "HOST:PORT")]
    #[serde(skip_serializing_if = "Option::is_none")]
    advertise: Option<String>,

    /// Flight address of the coordinator, whose cluster this node joins
    #[arg(long, value_name = "URI")]
    #[serde(skip_serializing_if = "Option::is_none")]
    coordinator: Option<String>,

    /// Where the metadata store is: `embedded`, or etcd://HOST:PORT,HOST:PORT/NAME [default: embedded]
    #[arg(long, value_name = "STORE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    meta: Option<String>,

    /// The secret that the nodes of a cluster share, as env:NAME or file:PATH [default: none]
    #[arg(long, value_name = "REFERENCE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    cluster_key: Option<String>,

    /// What a worker counts for in placement, beside the others [default: its byte budget]
    #[arg(long, value_name = "SIZE", value_parser = checked_bytes)]
    #[serde(skip_serializing_if = "Option::is_none")]
    weight: Option<String>,

    /// How long this worker's place is kept once it is lost; of each worker its own value counts [default: 5m]
    #[arg(long, value_name = "DURATION", value_parser = checked_duration)]
    #[serde(skip_serializing_if = "Option::is_none")]
    member_grace: Option<String>,

    /// How long jobs that are over can still be looked at [default: 1d]
    #[arg(long, value_name = "DURATION", value_parser = checked_duration)]
    #[serde(skip_serializing_if = "Option::is_none")]
    job_history: Option<String>,

    /// Allow addresses other than loopback, though nothing is authenticated or encrypted
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    #[serde(skip_serializing_if = "Option::is_none")]
    insecure: Option<bool>,

    /// Listen on unix sockets in the data folder too, for clients of this host [default: true]
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    #[serde(skip_serializing_if = "Option::is_none")]
    local_sockets: Option<bool>,

    /// Mount a URI or a local folder at a namespace path; repeatable
    #[arg(long = "mount", value_name = "PATH=URI", value_parser = split_mount)]
    #[serde(skip)]
    pub(super) mounts: Vec<(String, String)>,

    /// Folder that file:// mounts may lie in, besides those of --mount; repeatable
    #[arg(long = "file-root", value_name = "FOLDER")]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    file_roots: Vec<PathBuf>,

    /// Byte budget of all that is held in memory [default: a third of the machine's memory]
    #[arg(long, value_name = "SIZE", value_parser = checked_bytes)]
    #[serde(skip_serializing_if = "Option::is_none")]
    memory: Option<String>,

    /// Folder on a local disk for raw pages, perhaps with how much it may hold; repeatable; `none` keeps pages in memory
    /// [default: `cache` in the data folder; each folder holds up to a quarter of its disk's free space at start]
    #[arg(long = "cache-dir", value_name = "FOLDER[=SIZE]", value_parser = checked_cache_dir)]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    cache_dirs: Vec<String>,

    /// Size of a raw page; cache folders of another size begin empty [default: 4KiB]
    #[arg(long, value_name = "SIZE", value_parser = checked_bytes)]
    #[serde(skip_serializing_if = "Option::is_none")]
    page_bytes: Option<String>,

    /// The most that one request to a store asks for [default: 16MiB]
    #[arg(long, value_name = "SIZE", value_parser = checked_bytes)]
    #[serde(skip_serializing_if = "Option::is_none")]
    fetch_bytes: Option<String>,

    /// Missing pages this close to each other are fetched together, with what lies between; by a preload 64KiB at most
    /// [default: 1MiB]
    #[arg(long, value_name = "SIZE", value_parser = checked_bytes)]
    #[serde(skip_serializing_if = "Option::is_none")]
    fetch_gap_bytes: Option<String>,

    /// Longest Parquet footer that is read [default: 64MiB]
    #[arg(long, value_name = "SIZE", value_parser = checked_bytes)]
    #[serde(skip_serializing_if = "Option::is_none")]
    max_footer_bytes: Option<String>,

    /// Largest page of a Parquet file after decompression [default: 2GiB less one byte, the format's most]
    #[arg(long, value_name = "SIZE", value_parser = checked_bytes)]
    #[serde(skip_serializing_if = "Option::is_none")]
    max_page_bytes: Option<String>,

    /// Most leaf columns of a Parquet file [default: 100000]
    #[arg(long, value_name = "N")]
    #[serde(skip_serializing_if = "Option::is_none")]
    max_columns: Option<u64>,

    /// Most row groups of a Parquet file [default: 32767]
    #[arg(long, value_name = "N")]
    #[serde(skip_serializing_if = "Option::is_none")]
    max_row_groups: Option<u64>,

    /// Deepest nesting of a Parquet schema, in groups; a list is two of them [default: 60]
    #[arg(long, value_name = "N")]
    #[serde(skip_serializing_if = "Option::is_none")]
    max_schema_depth: Option<u64>,

    /// How long a ticket is valid [default: 10m]
    #[arg(long, value_name = "DURATION", value_parser = checked_duration)]
    #[serde(skip_serializing_if = "Option::is_none")]
    ticket_ttl: Option<String>,

    /// Decoded bytes that one endpoint covers [default: 256MiB]
    #[arg(long, value_name = "SIZE", value_parser = checked_bytes)]
    #[serde(skip_serializing_if = "Option::is_none")]
    endpoint_bytes: Option<String>,

    /// Streams of rows that may be open at once, by DoGet and shared memory together; a further one is refused, and may be
    /// tried again [default: 4096]
    #[arg(long, value_name = "N")]
    #[serde(skip_serializing_if = "Option::is_none")]
    max_streams: Option<usize>,

    /// How long a client may take nothing of what is ready for it before its stream is let go of [default: 5m]
    #[arg(long, value_name = "DURATION", value_parser = checked_duration)]
    #[serde(skip_serializing_if = "Option::is_none")]
    stall_timeout: Option<String>,

    /// Threads that serve clients and ask storage; fewer where several nodes share a machine [default: the number of cores]
    #[arg(long, value_name = "N")]
    #[serde(skip_serializing_if = "Option::is_none")]
    serve_threads: Option<usize>,

    /// Threads that decode [default: the number of cores]
    #[arg(long, value_name = "N")]
    #[serde(skip_serializing_if = "Option::is_none")]
    decode_threads: Option<usize>,

    /// Bytes that all queries together may hold, within --memory [default: a quarter of --memory]
    #[arg(long, value_name = "SIZE", value_parser = checked_bytes)]
    #[serde(skip_serializing_if = "Option::is_none")]
    sql_memory: Option<String>,

    /// Bytes that one query may hold before it spills or is refused [default: half of --sql-memory]
    #[arg(long, value_name = "SIZE", value_parser = checked_bytes)]
    #[serde(skip_serializing_if = "Option::is_none")]
    sql_query_memory: Option<String>,

    /// Queries that run at once [default: 16]. A statement that is no more than a scan of one dataset is read as that scan is:
    /// --sql-queries, --sql-queue and --sql-timeout do not hold for it
    #[arg(long, value_name = "N")]
    #[serde(skip_serializing_if = "Option::is_none")]
    sql_queries: Option<usize>,

    /// Queries that may wait for their turn; a further one is refused, and may be tried again [default: 64]
    #[arg(long, value_name = "N")]
    #[serde(skip_serializing_if = "Option::is_none")]
    sql_queue: Option<usize>,

    /// How long a query may take, its wait included [default: 10m]
    #[arg(long, value_name = "DURATION", value_parser = checked_duration)]
    #[serde(skip_serializing_if = "Option::is_none")]
    sql_timeout: Option<String>,

    /// Decoded bytes from which on a query is spread over the workers of a cluster [default: 16MiB]
    #[arg(long, value_name = "SIZE", value_parser = checked_bytes)]
    #[serde(skip_serializing_if = "Option::is_none")]
    sql_spread_bytes: Option<String>,

    /// Requests in flight to one mount's store [default: 64]
    #[arg(long, value_name = "N")]
    #[serde(skip_serializing_if = "Option::is_none")]
    store_concurrency: Option<usize>,

    /// How long one request to a store may take [default: 10s]
    #[arg(long, value_name = "DURATION", value_parser = checked_duration)]
    #[serde(skip_serializing_if = "Option::is_none")]
    store_request_timeout: Option<String>,

    /// How long connecting to a store may take [default: 3s]
    #[arg(long, value_name = "DURATION", value_parser = checked_duration)]
    #[serde(skip_serializing_if = "Option::is_none")]
    store_connect_timeout: Option<String>,

    /// How long a request to a store may take with all its tries [default: 30s]
    #[arg(long, value_name = "DURATION", value_parser = checked_duration)]
    #[serde(skip_serializing_if = "Option::is_none")]
    store_retry_timeout: Option<String>,

    /// Which events are logged, for example info,jetbridge_cache=debug [default: info]
    #[arg(long, value_name = "FILTER")]
    #[serde(skip_serializing_if = "Option::is_none")]
    log: Option<String>,

    /// Form of the log lines [default: text]
    #[arg(long, value_name = "FORM")]
    #[serde(skip_serializing_if = "Option::is_none")]
    log_format: Option<LogFormat>,

    /// How long streams in flight may go on after SIGTERM [default: 30s]
    #[arg(long, value_name = "DURATION", value_parser = checked_duration)]
    #[serde(skip_serializing_if = "Option::is_none")]
    shutdown_grace: Option<String>,
}

fn checked_bytes(text: &str) -> Result<String, String> {
    parse_bytes(text).map(|_| text.to_owned())
}

fn checked_cache_dir(text: &str) -> Result<String, String> {
    split_cache_dir(text).map(|_| text.to_owned())
}

fn checked_duration(text: &str) -> Result<String, String> {
    parse_duration(text).map(|_| text.to_owned())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::super::keys;
    use super::*;

    #[derive(clap::Parser)]
    struct Command {
        #[command(flatten)]
        _flags: ConfigFlags,
    }

    #[test]
    fn every_setting_has_its_flag() {
        let command = Command::command();
        let flags: Vec<_> = command
            .get_arguments()
            .filter_map(|arg| arg.get_long())
            .map(|long| format!("--{long}"))
            .collect();
        for name in keys::names() {
            assert!(flags.contains(&keys::flag(name)), "{name} has no flag");
        }
        assert_eq!(
            flags.len(),
            keys::names().count() + 1,
            "--config is the only flag that is no setting"
        );
    }
}
