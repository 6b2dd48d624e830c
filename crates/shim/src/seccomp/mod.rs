//! System call filters: compiled once where possible, loaded last before exec.
//!
//! The filter reads the flags of `clone` but cannot follow the pointer that `clone3` takes, so without CAP_SYS_ADMIN
//! `clone3` answers ENOSYS and the C libraries fall back to `clone`.
//!
//! # A worked example
//!
//! A container with Docker's default capabilities: [`default_filter`] takes the table's fixed part, what
//! CAP_SYS_CHROOT adds (`chroot`), `clone` without namespace flags, and answers `mount` with EPERM. The program is
//! some 3 KiB; the holder compiles it before its first fork, so every shim has it already.

mod oci;
mod profile;
mod shrink;

use crate::caps::CapSet;
use libseccomp::{ScmpAction, ScmpArch, ScmpFilterContext, ScmpSyscall, error::SeccompError};
use std::{
    io::{Read, Seek},
    rc::Rc,
};

pub use oci::compile as compile_profile;

/// Why a filter could not be compiled or loaded.
#[derive(Debug, thiserror::Error)]
pub enum FilterError {
    /// libseccomp refused.
    #[error("cannot compile the seccomp filter ({step})")]
    Compile {
        /// What was added.
        step: String,
        /// libseccomp's reason.
        #[source]
        source: SeccompError,
    },
    /// The compiled program could not be read back.
    #[error("cannot read the compiled seccomp filter")]
    Export(#[source] std::io::Error),
    /// The profile wants something that is not supported.
    #[error("the seccomp profile {what}")]
    Unsupported {
        /// Says what.
        what: String,
    },
}

/// A compiled program (`struct sock_filter`s) and the flags to load it with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter {
    /// Eight bytes an instruction.
    pub program: Rc<Vec<u8>>,
    /// `SECCOMP_FILTER_FLAG_…` of `seccomp(2)`.
    pub flags: u32,
}

/// As Docker loads it: the mitigation of speculative stores is left to who wants it.
const SPEC_ALLOW: u32 = 1 << 2;

/// Docker's default profile for a process with these capabilities in its bounding set.
///
/// # Errors
/// [`FilterError`], which names the rule.
pub fn default_filter(caps: CapSet) -> Result<Filter, FilterError> {
    Ok(Filter {
        program: Rc::new(shrink::shrink(&uncompressed(caps)?)),
        flags: SPEC_ALLOW,
    })
}

/// The profile as libseccomp compiles it.
fn uncompressed(caps: CapSet) -> Result<Vec<u8>, FilterError> {
    let mut names: Vec<&str> = Vec::with_capacity(400);
    names.extend(profile::ALWAYS);
    names.extend(profile::ON_THIS_ARCHITECTURE);
    for (cap, adds) in profile::WITH_CAPABILITY {
        if caps.has(*cap) {
            names.extend(*adds);
        }
    }
    let sys_admin = caps.has(profile::SYS_ADMIN);
    let mut context = new_context(ScmpAction::Errno(libc::EPERM), native_family())?;
    for name in names {
        rule(&mut context, ScmpAction::Allow, name, &[])?;
    }
    for (name, condition) in profile::conditional(sys_admin) {
        rule(&mut context, ScmpAction::Allow, name, &[condition])?;
    }
    if !sys_admin {
        rule(&mut context, ScmpAction::Errno(libc::ENOSYS), "clone3", &[])?;
    }
    export(&context)
}

/// The architectures whose programs run here.
fn native_family() -> &'static [ScmpArch] {
    if cfg!(target_arch = "x86_64") {
        &[ScmpArch::X8664, ScmpArch::X86, ScmpArch::X32]
    } else if cfg!(target_arch = "aarch64") {
        &[ScmpArch::Aarch64, ScmpArch::Arm]
    } else {
        &[ScmpArch::Native]
    }
}

fn failed(step: &str) -> impl FnOnce(SeccompError) -> FilterError {
    let step = step.to_owned();
    move |source| FilterError::Compile { step, source }
}

fn new_context(default: ScmpAction, archs: &[ScmpArch]) -> Result<ScmpFilterContext, FilterError> {
    let mut context = ScmpFilterContext::new(default).map_err(failed("default action"))?;
    for arch in archs {
        context.add_arch(*arch).map_err(failed("architecture"))?;
    }
    // A binary tree: some ten comparisons a call instead of hundreds. Older libraries do without.
    let _ = context.set_ctl_optimize(2);
    Ok(context)
}

/// Adds a rule; a call that this library or architecture does not know is left out, as everybody does.
fn rule(
    context: &mut ScmpFilterContext,
    action: ScmpAction,
    name: &str,
    conditions: &[libseccomp::ScmpArgCompare],
) -> Result<(), FilterError> {
    let Ok(call) = ScmpSyscall::from_name(name) else {
        return Ok(());
    };
    context
        .add_rule_conditional(action, call, conditions)
        .map(|_| ())
        .map_err(failed(name))
}

fn export(context: &ScmpFilterContext) -> Result<Vec<u8>, FilterError> {
    let read = || -> Result<Vec<u8>, std::io::Error> {
        let memory = rustix::fs::memfd_create("coracle-seccomp", rustix::fs::MemfdFlags::CLOEXEC)?;
        let mut file = std::fs::File::from(memory);
        context.export_bpf(&file).map_err(std::io::Error::other)?;
        file.rewind()?;
        let mut program = Vec::new();
        file.read_to_end(&mut program)?;
        Ok(program)
    };
    read().map_err(FilterError::Export)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::caps::CapSet;

    #[test]
    fn capabilities_make_different_programs() {
        let default = default_filter(CapSet::DOCKER_DEFAULT).unwrap();
        assert_eq!(default.program.len() % 8, 0);
        assert!(default.program.len() > 800 && default.program.len() < 4096 * 8);
        assert_eq!(default, default_filter(CapSet::DOCKER_DEFAULT).unwrap());
        let admin = CapSet::DOCKER_DEFAULT.with(profile::SYS_ADMIN);
        assert_ne!(default, default_filter(admin).unwrap());
    }

    #[test]
    fn the_table_has_no_double_and_no_unknown_name() {
        let mut names = profile::ALWAYS.to_vec();
        names.sort_unstable();
        let before = names.len();
        names.dedup();
        assert_eq!(before, names.len());
        for name in names {
            assert!(
                name.bytes()
                    .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_'),
                "{name}"
            );
        }
    }
}
