//! Rows as shared memory, for clients of this host.
//!
//! ```text
//! client -- get(ticket) --> connection -- redeem -> scan -> batch --> frames: descriptors of segments, then where in them
//!        <-- release(ids) --                                          the buffers are (or the bytes, where in none)
//! ```
//! `PROTOCOL.md` beside this file is the protocol, for clients in other languages; the one in Rust, and what both sides say, is
//! [`jetbridge_client::memory`].
//!
//! | part | module |
//! |---|---|
//! | what is on the socket | [`jetbridge_client::memory::wire`] |
//! | who holds which segment | [`leases`] |
//! | an array as buffers in segments or in the frame | [`describe`] |
//! | connections, streams, frames out | [`serve`], [`send`] |
//!
//! Why not Flight with the descriptors beside it: gRPC cannot carry them, so there would be a second connection for them in any
//! case, and two to keep in step. Why not one large arena that is mapped once: the memory of a chunk that is evicted could not
//! be given back while any client has the arena mapped.

mod describe;
mod leases;
mod send;
mod serve;
#[cfg(test)]
mod tests;

use jetbridge_client::memory::wire;

pub use self::serve::Door;
pub(crate) use self::serve::serve;
