//! Small files read by the crate's own reader, against the same columns of the large file.

use std::fs::File;
use std::path::Path;

use arrow::array::{
    AsArray, DictionaryArray, Float64Array, Int32Array, Int64Array, ListArray, MapBuilder, RecordBatch, StringArray,
    StringBuilder, StringViewArray, StructArray, TimestampMicrosecondArray,
};
use arrow::compute::concat_batches;
use arrow::datatypes::{Fields, Int32Type, Int64Type};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::metadata::SortingColumn;
use parquet::file::properties::{EnabledStatistics, WriterProperties, WriterVersion};

use super::*;
use crate::schema::project;
use crate::tests::{cache, mount, open as open_file, request, split};
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
