//! What of a mount may be kept in a cache, for how long, and how much of it.
//!
//! | option | as in | means |
//! |---|---|---|
//! | `cache_ttl` | `12h` | what was kept goes so long after it came |
//! | `cache_quota` | `100GiB` | how much may be kept: raw pages and decoded columns, each |
//! | `cache_rules` | `never tmp/**; always hot/*.parquet` | exceptions; of the globs that match a file, the first holds |
//!
//! Globs are matched with paths relative to the mount: `*` and `?` stand for parts of one name, `**` for any folders.
//! `never` keeps nothing. `always` keeps what is read at its first read, decoded too, and has no end. `max-age=1h` is a time
//! to live of its own.

use std::collections::BTreeMap;
use std::time::Duration;

use bytesize::ByteSize;
use globset::GlobBuilder;

use super::freshness::duration;

/// The option that holds a mount's time to live.
pub const CACHE_TTL_KEY: &str = "cache_ttl";
/// The option that holds a mount's quota.
pub const CACHE_QUOTA_KEY: &str = "cache_quota";
/// The option that holds a mount's rules.
pub const CACHE_RULES_KEY: &str = "cache_rules";

const NEVER: &str = "never";
const ALWAYS: &str = "always";
const MAX_AGE: &str = "max-age=";

/// What of a mount may be kept; the default sets no bounds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Retention {
    /// How long what was kept stays.
    pub ttl: Option<Duration>,
    /// How many bytes may be kept of raw pages, and as many of decoded columns.
    pub quota_bytes: Option<u64>,
    /// Exceptions, by path; the first that matches holds.
    pub rules: Vec<RetentionRule>,
}

/// An exception for some files of a mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RetentionRule {
    /// Which files, by their path relative to the mount: a glob, known to be a valid one.
    pub glob: String,
    /// What holds for them.
    pub keep: KeepRule,
}

/// What a rule says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeepRule {
    /// Nothing is kept.
    Never,
    /// Kept at the first read, without end.
    Always,
    /// Kept no longer than this.
    MaxAge(Duration),
}

/// An option of these cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RetentionError {
    /// Not a duration, or 0.
    #[error("{CACHE_TTL_KEY} wants a whole number over 0 with one of d, h, m, s, ms, as in 12h")]
    Ttl,
    /// Not a number of bytes.
    #[error("{CACHE_QUOTA_KEY} wants bytes, as in 100GiB")]
    Quota,
    /// Not a rule.
    #[error("rule {number} of {CACHE_RULES_KEY} is not 'never GLOB', 'always GLOB' or 'max-age=12h GLOB'")]
    Rule {
        /// Which one, from 1.
        number: usize,
    },
    /// Not a glob.
    #[error("rule {number} of {CACHE_RULES_KEY} has a glob that cannot be read")]
    Glob {
        /// Which rule, from 1.
        number: usize,
        /// What is wrong with it.
        #[source]
        source: globset::Error,
    },
}

impl Retention {
    /// Reads the options that are about it.
    ///
    /// # Errors
    /// [`RetentionError`] for the first that cannot be read.
    pub fn of(options: &BTreeMap<String, String>) -> Result<Self, RetentionError> {
        let get = |key| options.get(key).map(String::as_str);
        let positive = |text| duration(text).filter(|ttl| !ttl.is_zero()).ok_or(RetentionError::Ttl);
        let bytes = |text: &str| text.parse::<ByteSize>().map_err(|_| RetentionError::Quota);
        Ok(Self {
            ttl: get(CACHE_TTL_KEY).map(positive).transpose()?,
            quota_bytes: get(CACHE_QUOTA_KEY).map(bytes).transpose()?.map(|size| size.as_u64()),
            rules: get(CACHE_RULES_KEY).map(rules).transpose()?.unwrap_or_default(),
        })
    }
}

fn rules(text: &str) -> Result<Vec<RetentionRule>, RetentionError> {
    let written = text.split(';').map(str::trim).filter(|rule| !rule.is_empty());
    written.enumerate().map(|(at, text)| rule(at + 1, text)).collect()
}

fn rule(number: usize, text: &str) -> Result<RetentionRule, RetentionError> {
    let malformed = RetentionError::Rule { number };
    let Some((word, glob)) = text.split_once(char::is_whitespace) else {
        return Err(malformed);
    };
    let keep = match word {
        NEVER => KeepRule::Never,
        ALWAYS => KeepRule::Always,
        _ => match word.strip_prefix(MAX_AGE).and_then(duration) {
            Some(age) => KeepRule::MaxAge(age),
            None => return Err(malformed),
        },
    };
    let glob = glob.trim();
    let valid = GlobBuilder::new(glob).literal_separator(true).build();
    valid.map_err(|source| RetentionError::Glob { number, source })?;
    Ok(RetentionRule {
        glob: glob.to_owned(),
        keep,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(key: &str, value: &str) -> Result<Retention, RetentionError> {
        Retention::of(&BTreeMap::from([(key.to_owned(), value.to_owned())]))
    }

    #[test]
    fn options_are_read() {
        assert_eq!(Retention::of(&BTreeMap::new()), Ok(Retention::default()));
        assert_eq!(
            read(CACHE_TTL_KEY, "12h").unwrap().ttl,
            Some(Duration::from_secs(43_200))
        );
        assert_eq!(read(CACHE_QUOTA_KEY, "2MiB").unwrap().quota_bytes, Some(2 << 20));
        let rules = read(CACHE_RULES_KEY, "never tmp/**;max-age=1m  a b/*.parquet ; always **;").unwrap();
        let said: Vec<_> = rules.rules.iter().map(|rule| (rule.glob.as_str(), rule.keep)).collect();
        assert_eq!(
            said,
            [
                ("tmp/**", KeepRule::Never),
                ("a b/*.parquet", KeepRule::MaxAge(Duration::from_secs(60))),
                ("**", KeepRule::Always),
            ]
        );
    }

    #[test]
    fn what_cannot_be_read_says_where() {
        for text in ["", "12", "0s", "-1h", "forever"] {
            assert_eq!(read(CACHE_TTL_KEY, text), Err(RetentionError::Ttl), "{text}");
        }
        for text in ["", "many", "-1", "1 parsec"] {
            assert_eq!(read(CACHE_QUOTA_KEY, text), Err(RetentionError::Quota), "{text}");
        }
        for text in ["never", "sometimes a", "max-age a", "always a; max-age=x b"] {
            let error = read(CACHE_RULES_KEY, text).unwrap_err();
            assert!(matches!(error, RetentionError::Rule { .. }), "{text}: {error:?}");
        }
        let error = read(CACHE_RULES_KEY, "always a; never a[").unwrap_err();
        assert!(matches!(error, RetentionError::Glob { number: 2, .. }), "{error:?}");
    }
}
