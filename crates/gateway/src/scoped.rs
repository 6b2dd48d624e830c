//! A store within a store: the keys below one prefix, shown as all there is.
//!
//! ```text
//! an app says        the store is asked for
//! get a              /coracle/v1/apps/a
//! range [\0, \0)     [/coracle/v1/apps/\0, /coracle/v1/apps0)
//! lease list         the leases that are no machine's
//! ```
//! *Revisions* are the store's plus a fixed number (0 until the store moves), so that they go on growing when the keys move to
//! another store: what was before the move answers as compacted.
//!
//! *Leases* of the machines' own have [`OWN_LEASE`] set in their ids. An app never sees them: to it they are not there, and to
//! ask for such an id is to ask for one that is taken.
//!
//! *`/discovery/`* is for reading. A deletion of a range that holds it deletes the rest.

mod answers;
mod requests;

use std::io::Write;
use std::sync::Arc;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use bytes::Bytes;
use coracle_store::*;

/// Below this, apps read only.
pub(crate) const DISCOVERY: &[u8] = b"/discovery/";

/// What part of a store is shown.
#[derive(Clone, Debug)]
pub struct Scope {
    /// The keys below this; not empty.
    pub prefix: Bytes,
    /// Added to the store's revisions.
    pub offset: Revision,
    /// Bytes in use of the whole store above which puts are refused; what is between it and the store's own quota is kept for
    /// the machines.
    pub quota_bytes: u64,
}

/// See the module.
pub struct Scoped {
    store: Arc<dyn Store>,
    scope: Scope,
    used: Mutex<Used>,
}

/// How much the store held when it was looked at last.
struct Used {
    at: Option<Instant>,
    bytes: u64,
    /// Put since.
    since: u64,
}

/// How long a look at the store's size serves, and for how many bytes of puts.
const LOOK: (Duration, u64) = (Duration::from_secs(1), 1 << 20);

impl Scoped {
    /// Shows that part of `store`.
    pub fn new(store: Arc<dyn Store>, scope: Scope) -> Self {
        let used = Used {
            at: None,
            bytes: 0,
            since: 0,
        };
        Self {
            store,
            scope,
            used: Mutex::new(used),
        }
    }

    /// Refuses puts when the apps' share is used up.
    async fn room(&self, bytes: usize) -> Result<(), StoreError> {
        let known = {
            let mut used = self.used.lock().unwrap_or_else(|e| e.into_inner());
            used.since += bytes as u64;
            let fresh = used.at.is_some_and(|at| at.elapsed() < LOOK.0) && used.since < LOOK.1;
            // At the border every put looks, so that deletions help at once.
            (fresh && used.bytes + LOOK.1 < self.scope.quota_bytes).then_some(())
        };
        if known.is_some() {
            return Ok(());
        }
        let found = self.store.status().await?;
        let mut used = self.used.lock().unwrap_or_else(|e| e.into_inner());
        *used = Used {
            at: Some(Instant::now()),
            bytes: found.bytes_in_use,
            since: 0,
        };
        if found.bytes_in_use + bytes as u64 > self.scope.quota_bytes {
            return Err(StoreError::NoSpace {
                path: "the apps' share".into(),
                used: found.bytes_in_use,
                quota: self.scope.quota_bytes,
            });
        }
        Ok(())
    }
}

impl Store for Scoped {
    fn range(&self, request: RangeRequest) -> BoxFuture<'_, RangeResponse> {
        Box::pin(async move {
            let request = self.scope.range(request)?;
            let found = self.store.range(request).await;
            let mut found = found.map_err(|e| self.scope.error(e))?;
            self.scope.range_answer(&mut found);
            Ok(found)
        })
    }

    fn put(&self, request: PutRequest) -> BoxFuture<'_, PutResponse> {
        Box::pin(async move {
            let size = request.key.len() + request.value.len();
            let request = self.scope.put(request)?;
            self.room(size).await?;
            let done = self.store.put(request).await;
            let mut done = done.map_err(|e| self.scope.error(e))?;
            self.scope.put_answer(&mut done);
            Ok(done)
        })
    }

    fn delete_range(&self, request: DeleteRangeRequest) -> BoxFuture<'_, DeleteRangeResponse> {
        Box::pin(async move {
            let mut parts = self.scope.delete(request)?;
            let one = if parts.len() == 1 { parts.pop() } else { None };
            let done = match one {
                Some(part) => self.store.delete_range(part).await,
                None => {
                    let txn = TxnRequest {
                        success: parts.into_iter().map(TxnOp::Delete).collect(),
                        ..TxnRequest::default()
                    };
                    self.store.txn(txn).await.map(answers::joined)
                }
            };
            let mut done = done.map_err(|e| self.scope.error(e))?;
            self.scope.delete_answer(&mut done);
            Ok(done)
        })
    }

    fn txn(&self, request: TxnRequest) -> BoxFuture<'_, TxnResponse> {
        Box::pin(async move {
            let puts = requests::puts(&request);
            let inner = self.scope.txn(request.clone())?;
            if self.scope.splits(&request) {
                // etcd itself does not see everything that transactions within change side by side.
                coracle_store::embedded::check_txn(&request)?;
            }
            if puts > 0 {
                self.room(puts).await?;
            }
            let done = self.store.txn(inner).await;
            let done = done.map_err(|e| self.scope.error(e))?;
            Ok(self.scope.txn_answer(done, &request))
        })
    }

    fn compact(&self, revision: Revision) -> BoxFuture<'_, CompactResponse> {
        Box::pin(async move {
            let revision = self.scope.inner(revision)?;
            let done = self.store.compact(revision).await;
            let done = done.map_err(|e| self.scope.error(e))?;
            Ok(CompactResponse {
                revision: self.scope.outer(done.revision),
            })
        })
    }

    fn watch(&self, request: WatchRequest) -> BoxFuture<'_, WatchStream> {
        Box::pin(async move {
            let (request, is_forgotten) = self.scope.watch(request);
            let forgotten = is_forgotten.then(|| self.store.clone());
            let stream = self.store.watch(request).await;
            let stream = stream.map_err(|e| self.scope.error(e))?;
            Ok(WatchStream::new(answers::ScopedWatch::new(
                self.scope.clone(),
                stream,
                forgotten,
            )))
        })
    }

    fn lease_grant(&self, ttl: i64, id: LeaseId) -> BoxFuture<'_, LeaseGrantResponse> {
        Box::pin(async move {
            if is_own_lease(id) {
                return Err(StoreError::LeaseExists(id));
            }
            self.room(64).await?;
            let chosen = id == 0;
            loop {
                let id = if chosen { app_lease() } else { id };
                match self.store.lease_grant(ttl, id).await {
                    Ok(mut granted) => {
                        granted.revision = self.scope.outer(granted.revision);
                        return Ok(granted);
                    }
                    Err(StoreError::LeaseExists(_)) if chosen => {}
                    Err(error) => return Err(self.scope.error(error)),
                }
            }
        })
    }

    fn lease_revoke(&self, id: LeaseId) -> BoxFuture<'_, LeaseRevokeResponse> {
        Box::pin(async move {
            hidden(id)?;
            let done = self.store.lease_revoke(id).await;
            let mut done = done.map_err(|e| self.scope.error(e))?;
            done.revision = self.scope.outer(done.revision);
            Ok(done)
        })
    }

    fn lease_keep_alive(&self, id: LeaseId) -> BoxFuture<'_, LeaseKeepAliveResponse> {
        Box::pin(async move {
            hidden(id)?;
            let done = self.store.lease_keep_alive(id).await;
            let mut done = done.map_err(|e| self.scope.error(e))?;
            done.revision = self.scope.outer(done.revision);
            Ok(done)
        })
    }

    fn lease_time_to_live(
        &self,
        id: LeaseId,
        keys: bool,
    ) -> BoxFuture<'_, LeaseTimeToLiveResponse> {
        Box::pin(async move {
            hidden(id)?;
            let found = self.store.lease_time_to_live(id, keys).await;
            let mut found = found.map_err(|e| self.scope.error(e))?;
            found.revision = self.scope.outer(found.revision);
            found.keys.retain(|key| key.starts_with(&self.scope.prefix));
            for key in &mut found.keys {
                self.scope.strip(key);
            }
            Ok(found)
        })
    }

    fn leases(&self) -> BoxFuture<'_, LeasesResponse> {
        Box::pin(async move {
            let mut found = self.store.leases().await?;
            found.ids.retain(|id| !is_own_lease(*id));
            found.revision = self.scope.outer(found.revision);
            Ok(found)
        })
    }

    fn defragment(&self) -> BoxFuture<'_, ()> {
        self.store.defragment()
    }

    fn hash(&self, revision: Revision) -> BoxFuture<'_, HashResponse> {
        Box::pin(async move {
            let revision = self.scope.inner(revision)?;
            let found = self.store.hash(revision).await;
            let mut found = found.map_err(|e| self.scope.error(e))?;
            found.revision = self.scope.outer(found.revision);
            found.hash_revision = self.scope.outer(found.hash_revision);
            found.compact_revision = self.scope.oldest(found.compact_revision);
            Ok(found)
        })
    }

    fn status(&self) -> BoxFuture<'_, Status> {
        Box::pin(async move {
            let mut found = self.store.status().await?;
            let leases = self.store.leases().await?.ids;
            found.leases = leases.iter().filter(|id| !is_own_lease(**id)).count();
            found.revision = self.scope.outer(found.revision);
            found.compact_revision = self.scope.oldest(found.compact_revision);
            found.quota_bytes = found.quota_bytes.min(self.scope.quota_bytes);
            found.no_space |= found.bytes_in_use >= self.scope.quota_bytes;
            Ok(found)
        })
    }

    fn snapshot(&self, out: Box<dyn Write + Send>) -> BoxFuture<'_, Revision> {
        self.store.snapshot(out)
    }
}

/// What is a machine's is not there.
fn hidden(id: LeaseId) -> Result<(), StoreError> {
    if is_own_lease(id) {
        return Err(StoreError::LeaseNotFound(id));
    }
    Ok(())
}

/// A random id that is an app's.
fn app_lease() -> LeaseId {
    loop {
        let id = own_lease() & !OWN_LEASE;
        if id != 0 {
            return id;
        }
    }
}
