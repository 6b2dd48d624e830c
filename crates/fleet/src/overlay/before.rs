//! Who claims first, as the store says.

use super::claims::{Claims, rest};
use crate::fleet::Fleet;
use crate::model::keys;
use coracle_store::{RangeRequest, StoreError};

/// The machine whose claim is to come before this one's.
pub(super) async fn awaited(fleet: &Fleet, claims: &Claims) -> Result<Option<String>, StoreError> {
    let (store, own) = (&fleet.0.cluster, fleet.0.machine.id.as_str());
    if claims.get(own).is_some() {
        return Ok(None);
    }
    let only_keys = |prefix: &str| RangeRequest {
        keys_only: true,
        ..RangeRequest::prefix(prefix.to_owned())
    };
    let alive = store.range(only_keys(keys::ALIVE)).await?.kvs;
    let alive = alive.iter().filter_map(|kv| rest(kv, keys::ALIVE));
    let machines = store.range(only_keys(keys::MACHINES)).await?.kvs;
    let machines = machines
        .iter()
        .filter_map(|kv| Some((rest(kv, keys::MACHINES)?, kv.create_revision)));
    let machines: Vec<_> = machines.collect();
    let other = claims.awaited(own, &machines, &alive.collect());
    Ok(other.map(str::to_owned))
}
