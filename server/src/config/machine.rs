//! The cores and the memory of this machine, or of the container around this process.

use std::fs;
use std::path::{Path, PathBuf};

/// Assumed where the system does not tell its memory.
const UNKNOWN_MEMORY_BYTES: u64 = 4 << 30;

/// Cores that this process may use; the standard library respects affinity and cgroup quotas.
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Memory that this process may use: the machine's, or less where a cgroup limits it.
pub(super) fn memory_bytes() -> u64 {
    memory_under(Path::new("/"))
        .or_else(sysctl_memory)
        .unwrap_or(UNKNOWN_MEMORY_BYTES)
}

/// Reads Linux's files below `root`, which is `/` outside tests.
fn memory_under(root: &Path) -> Option<u64> {
    let machine = fs::read_to_string(root.join("proc/meminfo")).ok().and_then(|text| {
        let line = text.lines().find(|line| line.starts_with("MemTotal:"))?;
        let kib: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
        Some(kib * 1024)
    });
    let limits = cgroup_files(root).into_iter().filter_map(|file| {
        // Without a limit, cgroup v2 has "max" and v1 a number near 2^63.
        fs::read_to_string(file).ok()?.trim().parse().ok()
    });
    machine.into_iter().chain(limits).min()
}

/// The files that may hold a limit: those of this process's own groups, of all groups above, and of the mount's root.
fn cgroup_files(root: &Path) -> Vec<PathBuf> {
    let groups = fs::read_to_string(root.join("proc/self/cgroup")).unwrap_or_default();
    let mount = root.join("sys/fs/cgroup");
    let mut files = vec![mount.join("memory.max"), mount.join("memory/memory.limit_in_bytes")];
    for line in groups.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else {
            continue;
        };
        let (base, file) = if controllers.is_empty() {
            (mount.clone(), "memory.max")
        } else if controllers.split(',').any(|controller| controller == "memory") {
            (mount.join("memory"), "memory.limit_in_bytes")
        } else {
            continue;
        };
        let group = Path::new(path.trim_start_matches('/'));
        files.extend(group.ancestors().map(|group| base.join(group).join(file)));
    }
    files
}

/// macOS and the BSDs.
fn sysctl_memory() -> Option<u64> {
    let output = std::process::Command::new("sysctl")
        .args(["-n", "hw.memsize"])
        .output()
        .ok()?;
    String::from_utf8(output.stdout).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(root: &Path, file: &str, text: &str) {
        let path = root.join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    #[test]
    fn smallest_memory_limit_applies() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        assert_eq!(memory_under(root), None);
        write(root, "proc/meminfo", "MemTotal:       8388608 kB\nMemFree: 1 kB\n");
        assert_eq!(memory_under(root), Some(8 << 30));
        write(root, "proc/self/cgroup", "0::/a/b\n");
        write(root, "sys/fs/cgroup/a/b/memory.max", "max\n");
        assert_eq!(memory_under(root), Some(8 << 30));
        write(root, "sys/fs/cgroup/a/memory.max", "2147483648\n");
        assert_eq!(memory_under(root), Some(2 << 30), "a group above counts too");
        write(root, "sys/fs/cgroup/memory.max", "1073741824\n");
        assert_eq!(
            memory_under(root),
            Some(1 << 30),
            "a container sees its own group as the root"
        );
    }

    #[test]
    fn cgroup_v1_limits_apply_too() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        write(root, "proc/meminfo", "MemTotal: 8388608 kB\n");
        write(root, "proc/self/cgroup", "12:cpu,memory:/x\n3:pids:/y\n");
        write(root, "sys/fs/cgroup/memory/x/memory.limit_in_bytes", "1000\n");
        assert_eq!(memory_under(root), Some(1000));
    }
}
