//! Volumes whose data is elsewhere: docker's options `type`, `device` and `o` of the driver `local`, which are those of mount(8).
//!
//! A bind (`o=bind`) is that directory itself. Anything else, a tmpfs, a share of NFS, a disk, is mounted on the host when the first
//! container starts that has it, below the run directory, and unmounted when the volume is removed or everything is taken down.
//!
//! # A worked example
//!
//! `--opt type=nfs --opt o=addr=10.0.0.9,rw,nfsvers=4 --opt device=:/exports/data`: `rw` is a flag, `nfsvers=4,addr=10.0.0.9` goes to
//! the file system, and `:/exports/data` is its source.

use crate::error::{EngineError, Result};
use crate::mounts::words;
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use std::collections::BTreeMap;
use std::ffi::CString;
use std::fs;
use std::io;
use std::net::{IpAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};

/// Where a volume's data is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// In a directory of its own, below the state directory.
    Own,
    /// In a directory of the host.
    Bind(PathBuf),
    /// In a file system to be mounted.
    Mount(Mount),
}

/// What is to be mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    kind: String,
    device: String,
    flags: MountFlags,
    /// Words for the file system, in their order.
    data: Vec<String>,
}

/// Reads a volume's options.
///
/// # Errors
/// [`EngineError::Invalid`] naming the option.
pub fn read(options: &BTreeMap<String, String>) -> Result<Place> {
    let invalid = |text: String| Err(EngineError::Invalid(text));
    if let Some(other) = options
        .keys()
        .find(|k| !matches!(k.as_str(), "type" | "device" | "o"))
    {
        return invalid(format!(
            "invalid option: \"{other}\"; volumes of the driver local take type, device and o"
        ));
    }
    let option = |key: &str| options.get(key).map_or("", String::as_str);
    let (kind, device) = (option("type"), option("device"));
    let words: Vec<&str> = option("o").split(',').filter(|w| !w.is_empty()).collect();
    let bind = words.iter().any(|w| matches!(*w, "bind" | "rbind"));
    match (kind, device) {
        ("", "") if words.is_empty() => return Ok(Place::Own),
        (_, "") => return invalid("missing required option: \"device\"".into()),
        ("", _) if !bind => return invalid("missing required option: \"type\"".into()),
        _ => {}
    }
    if bind {
        let path = PathBuf::from(device);
        let plain = ["bind", "rbind", "rw"];
        if let Some(word) = words.iter().find(|w| !plain.contains(w)) {
            return invalid(format!(
                "option o=\"{word}\" of a bound directory is not supported by this release; give it to the container's mount"
            ));
        }
        if !path.is_absolute() {
            return invalid(format!(
                "device \"{device}\" of a bound directory must be an absolute path"
            ));
        }
        return Ok(Place::Bind(path));
    }
    let mut flags = MountFlags::empty();
    let mut data = Vec::new();
    for word in words {
        match words::flags(word) {
            Some((flag, true)) => flags |= flag,
            Some((flag, false)) => flags -= flag,
            None => data.push(word.to_owned()),
        }
    }
    Ok(Place::Mount(Mount {
        kind: kind.to_owned(),
        device: device.to_owned(),
        flags,
        data,
    }))
}

/// Whether something is mounted at a path.
fn mounted(at: &Path) -> bool {
    coracle_sys::mounts::is_root(at).unwrap_or(false)
}

impl Mount {
    /// Mounts it, if that was not done. Blocking: the other side may be far away.
    ///
    /// # Errors
    /// [`EngineError::File`] with what the kernel says, [`EngineError::Invalid`] for a host name that is not known.
    pub fn put(&self, at: &Path) -> Result<()> {
        if mounted(at) {
            return Ok(());
        }
        fs::create_dir_all(at).map_err(EngineError::file("making", at))?;
        let mut data = self.data.clone();
        for word in &mut data {
            // The kernel takes numbers only; mount(8) would have asked.
            if let Some(host) = word.strip_prefix("addr=")
                && self.kind.starts_with("nfs")
            {
                *word = format!("addr={}", address(host)?);
            }
        }
        let failed = |source: io::Error| EngineError::File {
            action: "mounting the volume's device",
            path: self.device.clone().into(),
            source,
        };
        let data = CString::new(data.join(",")).map_err(|e| failed(e.into()))?;
        let (device, kind) = (self.device.as_str(), self.kind.as_str());
        let done = mount(device, at, kind, self.flags, Some(data.as_c_str()));
        done.map_err(|e| {
            let _ = fs::remove_dir(at);
            failed(e.into())
        })
    }
}

fn address(host: &str) -> Result<IpAddr> {
    if let Ok(address) = host.parse() {
        return Ok(address);
    }
    let found = (host, 0).to_socket_addrs().ok().and_then(|mut a| a.next());
    found.map(|a| a.ip()).ok_or_else(|| {
        EngineError::Invalid(format!(
            "the host \"{host}\" of the volume's option addr is not known; write its address"
        ))
    })
}

/// Unmounts what was mounted; nothing there is no error.
///
/// # Errors
/// [`EngineError::Conflict`] if somebody still uses it.
pub fn take_away(at: &Path) -> Result<()> {
    while mounted(at) {
        unmount(at, UnmountFlags::empty()).map_err(|e| {
            let e: io::Error = e.into();
            EngineError::Conflict(format!(
                "{} cannot be unmounted: {e}; end what uses it first",
                at.display()
            ))
        })?;
    }
    // Empty, or not there.
    let _ = fs::remove_dir(at);
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn options(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        let pairs = pairs.iter().map(|(k, v)| ((*k).into(), (*v).into()));
        pairs.collect()
    }

    #[test]
    fn what_is_meant() {
        assert_eq!(read(&options(&[])).unwrap(), Place::Own);
        let bind = [("type", "none"), ("o", "bind"), ("device", "/srv/data")];
        assert_eq!(
            read(&options(&bind)).unwrap(),
            Place::Bind("/srv/data".into())
        );
        let nfs = [
            ("type", "nfs"),
            (
                "o",
                "addr=10.0.0.9,ro,nfsvers=4,rw,noexec,diratime,norelatime",
            ),
            ("device", ":/data"),
        ];
        let Place::Mount(mount) = read(&options(&nfs)).unwrap() else {
            panic!("not to be mounted")
        };
        assert_eq!(mount.flags, MountFlags::NOEXEC);
        assert_eq!(mount.data, ["addr=10.0.0.9", "nfsvers=4"]);
    }

    #[test]
    fn what_is_refused() {
        for (pairs, word) in [
            (vec![("size", "1")], "size"),
            (vec![("type", "tmpfs")], "device"),
            (vec![("device", "/dev/x")], "type"),
            (vec![("o", "bind"), ("device", "x")], "absolute"),
            (vec![("o", "bind,ro"), ("device", "/x")], "ro"),
        ] {
            let error = read(&options(&pairs)).unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
    }
}
