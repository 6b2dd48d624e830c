//! What a cluster's machines agree on: the range that their subnets come from, said once by the machine that began the cluster, and
//! the largest packet, which is that of the smallest of their links.

use super::claims::Claims;
use crate::model::{VERSION, keys};
use coracle_network::overlay::{DEFAULT_POOL, MACHINE_PREFIX};
use coracle_store::{PutRequest, Store, StoreError, StoreExt as _};
use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// A range with fewer bits is more than all private ranges.
const WIDEST: u8 = 8;

/// What is said of the network between machines when a cluster begins: the key `network`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkRecord {
    /// [`VERSION`].
    pub version: u32,
    /// Where machines' subnets are taken from.
    pub overlay_pool: Ipv4Net,
}

/// A range that machines' subnets can be taken from, out of a configuration.
///
/// # Errors
/// What is wrong with it, and what would be right.
pub fn read_pool(text: &str) -> Result<Ipv4Net, String> {
    let two = MACHINE_PREFIX - 1;
    let pool = text.parse::<Ipv4Net>().map(|net| net.trunc());
    match pool {
        Ok(pool) if (WIDEST..=two).contains(&pool.prefix_len()) => Ok(pool),
        Ok(pool) if pool.prefix_len() > two => Err(format!(
            "{pool} has no room for two machines, which take a /{MACHINE_PREFIX} each; write for example {DEFAULT_POOL}, which has room for 256"
        )),
        _ => Err(format!(
            "it is no range of IPv4 addresses of /{WIDEST} to /{two}; write for example {DEFAULT_POOL}"
        )),
    }
}

/// Where machines' subnets are taken from, as a store says. Where a cluster's says nothing it is [`DEFAULT_POOL`].
///
/// # Errors
/// When the store fails, or what it says cannot be read.
pub async fn agreed_pool(store: &dyn Store) -> Result<Option<Ipv4Net>, StoreError> {
    let record: Option<(NetworkRecord, _)> = store.get_json(keys::NETWORK).await?;
    Ok(record.map(|(record, _)| record.overlay_pool))
}

/// Says where machines' subnets are taken from, unless that has been said.
///
/// # Errors
/// When the store fails.
pub async fn agree_on_pool(store: &dyn Store, pool: Option<Ipv4Net>) -> Result<(), StoreError> {
    let put = PutRequest::new(keys::NETWORK, value(pool.unwrap_or(DEFAULT_POOL))?);
    store.create(put).await.map(drop)
}

fn value(overlay_pool: Ipv4Net) -> Result<Vec<u8>, StoreError> {
    let record = NetworkRecord {
        version: VERSION,
        overlay_pool,
    };
    serde_json::to_vec(&record).map_err(|source| StoreError::Json {
        key: keys::NETWORK.to_owned(),
        source: Arc::new(source),
    })
}

/// What the cluster's store says, and kept in this machine's own so that a daemon that starts without the cluster's knows it.
pub(super) async fn learn_pool(
    cluster: &dyn Store,
    own: &dyn Store,
) -> Result<Ipv4Net, StoreError> {
    let agreed = agreed_pool(cluster).await?.unwrap_or(DEFAULT_POOL);
    if agreed_pool(own).await? != Some(agreed) {
        let put = PutRequest::new(keys::NETWORK, value(agreed)?);
        own.put(put).await?;
    }
    Ok(agreed)
}

/// The largest packet between machines in bytes: what the smallest of their links carries. Machines that are away count, so
/// that it does not change with their comings and goings.
pub(super) fn mtu(claims: &Claims) -> Option<u32> {
    let all = claims.in_order().into_iter();
    all.filter_map(|(_, record)| record.mtu).min()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn ranges_that_can_be_had() {
        assert_eq!(read_pool("10.212.0.0/14").unwrap(), DEFAULT_POOL);
        assert_eq!(
            read_pool("172.16.5.5/20").unwrap().to_string(),
            "172.16.0.0/20"
        );
        for (text, words) in [
            ("10.0.0.0/22", "no room for two machines"),
            ("10.0.0.0/4", "/8 to /21"),
            ("fd00::/16", "for example 10.212.0.0/14"),
            ("many", "for example 10.212.0.0/14"),
        ] {
            let refused = read_pool(text).unwrap_err();
            assert!(refused.contains(words), "{text}: {refused}");
        }
    }

    #[test]
    fn the_smallest_link_counts() {
        let mut all = super::super::claims::tests::claims(&[
            ("a", "10.210.0.0/22", "192.0.2.1"),
            ("b", "10.212.0.0/22", "192.0.2.2"),
        ]);
        assert_eq!(mtu(&all), None);
        for (machine, mtu) in [("a", 9000), ("b", 1500)] {
            all.set_mtu(machine, mtu);
        }
        assert_eq!(mtu(&all), Some(1500));
    }
}
