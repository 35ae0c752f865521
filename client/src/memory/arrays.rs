//! Arrays from their description: bounds and layout are checked, values are not.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{ArrayData, ArrayRef, make_array};
use arrow::buffer::{BooleanBuffer, Buffer, NullBuffer};
use arrow::datatypes::DataType;

use super::client::ClientError;
use super::mapping::Mapping;
use super::wire::{self, Array, INLINE_ALIGNMENT_BYTES, Place, SegmentId};

/// What the buffers of a batch are in.
pub(super) struct Memory<'a> {
    pub(super) segments: &'a HashMap<SegmentId, Arc<Mapping>>,
    pub(super) inline: Buffer,
    /// Whether values are checked too.
    pub(super) check_values: bool,
}

impl Memory<'_> {
    /// A column of this type.
    ///
    /// # Errors
    /// A description that does not fit the type, or points beyond the memory that it names.
    pub(super) fn column(&self, data_type: &DataType, described: &Array) -> Result<ArrayRef, ClientError> {
        let data = self.data(data_type, described)?;
        if self.check_values {
            data.validate_full()?;
        } else {
            data.validate()?;
        }
        Ok(make_array(data))
    }

    #[expect(unsafe_code, reason = "validating values would read all of them")]
    fn data(&self, data_type: &DataType, described: &Array) -> Result<ArrayData, ClientError> {
        let types = wire::children(data_type);
        if types.len() != described.children.len() {
            let (given, wanted) = (described.children.len(), types.len());
            return Err(wrong(&format!(
                "an array of {data_type} with {given} children in place of {wanted}"
            )));
        }
        let children = types.iter().zip(&described.children);
        let children = children.map(|(data_type, child)| self.data(data_type, child));
        let (length, offset) = (length(described.length)?, length(described.offset)?);
        let buffers = described.buffers.iter().map(|place| self.buffer(place));
        let builder = ArrayData::builder(data_type.clone())
            .len(length)
            .offset(offset)
            .nulls(self.nulls(described, offset, length)?)
            .buffers(buffers.collect::<Result<_, _>>()?)
            .child_data(children.collect::<Result<_, _>>()?)
            .align_buffers(true);
        // SAFETY: nothing reads the array before its caller has checked its layout: as many buffers as the type has, each long
        // enough and aligned. That values within are right (offsets, UTF-8, keys of dictionaries) is the server's word, which
        // runs as this user or as root and owns the memory; `Client::checking_values` does not take it.
        Ok(unsafe { builder.build_unchecked() })
    }

    #[expect(unsafe_code, reason = "counting nulls anew would read all of the bitmap")]
    fn nulls(&self, described: &Array, offset: usize, length: usize) -> Result<Option<NullBuffer>, ClientError> {
        let Some(place) = &described.validity else {
            return Ok(None);
        };
        let bitmap = self.buffer(place)?;
        let bits = bitmap.len().saturating_mul(8);
        let nulls = usize::try_from(described.nulls).ok().filter(|nulls| *nulls <= length);
        let fits = offset.checked_add(length).is_some_and(|end| end <= bits);
        let (true, Some(nulls)) = (fits, nulls) else {
            return Err(wrong(
                "a validity bitmap that is shorter than its array, or has more nulls than rows",
            ));
        };
        let bits = BooleanBuffer::new(bitmap, offset, length);
        // SAFETY: as for the values, the count is the server's word unless values are checked, which counts anew.
        Ok(Some(unsafe { NullBuffer::new_unchecked(bits, nulls) }))
    }

    fn buffer(&self, place: &Place) -> Result<Buffer, ClientError> {
        let Place(id, offset, bytes) = *place;
        let beyond = || wrong(&format!("{bytes} bytes at {offset} are not within segment {}", id.0));
        let (offset, bytes) = (length(offset)?, length(bytes)?);
        if id == SegmentId::INLINE {
            let fits = offset.checked_add(bytes).is_some_and(|end| end <= self.inline.len());
            let aligned = offset.is_multiple_of(INLINE_ALIGNMENT_BYTES);
            return if fits && aligned {
                Ok(self.inline.slice_with_length(offset, bytes))
            } else {
                Err(beyond())
            };
        }
        let segment = self
            .segments
            .get(&id)
            .ok_or_else(|| wrong(&format!("segment {} was not handed over", id.0)))?;
        segment.buffer(offset, bytes).ok_or_else(beyond)
    }
}

fn length(length: u64) -> Result<usize, ClientError> {
    usize::try_from(length).map_err(|_| wrong(&format!("a length of {length}")))
}

fn wrong(what: &str) -> ClientError {
    ClientError::Protocol(what.to_owned())
}
