//! The process: Arrow Flight, admin HTTP, wiring, and the `jetbridge` command.
//!
//! ```text
//! cli    -> config            what was asked for
//!        -> server            sockets, start, drain
//!             -> connections  HTTP/2: accepted, bounded, cut       (listen, local: TCP, and the sockets of this host)
//!             -> memory       rows as shared memory, for clients of this host
//!             -> admin        /livez /readyz /metrics
//!             -> streams      how many streams of rows, by `flight` and `memory` together
//!             -> flight       the Flight service
//!                  -> node    namespace, storage, cache, datasets, ticket keys
//!                       -> cluster   this node among others: membership, metadata store, peers
//!                       -> dataset   path -> files, generations, schema     (request, filter: what is asked of it)
//!                       -> jobs      preload and verify: scheduler and workers
//!                       -> contents  what the cache holds of a path, and letting go of it
//!                       -> plan      scan -> row groups -> runs             (redeem, ticket: a run on its way)
//!                       -> sql       statements over datasets, by DataFusion (statements: which run, which were ended)
//!                       -> units     row groups, for readers that order them themselves
//! raw                      what clients of this process read stored row groups by
//! ```
//! Architecture invariant: this crate reads no Parquet and asks no store; the cache does. Nothing but `flight`, `cli`
//! and what asks other nodes in `cluster` and `sql::distributed` knows the protocol.

pub mod admin;
mod authority;
pub mod capacity;
mod cli;
pub mod cluster;
pub mod config;
pub mod connections;
pub mod contents;
pub mod data_folder;
pub mod dataset;
pub mod error;
pub mod filter;
pub mod flight;
mod gather;
pub mod jobs;
mod linger;
pub mod listen;
pub mod local;
pub mod memory;
pub mod node;
pub mod observe;
mod pairs;
pub mod pins;
pub mod plan;
pub mod raw;
pub mod redeem;
pub mod request;
pub mod retention;
pub mod server;
pub mod sql;
pub mod statements;
pub mod stores;
pub mod streams;
#[cfg(test)]
mod testing;
pub mod ticket;
pub mod units;

use std::ffi::OsString;

/// Runs the `jetbridge` command with these arguments, the program's name first, and returns its exit code: 0 done,
/// 1 failed, 2 wrong usage. The binary and the Python wheel are both this function.
pub fn run_cli(arguments: impl IntoIterator<Item = OsString>) -> u8 {
    cli::run(arguments, None)
}

/// As [`run_cli`], in a process whose executable is not this program: `program` is the command line that starts it, to which
/// arguments are added, such as `python -m jetbridge`. `serve --workers` starts its workers by it.
pub fn run_cli_as(arguments: impl IntoIterator<Item = OsString>, program: Option<Vec<OsString>>) -> u8 {
    cli::run(arguments, program)
}
