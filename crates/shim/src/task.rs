//! A process that the shim started, and our ends of its stdio.

use crate::{container::ChildStdio, error::ShimError, launch::Failure, log::Stream};
use chrono::{DateTime, Utc};
use rustix::{
    fs::{Mode, OFlags, open},
    io::Errno,
    pipe::{PipeFlags, pipe_with},
    termios::{Winsize, tcsetwinsize},
};
use std::{
    collections::VecDeque,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    time::Instant,
};

/// What came of a read.
pub enum Read {
    /// So many bytes.
    Data(usize),
    /// Nothing now.
    Nothing,
    /// Nothing any more.
    End,
}

/// Our ends of a process's stdio.
#[derive(Debug, Default)]
pub struct Io {
    stdin: Option<OwnedFd>,
    output: [Option<OwnedFd>; 2],
    terminal: bool,
    queue: VecDeque<u8>,
    close_after: bool,
}

/// Input that may wait for the process before clients are not read any more, in bytes.
const MAX_INPUT: usize = 256 << 10;

impl Io {
    /// Pipes, or `/dev/null` where nothing is wanted; both sides.
    ///
    /// # Errors
    /// When no more descriptors can be had.
    pub fn pipes(stdin: bool, output: bool) -> Result<(Self, ChildStdio), ShimError> {
        let pair = || pipe_with(PipeFlags::CLOEXEC).map_err(ShimError::system("make a pipe"));
        let null = || {
            open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
                .map_err(|e| ShimError::file("open", "/dev/null")(e.into()))
        };
        // Only our end: the other is the program's, and programs expect it to block.
        let quiet = |fd: &OwnedFd| {
            rustix::io::ioctl_fionbio(fd, true)
                .map_err(ShimError::system("make a pipe non-blocking"))
        };
        let mut io = Self::default();
        let child_stdin = if stdin {
            let (read, write) = pair()?;
            quiet(&write)?;
            io.stdin = Some(write);
            read
        } else {
            null()?
        };
        let mut outputs = Vec::with_capacity(2);
        for slot in &mut io.output {
            if output {
                let (read, write) = pair()?;
                quiet(&read)?;
                *slot = Some(read);
                outputs.push(write);
            } else {
                outputs.push(null()?);
            }
        }
        let (Some(stderr), Some(stdout)) = (outputs.pop(), outputs.pop()) else {
            return Err(ShimError::Invalid(
                "two outputs were made and are not there".into(),
            ));
        };
        Ok((
            io,
            ChildStdio {
                stdin: child_stdin,
                stdout,
                stderr,
            },
        ))
    }

    /// A terminal whose other end the process has.
    ///
    /// # Errors
    /// When it cannot be made non-blocking.
    pub fn terminal(master: OwnedFd, size: Option<(u16, u16)>) -> Result<Self, ShimError> {
        rustix::io::ioctl_fionbio(&master, true)
            .map_err(ShimError::system("make a terminal non-blocking"))?;
        let io = Self {
            output: [Some(master), None],
            terminal: true,
            ..Self::default()
        };
        if let Some((rows, cols)) = size {
            io.resize(rows, cols)?;
        }
        Ok(io)
    }

    /// Whether it is a terminal.
    pub fn is_terminal(&self) -> bool {
        self.terminal
    }

    /// Sets the size of the terminal, in characters.
    ///
    /// # Errors
    /// When there is none.
    pub fn resize(&self, rows: u16, cols: u16) -> Result<(), ShimError> {
        let Some(master) = self.output[0].as_ref().filter(|_| self.terminal) else {
            return Err(ShimError::Invalid("the process has no terminal".into()));
        };
        let size = Winsize {
            ws_row: rows,
            ws_col: cols,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        tcsetwinsize(master, size).map_err(ShimError::system("set the size of the terminal"))
    }

    /// An output that is still open.
    pub fn output(&self, index: usize) -> Option<BorrowedFd<'_>> {
        self.output.get(index)?.as_ref().map(AsFd::as_fd)
    }

    /// Whether all output has come.
    pub fn drained(&self) -> bool {
        self.output.iter().all(Option::is_none)
    }

    /// Reads from an output.
    pub fn read(&mut self, index: usize, buffer: &mut [u8]) -> Read {
        let Some(fd) = self.output(index) else {
            return Read::End;
        };
        match rustix::io::read(fd, buffer) {
            Ok(0) => {}
            Ok(n) => return Read::Data(n),
            Err(Errno::AGAIN | Errno::INTR) => return Read::Nothing,
            // A terminal says EIO when nobody has its other end open.
            Err(_) => {}
        }
        self.output[index] = None;
        Read::End
    }

    /// Stops reading; who still writes gets SIGPIPE.
    pub fn close_outputs(&mut self) {
        self.output = [None, None];
    }

    fn input(&self) -> Option<BorrowedFd<'_>> {
        if self.terminal {
            self.output(0)
        } else {
            self.stdin.as_ref().map(AsFd::as_fd)
        }
    }

    /// The descriptor that input waits for.
    pub fn waiting_input(&self) -> Option<BorrowedFd<'_>> {
        if self.queue.is_empty() {
            None
        } else {
            self.input()
        }
    }

    /// Whether more input may be taken from clients.
    pub fn takes_input(&self) -> bool {
        self.queue.len() < MAX_INPUT
    }

    /// Takes input of a client and passes on what can be.
    pub fn push_input(&mut self, bytes: &[u8]) {
        if self.input().is_some() && !self.close_after {
            self.queue.extend(bytes);
            self.flush_input();
        }
    }

    /// Passes on what can be.
    pub fn flush_input(&mut self) {
        while !self.queue.is_empty() {
            let Some(fd) = self.input() else {
                self.queue.clear();
                break;
            };
            let (front, _) = self.queue.as_slices();
            match rustix::io::write(fd, front) {
                Ok(n) => {
                    self.queue.drain(..n);
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return,
                // Nobody reads it any more.
                Err(_) => {
                    self.queue.clear();
                    self.stdin = None;
                }
            }
        }
        self.queue.shrink_to(0);
        if self.close_after {
            self.stdin = None;
        }
    }

    /// Input ends once what waits was passed on. A terminal stays as it is.
    pub fn close_input(&mut self) {
        self.close_after = !self.terminal;
        if self.queue.is_empty() && self.close_after {
            self.stdin = None;
        }
    }
}

/// Which output an index is.
pub fn stream(index: usize) -> Stream {
    if index == 0 {
        Stream::Stdout
    } else {
        Stream::Stderr
    }
}

/// A process that the shim started.
#[derive(Debug)]
pub struct Task {
    /// Host process id.
    pub pid: u32,
    /// Readable once it has ended; no later process of the same id can take it over.
    pub held: OwnedFd,
    /// Our end of the report while its launch is undecided.
    pub report: Option<OwnedFd>,
    /// Why the launch failed, as far as is known.
    pub failure: Option<Failure>,
    /// What the runtime complained of during the launch.
    pub complaint: Option<String>,
    /// Its stdio.
    pub io: Io,
    /// When exec succeeded.
    pub started_at: Option<DateTime<Utc>>,
    /// Exit code and signal.
    pub ended: Option<(i32, Option<i32>)>,
    /// Until when output is waited for.
    pub deadline: Option<Instant>,
}

impl Task {
    /// Holds a child.
    ///
    /// # Errors
    /// When it cannot be held.
    pub fn new(pid: u32, io: Io, report: Option<OwnedFd>) -> Result<Self, ShimError> {
        let held =
            coracle_sys::process::hold(pid).map_err(ShimError::system("hold the process"))?;
        Ok(Self {
            pid,
            held,
            report,
            failure: None,
            complaint: None,
            io,
            started_at: None,
            ended: None,
            deadline: None,
        })
    }

    /// Sends it a signal.
    ///
    /// # Errors
    /// When it has ended, or the number is no signal.
    pub fn kill(&self, signal: i32) -> Result<(), ShimError> {
        coracle_sys::process::signal(&self.held, signal)
            .map_err(ShimError::system("send the signal"))
    }
}
