//! Where the configuration comes from: a drive named `cidata` (cloud-init's NoCloud), then the EFI partition, then what was good last.

use crate::{
    console::{Level, say},
    devices::Devices,
};
use coracle_cloud_config::{CloudConfig, DOCUMENT_MAX, NOBODYS, needs_address, understand};
use coracle_os::{
    CONFIGURATION, EFI, RUNNING,
    block::{beside, of_root, partitions},
    files::replace,
};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use std::{
    fs::{self, File},
    io::{self, Read},
    net::Ipv4Addr,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    time::Duration,
};

/// What was applied last without a problem.
const LAST: &str = "/var/lib/coracle-os/cloud-config.yaml";
/// What is wrong with what was found, a line each.
const PROBLEMS: &str = "/run/coracle-os/cloud-config.problems";
const PLACE: &str = "/run/coracle-os/source";
/// A drive that is there shows up soon; most machines have none.
const DRIVES: Duration = Duration::from_millis(500);

/// A configuration and where it is from.
pub struct Found {
    /// What holds; where it asks for the machine's address, with one of nobody.
    pub config: CloudConfig,
    text: String,
}

impl Found {
    /// Puts the machine's address where it is asked for; true if it is.
    pub fn address(&mut self, address: Ipv4Addr) -> bool {
        if !needs_address(&self.text) {
            return false;
        }
        self.config = understand(&self.text, address).config;
        true
    }
}

/// Finds the configuration. One with problems gives way to the last one without, or, if there is none, is taken as far as it can be
/// understood.
///
/// # Errors
/// None of those that a drive may have: they are told and the next source is asked.
pub fn find(devices: &mut Devices) -> io::Result<Found> {
    let read = text(devices);
    let last = fs::read_to_string(LAST).ok();
    let Some((from, text)) = read else {
        let text = last.unwrap_or_else(|| "#cloud-config\n".to_owned());
        say(
            Level::Notice,
            "there is no configuration on a drive; going by the last one",
        );
        return taken(&text);
    };
    let parsed = understand(&text, NOBODYS);
    if parsed.problems.is_empty() {
        fs::remove_file(PROBLEMS).ok();
        if last.as_deref() != Some(text.as_str()) {
            // Without a state there is no last one.
            replace(Path::new(LAST), text.as_bytes(), 0o600).ok();
        }
        return taken(&text);
    }
    let problems: Vec<_> = parsed
        .problems
        .iter()
        .map(|p| format!("{from}: {p}"))
        .collect();
    for problem in &problems {
        say(Level::Error, problem);
    }
    fs::write(PROBLEMS, problems.join("\n") + "\n")?;
    match last {
        Some(last) => {
            say(
                Level::Error,
                "the configuration has mistakes; going by the last one that had none",
            );
            taken(&last)
        }
        None => {
            say(
                Level::Error,
                "the configuration has mistakes; going by the rest of it",
            );
            taken(&text)
        }
    }
}

fn taken(text: &str) -> io::Result<Found> {
    // Tokens are in it.
    replace(Path::new(RUNNING), text.as_bytes(), 0o600)?;
    Ok(Found {
        config: understand(text, NOBODYS).config,
        text: text.to_owned(),
    })
}

fn text(devices: &mut Devices) -> Option<(String, String)> {
    if let Some(drive) = devices.until(DRIVES, drive) {
        for kind in ["iso9660", "vfat"] {
            for name in devices.modules().find(kind) {
                devices.modules().load(name).ok();
            }
            match read_from(&drive, kind, "user-data") {
                Ok(text) => return Some((format!("{}: user-data", drive.display()), text)),
                Err(error) if kind == "vfat" => {
                    say(Level::Warning, &format!("{}: {error}", drive.display()));
                }
                Err(_) => {}
            }
        }
    }
    let all = partitions().ok()?;
    let disk = of_root(&all).ok()?.1.disk;
    let efi = beside(&all, &disk, EFI)?;
    match read_from(&efi.device, "vfat", CONFIGURATION) {
        Ok(text) => Some((CONFIGURATION.to_owned(), text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => {
            say(
                Level::Warning,
                &format!("{}: {error}", efi.device.display()),
            );
            None
        }
    }
}

/// The drive whose label is `cidata`, in capitals or not.
fn drive() -> Option<PathBuf> {
    for entry in fs::read_dir("/sys/class/block").ok()?.flatten() {
        let device = Path::new("/dev").join(entry.file_name());
        if label(&device).is_some_and(|l| l.eq_ignore_ascii_case("cidata")) {
            return Some(device);
        }
    }
    None
}

/// The label of a file system of ISO 9660 or FAT.
fn label(device: &Path) -> Option<String> {
    let file = File::open(device).ok()?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end().to_owned();
    let mut begin = [0; 512];
    file.read_exact_at(&mut begin, 0).ok()?;
    if begin[510..] == [0x55, 0xaa] {
        for (kind, label) in [(82..87, 71..82), (54..59, 43..54)] {
            if begin[kind].starts_with(b"FAT") {
                return Some(text(&begin[label]));
            }
        }
    }
    let mut volume = [0; 72];
    file.read_exact_at(&mut volume, 0x8000).ok()?;
    (&volume[1..6] == b"CD001").then(|| text(&volume[40..72]))
}

fn read_from(device: &Path, kind: &str, file: &str) -> io::Result<String> {
    fs::create_dir_all(PLACE)?;
    let flags = MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    // Tokens are in it.
    let options = (kind == "vfat").then_some(c"umask=0077");
    mount(device, PLACE, kind, flags, options)?;
    let text = File::open(Path::new(PLACE).join(file)).and_then(|from| {
        let mut text = Vec::new();
        // One more than is taken: that tells that it is too large.
        from.take(DOCUMENT_MAX as u64 + 1).read_to_end(&mut text)?;
        Ok(text)
    });
    unmount(PLACE, UnmountFlags::DETACH)?;
    Ok(String::from_utf8_lossy(&text?).into_owned())
}
