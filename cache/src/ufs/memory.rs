//! `memory://name`: stores that live as long as this process, for tests. Mounts of one name share one store.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

use object_store::memory::InMemory;
use parking_lot::Mutex;

static STORES: LazyLock<Mutex<HashMap<String, Arc<InMemory>>>> = LazyLock::new(Mutex::default);

/// The store behind `memory://name`, made empty at its first use. A test fills it and then mounts it.
#[must_use]
pub fn store(name: &str) -> Arc<InMemory> {
    Arc::clone(STORES.lock().entry(name.to_owned()).or_default())
}
