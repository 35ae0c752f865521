//! Where the bytes of row groups are, without reading or touching any.

use std::sync::Arc;

use arrow::datatypes::Schema;

use super::{Engine, chunk_key, leaf_ranges};
use crate::decode::SelectedColumn;
use crate::dialect::Dialect;
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
    /// Where the columns of `read` are for these row groups of files: the worst. A file whose footer is not held counts as not
    /// held.
    pub(crate) async fn residency(&self, files: &[(&OpenFile, Vec<RowGroup>)], read: &Schema) -> Residency {
        let mut columns = Columns::default();
        let mut worst = Residency::Decoded;
        for (file, row_groups) in files {
            let Some(footer) = self.footers.held(file).await else {
                return Residency::None;
            };
            let columns = columns.of(&footer, read);
            worst = worst.min(self.residency_of_file(file, row_groups, &footer, columns));
            // The first that is nowhere settles it.
            if worst == Residency::None {
                break;
            }
        }
        worst
    }

    fn residency_of_file(
        &self,
        file: &OpenFile,
        row_groups: &[RowGroup],
        footer: &Footer,
        columns: &[SelectedColumn],
    ) -> Residency {
        let id = file.key.id();
        let any_decoded = self.chunks.holds_any(id);
        let is_decoded = |group| {
            // Where no column is read, all that is needed is at hand.
            (any_decoded || columns.is_empty())
                && columns
                    .iter()
                    .all(|column| self.chunks.contains(&chunk_key(id, group, column)))
        };
        let raw_bytes = self.pages.held_bytes(id);
        let is_raw = |group| {
            raw_bytes == file.key.size
                || raw_bytes > 0
                    && leaf_ranges(footer, group, columns.iter())
                        .iter()
                        .all(|(_, range)| self.pages.holds(file, range))
        };
        let mut worst = Residency::Decoded;
        for &group in row_groups {
            worst = worst.min(if is_decoded(group) {
                Residency::Decoded
            } else if is_raw(group) {
                Residency::Raw
            } else {
                Residency::None
            });
            if worst == Residency::None {
                break;
            }
        }
        worst
    }
}

/// What is read of one file after the other; found out anew only where a file has another schema than the one before.
#[derive(Default)]
struct Columns(Option<(Arc<Dialect>, Vec<SelectedColumn>)>);

impl Columns {
    fn of(&mut self, footer: &Footer, read: &Schema) -> &[SelectedColumn] {
        let is_known = matches!(&self.0, Some((known, _)) if Arc::ptr_eq(known, &footer.dialect));
        if !is_known {
            self.0 = None;
        }
        let (_, columns) = self.0.get_or_insert_with(|| {
            let columns = read.fields().iter().filter_map(|field| {
                let root = footer.position(field.name())?;
                Some(SelectedColumn::new(footer, root, field.data_type()))
            });
            (Arc::clone(&footer.dialect), columns.collect())
        });
        columns
    }
}
