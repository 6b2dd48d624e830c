//! Pushing to Debian's docker-registry, also over connections that break.
#![allow(clippy::unwrap_used)]

mod common;

use common::{Home, entry, full, home, push as skopeo_push, registry, sample, tar};
use coracle_image::{
    Credentials, DeriveOptions, ErrorKind, ImportOptions, ProgressEvent, Pushed, Reference, Silent,
    Status,
};
use std::io::{Cursor, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

fn named(name: &str) -> Reference {
    Reference::parse_normalized(name).unwrap()
}

async fn pushed(home: &Home, name: &str) -> (Pushed, Vec<Status>) {
    let seen = Mutex::new(Vec::new());
    let progress = |event: ProgressEvent| seen.lock().unwrap().push(event.status);
    let done = home.store.push(&named(name), None, &progress).await;
    let done = done.map_err(|e| full(&e)).unwrap();
    (done, seen.into_inner().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_pushed_is_pulled_by_others_and_ourselves() {
    let registry = registry("");
    let source = home();
    sample(&source, "app:1").await;
    // One more layer, as a container's changes are.
    let upper = source.dir.path().join("upper");
    std::fs::create_dir_all(upper.join("etc")).unwrap();
    std::fs::write(upper.join("etc/more"), "more").unwrap();
    let name = format!("{}/team/app:2", registry.address);
    let options = DeriveOptions {
        reference: Some(named(&name)),
        created_by: "test".into(),
        ..DeriveOptions::default()
    };
    let base = source.store.get("app:1").unwrap();
    let image = source.store.derive(base, &upper, options).await.unwrap();
    let (first, seen) = pushed(&source, &name).await;
    let count = |s: &[Status], of: &Status| s.iter().filter(|s| *s == of).count();
    assert_eq!(count(&seen, &Status::Pushed), 2, "{seen:?}");
    let home = home();
    let pulled = home.store.pull(&named(&name), None, None, &Silent).await;
    let pulled = pulled.map_err(|e| full(&e)).unwrap();
    assert_eq!((pulled.id, &pulled.layers), (image.id, &image.layers));
    let digest = format!("{}/team/app@{}", registry.address, first.digest);
    assert_eq!(pulled.repo_digests, std::slice::from_ref(&digest));
    assert_eq!(source.store.get(&digest).unwrap().id, image.id);
    let inspect = |more: &[&str]| {
        let mut skopeo = Command::new("skopeo");
        skopeo.args(["inspect", "--tls-verify=false"]).args(more);
        let output = skopeo.arg(format!("docker://{name}")).output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let text = inspect(&[]);
    assert!(text.contains(&first.digest.to_string()), "{text}");
    let manifest = inspect(&["--raw"]);
    assert_eq!(manifest.matches("tar+gzip").count(), 2, "{manifest}");
    // Pulled by who has the layers already, in another form: it can be pushed on.
    let back = source.store.pull(&named(&name), None, None, &Silent).await;
    assert_eq!(back.map_err(|e| full(&e)).unwrap().id, image.id);
    // The same again: the same bytes, and nothing is sent.
    let (again, seen) = pushed(&source, &name).await;
    assert_eq!(again, first);
    assert_eq!(count(&seen, &Status::AlreadyExists), 2, "{seen:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_pulled_keeps_its_digest() {
    let registry = registry("");
    let source = home();
    let archive = sample(&source, "app:1").await;
    for format in ["v2s2", "oci"] {
        let name = format!("{}/app:{format}", registry.address);
        skopeo_push(
            &archive,
            &registry.address,
            &format!("app:{format}"),
            &["--format", format],
        );
        let home = home();
        let pulled = home
            .store
            .pull(&named(&name), None, None, &Silent)
            .await
            .unwrap();
        let other = format!("{}/other/place:{format}", registry.address);
        home.store.tag(&name, &named(&other)).unwrap();
        let (done, _) = pushed(&home, &other).await;
        assert!(
            pulled.repo_digests[0].ends_with(&done.digest.to_string()),
            "{format}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_not_push_is_told_so() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("htpasswd");
    let output = Command::new("htpasswd")
        .args(["-Bbn", "me", "secret"])
        .output()
        .unwrap();
    std::fs::write(&file, output.stdout).unwrap();
    let registry = registry(&format!(
        "auth:\n  htpasswd: {{ realm: x, path: {} }}\n",
        file.display()
    ));
    let home = home();
    let name = format!("{}/app:1", registry.address);
    sample(&home, &name).await;
    for (password, good) in [
        (None, false),
        (Some("wrong"), false),
        (Some("secret"), true),
    ] {
        let credentials = password.map(|p| Credentials {
            username: "me".into(),
            password: p.into(),
            identity_token: None,
        });
        let done = home
            .store
            .push(&named(&name), credentials.as_ref(), &Silent)
            .await;
        assert_eq!(done.is_ok(), good);
        if let Err(error) = done {
            assert_eq!(error.kind(), ErrorKind::Unauthorized, "{}", full(&error));
        }
    }
    let missing = home
        .store
        .push(&named("127.0.0.1:1/nope:1"), None, &Silent)
        .await;
    assert_eq!(missing.unwrap_err().kind(), ErrorKind::NotFound);
}

/// Passes bytes on; the first `broken` connections that carry much are cut after `most` bytes from the client.
fn proxy(to: String, broken: usize, most: usize) -> (String, &'static AtomicUsize) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let cuts: &'static AtomicUsize = Box::leak(Box::new(AtomicUsize::new(0)));
    std::thread::spawn(move || {
        for client in listener.incoming() {
            let (mut client, to) = (client.unwrap(), to.clone());
            std::thread::spawn(move || {
                let mut server = TcpStream::connect(to).unwrap();
                let (mut back, mut out) =
                    (server.try_clone().unwrap(), client.try_clone().unwrap());
                let answers = std::thread::spawn(move || {
                    let _ = std::io::copy(&mut back, &mut out);
                    let _ = out.shutdown(Shutdown::Both);
                });
                let (mut buffer, mut passed) = (vec![0; 64 << 10], 0);
                while let Ok(length @ 1..) = client.read(&mut buffer) {
                    passed += length;
                    if passed > most && cuts.load(Ordering::SeqCst) < broken {
                        cuts.fetch_add(1, Ordering::SeqCst);
                        let _ = client.shutdown(Shutdown::Both);
                        break;
                    }
                    if server.write_all(&buffer[..length]).is_err() {
                        break;
                    }
                }
                let _ = server.shutdown(Shutdown::Both);
                let _ = answers.join();
            });
        }
    });
    (address, cuts)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_connection_is_made_again() {
    let registry = registry("");
    let (address, cuts) = proxy(registry.address.clone(), 3, 20 << 20);
    let home = home();
    let name = format!("{address}/big:1");
    // It does not compress, so that it is sent in three pieces.
    let mut noise = vec![0; 40 << 20];
    std::fs::File::open("/dev/urandom")
        .unwrap()
        .read_exact(&mut noise)
        .unwrap();
    let layer = tar(&[entry(b'0', "noise", "", &noise)]);
    let options = ImportOptions {
        reference: Some(named(&name)),
        ..ImportOptions::default()
    };
    home.store
        .import(Cursor::new(layer), options)
        .await
        .unwrap();
    let (done, seen) = pushed(&home, &name).await;
    assert_eq!(cuts.load(Ordering::SeqCst), 3);
    assert_eq!(seen.last(), Some(&Status::Pushed));
    let other = common::home();
    let direct = format!("{}/big@{}", registry.address, done.digest);
    let pulled = other.store.pull(&named(&direct), None, None, &Silent).await;
    assert_eq!(
        pulled.map_err(|e| full(&e)).unwrap().id,
        home.store.get(&name).unwrap().id
    );
}
