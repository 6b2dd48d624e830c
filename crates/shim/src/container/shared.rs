//! Binds that are shared: what the container mounts below them shows on the host, and the other way round.
//!
//! A mount is shared with those that were copied from it while it was shared. The shim's own mounts are none of these any more, as
//! nothing of a container's is to show on the host. So copies are made before the shim leaves the host's mount namespace, and put
//! into the container's, over the bind that the runtime has made there, when its root is finished.
//!
//! The same is done with what another container has mounted, its `/dev/shm` when its IPC namespace is joined: only who is in that
//! container's mount namespace can copy it.

use crate::error::ShimError;
use coracle_sys::mounts::{make_read_only, mount_of};
use coracle_sys::view::tree_of;
use oci_spec::runtime::{Mount, Spec};
use rustix::{
    fs::CWD,
    mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree},
};
use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd},
    path::{Path, PathBuf},
};

/// Option of a bind whose source is `/proc/<pid>/root/<path>`: what that process sees there.
pub const OF_PROCESS: &str = "of-process";

/// Reads `/proc/<pid>/root/<path>`.
fn of_process(source: &Path) -> Option<(u32, PathBuf)> {
    let (pid, path) = source
        .to_str()?
        .strip_prefix("/proc/")?
        .split_once("/root/")?;
    Some((pid.parse().ok()?, Path::new("/").join(path)))
}

/// Copies of the host's mounts, for one container.
#[derive(Debug, Default)]
pub struct Shared(Vec<(OwnedFd, PathBuf)>);

/// One of them as the container's init has it; the descriptor is inherited.
#[derive(Debug, Clone)]
pub struct SharedMount {
    copy: RawFd,
    target: PathBuf,
}

impl Shared {
    /// Copies the sources of shared binds, and has the runtime make private ones of these.
    ///
    /// # Errors
    /// [`ShimError::Invalid`] if a source is not on a shared mount, [`ShimError::File`] if it cannot be copied.
    pub fn take(spec: &mut Spec) -> Result<Self, ShimError> {
        let mut mounts = spec.mounts().clone().unwrap_or_default();
        let mut copies = Vec::new();
        let others = |m: &Mount| m.options().iter().flatten().any(|o| o == OF_PROCESS);
        for mount in mounts.extract_if(.., |m| others(m)) {
            let source = mount.source().clone().unwrap_or_default();
            let (pid, path) = of_process(&source).ok_or_else(|| {
                ShimError::Invalid(format!("{} is no process's path", source.display()))
            })?;
            let copy = tree_of(pid, &path).map_err(|e| ShimError::Runtime {
                details: None,
                source: Box::new(e),
            })?;
            copies.push((copy, mount.destination().clone()));
        }
        for mount in &mut mounts {
            let mut options = mount.options().clone().unwrap_or_default();
            let Some(mode) = options
                .iter_mut()
                .find(|o| matches!(o.as_str(), "shared" | "rshared"))
            else {
                continue;
            };
            "rprivate".clone_into(mode);
            let source = mount.source().clone().unwrap_or_default();
            let on = mount_of(&source).map_err(ShimError::file("look at the mount of", &source))?;
            if !on.shared {
                return Err(ShimError::Invalid(format!(
                    "path {} is mounted on {} but it is not a shared mount; run `mount --make-shared {}` on the host, or \
                     use another propagation",
                    source.display(),
                    on.point.display(),
                    on.point.display(),
                )));
            }
            let has = |option: &str| options.iter().any(|o| o == option);
            let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
            if has("rbind") {
                flags |= OpenTreeFlags::AT_RECURSIVE;
            }
            let copy = open_tree(CWD, &source, flags)
                .map_err(|e| ShimError::file("copy the mount of", &source)(e.into()))?;
            if has("ro") {
                make_read_only(copy.as_fd(), has("rro")).map_err(|e| {
                    ShimError::file("make a read-only copy of the mount of", &source)(e.into())
                })?;
            }
            copies.push((copy, mount.destination().clone()));
            mount.set_options(Some(options));
        }
        if !copies.is_empty() {
            spec.set_mounts(Some(mounts));
        }
        Ok(Self(copies))
    }

    /// For a process that will be forked while `self` lives.
    pub fn for_child(&self) -> Vec<SharedMount> {
        let one = |(copy, target): &(OwnedFd, PathBuf)| SharedMount {
            copy: copy.as_raw_fd(),
            target: target.clone(),
        };
        self.0.iter().map(one).collect()
    }
}

impl SharedMount {
    /// Puts it in its place; the caller's root is the container's, and it is still privileged.
    ///
    /// # Errors
    /// The kernel's own.
    pub fn mount(&self) -> io::Result<()> {
        // SAFETY: the parent keeps the descriptor open until this process has been made, so this is a copy of it.
        let copy = unsafe { BorrowedFd::borrow_raw(self.copy) };
        let how = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
        Ok(move_mount(copy, "", CWD, &self.target, how)?)
    }
}
