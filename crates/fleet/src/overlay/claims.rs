//! Which machine has which subnet: `subnets/<machine>`, and what a machine claims. Pure.

use crate::model::{VERSION, keys};
use coracle_network::NetworkError;
use coracle_network::overlay::{OverlayKind, choose_subnet};
use coracle_store::{KeyValue, Revision};
use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

/// Fewer bits than these would be taken from everything else on a machine, so nobody's claim may have so few.
const FEWEST_BITS: u8 = 16;

/// The subnet of a machine's default network: `subnets/<machine>`. Only the machine itself writes it, and it stays when the machine
/// is away.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SubnetRecord {
    /// [`VERSION`].
    pub version: u32,
    /// The subnet.
    pub subnet: Ipv4Net,
    /// The address that the machine is reached at by other machines.
    pub underlay: Ipv4Addr,
    /// The largest packet of its link to other machines in bytes; none of a release that did not say, or while the link is not there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
    /// How it is reached; none of a kind that this release does not know.
    #[serde(flatten)]
    pub kind: Option<OverlayKind>,
}

/// A record, and the revision that it was written at: who wrote first has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Claim {
    pub record: SubnetRecord,
    pub revision: Revision,
}

/// By machine.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Claims(BTreeMap<String, Claim>);

/// What a machine's claim is made of.
#[derive(Debug, Clone)]
pub(super) struct Place<'a> {
    /// The machine's id.
    pub own: &'a str,
    /// The subnet that its default network has now.
    pub present: Ipv4Net,
    /// What else is in use there.
    pub local: &'a [Ipv4Net],
    /// The address that it is reached at.
    pub underlay: Ipv4Addr,
    /// The largest packet of the link that has it.
    pub mtu: Option<u32>,
    /// Where machines' subnets are taken from.
    pub pool: Ipv4Net,
}

pub(super) fn overlap(a: Ipv4Net, b: Ipv4Net) -> bool {
    a.contains(&b) || b.contains(&a)
}

/// What follows `prefix` in a key.
pub(super) fn rest(kv: &KeyValue, prefix: &str) -> Option<String> {
    let key = std::str::from_utf8(&kv.key).ok()?;
    key.strip_prefix(prefix).map(str::to_owned)
}

impl Claims {
    /// Of all keys below `subnets/`.
    pub fn read(kvs: &[KeyValue]) -> Self {
        let mut claims = Self::default();
        for kv in kvs {
            if let Some(machine) = rest(kv, keys::SUBNETS) {
                claims.put(machine, kv);
            }
        }
        claims
    }

    /// What a machine says; nothing if that cannot be read or had.
    pub fn put(&mut self, machine: String, kv: &KeyValue) {
        let read = serde_json::from_slice::<SubnetRecord>(&kv.value);
        let record = match read {
            Ok(mut record) if record.subnet.prefix_len() >= FEWEST_BITS => {
                record.subnet = record.subnet.trunc();
                record
            }
            Ok(record) => {
                tracing::warn!(machine, subnet = %record.subnet, "a machine claims more than one may have, and is passed over");
                self.remove(&machine);
                return;
            }
            Err(error) => {
                tracing::warn!(machine, %error, "the subnet of a machine cannot be read");
                self.remove(&machine);
                return;
            }
        };
        let revision = kv.mod_revision;
        self.0.insert(machine, Claim { record, revision });
    }

    pub fn remove(&mut self, machine: &str) {
        self.0.remove(machine);
    }

    pub fn get(&self, machine: &str) -> Option<&SubnetRecord> {
        self.0.get(machine).map(|claim| &claim.record)
    }

    /// All, who wrote first at the head.
    pub fn in_order(&self) -> Vec<(&str, &SubnetRecord)> {
        let mut all: Vec<_> = self.0.iter().collect();
        all.sort_by_key(|(machine, claim)| (claim.revision, *machine));
        let all = all.into_iter();
        all.map(|(machine, claim)| (machine.as_str(), &claim.record))
            .collect()
    }

    /// The machine that has a part of a machine's subnet and wrote that first. Only an older state of the store that was brought
    /// back makes such.
    pub fn before(&self, machine: &str) -> Option<&str> {
        let own = self.get(machine)?;
        let all = self.in_order().into_iter();
        let mut earlier = all.take_while(|(other, _)| *other != machine);
        earlier
            .find(|(_, other)| overlap(other.subnet, own.subnet))
            .map(|(other, _)| other)
    }

    /// Who has a part of a subnet, `but` for one machine.
    pub fn holder(&self, subnet: Ipv4Net, but: &str) -> Option<&str> {
        let mut others = self.in_order().into_iter();
        others
            .find(|(machine, record)| *machine != but && overlap(record.subnet, subnet))
            .map(|(machine, _)| machine)
    }

    /// What this machine is to claim: what it has claimed, else what its default network has, else a free part of the pool.
    ///
    /// # Errors
    /// [`NetworkError::NoMachineSubnet`] if there is none.
    pub fn choose(&self, place: &Place<'_>) -> Result<SubnetRecord, NetworkError> {
        let in_use = |net: Ipv4Net| place.local.iter().any(|other| overlap(*other, net));
        let claimed = self.get(place.own).map(|record| record.subnet);
        let claimed = claimed
            .filter(|_| self.before(place.own).is_none())
            .filter(|net| *net == place.present || !in_use(*net));
        let underlays = self.0.values().map(|claim| claim.record.underlay);
        let underlays = underlays.chain([place.underlay]).map(Ipv4Net::from);
        let present = Some(place.present).filter(|net| {
            net.prefix_len() >= FEWEST_BITS && !underlays.clone().any(|ip| net.contains(&ip))
        });
        let others = self.0.iter().filter(|(machine, _)| *machine != place.own);
        let mut taken: Vec<_> = others.map(|(_, claim)| claim.record.subnet).collect();
        let kept = claimed.or(present.filter(|net| !taken.iter().any(|t| overlap(*t, *net))));
        let subnet = match kept {
            Some(subnet) => subnet,
            None => {
                taken.extend(place.local.iter().copied().chain(underlays));
                choose_subnet(place.pool, &taken, None)?
            }
        };
        Ok(SubnetRecord {
            version: VERSION,
            subnet,
            underlay: place.underlay,
            mtu: place.mtu,
            kind: Some(OverlayKind::default()),
        })
    }

    /// The machine that this one is to wait for before it claims its first subnet: one that was there before and has not said what
    /// it has. The first machine of a cluster has containers running, with addresses that they keep.
    ///
    /// `machines` are ids, each with the revision at which it came to the cluster.
    pub fn awaited<'a>(
        &self,
        own: &str,
        machines: &'a [(String, Revision)],
        alive: &BTreeSet<String>,
    ) -> Option<&'a str> {
        if self.0.contains_key(own) {
            return None;
        }
        let mine = machines.iter().find(|(machine, _)| machine == own);
        // Not written down yet is last.
        let mine = mine.map_or(Revision::MAX, |(_, since)| *since);
        let silent = |machine: &str| alive.contains(machine) && !self.0.contains_key(machine);
        let mut before = machines
            .iter()
            .filter(|(machine, since)| machine != own && *since < mine);
        before
            .find(|(machine, _)| silent(machine))
            .map(|(machine, _)| machine.as_str())
    }
}

#[cfg(test)]
pub(super) mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    pub fn net(text: &str) -> Ipv4Net {
        text.parse().unwrap()
    }

    pub fn claims(all: &[(&str, &str, &str)]) -> Claims {
        let mut claims = Claims::default();
        for (revision, (machine, subnet, underlay)) in (1..).zip(all) {
            let record = SubnetRecord {
                version: VERSION,
                subnet: net(subnet),
                underlay: underlay.parse().unwrap(),
                mtu: None,
                kind: Some(OverlayKind::default()),
            };
            let kv = KeyValue {
                value: serde_json::to_vec(&record).unwrap().into(),
                mod_revision: revision,
                ..KeyValue::default()
            };
            claims.put((*machine).to_owned(), &kv);
        }
        claims
    }

    impl Claims {
        pub fn set_mtu(&mut self, machine: &str, mtu: u32) {
            self.0.get_mut(machine).unwrap().record.mtu = Some(mtu);
        }
    }

    fn chosen(claims: &Claims, own: &str, present: &str, local: &[&str]) -> String {
        let local: Vec<_> = local.iter().map(|l| net(l)).collect();
        let place = Place {
            own,
            present: net(present),
            local: &local,
            underlay: "192.0.2.9".parse().unwrap(),
            mtu: None,
            pool: net("10.212.0.0/14"),
        };
        claims.choose(&place).unwrap().subnet.to_string()
    }

    const DEFAULT: &str = "10.210.0.0/22";

    #[test]
    fn the_first_keeps_what_it_has_and_others_take_from_the_pool() {
        let none = claims(&[]);
        assert_eq!(chosen(&none, "a", DEFAULT, &[]), DEFAULT);
        let a = claims(&[("a", DEFAULT, "192.0.2.1")]);
        assert_eq!(chosen(&a, "b", DEFAULT, &[]), "10.212.0.0/22");
        // What the machine needs for itself is not taken, but what it has is kept.
        assert_eq!(
            chosen(&a, "b", DEFAULT, &["10.212.0.0/16"]),
            "10.213.0.0/22"
        );
        assert_eq!(
            chosen(&a, "b", "10.5.0.0/22", &["10.0.0.0/8"]),
            "10.5.0.0/22"
        );
        // A subnet with a machine in it would carry the overlay into itself.
        assert_eq!(chosen(&a, "b", "192.0.2.0/24", &[]), "10.212.0.0/22");
        let near = claims(&[("a", DEFAULT, "10.212.1.1")]);
        assert_eq!(chosen(&near, "b", DEFAULT, &[]), "10.212.4.0/22");
        assert_eq!(chosen(&none, "a", "10.0.0.0/8", &[]), "10.212.0.0/22");
    }

    #[test]
    fn what_was_claimed_is_kept() {
        let both = claims(&[
            ("a", DEFAULT, "192.0.2.1"),
            ("b", "10.212.4.0/22", "192.0.2.2"),
        ]);
        assert_eq!(chosen(&both, "b", DEFAULT, &[]), "10.212.4.0/22");
        assert_eq!(chosen(&both, "b", "10.5.0.0/22", &[]), "10.212.4.0/22");
        // Something else of this machine has it now.
        let local = &["10.212.4.0/24"];
        assert_eq!(chosen(&both, "b", "10.5.0.0/22", local), "10.5.0.0/22");
        assert_eq!(chosen(&both, "b", "10.212.4.0/22", local), "10.212.4.0/22");
    }

    #[test]
    fn who_wrote_last_gives_way() {
        let same = claims(&[
            ("b", "10.212.0.0/22", "192.0.2.2"),
            ("a", "10.212.0.0/22", "192.0.2.1"),
        ]);
        assert_eq!(same.before("b"), None);
        assert_eq!(same.before("a"), Some("b"));
        assert_eq!(same.holder(net("10.212.1.0/24"), "a"), Some("b"));
        assert_eq!(chosen(&same, "a", "10.212.0.0/22", &[]), "10.212.4.0/22");
        assert_eq!(chosen(&same, "b", "10.212.0.0/22", &[]), "10.212.0.0/22");
    }

    #[test]
    fn who_was_there_before_claims_first() {
        let machines = [("a".to_owned(), 3), ("b".to_owned(), 9)];
        let alive = |all: &[&str]| all.iter().map(|m| (*m).to_owned()).collect();
        let none = claims(&[]);
        let both = alive(&["a", "b"]);
        assert_eq!(none.awaited("a", &machines, &both), None);
        assert_eq!(none.awaited("b", &machines, &both), Some("a"));
        assert_eq!(none.awaited("c", &machines, &both), Some("a"));
        assert_eq!(
            none.awaited("b", &machines, &alive(&["b"])),
            None,
            "it is lost"
        );
        let a = claims(&[("a", DEFAULT, "192.0.2.1")]);
        assert_eq!(a.awaited("b", &machines, &both), None);
        let b = claims(&[("b", DEFAULT, "192.0.2.1")]);
        assert_eq!(b.awaited("b", &machines, &both), None);
    }

    /// What is in the store is read by the next release, and this one reads the next one's.
    #[test]
    fn a_record_as_it_is_stored() {
        let text = r#"{"version":1,"subnet":"10.212.0.0/22","underlay":"192.0.2.2","kind":"vxlan","vni":7373,"port":7373}"#;
        let record: SubnetRecord = serde_json::from_str(text).unwrap();
        assert_eq!(record.kind, Some(OverlayKind::default()));
        assert_eq!(serde_json::to_string(&record).unwrap(), text);
        let later = r#"{"version":1,"subnet":"10.212.0.0/22","underlay":"192.0.2.2","kind":"wireguard","key":"x"}"#;
        let record: SubnetRecord = serde_json::from_str(later).unwrap();
        assert_eq!((record.kind, record.subnet), (None, net("10.212.0.0/22")));
        let sized = text.replace("\"kind\"", "\"mtu\":1500,\"kind\"");
        let record: SubnetRecord = serde_json::from_str(&sized).unwrap();
        assert_eq!(serde_json::to_string(&record).unwrap(), sized);
        let mut all = claims(&[]);
        let kv = |value: &str| KeyValue {
            value: value.to_owned().into(),
            ..KeyValue::default()
        };
        all.put("b".into(), &kv(text));
        assert!(all.get("b").is_some());
        all.put("b".into(), &kv(&text.replace("10.212.0.0/22", "0.0.0.0/1")));
        assert!(all.get("b").is_none());
        all.put("b".into(), &kv("?"));
        assert!(all.get("b").is_none());
    }
}
