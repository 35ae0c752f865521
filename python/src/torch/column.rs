//! What a column becomes for torch. `python/jetbridge/torch/__init__.py` has the table that users read.
//!
//! Numbers are handed over as they lie; what torch has no type for is widened; booleans become bytes. Text becomes Python
//! strings, lists become their values and where each list begins, structs become one entry a field.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, FixedSizeListArray, GenericListArray, OffsetSizeTrait, RecordBatch,
};
use arrow::buffer::{Buffer, NullBuffer};
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{DataType, Field, Schema};
use arrow::error::ArrowError;

use super::dlpack::{Code, Tensor};
use super::double::doubles;
use super::fill::{Nulls, filled};

/// A column of a batch, ready to be handed over.
#[derive(Debug)]
pub(super) enum Column {
    Tensor(Tensor),
    /// Bytes that are 0 or 1.
    Bool(Tensor),
    /// `Utf8`.
    Texts(ArrayRef),
    /// `Binary`.
    Bytes(ArrayRef),
    /// The elements of all lists, and where each list begins, the end of the last one included.
    Lists(Box<Column>, Tensor),
}

/// A column and what it is called.
#[derive(Debug)]
pub(super) struct Named {
    pub(super) name: String,
    pub(super) column: Column,
    /// Whether each row has a value, where that was asked for.
    pub(super) mask: Option<Tensor>,
}

/// How columns are handed over.
#[derive(Debug, Clone)]
pub(super) struct Handing {
    pub(super) nulls: Nulls,
    /// Whether numbers are copied, and not handed over where they lie: others may look at them there, and memory that a server
    /// shares cannot be written to.
    pub(super) copies: bool,
}

/// The columns of a batch.
///
/// # Errors
/// A null that is not to be, a type that tensors cannot hold; in words that name the column.
pub(super) fn columns(batch: &RecordBatch, how: &Handing) -> Result<Vec<Named>, String> {
    let mut named = Vec::with_capacity(batch.num_columns());
    for (field, array) in batch.schema_ref().fields().iter().zip(batch.columns()) {
        let at = At {
            name: field.name(),
            nulls: &how.nulls,
            copies: how.copies,
        };
        at.named(field, array, None, &mut named)?;
    }
    Ok(named)
}

/// What is known of a column before there are rows.
#[derive(Debug)]
pub(super) struct Described {
    pub(super) name: String,
    /// Whether its values, or those in its lists, are texts or bytes.
    pub(super) has_texts: bool,
    /// Whether it has a mask, where masks are asked for.
    pub(super) has_mask: bool,
}

/// The columns that batches of a schema have.
pub(super) fn described(schema: &Schema) -> Vec<Described> {
    let mut columns = Vec::with_capacity(schema.fields().len());
    for field in schema.fields() {
        describe(field.name().clone(), field, false, &mut columns);
    }
    columns
}

/// Adds a column, or one for each field of a struct; `may_miss`: whether a struct around it may be null.
fn describe(name: String, field: &Field, may_miss: bool, out: &mut Vec<Described>) {
    let may_miss = may_miss || field.is_nullable();
    if let DataType::Struct(fields) = field.data_type() {
        for part in fields {
            describe(format!("{name}.{}", part.name()), part, may_miss, out);
        }
        return;
    }
    let has_texts = has_texts(field.data_type());
    let is_lists = matches!(field.data_type(), DataType::List(_) | DataType::LargeList(_));
    out.push(Described {
        name,
        has_texts,
        has_mask: may_miss && (is_lists || !has_texts),
    });
}

fn has_texts(data_type: &DataType) -> bool {
    match data_type {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => true,
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView | DataType::FixedSizeBinary(_) => true,
        DataType::Dictionary(_, values) => has_texts(values),
        DataType::List(item) | DataType::LargeList(item) | DataType::FixedSizeList(item, _) => {
            has_texts(item.data_type())
        }
        _ => false,
    }
}

/// Where a column is on its way, for messages.
#[derive(Clone, Copy)]
struct At<'a> {
    name: &'a str,
    nulls: &'a Nulls,
    copies: bool,
}

impl At<'_> {
    /// Adds a column, or one for each field of a struct; `outer` are the nulls of the structs around it.
    fn named(
        self,
        field: &Field,
        array: &ArrayRef,
        outer: Option<&NullBuffer>,
        out: &mut Vec<Named>,
    ) -> Result<(), String> {
        let nulls = NullBuffer::union(outer, array.logical_nulls().as_ref());
        if let DataType::Struct(fields) = array.data_type() {
            for (field, part) in fields.iter().zip(array.as_struct().columns()) {
                let name = format!("{}.{}", self.name, field.name());
                At { name: &name, ..self }.named(field, part, nulls.as_ref(), out)?;
            }
            return Ok(());
        }
        let mut column = self.column(array, nulls.as_ref())?;
        if let Some(shape) = fixed_shape(field) {
            column = self.reshaped(column, &shape)?;
        }
        let has_mask = self.nulls.masks() && (field.is_nullable() || outer.is_some());
        let mask = has_mask.then(|| mask(nulls.as_ref(), array.len()));
        out.push(Named {
            name: self.name.to_owned(),
            mask: mask.filter(|_| !matches!(column, Column::Texts(_) | Column::Bytes(_))),
            column,
        });
        Ok(())
    }

    fn column(self, array: &ArrayRef, nulls: Option<&NullBuffer>) -> Result<Column, String> {
        match array.data_type() {
            DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => {
                Ok(Column::Texts(self.cast(array, &DataType::LargeUtf8)?))
            }
            DataType::Binary | DataType::LargeBinary | DataType::BinaryView | DataType::FixedSizeBinary(_) => {
                Ok(Column::Bytes(self.cast(array, &DataType::LargeBinary)?))
            }
            DataType::Dictionary(_, values) => self.column(&self.cast(array, values)?, nulls),
            DataType::Boolean => self.booleans(array.as_boolean(), nulls),
            DataType::FixedSizeList(_, _) => self.fixed_lists(array.as_fixed_size_list(), nulls),
            DataType::List(_) => self.lists(array.as_list::<i32>(), nulls),
            DataType::LargeList(_) => self.lists(array.as_list::<i64>(), nulls),
            _ => self.numbers(array, nulls),
        }
    }

    fn numbers(self, array: &ArrayRef, nulls: Option<&NullBuffer>) -> Result<Column, String> {
        let Some((code, bits, wider)) = number(array.data_type()) else {
            return Err(format!(
                "column {:?} is {}, which no tensor can hold; leave it out with select(...)",
                self.name,
                array.data_type()
            ));
        };
        let array = match &wider {
            Some(DataType::Float64) => doubles(array).map_err(|error| self.refused(&DataType::Float64, &error))?,
            Some(wider) => self.cast(array, wider)?,
            None => Arc::clone(array),
        };
        let data = array.to_data();
        let width = usize::from(bits / 8);
        let buffer = data.buffers().first().cloned().unwrap_or_default();
        let mut buffer = buffer.slice_with_length(data.offset() * width, data.len() * width);
        if let Some(nulls) = self.real(nulls)? {
            let value = self.nulls.bytes(self.name, array.data_type())?;
            buffer = filled(&buffer, nulls, &value);
        } else if self.copies && wider.is_none() {
            buffer = Buffer::from_slice_ref(buffer.as_slice());
        }
        Ok(Column::Tensor(Tensor {
            data: buffer,
            code,
            bits,
            shape: vec![length(data.len())],
        }))
    }

    fn booleans(self, array: &BooleanArray, nulls: Option<&NullBuffer>) -> Result<Column, String> {
        let bytes: Vec<u8> = array.values().iter().map(u8::from).collect();
        let mut buffer = Buffer::from_vec(bytes);
        if let Some(nulls) = self.real(nulls)? {
            let value = self.nulls.bytes(self.name, &DataType::Boolean)?;
            buffer = filled(&buffer, nulls, &value);
        }
        Ok(Column::Bool(bytes_tensor(buffer)))
    }

    /// Lists of one length: one more dimension.
    fn fixed_lists(self, array: &FixedSizeListArray, nulls: Option<&NullBuffer>) -> Result<Column, String> {
        let size = usize::try_from(array.value_length()).unwrap_or(0);
        let values = array.values().slice(array.offset() * size, array.len() * size);
        let spread = nulls
            .filter(|nulls| nulls.null_count() > 0)
            .map(|nulls| nulls.expand(size));
        let element_nulls = NullBuffer::union(spread.as_ref(), values.logical_nulls().as_ref());
        let mut column = self.column(&values, element_nulls.as_ref())?;
        let (Column::Tensor(tensor) | Column::Bool(tensor)) = &mut column else {
            return Err(format!(
                "column {:?} has lists of {}, which no tensor can hold; leave it out with select(...)",
                self.name,
                values.data_type()
            ));
        };
        let inner = tensor.shape.split_off(1);
        tensor.shape = [length(array.len()), length(size)].into_iter().chain(inner).collect();
        Ok(column)
    }

    /// Lists of any length; a null one is empty, where nulls are let in.
    fn lists<O: OffsetSizeTrait>(
        self,
        array: &GenericListArray<O>,
        nulls: Option<&NullBuffer>,
    ) -> Result<Column, String> {
        self.real(nulls)?;
        let offsets = array.value_offsets();
        let (first, last) = (edge(offsets.first()), edge(offsets.last()));
        let values = array.values().slice(first, last - first);
        let value_nulls = values.logical_nulls();
        let column = self.column(&values, value_nulls.as_ref())?;
        let begins: Vec<i64> = offsets.iter().map(|offset| length(offset.as_usize() - first)).collect();
        let begins = Tensor {
            shape: vec![length(begins.len())],
            data: Buffer::from_vec(begins),
            code: Code::Int,
            bits: 64,
        };
        Ok(Column::Lists(Box::new(column), begins))
    }

    /// The nulls that there are, where they are let in.
    fn real(self, nulls: Option<&NullBuffer>) -> Result<Option<&NullBuffer>, String> {
        match nulls.filter(|nulls| nulls.null_count() > 0) {
            Some(found) if self.nulls.refuses() => Err(format!(
                "column {:?} has {} nulls in a batch, which no tensor can hold; filter them out, or say nulls=\"fill\" or \
                 nulls=\"mask\"",
                self.name,
                found.null_count()
            )),
            found => Ok(found),
        }
    }

    fn cast(self, array: &ArrayRef, to: &DataType) -> Result<ArrayRef, String> {
        let exact = CastOptions {
            safe: false,
            ..CastOptions::default()
        };
        cast_with_options(array, to, &exact).map_err(|error| self.refused(to, &error))
    }

    fn refused(self, to: &DataType, error: &ArrowError) -> String {
        format!("column {:?} as {to}: {error}", self.name)
    }

    fn reshaped(self, column: Column, shape: &[i64]) -> Result<Column, String> {
        let Column::Tensor(mut tensor) = column else {
            return Ok(column);
        };
        let rows = tensor.shape.first().copied().unwrap_or(0);
        if tensor.shape.get(1).copied() != Some(shape.iter().product()) {
            return Err(format!(
                "column {:?} says that its rows have the shape {shape:?}, and they do not",
                self.name
            ));
        }
        tensor.shape = std::iter::once(rows).chain(shape.iter().copied()).collect();
        Ok(Column::Tensor(tensor))
    }
}

/// How torch sees a type of numbers, and the type to widen it to first.
fn number(data_type: &DataType) -> Option<(Code, u8, Option<DataType>)> {
    Some(match data_type {
        DataType::Int8 => (Code::Int, 8, None),
        DataType::Int16 => (Code::Int, 16, None),
        DataType::Int32 | DataType::Date32 | DataType::Time32(_) => (Code::Int, 32, None),
        DataType::Int64
        | DataType::Date64
        | DataType::Time64(_)
        | DataType::Timestamp(_, _)
        | DataType::Duration(_) => (Code::Int, 64, None),
        DataType::UInt8 => (Code::UInt, 8, None),
        DataType::UInt16 => (Code::Int, 32, Some(DataType::Int32)),
        DataType::UInt32 | DataType::UInt64 => (Code::Int, 64, Some(DataType::Int64)),
        DataType::Float16 => (Code::Float, 16, None),
        DataType::Float32 => (Code::Float, 32, None),
        DataType::Float64 => (Code::Float, 64, None),
        DataType::Decimal32(_, _)
        | DataType::Decimal64(_, _)
        | DataType::Decimal128(_, _)
        | DataType::Decimal256(_, _) => (Code::Float, 64, Some(DataType::Float64)),
        _ => return None,
    })
}

/// The shape of a row, where Arrow's extension type for tensors of one shape says it.
fn fixed_shape(field: &Field) -> Option<Vec<i64>> {
    let metadata = field.metadata();
    if metadata.get("ARROW:extension:name")? != "arrow.fixed_shape_tensor" {
        return None;
    }
    let said: serde_json::Value = serde_json::from_str(metadata.get("ARROW:extension:metadata")?).ok()?;
    if said.get("permutation").is_some() {
        return None;
    }
    said.get("shape")?
        .as_array()?
        .iter()
        .map(serde_json::Value::as_i64)
        .collect()
}

fn mask(nulls: Option<&NullBuffer>, rows: usize) -> Tensor {
    let bytes: Vec<u8> = match nulls {
        Some(nulls) => nulls.iter().map(u8::from).collect(),
        None => vec![1; rows],
    };
    bytes_tensor(Buffer::from_vec(bytes))
}

fn bytes_tensor(data: Buffer) -> Tensor {
    Tensor {
        shape: vec![length(data.len())],
        data,
        code: Code::UInt,
        bits: 8,
    }
}

fn edge<O: OffsetSizeTrait>(offset: Option<&O>) -> usize {
    offset.map_or(0, |offset| offset.as_usize())
}

fn length(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
