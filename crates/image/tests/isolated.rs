//! What needs a machine of its own, as a full disk or an address that is not loopback: each test runs itself again in
//! namespaces of its own, which take all that was mounted and configured away when they end.
#![allow(clippy::unwrap_used)]

mod common;

use common::{entry, files, full, home, push, registry, registry_at, sample, save, tar};
use coracle_image::{ErrorKind, ImageStore, ImportOptions, Reference, RegistryConfig, Silent};
use std::io::{Cursor, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const INSIDE: &str = "CORACLE_TEST_INSIDE";

/// Runs the test again in new namespaces and says false, or says true there.
fn inside(test: &str, namespaces: &[&str]) -> bool {
    if std::env::var_os(INSIDE).is_some_and(|t| t == test) {
        return true;
    }
    let output = Command::new("unshare")
        .args(namespaces)
        .arg("--")
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(INSIDE, test)
        .output()
        .expect("unshare runs (Debian package util-linux)");
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}");
    assert!(text.contains("1 passed"), "{text}");
    false
}

fn run(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).output();
    let output = output.unwrap_or_else(|e| panic!("{program}: {e}"));
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {text}");
}

/// Bytes that no compression makes smaller.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 88_172_645_463_325_252_u64;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    std::iter::repeat_with(next).take(length).collect()
}

/// Mounted over a directory; taken away before the directory is.
struct Mounted<'a>(&'a Path);

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0).status();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_said_leaves_nothing_and_is_recovered_from() {
    let test = "a_full_disk_is_said_leaves_nothing_and_is_recovered_from";
    if !inside(test, &["--mount"]) {
        return;
    }
    let registry = registry("");
    let source = home();
    let archive = tar(&[entry(b'0', "noise", "", &noise(12 << 20))]);
    let options = || ImportOptions {
        reference: Some(Reference::parse_normalized("app:1").unwrap()),
        ..ImportOptions::default()
    };
    let imported = source.store.import(Cursor::new(archive.clone()), options());
    imported.await.unwrap();
    let saved = source.dir.path().join("saved.tar");
    save(&source.store, "app:1", &saved).await;
    push(&saved, &registry.address, "app:1", &[]);

    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().to_str().unwrap();
    run("mount", &["-t", "tmpfs", "-o", "size=8m", "tmpfs", path]);
    let _mounted = Mounted(dir.path());
    let store = ImageStore::open(dir.path(), RegistryConfig::default()).unwrap();
    let name = Reference::parse_normalized(&format!("{}/app:1", registry.address)).unwrap();
    let nothing = |error: coracle_image::ImageError| {
        assert!(error.is_no_space(), "{}", full(&error));
        assert!(full(&error).contains("space"), "{}", full(&error));
        assert!(store.list().is_empty());
        assert!(files(&dir.path().join("layers")).is_empty());
        assert!(files(&dir.path().join("tmp")).is_empty());
    };
    nothing(store.pull(&name, None, None, &Silent).await.unwrap_err());
    let importing = store.import(Cursor::new(archive.clone()), options());
    nothing(importing.await.unwrap_err());
    let loading = store.load(tokio::fs::File::open(&saved).await.unwrap(), Silent);
    nothing(loading.await.unwrap_err());
    run("mount", &["-o", "remount,size=96m", path]);
    let pulled = store.pull(&name, None, None, &Silent).await;
    let image = pulled.map_err(|e| full(&e)).unwrap();
    assert_eq!(image.id, source.store.get("app:1").unwrap().id);
}

/// Makes a CA, and a certificate of it for an address: `ca.crt`, `cert.pem` and `key.pem`.
fn certificates(dir: &Path, address: &str) {
    let extensions = format!("subjectAltName=IP:{address}\nbasicConstraints=CA:FALSE\n");
    std::fs::write(dir.join("extensions"), extensions).unwrap();
    let script = "set -e; cd \"$0\"
        openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj '/CN=Test CA' -keyout ca.key -out ca.crt
        openssl req -newkey rsa:2048 -nodes -subj '/CN=registry' -keyout key.pem -out request
        openssl x509 -req -in request -CA ca.crt -CAkey ca.key -CAcreateserial -days 2 -extfile extensions -out cert.pem";
    run("sh", &["-c", script, dir.to_str().unwrap()]);
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_wants_a_certificate_that_somebody_vouches_for() {
    let test = "tls_wants_a_certificate_that_somebody_vouches_for";
    if !inside(test, &["--mount", "--net"]) {
        return;
    }
    let address = "10.99.0.1";
    run("ip", &["link", "set", "lo", "up"]);
    run("ip", &["address", "add", "10.99.0.1/32", "dev", "lo"]);
    let dir = tempfile::tempdir().unwrap();
    certificates(dir.path(), address);
    let at = |name: &str| dir.path().join(name).display().to_string();
    let registry = registry_at(
        address,
        &format!(
            "  tls: {{ certificate: {}, key: {} }}\n",
            at("cert.pem"),
            at("key.pem")
        ),
    );
    let source = home();
    let archive = sample(&source, "app:1").await;
    push(&archive, &registry.address, "app:1", &[]);
    let name = Reference::parse_normalized(&format!("{}/app:1", registry.address)).unwrap();
    let certs = tempfile::tempdir().unwrap();
    let config = || RegistryConfig {
        certs_dir: certs.path().to_owned(),
        attempts: 1,
        ..RegistryConfig::default()
    };
    let home = common::home_with(config());
    let error = home.store.pull(&name, None, None, &Silent).await;
    let error = error.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{}", full(&error));
    assert!(full(&error).contains("certificate"), "{}", full(&error));

    let own = certs.path().join(&registry.address);
    std::fs::create_dir(&own).unwrap();
    std::fs::copy(dir.path().join("ca.crt"), own.join("ca.crt")).unwrap();
    let pulled = home.store.pull(&name, None, None, &Silent).await;
    pulled.map_err(|e| full(&e)).unwrap();

    // A file that is no certificate is named.
    std::fs::write(own.join("ca.crt"), "-----BEGIN CERTIFICATE-----\nx\n").unwrap();
    let error = home.store.pull(&name, None, None, &Silent).await;
    assert!(full(&error.unwrap_err()).contains("ca.crt"));
    // Whoever lists the registry as insecure does without.
    std::fs::remove_dir_all(&own).unwrap();
    let insecure = RegistryConfig {
        insecure: vec!["10.99.0.0/16".into()],
        ..config()
    };
    let home = common::home_with(insecure);
    let pulled = home.store.pull(&name, None, None, &Silent).await;
    pulled.map_err(|e| full(&e)).unwrap();
}

/// Ends with the test, whatever comes.
struct Importer(Child);

impl Drop for Importer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

const KILLED: &str = "a_process_killed_in_the_middle_leaves_nothing_for_the_next";

#[tokio::test(flavor = "multi_thread")]
async fn a_process_killed_in_the_middle_leaves_nothing_for_the_next() {
    if let Ok(address) = std::env::var("CORACLE_TEST_FROM") {
        let dir = std::env::var("CORACLE_TEST_STATE").unwrap();
        let store = ImageStore::open(Path::new(&dir), RegistryConfig::default()).unwrap();
        let archive = tokio::net::TcpStream::connect(address).await.unwrap();
        let imported = store.import(archive, ImportOptions::default()).await;
        panic!("{:?}", imported.map(|i| i.id));
    }
    let dir = tempfile::tempdir().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut importer = Importer(
        Command::new(std::env::current_exe().unwrap())
            .args(["--exact", KILLED])
            .env(
                "CORACLE_TEST_FROM",
                listener.local_addr().unwrap().to_string(),
            )
            .env("CORACLE_TEST_STATE", dir.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap(),
    );
    let deadline = Instant::now() + Duration::from_secs(30);
    let mut stream: TcpStream = accept(&listener, deadline);
    let archive = tar(&[
        entry(b'0', "first", "", b"1"),
        entry(b'0', "second", "", &noise(8 << 20)),
    ]);
    stream.write_all(&archive[..archive.len() / 2]).unwrap();
    let tmp = dir.path().join("tmp");
    while !files(&tmp).iter().any(|f| f.ends_with("first")) {
        assert!(Instant::now() < deadline, "{:?}", files(&tmp));
        std::thread::sleep(Duration::from_millis(2));
    }
    // One store, one process.
    let busy = ImageStore::open(dir.path(), RegistryConfig::default());
    assert!(matches!(
        busy.map(drop),
        Err(coracle_image::ImageError::Busy { .. })
    ));
    importer.0.kill().unwrap();
    importer.0.wait().unwrap();
    assert!(!files(&tmp).is_empty());

    let store = ImageStore::open(dir.path(), RegistryConfig::default()).unwrap();
    assert!(store.list().is_empty());
    assert!(files(&tmp).is_empty());
    assert!(files(&dir.path().join("layers")).is_empty());
    let options = ImportOptions::default();
    let imported = store.import(Cursor::new(archive), options).await.unwrap();
    assert_eq!(store.get(&imported.id.to_string()).unwrap().id, imported.id);
    // The killed one's connection is over.
    assert!(matches!(stream.read(&mut [0]), Ok(0) | Err(_)));
}

fn accept(listener: &TcpListener, deadline: Instant) -> TcpStream {
    listener.set_nonblocking(true).unwrap();
    loop {
        match listener.accept() {
            Ok((stream, _)) => {
                stream.set_nonblocking(false).unwrap();
                return stream;
            }
            Err(_) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(2)),
            Err(e) => panic!("{e}"),
        }
    }
}
