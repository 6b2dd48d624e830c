//! Nodes: an instruction taken apart, as BuildKit's parser has it before anything has a meaning.

use crate::error::{DockerfileError, Warning, short};
use crate::flags;
use crate::heredoc::{self, Heredoc};
use crate::lines::{Lines, Logical};
use crate::split::{self, Json};

/// An instruction, taken apart.
#[derive(Debug, Clone, Default)]
pub(crate) struct Node {
    /// As it is written.
    pub keyword: String,
    pub flags: Vec<String>,
    /// Of ENV and LABEL three each: name, value, and `=` or nothing.
    pub values: Vec<String>,
    /// Whether the values were a JSON list.
    pub json: bool,
    /// Of ONBUILD.
    pub child: Option<Box<Node>>,
    pub heredocs: Vec<Heredoc>,
    /// Everything, continuation joined.
    pub source: String,
    /// Everything after the keyword and the flags.
    pub arguments: String,
    pub line: usize,
    pub end_line: usize,
}

/// A file, taken apart.
#[derive(Debug)]
pub(crate) struct Nodes {
    pub nodes: Vec<Node>,
    pub escape: char,
    pub syntax: Option<String>,
    pub warnings: Vec<Warning>,
    /// How many lines it has.
    pub lines: usize,
}

/// Takes a text apart.
pub(crate) fn read(mut lines: Lines<'_>) -> Result<Nodes, DockerfileError> {
    let (mut nodes, mut warnings) = (Vec::new(), Vec::new());
    while let Some(logical) = lines.instruction()? {
        if let Some(line) = logical.blank {
            warnings.push(Warning {
                line,
                text: "empty continuation lines are left out; take this one away".to_owned(),
            });
        }
        let mut node = node(&logical.text, lines.escape, logical.first)?;
        bodies(&mut node, &logical, &mut lines)?;
        node.end_line = lines.taken;
        nodes.push(node);
    }
    if nodes.is_empty() {
        return Err(DockerfileError::Empty {
            line: lines.taken.max(1),
        });
    }
    Ok(Nodes {
        nodes,
        escape: lines.escape,
        syntax: lines.syntax.take(),
        warnings,
        lines: lines.taken,
    })
}

/// Reads the here-documents that a node begins. Those of ONBUILD's instruction belong to that.
fn bodies(
    node: &mut Node,
    logical: &Logical,
    lines: &mut Lines<'_>,
) -> Result<(), DockerfileError> {
    let node = match &mut node.child {
        Some(child) => child,
        None => node,
    };
    let takes = ["ADD", "COPY", "RUN"].contains(&node.name().as_str()) && !node.json;
    if !takes || !logical.text.contains("<<") {
        return Ok(());
    }
    let line = logical.first;
    let mut all = heredoc::of_line(&logical.text).map_err(|(word, source)| {
        let word = short(&word);
        DockerfileError::Delimiter { line, word, source }
    })?;
    for document in &mut all {
        if !lines.document(document) {
            let name = short(&document.name);
            return Err(DockerfileError::Heredoc { line, name });
        }
    }
    node.heredocs = all;
    Ok(())
}

impl Node {
    /// The keyword in capitals.
    pub fn name(&self) -> String {
        self.keyword.to_ascii_uppercase()
    }

    /// What is wrong with the arguments; the text goes on after the keyword.
    pub fn wrong(&self, cause: impl Into<String>) -> DockerfileError {
        DockerfileError::Arguments {
            line: self.line,
            keyword: short(&self.name()),
            cause: cause.into(),
        }
    }

    /// A JSON list of strings, or the text as it is.
    fn maybe_json(&mut self, text: &str) -> Result<(), DockerfileError> {
        match split::json(text) {
            Json::List(list) => (self.values, self.json) = (list, true),
            Json::Mixed => {
                return Err(DockerfileError::Json {
                    line: self.line,
                    keyword: self.name(),
                });
            }
            Json::Text if text.is_empty() => {}
            Json::Text => self.values = vec![text.to_owned()],
        }
        Ok(())
    }

    /// `name=value …`, or the old form: `name`, and the whole rest.
    fn pairs(&mut self, text: &str, escape: char) -> Result<(), DockerfileError> {
        let words = split::words(text, escape);
        let Some(word) = words.first() else {
            return Ok(());
        };
        if !word.contains('=') {
            let (name, value) = split::first(text);
            if value.is_empty() {
                let keyword = self.name();
                return Err(self.wrong(format!(
                    "must have two arguments; write {keyword} name=value"
                )));
            }
            self.values = vec![name.to_owned(), value.to_owned(), String::new()];
            return Ok(());
        }
        for word in words {
            let Some((name, value)) = word.split_once('=') else {
                return Err(self.wrong(format!(
                    "syntax error - can't find = in \"{}\"; must be of the form: name=value",
                    short(&word)
                )));
            };
            self.values
                .extend([name.to_owned(), value.to_owned(), "=".to_owned()]);
        }
        Ok(())
    }
}

/// Takes one instruction apart; `line` is where it begins.
pub(crate) fn node(text: &str, escape: char, line: usize) -> Result<Node, DockerfileError> {
    let mut node = plain(text, line);
    let arguments = node.arguments.clone();
    if node.name() == "ONBUILD" {
        if !arguments.is_empty() {
            let mut child = plain(&arguments, line);
            // One inside the other would go as deep as the line is long.
            if child.name() != "ONBUILD" {
                fill(&mut child, escape)?;
            }
            node.child = Some(Box::new(child));
        }
    } else {
        fill(&mut node, escape)?;
    }
    Ok(node)
}

/// Keyword, flags and the rest.
fn plain(text: &str, line: usize) -> Node {
    let source = text.trim();
    let (keyword, rest) = split::first(source);
    let (arguments, flags) = flags::split(rest);
    Node {
        keyword: keyword.to_owned(),
        flags,
        source: source.to_owned(),
        arguments: arguments.trim().to_owned(),
        line,
        end_line: line,
        ..Node::default()
    }
}

/// Takes the arguments apart, as the instruction wants them.
fn fill(node: &mut Node, escape: char) -> Result<(), DockerfileError> {
    let arguments = node.arguments.clone();
    match node.name().as_str() {
        "CMD" | "ENTRYPOINT" | "RUN" | "SHELL" => node.maybe_json(&arguments)?,
        "VOLUME" => {
            node.maybe_json(&arguments)?;
            if !node.json {
                node.values = split::blanks(&arguments);
            }
        }
        "ADD" | "COPY" => {
            node.maybe_json(&arguments)?;
            if !node.json {
                node.values = match arguments.contains("<<") {
                    true => heredoc::arguments(&arguments),
                    false => split::blanks(&arguments),
                };
            }
        }
        "ARG" => node.values = split::words(&arguments, escape),
        "ENV" | "LABEL" => node.pairs(&arguments, escape)?,
        "EXPOSE" | "FROM" => node.values = split::blanks(&arguments),
        "HEALTHCHECK" => {
            let end = arguments.find(char::is_whitespace);
            let (kind, command) = arguments.split_at(end.unwrap_or(arguments.len()));
            node.maybe_json(command.trim_start())?;
            if !kind.is_empty() {
                node.values.insert(0, kind.to_owned());
            }
        }
        "MAINTAINER" | "STOPSIGNAL" | "USER" | "WORKDIR" if !arguments.is_empty() => {
            node.values.push(arguments);
        }
        // What it is, is found out later.
        _ => {}
    }
    Ok(())
}
