//! Images that come and go: pull, import, load, save.

use crate::App;
use crate::containers::json_stream;
use crate::error::{ApiError, Result};
use crate::images::tell;
use crate::query::Query;
use crate::registries::{Auth, decoded};
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use coracle_engine::{Engine, full_error};
use coracle_image::{
    Credentials, Image, ImageError, ImportOptions, Platform, ProgressEvent, Reference, Status,
};
use futures_util::stream::{once, poll_fn};
use futures_util::{Stream, StreamExt, TryStreamExt};
use serde_json::{Value, json};
use std::convert::Infallible;
use std::future::ready;
use std::io;
use std::sync::Once;
use tokio::io::AsyncRead;
use tokio::sync::mpsc;
use tokio_util::io::{ReaderStream, StreamReader};

/// The lines that a client reads while something goes on.
pub fn lines(values: impl Stream<Item = Value> + Send + 'static) -> Response {
    let lines = values.map(|line| Ok::<_, Infallible>(format!("{line}\r\n")));
    json_stream(Body::from_stream(lines))
}

fn received(mut receiver: mpsc::UnboundedReceiver<Value>) -> impl Stream<Item = Value> {
    poll_fn(move |context| receiver.poll_recv(context))
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
        Status::Preparing => plain("Preparing"),
        Status::Uploading { current, total } => measured("Pushing", current, total),
        Status::Pushed => plain("Pushed"),
        _ => plain("Working"),
    }
}

pub fn failed(error: &dyn std::error::Error) -> Value {
    let message = full_error(error);
    json!({ "errorDetail": { "message": message }, "error": message })
}

pub async fn create(State(app): State<App>, query: Query, request: Request) -> Result {
    if query.text("fromImage").is_some() {
        pull(app.engine, &query, request.headers()).await
    } else if let Some(from) = query.text("fromSrc") {
        if from == "-" {
            return import(app.engine, &query, reader(request)).await;
        }
        let archive = app.engine.images().open_url(from).await.map_err(|e| {
            ApiError::invalid(format!("cannot import from {from}: {}", full_error(&e)))
        })?;
        import(app.engine, &query, archive).await
    } else {
        Err(ApiError::invalid(
            "parameter fromImage (pull) or fromSrc (import: - or an address) is missing",
        ))
    }
}

/// What `POST /images/create` is to bring: one image, or without tag and digest all that the repository has.
struct Pull {
    engine: Engine,
    platform: Option<Platform>,
    credentials: Option<Credentials>,
    sender: mpsc::UnboundedSender<Value>,
}

async fn pull(engine: Engine, query: &Query, headers: &HeaderMap) -> Result {
    let from = query.text("fromImage").unwrap_or_default();
    let reference = match query.text("tag") {
        Some(digest) if digest.contains(':') => format!("{from}@{digest}"),
        Some(tag) => format!("{from}:{tag}"),
        None => from.to_owned(),
    };
    let short = Reference::parse(&reference)?;
    let every = short.tag().is_none() && short.digest().is_none();
    let reference = Reference::parse_normalized(&reference)?;
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
    let (sender, mut receiver) = mpsc::unbounded_channel();
    let pull = Pull {
        engine,
        platform,
        credentials: credentials(headers)?,
        sender,
    };
    // A client that leaves has its pull finished all the same; the next one is quick.
    let pulled = tokio::spawn(async move {
        if !every {
            return pull.one(&reference).await;
        }
        let credentials = pull.credentials.as_ref();
        for tag in pull.engine.images().tags(&reference, credentials).await? {
            pull.one(&reference.clone().with_tag(&tag)?).await?;
        }
        Ok(())
    });
    let first = receiver.recv().await;
    match first {
        // What ends before it has begun is an answer of its own, with its status.
        None => {
            let ended = pulled.await.map_err(coracle_engine::EngineError::from)?;
            ended?;
            Ok(json_stream(Body::empty()))
        }
        Some(first) => {
            let end = async move {
                match pulled.await {
                    Ok(Ok(())) => None,
                    Ok(Err(error)) => Some(failed(&error)),
                    Err(cut) => Some(failed(&coracle_engine::EngineError::from(cut))),
                }
            };
            let end = once(end).filter_map(ready);
            let all = once(ready(first)).chain(received(receiver)).chain(end);
            Ok(lines(all))
        }
    }
}

impl Pull {
    fn say(&self, line: Value) {
        let _ = self.sender.send(line);
    }

    async fn one(&self, reference: &Reference) -> std::result::Result<(), ImageError> {
        let images = self.engine.images();
        let tag = reference.tag().map_or_else(
            || reference.digest().map(|d| d.to_string()),
            |t| Some(t.to_owned()),
        );
        let tag = tag.unwrap_or_else(|| "latest".into());
        let repository = reference.familiar_name();
        let beginning = json!({ "status": format!("Pulling from {repository}"), "id": tag });
        let begun = Once::new();
        let begin = || begun.call_once(|| self.say(beginning.clone()));
        let known = images.get(&reference.to_string()).ok().map(|i| i.id);
        let progress = |event: ProgressEvent| {
            // Only now is it known to be there.
            begin();
            self.say(progress_line(&event));
        };
        let (platform, credentials) = (self.platform.as_ref(), self.credentials.as_ref());
        let pulling = images.pull(reference, platform, credentials, &progress);
        let image = pulling.await?;
        begin();
        let digest = image.repo_digests.iter().find_map(|d| d.split_once('@'));
        if let Some((_, digest)) = digest {
            self.say(json!({ "status": format!("Digest: {digest}") }));
        }
        let name = reference.familiar();
        let news = if known == Some(image.id) {
            "Image is up to date"
        } else {
            "Downloaded newer image"
        };
        self.say(json!({ "status": format!("Status: {news} for {name}") }));
        tell(&self.engine, "pull", &name, &name);
        Ok(())
    }
}

/// `POST /images/{name}/push`; without a tag, all tags of the repository.
pub fn push(engine: Engine, name: &str, query: &Query, headers: &HeaderMap) -> Result {
    let whole = Reference::parse_familiar(name)?;
    let repository = whole.familiar_name();
    let references = match (query.text("tag"), whole.tag()) {
        (Some(tag), _) => vec![whole.with_tag(tag)?],
        (None, Some(_)) => vec![whole.clone()],
        (None, None) => {
            let all = engine.images().list();
            let tags = all.iter().flat_map(|i| &i.repo_tags);
            let tags = tags.filter_map(|t| Reference::parse_normalized(t).ok());
            tags.filter(|t| t.familiar_name() == repository).collect()
        }
    };
    let credentials = credentials(headers)?;
    let (sender, receiver) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        let say = |line: Value| {
            // A push goes on without its client, as a pull does.
            let _ = sender.send(line);
        };
        say(json!({ "status": format!("The push refers to repository [{}]", whole.name()) }));
        if references.is_empty() {
            let text = format!("An image does not exist locally with the tag: {repository}");
            say(json!({ "errorDetail": { "message": text }, "error": text }));
        }
        for reference in references {
            let name = reference.familiar();
            if engine.images().get(&reference.to_string()).is_err() {
                let text = format!("An image does not exist locally with the tag: {name}");
                say(json!({ "errorDetail": { "message": text }, "error": text }));
                return;
            }
            let progress = |event: ProgressEvent| {
                let mut line = progress_line(&event);
                if event.status == Status::AlreadyExists {
                    line["status"] = json!("Layer already exists");
                }
                say(line);
            };
            match engine
                .images()
                .push(&reference, credentials.as_ref(), &progress)
                .await
            {
                Ok(pushed) => {
                    let tag = reference.tag().unwrap_or("latest");
                    let (digest, size) = (pushed.digest.to_string(), pushed.size);
                    say(json!({ "status": format!("{tag}: digest: {digest} size: {size}") }));
                    let aux = json!({ "Tag": tag, "Digest": digest, "Size": size });
                    say(json!({ "progressDetail": {}, "aux": aux }));
                    tell(&engine, "push", &name, &name);
                }
                Err(error) => {
                    say(failed(&error));
                    return;
                }
            }
        }
    });
    Ok(lines(received(receiver)))
}

/// Who the client is to the registry: base64url of JSON in the header `X-Registry-Auth`.
pub fn credentials(headers: &HeaderMap) -> Result<Option<Credentials>> {
    let Some(value) = headers.get("x-registry-auth").filter(|v| !v.is_empty()) else {
        return Ok(None);
    };
    let bad = |why: String| {
        ApiError::invalid(format!(
            "the header X-Registry-Auth cannot be read: {why}; log in again"
        ))
    };
    let text = value.to_str().map_err(|e| bad(e.to_string()))?;
    let bytes = decoded(text).map_err(|e| bad(e.to_string()))?;
    let auth: Auth = serde_json::from_slice(&bytes).map_err(|e| bad(e.to_string()))?;
    auth.credentials().map_err(bad)
}

pub fn reader(request: Request) -> impl tokio::io::AsyncRead + Send + Unpin {
    StreamReader::new(Box::pin(
        request
            .into_body()
            .into_data_stream()
            .map_err(io::Error::other),
    ))
}

async fn import(
    engine: Engine,
    query: &Query,
    archive: impl AsyncRead + Send + Unpin + 'static,
) -> Result {
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
    let image: Image = engine.images().import(archive, options).await?;
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

pub async fn load(State(app): State<App>, query: Query, request: Request) -> Result {
    if query.text("platform").is_some() {
        return Err(ApiError::invalid(
            "parameter platform is not supported: an archive is loaded for this machine's; leave it out",
        ));
    }
    let (sender, receiver) = mpsc::unbounded_channel();
    let engine = app.engine;
    let mut refused = false;
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
            refused = true;
        }
    }
    drop(sender);
    let mut answer = lines(received(receiver));
    if refused {
        answer.extensions_mut().insert(crate::rest::Refusal);
    }
    Ok(answer)
}

pub async fn save(engine: &Engine, names: Vec<String>) -> Result {
    let archive = engine.images().save(&names).await?;
    for name in &names {
        if let Ok(image) = engine.images().get(name) {
            tell(engine, "save", &image.id.to_string(), name);
        }
    }
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
    for name in &names {
        crate::platform::check_platform(&app.engine, name, query.text("platform"))?;
    }
    save(&app.engine, names).await
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn credentials_in_a_header() {
        use base64::Engine as _;
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
