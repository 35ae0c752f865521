//! The files that the checks look at.

use std::fs;
use std::path::{Path, PathBuf};

/// Folders with Rust code of ours.
pub(crate) const CRATES: &[&str] = &["etcd", "catalog", "cache", "client", "flight-server", "python", "tests"];

/// The repository's root.
pub(crate) fn root() -> PathBuf {
    // Tests run in their crate, whichever copy of the sources they were built from.
    std::env::current_dir().unwrap().parent().unwrap().to_owned()
}

/// A file of ours, its path relative to the root.
pub(crate) struct Source {
    pub(crate) path: String,
    pub(crate) text: String,
}

impl Source {
    /// The text without its `mod tests`, which is last in a file by rule.
    pub(crate) fn without_tests(&self) -> &str {
        self.text
            .split_once("\n#[cfg(test)]\nmod tests {")
            .map_or(&self.text, |(code, _)| code)
    }
}

/// All files below `folder` with this extension, of which there must be some.
pub(crate) fn sources(folder: &str, extension: &str) -> Vec<Source> {
    let mut found = Vec::new();
    collect(&root().join(folder), extension, &mut found);
    assert!(
        !found.is_empty(),
        "no .{extension} file in {folder}/: the check looks at nothing"
    );
    found
}

/// All Rust files of ours.
pub(crate) fn rust_sources() -> Vec<Source> {
    CRATES.iter().flat_map(|folder| sources(folder, "rs")).collect()
}

/// The text of one file.
pub(crate) fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn collect(folder: &Path, extension: &str, found: &mut Vec<Source>) {
    let mut entries: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    entries.sort();
    for path in entries {
        let name = path.file_name().unwrap().to_string_lossy();
        if path.is_dir() && !name.starts_with('.') && name != "target" && name != "__pycache__" {
            collect(&path, extension, found);
        } else if path.extension().is_some_and(|found| found == extension) {
            let text = fs::read_to_string(&path).unwrap();
            found.push(Source {
                path: path.strip_prefix(root()).unwrap().to_string_lossy().into_owned(),
                text,
            });
        }
    }
}
