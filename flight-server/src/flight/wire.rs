//! The forms in which a DoGet can send its rows, and the headers by which client and server agree on one (`WIRE.md`).

use arrow::ipc::CompressionType;
use tonic::Status;
use tonic::metadata::{MetadataMap, MetadataValue};

/// Header of a request that asks for a form, and of its answer that says which one it has.
pub(crate) const WIRE_HEADER: &str = "x-jetbridge-wire";

/// Header of an answer that is not in the form that was asked for: why, in words.
pub(crate) const REASON_HEADER: &str = "x-jetbridge-wire-reason";

/// How rows are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wire {
    /// Record batches as they lie in memory.
    Arrow,
    /// Record batches, each buffer compressed by LZ4.
    Lz4,
    /// Record batches, each buffer compressed by zstd.
    Zstd,
    /// Row groups as they are stored, each a Parquet file.
    Raw,
}

/// The form that was chosen for an answer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Chosen {
    pub(super) wire: Wire,
    /// Why it is not the one that was asked for.
    pub(super) reason: Option<&'static str>,
}

impl Wire {
    const ALL: [Self; 4] = [Self::Arrow, Self::Lz4, Self::Zstd, Self::Raw];

    /// The form in one word, as the header has it.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Arrow => "arrow",
            Self::Lz4 => "lz4",
            Self::Zstd => "zstd",
            Self::Raw => "raw",
        }
    }

    /// The form that a request asks for; plain Arrow where it says nothing.
    ///
    /// # Errors
    /// INVALID_ARGUMENT for a form that does not exist.
    pub(super) fn asked(metadata: &MetadataMap) -> Result<Self, Status> {
        let Some(value) = metadata.get(WIRE_HEADER) else {
            return Ok(Self::Arrow);
        };
        let found = Self::ALL
            .into_iter()
            .find(|wire| value.as_encoded_bytes() == wire.as_str().as_bytes());
        found.ok_or_else(|| {
            let forms = Self::ALL.map(Self::as_str).join(", ");
            Status::invalid_argument(format!("{WIRE_HEADER} is {value:?}, which is none of {forms}"))
        })
    }

    /// How the buffers of batches are compressed in this form.
    pub(super) fn compression(self) -> Option<CompressionType> {
        match self {
            Self::Arrow | Self::Raw => None,
            Self::Lz4 => Some(CompressionType::LZ4_FRAME),
            Self::Zstd => Some(CompressionType::ZSTD),
        }
    }
}

impl Chosen {
    /// The form that was asked for.
    pub(super) fn as_asked(wire: Wire) -> Self {
        Self { wire, reason: None }
    }

    /// Plain Arrow, because the form that was asked for cannot say the answer.
    pub(super) fn instead(reason: &'static str) -> Self {
        Self {
            wire: Wire::Arrow,
            reason: Some(reason),
        }
    }

    /// Says so in the headers of the answer.
    pub(super) fn tell(self, metadata: &mut MetadataMap) {
        metadata.insert(WIRE_HEADER, MetadataValue::from_static(self.wire.as_str()));
        if let Some(reason) = self.reason {
            metadata.insert(REASON_HEADER, MetadataValue::from_static(reason));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_are_asked_for_by_name() {
        let mut metadata = MetadataMap::new();
        assert_eq!(Wire::asked(&metadata).unwrap(), Wire::Arrow);
        for wire in Wire::ALL {
            metadata.insert(WIRE_HEADER, MetadataValue::from_static(wire.as_str()));
            assert_eq!(Wire::asked(&metadata).unwrap(), wire);
        }
        metadata.insert(WIRE_HEADER, MetadataValue::from_static("gzip"));
        let refused = Wire::asked(&metadata).unwrap_err();
        assert_eq!(refused.code(), tonic::Code::InvalidArgument);
        assert!(refused.message().contains("gzip"), "{refused}");
        assert!(refused.message().contains("arrow, lz4, zstd, raw"), "{refused}");
    }
}
