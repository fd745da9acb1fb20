//! The operations of operators: a file of JSON lines beside the journal.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::Path;

use crate::store::OperationRecord;
use crate::util::error::BoxError;

/// The file, and the one before it.
const FILE: &str = "audit.jsonl";
const BEFORE: &str = "audit.before.jsonl";

/// The size at which a new file is begun.
const FULL: u64 = 1 << 20;

pub(super) fn append(folder: &Path, record: &OperationRecord) -> Result<(), BoxError> {
    let path = folder.join(FILE);
    if fs::metadata(&path).is_ok_and(|file| file.len() > FULL) {
        fs::rename(&path, folder.join(BEFORE))?;
    }
    let mut line = serde_json::to_vec(record)?;
    line.push(b'\n');
    let mut file = OpenOptions::new().create(true).append(true).open(path)?;
    file.write_all(&line)?;
    file.sync_data()?;
    Ok(())
}

/// Returns the last records, the last one first. A line that cannot be read is left out.
pub(super) fn read(folder: &Path, limit: usize) -> io::Result<Vec<OperationRecord>> {
    let mut records = Vec::new();
    for file in [FILE, BEFORE] {
        let text = match fs::read(folder.join(file)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            text => text?,
        };
        let lines = text.split(|byte| *byte == b'\n').rev();
        records.extend(lines.filter_map(|line| serde_json::from_slice::<OperationRecord>(line).ok()));
    }
    records.truncate(limit);
    Ok(records)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_operations_are_kept_and_a_torn_line_is_left_out() {
        let folder = tempfile::tempdir().unwrap();
        assert!(read(folder.path(), 10).unwrap().is_empty());
        for messages in 0..1_000 {
            append(folder.path(), &OperationRecord::new("drop", messages, "x".repeat(3_000), None)).unwrap();
            if messages == 5 {
                fs::OpenOptions::new()
                    .append(true)
                    .open(folder.path().join(FILE))
                    .unwrap()
                    .write_all(b"{\"at\n")
                    .unwrap();
            }
        }
        let records = read(folder.path(), 700).unwrap();
        assert_eq!(records.iter().map(|record| record.messages).take(3).collect::<Vec<_>>(), [999, 998, 997]);
        assert!(records.len() > 300);
        let bytes: u64 =
            fs::read_dir(folder.path()).unwrap().map(|file| file.unwrap().metadata().unwrap().len()).sum();
        assert!(bytes < 3 << 20, "{bytes}");
    }
}
