//! Host processes of `.service` units: one shim each, in a control group of its own, outliving daemons as containers do.
//!
//! A run has an id of its own. Its status is kept in `processes/<id>/exit.json` until it is forgotten, so that the end of
//! a process is known even if no daemon saw it.

use crate::client::Shim;
use crate::engine::Engine;
use crate::error::{EngineError, Result};
use crate::exclusive::{Ending, Permit};
use crate::exit::{lost, read_exit};
use crate::logs::{self, LogLine, LogQuery};
pub use coracle_shim_protocol::shim::{ExitStatus, KillMode, State};
use coracle_shim_protocol::shim::{LogConfig, Request, ShimSpec, Workload};
use oci_spec::runtime::Process;
use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use tokio::sync::mpsc;

/// Directory names of processes begin so, that they are never taken for a container's id.
const PREFIX: &str = "process-";

/// What shall run on the host.
#[derive(Debug, Clone)]
pub struct ProcessSpec {
    /// Id of this run: `[a-zA-Z0-9_.@-]+`, at most 200 bytes.
    pub id: String,
    /// Arguments, environment, working directory, numeric user.
    pub process: Process,
    /// What happens to the rest of its control group when it has ended.
    pub kill_mode: KillMode,
    /// Where its output is logged.
    pub log: PathBuf,
    /// Of what is exclusive, how it is asked to end when it may run no longer, and until when it may.
    pub exclusive: Option<(Ending, Permit)>,
}

impl Engine {
    fn process_dir(&self, id: &str) -> PathBuf {
        self.0.options.state_dir.join("processes").join(id)
    }

    pub(crate) fn process_run_dir(&self, id: &str) -> PathBuf {
        self.shim_dir(&format!("{PREFIX}{id}"))
    }

    pub(crate) fn process_cgroup(&self, id: &str) -> String {
        format!("{}/{PREFIX}{id}", self.0.cgroup_root)
    }

    /// Starts a host process; returns its process id once its program runs.
    ///
    /// # Errors
    /// [`EngineError::Start`] with 126 or 127 if the program cannot be run, [`EngineError::Conflict`] if this id
    /// was used or everything is being taken down.
    pub async fn process_start(&self, spec: ProcessSpec) -> Result<u32> {
        let id = spec.id.as_str();
        let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'@' | b'-');
        if id.is_empty() || id.len() > 200 || id.starts_with('.') || !id.bytes().all(allowed) {
            return Err(EngineError::Invalid(format!(
                "\"{id}\" cannot be the id of a process"
            )));
        }
        let ends = self.0.ends.read().await;
        if *ends {
            return Err(EngineError::Conflict(format!(
                "process {id} is not started: everything is being taken down"
            )));
        }
        let dir = self.process_dir(id);
        if dir.exists() {
            return Err(EngineError::Conflict(format!(
                "a process {id} was started already"
            )));
        }
        fs::create_dir_all(&dir).map_err(EngineError::file("making", &dir))?;
        let started = self.try_process(&spec, dir.clone()).await;
        if started.is_err() {
            let _ = fs::remove_dir_all(&dir);
        }
        started
    }

    async fn try_process(&self, spec: &ProcessSpec, dir: PathBuf) -> Result<u32> {
        let run_dir = self.process_run_dir(&spec.id);
        let deadline = match spec.exclusive {
            Some((ending, permit)) => {
                let deadline = self.deadline_of(&spec.id, ending, permit).await?;
                self.permitted().insert(spec.id.clone(), ending);
                deadline
            }
            None => None,
        };
        self.0
            .holder
            .spawn(ShimSpec {
                version: 1,
                id: format!("{PREFIX}{}", spec.id),
                state_dir: dir,
                run_dir: run_dir.clone(),
                workload: Workload::Process {
                    process: Box::new(spec.process.clone()),
                    kill_mode: spec.kill_mode,
                },
                log: Some(LogConfig {
                    path: spec.log.clone(),
                    max_size: 20 << 20,
                    max_files: 5,
                    attrs: BTreeMap::new(),
                }),
                terminal: false,
                terminal_size: None,
                open_stdin: false,
                stdin_once: false,
                cgroup: self.process_cgroup(&spec.id),
                deadline,
            })
            .await?;
        let mut shim = Shim::prepare(&run_dir, &spec.id).await?;
        // The connection is not kept: the shim leaves by itself after writing how the process ended, and whoever
        // waits asks for a connection of its own.
        shim.start().await
    }

    /// Waits for the end of a process, also of one that a former daemon started.
    ///
    /// # Errors
    /// [`EngineError::NotFound`] if there is none of that id.
    pub async fn process_wait(&self, id: &str) -> Result<ExitStatus> {
        let dir = self.process_dir(id);
        if !dir.is_dir() {
            return Err(EngineError::not_found("process", id));
        }
        if let Some(status) = read_exit(&dir) {
            return Ok(status);
        }
        let run_dir = self.process_run_dir(id);
        let status = match Shim::watch(&run_dir, id).await {
            Ok((shim, State::Exited { status })) => {
                shim.release().await.await;
                return Ok(status);
            }
            // A daemon that was killed on the way of starting it: nobody will start it any more.
            Ok((shim, State::Prepared)) => {
                shim.release().await.await;
                return Ok(lost(255, "its start was cut short"));
            }
            Ok((mut shim, _)) => {
                let status = shim.exited().await.ok();
                shim.release().await.await;
                status
            }
            Err(_) => None,
        };
        if let Some(status) = status {
            return Ok(status);
        }
        let _ = self.0.cgroups.kill_all(&self.process_cgroup(id));
        Ok(self.process_end(id))
    }

    /// How a process ended whose shim is gone: as it wrote down, or lost.
    fn process_end(&self, id: &str) -> ExitStatus {
        read_exit(&self.process_dir(id)).unwrap_or_else(|| {
            if self.process_run_dir(id).exists() {
                lost(137, "its shim was killed")
            } else {
                lost(255, "the machine went down while it ran")
            }
        })
    }

    /// Sends a signal to the main process, or with `all` to every process of its control group.
    ///
    /// # Errors
    /// [`EngineError::Shim`] if it does not run any more.
    pub async fn process_signal(&self, id: &str, signal: i32, all: bool) -> Result<()> {
        let request = Request::Kill {
            exec_id: None,
            signal,
            all,
        };
        Shim::request(&self.process_run_dir(id), id, &request).await
    }

    /// Forgets a process that has ended, and kills what is left of it.
    ///
    /// # Errors
    /// [`EngineError::File`].
    pub async fn process_forget(&self, id: &str) -> Result<()> {
        self.permitted().remove(id);
        let cgroup = self.process_cgroup(id);
        if self.0.cgroups.procs(&cgroup).is_ok() {
            let _ = self.0.cgroups.kill_all(&cgroup);
            let _ = self.0.cgroups.remove(&cgroup);
        }
        let _ = fs::remove_dir_all(self.process_run_dir(id));
        let dir = self.process_dir(id);
        match fs::remove_dir_all(&dir) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                Err(EngineError::file("removing", dir)(e))
            }
            _ => Ok(()),
        }
    }

    /// Whether a process runs or how it ended; nothing if there is none of that id.
    pub async fn process_state(&self, id: &str) -> Option<State> {
        let dir = self.process_dir(id);
        if !dir.is_dir() {
            return None;
        }
        if let Some(status) = read_exit(&dir) {
            return Some(State::Exited { status });
        }
        Some(match Shim::watch(&self.process_run_dir(id), id).await {
            Ok((_, state)) => state,
            Err(_) => State::Exited {
                status: self.process_end(id),
            },
        })
    }

    /// Every process that is not forgotten, and whether it runs.
    pub async fn processes(&self) -> Vec<(String, State)> {
        let mut found = Vec::new();
        let dir = self.0.options.state_dir.join("processes");
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            if let Ok(id) = entry.file_name().into_string()
                && let Some(state) = self.process_state(&id).await
            {
                found.push((id, state));
            }
        }
        found
    }

    /// Reads a log of host processes; one that is followed goes on until the receiver is dropped.
    pub fn process_logs(&self, path: PathBuf, query: LogQuery) -> mpsc::Receiver<LogLine> {
        logs::follow(path, query, None)
    }
}
