//! One stage, instruction by instruction.

use crate::build::{Shared, shown};
use crate::error::{BuildError, Result, invalid};
use crate::plan::{Base, find};
use crate::report::{Event, Voice};
use crate::state::State;
use coracle_dockerfile::{
    Arg, Command, Healthcheck, Instruction, Kind, expand, expand_words, parse_onbuild,
};
use coracle_image::duration::nanoseconds;
use coracle_image::{ErrorKind, Image, Platform, ProgressEvent, Reference, Status};
use serde_json::{Map, Value, json};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

/// Arguments that RUN gets without their being declared, in either case.
pub(crate) const PROXIES: [&str; 5] = [
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "FTP_PROXY",
    "NO_PROXY",
    "ALL_PROXY",
];

/// A stage on its way.
pub(crate) struct Stage {
    pub shared: Arc<Shared>,
    number: usize,
    pub voice: Voice,
    pub state: State,
}

impl Stage {
    pub fn new(shared: Arc<Shared>, number: usize, voice: Voice) -> Self {
        let state = State::scratch(&shared.platform);
        Self {
            shared,
            number,
            voice,
            state,
        }
    }

    /// Does all of it.
    pub async fn run(mut self) -> Result<Arc<State>> {
        let shared = self.shared.clone();
        let stage = shared
            .file
            .stages
            .get(self.number)
            .ok_or_else(|| invalid("there is no such stage"))?;
        let (first, all) = shared.plan.count(&shared.file, self.number);
        self.voice
            .say(Event::Step(first + 1, all, stage.source.clone()));
        let (base, platform) = &shared.plan.bases[self.number];
        let begun = Instant::now();
        self.state = self
            .base(base, platform.as_ref())
            .await
            .map_err(|e| self.at(stage.line, &stage.source, e))?;
        self.voice
            .say(Event::Done(None, begun.elapsed().as_millis()));
        for trigger in std::mem::take(&mut self.state.triggers) {
            self.voice
                .output(format!("# Executing 1 build trigger: {trigger}\n"));
            let read = parse_onbuild(&trigger, '\\').map_err(|source| BuildError::Dockerfile {
                file: format!("ONBUILD of {}", shown(base)),
                source,
            })?;
            self.step(&read)
                .await
                .map_err(|e| self.at(stage.line, &format!("ONBUILD {trigger}"), e))?;
        }
        for (n, instruction) in stage.instructions.iter().enumerate() {
            let source = instruction.source.clone();
            self.voice.say(Event::Step(first + 2 + n, all, source));
            let begun = Instant::now();
            let before = self.state.layers.len();
            self.step(instruction)
                .await
                .map_err(|e| self.at(instruction.line, &instruction.source, e))?;
            let layer = self
                .state
                .layers
                .get(before)
                .map(coracle_image::Digest::short);
            self.voice
                .say(Event::Done(layer, begun.elapsed().as_millis()));
        }
        Ok(Arc::new(self.state))
    }

    fn at(&self, line: usize, step: &str, cause: BuildError) -> BuildError {
        if matches!(cause, BuildError::Needed) {
            return cause;
        }
        BuildError::Step {
            file: self.shared.options.dockerfile().to_owned(),
            line,
            step: step.to_owned(),
            cause: Box::new(cause),
        }
    }

    async fn base(&self, base: &Base, platform: Option<&Platform>) -> Result<State> {
        let mut state = match base {
            Base::Scratch => State::scratch(platform.unwrap_or(&self.shared.platform)),
            Base::Stage(number) => State::after(&*self.shared.stage(*number).await?),
            Base::Image(name) => {
                let image = self.image(name, platform).await?;
                let pin = self.shared.engine.images().hold(&image.layers);
                State::on(&image, pin)
            }
        };
        if let Some(epoch) = self.shared.epoch {
            state.stamp = epoch.timestamp();
        }
        Ok(state)
    }

    /// An image that is here, or comes here.
    pub async fn image(&self, name: &str, platform: Option<&Platform>) -> Result<Image> {
        let images = self.shared.engine.images();
        let _one = self.shared.pulling.lock().await;
        if !self.shared.options.pull {
            match images.get(name) {
                Ok(image) if fits(&image, platform.or(self.shared.options.platform.as_ref())) => {
                    images.used(&image.id);
                    return Ok(image);
                }
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(error.into()),
            }
        }
        let reference = Reference::parse_normalized(name)
            .map_err(|e| invalid(format!("invalid image name \"{name}\": {e}")))?;
        let reference = match (reference.tag(), reference.digest()) {
            (None, None) => reference
                .with_tag("latest")
                .map_err(|e| invalid(format!("invalid image name \"{name}\": {e}")))?,
            _ => reference,
        };
        self.voice
            .output(format!("Pulling {}\n", reference.familiar()));
        let voice = self.voice.clone();
        let progress = move |event: ProgressEvent| {
            if event.status == Status::PullComplete {
                voice.output(format!("{}: Pull complete\n", event.id));
            }
        };
        let platform = platform.or(self.shared.options.platform.as_ref());
        let credentials = self.shared.options.credentials_for(&reference);
        Ok(images
            .pull(&reference, platform, credentials, &progress)
            .await?)
    }

    /// What `--from` means.
    pub fn from(&self, from: &str) -> Base {
        find(&self.shared.file, self.number, from)
    }

    /// A text with its variables.
    pub fn text(&self, text: &str) -> Result<String> {
        let variable = |name: &str| self.state.variable(name);
        expand(text, self.shared.file.escape, &variable).map_err(|e| invalid(e.to_string()))
    }

    fn texts(&self, all: &[String]) -> Result<Vec<String>> {
        all.iter().map(|t| self.text(t)).collect()
    }

    async fn step(&mut self, instruction: &Instruction) -> Result<()> {
        let source = instruction.source.clone();
        match &instruction.kind {
            Kind::Run(run) => return self.run_command(run).await,
            Kind::Copy(copy) => return self.copy(copy, false, &source).await,
            Kind::Add(add) => return self.copy(add, true, &source).await,
            Kind::Workdir(path) => return self.workdir(path).await,
            Kind::Arg(args) => {
                let shown = self.declare(args)?;
                self.state.line(format!("ARG {shown}"));
            }
            Kind::Env(pairs) => {
                let pairs = self.pairs(pairs)?;
                for (name, value) in &pairs {
                    self.state.set_env(name, value);
                }
                self.state.line(format!("ENV {}", joined(&pairs)));
            }
            Kind::Label(pairs) => {
                let pairs = self.pairs(pairs)?;
                for (name, value) in &pairs {
                    set(&mut self.state.config, "Labels", name, json!(value));
                }
                self.state.line(format!("LABEL {}", joined(&pairs)));
            }
            Kind::Cmd(command) => {
                let words = self.words(command);
                self.state.config.insert("Cmd".into(), json!(words));
                self.state.cmd_set = true;
                self.state.line(format!("CMD {}", json!(words)));
            }
            Kind::Entrypoint(command) => {
                let words = self.words(command);
                self.state.config.insert("Entrypoint".into(), json!(words));
                // The base's CMD was made for the base's entry point.
                if !self.state.cmd_set {
                    self.state.config.remove("Cmd");
                }
                self.state.line(format!("ENTRYPOINT {}", json!(words)));
            }
            Kind::Expose(ports) => self.expose(ports)?,
            Kind::Healthcheck(check) => {
                let value = health(check)?;
                self.state.config.insert("Healthcheck".into(), value);
                self.state.line(source);
            }
            Kind::Maintainer(name) => {
                self.state.author = Some(name.clone());
                self.state.line(format!("MAINTAINER {name}"));
            }
            Kind::OnBuild(trigger) => {
                let list = self
                    .state
                    .config
                    .entry("OnBuild")
                    .or_insert_with(|| json!([]));
                if let Value::Array(list) = list {
                    list.push(json!(trigger));
                }
                self.state.line(source);
            }
            Kind::Shell(words) => {
                self.state.config.insert("Shell".into(), json!(words));
                self.state.line(format!("SHELL {}", json!(words)));
            }
            Kind::StopSignal(signal) => {
                let signal = self.text(signal)?;
                coracle_engine::stop::signal_number(&signal)?;
                self.state.config.insert("StopSignal".into(), json!(signal));
                self.state.line(format!("STOPSIGNAL {signal}"));
            }
            Kind::User(user) => {
                let user = self.text(user)?;
                if user.is_empty() {
                    return Err(invalid(
                        "USER with an empty name; write a user or user:group",
                    ));
                }
                self.state.config.insert("User".into(), json!(user));
                self.state.line(format!("USER {user}"));
            }
            Kind::Volume(paths) => {
                for path in self.texts(paths)? {
                    if path.trim().is_empty() {
                        return Err(invalid("VOLUME with an empty path"));
                    }
                    set(&mut self.state.config, "Volumes", &path, json!({}));
                }
                self.state.line(source);
            }
        }
        Ok(())
    }

    /// Declares arguments: a given value counts more than a global one, and that more than the default.
    fn declare(&mut self, args: &[Arg]) -> Result<String> {
        let mut shown = Vec::new();
        for arg in args {
            let given = self.shared.options.args.get(&arg.name).cloned().flatten();
            if let Ok(mut consumed) = self.shared.consumed.lock() {
                consumed.insert(arg.name.clone());
            }
            let default = arg.default.as_ref().map(|d| self.text(d)).transpose()?;
            let global = || self.shared.plan.globals.get(&arg.name).cloned();
            let value = given.or_else(|| default.clone()).or_else(global);
            if let Some(value) = value {
                self.state.args.insert(arg.name.clone(), value);
            }
            shown.push(match default {
                Some(default) => format!("{}={default}", arg.name),
                None => arg.name.clone(),
            });
        }
        Ok(shown.join(" "))
    }

    fn pairs(&self, pairs: &[(String, String)]) -> Result<Vec<(String, String)>> {
        let both = |(name, value): &(String, String)| {
            let name = self.text(name)?;
            if name.is_empty() {
                return Err(invalid("names can not be blank"));
            }
            Ok((name, self.text(value)?))
        };
        pairs.iter().map(both).collect()
    }

    /// The words of a command, the shell's before those of a shell form.
    pub fn words(&self, command: &Command) -> Vec<String> {
        match command {
            Command::Exec(words) => words.clone(),
            Command::Shell(text) => {
                let mut words = self.state.shell();
                words.push(text.clone());
                words
            }
        }
    }

    fn expose(&mut self, ports: &[String]) -> Result<()> {
        let mut all = Vec::new();
        for text in ports {
            let variable = |name: &str| self.state.variable(name);
            let words = expand_words(text, self.shared.file.escape, &variable)
                .map_err(|e| invalid(e.to_string()))?;
            for word in words {
                all.extend(exposed(&word)?);
            }
        }
        for port in &all {
            set(&mut self.state.config, "ExposedPorts", port, json!({}));
        }
        self.state
            .line(format!("EXPOSE map[{}]", all.join(":{} ") + ":{}"));
        Ok(())
    }

    async fn workdir(&mut self, path: &str) -> Result<()> {
        let path = self.text(path)?;
        if path.is_empty() {
            return Err(invalid("WORKDIR with an empty path"));
        }
        let whole = clean(&Path::new(self.state.workdir()).join(&path));
        self.state.config.insert("WorkingDir".into(), json!(whole));
        self.make_workdir(&whole).await
    }
}

/// Whether an image is for a platform.
fn fits(image: &Image, platform: Option<&Platform>) -> bool {
    let of = image.platform();
    platform.is_none_or(|p| of.os == p.os && of.architecture == p.architecture)
}

/// An absolute path without `.`, `..` and double slashes, as Go's `filepath.Clean` makes it.
pub(crate) fn clean(path: &Path) -> String {
    let mut parts: Vec<String> = Vec::new();
    for part in path.to_string_lossy().split('/') {
        match part {
            "" | "." => {}
            ".." => _ = parts.pop(),
            part => parts.push(part.to_owned()),
        }
    }
    format!("/{}", parts.join("/"))
}

fn joined(pairs: &[(String, String)]) -> String {
    let all: Vec<String> = pairs.iter().map(|(n, v)| format!("{n}={v}")).collect();
    all.join(" ")
}

fn set(config: &mut Map<String, Value>, key: &str, name: &str, value: Value) {
    let slot = config.entry(key).or_insert_with(|| json!({}));
    if !slot.is_object() {
        *slot = json!({});
    }
    slot[name] = value;
}

/// `80`, `80/udp`, `8000-8010/tcp`, `1000:80` as in `-p`, of which the last counts.
fn exposed(text: &str) -> Result<Vec<String>> {
    let bad = || {
        invalid(format!(
            "invalid containerPort: {text}; write for example 80, 53/udp or 8000-8010"
        ))
    };
    let (ports, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let protocol = protocol.to_ascii_lowercase();
    if !matches!(protocol.as_str(), "tcp" | "udp" | "sctp") {
        return Err(invalid(format!(
            "invalid proto: {protocol}; use tcp, udp or sctp"
        )));
    }
    let ports = ports.rsplit(':').next().unwrap_or(ports);
    let (from, to) = ports.split_once('-').unwrap_or((ports, ports));
    let (from, to): (u16, u16) = (
        from.parse().map_err(|_| bad())?,
        to.parse().map_err(|_| bad())?,
    );
    if from > to {
        return Err(bad());
    }
    Ok((from..=to).map(|p| format!("{p}/{protocol}")).collect())
}

fn health(check: &Healthcheck) -> Result<Value> {
    let Healthcheck::Check {
        test,
        interval,
        timeout,
        start_period,
        start_interval,
        retries,
    } = check
    else {
        return Ok(json!({ "Test": ["NONE"] }));
    };
    let mut value = Map::new();
    value.insert("Test".into(), json!(test));
    for (key, text) in [
        ("Interval", interval),
        ("Timeout", timeout),
        ("StartPeriod", start_period),
        ("StartInterval", start_interval),
    ] {
        if let Some(text) = text {
            let time = nanoseconds(text).ok_or_else(|| {
                invalid(format!(
                    "invalid duration \"{text}\"; write for example 30s"
                ))
            })?;
            value.insert(key.into(), json!(time));
        }
    }
    if let Some(text) = retries {
        let count: u32 = text
            .parse()
            .map_err(|_| invalid(format!("invalid number of retries \"{text}\"")))?;
        value.insert("Retries".into(), json!(count));
    }
    Ok(Value::Object(value))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn ports() {
        assert_eq!(exposed("80").unwrap(), ["80/tcp"]);
        assert_eq!(exposed("53/UDP").unwrap(), ["53/udp"]);
        assert_eq!(exposed("8000-8002").unwrap().len(), 3);
        assert_eq!(exposed("8080:80").unwrap(), ["80/tcp"]);
        for bad in ["", "x", "80/xyz", "9-8", "70000"] {
            assert!(exposed(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn paths() {
        assert_eq!(clean(Path::new("/a/./b/../c//d/")), "/a/c/d");
        assert_eq!(clean(Path::new("/../..")), "/");
    }
}
