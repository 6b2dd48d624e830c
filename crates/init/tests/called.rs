//! What the program says when it is not process 1.
#![allow(clippy::unwrap_used)]

use std::process::Command;

#[test]
fn it_refuses_to_be_any_other_process() {
    let said = Command::new(env!("CARGO_BIN_EXE_coracle-pid1"))
        .output()
        .unwrap();
    assert_eq!(said.status.code(), Some(2));
    let text = String::from_utf8(said.stderr).unwrap();
    assert!(
        text.contains("process 1 of the image") && text.contains("coracle os"),
        "{text}"
    );
}

#[test]
fn as_modprobe_it_says_what_is_not_there() {
    let dir = tempfile::tempdir().unwrap();
    let modprobe = dir.path().join("modprobe");
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_coracle-pid1"), &modprobe).unwrap();
    let ask = |arguments: &[&str]| Command::new(&modprobe).args(arguments).output().unwrap();
    let said = ask(&["--", "no_such_module"]);
    assert_eq!(said.status.code(), Some(1));
    assert!(!said.stderr.is_empty());
    // The kernel does not want to hear of it.
    let said = ask(&["-q", "--", "no_such_module"]);
    assert_eq!(said.status.code(), Some(1));
    assert!(said.stderr.is_empty());
}
