//! Small files read by the crate's own reader, against the same columns of the large file; and their rows by ours, against
//! those of a scan.

mod pauses;

use std::fs::File;
use std::path::Path;

use arrow::array::{
    AsArray, DictionaryArray, Float64Array, Int16Array, Int32Array, Int64Array, ListArray, MapBuilder, RecordBatch,
    StringArray, StringBuilder, StringViewArray, StructArray, TimestampMicrosecondArray,
};
use arrow::compute::concat_batches;
use arrow::datatypes::{Fields, Int8Type, Int32Type, Int64Type};
use arrow::error::ArrowError;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::metadata::SortingColumn;
use parquet::file::properties::{EnabledStatistics, WriterProperties, WriterVersion};

use super::*;
use crate::schema::project;
use crate::tests::types::all_types;
use crate::tests::{cache, collect, joined, mount, open as open_file, request, split, write as write_columns};
use crate::{Cache, CacheConfig};

const ROWS: usize = 1_000;
const GROUP_ROWS: usize = 300;
const UNBOUNDED: u64 = u64::MAX;

/// Plain, dictionary, text, view, time and nested columns.
fn table() -> RecordBatch {
    let rows = || 0..i64::try_from(ROWS).unwrap();
    let numbers: ArrayRef = Arc::new(rows().map(|row| (row % 7 != 0).then_some(row)).collect::<Int64Array>());
    let words: Vec<String> = rows().map(|row| format!("word {}", row % 5)).collect();
    let texts: ArrayRef = Arc::new(words.iter().map(Some).collect::<StringArray>());
    let views: ArrayRef = Arc::new(
        rows()
            .map(|row| Some(format!("no inlined text {row}")))
            .collect::<StringViewArray>(),
    );
    let dictionary: ArrayRef = Arc::new(words.iter().map(String::as_str).collect::<DictionaryArray<Int32Type>>());
    let times: ArrayRef = Arc::new(TimestampMicrosecondArray::from_iter_values(rows()).with_timezone("Europe/Paris"));
    let lists: ArrayRef =
        Arc::new(ListArray::from_iter_primitive::<Int64Type, _, _>(rows().map(|row| {
            (row % 3 != 0).then(|| (0..row % 4).map(Some).collect::<Vec<_>>())
        })));
    let floats: ArrayRef = Arc::new(Float64Array::from_iter_values((0..ROWS).map(|_| 0.5)));
    let inner: ArrayRef = Arc::new(Int32Array::from_iter_values(0..i32::try_from(ROWS).unwrap()));
    let structs: ArrayRef = Arc::new(StructArray::from(vec![
        (Arc::new(Field::new("x", DataType::Float64, true)), floats),
        (Arc::new(Field::new("y", DataType::Int32, false)), inner),
        (Arc::new(Field::new("name", DataType::Utf8, true)), Arc::clone(&texts)),
    ]));
    let columns = [
        ("n", numbers),
        ("text", texts),
        ("view", views),
        ("dictionary", dictionary),
        ("at", times),
        ("list", lists),
        ("point", structs),
        ("map", maps()),
    ];
    RecordBatch::try_from_iter_with_nullable(columns.map(|(name, array)| (name, array, true))).unwrap()
}

fn maps() -> ArrayRef {
    let mut maps = MapBuilder::new(None, StringBuilder::new(), StringBuilder::new());
    for row in 0..ROWS {
        for entry in 0..row % 3 {
            maps.keys().append_value(format!("k{entry}"));
            maps.values().append_value(format!("v{row}"));
        }
        maps.append(true).unwrap();
    }
    Arc::new(maps.finish())
}

fn write(path: &Path, table: &RecordBatch, version: WriterVersion, dictionary: bool) {
    let properties = WriterProperties::builder()
        .set_max_row_group_row_count(Some(GROUP_ROWS))
        .set_writer_version(version)
        .set_dictionary_enabled(dictionary)
        .set_compression(Compression::ZSTD(ZstdLevel::default()))
        .set_statistics_enabled(EnabledStatistics::Page)
        .set_bloom_filter_enabled(true)
        .set_sorting_columns(Some(vec![SortingColumn {
            column_idx: 1,
            descending: true,
            nulls_first: true,
        }]))
        .build();
    let mut writer = ArrowWriter::try_new(File::create(path).unwrap(), table.schema(), Some(properties)).unwrap();
    writer.write(table).unwrap();
    writer.append_key_value_metadata(parquet::file::metadata::KeyValue::new(
        "owner".to_owned(),
        "tests".to_owned(),
    ));
    writer.close().unwrap();
}

fn whole_scan(cache_request: Raw) -> RawScan {
    match cache_request {
        Raw::Files(scan) => scan,
        Raw::Unsaid(reason) => panic!("not said: {reason}"),
    }
}

async fn planned(cache: &Cache, folder: &Path, columns: &[&str], most_bytes: u64) -> Raw {
    let file = open_file(&mount(folder), "a.parquet").await;
    let footer = cache.footer(&file).await.unwrap();
    let columns: Vec<String> = columns.iter().map(|name| (*name).to_owned()).collect();
    let schema = project(&footer.schema, &columns).unwrap();
    cache
        .raw(&request(vec![split(&file, &footer)], &schema), most_bytes)
        .await
        .unwrap()
}

/// All small files, read by the crate's reader; what each says of itself is checked.
async fn read_back(scan: &RawScan) -> RecordBatch {
    let mut batches = Vec::new();
    for group in scan.groups() {
        let file = scan.read(group).await.unwrap();
        assert_eq!(to_u64(file.bytes.len()), group.bytes);
        let reader = ParquetRecordBatchReaderBuilder::try_new(file.bytes).unwrap();
        let metadata = reader.metadata();
        assert_eq!(metadata.num_row_groups(), 1);
        let pairs = metadata.file_metadata().key_value_metadata().unwrap();
        assert!(pairs.iter().any(|pair| pair.key == "owner"));
        for column in metadata.row_group(0).columns() {
            let left = (
                column.statistics(),
                column.bloom_filter_offset(),
                column.column_index_offset(),
            );
            assert!(matches!(left, (None, None, None)), "{left:?}");
        }
        assert!(metadata.row_group(0).sorting_columns().is_none());
        let read: Vec<_> = reader.build().unwrap().map(Result::unwrap).collect();
        let rows: usize = read.iter().map(RecordBatch::num_rows).sum();
        assert_eq!(to_u64(rows), group.rows);
        batches.extend(read);
    }
    let schema = batches.first().expect("there are row groups").schema();
    concat_batches(&schema, &batches).unwrap()
}

/// What the crate's reader makes of the large file.
fn read_plainly(folder: &Path) -> RecordBatch {
    let file = File::open(folder.join("a.parquet")).unwrap();
    let reader = ParquetRecordBatchReaderBuilder::try_new(file).unwrap().build().unwrap();
    let batches: Vec<_> = reader.map(Result::unwrap).collect();
    concat_batches(&batches[0].schema(), &batches).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_column_reads_back_from_pages_of_both_versions_with_and_without_dictionaries() {
    for version in [WriterVersion::PARQUET_1_0, WriterVersion::PARQUET_2_0] {
        for dictionary in [true, false] {
            let folder = tempfile::tempdir().unwrap();
            write(&folder.path().join("a.parquet"), &table(), version, dictionary);
            let expected = read_plainly(folder.path());
            let names: Vec<&str> = expected
                .schema_ref()
                .fields()
                .iter()
                .map(|field| field.name().as_str())
                .collect();
            let scan = whole_scan(planned(&cache(), folder.path(), &names, UNBOUNDED).await);
            assert_eq!(scan.groups().len(), ROWS.div_ceil(GROUP_ROWS));
            assert_eq!(read_back(&scan).await, expected);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn columns_and_parts_of_columns_are_cut_out() {
    let folder = tempfile::tempdir().unwrap();
    write(
        &folder.path().join("a.parquet"),
        &table(),
        WriterVersion::PARQUET_1_0,
        true,
    );
    let whole = read_plainly(folder.path());
    for name in ["n", "text", "view", "dictionary", "at", "list", "map"] {
        let scan = whole_scan(planned(&cache(), folder.path(), &[name], UNBOUNDED).await);
        let read = read_back(&scan).await;
        let at = whole.schema().index_of(name).unwrap();
        assert_eq!(read, whole.project(&[at]).unwrap(), "{name}");
    }
    let scan = whole_scan(planned(&cache(), folder.path(), &["view", "point.y", "n"], UNBOUNDED).await);
    let read = read_back(&scan).await;
    let names: Vec<String> = read
        .schema()
        .fields()
        .iter()
        .map(|field| field.name().clone())
        .collect();
    assert_eq!(
        names,
        ["n", "view", "point"],
        "the small file has the order of the large one"
    );
    let (part, point) = (read.column(2).as_struct(), whole.column_by_name("point").unwrap());
    assert_eq!(part.num_columns(), 1);
    assert_eq!(part.column(0), point.as_struct().column_by_name("y").unwrap());
    assert_eq!(
        read.column(1).data_type(),
        &DataType::Utf8View,
        "the Arrow schema came along"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_small_file_holds_little_more_than_its_columns() {
    let folder = tempfile::tempdir().unwrap();
    write(
        &folder.path().join("a.parquet"),
        &table(),
        WriterVersion::PARQUET_1_0,
        true,
    );
    let scan = whole_scan(planned(&cache(), folder.path(), &["n"], UNBOUNDED).await);
    let whole = std::fs::metadata(folder.path().join("a.parquet")).unwrap().len();
    let cut: u64 = scan.groups().iter().map(|group| group.bytes).sum();
    assert!(cut * 3 < whole, "{cut} of {whole}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_stored_bytes_cannot_say_is_not_said() {
    let folder = tempfile::tempdir().unwrap();
    write(
        &folder.path().join("a.parquet"),
        &table(),
        WriterVersion::PARQUET_1_0,
        true,
    );
    let cache = cache();
    let file = open_file(&mount(folder.path()), "a.parquet").await;
    let footer = cache.footer(&file).await.unwrap();
    let whole = || request(vec![split(&file, &footer)], &footer.schema);
    let reason = |raw| match raw {
        Raw::Unsaid(reason) => reason,
        Raw::Files(_) => "",
    };
    let limited = ScanRequest {
        limit: Some(5),
        ..whole()
    };
    assert!(reason(cache.raw(&limited, UNBOUNDED).await.unwrap()).contains("limit"));
    assert!(reason(cache.raw(&whole(), 100).await.unwrap()).contains("message"));
    let nothing = request(vec![split(&file, &footer)], &Arc::new(Schema::empty()));
    assert!(reason(cache.raw(&nothing, UNBOUNDED).await.unwrap()).contains("columns"));
    let nullable = Fields::from(vec![Field::new("y", DataType::Int32, true)]);
    let other = Arc::new(Schema::new(vec![Field::new("point", DataType::Struct(nullable), true)]));
    let other = request(vec![split(&file, &footer)], &other);
    assert!(reason(cache.raw(&other, UNBOUNDED).await.unwrap()).contains("nested"));
    assert_eq!(reason(cache.raw(&whole(), UNBOUNDED).await.unwrap()), "");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_held_is_charged_until_it_is_dropped() {
    let folder = tempfile::tempdir().unwrap();
    write(
        &folder.path().join("a.parquet"),
        &table(),
        WriterVersion::PARQUET_1_0,
        true,
    );
    let cache = Cache::open(CacheConfig {
        memory_bytes: 8 << 20,
        ..CacheConfig::default()
    })
    .unwrap();
    let scan = whole_scan(planned(&cache, folder.path(), &["n", "text"], UNBOUNDED).await);
    let used = || cache.engine.budget.used_bytes(Purpose::Scans);
    let first = scan.read(&scan.groups()[0]).await.unwrap();
    assert_eq!(used(), to_u64(first.bytes.len()));
    let part = first.bytes.slice(..4);
    drop(first);
    assert!(used() > 0);
    drop(part);
    assert_eq!(used(), 0);
}

/// All that `a.parquet` has, as it is.
async fn all_of(folder: &Path) -> ScanRequest {
    let file = open_file(&mount(folder), "a.parquet").await;
    let footer = cache().footer(&file).await.unwrap();
    request(vec![split(&file, &footer)], &footer.schema)
}

/// The same request for other columns.
fn asking(request: ScanRequest, output: SchemaRef) -> ScanRequest {
    ScanRequest {
        read: Arc::clone(&output),
        output,
        ..request
    }
}

/// What our reader makes of all small files.
async fn batches_of(scan: &RawScan, output: &SchemaRef) -> Vec<RecordBatch> {
    let mut batches = Vec::new();
    for group in scan.groups() {
        let file = scan.read(group).await.unwrap();
        let rows = RawRows::open(file.bytes, output, group.constants(), 0).unwrap();
        let read: Vec<_> = rows.map(Result::unwrap).collect();
        assert!(read.iter().all(|batch| batch.schema_ref() == output));
        assert_eq!(to_u64(read.iter().map(RecordBatch::num_rows).sum()), group.rows);
        batches.extend(read);
    }
    batches
}

/// Both answers to a request, each through a cache of its own, are the same rows; these.
async fn same_both_ways(request: ScanRequest) -> RecordBatch {
    let output = Arc::clone(&request.output);
    let scan = whole_scan(cache().raw(&request, UNBOUNDED).await.unwrap());
    let rows = concat_batches(&output, &batches_of(&scan, &output).await).unwrap();
    let scanned = joined(&output, &collect(&cache(), request).await.unwrap());
    assert_eq!(rows, scanned);
    rows
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_of_every_type_are_those_of_a_scan() {
    for array in all_types() {
        let folder = tempfile::tempdir().unwrap();
        write_columns(&folder.path().join("a.parquet"), &[("c", Arc::clone(&array))], 40);
        let rows = same_both_ways(all_of(folder.path()).await).await;
        assert_eq!(rows.column(0).as_ref(), array.as_ref(), "{}", array.data_type());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_of_pages_of_both_versions_with_and_without_dictionaries_are_those_of_a_scan() {
    for version in [WriterVersion::PARQUET_1_0, WriterVersion::PARQUET_2_0] {
        for dictionary in [true, false] {
            let folder = tempfile::tempdir().unwrap();
            write(&folder.path().join("a.parquet"), &table(), version, dictionary);
            let whole = all_of(folder.path()).await;
            // In another order than that of the file, and some in part.
            let names = ["view", "point.y", "dictionary", "n", "map", "point.name", "at"].map(str::to_owned);
            let some = project(&whole.output, &names).unwrap();
            assert_eq!(same_both_ways(whole.clone()).await.num_rows(), ROWS);
            let rows = same_both_ways(asking(whole, some)).await;
            assert_eq!(rows.column(1).as_struct().num_columns(), 2);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn columns_are_cast_filled_and_constant_as_in_a_scan() {
    let folder = tempfile::tempdir().unwrap();
    let small: ArrayRef = Arc::new(Int16Array::from_iter(
        (0..100_i16).map(|row| (row % 9 > 0).then_some(row)),
    ));
    let texts = (0..100).map(|row| [Some(""), None, Some("a longer text than a view has room for")][row % 3]);
    let texts: Vec<Option<&str>> = texts.collect();
    let words: ArrayRef = Arc::new(texts.iter().copied().collect::<DictionaryArray<Int8Type>>());
    let empty: ArrayRef = Arc::new(StringArray::from(vec![""; 100]));
    let texts: ArrayRef = Arc::new(StringViewArray::from_iter(texts));
    let columns = [("small", small), ("text", texts), ("word", words), ("empty", empty)];
    write_columns(&folder.path().join("a.parquet"), &columns, 30);
    let mut whole = all_of(folder.path()).await;
    let year: ArrayRef = Arc::new(Int64Array::from(vec![2024]));
    let kind: ArrayRef = Arc::new(StringArray::from(vec![None::<&str>]));
    let word: ArrayRef = Arc::new(StringArray::from(vec!["before the file's"]));
    let constants = [("year", year), ("kind", kind), ("word", word)];
    whole.splits[0].constants = constants.map(|(name, value)| (name.to_owned(), value)).to_vec();
    let said = Field::new("small", DataType::Int64, true).with_metadata([("unit".to_owned(), "m".to_owned())].into());
    let fields = vec![
        Field::new("gone", DataType::Utf8View, true),
        Field::new("empty", DataType::LargeUtf8, false),
        said,
        Field::new("kind", DataType::Utf8, true),
        Field::new("word", DataType::Utf8, true),
        Field::new("text", DataType::Utf8View, true),
        Field::new("year", DataType::Int32, true),
    ];
    let output = Schema::new_with_metadata(fields, [("owner".to_owned(), "tests".to_owned())].into());
    let rows = same_both_ways(asking(whole, Arc::new(output))).await;
    assert_eq!((rows.column(0).null_count(), rows.column(3).null_count()), (100, 100));
    assert_eq!(rows.column(4).as_string::<i32>().value(99), "before the file's");
}

#[tokio::test(flavor = "multi_thread")]
async fn batches_are_as_long_as_those_of_a_scan() {
    let folder = tempfile::tempdir().unwrap();
    let numbers: ArrayRef = Arc::new(Int64Array::from_iter_values(0..300_000));
    let long = ["x", "y", "z"].map(|letter| letter.repeat(50));
    let words: ArrayRef = Arc::new(StringArray::from_iter_values((0..300_000).map(|row| &long[row % 3])));
    let columns = [("n", numbers), ("word", words)];
    write_columns(&folder.path().join("a.parquet"), &columns, 300_000);
    let whole = all_of(folder.path()).await;
    let scan = whole_scan(cache().raw(&whole, UNBOUNDED).await.unwrap());
    let batches = batches_of(&scan, &whole.output).await;
    let rows: Vec<usize> = batches.iter().map(RecordBatch::num_rows).collect();
    // With more threads than row groups, a scan decodes columns apart.
    let alone = Cache::open(CacheConfig {
        decode_threads: 1,
        ..CacheConfig::default()
    });
    let scanned = collect(&alone.unwrap(), whole).await.unwrap();
    let expected: Vec<usize> = scanned.iter().map(|given| given.batch.num_rows()).collect();
    assert!(rows.len() > 3, "{rows:?}");
    assert_eq!(rows, expected);
}

fn all_rows(file: Bytes, output: &SchemaRef) -> Result<Vec<RecordBatch>, ArrowError> {
    RawRows::open(file, output, &[], 0)?.collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_small_file_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.parquet");
    write(&path, &table(), WriterVersion::PARQUET_1_0, true);
    let whole = all_of(folder.path()).await;
    let output = &whole.output;
    let scan = whole_scan(cache().raw(&whole, UNBOUNDED).await.unwrap());
    let file = scan.read(&scan.groups()[0]).await.unwrap().bytes;
    assert_eq!(all_rows(file.clone(), output).unwrap()[0].num_rows(), GROUP_ROWS);
    for end in [0, 3, 8, 11, file.len() / 2, file.len() - 1] {
        assert!(all_rows(file.slice(..end), output).is_err(), "{end} bytes");
    }
    let several = all_rows(std::fs::read(&path).unwrap().into(), output).unwrap_err();
    assert!(several.to_string().contains("4 row groups"), "{several}");
    let other = Arc::new(Schema::new(vec![Field::new("other", DataType::Int8, true)]));
    let other = all_rows(file.clone(), &other).unwrap_err();
    assert!(other.to_string().contains("none of the columns"), "{other}");
    let misfit = Arc::new(Schema::new(vec![Field::new("text", DataType::Int64, true)]));
    let misfit = all_rows(file, &misfit).unwrap_err();
    assert!(
        misfit.to_string().contains("column \"text\" cannot be read as Int64"),
        "{misfit}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_page_that_there_is_no_memory_for_is_an_error() {
    const TEXT_BYTES: usize = 6 << 20;
    let folder = tempfile::tempdir().unwrap();
    let texts: ArrayRef = Arc::new(StringArray::from(vec!["x".repeat(TEXT_BYTES)]));
    let numbers: ArrayRef = Arc::new(Int64Array::from(vec![7]));
    let text = RecordBatch::try_from_iter([("text", texts), ("n", numbers)]).unwrap();
    let path = folder.path().join("a.parquet");
    write(&path, &text, WriterVersion::PARQUET_1_0, false);
    let whole = all_of(folder.path()).await;
    let scan = whole_scan(cache().raw(&whole, UNBOUNDED).await.unwrap());
    let file = scan.read(&scan.groups()[0]).await.unwrap().bytes;
    assert!(file.len() < TEXT_BYTES / 10, "its size says nothing of the page's");
    let read = |memory_bytes| -> Result<Vec<RecordBatch>, ArrowError> {
        RawRows::open(file.clone(), &whole.output, &[], memory_bytes)?.collect()
    };
    let rows = read(to_u64(TEXT_BYTES) + 100).unwrap();
    assert_eq!(rows[0].column(0), text.column(0));
    let refused = read(to_u64(TEXT_BYTES)).unwrap_err().to_string();
    let words = format!("no memory for a page of {} bytes", TEXT_BYTES + 4);
    assert!(refused.contains(&words), "{refused}");
    assert!(refused.contains(&TEXT_BYTES.to_string()), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_page_is_the_last_that_is_told() {
    const ZSTD_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
    fn is_sent<T: Send + 'static>(_: &T) {}
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.parquet");
    write(&path, &table(), WriterVersion::PARQUET_1_0, true);
    let whole = all_of(folder.path()).await;
    let whole = asking(whole.clone(), project(&whole.output, &["n".to_owned()]).unwrap());
    let scan = whole_scan(cache().raw(&whole, UNBOUNDED).await.unwrap());
    let file = scan.read(&scan.groups()[0]).await.unwrap().bytes;
    let open = |file: Vec<u8>| RawRows::open(file.into(), &whole.output, &[], 0);
    let sound = open(file.to_vec()).unwrap();
    is_sent(&sound);
    assert_eq!(sound.expected_bytes(), to_u64(GROUP_ROWS) * 8);
    let mut header = file.to_vec();
    header[4..24].fill(0xff);
    assert!(open(header).is_err());
    let page = file.windows(4).position(|bytes| bytes == ZSTD_MAGIC).unwrap();
    let mut values = file.to_vec();
    values[page..page + 4].fill(0);
    let mut rows = open(values).unwrap();
    assert!(rows.next().unwrap().is_err());
    assert!(rows.next().is_none());
}
