//! overlayfs, by the kernel's two ways of naming layers.
//!
//! `lowerdir+` (kernel 6.5) takes one layer a call, so that neither the page that `mount(2)` allows for options nor
//! a `:` in a path limits the layers (the kernel's own limit is 500). Older kernels take one string in that page; there every
//! layer is opened and named by its descriptor, so that 128 layers (Docker's limit) fit, whatever their paths.

use rustix::{
    fs::{CWD, Mode, OFlags, open},
    io::Errno,
    mount::{
        FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MountPropagationFlags,
        MoveMountFlags, fsconfig_create, fsconfig_set_string, fsmount, fsopen, mount, mount_change,
        move_mount,
    },
    thread::{UnshareFlags, unshare_unsafe},
};
use std::{
    ffi::CString,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::{Path, PathBuf},
    sync::OnceLock,
};

/// Why an overlay could not be mounted.
#[derive(Debug, thiserror::Error)]
#[error("cannot mount an overlay of {layers} layers on {} ({step}); look at the kernel log for overlayfs's reason", target.display())]
pub struct OverlayError {
    /// Where it should have appeared.
    pub target: PathBuf,
    /// How many lower directories.
    pub layers: usize,
    /// What was being done: an option and its value, or a system call.
    pub step: String,
    /// The kernel's answer.
    #[source]
    pub source: Errno,
}

/// How a kernel is told of layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Naming {
    /// `lowerdir+`, one at a time: since 6.5.
    OneByOne,
    /// `lowerdir=` with all of them.
    OneString,
}

impl Naming {
    /// What this kernel takes.
    pub fn of_this_kernel() -> Self {
        static KNOWN: OnceLock<Naming> = OnceLock::new();
        // Before 6.5 overlayfs takes any option until the end, and complains in the kernel's log.
        *KNOWN.get_or_init(|| Self::of(&rustix::system::uname().release().to_string_lossy()))
    }

    fn of(release: &str) -> Self {
        let mut numbers = release
            .split(|c: char| !c.is_ascii_digit())
            .map(str::parse::<u32>);
        match (numbers.next(), numbers.next()) {
            (Some(Ok(major)), Some(Ok(minor))) if (major, minor) < (6, 5) => Self::OneString,
            _ => Self::OneByOne,
        }
    }
}

/// The upper directory must say all there is to say, whatever the kernel's defaults: it is read as a layer by itself, and may
/// become a lower one.
const PLAIN: [(&str, &str); 3] = [
    ("redirect_dir", "off"),
    ("metacopy", "off"),
    ("index", "off"),
];

/// Mounts `lower` (topmost first) with `upper` and `work` on the existing directory `target`, in the calling
/// process's mount namespace. An older kernel needs `/proc`.
///
/// # Errors
/// [`OverlayError`] with the step that the kernel refused.
pub fn mount_overlay(
    lower: &[PathBuf],
    upper: &Path,
    work: &Path,
    target: &Path,
) -> Result<(), OverlayError> {
    mount_overlay_named(Naming::of_this_kernel(), lower, upper, work, target)
}

/// As [`mount_overlay`], with the layers named in one of the two ways. Every kernel takes [`Naming::OneString`].
///
/// # Errors
/// [`OverlayError`] with the step that the kernel refused.
pub fn mount_overlay_named(
    naming: Naming,
    lower: &[PathBuf],
    upper: &Path,
    work: &Path,
    target: &Path,
) -> Result<(), OverlayError> {
    let fail = |step, source| error(target, lower, step, source);
    let writable = [("upperdir", upper), ("workdir", work)];
    if naming == Naming::OneString {
        return mount_by_string(lower, &writable, MountFlags::empty(), target);
    }
    let fs =
        fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC).map_err(|e| fail("fsopen".into(), e))?;
    for (key, value) in PLAIN {
        fsconfig_set_string(&fs, key, value).map_err(|e| fail(format!("{key}={value}"), e))?;
    }
    let layers = lower.iter().map(|l| ("lowerdir+", l.as_path()));
    for (key, dir) in layers.chain(writable) {
        match fsconfig_set_string(&fs, key, dir) {
            Ok(()) => {}
            // A path beyond the 256 bytes of a configuration string, or an older kernel.
            Err(Errno::INVAL) => {
                return mount_by_string(lower, &writable, MountFlags::empty(), target);
            }
            Err(e) => return Err(fail(format!("{key}={}", dir.display()), e)),
        }
    }
    fsconfig_create(&fs).map_err(|e| fail("create".into(), e))?;
    let root = fsmount(&fs, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())
        .map_err(|e| fail("fsmount".into(), e))?;
    move_mount(
        &root,
        "",
        CWD,
        target,
        MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH,
    )
    .map_err(|e| fail("move_mount".into(), e))
}

/// Opens a read-only view of `lower` (topmost first) that is mounted nowhere: it lives as long as the descriptor.
/// A single layer is opened as it is.
///
/// # Errors
/// [`OverlayError`] with the step that the kernel refused.
pub fn open_overlay(lower: &[PathBuf]) -> Result<OwnedFd, OverlayError> {
    open_overlay_named(Naming::of_this_kernel(), lower)
}

/// As [`open_overlay`], with the layers named in one of the two ways.
///
/// # Errors
/// [`OverlayError`] with the step that the kernel refused.
pub fn open_overlay_named(naming: Naming, lower: &[PathBuf]) -> Result<OwnedFd, OverlayError> {
    let fail = |step, source| error(Path::new("a view without a place"), lower, step, source);
    if let [only] = lower {
        return directory(only).map_err(|e| fail(format!("open {}", only.display()), e));
    }
    if naming == Naming::OneString {
        return open_by_string(lower);
    }
    let fs =
        fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC).map_err(|e| fail("fsopen".into(), e))?;
    for layer in lower {
        match fsconfig_set_string(&fs, "lowerdir+", layer) {
            Ok(()) => {}
            Err(Errno::INVAL) => return open_by_string(lower),
            Err(e) => return Err(fail(format!("lowerdir+={}", layer.display()), e)),
        }
    }
    fsconfig_create(&fs).map_err(|e| fail("create".into(), e))?;
    fsmount(
        &fs,
        FsMountFlags::FSMOUNT_CLOEXEC,
        MountAttrFlags::MOUNT_ATTR_RDONLY,
    )
    .map_err(|e| fail("fsmount".into(), e))
}

fn error(target: &Path, lower: &[PathBuf], step: String, source: Errno) -> OverlayError {
    OverlayError {
        target: target.to_owned(),
        layers: lower.len(),
        step,
        source,
    }
}

fn directory(path: &Path) -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::CLOEXEC | OFlags::DIRECTORY;
    open(path, flags, Mode::empty())
}

fn mount_by_string(
    lower: &[PathBuf],
    writable: &[(&str, &Path)],
    flags: MountFlags,
    target: &Path,
) -> Result<(), OverlayError> {
    let fail = |step, source| error(target, lower, step, source);
    let mut layers = Vec::with_capacity(lower.len());
    for layer in lower {
        layers
            .push(directory(layer).map_err(|e| fail(format!("lowerdir {}", layer.display()), e))?);
    }
    let options = CString::new(options(&layers, writable))
        .map_err(|_| fail("a path with a NUL byte".into(), Errno::INVAL))?;
    mount("overlay", target, "overlay", flags, options.as_c_str())
        .map_err(|e| fail("mount".into(), e))
}

/// The view is mounted in a mount namespace that a thread has for itself, so that nobody else sees it, and outlives both as
/// an open descriptor.
fn open_by_string(lower: &[PathBuf]) -> Result<OwnedFd, OverlayError> {
    let fail = |step: &str, source| error(Path::new("a view"), lower, step.into(), source);
    let Some(place) = lower.first() else {
        return Err(fail("no layers", Errno::INVAL));
    };
    let view = || {
        // SAFETY: concerns this thread alone, which ends here: its mount namespace and, as that implies, its own root and
        // working directories.
        unsafe { unshare_unsafe(UnshareFlags::NEWNS) }.map_err(|e| fail("unshare", e))?;
        let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
        mount_change("/", private).map_err(|e| fail("making mounts private", e))?;
        mount_by_string(lower, &[], MountFlags::RDONLY, place)?;
        directory(place).map_err(|e| fail("open", e))
    };
    std::thread::scope(|scope| scope.spawn(view).join())
        .unwrap_or_else(|_| Err(fail("a thread of its own", Errno::CANCELED)))
}

/// The option string; `,` and `\` in a path are escaped as `mount(2)`'s options are read.
fn options(layers: &[OwnedFd], writable: &[(&str, &Path)]) -> Vec<u8> {
    let layers: Vec<String> = layers
        .iter()
        .map(|fd| format!("/proc/self/fd/{}", fd.as_raw_fd()))
        .collect();
    let mut out = format!("lowerdir={}", layers.join(":")).into_bytes();
    if !writable.is_empty() {
        out.extend(
            PLAIN
                .iter()
                .flat_map(|(key, value)| format!(",{key}={value}").into_bytes()),
        );
    }
    for (key, path) in writable {
        out.extend(format!(",{key}=").bytes());
        for byte in path.as_os_str().as_bytes() {
            if b",\\".contains(byte) {
                out.push(b'\\');
            }
            out.push(*byte);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_that_are_written_are_escaped() {
        let text = options(&[], &[("upperdir", Path::new("/a,b\\c:d"))]);
        let wanted = b"lowerdir=,redirect_dir=off,metacopy=off,index=off,upperdir=/a\\,b\\\\c:d";
        assert_eq!(text, wanted);
    }

    #[test]
    fn kernels_are_known_by_their_release() {
        for (release, naming) in [
            ("6.1.0-56-cloud-amd64", Naming::OneString),
            ("5.10.0", Naming::OneString),
            ("6.5.0", Naming::OneByOne),
            ("6.18.2+", Naming::OneByOne),
            ("7.0-rc1", Naming::OneByOne),
            ("odd", Naming::OneByOne),
        ] {
            assert_eq!(Naming::of(release), naming, "{release}");
        }
    }
}
