//! Images from other machines: real stores, the routes that a machine's door has, over loopback.
#![allow(clippy::unwrap_used)]

#[path = "../../image/tests/common/mod.rs"]
mod common;
mod net;
mod stores;

use axum::body::Body;
use axum::extract::Request;
use axum::http::{Method, StatusCode, header};
use common::{full, push, sample};
use coracle_api::machines::over;
use coracle_api::peer::routes;
use coracle_image::{ErrorKind, Reference, Silent};
use net::Net;
use std::io;
use std::time::Duration;
use stores::{asking, good, home, offered, patient, whole};

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
    let (net, a) = (Net::new(), home());
    let (registry, name) = offered().await;
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
async fn a_layer_from_another_source_is_of_use() {
    let (net, a) = (Net::new(), home());
    let (registry, name) = offered().await;
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
