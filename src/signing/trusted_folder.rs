//! The folder of trusted keys.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use async_trait::async_trait;

use super::error::SigningError;
use super::key_source::KeySource;
use super::settings::is_origin;
use super::trusted_key::TrustedKey;
use crate::util::error::{BoxError, Chain};
use crate::util::sync::lock;
use crate::util::text_file;

/// How long the folder is taken as unchanged.
const LOOK: Duration = Duration::from_secs(1);
/// The least time between two looks when the keys did not fit.
const LOOK_ANEW: Duration = Duration::from_millis(20);

/// A folder of public keys, `ORIGIN.pem` each; a file may hold several keys. Other files are ignored.
///
/// The folder is looked at once a second, and when a signature does not fit. A changed file that cannot be read keeps its
/// last keys, and a WARN is logged; the keys of a removed file are not trusted any more.
pub struct TrustedFolder(Arc<Folder>);

struct Folder {
    path: PathBuf,
    read: Mutex<LastRead>,
}

#[derive(Default)]
struct LastRead {
    /// The keys of each origin, and the file they are from.
    keys: HashMap<String, Arc<[TrustedKey]>>,
    seen: Files,
    looked: Option<Instant>,
}

/// The files that hold keys, by origin.
type Files = BTreeMap<String, Stamp>;

/// The time, the length and the number of a file: one of them changes when the content does.
type Stamp = (Option<SystemTime>, u64, u64);

impl TrustedFolder {
    /// Reads the folder.
    ///
    /// # Errors
    /// [`SigningError`] when the folder or one of its keys cannot be read.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, SigningError> {
        Self::open_as("SIGNING.TRUSTED", path)
    }

    /// As [`open`](Self::open); `setting` names the folder in errors.
    pub(super) fn open_as(setting: &str, path: impl Into<PathBuf>) -> Result<Self, SigningError> {
        let path = path.into();
        let fault = |error: BoxError| SigningError::new(error).of(setting, &path);
        let seen = files(&path).map_err(|error| fault(error.into()))?;
        let mut keys = HashMap::new();
        for origin in seen.keys() {
            let read = read(&path, origin).map_err(|error| error.of(setting, &file(&path, origin)))?;
            keys.insert(origin.clone(), read);
        }
        if keys.is_empty() {
            tracing::warn!(path = %path.display(), "the folder of trusted keys is empty; no signature is accepted");
        }
        let last = Mutex::new(LastRead { keys, seen, looked: Some(Instant::now()) });
        Ok(Self(Arc::new(Folder { path, read: last })))
    }

    /// Returns the origins and their keys, sorted by name.
    #[must_use]
    pub fn list(&self) -> Vec<(String, Arc<[TrustedKey]>)> {
        let last = lock(&self.0.read);
        let mut list: Vec<_> =
            last.keys.iter().map(|(origin, keys)| (origin.clone(), Arc::clone(keys))).collect();
        list.sort_by(|a, b| a.0.cmp(&b.0));
        list
    }
}

#[async_trait]
impl KeySource for TrustedFolder {
    async fn keys(&self, origin: &str, anew: bool) -> Result<Arc<[TrustedKey]>, BoxError> {
        let looked = lock(&self.0.read).looked;
        if let Some(looked) = looked.filter(|_| anew) {
            // The key may have been added since.
            tokio::time::sleep_until((looked + LOOK_ANEW).into()).await;
        }
        if anew || looked.is_none_or(|at| at.elapsed() >= LOOK) {
            let folder = Arc::clone(&self.0);
            tokio::task::spawn_blocking(move || folder.look()).await?;
        }
        Ok(lock(&self.0.read).keys.get(origin).cloned().unwrap_or_default())
    }
}

impl Folder {
    /// Reads the files that changed.
    fn look(&self) {
        let begun = Instant::now();
        let found = match files(&self.path) {
            Ok(found) => found,
            Err(error) => {
                let path = self.path.display();
                tracing::warn!(%path, %error, "failed to read the folder of trusted keys; its last keys stay trusted");
                lock(&self.read).looked = Some(begun);
                return;
            }
        };
        let seen = lock(&self.read).seen.clone();
        let changed = found.iter().filter(|(origin, stamp)| seen.get(*origin) != Some(stamp));
        let read: Vec<_> = changed.map(|(origin, _)| (origin.clone(), read(&self.path, origin))).collect();
        let mut last = lock(&self.read);
        last.keys.retain(|origin, _| found.contains_key(origin));
        for (origin, read) in read {
            match read {
                Ok(keys) => {
                    tracing::info!(origin, keys = keys.len(), "read the trusted keys of an origin");
                    last.keys.insert(origin, keys);
                }
                Err(error) => {
                    let error = Chain(&error);
                    tracing::warn!(origin, %error, "failed to read trusted keys; the last ones of this origin stay trusted");
                }
            }
        }
        (last.seen, last.looked) = (found, Some(begun));
    }
}

fn files(path: &Path) -> std::io::Result<Files> {
    let mut files = Files::new();
    for entry in std::fs::read_dir(path)? {
        let name = entry?.file_name();
        let Some(origin) = name.to_str().and_then(|name| name.strip_suffix(".pem")) else { continue };
        // The time of the file itself, where the entry is a link.
        let Ok(metadata) = std::fs::metadata(file(path, origin)) else { continue };
        if is_origin(origin) && metadata.is_file() {
            files.insert(origin.to_owned(), (metadata.modified().ok(), metadata.len(), number(&metadata)));
        }
    }
    Ok(files)
}

#[cfg(unix)]
fn number(metadata: &std::fs::Metadata) -> u64 {
    std::os::unix::fs::MetadataExt::ino(metadata)
}

#[cfg(not(unix))]
fn number(_: &std::fs::Metadata) -> u64 {
    0
}

fn file(path: &Path, origin: &str) -> PathBuf {
    path.join(format!("{origin}.pem"))
}

fn read(path: &Path, origin: &str) -> Result<Arc<[TrustedKey]>, SigningError> {
    let bytes = text_file::read(&file(path, origin)).map_err(SigningError::new)?;
    TrustedKey::all_from_pem(&String::from_utf8_lossy(&bytes)).map(Into::into)
}

impl fmt::Debug for TrustedFolder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TrustedFolder").field("path", &self.0.path).finish_non_exhaustive()
    }
}
