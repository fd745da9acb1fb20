//! The file system of a folder.

use std::path::Path;

/// The name of a file system that does not outlive its container or its machine, of a folder that exists; `None` for any other, and where the
/// kernel does not list its mounts.
pub(crate) fn volatile(folder: &Path) -> Option<&'static str> {
    let mounts = std::fs::read_to_string("/proc/self/mounts").ok()?;
    let folder = folder.canonicalize().ok()?;
    volatile_in(&mounts, &folder)
}

fn volatile_in(mounts: &str, folder: &Path) -> Option<&'static str> {
    let points = mounts.lines().filter_map(|line| {
        let mut fields = line.split(' ').skip(1);
        Some((fields.next()?.replace("\\040", " "), fields.next()?))
    });
    let around = points.filter(|(point, _)| folder.starts_with(point));
    // The last one of the same length hides the others.
    let (_, kind) = around.max_by_key(|(point, _)| point.len())?;
    ["overlay", "tmpfs", "ramfs"].into_iter().find(|volatile| *volatile == kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_innermost_mount_decides() {
        let mounts = "overlay / overlay rw,lowerdir=/a:/b 0 0\nproc /proc proc rw 0 0\ntmpfs /run tmpfs rw 0 0\n\
            /dev/vdb /var/lib/app ext4 rw 0 0\n/dev/vdc /mnt/a\\040b ext4 rw 0 0\ntmpfs /var/lib/app/hot tmpfs rw 0 0\n";
        for (folder, kind) in [
            ("/app/outbox", Some("overlay")),
            ("/run/outbox", Some("tmpfs")),
            ("/runner", Some("overlay")),
            ("/var/lib/app/outbox", None),
            ("/var/lib/app/hot/outbox", Some("tmpfs")),
            ("/mnt/a b/outbox", None),
        ] {
            assert_eq!(volatile_in(mounts, Path::new(folder)), kind, "{folder}");
        }
        assert_eq!(volatile_in("", Path::new("/a")), None);
    }
}
