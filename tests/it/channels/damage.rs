//! Damaged and full disks: what is damaged harms only itself.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tower_outbox::channels::embedded::{EmbeddedEngine, EmbeddedEngineSettings};
use tower_outbox::channels::{
    Engine, EngineError, Queues, Receive, Settle, Start, Streams, Subscribe, Which,
};

use super::{content, message, name, open};
use crate::faults::full::Disk;

/// The files of the log, oldest first.
fn segments(folder: &Path) -> Vec<PathBuf> {
    files(folder, "log")
}

fn checkpoints(folder: &Path) -> Vec<PathBuf> {
    files(folder, "checkpoint")
}

fn files(folder: &Path, extension: &str) -> Vec<PathBuf> {
    let files = fs::read_dir(folder.join("channels")).unwrap().map(|file| file.unwrap().path());
    let mut files: Vec<_> =
        files.filter(|path| path.extension().is_some_and(|ext| ext == extension)).collect();
    files.sort();
    files
}

async fn send(engine: &EmbeddedEngine, bodies: impl IntoIterator<Item = String>) {
    let messages = bodies.into_iter().map(|body| (name("q"), message(body))).collect();
    assert!(engine.send(messages).await.iter().all(Result::is_ok));
}

async fn peek(engine: &EmbeddedEngine) -> Vec<String> {
    let peeked = engine.peek(&name("q"), 10_000, Duration::ZERO).await.unwrap();
    peeked.messages.iter().map(|message| String::from_utf8(message.content.body.to_vec()).unwrap()).collect()
}

fn remove_checkpoints(folder: &Path) {
    checkpoints(folder).into_iter().for_each(|path| fs::remove_file(path).unwrap());
}

#[tokio::test]
async fn a_flipped_byte_costs_one_message_wherever_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let engine = open(folder.path()).await;
    for n in 0..6 {
        send(&engine, [format!("message {n}")]).await;
    }
    drop(engine);
    let log = segments(folder.path()).remove(0);
    let whole = fs::read(&log).unwrap();
    let begun = whole.windows(9).position(|window| window == b"message 2").unwrap();
    for at in (begun - 40..begun + 9).step_by(3) {
        for has_checkpoint in [true, false] {
            let copy = tempfile::tempdir().unwrap();
            let copied = copy.path().join("channels");
            fs::create_dir(&copied).unwrap();
            for file in fs::read_dir(folder.path().join("channels")).unwrap() {
                let path = file.unwrap().path();
                fs::copy(&path, copied.join(path.file_name().unwrap())).unwrap();
            }
            if !has_checkpoint {
                remove_checkpoints(copy.path());
            }
            let mut bytes = whole.clone();
            bytes[at] ^= 0x21;
            fs::write(copied.join(log.file_name().unwrap()), bytes).unwrap();
            let engine = open(copy.path()).await;
            let found = peek(&engine).await;
            let others: Vec<_> = (0..6).filter(|n| *n != 2).map(|n| format!("message {n}")).collect();
            assert_eq!(found, others, "byte {at}, checkpoint {has_checkpoint}");
            // The others are received and settled as ever.
            let receive = Receive { max: 10, ..Receive::default() };
            let received = engine.receive(&name("q"), receive).await.unwrap();
            assert_eq!(received.messages.len(), 5);
            engine.settle(received.receipt, Which::All, Settle::Ack).await.unwrap();
            drop(engine);
            assert!(peek(&open(copy.path()).await).await.is_empty());
        }
    }
}

#[tokio::test]
async fn a_torn_tail_loses_only_the_batch_that_is_torn() {
    let folder = tempfile::tempdir().unwrap();
    let engine = open(folder.path()).await;
    send(&engine, ["a".to_owned(), "b".to_owned()]).await;
    drop(engine);
    remove_checkpoints(folder.path());
    let log = segments(folder.path()).remove(0);
    let len = fs::metadata(&log).unwrap().len();
    let engine = open(folder.path()).await;
    send(&engine, ["c".to_owned(), "d".to_owned()]).await;
    drop(engine);
    remove_checkpoints(folder.path());
    let whole = fs::read(&log).unwrap();
    for end in (len + 1..whole.len() as u64).step_by(7) {
        fs::write(&log, &whole[..end as usize]).unwrap();
        let engine = open(folder.path()).await;
        assert_eq!(peek(&engine).await, ["a", "b"], "torn at {end}");
        drop(engine);
        remove_checkpoints(folder.path());
    }
}

#[tokio::test]
async fn files_that_the_older_checkpoint_needs_are_kept() {
    let folder = tempfile::tempdir().unwrap();
    let open = async || {
        let settings = EmbeddedEngineSettings::new(folder.path().join("channels")).with_segment_bytes(16_000);
        EmbeddedEngine::open(settings).await.unwrap()
    };
    let text = |n: usize| format!("{n} {}", "x".repeat(500));
    let engine = open().await;
    for n in 0..40 {
        send(&engine, [text(n)]).await;
    }
    // The first checkpoint.
    drop(engine);
    let engine = open().await;
    let receive = Receive { max: 1_000, ..Receive::default() };
    let received = engine.receive(&name("q"), receive).await.unwrap();
    let which = Which::Sequences((2..=40).collect());
    assert_eq!(engine.settle(received.receipt, which, Settle::Ack).await.unwrap(), 39);
    // The file of the acknowledgements fills up, and has no message that is left.
    for n in 40..60 {
        send(&engine, [text(n)]).await;
        let received = engine.receive(&name("q"), receive).await.unwrap();
        engine.settle(received.receipt, Which::All, Settle::Ack).await.unwrap();
    }
    drop(engine);
    let newest = checkpoints(folder.path()).pop().unwrap();
    fs::write(newest, "damaged").unwrap();
    assert_eq!(peek(&open().await).await, [text(0)]);
}

#[tokio::test]
async fn a_damaged_checkpoint_is_replaced_by_the_older_one() {
    let folder = tempfile::tempdir().unwrap();
    for round in 0..4 {
        let engine = open(folder.path()).await;
        send(&engine, (0..200).map(|n| format!("{round} {n} {}", "x".repeat(500)))).await;
        let receive = Receive { max: 150, ..Receive::default() };
        let received = engine.receive(&name("q"), receive).await.unwrap();
        engine.settle(received.receipt, Which::All, Settle::Ack).await.unwrap();
    }
    let wanted = peek(&open(folder.path()).await).await;
    assert_eq!(wanted.len(), 200);
    let mut checkpoints = checkpoints(folder.path());
    assert_eq!(checkpoints.len(), 2);
    let newest = checkpoints.pop().unwrap();
    let mut bytes = fs::read(&newest).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&newest, bytes).unwrap();
    assert_eq!(peek(&open(folder.path()).await).await, wanted);
}

#[tokio::test]
async fn files_of_settled_messages_are_deleted() {
    let folder = tempfile::tempdir().unwrap();
    let engine = open(folder.path()).await;
    // A message that stays keeps no file of 64 KiB alive for long.
    for round in 0..60 {
        send(&engine, [format!("stays {round}")]).await;
        let body = "x".repeat(1_000);
        let sends = (0..60).map(|_| (name("fast"), message(body.clone()))).collect();
        assert!(engine.send(sends).await.iter().all(Result::is_ok));
        let receive = Receive { max: 60, auto_ack: true, ..Receive::default() };
        assert_eq!(engine.receive(&name("fast"), receive).await.unwrap().messages.len(), 60);
    }
    let begun = std::time::Instant::now();
    // The engine may delete a file between the listing and the look at it.
    let length = |path: &PathBuf| fs::metadata(path).map_or(0, |file| file.len());
    let bytes = || segments(folder.path()).iter().map(length).sum::<u64>();
    while bytes() > 700_000 {
        assert!(begun.elapsed() < Duration::from_secs(20), "{} bytes are left of 3.6 MB", bytes());
        send(&engine, ["more".to_owned()]).await;
    }
    drop(engine);
    let kept = peek(&open(folder.path()).await).await;
    assert_eq!(kept.iter().filter(|body| body.starts_with("stays")).count(), 60);
}

#[tokio::test]
async fn old_messages_of_a_stream_are_deleted_by_age() {
    let folder = tempfile::tempdir().unwrap();
    let mut settings = EmbeddedEngineSettings::new(folder.path().join("channels"));
    settings.stream_max_age = Some(Duration::from_millis(300));
    let engine = EmbeddedEngine::open(settings).await.unwrap();
    for n in 0..5 {
        engine.append(vec![(name("s"), content(n.to_string()))]).await.remove(0).unwrap();
    }
    let begun = std::time::Instant::now();
    loop {
        let info =
            engine.info(tower_outbox::channels::ChannelKind::Stream, &name("s")).await.unwrap().unwrap();
        if info.messages == 0 {
            break;
        }
        assert!(begun.elapsed() < Duration::from_secs(20));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(begun.elapsed() >= Duration::from_millis(250));
    let all = Subscribe { start: Start::First, ..Subscribe::default() };
    let subscription = engine.subscribe_stream(&name("s"), all).await.unwrap();
    assert_eq!(engine.append(vec![(name("s"), content("new"))]).await.remove(0).unwrap().sequence, 6);
    assert_eq!(subscription.receive(10).await.unwrap()[0].sequence, 6);
}

#[tokio::test]
async fn a_full_folder_refuses_until_messages_are_settled() {
    let folder = tempfile::tempdir().unwrap();
    let settings = EmbeddedEngineSettings::new(folder.path().join("channels")).with_max_bytes(20_000);
    let engine = EmbeddedEngine::open(settings).await.unwrap();
    let large = || vec![(name("q"), message("x".repeat(6_000)))];
    for _ in 0..3 {
        engine.send(large()).await.remove(0).unwrap();
    }
    let refused = engine.send(large()).await.remove(0);
    assert!(matches!(refused, Err(EngineError::Full { setting: "MAX_BYTES", .. })), "{refused:?}");
    let received = engine.receive(&name("q"), Receive::default()).await.unwrap();
    engine.settle(received.receipt, Which::All, Settle::Ack).await.unwrap();
    engine.send(large()).await.remove(0).unwrap();
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn on_a_full_disk_messages_can_be_settled() {
    let disk = Disk::mount("size=8m");
    let settings = EmbeddedEngineSettings::new(disk.path().join("channels")).with_segment_bytes(256 << 10);
    let engine = EmbeddedEngine::open(settings).await.unwrap();
    let mut sent = 0;
    let error = loop {
        match engine.send(vec![(name("q"), message("x".repeat(50_000)))]).await.remove(0) {
            Ok(_) => sent += 1,
            Err(error) => break error,
        }
    };
    assert!(error.is_transient() && sent > 20, "{error} after {sent}");
    assert!(engine.health().await.is_err());
    let mut settled = 0;
    while settled < sent {
        let received = engine.receive(&name("q"), Receive::default()).await.unwrap();
        assert_eq!(received.messages.len(), 1);
        settled += engine.settle(received.receipt, Which::All, Settle::Ack).await.unwrap();
    }
    let begun = std::time::Instant::now();
    while engine.send(vec![(name("q"), message("again"))]).await.remove(0).is_err() {
        assert!(begun.elapsed() < Duration::from_secs(20), "the room does not come back");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    drop(engine);
}
