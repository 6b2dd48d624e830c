//! Starting a container.
//!
//! The order, and what a kill of the daemon between two steps leaves:
//!
//! 1. addresses are reserved in memory, the files that name things are written: nothing to clean up;
//! 2. the record is written with addresses and ports: a next daemon gives them back, as no shim runs;
//! 3. the holder forks the shim, which makes its namespaces and the container: a next daemon finds a shim that
//!    was never started and lets it leave;
//! 4. links and ports are put in place while the shim works: a next daemon removes links of nobody;
//! 5. clients that attached early are connected, so that they see the first byte;
//! 6. `Start`: from here on the shim knows the truth, and a next daemon asks it.

use crate::client::Shim;
use crate::container::Container;
use crate::copyup;
use crate::engine::Engine;
use crate::error::{EngineError, Result};
use crate::files::{self, Facts};
use crate::names::SERVICE_LABEL;
use crate::ports::{endpoint_request, ports};
use crate::record::{Phase, Record};
use crate::spec::{self, Inputs, user};
use chrono::Utc;
use coracle_network::{Driver, Endpoint, PortMapping};
use coracle_shim_protocol::shim::{LogConfig, Request, Rootfs, ShimSpec, Workload};
use std::fs;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::Arc;

impl Engine {
    /// Starts a container and returns once its program runs.
    ///
    /// # Errors
    /// [`EngineError::NotModified`] if it runs already; [`EngineError::Start`] with Docker's exit code if the
    /// program cannot be run; whatever is missing, by name.
    pub async fn start(&self, key: &str) -> Result<()> {
        self.start_once(key, None).await
    }

    /// As [`Self::start`]; a request of an id that started it before does nothing more, even if that run has ended.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub async fn start_once(&self, key: &str, request: Option<&str>) -> Result<()> {
        let container = match self.find(key) {
            // It ran, and went with its end.
            Err(_) if request.is_some() && self.gone(key).is_some() => {
                return Err(EngineError::NotModified);
            }
            found => found?,
        };
        let _op = container.op.lock().await;
        if request.is_some() && container.read(|r| r.state.started_by.as_deref() == request) {
            return Err(EngineError::NotModified);
        }
        match container.read(|r| (r.state.phase, r.state.paused)) {
            (Phase::Running, true) => {
                return Err(EngineError::Conflict(
                    "cannot start a paused container, try unpause instead".into(),
                ));
            }
            (Phase::Running, _) => return Err(EngineError::NotModified),
            (Phase::Removing | Phase::Dead, _) => {
                return Err(EngineError::Conflict(
                    "container is marked for removal and cannot be started".into(),
                ));
            }
            _ => {}
        }
        container.set_restart_timer(None);
        let by_hand = |r: &mut Record| {
            r.state.started_by = request.map(str::to_owned);
            r.state.restart_count = 0;
            r.state.stopped_by_hand = false;
        };
        self.run(&container, by_hand).await
    }

    /// Starts it; the caller holds `op` and has checked the phase. `first` is applied to the record with the first
    /// write.
    pub(crate) async fn run(
        &self,
        container: &Arc<Container>,
        first: impl FnOnce(&mut Record) + Send,
    ) -> Result<()> {
        let run = container.run.clone().lock_owned().await;
        match self.try_run(container, first).await {
            Ok(shim) => {
                let record = container.record();
                self.tell_mounts(&record, "mount");
                self.tell_links(&record, "connect");
                self.tell(container, "start", &[]);
                // Its name was known before; that it is there as an instance is so only now.
                match record.config.labels.contains_key(SERVICE_LABEL) {
                    true => self.names_changed(),
                    false => self.0.named.send_modify(|n| *n += 1),
                }
                self.watch_health(container);
                self.watch_exit(container.clone(), shim, run);
                Ok(())
            }
            Err(error) => {
                self.undo(container, &error).await;
                Err(error)
            }
        }
    }

    async fn undo(&self, container: &Arc<Container>, error: &EngineError) {
        for pending in container.take_pending() {
            drop(pending);
        }
        self.give_back(container).await;
        let (code, message) = (start_code(error), coracle_sys::full(error));
        container.happened(true, |r| {
            r.state.starting = false;
            r.state.started_by = None;
            r.state.clear_network();
            r.state.pid = 0;
            r.state.shim_pid = 0;
            r.state.exit_code = code;
            r.state.error = message;
            if r.state.phase == Phase::Restarting {
                r.state.phase = Phase::Exited;
            }
        });
        self.names_changed();
        // Docker removes such a container too when it was asked to remove it at its end.
        if container.read(Record::goes_by_itself) {
            let (engine, id) = (self.clone(), container.id.to_string());
            tokio::spawn(async move { engine.remove_ended(&id).await });
        }
    }

    async fn try_run(
        &self,
        container: &Arc<Container>,
        first: impl FnOnce(&mut Record) + Send,
    ) -> Result<Shim> {
        let record = container.record();
        let endpoints = self.reserve(&record)?;
        let shim = self.launch(container, &record, &endpoints, first).await;
        if shim.is_err() {
            self.abandon(container).await;
        }
        shim
    }

    async fn launch(
        &self,
        container: &Arc<Container>,
        record: &Record,
        endpoints: &[Endpoint],
        first: impl FnOnce(&mut Record) + Send,
    ) -> Result<Shim> {
        let layers = self.0.images.layer_dirs(&record.image()?)?;
        let mut spec = self.shim_spec(container, record, endpoints, layers.clone())?;
        self.ready_volumes(record).await?;
        copyup::fill(&self.0.volumes, record, &layers).await?;
        let _ = fs::remove_file(container.dir.join(coracle_shim_protocol::shim::EXIT_FILE));
        container.change(|r| {
            first(r);
            r.state.starting = true;
            r.state.healthy = false;
            r.state.endpoints = endpoints.to_vec();
            r.state.error.clear();
            r.state.watchdog = false;
        })?;
        spec.deadline = self.deadline(container, record).await?;
        let shim_pid = self.0.holder.spawn(spec).await?;
        let mut shim = Shim::prepare(&container.run_dir, &record.name).await?;
        let ports = self.plug(container, record, endpoints, shim_pid).await?;
        for pending in container.take_pending() {
            let request = Request::Attach {
                stdin: pending.streams.stdin,
                stdout: pending.streams.stdout,
                stderr: pending.streams.stderr,
            };
            let joined = Shim::stdio(&container.run_dir, &record.name, &request).await;
            // The client may have left.
            let _ = pending.reply.send(joined.map(|(connection, _)| connection));
        }
        self.names_changed();
        let pid = shim.start().await;
        let pid = pid.map_err(|error| self.not_for_here(record, error))?;
        container.happened(false, |r| {
            r.state.phase = Phase::Running;
            r.state.stopping = false;
            r.state.starting = false;
            r.state.paused = false;
            r.state.pid = pid;
            r.state.shim_pid = shim_pid;
            r.state.started_at = Some(Utc::now());
            r.state.set_published(ports);
            r.state.exit_code = 0;
            r.state.oom_killed = false;
        });
        Ok(shim)
    }

    /// Mounts what volumes with a file system of their own need.
    pub(crate) async fn ready_volumes(&self, record: &Record) -> Result<()> {
        for name in record.mounts.iter().filter_map(|m| m.name.clone()) {
            if self
                .0
                .volumes
                .get(&name)
                .is_ok_and(|v| !v.options.is_empty())
            {
                let volumes = self.0.volumes.clone();
                tokio::task::spawn_blocking(move || volumes.make_ready(&name)).await??;
            }
        }
        Ok(())
    }

    fn shim_spec(
        &self,
        container: &Container,
        record: &Record,
        endpoints: &[Endpoint],
        lower: Vec<PathBuf>,
    ) -> Result<ShimSpec> {
        let mode = record.host_config.network_mode.as_str();
        let upper = container.dir.join("upper");
        let roots: Vec<PathBuf> = std::iter::once(upper.clone())
            .chain(lower.clone())
            .collect();
        let user = user::resolve(
            &record.config.user,
            &record.host_config.group_add,
            &copyup::read_text(&roots, "etc/passwd"),
            &copyup::read_text(&roots, "etc/group"),
        )?;
        self.write_files(container, record, endpoints)?;
        let spec = spec::build(&Inputs {
            record,
            dir: container.dir.clone(),
            user,
            available_caps: &self.0.available_caps,
            host_devices: if record.host_config.privileged {
                spec::devices::host_devices()
            } else {
                Vec::new()
            },
            cgroup_v2: self.0.cgroups.is_v2(),
            cgroup: container.cgroup(),
            own_network: mode != "host" && !mode.starts_with("container:"),
            network_path: self
                .joined(mode, "network")?
                .map(|pid| format!("/proc/{pid}/ns/net").into()),
            pids_of: self.joined(&record.host_config.pid_mode, "PID namespace")?,
            ipc_of: self.joined_ipc(record)?,
            init: self.init(record)?,
            store: self.door_for(endpoints),
        })?;
        Ok(ShimSpec {
            version: 1,
            id: container.id.to_string(),
            state_dir: container.dir.clone(),
            run_dir: container.run_dir.clone(),
            workload: Workload::Container {
                spec: Box::new(spec),
                rootfs: Rootfs {
                    lower: lower
                        .into_iter()
                        .chain([crate::skeleton::directory(&self.0.options.state_dir)])
                        .collect(),
                    upper,
                    work: container.dir.join("work"),
                },
                seccomp: spec::seccomp(record, &self.0.available_caps)?,
            },
            log: log_config(container, record)?,
            terminal: record.config.tty,
            terminal_size: match record.host_config.console_size {
                [0, _] | [_, 0] => None,
                [rows, cols] => Some((rows, cols)),
            },
            open_stdin: record.config.open_stdin,
            stdin_once: record.config.stdin_once,
            cgroup: container.cgroup(),
            deadline: None,
        })
    }

    /// The program of `--init`. Without a pid namespace of its own a container has none: process 1 is another's there.
    fn init(&self, record: &Record) -> Result<Option<PathBuf>> {
        let host = &record.host_config;
        let own = matches!(host.pid_mode.as_str(), "" | "private");
        if host.init != Some(true) || !own {
            return Ok(None);
        }
        crate::holder::init_program(&self.0.options).map(Some)
    }

    /// The first process of the container whose shared memory is used; it may be another of that name than when it was asked for.
    fn joined_ipc(&self, record: &Record) -> Result<Option<u32>> {
        self.gives_ipc(&record.host_config.ipc_mode)?;
        self.joined(&record.host_config.ipc_mode, "IPC namespace")
    }

    /// The first process of `container:<name>`, whose namespace is joined.
    fn joined(&self, mode: &str, what: &str) -> Result<Option<u32>> {
        let Some(other) = mode.strip_prefix("container:") else {
            return Ok(None);
        };
        let other = self.find(other)?;
        match other.read(|r| (r.state.phase, r.state.pid)) {
            (Phase::Running, pid) => Ok(Some(pid)),
            _ => Err(EngineError::Conflict(format!(
                "cannot join {what} of a non running container: {}; start it first",
                other.name()
            ))),
        }
    }

    pub(crate) fn write_files(
        &self,
        container: &Container,
        record: &Record,
        endpoints: &[Endpoint],
    ) -> Result<()> {
        let mode = record.host_config.network_mode.as_str();
        if let Some(other) = mode.strip_prefix("container:") {
            let other = self.find(other)?;
            for name in ["hosts", "hostname", "resolv.conf"] {
                let to = container.dir.join(name);
                fs::copy(other.dir.join(name), &to).map_err(EngineError::file("writing", &to))?;
            }
            return Ok(());
        }
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let first = endpoints.first();
        let host_hosts = (mode == "host").then(|| read("/etc/hosts"));
        let resolv = read("/etc/resolv.conf");
        files::write(
            &container.dir,
            &record.host_config,
            &Facts {
                hostname: &record.config.hostname,
                domainname: &record.config.domainname,
                ip: first.map(|e| e.ip),
                ip6: endpoints.iter().find_map(|e| e.v6).map(|v6| v6.ip),
                gateway: first.map(|e| e.gateway),
                gateway6: first.and_then(|e| e.v6).map(|v6| v6.gateway),
                // On the default network docker looks no names up, and who names resolvers there gets those.
                own_names: endpoints.iter().any(|e| e.network_name != "bridge"),
                host_resolv_conf: &resolv,
                host_hosts: host_hosts.as_deref(),
            },
        )
    }

    /// Decides the addresses. What is reserved is given back by [`Self::give_back`].
    fn reserve(&self, record: &Record) -> Result<Vec<Endpoint>> {
        let mode = record.host_config.network_mode.as_str();
        if mode.starts_with("container:") {
            return Ok(Vec::new());
        }
        let mut endpoints = Vec::new();
        let configs = &record.networking.endpoints_config;
        // The network of the mode comes first: it gives the default route.
        let mut names: Vec<&String> = configs.keys().collect();
        names.sort_by_key(|n| n.as_str() != mode);
        for name in names {
            let network = self.0.networks.get(name)?;
            if network.driver != Driver::Bridge {
                continue;
            }
            let config = configs.get(name).cloned().flatten().unwrap_or_default();
            let request = endpoint_request(record, name, &config)?;
            endpoints.push(self.0.networks.reserve(&request)?);
        }
        Ok(endpoints)
    }

    /// Puts the links into the shim's namespace and opens the ports.
    async fn plug(
        &self,
        container: &Arc<Container>,
        record: &Record,
        endpoints: &[Endpoint],
        shim_pid: u32,
    ) -> Result<Vec<PortMapping>> {
        let mode = record.host_config.network_mode.as_str();
        if mode == "host" || mode.starts_with("container:") {
            return Ok(Vec::new());
        }
        let wanted = ports(&record.config, &record.host_config)?;
        if endpoints.is_empty() {
            return Ok(Vec::new());
        }
        let (networks, endpoints, id) = (
            self.0.networks.clone(),
            endpoints.to_vec(),
            container.id.to_string(),
        );
        tokio::task::spawn_blocking(move || -> Result<Vec<PortMapping>> {
            let netns = coracle_sys::netns::of_pid(shim_pid)
                .map_err(coracle_network::NetworkError::from)?;
            networks.connect(netns.as_fd(), &endpoints)?;
            if wanted.is_empty() {
                return Ok(Vec::new());
            }
            Ok(networks.publish(&id, &wanted)?)
        })
        .await?
    }

    /// Gives back addresses, links and ports.
    pub(crate) async fn give_back(&self, container: &Container) {
        let (networks, id) = (self.0.networks.clone(), container.id.to_string());
        let released = tokio::task::spawn_blocking(move || networks.release(&id)).await;
        self.gave_back(container, released);
    }

    /// As [`Self::give_back`], for the last run of a container, whose namespace goes with its shim.
    pub(crate) async fn give_back_with_namespace(&self, container: &Container) {
        let (networks, id) = (self.0.networks.clone(), container.id.to_string());
        let released =
            tokio::task::spawn_blocking(move || networks.release_with_namespace(&id)).await;
        self.gave_back(container, released);
    }

    #[allow(clippy::unused_self)]
    fn gave_back(
        &self,
        container: &Container,
        released: std::result::Result<
            std::result::Result<(), coracle_network::NetworkError>,
            tokio::task::JoinError,
        >,
    ) {
        match released {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::warn!(container = %container.id, error = &error as &dyn std::error::Error, "addresses could not be given back");
            }
            Err(error) => {
                tracing::warn!(container = %container.id, %error, "giving addresses back was interrupted")
            }
        }
    }

    /// Lets a shim that was not started leave.
    pub(crate) async fn abandon(&self, container: &Container) {
        if let Ok((shim, _)) = Shim::watch(&container.run_dir, container.id.short()).await {
            shim.release().await.await;
        }
        let _ = self.0.cgroups.kill_all(&container.cgroup());
    }
}

/// Docker's exit code for a start that failed.
fn start_code(error: &EngineError) -> i32 {
    match error {
        EngineError::Start { code, .. } => *code,
        _ => 128,
    }
}

fn log_config(container: &Container, record: &Record) -> Result<Option<LogConfig>> {
    let asked = &record.host_config.log_config;
    if asked.kind == "none" {
        return Ok(None);
    }
    let option = |key: &str| asked.config.get(key).map(String::as_str);
    let max_files = option("max-file").map_or(Ok(5), str::parse).unwrap_or(5);
    Ok(Some(LogConfig {
        path: container.dir.join(crate::logs::FILE),
        max_size: crate::logs::size("max-size", option("max-size").unwrap_or("20m"))?,
        max_files: max_files.max(1),
        attrs: crate::logs::attributes(asked, &record.config, |word| {
            let image = record.image_id.trim_start_matches("sha256:");
            Some(match word {
                "ID" => record.id.short().to_owned(),
                "FullID" => record.id.to_string(),
                "Name" => record.name.to_string(),
                "ImageID" => image.get(..12)?.to_owned(),
                "ImageFullID" => record.image_id.clone(),
                "ImageName" => record.config.image.clone(),
                _ => return None,
            })
        })?,
    }))
}
