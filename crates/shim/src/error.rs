//! What can go wrong, and how it is said to the daemon.

use crate::seccomp::FilterError;
use coracle_sys::{cgroup::CgroupError, overlay::OverlayError};
use std::{error::Error, io, path::PathBuf};

/// Why the holder or a shim could not do something.
#[derive(Debug, thiserror::Error)]
pub enum ShimError {
    /// A system call on a file.
    #[error("cannot {action} {}", path.display())]
    File {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// A system call on the process.
    #[error("cannot {action}")]
    System {
        /// What was tried.
        action: &'static str,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// The control group.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    /// A limit that the kernel refused.
    #[error("cannot set {key} to {value}")]
    Limit {
        /// The control group's file.
        key: String,
        /// What was written.
        value: String,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// The program that guards the devices of a version 2 group.
    #[error("cannot guard the devices of control group {path}")]
    Devices {
        /// The group.
        path: String,
        /// libcgroups' or the kernel's reason.
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
    /// The root filesystem.
    #[error(transparent)]
    Overlay(#[from] OverlayError),
    /// The system call filter.
    #[error(transparent)]
    Filter(#[from] FilterError),
    /// The container runtime, and what it said while it failed.
    #[error("the container could not be created{}", said(details))]
    Runtime {
        /// The first thing that init complained of.
        details: Option<String>,
        /// libcontainer's own error.
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
    /// Another holder has this run directory.
    #[error("a holder runs already in {}", run_dir.display())]
    Taken {
        /// The directory.
        run_dir: PathBuf,
    },
    /// The asker's words make no sense.
    #[error("{0}")]
    Invalid(String),
}

fn said(details: &Option<String>) -> String {
    details
        .as_ref()
        .map(|d| format!(": {d}"))
        .unwrap_or_default()
}

impl ShimError {
    /// For `map_err`: a file operation.
    pub fn file(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::File {
            action,
            path,
            source,
        }
    }

    /// For `map_err`: any other operation.
    pub fn system<E: Into<io::Error>>(action: &'static str) -> impl FnOnce(E) -> Self {
        move |source| Self::System {
            action,
            source: source.into(),
        }
    }
}

/// An error with all its causes in one line, for a message that leaves this process.
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let more = cause.to_string();
        // Some libraries repeat the cause in their own words.
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        next = cause.source();
    }
    text
}

/// Writes a line to the holder's log (standard error) with the time.
pub fn note(whom: &str, text: &str) {
    use std::io::Write;
    let time = chrono::Utc::now().to_rfc3339_opts(chrono::SecondsFormat::Millis, true);
    let _ = writeln!(io::stderr(), "{time} {whom}: {text}");
}
