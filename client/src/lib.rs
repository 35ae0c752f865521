//! The client of a Jetbridge cluster: plans scans, and reads their endpoints in parallel.
//!
//! ```text
//! Client -- plan --> Plan: schema, endpoints            (calls, scan, plan)
//!        -- read --> Reader: a stream of pieces
//!                      -> fetch     one endpoint: its places in turn, resumed by rows       (health, seam)
//!                           -> flight    DoGet over HTTP/2: frame -> messages, one copy     (connections, link, pool)
//!                                -> decode    messages that are batches
//!                                -> raw       messages that are row groups as they are stored
//!                           -> shared    the memory of a server on this host                (memory)
//!                      budget           bytes that were received and not yet taken
//! ```
//! With the feature `datafusion` a server's datasets are tables of a DataFusion session ([`mod@datafusion`]). Whoever makes more of
//! the rows, ahead of those who take it, has a [`queue`] for that.
//!
//! What it promises:
//! - Rows come once and none is lost, whichever worker dies, before or during a stream.
//! - What is received and not taken is bounded in bytes, in order or not.
//! - A body is copied once, from the transport's frame into aligned memory that is used again; arrays lie over it in place.
//! - Nothing is global but two numbers ([`fork`]): no runtime, no thread, no connection outlives its [`Client`] and [`Reader`]s, and
//!   the arrays they gave.
//!
//! Architecture invariant: no cache, no catalog, no Parquet and no storage here; the server has those. What comes as Parquet is read
//! by a function that whoever makes the client hands in ([`Unpack`]).
//!
//! Why not `arrow_flight::FlightClient`: it reads a ticket from one connection through tonic's decoder, which copies each message
//! into a growing buffer that is aligned by chance, so that arrays are copied again.

mod address;
mod backoff;
mod budget;
mod calls;
mod connections;
#[cfg(feature = "datafusion")]
pub mod datafusion;
mod decode;
mod error;
mod fetch;
mod flight;
pub mod fork;
mod frame;
mod health;
mod link;
pub mod memory;
mod messages;
mod options;
mod plan;
mod pool;
pub mod queue;
mod raw;
mod reader;
mod scan;
mod seam;
mod shared;
mod stats;
mod tickets;
mod unpack;

pub use self::calls::{Client, Listed};
pub use self::error::{Error, ErrorKind, Result};
pub use self::options::{ClientOptions, KEEPALIVE, Local, Wire};
pub use self::plan::{Endpoint, EndpointAbout, Plan};
pub use self::reader::{Piece, ReadOptions, Reader, Source};
pub use self::scan::Scan;
pub use self::stats::Stats;
pub use self::unpack::{Unpack, UnpackError, Unpacked};
