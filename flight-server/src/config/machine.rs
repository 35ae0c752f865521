//! What the machine, or the container, gives to this process.

use std::path::{Path, PathBuf};

/// Memory and cores that this process may use.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Machine {
    /// Bytes of memory: the smaller of what is installed and what the control groups allow. None if unknown.
    pub memory_bytes: Option<u64>,
    /// Cores, at least 1; the CPU quota of the control groups is respected.
    pub cores: usize,
}

impl Machine {
    /// Asks the running system.
    pub fn probe() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            memory_bytes: memory_under(Path::new("/")),
            cores,
        }
    }
}

/// The memory limit as the `proc` and `sys` folders under `root` tell it.
fn memory_under(root: &Path) -> Option<u64> {
    let installed = std::fs::read_to_string(root.join("proc/meminfo"))
        .ok()
        .and_then(|text| mem_total(&text));
    let groups = std::fs::read_to_string(root.join("proc/self/cgroup")).unwrap_or_default();
    let limits = limit_files(root, &groups)
        .into_iter()
        .filter_map(|file| limit(&std::fs::read_to_string(file).ok()?));
    limits.chain(installed).min()
}

/// Files that may hold a limit: the group's own and those of all groups above it, since each binds.
fn limit_files(root: &Path, groups: &str) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for line in groups.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else {
            continue;
        };
        let (mount, name) = match controllers {
            "" => ("sys/fs/cgroup", "memory.max"),
            one if one.split(',').any(|name| name == "memory") => ("sys/fs/cgroup/memory", "memory.limit_in_bytes"),
            _ => continue,
        };
        let group = Path::new(path.trim_start_matches('/'));
        files.extend(group.ancestors().map(|group| root.join(mount).join(group).join(name)));
    }
    files
}

/// A limit file's number; `max` is none, and so is version 1's "no limit", a number near 2^63.
fn limit(text: &str) -> Option<u64> {
    const NO_LIMIT_FROM_BYTES: u64 = 1 << 60;
    text.trim()
        .parse()
        .ok()
        .filter(|bytes| *bytes < NO_LIMIT_FROM_BYTES && *bytes > 0)
}

fn mem_total(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kibibytes.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn system(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        root
    }

    const MEMINFO: (&str, &str) = ("proc/meminfo", "MemTotal:        8388608 kB\nMemFree:  1 kB\n");

    #[test]
    fn without_a_limit_the_installed_memory_counts() {
        let root = system(&[
            MEMINFO,
            ("proc/self/cgroup", "0::/a\n"),
            ("sys/fs/cgroup/a/memory.max", "max\n"),
        ]);
        assert_eq!(memory_under(root.path()), Some(8 << 30));
    }

    #[test]
    fn the_tightest_group_above_binds() {
        let root = system(&[
            MEMINFO,
            ("proc/self/cgroup", "0::/a/b\n"),
            ("sys/fs/cgroup/a/memory.max", "1073741824\n"),
            ("sys/fs/cgroup/a/b/memory.max", "max\n"),
        ]);
        assert_eq!(memory_under(root.path()), Some(1 << 30));
    }

    #[test]
    fn a_container_sees_its_limit_at_the_root() {
        let root = system(&[
            MEMINFO,
            ("proc/self/cgroup", "0::/\n"),
            ("sys/fs/cgroup/memory.max", "536870912\n"),
        ]);
        assert_eq!(memory_under(root.path()), Some(512 << 20));
    }

    #[test]
    fn version_one_groups_are_read_too() {
        let groups = "5:cpu,cpuacct:/x\n4:memory:/x\n";
        let file = "sys/fs/cgroup/memory/x/memory.limit_in_bytes";
        let root = system(&[MEMINFO, ("proc/self/cgroup", groups), (file, "2147483648\n")]);
        assert_eq!(memory_under(root.path()), Some(2 << 30));
        let root = system(&[MEMINFO, ("proc/self/cgroup", groups), (file, "9223372036854771712\n")]);
        assert_eq!(memory_under(root.path()), Some(8 << 30));
    }

    #[test]
    fn a_system_that_tells_nothing_is_unknown() {
        assert_eq!(memory_under(system(&[]).path()), None);
    }

    #[test]
    fn the_real_machine_answers() {
        assert!(Machine::probe().cores >= 1);
    }
}
