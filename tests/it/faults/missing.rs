//! Deleted files.

use std::fs;

use tower_outbox::store::Store;

use super::{StoreFolder, assert_works, drain, unreadable, without};
use crate::support::logs;
use crate::support::stores::{batch, confirm, ids, lease_all};

#[tokio::test]
async fn a_deleted_segment_is_logged_and_the_others_are_sent() {
    let log = logs::listen();
    for close in [true, false] {
        let folder = StoreFolder::new().with_segment_bytes(150);
        let store = folder.open().await;
        let messages = batch("a", 12);
        for message in &messages {
            store.append(vec![message.clone()]).await.unwrap();
        }
        let ids = ids(&messages);
        if close {
            store.close().await;
        }
        let files = folder.logs().len();
        assert!(files >= 4);
        for file in 0..files {
            let damaged = folder.copy();
            let path = damaged.logs().swap_remove(file);
            fs::remove_file(&path).unwrap();
            let store = damaged.open().await;
            let left = drain(&store).await;
            let missing = without(&ids, &left).len();
            assert_eq!(left.len() + missing, ids.len());
            let said = log.alarms(damaged.path().to_str().unwrap());
            let lost =
                said.iter().any(|event| event.has("cause") && event.get("messages") == missing.to_string());
            let what = format!("close: {close}, file {file} of {files}: {missing} missing; {said:?}");
            // The last segment may be empty.
            assert!(missing > 0 || file + 1 == files, "{what}");
            // The size of the newest segment is known only after an orderly close.
            let newest = !close && said.iter().any(|event| event.get("path") == path.to_str().unwrap());
            assert_eq!(newest, !close && file + 1 == files, "{what}");
            assert!(lost || newest || unreadable(&store).await == missing, "{what}");
            assert_works(&store).await;
        }
    }
}

#[tokio::test]
async fn without_the_journal_all_stored_messages_are_sent_again() {
    let log = logs::listen();
    let folder = StoreFolder::new();
    let store = folder.open().await;
    let messages = batch("a", 5);
    store.append(messages.clone()).await.unwrap();
    let out = lease_all(&store, 3).await;
    confirm(&store, &out).await;
    store.close().await;
    fs::remove_file(folder.journal()).unwrap();
    drop(store);
    let store = folder.open().await;
    assert_eq!(drain(&store).await, ids(&messages));
    let said = log.alarms(folder.path().to_str().unwrap());
    let folder = folder.path().to_str().unwrap();
    assert!(said.iter().any(|event| event.is_error() && event.get("folder") == folder), "{said:?}");
    assert_works(&store).await;
}
