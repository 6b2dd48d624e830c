//! `coreos.units`.
use crate::fields::{At, Fields, Keys};
use crate::model::{CloudUnit, Command, DropIn};
use crate::problem::{Problems, quoted};
use crate::unit_text::{DropIns, Text, check, drop_ins};
use crate::usual;
use coracle_unit::{SpecifierContext, UnitName};
use std::collections::BTreeMap;

const KEYS: Keys = Keys {
    known: &[
        "name", "content", "drop_ins", "enable", "runtime", "command", "mask",
    ],
    refused: &[],
};

/// The units that are good.
pub(crate) fn read(list: &At<'_>, hostname: Option<&str>, out: &mut Problems) -> Vec<CloudUnit> {
    let mut context = SpecifierContext::default();
    if let Some(name) = hostname {
        name.clone_into(&mut context.hostname);
    }
    let mut seen: BTreeMap<UnitName, usize> = BTreeMap::new();
    let mut units = Vec::new();
    for at in list.items(out) {
        let Some(fields) = at.fields(&KEYS, out) else {
            continue;
        };
        let name = fields.need("name", "web.container", out);
        let name = name.and_then(|at| Some((at, at.read(out, unit_name)?)));
        let unit = one(&fields, name.as_ref().map(|(_, name)| name), &context, out);
        let (Some((at, name)), Some(unit)) = (name, unit) else {
            continue;
        };
        match seen.get(&name) {
            Some(line) => at.fail(
                out,
                format!(
                    "{name} is on line {line} already, and only that is read; make one of both"
                ),
            ),
            None => {
                seen.insert(name, at.node.mark.line);
                units.push(unit);
            }
        }
    }
    units
}

fn unit_name(text: &str) -> Result<UnitName, String> {
    if text.ends_with(".netdev") || text.ends_with(".link") {
        return Err(format!(
            "{} is a file of systemd-networkd, which is not here; write coracle.network.interfaces",
            quoted(text)
        ));
    }
    let name = UnitName::new(text).map_err(|error| error.to_string())?;
    match name.is_successor() {
        true => Err(format!(
            "{name} is a name that Coracle gives; write {}",
            name.base()
        )),
        false => Ok(name),
    }
}

/// Without a name, what can be told all the same is told.
fn one(
    fields: &Fields<'_>,
    name: Option<&UnitName>,
    context: &SpecifierContext,
    out: &mut Problems,
) -> Option<CloudUnit> {
    let mut enable = fields.truth("enable", false, out);
    let runtime = fields.truth("runtime", false, out);
    let mask = fields.truth("mask", false, out);
    let mut start = fields.get("command").and_then(|at| at.read(out, command));
    if mask && (enable || start == Some(Command::Start)) {
        let why = "a masked unit does not run; remove mask, or enable and command";
        if let Some(at) = fields.get("mask") {
            at.fail(out, why);
        }
        (enable, start) = (false, start.filter(|c| *c == Command::Stop));
    }
    let drop_ins = fields
        .get("drop_ins")
        .map_or(Some(DropIns::new()), |at| drop_ins(at, out));
    let content = fields.get("content").filter(|at| !at.node.is_null());
    let text = content.map(|at| Text::read(at, out));
    let (name, drop_ins) = (name?, drop_ins?);
    let content = match text {
        Some(text) => {
            let text = text.filter(|text| check(name, text, &drop_ins, context, out))?;
            Some(text.text)
        }
        None if bare(fields, name, mask, out) => None,
        None => return None,
    };
    let drop_in = |(name, text): (String, Text<'_>)| DropIn {
        name,
        content: text.text,
    };
    Some(CloudUnit {
        name: name.clone(),
        content,
        drop_ins: drop_ins.into_iter().map(drop_in).collect(),
        enable,
        runtime,
        command: start,
        mask,
    })
}

/// Whether a unit may be without text: only one that must not run.
fn bare(fields: &Fields<'_>, name: &UnitName, mask: bool, out: &mut Problems) -> bool {
    let (Some(at), drop_ins) = (fields.get("name"), fields.get("drop_ins")) else {
        return false;
    };
    let drop_ins = drop_ins.filter(|at| !at.node.is_null());
    match (usual::why(name.as_str()), drop_ins) {
        (Some(why), _) => at.fail(out, format!("{name}: {why}")),
        (None, Some(drop_ins)) => drop_ins.fail(
            out,
            format!("{name} has no content here that they could add to; write its content too"),
        ),
        (None, None) if mask => return true,
        (None, None) => at.fail(
            out,
            format!(
                "{name} has no content, and the machine has no unit of that name; write its content"
            ),
        ),
    }
    false
}

fn command(text: &str) -> Result<Command, String> {
    match text {
        "start" | "restart" => Ok(Command::Start),
        "stop" => Ok(Command::Stop),
        "reload" | "try-restart" | "reload-or-restart" | "reload-or-try-restart" => Err(format!(
            "{text} is for units that run already, and at boot none does; write start"
        )),
        _ => Err(format!(
            "{} is no command; write start or stop",
            quoted(text)
        )),
    }
}
