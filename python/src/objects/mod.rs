//! Python objects for the columns that NumPy holds as such: texts, bytes, dates and decimals.
//!
//! ```text
//! rows -> values, each once, and which one a row has   (encode)   without the interpreter's lock
//!      -> an object of each value                      (make)     with it
//!      -> an array of references to these              (fill)     without it
//! ```
//! To make an object takes 50 to 300 ns, and nothing else runs in the interpreter meanwhile; a reference takes 1 ns. So rows of
//! equal values share an object, as they do with pyarrow (there, decimals do not). Columns whose values hardly repeat are
//! made row by row from where that is seen on: looking values up takes memory and time for a part of the rows only.
//!
//! Why no more types: pyarrow is quick at the others, or they are rare. Whatever is not taken here goes its way.

mod encode;
mod fill;
mod make;

use std::hash::Hash;
use std::ops::RangeInclusive;

use arrow::array::types::ArrowPrimitiveType;
use arrow::array::{Array, ArrayAccessor, ArrayIter, ArrayRef, AsArray, GenericBinaryArray, OffsetSizeTrait};
use arrow::datatypes::{
    DataType, Date32Type, Date64Type, Decimal32Type, Decimal64Type, Decimal128Type, Decimal256Type, Field,
};
use numpy::PyArray1;
use pyo3::prelude::*;
use pyo3_arrow::PyArrayReader;
use pyo3_arrow::error::PyArrowError;

use encode::{Dense, Hashed, Lookup, encode};
use fill::Slots;
use make::{Bytes, Dates, Decimals, Make, Texts};

type Objects<'py> = Bound<'py, PyArray1<Py<PyAny>>>;

/// The key in a field's metadata that names its extension type.
const EXTENSION: &str = "ARROW:extension:name";
const MS_PER_DAY: i64 = 86_400_000;
/// Once a column has more values than one for so many of its rows, what is left of it is made row by row.
const ROWS_PER_VALUE: usize = 2;
/// The same for texts and bytes, which are quick to make and slow to look up.
const ROWS_PER_TEXT: usize = 4;
/// More values than this do not have numbers of 32 bits with room to spare.
const MOST_VALUES: usize = 1 << 31;

/// One object for each row of a column, `None` for a null; nothing where the type or a value is left to pyarrow.
///
/// # Errors
/// Text that is not UTF-8, and an interrupt.
#[pyfunction]
pub(crate) fn objects<'py>(py: Python<'py>, column: PyArrayReader) -> PyResult<Option<Objects<'py>>> {
    let reader = column.into_reader()?;
    let field = reader.field();
    if !is_taken(&field) {
        return Ok(None);
    }
    let chunks = reader.collect::<Result<Vec<_>, _>>().map_err(PyArrowError::from)?;
    let column = Column {
        py,
        chunks: &chunks,
        rows: chunks.iter().map(Array::len).sum(),
    };
    match field.data_type() {
        DataType::Date32 => column.dates::<Date32Type>(|days| Some(days.into())),
        DataType::Date64 => column.dates::<Date64Type>(|ms| (ms % MS_PER_DAY == 0).then_some(ms / MS_PER_DAY)),
        DataType::Decimal32(_, scale) => column.decimals::<Decimal32Type>(*scale).map(Some),
        DataType::Decimal64(_, scale) => column.decimals::<Decimal64Type>(*scale).map(Some),
        DataType::Decimal128(_, scale) => column.decimals::<Decimal128Type>(*scale).map(Some),
        DataType::Decimal256(_, scale) => column.long_decimals(*scale).map(Some),
        DataType::Utf8 => column.offset_bytes::<i32>(Texts(py)).map(Some),
        DataType::LargeUtf8 => column.offset_bytes::<i64>(Texts(py)).map(Some),
        DataType::Utf8View => column
            .bytes(|chunk| chunk.as_string_view().clone().to_binary_view(), Texts(py))
            .map(Some),
        DataType::Binary => column.offset_bytes::<i32>(Bytes(py)).map(Some),
        DataType::LargeBinary => column.offset_bytes::<i64>(Bytes(py)).map(Some),
        DataType::BinaryView => column
            .bytes(|chunk| chunk.as_binary_view().clone(), Bytes(py))
            .map(Some),
        DataType::FixedSizeBinary(_) => column
            .bytes(|chunk| chunk.as_fixed_size_binary().clone(), Bytes(py))
            .map(Some),
        _ => Ok(None),
    }
}

/// Whether objects are made for a type. What is not is left where it is: arrow-rs does not take every slice of nested arrays.
fn is_taken(field: &Field) -> bool {
    let data_type = field.data_type();
    let is_flat = !(data_type.is_nested() || matches!(data_type, DataType::Dictionary(..)));
    is_flat && !field.metadata().contains_key(EXTENSION)
}

/// A column that objects are made for.
#[derive(Clone, Copy)]
struct Column<'py, 'a> {
    py: Python<'py>,
    chunks: &'a [ArrayRef],
    rows: usize,
}

impl<'py, 'a> Column<'py, 'a> {
    /// `days` gives the days since 1970-01-01 of a value, where it is a whole number of them. Nothing where there is a value
    /// that no `date` is for.
    fn dates<T: ArrowPrimitiveType>(
        self,
        days: impl Fn(T::Native) -> Option<i64> + Copy + Send,
    ) -> PyResult<Option<Objects<'py>>> {
        let rows = self.numbers::<T>();
        let range = range(
            self.py,
            rows.clone().flatten().map(move |value| days(value).unwrap_or(i64::MAX)),
        );
        if !(Dates::DAYS.contains(range.start()) && Dates::DAYS.contains(range.end())) {
            return Ok(None);
        }
        let rows = rows.map(move |row| row.and_then(days));
        self.integers(rows, &range, Dates::new(self.py)?).map(Some)
    }

    /// Decimals of up to 38 digits; with up to 18, as most are, they are integers of 64 bits.
    fn decimals<T: ArrowPrimitiveType<Native: Into<i128>>>(self, scale: i8) -> PyResult<Objects<'py>> {
        let rows = self.numbers::<T>().map(|row| row.map(Into::<i128>::into));
        let range = range(self.py, rows.clone().flatten());
        let make = Decimals::new(self.py, scale)?;
        match (i64::try_from(*range.start()), i64::try_from(*range.end())) {
            #[expect(clippy::cast_possible_truncation, reason = "all are within the range")]
            (Ok(least), Ok(most)) => {
                self.integers(rows.map(|row| row.map(|value| value as i64)), &(least..=most), make)
            }
            _ => self.hashed(rows, ROWS_PER_VALUE, make),
        }
    }

    /// Decimals of up to 76 digits.
    fn long_decimals(self, scale: i8) -> PyResult<Objects<'py>> {
        let make = Decimals::new(self.py, scale)?;
        self.hashed(self.numbers::<Decimal256Type>(), ROWS_PER_VALUE, make)
    }

    /// Texts and bytes by offsets.
    fn offset_bytes<O: OffsetSizeTrait>(self, make: impl for<'b> Make<&'b [u8]>) -> PyResult<Objects<'py>> {
        let as_bytes = |chunk: &ArrayRef| match chunk.as_string_opt::<O>() {
            Some(texts) => GenericBinaryArray::<O>::from(texts.clone()),
            None => chunk.as_binary::<O>().clone(),
        };
        self.bytes(as_bytes, make)
    }

    /// Texts and bytes, whose chunks `as_bytes` gives as bytes.
    fn bytes<A: Sync>(
        self,
        as_bytes: impl Fn(&ArrayRef) -> A,
        make: impl for<'b> Make<&'b [u8]>,
    ) -> PyResult<Objects<'py>>
    where
        for<'b> &'b A: ArrayAccessor<Item = &'b [u8]> + Send,
    {
        let chunks: Vec<A> = self.chunks.iter().map(as_bytes).collect();
        self.hashed(chunks.iter().flat_map(ArrayIter::new), ROWS_PER_TEXT, make)
    }

    /// The rows of a column of numbers.
    fn numbers<T: ArrowPrimitiveType>(self) -> impl Iterator<Item = Option<T::Native>> + Clone + Send + use<'a, T> {
        self.chunks.iter().flat_map(|chunk| chunk.as_primitive::<T>().iter())
    }

    fn integers(
        self,
        rows: impl Iterator<Item = Option<i64>> + Send,
        range: &RangeInclusive<i64>,
        make: impl Make<i64>,
    ) -> PyResult<Objects<'py>> {
        match Dense::of(range, self.rows) {
            Some(dense) => self.shared(rows, dense, ROWS_PER_VALUE, make),
            None => self.hashed(rows, ROWS_PER_VALUE, make),
        }
    }

    fn hashed<V: Copy + Eq + Hash + Send>(
        self,
        rows: impl Iterator<Item = Option<V>> + Send,
        rows_per_value: usize,
        make: impl Make<V>,
    ) -> PyResult<Objects<'py>> {
        self.shared(rows, Hashed::new(), rows_per_value, make)
    }

    fn shared<V: Copy + Send>(
        self,
        mut rows: impl Iterator<Item = Option<V>> + Send,
        lookup: impl Lookup<V> + Send,
        rows_per_value: usize,
        mut make: impl Make<V>,
    ) -> PyResult<Objects<'py>> {
        let most_values = (self.rows / rows_per_value + 1).min(MOST_VALUES);
        let encoded = self.py.detach(|| encode(&mut rows, self.rows, lookup, most_values));
        let mut slots = Slots::new(self.py, self.rows);
        slots.share(&encoded, &mut make)?;
        slots.make(&mut rows, &mut make)?;
        Ok(slots.into_array())
    }
}

/// From the least to the most; anything where there are none.
fn range<V: Copy + Ord + Default + Send>(py: Python<'_>, values: impl Iterator<Item = V> + Send) -> RangeInclusive<V> {
    let wider = |range: Option<(V, V)>, value: V| {
        let (least, most) = range.unwrap_or((value, value));
        Some((least.min(value), most.max(value)))
    };
    let (least, most) = py.detach(|| values.fold(None, wider)).unwrap_or_default();
    least..=most
}
