//! Running further processes in a container.

use crate::client::{Connection, Shim};
use crate::copyup;
use crate::engine::Engine;
use crate::error::{EngineError, Result};
use crate::id::{ContainerId, random_hex};
use crate::record::Phase;
use crate::spec::{self, caps, user};
use coracle_shim_protocol::shim::{ExitStatus, Reply, Request};
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// What shall run: Docker's `ExecConfig`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ExecConfig {
    /// Whether input will be sent.
    pub attach_stdin: bool,
    /// Whether output is wanted.
    pub attach_stdout: bool,
    /// Whether error output is wanted.
    pub attach_stderr: bool,
    /// Keys that make the client leave.
    #[serde(deserialize_with = "crate::model::nullable")]
    pub detach_keys: String,
    /// Whether it gets a terminal.
    pub tty: bool,
    /// Rows and columns.
    pub console_size: Option<[u16; 2]>,
    /// Further environment.
    #[serde(deserialize_with = "crate::model::nullable")]
    pub env: Vec<String>,
    /// Program and arguments.
    #[serde(deserialize_with = "crate::model::nullable")]
    pub cmd: Vec<String>,
    /// With every capability.
    pub privileged: bool,
    /// User instead of the container's.
    #[serde(deserialize_with = "crate::model::nullable")]
    pub user: String,
    /// Directory instead of the container's.
    #[serde(deserialize_with = "crate::model::nullable")]
    pub working_dir: String,
}

/// A process that was asked for.
#[derive(Debug, Clone, PartialEq)]
pub struct Exec {
    /// Its id.
    pub id: String,
    /// The container's id.
    pub container: ContainerId,
    /// What was asked.
    pub config: ExecConfig,
    /// Whether it runs.
    pub running: bool,
    /// Host process id, once it runs.
    pub pid: u32,
    /// How it ended.
    pub code: Option<i32>,
}

/// How many ended ones are remembered for `inspect`.
const KEPT: usize = 1024;

/// The processes asked for in this daemon's time.
#[derive(Debug, Default)]
pub(crate) struct Execs(Mutex<HashMap<String, Exec>>);

impl Execs {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Exec>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, id: &str, change: impl FnOnce(&mut Exec)) {
        if let Some(exec) = self.lock().get_mut(id) {
            change(exec);
        }
    }
}

fn started_already(id: &str) -> EngineError {
    EngineError::Conflict(format!("exec {id} was started already"))
}

fn takes_processes(container: &crate::container::Container) -> Result<()> {
    match container.read(|r| (r.state.phase, r.state.paused)) {
        (Phase::Running, false) => {}
        (Phase::Running, true) => {
            return Err(EngineError::Conflict(format!(
                "Container {} is paused, unpause the container before exec",
                container.id
            )));
        }
        (Phase::Restarting, _) => {
            return Err(EngineError::Conflict(format!(
                "Container {} is restarting, wait until the container is running",
                container.id
            )));
        }
        _ => {
            return Err(EngineError::Conflict(format!(
                "container {} is not running",
                container.id
            )));
        }
    }
    Ok(())
}

impl Engine {
    /// Prepares a process in a running container and gives its id.
    ///
    /// # Errors
    /// [`EngineError::Conflict`] if the container does not run or is paused, [`EngineError::Invalid`] without a
    /// command.
    pub fn exec_create(&self, key: &str, config: ExecConfig) -> Result<String> {
        let container = self.find(key)?;
        if config.cmd.is_empty() {
            return Err(EngineError::Invalid("No exec command specified".into()));
        }
        takes_processes(&container)?;
        let id = random_hex()?;
        let command = config.cmd.join(" ");
        let exec = Exec {
            id: id.clone(),
            container: container.id.clone(),
            config,
            running: false,
            pid: 0,
            code: None,
        };
        let mut all = self.0.execs.lock();
        if all.len() >= KEPT {
            all.retain(|_, e| e.running || e.code.is_none());
        }
        all.insert(id.clone(), exec);
        drop(all);
        let told = [("execID", id.clone())];
        self.tell(&container, &format!("exec_create: {command}"), &told);
        Ok(id)
    }

    /// What is known of a process that may be started now.
    ///
    /// # Errors
    /// [`EngineError::NotFound`], [`EngineError::Conflict`] if it was started already, or if its container does not run or is paused.
    pub fn exec_startable(&self, id: &str) -> Result<Exec> {
        let exec = self.exec_get(id)?;
        if exec.running || exec.code.is_some() {
            return Err(started_already(id));
        }
        takes_processes(&*self.find(exec.container.as_str())?)?;
        Ok(exec)
    }

    /// What is known of a process.
    ///
    /// # Errors
    /// [`EngineError::NotFound`].
    pub fn exec_get(&self, id: &str) -> Result<Exec> {
        let all = self.0.execs.lock();
        all.get(id)
            .cloned()
            .ok_or_else(|| EngineError::not_found("exec instance", id))
    }

    /// Starts it. The connection carries its stdio; whoever has it calls [`Self::exec_ended`] at its end.
    ///
    /// # Errors
    /// [`EngineError::Conflict`] if it was started already, [`EngineError::Start`] with Docker's exit code if the
    /// program cannot be run.
    pub async fn exec_start(
        &self,
        id: &str,
        size: Option<[u16; 2]>,
        attached: bool,
    ) -> Result<Connection> {
        let exec = {
            let mut all = self.0.execs.lock();
            let exec = all
                .get_mut(id)
                .ok_or_else(|| EngineError::not_found("exec instance", id))?;
            if exec.running || exec.code.is_some() {
                return Err(started_already(id));
            }
            exec.running = true;
            exec.clone()
        };
        let started = self.try_exec(&exec, size, attached).await;
        match &started {
            Ok((_, pid)) => self.0.execs.change(id, |e| e.pid = *pid),
            Err(error) => {
                let code = match error {
                    EngineError::Start { code, .. } => *code,
                    _ => 126,
                };
                self.0.execs.change(id, |e| {
                    e.running = false;
                    e.code = Some(code);
                });
            }
        }
        started.map(|(connection, _)| connection)
    }

    /// Writes down how a process ended, and gives its exit code.
    pub fn exec_ended(&self, id: &str, status: Option<&ExitStatus>) -> Option<i32> {
        // Without a word from the shim it went with its container.
        let code = status.map_or(137, |s| s.code);
        self.0.execs.change(id, |e| {
            e.running = false;
            e.code = Some(code);
        });
        if let Ok(exec) = self.exec_get(id)
            && let Ok(container) = self.find(exec.container.as_str())
        {
            self.tell(
                &container,
                "exec_die",
                &[("execID", id.into()), ("exitCode", code.to_string())],
            );
        }
        Some(code)
    }

    async fn try_exec(
        &self,
        exec: &Exec,
        size: Option<[u16; 2]>,
        attached: bool,
    ) -> Result<(Connection, u32)> {
        let container = self.find(exec.container.as_str())?;
        let record = container.record();
        let config = &exec.config;
        let image = record.image()?;
        let mut roots: Vec<PathBuf> = vec![container.dir.join("upper")];
        // One whose image an earlier release took away has numbers, and no names.
        roots.extend(self.0.images.layer_dirs(&image).unwrap_or_default());
        let asked = if config.user.is_empty() {
            &record.config.user
        } else {
            &config.user
        };
        let user = user::resolve(
            asked,
            &record.host_config.group_add,
            &copyup::read_text(&roots, "etc/passwd"),
            &copyup::read_text(&roots, "etc/group"),
        )?;
        let mut host = record.host_config.clone();
        host.privileged |= config.privileged;
        let caps = caps::resolve(&host, &self.0.available_caps);
        let store = self.door_for(&record.state.endpoints);
        let mut env = spec::environment(&record, store.as_deref());
        for entry in &config.env {
            let name = format!("{}=", entry.split('=').next().unwrap_or(entry));
            env.retain(|e| !e.starts_with(&name));
            env.push(entry.clone());
        }
        if config.tty && !env.iter().any(|e| e.starts_with("TERM=")) {
            env.push("TERM=xterm".into());
        }
        let cwd = [&config.working_dir, &record.config.working_dir]
            .into_iter()
            .find(|d| !d.is_empty())
            .map_or("/", String::as_str);
        let security = spec::security_options(&host.security_opt)?;
        let mut process = json!({
            "terminal": config.tty,
            "user": spec::user(&user),
            "args": config.cmd,
            "env": env,
            "cwd": cwd,
            "capabilities": caps::sets(&caps, user.uid == 0),
        });
        if security.no_new_privileges {
            process["noNewPrivileges"] = json!(true);
        }
        if let Some([rows, cols]) = size
            .or(config.console_size)
            .filter(|s| s[0] > 0 && s[1] > 0)
        {
            process["consoleSize"] = json!({ "height": rows, "width": cols });
        }
        let process = serde_json::from_value(process)
            .map_err(|e| EngineError::Invalid(format!("exec has no valid runtime form: {e}")))?;
        let request = Request::Exec {
            exec_id: exec.id.clone(),
            process: Box::new(process),
            terminal: config.tty,
            stdin: config.attach_stdin && attached,
            output: attached,
        };
        self.tell(
            &container,
            &format!("exec_start: {}", config.cmd.join(" ")),
            &[("execID", exec.id.clone())],
        );
        let started = Shim::stdio(&container.run_dir, &record.name, &request).await;
        let (connection, reply) = started.map_err(|error| match error {
            // Whatever hinders a process in a container that runs is 126 with docker; 125 would be the daemon's own failure.
            EngineError::Start { code: 125, message } => EngineError::Start { code: 126, message },
            other => other,
        })?;
        match reply {
            Reply::Started { pid } => Ok((connection, pid)),
            other => Err(EngineError::Refused {
                whom: format!("shim of {}", record.name),
                message: format!("answered {other:?}, which was not expected"),
            }),
        }
    }

    /// Sets the size of a terminal: of the container, or of one of its further processes.
    ///
    /// # Errors
    /// [`EngineError::Conflict`] if nothing runs there.
    pub async fn resize(
        &self,
        key: &str,
        exec_id: Option<&str>,
        rows: u16,
        cols: u16,
    ) -> Result<()> {
        let container = self.find(key)?;
        if container.phase() != Phase::Running {
            return Err(EngineError::Conflict(format!(
                "container {key} is not running"
            )));
        }
        let terminal = match exec_id {
            Some(id) => self.exec_get(id)?.config.tty,
            None => container.read(|r| r.config.tty),
        };
        if !terminal {
            return Err(EngineError::Invalid(format!(
                "{} has no terminal whose size could change; start it with -t",
                exec_id.unwrap_or(key)
            )));
        }
        let request = Request::Resize {
            exec_id: exec_id.map(str::to_owned),
            rows,
            cols,
        };
        Shim::request(&container.run_dir, &container.name(), &request).await
    }

    /// Runs a process to its end and gives its exit code and the beginning of its output (at most `keep` bytes); for
    /// health tests.
    ///
    /// # Errors
    /// As [`Self::exec_start`].
    pub(crate) async fn exec_collect(
        &self,
        key: &str,
        cmd: Vec<String>,
        keep: usize,
    ) -> Result<(i32, String)> {
        let config = ExecConfig {
            cmd,
            attach_stdout: true,
            attach_stderr: true,
            ..ExecConfig::default()
        };
        let id = self.exec_create(key, config)?;
        let mut connection = self.exec_start(&id, None, true).await?;
        let mut output = Vec::new();
        let mut status = None;
        while let Ok(Some((kind, payload))) = connection.receive().await {
            if kind == coracle_shim_protocol::frame::Kind::Control {
                if let Ok(Reply::Exited { status: s }) =
                    coracle_shim_protocol::frame::parse(&payload)
                {
                    status = Some(s);
                    break;
                }
            } else {
                let room = keep.saturating_sub(output.len());
                output.extend(&payload[..payload.len().min(room)]);
            }
        }
        self.exec_ended(&id, status.as_ref());
        self.0.execs.lock().remove(&id);
        Ok((
            status.map_or(137, |s| s.code),
            String::from_utf8_lossy(&output).into_owned(),
        ))
    }

    /// Kills a process that takes too long.
    pub(crate) async fn exec_kill(&self, key: &str, exec_id: &str) -> Result<()> {
        let container = self.find(key)?;
        let request = Request::Kill {
            exec_id: Some(exec_id.to_owned()),
            signal: 9,
            all: false,
        };
        Shim::request(&container.run_dir, &container.name(), &request).await
    }

    /// The processes that run in a container now.
    pub fn execs_of(&self, id: &ContainerId) -> Vec<String> {
        let all = self.0.execs.lock();
        let of = all.values().filter(|e| e.container == *id && e.running);
        of.map(|e| e.id.clone()).collect()
    }
}
