//! Beginning anew with what this machine has, when a majority of etcd's members is lost for good.
//!
//! The store is read out of this machine's own etcd (a voter's or a learner's) or out of a snapshot, its revision moved forward,
//! and an etcd with this machine as its only member made of it. Revisions that apps saw are told to be compacted, so none
//! watches on from a state that is not there any more. What was there before stays beside it, as `etcd/data.before-N`.
//!
//! ```text
//! Ended        no etcd of this machine's runs
//! Read         recovered.db is written, from what there is
//! Made         data.new is made of it
//! Named        it says of which recovery it is
//! Aside        data is data.before-N, and not begun anew though it is gone
//! Placed       data.new is data
//! Configured   member.json says how it is run
//! Flipped      mode.json says that it holds the store
//! ```
//! Killed at any point it can be done again: `etcd/data` is at each moment the old one or the new one, or not there between two
//! renamings, when the newest of those beside is taken. From `Placed` on [`restored`] says that it is the new one.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use coracle_engine::Engine;
use coracle_store::{Recovered, Revision};

use super::config::MemberConfig;
use super::find::Found;
use super::moving::{Mode, clear, set_mode};
use super::run::{Member, begun, note_begun, stop_all};
use super::{MemberError, files};

/// How far revisions go forward: more than a store counts between its last copy and its loss.
const AHEAD: Revision = 1_000_000_000;
const DATABASE: &str = "member/snap/db";
/// Says in the data of whose recovery it is.
const NAME: &str = "recovered";

/// What the store is read from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// This machine's own etcd.
    Own,
    /// A snapshot's file, of [`super::snapshots`] or of `etcdctl snapshot save`.
    Snapshot(PathBuf),
}

/// How far [`restore`] has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the module's table says it")]
pub enum Step {
    Ended,
    Read,
    Made,
    Named,
    Aside,
    Placed,
    Configured,
    Flipped,
}

/// Makes this machine the only member of a new etcd, and runs it. `config` is [`MemberConfig::first`]'s; `dir` is
/// `STATE_DIR/cluster`. The caller sees to it that the old members do not come back.
///
/// # Errors
/// As [`restore`].
pub async fn recover(
    engine: &Engine,
    found: &Found,
    config: MemberConfig,
    dir: &Path,
    source: &Source,
) -> Result<(Member, Recovered), MemberError> {
    let recovered = restore(engine, found, &config, dir, source, &|_| {}).await?;
    let member = Member::start(engine.clone(), found, config, dir);
    Ok((member, recovered))
}

/// As [`recover`], without running it: the files say that it is to be run. No [`Member`] may look after this machine's etcd
/// meanwhile. `done` is told of each step.
///
/// # Errors
/// `Store` (`Corrupt`, or `Io` where there is nothing to read); `Program`, `File`, `Engine`. What was there is there still then.
pub async fn restore(
    engine: &Engine,
    found: &Found,
    config: &MemberConfig,
    dir: &Path,
    source: &Source,
    done: &(dyn Fn(Step) + Send + Sync),
) -> Result<Recovered, MemberError> {
    // In order: then its database holds all that it knows.
    stop_all(engine).await?;
    done(Step::Ended);
    let data = config.data_dir.clone();
    files::make_dir(&dir.join("etcd"))?;
    let from = match source {
        Source::Own => own_database(dir)?,
        Source::Snapshot(path) => path.clone(),
    };
    let file = dir.join("etcd/recovered.db");
    let fresh = data.with_extension("new");
    tidy(dir)?;
    let written = file.clone();
    let read =
        tokio::task::spawn_blocking(move || coracle_store::recover(&from, &written, AHEAD, true));
    let recovered = read.await.map_err(coracle_engine::EngineError::from)??;
    done(Step::Read);
    let elsewhere = MemberConfig {
        data_dir: fresh.clone(),
        ..config.clone()
    };
    found.restore(&file, &elsewhere).await?;
    done(Step::Made);
    files::remove(&file)?;
    // In its place with the data: which one it is. etcd passes over it.
    let name = fresh.join(NAME);
    fs::write(&name, &config.cluster).map_err(MemberError::file("writing", &name))?;
    File::open(&name)
        .and_then(|file| file.sync_all())
        .map_err(MemberError::file("syncing", &name))?;
    done(Step::Named);
    note_begun(&data)?;
    let aside = put_aside(&data)?;
    done(Step::Aside);
    if let Err(error) = fs::rename(&fresh, &data) {
        if let Some(aside) = aside {
            // What it says of the error counts more than that this may fail, too: it is found there the next time.
            let _ = fs::rename(aside, &data);
        }
        return Err(MemberError::file("naming", &data)(error));
    }
    files::sync_dir(&dir.join("etcd"))?;
    done(Step::Placed);
    config.save(dir)?;
    done(Step::Configured);
    set_mode(dir, Mode::Etcd)?;
    done(Step::Flipped);
    Ok(recovered)
}

/// The name of the etcd cluster ([`MemberConfig::cluster`]) that a recovery made of what was here; None where this machine's etcd is of
/// none. `dir` is `STATE_DIR/cluster`.
pub fn restored(dir: &Path) -> Option<String> {
    fs::read_to_string(data_dir(dir).join(NAME)).ok()
}

/// Removes what a [`restore`] that was cut short, and is not done again, had made by the way. `dir` is `STATE_DIR/cluster`.
///
/// # Errors
/// `File`.
pub fn tidy(dir: &Path) -> Result<(), MemberError> {
    files::remove_dir(&data_dir(dir).with_extension("new"))?;
    files::remove(&dir.join("etcd/recovered.db"))
}

/// Ends this machine's etcd and puts its data aside, as `etcd/data.before-N`: the store goes on elsewhere. `dir` is
/// `STATE_DIR/cluster`. May be done again.
///
/// # Errors
/// `File`, `Engine`.
pub async fn stand_down(engine: &Engine, dir: &Path) -> Result<(), MemberError> {
    stop_all(engine).await?;
    let data = data_dir(dir);
    // What says that there is one goes after the data: whoever finds neither may remove what lies there.
    if data.exists() {
        note_begun(&data)?;
    }
    put_aside(&data)?;
    files::remove(&MemberConfig::path(dir))?;
    files::remove(&begun(&data))
}

/// Ends this machine's etcd, so that a member of that `cluster` can begin in its place. What it had of the same cluster goes, since
/// the others have it; of another, which was given up, it may be all that is left, and is put aside as by [`stand_down`].
///
/// # Errors
/// `File`, `Format`, `UnknownFormat`, `Engine`.
pub async fn make_room(engine: &Engine, dir: &Path, cluster: &str) -> Result<(), MemberError> {
    match MemberConfig::load(dir)? {
        Some(config) if config.cluster != cluster => stand_down(engine, dir).await,
        _ => clear(engine, dir).await,
    }
}

/// The database of this machine's own etcd, or of the one that it had last; there need not be one.
///
/// # Errors
/// `File`.
pub fn own_database(dir: &Path) -> Result<PathBuf, MemberError> {
    let data = data_dir(dir);
    let own = match data.exists() || !dir.join("etcd").exists() {
        true => data,
        false => before(&data, last(&data)?),
    };
    Ok(own.join(DATABASE))
}

fn data_dir(dir: &Path) -> PathBuf {
    dir.join("etcd/data")
}

/// Answers where it is then; None where there is nothing.
fn put_aside(data: &Path) -> Result<Option<PathBuf>, MemberError> {
    if !data.exists() {
        return Ok(None);
    }
    let aside = before(data, last(data)? + 1);
    fs::rename(data, &aside).map_err(MemberError::file("keeping", &aside))?;
    files::sync_dir(data.parent().unwrap_or(Path::new("/")))?;
    Ok(Some(aside))
}

fn before(data: &Path, number: u32) -> PathBuf {
    data.with_extension(format!("before-{number}"))
}

/// What recoveries have left of the data of before, in no order.
pub(super) fn kept(dir: &Path) -> Result<Vec<PathBuf>, MemberError> {
    match dir.join("etcd").exists() {
        true => Ok(numbered(&data_dir(dir))?
            .into_iter()
            .map(|(_, path)| path)
            .collect()),
        false => Ok(Vec::new()),
    }
}

/// The number of the newest one that was kept, or 0.
fn last(data: &Path) -> Result<u32, MemberError> {
    let all = numbered(data)?.into_iter();
    Ok(all.map(|(number, _)| number).max().unwrap_or(0))
}

fn numbered(data: &Path) -> Result<Vec<(u32, PathBuf)>, MemberError> {
    let dir = data.parent().unwrap_or(Path::new("/"));
    let mut all = Vec::new();
    for entry in fs::read_dir(dir).map_err(MemberError::file("reading", dir))? {
        let path = entry.map_err(MemberError::file("reading", dir))?.path();
        let extension = path.extension().and_then(|extension| extension.to_str());
        let number = extension.and_then(|extension| extension.strip_prefix("before-"));
        if path.file_stem() == data.file_stem()
            && let Some(number) = number.and_then(|number| number.parse().ok())
        {
            all.push((number, path));
        }
    }
    Ok(all)
}
