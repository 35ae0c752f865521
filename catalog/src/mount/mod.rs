//! Mounts: which under storage stands at which path of the namespace, and how it is to be treated.
//!
//! | file | what is in it |
//! |---|---|
//! | `mount/mod.rs` | one mount, its body in JSON, what can be wrong |
//! | `mount/options.rs` | which options may be given, and which must be references to secrets |
//! | `mount/freshness.rs` | how old a listing may be |
//! | `mount/retention.rs` | what may be kept in a cache, for how long and how much |
//! | `mount/table.rs` | all mounts together: longest prefix, shadowing, URIs |
//!
//! An option is either a policy of ours ([`POLICY_KEYS`]), checked here, or it belongs to the store and is
//! checked where stores are opened; here only secrets among them are seen to.

mod freshness;
mod options;
mod retention;
mod table;

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

pub use freshness::{Freshness, FreshnessError};
pub use options::{MAX_OPTION_KEY_BYTES, MAX_OPTION_VALUE_BYTES, MAX_OPTIONS, is_secret_key};
pub use retention::{
    CACHE_QUOTA_KEY, CACHE_RULES_KEY, CACHE_TTL_KEY, KeepRule, Retention, RetentionError, RetentionRule,
};
pub use table::{MAX_MOUNTS, MountTable, Resolved};

use crate::path::NsPath;
use crate::secret::SecretError;
use crate::uri::{Scheme, UfsUri};

/// The option that holds a mount's [`Freshness`].
pub const FRESHNESS_KEY: &str = "freshness";

/// The option that says how many workers own each split.
pub const REPLICAS_KEY: &str = "replicas";

/// The most replicas that a mount may ask for.
pub const MAX_REPLICAS: usize = 16;

/// The options that are ours and not the store's.
pub const POLICY_KEYS: &[&str] = &[
    FRESHNESS_KEY,
    CACHE_TTL_KEY,
    CACHE_QUOTA_KEY,
    CACHE_RULES_KEY,
    REPLICAS_KEY,
];

/// Under storage bound to a path of the namespace.
///
/// In JSON it is `{"path", "uri", "options": {}, "read_only": false}`; the last two may be left out, an unknown
/// key is an error that names it, and an option's value may be a string, a number or a boolean.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Body")]
#[non_exhaustive]
pub struct Mount {
    /// Where it stands in the namespace.
    pub path: NsPath,
    /// What stands there: a bucket, a folder of one, a folder of this machine, or a part of a web server.
    pub uri: UfsUri,
    /// Policies and the store's own settings. Secrets among them are references.
    pub options: BTreeMap<String, String>,
    /// Whether writes below it are refused.
    pub read_only: bool,
}

impl Mount {
    /// Puts a mount together and checks it, without asking the storage anything.
    ///
    /// # Errors
    /// [`MountError`]: an option that is malformed, a policy that cannot be read, a secret given in plain text,
    /// or a query in the URI. No error repeats the value of an option.
    pub fn new(
        path: NsPath,
        uri: UfsUri,
        options: BTreeMap<String, String>,
        read_only: bool,
    ) -> Result<Self, MountError> {
        let mount = Self {
            path,
            uri,
            options,
            read_only,
        };
        mount.validate()?;
        Ok(mount)
    }

    /// How old what is known of this mount may be; one minute when nothing is said.
    ///
    /// # Errors
    /// [`MountError::Freshness`], only when the option was changed after the mount was made.
    pub fn freshness(&self) -> Result<Freshness, MountError> {
        match self.options.get(FRESHNESS_KEY) {
            None => Ok(Freshness::default()),
            Some(text) => text.parse().map_err(MountError::Freshness),
        }
    }

    /// What of it may be kept in a cache; without bounds when nothing is said.
    ///
    /// # Errors
    /// [`MountError::Retention`], only when the options were changed after the mount was made.
    pub fn retention(&self) -> Result<Retention, MountError> {
        Retention::of(&self.options).map_err(MountError::Retention)
    }

    /// How many workers own each split of it; one when nothing is said.
    ///
    /// # Errors
    /// [`MountError::Replicas`], only when the option was changed after the mount was made.
    pub fn replicas(&self) -> Result<usize, MountError> {
        let Some(text) = self.options.get(REPLICAS_KEY) else {
            return Ok(1);
        };
        let said = text
            .parse()
            .ok()
            .filter(|replicas| (1..=MAX_REPLICAS).contains(replicas));
        said.ok_or(MountError::Replicas)
    }

    /// The options that are the store's: all but those in [`POLICY_KEYS`].
    pub fn store_options(&self) -> impl Iterator<Item = (&str, &str)> {
        let options = self.options.iter().map(|(key, value)| (key.as_str(), value.as_str()));
        options.filter(|(key, _)| !POLICY_KEYS.contains(key))
    }

    /// Checks what [`Mount::new`] checks, since the fields may have been changed meanwhile.
    fn validate(&self) -> Result<(), MountError> {
        // In a file's name these are plain characters; in a bucket's URI somebody means settings by them.
        if self.uri.scheme() != Scheme::File && self.uri.key().contains(['?', '#']) {
            return Err(MountError::QueryInUri);
        }
        options::check(&self.options)?;
        self.freshness()?;
        self.replicas()?;
        self.retention().map(|_| ())
    }
}

impl fmt::Debug for Mount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mount")
            .field("path", &self.path)
            .field("uri", &self.uri)
            .field("options", &options::Redacted(&self.options))
            .field("read_only", &self.read_only)
            .finish()
    }
}

/// A mount as it comes in, before it is checked.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Body {
    path: NsPath,
    uri: UfsUri,
    #[serde(default, deserialize_with = "options::deserialize")]
    options: BTreeMap<String, String>,
    #[serde(default)]
    read_only: bool,
}

impl TryFrom<Body> for Mount {
    type Error = MountError;

    fn try_from(body: Body) -> Result<Self, MountError> {
        Self::new(body.path, body.uri, body.options, body.read_only)
    }
}

/// What is wrong with a mount, or with a change of the mount table.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MountError {
    /// There are more options than [`MAX_OPTIONS`].
    #[error("{count} options are too many: the limit is {MAX_OPTIONS}")]
    TooManyOptions {
        /// How many there are.
        count: usize,
    },
    /// An option's key is not made of lower-case letters, digits and `_`, or is longer than
    /// [`MAX_OPTION_KEY_BYTES`].
    #[error("an option's key must be 1 to {MAX_OPTION_KEY_BYTES} lower-case letters, digits and '_': {key:?} is not")]
    OptionKey {
        /// The key, cut to [`MAX_OPTION_KEY_BYTES`].
        key: String,
    },
    /// An option's value is longer than [`MAX_OPTION_VALUE_BYTES`].
    #[error("the value of option {key:?} has {bytes} bytes: the limit is {MAX_OPTION_VALUE_BYTES} bytes")]
    OptionTooLong {
        /// The option.
        key: String,
        /// The length of its value.
        bytes: usize,
    },
    /// An option's value holds control characters, or a URL with a password.
    #[error("the value of option {key:?} {reason}")]
    OptionValue {
        /// The option.
        key: String,
        /// What is wrong with its value.
        reason: &'static str,
    },
    /// An option that is a secret was given in plain text.
    #[error("option {key:?} is a secret: give it by reference, as env:NAME or file:/path")]
    PlainSecret {
        /// The option.
        key: String,
    },
    /// An option that is a secret holds a reference that cannot be read.
    #[error("option {key:?} is not a valid reference to a secret")]
    SecretReference {
        /// The option.
        key: String,
        /// What is wrong with the reference.
        #[source]
        source: SecretError,
    },
    /// The option `freshness` cannot be read.
    #[error("option \"freshness\" cannot be read")]
    Freshness(#[source] FreshnessError),
    /// One of the options `cache_ttl`, `cache_quota`, `cache_rules` cannot be read.
    #[error(transparent)]
    Retention(RetentionError),
    /// The option `replicas` cannot be read.
    #[error("option \"replicas\" wants a whole number, 1 to {MAX_REPLICAS}")]
    Replicas,
    /// The URI holds `?` or `#`.
    #[error("the URI of a mount may not carry a query or fragment: give settings as options")]
    QueryInUri,
    /// There is a mount at this path already.
    #[error("{path} is mounted already")]
    AlreadyMounted {
        /// The path.
        path: NsPath,
    },
    /// There is no mount at this path.
    #[error("nothing is mounted at {path}")]
    NotMounted {
        /// The path.
        path: NsPath,
    },
    /// Other mounts stand below this one and would lose their place.
    #[error("{path} has mounts below it, which must be removed first: {}", list(paths))]
    HasMountsBelow {
        /// The mount that was to be removed.
        path: NsPath,
        /// The mounts below it, in order.
        paths: Vec<NsPath>,
    },
    /// There are [`MAX_MOUNTS`] mounts already.
    #[error("there are {MAX_MOUNTS} mounts already, which is the limit")]
    TooManyMounts,
}

/// The first few of many paths, for a message.
fn list(paths: &[NsPath]) -> String {
    const SHOWN: usize = 5;
    let mut text = paths
        .iter()
        .take(SHOWN)
        .map(NsPath::as_str)
        .collect::<Vec<_>>()
        .join(", ");
    if paths.len() > SHOWN {
        text += &format!(" and {} more", paths.len() - SHOWN);
    }
    text
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn with_options(options: &[(&str, &str)]) -> Result<Mount, MountError> {
        let options = options
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect();
        Mount::new(
            NsPath::parse("/lake").unwrap(),
            UfsUri::parse("s3://bucket/prefix").unwrap(),
            options,
            false,
        )
    }

    #[test]
    fn policies_are_ours_and_the_rest_is_the_stores() {
        let mount = with_options(&[
            ("region", "eu"),
            ("freshness", "immutable"),
            ("endpoint", "http://127.0.0.1:8333"),
        ])
        .unwrap();
        assert_eq!(mount.freshness().unwrap(), Freshness::Immutable);
        let options: Vec<_> = mount.store_options().collect();
        assert_eq!(options, [("endpoint", "http://127.0.0.1:8333"), ("region", "eu")]);
        let plain = with_options(&[]).unwrap();
        assert_eq!(plain.freshness().unwrap(), Freshness::MaxAge(Duration::from_secs(60)));
        assert!(matches!(
            with_options(&[("freshness", "sometimes")]),
            Err(MountError::Freshness(_))
        ));
    }

    #[test]
    fn a_secret_must_be_a_reference() {
        for key in [
            "secret_access_key",
            "session_token",
            "access_key",
            "sas_token",
            "service_account_key",
            "bearer_token",
            "password",
        ] {
            let error = with_options(&[(key, "hunter2")]).unwrap_err();
            assert!(
                matches!(&error, MountError::PlainSecret { key: named } if named == key),
                "{error:?}"
            );
            assert!(with_options(&[(key, "env:NAME")]).is_ok());
            assert!(with_options(&[(key, "file:/run/key")]).is_ok());
            assert!(matches!(
                with_options(&[(key, "file:key")]),
                Err(MountError::SecretReference { .. })
            ));
        }
        assert!(with_options(&[("access_key_id", "AKIA")]).is_ok());
    }

    #[test]
    fn a_query_in_the_uri_is_refused_where_it_could_be_meant() {
        let at = |uri: &str| Mount::new(NsPath::root(), UfsUri::parse(uri).unwrap(), BTreeMap::new(), false);
        assert!(matches!(at("s3://bucket/a?region=eu"), Err(MountError::QueryInUri)));
        assert!(matches!(at("gs://bucket/a#b"), Err(MountError::QueryInUri)));
        assert!(at("file:///home/C#/data?").is_ok());
    }

    #[test]
    fn the_body_is_the_contracts() {
        let mount: Mount = serde_json::from_str(r#"{"path": "/lake/", "uri": "s3a://bucket/prefix/"}"#).unwrap();
        assert_eq!(mount, with_options(&[]).unwrap());
        let text = r#"{"path":"/lake","uri":"s3://bucket/prefix","options":{"allow_http":"true","concurrency":"8","region":"eu"},"read_only":true}"#;
        let given = text.replace("\"true\"", "true").replace("\"8\"", "8");
        let mount: Mount = serde_json::from_str(&given).unwrap();
        assert_eq!(serde_json::to_string(&mount).unwrap(), text);
        assert_eq!(serde_json::from_str::<Mount>(text).unwrap(), mount);
    }

    #[test]
    fn a_wrong_body_is_refused_by_name() {
        for (text, named) in [
            (r#"{"path":"/a"}"#, "uri"),
            (r#"{"path":"/a","uri":"s3://b","readonly":true}"#, "readonly"),
            (r#"{"path":"/a","uri":"s3://b","read_only":"yes"}"#, "boolean"),
            (r#"{"path":"/a","path":"/b","uri":"s3://b"}"#, "path"),
            (r#"{"path":"/a/..","uri":"s3://b"}"#, ".."),
            (r#"{"path":"/a","uri":"ftp://b"}"#, "ftp"),
            (r#"{"path":"/a","uri":"s3://b","options":[]}"#, "options"),
            (r#"{"path":"/a","uri":"s3://b","options":{"a":"1","a":"2"}}"#, "\"a\""),
            (
                r#"{"path":"/a","uri":"s3://b","options":{"a":null}}"#,
                "string, number or boolean",
            ),
        ] {
            let error = serde_json::from_str::<Mount>(text).unwrap_err().to_string();
            assert!(error.contains(named), "{text}: {error}");
        }
    }

    #[test]
    fn nothing_tells_a_secret() {
        for text in [
            r#"{"path":"/a","uri":"s3://k:hunter2@b"}"#,
            r#"{"path":"/a","uri":"s3://b","options":{"secret_access_key":"hunter2"}}"#,
            r#"{"path":"/a","uri":"s3://b","options":{"secret_access_key":"env:hunter2!"}}"#,
            r#"{"path":"/a","uri":"s3://b","options":{"secret_access_key":["hunter2"]}}"#,
            r#"{"path":"/a","uri":"s3://b","options":{"secret_access_key":{"hunter2":1}}}"#,
            r#"{"path":"/a","uri":"s3://b","options":{"client_secret":"hunter2"}}"#,
            r#"{"path":"/a","uri":"s3://b","options":{"endpoint":"http://u:hunter2@h"}}"#,
            r#"{"path":"/a","uri":"s3://b","options":{"freshness":"hunter2"}}"#,
            r#"{"path":"/a","uri":"s3://b","options":{"password":"hunter2\n"}}"#,
        ] {
            let error = serde_json::from_str::<Mount>(text).unwrap_err();
            assert!(!format!("{error} {error:?}").contains("hunter2"), "{error}");
        }
        for number in ["4217", "-4217", "4217.5"] {
            let text = format!(r#"{{"path":"/a","uri":"s3://b","options":{{"password":{number}}}}}"#);
            let error = serde_json::from_str::<Mount>(&text).unwrap_err();
            assert!(
                error.to_string().contains("password") && !format!("{error} {error:?}").contains("4217"),
                "{error}"
            );
        }
        let mut changed = with_options(&[("password", "env:NAME"), ("region", "eu")]).unwrap();
        assert!(format!("{changed:?}").contains("env:NAME"));
        changed.options.insert("password".into(), "hunter2".into());
        assert!(!format!("{changed:?} {changed:#?}").contains("hunter2"));
        assert!(MountTable::default().with(changed).is_err());
    }

    #[test]
    fn a_message_names_a_few_of_many_paths() {
        let paths = (0..7).map(|i| NsPath::parse(&format!("/a/{i}")).unwrap()).collect();
        let error = MountError::HasMountsBelow {
            path: NsPath::parse("/a").unwrap(),
            paths,
        };
        assert!(
            error.to_string().ends_with("/a/0, /a/1, /a/2, /a/3, /a/4 and 2 more"),
            "{error}"
        );
    }
}
