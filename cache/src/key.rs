//! Identities: what a cached byte is called.
//!
//! No byte is cached under a bare name. A [`FileKey`] is a URI, a [`Generation`] and a size, and its [`FileId`] is a
//! hash over all three, so a file that was overwritten is another file to every tier. Indexes into a file are
//! newtypes: a page is not a row group is not an offset.
//!
//! Why quotes are cut from ETags: stores disagree with themselves. Azure lists `0x8D..` and answers a HEAD with
//! `"0x8D.."`; some S3 servers do the same. One form is kept, and the quotes come back where a request needs them.

use std::fmt;
use std::sync::Arc;

use xxhash_rust::xxh3::Xxh3;

/// The identity of one version of one file: version id, else strong ETag, else (modification time, size).
///
/// Its text form ([`fmt::Display`]) is read back by [`Generation::parse`]; it travels in tickets.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Generation(Token);

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Token {
    Version(Arc<str>),
    Etag(Arc<str>),
    Modified { ns: i64, size: u64 },
}

/// A text that is no generation.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a generation: it must start with \"version:\", \"etag:\" or \"modified:\"")]
pub struct GenerationError {
    text: String,
}

impl Generation {
    /// The strongest identity that the parts allow: `version`, else a strong `etag` (with or without quotes; a weak
    /// one, `W/…`, says nothing about bytes and is not used), else `modified_ns` (since 1970, in ns) with `size` (in
    /// bytes).
    #[must_use]
    pub fn from_parts(version: Option<&str>, etag: Option<&str>, modified_ns: i64, size: u64) -> Self {
        if let Some(version) = version.filter(|v| !v.is_empty()) {
            return Self(Token::Version(version.into()));
        }
        match etag.and_then(strong_etag) {
            Some(etag) => Self(Token::Etag(etag.into())),
            None => Self(Token::Modified { ns: modified_ns, size }),
        }
    }

    /// Reads the text form back.
    ///
    /// # Errors
    /// [`GenerationError`] when the text is not one that `Display` writes.
    pub fn parse(text: &str) -> Result<Self, GenerationError> {
        parse_token(text)
            .map(Self)
            .ok_or_else(|| GenerationError { text: text.to_owned() })
    }

    /// Whether a request can name this version, so that the store refuses to answer from another one. A file of a weak
    /// generation has to be read whole, in one request.
    #[must_use]
    pub fn is_strong(&self) -> bool {
        !matches!(self.0, Token::Modified { .. })
    }

    /// The ETag, without quotes.
    #[must_use]
    pub fn etag(&self) -> Option<&str> {
        match &self.0 {
            Token::Etag(etag) => Some(etag),
            Token::Version(_) | Token::Modified { .. } => None,
        }
    }

    /// The store's version id.
    #[must_use]
    pub fn version(&self) -> Option<&str> {
        match &self.0 {
            Token::Version(version) => Some(version),
            Token::Etag(_) | Token::Modified { .. } => None,
        }
    }
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Token::Version(version) => write!(f, "version:{version}"),
            Token::Etag(etag) => write!(f, "etag:{etag}"),
            Token::Modified { ns, size } => write!(f, "modified:{ns}:{size}"),
        }
    }
}

/// One version of one file: the only way to name bytes in a cache.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct FileKey {
    /// The canonical URI, as the mount table writes it.
    pub uri: Arc<str>,
    /// Which version of the file.
    pub generation: Generation,
    /// Its length in bytes.
    pub size: u64,
}

impl FileKey {
    /// The hash of the whole key: xxh3-128 over URI, generation and size, each with its length before it, so that no
    /// two keys write the same bytes.
    #[must_use]
    pub fn id(&self) -> FileId {
        let mut hash = Xxh3::new();
        let mut part = |pieces: &[&str]| {
            let length: usize = pieces.iter().map(|piece| piece.len()).sum();
            hash.update(&to_u64(length).to_le_bytes());
            pieces.iter().for_each(|piece| hash.update(piece.as_bytes()));
        };
        part(&[&self.uri]);
        // As its text form, which is made for the weak ones alone: a read asks for its file's id many times.
        match &self.generation.0 {
            Token::Version(version) => part(&["version:", version]),
            Token::Etag(etag) => part(&["etag:", etag]),
            Token::Modified { .. } => part(&[&self.generation.to_string()]),
        }
        hash.update(&self.size.to_le_bytes());
        FileId(hash.digest128())
    }
}

/// The hash of a [`FileKey`]; small, `Copy`, and what the tiers look up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileId(u128);

impl FileId {
    /// The id that was written down as this number: a file's name on disk is one.
    pub(crate) const fn from_u128(id: u128) -> Self {
        Self(id)
    }

    /// The id as a number, to be written down.
    pub(crate) const fn as_u128(self) -> u128 {
        self.0
    }

    /// Reads the text form back; none where it is not one that `Display` writes.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let id = u128::from_str_radix(text, 16).ok().map(Self)?;
        (id.to_string() == text).then_some(id)
    }
}

impl fmt::Display for FileId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// The index of a row group in its file, from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RowGroup(pub u32);

/// The index of a page in its file, from 0. The page's size is the tier's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PageIndex(pub u64);

/// Where bytes came from. The order is from best to worst, so the worst of several is their maximum.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Source {
    /// This process's memory.
    Memory,
    /// This machine's disks.
    Disk,
    /// Another node of the cluster.
    Peer,
    /// The under file system.
    Store,
}

impl Source {
    /// `memory`, `disk`, `peer` or `store`: as it is written for clients and in metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Disk => "disk",
            Self::Peer => "peer",
            Self::Store => "store",
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The sum of sizes, or the most that can be said: sizes that a file claims are believed only in part.
pub(crate) fn sum_of<'a>(bytes: impl IntoIterator<Item = &'a u64>) -> u64 {
    bytes.into_iter().fold(0, |sum, bytes| bytes.saturating_add(sum))
}

/// A length in memory as a length in a file: lossless on every platform that Rust has.
pub(crate) fn to_u64(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX)
}

/// A length in a file as a length in memory. Where it does not fit, the largest there is: an allocation or a slice of
/// that length is then refused, instead of a wrong one being made.
pub(crate) fn to_usize(length: u64) -> usize {
    usize::try_from(length).unwrap_or(usize::MAX)
}

fn strong_etag(etag: &str) -> Option<&str> {
    let bare = etag.strip_prefix('"').and_then(|e| e.strip_suffix('"')).unwrap_or(etag);
    let weak = etag.starts_with("W/") || etag.starts_with("w/");
    (!weak && !bare.is_empty()).then_some(bare)
}

fn parse_token(text: &str) -> Option<Token> {
    let (kind, value) = text.split_once(':')?;
    match kind {
        "version" if !value.is_empty() => Some(Token::Version(value.into())),
        "etag" if !value.is_empty() => Some(Token::Etag(value.into())),
        "modified" => {
            let (ns, size) = value.split_once(':')?;
            Some(Token::Modified {
                ns: ns.parse().ok()?,
                size: size.parse().ok()?,
            })
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_generation_is_version_then_strong_etag_then_time_and_size() {
        let of = |version, etag| Generation::from_parts(version, etag, -5, 7).to_string();
        assert_eq!(of(Some("v1"), Some("\"e\"")), "version:v1");
        assert_eq!(of(None, Some("\"e\"")), "etag:e");
        assert_eq!(of(None, Some("e")), "etag:e");
        assert_eq!(of(None, Some("W/\"e\"")), "modified:-5:7");
        assert_eq!(of(None, Some("\"\"")), "modified:-5:7");
        assert_eq!(of(Some(""), None), "modified:-5:7");
    }

    #[test]
    fn the_text_form_reads_back() {
        for text in ["version:a:b", "etag:x-1:2", "modified:-5:7"] {
            assert_eq!(Generation::parse(text).unwrap().to_string(), text);
        }
        for text in [
            "",
            "etag:",
            "version:",
            "modified:1",
            "modified:a:b",
            "mtime:1:2",
            "etag",
        ] {
            Generation::parse(text).unwrap_err();
        }
        assert!(Generation::parse("etag:x").unwrap().is_strong());
        assert!(!Generation::parse("modified:1:2").unwrap().is_strong());
    }

    #[test]
    fn every_part_of_a_key_is_in_its_id() {
        let key = |uri: &str, generation: &str, size| FileKey {
            uri: uri.into(),
            generation: Generation::parse(generation).unwrap(),
            size,
        };
        let ids = [
            key("s3://b/a", "etag:x", 1).id(),
            key("s3://b/b", "etag:x", 1).id(),
            key("s3://b/a", "etag:y", 1).id(),
            key("s3://b/a", "version:x", 1).id(),
            key("s3://b/a", "etag:x", 2).id(),
        ];
        for (i, a) in ids.iter().enumerate() {
            assert!(ids[i + 1..].iter().all(|b| a != b));
        }
        assert_eq!(ids[0], key("s3://b/a", "etag:x", 1).id());
        for id in ids {
            assert_eq!(FileId::parse(&id.to_string()), Some(id));
        }
        for text in ["", "0", "+f", &"f".repeat(33), &"F".repeat(32)] {
            assert_eq!(FileId::parse(text), None, "{text}");
        }
    }

    /// Ids are written down on disk, and asked for by other nodes: they are the same however they are made.
    #[test]
    fn an_id_is_made_of_the_generation_s_text_form() {
        for text in ["version:v1", "etag:0x8D", "modified:-5:70"] {
            let key = FileKey {
                uri: "s3://b/a".into(),
                generation: Generation::parse(text).unwrap(),
                size: 70,
            };
            let mut bytes = Vec::new();
            for part in ["s3://b/a", text] {
                bytes.extend(to_u64(part.len()).to_le_bytes());
                bytes.extend(part.as_bytes());
            }
            bytes.extend(70_u64.to_le_bytes());
            assert_eq!(key.id(), FileId(xxhash_rust::xxh3::xxh3_128(&bytes)), "{text}");
        }
    }

    #[test]
    fn sources_order_from_best_to_worst() {
        assert_eq!(
            [Source::Disk, Source::Store, Source::Peer, Source::Memory].iter().max(),
            Some(&Source::Store)
        );
    }
}
