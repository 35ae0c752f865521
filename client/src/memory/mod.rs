//! Rows as shared memory, from a server of this host: blocking, and by itself a client of one ticket at a time.
//!
//! | part | module |
//! |---|---|
//! | what is on the socket, shared with the server | [`wire`] |
//! | one connection, one stream after the other | [`client`] |
//! | segments of the server's memory, mapped | [`mapping`] |
//! | arrays in place over them | [`arrays`] |

mod arrays;
mod client;
mod mapping;
pub mod wire;

pub use self::client::{Batches, Client, ClientError, Stopper};
