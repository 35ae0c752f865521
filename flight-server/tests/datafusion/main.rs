//! A server's datasets in a DataFusion session of one's own, against real processes.

#![expect(clippy::unwrap_used, clippy::panic, reason = "these are tests")]

mod cluster;
mod lake;
mod names;
#[path = "../client/process.rs"]
mod process;
mod pushed;
mod queries;
