//! Healthy instances at `/discovery/<service>/<instance>`, where apps may read and watch them.
//!
//! What should stand there is computed anew whenever names change, and what differs from what was written is written, under
//! the machine's lease: what a machine that is gone has announced goes with it.
//!
//! Two machines may announce one key for a while: a unit moves from `a` to `b`, or `a` was cut off and comes back. Whoever writes last
//! is found; `a` takes away only what it has written itself, and when it does so `b` sees that the key has gone and writes it again.
//! A global unit has an instance of one name on each machine, so its keys bear the machines' ids: `web/web.4f3a9c01d2e3`.

use crate::fleet::{Fleet, Inner};
use crate::model::{VERSION, keys};
use crate::translate::UNIT_LABEL;
use coracle_engine::{Engine, Instance};
use coracle_store::{
    Compare, CompareResult, CompareTarget, DeleteRangeRequest, PutRequest, RangeRequest, Store,
    StoreError, StoreExt as _, TxnOp, TxnRequest, WatchRequest, WatchStream,
};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Weak;
use std::time::Duration;
use tokio::sync::watch;

/// Changes of one transaction.
const AT_ONCE: usize = 100;
/// How long a store that refused is left alone.
const REST: Duration = Duration::from_secs(1);

/// The value of an instance's key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Announced {
    /// [`VERSION`].
    pub version: u32,
    /// Its address on the first of its networks.
    pub address: Option<Ipv4Addr>,
    /// Its IPv6 address there.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub address6: Option<Ipv6Addr>,
    /// Its addresses by network.
    pub networks: BTreeMap<String, Ipv4Addr>,
    /// Ports that it says to listen on: `80/tcp`.
    pub ports: Vec<String>,
    /// The unit, if it is one's.
    pub unit: Option<String>,
    /// The machine's id.
    pub machine: String,
    /// The container's id.
    pub container: String,
    /// `healthy` by its check, `running` where it has none.
    pub health: String,
}

impl Announced {
    fn of(instance: &Instance, machine: &str) -> Self {
        let first = instance.endpoints.first();
        let network = |e: &coracle_network::Endpoint| (e.network_name.clone(), e.ip);
        Self {
            version: VERSION,
            address: first.map(|e| e.ip),
            address6: first.and_then(|e| e.v6.as_ref().map(|v6| v6.ip)),
            networks: instance.endpoints.iter().map(network).collect(),
            ports: instance.ports.clone(),
            unit: instance.labels.get(UNIT_LABEL).cloned(),
            machine: machine.to_owned(),
            container: instance.container.clone(),
            health: if instance.tested {
                "healthy"
            } else {
                "running"
            }
            .to_owned(),
        }
    }
}

/// Key to value and lease.
type Standing = BTreeMap<String, (Vec<u8>, i64)>;

impl Fleet {
    /// Announces for as long as there is a fleet. `lease` is the machine's, 0 while it has none.
    pub(crate) fn announce(&self, mut lease: watch::Receiver<i64>) {
        let (weak, mut names) = (std::sync::Arc::downgrade(&self.0), self.engine().names());
        tokio::spawn(async move {
            let (mut standing, mut goings) = (None, None);
            loop {
                names.mark_unchanged();
                let under = *lease.borrow_and_update();
                match turn(&weak, &mut standing, under).await {
                    Some(Ok(())) => {
                        tokio::select! {
                            changed = names.changed() => if changed.is_err() { return },
                            changed = lease.changed() => if changed.is_err() { return },
                            gone = gone(&weak, &mut goings, standing.as_ref()) => {
                                if let Some(standing) = &mut standing {
                                    gone.iter().for_each(|key| drop(standing.remove(key)));
                                }
                            }
                        }
                    }
                    Some(Err(error)) => {
                        tracing::warn!(
                            error = coracle_engine::full_error(&error),
                            "services could not be announced; it is tried again"
                        );
                        tokio::time::sleep(REST).await;
                    }
                    None => return,
                }
            }
        });
    }
}

/// Waits until keys that stand are taken away by others than this machine, and tells which. `goings` is kept from one call to
/// the next; it may be dropped while it waits.
async fn gone(
    weak: &Weak<Inner>,
    goings: &mut Option<WatchStream>,
    standing: Option<&Standing>,
) -> Vec<String> {
    let store = match weak.upgrade() {
        Some(inner) if !inner.alone() => inner.cluster.clone(),
        // Nobody else writes here.
        _ => return std::future::pending().await,
    };
    let stands = |key: &String| standing.is_some_and(|s| s.contains_key(key));
    loop {
        if goings.is_none() {
            match watch_goings(&*store, standing).await {
                Ok((watch, gone)) => {
                    *goings = Some(watch);
                    if !gone.is_empty() {
                        return gone;
                    }
                }
                Err(error) => {
                    tracing::debug!(%error, "announced services are not followed; it is tried again");
                    tokio::time::sleep(REST).await;
                    continue;
                }
            }
        }
        let answer = match goings {
            Some(watch) => watch.next().await,
            None => continue,
        };
        let Some(Ok(answer)) = answer.filter(|a| a.as_ref().is_ok_and(|a| !a.canceled)) else {
            *goings = None;
            tokio::time::sleep(REST).await;
            continue;
        };
        let keys = answer
            .events
            .iter()
            .map(|e| String::from_utf8_lossy(&e.kv.key).into_owned());
        let gone: Vec<String> = keys.filter(stands).collect();
        if !gone.is_empty() {
            return gone;
        }
    }
}

/// A watch of what is taken away from now on, and which of `standing` is not there already.
async fn watch_goings(
    store: &dyn Store,
    standing: Option<&Standing>,
) -> Result<(WatchStream, Vec<String>), StoreError> {
    let mut listing = RangeRequest::prefix(keys::DISCOVERY);
    listing.keys_only = true;
    let found = store.range(listing).await?;
    let there: BTreeSet<_> = found.kvs.iter().map(|kv| &kv.key[..]).collect();
    let all = standing.into_iter().flat_map(BTreeMap::keys);
    let gone = all.filter(|key| !there.contains(key.as_bytes())).cloned();
    let request = WatchRequest {
        no_put: true,
        ..WatchRequest::prefix(keys::DISCOVERY).from(found.revision + 1)
    };
    Ok((store.watch(request).await?, gone.collect()))
}

/// Writes what differs; None when the fleet is gone.
async fn turn(
    weak: &Weak<Inner>,
    standing: &mut Option<Standing>,
    lease: i64,
) -> Option<Result<(), StoreError>> {
    let inner = weak.upgrade()?;
    let (store, machine) = (&*inner.cluster, inner.machine.id.as_str());
    if lease == 0 {
        return Some(Ok(()));
    }
    let mut known = match standing.take() {
        Some(known) => known,
        None => match left(store, machine).await {
            Ok(known) => known,
            Err(error) => return Some(Err(error)),
        },
    };
    let fleet = Fleet(inner.clone());
    let global = |unit: &String| {
        fleet
            .supervised(unit)
            .is_some_and(|s| s.unit().fleet.global)
    };
    let wanted = wanted(inner.engine(), machine, lease, &global);
    let result = change(store, &mut known, &wanted).await;
    *standing = Some(known);
    Some(result)
}

/// What this machine's former daemon announced.
async fn left(store: &dyn Store, machine: &str) -> Result<Standing, StoreError> {
    let found = store.list(keys::DISCOVERY).await?;
    let ours = found.kvs.into_iter().filter(|kv| {
        serde_json::from_slice::<Announced>(&kv.value).is_ok_and(|a| a.machine == machine)
    });
    let entry = |kv: coracle_store::KeyValue| {
        let key = String::from_utf8_lossy(&kv.key).into_owned();
        (key, (kv.value.to_vec(), kv.lease))
    };
    Ok(ours.map(entry).collect())
}

/// What follows the name in the key of a global unit's instance.
pub(crate) fn suffix(machine: &str) -> String {
    format!(".{}", machine.get(..12).unwrap_or(machine))
}

fn wanted(
    engine: &Engine,
    machine: &str,
    lease: i64,
    global: &dyn Fn(&String) -> bool,
) -> Standing {
    let entry = |instance: Instance| {
        let everywhere = instance.labels.get(UNIT_LABEL).is_some_and(global);
        let suffix = if everywhere {
            suffix(machine)
        } else {
            String::new()
        };
        let key = keys::instance(&instance.service, &format!("{}{suffix}", instance.name));
        // Strings, numbers and addresses: there is nothing in it that is no JSON.
        let value = serde_json::to_vec(&Announced::of(&instance, machine)).ok()?;
        Some((key, (value, lease)))
    };
    engine.instances().into_iter().filter_map(entry).collect()
}

/// The steps from what stands to what is wanted. Pure.
fn steps(standing: &Standing, wanted: &Standing) -> Vec<(String, TxnOp)> {
    let gone = standing.keys().filter(|key| !wanted.contains_key(*key));
    let gone = gone.map(|key| {
        let delete = DeleteRangeRequest::key(key.clone());
        (key.clone(), TxnOp::Delete(delete))
    });
    let new = wanted
        .iter()
        .filter(|(key, entry)| standing.get(*key) != Some(entry));
    let new = new.map(|(key, (value, lease))| {
        let put = PutRequest::new(key.clone(), value.clone()).with_lease(*lease);
        (key.clone(), TxnOp::Put(put))
    });
    gone.chain(new).collect()
}

async fn change(
    store: &dyn Store,
    standing: &mut Standing,
    wanted: &Standing,
) -> Result<(), StoreError> {
    let (puts, deletes): (Vec<_>, Vec<_>) = steps(standing, wanted)
        .into_iter()
        .partition(|(_, step)| matches!(step, TxnOp::Put(_)));
    for (key, delete) in deletes {
        let value = standing.get(&key).map(|(value, _)| value.clone());
        let ours = CompareTarget::Value(value.unwrap_or_default().into());
        let txn = TxnRequest {
            compare: vec![Compare::new(key.clone(), CompareResult::Equal, ours)],
            success: vec![delete],
            failure: vec![],
        };
        store.txn(txn).await?;
        standing.remove(&key);
    }
    for some in puts.chunks(AT_ONCE) {
        let txn = TxnRequest {
            success: some.iter().map(|(_, step)| step.clone()).collect(),
            ..TxnRequest::default()
        };
        store.txn(txn).await?;
        for (key, _) in some {
            if let Some(entry) = wanted.get(key) {
                standing.insert(key.clone(), entry.clone());
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_differs_is_written() {
        let entry = |key: &str, value: &str, lease| (key.to_owned(), (value.into(), lease));
        let standing: Standing = [
            entry("a", "1", 7),
            entry("b", "1", 7),
            entry("c", "1", 7),
            entry("d", "1", 6),
        ]
        .into();
        let wanted = [
            entry("b", "1", 7),
            entry("c", "2", 7),
            entry("d", "1", 7),
            entry("e", "1", 7),
        ];
        let steps = steps(&standing, &wanted.into());
        let kinds = steps.iter().map(|(key, step)| match step {
            TxnOp::Delete(_) => format!("-{key}"),
            _ => format!("+{key}"),
        });
        assert_eq!(kinds.collect::<Vec<_>>(), ["-a", "+c", "+d", "+e"]);
    }
}
