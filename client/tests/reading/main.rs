//! Reads against servers that answer by a script, over wires that are cut.

#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "these are tests")]

mod calls;
#[cfg(feature = "datafusion")]
mod datafusion;
mod failover;
mod raw;
mod streams;
mod support;
