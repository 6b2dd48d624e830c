//! Applying writes inside the writer's redb transaction.
//!
//! Each request is checked against the state first and changes it after, so that a refusal leaves
//! nothing behind in the group. All changes of a request carry one revision, the steps within it
//! count from 0.

use std::path::Path;

use bytes::Bytes;
use redb::{ReadableTable, Table, WriteTransaction};

use super::check;
use super::read::{self, Bounds};
use super::tables::{
    self, Counters, LEASE_KEYS, LEASES, LOG, META, Reader, Record, VERSIONS, cost,
};
use crate::error::StoreError;
use crate::types::*;

/// The tables of one group of writes, and the counters as they move on.
pub(crate) struct Group<'t> {
    pub versions: Table<'t, (&'static [u8], i64), &'static [u8]>,
    pub log: Table<'t, (i64, u32), &'static [u8]>,
    pub leases: Table<'t, i64, &'static [u8]>,
    pub lease_keys: Table<'t, (i64, &'static [u8]), ()>,
    meta: Table<'t, &'static str, &'static [u8]>,
    pub counters: Counters,
    /// What changed, for the watches: revision and key.
    pub changed: Vec<(Revision, Bytes)>,
    pub path: &'t Path,
    /// Steps of the request at hand.
    step: u32,
}

impl<'t> Group<'t> {
    pub(crate) fn new(
        txn: &'t WriteTransaction,
        counters: Counters,
        path: &'t Path,
    ) -> Result<Self, StoreError> {
        let error = |e: redb::TableError| StoreError::database(path, e);
        Ok(Self {
            versions: txn.open_table(VERSIONS).map_err(error)?,
            log: txn.open_table(LOG).map_err(error)?,
            leases: txn.open_table(LEASES).map_err(error)?,
            lease_keys: txn.open_table(LEASE_KEYS).map_err(error)?,
            meta: txn.open_table(META).map_err(error)?,
            counters,
            changed: Vec::new(),
            path,
            step: 0,
        })
    }

    /// Writes the counters; the last thing before the commit.
    pub(crate) fn finish(mut self) -> Result<(Counters, Vec<(Revision, Bytes)>), StoreError> {
        self.counters
            .store(&mut self.meta)
            .map_err(|e| StoreError::database(self.path, e))?;
        Ok((self.counters, self.changed))
    }

    pub(crate) fn error(&self, source: impl Into<redb::Error>) -> StoreError {
        StoreError::database(self.path, source)
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
        let plan = plan(&self.versions, request, self.counters.revision, self.path)?;
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

    /// Ends a lease: its keys go at one revision.
    pub(crate) fn revoke(&mut self, id: LeaseId) -> Result<LeaseRevokeResponse, StoreError> {
        if self
            .leases
            .remove(id)
            .map_err(|e| StoreError::database(self.path, e))?
            .is_none()
        {
            return Err(StoreError::LeaseNotFound(id));
        }
        for key in tables::lease_keys(&self.lease_keys, id, self.path)? {
            self.remove(&key, id)?;
        }
        Ok(LeaseRevokeResponse {
            revision: self.close(),
        })
    }

    fn check_lease(&self, request: &PutRequest) -> Result<(), StoreError> {
        let lease = request.lease;
        if lease != 0 && self.leases.get(lease).map_err(|e| self.error(e))?.is_none() {
            return Err(StoreError::LeaseNotFound(lease));
        }
        Ok(())
    }

    fn check_former(&self, request: &PutRequest) -> Result<(), StoreError> {
        if request.ignore_value || request.ignore_lease {
            let at = self.counters.revision;
            if read::live_at(&self.versions, &request.key, at, self.path)?.is_none() {
                return Err(StoreError::KeyNotFound(request.key.clone()));
            }
        }
        Ok(())
    }

    fn do_put(&mut self, request: &PutRequest) -> Result<PutResponse, StoreError> {
        let revision = self.next();
        let key = &request.key;
        let with_value = request.prev_kv || request.ignore_value;
        let take =
            |at, record: Record<'_>| (!record.deleted).then(|| record.to_kv(key, at, with_value));
        let former = read::version_at(&self.versions, key, revision, self.path, take)?.flatten();
        let (create_revision, version, former_lease) = match &former {
            Some(kv) => (kv.create_revision, kv.version + 1, kv.lease),
            None => (revision, 1, 0),
        };
        let lease = if request.ignore_lease {
            former_lease
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
        self.write(key, record)?;
        if former_lease != lease {
            if former_lease != 0 {
                self.detach(former_lease, key)?;
            }
            if lease != 0 {
                self.lease_keys
                    .insert((lease, &key[..]), ())
                    .map_err(|e| StoreError::database(self.path, e))?;
            }
        }
        Ok(PutResponse {
            revision,
            prev_kv: former.filter(|_| request.prev_kv),
        })
    }

    fn do_delete(
        &mut self,
        request: &DeleteRangeRequest,
    ) -> Result<DeleteRangeResponse, StoreError> {
        let bounds = Bounds::new(&request.key, &request.range_end);
        let mut doomed = Vec::new();
        let at = self.seen();
        read::visit(
            &self.versions,
            &bounds,
            at,
            self.path,
            |key, revision, record| {
                doomed.push(record.to_kv(key, revision, request.prev_kv));
            },
        )?;
        for kv in &doomed {
            self.remove(&kv.key, kv.lease)?;
        }
        Ok(DeleteRangeResponse {
            revision: self.seen(),
            deleted: doomed.len() as i64,
            prev_kvs: if request.prev_kv { doomed } else { Vec::new() },
        })
    }

    fn remove(&mut self, key: &Bytes, lease: LeaseId) -> Result<(), StoreError> {
        let gone = Record {
            deleted: true,
            create_revision: 0,
            version: 0,
            lease: 0,
            step: self.step,
            value: b"",
        };
        self.write(key, gone)?;
        if lease != 0 {
            self.detach(lease, key)?;
        }
        Ok(())
    }

    fn detach(&mut self, lease: LeaseId, key: &Bytes) -> Result<(), StoreError> {
        let removed = self.lease_keys.remove((lease, &key[..]));
        removed
            .map(drop)
            .map_err(|e| StoreError::database(self.path, e))
    }

    fn write(&mut self, key: &Bytes, record: Record<'_>) -> Result<(), StoreError> {
        let revision = self.next();
        let bytes = record.encode();
        let path = self.path;
        let error = |e: redb::StorageError| StoreError::database(path, e);
        self.versions
            .insert((&key[..], revision), &bytes[..])
            .map_err(error)?;
        self.log
            .insert((revision, record.step), &key[..])
            .map_err(error)?;
        self.counters.bytes += cost(key.len(), bytes.len());
        self.changed.push((revision, key.clone()));
        self.step += 1;
        Ok(())
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
                    TxnOpResponse::Range(read::range(&self.versions, range, seen, self.path)?)
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
    versions: &impl read::Versions,
    request: &'r TxnRequest,
    at: Revision,
    path: &Path,
) -> Result<Plan<'r>, StoreError> {
    let mut succeeded = true;
    for compare in &request.compare {
        if !read::holds(versions, compare, at, path)? {
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
            TxnOp::Txn(inner) => Some(plan(versions, inner, at, path)?),
            _ => None,
        };
        ops.push((op, inner));
    }
    Ok(Plan { succeeded, ops })
}

/// A transaction that changes nothing, answered from a snapshot.
pub(crate) fn read_only(reader: &Reader, request: &TxnRequest) -> Result<TxnResponse, StoreError> {
    let counters = reader.counters()?;
    let at = counters.revision;
    let plan = plan(reader.versions(), request, at, reader.path())?;
    plan.each(&mut |op| match op {
        TxnOp::Range(range) => check::revision(range.revision, &counters),
        _ => Ok(()),
    })?;
    answer(reader, &plan, at)
}

fn answer(reader: &Reader, plan: &Plan<'_>, at: Revision) -> Result<TxnResponse, StoreError> {
    let mut responses = Vec::with_capacity(plan.ops.len());
    for (op, inner) in &plan.ops {
        match (op, inner) {
            (_, Some(inner)) => responses.push(TxnOpResponse::Txn(answer(reader, inner, at)?)),
            (TxnOp::Range(range), None) => {
                let found = read::range(reader.versions(), range, at, reader.path())?;
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
