//! Machines that lie about images, break off, are silent or slow: real stores, and the routes of a machine's door with a fault.
#![allow(clippy::unwrap_used)]

#[path = "../../image/tests/common/mod.rs"]
mod common;
mod net;
mod stores;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::http::header;
use axum::middleware::{Next, from_fn};
use common::{full, sample};
use coracle_api::peer::routes;
use coracle_image::{ImageError, ImageStore, Reference};
use futures_util::StreamExt as _;
use net::Net;
use std::io;
use std::time::Duration;
use stores::{asking, good, home, nothing, offered, patient, pull, whole};

/// Bytes below which an answer is no layer.
const SMALL: u64 = 64 << 10;

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
    let (net, a) = (Net::new(), home());
    let (_registry, name) = offered().await;
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
