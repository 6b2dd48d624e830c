//! overlayfs through the new mount API.
//!
//! `lowerdir+` (kernel 6.5) takes one layer a call, so that neither the page that `mount(2)` allows for options nor
//! a `:` in a path limits the layers (the kernel's own limit is 500). Where it is missing, one `lowerdir=` string
//! with paths relative to the layers' common parent serves.

use rustix::{
    fs::{CWD, Mode, OFlags, open},
    io::Errno,
    mount::{
        FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MoveMountFlags, fsconfig_create,
        fsconfig_set_string, fsmount, fsopen, mount, move_mount,
    },
    process::{chdir, fchdir},
};
use std::{
    ffi::{CString, OsString},
    os::{fd::OwnedFd, unix::ffi::OsStrExt},
    path::{Path, PathBuf},
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

/// Mounts `lower` (topmost first) with `upper` and `work` on the existing directory `target`, in the calling
/// process's mount namespace. On kernels before 6.5 the working directory changes meanwhile, so the caller must be
/// single-threaded or not use it.
///
/// # Errors
/// [`OverlayError`] with the step that the kernel refused.
pub fn mount_overlay(
    lower: &[PathBuf],
    upper: &Path,
    work: &Path,
    target: &Path,
) -> Result<(), OverlayError> {
    let fail = |step: String, source| OverlayError {
        target: target.to_owned(),
        layers: lower.len(),
        step,
        source,
    };
    let fs =
        fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC).map_err(|e| fail("fsopen".into(), e))?;
    for layer in lower {
        match fsconfig_set_string(&fs, "lowerdir+", layer) {
            Ok(()) => {}
            // An older kernel, or a path beyond the 256 bytes of a configuration string.
            Err(Errno::INVAL) => return mount_by_string(lower, upper, work, target),
            Err(e) => return Err(fail(format!("lowerdir+={}", layer.display()), e)),
        }
    }
    for (key, dir) in [("upperdir", upper), ("workdir", work)] {
        match fsconfig_set_string(&fs, key, dir) {
            Ok(()) => {}
            Err(Errno::INVAL) => return mount_by_string(lower, upper, work, target),
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
    let fail = |step: String, source| OverlayError {
        target: PathBuf::from("a view without a place"),
        layers: lower.len(),
        step,
        source,
    };
    if let [only] = lower {
        let flags = OFlags::PATH | OFlags::CLOEXEC | OFlags::DIRECTORY;
        return open(only, flags, Mode::empty())
            .map_err(|e| fail(format!("open {}", only.display()), e));
    }
    let fs =
        fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC).map_err(|e| fail("fsopen".into(), e))?;
    for layer in lower {
        fsconfig_set_string(&fs, "lowerdir+", layer)
            .map_err(|e| fail(format!("lowerdir+={}", layer.display()), e))?;
    }
    fsconfig_create(&fs).map_err(|e| fail("create".into(), e))?;
    fsmount(
        &fs,
        FsMountFlags::FSMOUNT_CLOEXEC,
        MountAttrFlags::MOUNT_ATTR_RDONLY,
    )
    .map_err(|e| fail("fsmount".into(), e))
}

fn mount_by_string(
    lower: &[PathBuf],
    upper: &Path,
    work: &Path,
    target: &Path,
) -> Result<(), OverlayError> {
    let fail = |step: &str, source| OverlayError {
        target: target.to_owned(),
        layers: lower.len(),
        step: step.to_owned(),
        source,
    };
    let parent = common_parent(lower);
    let options = CString::new(options(&parent, lower, upper, work).as_bytes())
        .map_err(|_| fail("a path with a NUL byte", Errno::INVAL))?;
    let here = open(
        ".",
        OFlags::PATH | OFlags::CLOEXEC | OFlags::DIRECTORY,
        Mode::empty(),
    )
    .map_err(|e| fail("open .", e))?;
    chdir(&parent).map_err(|e| fail("chdir to the layers", e))?;
    let mounted = mount(
        "overlay",
        target,
        "overlay",
        MountFlags::empty(),
        options.as_c_str(),
    );
    fchdir(&here).map_err(|e| fail("fchdir back", e))?;
    mounted.map_err(|e| fail("mount", e))
}

/// The deepest directory that contains every layer.
fn common_parent(lower: &[PathBuf]) -> PathBuf {
    let first = lower
        .first()
        .and_then(|l| l.parent())
        .unwrap_or(Path::new("/"));
    let all = first.ancestors().find(|a| {
        lower
            .iter()
            .all(|l| l.parent().is_some_and(|p| p.starts_with(a)))
    });
    all.unwrap_or(Path::new("/")).to_owned()
}

/// The option string; `:`, `,` and `\` in a path are escaped as overlayfs reads them.
fn options(parent: &Path, lower: &[PathBuf], upper: &Path, work: &Path) -> OsString {
    use std::os::unix::ffi::OsStringExt;
    let mut out = b"lowerdir=".to_vec();
    let push = |path: &Path, out: &mut Vec<u8>| {
        for byte in path.as_os_str().as_bytes() {
            if b":,\\".contains(byte) {
                out.push(b'\\');
            }
            out.push(*byte);
        }
    };
    for (n, layer) in lower.iter().enumerate() {
        if n > 0 {
            out.push(b':');
        }
        push(layer.strip_prefix(parent).unwrap_or(layer), &mut out);
    }
    out.extend(b",upperdir=");
    push(upper, &mut out);
    out.extend(b",workdir=");
    push(work, &mut out);
    OsString::from_vec(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn relative_layers_are_short_and_escaped() {
        let lower = ["/l/x/a:b".into(), "/l/y".into()];
        assert_eq!(common_parent(&lower), Path::new("/l"));
        let text = options(Path::new("/l"), &lower, Path::new("/u"), Path::new("/w"));
        assert_eq!(text, "lowerdir=x/a\\:b:y,upperdir=/u,workdir=/w");
    }
}
