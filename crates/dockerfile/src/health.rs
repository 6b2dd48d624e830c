//! HEALTHCHECK.

use crate::duration::nanoseconds;
use crate::error::{DockerfileError, short};
use crate::flags::Flags;
use crate::instruction::Healthcheck;
use crate::node::Node;

/// The shortest time that is checked by, in nanoseconds.
const SHORTEST: i64 = 1_000_000;

/// Reads one.
pub(crate) fn healthcheck(node: &Node) -> Result<Healthcheck, DockerfileError> {
    let known = [
        "interval",
        "timeout",
        "start-period",
        "start-interval",
        "retries",
    ];
    let flags = Flags::of(node.line, "HEALTHCHECK", &node.flags, &known)?;
    let Some((kind, words)) = node.values.split_first() else {
        return Err(node.wrong("requires at least one argument; write NONE, or CMD and a command"));
    };
    let first = match kind.to_ascii_uppercase().as_str() {
        "NONE" if words.is_empty() => return Ok(Healthcheck::None),
        "NONE" => return Err(node.wrong("NONE takes no arguments")),
        "CMD" if words.is_empty() => {
            return Err(node.wrong("CMD has no command; write one after it"));
        }
        "CMD" if node.json => "CMD",
        "CMD" => "CMD-SHELL",
        _ => {
            return Err(node.wrong(format!(
                "has the unknown type \"{}\"; write CMD or NONE",
                short(kind)
            )));
        }
    };
    let mut test = vec![first.to_owned()];
    test.extend_from_slice(words);
    Ok(Healthcheck::Check {
        test,
        interval: time(&flags, "interval")?,
        timeout: time(&flags, "timeout")?,
        start_period: time(&flags, "start-period")?,
        start_interval: time(&flags, "start-interval")?,
        retries: retries(&flags)?,
    })
}

fn time(flags: &Flags<'_>, name: &str) -> Result<Option<String>, DockerfileError> {
    let Some(text) = flags.some(name)? else {
        return Ok(None);
    };
    let cause = match nanoseconds(&text) {
        Some(0 | SHORTEST..) => return Ok(Some(text)),
        Some(_) => format!("--{name}={text} cannot be less than 1ms; 0s is the default"),
        None => format!(
            "--{name}: invalid duration \"{}\"; write for example 30s",
            short(&text)
        ),
    };
    Err(flags.wrong(name, cause))
}

fn retries(flags: &Flags<'_>) -> Result<Option<String>, DockerfileError> {
    let Some(text) = flags.some("retries")? else {
        return Ok(None);
    };
    let cause = match text.parse::<i32>() {
        Ok(0..) => return Ok(Some(text)),
        Ok(number) => format!("--retries cannot be negative ({number})"),
        Err(_) => format!("--retries: \"{}\" is no number of times", short(&text)),
    };
    Err(flags.wrong("retries", cause))
}
