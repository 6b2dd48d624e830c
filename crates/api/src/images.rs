//! Images.

use crate::App;
use crate::containers::body;
use crate::error::{ApiError, Result};
use crate::filters::Filters;
use crate::image_inspect::{history, inspect};
use crate::platform::check_platform;
use crate::query::Query;
use crate::transfer::{push, save};
use crate::version::ApiVersion;
use axum::Json;
use axum::extract::{Path, Request, State};
use axum::http::{Method, StatusCode};
use axum::response::IntoResponse;
use coracle_dockerfile::matches;
use coracle_engine::commit::CommitOptions;
use coracle_engine::events::Event;
use coracle_engine::record::Phase;
use coracle_engine::{Engine, EngineError, Snapshot};
use coracle_image::{ImageId, ImageSummary, InUse, Reference, Removed};
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap};

/// A line of the list; `containers` counts users, if that was asked, `shared` what it has in common with others.
pub fn row(
    image: &ImageSummary,
    containers: Option<usize>,
    shared: Option<u64>,
    version: ApiVersion,
) -> Value {
    let count = |n: u64| i64::try_from(n).unwrap_or(-1);
    let mut row = json!({
        "Id": image.id.to_string(),
        "ParentId": "",
        "RepoTags": image.repo_tags,
        "RepoDigests": image.repo_digests,
        "Created": image.created.map_or(0, |t| t.timestamp()),
        "Size": image.size,
        "SharedSize": shared.map_or(-1, count),
        "Labels": image.labels,
        "Containers": containers.map_or(-1, |n| i64::try_from(n).unwrap_or(-1)),
    });
    if !version.from(44) {
        row["VirtualSize"] = json!(image.size);
    }
    row
}

/// `POST /commit`.
pub async fn commit(
    State(app): State<App>,
    query: Query,
    bytes: bytes::Bytes,
) -> Result<(StatusCode, Json<Value>)> {
    let container = query
        .text("container")
        .ok_or_else(|| ApiError::invalid("parameter container is missing"))?;
    let reference = query
        .text("repo")
        .map(|repository| match query.text("tag") {
            Some(tag) => Reference::parse_normalized(repository)?.with_tag(tag),
            None => Reference::parse_normalized(repository),
        })
        .transpose()?;
    let changes = query.all("changes");
    let lines = changes.iter().flat_map(|c| c.lines());
    let options = CommitOptions {
        reference,
        config: body(&bytes)?,
        changes: lines
            .filter(|l| !l.trim().is_empty())
            .map(str::to_owned)
            .collect(),
        author: query.text("author").map(str::to_owned),
        message: query.text("comment").map(str::to_owned),
        pause: query.flag_or("pause", true),
    };
    let name = options.reference.as_ref().map(Reference::familiar);
    let id = app.engine.commit(container, options).await?;
    if let Some(name) = name {
        tell(&app.engine, "tag", &id.to_string(), &name);
    }
    Ok((StatusCode::CREATED, Json(json!({ "Id": id.to_string() }))))
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

pub async fn list(
    State(app): State<App>,
    query: Query,
    version: ApiVersion,
) -> Result<Json<Value>> {
    let filters = Filters::read(query.text("filters"), FILTERS)?;
    for pattern in filters.of("reference") {
        matches(pattern, "").map_err(|e| ApiError::invalid(format!("filter reference: {e}")))?;
    }
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
    let shared = match query.flag("shared-size") {
        true => Some(shared(&app.engine).await?),
        false => None,
    };
    let users = version.from(51).then(|| users(&app.engine.list()));
    Ok(Json(
        images
            .list()
            .iter()
            .filter(|i| fits(i))
            .map(|i| {
                let mut shown = i.clone();
                // Of its names only those that were asked for.
                let named = |n: &String| filters.any("reference", |p| reference_fits(n, p));
                shown.repo_tags.retain(named);
                shown.repo_digests.retain(named);
                let containers = users.as_ref().map(|u| u.get(&i.id).copied().unwrap_or(0));
                let shared = shared.as_ref().map(|s| s.get(&i.id).copied().unwrap_or(0));
                row(&shown, containers, shared, version)
            })
            .collect(),
    ))
}

/// Whether a name fits a pattern as `docker images --filter reference=` takes it (Go's `path.Match`); a pattern without a tag or
/// digest fits every one.
fn reference_fits(name: &str, pattern: &str) -> bool {
    let bare = name.split_once('@').or_else(|| name.rsplit_once(':'));
    let bare = bare.map_or(name, |(bare, _)| bare);
    [name, bare]
        .iter()
        .any(|n| matches(pattern, n).unwrap_or(false))
}

/// `/images/{name}/…`: what follows the name is told apart here, as names have slashes in them.
pub async fn named(
    State(app): State<App>,
    Path(rest): Path<String>,
    query: Query,
    version: ApiVersion,
    request: Request,
) -> Result {
    let method = request.method().clone();
    let (name, verb) = rest.rsplit_once('/').unwrap_or((&rest, ""));
    if method != Method::DELETE && matches!(verb, "json" | "history" | "get" | "push") {
        // A push names its tag apart.
        let tag = query.text("tag").filter(|_| verb == "push");
        let of = tag.map_or_else(|| name.to_owned(), |tag| format!("{name}:{tag}"));
        check_platform(&app.engine, &of, query.text("platform"))?;
    }
    match (method, verb) {
        (Method::GET, "json") => inspect(&app.engine, name, version),
        (Method::GET, "history") => history(&app.engine, name),
        (Method::GET, "get") => save(&app.engine, vec![name.to_owned()]).await,
        (Method::POST, "tag") => tag(&app.engine, name, &query),
        (Method::POST, "push") => push(app.engine, name, &query, request.headers()),
        (Method::DELETE, _) if query.text("platforms").is_some() => Err(ApiError::invalid(
            "parameter platforms is not supported: an image here is for one platform; remove it by its name",
        )),
        (Method::DELETE, _) => remove(&app.engine, &rest, query.flag("force")),
        _ => Err(ApiError::not_found(format!(
            "/images/{rest}: page not found, or not served by this release"
        ))),
    }
}

pub fn tell(engine: &Engine, action: &str, id: &str, name: &str) {
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
    if target.familiar_name() == "sha256" {
        return Err(ApiError::invalid(
            "refusing to create an ambiguous tag using digest algorithm as name; choose another name",
        ));
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
    let id = engine.images().get(name).map(|i| i.id.to_string());
    let id = id.unwrap_or_default();
    let removed = engine
        .images()
        .remove(name, force, &|id| user(engine, id))?;
    let rows = told(engine, &id, &removed);
    Ok(Json(rows).into_response())
}

/// How many containers were made from each image.
pub fn users(all: &[Snapshot]) -> HashMap<ImageId, usize> {
    let mut users = HashMap::new();
    for id in all.iter().filter_map(|s| s.record.image_id.parse().ok()) {
        *users.entry(id).or_default() += 1;
    }
    users
}

/// Bytes that each image has in common with others. It costs a look at every layer.
async fn shared(engine: &Engine) -> Result<BTreeMap<ImageId, u64>> {
    let images = engine.images().clone();
    let usage = tokio::task::spawn_blocking(move || images.usage(&Default::default()));
    Ok(usage.await.map_err(EngineError::from)?.shared)
}

/// Tells what went, and gives it as an answer has it.
fn told(engine: &Engine, id: &str, removed: &[Removed]) -> Vec<Value> {
    let one = |r: &Removed| match r {
        Removed::Untagged(name) => {
            tell(engine, "untag", id, name);
            json!({ "Untagged": name })
        }
        Removed::Deleted(id) => {
            let id = id.to_string();
            tell(engine, "delete", &id, &id);
            json!({ "Deleted": id })
        }
    };
    removed.iter().map(one).collect()
}

/// Bytes in all layers.
async fn on_disk(engine: &Engine) -> Result<u64> {
    let images = engine.images().clone();
    let sum = tokio::task::spawn_blocking(move || images.layers_size());
    Ok(sum.await.map_err(EngineError::from)?)
}

pub async fn prune(State(app): State<App>, query: Query) -> Result<Json<Value>> {
    let filters = Filters::read(
        query.text("filters"),
        &["dangling", "label", "label!", "until"],
    )?;
    let only_dangling = filters.switch("dangling").unwrap_or(true);
    let mut rows = Vec::new();
    let before = on_disk(&app.engine).await?;
    // Whoever goes back to one of the last revisions needs its image, whatever its name stands for by now.
    let needed = app.fleet.pinned_images().await?;
    for image in app.engine.images().list() {
        let old = filters.any("until", |until| {
            image.created.is_some_and(|c| crate::list::before(c, until))
        });
        let wanted = !only_dangling || image.repo_tags.is_empty();
        if !wanted
            || !old
            || needed.contains(&image.id.to_string())
            || !filters.labels(&image.labels)
            || user(&app.engine, &image.id).is_some()
        {
            continue;
        }
        if let Ok(removed) = app
            .engine
            .images()
            .remove(&image.id.to_string(), true, &|id| {
                // One that a container was made of meanwhile is not to lose its names.
                let user = user(&app.engine, id);
                user.map(|u| InUse { running: true, ..u })
            })
        {
            rows.extend(told(&app.engine, &image.id.to_string(), &removed));
        }
    }
    // Layers that another image, a container or the build cache has are still there.
    let bytes = match rows.is_empty() {
        true => 0,
        false => before.saturating_sub(on_disk(&app.engine).await?),
    };
    crate::containers::tell_prune(&app.engine, "image", bytes);
    Ok(Json(
        json!({ "ImagesDeleted": rows, "SpaceReclaimed": bytes }),
    ))
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
            ("a/bb/c:1", "a/*b/c", true),
            ("a/bb/c:1", "a/*/?:1", true),
            ("a/bb/c:1", "*c", false),
            ("a/bb/c:1", "a**/b*b*/c*", true),
            ("redis:7", "r[a-e]dis", true),
            ("host:5000/redis:7", "host:5000/redis", true),
            ("redis@sha256:00", "redis", true),
        ] {
            assert_eq!(reference_fits(name, pattern), fits, "{name} {pattern}");
        }
    }
}
