//! An object store as a mount's backend, and how its names and identities translate.
//!
//! Raw text and `object_store::Path`: `Path::parse` keeps text as it is (`a%2Fb` stays those five characters), and the
//! clients encode it once, for the URL. `Path::from` would encode it a second time and so name another object.

use std::sync::Arc;

use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStore};

use super::error::{Operation, UfsError, UfsErrorKind};
use super::{ObjectInfo, Shared};
use crate::key::Generation;

/// The stores of one mount: the same one twice, but for schemes whose listings need other limits than their reads.
pub(super) struct Remote {
    pub(super) read: Arc<dyn ObjectStore>,
    pub(super) list: Arc<dyn ObjectStore>,
    /// Whether an `If-Match` value goes out in quotes, as HTTP has it.
    pub(super) quoted_etags: bool,
}

impl Remote {
    /// A store that speaks HTTP.
    pub(super) fn http(read: Arc<dyn ObjectStore>, list: Arc<dyn ObjectStore>) -> Self {
        Self {
            read,
            list,
            quoted_etags: true,
        }
    }

    /// A store in this process, whose ETags are bare.
    pub(super) fn unquoted(store: Arc<dyn ObjectStore>) -> Self {
        Self {
            read: Arc::clone(&store),
            list: store,
            quoted_etags: false,
        }
    }
}

impl Shared {
    /// The store's path for a path relative to the mount.
    pub(super) fn location(&self, operation: Operation, rel: &str) -> Result<Path, UfsError> {
        Path::parse(self.key_of(rel)).map_err(|_| {
            let reason = "this name has an empty, '.' or '..' segment or a control character, which no object can have";
            UfsError::new(UfsErrorKind::Other, self.subject(operation, rel), reason)
        })
    }

    /// The path relative to the mount of a path in the store; `None` for the mount's own key and what is outside it.
    pub(super) fn relative(&self, location: &Path) -> Option<String> {
        let full = location.as_ref();
        let rest = match self.spec.key.as_str() {
            "" => full,
            key => full.strip_prefix(key)?.strip_prefix('/')?,
        };
        (!rest.is_empty()).then(|| rest.to_owned())
    }
}

/// What a store's answer says about an object.
pub(super) fn info_of(path: String, meta: &ObjectMeta) -> ObjectInfo {
    ObjectInfo {
        path,
        size: meta.size,
        generation: generation_of(meta),
        modified_ns: modified_ns(meta),
    }
}

/// The identity that listings and look-ups agree on: a strong ETag, else the version id, else time and size.
pub(super) fn generation_of(meta: &ObjectMeta) -> Generation {
    let by_etag = Generation::from_parts(None, meta.e_tag.as_deref(), modified_ns(meta), meta.size);
    match (by_etag.is_strong(), &meta.version) {
        (false, Some(version)) => Generation::from_parts(Some(version), None, modified_ns(meta), meta.size),
        _ => by_etag,
    }
}

fn modified_ns(meta: &ObjectMeta) -> i64 {
    meta.last_modified.timestamp_nanos_opt().unwrap_or(0)
}
