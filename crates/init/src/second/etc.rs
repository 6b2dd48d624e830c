//! `/etc`: in memory, made anew at each boot from the image's own files and the configuration.

use coracle_cloud_config::{CloudConfig, WriteFile, render_settings};
use coracle_os::{files::replace, root::hex};
use std::{
    fs, io,
    os::unix::fs::{PermissionsExt, chown, symlink},
    path::Path,
};

/// What the image brings along.
const SKELETON: &str = "/usr/share/coracle/etc";
/// The machine's name until it is given one.
const HOSTNAME: &str = "coracle";
/// Has `authorized_keys`, if the configuration has keys.
pub const KEYS: &str = "/etc/coracle/ssh";
const MACHINE_ID: &str = "/var/lib/coracle-os/machine-id";

/// Puts the image's own files in place.
///
/// # Errors
/// Those of copying.
pub fn skeleton() -> io::Result<()> {
    copy(Path::new(SKELETON), Path::new("/etc"))
}

fn copy(from: &Path, to: &Path) -> io::Result<()> {
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        let kind = entry.file_type()?;
        if kind.is_dir() {
            fs::create_dir_all(&to)?;
            copy(&from, &to)?;
        } else if kind.is_symlink() {
            symlink(fs::read_link(&from)?, &to)?;
        } else {
            fs::copy(&from, &to)?;
        }
    }
    Ok(())
}

/// Writes what the configuration says: name, hosts, settings of the daemon, and files.
///
/// # Errors
/// The first one's; the others are written all the same.
pub fn write(config: &CloudConfig) -> io::Result<()> {
    let mut first = Ok(());
    let mut note = |done: io::Result<()>| {
        if first.is_ok() {
            first = done;
        }
    };
    let name = config.hostname.as_deref().unwrap_or(HOSTNAME);
    note(rustix::system::sethostname(name.as_bytes()).map_err(Into::into));
    note(fs::write("/etc/hostname", format!("{name}\n")));
    note(fs::write(
        "/etc/hosts",
        format!("127.0.0.1 localhost {name}\n::1 localhost ip6-localhost ip6-loopback\n"),
    ));
    note(machine_id());
    note(fs::create_dir_all("/etc/coracle"));
    note(fs::write(
        "/etc/coracle/coracle.toml",
        render_settings(config),
    ));
    if !config.update_keys.is_empty() {
        let keys = config.update_keys.join("\n") + "\n";
        note(fs::write("/etc/coracle/update-keys", keys));
    }
    note(keys(&config.ssh_authorized_keys));
    for file in &config.write_files {
        note(
            put(file)
                .map_err(|e| io::Error::new(e.kind(), format!("write_files {}: {e}", file.path))),
        );
    }
    first
}

/// Who may log in by SSH. `/etc` is new at each boot, so keys that are gone from the configuration are gone from here.
fn keys(keys: &[String]) -> io::Result<()> {
    if keys.is_empty() {
        return Ok(());
    }
    let directory = Path::new(KEYS);
    fs::create_dir_all(directory)?;
    fs::set_permissions(directory, fs::Permissions::from_mode(0o700))?;
    let text = keys.join("\n") + "\n";
    replace(&directory.join("authorized_keys"), text.as_bytes(), 0o600)
}

/// The machine's number, made once (`machine-id(5)`).
fn machine_id() -> io::Result<()> {
    let path = Path::new(MACHINE_ID);
    let known = fs::read_to_string(path).unwrap_or_default();
    let id = match known.trim() {
        id if id.len() == 32 && id.bytes().all(|b| b.is_ascii_hexdigit()) => id.to_owned(),
        _ => {
            let mut bytes = [0; 16];
            getrandom::fill(&mut bytes).map_err(io::Error::other)?;
            // A number of version 4, as systemd makes them.
            bytes[6] = bytes[6] & 0x0f | 0x40;
            bytes[8] = bytes[8] & 0x3f | 0x80;
            let id = hex(&bytes);
            replace(path, format!("{id}\n").as_bytes(), 0o444)?;
            id
        }
    };
    fs::write("/etc/machine-id", format!("{id}\n"))
}

fn put(file: &WriteFile) -> io::Result<()> {
    let path = Path::new(&file.path);
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory)?;
    }
    // Only what changed is written: the state's disk may be one that wears out.
    if !fs::read(path).is_ok_and(|is| is == file.content) {
        replace(path, &file.content, file.mode)?;
    }
    fs::set_permissions(path, fs::Permissions::from_mode(file.mode))?;
    chown(path, Some(file.uid), Some(file.gid))
}
