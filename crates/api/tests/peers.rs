//! Images from other machines: real stores, the routes that a machine's door has, over loopback; machines that lie, break off, are silent.
#![allow(clippy::unwrap_used)]

#[path = "../../image/tests/common/mod.rs"]
mod common;
mod net;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::http::{Method, StatusCode, header};
use axum::middleware::{Next, from_fn};
use common::{Home, files, full, home_with, push, registry, sample};
use coracle_api::machines::{PeersElsewhere, over};
use coracle_api::peer::routes;
use coracle_image::{ErrorKind, Image, ImageError, ImageStore, Reference, RegistryConfig, Silent};
use futures_util::StreamExt as _;
use net::Net;
use std::io;
use std::sync::Arc;
use std::time::Duration;

/// Bytes below which an answer is no layer.
const SMALL: u64 = 64 << 10;

/// A store that asks the machines of a net.
fn asking(net: &Arc<Net>, patience: Duration) -> Home {
    let home = home_with(RegistryConfig {
        backoff: Duration::from_millis(5),
        attempts: 2,
        peer_patience: patience,
        ..RegistryConfig::default()
    });
    home.store
        .set_peers(Arc::new(PeersElsewhere::new(net.clone())));
    home
}

fn patient(net: &Arc<Net>) -> Home {
    asking(net, Duration::from_secs(30))
}

fn home() -> Home {
    home_with(RegistryConfig::default())
}

async fn pull(store: &ImageStore, name: &str) -> Result<Image, ImageError> {
    let reference = Reference::parse_normalized(name).unwrap();
    store.pull(&reference, None, None, &Silent).await
}

async fn good(store: &ImageStore, name: &str) -> Image {
    let pulled = pull(store, name).await;
    pulled.unwrap_or_else(|e| panic!("{name}: {}", full(&e)))
}

/// The image is whole: it can be saved, which reads and checks every layer.
async fn whole(home: &Home, name: &str, like: &Image) {
    let image = home.store.get(name).unwrap();
    assert_eq!((image.id, &image.layers), (like.id, &like.layers));
    for dir in home.store.layer_dirs(&image.id).unwrap() {
        assert_eq!(std::fs::read(dir.join("etc/motd")).unwrap(), b"hello");
        assert_eq!(std::fs::read(dir.join("big")).unwrap(), vec![7; 3 << 20]);
    }
    common::save(&home.store, name, &home.dir.path().join("again.tar")).await;
}

fn nothing(home: &Home) {
    assert!(home.store.list().is_empty());
    home.store.collect().unwrap();
    for dir in ["content", "layers", "tmp"] {
        let left = files(&home.dir.path().join(dir));
        assert!(left.is_empty(), "{left:?}");
    }
}

/// How a machine misbehaves with layers: what becomes of the pieces of a body.
type Fault = fn(Body) -> Body;

fn with(store: &ImageStore, fault: Fault) -> Router {
    routes(store.clone()).layer(from_fn(move |request: Request, next: Next| async move {
        let content = request.uri().path().starts_with("/v1/content/");
        let answer = next.run(request).await;
        let length = answer.headers().get(header::CONTENT_LENGTH);
        let length = length.and_then(|l| l.to_str().unwrap().parse().ok());
        if content && length.is_none_or(|l: u64| l > SMALL) {
            return answer.map(fault);
        }
        answer
    }))
}

/// Other bytes.
fn lies(body: Body) -> Body {
    Body::from_stream(body.into_data_stream().map(|piece| {
        let mut bytes = piece?.to_vec();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        Ok::<_, axum::Error>(Bytes::from(bytes))
    }))
}

/// The first megabyte or so.
fn beginning(body: Body) -> impl futures_util::Stream<Item = Result<Bytes, axum::Error>> {
    let mut sent = 0;
    body.into_data_stream().take_while(move |piece| {
        sent += piece.as_ref().map_or(0, Bytes::len);
        std::future::ready(sent < 3 << 19)
    })
}

/// Not more than the beginning.
fn breaks_off(body: Body) -> Body {
    let broken = async { Err(axum::Error::new(io::Error::other("broken"))) };
    Body::from_stream(beginning(body).chain(futures_util::stream::once(broken)))
}

/// Another beginning, and no more.
fn lies_and_breaks_off(body: Body) -> Body {
    breaks_off(lies(body))
}

/// The beginning, and then nothing for ever.
fn falls_silent(body: Body) -> Body {
    Body::from_stream(beginning(body).chain(futures_util::stream::pending()))
}

/// Tiny pieces with pauses.
fn drips(body: Body) -> Body {
    let pieces = body.into_data_stream().flat_map(|piece| {
        let bytes = piece.unwrap();
        futures_util::stream::unfold(bytes, |mut rest| async move {
            tokio::time::sleep(Duration::from_millis(20)).await;
            let piece = rest.split_to(rest.len().min(16));
            (!piece.is_empty()).then_some((Ok::<_, axum::Error>(piece), rest))
        })
    });
    Body::from_stream(pieces)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_machine_made_is_had_by_all() {
    let (net, a) = (Net::new(), home());
    sample(&a, "localhost/app:1").await;
    let made = a.store.get("localhost/app:1").unwrap();
    net.serve("a", routes(a.store.clone())).await;
    let b = patient(&net);
    let image = good(&b.store, "localhost/app:1").await;
    whole(&b, "localhost/app:1", &made).await;
    assert!(
        image.repo_digests.is_empty(),
        "it must not pass for one that a registry has: {:?}",
        image.repo_digests
    );
    // The first one has gone; the second has it all, by the digest of the manifest too.
    let reference = Reference::parse_normalized("localhost/app:1").unwrap();
    let held = b.store.held(&reference).unwrap();
    assert_eq!(
        held,
        coracle_image::peers::Held {
            added: held.added,
            ..a.store.held(&reference).unwrap()
        }
    );
    net.stop("a");
    net.serve("b", routes(b.store.clone())).await;
    let by_digest = format!("localhost/app@{}", held.manifest);
    assert_eq!(b.store.get(&by_digest).unwrap().id, made.id);
    let c = patient(&net);
    good(&c.store, &by_digest).await;
    whole(&c, &by_digest, &made).await;
    // What nobody has.
    let reference = Reference::parse_normalized("localhost/none").unwrap();
    let error = c
        .store
        .pull_from_peers(&reference, None, &Silent)
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "{}", full(&error));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_registry_says_what_a_tag_is_and_machines_give_it() {
    let (net, source, a) = (Net::new(), home(), home());
    let registry = registry("");
    let name = format!("{}/app:1", registry.address);
    push(
        &sample(&source, "app:1").await,
        &registry.address,
        "app:1",
        &[],
    );
    let first = good(&a.store, &name).await;
    net.serve("a", routes(a.store.clone())).await;
    net.dead("gone").await;
    let b = patient(&net);
    let pulled = good(&b.store, &name).await;
    assert_eq!(
        (pulled.id, &pulled.repo_digests),
        (first.id, &first.repo_digests)
    );
    whole(&b, &name, &first).await;
    let manifest = pulled.repo_digests[0]
        .split_once("sha256:")
        .unwrap()
        .1
        .to_owned();
    assert_eq!(
        net.asked_for("a", "/v1/images"),
        0,
        "the tag was the registry's to say"
    );
    assert!(
        net.asked_for("a", "/v1/content/sha256:") >= 2,
        "config and layer came from the machine"
    );
    // The tag moves.
    let other = home();
    let options = coracle_image::ImportOptions {
        reference: Some(Reference::parse_normalized("app:1").unwrap()),
        ..Default::default()
    };
    let tar = common::tar(&[common::entry(b'0', "new", "", b"new")]);
    other
        .store
        .import(io::Cursor::new(tar), options)
        .await
        .unwrap();
    let archive = other.dir.path().join("new.tar");
    common::save(&other.store, "app:1", &archive).await;
    push(&archive, &registry.address, "app:1", &[]);
    let moved = good(&b.store, &name).await;
    assert_ne!(
        moved.id, first.id,
        "a machine has the old one under that name"
    );
    // The registry has gone: the name is what a machine has, and a digest is the same everywhere.
    let address = registry.address.clone();
    drop(registry);
    let c = patient(&net);
    assert_eq!(good(&c.store, &name).await.id, first.id);
    let d = patient(&net);
    let by_digest = format!("{address}/app@sha256:{manifest}");
    assert_eq!(good(&d.store, &by_digest).await.id, first.id);
    whole(&d, &by_digest, &first).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_that_lies_is_found_out() {
    for fault in [lies as Fault, lies_and_breaks_off] {
        let (net, a) = (Net::new(), home());
        sample(&a, "localhost/app:1").await;
        let made = a.store.get("localhost/app:1").unwrap();
        net.serve("liar", with(&a.store, fault)).await;
        let b = patient(&net);
        let error = pull(&b.store, "localhost/app:1").await.unwrap_err();
        assert!(
            matches!(error, ImageError::Layer { .. } | ImageError::Peers { .. }),
            "{}",
            full(&error)
        );
        nothing(&b);
        // Whichever is asked first, the honest one gives it.
        net.serve("a", routes(a.store.clone())).await;
        for _ in 0..4 {
            let c = patient(&net);
            good(&c.store, "localhost/app:1").await;
            whole(&c, "localhost/app:1", &made).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn lies_about_names_and_documents() {
    let (net, a) = (Net::new(), home());
    sample(&a, "localhost/app:1").await;
    let made = a.store.get("localhost/app:1").unwrap();
    net.serve("a", routes(a.store.clone())).await;
    // It has what nobody ever made, and newer than all.
    let held = a
        .store
        .held(&Reference::parse_normalized("localhost/app:1").unwrap())
        .unwrap();
    let mut newer = serde_json::to_value(&held).unwrap();
    newer["created"] = "2999-01-01T00:00:00Z".into();
    newer["manifest"] = coracle_image::Digest::of(b"nothing").to_string().into();
    let all = move |request: Request| async move {
        let path = request.uri().path().to_owned();
        match path.as_str() {
            "/v1/images" => newer.to_string(),
            "/v1/content" => {
                let query = request.uri().query().unwrap().to_owned();
                let digests = query.strip_prefix("digests=").unwrap().split(',');
                let digests: Vec<String> = digests.map(|d| format!("sha256:{d}")).collect();
                serde_json::json!({ "version": 1, "here": digests }).to_string()
            }
            _ => "{}".into(),
        }
    };
    net.serve("liar", Router::new().fallback(all)).await;
    net.serve("mad", Router::new().fallback(|| async { "<html>" }))
        .await;
    for _ in 0..3 {
        let b = patient(&net);
        good(&b.store, "localhost/app:1").await;
        whole(&b, "localhost/app:1", &made).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_machine_goes_on_where_one_stops() {
    for (fault, patience) in [
        (breaks_off as Fault, 30_000),
        (falls_silent, 500),
        (drips, 500),
    ] {
        let (net, a) = (Net::new(), home());
        sample(&a, "localhost/app:1").await;
        let made = a.store.get("localhost/app:1").unwrap();
        net.serve("stops", with(&a.store, fault)).await;
        net.serve("a", routes(a.store.clone())).await;
        // By chance either is asked first.
        let mut resumed = false;
        for _ in 0..30 {
            let b = asking(&net, Duration::from_millis(patience));
            good(&b.store, "localhost/app:1").await;
            whole(&b, "localhost/app:1", &made).await;
            let asked = std::mem::take(&mut *net.asked.lock().unwrap());
            resumed = asked
                .iter()
                .any(|(m, _, range)| m == "a" && range.is_some());
            if resumed {
                break;
            }
        }
        assert!(resumed, "what had come was used ({patience})");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_registry_is_left_when_all_machines_fail() {
    let (net, source, a) = (Net::new(), home(), home());
    let registry = registry("");
    let name = format!("{}/app:1", registry.address);
    push(
        &sample(&source, "app:1").await,
        &registry.address,
        "app:1",
        &[],
    );
    let first = good(&a.store, &name).await;
    for fault in [lies as Fault, breaks_off, lies_and_breaks_off] {
        net.serve("a", with(&a.store, fault)).await;
        let b = patient(&net);
        good(&b.store, &name).await;
        whole(&b, &name, &first).await;
        net.stop("a");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_layer_from_another_source_is_of_use() {
    let (net, source, a) = (Net::new(), home(), home());
    let registry = registry("");
    let name = format!("{}/app:1", registry.address);
    push(
        &sample(&source, "app:1").await,
        &registry.address,
        "app:1",
        &[],
    );
    // It has the layer already, and so never fetches the compressed one that the registry's manifest names.
    let archive = sample(&a, "own:1").await;
    let first = good(&a.store, &name).await;
    drop((registry, archive));
    net.serve("a", routes(a.store.clone())).await;
    let b = patient(&net);
    good(&b.store, &name).await;
    whole(&b, &name, &first).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_layer_that_was_changed_on_the_disk_is_not_passed_on() {
    let (net, a, c) = (Net::new(), home(), home());
    for home in [&a, &c] {
        sample(home, "localhost/app:1").await;
    }
    let made = c.store.get("localhost/app:1").unwrap();
    let spoilt = a.store.get("localhost/app:1").unwrap();
    for dir in a.store.layer_dirs(&spoilt.id).unwrap() {
        std::fs::write(dir.join("etc/motd"), b"HELLO").unwrap();
    }
    net.serve("a", routes(a.store.clone())).await;
    let b = patient(&net);
    let error = pull(&b.store, "localhost/app:1").await.unwrap_err();
    assert!(
        matches!(error, ImageError::Layer { .. }),
        "{}",
        full(&error)
    );
    nothing(&b);
    net.serve("c", routes(c.store.clone())).await;
    // Both made the same layer; their images differ in the time they were made.
    good(&b.store, "localhost/app:1").await;
    let image = b.store.get("localhost/app:1").unwrap();
    assert_eq!(image.layers, made.layers);
    let dirs = b.store.layer_dirs(&image.id).unwrap();
    assert_eq!(std::fs::read(dirs[0].join("etc/motd")).unwrap(), b"hello");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_registry_does_not_keep_what_a_machine_has() {
    let (net, a) = (Net::new(), home());
    // It takes connections and never answers.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let name = format!("{}/app:1", silent.local_addr().unwrap());
    sample(&a, &name).await;
    let made = a.store.get(&name).unwrap();
    net.serve("a", routes(a.store.clone())).await;
    let b = asking(&net, Duration::from_millis(500));
    good(&b.store, &name).await;
    whole(&b, &name, &made).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_routes_answer() {
    let a = home();
    sample(&a, "localhost/app:1").await;
    let image = a.store.get("localhost/app:1").unwrap();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let router = routes(a.store.clone());
    let server = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    let ask = async |method: Method, path: &str, range: Option<&str>| {
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "x");
        if let Some(range) = range {
            request = request.header(header::RANGE, range);
        }
        let connection = tokio::net::TcpStream::connect(address).await.unwrap();
        let request = request.body(Body::empty()).unwrap();
        let answer = over(connection, request).await.unwrap();
        let (parts, body) = answer.into_parts();
        let body = axum::body::to_bytes(body, 64 << 20).await;
        (parts.status, parts.headers, body.unwrap_or_default())
    };
    let get = async |path: &str, range: Option<&str>| ask(Method::GET, path, range).await;
    let config = format!("/v1/content/{}", image.id);
    let (status, headers, body) = get(&config, None).await;
    assert_eq!((status, &body[..]), (StatusCode::OK, &image.raw_config[..]));
    assert_eq!(
        headers[header::CONTENT_LENGTH],
        image.raw_config.len().to_string()
    );
    // Of a layer that is packed on the way, too.
    let layer = format!("/v1/content/{}", image.layers[0]);
    let (status, _, all) = get(&layer, None).await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(coracle_image::Digest::of(&all), image.layers[0]);
    for path in [&config, &layer] {
        let (_, _, all) = get(path, None).await;
        let (status, headers, body) = get(path, Some("bytes=100-")).await;
        assert_eq!(
            (status, &body[..]),
            (StatusCode::PARTIAL_CONTENT, &all[100..])
        );
        let (last, length) = (all.len() - 1, all.len());
        assert_eq!(
            headers[header::CONTENT_RANGE],
            format!("bytes 100-{last}/{length}")
        );
        assert_eq!(
            get(path, Some("bytes=0-9")).await.2,
            all,
            "other ranges are not honoured"
        );
        let beyond = format!("bytes={}-", all.len() + 1);
        assert_eq!(
            get(path, Some(&beyond)).await.0,
            StatusCode::RANGE_NOT_SATISFIABLE
        );
        let (status, headers, body) = ask(Method::HEAD, path, None).await;
        assert_eq!((status, body.len()), (StatusCode::OK, 0));
        assert_eq!(headers[header::CONTENT_LENGTH], all.len().to_string());
    }
    let nothing = coracle_image::Digest::of(b"nothing");
    for (path, status) in [
        (format!("/v1/content/{nothing}"), StatusCode::NOT_FOUND),
        (
            "/v1/content/sha256:..%2f..%2fimages".into(),
            StatusCode::BAD_REQUEST,
        ),
        ("/v1/content?digests=xyz".into(), StatusCode::BAD_REQUEST),
        (
            "/v1/images?reference=localhost/none".into(),
            StatusCode::NOT_FOUND,
        ),
        ("/v1/images?reference=UPPER".into(), StatusCode::BAD_REQUEST),
        ("/v1/images".into(), StatusCode::BAD_REQUEST),
    ] {
        let (found, _, body) = get(&path, None).await;
        assert_eq!(found, status, "{path}");
        assert!(String::from_utf8_lossy(&body).contains("message"), "{path}");
    }
    let both = format!(
        "/v1/content?digests={},{}",
        nothing.hex(),
        image.layers[0].hex()
    );
    let here: serde_json::Value = serde_json::from_slice(&get(&both, None).await.2).unwrap();
    assert_eq!(
        here,
        serde_json::json!({ "version": 1, "here": [image.layers[0].to_string()] })
    );
    server.abort();
}
