//! The name of this machine.

/// Returns the name of this host, as the system gives it; none where it gives none.
pub(crate) fn host_name() -> Option<String> {
    let files = ["/proc/sys/kernel/hostname", "/etc/hostname"];
    let of_file = files.into_iter().find_map(|file| std::fs::read_to_string(file).ok());
    let name =
        of_file.or_else(|| std::env::var("HOSTNAME").or_else(|_| std::env::var("COMPUTERNAME")).ok())?;
    let name = name.trim();
    (!name.is_empty()).then(|| name.to_owned())
}
