//! Other processes: one that wants the same folder, one that is killed, and a disk of 16 MiB.
//!
//! A child process is this test program, told by its environment to do what a child does.

use std::io::Write;
use std::process::{Child, Command, ExitStatus, Stdio};

use super::super::FolderHealth;
use super::*;

const ROLE: &str = "JETBRIDGE_DISK_TEST_CHILD";
const FOLDER: &str = "JETBRIDGE_DISK_TEST_FOLDER";
/// Pages of a run that a killed child puts.
const RUN: u64 = 7;
/// Pages of a file that it fills.
const FILE_PAGES: u64 = 40;
/// What a child says at least before it is killed: of some ten operations.
const LEAST_LOG_BYTES: u64 = 140;

fn child(role: &str, folder: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "--nocapture",
            &format!("{}::in_a_child", module_path!().split_once("::").unwrap().1),
        ])
        .env(ROLE, role)
        .env(FOLDER, folder)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

fn config(folder: &Path) -> DiskConfig {
    DiskConfig {
        folders: vec![FolderConfig {
            path: folder.join("cache"),
            capacity_bytes: 1 << 40,
        }],
        page_size_bytes: PAGE,
    }
}

/// What the child does; without a role in the environment, there is nothing to do.
#[test]
fn in_a_child() {
    let (Ok(role), Ok(folder)) = (std::env::var(ROLE), std::env::var(FOLDER)) else {
        return;
    };
    match role.split_once(':').unwrap_or((&role, "")) {
        ("open", _) => match DiskPages::open(&config(folder.as_ref())) {
            Err(error) => panic!("{error}"),
            Ok(_) => println!("opened"),
        },
        ("fill", seed) => fill(folder.as_ref(), seed.parse().unwrap()),
        (role, _) => panic!("a child of no role: {role}"),
    }
}

/// Puts, and says so, until it is killed. Some pages it removes, and says so before it does.
fn fill(folder: &Path, seed: u64) {
    let store = DiskPages::open(&config(folder)).unwrap();
    let log = std::fs::OpenOptions::new()
        .append(true)
        .create(true)
        .open(folder.join("log"))
        .unwrap();
    let mut log = io::LineWriter::new(log);
    let mut random = Random(seed);
    loop {
        let (n, first) = (random.next(200), random.next(FILE_PAGES));
        if random.next(20) == 0 {
            writeln!(log, "remove {n} 0 {FILE_PAGES}").unwrap();
            store.remove_file(file(n).id());
        } else {
            put_pages(&store, &file(n), first..first + RUN);
            writeln!(log, "put {n} {first} {}", (first + RUN).min(FILE_PAGES)).unwrap();
        }
    }
}

fn file(n: u64) -> FileKey {
    key(&format!("k{n}"), FILE_PAGES * PAGE - n)
}

/// The pages that were put, by the child's own words, and not removed later.
fn put_by_log(folder: &Path) -> BTreeSet<(u64, u64)> {
    let mut put = BTreeSet::new();
    // The last line may be cut short.
    let text = std::fs::read_to_string(folder.join("log")).unwrap_or_default();
    for line in text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n')) {
        let words: Vec<_> = line.split(' ').collect();
        let number = |at: usize| words[at].parse::<u64>().unwrap();
        for page in number(2)..number(3) {
            match words[0] {
                "put" => put.insert((number(1), page)),
                _ => put.remove(&(number(1), page)),
            };
        }
    }
    put
}

#[test]
fn what_a_killed_process_put_is_served_by_the_next() {
    let dir = tempfile::tempdir().unwrap();
    let mut random = Random(seed("kill"));
    let (mut expected, mut found) = (0, 0);
    for round in 0..20 {
        let mut killed = child(&format!("fill:{}", random.next(1 << 40)), dir.path());
        let log = dir.path().join("log");
        let length = || std::fs::metadata(&log).map_or(0, |log| log.len());
        let before = length();
        // However slow the disk is, it has put some before it is killed.
        while length() < before + LEAST_LOG_BYTES {
            assert_eq!(killed.try_wait().unwrap(), None, "the child ended by itself");
            std::thread::sleep(Duration::from_millis(1));
        }
        std::thread::sleep(Duration::from_micros(random.next(60_000)));
        killed.kill().unwrap();
        killed.wait().unwrap();
        let put = put_by_log(dir.path());
        let store = DiskPages::open(&config(dir.path())).unwrap();
        for n in 0..200 {
            let served = served(&store, &file(n), 0..FILE_PAGES);
            let of_file: BTreeSet<_> = put.range((n, 0)..(n + 1, 0)).map(|(_, page)| *page).collect();
            expected += of_file.len();
            found += of_file.intersection(&served).count();
        }
        assert_eq!(checksum_failures(&store), 0, "round {round}");
        check_account(&store);
    }
    println!("{found} of {expected} pages served after 20 kills");
    assert!(expected > 2000, "only {expected} pages were put");
    assert_eq!(found, expected);
}

/// FORMAT: "One process at a time has a folder. A second one is refused with an error that names the folder."
#[test]
fn a_second_process_on_a_folder_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let status = |child: Child| -> (ExitStatus, String) {
        let output = child.wait_with_output().unwrap();
        (output.status, String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let store = DiskPages::open(&config(dir.path())).unwrap();
    let (code, text) = status(child("open", dir.path()));
    let folder = dir.path().canonicalize().unwrap().join("cache");
    let expected = format!("the cache folder {} is in use by another process", folder.display());
    assert!(!code.success() && text.contains(&expected), "{text}");
    // A second store of the same process is refused as well.
    assert!(matches!(
        DiskPages::open(&config(dir.path())),
        Err(DiskError::Locked { .. })
    ));
    drop(store);
    assert!(status(child("open", dir.path())).0.success());
}

/// A mounted tmpfs, unmounted at the end.
struct Mounted(PathBuf);

impl Mounted {
    /// `None` where this process may not mount.
    fn new(at: &Path, options: &str) -> Option<Self> {
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", options, "tmpfs"])
            .arg(at)
            .output();
        mounted
            .is_ok_and(|output| output.status.success())
            .then(|| Self(at.to_owned()))
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg(&self.0).status();
        assert!(unmounted.is_ok_and(|status| status.success()) || std::thread::panicking());
    }
}

#[test]
fn a_disk_smaller_than_the_capacity_is_filled_and_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let Some(mounted) = Mounted::new(dir.path(), "size=16m") else {
        println!("not run: this process may not mount a tmpfs");
        return;
    };
    let recorder = Counters::default();
    let files: Vec<_> = (0..60).map(|n| key(&format!("f{n}"), 300 * PAGE)).collect();
    let put_all = |store: &DiskPages| {
        for file in &files {
            (0..300)
                .step_by(50)
                .for_each(|first| put_pages(store, file, first..first + 50));
            assert_eq!(store.folders()[0].health, FolderHealth::Healthy);
        }
        let hits: usize = files.iter().map(|file| served(store, file, 0..300).len()).sum();
        assert!(hits > 3000, "{hits} pages are served of a disk for 4096");
        check_account(store);
        assert_eq!(checksum_failures(store), 0);
    };
    metrics::with_local_recorder(&recorder, || {
        let store = DiskPages::open(&config(&mounted.0)).unwrap();
        put_all(&store);
        let full = recorder.get("jetbridge_cache_folder_full_total{folder=0}");
        assert!((1..20).contains(&full), "{full} writes found the disk full");
        assert_eq!(recorder.get("jetbridge_cache_folder_errors_total{folder=0}"), 0);
        drop(store);
        // Something else takes what is left: the store opens, serves what it has, and replaces it.
        let mut other = File::create(mounted.0.join("other")).unwrap();
        while other.write_all(&[1; 4096]).is_ok() {}
        let store = DiskPages::open(&config(&mounted.0)).unwrap();
        put_all(&store);
    });
    // Mounted read-only, it is no cache folder.
    let again = Command::new("mount")
        .args(["-o", "remount,ro"])
        .arg(&mounted.0)
        .status()
        .unwrap();
    assert!(again.success());
    let Err(error) = DiskPages::open(&config(&mounted.0)) else {
        panic!("it opened");
    };
    assert!(
        matches!(&error, DiskError::Unusable { path, .. } if path.ends_with("cache")),
        "{error}"
    );
}

#[test]
fn a_disk_that_is_unmounted_is_out_and_its_mount_point_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("cache");
    std::fs::create_dir(&folder).unwrap();
    let Some(mounted) = Mounted::new(&folder, "size=16m") else {
        println!("not run: this process may not mount a tmpfs");
        return;
    };
    let clock = Clock::new();
    let mut rig = Rig::new(MIB);
    rig.config = config(dir.path());
    let store = rig.open_on(Watched::new(|_| Ok(())), &clock);
    put_pages(&store, &file(0), 0..9);
    // Open files keep a disk mounted, as a lock does; a lazy unmount takes the name away.
    let lazily = Command::new("umount").arg("-l").arg(&mounted.0).status().unwrap();
    assert!(lazily.success());
    std::mem::forget(mounted);
    store.maintain();
    assert_eq!(store.folders()[0].health, FolderHealth::Out);
    for _ in 0..3 {
        clock.turn(31);
        store.maintain();
        put_pages(&store, &file(1), 0..9);
    }
    assert_eq!(store.folders()[0].health, FolderHealth::Out);
    assert_eq!(
        std::fs::read_dir(&folder).unwrap().count(),
        0,
        "the mount point was written to"
    );
}
