//! RUN: a command in a container of its own, on top of what the stage has.

use crate::build::Settle;
use crate::caches::Used;
use crate::error::{BuildError, Result, file, invalid};
use crate::key::Key;
use crate::report::Event;
use crate::stage::{PROXIES, Stage};
use crate::stubs::Stubs;
use crate::tree;
use crate::work::Mounted;
use coracle_dockerfile::{Command, Mount as RunMount, MountKind, Run, Sharing};
use coracle_engine::model::config::Args;
use coracle_engine::model::{ContainerConfig, CreateRequest, Mount};
use coracle_image::{CacheRecord, Pin};
use std::collections::BTreeMap;
use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// What is mounted for a command, and what must live as long.
#[derive(Default)]
struct Mounts {
    mounts: Vec<Mount>,
    caches: BTreeMap<String, Used>,
    _mounted: Vec<Mounted>,
    /// What keeps layers that are mounted.
    _pins: Vec<Pin>,
    secrets: Option<tempfile::TempDir>,
}

/// A here-document that is a program: its name and text.
type Script = (String, String);
/// Where such programs are in the container.
const SCRIPTS: &str = "/dev/pipes";

impl Stage {
    pub async fn run_command(&mut self, run: &Run) -> Result<()> {
        match run.security.as_deref() {
            None | Some("sandbox") => {}
            Some(other) => {
                return Err(invalid(format!(
                    "RUN --security={other} is not allowed; leave it out"
                )));
            }
        }
        if !run.devices.is_empty() {
            return Err(invalid(
                "RUN --device is not supported by this release; leave it out",
            ));
        }
        let network = match run.network.as_deref() {
            None | Some("default") => None,
            Some(mode @ ("none" | "host")) => Some(mode.to_owned()),
            Some(other) => {
                return Err(invalid(format!(
                    "RUN --network={other}: use default, none or host"
                )));
            }
        };
        let (words, script) = self.command(run)?;
        let shown = words.join(" ");
        let mounts = self.parsed(run)?;
        let args: Vec<(String, String)> = {
            let env = self.state.env();
            let own = |name: &String| !env.iter().any(|(n, _)| n == name);
            let declared = self.state.args.iter().filter(|(n, _)| own(n));
            declared.map(|(n, v)| (n.clone(), v.clone())).collect()
        };
        let line = if args.is_empty() {
            format!("RUN {shown}")
        } else {
            let shown_args: Vec<String> = args.iter().map(|(n, v)| format!("{n}={v}")).collect();
            format!("RUN |{} {} {shown}", args.len(), shown_args.join(" "))
        };
        let mut key = Key::new("run 1")
            .add(self.state.chain().to_string())
            .all(&words)
            .all(run.heredocs.iter().map(|h| h.content.as_str()))
            .all(self.state.env().iter().map(|(n, v)| format!("{n}={v}")))
            .all(args.iter().map(|(n, v)| format!("{n}={v}")))
            .add(self.state.text("User"))
            .add(self.state.workdir())
            .add(network.as_deref().unwrap_or(""))
            .add(
                self.shared
                    .epoch
                    .map(|e| e.to_rfc3339())
                    .unwrap_or_default(),
            );
        for mount in &mounts {
            key.put(format!("{mount:?}"));
            if mount.kind == MountKind::Bind {
                key.put(self.digest_of(mount).await?);
            }
        }
        let key = key.finish();
        if let Some((record, pin)) = self.shared.cached(&key) {
            self.voice.say(Event::Cached);
            self.state.layer(line, record.layer, record.created, pin);
            return Ok(());
        }
        let mut mounted = self.mount(&mounts).await?;
        if let Some((name, text)) = script {
            mounted.mounts.push(self.script(&name, &text)?);
        }
        let stubs = {
            let root = self.open(&self.state.layers)?;
            let targets = mounted.mounts.iter().map(|m| Path::new(&m.target));
            Stubs::look(root.as_fd(), targets)?
        };
        let request = self.request(words, args, network, std::mem::take(&mut mounted.mounts));
        let layer = self.execute(request, &shown, stubs).await?;
        drop(mounted);
        let mut record = CacheRecord::new(key, layer.diff_id, line.clone());
        record.created = self.shared.now();
        self.state
            .layer(line, layer.diff_id, record.created, Some(layer.pin));
        self.shared.remember(record);
        Ok(())
    }

    /// The words that are run, and a here-document that is a script by itself.
    fn command(&self, run: &Run) -> Result<(Vec<String>, Option<Script>)> {
        let (Command::Shell(text), Some(first)) = (&run.command, run.heredocs.first()) else {
            return Ok((self.words(&run.command), None));
        };
        let alone = run.heredocs.len() == 1
            && text.trim_start().starts_with("<<")
            && text.split_whitespace().count() == 1;
        let whole = if !alone {
            // The shell reads it, as it is written.
            let mut whole = text.clone();
            for document in &run.heredocs {
                whole = format!("{whole}\n{}{}", document.content, document.name);
            }
            whole
        } else if first.text().starts_with("#!") {
            let name = first.name.rsplit('/').next().unwrap_or("script").to_owned();
            let path = format!("{SCRIPTS}/{name}");
            let words = self.words(&Command::Shell(path));
            return Ok((words, Some((name, first.text()))));
        } else {
            first.text()
        };
        Ok((self.words(&Command::Shell(whole)), None))
    }

    fn script(&self, name: &str, text: &str) -> Result<Mount> {
        let dir = self.shared.work.directory("script")?;
        let path = dir.join(name);
        fs::write(&path, text).map_err(file("writing", &path))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755))
            .map_err(file("setting the mode of", &path))?;
        Ok(bind(&path, &format!("{SCRIPTS}/{name}"), true))
    }

    fn parsed(&self, run: &Run) -> Result<Vec<RunMount>> {
        let mut mounts = Vec::new();
        for text in &run.mounts {
            let whole = self.text(text)?;
            let mount = RunMount::parse(&whole)
                .map_err(|why| invalid(format!("RUN --mount={text}: {why}")))?;
            if mount.kind == MountKind::Ssh {
                return Err(invalid(
                    "RUN --mount=type=ssh is not supported by this release; give the key as a secret",
                ));
            }
            if mount.env.is_some() {
                return Err(invalid(
                    "RUN --mount=type=secret,env=… is not supported by this release: the container's record would have it; use target=",
                ));
            }
            mounts.push(mount);
        }
        Ok(mounts)
    }

    /// Digest of what a bind mount shows.
    async fn digest_of(&self, mount: &RunMount) -> Result<[u8; 32]> {
        let (root, pin) = self.root_of(mount.from.as_deref()).await?;
        let source = PathBuf::from(mount.source.clone().unwrap_or_default());
        let owners = mount.from.is_some();
        let hashed = tokio::task::spawn_blocking(move || {
            let _pin = pin;
            let root = root.as_fd();
            let real = tree::resolve(root, &source).map_err(|e| BuildError::Copy(e.into()))?;
            let real = real.strip_prefix("/").unwrap_or(&real);
            match tree::hash(root, real, owners, &|_| false) {
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => Err(BuildError::Missing(
                    format!("RUN --mount: {} is not there", source.display()),
                )),
                other => other.map_err(BuildError::Copy),
            }
        });
        hashed.await?
    }

    async fn mount(&self, wanted: &[RunMount]) -> Result<Mounts> {
        let mut all = Mounts {
            caches: self.caches(wanted).await?,
            ..Mounts::default()
        };
        for mount in wanted {
            let target = |default| self.mount_target(mount, default);
            match mount.kind {
                MountKind::Tmpfs => {
                    let mut tmpfs = Mount {
                        kind: "tmpfs".into(),
                        target: target(None)?,
                        ..Mount::default()
                    };
                    if let Some(size) = mount.size {
                        let size_bytes = i64::try_from(size).unwrap_or(i64::MAX);
                        tmpfs.tmpfs_options = Some(coracle_engine::model::TmpfsOptions {
                            size_bytes,
                            ..Default::default()
                        });
                    }
                    all.mounts.push(tmpfs);
                }
                MountKind::Bind => self.bind_mount(mount, &target(None)?, &mut all).await?,
                MountKind::Cache => {
                    let target = target(None)?;
                    if let Some(used) = all.caches.get(&self.cache_id(mount)?) {
                        let read_only = mount.read_only.unwrap_or(false);
                        all.mounts.push(bind(&used.path, &target, read_only));
                    }
                }
                MountKind::Secret => {
                    let id = mount.id.clone().or_else(|| {
                        let name = Path::new(mount.target.as_deref()?).file_name()?;
                        Some(name.to_string_lossy().into_owned())
                    });
                    let id = id.ok_or_else(|| invalid("RUN --mount=type=secret needs id=NAME"))?;
                    let Some(content) = self.shared.options.secrets.get(&id) else {
                        if mount.required {
                            return Err(invalid(format!(
                                "secret {id}: not found; give it with coracle build --secret id={id},src=FILE"
                            )));
                        }
                        continue;
                    };
                    let target = target(Some(format!("/run/secrets/{id}")))?;
                    let path = self.secret(mount, content, &mut all)?;
                    all.mounts.push(bind(&path, &target, true));
                }
                MountKind::Ssh => {}
            }
        }
        Ok(all)
    }

    /// Writes a secret where it does not outlive the power.
    fn secret(&self, mount: &RunMount, content: &[u8], all: &mut Mounts) -> Result<PathBuf> {
        let run_dir = secrets_dir(&self.shared.engine);
        crate::work::make(&run_dir, 0o700)?;
        let dir = match &all.secrets {
            Some(dir) => dir,
            None => {
                let dir = tempfile::Builder::new()
                    .prefix("secrets-")
                    .tempdir_in(&run_dir);
                all.secrets
                    .insert(dir.map_err(file("making a directory in", &run_dir))?)
            }
        };
        let path = dir.path().join(all.mounts.len().to_string());
        fs::write(&path, content).map_err(file("writing", &path))?;
        let mode = fs::Permissions::from_mode(mount.mode.unwrap_or(0o400));
        fs::set_permissions(&path, mode).map_err(file("setting the mode of", &path))?;
        std::os::unix::fs::chown(
            &path,
            Some(mount.uid.unwrap_or(0)),
            Some(mount.gid.unwrap_or(0)),
        )
        .map_err(file("setting the owner of", &path))?;
        Ok(path)
    }

    async fn bind_mount(&self, mount: &RunMount, target: &str, all: &mut Mounts) -> Result<()> {
        let source = mount.source.clone().unwrap_or_default();
        let read_only = mount.read_only.unwrap_or(true);
        // What is written is thrown away, and others may read the same directories.
        let (base, mounted) = match (&mount.from, read_only) {
            (None, true) => (self.shared.context.path.clone(), None),
            (from, _) => {
                let lower = match from {
                    None => vec![self.shared.context.path.clone()],
                    Some(from) => {
                        let (layers, pin) = self.layers_of(from).await?;
                        all._pins.push(pin);
                        self.lower(&layers)?
                    }
                };
                let mounted = self.shared.work.mount(&lower)?;
                (mounted.root.clone(), Some(mounted))
            }
        };
        let path = within(&base, &source)?;
        all._mounted.extend(mounted);
        all.mounts.push(bind(&path, target, read_only));
        Ok(())
    }

    /// Takes the caches that a command wants, by their names.
    async fn caches(&self, wanted: &[RunMount]) -> Result<BTreeMap<String, Used>> {
        let mut plans: BTreeMap<String, (Sharing, &RunMount)> = BTreeMap::new();
        for mount in wanted.iter().filter(|m| m.kind == MountKind::Cache) {
            let id = self.cache_id(mount)?;
            let plan = plans.entry(id).or_insert((mount.sharing, mount));
            if mount.sharing == Sharing::Locked {
                plan.0 = Sharing::Locked;
            }
        }
        // Stages are waited for before anything is locked that they may wait for.
        let mut begins = Vec::new();
        for (id, (sharing, mount)) in plans {
            let from = match &mount.from {
                Some(from) => Some(self.root_of(Some(from)).await?),
                None => None,
            };
            begins.push((id, sharing, mount, from));
        }
        let mut taken = BTreeMap::new();
        for (id, sharing, mount, from) in begins {
            let owner = (mount.uid.unwrap_or(0), mount.gid.unwrap_or(0));
            let mode = mount.mode.unwrap_or(0o755);
            let source = PathBuf::from(mount.source.clone().unwrap_or_default());
            let begin = move |to: &Path| match from {
                Some((root, _pin)) => fill(&root, &source, to),
                None => Ok(()),
            };
            let caches = &self.shared.caches;
            let used = caches.take(&id, &sharing, mode, owner, begin).await?;
            taken.insert(id, used);
        }
        Ok(taken)
    }

    fn cache_id(&self, mount: &RunMount) -> Result<String> {
        match &mount.id {
            Some(id) => Ok(id.clone()),
            None => self.mount_target(mount, None),
        }
    }

    fn mount_target(&self, mount: &RunMount, default: Option<String>) -> Result<String> {
        let target = mount.target.clone().or(default);
        let target = target.ok_or_else(|| invalid("RUN --mount needs target=PATH"))?;
        Ok(crate::stage::clean(
            &Path::new(self.state.workdir()).join(target),
        ))
    }

    fn request(
        &self,
        words: Vec<String>,
        args: Vec<(String, String)>,
        network: Option<String>,
        mounts: Vec<Mount>,
    ) -> CreateRequest {
        let mut host = self.shared.options.host.clone();
        if let Some(network) = network {
            host.network_mode = network;
        }
        host.mounts = mounts;
        host.log_config.kind = "none".into();
        let given = &self.shared.options.args;
        let proxies = PROXIES
            .iter()
            .flat_map(|p| [(*p).to_owned(), p.to_ascii_lowercase()]);
        let proxies = proxies.filter_map(|p| Some((p.clone(), given.get(&p)?.clone()?)));
        let mut env: Vec<(String, String)> = self.state.env();
        for (name, value) in proxies.chain(args) {
            if !env.iter().any(|(n, _)| *n == name) {
                env.push((name, value));
            }
        }
        CreateRequest {
            config: ContainerConfig {
                entrypoint: Some(Args(words)),
                env: env.into_iter().map(|(n, v)| format!("{n}={v}")).collect(),
                user: self.state.text("User").to_owned(),
                working_dir: self.state.workdir().to_owned(),
                ..ContainerConfig::default()
            },
            host_config: host,
            ..CreateRequest::default()
        }
    }

    async fn execute(
        &self,
        mut request: CreateRequest,
        shown: &str,
        stubs: Stubs,
    ) -> Result<coracle_image::Adopted> {
        static STEPS: AtomicU64 = AtomicU64::new(0);
        let own = format!("step {}", STEPS.fetch_add(1, Ordering::Relaxed));
        let engine = &self.shared.engine;
        let image = engine.images().transient(self.state.step_document(&own))?;
        request.config.image = image.id.to_string();
        let step = engine.step(request, self.shared.removals.clone()).await?;
        self.voice.say(Event::Running(step.short_id().to_owned()));
        let mut rest = Vec::new();
        let voice = self.voice.clone();
        let mut output = move |bytes: &[u8]| {
            rest.extend_from_slice(bytes);
            // A character may come in two pieces.
            let whole = match std::str::from_utf8(&rest) {
                Ok(_) => rest.len(),
                Err(e) if e.error_len().is_none() => e.valid_up_to(),
                Err(_) => rest.len(),
            };
            let text = String::from_utf8_lossy(&rest[..whole]).into_owned();
            rest.drain(..whole);
            voice.output(text);
            let voice = voice.clone();
            // Nobody who does not listen is sent more and more.
            Box::pin(async move { voice.ready().await }) as coracle_engine::step::Heard
        };
        let ended = step.run(&mut output).await?;
        if ended.code != 0 {
            let error = BuildError::Command {
                command: shown.to_owned(),
                code: ended.code,
                oom: ended.oom_killed,
            };
            step.remove().await?;
            return Err(error);
        }
        let (upper, images, newest) = (step.upper(), engine.images().clone(), self.shared.epoch);
        let root = self.open(&self.state.layers)?;
        // The container goes when its files are taken, not before, whoever waits; then the build's directory.
        let settle = Settle::new(&self.shared);
        let (step, settle, taken) = crate::within(&self.shared.work, move || {
            let taken = stubs
                .remove(root.as_fd(), &upper)
                .and_then(|()| Ok(images.adopt(&upper, newest)?));
            Ok((step, settle, taken))
        })
        .await?;
        settle.done();
        step.remove().await?;
        drop(image);
        taken
    }
}

/// Where secrets are as long as a command runs that gets them.
pub(crate) fn secrets_dir(engine: &coracle_engine::Engine) -> PathBuf {
    engine.options().run_dir.join("build-secrets")
}

fn bind(source: &Path, target: &str, read_only: bool) -> Mount {
    Mount {
        kind: "bind".into(),
        source: source.display().to_string(),
        target: target.to_owned(),
        read_only,
        ..Mount::default()
    }
}

/// A path below a directory of ours, links followed within it.
fn within(base: &Path, path: &str) -> Result<PathBuf> {
    let flags =
        rustix::fs::OFlags::PATH | rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::CLOEXEC;
    let failed = |e: rustix::io::Errno| BuildError::Copy(e.into());
    let root = rustix::fs::open(base, flags, rustix::fs::Mode::empty()).map_err(failed)?;
    let real = tree::resolve(root.as_fd(), Path::new(path)).map_err(failed)?;
    if tree::stat(root.as_fd(), &real).map_err(failed)?.is_none() {
        return Err(BuildError::Missing(format!(
            "RUN --mount: {path} is not there"
        )));
    }
    Ok(base.join(real.strip_prefix("/").unwrap_or(&real)))
}

/// Fills a new cache from a directory.
fn fill(root: &impl AsFd, source: &Path, to: &Path) -> Result<()> {
    use rustix::fs::{Mode, OFlags};
    let failed = |e: rustix::io::Errno| BuildError::Copy(e.into());
    let flags = OFlags::RDONLY | OFlags::DIRECTORY;
    let from = tree::open(root.as_fd(), source, flags).map_err(failed)?;
    let to = rustix::fs::open(to, flags | OFlags::CLOEXEC, Mode::empty()).map_err(failed)?;
    let rules = tree::Rules {
        owner: None,
        mode: None,
        excluded: &|_| false,
    };
    tree::Copier::new(rules)
        .inside(&from, Path::new(""), &to)
        .map_err(BuildError::Copy)?;
    Ok(())
}
