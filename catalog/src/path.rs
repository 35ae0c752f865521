//! Paths of the namespace, in the one form in which they are looked up, compared and hashed.
//!
//! A name that can be written in two ways is cached twice, or is let in by one spelling after it was
//! refused by the other. So a path is brought to its canonical form once, where it enters, and from then on
//! only [`NsPath`] is passed around: `/` for the root, else `/a/b` without repeated or trailing slashes.
//!
//! What stands between the slashes is literal text. Spaces, `+`, `%2F` and any unicode are themselves and
//! are never decoded, because an object may really be called so.
//!
//! Why percent-encoded dots are refused although nothing is decoded here: the text travels on into URLs and
//! HTTP clients, some of which do decode, and then `%2e%2e` climbs out of the mount.
//!
//! Why unicode is not normalised: storage keeps names as bytes, and two byte strings are two objects.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::error::Sentence;

/// The longest path, in bytes: what Linux allows (`PATH_MAX`), and four times the longest S3 key.
pub const MAX_PATH_BYTES: usize = 4096;

/// The longest part of a path between two slashes, in bytes: the longest S3 key.
pub const MAX_SEGMENT_BYTES: usize = 1024;

/// A canonical path of the namespace: `/`, or `/a/b`.
///
/// Clones share the text. Order is byte order of the text, so that all paths below one path stand together.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct NsPath(Arc<str>);

impl NsPath {
    /// The path `/`.
    pub fn root() -> Self {
        Self(Arc::from("/"))
    }

    /// Reads a path as a user writes it. Repeated and trailing slashes are dropped.
    ///
    /// # Errors
    /// Everything that [`PathError`] lists, but for [`PathError::EmptySegment`] and [`PathError::SlashInSegment`].
    pub fn parse(text: &str) -> Result<Self, PathError> {
        if !text.starts_with('/') {
            return Err(PathError::NotAbsolute);
        }
        let relative = canonical_relative(text)?;
        Ok(Self(format!("/{relative}").into()))
    }

    /// Builds a path from its segments, as a Flight descriptor carries them; none at all is the root.
    ///
    /// # Errors
    /// As [`NsPath::parse`]; and a segment that is empty or holds a slash, since `["a/b"]` and `["a", "b"]`
    /// must not be one path.
    pub fn from_segments<'a>(segments: impl IntoIterator<Item = &'a str>) -> Result<Self, PathError> {
        let mut text = String::new();
        for segment in segments {
            if segment.is_empty() {
                return Err(PathError::EmptySegment);
            }
            if segment.contains('/') {
                return Err(PathError::SlashInSegment);
            }
            text.push('/');
            text.push_str(segment);
            check_length(&text)?;
        }
        if text.is_empty() {
            return Ok(Self::root());
        }
        Self::parse(&text)
    }

    /// The canonical text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether this is `/`.
    pub fn is_root(&self) -> bool {
        self.relative().is_empty()
    }

    /// The parts between the slashes, from the root down; the root has none.
    pub fn segments(&self) -> impl Iterator<Item = &str> {
        self.relative().split('/').filter(|segment| !segment.is_empty())
    }

    /// The path with `relative` appended. A leading slash of `relative` says nothing: the result is this path
    /// or below it, always.
    ///
    /// # Errors
    /// As [`NsPath::parse`].
    pub fn join(&self, relative: &str) -> Result<Self, PathError> {
        if relative.is_empty() {
            return Ok(self.clone());
        }
        Self::parse(&format!("{self}/{relative}"))
    }

    /// The path one segment up; `None` for the root.
    pub fn parent(&self) -> Option<Self> {
        self.ancestors().nth(1).map(|text| Self(text.into()))
    }

    /// The last segment; `None` for the root.
    pub fn name(&self) -> Option<&str> {
        self.segments().last()
    }

    /// The texts of this path, of its parent, and so on up to `/`.
    pub fn ancestors(&self) -> impl Iterator<Item = &str> {
        std::iter::successors(Some(self.as_str()), |text| match text.rfind('/') {
            _ if text.len() == 1 => None,
            Some(0) | None => Some("/"),
            Some(end) => Some(&text[..end]),
        })
    }

    /// What is left of this path below `base`, without a leading slash: `""` when they are equal, `None` when
    /// this path is not `base` and not below it.
    pub fn strip_prefix(&self, base: &Self) -> Option<&str> {
        strip_relative(self.relative(), base.relative())
    }

    fn relative(&self) -> &str {
        &self.0[1..]
    }
}

impl fmt::Display for NsPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for NsPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl AsRef<str> for NsPath {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

/// Lets a map keyed by paths be asked with a text that is known to be canonical.
impl Borrow<str> for NsPath {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl FromStr for NsPath {
    type Err = PathError;

    fn from_str(text: &str) -> Result<Self, PathError> {
        Self::parse(text)
    }
}

impl TryFrom<String> for NsPath {
    type Error = Sentence;

    fn try_from(text: String) -> Result<Self, Sentence> {
        Self::parse(&text).map_err(|error| Sentence::of(&error))
    }
}

impl From<NsPath> for String {
    fn from(path: NsPath) -> Self {
        path.as_str().to_owned()
    }
}

/// Why a text is no path. Positions are byte offsets; the text itself is not repeated, since what was
/// mistaken for a path may hold a secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PathError {
    /// It does not begin with a slash.
    #[error("a path must begin with '/'")]
    NotAbsolute,
    /// It is longer than [`MAX_PATH_BYTES`].
    #[error("a path of {bytes} bytes is too long: the limit is {MAX_PATH_BYTES} bytes")]
    TooLong {
        /// Its length.
        bytes: usize,
    },
    /// One part of it is longer than [`MAX_SEGMENT_BYTES`].
    #[error("a path segment of {bytes} bytes is too long: the limit is {MAX_SEGMENT_BYTES} bytes")]
    SegmentTooLong {
        /// The length of that part.
        bytes: usize,
    },
    /// It holds NUL or another control character.
    #[error("a path may not hold control characters: found {character:?} at byte {position}")]
    Control {
        /// The character.
        character: char,
        /// Where it stands.
        position: usize,
    },
    /// It holds a backslash, which some systems take for a slash.
    #[error("a path may not hold a backslash: found one at byte {position}")]
    Backslash {
        /// Where it stands.
        position: usize,
    },
    /// A segment means "here" or "one up", be it written with percent-encoded dots.
    #[error("a path may not hold the segment {segment:?}")]
    DotSegment {
        /// The segment as written.
        segment: String,
    },
    /// A segment given by itself is empty.
    #[error("a path segment may not be empty")]
    EmptySegment,
    /// A segment given by itself holds a slash.
    #[error("a path segment may not hold '/'")]
    SlashInSegment,
}

/// Checks a text of segments and drops all slashes that separate nothing: `//a//b/` becomes `a/b`.
///
/// The rule for the names below a mount as well as in the namespace, so that each name of the one is a name
/// of the other.
pub(crate) fn canonical_relative(text: &str) -> Result<String, PathError> {
    check_length(text)?;
    check_characters(text)?;
    let mut canonical = String::with_capacity(text.len());
    for segment in text.split('/').filter(|segment| !segment.is_empty()) {
        check_segment(segment)?;
        if !canonical.is_empty() {
            canonical.push('/');
        }
        canonical.push_str(segment);
    }
    Ok(canonical)
}

/// What is left of the canonical `text` below the canonical `base`; neither has a leading slash.
pub(crate) fn strip_relative<'a>(text: &'a str, base: &str) -> Option<&'a str> {
    if base.is_empty() {
        return Some(text);
    }
    let rest = text.strip_prefix(base)?;
    if rest.is_empty() {
        Some(rest)
    } else {
        rest.strip_prefix('/')
    }
}

fn check_length(text: &str) -> Result<(), PathError> {
    let bytes = text.len();
    if bytes > MAX_PATH_BYTES {
        Err(PathError::TooLong { bytes })
    } else {
        Ok(())
    }
}

fn check_characters(text: &str) -> Result<(), PathError> {
    for (position, character) in text.char_indices() {
        if character == '\\' {
            return Err(PathError::Backslash { position });
        }
        if character.is_control() {
            return Err(PathError::Control { character, position });
        }
    }
    Ok(())
}

fn check_segment(segment: &str) -> Result<(), PathError> {
    let bytes = segment.len();
    if bytes > MAX_SEGMENT_BYTES {
        return Err(PathError::SegmentTooLong { bytes });
    }
    if is_dot_segment(segment) {
        return Err(PathError::DotSegment {
            segment: segment.to_owned(),
        });
    }
    Ok(())
}

fn is_dot_segment(segment: &str) -> bool {
    const LONGEST: &str = "%2e%2e";
    segment.len() <= LONGEST.len() && matches!(segment.to_ascii_lowercase().replace("%2e", ".").as_str(), "." | "..")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn path(text: &str) -> NsPath {
        NsPath::parse(text).unwrap()
    }

    #[test]
    fn slashes_that_separate_nothing_are_dropped() {
        for (text, canonical) in [
            ("/", "/"),
            ("///", "/"),
            ("/lake", "/lake"),
            ("/lake/", "/lake"),
            ("//lake///trips//", "/lake/trips"),
        ] {
            assert_eq!(path(text).as_str(), canonical, "{text}");
        }
    }

    #[test]
    fn names_are_literal_text() {
        for text in [
            "/a b",
            "/a+b",
            "/a%2Fb",
            "/a%20b",
            "/%",
            "/..a",
            "/a..",
            "/...",
            "/%2e%2e%2e",
            "/%252e",
            "/ä/日本/🚀",
            "/a?b#c",
        ] {
            assert_eq!(path(text).as_str(), text);
        }
    }

    #[test]
    fn what_is_no_path_is_refused_with_its_reason() {
        assert_eq!(NsPath::parse(""), Err(PathError::NotAbsolute));
        assert_eq!(NsPath::parse("lake"), Err(PathError::NotAbsolute));
        assert_eq!(
            NsPath::parse("/a\0b"),
            Err(PathError::Control {
                character: '\0',
                position: 2
            })
        );
        assert_eq!(
            NsPath::parse("/a\n"),
            Err(PathError::Control {
                character: '\n',
                position: 2
            })
        );
        assert_eq!(
            NsPath::parse("/\u{7f}"),
            Err(PathError::Control {
                character: '\u{7f}',
                position: 1
            })
        );
        assert_eq!(
            NsPath::parse("/\u{85}"),
            Err(PathError::Control {
                character: '\u{85}',
                position: 1
            })
        );
        assert_eq!(NsPath::parse("/a\\..\\b"), Err(PathError::Backslash { position: 2 }));
    }

    #[test]
    fn dot_segments_are_refused_however_they_are_written() {
        for segment in [".", "..", "%2e", "%2E", "%2e%2e", ".%2E", "%2e.", "%2E%2e"] {
            for text in [
                format!("/{segment}"),
                format!("/a/{segment}/b"),
                format!("/a/{segment}/"),
            ] {
                assert_eq!(
                    NsPath::parse(&text),
                    Err(PathError::DotSegment {
                        segment: segment.into()
                    }),
                    "{text}"
                );
            }
            assert!(NsPath::from_segments([segment]).is_err());
            assert!(path("/a").join(segment).is_err());
        }
    }

    #[test]
    fn lengths_are_bounded() {
        let segment = "s".repeat(MAX_SEGMENT_BYTES);
        assert!(NsPath::parse(&format!("/{segment}")).is_ok());
        let bytes = MAX_SEGMENT_BYTES + 1;
        assert_eq!(
            NsPath::parse(&format!("/{segment}s")),
            Err(PathError::SegmentTooLong { bytes })
        );
        let longest = "/s".repeat(MAX_PATH_BYTES / 2);
        assert!(NsPath::parse(&longest).is_ok());
        let bytes = MAX_PATH_BYTES + 2;
        assert_eq!(
            NsPath::parse(&format!("{longest}/s")),
            Err(PathError::TooLong { bytes })
        );
        assert_eq!(path(&longest).join("s"), Err(PathError::TooLong { bytes }));
        assert!(matches!(
            NsPath::from_segments(std::iter::repeat("s")),
            Err(PathError::TooLong { .. })
        ));
    }

    #[test]
    fn segments_build_a_path_only_when_each_is_one() {
        assert_eq!(NsPath::from_segments([]), Ok(NsPath::root()));
        assert_eq!(NsPath::from_segments(["lake", "trips"]), Ok(path("/lake/trips")));
        assert_eq!(NsPath::from_segments(["lake/trips"]), Err(PathError::SlashInSegment));
        assert_eq!(NsPath::from_segments(["lake", ""]), Err(PathError::EmptySegment));
    }

    #[test]
    fn a_path_knows_its_parts() {
        let deep = path("/a/b/c");
        assert_eq!(deep.segments().collect::<Vec<_>>(), ["a", "b", "c"]);
        assert_eq!(deep.name(), Some("c"));
        assert_eq!(deep.parent(), Some(path("/a/b")));
        assert_eq!(deep.ancestors().collect::<Vec<_>>(), ["/a/b/c", "/a/b", "/a", "/"]);
        assert_eq!(path("/a").parent(), Some(NsPath::root()));
        let root = NsPath::root();
        assert!(root.is_root() && root.name().is_none() && root.parent().is_none());
        assert_eq!(root.segments().count(), 0);
        assert_eq!(root.ancestors().collect::<Vec<_>>(), ["/"]);
    }

    #[test]
    fn a_prefix_ends_at_a_slash() {
        let deep = path("/a/b");
        assert_eq!(deep.strip_prefix(&path("/a")), Some("b"));
        assert_eq!(deep.strip_prefix(&deep), Some(""));
        assert_eq!(deep.strip_prefix(&NsPath::root()), Some("a/b"));
        assert_eq!(NsPath::root().strip_prefix(&NsPath::root()), Some(""));
        assert_eq!(path("/ab").strip_prefix(&path("/a")), None);
        assert_eq!(path("/a").strip_prefix(&deep), None);
    }

    #[test]
    fn serde_reads_and_writes_the_canonical_text() {
        let read: NsPath = serde_json::from_str("\"/a//b/\"").unwrap();
        assert_eq!(serde_json::to_string(&read).unwrap(), "\"/a/b\"");
        let error = serde_json::from_str::<NsPath>("\"/a/../b\"").unwrap_err();
        assert!(error.to_string().contains("\"..\""), "{error}");
    }

    /// Texts that are likely to meet the rules' edges.
    fn tricky() -> impl Strategy<Value = String> {
        let piece = prop_oneof![
            4 => Just("/".to_owned()),
            2 => prop::sample::select(vec![".", "..", "%2e", "%2E", "%2F", "%", "\\", "\0", " ", "+", "é", "a", "b"]).prop_map(str::to_owned),
            1 => "\\PC{0,3}",
        ];
        prop::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #[test]
        fn canonical_form_is_a_fixed_point(text in tricky()) {
            if let Ok(once) = NsPath::parse(&format!("/{text}")) {
                prop_assert_eq!(NsPath::parse(once.as_str()), Ok(once.clone()));
                prop_assert_eq!(NsPath::from_segments(once.segments()), Ok(once));
            }
        }

        #[test]
        fn canonical_form_holds_nothing_that_climbs(text in tricky()) {
            if let Ok(read) = NsPath::parse(&format!("/{text}")) {
                prop_assert!(read.as_str().starts_with('/') && !read.as_str().contains("//"));
                prop_assert!(read.is_root() || !read.as_str().ends_with('/'));
                prop_assert!(!read.as_str().contains(['\\', '\0']));
                for segment in read.segments() {
                    let decoded = percent_encoding::percent_decode_str(segment).decode_utf8_lossy();
                    prop_assert!(decoded != "." && decoded != "..");
                }
            }
        }

        #[test]
        fn join_never_leaves_its_base(base in tricky(), text in tricky()) {
            if let Ok(base) = NsPath::parse(&format!("/{base}")) && let Ok(joined) = base.join(&text) {
                let rest = joined.strip_prefix(&base).map(str::to_owned);
                prop_assert!(rest.is_some(), "{joined} left {base}");
                prop_assert_eq!(base.join(&rest.unwrap()), Ok(joined));
            }
        }

        #[test]
        fn any_text_is_read_or_refused(text in any::<String>()) {
            if let Err(error) = NsPath::parse(&text) {
                prop_assert!(!error.to_string().is_empty());
            }
        }

        #[test]
        fn paths_below_one_path_stand_together(mut texts in prop::collection::vec("/[a.-]{1,2}(/[a.-]{1,2}){0,2}", 1..20)) {
            texts.retain(|text| NsPath::parse(text).is_ok());
            let mut paths: Vec<_> = texts.iter().map(|text| path(text)).collect();
            paths.sort();
            for base in &paths {
                let below: Vec<_> = paths.iter().map(|p| p != base && p.strip_prefix(base).is_some()).collect();
                let runs = below.chunk_by(|a, b| a == b).filter(|run| run[0]).count();
                prop_assert!(runs <= 1, "{base} in {paths:?}");
            }
        }
    }
}
