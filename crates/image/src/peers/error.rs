//! Why another machine did not give what was asked for.

use std::io;

/// An error of another machine or on the way to it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PeerError {
    /// No machine that can be reached has it.
    #[error(
        "no other machine that answers has it; push it to a registry, or load it on one of them"
    )]
    Nobody,
    /// No connection, or it broke.
    #[error("machine {machine} does not answer")]
    Unreachable {
        /// The machine.
        machine: String,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// It said nothing for too long.
    #[error("machine {machine} was silent for {seconds} s")]
    Silent {
        /// The machine.
        machine: String,
        /// How long it was waited for.
        seconds: u64,
    },
    /// It sends, but so slowly that another one is asked.
    #[error("machine {machine} sends too slowly")]
    Slow {
        /// The machine.
        machine: String,
    },
    /// Another answer than success.
    #[error("machine {machine} answers {status}")]
    Status {
        /// The machine.
        machine: String,
        /// The HTTP status.
        status: u16,
    },
    /// The answer ended early.
    #[error("machine {machine} sent {received} of {expected} bytes and stopped")]
    Incomplete {
        /// The machine.
        machine: String,
        /// Bytes received so far, from whomever.
        received: u64,
        /// Bytes expected.
        expected: u64,
    },
    /// What it sent is not what was asked for.
    #[error("machine {machine} sent something else than what was asked for: {what}")]
    Wrong {
        /// The machine.
        machine: String,
        /// What is wrong with it.
        what: String,
    },
}
