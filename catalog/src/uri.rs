//! URIs of under storage, in the one form that is compared and hashed: `scheme://authority/key`.
//!
//! A file is cached under its URI, so one file must have one URI: aliases of schemes are resolved, hosts are
//! lower case, default ports are dropped, and the key follows the rules of [`crate::path`].
//!
//! The key is raw text, as object stores, Spark and fsspec have it: `s3://b/a%20b` is the object whose name
//! holds a percent sign, and `s3://b/a b` is the one whose name holds a space.
//!
//! Why not the `url` crate's own parser: it encodes and decodes keys, resolves `..` instead of refusing it, and
//! lower-cases bucket names. Only hosts are left to it.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::error::Sentence;
use crate::path::{MAX_PATH_BYTES, PathError, canonical_relative, strip_relative};

/// The longest authority (bucket, container, or host with port), in bytes: the longest DNS name, a colon, a port.
pub const MAX_AUTHORITY_BYTES: usize = 253 + 1 + 5;

/// The longest URI that can be canonical, in bytes.
pub const MAX_URI_BYTES: usize = "memory://".len() + MAX_AUTHORITY_BYTES + 1 + MAX_PATH_BYTES;

/// The longest scheme that is told back in an error, in bytes.
const MAX_SCHEME_BYTES: usize = 16;

/// The kinds of under storage that a URI can name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Scheme {
    /// A folder of this machine; the authority is empty.
    File,
    /// Amazon S3, or a store that speaks its protocol; the authority is a bucket.
    S3,
    /// Google Cloud Storage; the authority is a bucket.
    Gs,
    /// Azure Blob Storage; the authority is a container, the account is an option of the mount.
    Az,
    /// A plain HTTP server; the authority is host and port.
    Http,
    /// An HTTP server behind TLS; the authority is host and port.
    Https,
    /// Storage in this process's memory, for tests; the authority may be empty.
    Memory,
}

impl Scheme {
    /// Every scheme with the names by which it goes, the canonical one first.
    const NAMES: [(Self, &'static [&'static str]); 7] = [
        (Self::File, &["file"]),
        (Self::S3, &["s3", "s3a", "s3n"]),
        (Self::Gs, &["gs", "gcs"]),
        (Self::Az, &["az", "azure"]),
        (Self::Http, &["http"]),
        (Self::Https, &["https"]),
        (Self::Memory, &["memory"]),
    ];

    /// The canonical name, as it stands before `://`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::S3 => "s3",
            Self::Gs => "gs",
            Self::Az => "az",
            Self::Http => "http",
            Self::Https => "https",
            Self::Memory => "memory",
        }
    }

    /// Whether the authority is a host, and the key therefore part of a URL.
    pub fn is_http(self) -> bool {
        matches!(self, Self::Http | Self::Https)
    }

    fn from_name(name: &str) -> Option<Self> {
        let name = name.to_ascii_lowercase();
        Self::NAMES
            .iter()
            .find(|(_, names)| names.contains(&name.as_str()))
            .map(|(scheme, _)| *scheme)
    }
}

impl fmt::Display for Scheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A canonical URI of under storage: a bucket, a folder or a file.
///
/// `Display` gives the canonical text, which [`UfsUri::parse`] reads back to the same value. It ends with a
/// slash only where nothing else follows the scheme (`file:///`).
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct UfsUri {
    text: Arc<str>,
    scheme: Scheme,
    authority_end: usize,
}

impl UfsUri {
    /// Reads a URI as a user writes it.
    ///
    /// Query and fragment are refused for `http` and `https`, and for every scheme right after the authority
    /// (`s3://bucket?region=x`). Elsewhere `?` and `#` are part of the key, for objects may be called so.
    ///
    /// # Errors
    /// Everything that [`UriError`] lists. No error repeats the text, which may hold a password.
    pub fn parse(text: &str) -> Result<Self, UriError> {
        let (name, rest) = text.split_once("://").ok_or(UriError::NoScheme)?;
        let scheme = Scheme::from_name(name).ok_or_else(|| unknown_scheme(name))?;
        let authority_end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, key) = rest.split_at(authority_end);
        let authority = canonical_authority(scheme, authority)?;
        if !key.starts_with('/') {
            check_no_query(key)?;
        }
        Self::build(scheme, &authority, key)
    }

    /// The kind of storage.
    pub fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// The bucket, the container, or the host with its port where that is not the scheme's default.
    /// Empty for `file`.
    pub fn authority(&self) -> &str {
        &self.text[self.scheme.as_str().len() + "://".len()..self.authority_end]
    }

    /// The raw text after the authority, without leading and trailing slashes. Empty for a whole bucket.
    pub fn key(&self) -> &str {
        self.text[self.authority_end..].trim_start_matches('/')
    }

    /// The canonical text.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The URI with `relative` appended to the key. The result is this URI or below it, always.
    ///
    /// # Errors
    /// [`UriError::Key`], and for `http` and `https` [`UriError::Query`] and [`UriError::Fragment`].
    pub fn join(&self, relative: &str) -> Result<Self, UriError> {
        Self::build(self.scheme, self.authority(), &format!("{}/{relative}", self.key()))
    }

    /// What is left of this URI's key below `base`, without a leading slash: `""` when they are equal, `None`
    /// when this URI is not `base` and not below it.
    pub fn strip_prefix(&self, base: &Self) -> Option<&str> {
        if self.scheme != base.scheme || self.authority() != base.authority() {
            return None;
        }
        strip_relative(self.key(), base.key())
    }

    fn build(scheme: Scheme, authority: &str, key: &str) -> Result<Self, UriError> {
        if scheme.is_http() {
            check_no_query(key)?;
        }
        let key = canonical_relative(key).map_err(UriError::Key)?;
        let mut text = format!("{scheme}://{authority}");
        let authority_end = text.len();
        if !key.is_empty() || authority.is_empty() {
            text.push('/');
            text.push_str(&key);
        }
        Ok(Self {
            text: text.into(),
            scheme,
            authority_end,
        })
    }
}

impl fmt::Display for UfsUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for UfsUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.text, f)
    }
}

impl FromStr for UfsUri {
    type Err = UriError;

    fn from_str(text: &str) -> Result<Self, UriError> {
        Self::parse(text)
    }
}

impl TryFrom<String> for UfsUri {
    type Error = Sentence;

    fn try_from(text: String) -> Result<Self, Sentence> {
        Self::parse(&text).map_err(|error| Sentence::of(&error))
    }
}

impl From<UfsUri> for String {
    fn from(uri: UfsUri) -> Self {
        uri.as_str().to_owned()
    }
}

/// Why a text is no URI of under storage.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum UriError {
    /// There is no scheme followed by `://`.
    #[error("a URI must have the form scheme://authority/key")]
    NoScheme,
    /// The scheme is none of those known.
    #[error("unknown scheme {scheme:?}: known are file, s3, gs, az, http, https and memory")]
    UnknownScheme {
        /// The scheme as written.
        scheme: String,
    },
    /// There is a user name, and perhaps a password, before the authority.
    #[error("a URI may not carry a user name or password: give credentials as mount options, by reference")]
    UserInfo,
    /// There is a query.
    #[error("a URI may not carry a query ('?'): give settings as mount options")]
    Query,
    /// There is a fragment.
    #[error("a URI may not carry a fragment ('#')")]
    Fragment,
    /// The bucket, container or host is missing or cannot be one.
    #[error("the authority of a {scheme}:// URI {reason}")]
    Authority {
        /// The scheme, which decides what an authority may be.
        scheme: Scheme,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The key breaks a rule that holds for paths too.
    #[error("the key of the URI is not valid")]
    Key(#[source] PathError),
}

fn unknown_scheme(name: &str) -> UriError {
    let is_name = |c: char| c.is_ascii_alphanumeric() || "+-.".contains(c);
    if name.is_empty() || name.len() > MAX_SCHEME_BYTES || !name.chars().all(is_name) {
        return UriError::NoScheme;
    }
    UriError::UnknownScheme {
        scheme: name.to_owned(),
    }
}

fn check_no_query(key: &str) -> Result<(), UriError> {
    match key.find(['?', '#']).map(|at| &key[at..=at]) {
        Some("?") => Err(UriError::Query),
        Some(_) => Err(UriError::Fragment),
        None => Ok(()),
    }
}

fn canonical_authority(scheme: Scheme, authority: &str) -> Result<String, UriError> {
    if authority.contains('@') {
        return Err(UriError::UserInfo);
    }
    let checked = if authority.len() > MAX_AUTHORITY_BYTES {
        Err("is too long")
    } else {
        match scheme {
            Scheme::File if authority.is_empty() || authority.eq_ignore_ascii_case("localhost") => Ok(String::new()),
            Scheme::File => Err("must be empty, as in file:///folder"),
            Scheme::Memory if authority.is_empty() => Ok(String::new()),
            Scheme::S3 | Scheme::Gs | Scheme::Az | Scheme::Memory => bucket(authority),
            Scheme::Http => host_and_port(authority, 80),
            Scheme::Https => host_and_port(authority, 443),
        }
    };
    checked.map_err(|reason| UriError::Authority { scheme, reason })
}

/// Lets through what any of the stores allows in a name, and nothing that has a meaning in a URL: the name
/// becomes part of a host or of a path, where `..` would climb.
fn bucket(name: &str) -> Result<String, &'static str> {
    if name.is_empty() {
        return Err("is missing: a bucket or container must be named");
    }
    if matches!(name, "." | "..") || !name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.$".contains(c)) {
        return Err("is no bucket or container name: letters, digits, '-', '_', '.' and '$' are allowed");
    }
    Ok(name.to_owned())
}

fn host_and_port(authority: &str, default_port: u16) -> Result<String, &'static str> {
    let (host, port) = match authority.rsplit_once(':') {
        // A colon inside brackets belongs to an IPv6 address.
        Some((host, port)) if !port.ends_with(']') => (host, port),
        _ => (authority, ""),
    };
    let host = url::Host::parse(host).map_err(|_| "is no host name or address")?;
    if port.is_empty() {
        return Ok(host.to_string());
    }
    let digits = port.bytes().all(|byte| byte.is_ascii_digit());
    match port.parse::<u16>() {
        Ok(port) if digits && port == default_port => Ok(host.to_string()),
        Ok(port) if digits && port != 0 => Ok(format!("{host}:{port}")),
        _ => Err("has a port that is not a number from 1 to 65535"),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn uri(text: &str) -> UfsUri {
        UfsUri::parse(text).unwrap()
    }

    #[test]
    fn one_thing_has_one_text() {
        for (text, canonical) in [
            ("s3://bucket", "s3://bucket"),
            ("s3://bucket/", "s3://bucket"),
            ("S3A://Bucket//a//b/", "s3://Bucket/a/b"),
            ("s3n://b/k", "s3://b/k"),
            ("gcs://b/k", "gs://b/k"),
            ("azure://c/k", "az://c/k"),
            ("az://$web/k", "az://$web/k"),
            ("file:///data/x/", "file:///data/x"),
            ("file://localhost/data", "file:///data"),
            ("file://", "file:///"),
            ("memory://", "memory:///"),
            ("memory:///a", "memory:///a"),
            ("memory://one/a", "memory://one/a"),
            ("HTTP://Example.COM:80/A", "http://example.com/A"),
            ("http://example.com:443/a", "http://example.com:443/a"),
            ("https://example.com:0443", "https://example.com"),
            ("https://example.com:/a", "https://example.com/a"),
            ("http://[::1]:8080/a", "http://[::1]:8080/a"),
            ("http://[0:0::1]/a", "http://[::1]/a"),
            ("http://0x7f.1:8333/a", "http://127.0.0.1:8333/a"),
            ("http://bücher.example/a", "http://xn--bcher-kva.example/a"),
        ] {
            assert_eq!(uri(text).to_string(), canonical, "{text}");
        }
    }

    #[test]
    fn keys_are_raw_text() {
        for key in ["a b", "a%20b", "a%2Fb", "a+b", "ä/日本", "a?b#c", "?", "@:", "%"] {
            let read = uri(&format!("s3://bucket/{key}"));
            assert_eq!(read.key(), key);
            assert_eq!(read.to_string(), format!("s3://bucket/{key}"));
        }
    }

    #[test]
    fn a_uri_knows_its_parts() {
        let read = uri("s3://bucket/a/b");
        assert_eq!(
            (read.scheme(), read.authority(), read.key()),
            (Scheme::S3, "bucket", "a/b")
        );
        let read = uri("file:///");
        assert_eq!((read.scheme(), read.authority(), read.key()), (Scheme::File, "", ""));
        let read = uri("http://h:81");
        assert_eq!(
            (read.scheme(), read.authority(), read.key()),
            (Scheme::Http, "h:81", "")
        );
    }

    #[test]
    fn what_is_no_uri_is_refused_with_its_reason() {
        assert_eq!(UfsUri::parse("/lake"), Err(UriError::NoScheme));
        assert_eq!(UfsUri::parse("s3:/bucket"), Err(UriError::NoScheme));
        assert_eq!(UfsUri::parse("://bucket"), Err(UriError::NoScheme));
        assert_eq!(
            UfsUri::parse("ftp://h/a"),
            Err(UriError::UnknownScheme { scheme: "ftp".into() })
        );
        assert_eq!(UfsUri::parse("https://h/a?sig=x"), Err(UriError::Query));
        assert_eq!(UfsUri::parse("https://h/a#x"), Err(UriError::Fragment));
        assert_eq!(UfsUri::parse("s3://bucket?region=x"), Err(UriError::Query));
        assert_eq!(UfsUri::parse("s3://bucket#x"), Err(UriError::Fragment));
        assert_eq!(uri("http://h").join("a?b"), Err(UriError::Query));
    }

    #[test]
    fn authorities_are_checked_by_scheme() {
        for text in [
            "s3://",
            "s3:///key",
            "gs://..",
            "s3://./a",
            "s3://a b",
            "s3://a:1/b",
            "s3://a%2e/b",
            "s3://a\\b/c",
            "az://ä",
            "file://host/a",
            "http://",
            "http:///a",
            "http://h:0",
            "http://h:65536",
            "http://h:+80",
            "http://a b",
            "http://[::1",
            "memory://a b",
        ] {
            assert!(
                matches!(UfsUri::parse(text), Err(UriError::Authority { .. })),
                "{text}: {:?}",
                UfsUri::parse(text)
            );
        }
        let long = format!("s3://{}", "b".repeat(MAX_AUTHORITY_BYTES + 1));
        assert!(matches!(
            UfsUri::parse(&long),
            Err(UriError::Authority {
                reason: "is too long",
                ..
            })
        ));
    }

    #[test]
    fn keys_obey_the_rules_of_paths() {
        for key in ["..", "a/../b", "%2e%2e/b", ".%2E", "a\0", "a\\b", "a\n"] {
            assert!(
                matches!(UfsUri::parse(&format!("s3://b/{key}")), Err(UriError::Key(_))),
                "{key:?}"
            );
            assert!(matches!(uri("s3://b/k").join(key), Err(UriError::Key(_))), "{key:?}");
        }
    }

    #[test]
    fn passwords_are_refused_and_not_told_back() {
        for text in [
            "s3://AKIA:hunter2@bucket/k",
            "https://u:hunter2@h/a",
            "https://u@h",
            "s3://AKIA:hunter2/x@bucket/k",
            "https://h/a?sig=hunter2",
            "hunter2://x",
            "what is hunter2://x",
        ] {
            let error = UfsUri::parse(text).unwrap_err();
            let tells = format!("{error} {error:?}").contains("hunter2");
            assert!(!tells || matches!(error, UriError::UnknownScheme { .. }), "{error:?}");
        }
        assert_eq!(UfsUri::parse("https://u:p@h/a"), Err(UriError::UserInfo));
    }

    #[test]
    fn a_prefix_ends_at_a_slash_and_stays_in_its_bucket() {
        let file = uri("s3://bucket/a/b");
        assert_eq!(file.strip_prefix(&uri("s3://bucket")), Some("a/b"));
        assert_eq!(file.strip_prefix(&uri("s3://bucket/a")), Some("b"));
        assert_eq!(file.strip_prefix(&file), Some(""));
        assert_eq!(file.strip_prefix(&uri("s3://bucket/a/b/c")), None);
        assert_eq!(uri("s3://bucket/ab").strip_prefix(&uri("s3://bucket/a")), None);
        assert_eq!(uri("s3://bucket2/a").strip_prefix(&uri("s3://bucket")), None);
        assert_eq!(uri("gs://bucket/a").strip_prefix(&uri("s3://bucket")), None);
        assert_eq!(uri("file:///a").strip_prefix(&uri("file:///")), Some("a"));
    }

    #[test]
    fn names_and_texts_of_schemes_agree() {
        for (scheme, names) in Scheme::NAMES {
            assert_eq!(names[0], scheme.as_str());
            assert!(names.iter().all(|name| Scheme::from_name(name) == Some(scheme)));
        }
    }

    #[test]
    fn serde_reads_and_writes_the_canonical_text() {
        let read: UfsUri = serde_json::from_str("\"s3a://b//k/\"").unwrap();
        assert_eq!(serde_json::to_string(&read).unwrap(), "\"s3://b/k\"");
        assert!(serde_json::from_str::<UfsUri>("\"b/k\"").is_err());
    }

    fn tricky() -> impl Strategy<Value = String> {
        let scheme = prop::sample::select(vec!["s3", "S3a", "gs", "az", "file", "http", "HTTPS", "memory", "x"]);
        let authority = prop::sample::select(vec![
            "",
            "b",
            "B.c",
            "localhost",
            "H:80",
            "h:81",
            "[::1]:443",
            "u@h",
            "..",
            "a b",
        ]);
        let piece = prop_oneof![
            3 => Just("/".to_owned()),
            2 => prop::sample::select(vec![".", "..", "%2e", "%2F", "?", "#", "@", ":", "://", "\\", " ", "a"]).prop_map(str::to_owned),
            1 => "\\PC{0,3}",
        ];
        let key = prop::collection::vec(piece, 0..8).prop_map(|pieces| pieces.concat());
        (scheme, authority, key).prop_map(|(scheme, authority, key)| format!("{scheme}://{authority}{key}"))
    }

    proptest! {
        #[test]
        fn canonical_form_is_a_fixed_point(text in tricky()) {
            if let Ok(once) = UfsUri::parse(&text) {
                prop_assert_eq!(UfsUri::parse(once.as_str()), Ok(once.clone()));
                prop_assert!(once.as_str().len() <= MAX_URI_BYTES);
                let rebuilt = format!("{}://{}/{}", once.scheme(), once.authority(), once.key());
                prop_assert_eq!(UfsUri::parse(&rebuilt), Ok(once));
            }
        }

        #[test]
        fn join_never_leaves_its_base_and_reads_back(text in tricky(), relative in "[a-z./%2e?# ]{0,8}") {
            if let Ok(base) = UfsUri::parse(&text) && let Ok(joined) = base.join(&relative) {
                let rest = joined.strip_prefix(&base).map(str::to_owned);
                prop_assert!(rest.is_some(), "{joined} left {base}");
                prop_assert_eq!(base.join(&rest.unwrap()), Ok(joined.clone()));
                prop_assert_eq!(UfsUri::parse(joined.as_str()), Ok(joined));
            }
        }

        #[test]
        fn any_text_is_read_or_refused(text in any::<String>()) {
            if let Err(error) = UfsUri::parse(&text) {
                prop_assert!(!error.to_string().is_empty());
            }
        }
    }
}
