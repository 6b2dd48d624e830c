//! Whether two stores hold the same, as whoever asks them sees it.

use std::fmt;

use bytes::Bytes;

use crate::error::StoreError;
use crate::store::Store;
use crate::types::*;

/// Keys in one question.
const PAGE: i64 = 20_000;

/// Where two stores differ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Difference {
    /// They stand at different revisions.
    Revision(Revision, Revision),
    /// They forgot history up to different revisions.
    Compacted(Revision, Revision),
    /// A key is not the same in both.
    Key(Bytes),
    /// What happened at a revision is not the same in both.
    History(Revision),
    /// A lease is not the same in both.
    Lease(LeaseId),
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Revision(one, other) => {
                write!(f, "one is at revision {one}, the other at {other}")
            }
            Self::Compacted(one, other) => {
                write!(f, "one is compacted at {one}, the other at {other}")
            }
            Self::Key(key) => write!(f, "key {:?} differs", String::from_utf8_lossy(key)),
            Self::History(revision) => write!(f, "the changes of revision {revision} differ"),
            Self::Lease(id) => write!(f, "lease {id:x} differs"),
        }
    }
}

/// Holds two stores that nobody writes to against each other: revisions, keys, the history that is kept, and leases with their
/// keys. None where they are the same.
///
/// # Errors
/// What either store answers.
pub async fn compare(one: &dyn Store, other: &dyn Store) -> Result<Option<Difference>, StoreError> {
    let (mine, theirs) = (one.hash(0).await?, other.hash(0).await?);
    if mine.revision != theirs.revision {
        return Ok(Some(Difference::Revision(mine.revision, theirs.revision)));
    }
    // etcd says -1 where nothing was compacted.
    let compacted = mine.compact_revision.max(0);
    if compacted != theirs.compact_revision.max(0) {
        let theirs = theirs.compact_revision;
        return Ok(Some(Difference::Compacted(compacted, theirs)));
    }
    if let Some(difference) = keys(one, other, mine.revision).await? {
        return Ok(Some(difference));
    }
    if let Some(difference) = history(one, other, compacted.max(1), mine.revision).await? {
        return Ok(Some(difference));
    }
    leases(one, other).await
}

async fn keys(
    one: &dyn Store,
    other: &dyn Store,
    revision: Revision,
) -> Result<Option<Difference>, StoreError> {
    let mut request = RangeRequest {
        limit: PAGE,
        ..RangeRequest::prefix("").at(revision)
    };
    loop {
        let (mine, theirs) = (
            one.range(request.clone()).await?.kvs,
            other.range(request.clone()).await?.kvs,
        );
        let unlike = mine
            .iter()
            .zip(&theirs)
            .find(|(mine, theirs)| mine != theirs);
        let longer = || mine.get(theirs.len()).or_else(|| theirs.get(mine.len()));
        if let Some(kv) = unlike.map(|(kv, _)| kv).or_else(longer) {
            return Ok(Some(Difference::Key(kv.key.clone())));
        }
        let Some(last) = mine.last() else {
            return Ok(None);
        };
        // The next key that there can be.
        request.key = [&last.key[..], b"\0"].concat().into();
    }
}

/// One store's changes, one after the other.
struct Changes {
    watch: crate::store::WatchStream,
    events: std::vec::IntoIter<Event>,
    told: Revision,
}

impl Changes {
    async fn new(store: &dyn Store, from: Revision) -> Result<Self, StoreError> {
        let watch = store.watch(WatchRequest::prefix("").from(from)).await?;
        Ok(Self {
            watch,
            events: Vec::new().into_iter(),
            told: 0,
        })
    }

    /// None where there is none up to `upto`.
    async fn next(&mut self, upto: Revision) -> Result<Option<Event>, StoreError> {
        loop {
            if let Some(event) = self.events.next() {
                return Ok(Some(event));
            }
            if self.told >= upto {
                return Ok(None);
            }
            match self.watch.next().await.transpose()? {
                Some(answer) if !answer.canceled => {
                    self.told = answer.revision;
                    self.events = answer.events.into_iter();
                }
                // Compacted meanwhile, or closed: not the same history any more.
                _ => self.told = Revision::MAX,
            }
        }
    }
}

async fn history(
    one: &dyn Store,
    other: &dyn Store,
    from: Revision,
    upto: Revision,
) -> Result<Option<Difference>, StoreError> {
    // Else the newest change has the store's revision, and tells when all is told.
    if from >= upto {
        return Ok(None);
    }
    let (mut mine, mut theirs) = (
        Changes::new(one, from).await?,
        Changes::new(other, from).await?,
    );
    loop {
        match (mine.next(upto).await?, theirs.next(upto).await?) {
            (None, None) => return Ok(None),
            (mine, theirs) if mine == theirs => {}
            (mine, theirs) => {
                let event = mine.or(theirs);
                let at = event.map_or(upto, |event| event.kv.mod_revision);
                return Ok(Some(Difference::History(at)));
            }
        }
    }
}

async fn leases(one: &dyn Store, other: &dyn Store) -> Result<Option<Difference>, StoreError> {
    let (mut mine, mut theirs) = (one.leases().await?.ids, other.leases().await?.ids);
    mine.sort_unstable();
    theirs.sort_unstable();
    let unlike = mine
        .iter()
        .zip(&theirs)
        .find(|(mine, theirs)| mine != theirs);
    let longer = || mine.get(theirs.len()).or_else(|| theirs.get(mine.len()));
    if let Some(id) = unlike.map(|(id, _)| id).or_else(longer) {
        return Ok(Some(Difference::Lease(*id)));
    }
    for id in mine {
        let of = |answer: LeaseTimeToLiveResponse| (answer.granted_ttl, answer.keys);
        // One that has run out in a store that is held is there still, and is not answered for.
        let mine = match one.lease_time_to_live(id, true).await {
            Err(StoreError::LeaseNotFound(_)) => continue,
            answer => of(answer?),
        };
        if mine != of(other.lease_time_to_live(id, true).await?) {
            return Ok(Some(Difference::Lease(id)));
        }
    }
    Ok(None)
}
