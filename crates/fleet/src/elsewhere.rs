//! Units on other machines that a unit waits for: the leader writes down how they stand.
//!
//! Nobody waits for a store that is away: after half a minute the unit goes on, and says so. It may be that what it needs is there.

use crate::fleet::Fleet;
use crate::model::{Active, Desired, StatusRecord, keys};
use crate::pace;
use coracle_engine::full_error;
use coracle_store::{KeyValue, RangeRequest, StoreError, WatchRequest};
use std::time::{Duration, Instant};

/// How long a store that is away is waited for.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long one look may take, and how long nothing may be heard until there is another.
const LOOK: Duration = Duration::from_secs(5);
/// How long a store that does not answer is left alone.
const REST: Duration = Duration::from_secs(1);

/// What follows from how a unit stands for one that waits for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    /// It waits on.
    Wait,
    /// It goes on.
    Go { failed: bool },
}

/// What nobody has written down, or what is not to run, is not waited for.
fn verdict(status: Option<&StatusRecord>) -> Verdict {
    let go = Verdict::Go { failed: false };
    let Some(status) = status.filter(|s| s.desired == Desired::Active) else {
        return go;
    };
    if status.answered && (status.settled || status.active == Active::Active) {
        let failed = status.active == Active::Failed;
        return Verdict::Go { failed };
    }
    Verdict::Wait
}

/// Whom a unit cannot run beside is waited for until it has ended. One that is to run again is not: it waits itself.
fn end(status: Option<&StatusRecord>) -> Verdict {
    let status = status.filter(|s| s.desired != Desired::Active);
    match status.and_then(|s| s.down) {
        Some(false) => Verdict::Wait,
        _ => Verdict::Go { failed: false },
    }
}

/// What is made of how a unit stands.
type Judge = fn(Option<&StatusRecord>) -> Verdict;

fn read(name: &str, kv: Option<&KeyValue>, judge: Judge) -> Verdict {
    let status = kv.and_then(|kv| {
        let read = serde_json::from_slice(&kv.value);
        let unread = |error: &serde_json::Error| tracing::warn!(unit = name, %error, "how a unit stands elsewhere cannot be read; it is not waited for");
        read.inspect_err(unread).ok()
    });
    judge(status.as_ref())
}

impl Fleet {
    /// Waits until a unit that is not on this machine is up, has ended or is not to run. Answers whether it has failed.
    pub(crate) async fn has_failed_elsewhere(&self, name: &str) -> bool {
        self.wait_elsewhere(name, verdict).await
    }

    /// Waits until a unit that is not on this machine has ended, or is to run.
    pub(crate) async fn ends_elsewhere(&self, name: &str) {
        self.wait_elsewhere(name, end).await;
    }

    async fn wait_elsewhere(&self, name: &str, judge: Judge) -> bool {
        let mut away: Option<Instant> = None;
        while !self.0.alone() {
            match self.look_elsewhere(name, judge, &mut away).await {
                Ok(Verdict::Go { failed }) => return failed,
                // The watch is over, or was silent.
                Ok(Verdict::Wait) => {}
                Err(error) => {
                    let since = *away.get_or_insert_with(pace::now);
                    if pace::now().duration_since(since) >= PATIENCE {
                        let error = error.as_ref().map(|e| full_error(e));
                        tracing::warn!(
                            unit = name,
                            error = error.unwrap_or_else(|| "it does not answer".to_owned()),
                            "the cluster's store is away, and a unit elsewhere is not waited for any longer"
                        );
                        return false;
                    }
                    pace::sleep(REST).await;
                }
            }
        }
        false
    }

    /// One look, and what is heard after it. None is a store that says nothing.
    async fn look_elsewhere(
        &self,
        name: &str,
        judge: Judge,
        away: &mut Option<Instant>,
    ) -> Result<Verdict, Option<StoreError>> {
        let (store, key) = (&self.0.cluster, keys::status(name));
        let look = async {
            let found = store.range(RangeRequest::key(key.clone())).await?;
            let from = WatchRequest::key(key).from(found.revision + 1);
            let seen = read(name, found.kvs.first(), judge);
            Ok((seen, store.watch(from).await?))
        };
        let (seen, mut watch) = match pace::within(LOOK, look).await {
            Some(looked) => looked.map_err(Some)?,
            None => return Err(None),
        };
        *away = None;
        if seen != Verdict::Wait {
            return Ok(seen);
        }
        while let Some(Some(answer)) = pace::within(LOOK, watch.next()).await {
            let answer = answer.map_err(Some)?;
            if answer.canceled {
                break;
            }
            if let Some(event) = answer.events.last() {
                let put = event.kind == coracle_store::EventKind::Put;
                let heard = read(name, put.then_some(&event.kv), judge);
                if heard != Verdict::Wait {
                    return Ok(heard);
                }
            }
        }
        Ok(Verdict::Wait)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::VERSION;

    #[test]
    fn whom_a_unit_waits_for() {
        let of = |desired, active, settled, answered| StatusRecord {
            version: VERSION,
            desired,
            active,
            settled,
            answered,
            down: None,
        };
        let go = |failed| Verdict::Go { failed };
        use Desired::{Active as Wanted, Inactive as Not, Loaded};
        for (status, expected) in [
            (of(Not, Active::Active, false, true), go(false)),
            (of(Loaded, Active::Inactive, true, true), go(false)),
            (of(Wanted, Active::Active, false, true), go(false)),
            (of(Wanted, Active::Active, false, false), Verdict::Wait),
            (of(Wanted, Active::Activating, false, true), Verdict::Wait),
            (of(Wanted, Active::Failed, false, true), Verdict::Wait),
            (of(Wanted, Active::Failed, true, true), go(true)),
            (of(Wanted, Active::Failed, true, false), Verdict::Wait),
            (of(Wanted, Active::Inactive, true, true), go(false)),
        ] {
            assert_eq!(verdict(Some(&status)), expected, "{status:?}");
        }
        assert_eq!(verdict(None), go(false));
    }

    #[test]
    fn whose_end_a_unit_waits_for() {
        let of = |desired, down| StatusRecord {
            version: VERSION,
            desired,
            active: Active::Active,
            settled: false,
            answered: true,
            down,
        };
        let go = Verdict::Go { failed: false };
        for (desired, down, expected) in [
            (Desired::Inactive, Some(false), Verdict::Wait),
            (Desired::Loaded, Some(false), Verdict::Wait),
            (Desired::Inactive, Some(true), go),
            (Desired::Active, Some(false), go),
            (Desired::Inactive, None, go),
        ] {
            assert_eq!(end(Some(&of(desired, down))), expected);
        }
        assert_eq!(end(None), go);
    }
}
