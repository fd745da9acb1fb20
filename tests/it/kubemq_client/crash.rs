//! Our server is killed under its clients, again and again: nothing that was confirmed is lost.
//!
//! `TOWER_OUTBOX_CHANNEL_ROUNDS` sets the number of rounds; 5 by default.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;
use tower_outbox::Messenger;
use tower_outbox::kubemq_client::{KubemqSettings, KubemqSubscription};
use tower_outbox::source::Source;

use super::{STUCK, body, messenger, numbered, source};

/// Starts the server; returns it with its address.
async fn serve(folder: &Path, address: &str) -> (Child, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tower-outbox-cli"));
    command.args(["serve", "--kubemq", address, "--data"]).arg(folder.join("channels")).env_clear();
    command.kill_on_drop(true).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().unwrap();
    let mut out = BufReader::new(child.stdout.take().unwrap()).lines();
    let line = timeout(STUCK, out.next_line()).await.unwrap().unwrap().expect("the server listens");
    (child, line.strip_prefix("listening for KubeMQ clients on ").unwrap().to_owned())
}

#[derive(Default)]
struct Ledger {
    confirmed: BTreeSet<u64>,
    received: BTreeSet<u64>,
    acked: BTreeSet<u64>,
    again: usize,
}

impl Ledger {
    fn waiting(&self) -> usize {
        self.confirmed.len().saturating_sub(self.received.len())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_lose_nothing_when_our_server_is_killed() {
    let rounds = std::env::var("TOWER_OUTBOX_CHANNEL_ROUNDS").map_or(5, |rounds| rounds.parse().unwrap());
    let folder = tempfile::tempdir().unwrap();
    let (mut server, address) = serve(folder.path(), "127.0.0.1:0").await;
    let settings = KubemqSettings::new([format!("kubemq://{address}")]);
    let ledger = Arc::new(Mutex::new(Ledger::default()));
    let sending: Vec<_> = (0..2)
        .map(|task| {
            let (messenger, ledger) = (messenger(&settings), Arc::clone(&ledger));
            AbortOnDropHandle::new(tokio::spawn(async move {
                for batch in 0.. {
                    // The consumers keep up, so that the rest is drained soon at the end.
                    while ledger.lock().unwrap().waiting() > 500 {
                        tokio::time::sleep(Duration::from_millis(2)).await;
                    }
                    let ids = task * 1_000_000_000 + batch * 8..task * 1_000_000_000 + batch * 8 + 8;
                    let unsent: BTreeSet<u64> = match messenger.send(numbered(ids.clone())).await {
                        Ok(()) => BTreeSet::new(),
                        Err(unsent) => {
                            let unsent = unsent.into_messages().into_iter();
                            unsent
                                .map(|message| std::str::from_utf8(message.body()).unwrap().parse().unwrap())
                                .collect()
                        }
                    };
                    ledger.lock().unwrap().confirmed.extend(ids.filter(|id| !unsent.contains(id)));
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
            }))
        })
        .collect();
    let consume = |settings: &KubemqSettings| {
        let (source, ledger) = (
            source(settings, &KubemqSubscription::new("order.created").with_prefetch(32)),
            Arc::clone(&ledger),
        );
        AbortOnDropHandle::new(tokio::spawn(async move {
            loop {
                let Ok(received) = source.receive(16).await else { continue };
                for delivery in received {
                    let id: u64 = body(&delivery).parse().unwrap();
                    {
                        let mut ledger = ledger.lock().unwrap();
                        let is_new = ledger.received.insert(id);
                        ledger.again += usize::from(!is_new);
                    }
                    if delivery.ack().await.is_ok() {
                        ledger.lock().unwrap().acked.insert(id);
                    }
                }
            }
        }))
    };
    let consuming = [consume(&settings), consume(&settings)];
    for round in 0..rounds {
        let before = ledger.lock().unwrap().acked.len();
        let progress = async {
            while ledger.lock().unwrap().acked.len() < before + 20 {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        timeout(STUCK, progress).await.expect("messages pass after the restart");
        tokio::time::sleep(Duration::from_millis(round * 7 % 50)).await;
        server.kill().await.unwrap();
        (server, _) = serve(folder.path(), &address).await;
    }
    drop(sending);
    let drained = async {
        while !{
            let ledger = ledger.lock().unwrap();
            ledger.confirmed.is_subset(&ledger.received)
        } {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let drained = timeout(STUCK, drained).await;
    let ledger = ledger.lock().unwrap();
    let lost: Vec<_> = ledger.confirmed.difference(&ledger.received).collect();
    assert!(drained.is_ok(), "confirmed and lost: {lost:?}");
    println!(
        "{rounds} rounds: {} confirmed, {} received, {} acknowledged, {} more than once",
        ledger.confirmed.len(),
        ledger.received.len(),
        ledger.acked.len(),
        ledger.again
    );
    drop((consuming, server));
}
