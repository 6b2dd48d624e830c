//! Applying a group of writes: to memory, where they are invisible yet, and to the group's frame of the log.
//!
//! Each request is checked against the state first and changes it after, so that a refusal leaves
//! nothing behind in the group. All changes of a request carry one revision, the steps within it
//! count from 0.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::check;
use super::log::{Building, Former};
use super::memory::{Entry, weight};
use super::read::{self, Bounds};
use super::tables::{Counters, Record, cost};
use super::view::View;
use crate::error::StoreError;
use crate::types::*;

/// One group of writes, and the counters as they move on.
pub(crate) struct Group<'g> {
    view: View<'g>,
    frame: &'g mut Building,
    /// The leases alive, the group's own changes included.
    leases: &'g mut BTreeMap<LeaseId, i64>,
    pub counters: Counters,
    pub done: Done,
    /// Steps of the request at hand.
    step: u32,
    /// Key and record at hand.
    encoded: Vec<u8>,
}

/// What a group did.
#[derive(Default)]
pub(crate) struct Done {
    /// For the watches.
    pub changed: Vec<Entry>,
    /// Leases granted, with their time, and ended, in order.
    pub leases: Vec<(LeaseId, Option<i64>)>,
    /// What its versions take in memory.
    pub weight: u64,
}

impl<'g> Group<'g> {
    pub(crate) fn new(
        view: View<'g>,
        frame: &'g mut Building,
        leases: &'g mut BTreeMap<LeaseId, i64>,
    ) -> Self {
        Self {
            counters: view.counters,
            view,
            frame,
            leases,
            done: Done::default(),
            step: 0,
            encoded: Vec::new(),
        }
    }

    /// The length of its frame so far, in bytes.
    pub(crate) fn len(&self) -> usize {
        self.frame.len()
    }

    /// A request has begun to change things and has not come to its end.
    pub(crate) fn is_amid(&self) -> bool {
        self.step != 0
    }

    /// The revision that the request's changes carry.
    fn next(&self) -> Revision {
        self.counters.revision + 1
    }

    /// What the request sees: its own changes included.
    fn seen(&self) -> Revision {
        if self.step > 0 {
            self.next()
        } else {
            self.counters.revision
        }
    }

    /// Closes the request; answers the revision after it.
    fn close(&mut self) -> Revision {
        self.counters.revision = self.seen();
        self.step = 0;
        self.counters.revision
    }

    pub(crate) fn put(&mut self, request: &PutRequest) -> Result<PutResponse, StoreError> {
        self.check_lease(request)?;
        self.check_former(request)?;
        let answer = self.do_put(request)?;
        self.close();
        Ok(answer)
    }

    pub(crate) fn delete(
        &mut self,
        request: &DeleteRangeRequest,
    ) -> Result<DeleteRangeResponse, StoreError> {
        let answer = self.do_delete(request)?;
        self.close();
        Ok(answer)
    }

    pub(crate) fn txn(&mut self, request: &TxnRequest) -> Result<TxnResponse, StoreError> {
        let plan = plan(&self.view, request, self.counters.revision)?;
        // In etcd's order, which is another than a single put's.
        plan.each(&mut |op| match op {
            TxnOp::Put(put) => self.check_former(put).and_then(|()| self.check_lease(put)),
            _ => Ok(()),
        })?;
        plan.each(&mut |op| match op {
            TxnOp::Range(range) => check::revision(range.revision, &self.counters),
            _ => Ok(()),
        })?;
        let mut answer = self.run(&plan)?;
        answer.revision = self.close();
        Ok(answer)
    }

    /// Grants a lease; `id` 0 has one drawn by `draw`.
    pub(crate) fn grant(
        &mut self,
        ttl: i64,
        id: LeaseId,
        mut draw: impl FnMut() -> LeaseId,
    ) -> Result<LeaseGrantResponse, StoreError> {
        let mut chosen = id;
        while chosen == 0 || self.leases.contains_key(&chosen) {
            if id != 0 {
                return Err(StoreError::LeaseExists(id));
            }
            chosen = draw();
        }
        self.leases.insert(chosen, ttl);
        self.frame.grant(chosen, ttl);
        self.done.leases.push((chosen, Some(ttl)));
        Ok(LeaseGrantResponse {
            revision: self.counters.revision,
            id: chosen,
            ttl,
        })
    }

    /// Ends a lease: its keys go at one revision.
    pub(crate) fn revoke(&mut self, id: LeaseId) -> Result<LeaseRevokeResponse, StoreError> {
        if !self.leases.contains_key(&id) {
            return Err(StoreError::LeaseNotFound(id));
        }
        for (key, revision) in self.view.lease_keys(id, self.counters.revision)? {
            self.remove(
                &key,
                Former {
                    revision,
                    lease: id,
                },
            );
        }
        self.leases.remove(&id);
        self.frame.revoke(id);
        self.done.leases.push((id, None));
        Ok(LeaseRevokeResponse {
            revision: self.close(),
        })
    }

    /// Decides a compaction.
    pub(crate) fn compact(&mut self, requested: Revision) -> Result<CompactResponse, StoreError> {
        let Counters {
            revision,
            compacted,
            ..
        } = self.counters;
        if requested <= compacted {
            return Err(StoreError::Compacted {
                requested,
                compacted,
            });
        }
        check::revision(requested, &self.counters)?;
        self.forget_before(requested);
        Ok(CompactResponse { revision })
    }

    /// Decides a compaction that nobody asked for.
    pub(crate) fn forget_before(&mut self, revision: Revision) {
        self.counters.compacted = revision;
        self.frame.compact(revision);
    }

    fn check_lease(&self, request: &PutRequest) -> Result<(), StoreError> {
        let lease = request.lease;
        if lease != 0 && !self.leases.contains_key(&lease) {
            return Err(StoreError::LeaseNotFound(lease));
        }
        Ok(())
    }

    fn check_former(&self, request: &PutRequest) -> Result<(), StoreError> {
        if request.ignore_value || request.ignore_lease {
            let at = self.counters.revision;
            if self.view.live_at(&request.key, at)?.is_none() {
                return Err(StoreError::KeyNotFound(request.key.clone()));
            }
        }
        Ok(())
    }

    fn do_put(&mut self, request: &PutRequest) -> Result<PutResponse, StoreError> {
        let revision = self.next();
        let key = &request.key;
        let former = self.former(key, request.prev_kv || request.ignore_value)?;
        let (create_revision, version, replaced) = match &former {
            Some(kv) => (kv.create_revision, kv.version + 1, replaced(kv)),
            None => (revision, 1, Former::default()),
        };
        let lease = if request.ignore_lease {
            replaced.lease
        } else {
            request.lease
        };
        let value = match &former {
            Some(kv) if request.ignore_value => &kv.value,
            _ => &request.value,
        };
        let record = Record {
            deleted: false,
            create_revision,
            version,
            lease,
            step: self.step,
            value,
        };
        self.write(key, replaced, &record);
        Ok(PutResponse {
            revision,
            prev_kv: former.filter(|_| request.prev_kv),
        })
    }

    /// The live key as the request finds it; its value is not always there unless asked for.
    fn former(&self, key: &Bytes, with_value: bool) -> Result<Option<KeyValue>, StoreError> {
        let at = self.next();
        let take =
            |at, record: Record<'_>| (!record.deleted).then(|| record.to_kv(key, at, with_value));
        let memory = self.view.memory();
        if !with_value {
            // In this order: what leaves memory in between is remembered when it does.
            if let Some(version) = memory.version_at(key, at).0 {
                let record = Record::decode(version.record(), self.view.path())?;
                return Ok(take(version.revision, record));
            }
            if let Some(head) = memory.head(key) {
                return Ok(Some(KeyValue {
                    key: key.clone(),
                    value: Bytes::new(),
                    create_revision: head.create_revision,
                    mod_revision: head.revision,
                    version: head.version,
                    lease: head.lease,
                }));
            }
        }
        Ok(self.view.version_at(key, at, take)?.flatten())
    }

    fn do_delete(
        &mut self,
        request: &DeleteRangeRequest,
    ) -> Result<DeleteRangeResponse, StoreError> {
        let bounds = Bounds::new(&request.key, &request.range_end);
        let mut doomed = Vec::new();
        let at = self.seen();
        self.view.visit(&bounds, at, |key, revision, record| {
            doomed.push(record.to_kv(key, revision, request.prev_kv));
        })?;
        for kv in &doomed {
            self.remove(&kv.key, replaced(kv));
        }
        Ok(DeleteRangeResponse {
            revision: self.seen(),
            deleted: doomed.len() as i64,
            prev_kvs: if request.prev_kv { doomed } else { Vec::new() },
        })
    }

    fn remove(&mut self, key: &[u8], former: Former) {
        let gone = Record {
            deleted: true,
            create_revision: 0,
            version: 0,
            lease: 0,
            step: self.step,
            value: b"",
        };
        self.write(key, former, &gone);
    }

    fn write(&mut self, key: &[u8], former: Former, record: &Record<'_>) {
        let revision = self.next();
        self.encoded.clear();
        self.encoded.extend_from_slice(key);
        record.encode(&mut self.encoded);
        let entry = Entry::new(revision, former, &self.encoded, key.len());
        self.frame.write(revision, former, key, entry.record());
        self.counters.bytes += cost(key.len(), entry.record().len());
        self.done.weight += weight(&entry);
        self.view.memory().insert(entry.clone(), record.lease);
        self.done.changed.push(entry);
        self.step += 1;
    }

    fn run(&mut self, plan: &Plan<'_>) -> Result<TxnResponse, StoreError> {
        let mut responses = Vec::with_capacity(plan.ops.len());
        for (op, inner) in &plan.ops {
            responses.push(match (op, inner) {
                (_, Some(inner)) => TxnOpResponse::Txn(self.run(inner)?),
                (TxnOp::Put(put), None) => TxnOpResponse::Put(self.do_put(put)?),
                (TxnOp::Delete(delete), None) => TxnOpResponse::Delete(self.do_delete(delete)?),
                (TxnOp::Range(range), None) => {
                    let seen = self.seen();
                    TxnOpResponse::Range(read::range(&self.view, range, seen)?)
                }
                // A plan holds an inner plan for every inner transaction.
                (TxnOp::Txn(_), None) => continue,
            });
        }
        Ok(TxnResponse {
            revision: self.seen(),
            succeeded: plan.succeeded,
            responses,
        })
    }
}

fn replaced(kv: &KeyValue) -> Former {
    Former {
        revision: kv.mod_revision,
        lease: kv.lease,
    }
}

/// Which branches a transaction takes, decided on the state before it.
struct Plan<'r> {
    succeeded: bool,
    ops: Vec<(&'r TxnOp, Option<Plan<'r>>)>,
}

impl Plan<'_> {
    fn each(
        &self,
        look: &mut impl FnMut(&TxnOp) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        for (op, inner) in &self.ops {
            match inner {
                Some(inner) => inner.each(look)?,
                None => look(op)?,
            }
        }
        Ok(())
    }
}

fn plan<'r>(
    view: &View<'_>,
    request: &'r TxnRequest,
    at: Revision,
) -> Result<Plan<'r>, StoreError> {
    let mut succeeded = true;
    for compare in &request.compare {
        if !read::holds(view, compare, at)? {
            succeeded = false;
            break;
        }
    }
    let branch = if succeeded {
        &request.success
    } else {
        &request.failure
    };
    let mut ops = Vec::with_capacity(branch.len());
    for op in branch {
        let inner = match op {
            TxnOp::Txn(inner) => Some(plan(view, inner, at)?),
            _ => None,
        };
        ops.push((op, inner));
    }
    Ok(Plan { succeeded, ops })
}

/// A transaction that changes nothing, answered from a snapshot.
pub(crate) fn read_only(view: &View<'_>, request: &TxnRequest) -> Result<TxnResponse, StoreError> {
    let counters = view.counters;
    let at = counters.revision;
    let plan = plan(view, request, at)?;
    plan.each(&mut |op| match op {
        TxnOp::Range(range) => check::revision(range.revision, &counters),
        _ => Ok(()),
    })?;
    answer(view, &plan, at)
}

fn answer(view: &View<'_>, plan: &Plan<'_>, at: Revision) -> Result<TxnResponse, StoreError> {
    let mut responses = Vec::with_capacity(plan.ops.len());
    for (op, inner) in &plan.ops {
        match (op, inner) {
            (_, Some(inner)) => responses.push(TxnOpResponse::Txn(answer(view, inner, at)?)),
            (TxnOp::Range(range), None) => {
                let found = read::range(view, range, at)?;
                responses.push(TxnOpResponse::Range(found));
            }
            // The caller made sure that there are no others.
            _ => {}
        }
    }
    Ok(TxnResponse {
        revision: at,
        succeeded: plan.succeeded,
        responses,
    })
}
