//! Building images, and what is kept of it.
//!
//! The answer of `POST /build` is docker's stream of lines: `{"stream": …}` for what a person reads, `{"aux": {"ID": …}}` with the
//! image's id, `{"errorDetail": …, "error": …}` at the end of a build that failed. A client that leaves ends its build.

use crate::App;
use crate::error::{ApiError, Result};
use crate::images::tell;
use crate::query::Query;
use crate::registries::{Auth, decoded};
use crate::transfer::{failed, lines, reader};
use axum::Json;
use axum::extract::{Request, State};
use axum::http::HeaderMap;
use coracle_build::{BuildOptions, Builder, Event, Source};
use coracle_engine::Engine;
use coracle_engine::model::{HostConfig, Ulimit};
use coracle_image::{CacheQuery, Credentials, Reference};
use futures_util::stream::poll_fn;
use serde_json::{Value, json};
use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

/// Lines that wait for a client that does not read.
const LINES: usize = 64;
/// Bytes that are kept of what a quiet build says.
const KEPT: usize = 4 << 20;

/// Header with the files of `RUN --mount=type=secret`: base64 of a JSON object, id to base64 of the content.
pub const SECRETS: &str = "coracle-build-secrets";

fn json_of<T: serde::de::DeserializeOwned + Default>(query: &Query, key: &str) -> Result<T> {
    query.text(key).map_or_else(
        || Ok(T::default()),
        |text| {
            serde_json::from_str(text).map_err(|e| {
                ApiError::invalid(format!("parameter {key} cannot be read: {e}; write JSON"))
            })
        },
    )
}

/// `X-Registry-Config`: base64 of a JSON object, registry to credentials.
fn credentials(headers: &HeaderMap) -> Result<BTreeMap<String, Credentials>> {
    let Some(value) = headers.get("x-registry-config").filter(|v| !v.is_empty()) else {
        return Ok(BTreeMap::new());
    };
    let bad = |why: String| {
        ApiError::invalid(format!(
            "the header X-Registry-Config cannot be read: {why}; log in again"
        ))
    };
    let text = value.to_str().map_err(|e| bad(e.to_string()))?;
    let bytes = decoded(text).map_err(|e| bad(e.to_string()))?;
    if bytes.is_empty() || bytes == b"null" {
        return Ok(BTreeMap::new());
    }
    let all: BTreeMap<String, Auth> =
        serde_json::from_slice(&bytes).map_err(|e| bad(e.to_string()))?;
    let mut found = BTreeMap::new();
    for (host, auth) in all {
        if let Some(credentials) = auth
            .credentials()
            .map_err(|e| bad(format!("{host}: {e}")))?
        {
            found.insert(host, credentials);
        }
    }
    Ok(found)
}

fn secrets(headers: &HeaderMap) -> Result<BTreeMap<String, Vec<u8>>> {
    let Some(value) = headers.get(SECRETS) else {
        return Ok(BTreeMap::new());
    };
    let bad = || ApiError::invalid(format!("the header {SECRETS} cannot be read"));
    let bytes = decoded(value.to_str().map_err(|_| bad())?).map_err(|_| bad())?;
    let all: BTreeMap<String, String> = serde_json::from_slice(&bytes).map_err(|_| bad())?;
    let one = |(id, text): (String, String)| Ok((id, decoded(&text).map_err(|_| bad())?));
    all.into_iter().map(one).collect()
}

/// Parameters that ask for what is not there.
fn refuse(query: &Query) -> Result<()> {
    if query.text("version") == Some("2") {
        return Err(ApiError::invalid(
            "BuildKit is not served by this release; set DOCKER_BUILDKIT=0",
        ));
    }
    if query.flag("squash") {
        return Err(ApiError::invalid(
            "squash is not supported; leave it out, or export and import the image",
        ));
    }
    let isolation = query.text("isolation").is_some_and(|i| i != "default");
    for (asked, what) in [
        (isolation, "isolation"),
        (query.text("cgroupparent").is_some(), "cgroupparent"),
        (
            query
                .text("securityopt")
                .is_some_and(|o| o != "null" && o != "[]"),
            "securityopt",
        ),
        (
            query.text("outputs").is_some_and(|o| o != "[]"),
            "outputs (BuildKit; set DOCKER_BUILDKIT=0)",
        ),
    ] {
        if asked {
            return Err(ApiError::invalid(format!(
                "parameter {what} is not supported by this release; leave it out"
            )));
        }
    }
    Ok(())
}

fn options(query: &Query, headers: &HeaderMap) -> Result<BuildOptions> {
    refuse(query)?;
    let tags = query
        .all("t")
        .iter()
        .map(|t| {
            let name = Reference::parse_normalized(t)?;
            if name.digest().is_some() {
                return Err(ApiError::invalid(format!(
                    "invalid name {t}: an image that is built cannot be named by a digest"
                )));
            }
            Ok(name)
        })
        .collect::<Result<Vec<_>>>()?;
    let ulimits: Vec<Ulimit> =
        json_of::<Option<Vec<Ulimit>>>(query, "ulimits")?.unwrap_or_default();
    let number = |key| query.number::<i64>(key).map(|n| n.unwrap_or(0));
    let text = |key| query.text(key).unwrap_or_default().to_owned();
    let host = HostConfig {
        network_mode: text("networkmode"),
        memory: number("memory")?,
        memory_swap: number("memswap")?,
        cpu_shares: number("cpushares")?,
        cpu_period: number("cpuperiod")?,
        cpu_quota: number("cpuquota")?,
        cpuset_cpus: text("cpusetcpus"),
        cpuset_mems: text("cpusetmems"),
        shm_size: number("shmsize")?,
        extra_hosts: query
            .all("extrahosts")
            .iter()
            .flat_map(|h| h.split(',').map(str::to_owned).collect::<Vec<_>>())
            .collect(),
        ulimits,
        ..HostConfig::default()
    };
    let platform = query.text("platform").map(str::parse).transpose();
    Ok(BuildOptions {
        dockerfile: text("dockerfile"),
        tags,
        args: json_of::<Option<_>>(query, "buildargs")?.unwrap_or_default(),
        labels: json_of::<Option<_>>(query, "labels")?.unwrap_or_default(),
        target: text("target"),
        no_cache: query.flag("nocache"),
        pull: query.flag("pull"),
        platform: platform
            .map_err(|_| ApiError::invalid("invalid platform; write for example linux/amd64"))?,
        host,
        secrets: secrets(headers)?,
        credentials: credentials(headers)?,
    })
}

/// What a person reads of an event.
fn line(event: &Event) -> Option<String> {
    Some(match event {
        Event::Step(number, all, text) => format!("Step {number}/{all} : {text}\n"),
        Event::Cached => " ---> Using cache\n".into(),
        Event::Running(id) => format!(" ---> Running in {id}\n"),
        Event::Output(text) => text.clone(),
        Event::Done(layer, millis) => {
            let time = format!("{}.{:02} s", millis / 1000, millis % 1000 / 10);
            match layer {
                Some(layer) => format!(" ---> {layer} ({time})\n"),
                None if *millis >= 100 => format!(" ---> ({time})\n"),
                None => return None,
            }
        }
        Event::Warning(text) => format!("[Warning] {text}\n"),
    })
}

pub async fn build(State(app): State<App>, query: Query, request: Request) -> Result {
    let options = options(&query, request.headers())?;
    let quiet = query.flag("q");
    let remote = query.text("remote").map(str::to_owned);
    let web = |u: &String| u.starts_with("http://") || u.starts_with("https://");
    if let Some(url) = remote.as_ref().filter(|u| !web(u) || u.ends_with(".git")) {
        return Err(ApiError::invalid(format!(
            "remote context {url}: git repositories are not fetched by this release; clone it first and build the directory"
        )));
    }
    let (sender, mut receiver) = mpsc::channel(LINES);
    let App {
        engine, builder, ..
    } = app;
    let source = match remote {
        Some(url) => Source::Remote(url),
        None => Source::Archive(reader(request)),
    };
    tokio::spawn(async move {
        let left = sender.clone();
        tokio::select! {
            () = go(engine, builder, source, options, quiet, sender) => {}
            // Nobody waits for the image any more.
            () = left.closed() => {}
        }
    });
    Ok(lines(poll_fn(move |context| receiver.poll_recv(context))))
}

async fn go<R: tokio::io::AsyncRead + Send + Unpin + 'static>(
    engine: Engine,
    builder: Builder,
    source: Source<R>,
    options: BuildOptions,
    quiet: bool,
    sender: mpsc::Sender<Value>,
) {
    let say = async |value: Value| _ = sender.send(value).await;
    let tags: Vec<String> = options.tags.iter().map(Reference::familiar).collect();
    let (events, mut heard) = coracle_build::events();
    let begun = Instant::now();
    // What a quiet build says is told if it fails: the end of it.
    let (mut kept, mut bytes) = (VecDeque::new(), 0);
    let hearing = async {
        while let Some(event) = heard.recv().await {
            if let Some(text) = line(&event) {
                if quiet {
                    bytes += text.len();
                    kept.push_back(text);
                    while bytes > KEPT {
                        bytes -= kept.pop_front().map_or(bytes, |t: String| t.len());
                    }
                } else {
                    say(json!({ "stream": text })).await;
                }
            }
        }
    };
    let (built, ()) = tokio::join!(builder.build(source, options, events), hearing);
    match built {
        Ok(built) => {
            let id = built.image.id.to_string();
            if quiet {
                say(json!({ "stream": format!("{id}\n") })).await;
                say(json!({ "aux": { "ID": id } })).await;
            } else {
                say(json!({ "aux": { "ID": id } })).await;
                let seconds = begun.elapsed().as_secs_f64();
                say(json!({ "stream": format!("Built in {seconds:.2} s\n") })).await;
                let short = built.image.id.short();
                say(json!({ "stream": format!("Successfully built {short}\n") })).await;
            }
            tell(&engine, "build", &id, &id);
            for tag in tags {
                if !quiet {
                    say(json!({ "stream": format!("Successfully tagged {tag}\n") })).await;
                }
                tell(&engine, "tag", &id, &tag);
            }
        }
        Err(error) => {
            for text in kept {
                say(json!({ "stream": text })).await;
            }
            let mut value = failed(&error);
            if let Some(code) = code(&error) {
                value["errorDetail"]["code"] = json!(code);
            }
            say(value).await;
        }
    }
}

/// The exit code of the command that ended a build.
fn code(error: &coracle_build::BuildError) -> Option<i32> {
    match error {
        coracle_build::BuildError::Command { code, .. } => Some(*code),
        coracle_build::BuildError::Step { cause, .. } => code(cause),
        _ => None,
    }
}

/// What is kept of builds, as `GET /system/df` lists it.
pub async fn usage(app: &App) -> Result<Vec<Value>> {
    let images = app.engine.images().clone();
    let records = tokio::task::spawn_blocking(move || images.cache())
        .await
        .map_err(coracle_engine::EngineError::from)?;
    let mut rows: Vec<Value> = records
        .into_iter()
        .filter(|(record, ..)| record.layer.is_some())
        .map(|(record, size, shared)| {
            json!({
                "ID": record.key.hex(), "Type": "regular", "Description": record.description, "InUse": false,
                "Shared": shared, "Size": size, "CreatedAt": record.created, "LastUsedAt": record.last_used,
                "UsageCount": record.uses, "Parents": [],
            })
        })
        .collect();
    let mounts = app.builder.mounts().await?;
    rows.extend(mounts.into_iter().map(|mount| {
        json!({
            "ID": mount.key, "Type": "exec.cachemount", "Description": format!("cache mount {}", mount.id),
            "InUse": mount.in_use, "Shared": false, "Size": mount.size, "CreatedAt": mount.last_used,
            "LastUsedAt": mount.last_used, "UsageCount": 1, "Parents": [],
        })
    }));
    Ok(rows)
}

pub async fn prune(State(app): State<App>, query: Query) -> Result<Json<Value>> {
    let filters: BTreeMap<String, Value> = json_of(&query, "filters")?;
    let mut asked = CacheQuery {
        all: query.flag("all"),
        ..CacheQuery::default()
    };
    for (key, value) in &filters {
        let first = match value {
            Value::Array(list) => list.first().and_then(Value::as_str).map(str::to_owned),
            Value::Object(map) => map.keys().next().cloned(),
            _ => None,
        };
        match (key.as_str(), first) {
            ("until" | "unused-for", Some(text)) => {
                let time =
                    coracle_image::duration::nanoseconds(&text).and_then(|n| u64::try_from(n).ok());
                let time = time.ok_or_else(|| {
                    ApiError::invalid(format!(
                        "filter {key}={text} is no duration; write for example 24h"
                    ))
                })?;
                asked.unused_for = Some(Duration::from_nanos(time));
            }
            _ => {
                return Err(ApiError::invalid(format!(
                    "filter {key} is not known to build/prune; use until"
                )));
            }
        }
    }
    if query
        .number::<i64>("min-free-space")?
        .is_some_and(|b| b != 0)
    {
        return Err(ApiError::invalid(
            "parameter min-free-space is not supported by this release; use reserved-space, or the daemon's marks",
        ));
    }
    for key in ["keep-storage", "reserved-space", "max-used-space"] {
        if let Some(bytes) = query.number::<u64>(key)?.filter(|b| *b > 0) {
            asked.keep = Some(bytes);
        }
    }
    let (gone, freed) = app.builder.prune(asked).await?;
    crate::containers::tell_prune(&app.engine, "builder", freed);
    Ok(Json(
        json!({ "CachesDeleted": gone, "SpaceReclaimed": freed }),
    ))
}

/// Makes room on the disk now, by the marks that hold or those that are given.
pub async fn collect(State(app): State<App>, query: Query) -> Result<Json<Value>> {
    let mut marks = app.marks.clone();
    let percent = |key, old: u8| -> Result<u8> {
        let given = query.number::<u8>(key)?.unwrap_or(old);
        if given > 100 {
            return Err(ApiError::invalid(format!(
                "parameter {key}={given} is no percentage"
            )));
        }
        Ok(given)
    };
    marks.high = percent("high", marks.high)?;
    marks.low = percent("low", marks.low.min(marks.high))?;
    if marks.low > marks.high {
        return Err(ApiError::invalid("parameter low is above high"));
    }
    if let Some(text) = query.text("min_age") {
        let age = coracle_image::duration::nanoseconds(text).and_then(|n| u64::try_from(n).ok());
        let age = age.ok_or_else(|| {
            ApiError::invalid(format!(
                "parameter min_age={text} is no duration; write for example 24h"
            ))
        })?;
        marks.min_age = Duration::from_nanos(age);
    }
    let done = app
        .builder
        .collect(marks, app.fleet.images().await?)
        .await?;
    Ok(Json(json!(done)))
}

/// A build that is cancelled goes with its client's connection.
pub async fn cancel() -> axum::http::StatusCode {
    axum::http::StatusCode::NO_CONTENT
}
