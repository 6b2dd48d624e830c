//! Updates by themselves: a channel is looked at, and what is newer there is taken when the window is open and the machine has its turn.
//!
//! An image is fetched as soon as it is seen and written only when it is this machine's turn, right before the restart: a machine whose power goes
//! while it waits starts what it ran before.

mod back;
mod keep;
mod settings;
mod turn;

pub use settings::{Updates, UpdatesOf};

use super::{
    Os,
    error::OsError,
    update::{Allowed, Tell},
};
use coracle_cloud_config::RebootStrategy;
use coracle_image::{Reference, Silent};
use coracle_os::{
    history::{Outcome, Update},
    release::Release,
    turns::{Proof, Verdict, Wait},
};
use serde::Serialize;
use std::{
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};
use tokio::sync::Notify;

/// Where `coracle os channel` keeps what it was told.
const CHANNEL: &str = "/var/lib/coracle-os/channel";
/// Pause between two looks at something that others do: a turn, the end of a drain.
const LOOK: Duration = Duration::from_secs(3);
/// Pause after what failed, at most that between two looks at the channel.
const RETRY: Duration = Duration::from_secs(60);

/// What updates by themselves need beside [`Os`].
pub struct Rollout {
    settings: Updates,
    /// The daemon's own socket: drains and machines are asked for as an operator would.
    client: crate::client::Client,
    progress: Mutex<Progress>,
    /// Somebody wants it to be looked at now.
    wake: Notify,
    /// A look has ended.
    looked: Notify,
}

/// How far it is.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Progress {
    /// When the channel was looked at last, in seconds since 1970.
    pub checked_at: Option<u64>,
    /// The release that was there.
    pub found: Option<semver::Version>,
    /// What is going on.
    pub state: String,
}

impl Rollout {
    pub fn new(settings: Updates, run_dir: &Path) -> Self {
        Self {
            settings,
            client: crate::client::Client::new(&run_dir.join("coracle.sock")),
            progress: Mutex::default(),
            wake: Notify::new(),
            looked: Notify::new(),
        }
    }
}

/// Seconds since 1970.
fn now() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    now.unwrap_or_default().as_secs()
}

impl Os {
    /// Judges the release that runs, gives a turn back, and then keeps the machine up to date, for ever.
    pub async fn keep(self: Arc<Self>) {
        let back = tokio::spawn({
            let os = self.clone();
            async move { os.lift().await }
        });
        let before = self.last();
        self.watch().await;
        // A release that is not good restarts the machine, and the daemon ends.
        back.await.ok();
        self.come_back(before).await;
        loop {
            let pause = self.look_once().await;
            self.rollout.looked.notify_waiters();
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.rollout.wake.notified() => {}
            }
        }
    }

    fn last(&self) -> Option<Update> {
        self.history().ok()?.updates.pop()
    }

    /// How far it is.
    pub fn progress(&self) -> Progress {
        self.noting(|progress| progress.clone())
    }

    fn noting<T>(&self, act: impl FnOnce(&mut Progress) -> T) -> T {
        let progress = self.rollout.progress.lock();
        act(&mut progress.unwrap_or_else(PoisonError::into_inner))
    }

    fn say(&self, state: impl Into<String>) {
        let state = state.into();
        if self.noting(|p| std::mem::replace(&mut p.state, state.clone())) != state {
            tracing::info!(state, "updates");
        }
    }

    /// Has the channel looked at now, and answers once it was.
    ///
    /// # Errors
    /// [`OsError::NoChannel`].
    pub async fn look_now(&self) -> Result<Progress, OsError> {
        if self.rollout.settings.from.is_none() {
            return Err(OsError::NoChannel);
        }
        let mut looked = std::pin::pin!(self.rollout.looked.notified());
        looked.as_mut().enable();
        self.rollout.wake.notify_one();
        looked.await;
        Ok(self.progress())
    }

    /// The channel: an operator's word, the configuration's, or the usual one.
    pub fn channel(&self) -> String {
        let told = std::fs::read_to_string(CHANNEL).unwrap_or_default();
        match told.trim() {
            "" => self.rollout.settings.channel.clone(),
            told => told.to_owned(),
        }
    }

    /// Sets the channel, or leaves it to the configuration again, and has it looked at.
    ///
    /// # Errors
    /// That the name is none, or those of writing.
    pub fn set_channel(&self, name: Option<&str>) -> Result<(), OsError> {
        let failed = |error| OsError::Write(CHANNEL.to_owned(), error);
        match name {
            Some(name) => {
                let from = self.rollout.settings.from.as_deref();
                settings::reference(from.unwrap_or("localhost/os"), name)
                    .map_err(|_| OsError::Channel(name.to_owned()))?;
                let new = format!("{CHANNEL}.new");
                std::fs::write(&new, format!("{name}\n")).map_err(failed)?;
                let file = std::fs::File::open(&new).map_err(failed)?;
                file.sync_all().map_err(failed)?;
                std::fs::rename(&new, CHANNEL).map_err(failed)?;
            }
            None => match std::fs::remove_file(CHANNEL) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(failed(e)),
                _ => {}
            },
        }
        self.rollout.wake.notify_one();
        Ok(())
    }

    /// One look at the channel and what follows from it; the pause until the next one.
    async fn look_once(self: &Arc<Self>) -> Duration {
        let every = self.rollout.settings.every;
        if self.rollout.settings.from.is_none() {
            self.say(
                "no repository is named (`coreos.update.server`), so nobody looks for updates",
            );
            return every;
        }
        match self.look().await {
            Ok(pause) => pause.min(every),
            Err(OsError::Wait(wait @ Wait::Stopped { .. })) => {
                self.say(wait.to_string());
                RETRY.min(every)
            }
            Err(OsError::Wait(wait)) => {
                self.say(wait.to_string());
                LOOK
            }
            Err(error) => {
                self.say(coracle_engine::full_error(&error));
                RETRY.min(every)
            }
        }
    }

    async fn look(self: &Arc<Self>) -> Result<Duration, OsError> {
        let settings = &self.rollout.settings;
        let from = settings.from.as_deref().ok_or(OsError::NoChannel)?;
        let reference = settings::reference(from, &self.channel())?;
        let (image, release) = self.fetch(&reference).await?;
        self.noting(|p| (p.checked_at, p.found) = (Some(now()), Some(release.version.clone())));
        if release.version <= self.machine.about.version {
            self.say("up to date");
            return Ok(settings.every);
        }
        self.fits(&release, Allowed::default())?;
        let verdict = self.verdict(&release.version).await;
        if let Some(update) = self.declined(&release, verdict.as_ref().ok())? {
            let outcome = match update.outcome {
                Outcome::RolledBack => "somebody went back from it",
                _ => update.reason.as_deref().unwrap_or("it failed"),
            };
            self.say(format!(
                "release {to} is not tried again here ({outcome}); `coracle os update {reference}` does, and so does a later one",
                to = release.version
            ));
            return Ok(settings.every);
        }
        if settings.reboot == RebootStrategy::Off {
            return self.only_write(&image, &release).await;
        }
        if let Some(closed) = self.closed() {
            return Ok(closed);
        }
        let locked = match settings.reboot {
            RebootStrategy::Reboot | RebootStrategy::Off => false,
            RebootStrategy::EtcdLock => true,
            RebootStrategy::BestEffort => self.is_one_of_many().await?,
        };
        match locked {
            true => self.turn(&image, &release).await?,
            false => {
                let before = self.before().await;
                self.write_and_restart(&image, &release, before).await?;
            }
        }
        // The machine goes down.
        Ok(settings.every)
    }

    /// Fetches an image; its id and the release in it, whose signature is good.
    async fn fetch(self: &Arc<Self>, reference: &Reference) -> Result<(String, Release), OsError> {
        let images = self.engine.images();
        let image = images.pull(reference, None, None, &Silent).await?;
        let (os, id) = (self.clone(), image.id.to_string());
        let reading = tokio::task::spawn_blocking(move || os.peek(&id).map(|r| (id, r)));
        reading.await.map_err(|_| OsError::Interrupted)?
    }

    /// The update of that release that failed here by itself, or that somebody went back from; nothing if an operator said since that it is to be tried.
    fn declined(
        &self,
        release: &Release,
        verdict: Option<&Option<Verdict>>,
    ) -> Result<Option<Update>, OsError> {
        let resumed = verdict
            .and_then(Option::as_ref)
            .filter(|v| v.standing == Proof::Resumed)
            .map_or(0, |v| v.at);
        let mut updates = self.history()?.updates;
        let last = updates.pop().filter(|u| u.to == release.version);
        Ok(last.filter(|u| {
            let ended = matches!(u.outcome, Outcome::Failed | Outcome::RolledBack);
            ended && !u.cut_short && u.at >= resumed
        }))
    }

    /// Writes it, for somebody's restart.
    async fn only_write(
        self: &Arc<Self>,
        image: &str,
        release: &Release,
    ) -> Result<Duration, OsError> {
        let last = self.last();
        let written =
            last.is_some_and(|u| u.to == release.version && u.outcome == Outcome::Written);
        if !written {
            let before = self.before().await;
            self.update_from_image(image, Allowed::default(), before, self.telling())
                .await?;
        }
        self.say(format!(
            "release {} is started with the next restart",
            release.version
        ));
        Ok(self.rollout.settings.every)
    }

    /// Seconds until the window opens, if it is closed; that is told.
    fn closed(&self) -> Option<Duration> {
        let window = self.rollout.settings.window?;
        let rest = Duration::from_secs(window.opens_in(now()));
        (!rest.is_zero()).then(|| {
            self.say(format!("waits for the window, {window}"));
            rest
        })
    }

    fn telling(self: &Arc<Self>) -> Tell {
        let os = self.clone();
        Arc::new(move |line| os.say(line))
    }

    /// Writes it and restarts, unless the window has closed meanwhile.
    async fn write_and_restart(
        self: &Arc<Self>,
        image: &str,
        release: &Release,
        before: coracle_os::history::Before,
    ) -> Result<(), OsError> {
        self.update_from_image(image, Allowed::default(), before, self.telling())
            .await?;
        if self.closed().is_some() {
            self.machine.forget_other()?;
            self.change(|history| {
                if let Some(update) = history.under_way() {
                    update.outcome = Outcome::Failed;
                    update.reason = Some("the window closed before the restart".to_owned());
                    update.cut_short = true;
                }
            })?;
            return Err(OsError::Closed);
        }
        self.say(format!("restarts into release {}", release.version));
        self.restart()
    }
}
