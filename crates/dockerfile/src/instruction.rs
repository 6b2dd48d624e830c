//! What a Dockerfile says, typed. Variables are not replaced yet.

use crate::error::Warning;
use crate::heredoc::Heredoc;

/// A Dockerfile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dockerfile {
    /// The escape character: `\`, or a backtick.
    pub escape: char,
    /// The frontend that the directive `syntax` asks for: the first word of its value.
    pub syntax: Option<String>,
    /// Arguments before the first FROM.
    pub global_args: Vec<Arg>,
    /// Stages, in order; at least one.
    pub stages: Vec<Stage>,
    /// What is odd.
    pub warnings: Vec<Warning>,
}

/// FROM and what follows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stage {
    /// The name after AS, in lower case: `[a-z][a-z0-9_.-]*`.
    pub name: Option<String>,
    /// Image or stage, variables as they are written.
    pub base: String,
    /// Of `--platform`.
    pub platform: Option<String>,
    /// Line of the FROM, from 1.
    pub line: usize,
    /// The FROM as it is written, continuation joined.
    pub source: String,
    /// What is done on top of it.
    pub instructions: Vec<Instruction>,
}

/// One instruction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instruction {
    /// First line, from 1. Of an ONBUILD's trigger, in the trigger.
    pub line: usize,
    /// Last line, here-documents included.
    pub end_line: usize,
    /// As docker shows it: one line, the keyword in capitals, the rest as it is written, without here-documents' bodies.
    pub source: String,
    /// What it is.
    pub kind: Kind,
}

/// What an instruction is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// ADD
    Add(Copy),
    /// ARG
    Arg(Vec<Arg>),
    /// CMD
    Cmd(Command),
    /// COPY
    Copy(Copy),
    /// ENTRYPOINT
    Entrypoint(Command),
    /// ENV, names and values; quotes and escapes stay, [`crate::expand`] takes them off
    Env(Vec<(String, String)>),
    /// EXPOSE
    Expose(Vec<String>),
    /// HEALTHCHECK
    Healthcheck(Healthcheck),
    /// LABEL, as ENV
    Label(Vec<(String, String)>),
    /// MAINTAINER
    Maintainer(String),
    /// ONBUILD, the instruction as it is written, here-documents below it; for [`crate::parse_onbuild`]
    OnBuild(String),
    /// RUN
    Run(Run),
    /// SHELL
    Shell(Vec<String>),
    /// STOPSIGNAL
    StopSignal(String),
    /// USER
    User(String),
    /// VOLUME
    Volume(Vec<String>),
    /// WORKDIR
    Workdir(String),
}

/// A build argument.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arg {
    /// Its name.
    pub name: String,
    /// The text after `=`, variables, quotes and escapes as they are written.
    pub default: Option<String>,
}

/// A command in one of its two forms.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// A text for the shell, with `<<EOF` if there is one.
    Shell(String),
    /// A program and its arguments.
    Exec(Vec<String>),
}

/// COPY and ADD.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Copy {
    /// Files, directories, patterns, addresses.
    pub sources: Vec<String>,
    /// Files that are written here, named by their delimiter. Leading tabs are off if they are to be.
    pub inline: Vec<Heredoc>,
    /// Where to.
    pub destination: String,
    /// Of `--from`: a stage or an image. There are no variables in it.
    pub from: Option<String>,
    /// Of `--chown`.
    pub chown: Option<String>,
    /// Of `--chmod`.
    pub chmod: Option<String>,
    /// Of `--link`.
    pub link: bool,
    /// Of `--parents`.
    pub parents: bool,
    /// Of `--exclude`.
    pub exclude: Vec<String>,
    /// Of `--checksum`.
    pub checksum: Option<String>,
    /// Of `--keep-git-dir`.
    pub keep_git_dir: bool,
    /// Of `--unpack`.
    pub unpack: Option<bool>,
}

/// RUN.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// What is run.
    pub command: Command,
    /// Here-documents that the command's text begins.
    pub heredocs: Vec<Heredoc>,
    /// Values of `--mount`, for [`crate::Mount::parse`].
    pub mounts: Vec<String>,
    /// Of `--network`: `default`, `none` or `host`.
    pub network: Option<String>,
    /// Of `--security`: `sandbox` or `insecure`.
    pub security: Option<String>,
    /// Values of `--device`.
    pub devices: Vec<String>,
}

/// HEALTHCHECK. Times are as they are written, which is as Go writes durations: `1m30s`. None is negative, nor between nothing
/// and a millisecond.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Healthcheck {
    /// The base's is taken away.
    None,
    /// A test.
    Check {
        /// `["CMD", …]` or `["CMD-SHELL", text]`.
        test: Vec<String>,
        /// Between two tests.
        interval: Option<String>,
        /// For one test.
        timeout: Option<String>,
        /// In which failures do not count.
        start_period: Option<String>,
        /// Between two tests in that period.
        start_interval: Option<String>,
        /// Failures in a row; a number from 0 to 2147483647.
        retries: Option<String>,
    },
}
