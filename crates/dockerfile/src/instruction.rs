//! What a Dockerfile says, typed. Variables are not replaced yet.

use crate::error::Warning;
use crate::heredoc::Heredoc;

/// A Dockerfile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dockerfile {
    /// The escape character: `\` or a backtick.
    pub escape: char,
    /// The frontend that the directive `syntax` asks for.
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
    /// The name after AS, in lower case.
    pub name: Option<String>,
    /// Image or stage.
    pub base: String,
    /// Of `--platform`.
    pub platform: Option<String>,
    /// Line of the FROM, from 1.
    pub line: usize,
    /// The FROM as it is written.
    pub source: String,
    /// What is done on top of it.
    pub instructions: Vec<Instruction>,
}

/// One instruction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instruction {
    /// First line, from 1.
    pub line: usize,
    /// Last line, here-documents included.
    pub end_line: usize,
    /// As it is written, continuation joined, without here-documents.
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
    /// ENV, names and values
    Env(Vec<(String, String)>),
    /// EXPOSE
    Expose(Vec<String>),
    /// HEALTHCHECK
    Healthcheck(Healthcheck),
    /// LABEL, names and values
    Label(Vec<(String, String)>),
    /// MAINTAINER
    Maintainer(String),
    /// ONBUILD, the instruction as it is written
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
    /// The text after `=`.
    pub default: Option<String>,
}

/// A command in one of its two forms.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// A text for the shell.
    Shell(String),
    /// A program and its arguments.
    Exec(Vec<String>),
}

/// COPY and ADD.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Copy {
    /// Files, directories, patterns, addresses.
    pub sources: Vec<String>,
    /// Files that are written here.
    pub inline: Vec<Heredoc>,
    /// Where to.
    pub destination: String,
    /// Of `--from`: a stage or an image.
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
    /// Of `--network`.
    pub network: Option<String>,
    /// Of `--security`.
    pub security: Option<String>,
    /// Values of `--device`.
    pub devices: Vec<String>,
}

/// HEALTHCHECK. Times are written as Go writes durations.
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
        /// Failures in a row; a number.
        retries: Option<String>,
    },
}
