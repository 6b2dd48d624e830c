//! Running etcd: a process of the engine's that outlives the daemon, found again by the next one, started anew when it ends.
//!
//! ```text
//! Starting ──▶ Running ──ended──▶ Resting ──▶ Starting …        rests: 0.2 s, 0.4 s, … 30 s; from 0.2 s again after a minute's run
//!                 ▲ │
//!   next daemon ──┘ └──stop──▶ Stopped
//! ```

use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::time::Duration;

use coracle_engine::process::{KillMode, ProcessSpec, State as ProcessState};
use coracle_engine::{Engine, EngineError};
use coracle_store::{EtcdOptions, EtcdStore, Store as _};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

use super::MemberError;
use super::config::{Initial, MemberConfig};
use super::find::Found;

/// How the ids of its runs begin.
const PREFIX: &str = "etcd.";
const FIRST_REST: Duration = Duration::from_millis(200);
const LONGEST_REST: Duration = Duration::from_secs(30);
/// A run of this length was a good one.
const GOOD: Duration = Duration::from_secs(60);
/// How long etcd may take to end when it is asked to.
const GRACE: Duration = Duration::from_secs(10);
/// How often one that starts is asked whether it answers.
const POLL: Duration = Duration::from_millis(50);

const TERM: i32 = 15;
const KILL: i32 = 9;

/// How this machine's etcd stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// It is being started.
    Starting,
    /// It runs, as this process.
    Running {
        /// Process id on the host.
        pid: u32,
    },
    /// It ended, or did not start, and is started anew after a while.
    Resting {
        /// What happened.
        why: String,
    },
    /// It was stopped.
    Stopped,
}

/// This machine's etcd while this daemon looks after it. Dropped, etcd runs on.
pub struct Member {
    engine: Engine,
    config: MemberConfig,
    log: PathBuf,
    state: watch::Receiver<State>,
    stop: watch::Sender<bool>,
    task: Option<JoinHandle<()>>,
}

impl Drop for Member {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

impl Member {
    /// Looks after it from now on: one that runs is taken over, else it is started. Its log, below `dir`
    /// (`STATE_DIR/cluster`), has five files of 20 MiB.
    pub fn start(engine: Engine, found: &Found, config: MemberConfig, dir: &Path) -> Self {
        let log = dir.join("etcd/etcd.log");
        let (told, state) = watch::channel(State::Starting);
        let (stop, stopped) = watch::channel(false);
        let keeper = Keeper {
            engine: engine.clone(),
            command: found.command(),
            etcd: found.etcd.clone(),
            config: config.clone(),
            log: log.clone(),
            told,
            stopped,
        };
        Self {
            engine,
            config,
            log,
            state,
            stop,
            task: Some(tokio::spawn(keeper.run())),
        }
    }

    /// What it was started with.
    pub fn config(&self) -> &MemberConfig {
        &self.config
    }

    /// Where it says what it does.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// How it stands, and when that changes.
    pub fn state(&self) -> watch::Receiver<State> {
        self.state.clone()
    }

    /// The store that it holds, asked over loopback.
    ///
    /// # Errors
    /// `Store`.
    pub fn store(&self) -> Result<EtcdStore, MemberError> {
        Ok(EtcdStore::new(EtcdOptions::new([self
            .config
            .client_url()]))?)
    }

    /// Waits until it answers, as one of a majority.
    ///
    /// # Errors
    /// `Late`, which names its log.
    pub async fn ready(&self, limit: Duration) -> Result<(), MemberError> {
        let store = self.store()?;
        let answers = async {
            while store
                .range(coracle_store::RangeRequest::key("\0"))
                .await
                .is_err()
            {
                sleep(POLL).await;
            }
        };
        let late = |_| MemberError::Late {
            what: "answer",
            waited: limit,
            log: self.log.clone(),
        };
        timeout(limit, answers).await.map_err(late)?;
        may_start(&self.config).map(drop)
    }

    /// Ends it in order; what does not end is killed.
    ///
    /// # Errors
    /// `Engine`.
    pub async fn stop(mut self) -> Result<(), MemberError> {
        self.stop.send_replace(true);
        if let Some(task) = self.task.take() {
            // It leaves the process alone when it is told so.
            let _ = task.await;
        }
        stop_all(&self.engine).await
    }
}

/// Whether an etcd of this machine's runs, be it one of a daemon before.
pub async fn runs(engine: &Engine) -> bool {
    let mut all = engine.processes().await.into_iter();
    all.any(|(id, state)| id.starts_with(PREFIX) && matches!(state, ProcessState::Running { .. }))
}

/// Ends every etcd that the engine runs, also those of a daemon before, and forgets them.
///
/// # Errors
/// `Engine`.
pub async fn stop_all(engine: &Engine) -> Result<(), MemberError> {
    for (id, state) in engine.processes().await {
        if !id.starts_with(PREFIX) {
            continue;
        }
        if matches!(state, ProcessState::Running { .. }) {
            // It may have ended by now.
            let _ = engine.process_signal(&id, TERM, false).await;
            if timeout(GRACE, engine.process_wait(&id)).await.is_err() {
                let _ = engine.process_signal(&id, KILL, true).await;
            }
        }
        // Of one that was never started this says so.
        match engine.process_wait(&id).await {
            // Whoever waited for its end too has forgotten it already.
            Err(EngineError::NotFound { .. }) => continue,
            ended => drop(ended?),
        }
        engine.process_forget(&id).await?;
    }
    Ok(())
}

/// Where it is noted that an etcd with that data has begun.
pub(super) fn begun(data: &Path) -> PathBuf {
    data.with_extension("begun")
}

/// Notes that it has: from then on it is not started without its data.
///
/// # Errors
/// `File`.
pub(super) fn note_begun(data: &Path) -> Result<(), MemberError> {
    let note = begun(data);
    match note.exists() {
        true => Ok(()),
        false => std::fs::write(&note, "").map_err(MemberError::file("writing", &note)),
    }
}

/// Whether it may be started, and notes that it was once it has a log. An etcd whose data is gone would be another one with the
/// same name: it would begin an empty store, or vote again on what it has forgotten.
fn may_start(config: &MemberConfig) -> Result<bool, MemberError> {
    if config.has_begun() {
        note_begun(&config.data_dir)?;
        return Ok(true);
    }
    // The first one's data is made before it starts; one that comes to others gets it from them. Releases before this one noted that one had begun
    // which the others had not let in yet: it has a directory and no log.
    let waits = || config.data_dir.join("member").exists();
    let is_new = !begun(&config.data_dir).exists() || waits();
    Ok(config.initial == Initial::Existing && is_new)
}

/// The task that looks after it.
struct Keeper {
    engine: Engine,
    command: Vec<String>,
    etcd: PathBuf,
    config: MemberConfig,
    log: PathBuf,
    told: watch::Sender<State>,
    stopped: watch::Receiver<bool>,
}

impl Keeper {
    async fn run(self) {
        let mut rest = FIRST_REST;
        let mut stopped = self.stopped.clone();
        loop {
            self.told.send_replace(State::Starting);
            let begun = Instant::now();
            // Not given up half done: what is on its way would not be found by who stops it.
            let why = match self.find_or_start().await {
                Ok((id, pid)) => {
                    self.told.send_replace(State::Running { pid });
                    tokio::select! {
                        why = self.ended(&id) => why,
                        never = self.note_begin() => match never {},
                        _ = stopped.wait_for(|stop| *stop) => break,
                    }
                }
                Err(error) => coracle_engine::full_error(&error),
            };
            if begun.elapsed() >= GOOD {
                rest = FIRST_REST;
            }
            tracing::warn!(%why, log = %self.log.display(), "etcd ended; it is started anew");
            self.told.send_replace(State::Resting { why });
            tokio::select! {
                () = sleep(rest) => {}
                _ = stopped.wait_for(|stop| *stop) => break,
            }
            rest = (rest * 2).min(LONGEST_REST);
        }
        self.told.send_replace(State::Stopped);
    }

    /// Notes that it has begun, as soon as it has; then it waits for ever.
    async fn note_begin(&self) -> Infallible {
        while !self.config.has_begun() {
            sleep(POLL).await;
        }
        if let Err(error) = may_start(&self.config) {
            tracing::warn!(error = %coracle_engine::full_error(&error), "that etcd has begun could not be written down");
        }
        std::future::pending().await
    }

    /// Waits for the end of a run; answers how it ended.
    async fn ended(&self, id: &str) -> String {
        let ended = self.engine.process_wait(id).await;
        let why = match ended {
            Ok(status) => format!("it ended with code {}", status.code),
            Err(error) => coracle_engine::full_error(&error),
        };
        if let Err(error) = self.engine.process_forget(id).await {
            tracing::warn!(error = %coracle_engine::full_error(&error), "what etcd's run left could not be removed");
        }
        why
    }

    async fn find_or_start(&self) -> Result<(String, u32), MemberError> {
        let mut last = 0;
        for (id, state) in self.engine.processes().await {
            let Some(number) = id.strip_prefix(PREFIX) else {
                continue;
            };
            if let ProcessState::Running { pid, .. } = state {
                may_start(&self.config)?;
                return Ok((id, pid));
            }
            last = last.max(number.parse().unwrap_or(0));
            // Ended while no daemon looked, or its start was cut short.
            self.engine.process_wait(&id).await?;
            self.engine.process_forget(&id).await?;
        }
        if !may_start(&self.config)? {
            let path = self.config.data_dir.clone();
            return Err(MemberError::Gone { path });
        }
        let id = format!("{PREFIX}{}", last + 1);
        // Not even when this task is dropped with its daemon.
        let (engine, spec) = (self.engine.clone(), self.spec(id.clone())?);
        let started = tokio::spawn(async move { engine.process_start(spec).await }).await;
        let started = started.map_err(coracle_engine::EngineError::from)?;
        Ok((id, started?))
    }

    fn spec(&self, id: String) -> Result<ProcessSpec, MemberError> {
        super::files::make_dir(&self.config.data_dir)?;
        let mut args = self.command.clone();
        args.extend(self.config.arguments());
        let process = serde_json::json!({
            "user": { "uid": 0, "gid": 0 },
            "args": args,
            "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin"],
            "cwd": "/",
            "rlimits": [{ "type": "RLIMIT_NOFILE", "soft": 65536, "hard": 65536 }],
        });
        let process = serde_json::from_value(process).map_err(|source| MemberError::Format {
            path: self.etcd.clone(),
            source,
        })?;
        Ok(ProcessSpec {
            id,
            process,
            kill_mode: KillMode::ControlGroup,
            log: self.log.clone(),
            exclusive: None,
        })
    }
}
