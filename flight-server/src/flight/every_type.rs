//! What a client gets of any batch is what arrow-flight's own encoder would give it, at addresses that suit Arrow.
//!
//! Schemas, lengths, nulls and slices are random; a failing case prints what made it.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BinaryArray, BooleanArray, FixedSizeListArray, GenericListArray, Int64Array, MapArray, NullArray,
    OffsetSizeTrait, RecordBatch, StringArray, StructArray, new_null_array,
};
use arrow::buffer::{NullBuffer, OffsetBuffer};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, IntervalUnit, Schema, TimeUnit, UnionFields, UnionMode};
use arrow_flight::decode::FlightRecordBatchStream;
use arrow_flight::encode::{DictionaryHandling, FlightDataEncoderBuilder};
use arrow_flight::error::FlightError;
use bytes::Bytes;
use futures::{TryStreamExt, stream};
use jetbridge_cache::key::Source;
use proptest::prelude::*;
use prost::Message as _;

use super::encode::Encoder;
use super::message::Message;

const ROWS: usize = 200;
const ALIGNMENT_BYTES: usize = 64;

/// Types that hold no others.
fn flat() -> impl Strategy<Value = DataType> {
    use DataType as T;
    prop::sample::select(vec![
        T::Null,
        T::Boolean,
        T::Int8,
        T::Int16,
        T::Int32,
        T::Int64,
        T::UInt8,
        T::UInt16,
        T::UInt32,
        T::UInt64,
        T::Float16,
        T::Float32,
        T::Float64,
        T::Decimal32(7, 2),
        T::Decimal64(15, 3),
        T::Decimal128(30, 4),
        T::Decimal256(60, 5),
        T::Date32,
        T::Date64,
        T::Time32(TimeUnit::Second),
        T::Time32(TimeUnit::Millisecond),
        T::Time64(TimeUnit::Microsecond),
        T::Time64(TimeUnit::Nanosecond),
        T::Timestamp(TimeUnit::Second, None),
        T::Timestamp(TimeUnit::Nanosecond, Some("UTC".into())),
        T::Duration(TimeUnit::Millisecond),
        T::Interval(IntervalUnit::YearMonth),
        T::Interval(IntervalUnit::DayTime),
        T::Interval(IntervalUnit::MonthDayNano),
        T::Utf8,
        T::LargeUtf8,
        T::Utf8View,
        T::Binary,
        T::LargeBinary,
        T::BinaryView,
        T::FixedSizeBinary(3),
        T::Dictionary(Box::new(T::Int16), Box::new(T::Utf8)),
        T::Dictionary(Box::new(T::UInt32), Box::new(T::Int64)),
        T::RunEndEncoded(
            Arc::new(Field::new("run_ends", T::Int32, false)),
            Arc::new(Field::new("values", T::Int64, true)),
        ),
    ])
}

fn any_type() -> impl Strategy<Value = DataType> {
    flat().prop_recursive(3, 8, 3, |inner| {
        let field = inner.clone().prop_map(|of| Arc::new(Field::new("item", of, true)));
        let key = Arc::new(Field::new("key", DataType::Utf8, false));
        prop_oneof![
            field.clone().prop_map(DataType::List),
            field.clone().prop_map(DataType::LargeList),
            field.clone().prop_map(|of| DataType::FixedSizeList(of, 2)),
            prop::collection::vec(inner, 1..4).prop_map(|types| {
                let fields = types.into_iter().enumerate();
                DataType::Struct(fields.map(|(at, of)| Field::new(format!("f{at}"), of, true)).collect())
            }),
            field.prop_map(move |of| {
                let value = Field::new("value", of.data_type().clone(), true);
                let entries = DataType::Struct(vec![Arc::clone(&key), Arc::new(value)].into());
                DataType::Map(Arc::new(Field::new("entries", entries, false)), false)
            }),
        ]
    })
}

/// Numbers that look random and are the same each time: a linear congruential generator (Knuth's constants for MMIX).
struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % below
    }

    fn nulls(&mut self, rows: usize) -> Option<NullBuffer> {
        match self.roll(3) {
            0 => None,
            1 => Some(NullBuffer::new_null(rows)),
            _ => Some((0..rows).map(|_| self.roll(4) > 0).collect::<Vec<bool>>().into()),
        }
    }

    fn numbers(&mut self, rows: usize) -> Int64Array {
        let values = (0..rows).map(|_| i64::try_from(self.roll(100)).unwrap());
        let values = arrow::buffer::ScalarBuffer::from(values.collect::<Vec<_>>());
        Int64Array::new(values, self.nulls(rows))
    }

    fn text(&mut self) -> String {
        let letters = ["", "a", "ein Wort", "a text that no view can hold inline", "ünïcödé"];
        let at = usize::try_from(self.roll(5)).unwrap();
        format!("{}{}", letters[at], self.roll(30))
    }

    /// Rising offsets and the length that they end at.
    fn offsets<O: OffsetSizeTrait>(&mut self, rows: usize) -> (OffsetBuffer<O>, usize) {
        let lengths: Vec<usize> = (0..rows).map(|_| usize::try_from(self.roll(4)).unwrap()).collect();
        let total = lengths.iter().sum();
        (OffsetBuffer::from_lengths(lengths), total)
    }

    fn array(&mut self, of: &DataType, rows: usize) -> ArrayRef {
        use DataType as T;
        match of {
            T::Null => Arc::new(NullArray::new(rows)),
            T::Boolean => {
                let bits = (0..rows).map(|_| self.roll(2) == 1).collect::<Vec<_>>();
                Arc::new(BooleanArray::new(bits.into(), self.nulls(rows)))
            }
            T::Utf8 | T::LargeUtf8 | T::Utf8View => {
                let nulls = self.numbers(rows);
                let texts: StringArray = nulls.iter().map(|number| number.map(|_| self.text())).collect();
                cast(&texts, of).unwrap()
            }
            T::Binary | T::LargeBinary | T::BinaryView => {
                let nulls = self.numbers(rows);
                let bytes: BinaryArray = nulls
                    .iter()
                    .map(|number| number.map(|_| self.text().into_bytes()))
                    .collect();
                cast(&bytes, of).unwrap()
            }
            T::FixedSizeBinary(width) => {
                let width = usize::try_from(*width).unwrap();
                let bytes: Vec<_> = (0..rows)
                    .map(|row| Some(vec![u8::try_from(row % 200).unwrap(); width]))
                    .collect();
                let array = arrow::array::FixedSizeBinaryArray::try_from_sparse_iter_with_size(
                    bytes.into_iter(),
                    i32::try_from(width).unwrap(),
                );
                Arc::new(array.unwrap())
            }
            T::List(item) => self.list::<i32>(item, rows),
            T::LargeList(item) => self.list::<i64>(item, rows),
            T::FixedSizeList(item, size) => {
                let values = self.array(item.data_type(), rows * usize::try_from(*size).unwrap());
                Arc::new(FixedSizeListArray::new(
                    Arc::clone(item),
                    *size,
                    values,
                    self.nulls(rows),
                ))
            }
            T::Struct(fields) => {
                let columns = fields.iter().map(|field| self.array(field.data_type(), rows)).collect();
                Arc::new(StructArray::new(fields.clone(), columns, self.nulls(rows)))
            }
            T::Map(entries, sorted) => {
                let T::Struct(fields) = entries.data_type() else {
                    unreachable!("a map's entries are a struct")
                };
                let (offsets, total) = self.offsets::<i32>(rows);
                let keys: ArrayRef = Arc::new((0..total).map(|at| Some(format!("k{at}"))).collect::<StringArray>());
                let values = self.array(fields[1].data_type(), total);
                let pairs = StructArray::new(fields.clone(), vec![keys, values], None);
                Arc::new(MapArray::new(
                    Arc::clone(entries),
                    offsets,
                    pairs,
                    self.nulls(rows),
                    *sorted,
                ))
            }
            T::Dictionary(_, values) => cast(&self.array(values, rows), of).unwrap(),
            T::RunEndEncoded(_, values) => cast(&self.array(values.data_type(), rows), of).unwrap(),
            number => {
                let numbers = self.numbers(rows);
                // Intervals are all null: nothing casts to them.
                cast(&numbers, number).unwrap_or_else(|_| new_null_array(number, rows))
            }
        }
    }

    fn list<O: OffsetSizeTrait>(&mut self, item: &Arc<Field>, rows: usize) -> ArrayRef {
        let (offsets, total) = self.offsets::<O>(rows);
        let values = self.array(item.data_type(), total);
        let nulls = self.nulls(rows);
        Arc::new(GenericListArray::<O>::new(Arc::clone(item), offsets, values, nulls))
    }
}

fn batch(types: &[DataType], seed: u64, rows: usize, slice: (usize, usize)) -> RecordBatch {
    let mut dice = Dice(seed);
    let fields = types.iter().enumerate();
    let fields: Vec<_> = fields
        .map(|(at, of)| Field::new(format!("c{at}"), of.clone(), true))
        .collect();
    let columns = types.iter().map(|of| dice.array(of, rows)).collect();
    let whole = RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).unwrap();
    let from = slice.0.min(rows);
    whole.slice(from, slice.1.min(rows - from))
}

/// The batches as a client sees them that keeps each message in aligned memory; with the lowest alignment of any buffer.
fn over_the_wire(batches: &[RecordBatch], limit_bytes: usize) -> Vec<arrow_flight::FlightData> {
    let mut encoder = Encoder::new(&batches[0].schema(), limit_bytes).unwrap();
    let mut messages = vec![encoder.schema()];
    for batch in batches {
        messages.extend(encoder.batch(batch, Source::Memory).unwrap());
    }
    messages.into_iter().map(received).collect()
}

fn received(message: Message) -> arrow_flight::FlightData {
    let buffers = message.into_buffers().unwrap();
    let framed: Vec<u8> = buffers.iter().flatten().copied().collect();
    let after_prefix = &framed[5..];
    // As pyarrow keeps it: the whole message in one allocation of Arrow's.
    let mut aligned = arrow::buffer::MutableBuffer::new(after_prefix.len());
    aligned.extend_from_slice(after_prefix);
    let whole = Bytes::from_owner(AsBytes(aligned.into()));
    let data = arrow_flight::FlightData::decode(whole).unwrap();
    if !data.data_body.is_empty() {
        assert_eq!(data.data_body.as_ptr() as usize % ALIGNMENT_BYTES, 0);
    }
    data
}

struct AsBytes(arrow::buffer::Buffer);

impl AsRef<[u8]> for AsBytes {
    fn as_ref(&self) -> &[u8] {
        self.0.as_slice()
    }
}

async fn decoded(messages: Vec<arrow_flight::FlightData>) -> Vec<RecordBatch> {
    let messages = stream::iter(messages.into_iter().map(Ok));
    FlightRecordBatchStream::new_from_flight_data(messages)
        .try_collect()
        .await
        .unwrap()
}

async fn by_the_stock_encoder(batches: Vec<RecordBatch>) -> Vec<RecordBatch> {
    let messages: Vec<_> = FlightDataEncoderBuilder::new()
        .with_dictionary_handling(DictionaryHandling::Resend)
        .with_max_flight_data_size(usize::MAX)
        .build(stream::iter(batches.into_iter().map(Ok::<_, FlightError>)))
        .try_collect()
        .await
        .unwrap();
    decoded(messages).await
}

/// Whether each body's buffers begin at multiples of 64 within it, by the message's own table.
fn offsets_are_aligned(messages: &[arrow_flight::FlightData]) -> bool {
    messages.iter().all(|data| {
        let message = arrow::ipc::root_as_message(&data.data_header).unwrap();
        let Some(batch) = message.header_as_record_batch() else {
            return true;
        };
        let buffers = batch.buffers().into_iter().flatten();
        let mut aligned = buffers
            .filter(|buffer| buffer.length() > 0)
            .map(|buffer| buffer.offset());
        aligned.all(|offset| usize::try_from(offset).unwrap() % ALIGNMENT_BYTES == 0)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn is_as_the_stock_encoder_sends_it(
        types in prop::collection::vec(any_type(), 1..5),
        seed in any::<u64>(),
        rows in 0usize..ROWS,
        slice in (0usize..20, 0usize..ROWS),
        cut in any::<bool>(),
    ) {
        let batches = vec![batch(&types, seed, rows, (0, rows)), batch(&types, seed + 1, rows, slice)];
        let messages = over_the_wire(&batches, if cut { 64 << 10 } else { 64 << 20 });
        prop_assert!(offsets_are_aligned(&messages));
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let ours = runtime.block_on(decoded(messages));
        let schema = batches[0].schema();
        // arrow-flight 59.3 announces a LargeList as a List, and then cannot read what it sent.
        let stock_can = !format!("{types:?}").contains("LargeList");
        let joined = |batches: &[RecordBatch]| arrow::compute::concat_batches(&schema, batches).unwrap();
        if !cut && stock_can {
            prop_assert_eq!(&ours, &runtime.block_on(by_the_stock_encoder(batches.clone())));
        }
        prop_assert_eq!(joined(&ours), joined(&batches));
    }
}

/// Unions are no type of Parquet's; they pass all the same.
#[tokio::test]
async fn unions_pass() {
    let fields = UnionFields::try_new(
        vec![0, 1],
        vec![
            Field::new("n", DataType::Int64, true),
            Field::new("s", DataType::Utf8, true),
        ],
    );
    let fields = fields.unwrap();
    let numbers: ArrayRef = Arc::new(Int64Array::from(vec![1, 2, 3]));
    let texts: ArrayRef = Arc::new(StringArray::from(vec!["a", "b", "c"]));
    let union = arrow::array::UnionArray::try_new(fields.clone(), vec![0, 1, 0].into(), None, vec![numbers, texts]);
    let of = DataType::Union(fields, UnionMode::Sparse);
    let schema = Arc::new(Schema::new(vec![Field::new("u", of, false)]));
    let batch = RecordBatch::try_new(schema, vec![Arc::new(union.unwrap()) as ArrayRef]).unwrap();
    assert_eq!(
        decoded(over_the_wire(std::slice::from_ref(&batch), 1 << 20)).await,
        [batch]
    );
}

/// What a warm batch costs in allocations does not depend on how many rows it has.
#[test]
fn no_allocation_grows_with_the_batch() {
    let columns: Vec<DataType> = vec![
        DataType::Int64,
        DataType::Utf8,
        DataType::Boolean,
        DataType::List(Arc::new(Field::new("item", DataType::Int64, true))),
        DataType::Utf8View,
        DataType::Decimal128(30, 4),
    ];
    let cost = |rows: usize| {
        let batch = batch(&columns, 7, rows, (0, rows));
        let mut encoder = Encoder::new(&batch.schema(), 1 << 30).unwrap();
        // The first message of a stream brings the encoder's own tables.
        drop(encoder.batch(&batch, Source::Memory).unwrap());
        let mut sent = 0;
        let allocated = allocation_counter::measure(|| {
            let messages = encoder.batch(&batch, Source::Memory).unwrap();
            sent = messages.iter().map(Message::bytes).sum();
            let buffers: Vec<_> = messages
                .into_iter()
                .map(|message| message.into_buffers().unwrap())
                .collect();
            drop(buffers);
        });
        (sent, allocated)
    };
    let (small_bytes, small) = cost(40_000);
    let (large_bytes, large) = cost(400_000);
    assert!(
        large_bytes > 9 * small_bytes && small_bytes > 1 << 20,
        "{small_bytes} {large_bytes}"
    );
    assert!(
        large.count_total <= small.count_total + 16,
        "{} and {}",
        small.count_total,
        large.count_total
    );
    let grown = large.bytes_total.abs_diff(small.bytes_total);
    assert!(
        grown < 4 << 10,
        "{} bytes for a small batch, {} for a large one",
        small.bytes_total,
        large.bytes_total
    );
    assert!(large.bytes_max < 64 << 10, "{} bytes at once", large.bytes_max);
}
