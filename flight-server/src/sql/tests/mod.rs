//! The engine over real Parquet files: a node, a folder that is mounted, and questions.

/// A batch of columns that may be null, one literal list each.
macro_rules! batch {
    ($(($name:expr, $kind:ident, $values:expr)),+ $(,)?) => {
        table(vec![$(($name, values!($kind, $values))),+])
    };
}

macro_rules! values {
    (Int64, $values:expr) => {
        Arc::new(
            $values
                .into_iter()
                .map(Option::<i64>::from)
                .collect::<arrow::array::Int64Array>(),
        ) as ArrayRef
    };
    (Utf8, $values:expr) => {
        Arc::new($values.into_iter().map(Option::<&str>::from).collect::<StringArray>()) as ArrayRef
    };
    (Boolean, $values:expr) => {
        Arc::new(
            $values
                .into_iter()
                .map(Option::<bool>::from)
                .collect::<arrow::array::BooleanArray>(),
        ) as ArrayRef
    };
}

mod answers;
mod bounds;
mod names;
mod pushed;
mod random;
mod refusals;
mod speed;
mod substrait;
mod wire;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{ArrayRef, RecordBatch, StringArray};
use arrow::compute::concat_batches;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use clap::Parser;
use futures::TryStreamExt;
use jetbridge_cache::export::ParquetFile;
use jetbridge_catalog::mount::Mount;
use jetbridge_catalog::path::NsPath;
use jetbridge_catalog::uri::UfsUri;

use super::{Answer, Query, SessionOptions, Text};
use crate::cluster::{Places, Role};
use crate::config::{self, ConfigFlags, Machine};
use crate::error::ServiceError;
use crate::node::Node;

#[derive(Parser)]
struct Flags {
    #[command(flatten)]
    flags: ConfigFlags,
}

/// A node that has a folder mounted at `/lake`.
pub(super) struct Lake {
    pub(super) node: Arc<Node>,
    folder: tempfile::TempDir,
}

impl Lake {
    /// A lake of these files, by their paths in it.
    pub(super) async fn of(files: &[(&str, RecordBatch)]) -> Self {
        Self::with(files, &[]).await
    }

    /// The same, with more settings.
    async fn with(files: &[(&str, RecordBatch)], settings: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (data, lake) = (folder.path().join("data"), folder.path().join("lake"));
        std::fs::create_dir_all(&data).unwrap();
        std::fs::create_dir_all(&lake).unwrap();
        for (path, rows) in files {
            write(&lake.join(path), rows);
        }
        let mount = format!("/lake={}", lake.display());
        let root = folder.path().to_str().unwrap();
        let words = [
            "test",
            "--mount",
            &mount,
            "--file-root",
            root,
            "--file-root",
            "/tmp",
            "--cache-dir",
            "none",
        ];
        let words = words.iter().chain(settings).copied();
        let words = words.chain(["--data-dir", data.to_str().unwrap()]);
        let words: Vec<&str> = match settings.contains(&"--memory") {
            true => words.collect(),
            false => words.chain(["--memory", "256MiB"]).collect(),
        };
        let flags = Flags::try_parse_from(words).unwrap().flags;
        let machine = Machine {
            memory_bytes: None,
            cores: 2,
        };
        let settings = config::load(&flags, [], &machine).unwrap().settings;
        let node = Arc::new(Node::open(&settings, Role::All, Places::default()).await.unwrap());
        Self { node, folder }
    }

    /// Mounts another folder of the lake's.
    async fn mount(&self, path: &str, folder: &str) {
        let uri = format!("file://{}", self.folder.path().join(folder).display());
        self.mount_uri(path, &uri).await;
    }

    async fn mount_uri(&self, path: &str, uri: &str) {
        let uri = UfsUri::parse(uri).unwrap();
        let mount = Mount::new(NsPath::parse(path).unwrap(), uri, [].into(), false).unwrap();
        self.node.add_mount(mount).await.unwrap();
    }

    async fn ask(&self, query: &Query) -> Result<Vec<RecordBatch>, ServiceError> {
        let described = self.node.sql.describe(&self.node, query).await?;
        let answer = self.node.sql.run(&self.node, query).await?;
        assert_eq!(answer.schema, described.schema, "{:?}", query.text);
        let batches: Vec<RecordBatch> = answer.batches.try_collect().await?;
        for batch in &batches {
            assert_eq!(batch.schema(), described.schema, "{:?}", query.text);
            assert!(batch.num_rows() > 0, "{:?}", query.text);
        }
        Ok(batches)
    }

    /// The rows of an answer, its values as text, separated by bars.
    async fn rows(&self, sql: &str) -> Vec<String> {
        let batches = self.ask(&query(sql)).await;
        rows(&batches.unwrap_or_else(|error| panic!("{sql}: {error:?}")))
    }

    /// The plan that a statement has.
    async fn plan(&self, sql: &str) -> String {
        self.text(&format!("EXPLAIN {sql}")).await
    }

    /// The plan that a statement had, with its counts.
    async fn counts(&self, sql: &str) -> String {
        self.text(&format!("EXPLAIN ANALYZE {sql}")).await
    }

    async fn text(&self, sql: &str) -> String {
        let batches = self.ask(&query(sql)).await.unwrap();
        let all = concat_batches(&batches[0].schema(), &batches).unwrap();
        let texts: &StringArray = arrow::array::AsArray::as_string(all.column(1));
        texts.iter().flatten().collect::<Vec<_>>().join("\n")
    }

    async fn refused(&self, sql: &str) -> ServiceError {
        match self.ask(&query(sql)).await {
            Ok(batches) => panic!("{sql} gave {:?}", rows(&batches)),
            Err(error) => error,
        }
    }

    /// Begins a query and takes its first batch.
    async fn begun(&self, query: &Query) -> Answer {
        let mut answer = self.node.sql.run(&self.node, query).await.unwrap();
        answer.batches.try_next().await.unwrap().unwrap();
        answer
    }

    /// Waits until no query runs or holds anything.
    async fn comes_to_rest(&self) {
        for _ in 0..6_000 {
            if self.node.sql.running() == 0 && self.node.sql.memory_used() == 0 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!(
            "{} queries run and hold {} bytes",
            self.node.sql.running(),
            self.node.sql.memory_used()
        );
    }
}

fn query(sql: &str) -> Query {
    Query {
        text: Text::Sql(sql.to_owned()),
        ..Query::default()
    }
}

fn query_within(sql: &str, timeout: Duration) -> Query {
    Query {
        text: Text::Sql(sql.to_owned()),
        options: SessionOptions {
            timeout: Some(timeout),
            ..SessionOptions::default()
        },
        ..Query::default()
    }
}

fn write(path: &Path, rows: &RecordBatch) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    let mut file = ParquetFile::create(std::fs::File::create(path).unwrap(), &rows.schema()).unwrap();
    file.write(rows).unwrap();
    file.finish().unwrap();
}

fn rows(batches: &[RecordBatch]) -> Vec<String> {
    let options = FormatOptions::default().with_null("null");
    let mut rows = Vec::new();
    for batch in batches {
        let columns: Vec<ArrayFormatter<'_>> = batch
            .columns()
            .iter()
            .map(|column| ArrayFormatter::try_new(column, &options).unwrap())
            .collect();
        for row in 0..batch.num_rows() {
            let values: Vec<String> = columns.iter().map(|column| column.value(row).to_string()).collect();
            rows.push(values.join("|"));
        }
    }
    rows
}

fn sorted(mut rows: Vec<String>) -> Vec<String> {
    rows.sort();
    rows
}

pub(super) fn table(columns: Vec<(&str, ArrayRef)>) -> RecordBatch {
    let nullable = columns.into_iter().map(|(name, column)| (name, column, true));
    RecordBatch::try_from_iter_with_nullable(nullable).unwrap()
}
