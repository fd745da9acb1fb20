//! Files with grants, which are read again when they change.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use serde::Deserialize;

use super::grant::{Grant, Grants};
use crate::util::error::debug_as_display;
use crate::util::sync::lock;

/// The time between two looks at the files.
const CHECK: Duration = Duration::from_secs(1);

/// The largest file that is read.
const LARGEST: u64 = 16 << 20;

/// The table of grants: rows of the settings, and rows of files. A clone shares the table.
///
/// The files are looked at once a second at most, and read again when one has changed. A file that cannot be read keeps the
/// rows it had, and is reported as an error.
#[derive(Clone, Debug)]
pub struct GrantTable(Arc<Table>);

#[derive(Debug)]
struct Table {
    own: Vec<Grant>,
    files: Vec<PathBuf>,
    content: Mutex<Content>,
}

#[derive(Debug)]
struct Content {
    grants: Arc<Grants>,
    /// The rows of each file, and the time and length it had.
    read: Vec<(Option<Stamp>, Vec<Grant>)>,
    checked: Instant,
}

type Stamp = (SystemTime, u64);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct GrantFile {
    #[serde(default, rename = "GRANT")]
    grants: Vec<Grant>,
}

impl GrantTable {
    /// Reads the files. Blocks.
    ///
    /// # Errors
    /// [`GrantError`], if a file cannot be read.
    pub fn open(own: Vec<Grant>, files: Vec<PathBuf>) -> Result<Self, GrantError> {
        let read: Vec<_> = files.iter().map(|file| read(file)).collect::<Result<_, _>>()?;
        let content = Content { grants: Arc::new(joined(&own, &read)), read, checked: Instant::now() };
        Ok(Self(Arc::new(Table { own, files, content: Mutex::new(content) })))
    }

    /// Returns the grants as they are now. It may read small files.
    #[must_use]
    pub fn current(&self) -> Arc<Grants> {
        let Table { own, files, content } = &*self.0;
        let mut content = lock(content);
        if files.is_empty() || content.checked.elapsed() < CHECK {
            return Arc::clone(&content.grants);
        }
        content.checked = Instant::now();
        let mut changed = false;
        for (file, known) in files.iter().zip(&mut content.read) {
            let stamp = stamp(file).ok();
            if stamp == known.0 {
                continue;
            }
            match read(file) {
                Ok(now) => {
                    tracing::info!(file = %file.display(), grants = now.1.len(), "read a changed file of grants");
                    (*known, changed) = (now, true);
                }
                Err(error) => {
                    tracing::error!(%error, "could not read a changed file of grants; its former grants stay");
                    known.0 = stamp;
                }
            }
        }
        if changed {
            content.grants = Arc::new(joined(own, &content.read));
        }
        Arc::clone(&content.grants)
    }
}

fn joined(own: &[Grant], read: &[(Option<Stamp>, Vec<Grant>)]) -> Grants {
    Grants::new(own.iter().chain(read.iter().flat_map(|(_, rows)| rows)).cloned().collect())
}

fn stamp(file: &Path) -> std::io::Result<Stamp> {
    let metadata = std::fs::metadata(file)?;
    Ok((metadata.modified()?, metadata.len()))
}

fn read(file: &Path) -> Result<(Option<Stamp>, Vec<Grant>), GrantError> {
    let fault = |reason: String| GrantError { file: file.to_owned(), reason };
    // The stamp comes first, so that a later change is seen.
    let stamp = stamp(file).map_err(|error| fault(error.to_string()))?;
    if stamp.1 > LARGEST {
        return Err(fault("it is larger than 16 MiB".to_owned()));
    }
    let text = std::fs::read_to_string(file).map_err(|error| fault(error.to_string()))?;
    let GrantFile { grants } = toml::from_str(&text).map_err(|error| fault(error.to_string()))?;
    Ok((Some(stamp), grants))
}

/// A file of grants that cannot be read.
#[derive(thiserror::Error)]
#[error("the file of grants {} cannot be read: {}; correct it", file.display(), reason.trim_end())]
pub struct GrantError {
    file: PathBuf,
    reason: String,
}

debug_as_display!(GrantError);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::routing::{Namespace, Pattern, Verb};

    const GRANT: &str = "[[GRANT]]\nSUBJECT = \"*\"\nVERBS = [\"publish\"]\nNAMESPACE = \"bnM=\"\n";

    fn is_allowed(table: &GrantTable) -> bool {
        lock(&table.0.content).checked -= CHECK;
        let (namespace, all) = (Namespace::named("ns").unwrap(), Pattern::all());
        table.current().check(None, Verb::Publish, &namespace, &all, SystemTime::now()).is_ok()
    }

    #[test]
    fn a_changed_file_is_read_again_and_a_bad_one_keeps_its_grants() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("grants.toml");
        std::fs::write(&file, "").unwrap();
        let table = GrantTable::open(Vec::new(), vec![file.clone()]).unwrap();
        assert!(!is_allowed(&table));
        std::fs::write(&file, GRANT).unwrap();
        assert!(is_allowed(&table));
        std::fs::write(&file, format!("{GRANT}HOLIDAYS = true")).unwrap();
        assert!(is_allowed(&table), "the file has an unknown key");
        std::fs::remove_file(&file).unwrap();
        assert!(is_allowed(&table), "the file is gone");
        std::fs::write(&file, GRANT.replace("publish", "query")).unwrap();
        assert!(!is_allowed(&table));
    }

    #[test]
    fn a_file_that_cannot_be_read_is_an_error_at_the_start() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("grants.toml");
        assert!(GrantTable::open(Vec::new(), vec![file.clone()]).is_err());
        std::fs::write(&file, GRANT.replace("publish", "fly")).unwrap();
        let error = GrantTable::open(Vec::new(), vec![file]).unwrap_err().to_string();
        assert!(error.contains("grants.toml") && error.contains("fly"), "{error}");
    }
}
