//! Secrets by reference: the name of an environment variable or of a file that holds the value.
//!
//! Mounts are stored, listed and logged, so what they carry is the reference. The value is read when a store is
//! opened, is wrapped in [`Secret`], and has no way into text but [`Secret::expose`].
//!
//! No error repeats what it was given: whoever writes a password where a reference belongs must not find it in
//! a log.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The longest secret that is read, in bytes. A service account's JSON key has about 2,300.
pub const MAX_SECRET_BYTES: usize = 64 * 1024;

const ENV_PREFIX: &str = "env:";
const FILE_PREFIX: &str = "file:";

/// Where a secret is to be found; itself no secret.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum SecretRef {
    /// `env:NAME`: an environment variable of the server.
    Env(String),
    /// `file:/path`: a file on the server, by its absolute path.
    File(PathBuf),
}

impl SecretRef {
    /// Whether a text has the look of a reference, valid or not.
    pub fn is_reference(text: &str) -> bool {
        text.starts_with(ENV_PREFIX) || text.starts_with(FILE_PREFIX)
    }

    /// Reads the secret. One line break at the end is dropped, as editors and `echo` leave it there.
    ///
    /// Nothing is kept: a secret that was changed is seen by the next call. Reads a file, so it may block.
    ///
    /// # Errors
    /// [`SecretError`] when the variable or file is missing, empty, too long, or not UTF-8.
    pub fn resolve(&self) -> Result<Secret, SecretError> {
        let value = match self {
            Self::Env(name) => read_variable(name)?,
            Self::File(path) => read_file(path)?,
        };
        let value = value
            .strip_suffix('\n')
            .map_or(value.as_str(), |line| line.strip_suffix('\r').unwrap_or(line));
        if value.is_empty() {
            return Err(SecretError::Empty {
                reference: self.clone(),
            });
        }
        Ok(Secret(value.to_owned()))
    }
}

impl FromStr for SecretRef {
    type Err = SecretError;

    fn from_str(text: &str) -> Result<Self, SecretError> {
        if let Some(name) = text.strip_prefix(ENV_PREFIX) {
            return if is_variable_name(name) {
                Ok(Self::Env(name.to_owned()))
            } else {
                Err(SecretError::BadName)
            };
        }
        let path = Path::new(text.strip_prefix(FILE_PREFIX).ok_or(SecretError::NotAReference)?);
        // The server's working folder is not the one where the user typed a relative path.
        if path.is_absolute() {
            Ok(Self::File(path.to_owned()))
        } else {
            Err(SecretError::RelativeFile)
        }
    }
}

impl fmt::Display for SecretRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Env(name) => write!(f, "{ENV_PREFIX}{name}"),
            Self::File(path) => write!(f, "{FILE_PREFIX}{}", path.display()),
        }
    }
}

impl TryFrom<String> for SecretRef {
    type Error = SecretError;

    fn try_from(text: String) -> Result<Self, SecretError> {
        text.parse()
    }
}

impl From<SecretRef> for String {
    fn from(reference: SecretRef) -> Self {
        reference.to_string()
    }
}

/// The value of a secret. It can be neither displayed, nor serialised, nor cloned by accident.
pub struct Secret(String);

impl Secret {
    /// The value, for the one place that hands it to a store.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// Why there is no secret to be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SecretError {
    /// The text is no reference.
    #[error("a secret must be given by reference, as env:NAME or file:/path")]
    NotAReference,
    /// What follows `env:` cannot be the name of a variable.
    #[error("what follows 'env:' must be letters, digits and '_', and not begin with a digit")]
    BadName,
    /// What follows `file:` is a relative path.
    #[error("what follows 'file:' must be an absolute path")]
    RelativeFile,
    /// The environment variable is not set, or it is not UTF-8.
    #[error("the secret {reference} cannot be read from the server's environment")]
    Variable {
        /// Where the secret should have been.
        reference: SecretRef,
        /// Whether it is missing or not UTF-8.
        #[source]
        source: VariableError,
    },
    /// The file cannot be read, or it is not UTF-8.
    #[error("the secret {reference} cannot be read")]
    File {
        /// Where the secret should have been.
        reference: SecretRef,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// It is longer than [`MAX_SECRET_BYTES`].
    #[error("the secret {reference} is longer than {MAX_SECRET_BYTES} bytes")]
    TooLong {
        /// Where the secret is.
        reference: SecretRef,
    },
    /// There is nothing in it.
    #[error("the secret {reference} is empty")]
    Empty {
        /// Where the secret should have been.
        reference: SecretRef,
    },
}

/// What is wrong with an environment variable. `std::env::VarError` will not do: it repeats the value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum VariableError {
    /// There is no variable of this name.
    #[error("it is not set")]
    NotSet,
    /// Its value is not UTF-8.
    #[error("its value is not UTF-8")]
    NotUtf8,
}

fn is_variable_name(name: &str) -> bool {
    let letters = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    letters && !name.is_empty() && !name.starts_with(|c: char| c.is_ascii_digit())
}

fn read_variable(name: &str) -> Result<String, SecretError> {
    let reference = || SecretRef::Env(name.to_owned());
    let value = match std::env::var_os(name) {
        Some(value) => value.into_string().map_err(|_| VariableError::NotUtf8),
        None => Err(VariableError::NotSet),
    };
    let value = value.map_err(|source| SecretError::Variable {
        reference: reference(),
        source,
    })?;
    if value.len() > MAX_SECRET_BYTES {
        Err(SecretError::TooLong { reference: reference() })
    } else {
        Ok(value)
    }
}

fn read_file(path: &Path) -> Result<String, SecretError> {
    let reference = || SecretRef::File(path.to_owned());
    match read_bounded(path) {
        Ok(Some(value)) => Ok(value),
        Ok(None) => Err(SecretError::TooLong { reference: reference() }),
        Err(source) => Err(SecretError::File {
            reference: reference(),
            source,
        }),
    }
}

/// The text of a file, or `None` when it is too long for a secret.
fn read_bounded(path: &Path) -> io::Result<Option<String>> {
    // Opening a pipe that nobody writes to would wait for ever.
    if !std::fs::metadata(path)?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
    }
    let mut bytes = Vec::new();
    let limit = u64::try_from(MAX_SECRET_BYTES).map_or(u64::MAX, |bytes| bytes + 1);
    File::open(path)?.take(limit).read_to_end(&mut bytes)?;
    if bytes.len() > MAX_SECRET_BYTES {
        return Ok(None);
    }
    // The library's own error would carry the bytes.
    String::from_utf8(bytes)
        .map(Some)
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "not UTF-8"))
}

#[cfg(test)]
mod tests {
    use std::error::Error;

    use super::*;

    fn reference(text: &str) -> SecretRef {
        text.parse().unwrap()
    }

    fn file_with(content: &[u8]) -> (tempfile::TempDir, SecretRef) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret");
        std::fs::write(&path, content).unwrap();
        (folder, SecretRef::File(path))
    }

    fn told(error: &SecretError) -> String {
        let mut text = format!("{error} {error:?}");
        let mut source = error.source();
        while let Some(error) = source {
            text += &format!(" {error} {error:?}");
            source = error.source();
        }
        text
    }

    #[test]
    fn references_read_back() {
        for text in [
            "env:AWS_KEY",
            "env:_a1",
            "file:/run/secrets/key",
            "file:///run/key",
            "file:/a b",
        ] {
            assert_eq!(reference(text).to_string(), text);
            let json = serde_json::to_string(&reference(text)).unwrap();
            assert_eq!(serde_json::from_str::<SecretRef>(&json).unwrap(), reference(text));
        }
    }

    #[test]
    fn what_is_no_reference_is_refused_and_not_told_back() {
        for text in [
            "hunter2",
            "",
            "ENV:hunter2",
            "env:",
            "env:hunter2!",
            "env:2hunter2",
            "file:hunter2",
            "file:",
        ] {
            let error = text.parse::<SecretRef>().unwrap_err();
            assert!(!told(&error).contains("hunter2"), "{error:?}");
            let error = serde_json::from_str::<SecretRef>(&format!("{text:?}")).unwrap_err();
            assert!(!format!("{error} {error:?}").contains("hunter2"), "{error:?}");
        }
        assert!(SecretRef::is_reference("env:") && SecretRef::is_reference("file:x"));
        assert!(!SecretRef::is_reference("hunter2"));
    }

    #[test]
    fn a_file_is_read_without_its_last_line_break() {
        for (content, value) in [
            ("hunter2", "hunter2"),
            ("hunter2\n", "hunter2"),
            ("hunter2\r\n", "hunter2"),
            ("a\nb\n\n", "a\nb\n"),
            (" x ", " x "),
        ] {
            let (_folder, reference) = file_with(content.as_bytes());
            assert_eq!(reference.resolve().unwrap().expose(), value);
        }
    }

    #[test]
    fn a_changed_file_is_seen() {
        let (folder, reference) = file_with(b"one");
        assert_eq!(reference.resolve().unwrap().expose(), "one");
        std::fs::write(folder.path().join("secret"), "two").unwrap();
        assert_eq!(reference.resolve().unwrap().expose(), "two");
    }

    #[test]
    fn a_variable_is_read() {
        // Cargo sets this one for every test, so none has to be set in a process of many threads.
        assert_eq!(
            reference("env:CARGO_PKG_NAME").resolve().unwrap().expose(),
            env!("CARGO_PKG_NAME")
        );
        let error = reference("env:JETBRIDGE_NO_SUCH_VARIABLE").resolve().unwrap_err();
        assert!(
            matches!(
                error,
                SecretError::Variable {
                    source: VariableError::NotSet,
                    ..
                }
            ),
            "{error:?}"
        );
        assert!(error.to_string().contains("env:JETBRIDGE_NO_SUCH_VARIABLE"));
    }

    #[test]
    fn unusable_files_are_refused_and_not_told_back() {
        let (_folder, empty) = file_with(b"\n");
        assert!(matches!(empty.resolve(), Err(SecretError::Empty { .. })));
        let (_folder, binary) = file_with(b"hunter2\xff");
        let error = binary.resolve().unwrap_err();
        assert!(
            matches!(error, SecretError::File { .. }) && !told(&error).contains("hunter2"),
            "{error:?}"
        );
        let (folder, longest) = file_with(&vec![b'x'; MAX_SECRET_BYTES]);
        assert!(longest.resolve().is_ok());
        std::fs::write(folder.path().join("secret"), vec![b'x'; MAX_SECRET_BYTES + 1]).unwrap();
        assert!(matches!(longest.resolve(), Err(SecretError::TooLong { .. })));
        for path in [folder.path().to_owned(), folder.path().join("none"), "/dev/zero".into()] {
            let error = SecretRef::File(path).resolve().unwrap_err();
            assert!(matches!(error, SecretError::File { .. }), "{error:?}");
        }
    }

    #[test]
    fn a_secret_has_no_way_into_text() {
        let (_folder, reference) = file_with(b"hunter2");
        let secret = reference.resolve().unwrap();
        assert_eq!(format!("{secret:?} {:#?}", Some(&secret)), "*** Some(\n    ***,\n)");
    }
}
