//! Making a container with libcontainer: what it is told, what it is kept from, what is done beside it.
//!
//! Only libcontainer's init is used: the part that runs inside and makes the container what its specification says.
//! What its builder does around that is done here instead, in a third of the time: the shim itself is the parent, its
//! children are born in the new pid namespace and in the container's control group, so that no process in between is
//! needed, and nothing about the container is written down, as nobody else will look for it.
//!
//! Init gets the specification without what it would do late, or not at all: capabilities, system call filter and
//! resource limits are applied by [`Launch`] as the last step, limits of the control group by [`crate::cgroup::apply`],
//! the shim's own network namespace is simply inherited, and its `net.*` settings are written by the shim. `HOME` is
//! filled in so that init does not ask the C library for it, which would load libraries out of the container into a
//! process with every privilege.

mod plan;
mod report;
mod shared;

pub use plan::Plan;
pub use report::Report;
pub use shared::Shared;
use shared::SharedMount;

use crate::{
    cgroup::{self, Cgroup, View, ViewMount},
    diag,
    error::{ShimError, note},
    launch::{self, Launch},
    os::{self, Forked},
};
use coracle_shim_protocol::address::Address;
use libcgroups::common::CgroupConfig;
use libcontainer::{
    notify_socket::NotifyListener,
    process::{
        args::{ContainerArgs, ContainerType},
        channel::{InitReceiver, MainSender, init_channel, main_channel},
        init::container_init_process,
    },
    syscall::syscall::SyscallType,
    utils::validate_mount_options,
    validator::Validator,
    workload::{Executor, ExecutorError, ExecutorSetEnvsError, ExecutorValidationError},
};
use oci_spec::runtime::Spec;
use rustix::{
    fs::{Mode, OFlags, ResolveFlags, mkdirat, openat2},
    io::Errno,
    net::{AddressFamily, SocketFlags, SocketType, socketpair},
    process::{DumpableBehavior, Signal, set_dumpable_behavior, set_parent_process_death_signal},
};
use std::{
    collections::HashMap,
    fs,
    io::Write,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd},
        unix::net::UnixStream,
    },
    path::{Path, PathBuf},
    rc::Rc,
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

/// Init's part of the work, inherited over the fork.
#[derive(Clone)]
struct Init {
    launch: Launch,
    report: RawFd,
    view: Option<ViewMount>,
    shared: Vec<SharedMount>,
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
        for shared in &self.shared {
            shared.mount().map_err(|e| {
                ExecutorValidationError::ArgValidationError(format!(
                    "cannot mount what is shared with the host: {e}"
                ))
            })?;
        }
        let uid = self.launch.process.user().uid();
        if uid != 0 {
            // Becoming that user has cleared it, and the start may never come.
            let _ = set_parent_process_death_signal(Some(Signal::KILL));
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

/// Makes the container; its root filesystem is mounted already, and the calling process's children are born in its
/// pid namespace.
///
/// # Errors
/// [`ShimError::Runtime`] with what init said, or what failed beside it.
pub fn create(
    run_dir: &Path,
    plan: &Plan,
    cgroup: &Cgroup,
    stdio: Option<ChildStdio>,
    report: &Report,
) -> Result<Made, ShimError> {
    check(&plan.spec)?;
    let root = plan
        .spec
        .root()
        .as_ref()
        .map(|r| r.path().clone())
        .unwrap_or_default();
    working_directory(&root, plan.launch.process.cwd())?;
    let view = match &plan.view {
        Some((target, read_only)) => Some(View::of(cgroup, target.clone(), *read_only)?),
        None => None,
    };
    let console = match stdio {
        Some(_) => None,
        None => Some(
            socketpair(
                AddressFamily::UNIX,
                SocketType::STREAM,
                SocketFlags::CLOEXEC,
                None,
            )
            .map_err(ShimError::system("make a pair of sockets"))?,
        ),
    };
    let notify = run_dir.join("init.sock");
    let listener = NotifyListener::new(&notify).map_err(|e| ShimError::Runtime {
        details: None,
        source: Box::new(e),
    })?;
    let raw = |fd: &OwnedFd| Some(fd.as_raw_fd());
    let args = ContainerArgs {
        container_type: ContainerType::InitContainer,
        syscall: SyscallType::default(),
        spec: Rc::new(plan.spec.clone()),
        rootfs: root,
        console_socket: console.as_ref().and_then(|(_, theirs)| raw(theirs)),
        notify_listener: listener,
        preserve_fds: 0,
        container: None,
        user_ns_config: None,
        // Looked at by libcontainer's builder only, which is not used.
        cgroup_config: CgroupConfig {
            cgroup_path: PathBuf::new(),
            systemd_cgroup: false,
            container_name: String::new(),
        },
        detached: true,
        executor: Box::new(Init {
            launch: plan.launch.clone(),
            report: report.child.as_raw_fd(),
            view: view.as_ref().map(View::for_child),
            shared: plan.shared.for_child(),
        }),
        no_pivot: false,
        stdin: stdio.as_ref().and_then(|s| raw(&s.stdin)),
        stdout: stdio.as_ref().and_then(|s| raw(&s.stdout)),
        stderr: stdio.as_ref().and_then(|s| raw(&s.stderr)),
        as_sibling: false,
        pid_file: None,
    };
    diag::report_to(report.child.as_raw_fd());
    let made = fork_init(&args, cgroup);
    diag::report_to(-1);
    let pid = made.map_err(|error| match error {
        ShimError::Runtime { source, .. } => ShimError::Runtime {
            details: report.first_complaint(),
            source,
        },
        other => other,
    })?;
    // What was complained of and did no harm.
    report.first_complaint();
    if let Some(resources) = &plan.resources {
        cgroup::apply(cgroup, resources)?;
    }
    if let Some(score) = plan.oom_score_adj.or_else(default_oom_score) {
        oom_score(&format!("/proc/{pid}/oom_score_adj"), score);
    }
    let terminal = match console {
        Some((ours, _)) => Some(receive_terminal(ours.as_fd())?),
        None => None,
    };
    Ok(Made {
        pid,
        terminal,
        notify,
    })
}

/// Refuses what init would do wrong or not at all.
fn check(spec: &Spec) -> Result<(), ShimError> {
    let invalid = |source: Box<dyn std::error::Error + Send + Sync>| ShimError::Runtime {
        details: None,
        source,
    };
    Validator::validate_spec(spec).map_err(|e| invalid(Box::new(e)))?;
    if let Some(mounts) = spec.mounts() {
        validate_mount_options(mounts).map_err(|e| invalid(Box::new(e)))?;
    }
    let unsupported = spec
        .linux()
        .iter()
        .flat_map(|l| l.namespaces())
        .flatten()
        .find(|n| {
            use oci_spec::runtime::LinuxNamespaceType as T;
            matches!(n.typ(), T::User | T::Time)
        });
    match unsupported {
        Some(namespace) => Err(ShimError::Invalid(format!(
            "a {} namespace{} is not supported by this release",
            namespace.typ(),
            if namespace.path().is_some() {
                " of somebody else"
            } else {
                ""
            }
        ))),
        None => Ok(()),
    }
}

/// Forks init and waits until only its start is missing.
fn fork_init(args: &ContainerArgs, cgroup: &Cgroup) -> Result<u32, ShimError> {
    let channel = |e| ShimError::Runtime {
        details: None,
        source: Box::new(e),
    };
    let (mut to_main, mut from_init) = main_channel().map_err(channel)?;
    let (to_init, mut from_main) = init_channel().map_err(channel)?;
    let (go_read, go_write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
        .map_err(ShimError::system("make a pipe"))?;
    let born_inside = !cgroup.machine().is_v2();
    if born_inside {
        cgroup.enter()?;
    }
    let forked = os::fork();
    if born_inside && !matches!(forked, Ok(Forked::Child)) {
        cgroup.leave();
    }
    let pid = match forked.map_err(ShimError::system("fork init"))? {
        Forked::Child => {
            drop(go_write);
            let _ = to_init.close();
            init(args, &go_read, &mut to_main, &mut from_main)
        }
        Forked::Parent(pid) => pid,
    };
    let _ = to_main.close();
    let _ = from_main.close();
    if !born_inside {
        cgroup.take_in(pid)?;
    }
    drop(go_read);
    drop(go_write);
    let ready = from_init.wait_for_init_ready();
    let _ = to_init.close();
    let _ = from_init.close();
    ready.map_err(channel).map(|()| pid)
}

/// The life of init up to its program.
fn init(
    args: &ContainerArgs,
    go: &OwnedFd,
    to_main: &mut MainSender,
    from_main: &mut InitReceiver,
) -> ! {
    // Others who come into its namespaces shall not look into a process that still has every privilege.
    let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
    let _ = set_parent_process_death_signal(Some(Signal::KILL));
    // On version 2 it has to be in its control group before it enters a namespace of these; the end of the pipe says so.
    let _ = rustix::io::read(go, &mut [0u8; 1]);
    if let Err(error) = container_init_process(args, to_main, from_main) {
        let _ = to_main.exec_failed(error.to_string());
    }
    os::exit(255)
}

/// What a process gets when nothing is said: 0, and not what protects the daemon, from which it would inherit.
/// `None` when it inherits that anyway.
pub fn default_oom_score() -> Option<i32> {
    let own = fs::read_to_string("/proc/self/oom_score_adj").unwrap_or_default();
    (own.trim() != "0").then_some(0)
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

fn receive_terminal(socket: BorrowedFd<'_>) -> Result<OwnedFd, ShimError> {
    use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
    let mut bytes = [0u8; 64];
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    // Init has sent it before it said that it is ready.
    recvmsg(
        socket,
        &mut [std::io::IoSliceMut::new(&mut bytes)],
        &mut ancillary,
        RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT,
    )
    .map_err(ShimError::system("take the container's terminal"))?;
    for part in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(mut fds) = part
            && let Some(fd) = fds.next()
        {
            return Ok(fd);
        }
    }
    Err(ShimError::Invalid("init sent no terminal".into()))
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
