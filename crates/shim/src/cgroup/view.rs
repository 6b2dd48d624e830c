//! What a container sees in `/sys/fs/cgroup` on version 1: its own groups, each at its controller's name.

use super::{Cgroup, hierarchies};
use crate::error::ShimError;
use rustix::{
    fs::CWD,
    io::Errno,
    mount::{
        FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MoveMountFlags, OpenTreeFlags,
        fsconfig_create, fsconfig_set_string, fsmount, fsopen, mount_remount, move_mount,
        open_tree,
    },
};
use std::{
    io,
    os::{
        fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd},
        unix::fs::symlink,
    },
    path::{Path, PathBuf},
};

/// Detached copies of a group's mounts.
#[derive(Debug)]
pub struct View {
    copies: Vec<(String, Vec<String>, OwnedFd)>,
    target: PathBuf,
    read_only: bool,
}

/// What the container's init needs of a [`View`]; the descriptors are inherited.
#[derive(Debug, Clone)]
pub struct ViewMount {
    copies: Vec<(String, Vec<String>, RawFd)>,
    target: PathBuf,
    read_only: bool,
}

impl View {
    /// Copies the mounts of a group as the calling process sees them, to appear at `target`.
    ///
    /// # Errors
    /// With the directory that could not be copied.
    pub fn of(cgroup: &Cgroup, target: PathBuf, read_only: bool) -> Result<Self, ShimError> {
        let seen = &cgroup.machine.seen;
        // The version 2 tree of a hybrid machine controls nothing, so nobody is put there.
        let mounts = hierarchies(seen)
            .iter()
            .map(|h| (h.mount.as_path(), h.controllers.clone()));
        let copy = |(mount, controllers): (&Path, Vec<String>)| {
            let path = mount.join(cgroup.below());
            let fd = open_tree(
                CWD,
                &path,
                OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC,
            )
            .map_err(|e| ShimError::file("copy the mount of", &path)(e.into()))?;
            let name = mount
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            Ok((name, controllers, fd))
        };
        Ok(Self {
            copies: mounts.map(copy).collect::<Result<_, ShimError>>()?,
            target,
            read_only,
        })
    }

    /// For a process that will be forked while `self` lives.
    pub fn for_child(&self) -> ViewMount {
        let number = |(name, controllers, fd): &(String, Vec<String>, OwnedFd)| {
            (name.clone(), controllers.clone(), fd.as_raw_fd())
        };
        ViewMount {
            copies: self.copies.iter().map(number).collect(),
            target: self.target.clone(),
            read_only: self.read_only,
        }
    }
}

impl ViewMount {
    /// Mounts the view; the caller's root is the container's, and it is still privileged.
    ///
    /// # Errors
    /// The kernel's own.
    pub fn mount(&self) -> io::Result<()> {
        let flags = MountAttrFlags::MOUNT_ATTR_NOSUID
            | MountAttrFlags::MOUNT_ATTR_NODEV
            | MountAttrFlags::MOUNT_ATTR_NOEXEC;
        let fs = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
        fsconfig_set_string(&fs, "mode", "755")?;
        fsconfig_create(&fs)?;
        let tmpfs = fsmount(&fs, FsMountFlags::FSMOUNT_CLOEXEC, flags)?;
        let on = |from: BorrowedFd<'_>, to: &Path| {
            move_mount(from, "", CWD, to, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
        };
        use std::os::fd::AsFd;
        on(tmpfs.as_fd(), &self.target)?;
        let mut quiet =
            MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC | MountFlags::BIND;
        if self.read_only {
            quiet |= MountFlags::RDONLY;
        }
        for (name, controllers, fd) in &self.copies {
            let place = self.target.join(name);
            match std::fs::create_dir(&place) {
                Ok(()) => {}
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => continue,
                Err(e) => return Err(e),
            }
            // SAFETY: the parent keeps the descriptor open until this process has been made, so this is a copy of it.
            let copy = unsafe { BorrowedFd::borrow_raw(*fd) };
            on(copy, &place)?;
            mount_remount(&place, quiet, "")?;
            // Controllers of one hierarchy are known by their own names too.
            for controller in controllers
                .iter()
                .filter(|c| *c != name && !c.contains('='))
            {
                match symlink(name, self.target.join(controller)) {
                    Ok(()) => {}
                    Err(e) if e.raw_os_error() == Some(Errno::EXIST.raw_os_error()) => {}
                    Err(e) => return Err(e),
                }
            }
        }
        Ok(mount_remount(&self.target, quiet, "")?)
    }
}
