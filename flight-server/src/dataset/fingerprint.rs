//! What a version of a dataset is called: equal exactly for equal files at equal generations.

use std::fmt::Write as _;
use std::sync::OnceLock;

use sha2::{Digest, Sha256};

use super::Dataset;

/// Bytes of the digest that the text shows.
const SHOWN_BYTES: usize = 16;

/// The fingerprint of a snapshot, once somebody asked for it.
#[derive(Debug, Default, Clone)]
pub struct Fingerprint(OnceLock<String>);

impl Dataset {
    /// What this version is called: 32 hexadecimal digits.
    ///
    /// It is the SHA-256, cut short, of every file in reading order: its path relative to the dataset, its generation, its size
    /// and the rows of its row groups. Where the dataset is mounted and which nodes have it does not enter, so that a position in
    /// it holds on another cluster too.
    pub fn fingerprint(&self) -> &str {
        self.fingerprint.0.get_or_init(|| digest(self))
    }
}

fn digest(dataset: &Dataset) -> String {
    let mut hash = Sha256::new();
    let mut line = String::new();
    for file in &dataset.files {
        line.clear();
        let path = file.path.strip_prefix(&dataset.path).unwrap_or_default();
        // A path holds no NUL, so that no two lists of files give one text.
        let _ = write!(line, "{path}\0{}\0{}\0", file.open.key.generation, file.open.key.size);
        match &file.summary {
            Ok(summary) => {
                for group in summary.row_groups.iter() {
                    let _ = write!(line, "{},", group.rows);
                }
            }
            Err(_) => line.push('?'),
        }
        line.push('\n');
        hash.update(line.as_bytes());
    }
    hex::encode(&hash.finalize()[..SHOWN_BYTES])
}
