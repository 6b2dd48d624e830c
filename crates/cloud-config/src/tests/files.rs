//! `write_files`.
use super::{good, one_problem, read, shown};
use crate::{CONTENT_MAX, FILES_MAX};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use std::io::Write;

const GZIP: &str = "H4sIAAAAAAACA8tIzcnJ5wIAIDA6NgYAAAA=";

fn file(lines: &str) -> String {
    format!("write_files:\n- path: /etc/a\n  {lines}\n")
}

/// Zeros, packed and in base64.
fn zeros(count: usize) -> String {
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    packed.write_all(&vec![0; count]).unwrap();
    STANDARD.encode(packed.finish().unwrap())
}

#[test]
fn defaults() {
    let files = good("write_files:\n- path: /etc/a/b.conf\n").write_files;
    let one = &files[0];
    assert_eq!(
        (&*one.path, &*one.content, one.mode, one.uid, one.gid),
        ("/etc/a/b.conf", &b""[..], 0o644, 0, 0)
    );
}

#[test]
fn encodings() {
    for (lines, content) in [
        ("content: \"hello\\n\"".to_owned(), &b"hello\n"[..]),
        ("content: |\n    hello\n    x".to_owned(), b"hello\nx\n"),
        ("content: ''".to_owned(), b""),
        ("content:".to_owned(), b""),
        ("content: 0644".to_owned(), b"0644"),
        ("encoding: text/plain\n  content: a".to_owned(), b"a"),
        ("encoding: b64\n  content: aGVsbG8K".to_owned(), b"hello\n"),
        (
            "encoding: base64\n  content: |\n    aGVs\n    bG8K".to_owned(),
            b"hello\n",
        ),
        (format!("encoding: gz+b64\n  content: {GZIP}"), b"hello\n"),
        (
            format!("encoding: gzip+base64\n  content: {GZIP}"),
            b"hello\n",
        ),
        (
            format!("encoding: gzip\n  content: !!binary |\n    {GZIP}"),
            b"hello\n",
        ),
        ("content: !!binary AAH/".to_owned(), &[0, 1, 255]),
    ] {
        let files = good(&file(&lines)).write_files;
        assert_eq!(files[0].content, content, "{lines}");
    }
    for (lines, place, words) in [
        (
            "encoding: rot13\n  content: a",
            "line 4: write_files[0].encoding: ",
            "is no encoding",
        ),
        (
            "encoding: b64\n  content: a!",
            "line 5: write_files[0].content: ",
            "is no base64",
        ),
        (
            "encoding: gz\n  content: a",
            "line 5: write_files[0].content: ",
            "cannot be unpacked",
        ),
        (
            "encoding: gz+b64\n  content: aGVsbG8K",
            "line 5: write_files[0].content: ",
            "cannot be unpacked",
        ),
        (
            "content: [a]",
            "line 4: write_files[0].content: ",
            "has to be text",
        ),
    ] {
        assert_eq!(one_problem(&file(lines), place, words).write_files, []);
    }
}

#[test]
fn sizes() {
    let most = file(&format!(
        "encoding: gz+b64\n  content: {}",
        zeros(CONTENT_MAX)
    ));
    assert_eq!(good(&most).write_files[0].content.len(), CONTENT_MAX);
    let more = file(&format!(
        "encoding: gz+b64\n  content: {}",
        zeros(CONTENT_MAX + 1)
    ));
    one_problem(
        &more,
        "line 5: write_files[0].content: ",
        "is larger than 10 MiB",
    );
    let packed = zeros(CONTENT_MAX);
    let many: String = (0..4)
        .map(|n| format!("- {{path: /etc/{n}, encoding: gz+b64, content: {packed}}}\n"))
        .collect();
    let config = one_problem(
        &format!("write_files:\n{many}"),
        "line 6: write_files[3].content: ",
        "32 MiB together",
    );
    let all: usize = config.write_files.iter().map(|f| f.content.len()).sum();
    assert_eq!((config.write_files.len(), all <= FILES_MAX), (3, true));
}

#[test]
fn paths() {
    for path in [
        "/etc/a",
        "/var/lib/x/y",
        "/etc/coracle2/a",
        "/var/lib/coracle.d",
        "/etc/..a",
    ] {
        assert_eq!(
            good(&format!("write_files: [{{path: {path}}}]\n")).write_files[0].path,
            path
        );
    }
    let long = format!("/etc/{}", "a".repeat(256));
    for (path, words) in [
        ("etc/a", "no absolute path"),
        ("/etc/../usr/a", "empty part, . or .."),
        ("/etc/./coracle/a", "empty part, . or .."),
        ("/etc//coracle/a", "empty part, . or .."),
        ("/etc/a/", "empty part, . or .."),
        ("/etc", "read-only"),
        ("/usr/bin/a", "read-only"),
        ("/home/core/a", "read-only"),
        ("/run/a", "read-only"),
        ("/etcetera/a", "read-only"),
        ("/etc/coracle", "Coracle's own"),
        ("/etc/coracle/coracle.toml", "Coracle's own"),
        ("/var/lib/coracle/a", "Coracle's own"),
        ("\"/etc/a\\0\"", "control character"),
        (&*long, "longer than a path"),
    ] {
        let config = one_problem(
            &format!("write_files: [{{path: {path}}}]\n"),
            "line 2: write_files[0].path: ",
            words,
        );
        assert_eq!(config.write_files, []);
    }
    one_problem(
        "write_files:\n- content: a\n",
        "line 3: write_files[0]: ",
        "path is missing",
    );
}

#[test]
fn paths_in_each_others_way() {
    let config = one_problem(
        "write_files:\n- path: /etc/a\n- path: /etc/a\n  content: x\n",
        "line 4: write_files[1].path: ",
        "on line 3 already",
    );
    assert_eq!(config.write_files.len(), 1);
    one_problem(
        "write_files:\n- path: /etc/a\n- path: /etc/a/b\n",
        "line 4: write_files[1].path: ",
        "cannot be beside /etc/a (line 3)",
    );
    one_problem(
        "write_files:\n- path: /etc/a/b\n- path: /etc/a\n",
        "line 4: write_files[1].path: ",
        "cannot be beside /etc/a/b (line 3)",
    );
    good("write_files: [{path: /etc/a/b}, {path: /etc/a.b}, {path: /etc/a-b}, {path: /etc/a/c}]\n");
}

#[test]
fn owners() {
    for (owner, ids) in [
        ("root", (0, 0)),
        ("root:root", (0, 0)),
        ("1000:100", (1000, 100)),
        ("0:root", (0, 0)),
    ] {
        let one = &good(&file(&format!("owner: {owner}"))).write_files[0];
        assert_eq!((one.uid, one.gid), ids);
    }
    for owner in [
        "core",
        "core:core",
        "1000",
        "root:",
        "-1:0",
        "4294967295:0",
        "+1:0",
        "",
    ] {
        let config = one_problem(
            &file(&format!("owner: '{owner}'")),
            "line 4: write_files[0].owner: ",
            "is no owner",
        );
        assert_eq!(config.write_files, []);
    }
}

#[test]
fn permissions() {
    for (text, mode) in [
        ("0644", 0o644),
        ("'0600'", 0o600),
        ("\"755\"", 0o755),
        ("0o640", 0o640),
        ("'4755'", 0o4755),
        ("!!str 0700", 0o700),
    ] {
        assert_eq!(
            good(&file(&format!("permissions: {text}"))).write_files[0].mode,
            mode,
            "{text}"
        );
    }
    for (text, words) in [
        ("644", "decimal number for some"),
        ("420", "decimal number for some"),
        ("'0844'", "octal"),
        ("'rw-r--r--'", "octal"),
        ("'10000'", "octal"),
        ("'+644'", "octal"),
        ("'0o'", "octal"),
        ("''", "octal"),
    ] {
        let config = one_problem(
            &file(&format!("permissions: {text}")),
            "line 4: write_files[0].permissions: ",
            words,
        );
        assert_eq!(config.write_files, [], "{text}");
    }
}

#[test]
fn a_wrong_file_is_left_out_and_all_of_it_told() {
    let parsed = read(
        "write_files:\n- path: usr\n  owner: a\n  permissions: x\n  encoding: y\n  append: true\n- path: /etc/b\n",
    );
    let keys: Vec<_> = parsed.problems.iter().map(|p| &*p.key).collect();
    let parts = ["path", "owner", "permissions", "encoding", "append"];
    assert_eq!(
        keys,
        parts.map(|part| format!("write_files[0].{part}")),
        "{:?}",
        shown(&parsed)
    );
    assert_eq!(parsed.config.write_files.len(), 1);
}
