//! Files of a container from outside: `cp`, `export` and `diff`.
//!
//! Of a container that runs, the root is that of its first process, with all that is mounted there. Of one that does not, it is
//! mounted for the time of the request in a mount namespace of its own, which goes with the thread that has it, however it
//! ends; meanwhile the container cannot be started or removed. Every path is resolved by the kernel within the root.
//!
//! Names are Docker's (`daemon/archive.go`, `pkg/archive`): `dir` and its entries as `dir/…`, `dir/.` as `./…`, `/` as such.

use crate::container::Container;
use crate::engine::Engine;
use crate::error::{EngineError, Result};
use crate::record::{Phase, Record};
use crate::spec::user;
use chrono::{DateTime, Utc};
use coracle_image::pack::{self, Tree};
use coracle_image::{CopyInto, LayerError, copy_into};
use coracle_sys::view::{self, Bind, Parts, ViewError};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, openat2, readlinkat, statat};
use rustix::io::Errno;
use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::io::{AsyncRead, DuplexStream};
use tokio::sync::oneshot;
use tokio_util::io::SyncIoBridge;

/// Bytes that wait for a slow reader.
const WAITING: usize = 1 << 20;
/// Links that are followed on one path, as many as Docker follows.
const MOST_LINKS: usize = 255;

/// What is at a path.
#[derive(Debug, Clone, PartialEq)]
pub struct PathStat {
    /// Last part of the path as it was asked for.
    pub name: String,
    /// Bytes.
    pub size: u64,
    /// Kind and permissions in the bits of Go's `os.FileMode`.
    pub mode: u32,
    /// Last change of the content.
    pub mtime: DateTime<Utc>,
    /// Of a link: where in the container it leads in the end. Empty otherwise.
    pub link_target: String,
}

/// How an archive is copied in.
#[derive(Debug, Clone, Copy, Default)]
pub struct CopyOptions {
    /// Nothing else may take a directory's place, nor a directory that of something else.
    pub keep_kinds: bool,
    /// All belongs to the container's user, whatever the archive says.
    pub own: bool,
}

/// A path that was changed since the container was made.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Change {
    /// In the container.
    pub path: String,
    /// What happened to it.
    pub kind: ChangeKind,
}

/// What happened to a path, in Docker's numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ChangeKind {
    /// It was there and is another now.
    Modified = 0,
    /// It was not there.
    Added = 1,
    /// It is gone.
    Deleted = 2,
}

impl Engine {
    /// What is at a path of a container. A link at its end is not followed.
    ///
    /// # Errors
    /// [`EngineError::NotFound`] of the container or the path.
    pub async fn path_stat(&self, key: &str, path: &str) -> Result<PathStat> {
        let (asked, container) = (Asked::new(path)?, self.find(key)?);
        let name = container.name();
        let (tell, told) = oneshot::channel();
        self.in_root(&container, true, move |root| {
            let _ = tell.send(root.and_then(|r| asked.look(r, &name).map(|(_, _, stat)| stat)));
        })
        .await?;
        told.await.map_err(|_| ended())?
    }

    /// What is at a path of a container, and it as a tar archive, with all below it.
    ///
    /// # Errors
    /// As [`Self::path_stat`]'s. What fails later ends the archive early, which its readers notice.
    pub async fn archive(&self, key: &str, path: &str) -> Result<(PathStat, DuplexStream)> {
        let (asked, container) = (Asked::new(path)?, self.find(key)?);
        let name = container.name();
        let (reader, writer) = tokio::io::duplex(WAITING);
        let writer = SyncIoBridge::new(writer);
        let (tell, told) = oneshot::channel();
        let shown = asked.shown();
        self.in_root(&container, true, move |root| {
            let (dir, base, stat) = match root.and_then(|r| asked.look(r, &name)) {
                Ok(found) => found,
                Err(error) => {
                    let _ = tell.send(Err(error));
                    return;
                }
            };
            let to = stat.name.clone();
            let _ = tell.send(Ok(stat));
            if let Err(error) = pack::pack(dir, &base, to.as_bytes(), Tree::Whole, writer) {
                tracing::debug!(container = name, path = shown, %error, "an archive was not written to its end");
            }
        })
        .await?;
        let stat = told.await.map_err(|_| ended())??;
        self.tell(&container, "archive-path", &[]);
        Ok((stat, reader))
    }

    /// Copies a tar archive, plain or compressed with gzip or zstd, into a directory of a container.
    ///
    /// # Errors
    /// [`EngineError::NotFound`] of the container or the directory, [`EngineError::Invalid`] for what is no directory and for
    /// an archive that cannot be read, [`EngineError::Forbidden`] where the container cannot write. What was copied before stays.
    pub async fn copy_in(
        &self,
        key: &str,
        path: &str,
        options: CopyOptions,
        archive: impl AsyncRead + Send + Unpin + 'static,
    ) -> Result<()> {
        let (asked, container) = (Asked::new(path)?, self.find(key)?);
        let record = container.record();
        let owner = if options.own {
            self.owner(&container, &record)?
        } else {
            None
        };
        let archive = SyncIoBridge::new(archive);
        let (tell, told) = oneshot::channel();
        self.in_root(&container, true, move |root| {
            let copy = |root: BorrowedFd<'_>| {
                let directory = asked.directory(root, &record)?;
                let root = root
                    .try_clone_to_owned()
                    .map_err(EngineError::file("opening", "/"))?;
                let into = CopyInto {
                    root,
                    directory,
                    replace: !options.keep_kinds,
                    owner,
                    rename: None,
                };
                copy_into(into, archive).map_err(|error| refused(error, &asked.shown()))
            };
            let _ = tell.send(root.and_then(copy));
        })
        .await?;
        told.await.map_err(|_| ended())??;
        self.tell(&container, "extract-to-dir", &[]);
        Ok(())
    }

    /// The container's whole root filesystem as a tar archive, without what is mounted in it.
    ///
    /// # Errors
    /// [`EngineError::NotFound`]. What fails later ends the archive early.
    pub async fn export(&self, key: &str) -> Result<DuplexStream> {
        let container = self.find(key)?;
        let name = container.name();
        let (reader, writer) = tokio::io::duplex(WAITING);
        let writer = SyncIoBridge::new(writer);
        let (tell, told) = oneshot::channel();
        self.in_root(&container, false, move |root| {
            let root = match root {
                Ok(root) => root,
                Err(error) => {
                    let _ = tell.send(Err(error));
                    return;
                }
            };
            let _ = tell.send(Ok(()));
            if let Err(error) = pack::pack(root, OsStr::new(""), b"", Tree::OneMount, writer) {
                tracing::debug!(container = name, %error, "an export was not written to its end");
            }
        })
        .await?;
        told.await.map_err(|_| ended())??;
        self.tell(&container, "export", &[]);
        Ok(reader)
    }

    /// What the container has changed of its image, in the order of the paths.
    ///
    /// # Errors
    /// [`EngineError::NotFound`], [`EngineError::File`].
    pub async fn changes(&self, key: &str) -> Result<Vec<Change>> {
        let container = self.find(key)?;
        let mut lower = self.0.images.layer_dirs(&container.record().image()?)?;
        lower.push(crate::skeleton::directory(&self.0.options.state_dir));
        let upper = container.dir.join("upper");
        tokio::task::spawn_blocking(move || {
            let failed = EngineError::file("comparing", &upper);
            let compare = || -> io::Result<Vec<Change>> {
                let lower = coracle_sys::overlay::open_overlay(&lower).map_err(io::Error::other)?;
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
                let upper = rustix::fs::open(&upper, flags, Mode::empty())?;
                let mut found = Vec::new();
                compare(&upper, Some(&lower), "", &mut found)?;
                Ok(found)
            };
            compare().map_err(failed)
        })
        .await?
    }

    /// The user of `--user` or the image, if there is one.
    fn owner(&self, container: &Container, record: &Record) -> Result<Option<(u32, u32)>> {
        if record.config.user.is_empty() {
            return Ok(None);
        }
        let mut roots = vec![container.dir.join("upper")];
        roots.extend(self.0.images.layer_dirs(&record.image()?)?);
        let found = user::resolve(
            &record.config.user,
            &[],
            &crate::copyup::read_text(&roots, "etc/passwd"),
            &crate::copyup::read_text(&roots, "etc/group"),
        )?;
        Ok(Some((found.uid, found.gid)))
    }

    /// Starts `work` with the container's root, on a thread of its own. With `mounts`, what is mounted in the container shows.
    async fn in_root(
        &self,
        container: &Arc<Container>,
        mounts: bool,
        work: impl FnOnce(Result<BorrowedFd<'_>>) + Send + 'static,
    ) -> Result<()> {
        let op = container.op.clone().lock_owned().await;
        let record = container.record();
        if record.state.phase == Phase::Running {
            return Ok(view::of_process(record.state.pid, mounts, move |root| {
                work(root.map_err(EngineError::from));
            })?);
        }
        let mut lower = self.0.images.layer_dirs(&record.image()?)?;
        lower.push(crate::skeleton::directory(&self.0.options.state_dir));
        let work_dir = container.dir.join("work");
        std::fs::create_dir_all(&work_dir).map_err(EngineError::file("making", &work_dir))?;
        let parts = Parts {
            lower,
            upper: container.dir.join("upper"),
            work: work_dir,
            binds: if mounts { binds(&record) } else { Vec::new() },
        };
        view::of_parts(parts, move |root| {
            // Nobody may start it while its layers are mounted here.
            let _op = op;
            work(root.map_err(EngineError::from));
        })?;
        Ok(())
    }
}

fn ended() -> EngineError {
    EngineError::View(ViewError::Thread(io::Error::other(
        "it ended without a word",
    )))
}

fn binds(record: &Record) -> Vec<Bind> {
    let mut binds: Vec<Bind> = record
        .mounts
        .iter()
        .filter(|m| m.kind != "tmpfs")
        .map(|m| Bind {
            source: m.source.clone(),
            target: m.target.clone(),
            read_only: !m.writable,
            recursive: m.kind == "bind" && !m.options.iter().any(|o| o == "bind"),
        })
        .collect();
    // What lies within another is put on top of it.
    binds.sort_by_key(|b| b.target.components().count());
    binds
}

fn refused(error: LayerError, path: &str) -> EngineError {
    let read_only = |e: &io::Error| e.raw_os_error() == Some(Errno::ROFS.raw_os_error());
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(&error);
    while let Some(at) = cause {
        if at.downcast_ref::<io::Error>().is_some_and(read_only) {
            return EngineError::Forbidden(format!(
                "{path} is on a filesystem that is read-only in the container"
            ));
        }
        cause = at.source();
    }
    match error {
        LayerError::NoSpace(_) | LayerError::Io { .. } => EngineError::Archive(error),
        error => EngineError::Invalid(format!(
            "the archive for {path}: {}",
            crate::start::full(&error)
        )),
    }
}

/// A path as a client writes it.
#[derive(Debug, Clone)]
struct Asked {
    /// Absolute, without `.`, `..` and double slashes, as Go's `filepath.Clean` makes it.
    clean: PathBuf,
    /// It ended with `/` or `/.`: a directory is meant, and links at its end are followed.
    directory: bool,
    /// What it is called in an archive.
    name: String,
}

impl Asked {
    fn new(path: &str) -> Result<Self> {
        if path.is_empty() || path.contains('\0') {
            return Err(EngineError::Invalid(
                "parameter path is missing, or has a NUL byte".into(),
            ));
        }
        let mut parts: Vec<&str> = Vec::new();
        for part in path.split('/') {
            match part {
                "" | "." => {}
                ".." => _ = parts.pop(),
                part => parts.push(part),
            }
        }
        let dot = path == "." || path.ends_with("/.");
        Ok(Self {
            directory: dot || path.ends_with('/') || parts.is_empty(),
            name: match parts.last() {
                _ if dot => ".".to_owned(),
                Some(last) => (*last).to_owned(),
                None => "/".to_owned(),
            },
            clean: PathBuf::from(format!("/{}", parts.join("/"))),
        })
    }

    fn shown(&self) -> String {
        self.clean.display().to_string()
    }

    fn missing(&self, container: &str, error: Errno) -> EngineError {
        match error {
            Errno::NOENT => EngineError::NoSuchPath {
                path: self.shown(),
                container: container.to_owned(),
            },
            Errno::NOTDIR => EngineError::Invalid(format!("{}: not a directory", self.shown())),
            error => EngineError::file("opening", &self.clean)(error.into()),
        }
    }

    /// The directory that it is in, its name there (empty for the directory itself), and what it is.
    fn look(&self, root: BorrowedFd<'_>, container: &str) -> Result<(OwnedFd, OsString, PathStat)> {
        let missing = |e| self.missing(container, e);
        let (dir, base) = if self.directory {
            (within(root, &self.clean).map_err(missing)?, OsString::new())
        } else {
            let parent = self.clean.parent().unwrap_or(Path::new("/"));
            let base = self.clean.file_name().unwrap_or_default().to_owned();
            (within(root, parent).map_err(missing)?, base)
        };
        let here = AtFlags::SYMLINK_NOFOLLOW | AtFlags::EMPTY_PATH;
        let stat = statat(&dir, &base, here).map_err(missing)?;
        let link_target = if FileType::from_raw_mode(stat.st_mode) == FileType::Symlink {
            let target = follow(root, &self.clean).map_err(missing)?;
            target.display().to_string()
        } else {
            String::new()
        };
        let nanoseconds = u32::try_from(stat.st_mtime_nsec).unwrap_or(0);
        let found = PathStat {
            name: self.name.clone(),
            size: u64::try_from(stat.st_size).unwrap_or(0),
            mode: go_mode(stat.st_mode),
            mtime: DateTime::from_timestamp(stat.st_mtime, nanoseconds).unwrap_or_default(),
            link_target,
        };
        Ok((dir, base, found))
    }

    /// The directory that an archive is copied into, without links on its way.
    fn directory(&self, root: BorrowedFd<'_>, record: &Record) -> Result<PathBuf> {
        let missing = |e| self.missing(&record.name, e);
        let real = follow(root, &self.clean).map_err(missing)?;
        match within(root, &real) {
            Ok(_) => {}
            Err(Errno::NOTDIR) => {
                return Err(EngineError::Invalid(format!(
                    "extraction point is not a directory: {}",
                    self.shown()
                )));
            }
            Err(error) => return Err(missing(error)),
        }
        let inner = record
            .mounts
            .iter()
            .filter(|m| real.starts_with(&m.target))
            .max_by_key(|m| m.target.components().count());
        match inner {
            Some(mount) if !mount.writable => Err(EngineError::Forbidden(format!(
                "mounted volume is marked read-only: {}",
                mount.target.display()
            ))),
            None if record.host_config.readonly_rootfs => Err(EngineError::Forbidden(
                "container rootfs is marked read-only".into(),
            )),
            _ => Ok(real),
        }
    }
}

/// Opens a directory; links are followed within the root.
fn within(root: BorrowedFd<'_>, path: &Path) -> std::result::Result<OwnedFd, Errno> {
    let how = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    openat2(root, path, flags, Mode::empty(), how)
}

/// The path without links. Parts that are not there stay as they are.
fn follow(root: BorrowedFd<'_>, path: &Path) -> std::result::Result<PathBuf, Errno> {
    let parts = |path: &[u8]| -> Vec<Vec<u8>> {
        let parts = path.split(|b| *b == b'/');
        parts
            .filter(|p| !matches!(*p, b"" | b"."))
            .map(<[u8]>::to_vec)
            .collect()
    };
    let mut left: VecDeque<Vec<u8>> = parts(path.as_os_str().as_bytes()).into();
    let mut real = PathBuf::from("/");
    let mut links = 0;
    while let Some(part) = left.pop_front() {
        if part == b".." {
            real.pop();
            continue;
        }
        let name = OsString::from_vec(part);
        let link = within(root, &real).and_then(|dir| readlinkat(dir, &name, Vec::new()));
        let Ok(link) = link else {
            real.push(name);
            continue;
        };
        links += 1;
        if links > MOST_LINKS {
            return Err(Errno::LOOP);
        }
        let link = link.as_bytes();
        if link.starts_with(b"/") {
            real = PathBuf::from("/");
        }
        for part in parts(link).into_iter().rev() {
            left.push_front(part);
        }
    }
    Ok(real)
}

/// The bits of Go's `io/fs.FileMode`.
fn go_mode(mode: u32) -> u32 {
    let kind = match FileType::from_raw_mode(mode) {
        FileType::Directory => 1 << 31,
        FileType::Symlink => 1 << 27,
        FileType::BlockDevice => 1 << 26,
        FileType::CharacterDevice => 1 << 26 | 1 << 21,
        FileType::Fifo => 1 << 25,
        FileType::Socket => 1 << 24,
        _ => 0,
    };
    let flag = |bit: u32, go: u32| if mode & bit != 0 { go } else { 0 };
    mode & 0o777 | kind | flag(0o4000, 1 << 23) | flag(0o2000, 1 << 22) | flag(0o1000, 1 << 20)
}

/// Compares a layer with what is below it. `lower` is missing where nothing is below.
fn compare(
    upper: &OwnedFd,
    lower: Option<&OwnedFd>,
    path: &str,
    found: &mut Vec<Change>,
) -> io::Result<()> {
    let mut names = Vec::new();
    for entry in rustix::fs::Dir::read_from(upper)? {
        let entry = entry?;
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            names.push(entry.file_name().to_owned());
        }
    }
    names.sort_unstable();
    let here = AtFlags::SYMLINK_NOFOLLOW;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    for name in names {
        let path = format!("{path}/{}", name.to_string_lossy());
        let stat = match statat(upper, &name, here) {
            Ok(stat) => stat,
            // Gone meanwhile.
            Err(Errno::NOENT) => continue,
            Err(error) => return Err(error.into()),
        };
        let below = match lower.map(|l| statat(l, &name, here)) {
            None | Some(Err(Errno::NOENT | Errno::NOTDIR)) => None,
            Some(below) => Some(below?),
        };
        let is_dir = |mode| FileType::from_raw_mode(mode) == FileType::Directory;
        let whiteout =
            FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == 0;
        let kind = match (&below, whiteout) {
            (None, true) => continue,
            (Some(_), true) => ChangeKind::Deleted,
            (Some(_), false) => ChangeKind::Modified,
            (None, false) => ChangeKind::Added,
        };
        found.push(Change {
            path: path.clone(),
            kind,
        });
        if !is_dir(stat.st_mode) {
            continue;
        }
        let inner = rustix::fs::openat(upper, &name, flags, Mode::empty())?;
        let same = below.is_some_and(|b| is_dir(b.st_mode)) && !is_opaque(&inner);
        let below = match lower {
            Some(lower) if same => Some(rustix::fs::openat(lower, &name, flags, Mode::empty())?),
            _ => None,
        };
        compare(&inner, below.as_ref(), &path, found)?;
    }
    Ok(())
}

fn is_opaque(dir: impl AsFd) -> bool {
    let mut value = [0; 8];
    let length = rustix::fs::fgetxattr(dir, "trusted.overlay.opaque", &mut value[..]);
    length == Ok(1) && value[0] == b'y'
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    #[test]
    fn paths_as_docker_reads_them() {
        for (path, clean, directory, name) in [
            ("/", "/", true, "/"),
            ("/.", "/", true, "."),
            (".", "/", true, "."),
            ("a/../b", "/b", false, "b"),
            ("/../../etc", "/etc", false, "etc"),
            ("/etc/", "/etc", true, "etc"),
            ("//etc//x/.", "/etc/x", true, "."),
        ] {
            let asked = Asked::new(path).unwrap();
            let got = (asked.shown(), asked.directory, asked.name);
            assert_eq!(
                got,
                (clean.to_owned(), directory, name.to_owned()),
                "{path}"
            );
        }
        assert!(Asked::new("").is_err());
    }

    #[test]
    fn links_are_followed_within_the_root() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        fs::create_dir_all(root.join("usr/lib")).unwrap();
        symlink("usr/lib", root.join("lib")).unwrap();
        symlink("/../../lib/x", root.join("abs")).unwrap();
        symlink("loop", root.join("loop")).unwrap();
        let fd = fs::File::open(root).unwrap();
        let real = |path: &str| follow(fd.as_fd(), Path::new(path));
        assert_eq!(real("/lib/../lib/a/b").unwrap(), Path::new("/usr/lib/a/b"));
        assert_eq!(real("/abs").unwrap(), Path::new("/usr/lib/x"));
        assert_eq!(real("/loop"), Err(Errno::LOOP));
    }

    #[test]
    fn modes_as_go_has_them() {
        assert_eq!(go_mode(0o040_755), 1 << 31 | 0o755);
        assert_eq!(go_mode(0o104_755), 1 << 23 | 0o755);
        assert_eq!(go_mode(0o020_666), 1 << 26 | 1 << 21 | 0o666);
    }
}
