//! Profiles in the OCI runtime's form.

use super::{Filter, FilterError, export, native_family, new_context, rule};
use libseccomp::{ScmpAction, ScmpArch, ScmpArgCompare, ScmpCompareOp};
use oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompFilterFlag,
    LinuxSeccompOperator,
};
use std::rc::Rc;

/// Compiles a profile.
///
/// # Errors
/// [`FilterError::Unsupported`] for notifications to an agent, which need one to be there; [`FilterError::Compile`]
/// with the rule that libseccomp refused.
pub fn compile(profile: &LinuxSeccomp) -> Result<Filter, FilterError> {
    let default = action(profile.default_action(), profile.default_errno_ret())?;
    let archs: Vec<ScmpArch> = profile
        .architectures()
        .iter()
        .flatten()
        .filter_map(|a| architecture(*a))
        .collect();
    let archs = if archs.is_empty() {
        native_family()
    } else {
        &archs
    };
    let mut context = new_context(default, archs)?;
    for syscall in profile.syscalls().iter().flatten() {
        let action = action(syscall.action(), syscall.errno_ret())?;
        if action == default {
            // libseccomp refuses a rule that says what happens anyway.
            continue;
        }
        let args = syscall.args().as_deref().unwrap_or_default();
        for name in syscall.names() {
            // Two conditions on one argument mean "or" in this form and must be rules of their own.
            let doubled =
                (1..args.len()).any(|n| args[..n].iter().any(|a| a.index() == args[n].index()));
            if doubled {
                for arg in args {
                    rule(&mut context, action, name, &[condition(arg)?])?;
                }
            } else {
                let all = args.iter().map(condition).collect::<Result<Vec<_>, _>>()?;
                rule(&mut context, action, name, &all)?;
            }
        }
    }
    let mut flags = 0;
    for flag in profile.flags().iter().flatten() {
        flags |= match flag {
            LinuxSeccompFilterFlag::SeccompFilterFlagTsync => 0,
            LinuxSeccompFilterFlag::SeccompFilterFlagLog => 1 << 1,
            LinuxSeccompFilterFlag::SeccompFilterFlagSpecAllow => 1 << 2,
            LinuxSeccompFilterFlag::SeccompFilterFlagWaitKillableRecv => {
                return Err(unsupported(
                    "wants to notify an agent, which is not supported",
                ));
            }
        };
    }
    Ok(Filter {
        program: Rc::new(super::shrink::shrink(&export(&context)?)),
        flags,
    })
}

fn unsupported(what: &str) -> FilterError {
    FilterError::Unsupported {
        what: what.to_owned(),
    }
}

fn action(action: LinuxSeccompAction, errno: Option<u32>) -> Result<ScmpAction, FilterError> {
    use LinuxSeccompAction as A;
    let number = errno.and_then(|e| u16::try_from(e).ok());
    Ok(match action {
        A::ScmpActKill | A::ScmpActKillThread => ScmpAction::KillThread,
        A::ScmpActKillProcess => ScmpAction::KillProcess,
        A::ScmpActTrap => ScmpAction::Trap,
        A::ScmpActErrno => ScmpAction::Errno(number.map_or(libc::EPERM, i32::from)),
        A::ScmpActTrace => ScmpAction::Trace(number.unwrap_or(libc::EPERM as u16)),
        A::ScmpActLog => ScmpAction::Log,
        A::ScmpActAllow => ScmpAction::Allow,
        A::ScmpActNotify => {
            return Err(unsupported(
                "wants to notify an agent (SCMP_ACT_NOTIFY), which is not supported",
            ));
        }
    })
}

fn condition(arg: &LinuxSeccompArg) -> Result<ScmpArgCompare, FilterError> {
    use LinuxSeccompOperator as O;
    let index = u32::try_from(arg.index())
        .ok()
        .filter(|i| *i < 6)
        .ok_or_else(|| {
            unsupported(&format!(
                "compares argument {}; system calls have 0 to 5",
                arg.index()
            ))
        })?;
    let (op, value) = match arg.op() {
        O::ScmpCmpNe => (ScmpCompareOp::NotEqual, arg.value()),
        O::ScmpCmpLt => (ScmpCompareOp::Less, arg.value()),
        O::ScmpCmpLe => (ScmpCompareOp::LessOrEqual, arg.value()),
        O::ScmpCmpEq => (ScmpCompareOp::Equal, arg.value()),
        O::ScmpCmpGe => (ScmpCompareOp::GreaterEqual, arg.value()),
        O::ScmpCmpGt => (ScmpCompareOp::Greater, arg.value()),
        // `value` is the mask here, `valueTwo` what must come out.
        O::ScmpCmpMaskedEq => (
            ScmpCompareOp::MaskedEqual(arg.value()),
            arg.value_two().unwrap_or(0),
        ),
    };
    Ok(ScmpArgCompare::new(index, op, value))
}

fn architecture(arch: Arch) -> Option<ScmpArch> {
    Some(match arch {
        Arch::ScmpArchNative => ScmpArch::Native,
        Arch::ScmpArchX86 => ScmpArch::X86,
        Arch::ScmpArchX86_64 => ScmpArch::X8664,
        Arch::ScmpArchX32 => ScmpArch::X32,
        Arch::ScmpArchArm => ScmpArch::Arm,
        Arch::ScmpArchAarch64 => ScmpArch::Aarch64,
        Arch::ScmpArchPpc64le => ScmpArch::Ppc64Le,
        Arch::ScmpArchS390x => ScmpArch::S390X,
        Arch::ScmpArchRiscv64 => ScmpArch::Riscv64,
        // Of another family: nothing of it runs here.
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn profile(json: &str) -> LinuxSeccomp {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn profiles_are_compiled_or_refused() {
        let good = profile(
            r#"{"defaultAction":"SCMP_ACT_ALLOW","architectures":["SCMP_ARCH_X86_64","SCMP_ARCH_MIPS"],
               "syscalls":[{"names":["mkdir","no_such_call"],"action":"SCMP_ACT_ERRNO","errnoRet":38},
                           {"names":["personality"],"action":"SCMP_ACT_ERRNO",
                            "args":[{"index":0,"value":8,"op":"SCMP_CMP_EQ"},{"index":0,"value":9,"op":"SCMP_CMP_EQ"}]},
                           {"names":["read"],"action":"SCMP_ACT_ALLOW"}]}"#,
        );
        assert!(!compile(&good).unwrap().program.is_empty());
        let notify = profile(
            r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["mkdir"],"action":"SCMP_ACT_NOTIFY"}]}"#,
        );
        assert!(compile(&notify).unwrap_err().to_string().contains("notify"));
        let ninth = profile(
            r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["mkdir"],"action":"SCMP_ACT_ERRNO",
               "args":[{"index":9,"value":8,"op":"SCMP_CMP_EQ"}]}]}"#,
        );
        assert!(
            compile(&ninth)
                .unwrap_err()
                .to_string()
                .contains("argument 9")
        );
    }
}
