//! `file://`: names, roots, links, and files that change under a reader.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use tempfile::TempDir;

use super::*;

fn opened(root: &Path, folder: &Path) -> Result<Ufs, UfsError> {
    let context = UfsContext {
        file_roots: vec![root.to_owned()],
        ..context()
    };
    let key = folder.to_str().unwrap().trim_start_matches('/').to_owned();
    Ufs::open_in(spec("file", "", &key, &[]), &context, &|_| None)
}

fn folder() -> (TempDir, PathBuf) {
    let folder = TempDir::new().unwrap();
    let path = folder.path().canonicalize().unwrap();
    (folder, path)
}

fn write(path: &Path, content: &[u8]) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, content).unwrap();
}

#[tokio::test]
async fn names_are_taken_as_they_are() {
    let (_keep, root) = folder();
    for name in NAMES {
        write(&root.join(name), name.as_bytes());
    }
    let ufs = opened(&root, &root).unwrap();
    let mut expected: Vec<_> = NAMES.iter().map(ToString::to_string).collect();
    expected.sort();
    assert_eq!(paths(&ufs, "").await, expected);
    for name in NAMES {
        assert_eq!(read_whole(&ufs, name).await, name.as_bytes());
    }
    assert_eq!(ufs.head("über").await.unwrap(), None);
    assert_eq!(ufs.head("nothing").await.unwrap(), None);
    assert_eq!(ufs.head("50%/below a file").await.unwrap(), None);
    assert_eq!(paths(&ufs, "nothing").await, Vec::<String>::new());
    assert_eq!(paths(&ufs, "50%").await, Vec::<String>::new());
    assert_eq!(ufs.uri_of("a+b"), format!("file://{}/a+b", root.display()));
}

#[tokio::test]
async fn listings_are_in_order_of_whole_paths_and_complete() {
    let (_keep, root) = folder();
    let mut expected: Vec<_> = (0..1500).map(|i| format!("many/{i:04}")).collect();
    expected.extend(["a-b", "a/b/c", "a0"].map(str::to_owned));
    for path in &expected {
        write(&root.join(path), b"x");
    }
    let ufs = opened(&root, &root).unwrap();
    let listed: Vec<_> = ufs.list("").map_ok(|info| info.path).try_collect().await.unwrap();
    expected.sort();
    assert_eq!(listed, expected);
    let top = [("a", false), ("a-b", true), ("a0", true), ("many", false)];
    assert_eq!(names(&ufs, "").await, top.map(|(name, file)| (name.to_owned(), file)));
    // A listing that is dropped early ends its walk, and one that is never polled does not begin it.
    drop(ufs.list(""));
    let first = futures::StreamExt::next(&mut ufs.list("")).await.unwrap().unwrap();
    assert_eq!(first.path, "a-b");
}

#[tokio::test]
async fn a_mount_can_be_a_single_file() {
    let (_keep, root) = folder();
    write(&root.join("f"), b"content");
    let ufs = opened(&root, &root.join("f")).unwrap();
    let info = ufs.head("").await.unwrap().unwrap();
    assert_eq!(ufs.get_range("", &ufs.key_of(&info), 3..7).await.unwrap(), "tent");
}

#[tokio::test]
async fn folders_outside_the_roots_are_refused_whether_they_exist_or_not() {
    let (_keep, root) = folder();
    let inside = root.join("inside");
    fs::create_dir(&inside).unwrap();
    for path in ["/etc", "/nothing/of/that/name", root.to_str().unwrap()] {
        assert_eq!(kind(opened(&inside, Path::new(path))), UfsErrorKind::OutsideRoots);
    }
    assert_eq!(kind(opened(&inside, &inside.join("../x"))), UfsErrorKind::OutsideRoots);
    assert_eq!(kind(opened(&inside, &inside.join("gone"))), UfsErrorKind::NotFound);
    symlink("/etc", inside.join("link")).unwrap();
    assert_eq!(kind(opened(&inside, &inside.join("link"))), UfsErrorKind::OutsideRoots);
    assert_eq!(
        kind(Ufs::open(spec("file", "", "etc", &[]), &context())),
        UfsErrorKind::OutsideRoots
    );
    assert_eq!(
        kind(open(spec("file", "host", "etc", &[]))),
        UfsErrorKind::InvalidOption
    );
}

#[tokio::test]
async fn links_are_followed_within_the_roots_and_not_out_of_them() {
    let (_keep, root) = folder();
    let mount = root.join("mount");
    write(&mount.join("real/f"), b"f");
    write(&root.join("elsewhere/g"), b"g");
    symlink(mount.join("real"), mount.join("inner")).unwrap();
    symlink(root.join("elsewhere"), mount.join("other")).unwrap();
    symlink("/etc/hostname", mount.join("secret")).unwrap();
    symlink("/etc", mount.join("etc")).unwrap();
    symlink(&mount, mount.join("real/loop")).unwrap();
    symlink("nowhere", mount.join("dangling")).unwrap();
    let ufs = opened(&root, &mount).unwrap();
    assert_eq!(paths(&ufs, "").await, ["inner/f", "other/g", "real/f"]);
    assert_eq!(read_whole(&ufs, "other/g").await, "g");
    for path in ["secret", "etc/hostname", "etc"] {
        assert_eq!(kind(ufs.head(path).await), UfsErrorKind::OutsideRoots);
        let key = FileKey {
            uri: "u".into(),
            generation: Generation::parse("etag:x").unwrap(),
            size: 1,
        };
        assert_eq!(kind(ufs.get_range(path, &key, 0..1).await), UfsErrorKind::OutsideRoots);
    }
    assert_eq!(ufs.head("dangling").await.unwrap(), None);
    assert_eq!(ufs.head("../elsewhere/g").await.unwrap(), None);
    assert_eq!(paths(&ufs, "../elsewhere").await, Vec::<String>::new());
}

#[tokio::test]
async fn an_overwrite_of_any_kind_is_stale() {
    let (_keep, root) = folder();
    let file = root.join("f");
    let ufs = opened(&root, &root).unwrap();
    let rewrites: [fn(&Path); 4] = [
        |file| fs::write(file, b"same size!").unwrap(),
        |file| fs::write(file, b"short").unwrap(),
        |file| {
            let next = file.with_extension("next");
            fs::write(&next, b"renamed!!!").unwrap();
            fs::rename(&next, file).unwrap();
        },
        |file| {
            // As `cp -p` does: the time of modification is set back.
            let times = fs::metadata(file).unwrap().modified().unwrap();
            fs::write(file, b"back dated").unwrap();
            fs::File::options()
                .write(true)
                .open(file)
                .unwrap()
                .set_modified(times)
                .unwrap();
        },
    ];
    for rewrite in rewrites {
        write(&file, b"0123456789");
        let info = ufs.head("f").await.unwrap().unwrap();
        let key = ufs.key_of(&info);
        assert_eq!(ufs.get_range("f", &key, 0..10).await.unwrap(), "0123456789");
        rewrite(&file);
        let error = ufs.get_range("f", &key, 0..2).await.unwrap_err();
        assert_eq!(error.kind(), UfsErrorKind::Stale, "{error}");
        assert_ne!(error.generations().unwrap().1.unwrap(), &key.generation);
    }
    let key = ufs.key_of(&ufs.head("f").await.unwrap().unwrap());
    fs::remove_file(&file).unwrap();
    assert_eq!(kind(ufs.get_range("f", &key, 0..2).await), UfsErrorKind::NotFound);
}

/// A writer overwrites in place, without a pause, with content of one size; no read may mix two versions, and reads
/// under one generation must agree for ever.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_storm_of_overwrites_never_gives_a_mixture() {
    const SIZE: usize = 1 << 18;
    let (_keep, root) = folder();
    let file = root.join("f");
    write(&file, &vec![0; SIZE]);
    let stop = Arc::new(AtomicBool::new(false));
    let (stopped, path) = (Arc::clone(&stop), file.clone());
    let writer = std::thread::spawn(move || {
        for version in (1..=250_u8).cycle() {
            if stopped.load(Ordering::Relaxed) {
                return;
            }
            fs::write(&path, vec![version; SIZE]).unwrap();
            // Readers wait until a file has been left alone for a while.
            if version % 5 == 0 {
                std::thread::sleep(Duration::from_millis(250));
            }
        }
    });
    let ufs = opened(&root, &root).unwrap();
    let (mut read, mut stale) = (0, 0);
    let started = std::time::Instant::now();
    // Three seconds, and longer on a machine that is too busy to see both by then.
    while started.elapsed() < Duration::from_secs(if read > 0 && stale > 0 { 3 } else { 60 }) {
        let info = ufs.head("f").await.unwrap().unwrap();
        let half = info.size / 2;
        let key = ufs.key_of(&info);
        let halves = (
            ufs.get_range("f", &key, 0..half).await,
            ufs.get_range("f", &key, half..info.size).await,
        );
        match halves {
            (Ok(a), Ok(b)) => {
                let first = a.first().or(b.first());
                assert!(
                    a.iter().chain(&b).all(|byte| Some(byte) == first),
                    "two versions in one answer"
                );
                read += 1;
            }
            (Err(e), _) | (_, Err(e)) => {
                assert_eq!(e.kind(), UfsErrorKind::Stale, "{e}");
                stale += 1;
            }
        }
    }
    stop.store(true, Ordering::Relaxed);
    writer.join().unwrap();
    assert!(
        read > 0 && stale > 0,
        "{read} read, {stale} stale: the test did not test"
    );
}
