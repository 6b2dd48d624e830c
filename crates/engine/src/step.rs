//! A container that is one step of a build: what it writes becomes a layer.
//!
//! Nobody but the build knows how it goes on: it is not removed by its own end, it is by [`Step::remove`] or when the [`Step`] is
//! dropped, and a daemon that finds one of an earlier daemon ends and removes it.

use crate::container::Container;
use crate::engine::Engine;
use crate::error::Result;
use crate::model::CreateRequest;
use crate::remove::RemoveOptions;
use crate::stdio::Streams;
use crate::stop::Until;
use coracle_shim_protocol::frame::{self, Kind};
use coracle_shim_protocol::shim::Reply;
use std::path::PathBuf;
use std::sync::Arc;
use tokio::task::JoinHandle;

pub(crate) const REMOVE: RemoveOptions = RemoveOptions {
    force: true,
    volumes: true,
};

/// Done when a piece of output is taken.
pub type Heard = std::pin::Pin<Box<dyn Future<Output = ()> + Send>>;

/// How a step ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StepEnd {
    /// Exit code.
    pub code: i32,
    /// Whether the kernel ended it for want of memory.
    pub oom_killed: bool,
}

/// A step of a build. Removed when dropped, behind the caller's back.
pub struct Step {
    engine: Engine,
    container: Arc<Container>,
    removed: bool,
    /// Hears of the removal when it is left to the drop.
    removals: Arc<std::sync::Mutex<Vec<JoinHandle<()>>>>,
}

impl Engine {
    /// Makes a container for a step. It will go with its end, whatever the request says. `removals` gets the removals of steps
    /// that are dropped, so that whoever cancels a build can wait for them.
    ///
    /// # Errors
    /// As [`Engine::create`]'s.
    pub async fn step(
        &self,
        mut request: CreateRequest,
        removals: Arc<std::sync::Mutex<Vec<JoinHandle<()>>>>,
    ) -> Result<Step> {
        request.host_config.auto_remove = true;
        let created = self.create_as(None, request, true).await?;
        Ok(Step {
            engine: self.clone(),
            container: self.find(created.id.as_str())?,
            removed: false,
            removals,
        })
    }
}

impl Step {
    /// The container's short id.
    pub fn short_id(&self) -> &str {
        self.container.id.short()
    }

    /// Where what it writes lies: an overlayfs layer, at rest once [`Self::run`] has returned.
    pub fn upper(&self) -> PathBuf {
        self.container.dir.join("upper")
    }

    /// Runs it to its end. `output` gets what it says, both streams as they come; no more is read before it is done.
    ///
    /// # Errors
    /// As [`Engine::start`]'s, and those of the shim.
    pub async fn run(&self, output: &mut (dyn FnMut(&[u8]) -> Heard + Send)) -> Result<StepEnd> {
        let id = self.container.id.to_string();
        let streams = Streams {
            stdin: false,
            stdout: true,
            stderr: true,
        };
        let attached = self.engine.attach(&id, streams).await?;
        let ended = self.engine.waiter(&id, Until::NextExit)?;
        // A start that was begun is finished, also when the build is cancelled meanwhile.
        let (engine, key) = (self.engine.clone(), id.clone());
        tokio::spawn(async move { engine.start(&key).await }).await??;
        if let Ok(connection) = attached.await {
            let mut connection = connection?;
            // A shim that was killed closes without a word; how it ended is known all the same.
            while let Ok(Some((kind, payload))) = connection.receive().await {
                match kind {
                    Kind::Control if matches!(frame::parse(&payload), Ok(Reply::Exited { .. })) => {
                        break;
                    }
                    Kind::Control => {}
                    _ => output(&payload).await,
                }
            }
        }
        let code = ended.await?.code;
        // Nothing is mounted any more once the run is taken down.
        drop(self.container.run.lock().await);
        Ok(StepEnd {
            code,
            oom_killed: self.container.read(|r| r.state.oom_killed),
        })
    }

    /// Removes it, running or not.
    ///
    /// # Errors
    /// As [`Engine::remove`]'s.
    pub async fn remove(mut self) -> Result<()> {
        let id = self.container.id.to_string();
        self.engine.remove(&id, REMOVE).await?;
        self.removed = true;
        Ok(())
    }
}

impl Drop for Step {
    fn drop(&mut self) {
        if self.removed {
            return;
        }
        let (engine, id) = (self.engine.clone(), self.container.id.to_string());
        let removal = tokio::spawn(async move {
            if let Err(error) = engine.remove(&id, REMOVE).await {
                tracing::warn!(
                    container = id,
                    error = coracle_sys::full(&error),
                    "a step of a build cannot be removed"
                );
            }
        });
        if let Ok(mut removals) = self.removals.lock() {
            removals.push(removal);
        }
    }
}
