//! What the layer costs a server: requests a second over loopback, with the layer and without.
//!
//!     cargo bench --bench http
//!
//! Two axum servers that say hello and their client live in one process. The client keeps 16 connections to each,
//! one request in flight on each, and asks now one server, now the other, for a tenth of a second at a time. Each
//! ratio is taken within one pair of neighbouring turns, in alternating order.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use axum::Router;
use axum::http::{Request, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use support::{Spread, Variant};
use tokio::net::{TcpListener, TcpStream};

const CONNECTIONS: usize = 16;
const PAIRS: usize = 101;
const TURN: Duration = Duration::from_millis(100);

#[tokio::main(worker_threads = 2)]
async fn main() {
    let mut hello = Load::new(support::router(Variant::Bare)).await;
    for (variant, target) in
        [(Variant::Extension, ""), (Variant::Messaging, "target >= 0.98"), (Variant::Message, "")]
    {
        let mut layered = Load::new(support::router(variant)).await;
        hello.turn().await;
        layered.turn().await;
        let (mut without, mut with) = (Vec::new(), Vec::new());
        for pair in 0..PAIRS {
            if pair % 2 == 0 {
                without.push(hello.turn().await);
                with.push(layered.turn().await);
            } else {
                with.push(layered.turn().await);
                without.push(hello.turn().await);
            }
        }
        let ratios = with.iter().zip(&without).map(|(with, without)| with / without).collect();
        println!("hello, {CONNECTIONS} connections kept, {PAIRS} pairs of turns");
        println!("  bare       {:.0} requests/s", Spread::of(without));
        println!("  {variant:<10} {:.0} requests/s", Spread::of(with));
        println!("  {variant} / bare   {:.3}   {target}", Spread::of(ratios));
    }
}

type Connection = SendRequest<Empty<bytes::Bytes>>;

/// A server, and the connections to it.
struct Load {
    connections: Vec<Connection>,
}

impl Load {
    async fn new(router: Router) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
        let address = listener.local_addr().expect("it is bound");
        tokio::spawn(axum::serve(listener, router).into_future());
        let mut connections = Vec::new();
        for _ in 0..CONNECTIONS {
            let stream = TcpStream::connect(address).await.expect("the server listens");
            stream.set_nodelay(true).expect("it is TCP");
            let (connection, driver) = handshake(TokioIo::new(stream)).await.expect("it speaks HTTP");
            tokio::spawn(driver);
            connections.push(connection);
        }
        Self { connections }
    }

    /// Requests a second, over one turn.
    async fn turn(&mut self) -> f64 {
        let stop = Arc::new(AtomicBool::new(false));
        let begun = Instant::now();
        let tasks: Vec<_> = self
            .connections
            .drain(..)
            .map(|connection| tokio::spawn(ask(connection, Arc::clone(&stop))))
            .collect();
        tokio::time::sleep(TURN).await;
        stop.store(true, Ordering::Relaxed);
        let mut requests = 0;
        for task in tasks {
            let (connection, asked) = task.await.expect("it does not panic");
            self.connections.push(connection);
            requests += asked;
        }
        f64::from(requests) / begun.elapsed().as_secs_f64()
    }
}

async fn ask(mut connection: Connection, stop: Arc<AtomicBool>) -> (Connection, u32) {
    let mut requests = 0;
    while !stop.load(Ordering::Relaxed) {
        let request = Request::get("/").header("host", "localhost").body(Empty::new());
        connection.ready().await.expect("the connection is kept");
        let response = connection.send_request(request.expect("it is a request")).await;
        let response = response.expect("the server answers");
        assert_eq!(response.status(), StatusCode::OK);
        response.into_body().collect().await.expect("the body comes");
        requests += 1;
    }
    (connection, requests)
}
