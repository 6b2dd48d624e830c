//! Removing containers, and volumes with them.

use crate::container::Container;
use crate::engine::Engine;
use crate::error::{EngineError, Result};
use crate::record::{Phase, Record};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// How a container is removed.
#[derive(Debug, Clone, Copy, Default)]
pub struct RemoveOptions {
    /// Also if it runs; it is killed then.
    pub force: bool,
    /// With its anonymous volumes.
    pub volumes: bool,
}

/// Prefix of directories on their way out; left ones are removed when the daemon starts.
const DOOMED: &str = ".removed-";

impl Engine {
    /// Removes a container. Its name is free when this returns; its files are deleted behind.
    ///
    /// # Errors
    /// [`EngineError::Conflict`] if it runs and `force` is not set.
    pub async fn remove(&self, key: &str, options: RemoveOptions) -> Result<()> {
        let container = self.find(key)?;
        let _op = match options.force {
            // A stop that takes its time is not waited for.
            true => self.op_to_end(&container, Some(Duration::ZERO)).await?,
            false => container.op.lock().await,
        };
        match container.read(|r| (r.state.phase, r.state.paused)) {
            (Phase::Running | Phase::Restarting, paused) if !options.force => {
                let hint = if paused {
                    "Unpause and then stop"
                } else {
                    "Stop"
                };
                return Err(EngineError::Conflict(format!(
                    "You cannot remove a running container {}. {hint} the container before attempting removal or \
                     force remove",
                    container.id
                )));
            }
            (Phase::Running | Phase::Restarting, _) => {
                container
                    .going
                    .store(true, std::sync::atomic::Ordering::Relaxed);
                match self
                    .stop_locked(&container, Some(9), Some(Duration::from_secs(10)))
                    .await
                {
                    Ok(()) | Err(EngineError::NotModified) => {}
                    Err(error) => return Err(error),
                }
            }
            _ => {}
        }
        self.remove_locked(&container, options.volumes).await
    }

    /// Removes a container that ended and was to go with its end.
    pub(crate) async fn remove_ended(&self, key: &str) {
        let Ok(container) = self.find(key) else {
            return;
        };
        let _op = container.op.lock().await;
        // Somebody may have restarted it.
        if !matches!(container.phase(), Phase::Exited | Phase::Created) {
            return;
        }
        if let Err(error) = self.remove_locked(&container, true).await {
            tracing::warn!(container = %container.id, error = coracle_sys::full(&error), "removal failed");
        }
    }

    async fn remove_locked(&self, container: &Arc<Container>, volumes: bool) -> Result<()> {
        container.set_restart_timer(None);
        // Ports and fixed addresses must be free for the next container that asks for them; the rest of the last run's
        // teardown need not be waited for.
        let _run = if container.read(holds_something) {
            Some(container.run.lock().await)
        } else {
            None
        };
        if self.find(container.id.as_str()).is_err() {
            // A removal that was quicker.
            return Ok(());
        }
        container.happened(false, |r| r.state.phase = Phase::Removing);
        let doomed = self
            .0
            .options
            .state_dir
            .join("containers")
            .join(format!("{DOOMED}{}", container.id));
        fs::rename(&container.dir, &doomed)
            .map_err(EngineError::file("removing", &container.dir))?;
        self.table_mut().remove(&container.id);
        // One that went with its end was not to outlive the power in the first place.
        if !container.read(|r| r.host_config.auto_remove)
            && let Err(error) = self.sync_containers()
        {
            tracing::warn!(container = %container.id, error = coracle_sys::full(&error), "its removal may not outlive the power");
        }
        let anonymous: Vec<String> = container.read(|r| {
            let own = r.mounts.iter().filter(|m| m.anonymous);
            own.filter_map(|m| m.name.clone()).collect()
        });
        let (engine, container) = (self.clone(), container.clone());
        tokio::task::spawn_blocking(move || {
            if volumes {
                for name in anonymous {
                    // One that another container took over stays.
                    let _ = engine.remove_volume(&name, false);
                }
            }
            engine.tell(&container, "destroy", &[]);
            container.tell_removed();
            tokio::task::spawn_blocking(move || {
                delete(&doomed);
                engine.release_images();
            });
        })
        .await?;
        Ok(())
    }

    /// Takes away images that were removed by force and were kept for containers that are gone. Blocking.
    pub(crate) fn release_images(&self) {
        let needed = |id: &coracle_image::ImageId| {
            let id = id.to_string();
            self.containers()
                .iter()
                .any(|c| c.read(|r| r.image_id == id))
        };
        if let Err(error) = self.0.images.release(&needed) {
            tracing::warn!(%error, "an image that nobody needs any more cannot be removed");
        }
    }

    pub(crate) fn sync_containers(&self) -> Result<()> {
        let dir = self.0.options.state_dir.join("containers");
        crate::record::sync(&dir).map_err(EngineError::file("writing", dir))
    }

    /// Who uses a volume, by name.
    pub fn volume_users(&self, volume: &str) -> Vec<String> {
        let users = |c: &Arc<Container>| {
            c.read(|r| r.mounts.iter().any(|m| m.name.as_deref() == Some(volume)))
        };
        self.containers()
            .iter()
            .filter(|c| users(c))
            .map(|c| c.name())
            .collect()
    }

    /// Says that a container has begun to use its volumes, or ended it.
    pub(crate) fn tell_mounts(&self, record: &Record, action: &str) {
        for mount in &record.mounts {
            let Some(name) = &mount.name else { continue };
            let attributes = [
                ("driver", "local".to_owned()),
                ("container", record.id.to_string()),
                ("destination", mount.target.display().to_string()),
                ("read/write", mount.writable.to_string()),
                ("propagation", mount.propagation.clone()),
            ];
            let attributes = attributes.map(|(k, v)| (k.to_owned(), v)).into();
            let event = crate::events::Event::now("volume", action, name, attributes);
            self.publish(event);
        }
    }

    /// Removes a volume that no container uses. With `force` one that is not there is no error. Blocking.
    ///
    /// # Errors
    /// [`EngineError::NotFound`], [`EngineError::Conflict`] naming the users.
    pub fn remove_volume(&self, name: &str, force: bool) -> Result<()> {
        let removed = self.0.volumes.remove(name, &self.volume_users(name));
        match removed {
            Err(EngineError::NotFound { .. }) if force => Ok(()),
            Ok(()) => {
                self.publish(crate::events::Event::now(
                    "volume",
                    "destroy",
                    name,
                    [("driver".into(), "local".into())].into(),
                ));
                Ok(())
            }
            other => other,
        }
    }
}

/// Whether its addresses or ports are ones that another container may be given by name.
fn holds_something(record: &Record) -> bool {
    let fixed = |e: &Option<crate::model::EndpointConfig>| {
        e.as_ref()
            .is_some_and(|e| e.ipam_config.is_some() || !e.mac_address.is_empty())
    };
    let host = &record.host_config;
    !host.port_bindings.is_empty()
        || host.publish_all_ports
        || record.networking.endpoints_config.values().any(fixed)
}

fn delete(dir: &Path) {
    if let Err(error) = coracle_image::remove_tree(dir) {
        tracing::warn!(dir = %dir.display(), %error, "a removed container's files are still there");
    }
}

/// Finishes removals that were cut short.
pub(crate) fn finish(containers: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(containers).into_iter().flatten().flatten();
    let doomed = entries.filter(|e| e.file_name().to_string_lossy().starts_with(DOOMED));
    doomed
        .map(|e| e.path())
        .inspect(|dir| delete(dir))
        .collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use rustix::fs::{Mode, OFlags, mkdirat, open, openat};

    #[test]
    fn a_container_that_made_directories_without_end() {
        let root = tempfile::tempdir().unwrap();
        let doomed = root.path().join(format!("{DOOMED}x"));
        fs::create_dir(&doomed).unwrap();
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        let mut dir = open(&doomed, flags, Mode::empty()).unwrap();
        for _ in 0..3000 {
            mkdirat(&dir, "d", Mode::RWXU).unwrap();
            dir = openat(&dir, "d", flags, Mode::empty()).unwrap();
        }
        let containers = root.path().to_owned();
        let small = std::thread::Builder::new().stack_size(128 << 10);
        let removal = small.spawn(move || finish(&containers)).unwrap();
        assert_eq!(removal.join().unwrap(), std::slice::from_ref(&doomed));
        assert!(!doomed.exists());
    }
}
