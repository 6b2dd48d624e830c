//! A root filesystem seen from outside: of a container that runs, or as it would be mounted of one that does not.

use crate::mounts::make_read_only;
use crate::overlay::{OverlayError, mount_overlay};
use rustix::{
    fs::{CWD, Mode, OFlags, ResolveFlags, mkdirat, open, openat, openat2},
    io::Errno,
    mount::{
        MountPropagationFlags, MoveMountFlags, OpenTreeFlags, mount_change, move_mount, open_tree,
    },
    thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe},
};
use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
};

/// Why a root could not be seen.
#[derive(Debug, thiserror::Error)]
pub enum ViewError {
    /// The kernel refused a step.
    #[error("cannot {step}")]
    Step {
        /// What was being done.
        step: String,
        /// The kernel's answer.
        #[source]
        source: Errno,
    },
    /// The overlay could not be mounted.
    #[error(transparent)]
    Overlay(#[from] OverlayError),
    /// No thread could be started.
    #[error("cannot start a thread")]
    Thread(#[source] io::Error),
}

fn step(step: impl Into<String>) -> impl FnOnce(Errno) -> ViewError {
    let step = step.into();
    move |source| ViewError::Step { step, source }
}

/// A directory or file of the host, and where it is inside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bind {
    /// On the host.
    pub source: PathBuf,
    /// Inside; links on the way are followed within the root.
    pub target: PathBuf,
    /// Whether it cannot be written there.
    pub read_only: bool,
    /// Whether, where it cannot, neither can what is mounted below the source.
    pub deep: bool,
    /// Whether what is mounted below the source shows as well.
    pub recursive: bool,
}

/// What a root is made of that is not mounted.
#[derive(Debug, Clone)]
pub struct Parts {
    /// Lower layers, topmost first; at least one.
    pub lower: Vec<PathBuf>,
    /// The layer that is written.
    pub upper: PathBuf,
    /// overlayfs's own directory.
    pub work: PathBuf,
    /// Mounts inside, in order.
    pub binds: Vec<Bind>,
}

/// Starts `work` with the root of a process that runs, on a thread of its own; with `mounts`, what is mounted there shows,
/// otherwise what lies under it.
///
/// # Errors
/// [`ViewError::Step`] if there is no such process.
pub fn of_process(
    pid: u32,
    mounts: bool,
    work: impl FnOnce(Result<BorrowedFd<'_>, ViewError>) + Send + 'static,
) -> Result<(), ViewError> {
    if mounts {
        let path = format!("/proc/{pid}/root");
        let root = directory(&path).map_err(step(format!("open {path}")))?;
        return on_a_thread(move || work(Ok(root.as_fd())));
    }
    let path = format!("/proc/{pid}/ns/mnt");
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let namespace = open(&path, flags, Mode::empty()).map_err(step(format!("open {path}")))?;
    on_a_thread(move || match alone(&namespace) {
        Ok(root) => work(Ok(root.as_fd())),
        Err(error) => work(Err(error)),
    })
}

/// A copy of the mounts at and below a path as a process sees them, to be put anywhere else.
///
/// # Errors
/// [`ViewError::Step`] if there is no such process or path, [`ViewError::Thread`].
pub fn tree_of(pid: u32, path: &Path) -> Result<OwnedFd, ViewError> {
    let namespace = format!("/proc/{pid}/ns/mnt");
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let namespace =
        open(&namespace, flags, Mode::empty()).map_err(step(format!("open {namespace}")))?;
    let path = path.to_owned();
    let copy = move || {
        enter(&namespace)?;
        let flags = OpenTreeFlags::OPEN_TREE_CLONE
            | OpenTreeFlags::OPEN_TREE_CLOEXEC
            | OpenTreeFlags::AT_RECURSIVE;
        open_tree(CWD, &path, flags).map_err(step(format!("copy the mount of {}", path.display())))
    };
    let thread = std::thread::Builder::new().spawn(copy);
    let thread = thread.map_err(ViewError::Thread)?;
    thread
        .join()
        .map_err(|_| ViewError::Thread(io::Error::other("the thread has panicked")))?
}

/// Enters a mount namespace for the rest of this thread's life.
fn enter(namespace: &OwnedFd) -> Result<(), ViewError> {
    // SAFETY: concerns this thread alone, which ends here: its own root and working directories.
    unsafe { unshare_unsafe(UnshareFlags::FS) }.map_err(step("unshare"))?;
    move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Mount))
        .map_err(step("enter the mount namespace"))
}

/// A copy of the mount that is a namespace's root.
fn alone(namespace: &OwnedFd) -> Result<OwnedFd, ViewError> {
    enter(namespace)?;
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    open_tree(CWD, "/", flags).map_err(step("copy the root's mount"))
}

/// Starts `work` with the root mounted in a mount namespace that only its thread has; with the thread it all goes.
/// If it cannot be mounted, `work` gets the reason.
///
/// # Errors
/// [`ViewError::Thread`].
pub fn of_parts(
    parts: Parts,
    work: impl FnOnce(Result<BorrowedFd<'_>, ViewError>) + Send + 'static,
) -> Result<(), ViewError> {
    on_a_thread(move || match mounted(&parts) {
        Ok(root) => work(Ok(root.as_fd())),
        Err(error) => work(Err(error)),
    })
}

/// As [`of_parts`], and returns when it is unmounted again. Blocking.
///
/// # Errors
/// [`ViewError`] if it cannot be mounted.
pub fn inside<T: Send>(
    parts: &Parts,
    work: impl FnOnce(BorrowedFd<'_>) -> T + Send,
) -> Result<T, ViewError> {
    let place = || mounted(parts).map(|root| work(root.as_fd()));
    let named = std::thread::Builder::new().name("root-view".into());
    std::thread::scope(|scope| {
        let thread = named.spawn_scoped(scope, place);
        let ended = thread.map_err(ViewError::Thread)?.join();
        ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

fn on_a_thread(work: impl FnOnce() + Send + 'static) -> Result<(), ViewError> {
    let named = std::thread::Builder::new().name("root-view".into());
    named.spawn(work).map(drop).map_err(ViewError::Thread)
}

fn directory(path: impl rustix::path::Arg) -> Result<OwnedFd, Errno> {
    open(
        path,
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )
}

fn mounted(parts: &Parts) -> Result<OwnedFd, ViewError> {
    // SAFETY: concerns this thread alone, which ends here: its mount namespace and, as that implies, its own root and
    // working directories.
    unsafe { unshare_unsafe(UnshareFlags::NEWNS) }.map_err(step("unshare"))?;
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    mount_change("/", private).map_err(step("make mounts private"))?;
    // Any directory does: nobody else sees what is mounted on it.
    let place = &parts.work;
    mount_overlay(&parts.lower, &parts.upper, &parts.work, place)?;
    let root = directory(place).map_err(step("open the root"))?;
    for bind in &parts.binds {
        put(&root, bind)?;
    }
    Ok(root)
}

fn put(root: &OwnedFd, bind: &Bind) -> Result<(), ViewError> {
    let what = |does: &str| {
        let (from, to) = (bind.source.display(), bind.target.display());
        step(format!("{does} {from} at {to}"))
    };
    let inside = bind.target.strip_prefix("/").unwrap_or(&bind.target);
    if !bind.source.exists() {
        // Nothing to show, and no place to be made for it: what it will be is not known.
        return Ok(());
    }
    let place = match found(root, inside) {
        // Never started, so that nobody has made the place yet.
        Err(Errno::NOENT) => {
            make(root, inside, bind.source.is_dir()).map_err(what("make the place of"))?;
            found(root, inside)
        }
        other => other,
    };
    let place = place.map_err(what("find the place of"))?;
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    if bind.recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    let tree = match open_tree(CWD, &bind.source, flags) {
        Ok(tree) => tree,
        Err(Errno::NOENT) => return Ok(()),
        Err(error) => return Err(what("mount")(error)),
    };
    let both = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    if bind.read_only {
        make_read_only(tree.as_fd(), bind.deep).map_err(what("make read-only"))?;
    }
    move_mount(&tree, "", &place, "", both).map_err(what("mount"))
}

fn found(root: &OwnedFd, path: &Path) -> Result<OwnedFd, Errno> {
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    openat2(
        root,
        path,
        OFlags::PATH | OFlags::CLOEXEC,
        Mode::empty(),
        resolve,
    )
}

/// Makes a directory or an empty file with the directories above it, as a start does.
fn make(root: &OwnedFd, path: &Path, directory: bool) -> Result<(), Errno> {
    let mut parent = found(root, Path::new("."))?;
    let mut whole = PathBuf::new();
    let last = path.components().count();
    for (n, part) in path.components().enumerate() {
        whole.push(part);
        if n + 1 < last || directory {
            match mkdirat(&parent, part.as_os_str(), Mode::from_raw_mode(0o755)) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(error) => return Err(error),
            }
            parent = found(root, &whole)?;
        } else {
            let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
            openat(&parent, part.as_os_str(), flags, Mode::from_raw_mode(0o644))?;
        }
    }
    Ok(())
}
