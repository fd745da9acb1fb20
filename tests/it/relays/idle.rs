//! Where nothing happens the database is left in peace.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use sqlx::postgres::{PgConnectOptions, PgPoolOptions, PgSslMode};
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::sleep;
use tower_outbox::Messenger;
use tower_outbox::dummy::Dummy;
use tower_outbox::outbox::{Outbox, RelaySettings};
use tower_outbox::store::PostgresStore;

use super::process::ProcessHarness;
use crate::peers::Brokers;
use crate::support::stores::{STUCK, until};

const LEASE: Duration = Duration::from_secs(3);

/// How long is counted.
const WATCHED: Duration = Duration::from_secs(8);

/// How many buckets there are.
const BUCKETS: usize = 16;

/// A way to the real Postgres on which every statement is counted.
struct Counted {
    options: PgConnectOptions,
    statements: Arc<AtomicUsize>,
}

impl Counted {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let there: PgConnectOptions = Brokers::running().get("POSTGRES").parse().unwrap();
        let address = (there.get_host().to_owned(), there.get_port());
        let options = there.port(listener.local_addr().unwrap().port()).ssl_mode(PgSslMode::Disable);
        let statements = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&statements);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let server = TcpStream::connect(&address).await.unwrap();
                // It ends when either end does.
                tokio::spawn(pass(client, server, Arc::clone(&counted)));
            }
        });
        Self { options, statements }
    }

    fn statements(&self) -> usize {
        self.statements.load(Ordering::SeqCst)
    }
}

/// Hands everything on, and counts what is executed (Postgres, 54.7: Query and Execute).
async fn pass(client: TcpStream, server: TcpStream, statements: Arc<AtomicUsize>) -> std::io::Result<()> {
    let (from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    tokio::spawn(async move { tokio::io::copy(&mut from_server, &mut to_client).await });
    let mut from_client = BufReader::new(from_client);
    let mut message = Vec::new();
    // The first has no letter.
    for is_first in std::iter::once(true).chain(std::iter::repeat(false)) {
        message.clear();
        if !is_first {
            message.push(from_client.read_u8().await?);
            if matches!(message[0], b'Q' | b'E') {
                statements.fetch_add(1, Ordering::SeqCst);
            }
        }
        let length = from_client.read_u32().await?;
        message.extend(length.to_be_bytes());
        let read = message.len();
        message.resize(read + length as usize - 4, 0);
        from_client.read_exact(&mut message[read..]).await?;
        to_server.write_all(&message).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs brokers: ./scripts/test"]
async fn one_instance_that_has_nothing_to_do_sends_its_heartbeats_and_little_else() {
    idle(1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs brokers: ./scripts/test"]
async fn four_instances_that_have_nothing_to_do_send_their_heartbeats_and_little_else() {
    idle(4).await;
}

async fn idle(instances: usize) {
    let place = ProcessHarness::postgres(LEASE).await;
    let schema = place.schema.as_ref().unwrap();
    let counted = Counted::start().await;
    let (stop, stopped) = watch::channel(());
    let mut relays = Vec::new();
    for _ in 0..instances {
        let pool = PgPoolOptions::new().connect_with(counted.options.clone()).await.unwrap();
        let store = PostgresStore::open(pool, &schema.settings.clone().with_lease(LEASE)).await.unwrap();
        let (outbox, relay) = Outbox::new(Dummy::new(), Arc::new(store), RelaySettings::default());
        let mut stopped = stopped.clone();
        let relay =
            tokio::spawn(relay.with_graceful_shutdown(async move { drop(stopped.changed().await) }, STUCK));
        relays.push((outbox, relay));
    }
    until("each has its part", async || {
        schema.tables().owners_of(BUCKETS / instances).await == instances as i64
    })
    .await;

    let (begun, before) = (Instant::now(), counted.statements());
    sleep(WATCHED).await;
    let (took, statements) = (begun.elapsed(), counted.statements() - before);
    eprintln!(
        "relays: {instances} idle, lease {LEASE:?}: {:.0} statements a minute",
        statements as f64 * 60.0 / took.as_secs_f64()
    );
    let heartbeats = (took.as_secs_f64() / (LEASE / 3).as_secs_f64()) as usize;
    // Beside them, at most once in this time and of two statements each: the first look, one through everything, a count.
    let most = instances * (heartbeats + 1 + 6);
    assert!((instances * heartbeats / 2..=most).contains(&statements), "{statements} of {most} in {took:?}");
    drop(stop);
    for (outbox, relay) in relays {
        relay.await.unwrap();
        outbox.close(STUCK).await;
    }
    place.end().await;
}
