//! Devices of the kernel's device mapper, as `Documentation/admin-guide/device-mapper` and `linux/dm-ioctl.h` have them: only what
//! opening and closing a read-only device with one target needs.

use std::{
    ffi::CString,
    fs::File,
    io,
    os::fd::AsRawFd,
    path::{Path, PathBuf},
};

const CONTROL: &str = "/dev/mapper/control";
const VERSION: [u32; 3] = [4, 0, 0];
const DEV_CREATE: u32 = 3;
const DEV_REMOVE: u32 = 4;
const DEV_SUSPEND: u32 = 6;
const TABLE_LOAD: u32 = 9;
const READ_ONLY: u32 = 1;
/// Bytes of room for a target and its parameters.
const ROOM: usize = 4096;
/// Bytes that the parameters may have at most, with their NUL.
const PARAMETERS: usize = ROOM - size_of::<Target>();

/// `struct dm_ioctl`.
#[repr(C)]
struct Header {
    version: [u32; 3],
    data_size: u32,
    data_start: u32,
    target_count: u32,
    open_count: i32,
    flags: u32,
    event_nr: u32,
    padding: u32,
    dev: u64,
    name: [u8; 128],
    uuid: [u8; 129],
    data: [u8; 7],
}

/// `struct dm_target_spec`.
#[repr(C)]
struct Target {
    sector_start: u64,
    length: u64,
    status: i32,
    next: u32,
    target_type: [u8; 16],
}

/// What an ioctl takes and gives.
#[repr(C)]
struct Request {
    header: Header,
    target: Target,
    parameters: [u8; PARAMETERS],
}

const _: () = assert!(size_of::<Header>() == 312 && size_of::<Target>() == 40);

impl Request {
    fn new(name: &str) -> io::Result<Box<Self>> {
        let mut header = Header {
            version: VERSION,
            data_size: size_of::<Self>() as u32,
            data_start: size_of::<Header>() as u32,
            target_count: 0,
            open_count: 0,
            flags: 0,
            event_nr: 0,
            padding: 0,
            dev: 0,
            name: [0; 128],
            uuid: [0; 129],
            data: [0; 7],
        };
        put(&mut header.name, name)?;
        Ok(Box::new(Self {
            header,
            target: Target {
                sector_start: 0,
                length: 0,
                status: 0,
                next: 0,
                target_type: [0; 16],
            },
            parameters: [0; PARAMETERS],
        }))
    }

    fn send(&mut self, control: &File, command: u32) -> io::Result<()> {
        let number = 3 << 30 | (size_of::<Header>() as u32) << 16 | 0xfd << 8 | command;
        // SAFETY: the kernel reads and writes `data_size` bytes from here at most, which is the size of what is pointed to; all of
        // it is plain numbers, and lives over the call.
        let done = unsafe { libc::ioctl(control.as_raw_fd(), number as _, &raw mut *self) };
        if done == -1 {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    }
}

/// Writes a text with its NUL.
fn put(place: &mut [u8], text: &str) -> io::Result<()> {
    let text = CString::new(text)?.into_bytes_with_nul();
    let Some(room) = place.get_mut(..text.len()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    room.copy_from_slice(&text);
    Ok(())
}

/// Makes a read-only device with one target and returns its path, `/dev/dm-N`.
///
/// `sectors` are of 512 bytes; `parameters` are what the kernel documents for the target.
///
/// # Errors
/// `InvalidInput` if a text is too long or holds a NUL; the kernel's own, `EBUSY` if the name is taken. Nothing is left behind.
pub fn open(name: &str, target: &str, sectors: u64, parameters: &str) -> io::Result<PathBuf> {
    let control = File::open(CONTROL)?;
    let mut load = Request::new(name)?;
    load.header.target_count = 1;
    load.header.flags = READ_ONLY;
    load.target.length = sectors;
    put(&mut load.target.target_type, target)?;
    put(&mut load.parameters, parameters)?;
    let mut create = Request::new(name)?;
    create.send(&control, DEV_CREATE)?;
    // As the C library takes it apart.
    let minor = (create.header.dev & 0xff) | (create.header.dev >> 12 & 0xfff00);
    let resumed = load
        .send(&control, TABLE_LOAD)
        .and_then(|()| Request::new(name)?.send(&control, DEV_SUSPEND));
    if let Err(error) = resumed {
        // The first error says more than what removing may say.
        close(name).ok();
        return Err(error);
    }
    Ok(Path::new("/dev").join(format!("dm-{minor}")))
}

/// Removes a device.
///
/// # Errors
/// The kernel's own: `ENXIO` if there is none of that name, `EBUSY` if it is in use.
pub fn close(name: &str) -> io::Result<()> {
    Request::new(name)?.send(&File::open(CONTROL)?, DEV_REMOVE)
}
