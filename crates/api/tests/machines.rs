//! Requests that are passed to another machine: the real server of the socket, real connections, two routers.
#![allow(clippy::unwrap_used)]

mod net;

use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::http::{HeaderMap, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get, post};
use axum::{Json, Router};
use coracle_api::machines::{MACHINE, Near, PASSED, Place, Where, for_us, over};
use coracle_api::{ApiVersion, Machines, serve};
use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use hyper_util::rt::TokioIo;
use net::{Net, OWN};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;

/// Longest wait for anything.
const PATIENCE: Duration = Duration::from_secs(30);

async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    let done = tokio::time::timeout(PATIENCE, future).await;
    done.unwrap_or_else(|_| panic!("waited in vain: {what}"))
}

/// The container `here` is here, `web` and `job` are elsewhere.
struct Known(&'static str);

impl Near for Known {
    fn has(&self, container: &str) -> bool {
        container == "here"
    }
}

impl Where for Known {
    fn place_of<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Option<Place>> {
        let place = matches!(name, "web" | "web.container" | "gone").then(|| Place {
            machine: if name == "gone" {
                "lost".into()
            } else {
                self.0.into()
            },
            container: Some("4f3a".into()),
        });
        Box::pin(std::future::ready(place))
    }
}

/// Tells what it was asked.
async fn told(name: &'static str, uri: Uri, request: Request) -> Json<Value> {
    let (parts, body) = request.into_parts();
    let header = |key| parts.headers.get(key).map(|v| v.to_str().unwrap());
    let version = parts.extensions.get::<ApiVersion>();
    let mut told = json!({
        "name": name, "method": parts.method.as_str(), "uri": uri.to_string(), "machine": header(MACHINE),
        "passed": header(PASSED), "custom": header("x-custom"), "hop": header("keep-alive").or(header("te")),
        "version": version.map(ToString::to_string),
    });
    let body = axum::body::to_bytes(body, 64 << 20).await;
    told["bytes"] = json!(body.unwrap().len());
    Json(told)
}

fn tells(name: &'static str) -> Router {
    Router::new().fallback(move |uri: Uri, request: Request| told(name, uri, request))
}

/// A machine's daemon, as far as the socket goes.
struct Origin {
    dir: tempfile::TempDir,
    stop: watch::Sender<bool>,
}

impl Origin {
    fn start(net: &Arc<Net>, local: Router) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(dir.path().join("s")).unwrap();
        let places = Arc::new(Known("b"));
        let router = Machines::new(net.clone(), places.clone()).before(local, places);
        let stop = watch::Sender::new(false);
        tokio::spawn(serve(listener, router, stop.subscribe()));
        Self { dir, stop }
    }

    async fn send(&self, request: axum::http::Request<Body>) -> Response {
        let connection = UnixStream::connect(self.dir.path().join("s")).await;
        soon("an answer", over(connection.unwrap(), request))
            .await
            .unwrap()
    }

    async fn ask(&self, path: &str, headers: &[(&str, &str)]) -> (StatusCode, HeaderMap, Value) {
        let mut request = Request::post(path).header(header::HOST, "x");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let answer = self.send(request.body(Body::from("body")).unwrap()).await;
        let (parts, body) = answer.into_parts();
        let bytes = axum::body::to_bytes(body, 1 << 20).await.unwrap();
        let value = serde_json::from_slice(&bytes).unwrap_or_default();
        (parts.status, parts.headers, value)
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.stop.send_replace(true);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_answers() {
    let net = Net::new();
    net.serve("b", for_us(tells("b"))).await;
    let a = Origin::start(&net, tells("a"));
    let name = async |path: &str, headers: &[(&str, &str)]| a.ask(path, headers).await.2;
    assert_eq!(name("/info", &[]).await["name"], "a");
    assert_eq!(name("/info", &[(MACHINE, OWN)]).await["name"], "a");
    assert_eq!(name("/containers/here/logs", &[]).await["name"], "a");
    assert_eq!(name("/containers/nowhere/logs", &[]).await["name"], "a");
    assert_eq!(
        name("/containers/web", &[]).await["name"],
        "a",
        "to remove it is asked of a machine"
    );
    let headers = [
        (MACHINE, "b"),
        ("x-custom", "kept"),
        ("te", "trailers"),
        ("connection", "keep-alive"),
    ];
    let (status, got, found) = a.ask("/v1.44/containers/json?all=1", &headers).await;
    assert_eq!(
        (status, got[MACHINE].to_str().unwrap()),
        (StatusCode::OK, "b")
    );
    assert_eq!(
        found,
        json!({
            "name": "b", "method": "POST", "uri": "/containers/json?all=1", "machine": null, "passed": OWN,
            "custom": "kept", "hop": null, "version": "1.44", "bytes": 4,
        })
    );
    let found = name("/containers/json?machine=b&all=1", &[]).await;
    assert_eq!(
        (&found["name"], &found["uri"]),
        (&json!("b"), &json!("/containers/json?all=1"))
    );
    // By name: the container has its id there; a unit keeps its name.
    let found = name("/containers/web/logs?follow=1", &[]).await;
    assert_eq!(
        (&found["name"], &found["uri"]),
        (&json!("b"), &json!("/containers/4f3a/logs?follow=1"))
    );
    let found = name("/v1/units/web.container/logs", &[]).await;
    assert_eq!(
        (&found["name"], &found["uri"]),
        (&json!("b"), &json!("/v1/units/web.container/logs"))
    );
    // One that was passed on is answered, whoever it names, and whoever is thought to have it.
    let before = net.asked.lock().unwrap().len();
    let found = name("/containers/web/logs", &[(PASSED, "c"), (MACHINE, "b")]).await;
    assert_eq!(
        (&found["name"], &found["machine"]),
        (&json!("a"), &Value::Null)
    );
    assert_eq!(net.asked.lock().unwrap().len(), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_cannot_be_asked() {
    let net = Net::new();
    net.dead("dead").await;
    net.serve("deaf", tells("deaf")).await;
    let a = Origin::start(&net, tells("a"));
    let told = async |path: &str, machine: &str| {
        let (status, _, found) = a.ask(path, &[(MACHINE, machine)]).await;
        (status, found["message"].as_str().unwrap().to_owned())
    };
    let (status, text) = told("/info", "nobody").await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert!(
        text.contains("\"nobody\"") && text.contains("dead") && text.contains("deaf"),
        "{text}"
    );
    let (status, text) = told("/info", "dea").await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert!(text.contains("ambiguous"), "{text}");
    let (status, text) = told("/info", "dead").await;
    assert_eq!(status, StatusCode::BAD_GATEWAY);
    assert!(
        text.contains("machine dead") && text.contains("refused"),
        "{text}"
    );
    // A unit of a machine that is not known is nobody's.
    let (_, _, found) = a.ask("/containers/gone/logs", &[]).await;
    assert_eq!(found["name"], "a");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_is_where_it_was_made() {
    let net = Net::new();
    let made = || async { (StatusCode::CREATED, Json(json!({ "Id": "p1" }))) };
    let b = Router::new()
        .route("/containers/4f3a/exec", post(made))
        .merge(tells("b"));
    net.serve("b", b).await;
    let a = Origin::start(&net, tells("a"));
    assert_eq!(a.ask("/exec/p1/start", &[]).await.2["name"], "a");
    let (status, _, found) = a.ask("/containers/web/exec", &[]).await;
    assert_eq!(
        (status, &found),
        (StatusCode::CREATED, &json!({ "Id": "p1" }))
    );
    for verb in ["start", "resize?h=1&w=2", "json"] {
        let path = format!("/exec/p1/{verb}");
        let found = a.ask(&path, &[]).await.2;
        assert_eq!((&found["name"], &found["uri"]), (&json!("b"), &json!(path)));
    }
    assert_eq!(a.ask("/exec/p2/start", &[]).await.2["name"], "a");
}

#[tokio::test(flavor = "multi_thread")]
async fn large_bodies_both_ways() {
    let net = Net::new();
    let echo = any(|body: Body| async { Body::from_stream(body.into_data_stream()) });
    net.serve("b", Router::new().route("/echo", echo)).await;
    let a = Origin::start(&net, tells("a"));
    let pieces = futures_util::stream::iter(
        (0..64_u8).map(|n| Ok::<_, std::io::Error>(Bytes::from(vec![n; 256 << 10]))),
    );
    let request = Request::put("/echo")
        .header(MACHINE, "b")
        .body(Body::from_stream(pieces));
    let answer = a.send(request.unwrap()).await;
    let bytes = axum::body::to_bytes(answer.into_body(), 64 << 20);
    let bytes = soon("all bytes", bytes).await.unwrap();
    assert_eq!(bytes.len(), 16 << 20);
    assert!(
        bytes
            .chunks(256 << 10)
            .zip(0..)
            .all(|(piece, n)| piece.iter().all(|b| *b == n))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_comes_as_it_is_sent_and_ends_with_its_reader() {
    struct Ends(watch::Sender<bool>);
    impl Drop for Ends {
        fn drop(&mut self) {
            self.0.send_replace(true);
        }
    }
    let net = Net::new();
    let ended = watch::Sender::new(false);
    let tell = ended.clone();
    let follow = get(move || {
        let ends = Ends(tell.clone());
        let first =
            futures_util::stream::once(async { Ok::<_, std::io::Error>(Bytes::from("line\n")) });
        let rest =
            futures_util::stream::pending().map(move |never: Result<Bytes, std::io::Error>| {
                let _ = &ends;
                never
            });
        async move { Body::from_stream(first.chain(rest)) }
    });
    net.serve("b", Router::new().route("/containers/4f3a/logs", follow))
        .await;
    let a = Origin::start(&net, tells("a"));
    let request = Request::get("/containers/web/logs?follow=1").body(Body::empty());
    let mut body = a
        .send(request.unwrap())
        .await
        .into_body()
        .into_data_stream();
    assert_eq!(
        soon("a line", body.next()).await.unwrap().unwrap(),
        "line\n"
    );
    assert!(!*ended.borrow());
    drop(body);
    let mut told = ended.subscribe();
    soon("the stream ends there", told.wait_for(|e| *e))
        .await
        .unwrap();
}

/// Takes the connection over; what it does with it, `act` says.
fn taken<F: Future<Output = ()> + Send + 'static>(
    act: fn(TokioIo<hyper::upgrade::Upgraded>, watch::Sender<bool>) -> F,
    ended: watch::Sender<bool>,
) -> Router {
    let handler = move |mut request: Request| async move {
        let asked = axum::body::to_bytes(std::mem::take(request.body_mut()), 100).await;
        assert_eq!(asked.unwrap(), "{}");
        let upgrade = hyper::upgrade::on(&mut request);
        tokio::spawn(async move { act(TokioIo::new(upgrade.await.unwrap()), ended).await });
        let mut answer = StatusCode::SWITCHING_PROTOCOLS.into_response();
        let headers = answer.headers_mut();
        headers.insert(header::CONNECTION, "Upgrade".parse().unwrap());
        headers.insert(header::UPGRADE, "tcp".parse().unwrap());
        headers.insert("coracle-exec", "p9".parse().unwrap());
        answer
    };
    Router::new()
        .route("/containers/4f3a/exec", post(handler))
        .merge(tells("b"))
}

async fn join(a: &Origin) -> TokioIo<hyper::upgrade::Upgraded> {
    let request = Request::post("/containers/web/exec")
        .header(header::HOST, "x")
        .header(header::CONNECTION, "Upgrade")
        .header(header::UPGRADE, "tcp")
        .body(Body::from("{}"));
    let mut answer = a.send(request.unwrap()).await;
    assert_eq!(answer.status(), StatusCode::SWITCHING_PROTOCOLS);
    assert_eq!(answer.headers()["coracle-exec"], "p9");
    assert_eq!(answer.headers()[header::UPGRADE], "tcp");
    TokioIo::new(hyper::upgrade::on(&mut answer).await.unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_is_taken_over_both_ways() {
    let net = Net::new();
    let ended = watch::Sender::new(false);
    // Says something first, and counts what it gets to its end.
    let counts = |mut io: TokioIo<hyper::upgrade::Upgraded>, _| async move {
        io.write_all(b"hello").await.unwrap();
        let mut all = Vec::new();
        io.read_to_end(&mut all).await.unwrap();
        io.write_all(format!("{} bytes", all.len()).as_bytes())
            .await
            .unwrap();
        io.shutdown().await.unwrap();
    };
    net.serve("b", taken(counts, ended)).await;
    let a = Origin::start(&net, tells("a"));
    let mut io = join(&a).await;
    let mut hello = [0; 5];
    soon("its word", io.read_exact(&mut hello)).await.unwrap();
    assert_eq!(&hello, b"hello");
    io.write_all(&vec![1; 1 << 20]).await.unwrap();
    io.shutdown().await.unwrap();
    let mut rest = String::new();
    soon("its answer after our end", io.read_to_string(&mut rest))
        .await
        .unwrap();
    assert_eq!(rest, "1048576 bytes");
    // The process was made there.
    assert_eq!(a.ask("/exec/p9/resize", &[]).await.2["name"], "b");
}

#[tokio::test(flavor = "multi_thread")]
async fn either_end_ends_a_connection() {
    let net = Net::new();
    let ended = watch::Sender::new(false);
    let leaves = |mut io: TokioIo<hyper::upgrade::Upgraded>, _| async move {
        io.write_all(b"bye").await.unwrap();
        io.shutdown().await.unwrap();
    };
    net.serve("b", taken(leaves, ended.clone())).await;
    let a = Origin::start(&net, tells("a"));
    let (mut io, mut all) = (join(&a).await, String::new());
    soon("its end", io.read_to_string(&mut all)).await.unwrap();
    assert_eq!(all, "bye");
    // A client that goes takes the connection there with it.
    let waits = |mut io: TokioIo<hyper::upgrade::Upgraded>, ended: watch::Sender<bool>| async move {
        io.write_all(b"x").await.unwrap();
        let mut all = Vec::new();
        let _ = io.read_to_end(&mut all).await;
        ended.send_replace(true);
    };
    net.stop("b");
    net.serve("b", taken(waits, ended.clone())).await;
    let mut io = join(&a).await;
    soon("its word", io.read_exact(&mut [0])).await.unwrap();
    drop(io);
    let mut told = ended.subscribe();
    soon("the end there", told.wait_for(|e| *e)).await.unwrap();
    // As does the other machine's end with the client's connection.
    let waits = |io: TokioIo<hyper::upgrade::Upgraded>, _| async move { drop(io) };
    net.stop("b");
    net.serve("b", taken(waits, ended)).await;
    let (mut io, mut all) = (join(&a).await, Vec::new());
    let _ = soon("an end", io.read_to_end(&mut all)).await;
    assert!(all.is_empty());
}
