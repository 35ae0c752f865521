//! A node over folders of Parquet files, for the tests of several modules.

use std::path::Path;
use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch};
use clap::Parser;
use jetbridge_cache::export::ParquetFile;
use jetbridge_catalog::mount::Mount;
use jetbridge_catalog::path::NsPath;
use jetbridge_catalog::uri::UfsUri;

use crate::cluster::{Places, Role};
use crate::config::{self, ConfigFlags, Machine};
use crate::node::Node;

#[derive(Parser)]
struct Flags {
    #[command(flatten)]
    flags: ConfigFlags,
}

/// A node that has joined no cluster, and the folder of its files, of which `lake` is mounted at `/lake`.
pub(crate) struct Lake {
    pub(crate) node: Arc<Node>,
    folder: tempfile::TempDir,
}

impl Lake {
    /// A lake of these files, by their paths in the folder.
    pub(crate) async fn of(files: &[(&str, RecordBatch)]) -> Self {
        Self::with(files, &[]).await
    }

    /// The same, of a node that was started with these words as well.
    pub(crate) async fn with(files: &[(&str, RecordBatch)], more: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("data");
        std::fs::create_dir_all(&data).unwrap();
        for (path, rows) in files {
            write(&folder.path().join(path), rows);
        }
        let mount = format!("/lake={}", folder.path().join("lake").display());
        let root = folder.path().to_str().unwrap();
        let words = ["test", "--mount", &mount, "--file-root", root, "--memory", "256MiB"];
        let words = words
            .into_iter()
            .chain(["--cache-dir", "none", "--data-dir", data.to_str().unwrap()])
            .chain(more.iter().copied());
        let flags = Flags::try_parse_from(words).unwrap().flags;
        let machine = Machine {
            memory_bytes: None,
            cores: 2,
        };
        let settings = config::load(&flags, [], &machine).unwrap().settings;
        let node = Node::open(&settings, Role::All, Places::default()).await.unwrap();
        Self {
            node: Arc::new(node),
            folder,
        }
    }

    /// Mounts another part of the folder.
    pub(crate) async fn mount(&self, path: &str, folder: &str, options: &[(&str, &str)]) {
        let uri = format!("file://{}", self.folder.path().join(folder).display());
        let uri = UfsUri::parse(&uri).unwrap();
        let options = options.iter().map(|&(key, value)| (key.to_owned(), value.to_owned()));
        let mount = Mount::new(NsPath::parse(path).unwrap(), uri, options.collect(), false).unwrap();
        self.node.add_mount(mount).await.unwrap();
    }
}

/// A table of one column `n`, counted from 0.
pub(crate) fn numbers(rows: i64) -> RecordBatch {
    let numbers: ArrayRef = Arc::new((0..rows).collect::<Int64Array>());
    RecordBatch::try_from_iter([("n", numbers)]).unwrap()
}

fn write(path: &Path, rows: &RecordBatch) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    let mut file = ParquetFile::create(std::fs::File::create(path).unwrap(), &rows.schema()).unwrap();
    file.write(rows).unwrap();
    file.finish().unwrap();
}
