//! Pulling from a small server of the test's own, which says exactly what a registry might say.
#![allow(clippy::unwrap_used)]

mod common;

#[path = "answers/elsewhere.rs"]
mod elsewhere;
#[path = "answers/lists.rs"]
mod lists;

use common::{entry, files, full, gzip, home, home_with, tar};
use coracle_image::error::Result;
use coracle_image::{Credentials, ErrorKind, Image, ImageStore, Reference, RegistryConfig, Silent};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use std::collections::HashMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";

/// `GET /path?query`, the headers in small letters, the body.
struct Asked {
    line: String,
    headers: HashMap<String, String>,
    body: String,
}

#[derive(Clone, Default)]
struct Answer {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    /// Sends half of the body and then nothing more.
    stalls: bool,
}

fn answer(status: u16, kind: &str, body: impl Into<Vec<u8>>) -> Answer {
    Answer {
        status,
        headers: vec![("content-type".into(), kind.into())],
        body: body.into(),
        stalls: false,
    }
}

fn denied(code: &str, status: u16) -> Answer {
    let body = json!({ "errors": [{ "code": code, "message": code.to_lowercase() }] });
    answer(status, "application/json", body.to_string())
}

/// Serves until the test's process ends; gives `host:port`.
fn serve(handler: impl Fn(&str, &Asked) -> Answer + Send + Sync + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let handler = Arc::new(handler);
    let own = address.clone();
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let (handler, own) = (handler.clone(), own.clone());
            // A client that goes away ends its thread, whatever the step.
            std::thread::spawn(move || one(&client, &*handler, &own));
        }
    });
    address
}

fn one(client: &TcpStream, handler: &dyn Fn(&str, &Asked) -> Answer, own: &str) -> Option<()> {
    let mut reader = BufReader::new(client);
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let mut headers = HashMap::new();
    loop {
        let mut header = String::new();
        reader.read_line(&mut header).ok()?;
        match header.trim().split_once(':') {
            Some((key, value)) => headers.insert(key.to_lowercase(), value.trim().to_owned()),
            None => break,
        };
    }
    let length = headers
        .get("content-length")
        .map_or(0, |l| l.parse().unwrap());
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    let asked = Asked {
        line: line.rsplit_once(' ')?.0.to_owned(),
        headers,
        body: String::from_utf8(body).ok()?,
    };
    let given = handler(own, &asked);
    let mut head = format!(
        "HTTP/1.1 {} x\r\nconnection: close\r\ncontent-length: {}\r\n",
        given.status,
        given.body.len()
    );
    for (key, value) in &given.headers {
        head += &format!("{key}: {value}\r\n");
    }
    let mut client = client;
    client.write_all((head + "\r\n").as_bytes()).ok()?;
    let end = if given.stalls {
        given.body.len() / 2
    } else {
        given.body.len()
    };
    client.write_all(&given.body[..end]).ok()?;
    if given.stalls {
        // Until the other side has had enough.
        let _ = reader.read(&mut [0]);
    }
    Some(())
}

fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

/// What a registry holds, by the last part of the path.
#[derive(Clone, Default)]
struct Content(HashMap<String, (String, Vec<u8>)>);

impl Content {
    fn put(&mut self, kind: &str, bytes: Vec<u8>) -> Value {
        let digest = digest(&bytes);
        let descriptor = json!({ "mediaType": kind, "size": bytes.len(), "digest": digest });
        self.0.insert(digest, (kind.into(), bytes));
        descriptor
    }

    /// Adds an image of one layer; `diff_id` is what its config says of the layer.
    fn image(&mut self, kind: &str, platform: (&str, &str), layer: &[u8], diff_id: &str) -> Value {
        let layer_type = "application/vnd.oci.image.layer.v1.tar+gzip";
        let layer = self.put(layer_type, layer.to_vec());
        let config = json!({
            "architecture": platform.0, "os": platform.1, "config": {},
            "rootfs": { "type": "layers", "diff_ids": [diff_id] },
        });
        let config_type = "application/vnd.oci.image.config.v1+json";
        let config = self.put(config_type, config.to_string().into_bytes());
        let manifest =
            json!({ "schemaVersion": 2, "mediaType": kind, "config": config, "layers": [layer] });
        self.put(kind, manifest.to_string().into_bytes())
    }

    fn tag(&mut self, tag: &str, digest: &str) {
        let found = self.0[digest].clone();
        self.0.insert(tag.into(), found);
    }

    fn answer(&self, line: &str) -> Answer {
        let (_, name) = line.rsplit_once('/').unwrap();
        match self.0.get(name) {
            Some((kind, bytes)) => answer(200, kind, bytes.clone()),
            None if line.ends_with("/v2/") => answer(200, "application/json", "{}"),
            None => denied("MANIFEST_UNKNOWN", 404),
        }
    }
}

/// A layer of one file, plain.
fn layer(text: &str) -> Vec<u8> {
    tar(&[entry(b'0', "file", "", text.as_bytes())])
}

/// One image for this machine, with the tag `1`.
fn sample() -> Content {
    let mut content = Content::default();
    let plain = layer("hello");
    let host = coracle_image::Platform::host();
    let platform = (host.architecture.as_str(), "linux");
    let manifest = content.image(MANIFEST, platform, &gzip(&plain), &digest(&plain));
    content.tag("1", manifest["digest"].as_str().unwrap());
    content
}

async fn pull(store: &ImageStore, name: &str, who: Option<&Credentials>) -> Result<Image> {
    let reference = Reference::parse_normalized(name).unwrap();
    store.pull(&reference, None, who, &Silent).await
}

fn nothing_left(home: &common::Home) {
    assert!(home.store.list().is_empty());
    assert!(files(&home.dir.path().join("layers")).is_empty());
    assert!(files(&home.dir.path().join("tmp")).is_empty());
}

fn me(password: &str, identity_token: Option<&str>) -> Credentials {
    Credentials {
        username: "me".into(),
        password: password.into(),
        identity_token: identity_token.map(Into::into),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_are_asked_for_with_name_password_or_refresh_token() {
    let content = sample();
    let questions = Arc::new(Mutex::new(Vec::new()));
    let seen = questions.clone();
    let address = serve(move |own, asked| {
        let given = asked.headers.get("authorization").map(String::as_str);
        if asked.line.contains("/token") {
            seen.lock().unwrap().push(asked.line.clone());
            // me:secret
            let password = given == Some("Basic bWU6c2VjcmV0");
            let refresh = asked.line.starts_with("POST")
                && asked.body.contains("grant_type=refresh_token")
                && asked.body.contains("refresh_token=again");
            return match (password, refresh) {
                (true, _) => answer(200, "application/json", r#"{"token":"good"}"#),
                (_, true) => answer(200, "application/json", r#"{"access_token":"good"}"#),
                _ if given.is_some() => denied("UNAUTHORIZED", 401),
                // Anybody gets a token, one that opens nothing.
                _ => answer(200, "application/json", r#"{"token":"none"}"#),
            };
        }
        match given {
            Some("Bearer good") => content.answer(&asked.line),
            Some(_) => denied("DENIED", 403),
            None => {
                let mut refused = denied("UNAUTHORIZED", 401);
                let challenge = format!(
                    r#"Bearer realm="http://{own}/token",service="reg",scope="repository:other:push""#
                );
                refused.headers.push(("WWW-Authenticate".into(), challenge));
                refused
            }
        }
    });
    let name = format!("{address}/team/app:1");
    for (who, good) in [
        (None, false),
        (Some(me("wrong", None)), false),
        (Some(me("secret", None)), true),
        (Some(me("", Some("again"))), true),
    ] {
        let home = home();
        match pull(&home.store, &name, who.as_ref()).await {
            Ok(image) => assert!(good, "{}", image.id),
            Err(error) => {
                assert!(!good, "{}", full(&error));
                assert_eq!(error.kind(), ErrorKind::Unauthorized, "{}", full(&error));
                assert!(full(&error).contains(&name), "{}", full(&error));
                nothing_left(&home);
            }
        }
    }
    let questions = questions.lock().unwrap();
    let asked = |words: &str| questions.iter().any(|q| q.contains(words));
    // The scope is what is needed, not what the challenge would like.
    assert!(
        asked("scope=repository%3Ateam%2Fapp%3Apull"),
        "{questions:?}"
    );
    assert!(!asked("other") && asked("service=reg") && asked("account=me"));
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_give_the_image_for_this_machine_or_say_what_there_is() {
    for (list, kind) in [(INDEX, MANIFEST), (LIST, DOCKER_MANIFEST)] {
        let mut content = Content::default();
        let entries: Vec<Value> = ["amd64", "arm64"]
            .map(|architecture| {
                let plain = layer(architecture);
                let platform = (architecture, "linux");
                let mut entry = content.image(kind, platform, &gzip(&plain), &digest(&plain));
                entry["platform"] = json!({ "architecture": architecture, "os": "linux" });
                entry
            })
            .to_vec();
        let document = json!({ "schemaVersion": 2, "mediaType": list, "manifests": entries });
        let top = content.put(list, document.to_string().into_bytes());
        let top = top["digest"].as_str().unwrap().to_owned();
        content.tag("1", &top);
        let address = serve(move |_, asked| content.answer(&asked.line));
        let reference = Reference::parse_normalized(&format!("{address}/app:1")).unwrap();
        let home = home();
        for architecture in ["amd64", "arm64"] {
            let wanted = format!("linux/{architecture}").parse().unwrap();
            let pulled = home.store.pull(&reference, Some(&wanted), None, &Silent);
            let image = pulled.await.map_err(|e| full(&e)).unwrap();
            let dir = &home.store.layer_dirs(&image.id).unwrap()[0];
            let text = std::fs::read_to_string(dir.join("file")).unwrap();
            assert_eq!(text, architecture);
            assert!(image.repo_digests.iter().any(|d| d.ends_with(&top)));
        }
        let wanted = "linux/riscv64".parse().unwrap();
        let pulled = home.store.pull(&reference, Some(&wanted), None, &Silent);
        let text = full(&pulled.await.unwrap_err());
        for words in ["linux/riscv64", "linux/amd64", "linux/arm64"] {
            assert!(text.contains(words), "{text}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn content_that_is_not_what_its_manifest_says_is_refused() {
    let host = coracle_image::Platform::host();
    let platform = (host.architecture.as_str(), "linux");
    let plain = layer(&"text that goes on ".repeat(1000));
    let packed = gzip(&plain);
    let cut = &packed[..packed.len() - 20];
    for (layer, diff_id, words) in [
        (cut, digest(&plain), "truncated"),
        (&packed[..], digest(b"other"), "diff id"),
        (&b"\x1f\x8bno gzip"[..], digest(&plain), "layer"),
        (&b"BZh91AY"[..], digest(&plain), "bzip2"),
    ] {
        let mut content = Content::default();
        let manifest = content.image(MANIFEST, platform, layer, &diff_id);
        content.tag("1", manifest["digest"].as_str().unwrap());
        let address = serve(move |_, asked| content.answer(&asked.line));
        let home = home();
        let pulled = pull(&home.store, &format!("{address}/app:1"), None).await;
        let error = pulled.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{}", full(&error));
        assert!(full(&error).contains(words), "{words}: {}", full(&error));
        nothing_left(&home);
    }
    // Another manifest, config or layer than the digest asked for; and a layer longer than declared.
    for changed in ["manifests/sha256:", "blobs/"] {
        for longer in [false, true] {
            let content = sample();
            let by_digest = content.0["1"].1.clone();
            let address = serve(move |_, asked| {
                let mut given = content.answer(&asked.line);
                if given.status == 200 && asked.line.contains(changed) {
                    match longer {
                        true => given.body.extend([0; 4096]),
                        false => *given.body.last_mut().unwrap() ^= 1,
                    }
                }
                given
            });
            let home = home();
            let name = format!("{address}/app@{}", digest(&by_digest));
            let error = pull(&home.store, &name, None).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Invalid, "{}", full(&error));
            nothing_left(&home);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn plain_layers_and_busy_registries() {
    let mut content = Content::default();
    let plain = layer("plain");
    let host = coracle_image::Platform::host();
    let platform = (host.architecture.as_str(), "linux");
    let manifest = content.image(MANIFEST, platform, &plain, &digest(&plain));
    content.tag("1", manifest["digest"].as_str().unwrap());
    let asked_for = Arc::new(AtomicUsize::new(0));
    let count = asked_for.clone();
    let address = serve(move |_, asked| {
        // Every second request of each kind meets a busy registry.
        if asked.line.contains("/app/") && count.fetch_add(1, Ordering::SeqCst).is_multiple_of(2) {
            let mut busy = denied("TOOMANYREQUESTS", 429);
            busy.headers.push(("retry-after".into(), "0".into()));
            return busy;
        }
        content.answer(&asked.line)
    });
    let home = home();
    let pulled = pull(&home.store, &format!("{address}/app:1"), None).await;
    let image = pulled.map_err(|e| full(&e)).unwrap();
    let dir = &home.store.layer_dirs(&image.id).unwrap()[0];
    assert_eq!(std::fs::read_to_string(dir.join("file")).unwrap(), "plain");
    assert_eq!(asked_for.load(Ordering::SeqCst), 6);

    // One that stays broken is tried as often as configured, then named.
    let asked_for = Arc::new(AtomicUsize::new(0));
    let count = asked_for.clone();
    let address = serve(move |_, asked| {
        if asked.line.contains("/app/") {
            count.fetch_add(1, Ordering::SeqCst);
        }
        denied("OUT_OF_ORDER", 503)
    });
    let home = home_with(RegistryConfig {
        attempts: 3,
        backoff: Duration::from_millis(1),
        ..RegistryConfig::default()
    });
    let name = format!("{address}/app:1");
    let error = pull(&home.store, &name, None).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{}", full(&error));
    assert!(full(&error).contains("out_of_order"), "{}", full(&error));
    assert_eq!(asked_for.load(Ordering::SeqCst), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_that_is_dropped_in_the_middle_leaves_nothing_visible() {
    let content = sample();
    let address = serve(move |_, asked| {
        let mut given = content.answer(&asked.line);
        given.stalls = asked.line.contains("/blobs/") && given.body.starts_with(&[0x1f, 0x8b]);
        given
    });
    let home = home();
    let name = format!("{address}/app:1");
    let tmp = home.dir.path().join("tmp");
    let deadline = Instant::now() + Duration::from_secs(20);
    let until = async |what: &str, done: &dyn Fn() -> bool| {
        while !done() {
            assert!(Instant::now() < deadline, "{what}: {:?}", files(&tmp));
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    let begun = || files(&tmp).iter().any(|file| file.ends_with("blob"));
    tokio::select! {
        pulled = pull(&home.store, &name, None) => panic!("{:?}", pulled.map(|i| i.id)),
        () = until("no layer begun", &begun) => {}
    }
    // What writes the layer has a thread of its own, which learns of it a moment later.
    let gone = || std::fs::read_dir(&tmp).unwrap().next().is_none();
    until("left", &gone).await;
    nothing_left(&home);
}
