//! An image in the making: what a stage has so far.

use chrono::{DateTime, SecondsFormat, Utc};
use coracle_image::{Digest, Image, Pin, Platform};
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Programs are looked for here when an image says nothing.
const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// One line of the history that is being written.
#[derive(Debug, Clone)]
pub(crate) struct Line {
    pub created_by: String,
    /// When its layer was made; none of a line without one.
    pub created: Option<DateTime<Utc>>,
    pub empty: bool,
}

/// What a stage has so far.
#[derive(Clone)]
pub(crate) struct State {
    /// The base's config document, without what is below.
    document: Map<String, Value>,
    /// Its object `config`.
    pub config: Map<String, Value>,
    /// Diff ids, lowest first.
    pub layers: Vec<Digest>,
    base_history: Vec<Value>,
    pub lines: Vec<Line>,
    pub pins: Vec<Arc<Pin>>,
    /// Arguments that the stage has declared.
    pub args: BTreeMap<String, String>,
    /// Age of directories that are made by the way, in seconds since 1970.
    pub stamp: i64,
    /// Whether CMD was given in this stage.
    pub cmd_set: bool,
    /// ONBUILD instructions of the base, to be done first.
    pub triggers: Vec<String>,
    /// Of MAINTAINER, in this stage or one below.
    pub author: Option<String>,
}

impl State {
    /// Of nothing.
    pub fn scratch(platform: &Platform) -> Self {
        let mut document = Map::new();
        document.insert("architecture".into(), json!(platform.architecture));
        document.insert("os".into(), json!(platform.os));
        if let Some(variant) = &platform.variant {
            document.insert("variant".into(), json!(variant));
        }
        let mut config = Map::new();
        config.insert("Env".into(), json!([PATH]));
        Self {
            document,
            config,
            layers: Vec::new(),
            base_history: Vec::new(),
            lines: Vec::new(),
            pins: Vec::new(),
            args: BTreeMap::new(),
            stamp: 0,
            cmd_set: false,
            triggers: Vec::new(),
            author: None,
        }
    }

    /// On top of an image.
    pub fn on(image: &Image, pin: Pin) -> Self {
        let mut document = match serde_json::from_slice(&image.raw_config) {
            Ok(Value::Object(document)) => document,
            // The store read it before.
            _ => Map::new(),
        };
        // Docker's, of the container that the base was made in, and what is made anew.
        for key in [
            "container",
            "container_config",
            "docker_version",
            "id",
            "parent",
            "rootfs",
            "created",
        ] {
            document.remove(key);
        }
        let mut config = match document.remove("config") {
            Some(Value::Object(config)) => config,
            _ => Map::new(),
        };
        let base_history = match document.remove("history") {
            Some(Value::Array(history)) => history,
            _ => Vec::new(),
        };
        config.remove("Image");
        config.remove("Hostname");
        config.remove("OnBuild");
        let mut state = Self {
            document,
            config,
            layers: image.layers.clone(),
            base_history,
            lines: Vec::new(),
            pins: vec![Arc::new(pin)],
            args: BTreeMap::new(),
            stamp: image.created.map_or(0, |t| t.timestamp()),
            cmd_set: false,
            triggers: image.on_build.clone(),
            author: None,
        };
        if state.variable("PATH").is_none() {
            let (name, value) = PATH.split_once('=').unwrap_or((PATH, ""));
            state.set_env(name, value);
        }
        state
    }

    /// On top of another stage, whose arguments are declared here too.
    pub fn after(stage: &Self) -> Self {
        let mut state = stage.clone();
        state.cmd_set = false;
        state.triggers = match state.config.remove("OnBuild") {
            Some(Value::Array(list)) => {
                let text = |v: Value| v.as_str().map(str::to_owned);
                list.into_iter().filter_map(text).collect()
            }
            _ => Vec::new(),
        };
        state
    }

    /// A digest of all layers.
    pub fn chain(&self) -> Digest {
        chain(&self.layers)
    }

    pub fn env(&self) -> Vec<(String, String)> {
        let pair = |text: &str| {
            let (name, value) = text.split_once('=').unwrap_or((text, ""));
            (name.to_owned(), value.to_owned())
        };
        let list = self.config.get("Env").and_then(Value::as_array);
        let texts = list.into_iter().flatten().filter_map(Value::as_str);
        texts.map(pair).collect()
    }

    pub fn set_env(&mut self, name: &str, value: &str) {
        let mut all = self.env();
        match all.iter_mut().find(|(n, _)| n == name) {
            Some((_, old)) => value.clone_into(old),
            None => all.push((name.to_owned(), value.to_owned())),
        }
        let all: Vec<String> = all.iter().map(|(n, v)| format!("{n}={v}")).collect();
        self.config.insert("Env".into(), json!(all));
    }

    /// The value of a variable, as instructions see it: the environment counts more than arguments.
    pub fn variable(&self, name: &str) -> Option<String> {
        let env = self.env();
        let found = env.into_iter().find(|(n, _)| n == name).map(|(_, v)| v);
        found.or_else(|| self.args.get(name).cloned())
    }

    pub fn text(&self, key: &str) -> &str {
        self.config.get(key).and_then(Value::as_str).unwrap_or("")
    }

    pub fn workdir(&self) -> &str {
        match self.text("WorkingDir") {
            "" => "/",
            dir => dir,
        }
    }

    /// The words before a shell form's text.
    pub fn shell(&self) -> Vec<String> {
        let list = self.config.get("Shell").and_then(Value::as_array);
        let words = list.into_iter().flatten().filter_map(Value::as_str);
        let words: Vec<String> = words.map(str::to_owned).collect();
        if words.is_empty() {
            return vec!["/bin/sh".into(), "-c".into()];
        }
        words
    }

    pub fn line(&mut self, created_by: impl Into<String>) {
        self.lines.push(Line {
            created_by: created_by.into(),
            created: None,
            empty: true,
        });
    }

    /// A layer that a step made, or nothing.
    pub fn layer(
        &mut self,
        created_by: impl Into<String>,
        layer: Option<Digest>,
        created: DateTime<Utc>,
        pin: Option<Pin>,
    ) {
        self.layers.extend(layer);
        self.pins.extend(pin.map(Arc::new));
        self.lines.push(Line {
            created_by: created_by.into(),
            created: Some(created),
            empty: layer.is_none(),
        });
    }

    /// The config document as of `now`. Lines without a layer are as old as the layer before them.
    pub fn document(&self, now: DateTime<Utc>) -> Vec<u8> {
        let shown = |t: DateTime<Utc>| t.to_rfc3339_opts(SecondsFormat::AutoSi, true);
        let mut history = self.base_history.clone();
        let mut last = None;
        for line in &self.lines {
            last = line.created.or(last);
            let mut entry = json!({
                "created": shown(last.unwrap_or(now)),
                "created_by": line.created_by,
            });
            if line.empty {
                entry["empty_layer"] = json!(true);
            }
            history.push(entry);
        }
        let mut document = self.document.clone();
        let layers: Vec<String> = self.layers.iter().map(Digest::to_string).collect();
        document.insert("config".into(), Value::Object(self.config.clone()));
        document.insert("created".into(), json!(shown(now)));
        document.insert("history".into(), json!(history));
        document.insert(
            "rootfs".into(),
            json!({ "type": "layers", "diff_ids": layers }),
        );
        if let Some(author) = &self.author {
            document.insert("author".into(), json!(author));
        }
        Value::Object(document).to_string().into_bytes()
    }

    /// A config for containers of steps: what the stage has so far, and nothing that would act by itself.
    pub fn step_document(&self, own: &str) -> Vec<u8> {
        let mut config = self.config.clone();
        for key in [
            "Volumes",
            "Healthcheck",
            "Entrypoint",
            "Cmd",
            "ExposedPorts",
            "OnBuild",
            "StopSignal",
        ] {
            config.remove(key);
        }
        let layers: Vec<String> = self.layers.iter().map(Digest::to_string).collect();
        let mut document = self.document.clone();
        document.insert("config".into(), Value::Object(config));
        document.insert(
            "rootfs".into(),
            json!({ "type": "layers", "diff_ids": layers }),
        );
        // Two steps of the same state are two images, each with its own end.
        document.insert("comment".into(), json!(own));
        Value::Object(document).to_string().into_bytes()
    }
}

/// A digest of layers, lowest first.
pub(crate) fn chain(layers: &[Digest]) -> Digest {
    let mut hasher = Sha256::new();
    for layer in layers {
        hasher.update(layer.to_string());
    }
    Digest::finish(hasher)
}
