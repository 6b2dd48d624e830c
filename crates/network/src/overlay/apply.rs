//! The overlay of a machine: set, kept on the disk, looked after and removed.

use std::collections::BTreeSet;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::BorrowedFd;

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

use super::plan::{self, Entry, Step};
use super::{LINK, OverlayKind, OverlaySpec, OverlayStatus, Peer, PeerStatus, Rules, kernel};
use crate::error::NetworkError;
use crate::link;
use crate::model::{Driver, Endpoint, Network};
use crate::networks::{Inner, Networks, sysctl};
use crate::options;
use crate::stored;

const VERSION: u64 = 1;
/// Bytes of the largest packet of a link that nobody has said anything of.
const USUAL_MTU: u32 = 1500;
/// Every host takes packets of so many bytes (RFC 791).
const LEAST_MTU: u32 = 576;

#[derive(Serialize, Deserialize)]
struct Stored {
    version: u64,
    #[serde(flatten)]
    spec: OverlaySpec,
}

/// The overlay as it was set last, and what has become of it.
pub(crate) struct Overlay {
    pub(crate) spec: OverlaySpec,
    /// The peers that can be had.
    peers: Vec<Peer>,
    /// Why the others cannot.
    problems: Vec<String>,
    /// What the kernel refused.
    refused: Vec<String>,
    /// Largest packet of containers in bytes, once it is known.
    pub(crate) mtu: Option<u32>,
}

impl Overlay {
    fn new(spec: OverlaySpec) -> Self {
        Self {
            spec,
            peers: Vec::new(),
            problems: Vec::new(),
            refused: Vec::new(),
            mtu: None,
        }
    }
}

impl Networks {
    /// Makes the network between machines what `spec` says; none removes it. Does nothing that is done already, so it may be
    /// called as often as members come and go. It is kept on the disk, and stands again after [`Networks::open`].
    ///
    /// Containers that run already keep their size of packets until [`Self::fit`]; new ones have the right one.
    ///
    /// Peers that cannot be had beside this machine's own networks, or beside others, are left out and named by
    /// [`Self::overlay`]; the rest stands.
    ///
    /// # Errors
    /// [`NetworkError::OverlaySubnet`] if the default network has another subnet, see [`Self::renumber_default`];
    /// [`NetworkError::BadOverlay`] for numbers that vxlan does not have. Both change nothing. [`NetworkError::NoUnderlay`] if no link
    /// has the machine's address, and others when the kernel or the firewall refuses: what was asked for stays, and
    /// [`Self::ensure_overlay`] tries again.
    pub fn set_overlay(&self, spec: Option<OverlaySpec>) -> Result<(), NetworkError> {
        let mut inner = self.lock();
        let path = inner.overlay_file();
        let Some(mut spec) = spec else {
            match std::fs::remove_file(&path) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => {
                    return Err(NetworkError::State { path, source: e });
                }
                _ => {}
            }
            return inner.overlay_clear();
        };
        spec.subnet = spec.subnet.trunc();
        inner.overlay_fits(&spec)?;
        if inner.overlay.as_ref().is_none_or(|o| o.spec != spec) {
            inner.durable(
                &path,
                &Stored {
                    version: VERSION,
                    spec: spec.clone(),
                },
            )?;
        }
        let new = Overlay {
            mtu: inner.overlay.as_ref().and_then(|o| o.mtu),
            ..Overlay::new(spec)
        };
        inner.overlay = Some(new);
        inner.overlay_settle().map(drop)
    }

    /// Repairs what something else has removed or changed of the network between machines; true if that was needed. The size of packets
    /// follows the machine's link. Does nothing after [`Self::teardown`].
    ///
    /// # Errors
    /// As [`Self::set_overlay`].
    pub fn ensure_overlay(&self) -> Result<bool, NetworkError> {
        let hooked = self.hooked();
        let mut inner = self.lock();
        if !*hooked || inner.overlay.is_none() {
            return Ok(false);
        }
        inner.overlay_settle()
    }

    /// The network between machines as it is now; none if this machine has none.
    ///
    /// # Errors
    /// When the kernel does not say what it has.
    pub fn overlay(&self) -> Result<Option<OverlayStatus>, NetworkError> {
        let mut guard = self.lock();
        let inner = &mut *guard;
        let Some(overlay) = &inner.overlay else {
            return Ok(None);
        };
        let link = kernel::found(&mut inner.netlink)?;
        let present = kernel::present(&mut inner.netlink, link.map(|l| l.0))?;
        let routed = |peer: &Peer| {
            present
                .iter()
                .any(|e| matches!(e, Entry::Route { subnet, .. } if *subnet == peer.subnet.trunc()))
                && overlay.peers.iter().any(|p| p.machine == peer.machine)
        };
        let status = |peer: &Peer| PeerStatus {
            peer: peer.clone(),
            routed: routed(peer),
        };
        let spec = &overlay.spec;
        let problems = overlay.problems.iter().chain(&overlay.refused);
        Ok(Some(OverlayStatus {
            kind: spec.kind,
            link: LINK,
            own: spec.own,
            subnet: spec.subnet,
            mtu: link.and_then(|l| l.1),
            peers: spec.peers.iter().map(status).collect(),
            problems: problems.cloned().collect(),
            caution: spec.kind.caution(),
        }))
    }

    /// Gives a running container, whose namespace is `netns`, packets of the size that its network has now. Until that is done its
    /// own packets that are too large are refused by the bridge, which senders follow (path MTU discovery), but one by one.
    ///
    /// # Errors
    /// [`NetworkError::NotFound`] if the network is gone, and others when the kernel refuses.
    pub fn fit(&self, netns: BorrowedFd<'_>, endpoint: &Endpoint) -> Result<(), NetworkError> {
        let inner = self.lock();
        let network = inner.get(endpoint.network.as_str())?;
        let mtu = inner.mtu(&network).unwrap_or(USUAL_MTU);
        drop(inner);
        kernel::resize_inside(netns, endpoint.mac, mtu)
    }

    /// Gives the default network another subnet, its first address to the bridge. What is so already is left alone.
    ///
    /// Names and the store's door are served at the bridge's address: callers who serve go through the engine.
    ///
    /// # Errors
    /// [`NetworkError::InUse`] while containers are on it; [`NetworkError::OverlaySet`] while the machine is in a cluster's network;
    /// [`NetworkError::Overlap`] and [`NetworkError::BadSubnet`] for a subnet that cannot be had here.
    pub fn renumber_default(&self, subnet: Ipv4Net) -> Result<Network, NetworkError> {
        let mut inner = self.lock();
        let mut network = inner.get("bridge")?;
        let subnet = subnet.trunc();
        if network.subnet == subnet {
            return Ok(network);
        }
        let users = inner.endpoints.iter().filter(|e| e.network == network.id);
        let containers: Vec<_> = users.map(|e| e.container_name.clone()).collect();
        if !containers.is_empty() {
            return Err(NetworkError::InUse {
                network: network.name,
                containers,
            });
        }
        if let Some(overlay) = &inner.overlay {
            return Err(NetworkError::OverlaySet(overlay.spec.subnet));
        }
        inner.may_be_default(&network, subnet)?;
        // A daemon that dies after this makes the bridge anew, of whatever is written then.
        link::remove(&mut inner.netlink, std::slice::from_ref(&network.bridge))?;
        network.subnet = subnet;
        network.gateway = subnet.hosts().next().unwrap_or(subnet.addr());
        network.ip_range = None;
        network.reserved.retain(|_, ip| ip.is_ipv6());
        inner.write(&network)?;
        inner.networks.insert(network.id.clone(), network.clone());
        inner.build(&network)?;
        inner.build6(&network)?;
        inner.services_route()?;
        inner.reload()?;
        Ok(network)
    }

    /// The largest packet, in bytes, of the link that has this machine's address `own`; none if no link has it now.
    ///
    /// # Errors
    /// When the kernel does not say its links.
    pub fn link_mtu(&self, own: Ipv4Addr) -> Result<Option<u32>, NetworkError> {
        match kernel::underlay_mtu(&mut self.lock().netlink, own) {
            Ok(mtu) => Ok(Some(mtu)),
            Err(NetworkError::NoUnderlay(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// IPv4 subnets that this machine's routes and networks have, but for the default network and the overlay: what its subnet in a
    /// cluster must keep away from, see [`super::choose_subnet`].
    ///
    /// # Errors
    /// When the kernel does not say its routes.
    pub fn taken_subnets(&self) -> Result<Vec<Ipv4Net>, NetworkError> {
        self.lock().taken_subnets()
    }
}

impl Inner {
    /// Checks what does not depend on what there is at the moment.
    fn overlay_fits(&self, spec: &OverlaySpec) -> Result<(), NetworkError> {
        let OverlayKind::Vxlan { vni, port } = spec.kind;
        if vni >= 1 << 24 || port == 0 {
            return Err(NetworkError::BadOverlay { vni, port });
        }
        let default = self.get("bridge")?;
        if default.subnet != spec.subnet {
            return Err(NetworkError::OverlaySubnet {
                wanted: spec.subnet,
                has: default.subnet,
            });
        }
        Ok(())
    }

    /// At daemon start, when the bridges stand: takes over what was set, before the firewall is loaded for the first time.
    pub(crate) fn overlay_open(&mut self) -> Result<(), NetworkError> {
        let stored = stored::read::<Stored>(&self.overlay_file(), VERSION)?;
        let Some(spec) = stored.map(|stored| stored.spec) else {
            return Ok(());
        };
        match self.overlay_fits(&spec) {
            Ok(()) => {
                self.overlay = Some(Overlay::new(spec));
                self.overlay_plan()?;
            }
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::error!(error, "the network between machines is not set up");
            }
        }
        Ok(())
    }

    /// The rest of [`Self::overlay_open`], when the firewall stands.
    pub(crate) fn overlay_resume(&mut self) -> Result<(), NetworkError> {
        if self.overlay.is_none() {
            return self.overlay_clear();
        }
        if let Err(error) = self.overlay_settle() {
            // Such as an address that the machine is still waiting for: what is on the machine works without.
            let error = &error as &dyn std::error::Error;
            tracing::error!(error, "the network between machines is not whole");
        }
        Ok(())
    }

    /// Largest packet of a network's links in bytes, if it is not the usual.
    pub(crate) fn mtu(&self, network: &Network) -> Option<u32> {
        let asked = options::of(&network.options).mtu;
        let overlay = self.overlay.as_ref().filter(|_| network.name == "bridge");
        let least = asked.into_iter().chain(overlay.and_then(|o| o.mtu));
        least.min()
    }

    /// What the firewall is to know.
    pub(crate) fn overlay_rules(&self) -> Option<Rules> {
        let overlay = self.overlay.as_ref()?;
        let default = self.get("bridge").ok()?;
        Some(Rules {
            kind: overlay.spec.kind,
            bridge: default.bridge,
            subnet: overlay.spec.subnet,
            peers: overlay.peers.clone(),
        })
    }

    /// Decides which peers can be had, and what the kernel should have.
    fn overlay_plan(&mut self) -> Result<BTreeSet<Entry>, NetworkError> {
        let default = self.get("bridge")?;
        let others = self.networks.values();
        let others = others.filter(|n| n.driver == Driver::Bridge && n.id != default.id);
        let local: Vec<_> = others.map(|n| (n.subnet, n.name.clone())).collect();
        let Some(overlay) = &mut self.overlay else {
            return Ok(BTreeSet::new());
        };
        let wanted = plan::wanted(&overlay.spec, default.gateway, &local);
        for problem in &wanted.problems {
            if !overlay.problems.contains(problem) {
                tracing::warn!(problem, "a machine is left out of the network");
            }
        }
        overlay.peers = wanted.peers;
        overlay.problems = wanted.problems;
        Ok(wanted.entries)
    }

    /// Makes the machine what was set last; true if something had to be done.
    fn overlay_settle(&mut self) -> Result<bool, NetworkError> {
        let wanted = self.overlay_plan()?;
        let rules = self.overlay_rules();
        let mut changed = false;
        if self.loaded_rules != rules {
            // Before the link is: nothing of it goes anywhere without its rules.
            self.reload()?;
            changed = true;
        }
        let default = self.get("bridge")?;
        let Some(overlay) = &mut self.overlay else {
            return Ok(changed);
        };
        let underlay = kernel::underlay_mtu(&mut self.netlink, overlay.spec.own)?;
        let most = overlay.spec.mtu.map_or(underlay, |mtu| mtu.min(underlay));
        let mtu = most
            .saturating_sub(overlay.spec.kind.overhead())
            .max(LEAST_MTU);
        overlay.mtu = Some(mtu);
        let before = kernel::found(&mut self.netlink)?;
        let link = kernel::ensure_link(&mut self.netlink, &overlay.spec, mtu)?;
        // The machine's own clients of a port that a service has published on 127.0.0.1 go out by it.
        sysctl(&format!("net/ipv4/conf/{LINK}/route_localnet"), "1")?;
        let present = kernel::present(&mut self.netlink, Some(link))?;
        let steps = plan::steps(&present, &wanted);
        let refused = kernel::run(&mut self.netlink, link, &steps)?;
        changed |= before != Some((link, Some(mtu))) || !steps.is_empty();
        let said = refused.iter().map(|(step, error)| said(step, error));
        overlay.refused = said.collect();
        for problem in &overlay.refused {
            tracing::warn!(problem, "the network between machines is not whole");
        }
        self.resize(&default)?;
        Ok(changed)
    }

    /// Removes all of it that there is.
    fn overlay_clear(&mut self) -> Result<(), NetworkError> {
        let had = self.overlay.take().is_some();
        let link = kernel::found(&mut self.netlink)?;
        let present = kernel::present(&mut self.netlink, link.map(|l| l.0))?;
        let steps = plan::steps(&present, &BTreeSet::new());
        let index = link.map_or(0, |l| l.0);
        if let Some((step, source)) = kernel::run(&mut self.netlink, index, &steps)?.pop() {
            let what = format!("remove {step:?}");
            return Err(NetworkError::Netlink { what, source });
        }
        link::remove(&mut self.netlink, &[LINK.to_owned()])?;
        if had || link.is_some() {
            let default = self.get("bridge")?;
            self.resize(&default)?;
        }
        if self.loaded_rules.is_some() {
            self.reload()?;
        }
        Ok(())
    }

    /// As [`Self::overlay_clear`], when everything goes and the spec is to come back.
    pub(crate) fn overlay_down(&mut self) -> Result<(), NetworkError> {
        let present = kernel::present(&mut self.netlink, None)?;
        let steps = plan::steps(&present, &BTreeSet::new());
        kernel::run(&mut self.netlink, 0, &steps)?;
        link::remove(&mut self.netlink, &[LINK.to_owned()])
    }

    fn resize(&mut self, network: &Network) -> Result<(), NetworkError> {
        let mtu = self.mtu(network).unwrap_or(USUAL_MTU);
        match self.bridges.get(&network.id) {
            Some(bridge) => kernel::resize(&mut self.netlink, *bridge, mtu),
            None => Ok(()),
        }
    }
}

/// A step that the kernel refused, in words.
fn said(step: &Step, error: &coracle_sys::netlink::NetlinkError) -> String {
    let entry = match step {
        Step::Add(entry) | Step::Replace(entry) | Step::Remove(entry) => entry,
    };
    let what = match entry {
        Entry::Route { subnet, .. } if error.exists() => {
            return format!(
                "{subnet} is a machine's subnet, but this machine has a route of that very subnet already; remove it (ip route show {subnet})"
            );
        }
        Entry::Route { subnet, .. } => format!("the route to {subnet}"),
        Entry::Unreachable(subnet) => format!("the route that refuses {subnet}"),
        Entry::Neighbour { ip, .. } => format!("the neighbour {ip}"),
        Entry::Forward { to, .. } => format!("the way to {to}"),
    };
    format!("the kernel refused {what}: {error}")
}
