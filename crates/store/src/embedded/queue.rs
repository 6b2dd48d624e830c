//! Requests on their way to the writer.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::lock;
use crate::error::StoreError;
use crate::types::*;

/// Something for the writer to do.
pub(crate) enum Op {
    Put(PutRequest),
    Delete(DeleteRangeRequest),
    Txn(TxnRequest),
    Compact(Revision),
    Grant {
        ttl: i64,
        id: LeaseId,
    },
    Revoke(LeaseId),
    Defragment,
    /// Whether the writer does nothing of its own any more.
    Hold(bool),
}

/// Its answer.
#[derive(Debug)]
pub(crate) enum Reply {
    Put(PutResponse),
    Delete(DeleteRangeResponse),
    Txn(TxnResponse),
    Compact(CompactResponse),
    Grant(LeaseGrantResponse),
    Revoke(LeaseRevokeResponse),
    Done(()),
}

pub(crate) type Sender = oneshot::Sender<Result<Reply, StoreError>>;

/// Requests that wait for the writer.
#[derive(Default)]
pub(crate) struct Queue {
    waiting: Mutex<Waiting>,
    wake: Condvar,
}

#[derive(Default)]
struct Waiting {
    requests: Vec<(Op, Sender)>,
    /// The writer is to be woken when so many wait; 0: it is at work.
    wanted: usize,
    closed: bool,
}

impl Queue {
    pub(crate) fn push(&self, op: Op, reply: Sender) -> Result<(), ()> {
        let mut waiting = lock(&self.waiting);
        if waiting.closed {
            return Err(());
        }
        waiting.requests.push((op, reply));
        if waiting.wanted > 0 && waiting.requests.len() >= waiting.wanted {
            waiting.wanted = 0;
            drop(waiting);
            self.wake.notify_one();
        }
        Ok(())
    }

    pub(crate) fn close(&self) {
        lock(&self.waiting).closed = true;
        self.wake.notify_one();
    }

    /// All that waits; sleeps until there is something, or until `until`. None when closed and
    /// empty.
    ///
    /// Who was answered just now (`answered`) often has more to write, and is waited for, for as
    /// long as `patience`, so that syncs are shared; one writer alone never waits.
    pub(crate) fn take(
        &self,
        answered: usize,
        patience: Duration,
        until: impl Fn() -> Option<Instant>,
    ) -> Option<Vec<(Op, Sender)>> {
        let mut waiting = lock(&self.waiting);
        if answered > 0 && !waiting.closed {
            waiting.wanted = answered + waiting.requests.len();
            waiting = self.sleep(waiting, Some(patience));
        }
        loop {
            if !waiting.requests.is_empty() {
                waiting.wanted = 0;
                return Some(std::mem::take(&mut waiting.requests));
            }
            if waiting.closed {
                return None;
            }
            let until = until();
            // After it, so that "now" is due.
            let now = Instant::now();
            let rest = match until {
                Some(at) if at <= now => return Some(Vec::new()),
                Some(at) => Some(at - now),
                None => None,
            };
            waiting.wanted = 1;
            waiting = self.sleep(waiting, rest);
        }
    }

    fn sleep<'q>(
        &self,
        waiting: MutexGuard<'q, Waiting>,
        rest: Option<Duration>,
    ) -> MutexGuard<'q, Waiting> {
        match rest {
            Some(rest) => {
                let woken = self.wake.wait_timeout(waiting, rest);
                woken.unwrap_or_else(PoisonError::into_inner).0
            }
            None => self
                .wake
                .wait(waiting)
                .unwrap_or_else(PoisonError::into_inner),
        }
    }
}

/// Closes the queue when the thread ends, however it does: nobody is to wait for ever.
pub(crate) struct Closing<'s>(pub &'s Queue);

impl Drop for Closing<'_> {
    fn drop(&mut self) {
        self.0.close();
        drop(std::mem::take(&mut lock(&self.0.waiting).requests));
    }
}
