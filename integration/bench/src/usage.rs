//! What processes used of the machine, read from Linux's `/proc`; elsewhere it is not known.

use std::fs;

/// Clock ticks a second in `/proc/PID/stat`: 100 on every Linux that Rust's tier 1 covers.
const TICKS_PER_SECOND: f64 = 100.0;

/// Processor seconds, user and system, that a process used since its start.
pub(super) fn cpu_seconds(pid: u32) -> Option<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    cpu_seconds_in(&stat)
}

/// The sum over several processes; `None` when one of them cannot be read.
pub(super) fn cpu_seconds_of(pids: &[u32]) -> Option<f64> {
    pids.iter().map(|pid| cpu_seconds(*pid)).sum()
}

/// The most memory a process had resident at any time, in bytes.
pub(super) fn peak_memory_bytes(pid: u32) -> Option<u64> {
    status_bytes(pid, "VmHWM:")
}

/// The memory a process has resident now, in bytes.
pub(super) fn memory_bytes(pid: u32) -> Option<u64> {
    status_bytes(pid, "VmRSS:")
}

fn status_bytes(pid: u32, key: &str) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    kib_in(&status, key).map(|kib| kib * 1024)
}

/// The value of a line such as `VmHWM:     1234 kB`.
pub(super) fn kib_in(text: &str, key: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(key))?;
    line.split_whitespace().next()?.parse().ok()
}

fn cpu_seconds_in(stat: &str) -> Option<f64> {
    // The name in brackets may hold anything; utime and stime are the 12th and 13th field after it.
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_whitespace().skip(11);
    let mut ticks = || fields.next()?.parse::<f64>().ok();
    Some((ticks()? + ticks()?) / TICKS_PER_SECOND)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_a_stat_line_with_an_odd_name() {
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4194304 100 0 0 0 250 50 9 9 20 0 1 0 100 1000 10";
        assert_eq!(cpu_seconds_in(stat), Some(3.0));
        assert_eq!(cpu_seconds_in("nonsense"), None);
    }

    #[test]
    fn reads_a_status_line() {
        let status = "Name:\tx\nVmHWM:\t  2048 kB\nVmRSS:\t  1024 kB\n";
        assert_eq!(kib_in(status, "VmHWM:"), Some(2048));
        assert_eq!(kib_in(status, "VmSwap:"), None);
    }
}
