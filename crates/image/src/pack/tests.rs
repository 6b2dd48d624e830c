#![allow(clippy::unwrap_used)]
use super::*;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

fn listing(bytes: &[u8]) -> Vec<String> {
    let mut archive = tar::Archive::new(bytes);
    let entries = archive.entries().unwrap().map(Result::unwrap);
    entries
        .map(|e| {
            let link = e
                .link_name_bytes()
                .map(|l| format!(" -> {}", l.escape_ascii()));
            let kind = char::from(e.header().entry_type().as_byte());
            format!(
                "{kind} {}{}",
                e.path_bytes().escape_ascii(),
                link.unwrap_or_default()
            )
        })
        .collect()
}

#[test]
fn a_tree_is_written_and_read_back_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("root");
    let long = "d".repeat(120);
    fs::create_dir_all(root.join(&long)).unwrap();
    fs::write(root.join("a"), "text").unwrap();
    fs::hard_link(root.join("a"), root.join("b")).unwrap();
    fs::write(root.join(&long).join("deep"), vec![7; 1300]).unwrap();
    fs::set_permissions(root.join("a"), fs::Permissions::from_mode(0o4755)).unwrap();
    std::os::unix::fs::chown(root.join(&long), Some(3_000_000), Some(7)).unwrap();
    symlink("t".repeat(150), root.join("link")).unwrap();
    let mut bytes = Vec::new();
    pack_dir(&root, Tree::Whole, &mut bytes).unwrap();
    let mut again = Vec::new();
    pack_dir(&root, Tree::Whole, &mut again).unwrap();
    assert_eq!(bytes, again);
    let target = "t".repeat(150);
    let expected = [
        "0 a".to_owned(),
        "1 b -> a".into(),
        format!("5 {long}/"),
        format!("0 {long}/deep"),
        format!("2 link -> {target}"),
    ];
    assert_eq!(listing(&bytes), expected);
    let (out, trash) = (dir.path().join("out"), dir.path().join("trash"));
    fs::create_dir(&out).unwrap();
    fs::create_dir(&trash).unwrap();
    let limits = crate::unpack::Limits::default();
    crate::unpack::unpack(&bytes[..], &out, &trash, None, &limits).unwrap();
    let meta = |name: &str| fs::symlink_metadata(out.join(name)).unwrap();
    assert_eq!(
        (meta("a").mode() & 0o7777, meta("a").ino()),
        (0o4755, meta("b").ino())
    );
    assert_eq!((meta(&long).uid(), meta(&long).gid()), (3_000_000, 7));
    assert_eq!(
        fs::read(out.join(&long).join("deep")).unwrap(),
        vec![7; 1300]
    );
    assert_eq!(
        fs::read_link(out.join("link")).unwrap().as_os_str(),
        &*target
    );
    let mtime = |dir: &Path| fs::symlink_metadata(dir.join("a")).unwrap().mtime();
    assert_eq!(mtime(&out), mtime(&root));
}

#[test]
fn the_top_is_called_as_asked() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("x")).unwrap();
    fs::write(dir.path().join("x/f"), "").unwrap();
    let packed = |from: &str, to: &str| {
        let root = fs::File::open(dir.path()).unwrap();
        let mut bytes = Vec::new();
        pack(
            root,
            OsStr::new(from),
            to.as_bytes(),
            Tree::Whole,
            &mut bytes,
        )
        .unwrap();
        listing(&bytes)
    };
    assert_eq!(packed("x", "y"), ["5 y/", "0 y/f"]);
    assert_eq!(packed("", "/"), ["5 /", "5 /x/", "0 /x/f"]);
    assert_eq!(packed("", "."), ["5 ./", "5 ./x/", "0 ./x/f"]);
}

#[test]
fn marks_of_a_layer_become_names() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    fs::create_dir_all(root.join("etc/new")).unwrap();
    let etc = fs::File::open(root.join("etc")).unwrap();
    rustix::fs::mknodat(&etc, "motd", FileType::CharacterDevice, Mode::empty(), 0).unwrap();
    let flags = rustix::fs::XattrFlags::empty();
    let new = fs::File::open(root.join("etc/new")).unwrap();
    rustix::fs::fsetxattr(new, "trusted.overlay.opaque", b"y", flags).unwrap();
    let mut bytes = Vec::new();
    pack_dir(root, Tree::Layer, &mut bytes).unwrap();
    let expected = [
        "5 etc/",
        "0 etc/.wh.motd",
        "5 etc/new/",
        "0 etc/new/.wh..wh..opq",
    ];
    assert_eq!(listing(&bytes), expected);
}

#[test]
fn records_count_themselves() {
    assert_eq!(record(b"path", b"x"), b"9 path=x\n");
    let long = vec![b'x'; 91];
    let text = record(b"path", &long);
    assert!(text.starts_with(b"101 path=") && text.len() == 101);
}
