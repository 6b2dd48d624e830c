//! What the log tells a watch.

use bytes::Bytes;

use crate::embedded::memory::Entry;
use crate::embedded::read::Bounds;
use crate::embedded::tables::{Record, corrupt};
use crate::embedded::view::View;
use crate::error::StoreError;
use crate::types::*;

/// Log entries looked at in one go, and events told in one answer, about.
const CHUNK: usize = 1000;
/// Bytes of values told in one answer, about.
const CHUNK_BYTES: usize = 1 << 20;

pub(super) enum Read {
    Events {
        events: Vec<Event>,
        reached: Revision,
    },
    Compacted(Revision),
}

/// What the log says of one change.
enum Logged {
    /// It is in memory, and maybe what it took the place of.
    Here(Entry, Option<Entry>),
    /// This key's, to be looked up.
    Key(Revision, Bytes),
    /// None of this watch's.
    Other(Revision),
}

impl Logged {
    fn revision(&self) -> Revision {
        match self {
            Self::Here(entry, _) => entry.revision,
            Self::Key(revision, _) | Self::Other(revision) => *revision,
        }
    }
}

/// Changes of the log, in whole revisions, up to about [`CHUNK`].
struct Chunk {
    changes: Vec<Logged>,
    /// All up to here is told.
    reached: Revision,
}

impl Chunk {
    /// Whether it takes another.
    fn take(&mut self, revision: Revision, change: impl FnOnce() -> Logged) -> bool {
        // Only between revisions: one is told whole.
        let last = self.changes.last().map(Logged::revision);
        if self.changes.len() >= CHUNK && last.is_some_and(|last| last != revision) {
            self.reached = revision - 1;
            return false;
        }
        self.changes.push(change());
        true
    }
}

fn logged(
    view: &View<'_>,
    bounds: &Bounds,
    from: Revision,
    upto: Revision,
) -> Result<Chunk, StoreError> {
    let mut chunk = Chunk {
        changes: Vec::new(),
        reached: upto,
    };
    let here = view.memory().logged(from, upto, |entry, former| {
        chunk.take(entry.revision, || match bounds.contains(entry.key()) {
            true => Logged::Here(entry.clone(), former.cloned()),
            false => Logged::Other(entry.revision),
        })
    });
    let Err(in_base) = here else {
        return Ok(chunk);
    };
    let upto = upto.min(in_base);
    chunk.reached = upto;
    let base = view.base(view.memory().generation(), from)?;
    let log = base.log()?;
    for item in log
        .range((from, 0)..=(upto, u32::MAX))
        .map_err(|e| base.error(e))?
    {
        let (at, key) = item.map_err(|e| base.error(e))?;
        let (revision, key) = (at.value().0, key.value());
        let taken = chunk.take(revision, || match bounds.contains(key) {
            true => Logged::Key(revision, Bytes::copy_from_slice(key)),
            false => Logged::Other(revision),
        });
        if !taken {
            break;
        }
    }
    Ok(chunk)
}

/// What the log from `from` to `upto` tells a watch, or the first part of it.
pub(super) fn read_log(
    view: &View<'_>,
    request: &WatchRequest,
    bounds: &Bounds,
    from: Revision,
    upto: Revision,
) -> Result<Read, StoreError> {
    let compacted = view.counters.compacted;
    if from < compacted {
        return Ok(Read::Compacted(compacted));
    }
    let chunk = logged(view, bounds, from, upto)?;
    let (mut events, mut bytes) = (Vec::new(), 0);
    for of_one in chunk.changes.chunk_by(|a, b| a.revision() == b.revision()) {
        for change in of_one {
            if let Some(event) = event(view, request, change)? {
                let former = event
                    .prev_kv
                    .as_ref()
                    .map_or(0, |former| former.value.len());
                bytes += event.kv.value.len() + former;
                events.push(event);
            }
        }
        if let Some(change) = of_one.first().filter(|_| bytes >= CHUNK_BYTES) {
            let reached = change.revision();
            return Ok(Read::Events { events, reached });
        }
    }
    let reached = chunk.reached;
    Ok(Read::Events { events, reached })
}

fn event(
    view: &View<'_>,
    request: &WatchRequest,
    change: &Logged,
) -> Result<Option<Event>, StoreError> {
    let (key, revision, told) = match change {
        Logged::Other(_) => return Ok(None),
        Logged::Here(entry, _) => {
            let record = Record::decode(entry.record(), view.path())?;
            let (key, revision) = (entry.key(), entry.revision);
            (key, revision, Some(kind_and_kv(key, revision, record)))
        }
        Logged::Key(revision, key) => {
            let found = view.version_at(key, *revision, |found, record| {
                (found == *revision).then(|| kind_and_kv(key, found, record))
            })?;
            let found = found.flatten();
            (&key[..], *revision, found)
        }
    };
    let Some((kind, kv)) = told else {
        let compacted = view.memory().counters().compacted;
        if revision < compacted {
            return Err(StoreError::Compacted {
                requested: revision,
                compacted,
            });
        }
        return Err(corrupt(
            view.path(),
            "the log names a version that is not there",
        ));
    };
    let unwanted = match kind {
        EventKind::Put => request.no_put,
        EventKind::Delete => request.no_delete,
    };
    if unwanted {
        return Ok(None);
    }
    let prev_kv = if request.prev_kv && revision > view.counters.compacted {
        former(view, change, key, revision)?
    } else {
        None
    };
    Ok(Some(Event { kind, kv, prev_kv }))
}

fn kind_and_kv(key: &[u8], revision: Revision, record: Record<'_>) -> (EventKind, KeyValue) {
    let kind = match record.deleted {
        true => EventKind::Delete,
        false => EventKind::Put,
    };
    (kind, record.to_kv(key, revision, true))
}

/// The live key before a change.
fn former(
    view: &View<'_>,
    change: &Logged,
    key: &[u8],
    revision: Revision,
) -> Result<Option<KeyValue>, StoreError> {
    if let Logged::Here(_, Some(former)) = change {
        let record = Record::decode(former.record(), view.path())?;
        return Ok((!record.deleted).then(|| record.to_kv(key, former.revision, true)));
    }
    match view.live_at(key, revision - 1) {
        // The change itself may still be told.
        Err(StoreError::Compacted { .. }) => Ok(None),
        former => former,
    }
}
