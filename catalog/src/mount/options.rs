//! What the options of a mount may be.
//!
//! Why secrets are told by the form of the key and not by a list: a list is short of the next store's name for
//! its password, and then that password is stored, listed and logged. A rule that takes too much in costs its
//! user one more `env:`.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, Visitor};

use super::MountError;
use crate::secret::{SecretError, SecretRef};

/// The most options that a mount may have.
pub const MAX_OPTIONS: usize = 64;

/// The longest key of an option, in bytes.
pub const MAX_OPTION_KEY_BYTES: usize = 64;

/// The longest value of an option, in bytes.
pub const MAX_OPTION_VALUE_BYTES: usize = 4096;

/// How keys of secrets end, counted in words between underscores.
const SECRET_WORDS: [&str; 8] = [
    "key",
    "secret",
    "token",
    "password",
    "passphrase",
    "credential",
    "credentials",
    "sas",
];

/// Whether the value of the option `key` is a secret: when its last word says so (`sas_token`, `access_key`).
/// `access_key_id` is none, as it ends in `id`.
pub fn is_secret_key(key: &str) -> bool {
    let last = key.rsplit('_').next().unwrap_or(key);
    SECRET_WORDS.contains(&last)
}

/// Checks number, form and size of options, and that secrets among them are references.
pub(super) fn check(options: &BTreeMap<String, String>) -> Result<(), MountError> {
    let count = options.len();
    if count > MAX_OPTIONS {
        return Err(MountError::TooManyOptions { count });
    }
    for (key, value) in options {
        check_key(key)?;
        if is_secret_key(key) {
            check_secret(key, value)?;
        }
        check_value(key, value)?;
    }
    Ok(())
}

fn check_key(key: &str) -> Result<(), MountError> {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    if key.is_empty() || key.len() > MAX_OPTION_KEY_BYTES || !key.bytes().all(allowed) {
        return Err(MountError::OptionKey {
            key: key.chars().take(MAX_OPTION_KEY_BYTES).collect(),
        });
    }
    Ok(())
}

fn check_secret(key: &str, value: &str) -> Result<(), MountError> {
    match value.parse::<SecretRef>() {
        Ok(_) => Ok(()),
        Err(SecretError::NotAReference) => Err(MountError::PlainSecret { key: key.to_owned() }),
        Err(source) => Err(MountError::SecretReference {
            key: key.to_owned(),
            source,
        }),
    }
}

fn check_value(key: &str, value: &str) -> Result<(), MountError> {
    let bytes = value.len();
    if bytes > MAX_OPTION_VALUE_BYTES {
        return Err(MountError::OptionTooLong {
            key: key.to_owned(),
            bytes,
        });
    }
    let refused = |reason| {
        Err(MountError::OptionValue {
            key: key.to_owned(),
            reason,
        })
    };
    if value.contains(char::is_control) {
        return refused("may not hold control characters");
    }
    let authority = value
        .split_once("://")
        .map_or("", |(_, rest)| rest.split('/').next().unwrap_or(rest));
    if authority.contains('@') {
        return refused("may not be a URL with a user name or password");
    }
    Ok(())
}

/// Shows options, but none that could be a secret in plain text.
pub(super) struct Redacted<'a>(pub(super) &'a BTreeMap<String, String>);

impl fmt::Debug for Redacted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |(key, value): (&'_ String, &'_ String)| {
            let secret = is_secret_key(key) && value.parse::<SecretRef>().is_err();
            (key.clone(), if secret { "***".to_owned() } else { value.clone() })
        };
        f.debug_map().entries(self.0.iter().map(shown)).finish()
    }
}

/// Reads options. No error repeats a value: serde's own errors do.
pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<String, String>, D::Error> {
    deserializer.deserialize_map(OptionsVisitor)
}

struct OptionsVisitor;

impl<'de> Visitor<'de> for OptionsVisitor {
    type Value = BTreeMap<String, String>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a map of options")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut options = BTreeMap::new();
        while let Some(key) = map.next_key::<String>()? {
            if options.contains_key(&key) || options.len() == MAX_OPTIONS {
                let key: String = key.chars().take(MAX_OPTION_KEY_BYTES).collect();
                return Err(A::Error::custom(format!(
                    "option {key:?} is given twice, or is one of more than {MAX_OPTIONS}"
                )));
            }
            let Value(value) = map.next_value()?;
            options.insert(key, value);
        }
        Ok(options)
    }
}

/// The value of an option, be it given as a string, a number or a boolean.
struct Value(String);

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ValueVisitor)
    }
}

struct ValueVisitor;

impl Visitor<'_> for ValueVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string, number or boolean as the value of an option")
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Value, E> {
        Ok(Value(value.to_owned()))
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Value, E> {
        Ok(Value(value.to_string()))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Value, E> {
        Ok(Value(value.to_string()))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Value, E> {
        Ok(Value(value.to_string()))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        Ok(Value(value.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(key: &str, value: &str) -> BTreeMap<String, String> {
        BTreeMap::from([(key.to_owned(), value.to_owned())])
    }

    #[test]
    fn secrets_are_told_by_their_last_word() {
        for key in [
            "password",
            "client_secret",
            "account_key",
            "sas",
            "sse_customer_key",
            "azure_credentials",
        ] {
            assert!(is_secret_key(key), "{key}");
        }
        for key in [
            "access_key_id",
            "region",
            "path_style",
            "token_file",
            "service_account",
            "kms_key_id",
            "monkey",
        ] {
            assert!(!is_secret_key(key), "{key}");
        }
    }

    #[test]
    fn keys_are_lower_case_words() {
        for key in ["", "Region", "path-style", "a b", "ä", "a\n"] {
            assert!(
                matches!(check(&options(key, "x")), Err(MountError::OptionKey { .. })),
                "{key:?}"
            );
        }
        assert!(check(&options(&"k".repeat(MAX_OPTION_KEY_BYTES + 1), "x")).is_err());
        // Otherwise a key that is spelled in capitals would slip past the rule for secrets.
        assert!(matches!(
            check(&options("PASSWORD", "hunter2")),
            Err(MountError::OptionKey { .. })
        ));
    }

    #[test]
    fn values_are_bounded_and_plain() {
        assert!(check(&options("endpoint", "https://host:1/a@b")).is_ok());
        assert!(check(&options("region", "")).is_ok());
        assert!(check(&options("region", &"x".repeat(MAX_OPTION_VALUE_BYTES))).is_ok());
        let error = check(&options("region", &"x".repeat(MAX_OPTION_VALUE_BYTES + 1))).unwrap_err();
        assert!(matches!(error, MountError::OptionTooLong { .. }), "{error:?}");
        for value in ["a\nb", "http://u:p@host/a"] {
            assert!(matches!(
                check(&options("endpoint", value)),
                Err(MountError::OptionValue { .. })
            ));
        }
    }

    #[test]
    fn their_number_is_bounded() {
        let many = |count| {
            (0..count)
                .map(|i| (format!("k{i}"), String::new()))
                .collect::<BTreeMap<_, _>>()
        };
        assert!(check(&many(MAX_OPTIONS)).is_ok());
        assert!(matches!(
            check(&many(MAX_OPTIONS + 1)),
            Err(MountError::TooManyOptions { .. })
        ));
    }
}
