//! The repository's checks on itself: layering, sizes, documents.
//!
//! Each check asserts that it looked at something, so that moving a folder cannot turn it into one that checks nothing.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a check that cannot read the repository has failed"
)]

mod documents;
mod layers;
mod sizes;
mod sources;
