//! How much memory this process takes.

use std::fs;

pub const MIB: u64 = 1 << 20;

/// A field of the status of this process, in bytes: `VmRSS:` is the memory it has, `VmHWM:` the most since [`reset`].
pub fn memory(key: &str) -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(key)).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
}

/// Begins to measure; returns the memory that the process has.
pub fn reset() -> u64 {
    fs::write("/proc/self/clear_refs", "5").unwrap();
    memory("VmRSS:")
}
