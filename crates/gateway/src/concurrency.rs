//! The recipe behind locks and elections, as etcd's own client library writes it to the store, so that either side's waiters
//! queue up behind the other's.
//!
//! Whoever wants in puts `<name>/<lease in hexadecimal>` under its lease, if it is not there. The keys below `<name>/`
//! are the queue, oldest create revision first; the first one has it. Each waits for the one right before it to go:
//!
//! ```text
//! jobs/1a (created at 7)  has it
//! jobs/2b (created at 9)  waits for jobs/1a
//! jobs/3c (created at 12) waits for jobs/2b
//! ```

use std::sync::Arc;

use bytes::Bytes;
use coracle_store::*;
use tonic::Status;

use crate::context;

/// Seconds of a lease granted to who brings none, as etcd's session.
const SESSION: i64 = 60;

/// What the store refused. etcd's locks and elections are a client of itself, whose errors keep their text and lose their
/// code on the way.
pub(crate) fn status(error: StoreError) -> Status {
    let known = context::status(error);
    match known.code() {
        tonic::Code::NotFound | tonic::Code::InvalidArgument | tonic::Code::OutOfRange => {
            Status::unknown(known.message())
        }
        _ => known,
    }
}

/// A place in the queue below a name.
pub(crate) struct Place {
    pub key: Bytes,
    /// The key's create revision: while it is the same, the place is the same.
    pub created: Revision,
    pub lease: LeaseId,
    /// The store's revision seen last.
    pub revision: Revision,
}

pub(crate) fn queue(name: &[u8]) -> Bytes {
    [name, b"/"].concat().into()
}

/// The place's holder, if any: the oldest key of the queue.
pub(crate) fn first(prefix: &Bytes) -> RangeRequest {
    RangeRequest {
        limit: 1,
        sort_target: SortTarget::Create,
        sort_order: SortOrder::Ascend,
        ..RangeRequest::prefix(prefix.clone())
    }
}

/// Takes a place in the queue, or the one that this lease has already, and waits until it is the first.
///
/// Given up before that (the client left), the place is too.
pub(crate) async fn enter(
    store: &Arc<dyn Store>,
    name: &[u8],
    lease: LeaseId,
    value: Bytes,
) -> Result<Place, Status> {
    let lease = match lease {
        0 => store.lease_grant(SESSION, 0).await.map_err(status)?.id,
        lease => lease,
    };
    let prefix = queue(name);
    let key: Bytes = [&prefix[..], format!("{lease:x}").as_bytes()]
        .concat()
        .into();
    let put = PutRequest::new(key.clone(), value.clone()).with_lease(lease);
    let txn = TxnRequest {
        compare: vec![Compare::absent(key.clone())],
        success: vec![TxnOp::Put(put)],
        failure: vec![TxnOp::Range(RangeRequest::key(key.clone()))],
    };
    let mut leaving = Leaving {
        store: store.clone(),
        key: Some(key.clone()),
    };
    let answer = store.txn(txn).await.map_err(status)?;
    let mut place = Place {
        created: answer.revision,
        revision: answer.revision,
        key,
        lease,
    };
    if let Some(TxnOpResponse::Range(found)) = answer.responses.into_iter().next()
        && let Some(kv) = found.kvs.into_iter().next()
    {
        place.created = kv.create_revision;
        if kv.value != value {
            place.revision = set(store, &place, value).await?;
        }
    }
    wait(store, &prefix, &mut place).await?;
    leaving.key = None;
    Ok(place)
}

/// Waits until no older key is in the queue.
async fn wait(store: &Arc<dyn Store>, prefix: &Bytes, place: &mut Place) -> Result<(), Status> {
    loop {
        let before = RangeRequest {
            limit: 1,
            sort_target: SortTarget::Create,
            sort_order: SortOrder::Descend,
            max_create_revision: place.created - 1,
            ..RangeRequest::prefix(prefix.clone())
        };
        let found = store.range(before).await.map_err(status)?;
        place.revision = found.revision;
        let Some(older) = found.kvs.into_iter().next() else {
            break;
        };
        gone(store, older.key, found.revision).await?;
    }
    // The lease may have run out while we waited.
    let own = store.range(RangeRequest::key(place.key.clone())).await;
    let own = own.map_err(status)?;
    place.revision = own.revision;
    match own.kvs.first() {
        Some(kv) if kv.create_revision == place.created => Ok(()),
        _ => Err(Status::unknown("etcdserver: session expired")),
    }
}

/// Waits until a key is deleted after `revision`.
async fn gone(store: &Arc<dyn Store>, key: Bytes, revision: Revision) -> Result<(), Status> {
    let request = WatchRequest {
        no_put: true,
        ..WatchRequest::key(key.clone())
    };
    let mut watch = store.watch(request.from(revision + 1)).await;
    let watch = watch.as_mut().map_err(|e| status(e.clone()))?;
    loop {
        match watch.next().await {
            Some(Ok(answer)) if !answer.events.is_empty() => return Ok(()),
            // Its past is compacted: whoever waits looks anew.
            Some(Ok(answer)) if answer.canceled => return Ok(()),
            Some(Ok(_)) => {}
            Some(Err(error)) => return Err(status(error)),
            None => return Err(Status::unavailable("etcdserver: server stopped")),
        }
    }
}

/// Sets the value of a place that is still the same one.
pub(crate) async fn set(
    store: &Arc<dyn Store>,
    place: &Place,
    value: Bytes,
) -> Result<Revision, Status> {
    let put = PutRequest::new(place.key.clone(), value).with_lease(place.lease);
    let compare = CompareTarget::Create(place.created);
    let txn = TxnRequest {
        compare: vec![Compare::new(
            place.key.clone(),
            CompareResult::Equal,
            compare,
        )],
        success: vec![TxnOp::Put(put)],
        failure: Vec::new(),
    };
    let answer = store.txn(txn).await.map_err(status)?;
    match answer.succeeded {
        true => Ok(answer.revision),
        false => Err(Status::unknown("election: not leader")),
    }
}

/// Leaves the queue when dropped, unless the key was taken out.
struct Leaving {
    store: Arc<dyn Store>,
    key: Option<Bytes>,
}

impl Drop for Leaving {
    fn drop(&mut self) {
        let Some(key) = self.key.take() else { return };
        let store = self.store.clone();
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                // If it cannot be, it goes with its lease.
                let _ = store.delete_range(DeleteRangeRequest::key(key)).await;
            });
        }
    }
}
