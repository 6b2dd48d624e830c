//! What is wrong with a Dockerfile, and what is only odd.

/// Why a Dockerfile cannot be read. `Display` says line, thing, cause and, where there is one, the way out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}{text}", if *line == 0 { String::new() } else { format!("line {line}: ") })]
pub struct DockerfileError {
    /// The instruction's first line, from 1; 0 if it is none's.
    pub line: usize,
    /// What, why, and what to do.
    pub text: String,
}

impl DockerfileError {
    pub(crate) fn at(line: usize, text: impl Into<String>) -> Self {
        Self {
            line,
            text: text.into(),
        }
    }
}

/// Something odd that is read nonetheless.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning {
    /// The instruction's first line, from 1.
    pub line: usize,
    /// What, and how to write it instead.
    pub text: String,
}
