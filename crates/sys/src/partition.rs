//! Telling the kernel that a partition has grown (`linux/blkpg.h`), which works while it is in use.

use std::{fs::File, io, os::fd::AsRawFd, path::Path};

const BLKPG: libc::c_ulong = 0x1269;
const RESIZE: i32 = 3;

/// `struct blkpg_partition`, in bytes.
#[repr(C)]
struct Partition {
    start: i64,
    length: i64,
    number: i32,
    names: [u8; 128],
}

/// `struct blkpg_ioctl_arg`.
#[repr(C)]
struct Request {
    op: i32,
    flags: i32,
    data_len: i32,
    data: *mut Partition,
}

/// Gives a partition of a disk another length; start and length are in bytes.
///
/// # Errors
/// The kernel's own: `EBUSY` if it would overlap another one, `EINVAL` if its start is another one.
pub fn resize(disk: &Path, number: u32, start: u64, length: u64) -> io::Result<()> {
    let invalid = |_| io::Error::from(io::ErrorKind::InvalidInput);
    let disk = File::open(disk)?;
    let mut partition = Partition {
        start: start.try_into().map_err(invalid)?,
        length: length.try_into().map_err(invalid)?,
        number: number.try_into().map_err(invalid)?,
        names: [0; 128],
    };
    let mut request = Request {
        op: RESIZE,
        flags: 0,
        data_len: size_of::<Partition>() as i32,
        data: &raw mut partition,
    };
    // SAFETY: both structures are the kernel's, live over the call and are of the sizes given.
    let done = unsafe { libc::ioctl(disk.as_raw_fd(), BLKPG as _, &raw mut request) };
    if done == -1 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
