//! Images as people build them: Debian and its own package manager.

use super::common::{Daemon, errors, text, until};
use super::{built, context, nothing_is_left};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Stdio;

const DOCKERFILE: &str = r#"
FROM debian AS packages
COPY local.list /etc/apt/sources.list
RUN apt-get -q --version

FROM packages AS nginx
RUN --mount=type=bind,source=packages,target=/packages <<EOF
set -e
apt-get -q update
apt-get -q -y --no-install-recommends install nginx-light
rm -rf /var/lib/apt/lists/*
EOF
RUN ln -sf /dev/stdout /var/log/nginx/access.log && echo served > /var/www/html/index.html
EXPOSE 80
STOPSIGNAL SIGQUIT
CMD ["nginx", "-g", "daemon off;"]

FROM packages AS redis
RUN --mount=type=bind,source=packages,target=/packages \
    --mount=type=tmpfs,target=/var/lib/apt/lists \
    apt-get -q update && apt-get -q -y --no-install-recommends install redis-server
USER redis
WORKDIR /data
CMD ["redis-server", "--protected-mode", "no"]

FROM packages AS python
RUN --mount=type=bind,source=packages,target=/packages \
    --mount=type=tmpfs,target=/var/lib/apt/lists \
    apt-get -q update && apt-get -q -y --no-install-recommends install python3-minimal
COPY --chmod=755 <<SCRIPT /usr/local/bin/answer
#!/usr/bin/python3
print(6 * 7)
SCRIPT
ENTRYPOINT ["answer"]

FROM scratch AS all
COPY --from=nginx /usr/sbin/nginx /
COPY --from=redis /usr/bin/redis-server /
COPY --from=python /usr/local/bin/answer /
"#;

fn debian() -> PathBuf {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("debian");
    assert!(
        dir.join("packages/Packages").exists(),
        "no {}: `make test` makes it, or scripts/debian",
        dir.display()
    );
    dir
}

#[test]
fn debian_with_nginx_redis_and_python() {
    let d = Daemon::bare();
    let base = File::open(debian().join("base.tar")).unwrap();
    let import = d
        .command()
        .args(["import", "-", "debian"])
        .stdin(base)
        .stdout(Stdio::null())
        .status()
        .unwrap();
    assert!(import.success());
    let dir = context(
        &d,
        "debian",
        &[
            ("Dockerfile", DOCKERFILE),
            ("local.list", "deb [trusted=yes] file:/packages ./\n"),
            ("packages/none", ""),
        ],
    );
    for package in fs::read_dir(debian().join("packages")).unwrap() {
        let path = package.unwrap().path();
        fs::hard_link(&path, dir.join("packages").join(path.file_name().unwrap()))
            .or_else(|_| {
                fs::copy(&path, dir.join("packages").join(path.file_name().unwrap())).map(drop)
            })
            .unwrap();
    }
    // All three at once, and each is there afterwards without doing anything anew.
    built(&d, &dir, &["-t", "all", "--target", "all"]);
    for stage in ["nginx", "redis", "python"] {
        let said = built(&d, &dir, &["-t", stage, "--target", stage]);
        assert!(!said.contains("Running in"), "{said}");
    }
    let all = d.ok([
        "image",
        "inspect",
        "--format",
        "{{len .RootFS.Layers}}",
        "all",
    ]);
    assert_eq!(all.trim(), "3");
    assert_eq!(d.ok(["run", "--rm", "python"]), "42");
    d.ok(["run", "-d", "--name", "web", "nginx"]);
    d.ok(["run", "-d", "--name", "db", "redis"]);
    let address = d.field("web", ".NetworkSettings.IPAddress");
    until("nginx serves", || {
        let got = d
            .inside("busybox")
            .args(["wget", "-q", "-O", "-", &format!("http://{address}")])
            .output()
            .unwrap();
        text(&got) == "served"
    });
    until("redis answers", || {
        text(&d.coracle(["exec", "db", "redis-cli", "ping"])) == "PONG"
    });
    assert_eq!(d.ok(["exec", "db", "id", "-un"]), "redis");
    // docker's command builds the same.
    let docker = d.docker([
        "build",
        "-q",
        "--target",
        "redis",
        &dir.display().to_string(),
    ]);
    assert!(docker.status.success(), "{}", errors(&docker));
    let id = d.ok(["image", "inspect", "--format", "{{.Id}}", "redis"]);
    assert_eq!(text(&docker), id);
    d.ok(["rm", "-f", "web", "db"]);
    nothing_is_left(&d);
}
