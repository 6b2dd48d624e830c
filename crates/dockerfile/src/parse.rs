//! From nodes to typed instructions.

use crate::error::{DockerfileError, Warning};
use crate::flags::Flags;
use crate::heredoc::{self, Heredoc};
use crate::instruction::{
    Arg, Command, Copy, Dockerfile, Healthcheck, Instruction, Kind, Run, Stage,
};
use crate::node::{self, Node};

const KEYWORDS: [&str; 18] = [
    "ADD",
    "ARG",
    "CMD",
    "COPY",
    "ENTRYPOINT",
    "ENV",
    "EXPOSE",
    "FROM",
    "HEALTHCHECK",
    "LABEL",
    "MAINTAINER",
    "ONBUILD",
    "RUN",
    "SHELL",
    "STOPSIGNAL",
    "USER",
    "VOLUME",
    "WORKDIR",
];

/// Reads a Dockerfile.
///
/// # Errors
/// [`DockerfileError`] with the line.
pub fn parse(text: &str) -> Result<Dockerfile, DockerfileError> {
    let read = node::read(text)?;
    let mut file = Dockerfile {
        escape: read.escape,
        syntax: read.syntax,
        global_args: Vec::new(),
        stages: Vec::new(),
        warnings: read.warnings,
    };
    for node in read.nodes {
        let line = node.line;
        let at = |text| DockerfileError::at(line, text);
        let keyword = node.keyword.to_ascii_uppercase();
        if keyword == "FROM" {
            let stage = stage(&node).map_err(at)?;
            if let Some(name) = &stage.name
                && file.stages.iter().any(|s| s.name.as_ref() == Some(name))
            {
                file.warnings.push(Warning {
                    line,
                    text: format!("duplicate stage name \"{name}\"; the later one counts"),
                });
            }
            file.stages.push(stage);
            continue;
        }
        let kind = kind(&node, &mut file.warnings).map_err(at)?;
        match (file.stages.last_mut(), kind) {
            (None, Kind::Arg(args)) => file.global_args.extend(args),
            (None, _) => {
                return Err(at(format!(
                    "no build stage in current context: {keyword} before FROM; only ARG may stand there"
                )));
            }
            (Some(stage), kind) => {
                twice(stage, &kind, line, &mut file.warnings);
                stage.instructions.push(instruction(node, kind));
            }
        }
    }
    if file.stages.is_empty() {
        return Err(DockerfileError::at(
            0,
            "no build stage: the file has no FROM",
        ));
    }
    Ok(file)
}

/// Reads one instruction, as ONBUILD keeps it in an image.
///
/// # Errors
/// [`DockerfileError`].
pub fn parse_onbuild(trigger: &str, escape: char) -> Result<Instruction, DockerfileError> {
    let at = |text| DockerfileError::at(0, text);
    // Here-documents are kept in the lines after the first.
    let (line, rest) = trigger.split_once('\n').unwrap_or((trigger, ""));
    let mut node = node::node(line, escape, 1).map_err(at)?;
    if line.contains("<<") && !node.json {
        node.heredocs = kept(line, rest).map_err(at)?;
    }
    let mut warnings = Vec::new();
    let kind = kind(&node, &mut warnings).map_err(at)?;
    Ok(instruction(node, kind))
}

fn kept(line: &str, rest: &str) -> Result<Vec<Heredoc>, String> {
    let mut lines = rest.split_inclusive('\n');
    let mut all = heredoc::of_line(line).map_err(|e| e.to_string())?;
    for document in &mut all {
        for line in lines.by_ref() {
            let mut end = line.trim_end_matches(['\r', '\n']);
            if document.chomp {
                end = end.trim_start_matches('\t');
            }
            if end == document.name {
                break;
            }
            document.content.push_str(line);
        }
    }
    Ok(all)
}

fn instruction(node: Node, kind: Kind) -> Instruction {
    Instruction {
        line: node.line,
        end_line: node.end_line,
        source: node
            .original
            .split_whitespace()
            .collect::<Vec<_>>()
            .join(" "),
        kind,
    }
}

/// Of some instructions only the last counts.
fn twice(stage: &Stage, kind: &Kind, line: usize, warnings: &mut Vec<Warning>) {
    let same = |other: &Instruction| {
        matches!(
            (&other.kind, kind),
            (Kind::Cmd(_), Kind::Cmd(_))
                | (Kind::Entrypoint(_), Kind::Entrypoint(_))
                | (Kind::Healthcheck(_), Kind::Healthcheck(_))
        )
    };
    if let Some(other) = stage.instructions.iter().find(|i| same(i)) {
        let keyword = other
            .source
            .split(' ')
            .next()
            .unwrap_or_default()
            .to_ascii_uppercase();
        warnings.push(Warning {
            line,
            text: format!("multiple {keyword} instructions in one stage; only the last counts"),
        });
    }
}

fn stage(node: &Node) -> Result<Stage, String> {
    let mut flags = Flags::of("FROM", &node.flags);
    let platform = flags.text("platform")?;
    flags.end()?;
    let (base, name) =
        match &node.values[..] {
            [base] => (base, None),
            [base, word, name] if word.eq_ignore_ascii_case("as") => {
                (base, Some(name.to_ascii_lowercase()))
            }
            _ => return Err(
                "FROM requires either one or three arguments: FROM image, or FROM image AS name"
                    .into(),
            ),
        };
    if let Some(name) = &name {
        let first = name.starts_with(|c: char| c.is_ascii_lowercase());
        let plain = name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
        if !first || !plain || name == "scratch" || name == "context" {
            return Err(format!(
                "invalid name for build stage: \"{name}\", name can't start with a number or contain symbols"
            ));
        }
    }
    Ok(Stage {
        name,
        base: base.clone(),
        platform,
        line: node.line,
        source: node
            .original
            .split_whitespace()
            .collect::<Vec<_>>()
            .join(" "),
        instructions: Vec::new(),
    })
}

fn kind(node: &Node, warnings: &mut Vec<Warning>) -> Result<Kind, String> {
    let keyword = node.keyword.to_ascii_uppercase();
    let mut flags = Flags::of(&keyword, &node.flags);
    let kind = match keyword.as_str() {
        "ADD" => Kind::Add(copy(node, &mut flags, &keyword)?),
        "COPY" => Kind::Copy(copy(node, &mut flags, &keyword)?),
        "ARG" => Kind::Arg(args(node)?),
        "CMD" => Kind::Cmd(command(node)),
        "ENTRYPOINT" => Kind::Entrypoint(command(node)),
        "ENV" | "LABEL" => {
            if node.old_form {
                warnings.push(Warning {
                    line: node.line,
                    text: format!("\"{keyword} key=value\" should be used instead of legacy \"{keyword} key value\" format"),
                });
            }
            let pairs = pairs(node, &keyword)?;
            if keyword == "ENV" {
                Kind::Env(pairs)
            } else {
                Kind::Label(pairs)
            }
        }
        "EXPOSE" => Kind::Expose(some(node, &keyword)?),
        "FROM" => return Err("FROM isn't allowed as an ONBUILD trigger".into()),
        "HEALTHCHECK" => Kind::Healthcheck(healthcheck(node, &mut flags)?),
        "MAINTAINER" => {
            warnings.push(Warning {
                line: node.line,
                text: "Maintainer instruction is deprecated in favor of using label".into(),
            });
            Kind::Maintainer(one(node, &keyword)?)
        }
        "ONBUILD" => Kind::OnBuild(trigger(node)?),
        "RUN" => Kind::Run(run(node, &mut flags)?),
        "SHELL" if node.json && !node.values.is_empty() => Kind::Shell(node.values.clone()),
        "SHELL" => {
            return Err(
                "SHELL requires the arguments to be in JSON form: SHELL [\"/bin/sh\", \"-c\"]"
                    .into(),
            );
        }
        "STOPSIGNAL" => Kind::StopSignal(one(node, &keyword)?),
        "USER" => Kind::User(one(node, &keyword)?),
        "VOLUME" => Kind::Volume(some(node, &keyword)?),
        "WORKDIR" => Kind::Workdir(one(node, &keyword)?),
        _ => return Err(unknown(&node.keyword)),
    };
    flags.end()?;
    Ok(kind)
}

fn unknown(keyword: &str) -> String {
    let word = keyword.to_ascii_uppercase();
    let near = KEYWORDS.iter().min_by_key(|k| distance(k, &word));
    match near.filter(|k| distance(k, &word) <= 2) {
        Some(near) => format!("unknown instruction: {keyword} (did you mean {near}?)"),
        None => format!("unknown instruction: {keyword}"),
    }
}

/// Changes of one letter, or of two neighbours' places, that make one word of the other.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().take(32).collect());
    let mut rows = vec![(0..=b.len()).collect::<Vec<usize>>()];
    for (i, x) in a.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, y) in b.iter().enumerate() {
            let changed = rows[i][j] + usize::from(x != y);
            let mut least = changed.min(rows[i][j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && *x == b[j - 1] && a[i - 1] == *y {
                least = least.min(rows[i - 1][j - 1] + 1);
            }
            row.push(least);
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}

fn one(node: &Node, keyword: &str) -> Result<String, String> {
    match &node.values[..] {
        [only] => Ok(only.clone()),
        _ => Err(format!("{keyword} requires exactly one argument")),
    }
}

fn some(node: &Node, keyword: &str) -> Result<Vec<String>, String> {
    if node.values.is_empty() {
        return Err(format!("{keyword} requires at least one argument"));
    }
    Ok(node.values.clone())
}

fn command(node: &Node) -> Command {
    if node.json || node.values.is_empty() {
        return Command::Exec(node.values.clone());
    }
    Command::Shell(node.values.join(" "))
}

fn args(node: &Node) -> Result<Vec<Arg>, String> {
    let one = |text: &String| {
        let (name, default) = match text.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (text.as_str(), None),
        };
        if name.is_empty() {
            return Err("ARG names can not be blank".to_owned());
        }
        Ok(Arg {
            name: name.to_owned(),
            default,
        })
    };
    some(node, "ARG")?.iter().map(one).collect()
}

fn pairs(node: &Node, keyword: &str) -> Result<Vec<(String, String)>, String> {
    let mut pairs = Vec::new();
    for three in some(node, keyword)?.chunks(3) {
        if let [name, value, _] = three {
            if name.is_empty() {
                return Err(format!("{keyword} names can not be blank"));
            }
            pairs.push((name.clone(), value.clone()));
        }
    }
    Ok(pairs)
}

fn copy(node: &Node, flags: &mut Flags<'_>, keyword: &str) -> Result<Copy, String> {
    let mut copy = Copy {
        chown: flags.text("chown")?,
        chmod: flags.text("chmod")?,
        link: flags.switch("link")?,
        exclude: flags.list("exclude")?,
        ..Copy::default()
    };
    if keyword == "COPY" {
        copy.from = flags.text("from")?.filter(|f| !f.is_empty());
        copy.parents = flags.switch("parents")?;
    } else {
        copy.checksum = flags.text("checksum")?;
        copy.keep_git_dir = flags.switch("keep-git-dir")?;
        copy.unpack = flags.maybe("unpack")?;
    }
    let Some((destination, sources)) = node.values.split_last().filter(|(_, s)| !s.is_empty())
    else {
        return Err(format!(
            "{keyword} requires at least two arguments, but only {} was provided. Destination could not be determined",
            if node.values.is_empty() {
                "none"
            } else {
                "one"
            }
        ));
    };
    let documents = !node.json;
    if documents && heredoc::of_word(destination).is_some() {
        return Err(format!(
            "{keyword} cannot accept a heredoc as a destination"
        ));
    }
    copy.destination = destination.clone();
    let mut contents = node.heredocs.iter();
    for source in sources {
        match heredoc::of_word(source).filter(|_| documents) {
            Some(found) => {
                let document = contents.next().cloned().unwrap_or(found);
                let content = document.text();
                copy.inline.push(Heredoc {
                    content,
                    ..document
                });
            }
            None => copy.sources.push(source.clone()),
        }
    }
    Ok(copy)
}

fn run(node: &Node, flags: &mut Flags<'_>) -> Result<Run, String> {
    let run = Run {
        command: command(node),
        heredocs: node.heredocs.clone(),
        mounts: flags.list("mount")?,
        network: flags.text("network")?,
        security: flags.text("security")?,
        devices: flags.list("device")?,
    };
    if node.values.is_empty() {
        return Err("RUN requires at least one argument".into());
    }
    Ok(run)
}

fn healthcheck(node: &Node, flags: &mut Flags<'_>) -> Result<Healthcheck, String> {
    let Some((kind, words)) = node.values.split_first() else {
        return Err(
            "HEALTHCHECK requires at least one argument: NONE, or CMD and a command".into(),
        );
    };
    match kind.to_ascii_uppercase().as_str() {
        "NONE" if words.is_empty() => Ok(Healthcheck::None),
        "NONE" => Err("HEALTHCHECK NONE takes no arguments".into()),
        "CMD" => {
            if words.is_empty() {
                return Err("Missing command after HEALTHCHECK CMD".into());
            }
            let first = if node.json { "CMD" } else { "CMD-SHELL" };
            let mut test = vec![first.to_owned()];
            test.extend(words.iter().cloned());
            Ok(Healthcheck::Check {
                test,
                interval: flags.text("interval")?,
                timeout: flags.text("timeout")?,
                start_period: flags.text("start-period")?,
                start_interval: flags.text("start-interval")?,
                retries: flags.text("retries")?,
            })
        }
        _ => Err(format!("Unknown type \"{kind}\" in HEALTHCHECK (try CMD)")),
    }
}

fn trigger(node: &Node) -> Result<String, String> {
    let Some(child) = &node.child else {
        return Err("ONBUILD requires at least one argument: an instruction".into());
    };
    match child.keyword.to_ascii_uppercase().as_str() {
        "ONBUILD" => return Err("Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed".into()),
        keyword @ ("MAINTAINER" | "FROM") => {
            return Err(format!("{keyword} isn't allowed as an ONBUILD trigger"));
        }
        keyword if !KEYWORDS.contains(&keyword) => return Err(unknown(keyword)),
        _ => {}
    }
    let mut text = node.values.first().cloned().unwrap_or_default();
    for document in &node.heredocs {
        text = format!("{text}\n{}{}", document.content, document.name);
    }
    Ok(text)
}

/// The here-documents of a text's first instruction, for tests.
#[doc(hidden)]
pub fn heredocs_in(text: &str) -> Result<Vec<Vec<Heredoc>>, DockerfileError> {
    Ok(node::read(text)?
        .nodes
        .into_iter()
        .map(|n| n.heredocs)
        .collect())
}

/// What a word is as a here-document, for tests.
#[doc(hidden)]
pub fn heredoc_of(word: &str) -> Option<Heredoc> {
    heredoc::of_word(word)
}
