//! `coracle os config validate`: documents are read where the command runs, without a daemon.
#![allow(clippy::unwrap_used)]

use serde_json::Value;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use tempfile::TempDir;

const GOOD: &str = r#"#cloud-config
hostname: web1
coreos:
  fleet:
    public-ip: $public_ipv4
  units:
    - name: data.volume
      content: |
        [Volume]
    - name: web.container
      command: start
      content: |
        [Container]
        Image=web
        PublishPort=$private_ipv4:80:80
write_files:
  - path: /etc/motd
    permissions: "0600"
    content: of-a-file
coracle:
  join:
    address: 10.0.0.1
    token: coracle_1_secret
  network:
    interfaces:
      - name: eth0
        address: 10.0.0.2/24
"#;

/// A directory with documents, in which no daemon is.
struct Place(TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn file(&self, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.path().join("user-data");
        fs::write(&path, content).unwrap();
        path
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_coracle"));
        command.args(["os", "config", "validate"]).args(args);
        command.env("CORACLE_RUN_DIR", self.0.path());
        command
    }

    fn validate(&self, args: &[&str]) -> Output {
        let mut command = self.command(args);
        command.stdin(Stdio::null()).output().unwrap()
    }

    /// Its mistakes, one a line, without the file's name.
    fn mistakes(&self, content: impl AsRef<[u8]>) -> Vec<String> {
        let path = self.file(content);
        let name = path.to_str().unwrap();
        let output = self.validate(&[name]);
        let errors = errors(&output);
        assert_eq!(output.status.code(), Some(1), "{errors}");
        assert_eq!(text(&output), "");
        let place = |line: &str| line.strip_prefix(&format!("{name}:")).map(str::to_owned);
        let all = errors.lines().map(place).collect::<Option<Vec<_>>>();
        all.unwrap_or_else(|| panic!("not each names its file: {errors}"))
    }
}

fn text(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn errors(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// There are as many mistakes, and each begins and goes on with these words.
#[track_caller]
fn are(mistakes: &[String], wanted: &[(&str, &str)]) {
    assert_eq!(mistakes.len(), wanted.len(), "{mistakes:#?}");
    for (line, (place, words)) in mistakes.iter().zip(wanted) {
        assert!(
            line.starts_with(place) && line.contains(words),
            "{line} is not at {place} or lacks {words}"
        );
    }
}

#[test]
fn a_document_without_mistakes() {
    let place = Place::new();
    let path = place.file(GOOD);
    let name = path.to_str().unwrap();
    let output = place.validate(&[name]);
    assert_eq!(errors(&output), "");
    assert_eq!(text(&output), format!("{name}: no mistakes\n"));
    assert!(output.status.success());
}

#[test]
fn each_mistake_has_its_place() {
    let wrong = GOOD
        .replace("hostname: web1", "hostnme: web1")
        .replace(
            "        Image=web\n",
            "        Imag=web\n        Image=web\n",
        )
        .replace("path: /etc/motd", "path: /usr/motd")
        .replace("10.0.0.2/24", "10.0.0.2");
    let mistakes = Place::new().mistakes(wrong);
    are(
        &mistakes,
        &[
            ("2:1: hostnme: ", "did you mean hostname?"),
            ("14:9: coreos.units[1].content: ", "did you mean Image?"),
            ("18:11: write_files[0].path: ", "below /etc/ or /var/"),
            (
                "28:18: coracle.network.interfaces[0].address: ",
                "write for example 10.0.0.2/24",
            ),
        ],
    );
}

#[test]
fn columns_are_those_of_what_is_written() {
    let mistakes = Place::new().mistakes(
        "#cloud-config\ncoracle: {labels: {a: $private_ipv4, b: '', c: '${public_ipv4}', d: '\\$public_ipv4', e: ''}}\n",
    );
    are(
        &mistakes,
        &[
            ("2:38: coracle.labels.b: ", "its value is empty"),
            ("2:86: coracle.labels.e: ", "its value is empty"),
        ],
    );
}

/// The machine sets up its network before it has an address.
#[test]
fn the_network_is_read_without_addresses() {
    let place = Place::new();
    let mistakes = place.mistakes(
        "#cloud-config\ncoracle:\n  advertise: $private_ipv4\n  network:\n    dns: [$private_ipv4, 10.0.0.300]\n",
    );
    are(
        &mistakes,
        &[
            ("5:11: coracle.network.dns[0]: ", "was not replaced"),
            ("5:26: coracle.network.dns[1]: ", "is no IPv4 address"),
        ],
    );
}

#[test]
fn a_document_of_stdin() {
    let place = Place::new();
    for (content, code, said, told) in [
        (GOOD, 0, "stdin: no mistakes\n", ""),
        (
            "#cloud-config\nhostname: a_b\n",
            1,
            "",
            "stdin:2:11: hostname: \"a_b\" has a '_'",
        ),
    ] {
        let mut command = place.command(&["-"]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(content.as_bytes()).unwrap();
        drop(stdin);
        let output = child.wait_with_output().unwrap();
        let errors = errors(&output);
        assert_eq!(output.status.code(), Some(code), "{errors}");
        assert_eq!(text(&output), said);
        assert!(errors.starts_with(told), "{errors}");
        assert_eq!(errors.is_empty(), told.is_empty(), "{errors}");
    }
}

#[test]
fn what_cannot_be_read_is_named() {
    let place = Place::new();
    let dir = place.0.path().to_str().unwrap().to_owned();
    for (path, words) in [
        (format!("{dir}/nothing"), "No such file"),
        (dir, "Is a directory"),
    ] {
        let output = place.validate(&[&path]);
        let errors = errors(&output);
        assert_eq!(output.status.code(), Some(1), "{errors}");
        assert_eq!(text(&output), "");
        let whole = format!("coracle: reading {path} failed: ");
        assert!(
            errors.starts_with(&whole) && errors.contains(words),
            "{errors}"
        );
    }
}

#[test]
fn what_is_no_document() {
    let place = Place::new();
    are(&place.mistakes(""), &[("1:1: ", "is empty")]);
    are(&place.mistakes("#!/bin/sh\n"), &[("1:1: ", "is a script")]);
    // Its last byte that is read is the first one of a character.
    let huge = format!("#cloud-config\n##{}", "ü".repeat(1 << 20));
    are(&place.mistakes(&huge), &[("1:1: ", "is larger than")]);
    let latin = b"#cloud-config\nhostname: a\n# f\xfcr\n";
    are(&place.mistakes(latin), &[("3:4: ", "UTF-8")]);
    // It never ends.
    let output = place.validate(&["/dev/zero"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(errors(&output).starts_with("/dev/zero:1:1: "));
}

#[test]
fn what_is_understood_is_shown_without_secrets() {
    let place = Place::new();
    let path = place.file(GOOD);
    let show = |path: &Path| place.validate(&["--show", path.to_str().unwrap()]);
    let output = show(&path);
    assert!(output.status.success(), "{}", errors(&output));
    let shown: Value = serde_json::from_slice(&output.stdout).unwrap();
    for (pointer, wanted) in [
        ("/hostname", "web1"),
        ("/units/0/name", "data.volume"),
        ("/units/1/name", "web.container"),
        ("/units/1/command", "start"),
        ("/join/address", "10.0.0.1"),
        ("/join/token", "(hidden)"),
        ("/advertise", "192.0.2.1"),
        ("/network/interfaces/0/which/name", "eth0"),
        ("/network/interfaces/0/address", "10.0.0.2/24"),
        ("/write_files/0/path", "/etc/motd"),
        ("/write_files/0/content", "(9 bytes)"),
        ("/write_files/0/mode", "0600"),
    ] {
        let found = shown.pointer(pointer).and_then(Value::as_str);
        assert_eq!(found, Some(wanted), "{pointer} of {shown:#}");
    }
    let content = shown["units"][1]["content"].as_str().unwrap();
    assert!(
        content.contains("PublishPort=192.0.2.1:80:80\n"),
        "{content}"
    );

    // With a mistake, the rest is shown.
    let path = place.file(GOOD.replace("web1", "web_1"));
    let output = show(&path);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        errors(&output).contains(":2:11: hostname: "),
        "{}",
        errors(&output)
    );
    let rest: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(rest["hostname"].is_null());
    assert_eq!(rest["units"], shown["units"]);
    let all = text(&output) + &errors(&output);
    assert!(!all.contains("secret") && !all.contains("of-a-file"));
}

#[test]
fn the_documentation_s_documents_are_good() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/cloud-config.md");
    let page = fs::read_to_string(path).unwrap();
    let documents = page.split("```yaml\n").skip(1);
    let documents: Vec<_> = documents.filter_map(|d| d.split("```").next()).collect();
    assert_eq!(documents.len(), 2);
    let place = Place::new();
    for document in documents {
        let path = place.file(document);
        let output = place.validate(&[path.to_str().unwrap()]);
        assert!(output.status.success(), "{}", errors(&output));
    }
}
