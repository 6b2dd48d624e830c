//! Pulling from Debian's docker-registry, and from servers that misbehave.
#![allow(clippy::unwrap_used)]

mod common;

use common::{files, full, home, home_with, push, registry, sample};
use coracle_image::{
    Credentials, ErrorKind, Image, ImageStore, ProgressEvent, Reference, RegistryConfig, Silent,
    Status,
};
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

async fn pull(store: &ImageStore, name: &str) -> coracle_image::error::Result<Image> {
    store
        .pull(
            &Reference::parse_normalized(name).unwrap(),
            None,
            None,
            &Silent,
        )
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_skopeo_pushes_is_pulled() {
    let registry = registry("");
    let source = home();
    let archive = sample(&source, "app:1").await;
    push(
        &archive,
        &registry.address,
        "team/app:docker",
        &["--format", "v2s2"],
    );
    push(
        &archive,
        &registry.address,
        "team/app:oci",
        &["--format", "oci"],
    );
    push(
        &archive,
        &registry.address,
        "team/app:zstd",
        &["--format", "oci", "--dest-compress-format", "zstd"],
    );
    let home = home();
    for tag in ["docker", "oci", "zstd"] {
        let name = format!("{}/team/app:{tag}", registry.address);
        let seen = Mutex::new(Vec::new());
        let progress = |event: ProgressEvent| seen.lock().unwrap().push(event.status);
        let reference = Reference::parse_normalized(&name).unwrap();
        let image = home
            .store
            .pull(&reference, None, None, &progress)
            .await
            .map_err(|e| full(&e))
            .unwrap();
        assert_eq!(image.layers, source.store.get("app:1").unwrap().layers);
        assert!(image.repo_tags.contains(&name));
        let seen = seen.into_inner().unwrap();
        let last = if tag == "docker" {
            Status::PullComplete
        } else {
            Status::AlreadyExists
        };
        assert_eq!(seen.last(), Some(&last), "{seen:?}");
        let digest = image.repo_digests.last().unwrap().clone();
        assert_eq!(pull(&home.store, &digest).await.unwrap().id, image.id);
    }
    let error = pull(&home.store, &format!("{}/team/app:none", registry.address))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "{}", full(&error));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_wants_a_password() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("htpasswd");
    let output = Command::new("htpasswd")
        .args(["-Bbn", "me", "secret"])
        .output()
        .expect("htpasswd (Debian package apache2-utils)");
    std::fs::write(&file, output.stdout).unwrap();
    let registry = registry(&format!(
        "auth:\n  htpasswd: {{ realm: x, path: {} }}\n",
        file.display()
    ));
    let source = home();
    push(
        &sample(&source, "app:1").await,
        &registry.address,
        "app:1",
        &["--dest-creds", "me:secret"],
    );
    let home = home();
    let reference = Reference::parse_normalized(&format!("{}/app:1", registry.address)).unwrap();
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
        let pulled = home
            .store
            .pull(&reference, None, credentials.as_ref(), &Silent)
            .await;
        assert_eq!(pulled.is_ok(), good);
        if let Err(error) = pulled {
            assert_eq!(error.kind(), ErrorKind::Unauthorized, "{}", full(&error));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_with_a_ca_of_our_own() {
    let dir = tempfile::tempdir().unwrap();
    let (key, cert) = (dir.path().join("key.pem"), dir.path().join("cert.pem"));
    let output = Command::new("openssl")
        .args([
            "req",
            "-x509",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-days",
            "2",
            "-subj",
            "/CN=127.0.0.1",
        ])
        .args(["-addext", "subjectAltName=IP:127.0.0.1", "-keyout"])
        .arg(&key)
        .arg("-out")
        .arg(&cert)
        .output()
        .unwrap();
    assert!(output.status.success());
    let registry = registry(&format!(
        "  tls: {{ certificate: {}, key: {} }}\n",
        cert.display(),
        key.display()
    ));
    let source = home();
    push(
        &sample(&source, "app:1").await,
        &registry.address,
        "app:1",
        &[],
    );
    let home = home();
    pull(&home.store, &format!("{}/app:1", registry.address))
        .await
        .map_err(|e| full(&e))
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn mirrors_are_asked_first_and_may_fail() {
    let registry = registry("");
    let source = home();
    push(
        &sample(&source, "app:1").await,
        &registry.address,
        "library/app:1",
        &[],
    );
    let dead = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let home = home_with(RegistryConfig {
        mirrors: BTreeMap::from([(
            "docker.io".to_owned(),
            vec![
                format!("http://{dead}"),
                format!("http://{}", registry.address),
            ],
        )]),
        attempts: 1,
        ..RegistryConfig::default()
    });
    let image = pull(&home.store, "app:1")
        .await
        .map_err(|e| full(&e))
        .unwrap();
    assert_eq!(image.repo_tags, ["app:1"]);
}

/// A proxy that cuts the first `cuts` answers longer than `after` bytes.
fn cutting(to: String, cuts: usize, after: usize) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let left = Arc::new(AtomicUsize::new(cuts));
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let (to, left) = (to.clone(), left.clone());
            std::thread::spawn(move || {
                let server = TcpStream::connect(to).unwrap();
                let (mut up, mut down) = (client.try_clone().unwrap(), server.try_clone().unwrap());
                let upward = std::thread::spawn(move || drop(std::io::copy(&mut up, &mut &server)));
                let mut buffer = [0; 16 << 10];
                let mut sent = 0;
                while let Ok(n @ 1..) = down.read(&mut buffer) {
                    let cut = |n: usize| n.checked_sub(1);
                    if sent + n > after
                        && left
                            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, cut)
                            .is_ok()
                    {
                        break;
                    }
                    if (&client).write_all(&buffer[..n]).is_err() {
                        break;
                    }
                    sent += n;
                }
                let _ = client.shutdown(std::net::Shutdown::Both);
                let _ = down.shutdown(std::net::Shutdown::Both);
                let _ = upward.join();
            });
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread")]
async fn a_download_that_breaks_goes_on_where_it_broke() {
    let registry = registry("");
    let source = home();
    // Noise, which no compression makes smaller.
    let mut state = 88_172_645_463_325_252_u64;
    let layer: Vec<u8> = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    })
    .take(2_000_000)
    .collect();
    let options = coracle_image::ImportOptions {
        reference: Some(Reference::parse_normalized("app:1").unwrap()),
        ..Default::default()
    };
    let archive = common::tar(&[common::entry(b'0', "noise", "", &layer)]);
    source
        .store
        .import(std::io::Cursor::new(archive), options)
        .await
        .unwrap();
    let saved = source.dir.path().join("saved.tar");
    common::save(&source.store, "app:1", &saved).await;
    push(&saved, &registry.address, "app:1", &[]);

    let home = home();
    let retries = AtomicUsize::new(0);
    let progress = |e: ProgressEvent| {
        if matches!(e.status, Status::Retrying { .. }) {
            retries.fetch_add(1, Ordering::SeqCst);
        }
    };
    let name = format!("{}/app:1", cutting(registry.address.clone(), 3, 100_000));
    let reference = Reference::parse_normalized(&name).unwrap();
    let image = home
        .store
        .pull(&reference, None, None, &progress)
        .await
        .map_err(|e| full(&e))
        .unwrap();
    assert_eq!(retries.load(Ordering::SeqCst), 3);
    let dir = &home.store.layer_dirs(&image.id).unwrap()[0];
    assert_eq!(std::fs::read(dir.join("noise")).unwrap(), layer);

    // One that always breaks before it gets further is given up, and nothing is left.
    let config = RegistryConfig {
        attempts: 3,
        backoff: Duration::from_millis(1),
        ..RegistryConfig::default()
    };
    let home = home_with(config);
    let name = format!("{}/app:1", cutting(registry.address.clone(), usize::MAX, 0));
    let error = pull(&home.store, &name).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{}", full(&error));
    assert!(home.store.list().is_empty());
    assert!(files(&home.dir.path().join("tmp")).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_blob_is_refused_and_two_pulls_at_once_do_the_work_once() {
    let registry = registry("");
    let source = home();
    push(
        &sample(&source, "app:1").await,
        &registry.address,
        "app:1",
        &[],
    );
    let name = format!("{}/app:1", registry.address);
    let a = home();
    let (one, two) = tokio::join!(pull(&a.store, &name), pull(&a.store, &name));
    assert_eq!(one.map_err(|e| full(&e)).unwrap().id, two.unwrap().id);

    // The largest blob in the registry's own directory is the layer.
    let blobs = files(&registry.dir.path().join("data"));
    let layer = blobs
        .iter()
        .max_by_key(|p| p.metadata().unwrap().len())
        .unwrap();
    let mut bytes = std::fs::read(layer).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0xff;
    std::fs::write(layer, bytes).unwrap();
    let b = home();
    let error = pull(&b.store, &name).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid, "{}", full(&error));
    assert!(b.store.list().is_empty());
    assert!(files(&b.dir.path().join("layers")).is_empty());
    assert!(files(&b.dir.path().join("tmp")).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn another_platform_is_named() {
    let registry = registry("");
    let source = home();
    push(
        &sample(&source, "app:1").await,
        &registry.address,
        "app:1",
        &[],
    );
    let reference = Reference::parse_normalized(&format!("{}/app:1", registry.address)).unwrap();
    let wanted = "linux/s390x".parse().unwrap();
    let home = home();
    let error = home
        .store
        .pull(&reference, Some(&wanted), None, &Silent)
        .await
        .unwrap_err();
    assert!(full(&error).contains("s390x"), "{}", full(&error));
}
