//! Faults of the server, or while it commits: SQLite has neither, as its COMMIT is one call in this process.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::FromRequestParts;
use axum::routing::any;
use http::header::RETRY_AFTER;
use http::{Request, StatusCode};
use sqlx::postgres::{PgConnection, PgPoolOptions};
use sqlx::{ConnectOptions, Postgres};
use tokio::sync::Mutex;
use tower::ServiceExt;
use tower_outbox::{MessageQueue, MessagingLayer, Tx};
use tracing::Level;

use super::place::{Pg, Place, both, created, insert, post, quiet};
use crate::support::counters::counted_meanwhile;
use crate::support::fuse::fuse_woken;
use crate::support::logs;
use crate::support::stores::until;

/// A gate at which every COMMIT of a new user waits.
struct Gate {
    place: Pg,
    holder: PgConnection,
}

impl Gate {
    async fn closed(place: &Pg) -> Self {
        let mut holder: PgConnection = place.options.connect().await.unwrap();
        let gate = "CREATE FUNCTION gate() RETURNS trigger LANGUAGE plpgsql AS \
            $$ BEGIN PERFORM pg_advisory_xact_lock(hashtext(current_schema())); RETURN NULL; END $$; \
            CREATE CONSTRAINT TRIGGER gate AFTER INSERT ON users DEFERRABLE INITIALLY DEFERRED \
            FOR EACH ROW EXECUTE FUNCTION gate(); \
            SELECT pg_advisory_lock(hashtext(current_schema()));";
        Pg::execute(&mut holder, gate).await.unwrap();
        Self { place: place.clone(), holder }
    }

    /// Waits until somebody waits at it.
    async fn reached(&self) {
        let name = &self.place.settings.schema;
        let waiting = format!(
            "SELECT count(*) FROM pg_stat_activity WHERE application_name = '{name}' AND wait_event = 'advisory'"
        );
        until("a commit waits", async || self.place.number(&waiting).await == 1).await;
    }

    async fn kill_who_waits(&mut self) {
        let name = &self.place.settings.schema;
        let kill = format!(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
             WHERE application_name = '{name}' AND wait_event = 'advisory'"
        );
        Pg::execute(&mut self.holder, &kill).await.unwrap();
    }

    async fn open(&mut self) {
        Pg::execute(&mut self.holder, "SELECT pg_advisory_unlock_all()").await.unwrap();
    }
}

fn app(layer: &MessagingLayer) -> Router {
    let handler = async |mut tx: Tx<Postgres>, queue: MessageQueue| both::<Pg>(&mut tx, &queue).await;
    Router::new().route("/", any(handler)).layer(layer.clone())
}

fn assert_503(response: &axum::response::Response) {
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert!(response.headers().contains_key(RETRY_AFTER));
}

pub async fn a_connection_killed_before_the_commit_leaves_neither_and_answers_503(place: Pg) {
    let layer = place.layer().await;
    for with_event in [true, false] {
        let handler = move |mut tx: Tx<Postgres>, queue: MessageQueue| async move {
            insert::<Pg>(&mut tx, "Jo").await;
            if with_event {
                created(&queue);
            }
            Pg::execute(&mut tx, "SELECT pg_terminate_backend(pg_backend_pid())").await.unwrap_err();
        };
        let app = Router::new().route("/", any(handler)).layer(layer.clone());
        assert_503(&post(&app).await);
        quiet(&layer).await;
        place.assert(false, "killed before").await;
    }
    assert_eq!(post(&app(&layer)).await.status(), StatusCode::OK);
    place.assert(true, "the next").await;
}

pub async fn a_connection_killed_during_the_commit_leaves_neither_and_answers_503(place: Pg) {
    let layer = place.layer().await;
    let mut gate = Gate::closed(&place).await;
    let app = app(&layer);
    let request = tokio::spawn(async move { post(&app).await });
    gate.reached().await;
    gate.kill_who_waits().await;
    assert_503(&request.await.unwrap());
    quiet(&layer).await;
    place.assert(false, "killed during").await;
}

pub fn a_commit_that_is_not_answered_is_503_and_not_waited_for() {
    block_on(async {
        let place = Pg::new().await;
        let layer = place.layer().await;
        let mut gate = Gate::closed(&place).await;
        let app = app(&layer);
        // It is waited for as long as it takes.
        let request = tokio::spawn(app.oneshot(Request::post("/").body(Body::empty()).unwrap()));
        gate.reached().await;
        tokio::time::pause();
        // So much nobody waits.
        tokio::time::advance(Duration::from_secs(31)).await;
        assert_503(&request.await.unwrap().unwrap());
        tokio::time::resume();
        quiet(&layer).await;
        gate.open().await;
        until("the server has committed", async || place.rows().await == 1).await;
        place.assert(true, "both or neither").await;
    });
}

pub async fn a_client_gone_while_it_is_committed_has_both(place: Pg) {
    let layer = place.layer().await;
    let mut gate = Gate::closed(&place).await;
    let app = app(&layer);
    let request = tokio::spawn(async move { post(&app).await });
    gate.reached().await;
    request.abort();
    assert!(request.await.unwrap_err().is_cancelled());
    assert_eq!(layer.in_flight().len(), 1, "shutdown waits for it");
    place.assert(false, "it waits").await;
    gate.open().await;
    quiet(&layer).await;
    place.assert(true, "committed after the client had gone").await;
}

pub async fn no_more_commits_hang_than_there_are_connections(place: Pg) {
    let pool = PgPoolOptions::new().max_connections(2).acquire_timeout(Duration::from_secs(2));
    let place = Pg { pool: pool.connect_with(place.options.clone()).await.unwrap(), ..place };
    let layer = place.layer().await;
    let mut gate = Gate::closed(&place).await;
    let handled = Arc::new(AtomicUsize::new(0));
    let handler = {
        let handled = Arc::clone(&handled);
        move |mut tx: Tx<Postgres>, queue: MessageQueue| async move {
            insert::<Pg>(&mut tx, &handled.fetch_add(1, Ordering::SeqCst).to_string()).await;
            created(&queue);
        }
    };
    let app = Router::new().route("/", any(handler)).layer(layer.clone());
    let clients: Vec<_> = (0..100)
        .map(|_| {
            let app = app.clone();
            tokio::spawn(async move { post(&app).await })
        })
        .collect();
    until("two commits hang", async || handled.load(Ordering::SeqCst) == 2).await;
    until("they are sent", async || layer.in_flight().len() == 2).await;
    for client in clients {
        client.abort();
        // Requests that waited too long have their answer.
        assert!(client.await.map_or_else(|error| error.is_cancelled(), |response| response.status() == 503));
    }
    assert_eq!(layer.in_flight().len(), 2, "those that waited for a connection are gone");
    assert_503(&post(&app).await);
    assert_eq!(handled.load(Ordering::SeqCst), 2, "the handler did not run");
    gate.open().await;
    quiet(&layer).await;
    assert_eq!((place.rows().await, place.events().await.len()), (2, 2));
}

pub async fn a_serialization_failure_is_503(place: Pg) {
    const READ: &str = "SET TRANSACTION ISOLATION LEVEL SERIALIZABLE; SELECT count(*) FROM users";
    let layer = place.layer().await;
    let other = async |mut tx: Tx<Postgres>| {
        Pg::execute(&mut tx, READ).await.unwrap();
        insert::<Pg>(&mut tx, "other").await;
    };
    let other = Router::new().route("/", any(other)).layer(layer.clone());
    let handler = {
        let other = other.clone();
        move |mut tx: Tx<Postgres>| async move {
            Pg::execute(&mut tx, READ).await.unwrap();
            insert::<Pg>(&mut tx, "Jo").await;
            // It reads what this one writes, and writes what this one has read.
            assert_eq!(post(&other).await.status(), StatusCode::OK);
        }
    };
    let app = Router::new().route("/", any(handler)).layer(layer.clone());
    assert_503(&post(&app).await);
    quiet(&layer).await;
    assert_eq!(place.texts("SELECT name FROM users").await, ["other"]);
}

pub async fn a_request_dropped_while_its_transaction_begins_leaves_no_connection_in_one(place: Pg) {
    let layer = place.layer().await;
    // The server answers when it likes: each place is tried several times.
    for polls in (0..6).cycle().take(36) {
        let begun = Arc::new(Mutex::new(false));
        let handler = {
            let begun = Arc::clone(&begun);
            move |request: Request<Body>| async move {
                let mut parts = request.into_parts().0;
                let tx = fuse_woken(polls, Tx::<Postgres>::from_request_parts(&mut parts, &())).await;
                *begun.lock().await = tx.is_some();
                drop(tx);
                // Where it was dropped, another can be begun.
                Tx::<Postgres>::from_request_parts(&mut parts, &()).await.unwrap();
                StatusCode::CONFLICT
            }
        };
        let app = Router::new().route("/", any(handler)).layer(layer.clone());
        assert_eq!(post(&app).await.status(), StatusCode::CONFLICT);
        quiet(&layer).await;
        place.assert_nothing_is_left_open().await;
        assert!(polls > 0 || !*begun.lock().await, "nothing is begun without a poll");
    }
}

fn block_on<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

pub fn a_runtime_that_ends_while_it_is_committed_is_said() {
    let log = logs::listen();
    let counts = counted_meanwhile(async {
        let place = Pg::new().await;
        let gate = Gate::closed(&place).await;
        let app = app(&place.layer().await);
        let request = tokio::spawn(async move { post(&app).await });
        gate.reached().await;
        request.abort();
    });
    assert_eq!(counts["transactions_total{outcome=failed}"], 1);
    assert_eq!(log.find(Level::ERROR, &["cause"]).len(), 1, "{:?}", log.events());
}
