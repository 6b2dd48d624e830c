//! Dockerfile to image.
//!
//! ```text
//! archive -> context ─┐
//! Dockerfile -> plan ─┴─> stages, each on its own task ──> compose: config, manifest, names
//!                          │  RUN: a container ([`coracle_engine::step`]) ─┐
//!                          │  COPY, ADD, WORKDIR: an overlay here ─────────┴─> adopt: a layer
//!                          └─ everything else: the config alone
//! ```
//! A stage's state is its layers and its config. A step that makes a layer first asks the cache, by a key of all that goes into
//! it: the layers below by their digests, the instruction with its variables replaced, and the content of what is copied or
//! mounted, not its times. So what is made again with the same outcome does not make later steps anew.
//!
//! Worked example: `FROM debian`, `COPY a.c /src/`, `RUN cc -o /bin/a /src/a.c`. A changed comment in `a.c` makes COPY and RUN
//! anew; `touch a.c` makes nothing anew, and the image has the same digest.

mod build;
mod caches;
pub mod collect;
mod context;
mod copy;
mod error;
mod key;
pub mod options;
mod place;
mod plan;
pub mod report;
mod run;
mod source;
mod stage;
mod state;
mod stubs;
mod tree;
mod work;

use crate::caches::Caches;
use crate::context::Context;
use crate::work::Work;
use coracle_engine::Engine;
use coracle_image::CacheQuery;
use std::path::PathBuf;
use std::sync::Arc;
use tokio::io::AsyncRead;
use tokio_util::io::SyncIoBridge;

pub use build::Built;
pub use caches::CacheMount;
pub use collect::{Collected, Marks};
pub use error::{BuildError, Result};
pub use options::BuildOptions;
pub use report::{Event, Events, Heard, events};

/// Builds images. Cheap to clone; all clones are one builder.
#[derive(Clone)]
pub struct Builder {
    engine: Engine,
    caches: Arc<Caches>,
    work: PathBuf,
}

/// Where the files of a build come from.
pub enum Source<R> {
    /// A tar archive, plain or compressed.
    Archive(R),
    /// An address of such an archive, or of a Dockerfile that needs no files.
    Remote(String),
}

impl Builder {
    /// Takes away what a killed daemon's builds left.
    ///
    /// # Errors
    /// [`BuildError::File`] when its directories cannot be used.
    pub fn open(engine: Engine) -> Result<Self> {
        let dir = engine.options().state_dir.join("build");
        let work = dir.join("work");
        work::clear(&work)?;
        work::clear(&run::secrets_dir(&engine))?;
        Ok(Self {
            caches: Caches::open(&dir.join("mounts"))?,
            engine,
            work,
        })
    }

    /// Builds an image. `events` hears what goes on. When the future is dropped the build ends, and what it had running is removed.
    ///
    /// # Errors
    /// [`BuildError`], with file and line where a step failed. Nothing is left of the build then but what the cache has.
    pub async fn build<R: AsyncRead + Send + Unpin + 'static>(
        &self,
        source: Source<R>,
        options: BuildOptions,
        events: Events,
    ) -> Result<Built> {
        let work = Arc::new(Work::new(&self.work)?);
        let path = work.path().join("context");
        let context = match source {
            Source::Archive(archive) => {
                let archive = SyncIoBridge::new(archive);
                let unpack = move || Context::unpack(&path, archive);
                within(&work, unpack).await?
            }
            Source::Remote(url) => {
                let to = work.place("remote");
                let fetched = self.engine.images().fetch_url(&url, &to).await;
                fetched.map_err(|e| BuildError::Fetch {
                    url,
                    why: coracle_engine::full_error(&e),
                })?;
                within(&work, move || Context::of_file(&path, &to)).await?
            }
        };
        let (engine, caches) = (self.engine.clone(), self.caches.clone());
        build::build(engine, caches, work, context, options, events).await
    }

    /// Directories of `RUN --mount=type=cache`.
    ///
    /// # Errors
    /// [`BuildError::Interrupted`].
    pub async fn mounts(&self) -> Result<Vec<CacheMount>> {
        let caches = self.caches.clone();
        Ok(tokio::task::spawn_blocking(move || caches.list()).await?)
    }

    /// Forgets what the cache has, as asked; directories of cache mounts go too if `query.all`. What went, and how many bytes.
    ///
    /// # Errors
    /// [`BuildError::File`] and [`BuildError::Image`].
    pub async fn prune(&self, query: CacheQuery) -> Result<(Vec<String>, u64)> {
        let (images, caches) = (self.engine.images().clone(), self.caches.clone());
        let pruned = tokio::task::spawn_blocking(move || {
            let (keys, mut freed) = images.forget(&query)?;
            let mut gone: Vec<String> = keys.iter().map(coracle_image::Digest::hex).collect();
            if query.all && query.keep.is_none() {
                let (mounts, bytes) = caches.prune(query.unused_for)?;
                gone.extend(mounts);
                freed += bytes;
            }
            Ok::<_, BuildError>((gone, freed))
        });
        pruned.await?
    }
}

/// Does blocking work in a build's directory, which stays until the work is done, also if nobody waits for it any more.
pub(crate) async fn within<T: Send + 'static>(
    work: &Arc<Work>,
    blocking: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let held = work.clone();
    let done = tokio::task::spawn_blocking(move || {
        let done = blocking();
        drop(held);
        done
    });
    done.await?
}
