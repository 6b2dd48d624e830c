//! An image of a container: its own image, what it changed on top, and its configuration.

use crate::engine::Engine;
use crate::error::{EngineError, Result};
use crate::model::ContainerConfig;
use crate::record::{Phase, Record};
use coracle_image::{DeriveOptions, ImageId, Reference};
use serde_json::{Map, Value};

/// What an image's config has of a container's (OCI image specification, config.md, and Docker's extensions).
pub const OF_IMAGES: &[&str] = &[
    "User",
    "ExposedPorts",
    "Env",
    "Entrypoint",
    "Cmd",
    "Volumes",
    "WorkingDir",
    "Labels",
    "StopSignal",
    "ArgsEscaped",
    "Healthcheck",
    "Shell",
    "OnBuild",
];

/// What the new image shall be.
#[derive(Debug, Clone, Default)]
pub struct CommitOptions {
    /// Its name.
    pub reference: Option<Reference>,
    /// Counts more than the container's own, where it says something.
    pub config: Option<ContainerConfig>,
    /// Instructions as in a Dockerfile.
    pub changes: Vec<String>,
    /// Who made it.
    pub author: Option<String>,
    /// A remark.
    pub message: Option<String>,
    /// Whether the container is frozen meanwhile.
    pub pause: bool,
}

impl Engine {
    /// Makes an image of a container. What is mounted in it is not part of that.
    ///
    /// # Errors
    /// [`EngineError::NotFound`], [`EngineError::Image`] for instructions that cannot be read and for a full disk.
    pub async fn commit(&self, key: &str, options: CommitOptions) -> Result<ImageId> {
        let engine = self.clone();
        let key = self.find(key)?.id.to_string();
        // A client that leaves must not leave it frozen.
        tokio::spawn(async move { engine.commit_now(&key, options).await }).await?
    }

    async fn commit_now(&self, key: &str, options: CommitOptions) -> Result<ImageId> {
        let container = self.find(key)?;
        let runs = container.read(|r| r.state.phase == Phase::Running && !r.state.paused);
        let paused = options.pause && runs;
        // One that does not run must not begin to.
        let op = if runs {
            None
        } else {
            Some(container.op.clone().lock_owned().await)
        };
        if paused {
            self.pause(key).await?;
        }
        let record = container.record();
        let image = self.0.images.image(record.image()?);
        let made = match image {
            Ok(base) => {
                let upper = container.dir.join("upper");
                let options = DeriveOptions {
                    reference: options.reference,
                    config: config(&record, options.config)?,
                    changes: options.changes,
                    author: options.author,
                    message: options.message,
                    created_by: command(&record),
                };
                self.0.images.derive(base, &upper, options).await
            }
            Err(error) => Err(error),
        };
        if paused && let Err(error) = self.unpause(key).await {
            tracing::warn!(
                container = key,
                error = coracle_sys::full(&error),
                "it could not be let go on"
            );
        }
        drop(op);
        let made = made?;
        let id = made.id.to_string();
        self.tell(
            &container,
            "commit",
            &[("imageID", id), ("imageRef", made.repo_tags.join(","))],
        );
        Ok(made.id)
    }
}

fn command(record: &Record) -> String {
    let parts = [&record.config.entrypoint, &record.config.cmd];
    let words = parts
        .into_iter()
        .flatten()
        .flat_map(|a| a.0.iter().cloned());
    words.collect::<Vec<_>>().join(" ")
}

/// The image's part of the configuration; what `over` says counts more.
fn config(record: &Record, over: Option<ContainerConfig>) -> Result<Map<String, Value>> {
    let image_part = |config: &ContainerConfig| -> Result<Map<String, Value>> {
        let value = serde_json::to_value(config)
            .map_err(|e| EngineError::Invalid(format!("the configuration has no form: {e}")))?;
        let Value::Object(map) = value else {
            return Ok(Map::new());
        };
        let says = |v: &Value| match v {
            Value::Null => false,
            Value::String(s) => !s.is_empty(),
            Value::Array(a) => !a.is_empty(),
            Value::Object(o) => !o.is_empty(),
            _ => true,
        };
        let part = |(k, v): &(String, Value)| OF_IMAGES.contains(&k.as_str()) && says(v);
        Ok(map.into_iter().filter(part).collect())
    };
    let mut config = image_part(&record.config)?;
    let Some(over) = over else {
        return Ok(config);
    };
    for (key, value) in image_part(&over)? {
        match (config.get_mut(&key), value) {
            (Some(Value::Object(old)), Value::Object(new)) => old.extend(new),
            (Some(Value::Array(old)), Value::Array(new)) if key == "Env" => {
                let name = |v: &Value| {
                    v.as_str()
                        .map(|s| s.split('=').next().unwrap_or(s).to_owned())
                };
                old.retain(|o| !new.iter().any(|n| name(n) == name(o)));
                old.extend(new);
            }
            (_, value) => {
                config.insert(key, value);
            }
        }
    }
    Ok(config)
}
