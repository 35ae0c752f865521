//! What nodes of one cluster know each other by.
//!
//! The cluster's key is a secret that is written nowhere but in each node's own settings. What goes over the wire, in a
//! header of every call from node to node, is a pass derived from it; what stands in the metadata store is a check value
//! derived otherwise, by which a node that has another cluster's key finds that out before it joins.
//!
//! Why no challenge and response: the pass is worth as much as the key to who can read the wire, and against those only
//! TLS helps; against all others a secret header does.

use hmac::{Hmac, KeyInit, Mac};
use jetbridge_catalog::secret::{SecretError, SecretRef};
use sha2::{Digest, Sha256};
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::{Request, Status};

/// The request header that carries a pass.
const HEADER: &str = "x-jetbridge-cluster";
/// What the pass and the check value are made for, so that neither can stand for the other.
const PASS_LABEL: &[u8] = b"jetbridge cluster pass 1";
const CHECK_LABEL: &[u8] = b"jetbridge cluster check 1";
/// Shorter keys can be guessed.
const MIN_KEY_BYTES: usize = 16;

/// The pass of a cluster; one without a key lets everybody in who can connect.
#[derive(Clone)]
pub struct Pass(Option<Derived>);

#[derive(Clone, PartialEq, Eq)]
struct Derived {
    pass: String,
    check: String,
}

/// Why there is no pass.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PassError {
    /// The reference leads nowhere.
    #[error("the cluster's key cannot be read")]
    Secret(#[from] SecretError),
    /// The key is too short to be one.
    #[error("the cluster's key has {bytes} bytes; give it at least {MIN_KEY_BYTES}, at random")]
    Short {
        /// What it has.
        bytes: usize,
    },
}

impl Pass {
    /// The pass of the cluster with this key.
    ///
    /// # Errors
    /// A reference that cannot be resolved, a key that is too short.
    pub fn of(key: Option<&SecretRef>) -> Result<Self, PassError> {
        let Some(reference) = key else { return Ok(Self(None)) };
        let secret = reference.resolve()?;
        let key = secret.expose().trim().as_bytes();
        if key.len() < MIN_KEY_BYTES {
            return Err(PassError::Short { bytes: key.len() });
        }
        Ok(Self(Some(Derived {
            pass: derive(key, PASS_LABEL),
            check: derive(key, CHECK_LABEL),
        })))
    }

    /// Shows the pass in a request to another node.
    pub fn show(&self, metadata: &mut MetadataMap) {
        let pass = self
            .0
            .as_ref()
            .and_then(|derived| MetadataValue::try_from(&derived.pass).ok());
        if let Some(mut pass) = pass {
            pass.set_sensitive(true);
            metadata.insert(HEADER, pass);
        }
    }

    /// Whether a request comes from a node of this cluster.
    ///
    /// # Errors
    /// PERMISSION_DENIED for all others.
    pub fn demand<T>(&self, request: &Request<T>) -> Result<(), Status> {
        let Some(derived) = &self.0 else { return Ok(()) };
        let shown = request.metadata().get(HEADER);
        // Digests are compared, so that the time it takes tells nothing about the pass.
        let is_ours = shown.is_some_and(|shown| Sha256::digest(shown.as_bytes()) == Sha256::digest(&derived.pass));
        if is_ours {
            Ok(())
        } else {
            Err(Status::permission_denied(
                "this is for the nodes of the cluster alone; is --cluster-key the same on all of them?",
            ))
        }
    }

    /// What stands in the metadata store: the same for equal keys, and nothing that the key could be found by. Empty where
    /// there is no key.
    #[must_use]
    pub fn check_value(&self) -> &str {
        self.0.as_ref().map_or("", |derived| &derived.check)
    }
}

impl std::fmt::Debug for Pass {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.0.is_some() { "Pass(..)" } else { "Pass(none)" })
    }
}

fn derive(key: &[u8], label: &[u8]) -> String {
    // A key that is longer than a block of the hash is hashed first, as HMAC has it.
    let mut block = [0u8; 64];
    let digest;
    let short = if key.len() > block.len() {
        digest = Sha256::digest(key);
        &digest[..]
    } else {
        key
    };
    block[..short.len()].copy_from_slice(short);
    let mac = Hmac::<Sha256>::new(&block.into()).chain_update(label);
    hex::encode(mac.finalize().into_bytes())
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn pass(key: &str) -> Result<Pass, PassError> {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        writeln!(file, "{key}").unwrap();
        let reference = format!("file:{}", file.path().display()).parse().unwrap();
        Pass::of(Some(&reference))
    }

    fn shown_by(pass: &Pass) -> Request<()> {
        let mut request = Request::new(());
        pass.show(request.metadata_mut());
        request
    }

    #[test]
    fn only_nodes_of_the_same_key_are_let_in() {
        let (ours, theirs) = (pass("0123456789abcdef").unwrap(), pass("another 16 bytes").unwrap());
        assert!(ours.demand(&shown_by(&ours)).is_ok());
        assert!(ours.demand(&shown_by(&theirs)).is_err());
        assert!(ours.demand(&Request::new(())).is_err());
        let none = Pass::of(None).unwrap();
        assert!(none.demand(&Request::new(())).is_ok());
        assert!(none.demand(&shown_by(&ours)).is_ok());
        assert_ne!(ours.check_value(), theirs.check_value());
    }

    #[test]
    fn neither_key_nor_pass_is_printed_or_stored() {
        let ours = pass("0123456789abcdef").unwrap();
        let request = shown_by(&ours);
        let pass = request.metadata().get(HEADER).unwrap();
        assert_ne!(pass.to_str().unwrap(), ours.check_value());
        for text in [
            format!("{ours:?}"),
            format!("{request:?}"),
            ours.check_value().to_owned(),
        ] {
            assert!(
                !text.contains("0123456789abcdef") && !text.contains(pass.to_str().unwrap()),
                "{text}"
            );
        }
    }

    #[test]
    fn short_keys_are_refused_and_long_ones_taken() {
        assert!(matches!(pass("short").unwrap_err(), PassError::Short { bytes: 5 }));
        assert!(pass(&"x".repeat(1000)).is_ok());
    }
}
