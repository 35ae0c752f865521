//! `jetbridge._native`: the Rust side of the Python package.
//!
//! ```text
//! jetbridge/*.py -> Client, Watch, Stream     what is asked           (client, plan, stream)
//!                     -> Task                 something under way     (task)
//!                          -> runtime         one a process           (process)
//!                -> RecordBatch, Table, ...   what came               (batch, schema, capsule, dlpack, objects)
//!                -> tables, a catalog         for DataFusion's package (datafusion)
//! ```
//! Row groups that come as they are stored are decoded here, as the server decodes them (unpack).
//!
//! Every call gives a [`task::Task`], which is waited for with the interpreter's lock released, or wakes an event loop: so
//! each call is written once for both. Nothing here holds the lock while it waits, and no thread of the runtime needs it to
//! go on with a read.
//!
//! The module is the program too: the same `jetbridge` command that cargo builds, run inside the interpreter's process, so that
//! one wheel is client and server.

#![expect(
    clippy::redundant_closure,
    reason = "what makes an object of a result is generic over the interpreter's lifetime, which only a closure is"
)]

mod batch;
mod capsule;
mod client;
mod datafusion;
mod dlpack;
mod error;
mod fork;
mod objects;
mod plan;
mod process;
mod schema;
mod stream;
mod task;
mod torch;
mod unpack;

use std::ffi::OsString;

use pyo3::prelude::*;

/// The extension module.
#[pymodule]
mod _native {
    use super::*;

    #[pymodule_export]
    use super::batch::{Column, RecordBatch, Table};
    #[pymodule_export]
    use super::client::{Client, Watch};
    #[pymodule_export]
    use super::fork::{after_fork_in_child, after_fork_in_parent, before_fork};
    #[pymodule_export]
    use super::objects::objects;
    #[pymodule_export]
    use super::plan::{Endpoint, Plan};
    #[pymodule_export]
    use super::process::runtime_threads;
    #[pymodule_export]
    use super::schema::{DataType, Field, Schema};
    #[pymodule_export]
    use super::stream::Stream;
    #[pymodule_export]
    use super::task::Task;
    #[pymodule_export]
    use super::torch::{EpochCourse, EpochEngine, EpochLoader, EpochTaker, batch_columns};

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        module.add("DATAFUSION_MAJOR", datafusion::major())?;
        module.add("__version__", env!("CARGO_PKG_VERSION"))
    }

    /// Runs the `jetbridge` command with these arguments (the program's name first) and returns its exit code.
    ///
    /// `program` is how this program is started again, where it is not the process's own executable. The interpreter's lock is
    /// released while it runs.
    #[pyfunction]
    #[pyo3(signature = (args, program=None))]
    fn main(py: Python<'_>, args: Vec<OsString>, program: Option<Vec<OsString>>) -> u8 {
        py.detach(|| jetbridge_flight_server::run_cli_as(args, program))
    }
}
