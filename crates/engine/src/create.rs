//! From a request to a container that could be started.

use crate::container::Container;
use crate::engine::Engine;
use crate::error::{EngineError, Result};
use crate::id::{ContainerId, is_valid_name, readable_name};
use crate::model::config::{Args, Empty};
use crate::model::{ContainerConfig, CreateRequest, HealthConfig, check};
use crate::mounts;
use crate::record::{Record, ResolvedMount};
use coracle_image::Image;
use std::fs;
use std::os::unix::fs::DirBuilderExt;

/// A container that was made.
#[derive(Debug, Clone)]
pub struct Created {
    /// Its id.
    pub id: ContainerId,
    /// What a person should know.
    pub warnings: Vec<String>,
}

impl Engine {
    /// Makes a container. Its image must be here.
    ///
    /// # Errors
    /// [`EngineError::Image`] when the image is not here, [`EngineError::Conflict`] for a name in use,
    /// [`EngineError::Invalid`] for what cannot be honoured, [`EngineError::File`].
    pub async fn create(&self, name: Option<&str>, request: CreateRequest) -> Result<Created> {
        self.create_as(name, request, false).await
    }

    /// As [`Self::create`]; perhaps as a step of a build.
    pub(crate) async fn create_as(
        &self,
        name: Option<&str>,
        mut request: CreateRequest,
        step: bool,
    ) -> Result<Created> {
        check::check(&request)?;
        // Nobody removes it before the container is known.
        let (image, _claim) = self.0.images.claim(&request.config.image)?;
        inherit(&mut request.config, &image);
        let args = request.config.entrypoint.iter().chain(&request.config.cmd);
        if args.flat_map(|a| &a.0).all(String::is_empty) {
            return Err(EngineError::Invalid(
                "no command specified: the image has neither ENTRYPOINT nor CMD; give a command"
                    .into(),
            ));
        }
        self.settle_network(&mut request)?;
        self.settle_namespaces(&request)?;
        let id = ContainerId::random()?;
        let name = self.reserve_name(name, &id)?;
        if !step {
            self.0.images.used(&image.id);
        }
        // It writes and waits for the disk. Elsewhere it would go on when its caller is dropped, and leave a container that
        // nobody knows of.
        tokio::task::block_in_place(|| {
            let mut anonymous = Vec::new();
            let made = self.make(&id, &name, request, &image, step, &mut anonymous);
            if made.is_err() {
                self.table_mut().free(&name, &id);
                let _ = fs::remove_dir_all(self.container_dir(&id));
                for volume in anonymous {
                    // One that stays is pruned some day.
                    let _ = self.0.volumes.remove(&volume, &[]);
                }
            }
            made
        })
    }

    fn make(
        &self,
        id: &ContainerId,
        name: &str,
        mut request: CreateRequest,
        image: &Image,
        step: bool,
        anonymous: &mut Vec<String>,
    ) -> Result<Created> {
        if let Some(other) = request.host_config.network_mode.strip_prefix("container:") {
            // Who shares the network shares its names.
            let other = self.find(other)?.read(|r| r.config.clone());
            request.config.hostname = other.hostname;
            request.config.domainname = other.domainname;
        }
        if request.config.hostname.is_empty() {
            request.config.hostname = if request.host_config.network_mode == "host" {
                rustix::system::uname()
                    .nodename()
                    .to_string_lossy()
                    .into_owned()
            } else {
                id.short().to_owned()
            };
        }
        let mut warnings = Vec::new();
        if self.0.cgroups.is_v2() && request.host_config.oom_kill_disable == Some(true) {
            warnings.push("OomKillDisable has no meaning on cgroup v2; it was left out".to_owned());
        }
        let host = &request.host_config;
        if host.network_mode == "host" && !host.port_bindings.is_empty() {
            warnings.push("Published ports are discarded when using host network mode".to_owned());
        }
        if host.oom_kill_disable == Some(true) && host.memory == 0 {
            warnings.push(
                "OOM killer is disabled for the container, but no memory limit is set, this can result in the system running out of resources."
                    .to_owned(),
            );
        }
        let mounts = self.mounts_of(&request, anonymous)?;
        let dir = self.container_dir(id);
        let make = |path: &std::path::Path, mode| {
            fs::DirBuilder::new()
                .mode(mode)
                .create(path)
                .map_err(EngineError::file("making", path))
        };
        make(&dir, 0o710)?;
        // The root directory of the container is the upper directory's own: everybody inside must pass it.
        make(&dir.join("upper"), 0o755)?;
        make(&dir.join("work"), 0o700)?;
        let mut record = Record::new(id.clone(), name.to_owned(), request, image.id.to_string());
        record.mounts = mounts;
        record.step = step;
        record.save(&dir)?;
        if !record.host_config.auto_remove {
            self.sync_containers()?;
        }
        let container =
            Container::new(record, dir, self.shim_dir(id.as_str()), &self.0.cgroup_root);
        self.table_mut().insert(container.clone());
        self.tell(&container, "create", &[]);
        Ok(Created {
            id: id.clone(),
            warnings,
        })
    }

    /// Its own mounts, and those of other containers (`--volumes-from`) where it has none of its own.
    fn mounts_of(
        &self,
        request: &CreateRequest,
        anonymous: &mut Vec<String>,
    ) -> Result<Vec<ResolvedMount>> {
        let mut from: Vec<ResolvedMount> = Vec::new();
        for text in &request.host_config.volumes_from {
            let (name, mode) = text.split_once(':').unwrap_or((text, ""));
            if !mode
                .split(',')
                .all(|m| matches!(m, "" | "rw" | "ro" | "z" | "Z"))
            {
                return Err(EngineError::Invalid(format!(
                    "invalid mode for volumes-from: {mode}; write NAME:ro or NAME:rw"
                )));
            }
            for mut mount in self.find(name)?.read(|r| r.mounts.clone()) {
                if mode.split(',').any(|m| m == "ro") && mount.writable {
                    mount.make_read_only(true);
                }
                if !from.iter().any(|m| m.target == mount.target) {
                    from.push(mount);
                }
            }
        }
        if from.is_empty() {
            return mounts::resolve(request, &self.0.volumes, anonymous);
        }
        // A volume of the image needs not be made where another container's is taken.
        let mut own = request.clone();
        let taken = |path: &str| from.iter().any(|m| m.target == std::path::Path::new(path));
        own.config.volumes.retain(|path, _| !taken(path));
        let mut all = mounts::resolve(&own, &self.0.volumes, anonymous)?;
        from.retain(|m| !all.iter().any(|own| own.target == m.target));
        all.extend(from);
        Ok(all)
    }

    fn reserve_name(&self, name: Option<&str>, id: &ContainerId) -> Result<String> {
        if let Some(name) = name.filter(|n| !n.is_empty()) {
            let name = name.strip_prefix('/').unwrap_or(name);
            check_name(name)?;
            self.table_mut().reserve(name, id)?;
            return Ok(name.to_owned());
        }
        let mut attempt = 0;
        loop {
            let name = readable_name(attempt)?;
            match self.table_mut().reserve(&name, id) {
                Ok(()) => return Ok(name),
                Err(error) if attempt > 100 => return Err(error),
                Err(_) => attempt += 1,
            }
        }
    }

    /// Refuses namespaces of containers that are not there, or do not give theirs.
    fn settle_namespaces(&self, request: &CreateRequest) -> Result<()> {
        let host = &request.host_config;
        let networks = request
            .networking_config
            .endpoints_config
            .values()
            .flatten();
        for text in host.links.iter().chain(networks.flat_map(|e| &e.links)) {
            self.find(crate::names::link(text).0)?;
        }
        if let Some(other) = host.pid_mode.strip_prefix("container:") {
            self.find(other)?;
        }
        self.gives_ipc(&host.ipc_mode)
    }

    /// Refuses the IPC namespace of a container that keeps its own to itself.
    pub(crate) fn gives_ipc(&self, mode: &str) -> Result<()> {
        if let Some(other) = mode.strip_prefix("container:") {
            let other = self.find(other)?;
            if other.read(|r| r.host_config.ipc_mode != "shareable") {
                return Err(EngineError::Invalid(format!(
                    "can't join IPC of container {}: non-shareable IPC (hint: use IpcMode:shareable for the donor container)",
                    other.id
                )));
            }
        }
        Ok(())
    }

    /// Fills in the default network and refuses networks that are not there.
    fn settle_network(&self, request: &mut CreateRequest) -> Result<()> {
        let mode = &mut request.host_config.network_mode;
        let chosen = !(mode.is_empty() || mode == "default");
        if !chosen {
            *mode = "bridge".into();
        }
        if request.config.network_disabled == Some(true) {
            *mode = "none".into();
        }
        let mode = mode.clone();
        if let Some(other) = mode.strip_prefix("container:") {
            self.find(other)?;
            return Ok(());
        }
        // Docker's clients name the default network so in the endpoint's settings too.
        let endpoints = &mut request.networking_config.endpoints_config;
        if let Some(settings) = endpoints.remove("default") {
            endpoints.insert("bridge".into(), settings);
        }
        // Who names networks and no mode wants those networks, and not the default one besides.
        if chosen || endpoints.is_empty() {
            endpoints.entry(mode.clone()).or_default();
        }
        // The older place of the hardware address.
        let mac = request.config.mac_address.as_deref().unwrap_or_default();
        if let Some(settings) = endpoints.get_mut(&mode).filter(|_| !mac.is_empty()) {
            crate::ports::fixed_mac(mac)?;
            let settings = settings.get_or_insert_default();
            if !settings.mac_address.is_empty() && settings.mac_address != mac {
                return Err(EngineError::Invalid(
                    "the container-wide MAC address must match the endpoint-specific MAC address for the main network, \
                     or be left empty"
                        .into(),
                ));
            }
            mac.clone_into(&mut settings.mac_address);
        }
        for name in endpoints.keys() {
            self.0.networks.get(name)?;
        }
        if matches!(mode.as_str(), "host" | "none") && endpoints.len() > 1 {
            return Err(EngineError::Conflict(format!(
                "container cannot be connected to network {mode} and to others at the same time"
            )));
        }
        Ok(())
    }
}

pub(crate) fn check_name(name: &str) -> Result<()> {
    if is_valid_name(name) {
        return Ok(());
    }
    Err(EngineError::Invalid(format!(
        "Invalid container name ({name}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed"
    )))
}

/// Fills in what the image says and the request does not, by Docker's rules: a given entry point drops the image's
/// command, environment and labels are merged by name.
pub fn inherit(config: &mut ContainerConfig, image: &Image) {
    let Some(from) = image.config.config() else {
        return;
    };
    if config.user.is_empty() {
        config.user = from.user().clone().unwrap_or_default();
    }
    if config.working_dir.is_empty() {
        config.working_dir = from.working_dir().clone().unwrap_or_default();
    }
    if config.stop_signal.is_none() {
        config.stop_signal = from.stop_signal().clone().filter(|s| !s.is_empty());
    }
    for port in from.exposed_ports().iter().flatten() {
        let port = if port.contains('/') {
            port.clone()
        } else {
            format!("{port}/tcp")
        };
        config.exposed_ports.entry(port).or_insert(Empty {});
    }
    for path in from.volumes().iter().flatten() {
        config.volumes.entry(path.clone()).or_insert(Empty {});
    }
    // What ours say of a container is no image's to say.
    let of_others = |(key, _): &(&String, &String)| !key.starts_with("coracle.");
    for (key, value) in from.labels().iter().flatten().filter(of_others) {
        config
            .labels
            .entry(key.clone())
            .or_insert_with(|| value.clone());
    }
    inherit_env(&mut config.env, from.env().as_deref().unwrap_or_default());
    let given = config.entrypoint.is_some();
    // `--entrypoint ""` takes the image's away.
    if config.entrypoint.as_ref().is_some_and(|e| e.0 == [""]) {
        config.entrypoint = None;
    }
    if !given {
        config.entrypoint = from
            .entrypoint()
            .clone()
            .filter(|e| !e.is_empty())
            .map(Args);
        if config.cmd.as_ref().is_none_or(|c| c.0.is_empty()) {
            config.cmd = from.cmd().clone().map(Args);
        }
    }
    if config.shell.is_none() {
        config.shell = image.shell.clone();
    }
    inherit_health(config, image);
}

fn inherit_env(env: &mut Vec<String>, image: &[String]) {
    let name = |e: &str| e.split('=').next().unwrap_or(e).to_owned();
    let given: Vec<String> = env.iter().map(|e| name(e)).collect();
    let mut all: Vec<String> = image
        .iter()
        .filter(|e| !given.contains(&name(e)))
        .cloned()
        .collect();
    all.append(env);
    *env = all;
}

fn inherit_health(config: &mut ContainerConfig, image: &Image) {
    let Some(of_image) = &image.healthcheck else {
        return;
    };
    let nanos = |d: std::time::Duration| i64::try_from(d.as_nanos()).unwrap_or(i64::MAX);
    let health = config.healthcheck.get_or_insert_with(HealthConfig::default);
    if health.test.is_empty() {
        health.test.clone_from(&of_image.test);
    }
    let fill = |slot: &mut i64, value: i64| {
        if *slot == 0 {
            *slot = value;
        }
    };
    fill(&mut health.interval, nanos(of_image.interval));
    fill(&mut health.timeout, nanos(of_image.timeout));
    fill(&mut health.start_period, nanos(of_image.start_period));
    fill(&mut health.start_interval, nanos(of_image.start_interval));
    fill(&mut health.retries, i64::from(of_image.retries));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn environment_is_merged_by_name() {
        let mut env = vec!["A=mine".to_owned(), "B".into()];
        inherit_env(
            &mut env,
            &["PATH=/bin".into(), "A=image".into(), "B=image".into()],
        );
        assert_eq!(env, ["PATH=/bin", "A=mine", "B"]);
    }
}
