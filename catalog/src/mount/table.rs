//! All mounts together: what stands where.
//!
//! Mounts may nest. The longest mount path that is a prefix of a path decides, whatever the order in which the
//! mounts were made; what the outer storage holds at and below a nested mount's path is shadowed: it is not
//! reachable by path, and its URI is not one of the namespace.
//!
//! A table is never changed: a change makes a new one, so that a request sees one table from its start to its
//! end.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;

use super::{Mount, MountError};
use crate::path::NsPath;
use crate::uri::UfsUri;

/// The most mounts that a table holds. A namespace path is looked up in steps that grow with its own depth,
/// a URI in steps that grow with this number.
pub const MAX_MOUNTS: usize = 10_000;

/// An immutable set of mounts. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct MountTable {
    mounts: Arc<BTreeMap<NsPath, Arc<Mount>>>,
}

/// A namespace path, taken apart.
#[derive(Debug, Clone)]
pub struct Resolved {
    /// The mount that the path lies in.
    pub mount: Arc<Mount>,
    /// The rest of the path below the mount, without a leading slash; empty for the mount itself.
    pub relative: String,
}

impl MountTable {
    /// All mounts, in the order of their paths.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Mount>> {
        self.mounts.values()
    }

    /// How many mounts there are.
    pub fn len(&self) -> usize {
        self.mounts.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.mounts.is_empty()
    }

    /// The mount at exactly this path.
    pub fn get(&self, path: &NsPath) -> Option<&Arc<Mount>> {
        self.mounts.get(path)
    }

    /// The mount that a path lies in, and what of the path is left below it; `None` where nothing is mounted.
    pub fn resolve(&self, path: &NsPath) -> Option<Resolved> {
        let mount = path.ancestors().find_map(|ancestor| self.mounts.get(ancestor))?;
        let relative = path.strip_prefix(&mount.path)?.to_owned();
        Some(Resolved {
            mount: Arc::clone(mount),
            relative,
        })
    }

    /// The namespace path at which a URI's object is seen; `None` when it is not below any mount, or only at
    /// paths where a nested mount shadows it.
    ///
    /// Where it is seen at several paths, the mount with the longest URI is taken, then the first path.
    pub fn resolve_uri(&self, uri: &UfsUri) -> Option<NsPath> {
        let mut mounts: Vec<_> = self
            .iter()
            .filter(|mount| uri.strip_prefix(&mount.uri).is_some())
            .collect();
        // The sort is stable, so mounts of one URI stay in the order of their paths.
        mounts.sort_by_key(|mount| std::cmp::Reverse(mount.uri.as_str().len()));
        mounts.into_iter().find_map(|mount| {
            let path = mount.path.join(uri.strip_prefix(&mount.uri)?).ok()?;
            let seen = self.resolve(&path)?;
            Arc::ptr_eq(&seen.mount, mount).then_some(path)
        })
    }

    /// The names right below a path that exist because a mount stands there or further down.
    pub fn children(&self, path: &NsPath) -> BTreeSet<String> {
        let below = self.walk_below(path).filter_map(|mount| mount.path.strip_prefix(path));
        below
            .filter_map(|relative| relative.split('/').next())
            .map(str::to_owned)
            .collect()
    }

    /// The mounts strictly below a path, in the order of their paths.
    pub fn below(&self, path: &NsPath) -> Vec<Arc<Mount>> {
        self.walk_below(path).cloned().collect()
    }

    /// The table with one more mount.
    ///
    /// # Errors
    /// [`MountError::AlreadyMounted`], [`MountError::TooManyMounts`], and what [`Mount::new`] refuses.
    pub fn with(&self, mount: Mount) -> Result<Self, MountError> {
        mount.validate()?;
        if self.mounts.contains_key(&mount.path) {
            return Err(MountError::AlreadyMounted { path: mount.path });
        }
        if self.len() >= MAX_MOUNTS {
            return Err(MountError::TooManyMounts);
        }
        let mut mounts = BTreeMap::clone(&self.mounts);
        mounts.insert(mount.path.clone(), Arc::new(mount));
        Ok(Self {
            mounts: Arc::new(mounts),
        })
    }

    /// The table with this mount in the place of the one at its path.
    ///
    /// # Errors
    /// [`MountError::NotMounted`], and what [`Mount::new`] refuses.
    pub fn replacing(&self, mount: Mount) -> Result<Self, MountError> {
        mount.validate()?;
        if !self.mounts.contains_key(&mount.path) {
            return Err(MountError::NotMounted { path: mount.path });
        }
        let mut mounts = BTreeMap::clone(&self.mounts);
        mounts.insert(mount.path.clone(), Arc::new(mount));
        Ok(Self {
            mounts: Arc::new(mounts),
        })
    }

    /// The table without the mount at a path.
    ///
    /// # Errors
    /// [`MountError::NotMounted`]; and [`MountError::HasMountsBelow`], since a mount's removal must not
    /// move what others see to another place.
    pub fn without(&self, path: &NsPath) -> Result<Self, MountError> {
        if !self.mounts.contains_key(path) {
            return Err(MountError::NotMounted { path: path.clone() });
        }
        let paths: Vec<_> = self.walk_below(path).map(|mount| mount.path.clone()).collect();
        if !paths.is_empty() {
            return Err(MountError::HasMountsBelow {
                path: path.clone(),
                paths,
            });
        }
        let mut mounts = BTreeMap::clone(&self.mounts);
        mounts.remove(path);
        Ok(Self {
            mounts: Arc::new(mounts),
        })
    }

    /// What is below a path stands together, after all that begins alike and sorts before a slash (`/a-b`).
    fn walk_below(&self, path: &NsPath) -> impl Iterator<Item = &Arc<Mount>> {
        let prefix = if path.is_root() {
            "/".to_owned()
        } else {
            format!("{path}/")
        };
        let from = (Bound::Excluded(prefix.as_str()), Bound::Unbounded);
        let from = self.mounts.range::<str, _>(from);
        from.map(|(_, mount)| mount)
            .take_while(move |mount| mount.path.as_str().starts_with(&prefix))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn path(text: &str) -> NsPath {
        NsPath::parse(text).unwrap()
    }

    fn mount(path: &str, uri: &str) -> Mount {
        Mount::new(self::path(path), UfsUri::parse(uri).unwrap(), BTreeMap::new(), false).unwrap()
    }

    fn table(mounts: &[(&str, &str)]) -> MountTable {
        mounts.iter().fold(MountTable::default(), |table, (path, uri)| {
            table.with(mount(path, uri)).unwrap()
        })
    }

    fn resolved(table: &MountTable, text: &str) -> Option<(String, String)> {
        table
            .resolve(&path(text))
            .map(|found| (found.mount.path.to_string(), found.relative))
    }

    fn uri_to_path(table: &MountTable, text: &str) -> Option<String> {
        table
            .resolve_uri(&UfsUri::parse(text).unwrap())
            .map(|path| path.to_string())
    }

    fn pair(mount: &str, relative: &str) -> Option<(String, String)> {
        Some((mount.to_owned(), relative.to_owned()))
    }

    #[test]
    fn the_longest_mount_path_decides() {
        let table = table(&[
            ("/lake", "s3://lake"),
            ("/lake/a/b", "s3://nested"),
            ("/lake/ab", "s3://other"),
        ]);
        assert_eq!(resolved(&table, "/lake"), pair("/lake", ""));
        assert_eq!(resolved(&table, "/lake/a"), pair("/lake", "a"));
        assert_eq!(resolved(&table, "/lake/a/b"), pair("/lake/a/b", ""));
        assert_eq!(resolved(&table, "/lake/a/b/c/d"), pair("/lake/a/b", "c/d"));
        assert_eq!(resolved(&table, "/lake/a/bc"), pair("/lake", "a/bc"));
        assert_eq!(resolved(&table, "/lake/ab/x"), pair("/lake/ab", "x"));
        assert_eq!(resolved(&table, "/"), None);
        assert_eq!(resolved(&table, "/lakes"), None);
    }

    #[test]
    fn the_root_can_be_mounted() {
        let table = table(&[("/", "s3://all"), ("/b", "s3://b")]);
        assert_eq!(resolved(&table, "/"), pair("/", ""));
        assert_eq!(resolved(&table, "/a/x"), pair("/", "a/x"));
        assert_eq!(resolved(&table, "/b/x"), pair("/b", "x"));
        assert_eq!(table.children(&NsPath::root()), BTreeSet::from(["b".to_owned()]));
        assert_eq!(table.below(&NsPath::root()).len(), 1);
    }

    #[test]
    fn an_outer_mount_may_come_after_the_nested_one() {
        let table = table(&[("/a/b", "s3://inner"), ("/a", "s3://outer")]);
        assert_eq!(resolved(&table, "/a/b/x"), pair("/a/b", "x"));
        assert_eq!(resolved(&table, "/a/x"), pair("/a", "x"));
    }

    #[test]
    fn a_mounted_uri_is_as_good_as_its_path() {
        let table = table(&[
            ("/lake", "s3://lake/data"),
            ("/deep", "s3://lake/data/deep"),
            ("/files", "file:///srv"),
        ]);
        assert_eq!(uri_to_path(&table, "s3://lake/data").as_deref(), Some("/lake"));
        assert_eq!(
            uri_to_path(&table, "s3a://lake//data/x/y/").as_deref(),
            Some("/lake/x/y")
        );
        assert_eq!(uri_to_path(&table, "s3://lake/data/deep/y").as_deref(), Some("/deep/y"));
        assert_eq!(uri_to_path(&table, "file:///srv/a b").as_deref(), Some("/files/a b"));
        assert_eq!(uri_to_path(&table, "s3://lake"), None);
        assert_eq!(uri_to_path(&table, "s3://lake/database"), None);
    }

    #[test]
    fn a_shadowed_uri_is_not_of_the_namespace() {
        let one = table(&[("/lake", "s3://lake"), ("/lake/x", "s3://nested")]);
        assert_eq!(uri_to_path(&one, "s3://lake/x"), None);
        assert_eq!(uri_to_path(&one, "s3://lake/x/file"), None);
        assert_eq!(uri_to_path(&one, "s3://lake/xy").as_deref(), Some("/lake/xy"));
        assert_eq!(uri_to_path(&one, "s3://nested/file").as_deref(), Some("/lake/x/file"));
    }

    #[test]
    fn what_is_shadowed_at_one_path_may_be_seen_at_another() {
        let two = table(&[
            ("/lake", "s3://lake"),
            ("/lake/x", "s3://nested"),
            ("/raw", "s3://lake"),
        ]);
        assert_eq!(uri_to_path(&two, "s3://lake/y").as_deref(), Some("/lake/y"));
        assert_eq!(uri_to_path(&two, "s3://lake/x/file").as_deref(), Some("/raw/x/file"));
    }

    #[test]
    fn children_are_mounts_and_the_folders_above_them() {
        let table = table(&[
            ("/a-b", "s3://1"),
            ("/a/b/c", "s3://2"),
            ("/a/d", "s3://3"),
            ("/z", "s3://4"),
        ]);
        let names = |text| table.children(&path(text)).into_iter().collect::<Vec<_>>();
        assert_eq!(names("/"), ["a", "a-b", "z"]);
        assert_eq!(names("/a"), ["b", "d"]);
        assert_eq!(names("/a/b"), ["c"]);
        assert!(names("/a/b/c").is_empty() && names("/a-").is_empty() && names("/none").is_empty());
        let below: Vec<_> = table
            .below(&path("/a"))
            .iter()
            .map(|mount| mount.path.to_string())
            .collect();
        assert_eq!(below, ["/a/b/c", "/a/d"]);
        assert!(table.below(&path("/z")).is_empty());
    }

    #[test]
    fn changes_make_new_tables_and_are_refused_where_they_would_hurt() {
        let before = table(&[("/a", "s3://1"), ("/a/b", "s3://2"), ("/a/c", "s3://3")]);
        let error = before.with(mount("/a", "s3://4")).unwrap_err();
        assert!(matches!(error, MountError::AlreadyMounted { path } if path.as_str() == "/a"));
        let error = before.without(&path("/x")).unwrap_err();
        assert!(matches!(error, MountError::NotMounted { path } if path.as_str() == "/x"));
        let error = before.without(&path("/a")).unwrap_err();
        assert!(matches!(error, MountError::HasMountsBelow { paths, .. } if paths == [path("/a/b"), path("/a/c")]));
        let after = before
            .without(&path("/a/b"))
            .unwrap()
            .without(&path("/a/c"))
            .unwrap()
            .without(&path("/a"))
            .unwrap();
        assert!(after.is_empty());
        assert_eq!(before.len(), 3);
    }

    #[test]
    fn their_number_is_bounded() {
        let mounts = (0..MAX_MOUNTS).map(|i| Arc::new(mount(&format!("/{i}"), "s3://b")));
        let full = MountTable {
            mounts: Arc::new(mounts.map(|mount| (mount.path.clone(), mount)).collect()),
        };
        assert!(matches!(
            full.with(mount("/one-more", "s3://b")),
            Err(MountError::TooManyMounts)
        ));
    }

    /// Paths over an alphabet so small that prefixes, nesting and shadowing are common.
    fn small_path() -> impl Strategy<Value = String> {
        prop::collection::vec(prop::sample::select(vec!["a", "b", "a-"]), 0..4)
            .prop_map(|names| format!("/{}", names.join("/")))
    }

    fn small_table() -> impl Strategy<Value = MountTable> {
        let choice = (small_path(), prop::sample::select(vec!["s3://x", "s3://x/a", "s3://y"]));
        prop::collection::vec(choice, 0..6).prop_map(|mounts| {
            let add = |table: MountTable, (path, uri): (String, &str)| table.with(mount(&path, uri)).unwrap_or(table);
            mounts.into_iter().fold(MountTable::default(), add)
        })
    }

    proptest! {
        #[test]
        fn resolve_is_the_longest_prefix(table in small_table(), text in small_path()) {
            let path = path(&text);
            let longest = table.iter().filter(|m| path.strip_prefix(&m.path).is_some()).max_by_key(|m| m.path.segments().count());
            let found = table.resolve(&path);
            prop_assert_eq!(found.as_ref().map(|found| &found.mount), longest);
            if let Some(found) = found {
                prop_assert_eq!(found.mount.path.join(&found.relative), Ok(path));
            }
        }

        #[test]
        fn below_and_children_agree_with_a_plain_search(table in small_table(), text in small_path()) {
            let path = path(&text);
            let plain: Vec<_> = table.iter().filter(|m| m.path != path && m.path.strip_prefix(&path).is_some()).cloned().collect();
            let children: BTreeSet<_> = plain.iter().map(|m| m.path.segments().nth(path.segments().count()).unwrap().to_owned()).collect();
            prop_assert_eq!(table.below(&path), plain);
            prop_assert_eq!(table.children(&path), children);
        }

        #[test]
        fn a_uri_is_found_exactly_when_some_path_shows_it(table in small_table(), key in small_path()) {
            let uri = UfsUri::parse(&format!("s3://x{key}")).unwrap();
            let shown: Vec<_> = table
                .iter()
                .filter_map(|m| Some((m, m.path.join(uri.strip_prefix(&m.uri)?).unwrap())))
                .filter(|(m, path)| Arc::ptr_eq(&table.resolve(path).unwrap().mount, m))
                .map(|(_, path)| path)
                .collect();
            match table.resolve_uri(&uri) {
                Some(path) => prop_assert!(shown.contains(&path)),
                None => prop_assert!(shown.is_empty(), "{uri} is shown at {shown:?}"),
            }
        }

        #[test]
        fn without_undoes_with(table in small_table(), text in small_path()) {
            if let Ok(more) = table.with(mount(&text, "s3://new")) && let Ok(less) = more.without(&path(&text)) {
                let paths = |table: &MountTable| table.iter().cloned().collect::<Vec<_>>();
                prop_assert_eq!(paths(&less), paths(&table));
            }
        }
    }
}
