//! A small HTTP/1.1 server.
//!
//! # What it guarantees
//! At most [`CONNECTIONS_MAX`] connections; further ones are closed at once. The head of a request comes within
//! [`HEAD_TIME`], has at most [`HEADERS_MAX`] lines and [`HEADER_MAX_BYTES`]; a connection lives at most
//! [`LIFETIME_MAX`]. Bodies are not read. There is nothing to write to: everything but GET and HEAD is refused.
//! There is no authentication either: it belongs on a loopback address or a network for management.

use super::{health, metrics};
use crate::clock::Clock;
use crate::shell::view::Console;
use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// The server, listening.
#[derive(Debug)]
pub struct WebServer {
    listener: TcpListener,
    address: SocketAddr,
}

impl WebServer {
    /// Listens.
    ///
    /// # Errors
    /// The address is taken or not one of this machine.
    pub async fn bind(listen: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind(listen)
            .await
            .map_err(|error| io::Error::new(error.kind(), format!("web on {listen}: {error}")))?;
        let address = listener.local_addr()?;
        Ok(Self { listener, address })
    }

    /// Where it listens, port filled in.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until the future is dropped, which ends all connections.
    pub async fn serve(self, console: Arc<dyn Console>, clock: Arc<dyn Clock>) {
        let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        let mut connections = JoinSet::new();
        loop {
            let accepted = tokio::select! {
                biased;
                Some(_) = connections.join_next(), if !connections.is_empty() => continue,
                accepted = self.listener.accept() => accepted,
            };
            let Ok((stream, _)) = accepted else {
                clock.sleep(ACCEPT_PAUSE).await;
                continue;
            };
            // Dropping the stream closes it.
            let Ok(place) = Arc::clone(&places).try_acquire_owned() else { continue };
            let (console, end) = (Arc::clone(&console), clock.sleep(LIFETIME_MAX));
            connections.spawn(async move {
                tokio::select! {
                    biased;
                    () = connection(stream, console) => {}
                    () = end => {}
                }
                drop(place);
            });
        }
    }
}

async fn connection(stream: TcpStream, console: Arc<dyn Console>) {
    let service = service_fn(move |request: Request<Incoming>| {
        let console = Arc::clone(&console);
        async move { Ok::<_, Infallible>(answer(&request, console.as_ref())) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME)
        .max_buf_size(HEADER_MAX_BYTES)
        .max_headers(HEADERS_MAX)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "web connection ended");
    }
}

fn answer(request: &Request<Incoming>, console: &dyn Console) -> Response<Full<Bytes>> {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut response = plain(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n");
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    match request.uri().path() {
        "/metrics" => match metrics::text(&console.snapshot()) {
            Ok(text) => of(StatusCode::OK, metrics::CONTENT_TYPE, text),
            Err(error) => plain(StatusCode::INTERNAL_SERVER_ERROR, &format!("{error}\n")),
        },
        "/health" => {
            let health = health::of(&console.snapshot());
            let status = if health.is_serving() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
            of(status, "application/json", health.document())
        }
        "/" => plain(StatusCode::OK, "/metrics for Prometheus, /health for monitors\n"),
        _ => plain(StatusCode::NOT_FOUND, "there is /metrics and /health\n"),
    }
}

fn plain(status: StatusCode, text: &str) -> Response<Full<Bytes>> {
    of(status, "text/plain; charset=utf-8", text.to_owned())
}

fn of(status: StatusCode, kind: &'static str, text: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// Connections at a time; further ones are closed at once.
pub const CONNECTIONS_MAX: usize = 32;
/// The head of a request, at most; a longer one closes the connection.
pub const HEADER_MAX_BYTES: usize = 16 << 10;
/// Header lines of a request, at most; a request with more is refused.
pub const HEADERS_MAX: usize = 64;
/// The head of a request has come by then, or the connection is closed.
const HEAD_TIME: Duration = Duration::from_secs(10);
/// No connection lives longer, so that slow readers and idle ones give their places back.
pub const LIFETIME_MAX: Duration = Duration::from_secs(120);
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{BoxFuture, SystemClock};
    use crate::shell::view::{AuditView, Snapshot, VolumeView};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    struct Fixed;

    impl Console for Fixed {
        fn snapshot(&self) -> Snapshot {
            let volume =
                VolumeView { name: "data1".into(), state: "abnormal".into(), ..VolumeView::default() };
            Snapshot { volumes: vec![volume], ..Snapshot::default() }
        }

        fn audit(&self, _: usize) -> Vec<AuditView> {
            Vec::new()
        }

        fn changed(&self) -> BoxFuture<'_, ()> {
            Box::pin(std::future::pending())
        }
    }

    async fn with_server<F: Future<Output = ()>>(test: impl FnOnce(SocketAddr) -> F) {
        let server = WebServer::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let address = server.address();
        tokio::select! {
            () = server.serve(Arc::new(Fixed), Arc::new(SystemClock::new())) => unreachable!(),
            () = test(address) => {}
        }
    }

    async fn ask(address: SocketAddr, head: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        // The other side may close before all of it is written.
        let _ = stream.write_all(head.as_bytes()).await;
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        String::from_utf8(answer).unwrap()
    }

    fn get(path: &str) -> String {
        format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    }

    #[tokio::test]
    async fn pages_are_served_and_everything_else_refused() {
        with_server(|address| async move {
            let metrics = ask(address, &get("/metrics")).await;
            assert!(metrics.starts_with("HTTP/1.1 200"), "{metrics}");
            assert!(metrics.contains("holdfast_volume_reads_total{volume=\"data1\"} 0"), "{metrics}");
            assert!(ask(address, &get("/health")).await.starts_with("HTTP/1.1 503"));
            assert!(ask(address, &get("/other")).await.starts_with("HTTP/1.1 404"));
            let post = get("/metrics").replace("GET", "POST");
            assert!(ask(address, &post).await.starts_with("HTTP/1.1 405"));
        })
        .await;
    }

    #[tokio::test]
    async fn a_head_that_is_too_long_or_has_too_many_lines_is_refused() {
        with_server(|address| async move {
            let long = format!("GET / HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(2 * HEADER_MAX_BYTES));
            assert!(!ask(address, &long).await.contains(" 200 "));
            let lines: String = (0..=HEADERS_MAX).map(|n| format!("H{n}: x\r\n")).collect();
            assert!(!ask(address, &format!("GET / HTTP/1.1\r\n{lines}\r\n")).await.contains(" 200 "));
            assert!(!ask(address, "no http at all\r\n\r\n").await.contains(" 200 "));
        })
        .await;
    }

    #[tokio::test]
    async fn connections_beyond_the_limit_are_closed_at_once() {
        with_server(|address| async move {
            let mut held = Vec::new();
            for _ in 0..CONNECTIONS_MAX {
                held.push(TcpStream::connect(address).await.unwrap());
            }
            // The server accepts in order: when this one is closed, those before it have their places.
            assert_eq!(ask(address, &get("/")).await, "");
            drop(held);
            for _ in 0..100 {
                if ask(address, &get("/")).await.contains(" 200 ") {
                    return;
                }
                tokio::task::yield_now().await;
            }
            panic!("places are not given back");
        })
        .await;
    }
}
