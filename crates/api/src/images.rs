//! Images.

use crate::App;
use crate::containers::json_stream;
use crate::error::{ApiError, Result};
use crate::filters::Filters;
use crate::inspect::moment;
use crate::query::Query;
use axum::Json;
use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use coracle_engine::events::Event;
use coracle_engine::record::Phase;
use coracle_engine::{Engine, full_error};
use coracle_image::{
    Credentials, Image, ImageId, ImageSummary, ImportOptions, InUse, Platform, ProgressEvent,
    Reference, Removed, Status,
};
use futures_util::TryStreamExt;
use futures_util::stream::unfold;
use serde::Deserialize;
use serde_json::{Value, json};
use std::convert::Infallible;
use std::io;
use tokio::sync::mpsc;
use tokio_util::io::{ReaderStream, StreamReader};

/// A line of the list; `containers` counts users, if that was asked.
pub fn row(image: &ImageSummary, containers: Option<usize>) -> Value {
    json!({
        "Id": image.id.to_string(),
        "ParentId": "",
        "RepoTags": image.repo_tags,
        "RepoDigests": image.repo_digests,
        "Created": image.created.map_or(0, |t| t.timestamp()),
        "Size": image.size,
        "SharedSize": -1,
        "VirtualSize": image.size,
        "Labels": image.labels,
        "Containers": containers.map_or(-1, |n| i64::try_from(n).unwrap_or(-1)),
    })
}

const FILTERS: &[&str] = &[
    "before",
    "dangling",
    "label",
    "label!",
    "reference",
    "since",
    "until",
];

pub async fn list(State(app): State<App>, query: Query) -> Result<Json<Value>> {
    let filters = Filters::read(query.text("filters"), FILTERS)?;
    let images = app.engine.images();
    let created = |key: &str| -> Result<_> {
        let of = filters.of(key).first();
        Ok(of
            .map(|name| images.get(name))
            .transpose()?
            .and_then(|i| i.created))
    };
    let (before, since) = (created("before")?, created("since")?);
    let fits = |i: &ImageSummary| {
        let named = |pattern: &str| {
            i.repo_tags
                .iter()
                .chain(&i.repo_digests)
                .any(|n| reference_fits(n, pattern))
        };
        before.is_none_or(|t| i.created.is_some_and(|c| c < t))
            && since.is_none_or(|t| i.created.is_some_and(|c| c > t))
            && filters.any("until", |until| {
                i.created.is_some_and(|c| crate::list::before(c, until))
            })
            && filters.any("reference", named)
            && filters
                .switch("dangling")
                .is_none_or(|d| d == i.repo_tags.is_empty())
            && filters.labels(&i.labels)
    };
    Ok(Json(
        images
            .list()
            .iter()
            .filter(|i| fits(i))
            .map(|i| row(i, None))
            .collect(),
    ))
}

/// Whether a name fits a pattern as `docker images --filter reference=` takes it: `*` stands for anything but a slash,
/// a pattern without a tag fits every tag.
fn reference_fits(name: &str, pattern: &str) -> bool {
    let without_tag = name.rsplit_once(':').map_or(name, |(n, _)| n);
    glob(pattern.as_bytes(), name.as_bytes()) || glob(pattern.as_bytes(), without_tag.as_bytes())
}

fn glob(pattern: &[u8], text: &[u8]) -> bool {
    match pattern.split_first() {
        None => text.is_empty(),
        Some((b'*', rest)) => {
            let end = text.iter().position(|b| *b == b'/').unwrap_or(text.len());
            (0..=end).any(|at| glob(rest, &text[at..]))
        }
        Some((b'?', rest)) => text
            .split_first()
            .is_some_and(|(c, t)| *c != b'/' && glob(rest, t)),
        Some((p, rest)) => text
            .split_first()
            .is_some_and(|(c, t)| c == p && glob(rest, t)),
    }
}

/// `/images/{name}/…`: what follows the name is told apart here, as names have slashes in them.
pub async fn named(
    State(app): State<App>,
    Path(rest): Path<String>,
    query: Query,
    request: Request,
) -> Result {
    let method = request.method().clone();
    let (name, verb) = rest.rsplit_once('/').unwrap_or((&rest, ""));
    match (method, verb) {
        (Method::GET, "json") => inspect(&app.engine, name),
        (Method::GET, "history") => history(&app.engine, name),
        (Method::GET, "get") => save(&app.engine, vec![name.to_owned()]).await,
        (Method::POST, "tag") => tag(&app.engine, name, &query),
        (Method::POST, "push") => Err(ApiError::new(
            StatusCode::NOT_IMPLEMENTED,
            "pushing to a registry is not supported by this release; save the image and copy the archive, for example with skopeo",
        )),
        (Method::DELETE, _) => remove(&app.engine, &rest, query.flag("force")),
        _ => Err(ApiError::not_found(format!(
            "/images/{rest}: page not found, or not served by this release"
        ))),
    }
}

fn inspect(engine: &Engine, name: &str) -> Result {
    let image = engine.images().get(name)?;
    let raw: Value = serde_json::from_slice(&image.raw_config).unwrap_or_default();
    let dirs = engine.images().layer_dirs(&image.id)?;
    let dirs: Vec<String> = dirs.iter().map(|d| d.display().to_string()).collect();
    let history = raw["history"].as_array().cloned().unwrap_or_default();
    let comment = history
        .last()
        .and_then(|h| h["comment"].as_str())
        .unwrap_or_default();
    let answer = json!({
        "Id": image.id.to_string(),
        "RepoTags": image.repo_tags,
        "RepoDigests": image.repo_digests,
        "Parent": "",
        "Comment": comment,
        "Created": moment(image.created),
        "DockerVersion": raw["docker_version"].as_str().unwrap_or_default(),
        "Author": raw["author"].as_str().unwrap_or_default(),
        "Config": config(&raw),
        "Architecture": raw["architecture"],
        "Variant": raw["variant"].as_str().unwrap_or_default(),
        "Os": raw["os"],
        "Size": image.size,
        "VirtualSize": image.size,
        "GraphDriver": {
            "Name": "overlay2",
            "Data": {
                "UpperDir": dirs.first().cloned().unwrap_or_default(),
                "LowerDir": dirs.get(1..).unwrap_or_default().join(":"),
            },
        },
        "RootFS": { "Type": "layers", "Layers": image.layers.iter().map(ToString::to_string).collect::<Vec<_>>() },
        "Metadata": { "LastTagTime": moment(None) },
    });
    Ok(Json(answer).into_response())
}

/// The image's config with the fields that clients expect to be there.
fn config(raw: &Value) -> Value {
    let mut config = raw["config"].clone();
    if !config.is_object() {
        config = json!({});
    }
    for (key, empty) in [
        ("Hostname", json!("")),
        ("Domainname", json!("")),
        ("User", json!("")),
        ("AttachStdin", json!(false)),
        ("AttachStdout", json!(false)),
        ("AttachStderr", json!(false)),
        ("Tty", json!(false)),
        ("OpenStdin", json!(false)),
        ("StdinOnce", json!(false)),
        ("Env", Value::Null),
        ("Cmd", Value::Null),
        ("Image", json!("")),
        ("Volumes", Value::Null),
        ("WorkingDir", json!("")),
        ("Entrypoint", Value::Null),
        ("OnBuild", Value::Null),
        ("Labels", Value::Null),
    ] {
        if config.get(key).is_none() {
            config[key] = empty;
        }
    }
    config
}

fn history(engine: &Engine, name: &str) -> Result {
    let image = engine.images().get(name)?;
    let raw: Value = serde_json::from_slice(&image.raw_config).unwrap_or_default();
    let mut steps = raw["history"].as_array().cloned().unwrap_or_default();
    steps.reverse();
    let mut rows: Vec<Value> = steps
        .iter()
        .map(|step| {
            let created = step["created"]
                .as_str()
                .and_then(|t| chrono::DateTime::parse_from_rfc3339(t).ok());
            json!({
                "Id": "<missing>",
                "Created": created.map_or(0, |t| t.timestamp()),
                "CreatedBy": step["created_by"].as_str().unwrap_or_default(),
                "Tags": null,
                "Size": 0,
                "Comment": step["comment"].as_str().unwrap_or_default(),
            })
        })
        .collect();
    if rows.is_empty() {
        rows.push(json!({ "Created": image.created.map_or(0, |t| t.timestamp()), "CreatedBy": "", "Comment": "" }));
    }
    rows[0]["Id"] = json!(image.id.to_string());
    rows[0]["Tags"] = json!(image.repo_tags);
    rows[0]["Size"] = json!(image.size);
    Ok(Json(rows).into_response())
}

fn tell(engine: &Engine, action: &str, id: &str, name: &str) {
    engine.publish(Event::now(
        "image",
        action,
        id,
        [("name".to_owned(), name.to_owned())].into(),
    ));
}

fn tag(engine: &Engine, name: &str, query: &Query) -> Result {
    let repository = query
        .text("repo")
        .ok_or_else(|| ApiError::invalid("parameter repo is missing: the new name"))?;
    let mut target = Reference::parse_normalized(repository)?;
    if let Some(tag) = query.text("tag") {
        target = target.with_tag(tag)?;
    }
    engine.images().tag(name, &target)?;
    let id = engine.images().get(name)?.id.to_string();
    tell(engine, "tag", &id, &target.familiar());
    Ok(StatusCode::CREATED.into_response())
}

/// A container that was made from an image; one that runs goes first.
fn user(engine: &Engine, id: &ImageId) -> Option<InUse> {
    let id = id.to_string();
    let users = engine
        .list()
        .into_iter()
        .filter(|s| s.record.image_id == id);
    let claim = |record: &coracle_engine::record::Record| InUse {
        container: record.id.short().to_owned(),
        running: matches!(record.state.phase, Phase::Running | Phase::Restarting),
    };
    users.map(|s| claim(&s.record)).max_by_key(|u| u.running)
}

fn remove(engine: &Engine, name: &str, force: bool) -> Result {
    let removed = engine
        .images()
        .remove(name, force, &|id| user(engine, id))?;
    let rows: Vec<Value> = removed
        .iter()
        .map(|r| match r {
            Removed::Untagged(name) => {
                tell(engine, "untag", name, name);
                json!({ "Untagged": name })
            }
            Removed::Deleted(id) => {
                let id = id.to_string();
                tell(engine, "delete", &id, &id);
                json!({ "Deleted": id })
            }
        })
        .collect();
    Ok(Json(rows).into_response())
}

pub async fn prune(State(app): State<App>, query: Query) -> Result<Json<Value>> {
    let filters = Filters::read(
        query.text("filters"),
        &["dangling", "label", "label!", "until"],
    )?;
    let only_dangling = filters.switch("dangling").unwrap_or(true);
    let (mut rows, mut bytes) = (Vec::new(), 0);
    for image in app.engine.images().list() {
        let old = filters.any("until", |until| {
            image.created.is_some_and(|c| crate::list::before(c, until))
        });
        let wanted = !only_dangling || image.repo_tags.is_empty();
        if !wanted
            || !old
            || !filters.labels(&image.labels)
            || user(&app.engine, &image.id).is_some()
        {
            continue;
        }
        let size = image.size;
        if let Ok(removed) = app
            .engine
            .images()
            .remove(&image.id.to_string(), true, &|id| user(&app.engine, id))
        {
            bytes += size;
            rows.extend(removed.iter().map(|r| match r {
                Removed::Untagged(name) => json!({ "Untagged": name }),
                Removed::Deleted(id) => json!({ "Deleted": id.to_string() }),
            }));
        }
    }
    Ok(Json(
        json!({ "ImagesDeleted": rows, "SpaceReclaimed": bytes }),
    ))
}

/// The lines that a client reads while something goes on.
fn lines(receiver: mpsc::UnboundedReceiver<Value>) -> Response {
    let stream = unfold(receiver, |mut receiver| async move {
        let line = receiver.recv().await?;
        Some((Ok::<_, Infallible>(format!("{line}\r\n")), receiver))
    });
    json_stream(Body::from_stream(stream))
}

fn progress_line(event: &ProgressEvent) -> Value {
    let plain = |status: &str| json!({ "status": status, "progressDetail": {}, "id": event.id });
    let measured = |status: &str, current: &u64, total: &u64| json!({ "status": status, "progressDetail": { "current": current, "total": total }, "id": event.id });
    match &event.status {
        Status::Pulling => plain("Pulling fs layer"),
        Status::Waiting => plain("Waiting"),
        Status::Downloading { current, total } => measured("Downloading", current, total),
        Status::Retrying { seconds } => plain(&format!("Retrying in {seconds} seconds")),
        Status::Verifying => plain("Verifying Checksum"),
        Status::DownloadComplete => plain("Download complete"),
        Status::Extracting { current, total } => measured("Extracting", current, total),
        Status::PullComplete => plain("Pull complete"),
        Status::AlreadyExists => plain("Already exists"),
        _ => plain("Working"),
    }
}

fn failed(error: &dyn std::error::Error) -> Value {
    let message = full_error(error);
    json!({ "errorDetail": { "message": message }, "error": message })
}

pub async fn create(State(app): State<App>, query: Query, request: Request) -> Result {
    if query.text("fromImage").is_some() {
        pull(app.engine, &query, request.headers())
    } else if query.text("fromSrc") == Some("-") {
        import(app.engine, &query, request).await
    } else {
        Err(ApiError::invalid(
            "parameter fromImage (pull) or fromSrc=- (import) is missing; importing from a URL is not supported: fetch it first",
        ))
    }
}

fn pull(engine: Engine, query: &Query, headers: &HeaderMap) -> Result {
    let from = query.text("fromImage").unwrap_or_default();
    let reference = match query.text("tag") {
        Some(digest) if digest.contains(':') => {
            Reference::parse_normalized(&format!("{from}@{digest}"))?
        }
        Some(tag) => Reference::parse_normalized(&format!("{from}:{tag}"))?,
        None => Reference::parse_normalized(from)?,
    };
    let platform: Option<Platform> = query
        .text("platform")
        .map(|p| {
            p.parse().map_err(|_| {
                ApiError::invalid(format!(
                    "invalid platform \"{p}\"; write for example linux/amd64"
                ))
            })
        })
        .transpose()?;
    let credentials = credentials(headers)?;
    let (sender, receiver) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        let say = |line: Value| {
            // A client that left has its pull finished all the same; the next one is quick.
            let _ = sender.send(line);
        };
        let tag = reference.tag().map_or_else(
            || reference.digest().map(|d| d.to_string()),
            |t| Some(t.to_owned()),
        );
        let tag = tag.unwrap_or_else(|| "latest".into());
        say(json!({ "status": format!("Pulling from {}", reference.familiar_name()), "id": tag }));
        let known = engine
            .images()
            .get(&reference.to_string())
            .ok()
            .map(|i| i.id);
        let progress = |event: ProgressEvent| say(progress_line(&event));
        match engine
            .images()
            .pull(
                &reference,
                platform.as_ref(),
                credentials.as_ref(),
                &progress,
            )
            .await
        {
            Ok(image) => {
                let digest = image
                    .repo_digests
                    .iter()
                    .find_map(|d| d.split_once('@'))
                    .map(|(_, d)| d.to_owned());
                if let Some(digest) = digest {
                    say(json!({ "status": format!("Digest: {digest}") }));
                }
                let name = reference.familiar();
                let news = if known == Some(image.id) {
                    "Image is up to date"
                } else {
                    "Downloaded newer image"
                };
                say(json!({ "status": format!("Status: {news} for {name}") }));
                tell(&engine, "pull", &name, &name);
            }
            Err(error) => say(failed(&error)),
        }
    });
    Ok(lines(receiver))
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct RegistryAuth {
    username: String,
    password: String,
    auth: String,
    identitytoken: String,
}

/// Who the client is to the registry: base64url of JSON in the header `X-Registry-Auth`.
fn credentials(headers: &HeaderMap) -> Result<Option<Credentials>> {
    let Some(value) = headers.get("x-registry-auth").filter(|v| !v.is_empty()) else {
        return Ok(None);
    };
    let bad = |why: String| {
        ApiError::invalid(format!(
            "the header X-Registry-Auth cannot be read: {why}; log in again"
        ))
    };
    let text = value.as_bytes();
    let text: Vec<u8> = text.iter().copied().filter(|b| *b != b'=').collect();
    let decoded = base64::engine::general_purpose::URL_SAFE_NO_PAD
        .decode(&text)
        .or_else(|_| base64::engine::general_purpose::STANDARD_NO_PAD.decode(&text))
        .map_err(|e| bad(e.to_string()))?;
    let mut auth: RegistryAuth =
        serde_json::from_slice(&decoded).map_err(|e| bad(e.to_string()))?;
    if auth.username.is_empty() && !auth.auth.is_empty() {
        let pair = base64::engine::general_purpose::STANDARD
            .decode(&auth.auth)
            .map_err(|e| bad(e.to_string()))?;
        let pair = String::from_utf8(pair).map_err(|e| bad(e.to_string()))?;
        if let Some((user, password)) = pair.split_once(':') {
            (auth.username, auth.password) = (user.into(), password.into());
        }
    }
    if auth.username.is_empty() && auth.identitytoken.is_empty() {
        return Ok(None);
    }
    Ok(Some(Credentials {
        username: auth.username,
        password: auth.password,
        identity_token: Some(auth.identitytoken).filter(|t| !t.is_empty()),
    }))
}

fn reader(request: Request) -> impl tokio::io::AsyncRead + Send + Unpin {
    StreamReader::new(Box::pin(
        request
            .into_body()
            .into_data_stream()
            .map_err(io::Error::other),
    ))
}

async fn import(engine: Engine, query: &Query, request: Request) -> Result {
    let reference = query
        .text("repo")
        .map(|repository| match query.text("tag") {
            Some(tag) => Reference::parse_normalized(repository)?.with_tag(tag),
            None => Reference::parse_normalized(repository),
        })
        .transpose()?;
    let changes = query.all("changes");
    let options = ImportOptions {
        reference,
        changes,
        message: query.text("message").map(str::to_owned),
        platform: query
            .text("platform")
            .map(str::parse)
            .transpose()
            .map_err(|_| ApiError::invalid("invalid platform; write for example linux/amd64"))?,
    };
    let image: Image = engine.images().import(reader(request), options).await?;
    let id = image.id.to_string();
    tell(
        &engine,
        "import",
        &id,
        image.repo_tags.first().map_or(&id, |t| t),
    );
    Ok(json_stream(Body::from(format!(
        "{}\r\n",
        json!({ "status": id })
    ))))
}

pub async fn load(State(app): State<App>, request: Request) -> Result {
    let (sender, receiver) = mpsc::unbounded_channel();
    let engine = app.engine;
    // The client sends the archive before it reads: it is taken in first.
    match engine
        .images()
        .load(reader(request), coracle_image::Silent)
        .await
    {
        Ok(loaded) => {
            for image in loaded {
                let id = image.id.to_string();
                for name in &image.repo_tags {
                    let _ = sender.send(json!({ "stream": format!("Loaded image: {name}\n") }));
                }
                if image.repo_tags.is_empty() {
                    let _ = sender.send(json!({ "stream": format!("Loaded image ID: {id}\n") }));
                }
                tell(&engine, "load", &id, &id);
            }
        }
        Err(error) => {
            let _ = sender.send(failed(&error));
        }
    }
    drop(sender);
    Ok(lines(receiver))
}

async fn save(engine: &Engine, names: Vec<String>) -> Result {
    let archive = engine.images().save(&names).await?;
    let body = Body::from_stream(ReaderStream::with_capacity(archive, 256 << 10));
    Ok(([(header::CONTENT_TYPE, "application/x-tar")], body).into_response())
}

pub async fn save_many(State(app): State<App>, query: Query) -> Result {
    let names = query.all("names");
    if names.is_empty() {
        return Err(ApiError::invalid(
            "parameter names is missing: the images to save",
        ));
    }
    save(&app.engine, names).await
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn patterns_of_references() {
        for (name, pattern, fits) in [
            ("redis:7", "redis", true),
            ("redis:7", "redis:7", true),
            ("redis:7", "re*", true),
            ("library/redis:7", "*", false),
            ("library/redis:7", "*/redis", true),
            ("redis:7", "redis:8", false),
        ] {
            assert_eq!(reference_fits(name, pattern), fits, "{name} {pattern}");
        }
    }

    #[test]
    fn credentials_in_a_header() {
        let encode = |text: &str| base64::engine::general_purpose::URL_SAFE.encode(text);
        let with = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("x-registry-auth", value.parse().unwrap());
            credentials(&headers)
        };
        let found = with(&encode(r#"{"username":"me","password":"p?>"}"#))
            .unwrap()
            .unwrap();
        assert_eq!(
            (found.username.as_str(), found.password.as_str()),
            ("me", "p?>")
        );
        assert!(with(&encode("{}")).unwrap().is_none());
        assert!(with("!!").is_err());
    }
}
