//! Sieves: what is left out, and that what is given is whole and in order.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Int32Array, RecordBatch, StringArray};
use arrow::datatypes::Int32Type;
use arrow::error::ArrowError;
use parking_lot::Mutex;

use super::{cache, collect, joined, kept, mount, open, request, split, write};
use crate::key::RowGroup;
use crate::scan::{RunBounds, Sieve};

const ROWS: i32 = 60_000;

/// Wants rows whose `n` lies in one of these.
struct Within {
    ranges: Vec<Range<i32>>,
    columns: Vec<String>,
    groups: Option<Vec<u32>>,
    asked: Mutex<usize>,
    breaks: Option<Breaks>,
}

/// Where a sieve panics.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Breaks {
    /// Asked about a stride, which is guarded.
    Judging,
    /// In the task that begins row groups, behind the first.
    Driver,
    /// In the task of a row group.
    Unit,
}

impl Within {
    fn new(ranges: &[Range<i32>]) -> Self {
        Self {
            ranges: ranges.to_vec(),
            columns: vec!["n".to_owned()],
            groups: None,
            asked: Mutex::new(0),
            breaks: None,
        }
    }

    fn wanted(&self) -> impl Iterator<Item = i32> {
        self.ranges.iter().flat_map(Clone::clone)
    }

    fn breaks_in(&self, place: Breaks) {
        assert!(self.breaks != Some(place), "it breaks");
    }
}

impl Sieve for Within {
    fn wants(&self, _: usize, row_group: RowGroup) -> bool {
        if row_group.0 > 0 {
            self.breaks_in(Breaks::Driver);
        }
        self.groups.as_ref().is_none_or(|groups| groups.contains(&row_group.0))
    }

    fn columns(&self) -> &[String] {
        self.breaks_in(Breaks::Unit);
        &self.columns
    }

    fn passes(&self, batch: &RecordBatch) -> Result<bool, ArrowError> {
        assert_eq!(batch.num_columns(), 1);
        *self.asked.lock() += 1;
        self.breaks_in(Breaks::Judging);
        let values = batch.column(0).as_primitive::<Int32Type>().values();
        Ok(values
            .iter()
            .any(|value| self.ranges.iter().any(|range| range.contains(value))))
    }

    fn tightens(&self) -> bool {
        false
    }

    fn bounded(&self) -> &[String] {
        &[]
    }

    fn wants_runs(&self, runs: &dyn RunBounds) -> Vec<bool> {
        vec![true; runs.rows().len()]
    }
}

fn text(n: i32) -> String {
    format!("{n:0>200}")
}

fn columns() -> [(&'static str, ArrayRef); 3] {
    let numbers: ArrayRef = Arc::new(Int32Array::from_iter_values(0..ROWS));
    let texts: ArrayRef = Arc::new(StringArray::from_iter_values((0..ROWS).map(text)));
    let others: ArrayRef = Arc::new(Int32Array::from_iter_values((0..ROWS).map(|n| n * 2)));
    [("n", numbers), ("s", texts), ("m", others)]
}

/// The values of `n` that are given, after each row was looked at.
fn numbers(all: &RecordBatch) -> Vec<i32> {
    let n = all.column_by_name("n").unwrap().as_primitive::<Int32Type>();
    let m = all.column_by_name("m").unwrap().as_primitive::<Int32Type>();
    let s = all.column_by_name("s").unwrap().as_string::<i32>();
    for row in 0..all.num_rows() {
        assert_eq!(
            (m.value(row), s.value(row)),
            (n.value(row) * 2, text(n.value(row)).as_str())
        );
    }
    n.values().to_vec()
}

#[tokio::test(flavor = "multi_thread")]
async fn strides_that_nobody_wants_are_not_given_and_the_others_are_whole() {
    let folder = tempfile::tempdir().unwrap();
    write(&folder.path().join("a.parquet"), &columns(), 40_000);
    let ufs = mount(folder.path());
    let file = open(&ufs, "a.parquet").await;
    for ranges in [
        vec![5..6],
        vec![0..1, 59_999..60_000],
        vec![12_345..12_346, 30_000..45_000],
        vec![0..ROWS],
        vec![39_999..40_001],
    ] {
        let cache = cache();
        let footer = cache.footer(&file).await.unwrap();
        // Cold; then with what was kept of the first and the second time.
        for turn in 0..4 {
            let sieve = Arc::new(Within::new(&ranges));
            let mut sifted = request(vec![split(&file, &footer)], &footer.schema);
            sifted.sieve = Some(Arc::clone(&sieve) as Arc<dyn Sieve>);
            let given = numbers(&joined(&footer.schema, &collect(&cache, sifted).await.unwrap()));
            assert!(given.is_sorted());
            for wanted in sieve.wanted() {
                assert!(
                    given.binary_search(&wanted).is_ok(),
                    "{wanted} of {ranges:?} in turn {turn}"
                );
            }
            if turn == 0 {
                let most = ranges.iter().map(|range| range.len() + 2 * 21_000).sum::<usize>();
                assert!(given.len() <= most, "{} rows for {ranges:?}", given.len());
                assert!(*sieve.asked.lock() > 0);
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn columns_of_a_row_group_that_nobody_wants_are_not_fetched() {
    let folder = tempfile::tempdir().unwrap();
    write(&folder.path().join("a.parquet"), &columns(), 60_000);
    let ufs = mount(folder.path());
    let file = open(&ufs, "a.parquet").await;
    let cache = cache();
    let footer = cache.footer(&file).await.unwrap();
    let mut sifted = request(vec![split(&file, &footer)], &footer.schema);
    sifted.sieve = Some(Arc::new(Within::new(&[])));
    assert!(collect(&cache, sifted).await.unwrap().is_empty());
    kept(&cache).await;
    let held = cache.held_columns(&file).await.unwrap();
    assert!(held[0].raw_bytes > 0, "{held:?}");
    assert!(held[1].raw_bytes < held[1].bytes / 10, "{held:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn row_groups_that_nobody_wants_are_not_begun() {
    let folder = tempfile::tempdir().unwrap();
    write(&folder.path().join("a.parquet"), &columns(), 20_000);
    let ufs = mount(folder.path());
    let file = open(&ufs, "a.parquet").await;
    let cache = cache();
    let footer = cache.footer(&file).await.unwrap();
    let mut sifted = request(vec![split(&file, &footer)], &footer.schema);
    sifted.sieve = Some(Arc::new(Within {
        groups: Some(vec![1]),
        ..Within::new(&[0..ROWS])
    }));
    let given = numbers(&joined(&footer.schema, &collect(&cache, sifted).await.unwrap()));
    assert_eq!(given, (20_000..40_000).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sieve_that_breaks_lets_everything_through() {
    let folder = tempfile::tempdir().unwrap();
    write(&folder.path().join("a.parquet"), &columns(), 60_000);
    let ufs = mount(folder.path());
    let file = open(&ufs, "a.parquet").await;
    let cache = cache();
    let footer = cache.footer(&file).await.unwrap();
    let mut sifted = request(vec![split(&file, &footer)], &footer.schema);
    sifted.sieve = Some(Arc::new(Within {
        breaks: Some(Breaks::Judging),
        ..Within::new(&[])
    }));
    let given = numbers(&joined(&footer.schema, &collect(&cache, sifted).await.unwrap()));
    assert_eq!(given.len(), 60_000);
}

/// The end of what a dead task gave is no end of the rows.
#[tokio::test(flavor = "multi_thread")]
async fn a_scan_of_which_a_part_dies_is_no_shorter_answer() {
    let folder = tempfile::tempdir().unwrap();
    write(&folder.path().join("a.parquet"), &columns(), 40_000);
    let file = open(&mount(folder.path()), "a.parquet").await;
    let cache = cache();
    let footer = cache.footer(&file).await.unwrap();
    for breaks in [Breaks::Driver, Breaks::Unit] {
        let mut asked = request(vec![split(&file, &footer)], &footer.schema);
        asked.sieve = Some(Arc::new(Within {
            breaks: Some(breaks),
            ..Within::new(&[0..ROWS])
        }));
        let error = collect(&cache, asked).await.unwrap_err().to_string();
        assert!(error.contains("died"), "{error}");
    }
}
