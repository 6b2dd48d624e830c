//! All that can still be seen of the store, in the order in which it came to be.

use super::shared::Shared;
use super::tables::{Counters, Reader, Record};
use crate::error::StoreError;
use crate::types::{LeaseId, Revision};

/// One version's place: revision, step within it, and key.
type Place = (Revision, u32, Box<[u8]>);

/// The store as of one moment.
pub(crate) struct History<'s> {
    pub counters: Counters,
    /// Leases and the time that each was granted, in seconds.
    pub leases: Vec<(LeaseId, i64)>,
    reader: Reader<'s>,
    places: Vec<Place>,
}

impl Shared {
    /// What is there now.
    pub(crate) fn history(&self) -> Result<History<'_>, StoreError> {
        self.settle()?;
        let reader = Reader::new(self.disk.begin_read()?, self.disk.path())?;
        let counters = reader.counters()?;
        let mut places = Vec::new();
        // The newest version of a key that is not after the compaction: what stands there.
        let mut standing: Option<(Place, bool)> = None;
        let compacted = counters.compacted;
        let mut keep = |standing: Option<(Place, bool)>| {
            // A deletion is told to who watches from the very revision on.
            let seen = |(place, deleted): &(Place, bool)| !deleted || place.0 >= compacted;
            places.extend(standing.filter(seen).map(|(place, _)| place));
        };
        let all = reader.versions().range::<(&[u8], i64)>(..);
        for item in all.map_err(|e| reader.error(e))? {
            let (at, record) = item.map_err(|e| reader.error(e))?;
            let (key, revision) = at.value();
            let record = Record::decode(record.value(), self.disk.path())?;
            let hidden = standing
                .as_ref()
                .is_some_and(|((.., of), _)| **of == *key && revision <= compacted);
            if !hidden {
                keep(standing.take());
            }
            standing = Some(((revision, record.step, key.into()), record.deleted));
        }
        keep(standing);
        places.sort_unstable();
        Ok(History {
            counters,
            leases: reader.leases()?,
            reader,
            places,
        })
    }
}

impl History<'_> {
    /// How many versions there are.
    pub(crate) fn len(&self) -> usize {
        self.places.len()
    }

    /// The revision of the newest version.
    pub(crate) fn newest(&self) -> Option<Revision> {
        self.places.last().map(|(revision, ..)| *revision)
    }

    /// The error of a store that does not fit together.
    pub(crate) fn corrupt(&self, what: &'static str) -> StoreError {
        super::tables::corrupt(self.reader.path(), what)
    }

    /// Visits the versions in order.
    pub(crate) fn visit(
        &self,
        mut each: impl FnMut(Revision, &[u8], Record<'_>) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        for (revision, _, key) in &self.places {
            let found = self
                .reader
                .versions()
                .get((&key[..], *revision))
                .map_err(|e| self.reader.error(e))?;
            let found = found.ok_or_else(|| self.corrupt("a version was there, and is not"))?;
            each(
                *revision,
                key,
                Record::decode(found.value(), self.reader.path())?,
            )?;
        }
        Ok(())
    }
}
