//! A daemon's start: what runs is taken over, what ended meanwhile is written down, what was cut short is undone.
//!
//! For each container the shim is asked first. It knows the truth as long as it lives. Without a shim, `exit.json` says
//! how the container ended; without that file the shim was killed (exit code 137), or, when the run directory was
//! emptied by a reboot, everything was (255, as Docker has it).

use crate::client::Shim;
use crate::container::Container;
use crate::engine::Engine;
use crate::error::{EngineError, Result};
use crate::exit::{Ended, decide, lost, read_exit};
use crate::id::ContainerId;
use crate::record::{Phase, Record};
use coracle_network::RestoredEndpoint;
use coracle_shim_protocol::shim::State;
use std::fs;
use std::io::ErrorKind;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// What a container turned out to be.
enum Found {
    Running(Shim),
    Ended,
    Idle,
}

impl Engine {
    pub(crate) async fn restore(&self) -> Result<()> {
        let dir = self.0.options.state_dir.join("containers");
        crate::remove::finish(&dir);
        for entry in fs::read_dir(&dir).map_err(EngineError::file("reading", &dir))? {
            let entry = entry.map_err(EngineError::file("reading", &dir))?;
            let Some(id) = entry
                .file_name()
                .to_str()
                .and_then(|n| ContainerId::from_known(n.to_owned()))
            else {
                continue;
            };
            self.load(&id)?;
        }
        let mut running = Vec::new();
        let mut ended = Vec::new();
        let mut restored = Vec::new();
        for container in self.containers() {
            match self.look(&container).await {
                Found::Running(shim) => {
                    restored.extend(restored_endpoints(&container));
                    running.push((container, shim));
                }
                Found::Ended => ended.push(container),
                Found::Idle => {}
            }
        }
        self.drop_strangers().await;
        let networks = self.0.networks.clone();
        let result = tokio::task::spawn_blocking(move || networks.restore(&restored)).await?;
        if let Err(error) = result {
            // The containers run on all the same; this says what does not.
            tracing::error!(
                error = coracle_sys::full(&error),
                "not every published port could be taken over"
            );
        }
        let mut stopping = Vec::new();
        for (container, shim) in running {
            if container.read(|r| r.state.stopping) {
                container.stopping.store(true, Ordering::Release);
                stopping.push(container.clone());
            }
            let run = container.run.clone().lock_owned().await;
            self.watch_health(&container);
            self.watch_exit(container, shim, run);
        }
        self.names_changed();
        self.serve_names().await;
        for container in stopping {
            // The daemon that was asked is gone, and with it what would have killed a container that takes too long.
            let engine = self.clone();
            tokio::spawn(async move {
                let _op = container.op.lock().await;
                match engine.stop_locked(&container, None, None).await {
                    Ok(()) | Err(EngineError::NotModified) => {}
                    Err(error) => {
                        tracing::warn!(container = %container.id, error = coracle_sys::full(&error), "a stop that was cut short failed");
                    }
                }
            });
        }
        for container in ended {
            self.clean_up(&container).await;
            self.again(&container).await;
        }
        self.drop_steps().await;
        let engine = self.clone();
        tokio::task::spawn_blocking(move || engine.release_images()).await?;
        for container in self.containers() {
            if container.phase() == Phase::Restarting {
                self.restart_later(&container, Duration::ZERO);
            } else if container.phase() == Phase::Exited {
                self.again(&container).await;
            }
        }
        Ok(())
    }

    /// Steps of builds that went with the daemon which made them.
    async fn drop_steps(&self) {
        for container in self.containers() {
            if container.read(|r| r.step) {
                let id = container.id.to_string();
                if let Err(error) = self.remove(&id, crate::step::REMOVE).await {
                    tracing::warn!(
                        container = id,
                        error = coracle_sys::full(&error),
                        "a step of a build that was cut short cannot be removed"
                    );
                }
            }
        }
    }

    fn load(&self, id: &ContainerId) -> Result<()> {
        let dir = self.container_dir(id);
        let record = match Record::load(&dir) {
            Ok(record) => record,
            Err(error @ EngineError::Version { .. }) => return Err(error),
            Err(EngineError::File { source, .. }) if source.kind() == ErrorKind::NotFound => {
                tracing::warn!(container = %id, "a creation that was cut short is undone");
                let _ = fs::remove_dir_all(&dir);
                return Ok(());
            }
            Err(error) => {
                // Nothing of ours leaves such a one. What is in the container may be all there.
                let aside = dir.with_file_name(format!(".damaged-{id}"));
                let (error, kept) = (coracle_sys::full(&error), aside.display());
                tracing::error!(container = %id, error, %kept, "its record is damaged; its files are kept");
                let _ = fs::rename(&dir, &aside);
                return Ok(());
            }
        };
        let mut table = self.table_mut();
        table.reserve(&record.name.clone(), id)?;
        table.insert(Container::new(
            record,
            dir,
            self.shim_dir(id.as_str()),
            &self.0.cgroup_root,
        ));
        Ok(())
    }

    async fn look(&self, container: &Arc<Container>) -> Found {
        let record = container.record();
        match Shim::watch(&container.run_dir, &record.name).await {
            Ok((shim, State::Running { pid, started_at })) => {
                let frozen = self
                    .0
                    .cgroups
                    .is_frozen(&container.cgroup())
                    .unwrap_or(false);
                container.happened(false, |r| {
                    r.state.phase = Phase::Running;
                    r.state.starting = false;
                    r.state.pid = pid;
                    r.state.paused = frozen;
                    r.state.started_at = Some(started_at);
                });
                Found::Running(shim)
            }
            Ok((shim, State::Exited { status })) => {
                self.ended(container, &status);
                shim.release().await.await;
                Found::Ended
            }
            Ok((shim, State::Prepared)) => {
                shim.release().await.await;
                let _ = self.0.cgroups.kill_all(&container.cgroup());
                self.never_started(container);
                Found::Idle
            }
            Err(_) if record.state.phase == Phase::Running || record.state.starting => {
                let status = read_exit(&container.dir).or_else(|| {
                    (record.state.phase == Phase::Running).then(|| self.lost(container))
                });
                let _ = self.0.cgroups.kill_all(&container.cgroup());
                match status {
                    Some(status) => self.ended(container, &status),
                    None => self.never_started(container),
                }
                Found::Ended
            }
            Err(_) => Found::Idle,
        }
    }

    fn lost(&self, container: &Container) -> coracle_shim_protocol::shim::ExitStatus {
        if container.run_dir.exists() {
            lost(137, "its shim was killed, and the container with it")
        } else {
            lost(255, "the machine went down while it ran")
        }
    }

    fn never_started(&self, container: &Container) {
        container.happened(false, |r| {
            r.state.starting = false;
            r.state.started_by = None;
            r.state.clear_network();
        });
    }

    /// Shims without a container: of one that was removed while its shim could not be reached.
    async fn drop_strangers(&self) {
        let dir = self.0.options.run_dir.join("shims");
        for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let Some(id) = ContainerId::from_known(name) else {
                // Host processes of units, which their owner looks after.
                continue;
            };
            let known = self.find(id.as_str()).is_ok_and(|c| c.id == id);
            if known {
                continue;
            }
            if let Ok((shim, _)) = Shim::watch(&entry.path(), id.short()).await {
                let cgroup = format!("{}/{id}", self.0.cgroup_root);
                let _ = self.0.cgroups.kill_all(&cgroup);
                shim.release().await.await;
            }
            let _ = fs::remove_dir_all(entry.path());
        }
    }

    /// Applies the restart policy to a container that does not run.
    async fn again(&self, container: &Arc<Container>) {
        let (policy, ended, auto_remove) = container.read(|r| {
            let by_hand = r.state.stopped_by_hand;
            // `always` means after a restart of the daemon too, even for one stopped by hand, as Docker has it.
            let by_hand = by_hand && r.host_config.restart_policy.name != "always";
            let ended = Ended {
                code: r.state.exit_code,
                by_hand,
                restarts: r.state.restart_count,
                ran: Duration::MAX,
            };
            (
                r.host_config.restart_policy.clone(),
                ended,
                r.host_config.auto_remove,
            )
        });
        if container.phase() != Phase::Exited {
            return;
        }
        if auto_remove {
            self.remove_ended(container.id.as_str()).await;
        } else if decide(&policy, ended).is_some() {
            self.restart_later(container, Duration::ZERO);
        }
    }
}

fn restored_endpoints(container: &Container) -> Vec<RestoredEndpoint> {
    let (endpoints, mut ports): (_, Vec<_>) = container.read(|r| {
        let ports = r.state.published().copied().collect();
        (r.state.endpoints.clone(), ports)
    });
    endpoints
        .into_iter()
        // Ports belong to the container: they are given once.
        .map(|endpoint| RestoredEndpoint {
            endpoint,
            ports: std::mem::take(&mut ports),
        })
        .collect()
}
