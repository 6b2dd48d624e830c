//! The last steps of a process before it becomes somebody else's program, and the report of how that went.
//!
//! Whoever forked it holds the reading end of a pipe that closes on exec: silence and its end mean that the program
//! runs; otherwise a [`Failure`] comes. Every step is harmless when it was done already, because a container's init
//! comes here after libcontainer has set user and directory, an exec'd process and a host process have not.
//!
//! # A worked example
//!
//! `nginx` in a default container: limits → user 0 → the bounding set loses 27 capabilities → signals at their
//! defaults → the filter is loaded (still with CAP_SYS_ADMIN, which that needs when `no_new_privs` is off) → the sets
//! shrink to Docker's → `/usr/local/sbin/nginx` ENOENT → `/usr/local/bin/nginx` ENOENT → `/usr/sbin/nginx`: the pipe
//! closes, the daemon hears `Started`.

use crate::{
    caps::{CapSet, CapSets},
    os::{self, Strings},
    seccomp::Filter,
};
use coracle_shim_protocol::shim::FailReason;
use oci_spec::runtime::{PosixRlimit, PosixRlimitType, Process};
use rustix::{
    fs::Mode,
    io::Errno,
    process::{
        Gid, Resource, Rlimit, Signal, Uid, getrlimit, set_parent_process_death_signal, setrlimit,
    },
    thread::{self, CapabilitySet, CapabilitySets},
};
use std::{
    ffi::CString,
    fs, io,
    os::{fd::BorrowedFd, unix::fs::FileTypeExt},
    path::Path,
};

const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Why a process did not become its program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// Decides the exit code.
    pub reason: FailReason,
    /// For people.
    pub message: String,
}

impl Failure {
    /// Neither missing nor not executable.
    pub fn other(message: impl Into<String>) -> Self {
        Self {
            reason: FailReason::Other,
            message: message.into(),
        }
    }

    fn step(what: &str, error: impl std::fmt::Display) -> Self {
        Self::other(format!("cannot {what}: {error}"))
    }

    /// As sent over the pipe: one byte of reason, then text.
    pub fn encode(&self) -> Vec<u8> {
        let reason = match self.reason {
            FailReason::NotFound => b'n',
            FailReason::NotExecutable => b'x',
            FailReason::Late => b'l',
            FailReason::Other => b'o',
        };
        let mut out = vec![reason];
        out.extend_from_slice(self.message.as_bytes());
        // One write of at most this much arrives whole (`pipe(7)`).
        out.truncate(4096);
        out
    }

    /// Reads what came over the pipe; nothing means success.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (first, text) = bytes.split_first()?;
        Some(Self {
            reason: match first {
                b'n' => FailReason::NotFound,
                b'x' => FailReason::NotExecutable,
                b'l' => FailReason::Late,
                _ => FailReason::Other,
            },
            message: String::from_utf8_lossy(text).into_owned(),
        })
    }
}

/// What a process shall become.
#[derive(Debug, Clone)]
pub struct Launch {
    /// Arguments, environment, user, limits and directory.
    pub process: Process,
    /// Capability sets; `None` leaves them as they are.
    pub caps: Option<CapSets>,
    /// System call filter.
    pub filter: Option<Filter>,
}

impl Launch {
    /// Becomes the program. If that fails, the reason goes into `report` and the process ends.
    pub fn finish(&self, report: BorrowedFd<'_>) -> ! {
        let Err(failure) = self.attempt();
        let _ = rustix::io::write(report, &failure.encode());
        os::exit(match failure.reason {
            FailReason::NotFound => 127,
            FailReason::NotExecutable => 126,
            FailReason::Late | FailReason::Other => 125,
        })
    }

    fn attempt(&self) -> Result<std::convert::Infallible, Failure> {
        let process = &self.process;
        let args = process.args().as_deref().unwrap_or_default();
        let Some(program) = args.first() else {
            return Err(Failure::other("no command was given"));
        };
        // All that allocates and reads comes before the filter.
        let env = environment(process);
        let candidates = candidates(program, &env);
        let arg_strings = Strings::new(args).map_err(|e| Failure::step("pass the arguments", e))?;
        let env_strings =
            Strings::new(&env).map_err(|e| Failure::step("pass the environment", e))?;
        limits(process.rlimits().as_deref().unwrap_or_default());
        if let Some(mask) = process.user().umask() {
            rustix::process::umask(Mode::from_bits_truncate(mask));
        }
        let no_new_privs = process.no_new_privileges() == Some(true);
        if no_new_privs {
            thread::set_no_new_privs(true).map_err(|e| Failure::step("set no_new_privs", e))?;
        }
        if let Some(caps) = &self.caps {
            bound(caps.bounding).map_err(|e| Failure::step("limit the capabilities", e))?;
        }
        let keep = self.caps.is_some();
        identity(process, keep).map_err(|e| {
            let user = process.user();
            Failure::step(&format!("become user {}:{}", user.uid(), user.gid()), e)
        })?;
        let cwd = process.cwd();
        if !cwd.as_os_str().is_empty() {
            rustix::process::chdir(cwd).map_err(|e| {
                Failure::step(&format!("use the working directory {}", cwd.display()), e)
            })?;
        }
        os::reset_signals();
        // Without its shim nobody would log what it says or learn how it ends. Changing the user clears this, so it
        // comes after.
        set_parent_process_death_signal(Some(Signal::KILL))
            .map_err(|e| Failure::step("follow the shim's end", e))?;
        let load = || match &self.filter {
            Some(filter) => os::load_filter(&filter.program, filter.flags)
                .map_err(|e| Failure::step("load the seccomp filter", e)),
            None => Ok(()),
        };
        // Without no_new_privs loading takes CAP_SYS_ADMIN, so it comes first; with it, as late as possible.
        if !no_new_privs {
            load()?;
        }
        if let Some(caps) = &self.caps {
            shrink(caps).map_err(|e| Failure::step("set the capabilities", e))?;
        }
        if no_new_privs {
            load()?;
        }
        let mut denied = None;
        for path in &candidates {
            let error = os::execve(path, &arg_strings, &env_strings);
            match error.raw_os_error() {
                Some(libc::ENOENT | libc::ENOTDIR) => {}
                _ => {
                    denied = Some(error);
                    break;
                }
            }
        }
        Err(not_started(program, denied))
    }
}

/// Says it in the words that people know from docker.
fn not_started(program: &str, error: Option<io::Error>) -> Failure {
    let Some(error) = error else {
        let message = if program.contains('/') {
            format!("exec: \"{program}\": no such file or directory")
        } else {
            format!("exec: \"{program}\": executable file not found in $PATH")
        };
        return Failure {
            reason: FailReason::NotFound,
            message,
        };
    };
    let (reason, cause) = match error.raw_os_error() {
        Some(libc::EACCES) => (FailReason::NotExecutable, "permission denied".to_owned()),
        Some(libc::ENOEXEC) => (
            FailReason::NotExecutable,
            "exec format error: not a program of this machine's architecture, or a script without #!".to_owned(),
        ),
        Some(libc::ELOOP | libc::ENAMETOOLONG | libc::EISDIR | libc::ETXTBSY | libc::EPERM) => {
            (FailReason::NotExecutable, error.to_string())
        }
        _ => (FailReason::Other, error.to_string()),
    };
    Failure {
        reason,
        message: format!("exec: \"{program}\": {cause}"),
    }
}

/// The environment as given, with HOME from the container's own `/etc/passwd` where it is missing.
fn environment(process: &Process) -> Vec<String> {
    let mut env = process.env().clone().unwrap_or_default();
    if !env
        .iter()
        .any(|e| e.strip_prefix("HOME=").is_some_and(|h| !h.is_empty()))
    {
        env.retain(|e| e != "HOME=");
        env.push(format!("HOME={}", home(process.user().uid())));
    }
    env
}

/// Read by hand: the C library's look-up would load libraries out of the container into a process that still has
/// every privilege.
fn home(uid: u32) -> String {
    let path = Path::new("/etc/passwd");
    let plain = fs::metadata(path)
        .is_ok_and(|m| m.is_file() && !m.file_type().is_fifo() && m.len() < 1 << 20);
    let text = if plain {
        fs::read(path).unwrap_or_default()
    } else {
        Vec::new()
    };
    let text = String::from_utf8_lossy(&text);
    let found = text.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.nth(2)?.parse() == Ok(uid)).then(|| fields.nth(2).unwrap_or("").to_owned())
    });
    let fallback = if uid == 0 { "/root" } else { "/" };
    found
        .filter(|h| !h.is_empty())
        .unwrap_or_else(|| fallback.to_owned())
}

/// Where the program may be, in order.
fn candidates(program: &str, env: &[String]) -> Vec<CString> {
    let c = |s: String| CString::new(s).ok();
    if program.contains('/') {
        return c(program.to_owned()).into_iter().collect();
    }
    if program.is_empty() {
        return Vec::new();
    }
    // As with getenv, the first of several counts.
    let path = env
        .iter()
        .find_map(|e| e.strip_prefix("PATH="))
        .unwrap_or(DEFAULT_PATH);
    path.split(':')
        // An empty element would be the working directory, which docker does not search.
        .filter(|dir| !dir.is_empty())
        .filter_map(|dir| c(format!("{}/{program}", dir.trim_end_matches('/'))))
        .collect()
}

/// Sets limits; what this machine does not let us raise is raised as far as it goes.
fn limits(list: &[PosixRlimit]) {
    for limit in list {
        let resource = resource(limit.typ());
        let now = getrlimit(resource);
        let number = |n: u64| (n != u64::MAX).then_some(n);
        let least = |a: Option<u64>, b: Option<u64>| match (a, b) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        let (soft, hard) = (number(limit.soft()), number(limit.hard()));
        let wanted = Rlimit {
            current: soft,
            maximum: hard,
        };
        if setrlimit(resource, wanted).is_err() {
            let hard = least(hard, now.maximum);
            let _ = setrlimit(
                resource,
                Rlimit {
                    current: least(soft, hard),
                    maximum: hard,
                },
            );
        }
    }
}

fn resource(kind: PosixRlimitType) -> Resource {
    use PosixRlimitType as T;
    match kind {
        T::RlimitCpu => Resource::Cpu,
        T::RlimitFsize => Resource::Fsize,
        T::RlimitData => Resource::Data,
        T::RlimitStack => Resource::Stack,
        T::RlimitCore => Resource::Core,
        T::RlimitRss => Resource::Rss,
        T::RlimitNproc => Resource::Nproc,
        T::RlimitNofile => Resource::Nofile,
        T::RlimitMemlock => Resource::Memlock,
        T::RlimitAs => Resource::As,
        T::RlimitLocks => Resource::Locks,
        T::RlimitSigpending => Resource::Sigpending,
        T::RlimitMsgqueue => Resource::Msgqueue,
        T::RlimitNice => Resource::Nice,
        T::RlimitRtprio => Resource::Rtprio,
        T::RlimitRttime => Resource::Rttime,
    }
}

fn bound(keep: CapSet) -> io::Result<()> {
    for number in 0..64 {
        let cap = CapabilitySet::from_bits_retain(1 << number);
        match thread::capability_is_in_bounding_set(cap) {
            Ok(true) if !keep.has(number) => thread::remove_capability_from_bounding_set(cap)?,
            Ok(_) => {}
            // Beyond the kernel's last one.
            Err(_) => break,
        }
    }
    Ok(())
}

/// Becomes the user. With `keep`, capabilities survive that, for the steps that follow.
fn identity(process: &Process, keep: bool) -> io::Result<()> {
    let user = process.user();
    if keep {
        thread::set_keep_capabilities(true)?;
    }
    let groups: Vec<Gid> = user
        .additional_gids()
        .iter()
        .flatten()
        .map(|g| Gid::from_raw(*g))
        .collect();
    // Also when there are none: those of the shim are nobody else's.
    thread::set_thread_groups(&groups)?;
    let gid = Gid::from_raw(user.gid());
    thread::set_thread_res_gid(gid, gid, gid)?;
    let uid = Uid::from_raw(user.uid());
    thread::set_thread_res_uid(uid, uid, uid)?;
    if keep {
        thread::set_keep_capabilities(false)?;
        let mut sets = thread::capabilities(None)?;
        sets.effective = sets.permitted;
        thread::set_capabilities(None, sets)?;
    }
    Ok(())
}

/// Shrinks the sets to what is wanted and can be had.
fn shrink(wanted: &CapSets) -> io::Result<()> {
    let have = CapSet(thread::capabilities(None)?.permitted.bits());
    let bits = |set: CapSet| CapabilitySet::from_bits_retain(set.0);
    let permitted = wanted.permitted.and(have);
    let inheritable = wanted.inheritable.and(have);
    thread::set_capabilities(
        None,
        CapabilitySets {
            effective: bits(wanted.effective.and(permitted)),
            permitted: bits(permitted),
            inheritable: bits(inheritable),
        },
    )?;
    match thread::clear_ambient_capability_set() {
        Ok(()) | Err(Errno::INVAL) => {}
        Err(e) => return Err(e.into()),
    }
    let ambient = wanted.ambient.and(permitted).and(inheritable);
    for number in (0..64).filter(|n| ambient.has(*n)) {
        thread::configure_capability_in_ambient_set(
            CapabilitySet::from_bits_retain(1 << number),
            true,
        )?;
    }
    Ok(())
}

/// Makes the stdio of a process that will not run as root its own, so that it can open `/dev/stdout` again.
pub fn own_stdio(uid: u32) {
    for fd in [
        rustix::stdio::stdin(),
        rustix::stdio::stdout(),
        rustix::stdio::stderr(),
    ] {
        let Ok(stat) = rustix::fs::fstat(fd) else {
            continue;
        };
        let null = rustix::fs::makedev(1, 3);
        let device = rustix::fs::FileType::from_raw_mode(stat.st_mode)
            == rustix::fs::FileType::CharacterDevice;
        if stat.st_uid != uid && !(device && stat.st_rdev == null) {
            let _ = rustix::fs::fchown(fd, Some(Uid::from_raw(uid)), None);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn failures_travel_whole() {
        for failure in [
            not_started("nope", None),
            not_started("/nope", None),
            not_started("/etc", Some(io::Error::from_raw_os_error(libc::EACCES))),
            Failure::other("x"),
        ] {
            assert_eq!(Failure::decode(&failure.encode()), Some(failure));
        }
        assert_eq!(Failure::decode(b""), None);
        assert_eq!(not_started("nope", None).reason, FailReason::NotFound);
        let noexec = not_started("/x", Some(io::Error::from_raw_os_error(libc::ENOEXEC)));
        assert_eq!(noexec.reason, FailReason::NotExecutable);
    }

    #[test]
    fn programs_are_looked_for_in_the_path_given() {
        let env = ["PATH=/a:/b/::".to_owned(), "PATH=/c".to_owned()];
        let found: Vec<_> = candidates("sh", &env)
            .iter()
            .map(|c| c.to_str().unwrap().to_owned())
            .collect();
        assert_eq!(found, ["/a/sh", "/b/sh"]);
        assert_eq!(candidates("./sh", &env).len(), 1);
        assert_eq!(candidates("sh", &[]).len(), 6);
        assert!(candidates("", &env).is_empty());
    }

    #[test]
    fn home_is_found_without_the_c_library() {
        assert_eq!(home(0), "/root");
        assert_eq!(home(4_000_000), "/");
    }
}
