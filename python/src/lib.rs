//! `jetbridge._native`: the Rust side of the Python package.
//!
//! So far the package carries the program: the same `jetbridge` command that cargo builds, run inside the interpreter's
//! process, so that one wheel is client and server.

use std::ffi::OsString;

use pyo3::prelude::*;

/// The extension module.
#[pymodule]
mod _native {
    use super::*;

    /// Runs the `jetbridge` command with these arguments (the program's name first) and returns its exit code.
    ///
    /// The interpreter's lock is released while it runs.
    #[pyfunction]
    fn main(py: Python<'_>, args: Vec<OsString>) -> u8 {
        py.detach(|| jetbridge_flight_server::run_cli(args))
    }
}
