//! Datasets as tables of DataFusion's Python package, which is another library with a DataFusion of its own.
//!
//! ```text
//! its session --capsule--> its codec            what is asked for must be laid out as ours is       (here)
//! Table, Catalog --capsule--> its session       names, columns, conditions that can be left to us   (table, catalog)
//!    its planner --> Scan                       a leaf: the client's plan of the server's endpoints (scan)
//!       its threads --> Rows                    the client's reads                                  (scan)
//!          all of it by a Guest                 our runtime, forks, panics                          (home)
//! ```
//! What goes to and fro are structs of functions (`datafusion-ffi`), which each major version of DataFusion lays out anew: to
//! read those of another one is to jump anywhere. So Python compares the version of the package that is imported with
//! [`major`] before a capsule is opened, the capsule's own version is compared here, and the package compares ours.
//!
//! Its errors are texts: what failed is told in our words, and not of which kind it was. Nor has it a place for the filters that
//! joins tighten while they run, or for what a plan shows of itself but its name; so that is [`Scan`](scan::Scan)'s name.

mod catalog;
mod home;
mod scan;
mod table;

use std::sync::Arc;

use datafusion_ffi::catalog_provider::FFI_CatalogProvider;
use datafusion_ffi::proto::logical_extension_codec::FFI_LogicalExtensionCodec;
use datafusion_ffi::table_provider::FFI_TableProvider;
use jetbridge_client::datafusion::{RemoteCatalog, RemoteTable};
use pyo3::prelude::*;
use pyo3::types::PyCapsule;

use self::catalog::Catalog;
use self::home::Home;
use self::table::Table;
use crate::client::Live;
use crate::error::Failure;
use crate::task::Task;

/// The version of DataFusion that tables are laid out for.
pub(crate) fn major() -> u64 {
    datafusion_ffi::version()
}

/// A dataset as a table, in a capsule. `codec` is the capsule that the session gave.
///
/// # Errors
/// A capsule of another kind or version; no runtime.
pub(crate) fn table(live: Live, path: String, codec: &Bound<'_, PyCapsule>) -> PyResult<Task> {
    let (home, codec) = (Home::of(&live)?, opened(codec)?);
    let work = async move { Ok(RemoteTable::open(&live.client, path).await?) };
    Task::spawn(work, move |py, table| {
        let table = Arc::new(Table::new(&home, Arc::new(table)));
        let table = FFI_TableProvider::new_with_ffi_codec(table, true, None, codec);
        let capsule = PyCapsule::new_with_value(py, table, c"datafusion_table_provider")?;
        Ok(capsule.into_any().unbind())
    })
}

/// All datasets as a catalog, in a capsule.
///
/// # Errors
/// As of [`table`].
pub(crate) fn catalog(live: Live, codec: &Bound<'_, PyCapsule>) -> PyResult<Task> {
    let (home, codec) = (Home::of(&live)?, opened(codec)?);
    let work = async move { Ok(RemoteCatalog::open(&live.client).await?) };
    Task::spawn(work, move |py, catalog| {
        let catalog = Arc::new(Catalog::new(&home, catalog));
        let catalog = FFI_CatalogProvider::new_with_ffi_codec(catalog, None, codec);
        let capsule = PyCapsule::new_with_value(py, catalog, c"datafusion_catalog_provider")?;
        Ok(capsule.into_any().unbind())
    })
}

/// What is in a session's capsule.
#[expect(unsafe_code, reason = "a capsule has a pointer, and its name says what to")]
fn opened(capsule: &Bound<'_, PyCapsule>) -> PyResult<FFI_LogicalExtensionCodec> {
    let pointer = capsule.pointer_checked(Some(c"datafusion_logical_extension_codec"))?;
    // SAFETY: the name is that of such a struct, which lives as long as the capsule; who made it has our major version, or
    // Python has not let it come so far.
    let codec = unsafe { pointer.cast::<FFI_LogicalExtensionCodec>().as_ref() };
    // SAFETY: it takes nothing, and gives a number.
    let found = unsafe { (codec.version)() };
    if found != major() {
        let words = format!(
            "this package speaks to DataFusion {}, and the session is of {found}",
            major()
        );
        return Err(Failure::new("FAILED_PRECONDITION", words).into());
    }
    Ok(codec.clone())
}
