//! Texts of units and their drop-ins, and where their lines stand in the document.
use crate::fields::{At, Keys};
use crate::problem::{Mark, Problems, quoted};
use crate::tree::Kind;
use coracle_unit::{Diagnostic, SpecifierContext, UnitName, load};
use std::collections::BTreeMap;

const DROP_IN: Keys = Keys {
    known: &["name", "content"],
    refused: &[],
};

/// A text and its place.
pub(crate) struct Text<'n> {
    at: At<'n>,
    pub text: String,
}

impl<'n> Text<'n> {
    pub fn read(at: &At<'n>, out: &mut Problems) -> Option<Text<'n>> {
        let (at, text) = (at.clone(), at.text(out)?.to_owned());
        Some(Text { at, text })
    }

    fn tell(&self, problem: &Diagnostic, out: &mut Problems) {
        let mut message = String::new();
        if !problem.section.is_empty() {
            message.push_str(&format!("[{}] ", problem.section));
        }
        if !problem.key.is_empty() {
            message.push_str(&format!("{}: ", problem.key));
        }
        message.push_str(&problem.message);
        if let Some(near) = &problem.suggestion {
            message.push_str(&format!("; did you mean {near}?"));
        }
        let body = match &self.at.node.kind {
            Kind::Scalar(scalar) => scalar.body,
            _ => None,
        };
        let mark = match body {
            _ if problem.line == 0 => self.at.node.mark,
            Some(first) => Mark {
                line: first.line + problem.line - 1,
                ..first
            },
            None => {
                message.push_str(&format!(" (line {} of the text)", problem.line));
                self.at.node.mark
            }
        };
        out.add(mark, &self.at.path, message);
    }
}

/// Drop-ins by name, which is the order in which they apply.
pub(crate) type DropIns<'n> = BTreeMap<String, Text<'n>>;

/// Nothing if one of them is wrong, since the unit would not be what it is meant to be.
pub(crate) fn drop_ins<'n>(list: &At<'n>, out: &mut Problems) -> Option<DropIns<'n>> {
    if !list.node.is_null() && !matches!(list.node.kind, Kind::List(_)) {
        list.items(out);
        return None;
    }
    let mut found = DropIns::new();
    let mut good = true;
    for at in list.items(out) {
        let Some(fields) = at.fields(&DROP_IN, out) else {
            good = false;
            continue;
        };
        let name = fields.need("name", "10-memory.conf", out);
        let name = name.and_then(|at| Some((at, at.read(out, drop_in_name)?)));
        let content = fields.need("content", "a text with a [Section]", out);
        let content = content.and_then(|at| Text::read(at, out));
        match (name, content) {
            (Some((at, name)), Some(_)) if found.contains_key(&name) => {
                at.fail(
                    out,
                    format!("the unit has two drop-ins {name}; give one of them another name"),
                );
                good = false;
            }
            (Some((_, name)), Some(content)) => drop(found.insert(name, content)),
            _ => good = false,
        }
    }
    good.then_some(found)
}

fn drop_in_name(text: &str) -> Result<String, String> {
    let stem = text.strip_suffix(".conf").unwrap_or_default();
    let foreign = |c: char| !(c.is_ascii_alphanumeric() || ":-_.\\@".contains(c));
    match stem.is_empty() || stem.starts_with('.') || text.len() > 255 || text.contains(foreign) {
        true => Err(format!(
            "{} is no name of a drop-in; write for example 10-memory.conf",
            quoted(text)
        )),
        false => Ok(text.to_owned()),
    }
}

/// Whether Coracle takes the unit. Its problems are told where they stand in the document.
pub(crate) fn check(
    name: &UnitName,
    text: &Text<'_>,
    drop_ins: &DropIns<'_>,
    context: &SpecifierContext,
    out: &mut Problems,
) -> bool {
    let foreign = text.text.lines().any(|line| line.trim() == "[Match]");
    if foreign && name.as_str().ends_with(".network") {
        let why =
            "is a file of systemd-networkd, which is not here; write coracle.network.interfaces";
        text.at.fail(out, why);
        return false;
    }
    let extra: Vec<_> = drop_ins
        .iter()
        .map(|(file, drop_in)| (file.clone(), drop_in.text.clone()))
        .collect();
    let Err(problems) = load(name, &text.text, &extra, context) else {
        return true;
    };
    for problem in &problems.0 {
        let of = drop_ins.get(&problem.file).unwrap_or(text);
        of.tell(problem, out);
    }
    false
}
