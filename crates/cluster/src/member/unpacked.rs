//! etcd's programs out of an image: its files are copied beside the data, and the programs run on the host with the libraries that
//! came with them. So etcd runs before there is a store, a network or a container, and is found again as one of the host's is.
//!
//! ```text
//! layers, lowest first ──copy──▶ etcd/image-<id>/     whiteouts and opaque directories as overlayfs has them
//!   /usr/bin/etcd asks for /lib64/ld-linux-x86-64.so.2 (PT_INTERP)
//!   ▶ etcd/image-<id>/lib64/ld-linux-x86-64.so.2 --library-path etcd/image-<id>/lib:… etcd/image-<id>/usr/bin/etcd …
//! ```
//! A program that is linked statically, as those of etcd's own images, is run as it is.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Read as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, symlink};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat2};

use super::{MemberError, files};

/// Where programs are in an image.
const PLACES: [&str; 5] = [
    "usr/local/bin",
    "usr/bin",
    "bin",
    "opt/bitnami/etcd/bin",
    "",
];
/// Where libraries are, but for those below these in a directory by the kind of machine.
const LIBRARIES: [&str; 5] = ["lib64", "usr/lib64", "lib", "usr/lib", "usr/local/lib"];
/// Extended attribute of a directory that hides what is below it.
const OPAQUE: &str = "trusted.overlay.opaque";
/// Bytes of a program's head that are looked at.
const HEAD: u64 = 64 << 10;

/// Copies an image's files below `dir` (`STATE_DIR/cluster`), unless they are there, and removes those of other images. `layers`
/// are the directories of its layers, topmost first. Answers where they are.
///
/// # Errors
/// `File`.
pub fn unpack(dir: &Path, id: &str, layers: &[PathBuf]) -> Result<PathBuf, MemberError> {
    let name = format!("image-{}", id.get(..12).unwrap_or(id));
    let root = dir.join("etcd").join(&name);
    if root.exists() {
        return Ok(root);
    }
    let half = root.with_extension("new");
    files::remove_dir(&half)?;
    files::make_dir(&half)?;
    for layer in layers.iter().rev() {
        copy(layer, &half).map_err(MemberError::file("copying", layer))?;
    }
    let all = fs::read_dir(dir.join("etcd")).map_err(MemberError::file("reading", dir))?;
    for entry in all.flatten() {
        let former = entry.file_name().to_string_lossy().starts_with("image-");
        if former && entry.path() != half {
            files::remove_dir(&entry.path())?;
        }
    }
    fs::rename(&half, &root).map_err(MemberError::file("naming", &root))?;
    Ok(root)
}

/// Puts one layer over what is there.
fn copy(layer: &Path, to: &Path) -> io::Result<()> {
    for entry in fs::read_dir(layer)? {
        let entry = entry?;
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        let meta = from.symlink_metadata()?;
        let kind = meta.file_type();
        let is_dir = to.symlink_metadata().is_ok_and(|there| there.is_dir());
        if !(kind.is_dir() && is_dir && !is_opaque(&from)) {
            remove(&to)?;
        }
        if kind.is_dir() {
            match fs::create_dir(&to) {
                Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error),
                _ => {}
            }
            copy(&from, &to)?;
        } else if kind.is_symlink() {
            symlink(fs::read_link(&from)?, &to)?;
        } else if kind.is_file() {
            fs::copy(&from, &to)?;
        } else if !(kind.is_char_device() && meta.rdev() == 0) {
            // No program of etcd's needs other devices, sockets or pipes.
            tracing::debug!(path = %from.display(), "left out of etcd's files");
        }
    }
    Ok(())
}

fn remove(path: &Path) -> io::Result<()> {
    let removed = match path.symlink_metadata() {
        Ok(meta) if meta.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn is_opaque(dir: &Path) -> bool {
    let mut value = [0; 1];
    rustix::fs::lgetxattr(dir, OPAQUE, &mut value[..]).is_ok_and(|n| n == 1 && value == *b"y")
}

/// Where a path of the image is, with links followed as they would be in it.
fn within(root: &Path, path: &Path) -> Option<PathBuf> {
    let root = rustix::fs::open(root, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).ok()?;
    let inside = path.strip_prefix("/").unwrap_or(path);
    let inside = match inside.as_os_str().is_empty() {
        true => Path::new("."),
        false => inside,
    };
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let found = openat2(&root, inside, flags, Mode::empty(), ResolveFlags::IN_ROOT).ok()?;
    let link = format!("/proc/self/fd/{}", found.as_raw_fd());
    let named = rustix::fs::readlinkat(CWD, link, Vec::new()).ok()?;
    Some(PathBuf::from(named.to_string_lossy().into_owned()))
}

/// A program of an image.
pub(super) fn program(root: &Path, name: &str) -> Option<PathBuf> {
    let mut places = PLACES.iter().map(|place| Path::new(place).join(name));
    places.find_map(|path| within(root, &path).filter(|path| super::find::is_program(path)))
}

/// What the places that were looked at are called in errors.
pub(super) fn looked() -> String {
    PLACES.map(|place| format!("/{place}")).join(", ")
}

/// What stands before a program of an image to have it run with the image's libraries; nothing for one that needs none.
///
/// # Errors
/// `File`; `Loader` where the image has not what the program asks for.
pub(super) fn loader(root: &Path, program: &Path) -> Result<Vec<String>, MemberError> {
    let mut head = Vec::new();
    File::open(program)
        .and_then(|file| file.take(HEAD).read_to_end(&mut head))
        .map_err(MemberError::file("reading", program))?;
    let Some(interpreter) = interpreter(&head) else {
        return Ok(Vec::new());
    };
    let missing = || MemberError::Loader {
        program: program.to_owned(),
        loader: interpreter.clone(),
    };
    let found = within(root, Path::new(&interpreter)).ok_or_else(missing)?;
    let kind = format!("{}-linux-gnu", std::env::consts::ARCH);
    let by_kind = LIBRARIES.map(|dir| format!("{dir}/{kind}"));
    let dirs = by_kind.iter().map(String::as_str).chain(LIBRARIES);
    let mut libraries: Vec<String> = Vec::new();
    for dir in dirs.filter_map(|dir| within(root, Path::new(dir))) {
        let dir = dir.display().to_string();
        if !libraries.contains(&dir) {
            libraries.push(dir);
        }
    }
    Ok(vec![
        found.display().to_string(),
        "--library-path".to_owned(),
        libraries.join(":"),
    ])
}

/// The path that stands in the program header `PT_INTERP` of a 64-bit ELF file of this machine's byte order.
fn interpreter(head: &[u8]) -> Option<String> {
    const PT_INTERP: u32 = 3;
    let number = |at: usize, bytes: usize| -> Option<u64> {
        let field = head.get(at..at.checked_add(bytes)?)?;
        Some(
            field
                .iter()
                .rev()
                .fold(0, |n, byte| n << 8 | u64::from(*byte)),
        )
    };
    if !head.starts_with(b"\x7fELF\x02\x01") {
        return None;
    }
    let at = usize::try_from(number(32, 8)?).ok()?;
    let (size, count) = (number(54, 2)?, number(56, 2)?);
    for n in 0..count {
        let header = at.checked_add(usize::try_from(n * size).ok()?)?;
        if number(header, 4)? != u64::from(PT_INTERP) {
            continue;
        }
        let from = usize::try_from(number(header.checked_add(8)?, 8)?).ok()?;
        let length = usize::try_from(number(header.checked_add(32)?, 8)?).ok()?;
        let text = head.get(from..from.checked_add(length)?)?;
        let text = text.strip_suffix(b"\0").unwrap_or(text);
        return String::from_utf8(text.to_vec()).ok();
    }
    None
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use rustix::fs::{FileType, XattrFlags, makedev, mknodat, setxattr};

    fn write(path: &Path, text: &str) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    #[test]
    fn layers_lie_over_each_other() {
        let dir = tempfile::tempdir().unwrap();
        let (low, high) = (dir.path().join("low"), dir.path().join("high"));
        for name in [
            "etc/gone",
            "etc/kept",
            "opaque/gone",
            "etc/changed",
            "dir/x",
        ] {
            write(&low.join(name), "low");
        }
        write(&high.join("etc/changed"), "high");
        write(&high.join("opaque/new"), "high");
        write(&high.join("dir"), "a file now");
        symlink("/etc/kept", high.join("link")).unwrap();
        setxattr(high.join("opaque"), OPAQUE, b"y", XattrFlags::empty()).unwrap();
        let gone = high.join("etc/gone");
        mknodat(
            CWD,
            &gone,
            FileType::CharacterDevice,
            Mode::empty(),
            makedev(0, 0),
        )
        .unwrap();
        let layers = [high, low];
        let root = unpack(dir.path(), "0123456789abcdef", &layers).unwrap();
        assert_eq!(root, dir.path().join("etcd/image-0123456789ab"));
        let text = |name: &str| fs::read_to_string(root.join(name)).ok();
        assert_eq!(text("etc/kept").unwrap(), "low");
        assert_eq!(text("etc/changed").unwrap(), "high");
        assert_eq!(text("opaque/new").unwrap(), "high");
        assert_eq!(text("dir").unwrap(), "a file now");
        assert_eq!((text("etc/gone"), text("opaque/gone")), (None, None));
        assert_eq!(
            within(&root, Path::new("/link")),
            Some(root.join("etc/kept"))
        );
        // Another image takes its place.
        let other = unpack(dir.path(), "f".repeat(64).as_str(), &layers).unwrap();
        assert!(other.exists() && !root.exists());
    }

    #[test]
    fn what_a_program_is_loaded_by_is_read() {
        let dynamic = fs::read("/usr/bin/env").unwrap();
        let found = interpreter(&dynamic).unwrap();
        assert!(Path::new(&found).exists(), "{found}");
        assert_eq!(interpreter(b"#!/bin/sh\n"), None);
        for end in 0..512 {
            // Cut anywhere it is none, and no panic.
            let _ = interpreter(&dynamic[..end]);
        }
    }
}
