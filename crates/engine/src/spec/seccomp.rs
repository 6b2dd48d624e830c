//! Profiles of system calls, as docker's own (`archMap`, `includes`, `excludes`) or the OCI runtime's (`architectures`).
//!
//! Docker's profiles say of each rule for whom it is: those with these capabilities, on these architectures, from this kernel on. What is
//! not for this container is left out here, as docker leaves it out, and what remains is the OCI form.

use crate::error::{EngineError, Result};
use oci_spec::runtime::LinuxSeccomp;
use serde::Deserialize;
use serde_json::{Value, json};

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Profile {
    default_action: String,
    default_errno_ret: Option<u32>,
    #[serde(default)]
    architectures: Vec<String>,
    #[serde(default)]
    arch_map: Vec<Architecture>,
    #[serde(default)]
    flags: Vec<String>,
    #[serde(default)]
    syscalls: Vec<Rule>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Architecture {
    architecture: String,
    #[serde(default)]
    sub_architectures: Option<Vec<String>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Rule {
    #[serde(default)]
    name: String,
    #[serde(default)]
    names: Vec<String>,
    action: String,
    errno_ret: Option<u32>,
    #[serde(default)]
    args: Option<Vec<Value>>,
    #[serde(default)]
    includes: Option<Condition>,
    #[serde(default)]
    excludes: Option<Condition>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Condition {
    caps: Vec<String>,
    arches: Vec<String>,
    min_kernel: String,
}

/// Where a profile is to be used.
struct Here<'a> {
    caps: &'a [&'a str],
    /// As Go names it.
    arch: &'a str,
    kernel: (u32, u32),
}

/// The machine's architecture as Go and as libseccomp name it.
fn architecture() -> (&'static str, &'static str) {
    match std::env::consts::ARCH {
        "x86_64" => ("amd64", "SCMP_ARCH_X86_64"),
        "aarch64" => ("arm64", "SCMP_ARCH_AARCH64"),
        other => (other, ""),
    }
}

/// `6.18` of `6.18.44-x`.
fn version(text: &str) -> (u32, u32) {
    let mut parts = text.split(['.', '-']).map(|p| p.parse().unwrap_or(0));
    (parts.next().unwrap_or(0), parts.next().unwrap_or(0))
}

impl Condition {
    fn is_old_enough(&self, here: &Here<'_>) -> bool {
        here.kernel >= version(&self.min_kernel)
    }
}

impl Rule {
    fn is_for(&self, here: &Here<'_>) -> bool {
        let here_is = |list: &[String]| list.iter().any(|a| a == here.arch);
        let has = |cap: &String| here.caps.contains(&cap.as_str());
        let taken_out = self.excludes.as_ref().is_some_and(|c| {
            here_is(&c.arches)
                || c.caps.iter().any(has)
                || !c.min_kernel.is_empty() && c.is_old_enough(here)
        });
        let let_in = self.includes.as_ref().is_none_or(|c| {
            (c.arches.is_empty() || here_is(&c.arches))
                && c.caps.iter().all(has)
                && c.is_old_enough(here)
        });
        let_in && !taken_out
    }
}

/// Reads a profile for a container with these capabilities.
///
/// # Errors
/// [`EngineError::Invalid`] with what cannot be read.
pub fn read(text: &str, caps: &[&str]) -> Result<LinuxSeccomp> {
    let release = rustix::system::uname();
    let here = Here {
        caps,
        arch: architecture().0,
        kernel: version(&release.release().to_string_lossy()),
    };
    let bad = |why: String| {
        EngineError::Invalid(format!(
            "the seccomp profile cannot be read: {why}; write it as docker's default profile or in the OCI runtime form"
        ))
    };
    let profile: Profile = serde_json::from_str(text).map_err(|e| bad(e.to_string()))?;
    let value = oci(profile, &here).map_err(&bad)?;
    serde_json::from_value(value).map_err(|e| bad(e.to_string()))
}

fn oci(profile: Profile, here: &Here<'_>) -> std::result::Result<Value, String> {
    if !profile.architectures.is_empty() && !profile.arch_map.is_empty() {
        return Err(
            "'architectures' and 'archMap' were specified in it, use either of them".into(),
        );
    }
    let mut architectures = profile.architectures;
    let own = profile.arch_map.into_iter();
    for one in own.filter(|a| a.architecture == architecture().1) {
        architectures.push(one.architecture);
        architectures.extend(one.sub_architectures.unwrap_or_default());
    }
    let mut rules = Vec::new();
    for rule in profile.syscalls {
        if !rule.name.is_empty() && !rule.names.is_empty() {
            return Err("'name' and 'names' were specified in it, use either of them".into());
        }
        if !rule.is_for(here) {
            continue;
        }
        let mut names = rule.names;
        names.extend(Some(rule.name).filter(|n| !n.is_empty()));
        let mut value = json!({ "names": names, "action": rule.action });
        if let Some(errno) = rule.errno_ret {
            value["errnoRet"] = json!(errno);
        }
        if let Some(args) = rule.args.filter(|a| !a.is_empty()) {
            value["args"] = json!(args);
        }
        rules.push(value);
    }
    let mut value = json!({ "defaultAction": profile.default_action, "syscalls": rules });
    if let Some(errno) = profile.default_errno_ret {
        value["defaultErrnoRet"] = json!(errno);
    }
    if !architectures.is_empty() {
        value["architectures"] = json!(architectures);
    }
    if !profile.flags.is_empty() {
        value["flags"] = json!(profile.flags);
    }
    Ok(value)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn rules_are_for_some() {
        let profile = r#"{ "defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 1, "archMap": [
            { "architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86"] },
            { "architecture": "SCMP_ARCH_AARCH64", "subArchitectures": null } ],
          "syscalls": [
            { "names": ["read", "write"], "action": "SCMP_ACT_ALLOW", "args": null, "includes": {}, "excludes": {} },
            { "name": "mount", "action": "SCMP_ACT_ALLOW", "includes": { "caps": ["CAP_SYS_ADMIN"] } },
            { "names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38, "excludes": { "caps": ["CAP_SYS_ADMIN"] } },
            { "names": ["arch_prctl"], "action": "SCMP_ACT_ALLOW", "includes": { "arches": ["amd64"] } },
            { "names": ["ptrace"], "action": "SCMP_ACT_ALLOW", "includes": { "minKernel": "4.8" } },
            { "names": ["old"], "action": "SCMP_ACT_ALLOW", "excludes": { "minKernel": "4.8" } } ] }"#;
        let names = |caps: &[&str], arch: &str| {
            let here = Here {
                caps,
                arch,
                kernel: (6, 1),
            };
            let value = oci(serde_json::from_str(profile).unwrap(), &here).unwrap();
            let rules = value["syscalls"].as_array().unwrap().iter();
            rules
                .map(|r| r["names"][0].as_str().unwrap().to_owned())
                .collect::<Vec<_>>()
        };
        assert_eq!(
            names(&[], "amd64"),
            ["read", "clone3", "arch_prctl", "ptrace"]
        );
        assert_eq!(
            names(&["CAP_SYS_ADMIN"], "arm64"),
            ["read", "mount", "ptrace"]
        );
        let read = read(profile, &[]).unwrap();
        assert_eq!(read.syscalls().as_ref().unwrap().len(), 4);
        assert!(!read.architectures().as_ref().unwrap().is_empty());
    }

    #[test]
    fn what_cannot_be_read_is_said() {
        for bad in [
            "{}",
            "x",
            r#"{"defaultAction":"SCMP_ACT_ALLOW","architectures":["SCMP_ARCH_X86"],"archMap":[{"architecture":"SCMP_ARCH_X86"}]}"#,
            r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"name":"a","names":["b"],"action":"SCMP_ACT_ALLOW"}]}"#,
            r#"{"defaultAction":"NOPE"}"#,
        ] {
            let error = super::read(bad, &[]).unwrap_err().to_string();
            assert!(error.contains("seccomp profile"), "{error}");
        }
    }
}
