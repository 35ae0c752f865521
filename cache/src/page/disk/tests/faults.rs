//! Disks that fail, fill up, or go away.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use rustix::io::Errno;

use super::super::FolderHealth;
use super::*;
use crate::retention::Retention;

/// A file system that fails writes or reads at will.
#[derive(Clone, Default)]
struct Faults {
    writes: Arc<Mutex<Option<Errno>>>,
    reads: Arc<Mutex<Option<Errno>>>,
    gate: Arc<Gate>,
}

/// Holds calls up while it is shut, and counts them.
#[derive(Default)]
struct Gate {
    shut: AtomicBool,
    waiting: AtomicU64,
}

impl Gate {
    fn pass(&self) {
        if self.shut.load(Ordering::SeqCst) {
            self.waiting.fetch_add(1, Ordering::SeqCst);
            while self.shut.load(Ordering::SeqCst) {
                std::thread::yield_now();
            }
        }
    }
}

impl Faults {
    fn fs(&self, folder: &'static str) -> Watched {
        let faults = self.clone();
        Watched::new(move |call| {
            let failing = match call {
                Call::Create(path) if path.to_string_lossy().contains(folder) => *faults.writes.lock(),
                Call::WriteAt(..) | Call::Punch(..) => *faults.writes.lock(),
                Call::ReadAt => *faults.reads.lock(),
                _ => None,
            };
            if matches!(call, Call::ReadAt) {
                faults.gate.pass();
            }
            failing.map_or(Ok(()), |failing| Err(errno(failing)))
        })
    }
}

fn health(store: &DiskPages) -> FolderHealth {
    store.folders()[0].health
}

#[test]
fn a_disk_that_fails_writes_is_unstable_then_healthy_by_sixty_good_operations() {
    let rig = Rig::new(64 * MIB);
    let (faults, clock) = (Faults::default(), Clock::new());
    let store = rig.open_on(faults.fs("folder-0"), &clock);
    let (a, b) = (key("a", 60 * PAGE), key("b", 60 * PAGE));
    put_pages(&store, &a, 0..60);
    *faults.writes.lock() = Some(Errno::IO);
    let recorder = Counters::default();
    metrics::with_local_recorder(&recorder, || {
        for n in 0..10 {
            assert_eq!(health(&store) == FolderHealth::Unstable, n >= 3);
            put_pages(&store, &b, n..n + 1);
        }
    });
    assert_eq!(recorder.get("jetbridge_cache_folder_errors_total{folder=0}"), 3);
    assert!(store.folders()[0].error.as_ref().unwrap().contains("os error 5"));
    check_account(&store);
    *faults.writes.lock() = None;
    put_pages(&store, &b, 0..9);
    assert_eq!(store.held(b.id()).pages, 0, "an unstable folder is not written");
    for n in 0..60 {
        assert_eq!(health(&store), FolderHealth::Unstable, "after {n} reads");
        assert_eq!(served(&store, &a, 0..60).len(), 60);
    }
    assert_eq!(
        (health(&store), &store.folders()[0].error),
        (FolderHealth::Healthy, &None)
    );
    put_pages(&store, &b, 0..9);
    assert_eq!(served(&store, &b, 0..60).len(), 9);
    check_account(&store);
}

#[test]
fn an_unstable_folder_that_nobody_reads_is_probed() {
    let rig = Rig::new(64 * MIB);
    let (faults, clock) = (Faults::default(), Clock::new());
    let store = rig.open_on(faults.fs("folder-0"), &clock);
    *faults.writes.lock() = Some(Errno::IO);
    (0..3).for_each(|_| put_pages(&store, &key("a", PAGE), 0..1));
    assert_eq!(health(&store), FolderHealth::Unstable);
    *faults.writes.lock() = None;
    for _ in 0..59 {
        clock.turn(1);
        store.maintain();
        store.maintain();
    }
    assert_eq!(health(&store), FolderHealth::Unstable);
    clock.turn(1);
    store.maintain();
    assert_eq!(health(&store), FolderHealth::Healthy);
}

#[test]
fn reads_that_fail_are_misses_and_the_folder_is_out_after_half_an_hour_and_comes_back() {
    let rig = Rig::new(64 * MIB);
    let (faults, clock) = (Faults::default(), Clock::new());
    let store = rig.open_on(faults.fs("folder-0"), &clock);
    let files: Vec<_> = (0..20).map(|n| key(&format!("f{n}"), 20 * PAGE)).collect();
    files.iter().for_each(|file| put_pages(&store, file, 0..20));
    *faults.reads.lock() = Some(Errno::IO);
    for file in &files {
        assert_eq!(served(&store, file, 0..20).len(), 0);
    }
    assert_eq!(health(&store), FolderHealth::Unstable);
    check_account(&store);
    clock.turn(1799);
    store.maintain();
    assert_eq!(health(&store), FolderHealth::Unstable);
    clock.turn(1);
    store.maintain();
    assert_eq!(health(&store), FolderHealth::Out);
    assert_eq!((store.bytes(), store.files().len()), (0, 0));
    clock.turn(31);
    store.maintain();
    assert_eq!(health(&store), FolderHealth::Out);
    *faults.reads.lock() = None;
    clock.turn(29);
    store.maintain();
    assert_eq!(health(&store), FolderHealth::Out);
    clock.turn(1);
    store.maintain();
    assert_eq!(health(&store), FolderHealth::Healthy);
    // All but what the three failed reads dropped.
    let hits = files
        .iter()
        .filter(|file| served(&store, file, 0..20).len() == 20)
        .count();
    assert!(hits >= 17, "{hits}");
    check_account(&store);
}

#[test]
fn an_unstable_folder_is_read_by_ten_at_a_time() {
    let rig = Rig::new(64 * MIB);
    let (faults, clock) = (Faults::default(), Clock::new());
    let store = rig.open_on(faults.fs("folder-0"), &clock);
    let file = key("a", PAGE);
    put_pages(&store, &file, 0..1);
    *faults.writes.lock() = Some(Errno::IO);
    (0..3).for_each(|_| put_pages(&store, &key("b", PAGE), 0..1));
    faults.gate.shut.store(true, Ordering::SeqCst);
    let hits = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..10 {
            scope.spawn(|| hits.fetch_add(to_u64(served(&store, &file, 0..1).len()), Ordering::SeqCst));
        }
        while faults.gate.waiting.load(Ordering::SeqCst) < 10 {
            std::thread::yield_now();
        }
        assert_eq!(served(&store, &file, 0..1).len(), 0, "an eleventh reader");
        faults.gate.shut.store(false, Ordering::SeqCst);
    });
    assert_eq!(hits.load(Ordering::SeqCst), 10);
    assert_eq!(served(&store, &file, 0..1).len(), 1);
}

#[test]
fn a_full_disk_bounds_the_capacity_for_a_while_and_is_no_failing_one() {
    let rig = Rig::new(64 * MIB);
    let (faults, clock) = (Faults::default(), Clock::new());
    let store = rig.open_on(faults.fs("folder-0"), &clock);
    let files: Vec<_> = (0..9).map(|n| key(&format!("f{n}"), 64 * PAGE)).collect();
    files[..4].iter().for_each(|file| put_pages(&store, file, 0..64));
    let held = store.bytes();
    *faults.writes.lock() = Some(Errno::NOSPC);
    put_pages(&store, &files[4], 0..64);
    assert_eq!((store.held(files[4].id()).pages, store.bytes()), (0, held));
    assert_eq!(health(&store), FolderHealth::Healthy);
    assert_eq!(store.folders()[0].capacity_bytes, 64 * MIB);
    *faults.writes.lock() = None;
    files[5..8].iter().for_each(|file| put_pages(&store, file, 0..64));
    assert!(store.bytes() <= held && store.bytes() > held / 2, "{}", store.bytes());
    check_account(&store);
    clock.turn(601);
    put_pages(&store, &files[8], 0..64);
    put_pages(&store, &files[0], 0..64);
    assert!(store.bytes() > held);
    check_account(&store);
}

#[test]
fn a_read_only_folder_is_an_error_that_names_it() {
    let rig = Rig::new(64 * MIB);
    drop(rig.open());
    let watch = Watched::new(|call| match call {
        Call::Create(..) => Err(errno(Errno::ROFS)),
        _ => Ok(()),
    });
    let outside = Outside {
        fs: Arc::new(watch),
        clock: Arc::new(Instant::now),
        max_open_files: 4,
    };
    let Err(error) = DiskPages::open_with(&rig.config, outside) else {
        panic!("it opened");
    };
    assert!(matches!(error, DiskError::Unusable { .. }));
    assert!(error.to_string().contains(rig.folder().to_str().unwrap()), "{error}");
}

#[test]
fn a_folder_removed_under_a_live_store_is_out_and_comes_back_empty() {
    let rig = Rig::with_folders(&[64 * MIB]);
    let clock = Clock::new();
    let store = rig.open_on(Watched::new(|_| Ok(())), &clock);
    let files: Vec<_> = (0..30).map(|n| key(&format!("f{n}"), 20 * PAGE)).collect();
    files[..10].iter().for_each(|file| put_pages(&store, file, 0..20));
    std::fs::remove_dir_all(rig.folder()).unwrap();
    files.iter().for_each(|file| drop(served(&store, file, 0..20)));
    files.iter().for_each(|file| put_pages(&store, file, 0..20));
    assert_eq!(health(&store), FolderHealth::Out);
    assert_eq!((store.bytes(), store.files().len()), (0, 0));
    let asked = |clock: &Clock| {
        clock.turn(31);
        store.maintain();
        health(&store)
    };
    assert_eq!(asked(&clock), FolderHealth::Out, "it is not made anew");
    std::fs::create_dir(rig.folder()).unwrap();
    assert_eq!(asked(&clock), FolderHealth::Healthy);
    files.iter().for_each(|file| put_pages(&store, file, 0..20));
    assert!(files.iter().all(|file| served(&store, file, 0..20).len() == 20));
    check_account(&store);
    // Moved away and back, it has what it had.
    let away = rig.dir.path().join("away");
    std::fs::rename(rig.folder(), &away).unwrap();
    store.maintain();
    assert_eq!(health(&store), FolderHealth::Out);
    std::fs::create_dir(rig.folder()).unwrap();
    std::fs::write(rig.folder().join("foreign"), "x").unwrap();
    assert_eq!(asked(&clock), FolderHealth::Out, "it is somebody else's");
    std::fs::remove_dir_all(rig.folder()).unwrap();
    std::fs::rename(&away, rig.folder()).unwrap();
    assert_eq!(asked(&clock), FolderHealth::Healthy);
    assert!(files.iter().all(|file| served(&store, file, 0..20).len() == 20));
    check_account(&store);
}

/// What a folder had when it went counts in its mount's quota when it is back.
#[test]
fn a_folder_that_comes_back_is_within_the_quotas() {
    let rig = Rig::new(64 * MIB);
    let clock = Clock::new();
    let store = rig.open_on(Watched::new(|_| Ok(())), &clock);
    let files: Vec<_> = (0..10).map(|n| key(&format!("f{n}"), 20 * PAGE)).collect();
    files.iter().for_each(|file| put_pages(&store, file, 0..20));
    let away = rig.dir.path().join("away");
    std::fs::rename(rig.folder(), &away).unwrap();
    store.maintain();
    assert_eq!(health(&store), FolderHealth::Out);
    let quota_bytes = 70 * PAGE;
    store.retentions.set(vec![Retention {
        uri: "s3://bucket".to_owned(),
        quota_bytes: Some(quota_bytes),
        ..Retention::default()
    }]);
    store.rescope();
    std::fs::rename(&away, rig.folder()).unwrap();
    clock.turn(31);
    store.maintain();
    assert_eq!(health(&store), FolderHealth::Healthy);
    let held_bytes: u64 = store.files().iter().map(|file| file.held.bytes).sum();
    assert!(
        held_bytes > 0 && held_bytes <= quota_bytes,
        "{held_bytes} bytes under a quota of {quota_bytes}"
    );
    check_account(&store);
}

/// It would take from the account of what the folder has when it is back what it had before.
#[test]
fn a_folder_is_not_taken_back_while_a_removal_hangs_in_it() {
    let rig = Rig::new(64 * MIB);
    let (gate, clock) = (Arc::new(Gate::default()), Clock::new());
    let of_files = Arc::clone(&gate);
    let watch = Watched::new(move |call| {
        if matches!(call, Call::Remove(path) if path.extension().is_some_and(|extension| extension == "pages")) {
            of_files.pass();
        }
        Ok(())
    });
    let store = rig.open_on(watch, &clock);
    let (file, away) = (key("a", 20 * PAGE), rig.dir.path().join("away"));
    put_pages(&store, &file, 0..20);
    gate.shut.store(true, Ordering::SeqCst);
    std::thread::scope(|scope| {
        let removal = scope.spawn(|| store.remove_file(file.id()));
        while gate.waiting.load(Ordering::SeqCst) == 0 {
            std::thread::yield_now();
        }
        std::fs::rename(rig.folder(), &away).unwrap();
        store.maintain();
        std::fs::rename(&away, rig.folder()).unwrap();
        clock.turn(31);
        store.maintain();
        let while_it_hangs = health(&store);
        // Whatever comes of it, the removal must end.
        gate.shut.store(false, Ordering::SeqCst);
        assert_eq!(removal.join().unwrap(), 20 * PAGE);
        assert_eq!(while_it_hangs, FolderHealth::Out);
    });
    clock.turn(31);
    store.maintain();
    assert_eq!(health(&store), FolderHealth::Healthy);
    check_account(&store);
}

#[test]
fn files_removed_under_a_live_store_are_misses_and_put_anew() {
    let rig = Rig::new(64 * MIB);
    let store = rig.open_on(Watched::new(|_| Ok(())), &Clock::new());
    let files: Vec<_> = (0..10).map(|n| key(&format!("f{n}"), 20 * PAGE)).collect();
    files.iter().for_each(|file| put_pages(&store, file, 0..10));
    files_in(rig.folder())
        .iter()
        .for_each(|path| std::fs::remove_file(path).unwrap());
    // Four of them are open, and go on until they are closed.
    for _ in 0..2 {
        files.iter().for_each(|file| put_pages(&store, file, 5..20));
        files.iter().for_each(|file| drop(served(&store, file, 0..20)));
    }
    files.iter().for_each(|file| put_pages(&store, file, 0..20));
    assert!(files.iter().all(|file| served(&store, file, 0..20).len() == 20));
    assert_eq!((health(&store), checksum_failures(&store)), (FolderHealth::Healthy, 0));
    check_account(&store);
}

/// Any one call fails, with any error: right bytes or none, and an account that is right.
#[test]
fn any_call_may_fail() {
    let mut random = Random(seed("any call"));
    let errors = [
        Errno::IO,
        Errno::NOSPC,
        Errno::NOENT,
        Errno::FBIG,
        Errno::MFILE,
        Errno::ACCESS,
    ];
    let files: Vec<_> = (0..4).map(|n| key(&format!("f{n}"), 70 * PAGE + n)).collect();
    for _ in 0..60 {
        let rig = Rig::with_folders(&[MIB / 2, MIB / 4]);
        let armed = Arc::new(AtomicBool::new(false));
        let (is_armed, odds, state) = (
            Arc::clone(&armed),
            2 + random.next(40),
            Mutex::new(Random(random.next(1 << 40))),
        );
        let watch = Watched::new(move |_| {
            let mut random = state.lock();
            match random.next(odds) {
                0 if is_armed.load(Ordering::SeqCst) => Err(errno(errors[to_usize(random.next(6))])),
                _ => Ok(()),
            }
        });
        let clock = Clock::new();
        let store = rig.open_on(watch, &clock);
        armed.store(true, Ordering::SeqCst);
        for _ in 0..60 {
            let (file, first) = (&files[to_usize(random.next(4))], random.next(70));
            match random.next(8) {
                0 => drop(store.remove_file(file.id())),
                1 => drop(store.remove_pages(file.id(), PageIndex(first)..PageIndex(first + 20))),
                2 => {
                    clock.turn(random.next(700));
                    store.maintain();
                }
                3..=5 => put_pages(&store, file, first..first + 20),
                _ => drop(served(&store, file, first..first + 20)),
            }
            check_account(&store);
        }
        drop(store);
        let store = rig.open();
        check_account(&store);
        files.iter().for_each(|file| drop(served(&store, file, 0..71)));
    }
}
