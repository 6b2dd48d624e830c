//! Processes: those that are started here, and those that lost their parent, which come to process 1.
//!
//! One thread takes every process off the kernel's list as it ends. Whoever started one waits for what that thread tells of it; nothing
//! else may wait for a process.

use coracle_sys::signals::unblocked;
use std::{
    collections::BTreeMap,
    io,
    process::Command,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    },
    thread,
    time::Duration,
};

#[derive(Default)]
struct Known {
    /// Whom to tell, by process id.
    waiting: BTreeMap<u32, Sender<i32>>,
    /// How often something was started.
    started: u64,
}

#[derive(Default)]
struct Shared {
    known: Mutex<Known>,
    more: Condvar,
}

impl Shared {
    fn known(&self) -> MutexGuard<'_, Known> {
        // Nothing in it is half done when a thread panics.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The processes of the machine.
#[derive(Clone)]
pub struct Children(Arc<Shared>);

/// A process that was started here.
pub struct Child {
    end: Receiver<i32>,
}

impl Children {
    /// Begins to take ended processes.
    pub fn start() -> Self {
        let shared = Arc::<Shared>::default();
        let own = shared.clone();
        thread::spawn(move || {
            loop {
                reap(&own);
            }
        });
        Self(shared)
    }

    /// Starts a program.
    ///
    /// # Errors
    /// Those of starting it, with its name.
    pub fn spawn(&self, command: &mut Command) -> io::Result<Child> {
        // Held until it is known: it may end at once.
        let mut known = self.0.known();
        let child = unblocked(command).spawn().map_err(|e| {
            let name = command.get_program().to_string_lossy().into_owned();
            io::Error::new(e.kind(), format!("{name}: {e}"))
        })?;
        let (tell, end) = channel();
        known.waiting.insert(child.id(), tell);
        known.started += 1;
        self.0.more.notify_all();
        Ok(Child { end })
    }

    /// Runs a program to its end.
    ///
    /// # Errors
    /// Those of starting it, and that it failed.
    pub fn run(&self, command: &mut Command) -> io::Result<()> {
        match self.spawn(command)?.wait() {
            0 => Ok(()),
            code => {
                let name = command.get_program().to_string_lossy().into_owned();
                Err(io::Error::other(format!("{name} ended with {code}")))
            }
        }
    }
}

/// Waits for a process to end, or for one to be there.
fn reap(shared: &Shared) {
    let started = shared.known().started;
    match coracle_sys::process::reap_next() {
        Ok(Some(ended)) => {
            let waiting = shared.known().waiting.remove(&ended.pid);
            // Who does not wait any more need not be told.
            waiting.map(|w| w.send(ended.code));
        }
        _ => {
            let mut known = shared.known();
            while known.started == started {
                known = shared
                    .more
                    .wait(known)
                    .unwrap_or_else(PoisonError::into_inner);
            }
        }
    }
}

impl Child {
    /// Waits for its end and returns its exit code, 128 + n if signal n ended it.
    pub fn wait(&self) -> i32 {
        // The thread that tells does not end.
        self.end.recv().unwrap_or(-1)
    }

    /// Waits for its end, but not longer.
    pub fn wait_for(&self, limit: Duration) -> Option<i32> {
        match self.end.recv_timeout(limit) {
            Ok(code) => Some(code),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => Some(-1),
        }
    }
}
