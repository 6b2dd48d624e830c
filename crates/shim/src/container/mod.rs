//! Making a container with libcontainer: what it is told, what it is kept from, what is done beside it.
//!
//! The runtime gets the specification without what it would do late, slowly or not at all: capabilities, system call
//! filter and resource limits are applied by [`Launch`] as the last step, limits of the control group by
//! [`crate::cgroup::apply`], the shim's own network namespace is simply inherited, and its `net.*` settings are
//! written by the shim. `HOME` is filled in so that the runtime does not ask the C library for it, which would load
//! libraries out of the container into a process with every privilege.

mod plan;
mod report;

pub use plan::Plan;
pub use report::Report;

use crate::{
    cgroup::{self, Cgroup, View, ViewMount},
    diag,
    error::{ShimError, note},
    launch::{self, Launch},
};
use coracle_shim_protocol::address::Address;
use libcontainer::{
    container::builder::ContainerBuilder,
    syscall::syscall::SyscallType,
    workload::{Executor, ExecutorError, ExecutorSetEnvsError, ExecutorValidationError},
};
use oci_spec::runtime::Spec;
use rustix::{
    fs::{Mode, OFlags, ResolveFlags, mkdirat, openat2},
    io::Errno,
};
use std::{
    collections::HashMap,
    fs,
    io::Write,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd},
        unix::net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
};

/// The two ends of what a process is given as stdio; absent with a terminal.
#[derive(Debug)]
pub struct ChildStdio {
    /// Input.
    pub stdin: OwnedFd,
    /// Output.
    pub stdout: OwnedFd,
    /// Error output.
    pub stderr: OwnedFd,
}

/// Init's part of the work, inherited over the runtime's forks.
#[derive(Clone)]
struct Init {
    launch: Launch,
    report: RawFd,
    view: Option<ViewMount>,
}

impl Executor for Init {
    fn exec(&self, _: &Spec) -> Result<(), ExecutorError> {
        // SAFETY: inherited from the shim and open until exec; the runtime marks it to close then and no earlier.
        let report = unsafe { BorrowedFd::borrow_raw(self.report) };
        self.launch.finish(report)
    }

    /// Runs in the finished root, before `Start`: nothing is refused here, because whether the program exists is said
    /// in answer to `Start`.
    fn validate(&self, _: &Spec) -> Result<(), ExecutorValidationError> {
        if let Some(view) = &self.view {
            view.mount().map_err(|e| {
                ExecutorValidationError::ArgValidationError(format!(
                    "cannot mount the control groups: {e}"
                ))
            })?;
        }
        let uid = self.launch.process.user().uid();
        if uid != 0 {
            launch::own_stdio(uid);
        }
        Ok(())
    }

    fn setup_envs(&self, _: HashMap<String, String>) -> Result<(), ExecutorSetEnvsError> {
        // The environment is passed to execve; this process's own is nobody's.
        Ok(())
    }
}

/// A container that waits for its start.
#[derive(Debug)]
pub struct Made {
    /// Init's host process id.
    pub pid: u32,
    /// Our end of its terminal.
    pub terminal: Option<OwnedFd>,
    notify: PathBuf,
}

impl Made {
    /// Tells init to go on.
    ///
    /// # Errors
    /// When init is gone.
    pub fn start(&self) -> Result<(), ShimError> {
        let path = &self.notify;
        let address = Address::of(path).map_err(ShimError::file("reach init at", path))?;
        let mut socket =
            UnixStream::connect(address.path()).map_err(ShimError::file("reach init at", path))?;
        socket
            .write_all(b"start")
            .map_err(ShimError::file("reach init at", path))
    }
}

/// Makes the container; its root filesystem is mounted already.
///
/// # Errors
/// [`ShimError::Runtime`] with what the runtime's children said, or what failed beside it.
pub fn create(
    id: &str,
    run_dir: &Path,
    plan: &Plan,
    cgroup: &Cgroup,
    stdio: Option<ChildStdio>,
    report: &Report,
) -> Result<Made, ShimError> {
    let bundle = run_dir.join("bundle");
    let state = run_dir.join("runtime");
    for dir in [&bundle, &state] {
        fs::create_dir_all(dir).map_err(ShimError::file("make", dir))?;
    }
    let config = bundle.join("config.json");
    let text = serde_json::to_vec(&plan.spec).map_err(|e| ShimError::Invalid(e.to_string()))?;
    fs::write(&config, text).map_err(ShimError::file("write", &config))?;
    if let Some(root) = plan.spec.root() {
        working_directory(root.path(), plan.launch.process.cwd())?;
    }
    let view = match &plan.view {
        Some((target, read_only)) => Some(View::of(cgroup, target.clone(), *read_only)?),
        None => None,
    };
    if plan.hide {
        cgroup.hide()?;
    }
    let init = Init {
        launch: plan.launch.clone(),
        report: report.child.as_raw_fd(),
        view: view.as_ref().map(View::for_child),
    };
    let terminal = stdio.is_none();
    let console = run_dir.join("console.sock");
    let listener = if terminal {
        {
            let address = Address::of(&console).map_err(ShimError::file("listen on", &console))?;
            let bound = UnixListener::bind(address.path());
            Some(bound.map_err(ShimError::file("listen on", &console))?)
        }
    } else {
        None
    };
    let runtime = |source| ShimError::Runtime {
        details: None,
        source: Box::new(source),
    };
    let mut builder = ContainerBuilder::new(id.to_owned(), SyscallType::default())
        .with_executor(init)
        .with_root_path(&state)
        .map_err(runtime)?;
    if terminal {
        builder = builder.with_console_socket(Some(&console));
    }
    if let Some(stdio) = stdio {
        builder = builder
            .with_stdin(stdio.stdin)
            .with_stdout(stdio.stdout)
            .with_stderr(stdio.stderr);
    }
    let inside = !cgroup.machine().is_v2();
    if inside {
        cgroup.enter()?;
    }
    diag::report_to(report.child.as_raw_fd());
    let built = builder
        .as_init(&bundle)
        .with_systemd(false)
        .with_detach(true)
        .build();
    diag::report_to(-1);
    if inside {
        cgroup.leave();
    }
    let container = built.map_err(|source| ShimError::Runtime {
        details: report.first_complaint(),
        source: Box::new(source),
    })?;
    // What was complained of and did no harm.
    report.first_complaint();
    let pid = container
        .pid()
        .and_then(|p| u32::try_from(p.as_raw()).ok())
        .ok_or_else(|| {
            ShimError::Invalid("the runtime made a container without a process".into())
        })?;
    if let Some(resources) = &plan.resources {
        cgroup::apply(cgroup, resources)?;
    }
    if let Some(score) = plan.oom_score_adj {
        oom_score(&format!("/proc/{pid}/oom_score_adj"), score);
    }
    let terminal = match listener {
        Some(listener) => Some(receive_terminal(&listener)?),
        None => None,
    };
    let _ = fs::remove_file(&console);
    Ok(Made {
        pid,
        terminal,
        notify: state.join(id).join("notify.sock"),
    })
}

/// Sets the adjustment, or as much of it as can be had: lowering takes CAP_SYS_RESOURCE.
pub fn oom_score(file: &str, score: i32) {
    if let Err(error) = fs::write(file, score.to_string()) {
        note(
            "shim",
            &format!("the out-of-memory score stays as it is, {score} was wanted: {error}"),
        );
    }
}

fn receive_terminal(listener: &UnixListener) -> Result<OwnedFd, ShimError> {
    use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
    // Init has connected and sent before the runtime returned, so neither call waits.
    let (socket, _) = listener
        .accept()
        .map_err(ShimError::system("take the container's terminal"))?;
    let mut bytes = [0u8; 64];
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    recvmsg(
        socket.as_fd(),
        &mut [std::io::IoSliceMut::new(&mut bytes)],
        &mut ancillary,
        RecvFlags::CMSG_CLOEXEC,
    )
    .map_err(ShimError::system("take the container's terminal"))?;
    for part in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(mut fds) = part
            && let Some(fd) = fds.next()
        {
            return Ok(fd);
        }
    }
    Err(ShimError::Invalid("the runtime sent no terminal".into()))
}

/// Makes the working directory where the image has none, as docker does, without leaving the root.
fn working_directory(root: &Path, cwd: &Path) -> Result<(), ShimError> {
    let failed = |e: Errno| ShimError::file("make the working directory", cwd)(e.into());
    let base = openat2(
        rustix::fs::CWD,
        root,
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
        ResolveFlags::empty(),
    )
    .map_err(|e| ShimError::file("open", root)(e.into()))?;
    let look = |path: &Path| {
        openat2(
            &base,
            path,
            OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
            ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS,
        )
    };
    if look(cwd).is_ok() {
        return Ok(());
    }
    let mut at = PathBuf::from("/");
    for part in cwd.components() {
        let std::path::Component::Normal(name) = part else {
            continue;
        };
        let parent = look(&at).map_err(failed)?;
        at.push(name);
        match look(&at) {
            Ok(_) => {}
            Err(Errno::NOENT) => {
                mkdirat(&parent, name, Mode::from_bits_truncate(0o755)).map_err(failed)?
            }
            Err(e) => return Err(failed(e)),
        }
    }
    Ok(())
}
