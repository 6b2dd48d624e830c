//! Families of keys, read whole.

use coracle_store::{KeyValue, RangeRequest, Revision, Store, StoreError};
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;

/// Entries that are read at a time.
const PART: i64 = 2_000;

/// What stands below a prefix at a revision (0: now), by what follows the prefix. It is read in parts: an answer with all of a hundred thousand
/// units would take longer than a store is waited for, and hold up what else is on its connection.
pub(crate) async fn family<T: DeserializeOwned>(
    store: &dyn Store,
    prefix: &str,
    revision: Revision,
) -> Result<BTreeMap<String, T>, StoreError> {
    let read = |kv: &KeyValue| {
        let key = std::str::from_utf8(&kv.key).ok()?;
        let name = key.strip_prefix(prefix)?.to_owned();
        match serde_json::from_slice(&kv.value) {
            Ok(value) => Some((name, value)),
            // One that cannot be read, perhaps of a newer release, must not keep the others from running.
            Err(error) => {
                tracing::error!(key, %error, "an entry cannot be read, and is left alone");
                None
            }
        }
    };
    let mut request = RangeRequest {
        limit: PART,
        ..RangeRequest::prefix(prefix.to_owned()).at(revision)
    };
    let mut all = BTreeMap::new();
    loop {
        let found = store.range(request.clone()).await?;
        all.extend(found.kvs.iter().filter_map(read));
        let Some(last) = found.kvs.last().filter(|_| found.more) else {
            return Ok(all);
        };
        // All parts are of one moment.
        if revision == 0 {
            request.revision = found.revision;
        }
        // The first key after it.
        request.key = [&last.key[..], b"\0"].concat().into();
    }
}
