//! Finds the segments in a folder, by their heads rather than by their names.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::error::OpenError;
use super::files;
use super::files::{read_full, write_at};
use super::format::HEAD;
use super::head::{Damage, Head, HeadRead, Kind};
use super::scan::Found;
use super::segment::{Segment, Segments};

/// The mark in the names of files that are kept, but not read.
pub(crate) const ASIDE: &str = ".aside-";

/// The segments in a folder.
pub(crate) struct Inventory {
    /// The random number of the log.
    pub(crate) log: u64,
    /// The segments, without those that were rewritten into another.
    pub(crate) segments: Segments,
    /// The positions of segments without needed records.
    pub(crate) emptied: Vec<Range<u64>>,
}

/// A file with the name or the head of a segment.
struct SegmentFile {
    path: PathBuf,
    file: File,
    len: u64,
    /// The base and the end in the name; `None` if no segment has such a name.
    named: Option<(u64, Option<u64>)>,
    /// `None` if the head cannot be read.
    head: Option<Head>,
}

impl SegmentFile {
    /// Returns the base, and the end of a rewritten segment.
    fn range(&self) -> (u64, Option<u64>) {
        self.head.map(|head| (head.base, head.end)).or(self.named).unwrap_or_default()
    }

    /// Whether this segment was rewritten from another one.
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
    /// Finds the segments in `folder`. The log's random number is the most frequent one in the heads; `others` are the heads
    /// of the other files of the log. Files of other logs are set aside.
    pub(crate) fn of(folder: &Path, others: &[Head]) -> Result<Self, OpenError> {
        let mut files = segment_files(folder)?;
        let named = files.iter().filter(|file| file.named.is_some());
        let heads = others.iter().copied().chain(named.filter_map(|file| file.head));
        let log = most_frequent(&heads.map(|head| head.log).collect::<Vec<_>>());
        let belongs = |head: Head| head.log == log && head.kind == Kind::Segment;
        let (own, foreign): (Vec<_>, Vec<_>) =
            files.drain(..).partition(|file| file.head.is_none_or(belongs));
        for file in foreign.iter().filter(|file| file.named.is_some()) {
            set_aside(&file.path, "it belongs to another store")?;
        }
        let own = restore_names(folder, own)?;
        Self::from_own(log, delete_rewritten(own)?)
    }

    fn from_own(log: u64, mut files: Vec<SegmentFile>) -> Result<Self, OpenError> {
        files.sort_by_key(SegmentFile::range);
        let bases: Vec<u64> = files.iter().map(|file| file.range().0).collect();
        let (mut segments, mut emptied) = (Segments::new(), Vec::new());
        for (at, found) in files.into_iter().enumerate() {
            let next = bases.get(at + 1).copied();
            let (is_readable, (base, end)) = (found.head.is_some(), found.range());
            let SegmentFile { path, file, len, head, .. } = found;
            let head = head.unwrap_or_else(|| Head::segment(log, base, end));
            if len < HEAD {
                // The last segment may just have been begun when the process died.
                if next.is_some() {
                    tracing::error!(path = %path.display(), "a segment was cut short; its records are gone");
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
                // The file stays until the journal has recorded that its records are not needed.
                segment.len = 0;
            } else if !is_readable && !has_records(&segment).map_err(OpenError::io("read", &segment.path))? {
                set_aside(&segment.path, "it has no readable record")?;
                continue;
            }
            segments.insert(segment.base, segment);
        }
        Ok(Self { log, segments, emptied })
    }
}

/// Returns the files with the name of a segment, and files with another name that begin with the head of one.
fn segment_files(folder: &Path) -> Result<Vec<SegmentFile>, OpenError> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).map_err(OpenError::io("read", folder))? {
        let entry = entry.map_err(OpenError::io("read", folder))?;
        let (name, path) = (entry.file_name(), entry.path());
        let named = name.to_str().and_then(Segment::parse_name);
        if named.is_none() {
            if path.extension().is_some_and(|kind| kind == "log") {
                found.extend(renamed(path));
            }
            continue;
        }
        let file = files::writable().open(&path).map_err(OpenError::io("open", &path))?;
        files::tighten(&path, &file);
        let len = file.metadata().map_err(OpenError::io("read", &path))?.len();
        let head = read_head(&path, &file)?;
        found.push(SegmentFile { path, file, len, named, head });
    }
    Ok(found)
}

/// Returns a file whose name no segment has, if it begins with a head.
fn renamed(path: PathBuf) -> Option<SegmentFile> {
    let file = files::writable().open(&path).ok()?;
    let mut bytes = [0; HEAD as usize];
    let read = read_full(&file, &mut bytes, 0).ok()?;
    let HeadRead::Head(head, _) = Head::read(&bytes[..read]) else { return None };
    let len = file.metadata().ok()?.len();
    Some(SegmentFile { path, file, len, named: None, head: Some(head) })
}

/// Reads the head of a file, and repairs a damaged copy of it; `None` if it cannot be read.
pub(crate) fn read_head(path: &Path, file: &File) -> Result<Option<Head>, OpenError> {
    let mut bytes = [0; HEAD as usize];
    let len = read_full(file, &mut bytes, 0).map_err(OpenError::io("read", path))?;
    let (head, damage) = match Head::read(&bytes[..len]) {
        HeadRead::Head(head, damage) => (Some(head), damage),
        HeadRead::OtherVersion => return Err(OpenError::Version { path: path.to_owned() }),
        HeadRead::Unreadable if len < bytes.len() => (None, Damage::None),
        HeadRead::Unreadable => (None, Damage::Magic),
    };
    match damage {
        Damage::None => {}
        Damage::Magic => {
            tracing::error!(path = %path.display(), "the head of a file is damaged")
        }
        Damage::Copy => {
            tracing::error!(path = %path.display(), "one of the two copies at the start of a file is damaged; the other one is used");
        }
    }
    if let Some(head) = head.filter(|_| damage != Damage::None && len == bytes.len()) {
        // A failed repair is tried again at the next start.
        let _ = write_at(file, &head.to_bytes(), 0);
    }
    Ok(head)
}

/// Returns the most frequent number, and of several the first; a random one if there is none.
fn most_frequent(logs: &[u64]) -> u64 {
    let mut files: HashMap<u64, usize> = HashMap::new();
    for log in logs {
        *files.entry(*log).or_default() += 1;
    }
    let most = files.values().max().copied();
    let first = logs.iter().find(|log| files.get(log).copied() == most);
    first.copied().unwrap_or_else(rand::random)
}

/// Restores the names of files that were renamed. A copy of a file that exists is set aside.
fn restore_names(folder: &Path, files: Vec<SegmentFile>) -> Result<Vec<SegmentFile>, OpenError> {
    let is_in_place =
        |file: &SegmentFile| file.head.is_none_or(|head| Some((head.base, head.end)) == file.named);
    let (mut files, strays): (Vec<_>, Vec<_>) = files.into_iter().partition(is_in_place);
    let place = |file: &SegmentFile| file.head.map(|head| folder.join(Segment::name_of(&head)));
    // A copy whose name no segment has is in nobody's place.
    let is_copy = |file: &SegmentFile| file.named.is_none() && place(file).is_none_or(|path| path.exists());
    let strays: Vec<_> = strays.into_iter().filter(|file| !is_copy(file)).collect();
    // All of them first, since they may have each other's names.
    let mut moved = Vec::new();
    for stray in strays {
        moved.push((set_aside(&stray.path, "it has the name of another file")?, stray));
    }
    for (aside, mut stray) in moved {
        let Some(head) = stray.head else { continue };
        let path = folder.join(Segment::name_of(&head));
        if path.exists() {
            continue;
        }
        fs::rename(&aside, &path).map_err(OpenError::io("rename", &aside))?;
        tracing::warn!(path = %path.display(), "restored the name of a segment that had another one");
        (stray.path, stray.named) = (path, Some((head.base, head.end)));
        files.push(stray);
    }
    Ok(files)
}

/// Deletes segments that were rewritten into another before the process died.
fn delete_rewritten(files: Vec<SegmentFile>) -> Result<Vec<SegmentFile>, OpenError> {
    let is_rewritten: Vec<bool> =
        files.iter().map(|file| files.iter().any(|other| other.covers(file))).collect();
    // A name alone, without a readable head, must not displace other files.
    let is_doubtful: Vec<bool> = files
        .iter()
        .map(|file| {
            let others = || files.iter().filter(|other| !std::ptr::eq(*other, file));
            file.head.is_none() && file.range().1.is_some() && others().any(|other| other.overlaps(file))
        })
        .collect();
    let mut kept = Vec::new();
    for ((file, rewritten), doubtful) in files.into_iter().zip(is_rewritten).zip(is_doubtful) {
        if rewritten {
            fs::remove_file(&file.path).map_err(OpenError::io("delete", &file.path))?;
        } else if doubtful {
            set_aside(&file.path, "its head cannot be read, and other files have its positions")?;
        } else {
            kept.push(file);
        }
    }
    Ok(kept)
}

/// Whether a segment has a readable record.
fn has_records(segment: &Segment) -> io::Result<bool> {
    let mut scan = segment.scan_to_end();
    while let Some(found) = scan.next()? {
        if let Found::Record(_) = found {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Renames a file, so that it is kept but not read; returns its new path.
pub(crate) fn set_aside(path: &Path, why: &str) -> Result<PathBuf, OpenError> {
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
    tracing::error!(path = %path.display(), aside = %aside.display(), "a file is ignored, and was renamed: {why}");
    Ok(aside)
}
