//! The interface that the floors above see.

use std::future::Future;
use std::io::Write;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::StoreError;
use crate::types::*;

/// A boxed future, so that `Arc<dyn Store>` works.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = Result<T, StoreError>> + Send + 'a>>;

/// What stands behind a [`WatchStream`].
pub trait Watching: Send {
    /// As [`WatchStream::next`].
    fn next(&mut self) -> WatchNext<'_>;
    /// As [`WatchStream::handle`].
    fn handle(&self) -> WatchHandle;
    /// As [`WatchStream::revision`].
    fn revision(&self) -> Revision;
}

/// The future of a watch's next answer.
pub type WatchNext<'a> =
    Pin<Box<dyn Future<Output = Option<Result<WatchResponse, StoreError>>> + Send + 'a>>;

/// What stands behind a [`WatchHandle`].
pub trait WatchControl: Send + Sync {
    /// As [`WatchHandle::request_progress`].
    fn request_progress(&self);
    /// As [`WatchHandle::cancel`].
    fn cancel(&self);
}

/// A watch; ends when dropped.
pub struct WatchStream(Box<dyn Watching>);

impl WatchStream {
    /// Of an implementation's own.
    pub fn new(watching: impl Watching + 'static) -> Self {
        Self(Box::new(watching))
    }

    /// The next answer; None after one that said `canceled`, and when the store is closed. May
    /// be dropped while waiting without losing anything. After an error it may be called again.
    pub async fn next(&mut self) -> Option<Result<WatchResponse, StoreError>> {
        self.0.next().await
    }

    /// To ask for progress or cancel from elsewhere.
    pub fn handle(&self) -> WatchHandle {
        self.0.handle()
    }

    /// The store's revision when the watch began; without a start of its own it tells of what comes after.
    pub fn revision(&self) -> Revision {
        self.0.revision()
    }
}

/// Speaks to a watch while another task waits on it.
#[derive(Clone)]
pub struct WatchHandle(Arc<dyn WatchControl>);

impl WatchHandle {
    /// Of an implementation's own.
    pub fn new(control: impl WatchControl + 'static) -> Self {
        Self(Arc::new(control))
    }

    /// Has the watch answer with the revision up to which it has told everything, as soon as it
    /// has caught up.
    pub fn request_progress(&self) {
        self.0.request_progress();
    }

    /// Ends the watch; its last answer says `canceled`.
    pub fn cancel(&self) {
        self.0.cancel();
    }
}

/// A key-value store with etcd's v3 meaning.
///
/// A write that was answered is on disk. A read sees every write answered before it began.
/// Dropping a write's future before its answer leaves open whether it is done.
pub trait Store: Send + Sync + 'static {
    /// Reads a key or a range. Errors: `EmptyKey`, `Compacted`, `FutureRevision`.
    fn range(&self, request: RangeRequest) -> BoxFuture<'_, RangeResponse>;

    /// Sets a key. Errors: `EmptyKey`, `LeaseNotFound`, `KeyNotFound`, `NoSpace`, …
    fn put(&self, request: PutRequest) -> BoxFuture<'_, PutResponse>;

    /// Deletes keys; where none match the revision stays. Errors: `EmptyKey`.
    fn delete_range(&self, request: DeleteRangeRequest) -> BoxFuture<'_, DeleteRangeResponse>;

    /// Compares and acts, all at one revision. Errors: those of its steps, found before any is
    /// done; `DuplicateKey`, `TooManyOps`.
    fn txn(&self, request: TxnRequest) -> BoxFuture<'_, TxnResponse>;

    /// Forgets history before `revision`. Errors: `Compacted`, `FutureRevision`.
    fn compact(&self, revision: Revision) -> BoxFuture<'_, CompactResponse>;

    /// Tells of every change from a revision on, once and in order.
    fn watch(&self, request: WatchRequest) -> BoxFuture<'_, WatchStream>;

    /// Grants a lease of `ttl` seconds; `id` 0 has one chosen. Errors: `LeaseExists`,
    /// `LeaseTtlTooLarge`, `NoSpace`.
    fn lease_grant(&self, ttl: i64, id: LeaseId) -> BoxFuture<'_, LeaseGrantResponse>;

    /// Ends a lease and deletes its keys at one revision. Errors: `LeaseNotFound`.
    fn lease_revoke(&self, id: LeaseId) -> BoxFuture<'_, LeaseRevokeResponse>;

    /// Gives a lease its full time again. Errors: `LeaseNotFound`.
    fn lease_keep_alive(&self, id: LeaseId) -> BoxFuture<'_, LeaseKeepAliveResponse>;

    /// A lease's remaining time and, where asked, its keys. Errors: `LeaseNotFound`.
    fn lease_time_to_live(&self, id: LeaseId, keys: bool)
    -> BoxFuture<'_, LeaseTimeToLiveResponse>;

    /// The leases alive, the one that runs out first at the head.
    fn leases(&self) -> BoxFuture<'_, LeasesResponse>;

    /// Gives free space inside the file back to the disk. Writes wait meanwhile.
    fn defragment(&self) -> BoxFuture<'_, ()>;

    /// A hash of all keys and history up to `revision` (0: now) that is kept, the same wherever
    /// the same implementation holds the same. Errors: `Compacted`, `FutureRevision`.
    fn hash(&self, revision: Revision) -> BoxFuture<'_, HashResponse>;

    /// How the store stands.
    fn status(&self) -> BoxFuture<'_, Status>;

    /// Writes a consistent copy; answers its revision. The embedded store's is a database file
    /// that [`crate::EmbeddedStore::restore`] takes.
    fn snapshot(&self, out: Box<dyn Write + Send>) -> BoxFuture<'_, Revision>;
}

/// What is built from the primitives, the same over every implementation.
pub trait StoreExt {
    /// A key's value, if it is there.
    fn get(
        &self,
        key: impl Into<Bytes> + Send,
    ) -> impl Future<Output = Result<Option<KeyValue>, StoreError>> + Send;
    /// All keys with a prefix, by key.
    fn list(
        &self,
        prefix: impl Into<Bytes> + Send,
    ) -> impl Future<Output = Result<RangeResponse, StoreError>> + Send;
    /// A key's value read as JSON, with its mod revision. Errors: `Json`, naming the key.
    fn get_json<T: DeserializeOwned>(
        &self,
        key: &str,
    ) -> impl Future<Output = Result<Option<(T, Revision)>, StoreError>> + Send;
    /// Sets a key to a value's JSON; answers the revision.
    fn put_json<T: Serialize + Sync>(
        &self,
        key: &str,
        value: &T,
    ) -> impl Future<Output = Result<Revision, StoreError>> + Send;
    /// Sets a key if it is not there yet; answers whether it was done, and the store's revision.
    fn create(
        &self,
        put: PutRequest,
    ) -> impl Future<Output = Result<(bool, Revision), StoreError>> + Send;
    /// Sets a key if it was last changed at `revision`; answers whether it was done, and the
    /// store's revision.
    fn replace(
        &self,
        put: PutRequest,
        revision: Revision,
    ) -> impl Future<Output = Result<(bool, Revision), StoreError>> + Send;
}

impl<S: Store + ?Sized> StoreExt for S {
    async fn get(&self, key: impl Into<Bytes> + Send) -> Result<Option<KeyValue>, StoreError> {
        let request = RangeRequest::key(key);
        Ok(self.range(request).await?.kvs.pop())
    }

    async fn list(&self, prefix: impl Into<Bytes> + Send) -> Result<RangeResponse, StoreError> {
        let request = RangeRequest::prefix(prefix);
        self.range(request).await
    }

    async fn get_json<T: DeserializeOwned>(
        &self,
        key: &str,
    ) -> Result<Option<(T, Revision)>, StoreError> {
        let Some(kv) = self.get(key.to_owned()).await? else {
            return Ok(None);
        };
        let value = serde_json::from_slice(&kv.value).map_err(|source| json(key, source))?;
        Ok(Some((value, kv.mod_revision)))
    }

    async fn put_json<T: Serialize + Sync>(
        &self,
        key: &str,
        value: &T,
    ) -> Result<Revision, StoreError> {
        let value = serde_json::to_vec(value).map_err(|source| json(key, source))?;
        Ok(self
            .put(PutRequest::new(key.to_owned(), value))
            .await?
            .revision)
    }

    async fn create(&self, put: PutRequest) -> Result<(bool, Revision), StoreError> {
        let compare = Compare::absent(put.key.clone());
        put_if(self, compare, put).await
    }

    async fn replace(
        &self,
        put: PutRequest,
        revision: Revision,
    ) -> Result<(bool, Revision), StoreError> {
        let compare = Compare::unchanged(put.key.clone(), revision);
        put_if(self, compare, put).await
    }
}

async fn put_if<S: Store + ?Sized>(
    store: &S,
    compare: Compare,
    put: PutRequest,
) -> Result<(bool, Revision), StoreError> {
    let txn = TxnRequest {
        compare: vec![compare],
        success: vec![TxnOp::Put(put)],
        failure: vec![],
    };
    let answer = store.txn(txn).await?;
    Ok((answer.succeeded, answer.revision))
}

fn json(key: &str, source: serde_json::Error) -> StoreError {
    StoreError::Json {
        key: key.to_owned(),
        source: Arc::new(source),
    }
}
