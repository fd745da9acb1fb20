//! Which files of messages a folder has: by their heads, and not by their names alone.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::error::OpenError;
use super::files;
use super::head::{Damage, HEAD, Head, Kind, Read};
use super::scan::{Found, read_full};
use super::segment::Segment;
use super::writer::{JOURNAL, write_at};

/// What the names of files contain that are not read, and kept for whoever put them there.
pub(super) const ASIDE: &str = ".aside-";

pub(super) struct Inventory {
    /// The random number of the store.
    pub(super) store: u64,
    /// The files of messages, without those that were rewritten into another.
    pub(super) segments: BTreeMap<u64, Segment>,
    /// The positions of those that were emptied.
    pub(super) emptied: Vec<Range<u64>>,
}

/// A file of messages, by its name or by its head.
struct LogFile {
    path: PathBuf,
    file: File,
    len: u64,
    /// None when that is not a name we give.
    named: Option<(u64, Option<u64>)>,
    /// None when it cannot be read.
    head: Option<Head>,
}

impl LogFile {
    fn range(&self) -> (u64, Option<u64>) {
        self.head.map(|head| (head.base, head.end)).or(self.named).unwrap_or_default()
    }

    /// Whether all of another file went into it when that was rewritten.
    fn covers(&self, other: &Self) -> bool {
        let (Some(Head { base: from, end: Some(to), .. }), (base, end)) = (self.head, other.range()) else {
            return false;
        };
        (from, Some(to)) != (base, end) && from <= base && base < to && end.is_none_or(|end| end <= to)
    }

    fn overlaps(&self, other: &Self) -> bool {
        let ((base, end), (from, to)) = (self.range(), other.range());
        base <= from && end.is_some_and(|end| from < end) || from <= base && to.is_some_and(|to| base < to)
    }
}

impl Inventory {
    pub(super) fn of(folder: &Path) -> Result<Self, OpenError> {
        let mut logs = logs(folder)?;
        let journal = folder.join(JOURNAL);
        let journal_head = match files::writable().open(&journal) {
            Ok(file) => {
                files::tighten(&journal, &file);
                read_head(&journal, &file)?
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(OpenError::io("read", &journal)(error)),
        };
        let named = logs.iter().filter(|log| log.named.is_some());
        let heads = journal_head.into_iter().chain(named.filter_map(|log| log.head));
        let store = whose(&heads.map(|head| head.store).collect::<Vec<_>>());
        if journal_head.is_some_and(|head| head.store != store || head.kind != Kind::Journal) {
            set_aside(&journal, "it is of another outbox")?;
        }
        let is_ours = |head: Head| head.store == store && head.kind == Kind::Log;
        let (ours, foreign): (Vec<_>, Vec<_>) = logs.drain(..).partition(|log| log.head.is_none_or(is_ours));
        for log in foreign.iter().filter(|log| log.named.is_some()) {
            set_aside(&log.path, "it is of another outbox")?;
        }
        let logs = put_back(folder, ours)?;
        Self::from_ours(store, delete_rewritten(logs)?)
    }

    fn from_ours(store: u64, mut logs: Vec<LogFile>) -> Result<Self, OpenError> {
        logs.sort_by_key(LogFile::range);
        let bases: Vec<u64> = logs.iter().map(|log| log.range().0).collect();
        let (mut segments, mut emptied) = (BTreeMap::new(), Vec::new());
        for (at, log) in logs.into_iter().enumerate() {
            let next = bases.get(at + 1).copied();
            let (is_readable, (base, end)) = (log.head.is_some(), log.range());
            let LogFile { path, file, len, head, .. } = log;
            let head = head.unwrap_or_else(|| Head::log(store, base, end));
            if len < HEAD {
                // The last was being begun when the process died, or the journal tells that it had been.
                if next.is_some() {
                    tracing::error!(path = %path.display(), "a file of the outbox was cut short: nothing is left in it");
                }
                fs::remove_file(&path).map_err(OpenError::io("delete", &path))?;
                continue;
            }
            let mut segment = Segment::new(head, path, Arc::new(file), len);
            if head.end.is_none() {
                segment.end = next.unwrap_or(head.base);
            }
            if head.emptied {
                emptied.push(segment.base..segment.end);
                if next.is_none() {
                    fs::remove_file(&segment.path).map_err(OpenError::io("delete", &segment.path))?;
                    continue;
                }
                // It says so until the journal does.
                segment.len = 0;
            } else if !is_readable && !has_records(&segment).map_err(OpenError::io("read", &segment.path))? {
                set_aside(&segment.path, "nothing in it can be read")?;
                continue;
            }
            segments.insert(segment.base, segment);
        }
        Ok(Self { store, segments, emptied })
    }
}

/// The files whose names are those of files of messages, and those that begin like one and have another name.
fn logs(folder: &Path) -> Result<Vec<LogFile>, OpenError> {
    let mut logs = Vec::new();
    for entry in fs::read_dir(folder).map_err(OpenError::io("read", folder))? {
        let entry = entry.map_err(OpenError::io("read", folder))?;
        let (name, path) = (entry.file_name(), entry.path());
        let named = name.to_str().and_then(Segment::parse_name);
        if named.is_none() {
            if path.extension().is_some_and(|kind| kind == "log") {
                logs.extend(renamed(path));
            }
            continue;
        }
        let file = files::writable().open(&path).map_err(OpenError::io("open", &path))?;
        files::tighten(&path, &file);
        let len = file.metadata().map_err(OpenError::io("read", &path))?.len();
        let head = read_head(&path, &file)?;
        logs.push(LogFile { path, file, len, named, head });
    }
    Ok(logs)
}

/// A file with a name of its own that may be one of ours all the same.
fn renamed(path: PathBuf) -> Option<LogFile> {
    let file = files::writable().open(&path).ok()?;
    let mut bytes = [0; HEAD as usize];
    let read = read_full(&file, &mut bytes, 0).ok()?;
    let Read::Head(head, _) = Head::read(&bytes[..read]) else { return None };
    let len = file.metadata().ok()?.len();
    Some(LogFile { path, file, len, named: None, head: Some(head) })
}

/// The head of a file, whose damaged copy is mended.
pub(super) fn read_head(path: &Path, file: &File) -> Result<Option<Head>, OpenError> {
    let mut bytes = [0; HEAD as usize];
    let len = read_full(file, &mut bytes, 0).map_err(OpenError::io("read", path))?;
    let (head, damage) = match Head::read(&bytes[..len]) {
        Read::Head(head, damage) => (Some(head), damage),
        Read::OtherVersion => return Err(OpenError::Version { path: path.to_owned() }),
        Read::Unreadable if len < bytes.len() => (None, Damage::None),
        Read::Unreadable => (None, Damage::Magic),
    };
    match damage {
        Damage::None => {}
        Damage::Magic => {
            tracing::error!(path = %path.display(), "the head of a file of the outbox is damaged")
        }
        Damage::Copy => {
            tracing::error!(path = %path.display(), "a file of the outbox begins with a damaged copy; the other one is read");
        }
    }
    if let Some(head) = head.filter(|_| damage != Damage::None && len == bytes.len()) {
        // What cannot be mended now is tried again at the next start.
        let _ = write_at(file, &head.to_bytes(), 0);
    }
    Ok(head)
}

/// The store most of the files belong to, or the first of them; a new one if there is none.
fn whose(stores: &[u64]) -> u64 {
    let mut files: HashMap<u64, usize> = HashMap::new();
    for store in stores {
        *files.entry(*store).or_default() += 1;
    }
    let most = files.values().max().copied();
    let first = stores.iter().find(|store| files.get(store).copied() == most);
    first.copied().unwrap_or_else(rand::random)
}

/// Gives files that somebody renamed their names again; a copy of a file that is there is set aside.
fn put_back(folder: &Path, logs: Vec<LogFile>) -> Result<Vec<LogFile>, OpenError> {
    let is_in_place = |log: &LogFile| log.head.is_none_or(|head| Some((head.base, head.end)) == log.named);
    let (mut logs, strays): (Vec<_>, Vec<_>) = logs.into_iter().partition(is_in_place);
    let place = |log: &LogFile| log.head.map(|head| folder.join(Segment::name_of(&head)));
    // A copy under a name of its own is not in the way.
    let is_copy = |log: &LogFile| log.named.is_none() && place(log).is_none_or(|path| path.exists());
    let strays: Vec<_> = strays.into_iter().filter(|log| !is_copy(log)).collect();
    // All first: they may stand in each other's places.
    let mut moved = Vec::new();
    for stray in strays {
        moved.push((set_aside(&stray.path, "its name is that of another file")?, stray));
    }
    for (aside, mut stray) in moved {
        let Some(head) = stray.head else { continue };
        let path = folder.join(Segment::name_of(&head));
        if path.exists() {
            continue;
        }
        fs::rename(&aside, &path).map_err(OpenError::io("rename", &aside))?;
        tracing::warn!(path = %path.display(), "a file of the outbox that had another name has its own again");
        (stray.path, stray.named) = (path, Some((head.base, head.end)));
        logs.push(stray);
    }
    Ok(logs)
}

/// Deletes what was rewritten into another file before the process died.
fn delete_rewritten(logs: Vec<LogFile>) -> Result<Vec<LogFile>, OpenError> {
    let is_rewritten: Vec<bool> = logs.iter().map(|log| logs.iter().any(|other| other.covers(log))).collect();
    // Without its head a name alone must not cost others their place.
    let is_doubtful: Vec<bool> = logs
        .iter()
        .map(|log| {
            let others = || logs.iter().filter(|other| !std::ptr::eq(*other, log));
            log.head.is_none() && log.range().1.is_some() && others().any(|other| other.overlaps(log))
        })
        .collect();
    let mut kept = Vec::new();
    for ((log, rewritten), doubtful) in logs.into_iter().zip(is_rewritten).zip(is_doubtful) {
        if rewritten {
            fs::remove_file(&log.path).map_err(OpenError::io("delete", &log.path))?;
        } else if doubtful {
            set_aside(&log.path, "its head cannot be read, and other files have its messages")?;
        } else {
            kept.push(log);
        }
    }
    Ok(kept)
}

/// Whether anything in it is a record of ours.
fn has_records(segment: &Segment) -> io::Result<bool> {
    let mut scan = segment.scan_to_end();
    while let Some(found) = scan.next()? {
        if let Found::Record(_) = found {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Renames a file that is not to be read, and keeps it for whoever put it there; gives its new path.
pub(super) fn set_aside(path: &Path, why: &str) -> Result<PathBuf, OpenError> {
    let mut number = 1;
    let aside = loop {
        let mut name = path.as_os_str().to_owned();
        name.push(format!("{ASIDE}{number}"));
        if !Path::new(&name).exists() {
            break PathBuf::from(name);
        }
        number += 1;
    };
    fs::rename(path, &aside).map_err(OpenError::io("rename", path))?;
    tracing::error!(path = %path.display(), aside = %aside.display(), "a file in the outbox is not read: {why}");
    Ok(aside)
}
