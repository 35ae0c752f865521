//! The sum of every value of a table, on all cores: of numbers and decimals as they are, of dates their days, of texts their
//! lengths and all their bytes.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use arrow::array::{
    Array, ArrowPrimitiveType, AsArray, GenericStringArray, OffsetSizeTrait, RecordBatch, StringViewArray,
};
use arrow::compute::sum;
use arrow::datatypes::{DataType, Date32Type, Decimal128Type, Int32Type, Int64Type};

use super::Failure;

/// A view of up to so many bytes has them in itself, the rest of it being zeros.
const INLINE_BYTES: usize = 12;

/// By column.
pub(crate) fn of(batches: &[&RecordBatch]) -> Result<BTreeMap<String, i64>, Failure> {
    let Some(first) = batches.first() else {
        return Ok(BTreeMap::new());
    };
    let next = AtomicUsize::new(0);
    let mut sums = vec![0; first.num_columns()];
    thread::scope(|scope| {
        if batches.len() == 1 {
            sums = share(batches, &next)?;
            return Ok(());
        }
        let threads = thread::available_parallelism().map_or(1, usize::from);
        let adding: Vec<_> = (0..threads).map(|_| scope.spawn(|| share(batches, &next))).collect();
        for thread in adding {
            let more = thread.join().map_err(|_| "a thread that summed panicked")??;
            sums.iter_mut().zip(more).for_each(|(sum, more)| *sum += more);
        }
        Ok::<_, Failure>(())
    })?;
    let schema = first.schema();
    let named = schema.fields().iter().zip(sums);
    named
        .map(|(field, sum)| Ok((field.name().clone(), i64::try_from(sum)?)))
        .collect()
}

/// The sums of those batches that nobody else has taken.
fn share(batches: &[&RecordBatch], next: &AtomicUsize) -> Result<Vec<i128>, Failure> {
    let mut sums = vec![0; batches.first().map_or(0, |batch| batch.num_columns())];
    while let Some(batch) = batches.get(next.fetch_add(1, Ordering::Relaxed)) {
        for (sum, column) in sums.iter_mut().zip(batch.columns()) {
            *sum += sum_of(column)?;
        }
    }
    Ok(sums)
}

fn sum_of(column: &dyn Array) -> Result<i128, Failure> {
    Ok(match column.data_type() {
        DataType::Int32 => widened::<Int32Type>(column),
        DataType::Date32 => widened::<Date32Type>(column),
        DataType::Int64 => sum(column.as_primitive::<Int64Type>()).unwrap_or(0).into(),
        DataType::Decimal128(_, _) => sum(column.as_primitive::<Decimal128Type>()).unwrap_or(0),
        DataType::Utf8 => texts::<i32>(column.as_string()).into(),
        DataType::LargeUtf8 => texts::<i64>(column.as_string()).into(),
        DataType::Utf8View => views(column.as_string_view()).into(),
        other => return Err(format!("no sum of {other} is known here").into()),
    })
}

/// Of values whose sum may need more bits than they have.
fn widened<T: ArrowPrimitiveType<Native = i32>>(column: &dyn Array) -> i128 {
    let array = column.as_primitive::<T>();
    let total: i64 = if array.null_count() == 0 {
        array.values().iter().copied().map(i64::from).sum()
    } else {
        array.iter().flatten().map(i64::from).sum()
    };
    total.into()
}

fn texts<O: OffsetSizeTrait>(array: &GenericStringArray<O>) -> u64 {
    array.iter().flatten().map(|text| bytes(text.as_bytes())).sum()
}

fn views(array: &StringViewArray) -> u64 {
    if array.null_count() > 0 {
        return array.iter().flatten().map(|text| bytes(text.as_bytes())).sum();
    }
    let of_view = |(row, view): (usize, &u128)| match length(*view) {
        inline if inline <= INLINE_BYTES => to_u64(inline) + bytes_of_word(*view >> 32),
        _ => bytes(array.value(row).as_bytes()),
    };
    array.views().iter().enumerate().map(of_view).sum()
}

fn length(view: u128) -> usize {
    usize::try_from(view & u128::from(u32::MAX)).unwrap_or(usize::MAX)
}

/// A text's length and all its bytes.
fn bytes(text: &[u8]) -> u64 {
    let words = text.chunks_exact(8);
    let rest: u64 = words.remainder().iter().copied().map(u64::from).sum();
    let whole = words.map(|word| bytes_of_half(word.try_into().map_or(0, u64::from_le_bytes)));
    to_u64(text.len()) + rest + whole.sum::<u64>()
}

/// The sum of a word's bytes.
fn bytes_of_word(word: u128) -> u64 {
    let half = |word: u128| u64::try_from(word & u128::from(u64::MAX)).unwrap_or(0);
    bytes_of_half(half(word)) + bytes_of_half(half(word >> 64))
}

/// By adding neighbours in 16 bits each, then the four of them by one multiplication.
fn bytes_of_half(word: u64) -> u64 {
    const EVERY_SECOND: u64 = 0x00FF_00FF_00FF_00FF;
    let pairs = (word & EVERY_SECOND) + ((word >> 8) & EVERY_SECOND);
    pairs.wrapping_mul(0x0001_0001_0001_0001) >> 48
}

fn to_u64(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX)
}
