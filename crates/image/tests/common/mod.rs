//! What the tests share: tar archives by hand, a registry of Debian's docker-registry, and stores in temporary directories.
#![allow(clippy::unwrap_used, dead_code)]

use std::io::{ErrorKind, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use coracle_image::{ImageStore, RegistryConfig};

/// A store in a directory that goes with it.
pub struct Home {
    pub dir: tempfile::TempDir,
    pub store: ImageStore,
}

pub fn home() -> Home {
    home_with(RegistryConfig {
        backoff: Duration::from_millis(5),
        ..RegistryConfig::default()
    })
}

pub fn home_with(config: RegistryConfig) -> Home {
    let dir = tempfile::tempdir().unwrap();
    let store = ImageStore::open(dir.path(), config).unwrap();
    Home { dir, store }
}

/// Every file below a directory, to see that nothing was left. What the store removes meanwhile is not there.
pub fn files(top: &Path) -> Vec<PathBuf> {
    let mut all = Vec::new();
    let mut todo = vec![top.to_owned()];
    while let Some(dir) = todo.pop() {
        let entries = match std::fs::read_dir(&dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == ErrorKind::NotFound && dir != top => continue,
            Err(error) => panic!("{}: {error}", dir.display()),
        };
        for path in entries.map(|entry| entry.unwrap().path()) {
            match path.symlink_metadata() {
                Ok(data) if data.is_dir() => todo.push(path),
                Ok(_) => all.push(path),
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => panic!("{}: {error}", path.display()),
            }
        }
    }
    all
}

/// One entry of an archive.
pub fn entry(kind: u8, name: &str, link: &str, data: &[u8]) -> Vec<u8> {
    let mut header = [0u8; 512];
    let mut put = |at: usize, text: &[u8]| header[at..at + text.len()].copy_from_slice(text);
    put(0, name.as_bytes());
    put(100, b"0000755\0");
    put(108, b"0000000\0");
    put(116, b"0000000\0");
    put(124, format!("{:011o}\0", data.len()).as_bytes());
    put(136, b"00000000000\0");
    put(148, b"        ");
    put(156, &[kind]);
    put(157, link.as_bytes());
    put(257, b"ustar\x0000");
    put(329, b"0000001\0");
    put(337, b"0000003\0");
    let sum: u32 = header.iter().map(|b| u32::from(*b)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    let mut out = header.to_vec();
    out.extend(data);
    out.resize(out.len().next_multiple_of(512), 0);
    out
}

pub fn tar(entries: &[Vec<u8>]) -> Vec<u8> {
    let mut out = entries.concat();
    out.resize(out.len() + 1024, 0);
    out
}

pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// A process that ends with the test.
pub struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A registry on loopback.
pub struct DockerRegistry {
    pub address: String,
    pub dir: tempfile::TempDir,
    _server: Server,
}

/// Starts one; `more` is added to its settings.
pub fn registry(more: &str) -> DockerRegistry {
    registry_at("127.0.0.1", more)
}

/// Starts one at an address of this machine.
pub fn registry_at(host: &str, more: &str) -> DockerRegistry {
    let dir = tempfile::tempdir().unwrap();
    // Another process may take the port between the two; then the next try has another.
    for _ in 0..10 {
        let port = TcpListener::bind((host, 0))
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let config = dir.path().join("config.yml");
        let text = format!(
            "version: 0.1\nlog: {{ level: error }}\nstorage:\n  filesystem: {{ rootdirectory: {0}/data }}\n  delete: {{ enabled: true }}\n\
             http:\n  addr: {host}:{port}\n{more}",
            dir.path().display()
        );
        std::fs::write(&config, text).unwrap();
        let child = Command::new("docker-registry")
            .args(["serve", config.to_str().unwrap()])
            .env("OTEL_TRACES_EXPORTER", "none")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("docker-registry runs (Debian package docker-registry)");
        let mut server = Server(child);
        let deadline = Instant::now() + Duration::from_secs(20);
        while Instant::now() < deadline && server.0.try_wait().unwrap().is_none() {
            if std::net::TcpStream::connect((host, port)).is_ok() {
                return DockerRegistry {
                    address: format!("{host}:{port}"),
                    dir,
                    _server: server,
                };
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
    panic!("docker-registry did not come up");
}

/// Pushes an archive of ours with skopeo.
pub fn push(archive: &Path, registry: &str, name: &str, more: &[&str]) {
    let output = Command::new("skopeo")
        .args(["--insecure-policy", "copy", "--dest-tls-verify=false"])
        .args(more)
        .arg(format!("docker-archive:{}", archive.display()))
        .arg(format!("docker://{registry}/{name}"))
        .output()
        .expect("skopeo runs (Debian package skopeo)");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Saves an image of a store into a file.
pub async fn save(store: &ImageStore, name: &str, to: &Path) {
    let mut archive = store.save(&[name.to_owned()]).await.unwrap();
    let mut file = tokio::fs::File::create(to).await.unwrap();
    tokio::io::copy(&mut archive, &mut file).await.unwrap();
    tokio::io::AsyncWriteExt::flush(&mut file).await.unwrap();
}

/// Imports a small image and saves it.
pub async fn sample(home: &Home, name: &str) -> PathBuf {
    let layer = tar(&[
        entry(b'5', "etc/", "", b""),
        entry(b'0', "etc/motd", "", b"hello"),
        entry(b'2', "link", "etc/motd", b""),
        entry(b'0', "big", "", &vec![7; 3 << 20]),
    ]);
    let options = coracle_image::ImportOptions {
        reference: Some(coracle_image::Reference::parse_normalized(name).unwrap()),
        changes: vec!["CMD [\"/bin/x\"]".into(), "LABEL a=b".into()],
        ..Default::default()
    };
    home.store
        .import(std::io::Cursor::new(layer), options)
        .await
        .unwrap();
    let path = home.dir.path().join("saved.tar");
    save(&home.store, name, &path).await;
    path
}

/// An error with its causes.
pub fn full(error: &dyn std::error::Error) -> String {
    coracle_sys::full(error)
}
