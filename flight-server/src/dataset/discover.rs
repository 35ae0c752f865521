//! Which datasets there are, where nobody has said so.
//!
//! What is a dataset is a guess here, since any folder can be read as one: a folder that holds Parquet files directly, or in
//! `key=value` folders.

use std::collections::BTreeSet;

use jetbridge_catalog::dataset::dataset_roots;
use jetbridge_catalog::path::NsPath;

use super::Datasets;

impl Datasets {
    /// Folders that may be datasets, by path: those that `concerns` says yes to, as it must to all above them. What cannot
    /// be listed is left out, with a line in the log: one mount that is down must not hide the others.
    pub async fn candidates(&self, concerns: impl Fn(&NsPath) -> bool) -> BTreeSet<NsPath> {
        let table = self.tree().table();
        // A mount below another is listed with that one.
        let outermost = table
            .iter()
            .filter(|mount| mount.path.parent().is_none_or(|above| table.resolve(&above).is_none()));
        let mut candidates = BTreeSet::new();
        for mount in outermost.filter(|mount| concerns(&mount.path)) {
            match self.tree().data_files(&mount.path).await {
                Ok(files) => {
                    let relatives: Vec<&str> = files.iter().filter_map(|file| file.strip_prefix(&mount.path)).collect();
                    candidates.extend(
                        dataset_roots(&relatives)
                            .iter()
                            .filter_map(|root| mount.path.join(root).ok())
                            .filter(|candidate| concerns(candidate)),
                    );
                }
                Err(error) => {
                    let error = crate::error::chain(&error);
                    tracing::warn!(mount = %mount.path, error, "this mount cannot be listed; its datasets are left out");
                }
            }
        }
        candidates
    }
}
