//! Beginning anew with what this machine has, when a majority of etcd's members is lost for good.
//!
//! The store is read out of this machine's own etcd (a voter's or a learner's) or out of a snapshot, its revision moved forward,
//! and an etcd with this machine as its only member made of it. Revisions that apps saw are told to be compacted, so none
//! watches on from a state that is not there any more. What was there before stays beside it, as `etcd/data.before-N`.
//!
//! Killed at any point it can be done again: `etcd/data` is at each moment the old one or the new one, or not there between two
//! renamings, when the newest of those beside is taken.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use coracle_engine::Engine;
use coracle_store::{Recovered, Revision};

use super::config::MemberConfig;
use super::find::Found;
use super::moving::{Mode, set_mode};
use super::run::{Member, stop_all};
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
    let recovered = restore(engine, found, &config, dir, source).await?;
    let member = Member::start(engine.clone(), found, config, dir);
    Ok((member, recovered))
}

/// As [`recover`], without running it: the files say that it is to be run. No [`Member`] may look after this machine's etcd
/// meanwhile.
///
/// # Errors
/// `Store` (`Corrupt`, or `Io` where there is nothing to read); `Program`, `File`, `Engine`. What was there is there still then.
pub async fn restore(
    engine: &Engine,
    found: &Found,
    config: &MemberConfig,
    dir: &Path,
    source: &Source,
) -> Result<Recovered, MemberError> {
    // In order: then its database holds all that it knows.
    stop_all(engine).await?;
    let data = config.data_dir.clone();
    files::make_dir(&dir.join("etcd"))?;
    let from = match source {
        Source::Own => own_database(dir)?,
        Source::Snapshot(path) => path.clone(),
    };
    let file = dir.join("etcd/recovered.db");
    let fresh = data.with_extension("new");
    files::remove_dir(&fresh)?;
    files::remove(&file)?;
    let written = file.clone();
    let read =
        tokio::task::spawn_blocking(move || coracle_store::recover(&from, &written, AHEAD, true));
    let recovered = read.await.map_err(coracle_engine::EngineError::from)??;
    let elsewhere = MemberConfig {
        data_dir: fresh.clone(),
        ..config.clone()
    };
    found.restore(&file, &elsewhere).await?;
    files::remove(&file)?;
    // In its place with the data: which one it is. etcd passes over it.
    let name = fresh.join(NAME);
    fs::write(&name, &config.cluster).map_err(MemberError::file("writing", &name))?;
    File::open(&name)
        .and_then(|file| file.sync_all())
        .map_err(MemberError::file("syncing", &name))?;
    put_aside(&data)?;
    fs::rename(&fresh, &data).map_err(MemberError::file("naming", &data))?;
    files::sync_dir(&dir.join("etcd"))?;
    config.save(dir)?;
    set_mode(dir, Mode::Etcd)?;
    Ok(recovered)
}

/// The name of the etcd cluster ([`MemberConfig::cluster`]) that a recovery made of what was here; None where this machine's etcd is of
/// none. `dir` is `STATE_DIR/cluster`.
pub fn restored(dir: &Path) -> Option<String> {
    fs::read_to_string(data_dir(dir).join(NAME)).ok()
}

/// Ends this machine's etcd and puts its data aside, as `etcd/data.before-N`: the store goes on elsewhere. `dir` is
/// `STATE_DIR/cluster`. May be done again.
///
/// # Errors
/// `File`, `Engine`.
pub async fn stand_down(engine: &Engine, dir: &Path) -> Result<(), MemberError> {
    stop_all(engine).await?;
    // First what says that there is one.
    files::remove(&MemberConfig::path(dir))?;
    let data = data_dir(dir);
    files::remove(&data.with_extension("begun"))?;
    put_aside(&data)
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

fn put_aside(data: &Path) -> Result<(), MemberError> {
    if !data.exists() {
        return Ok(());
    }
    let aside = before(data, last(data)? + 1);
    fs::rename(data, &aside).map_err(MemberError::file("keeping", &aside))?;
    files::sync_dir(data.parent().unwrap_or(Path::new("/")))
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
