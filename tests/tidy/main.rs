//! The repository's checks on itself: layering, sizes, documents.
//!
//! Each check asserts that it looked at something, so that moving a folder cannot turn it into one that checks nothing.

mod documents;
mod layers;
mod sizes;
mod sources;
