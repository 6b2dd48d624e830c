//! `GET /images/{name}/json` and `/images/{name}/history`.

use crate::error::Result;
use crate::inspect::moment;
use crate::version::ApiVersion;
use axum::Json;
use axum::response::IntoResponse;
use coracle_engine::Engine;
use coracle_engine::commit::OF_IMAGES;
use serde_json::{Value, json};

pub fn inspect(engine: &Engine, name: &str, version: ApiVersion) -> Result {
    let image = engine.images().get(name)?;
    let raw: Value = serde_json::from_slice(&image.raw_config).unwrap_or_default();
    let dirs = engine.images().layer_dirs(&image.id)?;
    let dirs: Vec<String> = dirs.iter().map(|d| d.display().to_string()).collect();
    let history = raw["history"].as_array().cloned().unwrap_or_default();
    let comment = history
        .last()
        .and_then(|h| h["comment"].as_str())
        .unwrap_or_default();
    let mut answer = json!({
        "Id": image.id.to_string(),
        "RepoTags": image.repo_tags,
        "RepoDigests": image.repo_digests,
        "Parent": "",
        "Comment": comment,
        "Created": moment(image.created),
        "DockerVersion": raw["docker_version"].as_str().unwrap_or_default(),
        "Author": raw["author"].as_str().unwrap_or_default(),
        "Config": config(&raw["config"], version),
        "Architecture": raw["architecture"],
        "Variant": raw["variant"].as_str().unwrap_or_default(),
        "Os": raw["os"],
        "Size": image.size,
        "GraphDriver": {
            "Name": "overlay2",
            "Data": {
                "UpperDir": dirs.first().cloned().unwrap_or_default(),
                "LowerDir": dirs.get(1..).unwrap_or_default().join(":"),
            },
        },
        "RootFS": { "Type": "layers", "Layers": image.layers.iter().map(ToString::to_string).collect::<Vec<_>>() },
        "Metadata": { "LastTagTime": moment(Some(image.added)) },
    });
    if !version.from(44) {
        answer["VirtualSize"] = json!(image.size);
    }
    if !version.from(45) {
        answer["Container"] = json!(raw["container"].as_str().unwrap_or_default());
        answer["ContainerConfig"] = config(&raw["container_config"], version);
    }
    Ok(Json(answer).into_response())
}

/// The image's config: what it says, as of version 1.50; with the fields of containers that clients expected before.
fn config(raw: &Value, version: ApiVersion) -> Value {
    let mut config = raw.clone();
    if !config.is_object() {
        config = json!({});
    }
    if version.from(50) {
        let says = |v: &Value| match v {
            Value::Null | Value::Bool(false) => false,
            Value::String(s) => !s.is_empty(),
            Value::Array(a) => !a.is_empty(),
            Value::Object(o) => !o.is_empty(),
            _ => true,
        };
        if let Some(map) = config.as_object_mut() {
            map.retain(|key, value| OF_IMAGES.contains(&key.as_str()) && says(value));
        }
        return config;
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

pub fn history(engine: &Engine, name: &str) -> Result {
    let image = engine.images().get(name)?;
    let raw: Value = serde_json::from_slice(&image.raw_config).unwrap_or_default();
    let mut steps = raw["history"].as_array().cloned().unwrap_or_default();
    // Sizes go to the lines that made layers, in their order.
    let mut layers = image.layers.iter();
    let mut sizes = Vec::new();
    for step in &steps {
        let layer = if step["empty_layer"] == true {
            None
        } else {
            layers.next()
        };
        sizes.push(layer.map_or(0, |l| engine.images().layer_size(l)));
    }
    steps.reverse();
    sizes.reverse();
    let mut rows: Vec<Value> = steps
        .iter()
        .zip(sizes)
        .map(|(step, size)| {
            let created = step["created"]
                .as_str()
                .and_then(|t| chrono::DateTime::parse_from_rfc3339(t).ok());
            json!({
                "Id": "<missing>",
                "Created": created.map_or(0, |t| t.timestamp()),
                "CreatedBy": step["created_by"].as_str().unwrap_or_default(),
                "Tags": null,
                "Size": size,
                "Comment": step["comment"].as_str().unwrap_or_default(),
            })
        })
        .collect();
    if rows.is_empty() {
        rows.push(json!({ "Created": image.created.map_or(0, |t| t.timestamp()), "CreatedBy": "", "Size": image.size, "Comment": "" }));
    }
    rows[0]["Id"] = json!(image.id.to_string());
    rows[0]["Tags"] = json!(image.repo_tags);
    Ok(Json(rows).into_response())
}
