//! A row group that is decoded step by step.

use std::any::Any;
use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arrow::array::{ArrayRef, RecordBatch};
use arrow::datatypes::SchemaRef;
use bytes::Bytes;
use tokio::task::JoinError;

use super::description::RowGroup;
use crate::budget::Lease;
use crate::decode::as_planned;
use crate::error::{Error, ErrorKind, Result, chain};
use crate::flight::bytes_of;
use crate::reader::Source;
use crate::unpack::{Unpack, Unpacked};

/// Which row group it is.
#[derive(Debug)]
pub(super) struct About {
    /// Namespace path of the file that it is of.
    pub(super) file: String,
    pub(super) row_group: u32,
    pub(super) source: Source,
}

/// A row group, or what is left of it.
pub(super) struct Group {
    about: Arc<About>,
    schema: SchemaRef,
    file_bytes: usize,
    rows_left: u64,
    content: Content,
}

enum Content {
    File {
        file: Bytes,
        constants: Vec<(String, ArrayRef)>,
        unpack: Unpack,
        memory_bytes: u64,
    },
    Rows(Unpacked),
}

/// What a step came to.
#[derive(Debug)]
pub(super) struct Decoded {
    /// Rows, and the bytes of their arrays.
    pub(super) batches: VecDeque<(RecordBatch, usize)>,
    /// For these, and for the file, if something is left of it.
    pub(super) lease: Lease,
    pub(super) rest: Option<Group>,
}

impl About {
    /// The error of a row group that is not what it should be: in the server's words, which would say the same of it.
    pub(super) fn damaged(&self, why: impl fmt::Display) -> Error {
        let Self { file, row_group, .. } = self;
        Error::new(ErrorKind::DataLoss, format!("{file}, row group {row_group}: {why}"))
    }

    /// The error of a step that did not come to its end.
    pub(super) fn died(&self, death: JoinError) -> Error {
        match death.try_into_panic() {
            Ok(panic) => self.damaged(format_args!("reading it panicked: {}", words(&*panic))),
            // The runtime is on its way out.
            Err(cancelled) => Error::broken(cancelled),
        }
    }
}

impl Group {
    /// A row group whose rows are to be of this schema, and whose large pages may take `memory_bytes` unpacked.
    pub(super) fn new(sent: RowGroup, unpack: Unpack, schema: SchemaRef, memory_bytes: u64) -> Self {
        Self {
            about: sent.about,
            schema,
            file_bytes: sent.file.len(),
            rows_left: sent.rows,
            content: Content::File {
                file: sent.file,
                constants: sent.constants,
                unpack,
                memory_bytes,
            },
        }
    }

    /// Decodes so many bytes of arrays or a little more; less at the end, and where nobody wants them any more. Takes its time.
    ///
    /// # Errors
    /// DATA_LOSS where it cannot be decoded, or has more rows or fewer than it should.
    pub(super) fn step(mut self, mut lease: Lease, step_bytes: usize, is_unwanted: &AtomicBool) -> Result<Decoded> {
        let mut rows = self.content.open(&self.schema, &self.about)?;
        let (mut batches, mut bytes) = (VecDeque::new(), 0);
        while bytes < step_bytes && !is_unwanted.load(Ordering::Relaxed) {
            let Some(batch) = rows.next() else {
                // And with it the file.
                drop(rows);
                if self.rows_left > 0 {
                    let missing = self.rows_left;
                    return Err(self.about.damaged(format_args!("{missing} of its rows are missing")));
                }
                lease.shrink_to(bytes);
                return Ok(Decoded {
                    batches,
                    lease,
                    rest: None,
                });
            };
            let batch = batch.map_err(|error| self.about.damaged(chain(&*error)))?;
            let batch = as_planned(&self.schema, &batch).map_err(|error| self.about.damaged(error))?;
            let count = u64::try_from(batch.num_rows()).unwrap_or(u64::MAX);
            let left = self.rows_left.checked_sub(count);
            self.rows_left = left.ok_or_else(|| self.about.damaged("it has more rows than it should"))?;
            if count > 0 {
                let batch_bytes = bytes_of(&batch);
                bytes = bytes.saturating_add(batch_bytes);
                lease.grow_to(self.file_bytes.saturating_add(bytes));
                batches.push_back((batch, batch_bytes));
            }
        }
        lease.shrink_to(self.file_bytes.saturating_add(bytes));
        self.content = Content::Rows(rows);
        Ok(Decoded {
            batches,
            lease,
            rest: Some(self),
        })
    }
}

impl Content {
    fn open(self, schema: &SchemaRef, about: &About) -> Result<Unpacked> {
        match self {
            Self::File {
                file,
                constants,
                unpack,
                memory_bytes,
            } => unpack
                .open(file, schema, &constants, memory_bytes)
                .map_err(|error| about.damaged(chain(&*error))),
            Self::Rows(rows) => Ok(rows),
        }
    }
}

impl fmt::Debug for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut group = f.debug_struct("Group");
        group.field("about", &self.about).field("rows_left", &self.rows_left);
        group.finish_non_exhaustive()
    }
}

/// What a panic says.
fn words(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("without words")
}
