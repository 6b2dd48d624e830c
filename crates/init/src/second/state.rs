//! The state partition: found on the disk that the root is on, made at first boot, grown when the disk has grown.

use super::{children::Children, daemon::program};
use crate::{
    console::{Level, failed, say},
    devices::Devices,
};
use coracle_os::{
    STATE,
    block::{Partition, beside, of_root, partitions},
    partitions::{SECTOR, Table, grow},
};
use rustix::mount::{MountFlags, mount};
use std::{
    fs::{self, File},
    io::{self, Seek, SeekFrom},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

/// What stands there meanwhile, see [`Making`].
const MARK: &[u8; 33] = b"coracle: this state is being made";
const WAIT: Duration = Duration::from_secs(60);
/// Where it is mounted.
const PLACE: &str = "/var";
/// What of it there is from the beginning.
const DIRECTORIES: [&str; 5] = ["lib/coracle", "lib/coracle-os", "log", "tmp", "root"];

/// Mounts it.
///
/// # Errors
/// That it is not there, or cannot be made or mounted. Something that is damaged is never made anew.
pub fn open(devices: &mut Devices, children: &Children) -> io::Result<()> {
    let (_, root) = of_root(&partitions()?)?;
    let disk = root.disk;
    let found = devices.until(WAIT, || {
        let all = partitions().ok()?;
        beside(&all, &disk, STATE).cloned()
    });
    let Some(partition) = found else {
        let text = format!("/dev/{disk} has no partition \"{STATE}\"");
        return Err(io::Error::new(io::ErrorKind::NotFound, text));
    };
    let device = partition.device.clone();
    if let Err(error) = enlarge(&partition) {
        failed("the state partition keeps its size", &*error);
    }
    for name in devices.modules().find("ext4") {
        devices.modules().load(name)?;
    }
    let making = Making::of(&device)?;
    if is_empty(&device)? || making.was_cut_short()? {
        say(
            Level::Notice,
            &format!("making the state on {}", device.display()),
        );
        // Inodes for many small files, as layers have them. What the kernel does lazily afterwards the first boot need not wait for.
        making.begin()?;
        // Without discarding, which would take the mark away.
        children.run(
            program("mkfs.ext4")
                .args([
                    "-q",
                    "-L",
                    "coracle-state",
                    "-i",
                    "8192",
                    "-E",
                    "lazy_itable_init=1,nodiscard",
                ])
                .arg(&device),
        )?;
        making.end()?;
    } else {
        check(&device, children)?;
    }
    // Containers have devices and programs with more rights by mounts of their own. Programs may be run: volumes hold some.
    let flags = MountFlags::NODEV | MountFlags::NOSUID | MountFlags::NOATIME;
    mount(&device, PLACE, "ext4", flags, None)?;
    // Mounted and in use: the kernel does it, and does nothing if there is nothing to be done.
    children.run(
        program("resize2fs")
            .arg(&device)
            .stdout(Stdio::null())
            .stderr(Stdio::null()),
    )?;
    directories()
}

/// A state in memory, so that the machine can be reached and looked at.
///
/// # Errors
/// Those of mounting it.
pub fn none() -> io::Result<()> {
    let flags = MountFlags::NODEV | MountFlags::NOSUID;
    crate::mounts::at(PLACE, "var", "tmpfs", flags, "mode=755,size=50%")?;
    directories()
}

fn directories() -> io::Result<()> {
    for directory in DIRECTORIES {
        fs::create_dir_all(Path::new(PLACE).join(directory))?;
    }
    Ok(())
}

/// Takes what the disk has. What was cut short, by the power or by the kernel, is done again.
fn enlarge(partition: &Partition) -> Result<(), Box<dyn std::error::Error>> {
    let disk = PathBuf::from("/dev").join(&partition.disk);
    grow(&disk, STATE)?;
    let extent = Table::read(&disk)?.last_extent(&disk)?;
    let known = File::open(&partition.device)?.seek(SeekFrom::End(0))?;
    let (start, length) = (extent.start * SECTOR, extent.length * SECTOR);
    if known != length && extent.number == partition.number {
        coracle_sys::partition::resize(&disk, extent.number, start, length)?;
        say(
            Level::Info,
            &format!("the state partition has {} MiB", length >> 20),
        );
    }
    Ok(())
}

/// `s_magic` and `s_mtime` of ext4's superblock (`Documentation/filesystems/ext4/super.rst`): what it is, and when it was mounted last.
const EXT4_MAGIC: u16 = 0xef53;
const EXT4_MAGIC_AT: u64 = 1024 + 0x38;
const EXT4_MOUNTED_AT: u64 = 1024 + 0x2c;

/// A mark at the very end of the partition, while a file system is made there: what the power cut short is made again, and nothing
/// else ever is.
struct Making {
    device: File,
    at: u64,
}

impl Making {
    fn of(device: &Path) -> io::Result<Self> {
        let mut device = File::options().read(true).write(true).open(device)?;
        let size = device.seek(SeekFrom::End(0))?;
        Ok(Self {
            device,
            at: size.saturating_sub(MARK.len() as u64),
        })
    }

    /// Whether a file system was begun there and not finished. One that was ever mounted was: its last block may be a file's, and have anything in it.
    fn was_cut_short(&self) -> io::Result<bool> {
        let mut is = [0; MARK.len()];
        self.device.read_exact_at(&mut is, self.at)?;
        let (mut magic, mut mounted) = ([0; 2], [0; 4]);
        self.device.read_exact_at(&mut magic, EXT4_MAGIC_AT)?;
        self.device.read_exact_at(&mut mounted, EXT4_MOUNTED_AT)?;
        let is_used = u16::from_le_bytes(magic) == EXT4_MAGIC && mounted != [0; 4];
        Ok(is == *MARK && !is_used)
    }

    fn begin(&self) -> io::Result<()> {
        self.device.write_all_at(MARK, self.at)?;
        self.device.sync_all()
    }

    fn end(&self) -> io::Result<()> {
        self.device.write_all_at(&[0; MARK.len()], self.at)?;
        self.device.sync_all()
    }
}

/// Whether nothing was ever written there: only then may a file system be made.
fn is_empty(device: &Path) -> io::Result<bool> {
    let mut begin = vec![0; 1 << 20];
    let length = File::open(device)?.read_at(&mut begin, 0)?;
    Ok(begin[..length].iter().all(|b| *b == 0))
}

/// Repairs what can be repaired without a question; the journal is taken up by this too.
fn check(device: &Path, children: &Children) -> io::Result<()> {
    let ended = children
        .spawn(program("e2fsck").arg("-p").arg(device))?
        .wait();
    match ended {
        0 => Ok(()),
        1 => {
            say(Level::Warning, "the state's file system was repaired");
            Ok(())
        }
        // A kernel can often mount what e2fsck asks a person about; losing the machine would be worse.
        code => {
            say(
                Level::Error,
                &format!("e2fsck ended with {code}: the state's file system needs a person"),
            );
            Ok(())
        }
    }
}
