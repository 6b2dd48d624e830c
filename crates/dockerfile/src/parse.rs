//! From nodes to stages of typed instructions.

use crate::error::{DockerfileError, Warning};
use crate::flags::Flags;
use crate::instruction::{Dockerfile, Instruction, Kind, Stage};
use crate::kind;
use crate::lines::Lines;
use crate::node::{self, Node};
use crate::split;
use std::collections::HashSet;
use std::mem::{Discriminant, discriminant};

/// Reads a Dockerfile, which may begin with a byte order mark and end its lines as Windows does. Variables stay as they are written.
///
/// # Errors
/// [`DockerfileError`]: the first thing that is wrong, with its line. What cannot be taken apart comes before what has no meaning.
pub fn parse(text: &str) -> Result<Dockerfile, DockerfileError> {
    let read = node::read(Lines::of_file(text))?;
    let mut file = Dockerfile {
        escape: read.escape,
        syntax: read.syntax,
        global_args: Vec::new(),
        stages: Vec::new(),
        warnings: read.warnings,
    };
    let (mut names, mut seen) = (HashSet::new(), HashSet::new());
    for node in read.nodes {
        if node.name() == "FROM" {
            let stage = stage(&node)?;
            names_of(&stage, &mut names, &mut file.warnings);
            seen.clear();
            file.stages.push(stage);
            continue;
        }
        let kind = kind::of(&node, &mut file.warnings)?;
        match (file.stages.last_mut(), kind) {
            (None, Kind::Arg(args)) => file.global_args.extend(args),
            (None, _) => {
                return Err(DockerfileError::BeforeFrom {
                    line: node.line,
                    keyword: node.name(),
                });
            }
            (Some(stage), kind) => {
                only_last(&node, &kind, &mut seen, &mut file.warnings);
                stage.instructions.push(instruction(node, kind));
            }
        }
    }
    if file.stages.is_empty() {
        return Err(DockerfileError::NoStage { line: read.lines });
    }
    file.warnings.sort_by_key(|w| w.line);
    Ok(file)
}

/// Reads one instruction, as ONBUILD keeps it in an image: a line, and the bodies of its here-documents below it.
///
/// # Errors
/// [`DockerfileError`], with the line in the trigger; also for what is no trigger.
pub fn parse_onbuild(trigger: &str, escape: char) -> Result<Instruction, DockerfileError> {
    let read = node::read(Lines::of_part(trigger, escape))?;
    let mut nodes = read.nodes.into_iter();
    match (nodes.next(), nodes.next()) {
        (Some(node), None) => {
            let kind = kind::of_trigger(&node)?;
            Ok(instruction(node, kind))
        }
        (_, second) => Err(DockerfileError::Arguments {
            line: second.map_or(1, |n| n.line),
            keyword: "ONBUILD".to_owned(),
            cause: "trigger should be a single expression; write one ONBUILD for each".to_owned(),
        }),
    }
}

fn instruction(node: Node, kind: Kind) -> Instruction {
    let rest = node.source.get(node.keyword.len()..).unwrap_or_default();
    Instruction {
        line: node.line,
        end_line: node.end_line,
        source: format!("{}{rest}", node.name()),
        kind,
    }
}

fn stage(node: &Node) -> Result<Stage, DockerfileError> {
    let flags = Flags::of(node.line, "FROM", &node.flags, &["platform"])?;
    let (base, name) = match &node.values[..] {
        [base] => (base, None),
        [base, word, name] if word.eq_ignore_ascii_case("as") => (base, Some(name)),
        _ => {
            return Err(node.wrong(
                "requires either one or three arguments; write FROM image, or FROM image AS name",
            ));
        }
    };
    if let Some(name) = name {
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        if !name.starts_with(|c: char| c.is_ascii_alphabetic()) || !name.chars().all(plain) {
            return Err(DockerfileError::StageName {
                line: node.line,
                name: crate::error::short(name),
            });
        }
    }
    Ok(Stage {
        name: name.map(|n| n.to_ascii_lowercase()),
        base: base.clone(),
        platform: flags.some("platform")?,
        line: node.line,
        source: node.source.clone(),
        instructions: Vec::new(),
    })
}

/// Warns of names that do not name one stage.
fn names_of(stage: &Stage, names: &mut HashSet<String>, warnings: &mut Vec<Warning>) {
    let Some(name) = &stage.name else { return };
    let mut warn = |text| {
        let line = stage.line;
        warnings.push(Warning { line, text });
    };
    if matches!(name.as_str(), "scratch" | "context") {
        warn(format!(
            "the stage name \"{name}\" is reserved; use another"
        ));
    }
    if !names.insert(name.clone()) {
        warn(format!(
            "duplicate stage name \"{name}\"; the later one counts"
        ));
    }
}

/// Warns of what a later instruction of a stage takes away.
fn only_last(
    node: &Node,
    kind: &Kind,
    seen: &mut HashSet<Discriminant<Kind>>,
    warnings: &mut Vec<Warning>,
) {
    let single = matches!(
        kind,
        Kind::Cmd(_) | Kind::Entrypoint(_) | Kind::Healthcheck(_)
    );
    if single && !seen.insert(discriminant(kind)) {
        let (keyword, _) = split::first(&node.source);
        warnings.push(Warning {
            line: node.line,
            text: format!(
                "multiple {} instructions in one stage; only the last counts",
                keyword.to_ascii_uppercase()
            ),
        });
    }
}
