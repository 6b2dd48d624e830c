//! This machine has the images of deploys before they begin, and says so. See [`crate::rollout::fetch`].

use crate::fleet::{Fleet, Inner};
use crate::model::{FetchRecord, HadRecord, VERSION, keys};
use crate::pace;
use crate::plan::Cause;
use coracle_store::{EventKind, KeyValue, StoreError, StoreExt as _, WatchRequest};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

/// How long a store that does not answer is left alone.
const REST: Duration = Duration::from_secs(1);

/// How often it is tried to have an image.
const TRIES: u32 = 3;

/// The deploy for which each service's image is fetched, or was, by the service's uid.
type Begun = Arc<Mutex<BTreeMap<String, u64>>>;

impl Fleet {
    /// Fetches what it is asked to, for as long as there is a fleet. A machine that is alone is asked nothing.
    pub(crate) fn fetch_images(&self) {
        let weak = Arc::downgrade(&self.0);
        let (mut alone, mut gone) = (self.0.follow_alone(), self.0.leader.subscribe());
        let work = async move {
            if alone.wait_for(|alone| !alone).await.is_err() && *alone.borrow() {
                return;
            }
            drop(alone);
            let begun = Begun::default();
            while let Some(inner) = weak.upgrade() {
                if let Err(error) = listen(Fleet(inner), &weak, &begun).await {
                    tracing::debug!(%error, "what images are to be here cannot be asked; it is tried again");
                }
                pace::sleep(REST).await;
            }
        };
        pace::spawn(async move {
            tokio::select! {
                biased;
                // The sender goes with the fleet.
                _ = gone.wait_for(|_| false) => {}
                () = work => {}
            }
        });
    }
}

/// Until the watch ends.
async fn listen(fleet: Fleet, weak: &Weak<Inner>, begun: &Begun) -> Result<(), StoreError> {
    let prefix = keys::fetch_of(&fleet.0.machine.id);
    let store = fleet.0.cluster.clone();
    // Nothing is held of it while it is waited.
    drop(fleet);
    let found = store.list(prefix.clone()).await?;
    let request = WatchRequest::prefix(prefix.clone()).from(found.revision + 1);
    let mut watch = store.watch(request).await?;
    let begin = |kv: &KeyValue| {
        let key = String::from_utf8_lossy(&kv.key).into_owned();
        let record = serde_json::from_slice::<FetchRecord>(&kv.value);
        let (Some(uid), Ok(record)) = (key.strip_prefix(&prefix), record) else {
            return;
        };
        let mut all = begun.lock().unwrap_or_else(PoisonError::into_inner);
        if all.insert(uid.to_owned(), record.deploy) != Some(record.deploy) {
            pace::spawn(fetch(weak.clone(), begun.clone(), uid.to_owned(), record));
        }
    };
    found.kvs.iter().for_each(begin);
    while let Some(answer) = watch.next().await {
        let answer = answer?;
        if answer.canceled {
            break;
        }
        for event in &answer.events {
            match event.kind {
                EventKind::Put => begin(&event.kv),
                EventKind::Delete => {
                    let key = String::from_utf8_lossy(&event.kv.key).into_owned();
                    let mut all = begun.lock().unwrap_or_else(PoisonError::into_inner);
                    all.remove(key.strip_prefix(&prefix).unwrap_or_default());
                }
            }
        }
    }
    Ok(())
}

/// Has one here, and says so until the store has heard it.
async fn fetch(weak: Weak<Inner>, begun: Begun, uid: String, record: FetchRecord) {
    // Whoever was asked for the next deploy meanwhile says nothing of this one.
    let stands = || {
        let all = begun.lock().unwrap_or_else(PoisonError::into_inner);
        all.get(&uid) == Some(&record.deploy)
    };
    let mut tries = 0;
    let (had, key) = loop {
        let Some(fleet) = weak.upgrade().map(Fleet) else {
            return;
        };
        let had = fleet.have_pinned(&record.image).await;
        tries += 1;
        // What fails may do so for a moment only.
        if had.is_ok() || tries == TRIES || !stands() {
            break (had, keys::image(&fleet.0.machine.id, &uid));
        }
        drop(fleet);
        pace::sleep(REST).await;
    };
    let said = HadRecord {
        version: VERSION,
        deploy: record.deploy,
        error: had.err().map(|error| match error.cause {
            Cause::Told(why) => why,
            _ => format!("exit code {}", error.code),
        }),
    };
    while let Some(inner) = weak.upgrade().filter(|_| stands()) {
        let store = inner.cluster.clone();
        drop(inner);
        match store.put_json(&key, &said).await {
            Ok(_) => return,
            Err(error) => tracing::debug!(%error, "that an image is here could not be said yet"),
        }
        pace::sleep(REST).await;
    }
}
