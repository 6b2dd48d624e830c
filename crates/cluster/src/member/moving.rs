//! The store moves from the embedded one into an etcd of this machine's, once, when a second machine is about to join.
//!
//! `STATE_DIR/cluster/mode.json` says what holds the store, and is the one thing that decides:
//!
//! ```text
//! mode        what is done                                            killed here, the next daemon …
//! embedded
//! moving      Marked     the file says so                             ┐
//!             Frozen     writes wait; no lease runs out               │
//!             Seeded     the store's file for etcd is written         │ … goes on with the embedded store, which nobody wrote
//!             Restored   etcd's directory is made of it               │ to since; the half-made etcd is ended and removed
//!             Started    etcd answers                                 │
//!             Compared   it holds the same, asked over its API        ┘
//! etcd        Flipped    the file says so                             ┐ … finds etcd running, or starts it
//!             Switched   writes, watches and reads go on there        ┘
//! ```
//! A lease's time begins anew when etcd starts, and its holder still keeps it alive at the embedded store; so the move keeps
//! all of etcd's alive until everybody is there.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use coracle_engine::Engine;
use coracle_store::{
    EmbeddedStore, EtcdOptions, EtcdStore, Frozen, Revision, Store as _, StoreError, Switch,
    compare,
};
use futures_util::{StreamExt as _, stream};
use serde::{Deserialize, Serialize};
use tokio::time::{sleep, timeout};

use super::config::MemberConfig;
use super::find::Found;
use super::run::{Member, stop_all};
use super::{MemberError, files};

const FORMAT: u64 = 1;
/// How often leases are kept alive meanwhile: the shortest one has two seconds.
const RENEW: Duration = Duration::from_millis(500);
/// Leases that are kept alive at once.
const AT_ONCE: usize = 32;

/// What holds the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// The embedded store.
    Embedded,
    /// The embedded store; an etcd may be half made.
    Moving,
    /// etcd.
    Etcd,
}

#[derive(Serialize, Deserialize)]
struct ModeFile {
    version: u64,
    mode: Mode,
}

fn mode_path(dir: &Path) -> PathBuf {
    dir.join("mode.json")
}

/// What holds the store, by the file below `dir` (`STATE_DIR/cluster`). Without a file it is the embedded one.
///
/// # Errors
/// `File`, `Format`, `UnknownFormat`.
pub fn mode(dir: &Path) -> Result<Mode, MemberError> {
    let file: Option<ModeFile> = files::read(&mode_path(dir), FORMAT)?;
    Ok(file.map_or(Mode::Embedded, |file| file.mode))
}

/// Says what holds the store, to be there after a power cut. A machine that joins others, whose etcd is a learner of theirs or
/// which has none, says `Etcd` so.
///
/// # Errors
/// `File`.
pub fn set_mode(dir: &Path, mode: Mode) -> Result<(), MemberError> {
    let file = ModeFile {
        version: FORMAT,
        mode,
    };
    files::write(&mode_path(dir), &file)
}

/// Called when the daemon starts, before the store is used: what a move that was cut short left is ended and removed. Answers
/// what holds the store.
///
/// # Errors
/// `File`, `Engine`.
pub async fn settle(engine: &Engine, dir: &Path) -> Result<Mode, MemberError> {
    let found = mode(dir)?;
    if found == Mode::Etcd {
        return Ok(found);
    }
    // Also if the file says that nothing moves: what was undone may not have gone for good.
    clear(engine, dir).await?;
    if found == Mode::Moving {
        set_mode(dir, Mode::Embedded)?;
    }
    Ok(Mode::Embedded)
}

/// Ends this machine's etcd and removes what it holds; its log stays.
///
/// # Errors
/// `File`, `Engine`.
pub async fn clear(engine: &Engine, dir: &Path) -> Result<(), MemberError> {
    stop_all(engine).await?;
    // First what says that there is one.
    let note = dir.join("etcd/data.begun");
    for file in [MemberConfig::path(dir), seed_path(dir), note] {
        match std::fs::remove_file(&file) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(MemberError::file("removing", &file)(error));
            }
            _ => {}
        }
    }
    files::remove_dir(&dir.join("etcd/data"))
}

fn seed_path(dir: &Path) -> PathBuf {
    dir.join("etcd/seed.db")
}

/// How far a move has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the module's table says it")]
pub enum Step {
    Marked,
    Frozen,
    Seeded,
    Restored,
    Started,
    Compared,
    Flipped,
    Switched,
}

/// The move.
pub struct Move {
    /// Runs etcd.
    pub engine: Engine,
    /// etcd's programs.
    pub found: Found,
    /// How etcd is to be run: the first of its cluster.
    pub config: MemberConfig,
    /// `STATE_DIR/cluster`.
    pub dir: PathBuf,
    /// The store that moves.
    pub store: Arc<EmbeddedStore>,
    /// Where everybody uses it; in use is `store`.
    pub switch: Arc<Switch>,
    /// The store in the etcd that is made, as everybody is to ask it.
    pub etcd: Arc<EtcdStore>,
    /// How long etcd may take to start, and to be compared; writes wait meanwhile.
    pub limit: Duration,
    /// Told of each step that is done.
    pub done: Box<dyn Fn(Step) + Send + Sync>,
}

/// After it.
pub struct Moved {
    /// This machine's etcd.
    pub member: Member,
    /// The store in it, which is in use now.
    pub store: Arc<EtcdStore>,
}

impl Move {
    /// Moves the store. After an error it is where it was, writes go on, and the move can be begun anew; but see `Errors`.
    ///
    /// # Errors
    /// `Moved` where it is in etcd already; what a step says. Where even the mode file cannot be written any more, writes wait
    /// until the daemon is started anew, since it must be the file that says where they are to go.
    pub async fn run(self) -> Result<Moved, MemberError> {
        if mode(&self.dir)? == Mode::Etcd {
            return Err(MemberError::Moved);
        }
        clear(&self.engine, &self.dir).await?;
        set_mode(&self.dir, Mode::Moving)?;
        (self.done)(Step::Marked);
        let frozen = self.switch.freeze().await;
        let made = self.make(&frozen).await;
        let flipped = made.and_then(|made| set_mode(&self.dir, Mode::Etcd).map(|()| made));
        let (moved, revision) = match flipped {
            Ok(made) => made,
            Err(error) => return Err(self.undo(frozen, error).await),
        };
        (self.done)(Step::Flipped);
        frozen.exchange(moved.store.clone(), revision);
        (self.done)(Step::Switched);
        Ok(moved)
    }

    async fn make(&self, frozen: &Frozen<'_>) -> Result<(Moved, Revision), MemberError> {
        self.store.hold(true).await?;
        (self.done)(Step::Frozen);
        let seed = seed_path(&self.dir);
        files::make_dir(&self.dir.join("etcd"))?;
        self.store.seed(&seed).await?;
        (self.done)(Step::Seeded);
        self.found.restore(&seed, &self.config).await?;
        std::fs::remove_file(&seed).map_err(MemberError::file("removing", &seed))?;
        self.config.save(&self.dir)?;
        (self.done)(Step::Restored);
        let (engine, config) = (self.engine.clone(), self.config.clone());
        let member = Member::start(engine, &self.found, config, &self.dir);
        match self.fill(&member, frozen).await {
            Ok((store, revision)) => Ok((Moved { member, store }, revision)),
            Err(error) => {
                // Not dropped: it may be about to start etcd anew.
                if let Err(left) = member.stop().await {
                    tracing::warn!(error = %coracle_engine::full_error(&left), "etcd could not be stopped yet");
                }
                Err(error)
            }
        }
    }

    /// Waits for etcd, and sees to it that it holds the same.
    async fn fill(
        &self,
        member: &Member,
        frozen: &Frozen<'_>,
    ) -> Result<(Arc<EtcdStore>, Revision), MemberError> {
        let late = |what| MemberError::Late {
            what,
            waited: self.limit,
            log: member.log().to_owned(),
        };
        member.ready(self.limit).await?;
        let store = self.etcd.clone();
        (self.done)(Step::Started);
        let options = EtcdOptions {
            whole: true,
            ..EtcdOptions::new([self.config.client_url()])
        };
        let all = EtcdStore::new(options)?;
        let compared = timeout(self.limit, compare(&*self.store, &all));
        let differs = tokio::select! {
            compared = compared => compared.map_err(|_| late("answer for all that it holds"))??,
            error = keep_alive(&store) => return Err(error.into()),
        };
        if let Some(difference) = differs {
            return Err(MemberError::Differs(difference));
        }
        (self.done)(Step::Compared);
        // What their holders sent last may have come to the store that is left.
        renew(&store).await?;
        let revision = frozen.check(&*store).await?;
        Ok((store, revision))
    }

    /// Goes back, and answers why.
    async fn undo(&self, frozen: Frozen<'_>, error: MemberError) -> MemberError {
        // First, while the etcd that it may name is whole.
        if let Err(again) = set_mode(&self.dir, Mode::Embedded) {
            tracing::error!(error = %coracle_engine::full_error(&again), "the mode file can be written neither way; writes wait until the daemon is started anew");
            // Whichever the file names after a power cut must hold all that was answered.
            std::mem::forget(frozen);
            return error;
        }
        if let Err(left) = clear(&self.engine, &self.dir).await {
            tracing::warn!(error = %coracle_engine::full_error(&left), "what a move left could not be removed yet");
        }
        if let Err(closed) = self.store.hold(false).await {
            tracing::warn!(error = %coracle_engine::full_error(&closed), "the store could not be released");
        }
        frozen.thaw();
        error
    }
}

/// Keeps all leases alive until it is dropped; ends with an error.
async fn keep_alive(store: &EtcdStore) -> StoreError {
    loop {
        if let Err(error) = renew(store).await {
            return error;
        }
        sleep(RENEW).await;
    }
}

async fn renew(store: &EtcdStore) -> Result<(), StoreError> {
    let ids = store.leases().await?.ids;
    let renewed = stream::iter(ids).map(async |id| store.lease_keep_alive(id).await.map(drop));
    let failed = renewed
        .buffer_unordered(AT_ONCE)
        .filter_map(async |done| done.err());
    // One that ran out is found by who compares.
    let failed =
        failed.filter(|error| std::future::ready(!matches!(error, StoreError::LeaseNotFound(_))));
    match std::pin::pin!(failed).next().await {
        Some(error) => Err(error),
        None => Ok(()),
    }
}
