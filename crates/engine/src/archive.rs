//! Files of a container from outside: `cp` and `export`.
//!
//! Of a container that runs, the root is that of its first process, with all that is mounted there. Of one that does not, it is
//! mounted for the time of the request in a mount namespace of its own, which goes with the thread that has it, however it
//! ends; meanwhile the container cannot be started or removed. Every path is resolved by the kernel within the root.
//!
//! Names are Docker's (`daemon/archive.go`, `pkg/archive`): `dir` and its entries as `dir/…`, `dir/.` as `./…`, `/` as such.

use crate::container::Container;
use crate::engine::Engine;
use crate::error::{EngineError, Result};
use crate::path::Asked;
pub use crate::path::PathStat;
use crate::record::{Phase, Record};
use crate::spec::user;
use coracle_image::pack::{self, Tree};
use coracle_image::{CopyInto, LayerError, Produced, copy_into, produced};
use coracle_sys::view::{self, Bind, Parts, ViewError};
use rustix::io::Errno;
use std::ffi::OsStr;
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use tokio::io::AsyncRead;
use tokio::sync::oneshot;
use tokio_util::io::SyncIoBridge;

/// Bytes that wait for a slow reader.
const WAITING: usize = 1 << 20;
/// How an archive is copied in.
#[derive(Debug, Clone, Copy, Default)]
pub struct CopyOptions {
    /// Nothing else may take a directory's place, nor a directory that of something else.
    pub keep_kinds: bool,
    /// All belongs to the container's user, whatever the archive says.
    pub own: bool,
}

impl Engine {
    /// What is at a path of a container. A link at its end is not followed.
    ///
    /// # Errors
    /// [`EngineError::NotFound`] of the container or the path.
    pub async fn path_stat(&self, key: &str, path: &str) -> Result<PathStat> {
        let (asked, container) = (Asked::new(path)?, self.find(key)?);
        let name = container.name();
        let (tell, told) = oneshot::channel();
        self.in_root(&container, true, move |root| {
            let _ = tell.send(root.and_then(|r| asked.look(r, &name).map(|(_, _, stat)| stat)));
        })
        .await?;
        told.await.map_err(|_| ended())?
    }

    /// What is at a path of a container, and it as a tar archive, with all below it.
    ///
    /// # Errors
    /// As [`Self::path_stat`]'s. What fails later is the archive's reader's.
    pub async fn archive(&self, key: &str, path: &str) -> Result<(PathStat, Produced)> {
        let (asked, container) = (Asked::new(path)?, self.find(key)?);
        let name = container.name();
        let (reader, writer, ending) = produced(WAITING);
        let (tell, told) = oneshot::channel();
        let shown = asked.shown();
        self.in_root(&container, true, move |root| {
            let (dir, base, stat) = match root.and_then(|r| asked.look(r, &name)) {
                Ok(found) => found,
                Err(error) => {
                    let _ = tell.send(Err(error));
                    return;
                }
            };
            let to = stat.name.clone();
            let _ = tell.send(Ok(stat));
            let packed = pack::pack(dir, &base, to.as_bytes(), Tree::Whole, writer);
            if let Err(error) = &packed
                && error.kind() != io::ErrorKind::BrokenPipe
            {
                tracing::warn!(container = name, path = shown, %error, "an archive was not written to its end");
            }
            ending.tell(packed.map(drop));
        })
        .await?;
        let stat = told.await.map_err(|_| ended())??;
        self.tell(&container, "archive-path", &[]);
        Ok((stat, reader))
    }

    /// Copies a tar archive, plain or compressed with gzip, zstd, xz or bzip2, into a directory of a container.
    ///
    /// # Errors
    /// [`EngineError::NotFound`] of the container or the directory, [`EngineError::Invalid`] for what is no directory and for
    /// an archive that cannot be read, [`EngineError::Forbidden`] where the container cannot write. What was copied before stays.
    pub async fn copy_in(
        &self,
        key: &str,
        path: &str,
        options: CopyOptions,
        archive: impl AsyncRead + Send + Unpin + 'static,
    ) -> Result<()> {
        let (asked, container) = (Asked::new(path)?, self.find(key)?);
        let record = container.record();
        let owner = if options.own {
            self.owner(&container, &record)?
        } else {
            None
        };
        let archive = SyncIoBridge::new(archive);
        let (tell, told) = oneshot::channel();
        self.in_root(&container, true, move |root| {
            let copy = |root: BorrowedFd<'_>| {
                let directory = asked.directory(root, &record)?;
                let root = root
                    .try_clone_to_owned()
                    .map_err(EngineError::file("opening", "/"))?;
                let into = CopyInto {
                    root,
                    directory,
                    replace: !options.keep_kinds,
                    owner,
                    rename: None,
                };
                copy_into(into, archive).map_err(|error| refused(error, &asked.shown()))
            };
            let _ = tell.send(root.and_then(copy));
        })
        .await?;
        told.await.map_err(|_| ended())??;
        self.tell(&container, "extract-to-dir", &[]);
        Ok(())
    }

    /// The container's whole root filesystem as a tar archive, without what is mounted in it.
    ///
    /// # Errors
    /// [`EngineError::NotFound`]. What fails later is the archive's reader's.
    pub async fn export(&self, key: &str) -> Result<Produced> {
        let container = self.find(key)?;
        let name = container.name();
        let (reader, writer, ending) = produced(WAITING);
        let (tell, told) = oneshot::channel();
        self.in_root(&container, false, move |root| {
            let root = match root {
                Ok(root) => root,
                Err(error) => {
                    let _ = tell.send(Err(error));
                    return;
                }
            };
            let _ = tell.send(Ok(()));
            let packed = pack::pack(root, OsStr::new(""), b"", Tree::OneMount, writer);
            if let Err(error) = &packed
                && error.kind() != io::ErrorKind::BrokenPipe
            {
                tracing::warn!(container = name, %error, "an export was not written to its end");
            }
            ending.tell(packed.map(drop));
        })
        .await?;
        told.await.map_err(|_| ended())??;
        self.tell(&container, "export", &[]);
        Ok(reader)
    }

    /// The user of `--user` or the image, if there is one.
    fn owner(&self, container: &Container, record: &Record) -> Result<Option<(u32, u32)>> {
        if record.config.user.is_empty() {
            return Ok(None);
        }
        let mut roots = vec![container.dir.join("upper")];
        roots.extend(self.0.images.layer_dirs(&record.image()?)?);
        let found = user::resolve(
            &record.config.user,
            &[],
            &crate::copyup::read_text(&roots, "etc/passwd"),
            &crate::copyup::read_text(&roots, "etc/group"),
        )?;
        Ok(Some((found.uid, found.gid)))
    }

    /// Starts `work` with the container's root, on a thread of its own. With `mounts`, what is mounted in the container shows.
    async fn in_root(
        &self,
        container: &Arc<Container>,
        mounts: bool,
        work: impl FnOnce(Result<BorrowedFd<'_>>) + Send + 'static,
    ) -> Result<()> {
        let op = container.op.clone().lock_owned().await;
        let record = container.record();
        if record.state.phase == Phase::Running {
            return Ok(view::of_process(record.state.pid, mounts, move |root| {
                work(root.map_err(EngineError::from));
            })?);
        }
        if mounts {
            self.ready_volumes(&record).await?;
        }
        let mut lower = self.0.images.layer_dirs(&record.image()?)?;
        lower.push(crate::skeleton::directory(&self.0.options.state_dir));
        let work_dir = container.dir.join("work");
        std::fs::create_dir_all(&work_dir).map_err(EngineError::file("making", &work_dir))?;
        let parts = Parts {
            lower,
            upper: container.dir.join("upper"),
            work: work_dir,
            binds: if mounts { binds(&record) } else { Vec::new() },
        };
        view::of_parts(parts, move |root| {
            // Nobody may start it while its layers are mounted here.
            let _op = op;
            work(root.map_err(EngineError::from));
        })?;
        Ok(())
    }
}

fn ended() -> EngineError {
    EngineError::View(ViewError::Thread(io::Error::other(
        "it ended without a word",
    )))
}

fn binds(record: &Record) -> Vec<Bind> {
    let mut binds: Vec<Bind> = record
        .mounts
        .iter()
        .filter(|m| m.kind != "tmpfs")
        .map(|m| Bind {
            source: m.source.clone(),
            target: m.target.clone(),
            read_only: !m.writable,
            deep: m.has("rro"),
            recursive: m.has("rbind"),
        })
        .collect();
    // What lies within another is put on top of it.
    binds.sort_by_key(|b| b.target.components().count());
    binds
}

fn refused(error: LayerError, path: &str) -> EngineError {
    let read_only = |e: &io::Error| e.raw_os_error() == Some(Errno::ROFS.raw_os_error());
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(&error);
    while let Some(at) = cause {
        if at.downcast_ref::<io::Error>().is_some_and(read_only) {
            return EngineError::Forbidden(format!(
                "{path} is on a filesystem that is read-only in the container"
            ));
        }
        cause = at.source();
    }
    match error {
        LayerError::NoSpace(_) | LayerError::Io { .. } => EngineError::Archive(error),
        error => EngineError::Invalid(format!(
            "the archive for {path}: {}",
            coracle_sys::full(&error)
        )),
    }
}
