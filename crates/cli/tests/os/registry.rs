//! Debian's registry on this machine's loopback, which machines in QEMU reach at 10.0.2.2.
#![allow(dead_code, reason = "not every test needs all of it")]

use crate::common;
use std::{
    fs,
    net::{TcpListener, TcpStream},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

pub struct Registry {
    child: Child,
    port: u16,
    dir: tempfile::TempDir,
}

impl Registry {
    pub fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        // Free a moment ago; whoever takes it in between fails the test, by name.
        let port = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let data = dir.path().join("data");
        let text = format!(
            "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: \"127.0.0.1:{port}\"}}\n",
            data.display()
        );
        let config = dir.path().join("config.yml");
        fs::write(&config, text).unwrap();
        let child = Command::new("docker-registry")
            .arg("serve")
            .arg(&config)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("Debian's package docker-registry");
        let end = Instant::now() + Duration::from_secs(30);
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(Instant::now() < end, "the registry does not listen");
            std::thread::sleep(Duration::from_millis(20));
        }
        Self { child, port, dir }
    }

    /// Its name in the machine.
    pub fn seen_from_machine(&self) -> String {
        format!("10.0.2.2:{}", self.port)
    }

    /// Pushes an image of examples of this package with the libraries that they load; `look` is there a second time, as `look-as-root` with setuid.
    pub fn push_programs(&self, name: &str, programs: &[&str]) {
        let root = self.dir.path().join("root");
        fs::create_dir_all(root.join("bin")).unwrap();
        for program in programs {
            let from = common::programs().with_file_name("examples").join(program);
            fs::copy(&from, root.join("bin").join(program)).unwrap();
            if *program == "look" {
                let raised = root.join("bin/look-as-root");
                fs::copy(&from, &raised).unwrap();
                fs::set_permissions(&raised, fs::Permissions::from_mode(0o4755)).unwrap();
            }
            let needed = Command::new("ldd").arg(&from).output().unwrap();
            for word in String::from_utf8(needed.stdout).unwrap().split_whitespace() {
                if let Some(path) = word.strip_prefix('/') {
                    let to = root.join(path);
                    fs::create_dir_all(to.parent().unwrap()).unwrap();
                    fs::copy(word, to).unwrap();
                }
            }
        }
        self.push_tree(name, &root);
    }

    /// Pushes an image of one layer, which has the files of a directory.
    pub fn push_tree(&self, name: &str, root: &Path) {
        let layer = self.dir.path().join("layer.tar");
        let packed = Command::new("tar")
            .arg("-C")
            .arg(root)
            .arg("-cf")
            .arg(&layer)
            .arg(".")
            .status();
        assert!(packed.unwrap().success());
        let sum = Command::new("sha256sum").arg(&layer).output().unwrap();
        let sum = String::from_utf8(sum.stdout).unwrap()[..64].to_owned();
        let archive = self.dir.path().join("archive");
        fs::create_dir_all(&archive).unwrap();
        fs::rename(&layer, archive.join("layer.tar")).unwrap();
        let config = format!(
            r#"{{"architecture":"amd64","os":"linux","config":{{}},"rootfs":{{"type":"layers","diff_ids":["sha256:{sum}"]}}}}"#
        );
        fs::write(archive.join("config.json"), config).unwrap();
        let manifest =
            r#"[{"Config":"config.json","RepoTags":["programs:1"],"Layers":["layer.tar"]}]"#;
        fs::write(archive.join("manifest.json"), manifest).unwrap();
        let tar = self.dir.path().join("archive.tar");
        let packed = Command::new("tar")
            .arg("-C")
            .arg(&archive)
            .arg("-cf")
            .arg(&tar)
            .args(["manifest.json", "config.json", "layer.tar"])
            .status();
        assert!(packed.unwrap().success());
        self.copy(&format!("docker-archive:{}", tar.display()), name);
    }

    /// Pushes what `scripts/os` made of a release.
    pub fn push_update(&self, update: &Path, name: &str) {
        self.copy(&format!("oci-archive:{}", update.display()), name);
    }

    fn copy(&self, from: &str, name: &str) {
        let tmp: PathBuf = self.dir.path().into();
        let done = Command::new("skopeo")
            .env("TMPDIR", tmp)
            .args([
                "copy",
                "--quiet",
                "--insecure-policy",
                "--dest-tls-verify=false",
                from,
            ])
            .arg(format!("docker://127.0.0.1:{}/{name}", self.port))
            .output()
            .expect("Debian's package skopeo");
        assert!(done.status.success(), "{}", common::errors(&done));
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
