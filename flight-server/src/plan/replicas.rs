//! How many nodes are to hold each split: each file's mount says it, and mounts may nest.

use std::collections::BTreeMap;

use jetbridge_catalog::mount::{MountError, MountTable};
use jetbridge_catalog::path::NsPath;

/// How many nodes are to hold the splits of each file of a dataset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replicas {
    /// Of files that lie in none of the mounts below the dataset's path.
    outer: usize,
    /// Of those that do, by the mount; empty where all say the same, as they mostly do.
    nested: BTreeMap<NsPath, usize>,
}

impl Replicas {
    /// So many for all files.
    #[must_use]
    pub fn all(count: usize) -> Self {
        Self {
            outer: count,
            nested: BTreeMap::new(),
        }
    }

    /// What the mounts say of the files of a dataset at `path`.
    ///
    /// # Errors
    /// A mount's option that cannot be read, which none is that was mounted.
    pub fn of_mounts(table: &MountTable, path: &NsPath) -> Result<Self, MountError> {
        let outer = table
            .resolve(path)
            .map_or(Ok(1), |resolved| resolved.mount.replicas())?;
        let mut nested = BTreeMap::new();
        for mount in table.below(path) {
            nested.insert(mount.path.clone(), mount.replicas()?);
        }
        if nested.values().all(|&count| count == outer) {
            nested.clear();
        }
        Ok(Self { outer, nested })
    }

    /// Those of the file at a path.
    pub(super) fn of(&self, file: &NsPath) -> usize {
        if self.nested.is_empty() {
            return self.outer;
        }
        let said = file.ancestors().find_map(|path| self.nested.get(path));
        said.copied().unwrap_or(self.outer)
    }
}

#[cfg(test)]
mod tests {
    use jetbridge_catalog::mount::Mount;
    use jetbridge_catalog::uri::UfsUri;

    use super::*;

    fn path(text: &str) -> NsPath {
        NsPath::parse(text).unwrap()
    }

    fn table(mounts: &[(&str, &str)]) -> MountTable {
        mounts.iter().fold(MountTable::default(), |table, (place, replicas)| {
            let options = BTreeMap::from([("replicas".to_owned(), (*replicas).to_owned())]);
            let uri = UfsUri::parse("s3://b/x").unwrap();
            let mount = Mount::new(path(place), uri, options, false).unwrap();
            table.with(mount).unwrap()
        })
    }

    #[test]
    fn the_deepest_mount_of_a_file_decides() {
        let table = table(&[
            ("/lake", "2"),
            ("/lake/hot", "3"),
            ("/lake/hot/cold", "1"),
            ("/other", "4"),
        ]);
        let replicas = Replicas::of_mounts(&table, &path("/lake")).unwrap();
        let of = |file: &str| replicas.of(&path(file));
        assert_eq!((of("/lake/a"), of("/lake/hot-not/a")), (2, 2));
        assert_eq!((of("/lake/hot/a"), of("/lake/hot/b/c")), (3, 3));
        assert_eq!(of("/lake/hot/cold/a"), 1);
        let within = Replicas::of_mounts(&table, &path("/lake/hot/cold/a")).unwrap();
        assert_eq!(within, Replicas::all(1));
        let above = Replicas::of_mounts(&table, &NsPath::root()).unwrap();
        assert_eq!(above.of(&path("/other/a")), 4);
    }

    #[test]
    fn mounts_that_say_the_same_are_not_looked_up() {
        let table = table(&[("/lake", "2"), ("/lake/a", "2"), ("/lake/b", "2")]);
        let replicas = Replicas::of_mounts(&table, &path("/lake")).unwrap();
        assert_eq!(replicas, Replicas::all(2));
    }
}
