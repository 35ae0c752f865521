//! Names and places: what Jetbridge calls things, and where they are.
//!
//! | module | what is in it |
//! |---|---|
//! | [`path`] | canonical paths of the namespace |
//! | [`uri`] | canonical URIs of under storage |
//! | [`secret`] | secrets by reference, and the values that cannot be printed |
//! | [`mount`] | a mount, its options and freshness; the table of all mounts |
//! | [`meta`] | the metadata store: its contract, the embedded one, the one in etcd, the conformance suite |
//! | [`namespace`] | the mount table, kept in the metadata store: add, remove, look up |
//! | [`dataset`] | which files make a dataset, and what their folders say |
//! | [`placement`] | which worker owns a split |
//! | [`membership`] | who is there, and when the seats change |
//! | [`error`] | what all of it fails with, in a few kinds |
//!
//! A module names only modules above it, but for `error`, which names them all and which only `namespace`
//! names.
//!
//! Architecture invariant: a name is brought to its canonical form where it enters ([`path::NsPath::parse`],
//! [`uri::UfsUri::parse`], [`namespace::Namespace::locate`]). Nothing is looked up, compared or hashed by
//! another text.
//!
//! Architecture invariant: no storage is asked here. Only the metadata store's file and secrets' files are
//! opened; datasets are told by names alone.
//!
//! Architecture invariant: nothing here knows Arrow, Parquet, gRPC or object stores, nor any other crate of
//! the workspace but the client of etcd.
//!
//! Architecture invariant: the value of a secret is in no type that can be printed, stored or sent.
//!
//! Architecture invariant: a lookup never waits for the metadata store.

pub mod dataset;
pub mod error;
pub mod membership;
pub mod meta;
pub mod mount;
pub mod namespace;
pub mod path;
pub mod placement;
pub mod secret;
pub mod uri;

pub use error::{CatalogError, Kind};
pub use membership::{Membership, View};
pub use meta::{EmbeddedStore, MetaStore};
pub use mount::{Freshness, Mount, MountTable, Resolved};
pub use namespace::Namespace;
pub use path::NsPath;
pub use placement::{Placement, Seat, SplitLoad};
pub use secret::{Secret, SecretRef};
pub use uri::{Scheme, UfsUri};
