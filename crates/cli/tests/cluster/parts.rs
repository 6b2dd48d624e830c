//! Images for machines: one of busybox with a few programs of ours, and real servers out of Debian's packages.

use rustix::fs::{FlockOperation, flock};
use std::fs::{self, File};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Serves one page on port 80 that tells who answers: `$MACHINE` and the host name.
const TELL: &str = "#!/bin/sh
mkdir -p /www
echo \"$MACHINE $(hostname)\" >/www/index.html
trap 'exit 0' TERM
httpd -f -p 80 -h /www &
wait
";

/// A unit template whose instances tell their machine and their name at port 80.
pub const TELL_UNIT: &str = "[Container]\nImage=bb\nExec=tell\nEnvironment=MACHINE=%H\nExposeHostPort=80\n\
    [X-Deploy]\nProbe=http://:80/\nProbeIntervalSec=200ms\n";

/// Redis as a unit whose data is in a volume.
pub const REDIS_UNIT: &str = "[Container]\nImage=redis\nExec=start\nVolume=redis.volume:/data\nExposeHostPort=6379\n\
    [X-Deploy]\nProbe=tcp://:6379\nProbeIntervalSec=200ms\n";

/// nginx as a unit.
pub const NGINX_UNIT: &str = "[Container]\nImage=nginx\nExec=start\nExposeHostPort=80\n\
    [X-Deploy]\nProbe=http://:80/\nProbeIntervalSec=200ms\n";

fn cache() -> PathBuf {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("cluster");
    fs::create_dir_all(&dir).unwrap();
    dir
}

/// An archive that `make` fills, once for all tests; `name` must change with what goes in.
fn cached(name: &str, make: impl FnOnce(&Path)) -> PathBuf {
    let dir = cache();
    let lock = File::create(dir.join("lock")).unwrap();
    flock(&lock, FlockOperation::LockExclusive).unwrap();
    let archive = dir.join(name);
    if !archive.exists() {
        let unfinished = dir.join(format!("{name}.new"));
        make(&unfinished);
        fs::rename(&unfinished, &archive).unwrap();
    }
    archive
}

fn pack(root: &Path, archive: &Path) {
    let mut tar = Command::new("tar");
    tar.args(["--sort=name", "--mtime=@0", "-C"])
        .arg(root)
        .arg("-cf")
        .arg(archive)
        .arg(".");
    assert!(tar.status().unwrap().success());
}

/// Copies a program of this machine with the libraries that it loads.
fn install(program: &str, root: &Path) {
    let output = Command::new("ldd").arg(program).output().unwrap();
    // "name => /path (address)" and "/path (address)".
    let said = String::from_utf8(output.stdout).unwrap();
    let libraries = said.split_whitespace().filter(|word| word.starts_with('/'));
    for path in libraries.chain([program]) {
        let to = root.join(&path[1..]);
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::copy(path, to).unwrap();
    }
}

/// A root file system of Debian's busybox with all of its tools, flock(1), which that does not have, and the programs `tell` and
/// `witness`.
pub fn busybox() -> PathBuf {
    let programs = [("tell", TELL), ("witness", super::witness::PROGRAM)];
    let text: usize = programs.iter().map(|(_, text)| text.len()).sum();
    cached(&format!("bb-{text}-3.tar"), |archive| {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        for dir in ["bin", "etc", "data", "tmp", "www"] {
            fs::create_dir_all(root.join(dir)).unwrap();
        }
        let busybox = root.join("bin/busybox");
        fs::copy("/bin/busybox", &busybox).expect("busybox (Debian package busybox-static)");
        let tools = Command::new(&busybox).arg("--list").output().unwrap();
        for tool in String::from_utf8(tools.stdout).unwrap().lines() {
            if tool != "busybox" && programs.iter().all(|(name, _)| *name != tool) {
                symlink("busybox", root.join("bin").join(tool)).unwrap();
            }
        }
        install("/usr/bin/flock", root);
        for (name, text) in programs {
            let path = root.join("bin").join(name);
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        }
        fs::write(
            root.join("etc/passwd"),
            "root:x:0:0:root:/:/bin/sh\nweb:x:33:33::/:/bin/sh\n",
        )
        .unwrap();
        fs::write(root.join("etc/group"), "root:x:0:\nweb:x:33:\n").unwrap();
        pack(root, archive);
    })
}

/// Debian's Redis with the libraries it needs. `start` listens for everybody, at 6379, and keeps its data in `/data`.
pub fn redis() -> PathBuf {
    debian("redis", &["redis-server", "redis-cli"], |root| {
        start(
            root,
            "exec redis-server --protected-mode no --dir /data --appendonly yes",
        );
    })
}

/// Debian's nginx with the libraries it needs. `start` serves `/var/www/html` at port 80.
pub fn nginx() -> PathBuf {
    debian("nginx", &["nginx"], |root| {
        for dir in ["var/log/nginx", "var/lib/nginx", "var/www/html", "run"] {
            fs::create_dir_all(root.join(dir)).unwrap();
        }
        fs::create_dir_all(root.join("etc/nginx")).unwrap();
        let settings = "daemon off;\nuser root;\npid /run/nginx.pid;\nerror_log stderr;\nevents {}\n\
            http { access_log off; server { listen 80; root /var/www/html; } }\n";
        fs::write(root.join("etc/nginx/nginx.conf"), settings).unwrap();
        fs::write(root.join("var/www/html/index.html"), "served by nginx\n").unwrap();
        start(root, "exec nginx");
    })
}

/// `steady` of this package's examples, alone with the libraries that it needs: it ends without losing a request.
pub fn steady() -> PathBuf {
    let program = example("steady");
    let length = fs::metadata(&program).unwrap().len();
    let made = fs::metadata(&program).unwrap().modified().unwrap();
    let made = made
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap()
        .as_secs();
    cached(&format!("steady-{length}-{made}.tar"), |archive| {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        fs::create_dir_all(root.join("etc")).unwrap();
        install(program.to_str().unwrap(), root);
        fs::create_dir_all(root.join("bin")).unwrap();
        fs::copy(&program, root.join("bin/steady")).unwrap();
        pack(root, archive);
    })
}

/// A program of this package's examples, which are built with its tests.
pub fn example(name: &str) -> PathBuf {
    let program = Path::new(env!("CARGO_BIN_EXE_coracle"));
    program.with_file_name("examples").join(name)
}

/// Debian's etcd and etcdctl with the libraries they load, and nothing else.
pub fn etcd() -> PathBuf {
    cached("etcd-1.tar", |archive| {
        let dir = tempfile::tempdir().unwrap();
        for program in ["/usr/bin/etcd", "/usr/bin/etcdctl"] {
            install(program, dir.path());
        }
        pack(dir.path(), archive);
    })
}

/// Writes the program `start`, which units of the image run.
fn start(root: &Path, line: &str) {
    let path = root.join("bin/start");
    fs::write(&path, format!("#!/bin/sh\n{line} \"$@\"\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
}

fn debian(name: &str, programs: &[&str], furnish: impl FnOnce(&Path)) -> PathBuf {
    let from = Path::new(env!("CARGO_TARGET_TMPDIR")).join("debian");
    assert!(
        from.join("packages/Packages").exists(),
        "no {}: `make test` makes it, or scripts/debian",
        from.display()
    );
    cached(&format!("{name}.tar"), |archive| {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("image");
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cluster/closure");
        let mut closure = Command::new("bash");
        closure
            .arg(script)
            .arg(&from)
            .arg(dir.path().join("all"))
            .arg(&root)
            .args(programs);
        let output = closure.output().unwrap();
        assert!(
            output.status.success(),
            "{}",
            crate::common::errors(&output)
        );
        furnish(&root);
        pack(&root, archive);
    })
}
