//! How fast a plan may ask storage, where its job has a bandwidth.
//!
//! A plan reads the footers of all files, and of small files all there is, so it is a part of what the job asks of storage, and
//! the first. It has an errand of its own, since it is made on another node than the tasks, or before there are any; what that
//! may ask a second is what the workers leave of the job's bandwidth ([`Board::rate_of`](super::board::Board::rate_of)).
//!
//! Its end is the errand's: what is still to be asked for then is asked for by whoever plans next, at one pace and not at two.

use std::sync::Arc;

use jetbridge_cache::page::Errand;

use super::spec::JobSpec;

/// What one plan asks of storage; unbounded where its job is.
#[derive(Debug, Default)]
pub struct Pace(Option<Arc<Errand>>);

impl Pace {
    /// All of a job's bandwidth.
    #[must_use]
    pub fn of(spec: &JobSpec) -> Self {
        Self(spec.bandwidth.map(|bytes_per_s| {
            let errand = Errand::looking();
            errand.set_rate(Some(bytes_per_s));
            errand
        }))
    }

    /// What it is charged to; none where there is no bound.
    #[must_use]
    pub fn errand(&self) -> Option<&Arc<Errand>> {
        self.0.as_ref()
    }
}

impl Drop for Pace {
    fn drop(&mut self) {
        if let Some(errand) = &self.0 {
            errand.stop();
        }
    }
}
