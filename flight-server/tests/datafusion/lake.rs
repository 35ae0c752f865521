//! A folder of Parquet files, a server over it, and the same rows in memory.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanArray, Date32Array, Decimal128Array, DictionaryArray, Float32Array, Float64Array, Int32Array,
    Int64Array, ListArray, RecordBatch, StringArray, StructArray, TimestampMicrosecondArray,
};
use arrow::buffer::NullBuffer;
use arrow::compute::nullif;
use arrow::datatypes::{DataType, Field, Int32Type, Schema, SchemaRef, TimeUnit};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use datafusion::catalog::MemorySchemaProvider;
use datafusion::common::{DataFusionError, TableReference};
use datafusion::datasource::MemTable;
use datafusion::physical_plan::displayable;
use datafusion::prelude::{SessionConfig, SessionContext};
use jetbridge_cache::export::ParquetFile;
use jetbridge_client::datafusion::{CATALOG, RemoteCatalog, register};
use jetbridge_client::{Client, ClientOptions};

use super::process::Process;

/// Files of `trips`, and rows of each.
pub(crate) const FILES: usize = 6;
pub(crate) const ROWS: usize = 3000;
/// Partitions of a session, at most.
pub(crate) const PARTITIONS: usize = 4;

/// A small generator of the same numbers each time.
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    pub(crate) fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % u64::try_from(sides).unwrap()).unwrap()
    }

    pub(crate) fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.roll(of.len())]
    }

    /// So many values, one in nine of them null.
    fn values<T>(&mut self, rows: usize, mut value: impl FnMut(&mut Self) -> T) -> Vec<Option<T>> {
        let mut one = |dice: &mut Self| {
            let value = value(dice);
            (dice.roll(9) > 0).then_some(value)
        };
        (0..rows).map(|_| one(self)).collect()
    }
}

fn number(dice: &mut Dice, sides: usize) -> i64 {
    i64::try_from(dice.roll(sides)).unwrap()
}

const WORDS: [&str; 6] = ["ann", "bob", "it's", "Ann", "zoë", ""];
/// Both NaNs and both zeros among them.
const FLOATS: [f64; 10] = [
    f64::NAN,
    -f64::NAN,
    0.0,
    -0.0,
    1.5,
    -2.25,
    1e300,
    f64::INFINITY,
    f64::NEG_INFINITY,
    3.0,
];

/// One file of `trips`: `id` is the number of the row over all files.
fn trips(file: usize, dice: &mut Dice) -> RecordBatch {
    let first = file * ROWS;
    let ids: Int64Array = (first..first + ROWS).map(|id| i64::try_from(id).unwrap()).collect();
    let narrow: Int32Array = dice.values(ROWS, |dice| i32::try_from(dice.roll(50)).unwrap()).into();
    let float: Vec<Option<f64>> = dice.values(ROWS, |dice| dice.pick(&FLOATS));
    let single: Float32Array = dice
        .values(ROWS, |dice| dice.pick(&[0.1_f32, -0.0, 0.0, f32::NAN, 7.5]))
        .into();
    let text = |dice: &mut Dice| dice.values(ROWS, |dice| dice.pick(&WORDS));
    let (vendor, name): (StringArray, StringArray) = (text(dice).into(), text(dice).into());
    let kind: DictionaryArray<Int32Type> = text(dice).into_iter().collect();
    let days: Date32Array = dice
        .values(ROWS, |dice| i32::try_from(19_700 + dice.roll(60)).unwrap())
        .into();
    let moments = dice.values(ROWS, |dice| number(dice, 1 << 40));
    let tip = dice.values(ROWS, |dice| i128::from(number(dice, 2000)) - 1000);
    let flag: BooleanArray = dice.values(ROWS, |dice| dice.roll(2) > 0).into();
    let x: Int64Array = dice.values(ROWS, |dice| number(dice, 30)).into();
    let tags = dice.values(ROWS, |dice| vec![Some(i32::try_from(dice.roll(5)).unwrap()), None]);
    let columns: Vec<ArrayRef> = vec![
        Arc::new(ids),
        Arc::new(narrow),
        Arc::new(Float64Array::from(float)),
        Arc::new(single),
        Arc::new(vendor),
        Arc::new(kind),
        Arc::new(days),
        Arc::new(TimestampMicrosecondArray::from(moments).with_timezone("UTC")),
        Arc::new(Decimal128Array::from(tip).with_precision_and_scale(10, 2).unwrap()),
        Arc::new(flag),
        Arc::new(place(&x, &name, dice)),
        Arc::new(ListArray::from_iter_primitive::<Int32Type, _, _>(tags)),
    ];
    RecordBatch::try_new(trips_schema(), columns).unwrap()
}

/// Structs, some of them null: their fields are so too, as Parquet has them.
fn place(x: &Int64Array, name: &StringArray, dice: &mut Dice) -> StructArray {
    let is_missing: BooleanArray = (0..ROWS).map(|_| Some(dice.roll(9) == 0)).collect();
    let fields = vec![nullif(x, &is_missing).unwrap(), nullif(name, &is_missing).unwrap()];
    let is_there: NullBuffer = is_missing.iter().map(|is_missing| is_missing == Some(false)).collect();
    StructArray::new(place_fields().into(), fields, Some(is_there))
}

fn place_fields() -> Vec<Field> {
    vec![
        Field::new("x", DataType::Int64, true),
        Field::new("Full name", DataType::Utf8, true),
    ]
}

fn trips_schema() -> SchemaRef {
    let field = |name: &str, data_type| Field::new(name, data_type, true);
    let fields = vec![
        Field::new("id", DataType::Int64, false).with_metadata([("unit".to_owned(), "row".to_owned())].into()),
        field("narrow", DataType::Int32),
        field("fare", DataType::Float64),
        field("single", DataType::Float32),
        field("vendor", DataType::Utf8),
        field(
            "kind",
            DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8)),
        ),
        field("day", DataType::Date32),
        field("at", DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))),
        field("tip", DataType::Decimal128(10, 2)),
        field("flag", DataType::Boolean),
        field("place", DataType::Struct(place_fields().into())),
        field(
            "tags",
            DataType::List(Arc::new(Field::new_list_field(DataType::Int32, true))),
        ),
    ];
    Arc::new(Schema::new_with_metadata(
        fields,
        [("origin".to_owned(), "test".to_owned())].into(),
    ))
}

/// Rows of `zones`, with the columns that their partition folders say.
fn zones() -> Vec<(&'static str, RecordBatch)> {
    let of = |year: i64, land: &str, from: i64| {
        let ids: Int64Array = (from..from + 20).collect();
        let names: StringArray = (from..from + 20).map(|id| Some(format!("zone {id}"))).collect();
        let (years, lands) = (Int64Array::from(vec![year; 20]), StringArray::from(vec![land; 20]));
        let columns: [(&str, ArrayRef); 4] = [
            ("zone", Arc::new(ids)),
            ("name", Arc::new(names)),
            ("year", Arc::new(years)),
            ("land", Arc::new(lands)),
        ];
        RecordBatch::try_from_iter_with_nullable(columns.map(|(name, column)| (name, column, true))).unwrap()
    };
    vec![
        ("year=2023/land=it/a.parquet", of(2023, "it", 0)),
        ("year=2023/land=fr/a.parquet", of(2023, "fr", 20)),
        ("year=2024/land=fr/a.parquet", of(2024, "fr", 10)),
    ]
}

pub(crate) fn write(path: &Path, rows: &RecordBatch) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    let mut parquet = ParquetFile::create(File::create(path).unwrap(), &rows.schema()).unwrap();
    parquet.write(rows).unwrap();
    parquet.finish().unwrap();
}

/// The files, at `/lake`.
pub(crate) struct Lake {
    pub(crate) folder: tempfile::TempDir,
    trips: Vec<RecordBatch>,
    zones: Vec<RecordBatch>,
}

impl Lake {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut dice = Dice(0x5eed);
        let trips: Vec<RecordBatch> = (0..FILES).map(|file| trips(file, &mut dice)).collect();
        for (file, rows) in trips.iter().enumerate() {
            write(&folder.path().join(format!("lake/trips/{file}.parquet")), rows);
        }
        let zones = zones();
        for (path, rows) in &zones {
            let stored = rows.project(&[0, 1]).unwrap();
            write(&folder.path().join("lake/zones").join(path), &stored);
        }
        let rates = zones[0].1.project(&[0, 1]).unwrap();
        write(&folder.path().join("lake/sub/deep/rates.parquet"), &rates);
        Self {
            folder,
            trips,
            zones: zones.into_iter().map(|(_, rows)| rows).collect(),
        }
    }

    /// A server of one process; an endpoint for each file.
    pub(crate) fn server(&self) -> Process {
        let root = self.folder.path().display();
        self.process(
            "serve",
            "server",
            &["--mount", &self.mount(), "--file-root", &root.to_string()],
        )
    }

    pub(crate) fn process(&self, role: &str, name: &str, more: &[&str]) -> Process {
        let more: Vec<&str> = ["--endpoint-bytes", "64KiB", "--memory", "256MiB"]
            .into_iter()
            .chain(more.iter().copied())
            .collect();
        Process::start(role, &self.folder.path().join(name), &more)
    }

    pub(crate) fn mount(&self) -> String {
        format!("/lake=file://{}", self.folder.path().join("lake").display())
    }

    /// The same tables in memory, as `lake.trips` and `lake.zones`.
    pub(crate) fn in_memory(&self) -> SessionContext {
        let context = SessionContext::new_with_config(config());
        let schema = Arc::new(MemorySchemaProvider::new());
        let catalog = context.catalog(CATALOG).unwrap();
        catalog.register_schema("lake", schema).unwrap();
        for (name, batches) in [("trips", &self.trips), ("zones", &self.zones)] {
            let table = MemTable::try_new(batches[0].schema(), vec![batches.clone()]).unwrap();
            let name = TableReference::partial("lake", name);
            context.register_table(name, Arc::new(table)).unwrap();
        }
        context
    }

    pub(crate) fn trips(&self) -> &[RecordBatch] {
        &self.trips
    }
}

fn config() -> SessionConfig {
    SessionConfig::new()
        .with_default_catalog_and_schema(CATALOG, "public")
        .with_information_schema(true)
        .with_target_partitions(PARTITIONS)
        .with_batch_size(512)
}

pub(crate) fn client(server: &Process) -> Client {
    let options = ClientOptions {
        retries: 2,
        ..ClientOptions::default()
    };
    Client::new(&server.uri, options).unwrap()
}

/// A session whose default catalog is the server.
pub(crate) async fn session(server: &Process) -> (SessionContext, Arc<RemoteCatalog>) {
    let context = SessionContext::new_with_config(config());
    let catalog = register(&context, &client(server)).await.unwrap();
    (context, catalog)
}

pub(crate) async fn ask(context: &SessionContext, sql: &str) -> Result<Vec<RecordBatch>, DataFusionError> {
    context.sql(sql).await?.collect().await
}

/// The rows of an answer, its values as text, sorted.
pub(crate) async fn rows(context: &SessionContext, sql: &str) -> Vec<String> {
    let batches = ask(context, sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
    let options = FormatOptions::default().with_null("null");
    let mut rows = Vec::new();
    for batch in &batches {
        let columns = batch.columns().iter();
        let columns: Vec<ArrayFormatter<'_>> = columns
            .map(|column| ArrayFormatter::try_new(column, &options).unwrap())
            .collect();
        for row in 0..batch.num_rows() {
            let values: Vec<String> = columns.iter().map(|column| column.value(row).to_string()).collect();
            rows.push(values.join("|"));
        }
    }
    rows.sort();
    rows
}

/// The physical plan of a query, as text.
pub(crate) async fn plan(context: &SessionContext, sql: &str) -> String {
    let plan = context.sql(sql).await.unwrap().create_physical_plan().await.unwrap();
    displayable(plan.as_ref()).indent(false).to_string()
}
