//! The store as one machine may use it.
//!
//! Each machine reaches the cluster's store through voters' doors, and sees it through a [`Guarded`] of its own: it reads nearly
//! everything and writes what is its own ([`rules`] has the table). What it may not do is refused as a whole; nothing is left out
//! silently of an answer, so that a range or a watch that holds keys it may not read is refused too.
//!
//! # Leases
//! A machine grants leases of its own, whose ids tell whose they are ([`coracle_store::machine_lease`]), and passes on those of
//! its apps. Others' are not there for it. It may revoke what it may write: a lease of an app that holds another machine's key
//! cannot be revoked by it.

mod faces;
pub mod rules;

pub use faces::Faces;
pub use rules::Rules;

use std::io::Write;
use std::sync::Arc;

use coracle_store::*;
use tokio::sync::watch;

use crate::MachineId;
use crate::members::{Members, Standing};

/// What is kept for who is at the machine itself.
const UPKEEP: &str = "is done on the voters themselves";

/// See the module.
pub struct Guarded {
    store: Arc<dyn Store>,
    machine: MachineId,
    rules: Rules,
    members: watch::Receiver<Members>,
}

impl Guarded {
    /// `store` as `machine` may use it, being what it is in `members` at the time of each request.
    pub fn new(
        store: Arc<dyn Store>,
        machine: MachineId,
        members: watch::Receiver<Members>,
    ) -> Self {
        Self {
            rules: Rules::of(&machine),
            store,
            machine,
            members,
        }
    }

    fn refused(&self, doing: &'static str, key: &[u8], way_out: &'static str) -> StoreError {
        StoreError::Forbidden {
            machine: self.machine.to_string(),
            doing,
            what: String::from_utf8_lossy(key).into_owned(),
            way_out,
        }
    }

    fn upkeep<T>(&self, doing: &'static str) -> BoxFuture<'_, T> {
        let refused = self.refused(doing, b"the store", UPKEEP);
        Box::pin(async move { Err(refused) })
    }

    fn is_voter(&self) -> Result<bool, StoreError> {
        match self.members.borrow().standing(&self.machine) {
            Some(standing) => Ok(standing == Standing::Voter),
            None => Err(self.refused("use", b"the store", "was removed from the cluster")),
        }
    }

    fn read(&self, key: &[u8], range_end: &[u8]) -> Result<(), StoreError> {
        if self.is_voter()? || self.rules.may_read(key, range_end) {
            return Ok(());
        }
        Err(self.refused("read", key, "is for voters only"))
    }

    fn write(&self, key: &[u8], range_end: &[u8]) -> Result<(), StoreError> {
        if self.is_voter()? || self.rules.may_write(key, range_end) {
            return Ok(());
        }
        Err(self.refused("write", key, "is another's to write"))
    }

    fn put_one(&self, put: &PutRequest) -> Result<(), StoreError> {
        self.write(&put.key, b"")?;
        if put.lease != 0 && !self.is_voter()? {
            self.known(put.lease)?;
        }
        Ok(())
    }

    fn steps(&self, txn: &TxnRequest) -> Result<(), StoreError> {
        for compare in &txn.compare {
            self.read(&compare.key, &compare.range_end)?;
        }
        for op in txn.success.iter().chain(&txn.failure) {
            match op {
                TxnOp::Range(range) => self.read(&range.key, &range.range_end)?,
                TxnOp::Put(put) => self.put_one(put)?,
                TxnOp::Delete(delete) => self.write(&delete.key, &delete.range_end)?,
                TxnOp::Txn(inner) => self.steps(inner)?,
            }
        }
        Ok(())
    }

    /// A lease that is this machine's or an app's; another machine's is not there.
    fn known(&self, id: LeaseId) -> Result<(), StoreError> {
        if is_own_lease(id) && !is_lease_of(self.machine.as_str(), id) {
            return Err(StoreError::LeaseNotFound(id));
        }
        Ok(())
    }
}

impl Store for Guarded {
    fn range(&self, request: RangeRequest) -> BoxFuture<'_, RangeResponse> {
        Box::pin(async move {
            self.read(&request.key, &request.range_end)?;
            self.store.range(request).await
        })
    }

    fn put(&self, request: PutRequest) -> BoxFuture<'_, PutResponse> {
        Box::pin(async move {
            self.put_one(&request)?;
            self.store.put(request).await
        })
    }

    fn delete_range(&self, request: DeleteRangeRequest) -> BoxFuture<'_, DeleteRangeResponse> {
        Box::pin(async move {
            self.write(&request.key, &request.range_end)?;
            self.store.delete_range(request).await
        })
    }

    fn txn(&self, request: TxnRequest) -> BoxFuture<'_, TxnResponse> {
        Box::pin(async move {
            self.steps(&request)?;
            self.store.txn(request).await
        })
    }

    fn compact(&self, _: Revision) -> BoxFuture<'_, CompactResponse> {
        self.upkeep("compact")
    }

    fn watch(&self, request: WatchRequest) -> BoxFuture<'_, WatchStream> {
        Box::pin(async move {
            self.read(&request.key, &request.range_end)?;
            self.store.watch(request).await
        })
    }

    fn lease_grant(&self, ttl: i64, id: LeaseId) -> BoxFuture<'_, LeaseGrantResponse> {
        Box::pin(async move {
            if id != 0 {
                if !self.is_voter()? && self.known(id).is_err() {
                    return Err(StoreError::LeaseExists(id));
                }
                return self.store.lease_grant(ttl, id).await;
            }
            loop {
                let id = machine_lease(self.machine.as_str());
                match self.store.lease_grant(ttl, id).await {
                    Err(StoreError::LeaseExists(_)) => {}
                    answer => return answer,
                }
            }
        })
    }

    fn lease_revoke(&self, id: LeaseId) -> BoxFuture<'_, LeaseRevokeResponse> {
        Box::pin(async move {
            if !self.is_voter()? {
                self.known(id)?;
                // Ids are chosen by who grants, so they are no proof.
                for key in self.store.lease_time_to_live(id, true).await?.keys {
                    self.write(&key, b"")?;
                }
            }
            self.store.lease_revoke(id).await
        })
    }

    fn lease_keep_alive(&self, id: LeaseId) -> BoxFuture<'_, LeaseKeepAliveResponse> {
        Box::pin(async move {
            if !self.is_voter()? {
                self.known(id)?;
            }
            self.store.lease_keep_alive(id).await
        })
    }

    fn lease_time_to_live(
        &self,
        id: LeaseId,
        keys: bool,
    ) -> BoxFuture<'_, LeaseTimeToLiveResponse> {
        Box::pin(async move {
            let voter = self.is_voter()?;
            if !voter {
                self.known(id)?;
            }
            let mut found = self.store.lease_time_to_live(id, keys).await?;
            found
                .keys
                .retain(|key| voter || self.rules.may_read(key, b""));
            Ok(found)
        })
    }

    fn leases(&self) -> BoxFuture<'_, LeasesResponse> {
        Box::pin(async move {
            let voter = self.is_voter()?;
            let mut found = self.store.leases().await?;
            found.ids.retain(|id| voter || self.known(*id).is_ok());
            Ok(found)
        })
    }

    fn defragment(&self) -> BoxFuture<'_, ()> {
        self.upkeep("defragment")
    }

    fn hash(&self, _: Revision) -> BoxFuture<'_, HashResponse> {
        self.upkeep("hash")
    }

    fn status(&self) -> BoxFuture<'_, Status> {
        Box::pin(async move {
            self.is_voter()?;
            self.store.status().await
        })
    }

    fn snapshot(&self, _: Box<dyn Write + Send>) -> BoxFuture<'_, Revision> {
        self.upkeep("copy")
    }
}
