//! A part of the store, followed as a list.

use std::collections::BTreeMap;
use std::time::Duration;

use coracle_store::{EventKind, KeyValue, Store, StoreError, StoreExt as _, WatchRequest, full};
use tokio_util::sync::CancellationToken;

/// How long a store is left alone that does not answer, or ended a watch.
const REST: Duration = Duration::from_millis(500);

/// Tells the list below `prefix`, each time that the store has said something of it, until `stop` is cancelled. While the store is away nothing is told.
/// `read` gives an entry's name and what it is, or nothing where a name stands for nothing that counts; `what` names the list in the log.
pub(crate) async fn follow<K: Ord, V>(
    store: &dyn Store,
    prefix: &'static str,
    what: &'static str,
    read: impl Fn(&KeyValue) -> Option<(K, Option<V>)>,
    mut tell: impl FnMut(&BTreeMap<K, V>),
    stop: CancellationToken,
) {
    let following = async {
        loop {
            if let Err(error) = followed(store, prefix, &read, &mut tell).await {
                tracing::debug!(error = %full(&error), "the list of {what} cannot be followed just now");
            }
            tokio::time::sleep(REST).await;
        }
    };
    tokio::select! {
        () = following => {}
        () = stop.cancelled() => {}
    }
}

/// Reads the list and follows it until that breaks (an error) or must be begun anew: compacted beyond where it was, or the store is closed; then
/// reading it says so.
async fn followed<K: Ord, V>(
    store: &dyn Store,
    prefix: &'static str,
    read: &impl Fn(&KeyValue) -> Option<(K, Option<V>)>,
    tell: &mut impl FnMut(&BTreeMap<K, V>),
) -> Result<(), StoreError> {
    let found = store.list(prefix).await?;
    let entry = |kv: &KeyValue| {
        let (name, value) = read(kv)?;
        Some((name, value?))
    };
    let mut now: BTreeMap<K, V> = found.kvs.iter().filter_map(entry).collect();
    tell(&now);
    let from = WatchRequest::prefix(prefix).from(found.revision + 1);
    let mut watch = store.watch(from).await?;
    while let Some(told) = watch.next().await {
        let told = told?;
        if told.canceled {
            break;
        }
        for event in &told.events {
            let Some((name, value)) = read(&event.kv) else {
                continue;
            };
            match value.filter(|_| event.kind == EventKind::Put) {
                Some(value) => now.insert(name, value),
                None => now.remove(&name),
            };
        }
        tell(&now);
    }
    Ok(())
}
