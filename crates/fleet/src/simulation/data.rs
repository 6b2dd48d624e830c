//! What a store holds, with etcd's meaning: revisions, all of history, leases. No faults here, and no time but what is told.

use bytes::Bytes;
use coracle_store::{
    Compare, CompareResult, CompareTarget, DeleteRangeRequest, DeleteRangeResponse, Event,
    EventKind, KeyValue, LeaseGrantResponse, LeaseId, LeaseKeepAliveResponse, LeaseRevokeResponse,
    PutRequest, PutResponse, RangeRequest, RangeResponse, Revision, StoreError, TxnOp,
    TxnOpResponse, TxnRequest, TxnResponse,
};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::time::Duration;

/// See the module.
#[derive(Default)]
pub(crate) struct Data {
    revision: Revision,
    keys: BTreeMap<Bytes, Vec<Version>>,
    /// Every change there was, the oldest first.
    log: Vec<Event>,
    leases: BTreeMap<LeaseId, Lease>,
    away: bool,
}

#[derive(Clone)]
struct Version {
    at: Revision,
    /// None of a deletion.
    kv: Option<KeyValue>,
}

struct Lease {
    ttl: i64,
    end: Duration,
    keys: BTreeSet<Bytes>,
}

/// What a range is: one key, all from one on, or those between.
fn bounds(key: &Bytes, end: &Bytes) -> (Bound<Bytes>, Bound<Bytes>) {
    let upper = match &end[..] {
        b"" => Bound::Included(key.clone()),
        b"\0" => Bound::Unbounded,
        _ => Bound::Excluded(end.clone()),
    };
    (Bound::Included(key.clone()), upper)
}

pub(crate) fn holds(key: &Bytes, end: &Bytes, found: &Bytes) -> bool {
    match &end[..] {
        b"" => found == key,
        b"\0" => found >= key,
        _ => found >= key && found < end,
    }
}

impl Data {
    pub fn new() -> Self {
        Self {
            revision: 1,
            ..Self::default()
        }
    }

    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// Every change from a revision on.
    pub fn since(&self, revision: Revision) -> &[Event] {
        let at = self.log.partition_point(|e| e.kv.mod_revision < revision);
        &self.log[at..]
    }

    pub fn get(&self, key: &str) -> Option<&KeyValue> {
        self.keys.get(key.as_bytes())?.last()?.kv.as_ref()
    }

    /// What is there below a prefix.
    pub fn below(&self, prefix: &str) -> Vec<&KeyValue> {
        let prefix = Bytes::copy_from_slice(prefix.as_bytes());
        let all = self.keys.range(prefix.clone()..);
        let own = all.take_while(|(key, _)| key.starts_with(&prefix));
        own.filter_map(|(_, versions)| versions.last()?.kv.as_ref())
            .collect()
    }

    pub fn range(&self, request: &RangeRequest) -> Result<RangeResponse, StoreError> {
        if request.key.is_empty() {
            return Err(StoreError::EmptyKey);
        }
        let at = match request.revision {
            0 => self.revision,
            asked if asked > self.revision => {
                return Err(StoreError::FutureRevision {
                    requested: asked,
                    current: self.revision,
                });
            }
            asked => asked,
        };
        let found = self.keys.range(bounds(&request.key, &request.range_end));
        let found = found.filter_map(|(_, versions)| {
            let then = versions.iter().rev().find(|v| v.at <= at)?;
            then.kv.clone()
        });
        let mut kvs: Vec<KeyValue> = found.collect();
        if request.keys_only {
            kvs.iter_mut().for_each(|kv| kv.value = Bytes::new());
        }
        let (count, limit) = (kvs.len(), usize::try_from(request.limit).unwrap_or(0));
        if limit > 0 {
            kvs.truncate(limit);
        }
        Ok(RangeResponse {
            revision: self.revision,
            count: count as i64,
            more: kvs.len() < count,
            kvs,
        })
    }

    pub fn put(&mut self, request: PutRequest) -> Result<PutResponse, StoreError> {
        self.check(&request)?;
        let revision = self.revision + 1;
        self.set(request, revision);
        self.revision = revision;
        Ok(PutResponse {
            revision,
            prev_kv: None,
        })
    }

    fn check(&self, request: &PutRequest) -> Result<(), StoreError> {
        if request.lease != 0 && !self.leases.contains_key(&request.lease) {
            return Err(StoreError::LeaseNotFound(request.lease));
        }
        Ok(())
    }

    fn set(&mut self, request: PutRequest, revision: Revision) {
        let PutRequest {
            key, value, lease, ..
        } = request;
        let before = self.keys.get(&key).and_then(|v| v.last()?.kv.clone());
        if let Some(before) = &before
            && let Some(former) = self.leases.get_mut(&before.lease)
        {
            former.keys.remove(&key);
        }
        if let Some(lease) = self.leases.get_mut(&lease) {
            lease.keys.insert(key.clone());
        }
        let kv = KeyValue {
            key: key.clone(),
            value,
            create_revision: before.as_ref().map_or(revision, |kv| kv.create_revision),
            mod_revision: revision,
            version: before.map_or(0, |kv| kv.version) + 1,
            lease,
        };
        self.log.push(Event {
            kind: EventKind::Put,
            kv: kv.clone(),
            prev_kv: None,
        });
        let versions = self.keys.entry(key).or_default();
        versions.push(Version {
            at: revision,
            kv: Some(kv),
        });
    }

    pub fn delete(&mut self, request: &DeleteRangeRequest) -> DeleteRangeResponse {
        let revision = self.revision + 1;
        let deleted = self.unset(request, revision);
        if deleted > 0 {
            self.revision = revision;
        }
        DeleteRangeResponse {
            revision: self.revision,
            deleted,
            prev_kvs: Vec::new(),
        }
    }

    fn unset(&mut self, request: &DeleteRangeRequest, revision: Revision) -> i64 {
        let found = self.keys.range(bounds(&request.key, &request.range_end));
        let there = found.filter(|(_, versions)| versions.last().is_some_and(|v| v.kv.is_some()));
        let keys: Vec<Bytes> = there.map(|(key, _)| key.clone()).collect();
        for key in &keys {
            let Some(versions) = self.keys.get_mut(key) else {
                continue;
            };
            let lease = versions.last().and_then(|v| Some(v.kv.as_ref()?.lease));
            versions.push(Version {
                at: revision,
                kv: None,
            });
            if let Some(lease) = lease.and_then(|lease| self.leases.get_mut(&lease)) {
                lease.keys.remove(key);
            }
            let kv = KeyValue {
                key: key.clone(),
                mod_revision: revision,
                ..KeyValue::default()
            };
            self.log.push(Event {
                kind: EventKind::Delete,
                kv,
                prev_kv: None,
            });
        }
        keys.len() as i64
    }

    pub fn compares(&self, compares: &[Compare]) -> bool {
        compares.iter().all(|compare| {
            let nothing = KeyValue::default();
            let found = self
                .keys
                .get(&compare.key)
                .and_then(|v| v.last()?.kv.as_ref());
            let kv = found.unwrap_or(&nothing);
            let order = match &compare.target {
                CompareTarget::Version(given) => kv.version.cmp(given),
                CompareTarget::Create(given) => kv.create_revision.cmp(given),
                CompareTarget::Mod(given) => kv.mod_revision.cmp(given),
                CompareTarget::Lease(given) => kv.lease.cmp(given),
                CompareTarget::Value(_) if found.is_none() => return false,
                CompareTarget::Value(given) => kv.value.cmp(given),
            };
            match compare.result {
                CompareResult::Equal => order.is_eq(),
                CompareResult::Greater => order.is_gt(),
                CompareResult::Less => order.is_lt(),
                CompareResult::NotEqual => order.is_ne(),
            }
        })
    }

    /// Transactions within transactions are asked by nobody here.
    pub fn txn(&mut self, request: TxnRequest) -> Result<TxnResponse, StoreError> {
        let succeeded = self.compares(&request.compare);
        let steps = match succeeded {
            true => request.success,
            false => request.failure,
        };
        if steps.len() > 128 {
            return Err(StoreError::TooManyOps {
                count: steps.len(),
                max: 128,
            });
        }
        let mut puts = BTreeSet::new();
        for step in &steps {
            if let TxnOp::Put(put) = step {
                self.check(put)?;
                let deleted = steps.iter().any(|step| match step {
                    TxnOp::Delete(delete) => holds(&delete.key, &delete.range_end, &put.key),
                    _ => false,
                });
                if deleted || !puts.insert(&put.key) {
                    return Err(StoreError::DuplicateKey(put.key.clone()));
                }
            }
        }
        let (revision, mut changed) = (self.revision + 1, false);
        let mut responses = Vec::new();
        for step in steps {
            responses.push(match step {
                TxnOp::Put(put) => {
                    self.set(put, revision);
                    changed = true;
                    TxnOpResponse::Put(PutResponse {
                        revision,
                        prev_kv: None,
                    })
                }
                TxnOp::Delete(delete) => {
                    let deleted = self.unset(&delete, revision);
                    changed |= deleted > 0;
                    TxnOpResponse::Delete(DeleteRangeResponse {
                        revision,
                        deleted,
                        prev_kvs: Vec::new(),
                    })
                }
                TxnOp::Range(range) => TxnOpResponse::Range(self.range(&range)?),
                TxnOp::Txn(_) => unreachable!("the fleet puts no transaction into another"),
            });
        }
        if changed {
            self.revision = revision;
        }
        Ok(TxnResponse {
            revision: self.revision,
            succeeded,
            responses,
        })
    }

    pub fn grant(&mut self, ttl: i64, id: LeaseId, now: Duration) -> LeaseGrantResponse {
        let lease = Lease {
            ttl,
            end: now + Duration::from_secs(ttl as u64),
            keys: BTreeSet::new(),
        };
        self.leases.insert(id, lease);
        LeaseGrantResponse {
            revision: self.revision,
            id,
            ttl,
        }
    }

    pub fn keep_alive(
        &mut self,
        id: LeaseId,
        now: Duration,
    ) -> Result<LeaseKeepAliveResponse, StoreError> {
        let lease = self
            .leases
            .get_mut(&id)
            .ok_or(StoreError::LeaseNotFound(id))?;
        lease.end = now + Duration::from_secs(lease.ttl as u64);
        Ok(LeaseKeepAliveResponse {
            revision: self.revision,
            ttl: lease.ttl,
        })
    }

    /// Nobody ends leases while the store is away; then all have their whole time again, as after an election in etcd.
    pub fn is_away(&mut self, away: bool, now: Duration) {
        self.away = away;
        for lease in self.leases.values_mut() {
            lease.end = now + Duration::from_secs(lease.ttl as u64);
        }
    }

    pub fn revoke(&mut self, id: LeaseId) -> Result<LeaseRevokeResponse, StoreError> {
        let lease = self
            .leases
            .remove(&id)
            .ok_or(StoreError::LeaseNotFound(id))?;
        let (revision, mut deleted) = (self.revision + 1, 0);
        for key in lease.keys {
            deleted += self.unset(&DeleteRangeRequest::key(key), revision);
        }
        if deleted > 0 {
            self.revision = revision;
        }
        Ok(LeaseRevokeResponse {
            revision: self.revision,
        })
    }

    /// Ends the leases whose time is over; whether there were any.
    pub fn expire(&mut self, now: Duration) -> bool {
        let over = self.leases.iter().filter(|(_, lease)| lease.end <= now);
        let over: Vec<LeaseId> = over.map(|(id, _)| *id).collect();
        for id in &over {
            let _ = self.revoke(*id);
        }
        !over.is_empty()
    }

    /// When the next lease ends.
    pub fn next_end(&self) -> Option<Duration> {
        if self.away {
            return None;
        }
        self.leases.values().map(|lease| lease.end).min()
    }
}
