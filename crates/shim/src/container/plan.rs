//! A container's specification, taken apart: what the runtime is told, and what is done beside it.

use super::Shared;
use crate::{error::ShimError, launch::Launch};
use oci_spec::runtime::{LinuxNamespaceType, LinuxResources, Spec};
use std::path::{Path, PathBuf};

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
    /// The pid namespace of another, which init is born in.
    pub joined_pids: Option<PathBuf>,
    /// Where the version 1 control groups shall appear, and whether read-only.
    pub view: Option<(PathBuf, bool)>,
    /// Binds that are shared with the host.
    pub shared: Shared,
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
    pub fn new(mut spec: Spec, rootfs: &Path, terminal: bool, v2: bool) -> Result<Self, ShimError> {
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
        let other = |n: &oci_spec::runtime::LinuxNamespace| {
            n.typ() == LinuxNamespaceType::Pid && n.path().is_some()
        };
        let joined_pids = namespaces.iter().find(|n| other(n));
        let joined_pids = joined_pids.and_then(|n| n.path().clone());
        namespaces.retain(|n| !other(n));
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
        let resources = linux.resources().clone();
        linux.set_resources(None);
        let mut mounts = spec.mounts().clone().unwrap_or_default();
        let is_cgroup = |m: &oci_spec::runtime::Mount| m.typ().as_deref() == Some("cgroup");
        // Version 1 hierarchies are shown by the shim, which knows where they are.
        let view = mounts.iter().find(|m| !v2 && is_cgroup(m)).map(|m| {
            let read_only = m.options().iter().flatten().any(|o| o == "ro");
            (m.destination().clone(), read_only)
        });
        if view.is_some() {
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
            joined_pids,
            view,
            shared: Shared::default(),
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
        let plan = Plan::new(spec(""), Path::new("/r"), false, false).unwrap();
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
        assert!(plan.own_network && plan.own_pids);
        assert_eq!(plan.view, Some(("/sys/fs/cgroup".into(), true)));
        assert_eq!(plan.launch.process.env().clone().unwrap(), ["A=b"]);
        assert!(plan.resources.is_some());
        assert!(plan.spec.root().as_ref().unwrap().readonly() == Some(true));
    }

    #[test]
    fn the_one_hierarchy_of_version_2_is_mounted_by_init() {
        let plan = Plan::new(spec(""), Path::new("/r"), false, true).unwrap();
        assert!(plan.view.is_none() && plan.resources.is_some());
        assert_eq!(plan.spec.mounts().as_ref().unwrap().len(), 1);
    }
}
