//! From what was asked (`-v`, `--mount`, `--tmpfs`, the image's volumes) to mounts with a source.

pub(crate) mod words;

use crate::error::{EngineError, Result};
use crate::model::{CreateRequest, Mount};
use crate::record::ResolvedMount;
use crate::volumes::Volumes;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Component, Path, PathBuf};
use words::PROPAGATIONS;

/// A mount as it was asked for, before its source is found or made.
#[derive(Debug, Clone, PartialEq)]
struct Wanted {
    kind: &'static str,
    source: String,
    target: String,
    options: Vec<String>,
    writable: bool,
    propagation: String,
    /// A missing host directory is made (`-v`) or an error (`--mount`).
    make_source: bool,
    /// A read-only mount is so with all that is mounted below it.
    deep: bool,
    labels: BTreeMap<String, String>,
    /// Of a volume that is made for it.
    driver_options: BTreeMap<String, String>,
    subpath: String,
    /// A volume of the image that nothing was said about.
    of_image: bool,
}

/// Refuses a propagation that is none. Whether a source can be shared is known when it is mounted.
fn check_propagation(mode: &str) -> Result<()> {
    if mode.is_empty() || PROPAGATIONS.contains(&mode) {
        return Ok(());
    }
    Err(invalid(format!(
        "invalid propagation \"{mode}\"; use one of {}",
        PROPAGATIONS.join(", ")
    )))
}

fn invalid(text: String) -> EngineError {
    EngineError::Invalid(text)
}

/// Finds every mount of a request and makes the volumes that are missing. The names of those without a name of their own are
/// added to `anonymous`, also on failure: nobody else will ask for them. Named ones stay.
///
/// # Errors
/// [`EngineError::Invalid`] naming what cannot be read or does not exist, [`EngineError::File`].
pub fn resolve(
    request: &CreateRequest,
    volumes: &Volumes,
    anonymous: &mut Vec<String>,
) -> Result<Vec<ResolvedMount>> {
    let wanted = wanted(request)?.into_iter();
    wanted
        .map(|mount| resolve_one(mount, volumes, anonymous))
        .collect()
}

fn wanted(request: &CreateRequest) -> Result<Vec<Wanted>> {
    let host = &request.host_config;
    let mut all: Vec<Wanted> = Vec::new();
    for bind in &host.binds {
        all.push(parse_bind(bind)?);
    }
    for mount in &host.mounts {
        all.push(from_mount(mount)?);
    }
    for (target, options) in &host.tmpfs {
        all.push(Wanted {
            kind: "tmpfs",
            options: tmpfs_options(options)?,
            ..volume(target, String::new())
        });
    }
    for mount in &mut all {
        mount.target = clean_target(&mount.target)?;
    }
    for (i, mount) in all.iter().enumerate() {
        if all[..i].iter().any(|m| m.target == mount.target) {
            return Err(invalid(format!("Duplicate mount point: {}", mount.target)));
        }
    }
    for target in request.config.volumes.keys() {
        let target = clean_target(target)?;
        if !all.iter().any(|m| m.target == target) {
            all.push(Wanted {
                of_image: true,
                ..volume(&target, String::new())
            });
        }
    }
    Ok(all)
}

fn volume(target: &str, source: String) -> Wanted {
    Wanted {
        kind: "volume",
        source,
        target: target.to_owned(),
        options: Vec::new(),
        writable: true,
        propagation: String::new(),
        make_source: true,
        deep: true,
        labels: BTreeMap::new(),
        driver_options: BTreeMap::new(),
        subpath: String::new(),
        of_image: false,
    }
}

fn parse_bind(bind: &str) -> Result<Wanted> {
    let parts: Vec<&str> = bind.split(':').collect();
    let (source, target, modes) = match parts.as_slice() {
        [target] => ("", *target, ""),
        [source, target] => (*source, *target, ""),
        [source, target, modes] => (*source, *target, *modes),
        _ => return Err(invalid(format!("invalid volume specification: '{bind}'"))),
    };
    if target.is_empty() || (parts.len() > 1 && source.is_empty()) {
        return Err(invalid(format!("invalid volume specification: '{bind}'")));
    }
    let mut mount = volume(target, source.to_owned());
    if source.starts_with('/') {
        mount.kind = "bind";
    }
    for mode in modes.split(',').filter(|m| !m.is_empty()) {
        match mode {
            "rw" => {}
            "ro" => mount.writable = false,
            // Labels of SELinux and macOS consistency: without effect here, as with Docker.
            "z" | "Z" | "cached" | "delegated" | "consistent" | "nocopy" => {}
            mode if mount.kind == "bind" && PROPAGATIONS.contains(&mode) => {
                check_propagation(mode)?;
                mode.clone_into(&mut mount.propagation);
            }
            _ => return Err(invalid(format!("invalid mode: {mode} (in '{bind}')"))),
        }
    }
    Ok(mount)
}

fn from_mount(mount: &Mount) -> Result<Wanted> {
    let mut wanted = volume(&mount.target, mount.source.clone());
    wanted.writable = !mount.read_only;
    match mount.kind.as_str() {
        "bind" => {
            wanted.kind = "bind";
            wanted.make_source = false;
            if !mount.source.starts_with('/') {
                return Err(invalid(format!(
                    "invalid mount config for type \"bind\": invalid mount path: '{}' mount path must be \
                     absolute",
                    mount.source
                )));
            }
            if let Some(options) = &mount.bind_options {
                wanted.make_source = options.create_mountpoint;
                wanted.deep = !options.read_only_non_recursive;
                options.propagation.clone_into(&mut wanted.propagation);
                check_propagation(&options.propagation)?;
                if options.non_recursive {
                    wanted.options.push("bind".into());
                }
            }
        }
        "volume" => {
            if let Some(options) = &mount.volume_options {
                wanted.labels.clone_from(&options.labels);
                wanted.subpath.clone_from(&options.subpath);
                if let Some(driver) = &options.driver_config {
                    if !matches!(driver.name.as_str(), "" | "local") {
                        return Err(invalid(format!(
                            "volume driver \"{}\" is not supported by this release; use local",
                            driver.name
                        )));
                    }
                    wanted.driver_options.clone_from(&driver.options);
                }
            }
        }
        "tmpfs" => {
            wanted.kind = "tmpfs";
            wanted.options = tmpfs_options("")?;
            if let Some(options) = &mount.tmpfs_options {
                if options.size_bytes > 0 {
                    wanted.options.push(format!("size={}", options.size_bytes));
                }
                if options.mode > 0 {
                    wanted.options.push(format!("mode={:o}", options.mode));
                }
                for option in &options.options {
                    if option.is_empty() || option.len() > 2 {
                        return Err(invalid(format!(
                            "invalid tmpfs option {option:?}; write a name, or a name and a value"
                        )));
                    }
                    add_tmpfs_option(&mut wanted.options, &option.join("="))?;
                }
            }
        }
        other => {
            return Err(invalid(format!(
                "mount type \"{other}\" is not supported by this release; use bind, volume or tmpfs"
            )));
        }
    }
    Ok(wanted)
}

fn tmpfs_options(asked: &str) -> Result<Vec<String>> {
    let mut options: Vec<String> = ["noexec", "nosuid", "nodev"]
        .iter()
        .map(|o| (*o).to_owned())
        .collect();
    for option in asked.split(',').filter(|o| !o.is_empty()) {
        add_tmpfs_option(&mut options, option)?;
    }
    Ok(options)
}

/// `exec` takes back `noexec`, and so on.
fn add_tmpfs_option(options: &mut Vec<String>, option: &str) -> Result<()> {
    const KEYS: [&str; 9] = [
        "size",
        "mode",
        "uid",
        "gid",
        "nr_inodes",
        "nr_blocks",
        "mpol",
        "huge",
        "inode64",
    ];
    let known = match option.split_once('=') {
        Some((key, value)) => KEYS.contains(&key) && !value.is_empty(),
        None => words::flags(option).is_some() || option == "inode64",
    };
    if !known {
        return Err(invalid(format!(
            "invalid tmpfs option \"{option}\"; they are listed in tmpfs(5)"
        )));
    }
    options
        .retain(|o| *o != format!("no{option}") && Some(o.as_str()) != option.strip_prefix("no"));
    if !matches!(option, "exec" | "suid" | "dev" | "defaults") {
        options.push(option.to_owned());
    }
    Ok(())
}

fn clean_target(target: &str) -> Result<String> {
    let path = Path::new(target);
    if !path.is_absolute() {
        return Err(invalid(format!(
            "invalid mount path: '{target}': mount path must be absolute in the container"
        )));
    }
    let mut clean = PathBuf::from("/");
    for part in path.components() {
        match part {
            Component::Normal(part) => clean.push(part),
            Component::ParentDir => {
                clean.pop();
            }
            _ => {}
        }
    }
    if clean == Path::new("/") {
        return Err(invalid(
            "invalid specification: destination can't be '/'".into(),
        ));
    }
    // It was a str, and only separators and dots were taken out of it.
    Ok(clean.to_string_lossy().into_owned())
}

fn resolve_one(mount: Wanted, volumes: &Volumes, made: &mut Vec<String>) -> Result<ResolvedMount> {
    let mut options = mount.options;
    let mut name = None;
    let mut anonymous = false;
    let source = match mount.kind {
        "tmpfs" => PathBuf::new(),
        "bind" => {
            let source = PathBuf::from(&mount.source);
            if !source.exists() {
                if !mount.make_source {
                    return Err(invalid(format!(
                        "invalid mount config for type \"bind\": bind source path does not exist: {}; make it \
                         first",
                        mount.source
                    )));
                }
                fs::create_dir_all(&source).map_err(EngineError::file("making", &source))?;
            }
            source
        }
        _ => {
            let asked = Some(mount.source.as_str()).filter(|s| !s.is_empty());
            let (volume, _) = volumes.ensure(asked, &mount.labels, &mount.driver_options)?;
            anonymous = asked.is_none();
            if anonymous {
                made.push(volume.name.clone());
            }
            let data = volumes.data(&volume.name);
            name = Some(volume.name);
            if mount.subpath.is_empty() {
                data
            } else {
                // What is inside is known only when it is there.
                volumes.make_ready(name.as_deref().unwrap_or_default())?;
                inside(&data, &mount.subpath)?
            }
        }
    };
    if mount.kind != "tmpfs" {
        if !options.iter().any(|o| o == "bind") {
            options.push("rbind".into());
        }
        let propagation = if mount.propagation.is_empty() {
            "rprivate"
        } else {
            mount.propagation.as_str()
        };
        options.push(propagation.to_owned());
    }
    let mut resolved = ResolvedMount {
        kind: mount.kind.into(),
        name,
        anonymous,
        source,
        target: mount.target.into(),
        options,
        writable: true,
        propagation: mount.propagation,
    };
    if !mount.writable {
        resolved.make_read_only(mount.deep);
    }
    Ok(resolved)
}

/// A directory inside a volume; a link may not lead out of it.
fn inside(data: &Path, subpath: &str) -> Result<PathBuf> {
    let escape = || {
        invalid(format!(
            "volume subpath \"{subpath}\" must be a path inside the volume that exists and does not leave it"
        ))
    };
    let path = Path::new(subpath);
    if path
        .components()
        .any(|c| !matches!(c, Component::Normal(_) | Component::CurDir))
    {
        return Err(escape());
    }
    let found = data.join(path).canonicalize().map_err(|_| escape())?;
    let root = data
        .canonicalize()
        .map_err(EngineError::file("finding", data))?;
    if found.starts_with(root) {
        Ok(found)
    } else {
        Err(escape())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::json;

    fn run(request: serde_json::Value) -> Result<Vec<ResolvedMount>> {
        let dir = tempfile::tempdir().unwrap();
        let volumes = Volumes::open(dir.path(), dir.path()).unwrap();
        let request = serde_json::from_value(request).unwrap();
        let mut anonymous = Vec::new();
        let resolved = resolve(&request, &volumes, &mut anonymous);
        let listed = volumes.list().into_iter().filter(|v| v.anonymous);
        anonymous.sort();
        assert_eq!(anonymous, listed.map(|v| v.name).collect::<Vec<_>>());
        resolved
    }

    #[test]
    fn volumes_binds_and_tmpfs() {
        let mounts = run(json!({
            "Volumes": { "/cache": {}, "/data": {} },
            "HostConfig": {
                "Binds": ["db:/data", "/tmp:/host/../host:ro"],
                "Tmpfs": { "/run": "exec,size=1m" },
            },
        }))
        .unwrap();
        let by = |target: &str| {
            mounts
                .iter()
                .find(|m| m.target == Path::new(target))
                .unwrap()
        };
        assert_eq!(mounts.len(), 4);
        assert_eq!(by("/data").name.as_deref(), Some("db"));
        assert!(!by("/data").anonymous && by("/cache").anonymous);
        assert_eq!(by("/host").options, ["rbind", "rprivate", "ro", "rro"]);
        assert_eq!(by("/run").options, ["nosuid", "nodev", "size=1m"]);
    }

    #[test]
    fn what_cannot_be_is_named() {
        for (request, words) in [
            (json!({ "HostConfig": { "Binds": ["a:b:c:d"] } }), "a:b:c:d"),
            (
                json!({ "HostConfig": { "Binds": ["/anonymous", ".bad:/x"] } }),
                ".bad",
            ),
            (
                json!({ "HostConfig": { "Binds": ["vol:relative"] } }),
                "absolute",
            ),
            (
                json!({ "HostConfig": { "Binds": ["vol:/"] } }),
                "can't be '/'",
            ),
            (
                json!({ "HostConfig": { "Binds": ["a1:/x", "b1:/x"] } }),
                "Duplicate mount point: /x",
            ),
            (
                json!({ "HostConfig": { "Binds": ["/tmp:/x:sideways"] } }),
                "sideways",
            ),
            (
                json!({ "HostConfig": { "Mounts": [{ "Type": "bind", "Source": "/no/such", "Target": "/x" }] } }),
                "/no/such",
            ),
            (
                json!({ "HostConfig": { "Mounts": [{ "Type": "volume", "Source": "v1", "Target": "/x",
                    "VolumeOptions": { "Subpath": "../.." } }] } }),
                "../..",
            ),
            (
                json!({ "HostConfig": { "Mounts": [{ "Type": "bind", "Source": "/tmp", "Target": "/x",
                    "BindOptions": { "Propagation": "upwards" } }] } }),
                "upwards",
            ),
            (
                json!({ "HostConfig": { "Mounts": [{ "Type": "npipe", "Target": "/x" }] } }),
                "npipe",
            ),
        ] {
            let error = run(request).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
    }
}
