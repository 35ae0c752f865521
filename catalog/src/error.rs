//! What the catalog's operations fail with, and what the caller does next.

use std::error::Error;

use crate::dataset::LayoutError;
use crate::meta::MetaError;
use crate::mount::MountError;
use crate::path::PathError;
use crate::uri::UriError;

/// Why an operation of the catalog failed. [`CatalogError::kind`] says what to do about it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CatalogError {
    /// A text is no path of the namespace.
    #[error(transparent)]
    Path(#[from] PathError),
    /// A text is no URI of under storage.
    #[error(transparent)]
    Uri(#[from] UriError),
    /// No path of the namespace shows what a URI names.
    #[error("{uri} is not mounted, or is hidden by a mount nested in its own")]
    UriNotMounted {
        /// The URI, without what follows a question mark.
        uri: String,
    },
    /// A mount is not valid, or the mount table refuses a change.
    #[error(transparent)]
    Mount(#[from] MountError),
    /// The files of a dataset do not make one table.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// The metadata store failed.
    #[error(transparent)]
    Meta(#[from] MetaError),
    /// A record in the metadata store is not what its key says.
    #[error("the metadata record {key:?} cannot be read")]
    Record {
        /// The key of the record.
        key: String,
        /// What is wrong with it.
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
    /// A task of the catalog itself did not end as it should.
    #[error("the catalog failed")]
    Internal {
        /// What happened.
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
}

/// An error with its causes, in one text: serde keeps nothing of an error but its Display.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Sentence(String);

impl Sentence {
    /// The error, then its causes, separated by colons.
    #[must_use]
    pub fn of(error: &(dyn Error + 'static)) -> Self {
        let mut text = error.to_string();
        let mut cause = error.source();
        while let Some(error) = cause {
            text.push_str(": ");
            text.push_str(&error.to_string());
            cause = error.source();
        }
        Self(text)
    }
}

/// What a caller does next about an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Name something that exists.
    NotFound,
    /// Choose another name, or be content with what is there.
    AlreadyExists,
    /// Correct the request; it can never succeed as it is.
    InvalidArgument,
    /// Change the state that is in the way first.
    FailedPrecondition,
    /// Try again later.
    Unavailable,
    /// Report it: the program or its data is at fault.
    Internal,
}

impl CatalogError {
    /// What the caller does next.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Path(_) | Self::Uri(_) => Kind::InvalidArgument,
            Self::UriNotMounted { .. } => Kind::NotFound,
            Self::Mount(error) => error.kind(),
            Self::Layout(_) => Kind::FailedPrecondition,
            Self::Meta(error) => error.kind(),
            Self::Record { .. } | Self::Internal { .. } => Kind::Internal,
        }
    }
}

impl MountError {
    /// What the caller does next.
    pub fn kind(&self) -> Kind {
        match self {
            Self::AlreadyMounted { .. } => Kind::AlreadyExists,
            Self::NotMounted { .. } => Kind::NotFound,
            Self::HasMountsBelow { .. } | Self::TooManyMounts => Kind::FailedPrecondition,
            Self::TooManyOptions { .. }
            | Self::OptionKey { .. }
            | Self::OptionTooLong { .. }
            | Self::OptionValue { .. }
            | Self::PlainSecret { .. }
            | Self::SecretReference { .. }
            | Self::Freshness(_)
            | Self::Replicas
            | Self::Retention(_)
            | Self::QueryInUri => Kind::InvalidArgument,
        }
    }
}

impl MetaError {
    /// What the caller does next.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Conflict { .. }
            | Self::InUse { .. }
            | Self::Format { .. }
            | Self::Lease { .. }
            | Self::Foreign { .. } => Kind::FailedPrecondition,
            Self::Key | Self::ValueTooLong { .. } | Self::LeaseTtl { .. } | Self::Settings { .. } => {
                Kind::InvalidArgument
            }
            Self::Open { .. } => Kind::Internal,
            Self::Unavailable { .. } | Self::Store { .. } => Kind::Unavailable,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::path::NsPath;

    #[test]
    fn kinds_say_what_to_do() {
        let path = NsPath::root;
        let kind = |error: MountError| CatalogError::from(error).kind();
        assert_eq!(CatalogError::from(PathError::NotAbsolute).kind(), Kind::InvalidArgument);
        assert_eq!(CatalogError::from(UriError::UserInfo).kind(), Kind::InvalidArgument);
        assert_eq!(kind(MountError::AlreadyMounted { path: path() }), Kind::AlreadyExists);
        assert_eq!(kind(MountError::NotMounted { path: path() }), Kind::NotFound);
        assert_eq!(
            kind(MountError::HasMountsBelow {
                path: path(),
                paths: vec![]
            }),
            Kind::FailedPrecondition
        );
        assert_eq!(
            kind(MountError::PlainSecret { key: "password".into() }),
            Kind::InvalidArgument
        );
        let away = MetaError::Store {
            operation: "get",
            source: "gone".into(),
        };
        assert_eq!(CatalogError::from(away).kind(), Kind::Unavailable);
        let slow = MetaError::slow("put", std::time::Duration::from_secs(5));
        assert_eq!(CatalogError::from(slow).kind(), Kind::Unavailable);
        let foreign = MetaError::Foreign {
            cluster: "a".into(),
            found: None,
        };
        assert_eq!(CatalogError::from(foreign).kind(), Kind::FailedPrecondition);
        let busy = MetaError::InUse {
            path: "meta.redb".into(),
        };
        assert_eq!(CatalogError::from(busy).kind(), Kind::FailedPrecondition);
    }

    #[test]
    fn no_message_repeats_its_source() {
        let errors = [
            CatalogError::from(UriError::Key(PathError::NotAbsolute)),
            CatalogError::from(MetaError::Store {
                operation: "get",
                source: "the cause".into(),
            }),
            CatalogError::from(MetaError::slow("get", std::time::Duration::from_secs(5))),
            CatalogError::from(MountError::Freshness(crate::mount::FreshnessError)),
            CatalogError::Record {
                key: "mounts/a".into(),
                source: "the cause".into(),
            },
        ];
        for error in errors {
            let mut told = vec![error.to_string()];
            let mut source = error.source();
            while let Some(cause) = source {
                let text = cause.to_string();
                assert!(told.iter().all(|before| !before.contains(&text)), "{told:?} and {text}");
                told.push(text);
                source = cause.source();
            }
            assert!(told.len() > 1);
        }
    }
}
