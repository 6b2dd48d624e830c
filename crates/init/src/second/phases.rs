//! Named, timed phases of the boot; `coracle os boot-report` shows them.

use crate::console::{Level, say};
use coracle_os::BOOT_REPORT;
use serde::Serialize;
use std::{
    fs, io,
    time::{Duration, Instant},
};

/// How one phase went.
#[derive(Debug, Serialize)]
struct Phase {
    name: &'static str,
    /// When it began, in milliseconds since the kernel started.
    begin_ms: u64,
    /// How long it took, in milliseconds.
    took_ms: u64,
    /// What went wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// The phases so far.
#[derive(Debug, Default, Serialize)]
pub struct Phases {
    /// Format of the report.
    version: u32,
    phases: Vec<Phase>,
    /// Whether all are over.
    complete: bool,
}

/// Time since the kernel started.
fn since_start() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    // It does not run backwards from 0.
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec as u32)
}

impl Phases {
    /// None yet.
    pub fn new() -> Self {
        Self {
            version: 1,
            ..Self::default()
        }
    }

    /// Runs one and takes its time.
    ///
    /// # Errors
    /// The phase's own.
    pub fn run<T>(
        &mut self,
        name: &'static str,
        phase: impl FnOnce() -> io::Result<T>,
    ) -> io::Result<T> {
        let (begin, start) = (since_start(), Instant::now());
        let done = phase();
        let took = start.elapsed();
        let error = done.as_ref().err().map(|e| coracle_sys::full(e));
        match &error {
            None => say(Level::Info, &format!("{name}: {} ms", took.as_millis())),
            Some(error) => say(Level::Error, &format!("{name}: {error}")),
        }
        self.phases.push(Phase {
            name,
            begin_ms: begin.as_millis() as u64,
            took_ms: took.as_millis() as u64,
            error,
        });
        self.write();
        done
    }

    /// All are over.
    pub fn done(&mut self) {
        self.complete = true;
        self.write();
        say(
            Level::Notice,
            &format!("up after {:.1} s", since_start().as_secs_f64()),
        );
    }

    /// The report is for people; that it cannot be written stops nothing.
    fn write(&self) {
        let text = serde_json::to_string_pretty(self).unwrap_or_default();
        fs::create_dir_all("/run/coracle-os")
            .and_then(|()| fs::write(BOOT_REPORT, text))
            .ok();
    }
}
