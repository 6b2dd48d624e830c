//! What is wrong with a Dockerfile, and what is only odd.

use crate::words::WordError;

/// Why a Dockerfile cannot be read. `Display` says line, thing, cause and way out, in BuildKit's words where it has some.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DockerfileError {
    /// Nothing but comments and blank lines; the line is the last.
    #[error("line {line}: file with no instructions; begin it with FROM")]
    Empty {
        /// The line it is about, from 1.
        line: usize,
    },
    /// Only ARGs; the line is the last.
    #[error(
        "line {line}: no build stage: the file has no FROM; write FROM IMAGE before what is done to it"
    )]
    NoStage {
        /// The line it is about, from 1.
        line: usize,
    },
    /// Something that belongs to a stage stands before the first.
    #[error(
        "line {line}: no build stage in current context: {keyword} before FROM; only ARG may stand there"
    )]
    BeforeFrom {
        /// The line it is about, from 1.
        line: usize,
        /// The instruction.
        keyword: String,
    },
    /// A parser directive that is repeated or has no such value.
    #[error("line {line}: {cause}")]
    Directive {
        /// The line it is about, from 1.
        line: usize,
        /// What is wrong with it.
        cause: String,
    },
    /// A here-document without an end.
    #[error("line {line}: unterminated heredoc: end it with a line that is {name} alone")]
    Heredoc {
        /// The line it is about, from 1.
        line: usize,
        /// Its name.
        name: String,
    },
    /// The word after `<<` cannot be read.
    #[error("line {line}: heredoc {word}: {source}")]
    Delimiter {
        /// The line it is about, from 1.
        line: usize,
        /// The word.
        word: String,
        /// Why not.
        #[source]
        source: WordError,
    },
    /// A JSON list of something else than strings.
    #[error(
        "line {line}: {keyword}: when using JSON array syntax, arrays must be comprised of strings only; put each in double quotes"
    )]
    Json {
        /// The line it is about, from 1.
        line: usize,
        /// The instruction.
        keyword: String,
    },
    /// No such instruction. The hint is empty or names the nearest.
    #[error("line {line}: unknown instruction: {keyword}{hint}")]
    UnknownInstruction {
        /// The line it is about, from 1.
        line: usize,
        /// The instruction.
        keyword: String,
        /// The nearest, as a question; or nothing.
        hint: String,
    },
    /// No such flag of this instruction.
    #[error("line {line}: unknown flag: --{flag}; {keyword} takes {known}")]
    UnknownFlag {
        /// The line it is about, from 1.
        line: usize,
        /// The flag, without dashes.
        flag: String,
        /// The instruction.
        keyword: String,
        /// The flags that it takes.
        known: String,
    },
    /// A flag that may be given once only.
    #[error("line {line}: duplicate flag specified: {flag}; write it once")]
    DuplicateFlag {
        /// The line it is about, from 1.
        line: usize,
        /// The flag, without dashes.
        flag: String,
    },
    /// A flag without a value, or with one that it does not take.
    #[error("line {line}: {cause}")]
    FlagValue {
        /// The line it is about, from 1.
        line: usize,
        /// The flag, without dashes.
        flag: String,
        /// What is wrong with it.
        cause: String,
    },
    /// Too few, too many or wrong arguments.
    #[error("line {line}: {keyword} {cause}")]
    Arguments {
        /// The line it is about, from 1.
        line: usize,
        /// The instruction.
        keyword: String,
        /// What is wrong with it.
        cause: String,
    },
    /// A stage's name.
    #[error(
        "line {line}: invalid name for build stage: \"{name}\", name can't start with a number or contain symbols; use letters, digits, - _ and ."
    )]
    StageName {
        /// The line it is about, from 1.
        line: usize,
        /// Its name.
        name: String,
    },
    /// An instruction that cannot wait for another build.
    #[error(
        "line {line}: {keyword} isn't allowed as an ONBUILD trigger; write it in the Dockerfile that is built on this image"
    )]
    Trigger {
        /// The line it is about, from 1.
        line: usize,
        /// The instruction.
        keyword: String,
    },
    /// ONBUILD ONBUILD.
    #[error(
        "line {line}: Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed; write ONBUILD once"
    )]
    ChainedTrigger {
        /// The line it is about, from 1.
        line: usize,
    },
}

impl DockerfileError {
    /// The line it is about, from 1.
    #[must_use]
    pub fn line(&self) -> usize {
        match self {
            Self::Empty { line }
            | Self::NoStage { line }
            | Self::BeforeFrom { line, .. }
            | Self::Directive { line, .. }
            | Self::Heredoc { line, .. }
            | Self::Delimiter { line, .. }
            | Self::Json { line, .. }
            | Self::UnknownInstruction { line, .. }
            | Self::UnknownFlag { line, .. }
            | Self::DuplicateFlag { line, .. }
            | Self::FlagValue { line, .. }
            | Self::Arguments { line, .. }
            | Self::StageName { line, .. }
            | Self::Trigger { line, .. }
            | Self::ChainedTrigger { line } => *line,
        }
    }
}

/// Something odd that is read nonetheless.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning {
    /// The line it is about, from 1.
    pub line: usize,
    /// What, and how to write it instead.
    pub text: String,
}

/// A text for a message: a word of megabytes helps nobody.
pub(crate) fn short(text: &str) -> String {
    const LONGEST: usize = 80;
    match text.char_indices().nth(LONGEST) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text.to_owned(),
    }
}
