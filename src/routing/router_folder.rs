//! The folder of a router: its log, from which the state is read, and its id.

use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use super::record::Record;
use super::router_shared::SEGMENT;
use super::router_state::RouterState;
use crate::log::error::OpenError;
use crate::log::files;
use crate::log::reader::ReadItem;
use crate::log::record_log::RecordLog;
use crate::log::retention::Retention;

/// Opens the log, and reads it. Blocks.
pub(super) fn open(path: &Path) -> Result<(Arc<str>, RecordLog, RouterState), OpenError> {
    match files::create_folder(path) {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists && path.is_dir() => {}
        created => created.map_err(OpenError::io("create", path))?,
    }
    let log = RecordLog::open(&path.join("log"), SEGMENT, Retention::default())?;
    // Under the lock of the log.
    let id = router_id(&path.join("router-id"))?;
    let mut state = RouterState::default();
    let mut reader = log.read(1);
    while let Some(item) = reader.next().map_err(OpenError::io("read", path))? {
        match item {
            ReadItem::Record { position, payload } => match Record::decode(payload) {
                Ok(record) => state.replay(position, &record),
                Err(error) => {
                    tracing::error!(position, %error, "a record of the router cannot be decoded; it is ignored")
                }
            },
            ReadItem::Lost(positions) if positions.start >= log.positions().start => {
                tracing::error!(?positions, "records of the router are damaged; their messages are lost");
            }
            ReadItem::Lost(_) => {}
        }
    }
    state.skip_messages(log.positions().end);
    let dropped = state.end_replay();
    if dropped > 0 {
        tracing::warn!(dropped, "dropped messages over the limits of their queues at the start");
    }
    Ok((id, log, state))
}

/// Reads the id of the router, or makes one.
fn router_id(path: &Path) -> Result<Arc<str>, OpenError> {
    match std::fs::read_to_string(path) {
        Ok(text) if uuid::Uuid::try_parse(text.trim()).is_ok() => Ok(text.trim().into()),
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(OpenError::io("read", path)(error)),
        // A crash may leave an empty file.
        _ => {
            let id = uuid::Uuid::from_u128(rand::random()).to_string();
            let write = || {
                let mut file = files::create(path)?;
                file.write_all(id.as_bytes())?;
                file.sync_all()?;
                path.parent().map_or(Ok(()), files::sync_folder)
            };
            write().map_err(OpenError::io("write", path))?;
            Ok(id.into())
        }
    }
}
