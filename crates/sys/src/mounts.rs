//! What mounts of the calling process's namespace are like (`proc_pid_mountinfo(5)`).

use rustix::fs::{AtFlags, CWD, StatxAttributes, StatxFlags, statx};
use std::{
    fs, io,
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
    let text = fs::read_to_string("/proc/self/mountinfo")?;
    let mount = text.lines().find_map(|l| read(l, found.stx_mnt_id));
    mount.ok_or_else(|| io::ErrorKind::NotFound.into())
}

/// Every place where something is mounted, each once.
///
/// # Errors
/// The kernel's own.
pub fn points() -> io::Result<Vec<PathBuf>> {
    let text = fs::read("/proc/self/mountinfo")?;
    let text = String::from_utf8_lossy(&text);
    let points = text
        .lines()
        .filter_map(|l| l.split(' ').nth(4).map(unescaped));
    let mut points: Vec<PathBuf> = points.map(PathBuf::from).collect();
    points.sort();
    points.dedup();
    Ok(points)
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
        point: unescaped(fields.get(4)?).into(),
        shared: optional.any(|f| f.starts_with("shared:")),
    })
}

/// The kernel writes blanks and the like as three octal digits.
fn unescaped(text: &str) -> String {
    let mut pieces = text.split('\\');
    let mut out = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        let digits = piece.get(..3);
        match digits.and_then(|d| u8::from_str_radix(d, 8).ok()) {
            Some(byte) => {
                out.push(char::from(byte));
                out.push_str(&piece[3..]);
            }
            None => {
                out.push('\\');
                out.push_str(piece);
            }
        }
    }
    out
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
