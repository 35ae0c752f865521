//! How long to wait before the next try.

use std::time::Duration;

/// The first wait, before jitter.
const FIRST: Duration = Duration::from_millis(250);
/// The longest wait, before jitter.
const LONGEST: Duration = Duration::from_secs(4);

/// The wait before try `retry`, from 1: twice the one before, and up to a quarter more or less, so that clients that failed
/// together do not come back together.
pub(crate) fn wait(retry: u32) -> Duration {
    let doubled = FIRST.saturating_mul(1 << retry.saturating_sub(1).min(16));
    // Without randomness the waits are merely equal.
    let random = f64::from(getrandom::u32().unwrap_or(u32::MAX / 2)) / f64::from(u32::MAX);
    doubled.min(LONGEST).mul_f64(0.75 + random / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_within_their_jitter_up_to_the_longest() {
        for (retry, about) in [(1, 0.25), (2, 0.5), (3, 1.0), (5, 4.0), (50, 4.0)] {
            let wait = wait(retry).as_secs_f64();
            assert!((about * 0.75..=about * 1.25).contains(&wait), "{retry}: {wait}");
        }
    }
}
