//! Units that are made of files, of templates, or are there already.

use super::api::{self, Unit};
use super::names::{mangle, with_kind};
use crate::client::Client;
use crate::commands::units::{self, File};
use crate::error::{CliError, Result};
use crate::format::out;
use coracle_fleet::{Dropin, UnitText};
use coracle_unit::UnitName;
use serde_json::Value;
use std::path::Path;

/// What became of a unit that was to be there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Made {
    /// It was there.
    Present,
    /// It was not.
    New,
    /// It was, and has another text now.
    Replaced,
}

/// Which states of a unit let a verb replace its text, and what that verb is called.
pub struct Replacing {
    pub states: &'static [&'static str],
}

/// Sees to it that there is a unit of that name: one that is known, a file, or an instance of a template that is known or a
/// file. With `replacing` one that is known gets the file's text.
pub async fn ensure(client: &Client, word: &str, replacing: Option<&Replacing>) -> Result<Made> {
    let name = mangle(word);
    let local = local(&name, &with_kind(word))?;
    let Some(present) = api::unit(client, &name).await? else {
        let (path, file) = match local {
            Some(found) => found,
            None => template(client, &name).await?,
        };
        units::put(client, &path, &file).await?;
        out(&format!("Unit {name} inactive\n"))?;
        return Ok(Made::New);
    };
    let Some((path, file)) = local else {
        return Ok(Made::Present);
    };
    let same = options_of(&file) == present.options;
    let Some(replacing) = replacing else {
        if !same {
            eprintln!(
                "WARNING: Unit {name} in registry differs from local unit file {path}. Add --replace to override."
            );
        }
        return Ok(Made::Present);
    };
    if same {
        out(&format!(
            "Found same Unit({name}) in Registry, nothing to do\n"
        ))?;
        return Ok(Made::Present);
    }
    if !replacing.states.contains(&present.desired.as_str()) {
        eprintln!(
            "Warning: can not replace Unit({name}) in state '{}', use the appropriate command",
            present.desired
        );
        return Ok(Made::Present);
    }
    units::put(client, &path, &file).await?;
    Ok(Made::Replaced)
}

/// The file of a unit, or of its template, and its path.
fn local(name: &str, path: &str) -> Result<Option<(String, File)>> {
    let beside = UnitName::new(name).ok().and_then(|n| n.template());
    let beside = beside.map(|t| Path::new(path).with_file_name(t.as_str()));
    let mut paths = [Some(path.into()), beside].into_iter().flatten();
    let Some(path) = paths.find(|p| p.is_file()) else {
        return Ok(None);
    };
    let path = path.to_string_lossy().into_owned();
    let file = File {
        name: name.to_owned(),
        ..units::read(&path)?
    };
    Ok(Some((path, file)))
}

/// What a template that is known makes of an instance.
async fn template(client: &Client, name: &str) -> Result<(String, File)> {
    let parsed = UnitName::new(name).map_err(|e| CliError::Usage(e.to_string()))?;
    let template = parsed.template().filter(|_| parsed.instance().is_some());
    let Some(template) = template else {
        return Err(CliError::Usage(format!(
            "unable to find Unit({name}) in Registry or on filesystem"
        )));
    };
    let Some(found) = api::own(client, template.as_str()).await? else {
        return Err(CliError::Usage(format!(
            "unable to find Unit({name}) or template Unit({template}) in Registry or on filesystem"
        )));
    };
    let text = text_of(&found);
    let dropins = text.dropins.into_iter().map(|d| (d.file, d.text)).collect();
    let file = File {
        name: name.to_owned(),
        text: text.text,
        dropins,
    };
    Ok((template.to_string(), file))
}

/// The text in an answer of our own API.
pub fn text_of(found: &Value) -> UnitText {
    let dropins = serde_json::from_value(found["dropins"].clone());
    UnitText {
        text: found["text"].as_str().unwrap_or_default().to_owned(),
        dropins: dropins.unwrap_or_default(),
    }
}

fn options_of(file: &File) -> Vec<coracle_unit::options::UnitOption> {
    let dropin = |(file, text): &(String, String)| Dropin {
        file: file.clone(),
        text: text.clone(),
    };
    let text = UnitText {
        text: file.text.clone(),
        dropins: file.dropins.iter().map(dropin).collect(),
    };
    coracle_api::unit_options(&file.name, &text)
}

/// Units that are there, in the order of their names given; those that are not are told of. Whether all are there.
pub async fn present(client: &Client, names: &[String]) -> Result<(Vec<Unit>, bool)> {
    let mut found = Vec::new();
    for name in names {
        match api::unit(client, name).await? {
            Some(unit) => found.push(unit),
            None => eprintln!("Unit {name} does not exist."),
        }
    }
    let all = found.len() == names.len();
    Ok((found, all))
}
