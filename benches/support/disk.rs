//! A folder on a real disk, and what is written there.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use tempfile::TempDir;

use super::Spread;

/// An empty folder in `target`, which is removed when dropped.
///
/// # Panics
/// In memory: a fsync that costs nothing is no measure.
pub(crate) fn folder(name: &str) -> TempDir {
    let folder = tempfile::Builder::new().prefix(name).tempdir_in(env!("CARGO_TARGET_TMPDIR"));
    let folder = folder.expect("target can be written to");
    let kind = df("fstype", folder.path());
    assert!(!["tmpfs", "ramfs", "overlay"].contains(&kind.as_str()), "target is on {kind}, not on a disk");
    folder
}

/// How many bytes are free where `path` is.
pub(crate) fn free(path: &Path) -> u64 {
    df("avail", path).parse().expect("it is a number")
}

fn df(field: &str, path: &Path) -> String {
    let mut command = Command::new("df");
    command.arg("--block-size=1").arg(format!("--output={field}")).arg(path);
    let output = command.output().expect("df is there");
    let output = String::from_utf8_lossy(&output.stdout).into_owned();
    output.lines().nth(1).expect("df knows the folder").trim().to_owned()
}

/// How many bytes the files in `folder` take on the disk.
pub(crate) fn taken(folder: &Path) -> u64 {
    sum(folder, |metadata| metadata.blocks() * 512)
}

/// How long the files in `folder` are.
pub(crate) fn length(folder: &Path) -> u64 {
    sum(folder, MetadataExt::size)
}

fn sum(folder: &Path, size: fn(&fs::Metadata) -> u64) -> u64 {
    let entries = fs::read_dir(folder).expect("it can be read").map(|entry| entry.expect("it can be read"));
    let sizes = entries.map(|entry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => sum(&entry.path(), size),
        Ok(metadata) => size(&metadata),
        // A segment that was deleted meanwhile.
        Err(_) => 0,
    });
    sizes.sum()
}

/// How many bytes this process has had written to disks: whole pages, each time they are written.
pub(crate) fn written() -> u64 {
    let io = fs::read_to_string("/proc/self/io").expect("this is Linux");
    let line = io.lines().find_map(|line| line.strip_prefix("write_bytes:")).expect("the kernel counts it");
    line.trim().parse().expect("it is a number")
}

/// How long the disk takes to make `bytes` more of a file durable, in microseconds.
pub(crate) fn fdatasync(folder: &Path, bytes: usize) -> Spread {
    let path = folder.join("probe");
    let mut file = File::create(&path).expect("it can be created");
    let bytes = vec![7; bytes];
    let mut once = || {
        file.write_all(&bytes).expect("there is room");
        let begun = Instant::now();
        file.sync_data().expect("it can be written");
        begun.elapsed().as_secs_f64() * 1e6
    };
    let times = (0..200).map(|_| once()).collect();
    fs::remove_file(path).expect("it is there");
    Spread::of(times)
}
