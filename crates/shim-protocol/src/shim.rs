//! What a shim is given, what it is asked, and what it says.

use chrono::{DateTime, Utc};
use oci_spec::runtime::{LinuxSeccomp, Process, Spec};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Name of a shim's socket inside its run directory.
pub const SOCKET: &str = "shim.sock";
/// Name of the exit record inside the container's state directory.
pub const EXIT_FILE: &str = "exit.json";

/// Everything a shim needs to know, given once when it is forked.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ShimSpec {
    /// [`crate::PROTOCOL_VERSION`] of the writer.
    pub version: u32,
    /// The container's full id.
    pub id: String,
    /// The container's state directory; [`EXIT_FILE`] is written here.
    pub state_dir: PathBuf,
    /// The shim's run directory (`RUN_DIR/shims/<id>`): socket, bundle, runtime state. Made by the holder,
    /// removed by the shim when it leaves.
    pub run_dir: PathBuf,
    /// What runs.
    pub workload: Workload,
    /// The log, if one is kept.
    pub log: Option<LogConfig>,
    /// Whether a pseudo-terminal is the process's stdio.
    pub terminal: bool,
    /// Size of the terminal at start: rows and columns.
    pub terminal_size: Option<(u16, u16)>,
    /// Whether stdin stays open for attached clients; otherwise it is `/dev/null`.
    pub open_stdin: bool,
    /// Whether stdin is closed when the first attached client that sent input leaves.
    pub stdin_once: bool,
    /// Path below each cgroup hierarchy (or below the v2 root), such as `/coracle/<id>`.
    pub cgroup: String,
    /// Until when it may run, of what is exclusive: from version 2 on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline: Option<Deadline>,
}

/// Until when what is exclusive may run. The shim keeps to it by itself, whatever becomes of the daemon: it sends the stop
/// signal [`Self::stop_ms`] before the deadline, and SIGKILL to all that is left when it has come. Times are
/// [`crate::boottime_ms`], which goes on while the machine sleeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deadline {
    /// When the question was sent whose answer allows this.
    pub asked_ms: u64,
    /// From then on nothing of it may run.
    pub until_ms: u64,
    /// What it is given to end by itself, in milliseconds before that.
    pub stop_ms: u64,
    /// Number of the stop signal.
    pub signal: i32,
}

impl Deadline {
    /// When it is asked to end.
    pub fn stop_at_ms(&self) -> u64 {
        self.until_ms.saturating_sub(self.stop_ms)
    }
}

/// A container, or a plain host process in a cgroup of its own (`.service` units).
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Workload {
    /// An OCI container run through libcontainer.
    Container {
        /// The OCI runtime configuration. `root.path` is set by the shim. A network namespace without a path in
        /// it means: the shim's own, made before `Prepared` is said. `linux.seccomp` and
        /// `process.capabilities` are applied by the shim itself, last before exec.
        spec: Box<Spec>,
        /// The root filesystem.
        rootfs: Rootfs,
        /// Which system calls are allowed.
        seccomp: Seccomp,
    },
    /// A host process, without namespaces.
    Process {
        /// Arguments, environment, working directory and numeric user; capabilities are left as they are.
        process: Box<Process>,
        /// What happens to the other processes of its cgroup once it is gone.
        #[serde(default)]
        kill_mode: KillMode,
    },
}

/// What happens to the processes that remain in a host process's cgroup when the main process is gone; the meaning
/// is that of systemd's `KillMode=`. [`Reply::Exited`] comes after it was done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum KillMode {
    /// They get SIGTERM, and SIGKILL five seconds later.
    #[default]
    ControlGroup,
    /// They get SIGKILL at once; only the main process is given time to end.
    Mixed,
    /// They live on, in their cgroup, which then stays; their output goes nowhere.
    Process,
    /// As `Process`: the difference lies with who stops the main process.
    None,
}

/// Layers of a root filesystem, mounted by the shim in its own mount namespace only.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Rootfs {
    /// Unpacked layers, topmost first, as overlayfs orders them.
    pub lower: Vec<PathBuf>,
    /// Writable directory.
    pub upper: PathBuf,
    /// overlayfs work directory, on the same filesystem as `upper`.
    pub work: PathBuf,
}

/// Which system calls are allowed.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Seccomp {
    /// Docker's default profile, resolved for the capabilities that the process has.
    Default,
    /// No filter.
    Unconfined,
    /// A profile in OCI form.
    Profile {
        /// The filter.
        profile: Box<LinuxSeccomp>,
    },
}

/// Where and how the log is written: Docker's json-file format, one JSON object a line
/// (`{"log":"…\n","stream":"stdout","time":"RFC 3339 with nanoseconds"}`), lines longer than 16 KiB in pieces.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LogConfig {
    /// The current file; rotated ones get `.1`, `.2`, … appended.
    pub path: PathBuf,
    /// Bytes after which the file is rotated.
    pub max_size: u64,
    /// How many files are kept, the current one included; at least 1.
    pub max_files: u32,
    /// What each line has besides, as its member `attrs`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub attrs: BTreeMap<String, String>,
}

/// First control message of every connection to a shim; later ones may follow on the same connection where
/// noted.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Request {
    /// Answered by [`Reply::Prepared`] when the shim's namespaces exist. `Start` and `Release` may follow, and
    /// [`Reply::Exited`] arrives on this connection.
    Prepare,
    /// Starts the container; answered by [`Reply::Started`] or [`Reply::Failed`] once exec succeeded or failed.
    Start,
    /// Answered by [`Reply::State`]; then [`Reply::Exited`] arrives when it happens. `Release` may follow.
    Watch,
    /// Joins the container's stdio. Answered by [`Reply::Attached`], then stdout and stderr frames come, and stdin
    /// frames may be sent. An empty one says that this client's input is at its end, which closes the container's stdin
    /// if [`ShimSpec::stdin_once`] is set and there is no terminal, as with Docker. The shim closes the connection
    /// after the last byte of output. A client that takes nothing for thirty seconds while output waits is dropped.
    Attach {
        /// Whether this client sends input.
        stdin: bool,
        /// Whether it wants stdout.
        stdout: bool,
        /// Whether it wants stderr.
        stderr: bool,
    },
    /// Runs another process in the container: answered by [`Reply::Started`] or [`Reply::Failed`], then as `Attach`
    /// (an empty stdin frame always closes its stdin unless it has a terminal), at last [`Reply::Exited`]. Closing the
    /// connection early does not stop the process. Where `process` has no capabilities or resource limits, the
    /// container's own are used.
    Exec {
        /// Id by which `Resize` and `Kill` find it.
        exec_id: String,
        /// What runs, with capabilities as wanted.
        process: Box<Process>,
        /// Whether it gets a pseudo-terminal (`process.consoleSize` gives its size).
        terminal: bool,
        /// Whether stdin frames will be sent; otherwise stdin is `/dev/null`.
        stdin: bool,
        /// Whether output frames are wanted; otherwise output goes to `/dev/null`.
        output: bool,
    },
    /// Sets the size of a terminal. Answered by [`Reply::Ok`].
    Resize {
        /// The exec process, or the container's own if absent.
        exec_id: Option<String>,
        /// Rows in characters.
        rows: u16,
        /// Columns in characters.
        cols: u16,
    },
    /// Sends a signal. Answered by [`Reply::Ok`], or `Error` if nothing runs.
    Kill {
        /// The exec process, or the container's init if absent.
        exec_id: Option<String>,
        /// Signal number.
        signal: i32,
        /// Send it to every process in the cgroup.
        all: bool,
    },
    /// Sets until when it may run, or with nothing that it may for ever. A deadline is never moved back, and one that was missed
    /// stays missed. Answered by [`Reply::Ok`], or `Error` by a shim that is stopping it already. From version 2 on.
    Limit {
        /// The deadline.
        deadline: Option<Deadline>,
    },
    /// The exit status is recorded elsewhere: the shim may leave. Before the start it means: give up, nothing shall
    /// run. There is no reply; the connection ends when the root filesystem is unmounted and cgroup and run
    /// directory are gone, so whoever wants to use their names again waits for that end.
    Release,
}

/// What a shim says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Reply {
    /// The shim's mount and network namespaces exist.
    Prepared,
    /// The process runs.
    Started {
        /// Host process id.
        pid: u32,
    },
    /// The process could not be started.
    Failed {
        /// What kind of failure; decides the exit code that a person sees.
        reason: FailReason,
        /// Cause, for people.
        message: String,
    },
    /// The connection now carries stdio.
    Attached,
    /// Present state.
    State {
        /// Where the container stands.
        state: State,
    },
    /// The process ended.
    Exited {
        /// How.
        status: ExitStatus,
    },
    /// Done.
    Ok,
    /// Refused or failed.
    Error {
        /// Cause, for people.
        message: String,
    },
}

/// Why a process did not start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailReason {
    /// The program does not exist: exit code 127.
    NotFound,
    /// The program exists and cannot be executed: exit code 126.
    NotExecutable,
    /// It is exclusive and may run no longer ([`Deadline`]): exit code 125.
    Late,
    /// Anything else: exit code 125 (`docker run`) or 128 for exec.
    Other,
}

/// Where a shim's container stands.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "snake_case")]
pub enum State {
    /// Not started yet.
    Prepared,
    /// Running.
    Running {
        /// Host process id of init.
        pid: u32,
        /// When exec succeeded.
        started_at: DateTime<Utc>,
    },
    /// Ended; `exit.json` says the same.
    Exited {
        /// How.
        status: ExitStatus,
    },
}

/// How a process ended. [`EXIT_FILE`] holds this.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ExitStatus {
    /// Format version, 1.
    pub version: u32,
    /// Exit code; 128 + n when signal n ended it.
    pub code: i32,
    /// The signal, when one ended it.
    pub signal: Option<i32>,
    /// Whether the kernel's out-of-memory killer struck in its cgroup.
    pub oom_killed: bool,
    /// When it started, unless it never did.
    pub started_at: Option<DateTime<Utc>>,
    /// When it ended.
    pub finished_at: DateTime<Utc>,
    /// Cause, when it could not be started or its shim ended it.
    pub error: Option<String>,
    /// Whether its shim ended it, since its [`Deadline`] was not moved.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub watchdog: bool,
}
