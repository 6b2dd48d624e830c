//! What mounts of the calling process's namespace are like (`proc_pid_mountinfo(5)`), and mounts that cannot be written.

use rustix::{
    fs::{AtFlags, CWD, StatxAttributes, StatxFlags, statx},
    io::Errno,
};
use std::{
    ffi::OsString,
    fs, io,
    os::{
        fd::{AsRawFd, BorrowedFd},
        unix::ffi::OsStringExt,
    },
    path::{Path, PathBuf},
};

/// The mount that a path is on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// Where it is mounted.
    pub point: PathBuf,
    /// Whether what is mounted on it shows in other mount namespaces.
    pub shared: bool,
}

/// Finds the mount that a path is on; links are followed.
///
/// # Errors
/// The kernel's own; `NotFound` too if the mount went away meanwhile.
pub fn mount_of(path: &Path) -> io::Result<Mount> {
    let found = statx(CWD, path, AtFlags::empty(), StatxFlags::MNT_ID)?;
    let text = mountinfo()?;
    let mount = text.lines().find_map(|l| read(l, found.stx_mnt_id));
    mount.ok_or_else(|| io::ErrorKind::NotFound.into())
}

/// The text of `/proc/self/mountinfo`. Names in it need not be UTF-8, and no other line is to suffer from one that is not.
pub(crate) fn mountinfo() -> io::Result<String> {
    let text = fs::read("/proc/self/mountinfo")?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// Forbids writing to a mount, `deep` to all that is mounted below it too (`mount_setattr(2)`). What else was said of them stays.
///
/// # Errors
/// The kernel's own.
pub fn make_read_only(mount: BorrowedFd<'_>, deep: bool) -> Result<(), Errno> {
    let attributes = libc::mount_attr {
        attr_set: libc::MOUNT_ATTR_RDONLY,
        attr_clr: 0,
        propagation: 0,
        userns_fd: 0,
    };
    let flags = libc::AT_EMPTY_PATH | if deep { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the path is a C string and the attributes are of the size given; both are only read, and live over the call.
    let done = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const attributes,
            size_of::<libc::mount_attr>(),
        )
    };
    if done != 0 {
        let error = io::Error::last_os_error();
        return Err(Errno::from_io_error(&error).unwrap_or(Errno::IO));
    }
    Ok(())
}

/// Whether a path is where something is mounted.
///
/// # Errors
/// The kernel's own.
pub fn is_root(path: &Path) -> io::Result<bool> {
    let found = statx(CWD, path, AtFlags::empty(), StatxFlags::empty())?;
    Ok(found.stx_attributes.contains(StatxAttributes::MOUNT_ROOT))
}

/// Reads `id parent device root point options optional… - type source options`, if it has this id.
fn read(line: &str, id: u64) -> Option<Mount> {
    let fields: Vec<&str> = line.split(' ').collect();
    if fields.first()?.parse() != Ok(id) {
        return None;
    }
    let mut optional = fields.get(6..)?.iter().take_while(|f| **f != "-");
    Some(Mount {
        point: unescaped(fields.get(4)?),
        shared: optional.any(|f| f.starts_with("shared:")),
    })
}

/// A path as mountinfo writes it: blanks and the like are three octal digits after a backslash.
pub(crate) fn unescaped(text: &str) -> PathBuf {
    let (mut out, mut rest) = (Vec::with_capacity(text.len()), text.as_bytes());
    while let [first, after @ ..] = rest {
        let byte;
        (byte, rest) = match (first, after) {
            (
                b'\\',
                [
                    a @ b'0'..=b'3',
                    b @ b'0'..=b'7',
                    c @ b'0'..=b'7',
                    after @ ..,
                ],
            ) => ((a & 3) << 6 | (b & 7) << 3 | (c & 7), after),
            _ => (*first, after),
        };
        out.push(byte);
    }
    OsString::from_vec(out).into()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn lines() {
        let line =
            r"41 31 0:38 /a /mnt/with\040blank rw,relatime shared:4 master:2 - ext4 /dev/x rw";
        let mount = read(line, 41).unwrap();
        assert_eq!(mount.point, Path::new("/mnt/with blank"));
        assert!(mount.shared);
        assert_eq!(read(line, 4), None);
        let private = "7 1 0:38 / / rw - ext4 shared:no rw";
        assert!(!read(private, 7).unwrap().shared);
        assert_eq!(read("", 7), None);
    }

    #[test]
    fn every_octal_escape_is_undone() {
        for (text, path) in [
            (r"/a\040b\011c\012d\134e\043f", "/a b\tc\nd\\e#f"),
            (r"/\303\274\134040", "/ü\\040"),
            (r"/no\escape\04", r"/no\escape\04"),
            (r"/\400\+40", r"/\400\+40"),
        ] {
            assert_eq!(unescaped(text), Path::new(path));
        }
    }

    #[test]
    fn this_ones() {
        assert_eq!(
            mount_of(Path::new("/proc/self")).unwrap().point,
            Path::new("/proc")
        );
        assert!(mount_of(Path::new("/no/such/path")).is_err());
        assert!(is_root(Path::new("/proc")).unwrap());
        assert!(!is_root(Path::new("/proc/self")).unwrap());
    }
}
