//! What may be kept of which files, for how long, and how much: told from outside, asked by the tiers.
//!
//! The cache knows files by their URIs, so what is said of a mount holds for the URIs below it; of two that contain a
//! file, the longer one counts. Nothing said, nothing bounded.

use std::sync::Arc;
use std::time::Duration;

use globset::{GlobBuilder, GlobMatcher};
use parking_lot::RwLock;
use xxhash_rust::xxh3::xxh3_64;

use crate::policy::Offer;

/// Rules that keep nothing are looked after as if they allowed this long.
const NEVER_LOOK_TIME: Duration = Duration::from_secs(600);

/// What holds for the files below a URI.
#[derive(Debug, Clone, Default)]
pub struct Retention {
    /// The URI, as [`crate::ufs::Ufs::uri_of`] gives it for a mount.
    pub uri: String,
    /// How long what was kept stays; without end where none.
    pub ttl: Option<Duration>,
    /// Most bytes of raw pages, and as many of decoded chunks; no bound of their own where none.
    pub quota_bytes: Option<u64>,
    /// Exceptions by the path below the URI; the first that matches holds.
    pub rules: Vec<Rule>,
}

/// Files that are kept whatever else is worth more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pin {
    /// The URI of a file or of what lies below a folder or mount, as [`Retention::uri`].
    pub uri: String,
    /// Their pages.
    pub raw: bool,
    /// Their decoded columns.
    pub decoded: bool,
}

/// An exception.
#[derive(Debug, Clone)]
pub struct Rule {
    glob: GlobMatcher,
    keep: Keep,
}

/// How a file is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// Not at all.
    Never,
    /// Pages at the first read and decoded chunks at the second, until other data is worth more, and no longer than
    /// this where it is given.
    OnReuse(Option<Duration>),
    /// Decoded chunks at the first read too, until other data is worth more.
    AtOnce,
}

/// What is known of reads to come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Reread {
    /// Nothing.
    #[default]
    Unknown,
    /// Who reads now says that it will read the same again: what would be kept at the second read is kept at this one.
    Foretold,
}

/// A share of the cache that some files have together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quota {
    /// Whose share it is.
    pub scope: u64,
    /// How much it is.
    pub bytes: u64,
}

/// What holds for one file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Terms {
    pub(crate) keep: Keep,
    pub(crate) quota: Option<Quota>,
    /// Its pages are pinned.
    pub(crate) pinned_raw: bool,
    /// Its decoded columns are pinned.
    pub(crate) pinned_decoded: bool,
}

impl Default for Terms {
    fn default() -> Self {
        Self {
            keep: Keep::OnReuse(None),
            quota: None,
            pinned_raw: false,
            pinned_decoded: false,
        }
    }
}

impl Terms {
    /// Whether decoded chunks of the file are kept without having been asked for before, where they are kept at all.
    pub(crate) fn is_kept_at_once(&self) -> bool {
        self.keep == Keep::AtOnce || self.pinned_decoded
    }

    /// What holds for a reader of whom so much is known.
    pub(crate) fn expecting(self, reread: Reread) -> Self {
        match (self.keep, reread) {
            (Keep::OnReuse(_), Reread::Foretold) => Self {
                keep: Keep::AtOnce,
                ..self
            },
            _ => self,
        }
    }

    /// How a decoded chunk of the file is offered to its tier, on demand of the errand of number `by` where one is given.
    pub(crate) fn offer(&self, by: Option<u64>) -> Offer {
        Offer {
            quota: self.quota,
            demanded_by: by,
            pinned: self.pinned_decoded,
        }
    }
}

impl Rule {
    /// A rule for the paths that a glob matches: `*` and `?` within a name, `**` for any folders.
    ///
    /// # Errors
    /// A text that is no glob.
    pub fn new(glob: &str, keep: Keep) -> Result<Self, globset::Error> {
        let glob = GlobBuilder::new(glob).literal_separator(true).build()?;
        Ok(Self {
            glob: glob.compile_matcher(),
            keep,
        })
    }
}

impl Retention {
    /// The path below the URI, where the file is below it.
    fn path_of<'a>(&self, uri: &'a str) -> Option<&'a str> {
        path_below(&self.uri, uri)
    }

    fn terms(&self, path: &str) -> Terms {
        let rule = self.rules.iter().find(|rule| rule.glob.is_match(path));
        Terms {
            keep: rule.map_or(Keep::OnReuse(self.ttl), |rule| rule.keep),
            quota: self.quota_bytes.map(|bytes| Quota {
                scope: xxh3_64(self.uri.as_bytes()),
                bytes,
            }),
            ..Terms::default()
        }
    }

    fn bounds_time(&self) -> Option<Duration> {
        let rules = self.rules.iter().filter_map(|rule| match rule.keep {
            // What is held goes when the rule is set; this is for what was on its way then.
            Keep::Never => Some(NEVER_LOOK_TIME),
            Keep::OnReuse(age) => age,
            Keep::AtOnce => None,
        });
        self.ttl.into_iter().chain(rules).min()
    }
}

/// All that is said. Cheap to clone; clones are one.
#[derive(Debug, Clone, Default)]
pub(crate) struct Retentions(Arc<Said>);

#[derive(Debug, Default)]
struct Said {
    retentions: RwLock<Arc<[Retention]>>,
    pins: RwLock<Arc<[Pin]>>,
}

impl Retentions {
    /// Says something else from now on.
    pub(crate) fn set(&self, mut retentions: Vec<Retention>) {
        // The longest first, so that the first that contains a file is the one that counts, also where it says nothing: a
        // mount of a part is the way to take the part out of what the whole is bound by. Of equal ones, one that says
        // something.
        let says_nothing = |said: &Retention| said.ttl.is_none() && said.quota_bytes.is_none() && said.rules.is_empty();
        retentions.sort_by_key(|said| (std::cmp::Reverse(said.uri.len()), says_nothing(said)));
        *self.0.retentions.write() = retentions.into();
    }

    /// Says what is pinned from now on.
    pub(crate) fn set_pins(&self, pins: Vec<Pin>) {
        *self.0.pins.write() = pins.into();
    }

    /// What holds for a file.
    pub(crate) fn of(&self, uri: &str) -> Terms {
        let all = Arc::clone(&self.0.retentions.read());
        let found = all
            .iter()
            .find_map(|retention| Some(retention.terms(retention.path_of(uri)?)));
        let mut terms = found.unwrap_or_default();
        for pin in Arc::clone(&self.0.pins.read()).iter() {
            if path_below(&pin.uri, uri).is_some() {
                terms.pinned_raw |= pin.raw;
                terms.pinned_decoded |= pin.decoded;
            }
        }
        terms
    }

    /// The shortest time that anything may be kept for; none where there is no bound on time.
    pub(crate) fn shortest(&self) -> Option<Duration> {
        self.0.retentions.read().iter().filter_map(Retention::bounds_time).min()
    }
}

/// The path of a file below a URI, where it is below it or the same.
fn path_below<'a>(base: &str, uri: &'a str) -> Option<&'a str> {
    let rest = uri.strip_prefix(base)?;
    match rest.strip_prefix('/') {
        Some(path) => Some(path),
        None => (rest.is_empty() || base.ends_with('/')).then_some(rest),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(uri: &str, rules: &[(&str, Keep)]) -> Retention {
        let rules = rules.iter().map(|(glob, keep)| Rule::new(glob, *keep).unwrap());
        Retention {
            uri: uri.to_owned(),
            ttl: Some(Duration::from_secs(60)),
            quota_bytes: Some(7),
            rules: rules.collect(),
        }
    }

    #[test]
    fn pins_hold_for_what_is_below_them() {
        let retentions = Retentions::default();
        let pin = |uri: &str, raw, decoded| Pin {
            uri: uri.to_owned(),
            raw,
            decoded,
        };
        retentions.set_pins(vec![
            pin("s3://b/lake/t", true, false),
            pin("s3://b/lake/", false, true),
        ]);
        let pinned = |uri| {
            let terms = retentions.of(uri);
            (terms.pinned_raw, terms.pinned_decoded)
        };
        assert_eq!(pinned("s3://b/lake/t"), (true, true));
        assert_eq!(pinned("s3://b/lake/t/a.parquet"), (true, true));
        assert_eq!(pinned("s3://b/lake/tt"), (false, true));
        assert_eq!(pinned("s3://b/lakes"), (false, false));
    }

    #[test]
    fn the_first_rule_of_the_longest_uri_holds() {
        let retentions = Retentions::default();
        assert_eq!(retentions.of("s3://b/a"), Terms::default());
        assert_eq!(retentions.shortest(), None);
        retentions.set(vec![
            said("s3://b/", &[("tmp/**", Keep::Never), ("**/*.hot", Keep::AtOnce)]),
            said("s3://b/lake", &[("*.parquet", Keep::OnReuse(None))]),
        ]);
        let keep = |uri| retentions.of(uri).keep;
        let minute = Keep::OnReuse(Some(Duration::from_secs(60)));
        assert_eq!(keep("s3://b/tmp/x.hot"), Keep::Never);
        assert_eq!(keep("s3://b/x/y.hot"), Keep::AtOnce);
        assert_eq!(keep("s3://b/other"), minute);
        assert_eq!(keep("s3://b/lake/a.parquet"), Keep::OnReuse(None));
        assert_eq!(keep("s3://b/lake/sub/a.parquet"), minute);
        // A neighbour whose name begins alike is not below.
        assert_eq!(keep("s3://b/lakes.hot"), Keep::AtOnce);
        assert_eq!(keep("s3://c/tmp/x"), Keep::OnReuse(None));
        assert_eq!(retentions.shortest(), Some(Duration::from_secs(60)));
        let (lake, bucket) = (retentions.of("s3://b/lake/a"), retentions.of("s3://b/a"));
        assert_ne!(lake.quota.unwrap().scope, bucket.quota.unwrap().scope);
    }
}
