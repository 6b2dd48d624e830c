//! Writing a release into a slot while the machine runs from the other one.
//!
//! In this order, each step on the disk before the next one: the slot's entry goes, so that the boot loader does not know of it; the
//! root is written and read back; the kernel image likewise; the entry comes, with three tries. Whenever the power goes, the boot
//! loader knows of slots that are whole only.

use crate::{
    Slot,
    entries::{self, Entry, Standing, TRIES},
    release::{Part, Release},
    root::hex,
};
use rustix::fs::{Advice, fadvise};
use sha2::{Digest, Sha256};
use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    path::{Path, PathBuf},
};

/// Why a slot could not be written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// Reading what comes.
    #[error("reading {0} of the update")]
    Source(&'static str, #[source] io::Error),
    /// It is not what the release names.
    #[error("{part} of the update is not what release.json says: {found} instead of {wanted}")]
    Differs {
        /// Which part.
        part: &'static str,
        /// What it is.
        found: String,
        /// What it must be.
        wanted: String,
    },
    /// Writing it.
    #[error("writing {path}")]
    Target {
        /// The slot or the file.
        path: PathBuf,
        /// The kernel's.
        #[source]
        source: io::Error,
    },
    /// The disk gives back something else than was written.
    #[error("{0} does not hold what was written to it: the disk may be failing")]
    ReadBack(PathBuf),
    /// It is larger than the slot.
    #[error("the root has {wanted} bytes, the slot {room}")]
    Room {
        /// Bytes.
        wanted: u64,
        /// Bytes.
        room: u64,
    },
}

/// Where a release goes to.
#[derive(Debug)]
pub struct Target<'a> {
    /// Which slot; never the one that runs.
    pub slot: Slot,
    /// Its partition.
    pub device: &'a Path,
    /// Where the EFI partition is mounted, to be written.
    pub efi: &'a Path,
}

impl Target<'_> {
    fn failed(path: &Path) -> impl FnOnce(io::Error) -> WriteError {
        let path = path.to_owned();
        move |source| WriteError::Target { path, source }
    }

    /// Takes the slot's entry away, and checks that the root fits.
    ///
    /// # Errors
    /// [`WriteError::Target`] and [`WriteError::Room`].
    pub fn begin(&self, release: &Release) -> Result<(), WriteError> {
        use std::io::{Seek, SeekFrom};
        let size = File::open(self.device).and_then(|mut d| d.seek(SeekFrom::End(0)));
        let room = size.map_err(Self::failed(self.device))?;
        if room < release.root.size {
            return Err(WriteError::Room {
                wanted: release.root.size,
                room,
            });
        }
        entries::remove(self.efi, self.slot).map_err(Self::failed(self.efi))
    }

    /// Writes the root, which comes from `source`; `progress` hears how many bytes there are.
    ///
    /// # Errors
    /// [`WriteError`]; the slot has no entry then.
    pub fn root(
        &self,
        release: &Release,
        source: impl Read,
        progress: impl FnMut(u64),
    ) -> Result<(), WriteError> {
        let device = OpenOptions::new().read(true).write(true).open(self.device);
        let mut device = device.map_err(Self::failed(self.device))?;
        copy(
            "root.img",
            &release.root,
            source,
            &mut device,
            self.device,
            progress,
        )?;
        read_back(&release.root, self.device)
    }

    /// Writes the kernel image, which comes from `source`.
    ///
    /// # Errors
    /// [`WriteError`]; the slot has no entry then.
    pub fn kernel(&self, release: &Release, source: impl Read) -> Result<(), WriteError> {
        let path = self.efi.join(entries::kernel(self.slot));
        let new = path.with_extension("new");
        let directory = path.parent().unwrap_or(self.efi);
        fs::create_dir_all(directory).map_err(Self::failed(directory))?;
        let mut file = File::create(&new).map_err(Self::failed(&new))?;
        copy(
            "coracle.efi",
            &release.kernel,
            source,
            &mut file,
            &new,
            |_| {},
        )?;
        read_back(&release.kernel, &new)?;
        fs::rename(&new, &path)
            .and_then(|()| File::open(directory)?.sync_all())
            .map_err(Self::failed(&path))
    }

    /// Makes the slot known to the boot loader, as the first one, with three tries.
    ///
    /// # Errors
    /// [`WriteError::Target`].
    pub fn commit(&self, release: &Release) -> Result<(), WriteError> {
        let known = entries::read(self.efi).map_err(Self::failed(self.efi))?;
        let entry = Entry {
            slot: self.slot,
            standing: Standing::Tries {
                left: TRIES,
                done: 0,
            },
            order: entries::next_order(&known),
            title: format!("Coracle {}", release.version),
        };
        entries::write(self.efi, &entry).map_err(Self::failed(self.efi))
    }
}

/// Copies exactly what the release names, and has it on the disk.
pub(crate) fn copy(
    part: &'static str,
    wanted: &Part,
    mut source: impl Read,
    target: &mut File,
    path: &Path,
    mut progress: impl FnMut(u64),
) -> Result<(), WriteError> {
    let mut digest = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    let mut done = 0;
    loop {
        let length = match source.read(&mut buffer) {
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(WriteError::Source(part, error)),
        };
        if length == 0 {
            break;
        }
        done += length as u64;
        if done > wanted.size {
            // What is behind the slot's end is not to be touched by whoever sends more than was said.
            return Err(WriteError::Differs {
                part,
                found: format!("more than {} bytes", wanted.size),
                wanted: format!("{} bytes", wanted.size),
            });
        }
        digest.update(&buffer[..length]);
        let written = target.write_all(&buffer[..length]);
        written.map_err(Target::failed(path))?;
        progress(done);
    }
    target.sync_all().map_err(Target::failed(path))?;
    let differs = |found: String, wanted: String| WriteError::Differs {
        part,
        found,
        wanted,
    };
    if done != wanted.size {
        let bytes = |n: u64| format!("{n} bytes");
        return Err(differs(bytes(done), bytes(wanted.size)));
    }
    let found = hex(&digest.finalize());
    if found != wanted.sha256 {
        return Err(differs(found, wanted.sha256.clone()));
    }
    Ok(())
}

/// Reads what was written, from the disk and not from memory.
pub(crate) fn read_back(wanted: &Part, path: &Path) -> Result<(), WriteError> {
    let failed = Target::failed;
    let file = File::open(path).map_err(failed(path))?;
    forget(&file).map_err(failed(path))?;
    let mut digest = Sha256::new();
    let mut from = file.take(wanted.size);
    io::copy(&mut from, &mut digest).map_err(failed(path))?;
    if hex(&digest.finalize()) != wanted.sha256 {
        return Err(WriteError::ReadBack(path.to_owned()));
    }
    Ok(())
}

/// Takes what was written of a file out of memory, so that it is read from the disk.
pub(crate) fn forget(file: &File) -> io::Result<()> {
    Ok(fadvise(file, 0, None, Advice::DontNeed)?)
}
