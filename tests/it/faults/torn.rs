//! Writes that a crash has cut off.

use std::collections::HashSet;
use std::fs;
use std::io::Write;

use tower_outbox::store::Store;

use super::{StoreFolder, assert_works, cut, drain, unreadable, without, written};
use crate::support::logs::{self, Event};
use crate::support::stores::{batch, confirm, ids, lease_all};

/// Stores two batches; returns their ids, and the length of the segment.
async fn two_batches(folder: &StoreFolder) -> (tower_outbox::store::EmbeddedStore, Vec<uuid::Uuid>, usize) {
    let store = folder.open().await;
    let (first, second) = (batch("a", 3), batch("a", 4));
    store.append(first.clone()).await.unwrap();
    store.append(second.clone()).await.unwrap();
    let whole = written(&folder.last_log()).len();
    (store, [ids(&first), ids(&second)].concat(), whole)
}

#[tokio::test]
async fn a_segment_cut_in_its_last_batch_recovers_to_the_last_whole_one() {
    let log = logs::listen();
    let folder = StoreFolder::new();
    let (store, wanted, whole) = two_batches(&folder).await;
    store.append(batch("torn", 3)).await.unwrap();
    let len = written(&folder.last_log()).len();
    assert!(len > whole, "there is something to cut");
    // With and without the zeros that were allocated ahead.
    for (at, zeros) in (whole..len).flat_map(|at| [(at, 0), (at, 9_999)]) {
        let torn = folder.copy();
        cut(&torn.last_log(), at);
        cut(&torn.last_log(), at + zeros);
        let store = torn.open().await;
        assert_eq!(fs::read(torn.last_log()).unwrap().len(), whole, "cut at {at}");
        let more = batch("more", 2);
        store.append(more.clone()).await.unwrap();
        drop(store);
        let store = torn.open().await;
        let wanted = [wanted.clone(), ids(&more)].concat();
        assert_eq!(drain(&store).await, wanted, "cut at {at}");
        assert_eq!(unreadable(&store).await, 0, "cut at {at}");
        assert_works(&store).await;
        let said = log.alarms(torn.path().to_str().unwrap());
        assert!(!said.iter().any(Event::is_error), "cut at {at}: {said:?}");
        assert_eq!(said.len(), usize::from(at > whole), "cut at {at}: {said:?}");
    }
}

#[tokio::test]
async fn a_tail_of_zeros_or_garbage_is_truncated() {
    let log = logs::listen();
    let folder = StoreFolder::new();
    let (store, wanted, whole) = two_batches(&folder).await;
    store.append(batch("torn", 3)).await.unwrap();
    let bytes = written(&folder.last_log());
    let garbage: Vec<u8> = (0..5_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    // Records out of order, as in a block of another file.
    let stale = bytes[8..whole].to_vec();
    for (what, tail) in [("zeros", vec![0; 70_000]), ("garbage", garbage), ("stale records", stale)] {
        for kept in [0, 10, 24, 100] {
            let torn = folder.copy();
            let mut file = fs::OpenOptions::new().write(true).open(torn.last_log()).unwrap();
            file.set_len((whole + kept) as u64).unwrap();
            std::io::Seek::seek(&mut file, std::io::SeekFrom::End(0)).unwrap();
            file.write_all(&tail).unwrap();
            let store = torn.open().await;
            assert_eq!(drain(&store).await, wanted, "{what} after {kept} bytes");
            assert_eq!(unreadable(&store).await, 0, "{what} after {kept} bytes");
            assert_works(&store).await;
            // Zeros right behind a whole batch were allocated ahead.
            let said = !log.alarms(torn.path().to_str().unwrap()).is_empty();
            assert_eq!(said, (what, kept) != ("zeros", 0), "{what} after {kept} bytes");
        }
    }
}

#[tokio::test]
async fn a_segment_torn_at_its_start_is_begun_again() {
    let folder = StoreFolder::new().with_segment_bytes(300);
    let (store, wanted, _) = two_batches(&folder).await;
    let files = folder.logs().len();
    store.append(batch("torn", 1)).await.unwrap();
    assert_eq!(folder.logs().len(), files + 1);
    let len = written(&folder.last_log()).len();
    for at in 0..len {
        let torn = folder.copy();
        cut(&torn.last_log(), at);
        let store = torn.open().await;
        assert_eq!(drain(&store).await, wanted, "cut at {at}");
        assert_works(&store).await;
        drop(store);
        let store = torn.open().await;
        assert!(drain(&store).await.is_empty(), "cut at {at}");
        assert_eq!(unreadable(&store).await, 0, "cut at {at}");
    }
}

#[tokio::test]
async fn a_journal_cut_anywhere_in_its_last_event_loses_nothing() {
    let log = logs::listen();
    let folder = StoreFolder::new();
    let (store, wanted, _) = two_batches(&folder).await;
    let out = lease_all(&store, 7).await;
    confirm(&store, &out[..2]).await;
    assert_eq!(store.drop_messages(&[99]).await.unwrap(), 0);
    let whole = fs::read(folder.journal()).unwrap().len();
    confirm(&store, &out[2..4]).await;
    assert_eq!(store.drop_messages(&[99]).await.unwrap(), 0);
    let len = fs::read(folder.journal()).unwrap().len();
    assert!(len > whole);
    for at in whole..=len {
        let torn = folder.copy();
        cut(&torn.journal(), at);
        let store = torn.open().await;
        let sent = drain(&store).await;
        assert!(without(&wanted[4..], &sent).is_empty(), "cut at {at}: nothing is lost");
        assert!(
            without(&sent, &wanted[2..]).is_empty(),
            "cut at {at}: messages confirmed before are not sent"
        );
        assert_eq!(
            sent.iter().collect::<HashSet<_>>().len(),
            sent.len(),
            "cut at {at}: nothing is sent twice"
        );
        assert_works(&store).await;
        assert_eq!(log.alarms(torn.path().to_str().unwrap()), [], "cut at {at}");
        drop(store);
        assert!(drain(&torn.open().await).await.is_empty(), "cut at {at}: it is known from then on");
    }
}
