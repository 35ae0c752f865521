//! Page indexes: what is fetched for few rows, and that what is given is whole, in order, and right whatever the index says.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Int32Array, ListArray, RecordBatch, StringArray, UInt64Array};
use arrow::datatypes::{DataType, Int32Type};
use arrow::error::ArrowError;
use parking_lot::Mutex;
use parquet::arrow::ArrowWriter;
use parquet::file::properties::WriterProperties;

use super::{MAPS, cache, collect, joined, mount, open, request, split};
use crate::key::RowGroup;
use crate::page::OpenFile;
use crate::scan::{RunBounds, ScanBatch, Sieve};
use crate::{Cache, Footer};

const ROWS: i32 = 60_000;
const PAGE_ROWS: i32 = 1_000;
/// Between a number and the next.
const STEP: i32 = 10;

/// Wants rows whose `n` is at least and at most so much, by the bounds of `n` and, where it has columns, by its values.
struct Between {
    least: i32,
    most: i32,
    bounded: Vec<String>,
    columns: Vec<String>,
    /// Rows of each run that it was asked of.
    asked: Mutex<Vec<u64>>,
}

impl Between {
    fn new(least: i32, most: i32, columns: &[&str]) -> Arc<Self> {
        Arc::new(Self {
            least,
            most,
            bounded: vec!["n".to_owned(), "constant".to_owned(), "missing".to_owned()],
            columns: columns.iter().map(|name| (*name).to_owned()).collect(),
            asked: Mutex::default(),
        })
    }

    /// The numbers that it wants.
    fn wanted(&self) -> Vec<i32> {
        let numbers = (0..ROWS).map(|row| row * STEP);
        numbers.filter(|n| (self.least..=self.most).contains(n)).collect()
    }
}

impl Sieve for Between {
    fn wants(&self, _: usize, _: RowGroup) -> bool {
        true
    }

    fn columns(&self) -> &[String] {
        &self.columns
    }

    fn passes(&self, batch: &RecordBatch) -> Result<bool, ArrowError> {
        let values = batch.column(0).as_primitive::<Int32Type>().values();
        Ok(values.iter().any(|n| (self.least..=self.most).contains(n)))
    }

    fn tightens(&self) -> bool {
        false
    }

    fn bounded(&self) -> &[String] {
        &self.bounded
    }

    fn wants_runs(&self, runs: &dyn RunBounds) -> Vec<bool> {
        let rows = runs.rows();
        self.asked.lock().extend(rows.values());
        let missing = runs.bounds("missing", &DataType::Int32).unwrap();
        assert_eq!((missing.min.null_count(), &missing.null_count), (rows.len(), &rows));
        let known = runs.bounds("n", &DataType::Int32).unwrap();
        assert_eq!(known.null_count, UInt64Array::from(vec![0; rows.len()]));
        let (min, max) = (
            known.min.as_primitive::<Int32Type>(),
            known.max.as_primitive::<Int32Type>(),
        );
        let pairs = min.values().iter().zip(max.values());
        pairs
            .map(|(min, max)| *max >= self.least && *min <= self.most)
            .collect()
    }
}

fn text(n: i32) -> String {
    format!("{n:0>300}")
}

/// Numbers in order, texts, numbers that may be null, lists.
fn columns() -> [(&'static str, ArrayRef); 4] {
    let numbers = || (0..ROWS).map(|row| row * STEP);
    let lists = numbers().map(|n| Some((0..n % 3).map(Some)));
    [
        ("n", Arc::new(Int32Array::from_iter_values(numbers())) as ArrayRef),
        ("s", Arc::new(StringArray::from_iter_values(numbers().map(text)))),
        (
            "m",
            Arc::new(numbers().map(|n| (n % 7 > 0).then_some(n + 1)).collect::<Int32Array>()),
        ),
        ("l", Arc::new(ListArray::from_iter_primitive::<Int32Type, _, _>(lists))),
    ]
}

/// Writes the columns as one row group of pages of [`PAGE_ROWS`] rows.
fn write(path: &Path) {
    let columns = columns().map(|(name, column)| (name, column, true));
    let rows = RecordBatch::try_from_iter_with_nullable(columns).unwrap();
    let page_rows = usize::try_from(PAGE_ROWS).unwrap();
    let properties = WriterProperties::builder()
        .set_data_page_row_count_limit(page_rows)
        .set_write_batch_size(page_rows)
        .set_dictionary_enabled(false)
        .build();
    let mut writer = ArrowWriter::try_new(File::create(path).unwrap(), rows.schema(), Some(properties)).unwrap();
    writer.write(&rows).unwrap();
    let written = writer.close().unwrap();
    assert_eq!(written.num_row_groups(), 1);
}

/// The numbers that are given, after each row was looked at.
fn numbers(footer: &Footer, given: &[ScanBatch]) -> Vec<i32> {
    let all = joined(&footer.schema, given);
    let of = |name: &str| all.column_by_name(name).unwrap();
    let (n, m, s) = (
        of("n").as_primitive::<Int32Type>(),
        of("m").as_primitive::<Int32Type>(),
        of("s").as_string::<i32>(),
    );
    let lists = of("l").as_list::<i32>();
    for (row, &number) in n.values().iter().enumerate() {
        assert_eq!(s.value(row), text(number));
        assert_eq!(
            m.is_valid(row).then(|| m.value(row)),
            (number % 7 > 0).then_some(number + 1)
        );
        assert_eq!(i32::try_from(lists.value(row).len()).unwrap(), number % 3);
    }
    n.values().to_vec()
}

async fn sifted(cache: &Cache, file: &OpenFile, sieve: &Arc<Between>) -> Vec<i32> {
    let footer = cache.footer(file).await.unwrap();
    let mut asked = request(vec![split(file, &footer)], &footer.schema);
    asked.sieve = Some(Arc::clone(sieve) as Arc<dyn Sieve>);
    asked.taker = MAPS;
    let given = numbers(&footer, &collect(cache, asked).await.unwrap());
    assert!(given.is_sorted());
    for n in sieve.wanted() {
        assert!(given.binary_search(&n).is_ok(), "{n}");
    }
    given
}

/// Bytes that storage was asked for so far. Not what is held: that is a moment behind what was given.
fn fetched(cache: &Cache) -> u64 {
    cache.engine.pages.fetched_bytes()
}

#[tokio::test(flavor = "multi_thread")]
async fn few_rows_cost_the_pages_that_they_lie_in() {
    let folder = tempfile::tempdir().unwrap();
    write(&folder.path().join("a.parquet"));
    let ufs = mount(folder.path());
    let file = open(&ufs, "a.parquet").await;
    let all = ROWS * STEP;
    for (least, most) in [(300_000, 300_040), (0, 0), (all - STEP, all - STEP), (195_000, 215_000)] {
        for columns in [&[][..], &["n"]] {
            let cache = cache();
            let sieve = Between::new(least, most, columns);
            let given = sifted(&cache, &file, &sieve).await;
            let pages = sieve.wanted().len().div_ceil(1000) + 1;
            assert!(given.len() <= pages * 1000, "{} rows of {pages} pages", given.len());
            assert_eq!(sieve.asked.lock().iter().sum::<u64>(), u64::try_from(ROWS).unwrap());
            let first = fetched(&cache);
            assert!(first < file.key.size / 4, "{first} of {} bytes", file.key.size);
            assert_eq!(cache.usage().decoded_bytes, 0, "parts are not kept");
            // The same rows again ask for nothing.
            assert_eq!(sifted(&cache, &file, &sieve).await, given);
            assert_eq!(fetched(&cache), first);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_group_is_passed_over_whose_pages_all_lie_elsewhere() {
    let folder = tempfile::tempdir().unwrap();
    write(&folder.path().join("a.parquet"));
    let ufs = mount(folder.path());
    let file = open(&ufs, "a.parquet").await;
    let cache = cache();
    // Behind the last number of a page, before the first of the next.
    let behind = 30 * PAGE_ROWS * STEP - STEP + 1;
    let sieve = Between::new(behind, behind + 3, &["n"]);
    assert!(sifted(&cache, &file, &sieve).await.is_empty());
    assert_eq!(sieve.asked.lock().len(), usize::try_from(ROWS / PAGE_ROWS).unwrap());
    let fetched = fetched(&cache);
    assert!(fetched < file.key.size / 20, "{fetched} of {} bytes", file.key.size);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_rows_are_read_and_kept_whole() {
    let folder = tempfile::tempdir().unwrap();
    write(&folder.path().join("a.parquet"));
    let ufs = mount(folder.path());
    let file = open(&ufs, "a.parquet").await;
    let cache = cache();
    let given = sifted(&cache, &file, &Between::new(0, ROWS * STEP / 2, &[])).await;
    assert_eq!(given.len(), usize::try_from(ROWS).unwrap());
    assert!(cache.usage().decoded_bytes > 0);
    // What is held is given by reference, and no index is asked for it.
    let sieve = Between::new(7 * STEP, 7 * STEP, &[]);
    sifted(&cache, &file, &sieve).await;
    assert!(sieve.asked.lock().is_empty());
}

/// Changes the offset index of the column `m` by `change`.
fn with_index(path: &Path, footer: &Footer, change: impl FnOnce(&mut Vec<u8>)) {
    let column = footer.metadata.row_group(0).column(2);
    let offset = u64::try_from(column.offset_index_offset().unwrap()).unwrap();
    let mut index = vec![0; usize::try_from(column.offset_index_length().unwrap()).unwrap()];
    let file = File::options().read(true).write(true).open(path).unwrap();
    file.read_exact_at(&mut index, offset).unwrap();
    let length = index.len();
    change(&mut index);
    assert_eq!(index.len(), length);
    file.write_all_at(&index, offset).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_that_is_damaged_or_wrong_costs_bytes_and_no_row() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.parquet");
    let zeros = |index: &mut Vec<u8>| index.fill(0);
    // The second page begins a row later than it does: 1001 in place of 1000, as the numbers are written.
    let moved = |index: &mut Vec<u8>| {
        let at = index.windows(3).position(|bytes| bytes == [0x16, 0xd0, 0x0f]).unwrap();
        index[at + 1] = 0xd2;
    };
    let changes: [fn(&mut Vec<u8>); 2] = [zeros, moved];
    for change in changes {
        for columns in [&[][..], &["n"]] {
            write(&path);
            let ufs = mount(folder.path());
            let cache = cache();
            let footer = cache.footer(&open(&ufs, "a.parquet").await).await.unwrap();
            with_index(&path, &footer, change);
            let file = open(&ufs, "a.parquet").await;
            let sieve = Between::new(5_000, 5_040, columns);
            sifted(&cache, &file, &sieve).await;
            assert!(!sieve.asked.lock().is_empty(), "the index was not asked");
        }
    }
}
