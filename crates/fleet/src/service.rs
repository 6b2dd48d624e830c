//! The processes of `[Service]`: commands before and after, the main process, and stopping it.

use crate::environment;
use crate::fleet::Fleet;
use crate::plan::{Cause, Goal};
use crate::supervise::Supervised;
use crate::translate;
use coracle_engine::process::{ExitStatus, KillMode, ProcessSpec, State};
use coracle_engine::{EngineError, full_error};
use coracle_unit::exec::{Command, expand_env};
use coracle_unit::service::ServiceSection;
use coracle_unit::value::{TimeSpan, parse_bytes};
use coracle_unit::{Kind, Unit};
use serde_json::json;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;
use tokio::sync::watch;

/// Why a run did not come up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotUp {
    /// Exit code for the restart policy.
    pub code: i32,
    /// Why.
    pub cause: Cause,
}

impl NotUp {
    pub(crate) fn new(code: i32, reason: impl Into<String>) -> Self {
        Self {
            code,
            cause: Cause::Told(reason.into()),
        }
    }

    pub(crate) fn because(code: i32, cause: Cause) -> Self {
        Self { code, cause }
    }
}

impl std::fmt::Display for NotUp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.cause {
            Cause::Told(words) | Cause::Watchdog(words) => f.write_str(words),
            _ => write!(f, "code {}", self.code),
        }
    }
}

impl From<EngineError> for NotUp {
    fn from(error: EngineError) -> Self {
        let code = match &error {
            // systemd's EXIT_EXEC.
            EngineError::Start { .. } => 203,
            _ => 1,
        };
        Self::new(code, full_error(&error))
    }
}

/// Of a process that its watchdog ended: why what it belongs to is not up. Not its own doing, whatever code it made of that.
pub(crate) fn by_watchdog(status: &ExitStatus) -> Option<NotUp> {
    let why = status.error.as_ref().filter(|_| status.watchdog)?;
    Some(NotUp::because(status.code, Cause::Watchdog(why.clone())))
}

/// The `[Service]` of a unit that has one.
pub fn section(unit: &Unit) -> Option<&ServiceSection> {
    match &unit.kind {
        Kind::Service(service) | Kind::Container { service, .. } => Some(service),
        _ => None,
    }
}

/// One run's processes.
pub struct Run<'a> {
    pub fleet: &'a Fleet,
    pub unit: &'a Unit,
    pub service: &'a ServiceSection,
    pub supervised: &'a Supervised,
    /// Number of the run.
    pub run: u64,
    /// Main process on the host, for `$MAINPID`.
    pub main_pid: Option<u32>,
    /// Of a start, which ends when something else is wanted.
    pub wanted: Option<&'a Wanted>,
    /// Longest wait for an end, if it is not as the unit says.
    pub hurry: Option<Duration>,
}

/// Says when a start is to be given up.
pub struct Wanted {
    goals: watch::Receiver<Goal>,
    goal: Goal,
}

impl Wanted {
    pub(crate) fn new(goals: watch::Receiver<Goal>, goal: Goal) -> Self {
        Self { goals, goal }
    }

    /// What it was wanted for.
    pub(crate) fn goal(&self) -> Goal {
        self.goal
    }

    /// Work that may be dropped half done, until something else is wanted.
    pub async fn unless<T>(&self, work: impl Future<Output = T>) -> Result<T, NotUp> {
        let mut goals = self.goals.clone();
        tokio::select! {
            biased;
            Ok(_) = goals.wait_for(|g| *g != self.goal) => Err(NotUp::because(1, Cause::Left)),
            done = work => Ok(done),
        }
    }
}

fn limit(time: TimeSpan) -> Duration {
    time.duration().unwrap_or(Duration::MAX)
}

async fn within<T>(time: Duration, work: impl Future<Output = T>) -> Option<T> {
    if time == Duration::MAX {
        Some(work.await)
    } else {
        crate::pace::within(time, work).await
    }
}

impl Run<'_> {
    /// Id of a process of this run. The unit's uid is in it, as names that differ may look alike here.
    pub fn id(&self, tag: &str) -> String {
        format!("{}{}.{tag}", self.prefix(), self.run)
    }

    /// How the ids of all runs of the unit begin.
    fn prefix(&self) -> String {
        let name: String = translate::plain(self.unit.name.as_str())
            .chars()
            .take(100)
            .collect();
        let uid = self.supervised.uid();
        format!("{name}.{}.", uid.get(..12).unwrap_or(uid))
    }

    /// Ends what a run left that was cut short with its daemon, all but one process.
    pub async fn clear(&self, but: Option<&str>) {
        let prefix = self.prefix();
        for (id, state) in self.fleet.containers().processes().await {
            if !id.starts_with(&prefix) || Some(id.as_str()) == but {
                continue;
            }
            if matches!(state, State::Running { .. }) {
                let _ = self.fleet.engine().process_signal(&id, 9, true).await;
                let _ = self.fleet.engine().process_wait(&id).await;
            }
            let _ = self.fleet.engine().process_forget(&id).await;
        }
    }

    /// Where everything the unit says is logged.
    pub fn log(&self) -> PathBuf {
        self.fleet.log_path(self.supervised)
    }

    /// Makes the directory of the log.
    pub fn make_log_dir(&self) -> Result<(), NotUp> {
        let log = self.log();
        let dir = log.parent().unwrap_or(&log);
        std::fs::create_dir_all(dir).map_err(|e| NotUp::new(1, format!("{}: {e}", dir.display())))
    }

    fn environment(&self) -> Result<Vec<String>, NotUp> {
        let own = &self.service.environment;
        let mut env = environment::environment(self.unit, &self.service.environment_files, own)
            .map_err(|e| NotUp::new(1, full_error(&e)))?;
        let has =
            |env: &[String], name: &str| env.iter().any(|e| e.starts_with(&format!("{name}=")));
        if !has(&env, "PATH") {
            env.push("PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin".into());
        }
        let fence = self.supervised.fence();
        if fence > 0 && self.supervised.is_exclusive() {
            env.retain(|e| !e.starts_with("CORACLE_FENCE="));
            env.push(format!("CORACLE_FENCE={fence}"));
        }
        if let Some(pid) = self.main_pid {
            env.push(format!("MAINPID={pid}"));
        }
        Ok(env)
    }

    fn spec(&self, command: &Command, tag: &str) -> Result<ProcessSpec, NotUp> {
        let env = self.environment()?;
        let map: BTreeMap<String, String> = env
            .iter()
            .filter_map(|e| e.split_once('='))
            .map(|(n, v)| (n.to_owned(), v.to_owned()))
            .collect();
        let args = if command.literal {
            command.argv.clone()
        } else {
            expand_env(&command.argv, &map)
        };
        let user = self.user(command)?;
        let s = self.service;
        let home = if user.uid == 0 { "/root" } else { "/" };
        let cwd = match s.working_directory.as_deref() {
            Some("~") => home,
            Some(dir) => dir,
            None => "/",
        };
        let mut rlimits = Vec::new();
        for (key, value) in &s.limits {
            let (soft, hard) = value.split_once(':').unwrap_or((value, value));
            let number = |text: &str| match text {
                "infinity" => Ok(u64::MAX),
                text => parse_bytes(text).map_err(|e| NotUp::new(1, format!("{key}={value}: {e}"))),
            };
            let name = key.strip_prefix("Limit").unwrap_or(key);
            rlimits.push(json!({
                "type": format!("RLIMIT_{name}"), "soft": number(soft)?, "hard": number(hard)?,
            }));
        }
        let mut process = json!({
            "user": { "uid": user.uid, "gid": user.gid, "additionalGids": user.groups },
            "args": args,
            "env": env,
            "cwd": cwd,
        });
        if let Some(umask) = s.umask {
            process["user"]["umask"] = json!(umask);
        }
        if !rlimits.is_empty() {
            process["rlimits"] = json!(rlimits);
        }
        let process = serde_json::from_value(process)
            .map_err(|e| NotUp::new(1, format!("the command has no valid form: {e}")))?;
        let kill_mode = match s.kill_mode.as_str() {
            "mixed" => KillMode::Mixed,
            "process" => KillMode::Process,
            "none" => KillMode::None,
            _ => KillMode::ControlGroup,
        };
        Ok(ProcessSpec {
            id: self.id(tag),
            process,
            kill_mode,
            log: self.log(),
            exclusive: None,
        })
    }

    /// Starts a process. What belongs to a start has no longer than its unit; what a run leaves to do at its end is not ended.
    async fn begin(&self, spec: ProcessSpec) -> Result<(), NotUp> {
        match self.wanted {
            Some(wanted) => {
                let (unit, file) = (self.supervised, self.unit);
                self.fleet.start_process(unit, file, spec, wanted).await
            }
            None => Ok(self.fleet.engine().process_start(spec).await.map(drop)?),
        }
    }

    fn user(&self, command: &Command) -> Result<coracle_engine::spec::ResolvedUser, NotUp> {
        let name = match (&self.service.user, &self.service.group) {
            _ if command.privileged => "0".to_owned(),
            (Some(user), Some(group)) => format!("{user}:{group}"),
            (Some(user), None) => user.clone(),
            (None, Some(group)) => format!("0:{group}"),
            (None, None) => "0".to_owned(),
        };
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        coracle_engine::spec::user::resolve(&name, &[], &read("/etc/passwd"), &read("/etc/group"))
            .map_err(|e| NotUp::new(217, full_error(&e)))
    }

    /// Runs a command to its end and gives its exit code.
    async fn command(&self, command: &Command, tag: &str, time: Duration) -> Result<i32, NotUp> {
        let spec = self.spec(command, tag)?;
        let id = spec.id.clone();
        // A process of a former daemon that was on its way.
        let _ = self.fleet.engine().process_forget(&id).await;
        // Never dropped half done: what is on its way could not be found again.
        self.begin(spec).await?;
        let end = within(time, self.fleet.engine().process_wait(&id));
        let ended = match self.wanted {
            Some(wanted) => wanted.unless(end).await,
            None => Ok(end.await),
        };
        if !matches!(ended, Ok(Some(_))) {
            let _ = self.fleet.engine().process_signal(&id, 9, true).await;
            let _ = self.fleet.engine().process_wait(&id).await;
        }
        let _ = self.fleet.engine().process_forget(&id).await;
        let Some(status) = ended? else {
            let (command, time) = (command.argv.join(" "), time.as_secs());
            return Err(NotUp::new(
                1,
                format!("{command} took longer than {time} s"),
            ));
        };
        let status = status?;
        match by_watchdog(&status) {
            Some(ended) => Err(ended),
            None => Ok(status.code),
        }
    }

    /// Runs commands one after the other; the first that fails ends it.
    pub async fn commands(
        &self,
        key: &str,
        commands: &[Command],
        time: Duration,
    ) -> Result<(), NotUp> {
        for (number, command) in commands.iter().enumerate() {
            let code = self
                .command(
                    command,
                    &format!("{}{number}", key.to_ascii_lowercase()),
                    time,
                )
                .await?;
            if code != 0 && !command.ignore_failure && !success(self.service, code) {
                return Err(NotUp::new(
                    code,
                    format!("{key}={} exited with code {code}", command.argv.join(" ")),
                ));
            }
        }
        Ok(())
    }

    /// `ExecCondition=` and `ExecStartPre=`.
    pub async fn before(&self) -> Result<(), NotUp> {
        let time = limit(self.service.timeout_start);
        for (number, command) in self.service.exec_condition.iter().enumerate() {
            let code = self
                .command(command, &format!("condition{number}"), time)
                .await?;
            match code {
                0 => {}
                1..=254 => {
                    return Err(NotUp::because(0, Cause::Skipped));
                }
                _ => {
                    return Err(NotUp::new(
                        code,
                        format!(
                            "ExecCondition={} failed (code {code})",
                            command.argv.join(" ")
                        ),
                    ));
                }
            }
        }
        self.commands("ExecStartPre", &self.service.exec_start_pre, time)
            .await
    }

    /// The main process of `simple` and `exec`, or all of a `oneshot`'s; gives the id of the one that runs on.
    pub async fn main(&self) -> Result<Option<String>, NotUp> {
        if self.service.service_type == "oneshot" {
            self.commands(
                "ExecStart",
                &self.service.exec_start,
                limit(self.service.timeout_start),
            )
            .await?;
            return Ok(None);
        }
        let Some(command) = self.service.exec_start.first() else {
            return Err(NotUp::new(1, "it has no ExecStart="));
        };
        let spec = self.spec(command, "main")?;
        let id = spec.id.clone();
        let _ = self.fleet.engine().process_forget(&id).await;
        self.begin(spec).await?;
        Ok(Some(id))
    }

    /// `ExecStartPost=`.
    pub async fn after(&self) -> Result<(), NotUp> {
        self.commands(
            "ExecStartPost",
            &self.service.exec_start_post,
            limit(self.service.timeout_start),
        )
        .await
    }

    /// `ExecReload=`.
    pub async fn reload(&self) -> Result<(), NotUp> {
        let (time, commands) = (limit(self.service.timeout_start), &self.service.exec_reload);
        self.commands("ExecReload", commands, time).await
    }

    fn timeout_stop(&self) -> Duration {
        limit(self.service.timeout_stop).min(self.hurry.unwrap_or(Duration::MAX))
    }

    /// `ExecStop=`.
    pub async fn commands_at_stop(&self) {
        let (time, commands) = (self.timeout_stop(), &self.service.exec_stop);
        if let Err(problem) = self.commands("ExecStop", commands, time).await {
            tracing::warn!(unit = %self.unit.name, reason = %problem, "ExecStop= failed");
        }
    }

    /// Ends the main process as `KillSignal=`, `KillMode=` and `TimeoutStopSec=` say. Answers how it ended, if that is known.
    pub async fn stop(&self, main: &str) -> Option<ExitStatus> {
        let s = self.service;
        let time = self.timeout_stop();
        let signal = coracle_engine::stop::signal_number(&s.kill_signal).unwrap_or(15);
        let mut ended = None;
        if s.kill_mode != "none" {
            let engine = self.fleet.engine();
            let all = s.kill_mode == "control-group";
            let _ = engine.process_signal(main, signal, all).await;
            ended = within(time, engine.process_wait(main)).await;
            if ended.is_none() {
                tracing::warn!(unit = %self.unit.name, "it did not stop in time and is killed");
                let all = s.kill_mode != "process";
                let _ = engine.process_signal(main, 9, all).await;
                ended = Some(engine.process_wait(main).await);
            }
        }
        let _ = self.fleet.engine().process_forget(main).await;
        ended?.ok()
    }

    /// `ExecStopPost=`, after every end.
    pub async fn stop_post(&self) {
        let time = self.timeout_stop();
        if let Err(problem) = self
            .commands("ExecStopPost", &self.service.exec_stop_post, time)
            .await
        {
            tracing::warn!(unit = %self.unit.name, reason = %problem, "ExecStopPost= failed");
        }
    }
}

/// `SuccessExitStatus=` as numbers; signals as 128 + n.
pub fn success_codes(service: &ServiceSection) -> Vec<i32> {
    let number = |text: &String| {
        text.parse().ok().or_else(|| {
            coracle_engine::stop::signal_number(text)
                .ok()
                .map(|n| 128 + n)
        })
    };
    service
        .success_exit_status
        .iter()
        .filter_map(number)
        .collect()
}

fn success(service: &ServiceSection, code: i32) -> bool {
    success_codes(service).contains(&code)
}
