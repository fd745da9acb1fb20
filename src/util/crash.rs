//! Named places at which a test kills the process, to see what recovery makes of it.

/// Aborts the process when `TOWER_OUTBOX_CRASH_AT` is `name`, or `name:N` at the Nth time; compiled into tests only.
#[inline(always)]
pub(crate) fn point(name: &str) {
    #[cfg(feature = "_crash_points")]
    if armed(name) {
        std::process::abort();
    }
    let _ = name;
}

/// Whether this is the place and the time.
#[cfg(feature = "_crash_points")]
pub(crate) fn armed(name: &str) -> bool {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU32, Ordering};

    static AT: OnceLock<Option<(String, u32)>> = OnceLock::new();
    static TIMES: AtomicU32 = AtomicU32::new(0);
    let at = AT.get_or_init(|| {
        let at = std::env::var("TOWER_OUTBOX_CRASH_AT").ok()?;
        Some(match at.split_once(':') {
            Some((name, times)) => (name.to_owned(), times.parse().expect("a number of times")),
            None => (at, 1),
        })
    });
    at.as_ref().is_some_and(|(at, times)| at == name && TIMES.fetch_add(1, Ordering::Relaxed) + 1 == *times)
}

/// Writes the durable length of a file to the file `TOWER_OUTBOX_SYNCED`, so that a test can cut all behind it off, as a power cut
/// would. Compiled into tests only.
#[cfg_attr(
    not(feature = "routing"),
    allow(dead_code, reason = "only the log of a router writes its lengths down")
)]
pub(crate) fn synced(path: &std::path::Path, len: u64) {
    #[cfg(feature = "_crash_points")]
    {
        use std::io::Write;
        use std::sync::OnceLock;

        static FILE: OnceLock<Option<std::fs::File>> = OnceLock::new();
        let file = FILE.get_or_init(|| {
            let path = std::env::var_os("TOWER_OUTBOX_SYNCED")?;
            std::fs::File::options().create(true).append(true).open(path).ok()
        });
        if let Some(mut file) = file.as_ref() {
            let _ = file.write_all(format!("{len} {}\n", path.display()).as_bytes());
        }
    }
    let _ = (path, len);
}
