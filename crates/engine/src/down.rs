//! Taking everything down: containers, links, rules, sockets, the holder. What is on disk stays.

use crate::engine::Engine;
use crate::error::{EngineError, Result};
use crate::record::Phase;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(10);
const TERM: i32 = 15;
const KILL: i32 = 9;

impl Engine {
    /// Stops every container, so that it comes back with the next daemon as its restart policy says, and removes every
    /// link, rule and control group of ours; the holder leaves.
    ///
    /// # Errors
    /// The first thing that would not go; the rest has been tried.
    pub async fn down(&self, timeout: Option<Duration>) -> Result<()> {
        // Who looks after a host process would start it again: the holder would not leave.
        *self.0.ends.write().await = true;
        let done = self.take_down(timeout).await;
        // The daemon ends after this, unless something would not go.
        *self.0.ends.write().await = done.is_ok();
        done
    }

    async fn take_down(&self, timeout: Option<Duration>) -> Result<()> {
        let mut first = None;
        let mut keep = |result: Result<()>| match result {
            Ok(()) | Err(EngineError::NotModified | EngineError::NotFound { .. }) => {}
            Err(error) => first = first.take().or(Some(error)),
        };
        let mut stops = tokio::task::JoinSet::new();
        for container in self.containers() {
            let engine = self.clone();
            stops.spawn(async move {
                let _op = engine.op_to_end(&container, timeout).await?;
                let was = container.read(|r| r.state.stopped_by_hand);
                container.set_restart_timer(None);
                let running = container.phase() == Phase::Running;
                let stopped = engine.stop_locked(&container, None, timeout).await;
                // Until links and mounts are gone.
                let _run = container.run.lock().await;
                if running || container.phase() == Phase::Exited {
                    // The machine goes down; nobody asked this container to stay down.
                    container.happened(false, |r| r.state.stopped_by_hand = was);
                }
                stopped
            });
        }
        while let Some(stopped) = stops.join_next().await {
            keep(stopped.map_err(EngineError::from).and_then(|r| r));
        }
        let processes = self.processes().await;
        for (id, _) in &processes {
            // One that has ended says so to its waiter.
            let _ = self.process_signal(id, TERM, false).await;
        }
        let end = Instant::now() + timeout.unwrap_or(PATIENCE).min(PATIENCE);
        for (id, _) in processes {
            let left = end.saturating_duration_since(Instant::now());
            let ended = match tokio::time::timeout(left, self.process_wait(&id)).await {
                Ok(ended) => ended,
                Err(_) => {
                    let _ = self.process_signal(&id, KILL, true).await;
                    self.process_wait(&id).await
                }
            };
            keep(ended.map(|_| ()));
        }
        for network in self.0.networks.list() {
            self.stop_names(&network).await;
            self.close_door(&network).await;
        }
        let networks = self.0.networks.clone();
        keep(
            tokio::task::spawn_blocking(move || networks.teardown())
                .await
                .map_err(EngineError::from)
                .and_then(|r| r.map_err(EngineError::from)),
        );
        keep(self.retire_holder().await);
        keep(
            self.0
                .cgroups
                .remove_root(&self.0.cgroup_root)
                .map_err(EngineError::from),
        );
        let volumes = self.0.volumes.clone();
        keep(
            tokio::task::spawn_blocking(move || volumes.unmount_all())
                .await
                .map_err(EngineError::from)
                .and_then(|r| r),
        );
        // Other daemons may have theirs below it; then it stays.
        let _ = self.0.cgroups.remove_if_empty("/coracle");
        first.map_or(Ok(()), Err)
    }

    async fn retire_holder(&self) -> Result<()> {
        let (_, pid) = self.0.holder.hello().await?;
        self.0.holder.retire().await?;
        let deadline = Instant::now() + PATIENCE;
        while std::path::Path::new(&format!("/proc/{pid}/exe")).exists() {
            if Instant::now() > deadline {
                return Err(EngineError::Refused {
                    whom: "holder".into(),
                    message: format!("process {pid} did not leave within {PATIENCE:?}"),
                });
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok(())
    }
}
