//! The forms in which a DoGet can send its rows, and the headers by which client and server agree on one (`WIRE.md`).

use arrow::ipc::CompressionType;
use tonic::Status;
use tonic::metadata::{MetadataMap, MetadataValue};

/// Header of a request that asks for forms, and of its answer that says which one it has.
pub(crate) const WIRE_HEADER: &str = "x-jetbridge-wire";

/// Header of an answer that is not in the form that was asked for: why, in words.
pub(crate) const REASON_HEADER: &str = "x-jetbridge-wire-reason";

/// The word by which a client leaves the choice between `raw` and what it asks for next to the server.
const AUTO: &str = "auto";

/// Forms that one request may name, in the order in which it would have them.
const MAX_WISHES: usize = 5;

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

/// One thing that a client asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wish {
    /// This form, where it can say the answer.
    Form(Wire),
    /// `raw`, unless the columns are decoded here already or will be kept, or files are held to limits of the server's own.
    Auto,
}

/// What a client asks for, the best first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Asked(Vec<Wish>);

/// The form that was chosen for an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Chosen {
    pub(super) wire: Wire,
    /// Why it is not one that was asked for before it.
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

    /// How the buffers of batches are compressed in this form.
    pub(super) fn compression(self) -> Option<CompressionType> {
        match self {
            Self::Arrow | Self::Raw => None,
            Self::Lz4 => Some(CompressionType::LZ4_FRAME),
            Self::Zstd => Some(CompressionType::ZSTD),
        }
    }
}

impl Wish {
    fn parse(text: &str) -> Option<Self> {
        if text == AUTO {
            return Some(Self::Auto);
        }
        let mut forms = Wire::ALL.into_iter();
        forms.find(|wire| wire.as_str() == text).map(Self::Form)
    }
}

impl Asked {
    /// What a request asks for: one form, or several with commas between them; nothing where it says nothing.
    ///
    /// # Errors
    /// INVALID_ARGUMENT for a form that does not exist, and for too many.
    pub(super) fn of(metadata: &MetadataMap) -> Result<Self, Status> {
        let Some(value) = metadata.get(WIRE_HEADER) else {
            return Ok(Self::default());
        };
        let wishes = value.to_str().ok().and_then(|text| {
            let names = text.split(',').map(|name| name.trim_matches([' ', '\t']));
            names.map(Wish::parse).collect::<Option<Vec<_>>>()
        });
        let wishes = wishes.filter(|wishes| wishes.len() <= MAX_WISHES);
        wishes.map(Self).ok_or_else(|| {
            let forms = Wire::ALL.map(Wire::as_str).join(", ");
            Status::invalid_argument(format!(
                "{WIRE_HEADER} is {value:?}, which is none of {forms}, {AUTO}, nor a list of {MAX_WISHES} of them at most"
            ))
        })
    }

    /// The wishes, the best first. Where none of them can be met, it is plain Arrow.
    pub(super) fn wishes(&self) -> &[Wish] {
        &self.0
    }

    /// The form of an answer that is in no file, as `reason` says.
    pub(super) fn unstored(&self, reason: &'static str) -> Chosen {
        let mut chosen = Chosen {
            wire: Wire::Arrow,
            reason: None,
        };
        for wish in self.wishes() {
            match *wish {
                Wish::Form(Wire::Raw) | Wish::Auto => chosen.reason = Some(reason),
                Wish::Form(wire) => return Chosen { wire, ..chosen },
            }
        }
        chosen
    }
}

impl Chosen {
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

    fn asked(text: &'static str) -> Result<Vec<Wish>, Status> {
        let mut metadata = MetadataMap::new();
        metadata.insert(WIRE_HEADER, MetadataValue::from_static(text));
        Asked::of(&metadata).map(|asked| asked.wishes().to_vec())
    }

    #[test]
    fn forms_are_asked_for_by_name() {
        assert_eq!(Asked::of(&MetadataMap::new()).unwrap(), Asked::default());
        for wire in Wire::ALL {
            assert_eq!(asked(wire.as_str()).unwrap(), [Wish::Form(wire)]);
        }
        assert_eq!(asked("auto").unwrap(), [Wish::Auto]);
    }

    #[test]
    fn lists_keep_their_order() {
        let expected = [Wish::Auto, Wish::Form(Wire::Lz4)];
        for text in ["auto,lz4", "auto, lz4", " auto\t,  lz4 "] {
            assert_eq!(asked(text).unwrap(), expected, "{text:?}");
        }
        let all = asked("zstd, raw, auto, lz4, arrow").unwrap();
        assert_eq!((all.len(), all[1]), (5, Wish::Form(Wire::Raw)));
    }

    #[test]
    fn what_is_no_list_of_forms_is_refused() {
        let six = "arrow, arrow, arrow, arrow, arrow, arrow";
        for text in [
            "gzip",
            "RAW",
            "",
            ",",
            "auto,",
            ",auto",
            "auto,,lz4",
            "auto lz4",
            "auto;lz4",
            "auto, gzip",
            six,
        ] {
            let refused = asked(text).unwrap_err();
            assert_eq!(refused.code(), tonic::Code::InvalidArgument, "{text:?}");
            assert!(refused.message().contains(text), "{refused}");
            assert!(refused.message().contains("arrow, lz4, zstd, raw, auto"), "{refused}");
        }
    }

    #[test]
    fn what_is_in_no_file_comes_in_the_first_form_that_needs_none() {
        let chosen = |text| {
            let mut metadata = MetadataMap::new();
            metadata.insert(WIRE_HEADER, MetadataValue::from_static(text));
            let chosen = Asked::of(&metadata).unwrap().unstored("why");
            (chosen.wire, chosen.reason)
        };
        assert_eq!(chosen("arrow"), (Wire::Arrow, None));
        assert_eq!(chosen("zstd, raw"), (Wire::Zstd, None));
        assert_eq!(chosen("raw"), (Wire::Arrow, Some("why")));
        assert_eq!(chosen("auto"), (Wire::Arrow, Some("why")));
        assert_eq!(chosen("raw, auto, lz4, zstd"), (Wire::Lz4, Some("why")));
        assert_eq!(Asked::default().unstored("why").wire, Wire::Arrow);
    }
}
