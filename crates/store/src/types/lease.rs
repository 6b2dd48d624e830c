//! Leases: their names and what is answered of them.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher as _, Hasher as _};

use bytes::Bytes;

use super::{LeaseId, Revision};

/// Set in the ids of leases that the machines grant themselves; apps do not get such ids.
pub const OWN_LEASE: LeaseId = 1 << 62;

/// An id for a lease of a machine's own, at random.
pub fn own_lease() -> LeaseId {
    // The standard library's source of randomness; the name need not be secret.
    let drawn = RandomState::new().build_hasher().finish();
    (drawn & (OWN_LEASE as u64 - 1)) as i64 | OWN_LEASE
}

/// The bits of a machine's lease that tell whose it is.
const WHOSE: LeaseId = ((1 << 40) - 1) << 22;

/// Those bits for a machine: FNV-1a of its id. Two machines with the same ones are no more than unlikely, so that they tell
/// leases apart and prove nothing.
fn whose(machine: &str) -> LeaseId {
    let hash = machine
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
    (hash as LeaseId) & WHOSE
}

/// An id for a lease of that machine's, at random: [`is_lease_of`] knows it again.
pub fn machine_lease(machine: &str) -> LeaseId {
    own_lease() & !WHOSE | whose(machine)
}

/// Whether a lease was made with [`machine_lease`] for that machine.
pub fn is_lease_of(machine: &str, id: LeaseId) -> bool {
    is_own_lease(id) && id & WHOSE == whose(machine)
}

/// Whether a lease is a machine's own.
pub fn is_own_lease(id: LeaseId) -> bool {
    id > 0 && id & OWN_LEASE != 0
}

/// A lease as granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseGrantResponse {
    /// The store's revision.
    pub revision: Revision,
    /// The lease's name.
    pub id: LeaseId,
    /// The time to live granted, in seconds; may be more than asked for.
    pub ttl: i64,
}

/// The store's revision after a lease went and its keys with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseRevokeResponse {
    /// The store's revision.
    pub revision: Revision,
}

/// A lease that has its full time again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseKeepAliveResponse {
    /// The store's revision.
    pub revision: Revision,
    /// The full time, in seconds.
    pub ttl: i64,
}

/// The leases alive.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LeasesResponse {
    /// The store's revision.
    pub revision: Revision,
    /// Their names, the one that runs out first at the head.
    pub ids: Vec<LeaseId>,
}

/// How long a lease still lives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseTimeToLiveResponse {
    /// The store's revision.
    pub revision: Revision,
    /// The lease.
    pub id: LeaseId,
    /// Seconds left, rounded up.
    pub ttl: i64,
    /// Seconds granted.
    pub granted_ttl: i64,
    /// Its keys in order, where asked for.
    pub keys: Vec<Bytes>,
}
