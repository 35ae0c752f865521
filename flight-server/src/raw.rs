//! What a client of the wire form `raw` needs (`flight/WIRE.md`): the reader of its small files, which is the cache's own.

pub use jetbridge_cache::raw::RawRows;
