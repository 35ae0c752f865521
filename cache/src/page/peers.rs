//! The contract of what may be asked for bytes before storage is: the tiers of other nodes.
//!
//! Why a file brings its peers along and the tier has none of its own: who holds a range follows from the split that it
//! lies in, and only whoever planned the read knows that.

use std::fmt;
use std::ops::Range;

use async_trait::async_trait;
use bytes::Bytes;

use crate::key::FileKey;

/// Other holders of a file's bytes.
#[async_trait]
pub trait Peers: fmt::Debug + Send + Sync {
    /// Exactly these bytes of a file version; none where no peer gives all of them soon. It never fails and never waits
    /// long: storage is asked next. Bytes that were damaged on their way are none.
    async fn fetch(&self, file: &FileKey, bytes: Range<u64>) -> Option<Bytes>;

    /// The footer of a file version, from its first byte to the end of the file, where a peer gives it without what lies
    /// around it; none where its bytes are to be asked for as any others. It never fails, and may wait for the peer's storage.
    async fn footer(&self, _file: &FileKey) -> Option<Bytes> {
        None
    }
}
