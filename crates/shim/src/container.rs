//! Making a container with libcontainer: what it is told, what it is kept from, what is done beside it.
//!
//! The runtime gets the specification without what it would do late, slowly or not at all: capabilities, system call
//! filter and resource limits are applied by [`Launch`] as the last step, limits of the control group by
//! [`crate::cgroup::apply`], the shim's own network namespace is simply inherited, and its `net.*` settings are
//! written by the shim. `HOME` is filled in so that the runtime does not ask the C library for it, which would load
//! libraries out of the container into a process with every privilege.

use crate::{
    cgroup::{self, Cgroup, View, ViewMount},
    diag,
    error::{ShimError, note},
    launch::{self, Launch},
};
use libcontainer::{
    container::builder::ContainerBuilder,
    syscall::syscall::SyscallType,
    workload::{Executor, ExecutorError, ExecutorSetEnvsError, ExecutorValidationError},
};
use oci_spec::runtime::{LinuxNamespaceType, LinuxResources, Spec};
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

/// A container's specification, taken apart.
#[derive(Debug)]
pub struct Plan {
    /// For the runtime.
    pub spec: Spec,
    /// Limits that the shim writes.
    pub resources: Option<LinuxResources>,
    /// Settings of the shim's own network namespace, as paths below `/proc/sys` and values.
    pub sysctls: Vec<(PathBuf, String)>,
    /// Whether the shim shall make a network namespace.
    pub own_network: bool,
    /// Whether init gets a pid namespace, so that nobody survives it.
    pub own_pids: bool,
    /// Where the control groups shall appear, and whether read-only; only when they can be hidden.
    pub view: Option<(PathBuf, bool)>,
    /// Whether the hierarchies can be hidden from the runtime.
    pub hide: bool,
    /// For the process's last steps.
    pub launch: Launch,
    /// Adjustment of the out-of-memory score.
    pub oom_score_adj: Option<i32>,
}

impl Plan {
    /// Takes a specification apart.
    ///
    /// # Errors
    /// [`ShimError::Invalid`] when it has no process or no Linux section.
    pub fn new(
        mut spec: Spec,
        rootfs: &Path,
        cgroup: &str,
        terminal: bool,
        v2: bool,
    ) -> Result<Self, ShimError> {
        let process = spec.process().clone().ok_or_else(|| {
            ShimError::Invalid("the container's specification has no process".into())
        })?;
        let mut linux = spec.linux().clone().ok_or_else(|| {
            ShimError::Invalid("the container's specification has no Linux section".into())
        })?;
        let mut namespaces = linux.namespaces().clone().unwrap_or_default();
        let fresh = |n: &oci_spec::runtime::LinuxNamespace| {
            n.typ() == LinuxNamespaceType::Network && n.path().is_none()
        };
        let own_network = namespaces.iter().any(fresh);
        namespaces.retain(|n| !fresh(n));
        let own_pids = namespaces
            .iter()
            .any(|n| n.typ() == LinuxNamespaceType::Pid && n.path().is_none());
        linux.set_namespaces(Some(namespaces));
        let mut sysctls = Vec::new();
        if own_network {
            let mut rest = linux.sysctl().clone().unwrap_or_default();
            rest.retain(|key, value| {
                let ours = key.starts_with("net.") || key.starts_with("net/");
                if ours {
                    sysctls.push((sysctl_path(key), value.clone()));
                }
                !ours
            });
            linux.set_sysctl(Some(rest));
        }
        linux.set_seccomp(None);
        linux.set_cgroups_path(Some(cgroup.into()));
        let resources = if v2 { None } else { linux.resources().clone() };
        if !v2 {
            linux.set_resources(None);
        }
        let mut mounts = spec.mounts().clone().unwrap_or_default();
        let is_cgroup = |m: &oci_spec::runtime::Mount| m.typ().as_deref() == Some("cgroup");
        let hide = !v2
            && mounts.iter().filter(|m| is_cgroup(m)).count() <= 1
            && !mounts.iter().any(|m| {
                !is_cgroup(m)
                    && m.source()
                        .as_deref()
                        .is_some_and(|s| s.is_absolute() && cgroup::shows_hierarchies(s))
            });
        let view = mounts.iter().find(|m| hide && is_cgroup(m)).map(|m| {
            let read_only = m.options().iter().flatten().any(|o| o == "ro");
            (m.destination().clone(), read_only)
        });
        if hide {
            mounts.retain(|m| !is_cgroup(m));
            spec.set_mounts(Some(mounts));
        }
        let mut root = spec.root().clone().unwrap_or_default();
        root.set_path(rootfs.to_owned());
        spec.set_root(Some(root));
        spec.set_linux(Some(linux));
        let mut told = process.clone();
        told.set_terminal(Some(terminal))
            .set_capabilities(None)
            .set_rlimits(None)
            .set_oom_score_adj(None)
            // Set with the last steps; `Some(false)` would count as set.
            .set_no_new_privileges(None)
            .set_env(Some(vec!["HOME=/".into()]));
        spec.set_process(Some(told));
        let oom_score_adj = process.oom_score_adj();
        let caps = process.capabilities().as_ref().map(Into::into);
        Ok(Self {
            spec,
            resources,
            sysctls,
            own_network,
            own_pids,
            view,
            hide,
            launch: Launch {
                process,
                caps,
                filter: None,
            },
            oom_score_adj,
        })
    }
}

fn sysctl_path(key: &str) -> PathBuf {
    let path = if key.contains('/') {
        key.to_owned()
    } else {
        key.replace('.', "/")
    };
    Path::new("/proc/sys").join(path)
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
        let mut socket =
            UnixStream::connect(path).map_err(ShimError::file("reach init at", path))?;
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
        Some(UnixListener::bind(&console).map_err(ShimError::file("listen on", &console))?)
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

/// The channel over which a child says how its launch went (`SOCK_SEQPACKET`): [`launch::Failure`]s, complaints of
/// the runtime, a terminal. It closes on exec.
#[derive(Debug)]
pub struct Report {
    /// Our end, non-blocking.
    pub parent: OwnedFd,
    /// The child's.
    pub child: OwnedFd,
}

impl Report {
    /// Makes one.
    ///
    /// # Errors
    /// The kernel's own.
    pub fn new() -> Result<Self, ShimError> {
        use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
        let (parent, child) = socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )
        .map_err(ShimError::system("make a pair of sockets"))?;
        rustix::io::ioctl_fionbio(&parent, true)
            .map_err(ShimError::system("make a socket non-blocking"))?;
        Ok(Self { parent, child })
    }

    /// Takes everything that was said and gives back the first complaint, which is the cause of the others.
    fn first_complaint(&self) -> Option<String> {
        let mut first = None;
        let mut buffer = [0u8; 4096];
        loop {
            match rustix::io::read(&self.parent, &mut buffer) {
                Ok(n) if n > 0 => {
                    if buffer[0] == diag::MARK && first.is_none() {
                        first = Some(String::from_utf8_lossy(&buffer[1..n]).into_owned());
                    }
                }
                Err(Errno::INTR) => {}
                _ => return first,
            }
        }
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn spec(more: &str) -> Spec {
        serde_json::from_str(&format!(
            r#"{{"ociVersion":"1.2.0","root":{{"path":"rootfs","readonly":true}},
              "process":{{"user":{{"uid":1,"gid":2}},"args":["sh"],"cwd":"/","env":["A=b"],"noNewPrivileges":false,
                "capabilities":{{"bounding":["CAP_KILL"]}},"oomScoreAdj":5,
                "rlimits":[{{"type":"RLIMIT_NOFILE","soft":1,"hard":2}}]}},
              "mounts":[{{"destination":"/sys/fs/cgroup","type":"cgroup","source":"cgroup","options":["ro"]}}{more}],
              "linux":{{"resources":{{"pids":{{"limit":7}}}},"seccomp":{{"defaultAction":"SCMP_ACT_ALLOW"}},
                "sysctl":{{"net.ipv4.ip_forward":"1","kernel.shmmax":"1"}},
                "namespaces":[{{"type":"network"}},{{"type":"pid"}},{{"type":"mount"}}]}}}}"#
        ))
        .unwrap()
    }

    #[test]
    fn the_runtime_is_told_less() {
        let plan = Plan::new(spec(""), Path::new("/r"), "/coracle/x", false, false).unwrap();
        let linux = plan.spec.linux().clone().unwrap();
        assert!(linux.seccomp().is_none() && linux.resources().is_none());
        assert_eq!(linux.namespaces().as_ref().unwrap().len(), 2);
        assert_eq!(linux.sysctl().as_ref().unwrap().len(), 1);
        assert_eq!(
            plan.sysctls,
            [("/proc/sys/net/ipv4/ip_forward".into(), "1".into())]
        );
        let told = plan.spec.process().clone().unwrap();
        assert!(told.capabilities().is_none() && told.no_new_privileges().is_none());
        assert!(told.rlimits().is_none() && told.oom_score_adj().is_none());
        assert_eq!(told.env().clone().unwrap(), ["HOME=/"]);
        assert!(plan.own_network && plan.own_pids && plan.hide);
        assert_eq!(plan.view, Some(("/sys/fs/cgroup".into(), true)));
        assert_eq!(plan.launch.process.env().clone().unwrap(), ["A=b"]);
        assert!(plan.resources.is_some());
        assert!(plan.spec.root().as_ref().unwrap().readonly() == Some(true));
    }

    #[test]
    fn hierarchies_stay_where_somebody_binds_them() {
        let bind = r#",{"destination":"/host","type":"bind","source":"/","options":["rbind"]}"#;
        let plan = Plan::new(spec(bind), Path::new("/r"), "/coracle/x", false, false).unwrap();
        assert!(!plan.hide && plan.view.is_none());
        assert_eq!(plan.spec.mounts().as_ref().unwrap().len(), 2);
        let v2 = Plan::new(spec(""), Path::new("/r"), "/coracle/x", false, true).unwrap();
        assert!(!v2.hide && v2.resources.is_none());
    }
}
