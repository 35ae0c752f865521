//! How old a listing of a mount, and what is known of its files, may be.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

const IMMUTABLE: &str = "immutable";
const ALWAYS: &str = "always";
const MAX_AGE: &str = "max-age=";

/// The units of `max-age`, largest first, in nanoseconds.
const UNITS: [(&str, u128); 7] = [
    ("d", 86_400_000_000_000),
    ("h", 3_600_000_000_000),
    ("m", 60_000_000_000),
    ("s", NANOS_PER_SECOND),
    ("ms", 1_000_000),
    ("us", 1_000),
    ("ns", 1),
];
const NANOS_PER_SECOND: u128 = 1_000_000_000;

/// When a mount's storage is asked again about what it holds.
///
/// This bounds how late a change is noticed, and never mixes versions: what is read is pinned to a generation
/// in any case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Freshness {
    /// Never, but on demand: nothing below the mount changes once it is there.
    Immutable,
    /// When what is known is older than this.
    MaxAge(Duration),
    /// At every request.
    Always,
}

impl Default for Freshness {
    /// One minute.
    fn default() -> Self {
        Self::MaxAge(Duration::from_secs(60))
    }
}

impl fmt::Display for Freshness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Immutable => f.write_str(IMMUTABLE),
            Self::Always => f.write_str(ALWAYS),
            Self::MaxAge(age) => {
                // Seconds are how people say it, so no larger unit is written even where one would fit.
                let nanos = age.as_nanos();
                let fits = |(_, unit): &&(&str, u128)| *unit <= NANOS_PER_SECOND && nanos % unit == 0;
                let (name, unit) = UNITS.iter().find(fits).unwrap_or(&("ns", 1));
                write!(f, "{MAX_AGE}{}{name}", nanos / unit)
            }
        }
    }
}

impl FromStr for Freshness {
    type Err = FreshnessError;

    fn from_str(text: &str) -> Result<Self, FreshnessError> {
        match text {
            IMMUTABLE => Ok(Self::Immutable),
            ALWAYS => Ok(Self::Always),
            _ => text
                .strip_prefix(MAX_AGE)
                .and_then(duration)
                .map(Self::MaxAge)
                .ok_or(FreshnessError),
        }
    }
}

/// The text is none of the three forms.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "expected 'immutable', 'always', or 'max-age=' with a whole number and one of d, h, m, s, ms, us, ns, as in max-age=60s"
)]
pub struct FreshnessError;

/// A whole number with a unit, as in `90s`.
pub(super) fn duration(text: &str) -> Option<Duration> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (amount, unit) = text.split_at(digits);
    let (_, unit) = UNITS.iter().find(|(name, _)| *name == unit)?;
    let nanos = amount.parse::<u128>().ok()?.checked_mul(*unit)?;
    let seconds = u64::try_from(nanos / NANOS_PER_SECOND).ok()?;
    let rest = u32::try_from(nanos % NANOS_PER_SECOND).ok()?;
    Some(Duration::new(seconds, rest))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn forms_are_read() {
        let seconds = |n| Freshness::MaxAge(Duration::from_secs(n));
        for (text, value) in [
            ("immutable", Freshness::Immutable),
            ("always", Freshness::Always),
            ("max-age=60s", Freshness::default()),
            ("max-age=1m", seconds(60)),
            ("max-age=2h", seconds(7200)),
            ("max-age=1d", seconds(86_400)),
            ("max-age=0s", seconds(0)),
            ("max-age=1500ms", Freshness::MaxAge(Duration::from_millis(1500))),
        ] {
            assert_eq!(text.parse(), Ok(value), "{text}");
        }
    }

    #[test]
    fn texts_are_short() {
        for text in [
            "immutable",
            "always",
            "max-age=60s",
            "max-age=0s",
            "max-age=1500ms",
            "max-age=1us",
            "max-age=1ns",
        ] {
            assert_eq!(text.parse::<Freshness>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn other_texts_are_refused() {
        for text in [
            "",
            "Immutable",
            "never",
            "max-age",
            "max-age=",
            "max-age=60",
            "max-age=s",
            "max-age=-1s",
            "max-age=+1s",
            "max-age=1.5s",
            "max-age= 1s",
            "max-age=1s ",
            "max-age=1y",
            "max-age=99999999999999999999999999d",
            "max-age=999999999999999999999999999999999999999999s",
        ] {
            assert_eq!(text.parse::<Freshness>(), Err(FreshnessError), "{text}");
        }
    }

    proptest! {
        #[test]
        fn every_age_reads_back(age in any::<Duration>()) {
            let fresh = Freshness::MaxAge(age);
            prop_assert_eq!(fresh.to_string().parse(), Ok(fresh));
        }
    }
}
