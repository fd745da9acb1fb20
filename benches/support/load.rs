//! A server, its clients in the same process, and requests over loopback.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use axum::Router;
use axum::http::{Method, Request};
use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};

type Connection = SendRequest<Empty<Bytes>>;

/// A server, and the connections to it, which are kept.
pub(crate) struct Load {
    method: Method,
    connections: Vec<Connection>,
}

impl Load {
    pub(crate) async fn new(router: Router, method: Method, connections: usize) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
        let address = listener.local_addr().expect("it is bound");
        tokio::spawn(axum::serve(listener, router).into_future());
        let mut open = Vec::new();
        for _ in 0..connections {
            let stream = TcpStream::connect(address).await.expect("the server listens");
            stream.set_nodelay(true).expect("it is TCP");
            let (connection, driver) = handshake(TokioIo::new(stream)).await.expect("it speaks HTTP");
            tokio::spawn(driver);
            open.push(connection);
        }
        Self { method, connections: open }
    }

    /// Requests a second over a turn, one in flight on each connection.
    pub(crate) async fn turn(&mut self, time: Duration) -> f64 {
        let stop = Arc::new(AtomicBool::new(false));
        let begun = Instant::now();
        let tasks: Vec<_> = self
            .connections
            .drain(..)
            .map(|connection| tokio::spawn(ask(connection, self.method.clone(), Arc::clone(&stop))))
            .collect();
        tokio::time::sleep(time).await;
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

async fn ask(mut connection: Connection, method: Method, stop: Arc<AtomicBool>) -> (Connection, u32) {
    let mut requests = 0;
    while !stop.load(Ordering::Relaxed) {
        let request = Request::builder().method(method.clone()).uri("/").header("host", "localhost");
        connection.ready().await.expect("the connection is kept");
        let response = connection.send_request(request.body(Empty::new()).expect("it is a request")).await;
        let response = response.expect("the server answers");
        assert!(response.status().is_success(), "{}", response.status());
        response.into_body().collect().await.expect("the body comes");
        requests += 1;
    }
    (connection, requests)
}
