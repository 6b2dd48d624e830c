//! The few system calls that have no safe form.

use rustix::{
    io::Errno,
    process::{Pid, WaitOptions, waitpid},
};
use std::{
    ffi::{CStr, CString, c_char},
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd},
    ptr,
};

/// Which side of a fork this is.
pub enum Forked {
    /// The new process.
    Child,
    /// The old one; the child's process id.
    Parent(u32),
}

/// Forks.
///
/// # Errors
/// `EAGAIN` or `ENOMEM`, also when the pid namespace for children has lost its init.
pub fn fork() -> io::Result<Forked> {
    // SAFETY: holder and shims are single-threaded, so the child may do whatever the parent may.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(Forked::Child),
        // A process id is positive.
        pid => Ok(Forked::Parent(pid.unsigned_abs())),
    }
}

/// Ends this process at once: no destructors, no exit handlers of the process it was forked from.
pub fn exit(code: i32) -> ! {
    // SAFETY: takes a number, does not return.
    unsafe { libc::_exit(code) }
}

/// Closes every descriptor from 3 on but those in `keep`.
pub fn close_all_but(keep: &[RawFd]) {
    let mut keep: Vec<u32> = keep
        .iter()
        .filter_map(|fd| u32::try_from(*fd).ok())
        .filter(|fd| *fd > 2)
        .collect();
    keep.sort_unstable();
    let mut from = 3u32;
    for fd in keep.into_iter().chain([u32::MAX]) {
        if fd > from {
            let last = if fd == u32::MAX { fd } else { fd - 1 };
            // SAFETY: the caller is a fresh fork that uses none of them any more (`keep` is what it uses).
            let done = unsafe { libc::syscall(libc::SYS_close_range, from, last, 0) };
            if done != 0 {
                close_one_by_one(from, last);
            }
        }
        from = fd.saturating_add(1);
    }
}

/// For kernels before 5.9.
fn close_one_by_one(from: u32, last: u32) {
    let Ok(entries) = std::fs::read_dir("/proc/self/fd") else {
        return;
    };
    let open: Vec<u32> = entries
        .flatten()
        .filter_map(|e| e.file_name().to_str()?.parse().ok())
        .collect();
    for fd in open {
        if (from..=last).contains(&fd) {
            // SAFETY: as above; one that was closed meanwhile (the directory's own) answers EBADF.
            unsafe { libc::close(fd as RawFd) };
        }
    }
}

/// Puts the calling process into new namespaces. Only for single-threaded processes.
///
/// # Errors
/// `EPERM` without CAP_SYS_ADMIN.
pub fn unshare(flags: rustix::thread::UnshareFlags) -> io::Result<()> {
    // SAFETY: the file descriptor table is not shared with another thread, there is none.
    Ok(unsafe { rustix::thread::unshare_unsafe(flags) }?)
}

/// Blocks no signal any more.
pub fn default_signal_mask() {
    // SAFETY: the set is initialised before its use.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        libc::sigprocmask(libc::SIG_SETMASK, &set, ptr::null_mut());
    }
}

/// Ignores a signal.
pub fn ignore_signal(number: i32) {
    // SAFETY: SIG_IGN is no handler of ours that could run.
    unsafe { libc::signal(number, libc::SIG_IGN) };
}

/// Gives every signal its default meaning and blocks none, as a program expects to be started.
pub fn reset_signals() {
    for number in 1..=64 {
        // SAFETY: SIG_DFL is no handler of ours; numbers that may not be changed answer EINVAL.
        unsafe { libc::signal(number, libc::SIG_DFL) };
    }
    default_signal_mask();
}

/// Loads a compiled filter for the calling thread.
///
/// # Errors
/// `EACCES` without CAP_SYS_ADMIN and without no_new_privs, `EINVAL` for a bad program.
pub fn load_filter(program: &[u8], flags: u32) -> io::Result<()> {
    #[repr(C)]
    struct Program {
        length: u16,
        filter: *const u8,
    }
    const INSTRUCTION: usize = 8;
    // The kernel wants instructions aligned to four bytes, which a byte vector does not promise.
    let words: Vec<u64> = program
        .chunks_exact(INSTRUCTION)
        .map(|c| u64::from_ne_bytes([c[0], c[1], c[2], c[3], c[4], c[5], c[6], c[7]]))
        .collect();
    let given = Program {
        length: u16::try_from(words.len()).map_err(|_| Errno::INVAL)?,
        filter: words.as_ptr().cast(),
    };
    const SET_MODE_FILTER: libc::c_uint = 1;
    // SAFETY: `given` and the instructions it points to live until the call returns; the kernel copies them.
    let done = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            SET_MODE_FILTER,
            flags,
            ptr::from_ref(&given),
        )
    };
    if done == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Arguments or environment for [`execve`].
pub struct Strings {
    // Keeps what `pointers` point to.
    _owned: Vec<CString>,
    pointers: Vec<*const c_char>,
}

impl Strings {
    /// From strings; one with a NUL byte is refused.
    ///
    /// # Errors
    /// `EINVAL`.
    pub fn new(list: &[String]) -> io::Result<Self> {
        let owned = list
            .iter()
            .map(|s| CString::new(s.as_str()))
            .collect::<Result<Vec<_>, _>>()
            .map_err(|_| io::Error::from(Errno::INVAL))?;
        // A CString's bytes stay where they are when the CString is moved.
        let pointers = owned
            .iter()
            .map(|s| s.as_ptr())
            .chain([ptr::null()])
            .collect();
        Ok(Self {
            _owned: owned,
            pointers,
        })
    }
}

/// Replaces the program; returns only when that failed.
pub fn execve(path: &CStr, args: &Strings, env: &Strings) -> io::Error {
    // SAFETY: both lists end with a null pointer and live as long as `args` and `env`.
    unsafe { libc::execve(path.as_ptr(), args.pointers.as_ptr(), env.pointers.as_ptr()) };
    io::Error::last_os_error()
}

/// Raises the loopback interface of the calling process's network namespace.
///
/// # Errors
/// The kernel's own.
pub fn raise_loopback() -> io::Result<()> {
    // SAFETY: the structure is zeroed, its name is "lo" with its end, and it lives over the call; the descriptor is
    // new and owned by nobody else.
    unsafe {
        let fd = libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0);
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        let socket = OwnedFd::from_raw_fd(fd);
        let mut request: libc::ifreq = std::mem::zeroed();
        request.ifr_name[0] = b'l' as c_char;
        request.ifr_name[1] = b'o' as c_char;
        request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as i16;
        match libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &request) {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

/// Names this process in `ps` and `top`: the thread's name, and the command line as far as there is room for it.
pub fn set_title(title: &str) {
    if let Ok(name) = CString::new(title.as_bytes().get(..15).unwrap_or(title.as_bytes())) {
        let _ = rustix::thread::set_name(&name);
    }
    let Some((start, end)) = command_line() else {
        return;
    };
    let room = end.saturating_sub(start);
    if room < 2 {
        return;
    }
    let text = &title.as_bytes()[..title.len().min(room - 1)];
    // SAFETY: the kernel says that start..end is the memory of this process's arguments, which is writable; nothing
    // reads them any more after the start of the program.
    unsafe {
        ptr::write_bytes(start as *mut u8, 0, room);
        ptr::copy_nonoverlapping(text.as_ptr(), start as *mut u8, text.len());
    }
}

/// Where the arguments lie: fields 48 and 49 of `/proc/self/stat` (`proc(5)`).
fn command_line() -> Option<(usize, usize)> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    // The name in parentheses may hold spaces; field 3 follows it.
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
    let start = fields.nth(48 - 3)?.parse().ok()?;
    let end = fields.next()?.parse().ok()?;
    (start != 0 && end > start).then_some((start, end))
}

/// Gives freed memory back to the machine: a shim lives long and uses little after the start.
pub fn trim_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: takes a number; touches only free memory of the allocator.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Ended: exit code (128 + n for signal n) and the signal.
pub fn reap(pid: u32) -> io::Result<Option<(i32, Option<i32>)>> {
    let pid = i32::try_from(pid)
        .ok()
        .and_then(Pid::from_raw)
        .ok_or(Errno::SRCH)?;
    loop {
        return match waitpid(Some(pid), WaitOptions::NOHANG) {
            Ok(Some((_, status))) => {
                let signal = status.terminating_signal();
                let code = signal.map_or(status.exit_status().unwrap_or(0), |n| 128 + n);
                Ok(Some((code, signal)))
            }
            Ok(None) => Ok(None),
            Err(Errno::INTR) => continue,
            Err(e) => Err(e.into()),
        };
    }
}
