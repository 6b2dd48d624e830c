//! What the daemon is told besides: credentials of the registries that a Dockerfile names, and secrets.

use crate::commands::copy::{file_error, usage};
use crate::error::Result;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE;
use coracle_dockerfile::{Dockerfile, Kind, expand, parse};
use coracle_engine::full_error;
use coracle_image::Reference;
use coracle_image::credentials::{docker_credentials, docker_registries};
use hyper::header;
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Longest secrets, in bytes, all together: they go in a header.
const SECRETS: usize = 192 << 10;

/// Images that a Dockerfile names.
fn images(file: &Dockerfile, args: &BTreeMap<String, Option<String>>) -> BTreeSet<String> {
    let mut known: BTreeMap<String, String> = BTreeMap::new();
    for arg in &file.global_args {
        let given = args
            .get(&arg.name)
            .cloned()
            .flatten()
            .or_else(|| arg.default.clone());
        known.extend(given.map(|v| (arg.name.clone(), v)));
    }
    let variable = |name: &str| known.get(name).cloned();
    let mut names = BTreeSet::new();
    for stage in &file.stages {
        names.extend(expand(&stage.base, file.escape, &variable));
        for instruction in &stage.instructions {
            if let Kind::Copy(copy) = &instruction.kind {
                names.extend(copy.from.clone());
            }
        }
    }
    names
}

/// What is known of registries: of those of the images that are named, which must be readable, and of all others, since images are
/// named in more places than can be seen from here (ONBUILD, mounts, contexts on stdin).
pub(super) fn credentials(
    text: Option<&str>,
    args: &BTreeMap<String, Option<String>>,
) -> Result<Option<(header::HeaderName, String)>> {
    // What is wrong with it, the daemon says.
    let file = text.and_then(|t| parse(t).ok());
    let named = file.map(|f| images(&f, args)).unwrap_or_default();
    let named = named
        .iter()
        .filter_map(|n| Reference::parse_normalized(n).ok());
    let named: BTreeSet<String> = named.map(|r| r.domain().to_owned()).collect();
    let mut all = Map::new();
    let known = docker_registries(None).unwrap_or_default();
    for domain in named.iter().chain(known.difference(&named)) {
        let found = match docker_credentials(None, domain) {
            Ok(found) => found,
            Err(error) if named.contains(domain) => return Err(usage(full_error(&error))),
            Err(_) => None,
        };
        if let Some(c) = found {
            let token = c.identity_token.unwrap_or_default();
            let auth =
                json!({ "username": c.username, "password": c.password, "identitytoken": token });
            all.insert(domain.clone(), auth);
        }
    }
    let value = URL_SAFE.encode(Value::Object(all.clone()).to_string());
    let name = header::HeaderName::from_static("x-registry-config");
    Ok((!all.is_empty()).then_some((name, value)))
}

/// `id=ID[,src=FILE|,env=NAME]`; without a source, a file or variable called ID.
pub(super) fn secrets(list: &[String]) -> Result<Option<(header::HeaderName, String)>> {
    let mut all = Map::new();
    for text in list {
        let bad = |why: &str| usage(format!("invalid --secret \"{text}\": {why}"));
        let (mut id, mut source, mut env, mut kind) = (None, None, None, None);
        for part in text.split(',') {
            match part.split_once('=') {
                Some(("id", value)) => id = Some(value.to_owned()),
                Some(("src" | "source", value)) => source = Some(PathBuf::from(value)),
                Some(("env", value)) => env = Some(value.to_owned()),
                Some(("type", value)) => kind = Some(value.to_owned()),
                _ => return Err(bad("write id=ID,src=FILE or id=ID,env=NAME")),
            }
        }
        let id = id.ok_or_else(|| bad("it has no id"))?;
        if kind.as_deref() == Some("env") && env.is_none() {
            env = Some(id.clone());
        }
        let content = match (source, env) {
            (Some(path), None) => fs::read(&path).map_err(file_error("reading", &path))?,
            (None, Some(name)) => std::env::var(&name)
                .map_err(|_| bad("that variable is not set"))?
                .into_bytes(),
            (None, None) => match std::env::var(&id) {
                Ok(value) => value.into_bytes(),
                Err(_) => fs::read(&id).map_err(file_error("reading", Path::new(&id)))?,
            },
            (Some(_), Some(_)) => return Err(bad("src and env exclude each other")),
        };
        all.insert(id, json!(URL_SAFE.encode(content)));
    }
    if all.is_empty() {
        return Ok(None);
    }
    let value = URL_SAFE.encode(Value::Object(all).to_string());
    if value.len() > SECRETS {
        return Err(usage(format!(
            "all --secret together are larger than {} bytes",
            SECRETS / 2
        )));
    }
    Ok(Some((
        header::HeaderName::from_static(coracle_api::SECRETS),
        value,
    )))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn images_that_are_named() {
        let file =
            parse("ARG V=1\nFROM reg.example/a:$V AS x\nFROM x\nCOPY --from=other/b:2 /x /\n")
                .unwrap();
        let names = images(&file, &BTreeMap::new());
        assert!(
            names.contains("reg.example/a:1") && names.contains("other/b:2"),
            "{names:?}"
        );
    }

    #[test]
    fn secrets_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        fs::write(&path, "hush").unwrap();
        let (_, value) = secrets(&[format!("id=a,src={}", path.display())])
            .unwrap()
            .unwrap();
        let all: Value = serde_json::from_slice(&URL_SAFE.decode(value).unwrap()).unwrap();
        assert_eq!(
            URL_SAFE.decode(all["a"].as_str().unwrap()).unwrap(),
            b"hush"
        );
        for bad in [
            "src=x",
            "id=a,src=/x,env=Y",
            "id=a,what=b",
            "id=a,env=NOT_SET_HERE_AT_ALL",
        ] {
            let error = secrets(&[bad.into()]).unwrap_err().to_string();
            assert!(error.contains("--secret"), "{error}");
        }
    }
}
