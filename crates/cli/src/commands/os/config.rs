//! `coracle os config`: cloud-config documents, read here as the machine will read them.

use crate::commands::copy::file_error;
use crate::error::{CliError, Result};
use crate::format::out;
use coracle_cloud_config::{CloudConfig, DOCUMENT_MAX, NOBODYS, Parsed, Problem, understand};
use serde_json::json;
use std::fs::File;
use std::io::{self, Read};
use std::mem::take;
use std::path::{Path, PathBuf};

/// `coracle os config`
#[derive(Debug, clap::Subcommand)]
pub enum Config {
    /// Check a cloud-config document, without a daemon; tells every mistake
    #[command(
        after_help = "$private_ipv4 and $public_ipv4 count as 192.0.2.1.\n\nExamples:\n  coracle os config validate user-data\n  coracle os config validate --show - < user-data"
    )]
    Validate {
        /// Print what is understood, as JSON, without the token and what files have in them
        #[arg(long)]
        show: bool,
        /// File; - for stdin
        file: PathBuf,
    },
}

pub fn config(command: &Config) -> Result<()> {
    match command {
        Config::Validate { show, file } => validate(*show, file),
    }
}

fn validate(show: bool, file: &Path) -> Result<()> {
    let stdin = file == Path::new("-");
    let name = if stdin { Path::new("stdin") } else { file };
    let bytes = if stdin {
        read(io::stdin().lock())
    } else {
        File::open(file).and_then(read)
    };
    let (text, foreign) = text(bytes.map_err(file_error("reading", name))?);
    let Parsed {
        config,
        mut problems,
    } = understand(&text, NOBODYS);
    problems.extend(foreign);
    problems.sort_by_key(|p| (p.line, p.column));
    for problem in &problems {
        let Problem {
            line,
            column,
            key,
            message,
        } = problem;
        let key = match key.as_str() {
            "" => String::new(),
            key => format!("{key}: "),
        };
        eprintln!("{}:{line}:{column}: {key}{message}", name.display());
    }
    if show {
        out(&shown(config)?)?;
    }
    match problems.is_empty() {
        true if show => Ok(()),
        true => out(&format!("{}: no mistakes\n", name.display())),
        false => Err(CliError::Exit(1)),
    }
}

/// One byte more than a document may have, at most: that tells that it is too large.
fn read(from: impl Read) -> io::Result<Vec<u8>> {
    let most = u64::try_from(DOCUMENT_MAX).unwrap_or(u64::MAX);
    let mut bytes = Vec::new();
    from.take(most.saturating_add(1)).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The text, and where it is none.
fn text(bytes: Vec<u8>) -> (String, Option<Problem>) {
    // What is too large is cut, maybe within a character, and told as too large.
    let whole = bytes.len() <= DOCUMENT_MAX;
    let error = match String::from_utf8(bytes) {
        Ok(text) => return (text, None),
        Err(error) => error,
    };
    let text = String::from_utf8_lossy(error.as_bytes()).into_owned();
    let good = &text[..error.utf8_error().valid_up_to()];
    let line = good.rsplit('\n').next().unwrap_or_default();
    let foreign = whole.then(|| Problem {
        line: good.matches('\n').count() + 1,
        column: line.chars().count() + 1,
        key: String::new(),
        message: "here is something else than UTF-8; save the document in that encoding".into(),
    });
    (text, foreign)
}

fn shown(mut config: CloudConfig) -> Result<String> {
    // As JSON a file would be a list of numbers.
    let files = config.write_files.iter_mut();
    let files: Vec<_> = files
        .map(|file| (take(&mut file.content).len(), file.mode))
        .collect();
    let mut value = serde_json::to_value(config).map_err(io::Error::other)?;
    if let Some(token) = value.pointer_mut("/join/token") {
        *token = json!("(hidden)");
    }
    let list = value["write_files"].as_array_mut();
    for (file, (bytes, mode)) in list.into_iter().flatten().zip(files) {
        file["content"] = json!(format!("({bytes} bytes)"));
        file["mode"] = json!(format!("{mode:04o}"));
    }
    Ok(format!("{value:#}\n"))
}
