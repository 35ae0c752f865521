//! Simulations of placement and membership at the size of large clusters, in virtual time.
//!
//! `SIM_SEED` (default 1) draws other runs; each test prints the seed and what it measured (`--nocapture`).

#![expect(clippy::unwrap_used, reason = "a simulation that cannot go on has failed")]

mod cluster;
mod figures;
mod random;
mod scenarios;
