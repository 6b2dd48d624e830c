//! `coreos.update`: how the machine keeps itself up to date.
use crate::address::host_port;
use crate::fields::{At, Keys};
use crate::model::{RebootStrategy, Update, UpdateServer};
use crate::problem::{Problems, quoted};

const KEYS: Keys = Keys {
    known: &["group", "server", "reboot_strategy"],
    refused: &[
        (
            "window_start window_length",
            "write it under coreos.locksmith",
        ),
        (
            "appid download_user download_password",
            "images of an OCI registry have none; remove it",
        ),
    ],
};

/// Characters of a tag (OCI distribution specification, "Pulling manifests").
const TAG_MAX: usize = 128;
/// Characters of a repository's name with its registry.
const NAME_MAX: usize = 255;

pub(crate) fn read(at: &At<'_>, out: &mut Problems) -> Update {
    let Some(fields) = at.fields(&KEYS, out) else {
        return Update::default();
    };
    let strategy = fields.get("reboot_strategy");
    Update {
        group: fields.get("group").and_then(|at| at.read(out, group)),
        server: fields.get("server").and_then(|at| at.read(out, server)),
        reboot_strategy: strategy
            .and_then(|at| at.read(out, reboot))
            .unwrap_or_default(),
        window: None,
    }
}

/// A channel, which is a tag of the repository.
fn group(text: &str) -> Result<String, String> {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "._-".contains(c);
    let good = !text.is_empty() && text.len() <= TAG_MAX && text.chars().all(plain);
    match good && !text.starts_with(['.', '-']) {
        true => Ok(text.to_owned()),
        false => Err(format!(
            "{} is no channel; write for example stable",
            quoted(text)
        )),
    }
}

fn server(text: &str) -> Result<UpdateServer, String> {
    if matches!(text, "" | "disabled") {
        return Ok(UpdateServer::Disabled);
    }
    if let Some((scheme, _)) = text.split_once("://") {
        return Err(format!(
            "{} is a URL, but updates are images of an OCI registry; write its repository without {scheme}://, for example registry.example.com/coracle/os (one without TLS is told with coracle.registries), or disabled",
            quoted(text)
        ));
    }
    let bad = |why: &str| {
        format!(
            "{} {why}; write for example registry.example.com/coracle/os",
            quoted(text)
        )
    };
    if text.contains('@') {
        return Err(bad("has a digest, which a repository has not"));
    }
    let (registry, path) = text.split_once('/').unwrap_or(("", text));
    if path.contains(':') {
        return Err(bad("has a tag, which is what coreos.update.group says"));
    }
    if !(registry.contains(['.', ':']) || registry == "localhost") {
        return Err(bad("names no registry"));
    }
    host_port(registry)?;
    if text.len() > NAME_MAX || !path.split('/').all(is_part) {
        return Err(bad("is no repository"));
    }
    Ok(UpdateServer::Repository(text.to_owned()))
}

/// A part of a repository's name: lower-case letters and digits, with `.`, `_`, `__` or dashes between them.
fn is_part(part: &str) -> bool {
    let word = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let edges = part.bytes().next().is_some_and(word) && part.bytes().last().is_some_and(word);
    let between = part.split(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit());
    let mut between = between.filter(|s| !s.is_empty());
    edges && between.all(|s| matches!(s, "." | "_" | "__") || s.bytes().all(|b| b == b'-'))
}

fn reboot(text: &str) -> Result<RebootStrategy, String> {
    match text {
        "reboot" => Ok(RebootStrategy::Reboot),
        "etcd-lock" => Ok(RebootStrategy::EtcdLock),
        "best-effort" => Ok(RebootStrategy::BestEffort),
        // YAML 1.1 reads `off` as that, so CoreOS took both.
        "off" | "false" => Ok(RebootStrategy::Off),
        _ => Err(format!(
            "{} is no strategy; write reboot, etcd-lock, best-effort or off",
            quoted(text)
        )),
    }
}
