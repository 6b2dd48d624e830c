//! One interface, kept as its configuration says for as long as the machine runs.

use super::{
    links::{self, Link},
    resolver::Resolver,
};
use crate::console::{Level, failed, say};
use coracle_cloud_config::Interface;
use coracle_dhcp::{Client, Event, Lease};
use coracle_os::files::replace;
use coracle_sys::netlink::NetlinkError;
use ipnet::Ipv4Net;
use std::{
    fs,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::Duration,
};

/// Pause after an error that calling again would not wait for.
const PAUSE: Duration = Duration::from_secs(2);
/// Errors of one kind are told once in as many.
const TOLD: u32 = 30;
/// The metric of routes: what the configuration says goes before what a server says.
const CONFIGURED: u32 = 100;
const LEASED: u32 = 200;

/// What is to be done with an interface.
#[derive(Debug, Clone)]
pub struct Setting {
    address: Option<Ipv4Net>,
    gateway: Option<Ipv4Addr>,
    mtu: Option<u16>,
    dns: Vec<Ipv4Addr>,
    dhcp: bool,
    hostname: Option<String>,
}

impl Setting {
    /// That of the configuration; an interface that it does not name asks by DHCP.
    pub fn of(configured: Option<&Interface>, hostname: Option<String>) -> Self {
        // A server knows the first label only.
        let hostname = hostname.and_then(|h| h.split('.').next().map(str::to_owned));
        match configured {
            Some(own) => Self {
                address: own.address,
                gateway: own.gateway,
                mtu: own.mtu,
                dns: own.dns.clone(),
                dhcp: own.dhcp,
                hostname,
            },
            None => Self {
                address: None,
                gateway: None,
                mtu: None,
                dns: Vec::new(),
                dhcp: true,
                hostname,
            },
        }
    }
}

/// What an interface has, so that it can be taken away.
pub struct Applied {
    link: Link,
    resolver: Arc<Resolver>,
    lease: Option<Ipv4Net>,
}

impl Applied {
    /// Nothing yet.
    pub fn new(link: Link, resolver: Arc<Resolver>) -> Self {
        Self {
            link,
            resolver,
            lease: None,
        }
    }

    fn configured(&self, setting: &Setting) -> Result<(), NetlinkError> {
        links::switch_on(self.link.index, setting.mtu)?;
        if let Some(address) = setting.address {
            links::add_address(self.link.index, address)?;
        }
        if let Some(gateway) = setting.gateway {
            links::add_route(
                self.link.index,
                Ipv4Net::default(),
                Some(gateway),
                CONFIGURED,
            )?;
        }
        self.resolver
            .tell(&self.link.name, setting.dns.clone(), Vec::new());
        Ok(())
    }

    /// Puts a lease in place of the former one: the new address first, so that there is always one.
    fn leased(&mut self, lease: &Lease, setting: &Setting) -> Result<(), NetlinkError> {
        let index = self.link.index;
        // The prefix was checked: 1 to 32.
        let net = Ipv4Net::new(lease.address, lease.prefix_len).unwrap_or_default();
        if setting.mtu.is_none()
            && let Some(mtu) = lease.mtu
        {
            links::switch_on(index, Some(mtu))?;
        }
        links::add_address(index, net)?;
        if let Some(former) = self.lease.replace(net).filter(|f| *f != net) {
            links::remove_address(index, former)?;
        }
        for route in &lease.routes {
            let to = Ipv4Net::new(route.destination, route.prefix_len).unwrap_or_default();
            links::add_route(index, to, route.gateway, LEASED)?;
        }
        if let Some(router) = lease.routers.first() {
            // A router of a network of one address is reached on the link.
            if !net.contains(router) {
                links::add_route(index, (*router).into(), None, LEASED)?;
            }
            links::add_route(index, Ipv4Net::default(), Some(*router), LEASED)?;
        }
        let servers = setting.dns.iter().chain(&lease.dns).copied().collect();
        let search = if lease.search.is_empty() {
            lease.domain.iter().cloned().collect()
        } else {
            lease.search.clone()
        };
        self.resolver.tell(&self.link.name, servers, search);
        Ok(())
    }

    fn lost(&mut self, setting: &Setting) -> Result<(), NetlinkError> {
        self.resolver
            .tell(&self.link.name, setting.dns.clone(), Vec::new());
        match self.lease.take() {
            // Routes by it go with it.
            Some(former) => links::remove_address(self.link.index, former),
            None => Ok(()),
        }
    }
}

fn file(name: &str) -> PathBuf {
    Path::new("/var/lib/coracle-os").join(format!("lease-{name}.json"))
}

/// Keeps the interface; returns only if there is nothing to be kept. `told` hears of each address.
pub fn keep(setting: &Setting, mut applied: Applied, told: impl Fn(Ipv4Addr)) {
    let name = applied.link.name.clone();
    while let Err(error) = applied.configured(setting) {
        failed(&name, &error);
        thread::sleep(PAUSE);
    }
    if let Some(address) = setting.address {
        told(address.addr());
    }
    if !setting.dhcp {
        return;
    }
    let remembered = fs::read(file(&name)).ok();
    let mut remembered = remembered.and_then(|bytes| serde_json::from_slice::<Lease>(&bytes).ok());
    let mut errors = 0;
    loop {
        let hostname = setting.hostname.clone();
        let client = Client::new(&name, applied.link.mac, hostname, remembered.take());
        let mut client = match client {
            Ok(client) => client,
            Err(error) => {
                failed(&name, &error);
                thread::sleep(PAUSE);
                continue;
            }
        };
        loop {
            let event = client.next(None);
            let done = match &event {
                Ok(Event::Bound(lease) | Event::Renewed(lease)) => {
                    remember(&name, lease);
                    applied.leased(lease, setting)
                }
                Ok(Event::Lost) => applied.lost(setting),
                Ok(Event::Deadline) => Ok(()),
                Err(error) => {
                    if errors % TOLD == 0 {
                        failed(&name, error);
                    }
                    errors += 1;
                    thread::sleep(PAUSE);
                    Ok(())
                }
            };
            if let Err(error) = done {
                failed(&name, &error);
            }
            if let Ok(Event::Bound(lease)) = &event {
                errors = 0;
                let server = lease.server;
                say(
                    Level::Info,
                    &format!("{name}: {} from {server}", lease.address),
                );
                told(lease.address);
            }
        }
    }
}

/// What is asked for first at the next boot.
fn remember(name: &str, lease: &Lease) {
    let bytes = serde_json::to_vec(lease).unwrap_or_default();
    let path = file(name);
    let known = fs::read(&path).ok();
    let same = known
        .and_then(|k| serde_json::from_slice::<Lease>(&k).ok())
        .is_some_and(|k| k.address == lease.address && k.server == lease.server);
    // A renewal is no reason to write: only the address counts.
    if !same {
        replace(&path, &bytes, 0o600).ok();
    }
}
