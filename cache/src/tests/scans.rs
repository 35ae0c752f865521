//! Scans over several row groups and files: order, projection, filter, limit, tiers.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Int32Array, Int64Array, RecordBatch, StringArray, StringViewArray,
};
use arrow::compute::concat_batches;
use arrow::compute::kernels::cmp::gt;
use arrow::datatypes::{DataType, Field, Int32Type, Schema};
use arrow::error::ArrowError;
use futures::{StreamExt, TryStreamExt};
use object_store::ObjectStoreExt;
use object_store::memory::InMemory;

use super::{MAPS, cache, collect, joined, kept, mount, open, read_all, request, split, write};
use crate::key::{RowGroup, Source};
use crate::scan::{Ahead, RowFilter, ScanRequest, Taker};
use crate::schema::project;
use crate::ufs::testing::TestStore;
use crate::{Cache, CacheConfig, ReadError};

fn numbers(rows: i32) -> ArrayRef {
    Arc::new(Int32Array::from_iter_values(0..rows))
}

fn texts(rows: i32) -> ArrayRef {
    Arc::new(StringArray::from_iter_values((0..rows).map(|i| format!("row {i}"))))
}

struct MoreThan(i32);

impl RowFilter for MoreThan {
    fn evaluate(&self, batch: &RecordBatch) -> Result<BooleanArray, ArrowError> {
        let column = batch
            .column_by_name("n")
            .ok_or_else(|| ArrowError::ComputeError("no n".to_owned()))?;
        gt(column, &Int32Array::new_scalar(self.0))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_come_in_order_over_many_row_groups() {
    let folder = tempfile::tempdir().unwrap();
    write(
        &folder.path().join("a.parquet"),
        &[("n", numbers(10_000)), ("s", texts(10_000))],
        700,
    );
    let ufs = mount(folder.path());
    let file = open(&ufs, "a.parquet").await;
    let all = read_all(&cache(), &file).await.unwrap();
    assert_eq!(all.column(0).as_ref(), numbers(10_000).as_ref());
    assert_eq!(all.column(1).as_ref(), texts(10_000).as_ref());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_cuts_exactly_and_a_filter_keeps_what_it_says() {
    let folder = tempfile::tempdir().unwrap();
    write(
        &folder.path().join("a.parquet"),
        &[("n", numbers(1000)), ("s", texts(1000))],
        100,
    );
    let ufs = mount(folder.path());
    let file = open(&ufs, "a.parquet").await;
    let cache = cache();
    let footer = cache.footer(&file).await.unwrap();
    let only_s = project(&footer.schema, &["s".to_owned()]).unwrap();

    let mut limited = request(vec![split(&file, &footer)], &footer.schema);
    limited.limit = Some(250);
    let rows = joined(&footer.schema, &collect(&cache, limited).await.unwrap());
    assert_eq!(rows.column(0).as_ref(), numbers(250).as_ref());

    let mut filtered = request(vec![split(&file, &footer)], &footer.schema);
    filtered.output = Arc::clone(&only_s);
    filtered.filter = Some(Arc::new(MoreThan(949)));
    let batches = collect(&cache, filtered).await.unwrap();
    assert_eq!(batches.len(), 1, "empty batches are not sent");
    let kept = joined(&only_s, &batches);
    assert_eq!(kept.num_rows(), 50);
    assert_eq!(kept.column(0).as_string::<i32>().value(0), "row 950");

    let mut both = request(vec![split(&file, &footer)], &footer.schema);
    both.filter = Some(Arc::new(MoreThan(149)));
    both.limit = Some(60);
    let rows = joined(&footer.schema, &collect(&cache, both).await.unwrap());
    assert_eq!(rows.column(0).as_primitive::<Int32Type>().values()[..2], [150, 151]);
    assert_eq!(rows.num_rows(), 60);

    let mut none = request(vec![split(&file, &footer)], &footer.schema);
    none.limit = Some(0);
    assert!(collect(&cache, none).await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn counting_reads_no_data() {
    let folder = tempfile::tempdir().unwrap();
    write(&folder.path().join("a.parquet"), &[("n", numbers(1000))], 100);
    let ufs = mount(folder.path());
    let file = open(&ufs, "a.parquet").await;
    let cache = cache();
    let footer = cache.footer(&file).await.unwrap();
    let nothing = Arc::new(Schema::empty());
    std::fs::remove_file(folder.path().join("a.parquet")).unwrap();
    let counted = collect(&cache, request(vec![split(&file, &footer)], &nothing))
        .await
        .unwrap();
    assert_eq!(counted.iter().map(|given| given.batch.num_rows()).sum::<usize>(), 1000);
}

#[tokio::test(flavor = "multi_thread")]
async fn files_of_other_schemas_become_the_datasets() {
    let folder = tempfile::tempdir().unwrap();
    write(
        &folder.path().join("a.parquet"),
        &[("n", numbers(3)), ("old", texts(3))],
        100,
    );
    let wide: ArrayRef = Arc::new(Int64Array::from(vec![1 << 40]));
    write(&folder.path().join("b.parquet"), &[("n", wide)], 100);
    let ufs = mount(folder.path());
    let cache = cache();
    let (a, b) = (open(&ufs, "a.parquet").await, open(&ufs, "b.parquet").await);
    let (footer_a, footer_b) = (cache.footer(&a).await.unwrap(), cache.footer(&b).await.unwrap());
    let files = [
        ("/t/a.parquet", footer_a.schema.as_ref()),
        ("/t/b.parquet", footer_b.schema.as_ref()),
    ];
    let merged = crate::schema::merge(files.into_iter()).unwrap();
    let mut with_part = merged.fields().to_vec();
    with_part.push(Arc::new(Field::new("part", DataType::Utf8, true)));
    let schema = Arc::new(Schema::new(with_part));
    let part = |value: &str| vec![("part".to_owned(), Arc::new(StringArray::from(vec![value])) as ArrayRef)];
    let mut splits = vec![split(&a, &footer_a), split(&b, &footer_b)];
    splits[0].constants = part("one");
    splits[1].constants = part("two");
    let rows = joined(&schema, &collect(&cache, request(splits, &schema)).await.unwrap());
    assert_eq!(rows.column(0).as_ref(), &Int64Array::from(vec![0, 1, 2, 1 << 40]));
    assert!(rows.column(1).is_null(3));
    assert_eq!(rows.column(2).as_string::<i32>().value(3), "two");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_column_comes_from_memory_once_it_was_read_twice() {
    let folder = tempfile::tempdir().unwrap();
    write(
        &folder.path().join("a.parquet"),
        &[("n", numbers(50_000)), ("s", texts(50_000))],
        20_000,
    );
    let ufs = mount(folder.path());
    let file = open(&ufs, "a.parquet").await;
    let cache = cache();
    let footer = cache.footer(&file).await.unwrap();
    let read = |columns: &[&str]| {
        let columns: Vec<String> = columns.iter().map(|name| (*name).to_owned()).collect();
        let schema = project(&footer.schema, &columns).unwrap();
        let request = request(vec![split(&file, &footer)], &schema);
        let cache = cache.clone();
        async move {
            let batches = collect(&cache, request).await.unwrap();
            (joined(&schema, &batches), batches[0].source)
        }
    };
    let (first, source) = read(&["n"]).await;
    assert_eq!(source, Source::Store);
    assert_eq!(cache.usage().decoded_bytes, 0, "a first touch keeps nothing");
    read(&["n"]).await;
    assert!(cache.usage().decoded_bytes >= 200_000);
    cache.pages().remove_file(file.key.id()).await;
    std::fs::remove_file(folder.path().join("a.parquet")).unwrap();
    let (third, source) = read(&["n"]).await;
    assert_eq!((third, source), (first, Source::Memory));
    let gone = collect(&cache, request(vec![split(&file, &footer)], &footer.schema)).await;
    assert!(matches!(gone, Err(ReadError::Ufs(_) | ReadError::Stale(_))), "{gone:?}");
    cache.remove_file(file.key.id()).await;
    // The scan that failed may still be letting go of what it held.
    let empty = async {
        while cache.usage().decoded_bytes > 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), empty).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn batches_of_held_columns_are_as_long_as_their_reader_likes() {
    const ROWS: i32 = 100_000;
    let views = (0..ROWS).map(|row| Some(format!("the text of row number {row}")));
    let views: ArrayRef = Arc::new(views.collect::<StringViewArray>());
    let folder = tempfile::tempdir().unwrap();
    let names: Vec<String> = (0..16).map(|number| format!("n{number}")).collect();
    let mut columns: Vec<_> = names.iter().map(|name| (name.as_str(), numbers(ROWS))).collect();
    columns.push(("s", views));
    write(&folder.path().join("a.parquet"), &columns, 1 << 20);
    let ufs = mount(folder.path());
    let file = open(&ufs, "a.parquet").await;
    let cache = cache();
    let footer = cache.footer(&file).await.unwrap();
    let all: Vec<&str> = footer
        .schema
        .fields()
        .iter()
        .map(|field| field.name().as_str())
        .collect();
    let read = async |columns: &[&str], taker: Taker, limit: Option<u64>| {
        let columns: Vec<String> = columns.iter().map(|name| (*name).to_owned()).collect();
        let schema = project(&footer.schema, &columns).unwrap();
        let request = ScanRequest {
            taker,
            limit,
            ..request(vec![split(&file, &footer)], &schema)
        };
        let batches = collect(&cache, request).await.unwrap();
        let lengths: Vec<usize> = batches.iter().map(|given| given.batch.num_rows()).collect();
        (lengths, joined(&schema, &batches))
    };
    let (_, rows) = read(&all, Taker::Sends, None).await;
    let (_, again) = read(&all, Taker::Sends, None).await;
    assert_eq!(again, rows);
    let (strides, held) = read(&all, Taker::Sends, None).await;
    assert_eq!(held, rows);
    assert!(
        strides.len() > 4,
        "all columns make a batch of each stride: {strides:?}"
    );
    // Whoever maps memory is handed all of a row group at once.
    let (mapped, held) = read(&all, MAPS, None).await;
    assert_eq!((mapped.len(), &held), (1, &rows));
    // Few columns make batches of as many bytes as many do.
    let (few, held) = read(&["s", "n3"], Taker::Sends, None).await;
    assert!(few.len() * 2 <= strides.len(), "{few:?}");
    assert_eq!(held.column(0), rows.column(16));
    assert_eq!(held.column(1), rows.column(3));
    // Nor longer, for whoever cuts them himself, or maps no more at once.
    for taker in [Taker::Computes, Taker::Maps { batch_bytes: 1 << 20 }] {
        let (own, held) = read(&["s", "n3"], taker, None).await;
        assert_eq!((own.len(), held.num_rows()), (strides.len(), rows.num_rows()));
    }
    // Where the end of a row group is not wanted, its texts are not given either.
    let (limited, held) = read(&["s", "n3"], MAPS, Some(50_000)).await;
    assert!(limited.len() > 2, "{limited:?}");
    assert_eq!(held.column(0), &rows.column(16).slice(0, 50_000));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_maps_memory_finds_columns_there_at_its_first_read_while_there_is_room() {
    let folder = tempfile::tempdir().unwrap();
    let names: Vec<String> = (0..16).map(|number| format!("{number}.parquet")).collect();
    for name in &names {
        write(&folder.path().join(name), &[("n", numbers(20_000))], 20_000);
    }
    let ufs = mount(folder.path());
    // The tier of chunks has half of this at most, beside raw pages: room for thirteen columns of 80,000 bytes.
    let cache = Cache::open(CacheConfig {
        memory_bytes: 2 << 20,
        ..CacheConfig::default()
    })
    .unwrap();
    let mut mapped = Vec::new();
    for name in names.iter().chain(&names[..1]) {
        let file = open(&ufs, name).await;
        let footer = cache.footer(&file).await.unwrap();
        let request = ScanRequest {
            taker: MAPS,
            ..request(vec![split(&file, &footer)], &footer.schema)
        };
        let batches = collect(&cache, request).await.unwrap();
        let rows: usize = batches.iter().map(|given| given.batch.num_rows()).sum();
        assert_eq!(rows, 20_000);
        mapped.push(batches.iter().all(|given| {
            let data = given.batch.column(0).to_data();
            cache.segment_of(&data.buffers()[0]).is_some()
        }));
        // Its pages have their room before the next file's column asks for some.
        kept(&cache).await;
    }
    let again = mapped.pop();
    let kept = mapped.iter().take_while(|is_mapped| **is_mapped).count();
    assert!((6..14).contains(&kept), "{mapped:?}");
    assert!(
        !mapped[kept..].contains(&true),
        "nothing goes for what is read once: {mapped:?}"
    );
    assert_eq!(again, Some(true), "the first is still there");
}

#[tokio::test(flavor = "multi_thread")]
async fn chunks_and_fresh_columns_fit_together() {
    let folder = tempfile::tempdir().unwrap();
    write(
        &folder.path().join("a.parquet"),
        &[("n", numbers(50_000)), ("s", texts(50_000))],
        30_000,
    );
    let ufs = mount(folder.path());
    let file = open(&ufs, "a.parquet").await;
    let cache = cache();
    let footer = cache.footer(&file).await.unwrap();
    let only_n = project(&footer.schema, &["n".to_owned()]).unwrap();
    for _ in 0..2 {
        collect(&cache, request(vec![split(&file, &footer)], &only_n))
            .await
            .unwrap();
    }
    let all = read_all(&cache, &file).await.unwrap();
    assert_eq!(all.column(0).as_ref(), numbers(50_000).as_ref());
    assert_eq!(all.column(1).as_ref(), texts(50_000).as_ref());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_stream_stops_and_a_slow_reader_bounds_what_is_held() {
    let folder = tempfile::tempdir().unwrap();
    write(&folder.path().join("a.parquet"), &[("n", numbers(100_000))], 1000);
    let ufs = mount(folder.path());
    let file = open(&ufs, "a.parquet").await;
    let cache = cache();
    let footer = cache.footer(&file).await.unwrap();
    let mut stream = cache.scan(request(vec![split(&file, &footer)], &footer.schema));
    assert!(stream.next().await.unwrap().is_ok());
    drop(stream);
    assert_eq!(read_all(&cache, &file).await.unwrap().num_rows(), 100_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_filter_that_fails_or_panics_ends_its_scan_only() {
    struct Fails;
    impl RowFilter for Fails {
        fn evaluate(&self, _: &RecordBatch) -> Result<BooleanArray, ArrowError> {
            Err(ArrowError::DivideByZero)
        }
    }
    struct Panics;
    impl RowFilter for Panics {
        fn evaluate(&self, _: &RecordBatch) -> Result<BooleanArray, ArrowError> {
            panic!("on purpose")
        }
    }
    let folder = tempfile::tempdir().unwrap();
    write(&folder.path().join("a.parquet"), &[("n", numbers(10))], 10);
    let ufs = mount(folder.path());
    let file = open(&ufs, "a.parquet").await;
    let cache = cache();
    let footer = cache.footer(&file).await.unwrap();
    let with = |filter: Arc<dyn RowFilter>| {
        let mut request = request(vec![split(&file, &footer)], &footer.schema);
        request.filter = Some(filter);
        request
    };
    let failed = collect(&cache, with(Arc::new(Fails))).await.unwrap_err();
    assert!(matches!(failed, ReadError::Filter { .. }), "{failed}");
    let panicked = collect(&cache, with(Arc::new(Panics))).await.unwrap_err();
    assert!(matches!(panicked, ReadError::Filter { .. }), "{panicked}");
    assert_eq!(read_all(&cache, &file).await.unwrap().num_rows(), 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_group_that_does_not_exist_is_named() {
    let folder = tempfile::tempdir().unwrap();
    write(&folder.path().join("a.parquet"), &[("n", numbers(10))], 10);
    let ufs = mount(folder.path());
    let file = open(&ufs, "a.parquet").await;
    let cache = cache();
    let footer = cache.footer(&file).await.unwrap();
    let mut beyond = split(&file, &footer);
    beyond.row_groups = vec![RowGroup(7)];
    let error = collect(&cache, request(vec![beyond], &footer.schema))
        .await
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "/t/a.parquet, row group 7: the file has no such row group"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn statistics_bound_each_row_group() {
    let folder = tempfile::tempdir().unwrap();
    let floats: ArrayRef = Arc::new(arrow::array::Float64Array::from(vec![1.0; 300]));
    write(
        &folder.path().join("a.parquet"),
        &[("n", numbers(300)), ("s", texts(300)), ("f", floats)],
        100,
    );
    let ufs = mount(folder.path());
    let file = open(&ufs, "a.parquet").await;
    let footer = cache().footer(&file).await.unwrap();
    let bounds = footer.statistics("n", &DataType::Int64).unwrap();
    assert_eq!(bounds.min.as_ref(), &Int64Array::from(vec![0, 100, 200]));
    assert_eq!(bounds.max.as_ref(), &Int64Array::from(vec![99, 199, 299]));
    assert_eq!(bounds.null_count.values()[..], [0, 0, 0]);
    assert_eq!(
        footer
            .statistics("s", &DataType::Utf8)
            .unwrap()
            .min
            .as_string::<i32>()
            .value(1),
        "row 100"
    );
    assert_eq!(footer.statistics("f", &DataType::Float64).unwrap().min.null_count(), 3);
    assert!(footer.statistics("none", &DataType::Int64).is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_rows_of_a_large_row_group_fetch_its_beginning_only() {
    let folder = tempfile::tempdir().unwrap();
    let mixed = |i: i64| i.wrapping_mul(0x9e37_79b9_7f4a_7c15_u64.cast_signed());
    let column: ArrayRef = Arc::new(Int64Array::from_iter_values((0..2_000_000).map(mixed)));
    write(
        &folder.path().join("a.parquet"),
        &[("n", Arc::clone(&column))],
        2_000_000,
    );
    let ufs = mount(folder.path());
    let file = open(&ufs, "a.parquet").await;
    let cache = cache();
    let footer = cache.footer(&file).await.unwrap();
    for (limit, most) in [(10, 4 << 20), (100_000, 6 << 20)] {
        let mut first = request(vec![split(&file, &footer)], &footer.schema);
        first.limit = Some(limit);
        let rows = joined(&footer.schema, &collect(&cache, first).await.unwrap());
        assert_eq!(
            rows.column(0).as_ref(),
            column.slice(0, usize::try_from(limit).unwrap()).as_ref()
        );
        let held = cache.usage().raw_bytes;
        assert!(held <= most, "{held} bytes for {limit} rows");
        let needed = cache.engine.needed_bytes.load(Ordering::Relaxed);
        assert!(needed > 0 && needed <= 2 * most, "{needed} bytes are counted as needed");
    }
}

/// Storage was spared nothing by it.
#[tokio::test(flavor = "multi_thread")]
async fn what_could_not_be_read_is_not_counted_as_needed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.parquet");
    let column: ArrayRef = Arc::new(Int64Array::from_iter_values(0..100_000));
    write(&path, &[("n", column)], 100_000);
    let file = open(&mount(folder.path()), "a.parquet").await;
    let cache = cache();
    let footer = cache.footer(&file).await.unwrap();
    std::fs::remove_file(path).unwrap();
    let all = request(vec![split(&file, &footer)], &footer.schema);
    collect(&cache, all).await.unwrap_err();
    assert_eq!(cache.engine.needed_bytes.load(Ordering::Relaxed), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_beginning_that_is_too_short_is_read_whole() {
    let folder = tempfile::tempdir().unwrap();
    // All that is long comes first, so that the share of the first rows is far more than their number says.
    let long = |i: usize| {
        if i < 600 {
            "x".repeat(8 << 10) + &i.to_string()
        } else {
            i.to_string()
        }
    };
    let column: ArrayRef = Arc::new(StringArray::from_iter_values((0..100_000).map(long)));
    write(&folder.path().join("a.parquet"), &[("s", Arc::clone(&column))], 100_000);
    let ufs = mount(folder.path());
    let file = open(&ufs, "a.parquet").await;
    let cache = cache();
    let footer = cache.footer(&file).await.unwrap();
    let mut first = request(vec![split(&file, &footer)], &footer.schema);
    first.limit = Some(500);
    let rows = joined(&footer.schema, &collect(&cache, first).await.unwrap());
    assert_eq!(rows.column(0).as_ref(), column.slice(0, 500).as_ref());
}

/// The rows before the gap in the beginning are decoded without a fault, and must not have been sent when it shows.
#[tokio::test(flavor = "multi_thread")]
async fn a_beginning_that_breaks_off_after_some_rows_is_read_whole() {
    let folder = tempfile::tempdir().unwrap();
    let long_in_the_middle = |i: usize| {
        let long = (10_000..20_000).contains(&i);
        i.to_string() + &"x".repeat(if long { 2_000 } else { 0 })
    };
    let column: ArrayRef = Arc::new(StringArray::from_iter_values((0..100_000).map(long_in_the_middle)));
    write(&folder.path().join("a.parquet"), &[("s", Arc::clone(&column))], 100_000);
    let file = open(&mount(folder.path()), "a.parquet").await;
    let cache = cache();
    let footer = cache.footer(&file).await.unwrap();
    for limit in [9_000, 12_000, 20_000, 25_000] {
        let mut first = request(vec![split(&file, &footer)], &footer.schema);
        first.limit = Some(limit);
        let rows = joined(&footer.schema, &collect(&cache, first).await.unwrap());
        assert_eq!(
            rows.column(0).as_ref(),
            column.slice(0, usize::try_from(limit).unwrap()).as_ref()
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_near_reader_is_given_the_same_rows() {
    let folder = tempfile::tempdir().unwrap();
    // Each of the row groups is more than is made ready at once, and there are more of them than are decoded at once.
    write(
        &folder.path().join("a.parquet"),
        &[("n", numbers(6_000_000))],
        1_500_000,
    );
    let file = open(&mount(folder.path()), "a.parquet").await;
    let cache = cache();
    let footer = cache.footer(&file).await.unwrap();
    for (filter, limit) in [(None, None), (Some(4_000_000), None), (None, Some(2_000_000))] {
        let mut near = request(vec![split(&file, &footer)], &footer.schema);
        near.ahead = Ahead::Near;
        near.batch_bytes = 64 << 10;
        near.limit = limit;
        near.filter = filter.map(|least| Arc::new(MoreThan(least)) as Arc<dyn RowFilter>);
        // What is charged goes with each batch: a row group decodes no further than what is ready is taken.
        let taken = cache.scan(near).map_ok(|given| given.batch).try_collect::<Vec<_>>();
        let taken = tokio::time::timeout(Duration::from_secs(60), taken).await;
        let rows = concat_batches(&footer.schema, &taken.expect("it ends").unwrap()).unwrap();
        let first = filter.map_or(0, |least| least + 1);
        let rest = 6_000_000 - usize::try_from(first).unwrap();
        let wanted = limit.map_or(rest, |limit| usize::try_from(limit).unwrap());
        let values = rows.column(0).as_primitive::<Int32Type>().values();
        assert_eq!(values.len(), wanted);
        assert!(values.iter().zip(first..).all(|(value, row)| *value == row));
    }
}

/// A scan reads footers ahead of its reader. Who waits for one of them waits for storage, and not for that reader.
#[tokio::test(flavor = "multi_thread")]
async fn a_reader_who_takes_nothing_keeps_no_footer_from_others() {
    let folder = tempfile::tempdir().unwrap();
    let file_path = folder.path().join("a.parquet");
    // More row groups than a scan begins ahead of its reader.
    write(&file_path, &[("n", numbers(1_000))], 10);
    let bytes = std::fs::read(&file_path).unwrap();
    let inner = InMemory::new();
    for name in ["a.parquet", "b.parquet"] {
        inner.put(&name.into(), bytes.clone().into()).await.unwrap();
    }
    let store = TestStore::new(Arc::new(inner));
    let ufs = store.mounted();
    let (first, second) = (open(&ufs, "a.parquet").await, open(&ufs, "b.parquet").await);
    let cache = cache();
    let footer = cache.footer(&first).await.unwrap();
    read_all(&cache, &first).await.unwrap();
    let before = store.reads().len();
    store.hold();
    let mut rows = cache.scan(request(
        vec![split(&first, &footer), split(&second, &footer)],
        &footer.schema,
    ));
    assert_eq!(rows.next().await.unwrap().unwrap().batch.num_rows(), 10);
    store.wait_for_reads(before + 1).await;
    // By now the scan has begun as much as it may, and looks at nothing before its reader takes more.
    tokio::time::sleep(Duration::from_millis(100)).await;
    store.release();
    let other = tokio::time::timeout(Duration::from_secs(60), cache.footer(&second)).await;
    assert!(other.expect("it waits for the reader of the scan").is_ok());
    drop(rows);
}
