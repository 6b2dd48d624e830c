//! Starting a process without the runtime: in a container that runs (`exec`), or on the host (`.service` units).
//!
//! One fork and one `setns` on a pidfd. The shim's children are born in the container's pid namespace, so no second
//! fork is needed.

use crate::{
    cgroup::Cgroup,
    container::{ChildStdio, Report, default_oom_score, oom_score},
    error::{ShimError, chain},
    launch::{self, Failure, Launch},
    os::{self, Forked},
};
use rustix::{
    fs::{FileType, Mode, OFlags, fstat, fstatfs, makedev, open},
    net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg},
    process::{DumpableBehavior, ioctl_tiocsctty, set_dumpable_behavior, setsid},
    pty::{OpenptFlags, ioctl_tiocgptpeer, unlockpt},
    stdio::{dup2_stderr, dup2_stdin, dup2_stdout},
    termios::{Winsize, tcsetwinsize},
    thread::{ThreadNameSpaceType, move_into_thread_name_spaces},
};
use std::{
    io::{self, IoSlice},
    mem::MaybeUninit,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

/// First byte of the message that brings a terminal.
pub const TERMINAL: u8 = b'p';

/// What the process gets as stdio.
pub enum Stdio {
    /// These.
    Pipes(ChildStdio),
    /// A terminal of this size (rows, columns), made where the process lives.
    Terminal(Option<(u16, u16)>),
}

/// What a process needs besides its [`Launch`].
pub struct Spawn<'a> {
    /// What it becomes.
    pub launch: &'a Launch,
    /// Its stdio.
    pub stdio: Stdio,
    /// Its control group.
    pub cgroup: Option<&'a Cgroup>,
    /// The init whose namespaces it joins.
    pub namespaces: Option<BorrowedFd<'a>>,
    /// Adjustment of the out-of-memory score.
    pub oom_score_adj: Option<i32>,
}

/// Forks the process; how its launch went comes over the report.
///
/// # Errors
/// When nothing can be forked.
pub fn spawn(spawn: Spawn<'_>, report: Report) -> Result<(u32, OwnedFd), ShimError> {
    match os::fork().map_err(ShimError::system("fork"))? {
        Forked::Parent(pid) => Ok((pid, report.parent)),
        Forked::Child => child(spawn, report.child),
    }
}

fn child(spawn: Spawn<'_>, report: OwnedFd) -> ! {
    if let Err(failure) = prepare(&spawn, report.as_fd()) {
        let _ = rustix::io::write(&report, &failure.encode());
        os::exit(125);
    }
    spawn.launch.finish(report.as_fd())
}

fn prepare(spawn: &Spawn<'_>, report: BorrowedFd<'_>) -> Result<(), Failure> {
    let step = |what: &'static str| {
        move |e: rustix::io::Errno| Failure::other(format!("cannot {what}: {e}"))
    };
    // Others in its namespaces shall not look into a process that still has every privilege.
    let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
    setsid().map_err(step("begin a session"))?;
    if let Some(cgroup) = spawn.cgroup {
        cgroup.enter().map_err(|e| Failure::other(chain(&e)))?;
    }
    if let Some(score) = spawn.oom_score_adj.or_else(default_oom_score) {
        oom_score("/proc/self/oom_score_adj", score);
    }
    if let Some(init) = spawn.namespaces {
        let all = ThreadNameSpaceType::MOUNT
            | ThreadNameSpaceType::NETWORK
            | ThreadNameSpaceType::INTER_PROCESS_COMMUNICATION
            | ThreadNameSpaceType::HOST_NAME_AND_NIS_DOMAIN_NAME
            | ThreadNameSpaceType::CONTROL_GROUP
            | ThreadNameSpaceType::PROCESS_ID;
        move_into_thread_name_spaces(init, all).map_err(step("enter the container"))?;
    }
    match &spawn.stdio {
        Stdio::Pipes(pipes) => {
            let inside = if spawn.namespaces.is_some() {
                null_inside()
            } else {
                None
            };
            // The container's own /dev/null rather than the host's, when there is a true one.
            let pick = |fd: &OwnedFd| -> io::Result<OwnedFd> {
                match &inside {
                    Some(null) if is_null(fd) => Ok(null.try_clone()?),
                    _ => Ok(fd.try_clone()?),
                }
            };
            let put = || -> io::Result<()> {
                dup2_stdin(pick(&pipes.stdin)?)?;
                dup2_stdout(pick(&pipes.stdout)?)?;
                dup2_stderr(pick(&pipes.stderr)?)?;
                Ok(())
            };
            put().map_err(|e| Failure::other(format!("cannot set up stdio: {e}")))?;
        }
        Stdio::Terminal(size) => {
            terminal(*size, report)
                .map_err(|e| Failure::other(format!("cannot open a terminal: {e}")))?;
        }
    }
    let uid = spawn.launch.process.user().uid();
    if uid != 0 {
        launch::own_stdio(uid);
    }
    Ok(())
}

fn is_null(fd: impl AsFd) -> bool {
    fstat(fd).is_ok_and(|s| {
        FileType::from_raw_mode(s.st_mode) == FileType::CharacterDevice
            && s.st_rdev == makedev(1, 3)
    })
}

fn null_inside() -> Option<OwnedFd> {
    let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    // Not blocking, because the container may have put a FIFO there.
    let fd = open("/dev/null", flags, Mode::empty()).ok()?;
    is_null(&fd).then_some(fd)
}

/// Opens a terminal of the container's own devpts, sends our end home and takes the other as stdio.
fn terminal(size: Option<(u16, u16)>, report: BorrowedFd<'_>) -> io::Result<()> {
    const DEVPTS: u64 = 0x1cd1;
    let flags =
        OFlags::RDWR | OFlags::NOCTTY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let master = open("/dev/pts/ptmx", flags, Mode::empty())?;
    if fstatfs(&master)?.f_type as u64 != DEVPTS {
        return Err(io::Error::other(
            "/dev/pts/ptmx is not on a devpts filesystem",
        ));
    }
    unlockpt(&master)?;
    let slave = ioctl_tiocgptpeer(
        &master,
        OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC,
    )?;
    if let Some((rows, cols)) = size {
        tcsetwinsize(
            &slave,
            Winsize {
                ws_row: rows,
                ws_col: cols,
                ws_xpixel: 0,
                ws_ypixel: 0,
            },
        )?;
    }
    let fds = [master.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    ancillary.push(SendAncillaryMessage::ScmRights(&fds));
    sendmsg(
        report,
        &[IoSlice::new(&[TERMINAL])],
        &mut ancillary,
        SendFlags::NOSIGNAL,
    )?;
    ioctl_tiocsctty(&slave)?;
    dup2_stdin(&slave)?;
    dup2_stdout(&slave)?;
    dup2_stderr(&slave)?;
    Ok(())
}
