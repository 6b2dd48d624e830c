//! Process 1 of a container that was asked for with `--init`, mounted at `/sbin/docker-init` inside.
//!
//! It does what tini does, which is docker's: starts the program as its child, in a process group of its own that has the
//! terminal if there is one, passes every signal on to it, reaps whatever ends, and ends as the program does: with its exit
//! code, or 128 + n if signal n ended it. What is left then is killed by the kernel, as with every process 1.
//!
//! It is a program of its own, without libraries and without Rust's runtime, and not a fork of the shim: it stays as long as
//! the container, has nothing in its memory that is not the container's, and takes as little of it as can be.
//!
//! # A worked example
//!
//! `/sbin/docker-init -- sh -c 'sleep 1000 & exec nginx'`: nginx is process 2; `docker stop` sends SIGTERM to process 1, which
//! waits in `sigwaitinfo(2)` and passes it on; SIGCHLD says that nginx has ended, `waitpid(2)` that it ended with 0; process 1
//! ends with 0, and the kernel kills `sleep`.
#![no_main]

use std::ffi::{CStr, c_char, c_int};
use std::{mem, ptr};

/// Signals of the program's own faults, which are not to be passed on, and those of the terminal, which are ignored.
const OWN: [c_int; 9] = [
    libc::SIGFPE,
    libc::SIGILL,
    libc::SIGSEGV,
    libc::SIGBUS,
    libc::SIGABRT,
    libc::SIGTRAP,
    libc::SIGSYS,
    libc::SIGTTIN,
    libc::SIGTTOU,
];

/// The program's start, called by the C library's.
///
/// # Safety
/// `args` must be a list of `count` strings with a null pointer behind them, as the C library gives it.
// SAFETY: the one symbol of this name; its form is the one that C gives to `main`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn main(count: c_int, args: *const *const c_char) -> c_int {
    let mut first = 1;
    // SAFETY: `args` has `count` strings and a null pointer behind them; both are looked at in that order.
    let program = unsafe {
        if count > 1 && CStr::from_ptr(*args.add(1)) == c"--" {
            first = 2;
        }
        args.add(first)
    };
    if usize::try_from(count).unwrap_or(0) <= first {
        say(&[c"usage: docker-init [--] PROGRAM [ARGUMENT...]\n"]);
        return 1;
    }
    let (waited, before) = block();
    // SAFETY: this process has one thread, so its child may do whatever it may.
    match unsafe { libc::fork() } {
        -1 => {
            say(&[c"docker-init: cannot fork: ", error(), c"\n"]);
            1
        }
        0 => become_program(program, &before),
        child => serve(child, &waited),
    }
}

/// Blocks every signal that is waited for from now on; gives these, and what was blocked before.
fn block() -> (libc::sigset_t, libc::sigset_t) {
    // SAFETY: both sets are written before they are read: one by sigfillset, the other by sigprocmask. SIG_IGN is no
    // handler of ours that could run.
    unsafe {
        let (mut waited, mut before) = (mem::zeroed(), mem::zeroed());
        libc::sigfillset(&mut waited);
        for number in OWN {
            libc::sigdelset(&mut waited, number);
        }
        libc::sigprocmask(libc::SIG_SETMASK, &waited, &mut before);
        // So that giving the terminal away does not stop whoever does it.
        libc::signal(libc::SIGTTIN, libc::SIG_IGN);
        libc::signal(libc::SIGTTOU, libc::SIG_IGN);
        (waited, before)
    }
}

/// The child's part: a group of its own, the terminal, and its program.
fn become_program(program: *const *const c_char, before: &libc::sigset_t) -> ! {
    // SAFETY: numbers, a set that sigprocmask wrote, and the argument list as it was given to this process, which ends with
    // a null pointer.
    unsafe {
        libc::setpgid(0, 0);
        // Without a terminal this is refused, and nothing else is wanted then.
        libc::tcsetpgrp(libc::STDIN_FILENO, libc::getpgrp());
        libc::signal(libc::SIGTTIN, libc::SIG_DFL);
        libc::signal(libc::SIGTTOU, libc::SIG_DFL);
        libc::sigprocmask(libc::SIG_SETMASK, before, ptr::null_mut());
        libc::execvp(*program, program);
        let code = match *libc::__errno_location() {
            libc::ENOENT | libc::ENOTDIR => 127,
            libc::EACCES | libc::ENOEXEC => 126,
            _ => 1,
        };
        let name = CStr::from_ptr(*program);
        say(&[c"docker-init: exec \"", name, c"\": ", error(), c"\n"]);
        libc::_exit(code)
    }
}

/// Passes signals on and reaps until the program has ended; its code.
fn serve(child: libc::pid_t, waited: &libc::sigset_t) -> c_int {
    loop {
        // SAFETY: the set is initialised; a null pointer says that nothing more is wanted to be known of the signal.
        match unsafe { libc::sigwaitinfo(waited, ptr::null_mut()) } {
            libc::SIGCHLD => {
                if let Some(code) = reap(child) {
                    return code;
                }
            }
            // Interrupted: by a debugger, or a stop.
            -1 => {}
            // SAFETY: takes numbers; the child is not reaped yet, so its id is nobody else's. It may refuse (other users'
            // programs): then the signal is lost, as it is with tini.
            number => _ = unsafe { libc::kill(child, number) },
        }
    }
}

/// Takes every ended process off the kernel's list; the program's code if it was among them.
fn reap(child: libc::pid_t) -> Option<c_int> {
    let mut code = None;
    loop {
        let mut status = 0;
        // SAFETY: the pointer is to a number that lives over the call.
        let pid = unsafe { libc::waitpid(-1, &mut status, libc::WNOHANG) };
        if pid <= 0 {
            return code;
        }
        if pid == child {
            code = Some(if libc::WIFSIGNALED(status) {
                128 + libc::WTERMSIG(status)
            } else {
                libc::WEXITSTATUS(status)
            });
        }
    }
}

/// The last error's text.
fn error() -> &'static CStr {
    // SAFETY: strerror gives a string that lives until its next call, and there is one thread, which prints it before.
    unsafe { CStr::from_ptr(libc::strerror(*libc::__errno_location())) }
}

/// Writes to stderr.
fn say(parts: &[&CStr]) {
    for part in parts {
        let bytes = part.to_bytes();
        // SAFETY: pointer and length are of the same string. If nobody reads it, there is nobody to tell.
        unsafe { libc::write(libc::STDERR_FILENO, bytes.as_ptr().cast(), bytes.len()) };
    }
}
