//! Reading an image's files from outside, and filling a fresh volume with what the image has at its place.

use crate::error::{EngineError, Result};
use crate::id::random_hex;
use crate::record::{Record, ResolvedMount};
use crate::volumes::{FILLING, Volumes};
use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Gid, Mode, OFlags, ResolveFlags, Uid, chownat, mkdirat, mknodat,
    openat, openat2, readlinkat, statat, symlinkat,
};
use rustix::io::Errno;
use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

/// The text of a file of an image, whose layers are given topmost first; empty if there is none. A link is followed
/// inside its own layer only, and a file above a mebibyte is not read.
pub(crate) fn read_text(layers: &[PathBuf], path: &str) -> String {
    for layer in layers {
        match open_in(layer, path) {
            Ok(file) => {
                let mut text = Vec::new();
                // What cannot be read says nothing about users.
                let _ = file.take(1 << 20).read_to_end(&mut text);
                return String::from_utf8_lossy(&text).into_owned();
            }
            Err(Errno::NOENT | Errno::NOTDIR) => {}
            // A whiteout, or nothing that we should read.
            Err(_) => return String::new(),
        }
    }
    String::new()
}

fn open_in(layer: &Path, path: &str) -> rustix::io::Result<File> {
    let root = rustix::fs::open(
        layer,
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let fd = openat2(
        root,
        path,
        flags,
        Mode::empty(),
        ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS,
    )?;
    let file = File::from(fd);
    match file.metadata() {
        Ok(m) if m.is_file() => Ok(file),
        _ => Err(Errno::INVAL),
    }
}

/// Fills the record's fresh volumes, once.
pub(crate) async fn fill(volumes: &Volumes, record: &Record, layers: &[PathBuf]) -> Result<()> {
    for mount in record.mounts.iter().filter(|m| m.kind == "volume") {
        let Some(name) = &mount.name else { continue };
        if !volumes.get(name)?.fresh {
            continue;
        }
        if copies(record, mount) {
            let (layers, target, data) =
                (layers.to_vec(), mount.target.clone(), volumes.data(name));
            tokio::task::spawn_blocking(move || copy(&layers, &target, &data)).await??;
        }
        volumes.used(name)?;
    }
    Ok(())
}

/// Whether the mount's options allow it.
fn copies(record: &Record, mount: &ResolvedMount) -> bool {
    let refuses = |bind: &String| {
        let mut parts = bind.split(':').skip(1);
        let (target, modes) = (parts.next(), parts.next());
        target.is_some_and(|t| Path::new(t) == mount.target)
            && modes.is_some_and(|m| m.split(',').any(|m| m == "nocopy"))
    };
    if record.host_config.binds.iter().any(refuses) {
        return false;
    }
    let asked = record
        .host_config
        .mounts
        .iter()
        .find(|m| Path::new(&m.target) == mount.target);
    !asked
        .and_then(|m| m.volume_options.as_ref())
        .is_some_and(|o| o.no_copy || !o.subpath.is_empty())
}

fn copy(layers: &[PathBuf], target: &Path, data: &Path) -> Result<()> {
    let failed = |source: io::Error| EngineError::File {
        action: "filling the volume from the image",
        path: data.to_owned(),
        source,
    };
    let image =
        coracle_sys::overlay::open_overlay(layers).map_err(|e| failed(io::Error::other(e)))?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let inside = target.strip_prefix("/").unwrap_or(target);
    let from = match openat2(
        &image,
        inside,
        flags,
        Mode::empty(),
        ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS,
    ) {
        Ok(from) => from,
        // The image has nothing there, or no directory.
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(()),
        Err(e) => return Err(failed(e.into())),
    };
    // A volume that holds something already was filled by somebody.
    if fs::read_dir(data).map_err(failed)?.next().is_some() {
        return Ok(());
    }
    // It appears in one piece, on disk: one that a kill or a power cut left half filled would never be filled again.
    let random = random_hex().map_err(EngineError::from)?;
    let part = data.with_file_name(format!("{FILLING}{}", &random[..12]));
    fs::DirBuilder::new().create(&part).map_err(failed)?;
    let fill = || {
        let to = rustix::fs::open(&part, flags, Mode::empty())?;
        copy_dir(from.as_fd(), to.as_fd(), &mut HashMap::new())?;
        like(from.as_fd(), to.as_fd())?;
        rustix::fs::syncfs(&to)?;
        match fs::rename(&part, data) {
            // Another container was quicker.
            Err(e) if e.kind() == io::ErrorKind::DirectoryNotEmpty => fs::remove_dir_all(&part),
            other => other,
        }
    };
    let filled = fill();
    if filled.is_err() {
        let _ = fs::remove_dir_all(&part);
    }
    filled.map_err(failed)
}

/// Gives `to` the owner, mode, times and extended attributes of `from`.
fn like(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> io::Result<()> {
    let stat = rustix::fs::fstat(from)?;
    rustix::fs::fchown(
        to,
        Some(Uid::from_raw(stat.st_uid)),
        Some(Gid::from_raw(stat.st_gid)),
    )?;
    rustix::fs::fchmod(to, Mode::from_raw_mode(stat.st_mode))?;
    let mut names = vec![0u8; 64 << 10];
    if let Ok(len) = rustix::fs::flistxattr(from, &mut names) {
        for name in names[..len]
            .split(|b| *b == 0)
            .filter(|n| !n.is_empty() && !n.starts_with(b"trusted.overlay."))
        {
            let mut value = vec![0u8; 64 << 10];
            if let Ok(len) = rustix::fs::fgetxattr(from, name, &mut value) {
                match rustix::fs::fsetxattr(
                    to,
                    name,
                    &value[..len],
                    rustix::fs::XattrFlags::empty(),
                ) {
                    // The filesystem of the volumes keeps none.
                    Ok(()) | Err(Errno::OPNOTSUPP | Errno::PERM) => {}
                    Err(e) => return Err(e.into()),
                }
            }
        }
    }
    rustix::fs::futimens(to, &times(&stat))?;
    Ok(())
}

fn times(stat: &rustix::fs::Stat) -> rustix::fs::Timestamps {
    // The kernel's own values fit; the types differ between architectures.
    #[allow(clippy::unnecessary_cast)]
    let at = |s: i64, n: i64| rustix::fs::Timespec {
        tv_sec: s,
        tv_nsec: n as _,
    };
    rustix::fs::Timestamps {
        last_access: at(stat.st_atime, stat.st_atime_nsec as i64),
        last_modification: at(stat.st_mtime, stat.st_mtime_nsec as i64),
    }
}

type Links = HashMap<(u64, u64), OwnedFd>;

fn copy_dir(from: BorrowedFd<'_>, to: BorrowedFd<'_>, links: &mut Links) -> io::Result<()> {
    for entry in Dir::read_from(from)? {
        let entry = entry?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        let stat = statat(from, name, AtFlags::SYMLINK_NOFOLLOW)?;
        let open = |dir: BorrowedFd<'_>, flags: OFlags, mode| {
            openat(dir, name, flags | OFlags::NOFOLLOW | OFlags::CLOEXEC, mode)
        };
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {
                let source = open(from, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())?;
                mkdirat(to, name, Mode::RWXU)?;
                let made = open(to, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())?;
                copy_dir(source.as_fd(), made.as_fd(), links)?;
                like(source.as_fd(), made.as_fd())?;
            }
            FileType::RegularFile => {
                if let Some(first) = links.get(&(stat.st_dev, stat.st_ino)) {
                    let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(first));
                    rustix::fs::linkat(CWD, path, to, name, AtFlags::SYMLINK_FOLLOW)?;
                    continue;
                }
                let mut source = File::from(open(from, OFlags::RDONLY, Mode::empty())?);
                let made = open(
                    to,
                    OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL,
                    Mode::RWXU,
                )?;
                let mut made = File::from(made);
                io::copy(&mut source, &mut made)?;
                like(source.as_fd(), made.as_fd())?;
                if stat.st_nlink > 1 {
                    links.insert((stat.st_dev, stat.st_ino), made.into());
                }
            }
            FileType::Symlink => {
                let target = readlinkat(from, name, Vec::new())?;
                symlinkat(target, to, name)?;
                own(to, name, &stat)?;
            }
            kind => {
                mknodat(
                    to,
                    name,
                    kind,
                    Mode::from_raw_mode(stat.st_mode),
                    stat.st_rdev,
                )?;
                own(to, name, &stat)?;
            }
        }
    }
    Ok(())
}

fn own(dir: BorrowedFd<'_>, name: &std::ffi::CStr, stat: &rustix::fs::Stat) -> io::Result<()> {
    let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
    chownat(dir, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
    Ok(rustix::fs::utimensat(
        dir,
        name,
        &times(stat),
        AtFlags::SYMLINK_NOFOLLOW,
    )?)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    #[test]
    fn a_tree_is_copied_with_what_belongs_to_it() {
        let dir = tempfile::tempdir().unwrap();
        let (low, top, to) = (
            dir.path().join("low"),
            dir.path().join("top"),
            dir.path().join("to"),
        );
        for d in [low.join("data/sub"), top.join("data"), to.clone()] {
            fs::create_dir_all(d).unwrap();
        }
        fs::write(low.join("data/a"), "low").unwrap();
        fs::write(top.join("data/a"), "top").unwrap();
        fs::write(low.join("data/sub/b"), "b").unwrap();
        fs::hard_link(low.join("data/sub/b"), low.join("data/sub/c")).unwrap();
        fs::set_permissions(low.join("data/sub/b"), fs::Permissions::from_mode(0o4711)).unwrap();
        symlink("sub/b", low.join("data/link")).unwrap();
        std::os::unix::fs::chown(top.join("data"), Some(33), Some(44)).unwrap();
        let layers = [top, low];
        copy(&layers, Path::new("/data"), &to).unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 3);
        assert_eq!(fs::read_to_string(to.join("a")).unwrap(), "top");
        assert_eq!(fs::read_link(to.join("link")).unwrap(), Path::new("sub/b"));
        let (b, c) = (
            fs::metadata(to.join("sub/b")).unwrap(),
            fs::metadata(to.join("sub/c")).unwrap(),
        );
        assert_eq!((b.ino(), b.mode() & 0o7777), (c.ino(), 0o4711));
        let root = fs::metadata(&to).unwrap();
        assert_eq!((root.uid(), root.gid()), (33, 44));
        // What is there is not touched.
        fs::remove_file(to.join("a")).unwrap();
        copy(&layers, Path::new("/data"), &to).unwrap();
        assert!(!to.join("a").exists());
    }

    #[test]
    fn a_link_out_of_the_image_leads_nowhere() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("etc")).unwrap();
        symlink("/../../../../../etc/passwd", dir.path().join("etc/passwd")).unwrap();
        assert_eq!(read_text(&[dir.path().to_owned()], "etc/passwd"), "");
        fs::write(dir.path().join("etc/group"), "x:x:1:").unwrap();
        assert_eq!(read_text(&[dir.path().to_owned()], "etc/group"), "x:x:1:");
    }
}
