//! From a node to what its instruction means.

use crate::copy::copy;
use crate::error::{DockerfileError, Warning, short};
use crate::flags::Flags;
use crate::health::healthcheck;
use crate::instruction::{Arg, Command, Kind, Run};
use crate::keyword;
use crate::mount;
use crate::node::Node;

/// What an instruction means. FROM is none: it begins a stage.
pub(crate) fn of(node: &Node, warnings: &mut Vec<Warning>) -> Result<Kind, DockerfileError> {
    let name = node.name();
    match name.as_str() {
        "ADD" => return Ok(Kind::Add(copy(node)?)),
        "COPY" => return Ok(Kind::Copy(copy(node)?)),
        "HEALTHCHECK" => return Ok(Kind::Healthcheck(healthcheck(node)?)),
        "RUN" => return Ok(Kind::Run(run(node)?)),
        "FROM" => {
            return Err(DockerfileError::Trigger {
                line: node.line,
                keyword: name,
            });
        }
        _ => {}
    }
    let kind = match name.as_str() {
        "ARG" => Kind::Arg(args(node)?),
        "CMD" => Kind::Cmd(command(node)),
        "ENTRYPOINT" => Kind::Entrypoint(command(node)),
        "ENV" => Kind::Env(pairs(node, warnings)?),
        "EXPOSE" => Kind::Expose(some(node)?),
        "LABEL" => Kind::Label(pairs(node, warnings)?),
        "MAINTAINER" => {
            warnings.push(Warning {
                line: node.line,
                text: "MAINTAINER is deprecated; write LABEL org.opencontainers.image.authors=…"
                    .to_owned(),
            });
            Kind::Maintainer(one(node)?)
        }
        "ONBUILD" => Kind::OnBuild(trigger(node)?),
        "SHELL" => Kind::Shell(shell(node)?),
        "STOPSIGNAL" => Kind::StopSignal(one(node)?),
        "USER" => Kind::User(one(node)?),
        "VOLUME" => Kind::Volume(volumes(node)?),
        "WORKDIR" => Kind::Workdir(one(node)?),
        _ => return Err(keyword::unknown(node)),
    };
    Flags::of(node.line, &name, &node.flags, &[])?;
    Ok(kind)
}

/// What an instruction means that another build does.
pub(crate) fn of_trigger(node: &Node) -> Result<Kind, DockerfileError> {
    let (line, keyword) = (node.line, node.name());
    match keyword.as_str() {
        "ONBUILD" => Err(DockerfileError::ChainedTrigger { line }),
        "FROM" | "MAINTAINER" => Err(DockerfileError::Trigger { line, keyword }),
        // Whoever builds on the image cannot change what is odd.
        _ => of(node, &mut Vec::new()),
    }
}

fn one(node: &Node) -> Result<String, DockerfileError> {
    match &node.values[..] {
        [only] => Ok(only.clone()),
        _ => Err(node.wrong("requires exactly one argument")),
    }
}

fn some(node: &Node) -> Result<Vec<String>, DockerfileError> {
    match node.values.is_empty() {
        true => Err(node.wrong("requires at least one argument")),
        false => Ok(node.values.clone()),
    }
}

/// A command may be empty: the shell is given nothing, or the base's command is taken away.
fn command(node: &Node) -> Command {
    match node.json {
        true => Command::Exec(node.values.clone()),
        false => Command::Shell(node.values.join(" ")),
    }
}

fn args(node: &Node) -> Result<Vec<Arg>, DockerfileError> {
    let one = |text: String| {
        let (name, default) = match text.split_once('=') {
            Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
            None => (text, None),
        };
        match name.is_empty() {
            true => Err(blank(node)),
            false => Ok(Arg { name, default }),
        }
    };
    some(node)?.into_iter().map(one).collect()
}

fn blank(node: &Node) -> DockerfileError {
    node.wrong("names can not be blank; write a name before the =")
}

fn pairs(
    node: &Node,
    warnings: &mut Vec<Warning>,
) -> Result<Vec<(String, String)>, DockerfileError> {
    let mut pairs = Vec::new();
    for three in some(node)?.chunks(3) {
        let [name, value, sign] = three else {
            return Err(node.wrong("has too many arguments"));
        };
        if name.is_empty() {
            return Err(blank(node));
        }
        if sign.is_empty() {
            let keyword = node.name();
            warnings.push(Warning {
                line: node.line,
                text: format!(
                    "\"{keyword} key=value\" should be used instead of legacy \"{keyword} key value\" format"
                ),
            });
        }
        pairs.push((name.clone(), value.clone()));
    }
    Ok(pairs)
}

fn shell(node: &Node) -> Result<Vec<String>, DockerfileError> {
    match node.json {
        false if !node.values.is_empty() => Err(node
            .wrong("requires the arguments to be in JSON form; write SHELL [\"/bin/sh\", \"-c\"]")),
        _ => some(node),
    }
}

fn volumes(node: &Node) -> Result<Vec<String>, DockerfileError> {
    let one = |text: String| match text.trim() {
        "" => Err(node.wrong("specified can not be an empty string; write a path")),
        path => Ok(path.to_owned()),
    };
    some(node)?.into_iter().map(one).collect()
}

fn run(node: &Node) -> Result<Run, DockerfileError> {
    let known = ["mount", "network", "security", "device"];
    let flags = Flags::of(node.line, "RUN", &node.flags, &known)?;
    let among = |name: &str, all: &[&str]| match flags.text(name)? {
        Some(value) if !all.contains(&value.as_str()) => Err(flags.wrong(
            name,
            format!(
                "unsupported value --{name}={}; use {}",
                short(&value),
                all.join(" or ")
            ),
        )),
        value => Ok(value),
    };
    let run = Run {
        command: command(node),
        heredocs: node.heredocs.clone(),
        mounts: flags.list("mount")?,
        network: among("network", &["default", "none", "host"])?,
        security: among("security", &["sandbox", "insecure"])?,
        devices: flags.list("device")?,
    };
    for text in &run.mounts {
        mount::check(text)
            .map_err(|why| flags.wrong("mount", format!("--mount={}: {why}", short(text))))?;
    }
    some(node)?;
    Ok(run)
}

/// The instruction that ONBUILD keeps: it is read, so that it is not those who build on the image who find out that it is none.
fn trigger(node: &Node) -> Result<String, DockerfileError> {
    let Some(child) = &node.child else {
        return Err(node.wrong("requires at least one argument; write an instruction after it"));
    };
    of_trigger(child)?;
    let mut text = node.arguments.clone();
    for document in &child.heredocs {
        text.push('\n');
        text.push_str(&document.content);
        text.push_str(&document.name);
    }
    Ok(text)
}
