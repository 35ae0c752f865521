//! Where the bytes of row groups are, without reading or touching any.

use arrow::datatypes::Schema;

use super::{Engine, chunk_key, leaf_ranges};
use crate::decode::SelectedColumn;
use crate::footer::Footer;
use crate::key::RowGroup;
use crate::page::OpenFile;

/// The best tier that holds all that a scan needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Residency {
    /// Some bytes are in storage only.
    None,
    /// All bytes are held as pages.
    Raw,
    /// All columns are held decoded.
    Decoded,
}

impl Residency {
    /// `none`, `raw` or `decoded`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Raw => "raw",
            Self::Decoded => "decoded",
        }
    }
}

impl Engine {
    /// Where the columns of `read` are for these row groups of a file. A file whose footer is not held counts as not held.
    pub(crate) async fn residency(&self, file: &OpenFile, row_groups: &[RowGroup], read: &Schema) -> Residency {
        let Some(footer) = self.footers.held(file).await else {
            return Residency::None;
        };
        let columns = read.fields().iter().filter_map(|field| {
            let root = footer.position(field.name())?;
            Some(SelectedColumn::new(&footer, root, field.data_type()))
        });
        let columns: Vec<_> = columns.collect();
        let all = row_groups
            .iter()
            .map(|&group| self.residency_of(file, group, &footer, &columns));
        // The first that is nowhere settles it.
        let mut worst = Residency::Decoded;
        for residency in all {
            worst = worst.min(residency);
            if worst == Residency::None {
                break;
            }
        }
        worst
    }

    fn residency_of(&self, file: &OpenFile, group: RowGroup, footer: &Footer, columns: &[SelectedColumn]) -> Residency {
        let id = file.key.id();
        if columns
            .iter()
            .all(|column| self.chunks.contains(&chunk_key(id, group, column)))
        {
            return Residency::Decoded;
        }
        let ranges = leaf_ranges(footer, group, columns.iter());
        let held = ranges.iter().all(|(_, range)| self.pages.holds(file, range));
        if held { Residency::Raw } else { Residency::None }
    }
}
