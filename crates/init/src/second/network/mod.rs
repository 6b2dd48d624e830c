//! The network: each interface that hardware is behind has an address, from the configuration or by DHCP, kept by a thread of its own.
//!
//! The machine goes on as soon as one interface has an address, or after a while without: a cable may be put in later.

mod interface;
mod links;
mod resolver;

use crate::console::{Level, failed, say};
use coracle_cloud_config::{CloudConfig, Interface, Selector};
use interface::Setting;
use links::Link;
use resolver::Resolver;
use std::{
    fs, io,
    net::Ipv4Addr,
    sync::{
        Arc,
        mpsc::{Receiver, channel},
    },
    thread,
    time::{Duration, Instant},
};

/// How long is waited for the first address.
const FIRST: Duration = Duration::from_secs(60);
/// How long is waited for interfaces to show up.
const HARDWARE: Duration = Duration::from_secs(10);
const LOOK: Duration = Duration::from_millis(20);

/// What the machine can be reached by.
pub struct Network {
    addresses: Vec<(String, Ipv4Addr)>,
    /// Told when an address comes or changes, for as long as the machine runs.
    #[allow(dead_code, reason = "its end would end the threads that tell")]
    later: Receiver<(String, Ipv4Addr)>,
}

impl Network {
    /// The one that came first.
    pub fn first(&self) -> Option<Ipv4Addr> {
        self.addresses.first().map(|(_, ip)| *ip)
    }

    /// For the console.
    pub fn shown(&self) -> String {
        let each = self
            .addresses
            .iter()
            .map(|(name, ip)| format!("{ip} ({name})"));
        let each: Vec<_> = each.collect();
        match each.is_empty() {
            true => "no address yet".to_owned(),
            false => each.join(", "),
        }
    }
}

/// Brings the interfaces up and returns when the first one that can have an address has one.
///
/// # Errors
/// Those of reading which there are. One that cannot be brought up is told and left.
pub fn up(config: &CloudConfig) -> io::Result<Network> {
    forwarding();
    links::switch_on(1, None).map_err(io::Error::other)?;
    let resolver = Arc::new(Resolver::new(config.network.dns.clone()));
    let found = wait_for_hardware(config)?;
    let (tell, told) = channel();
    for link in found {
        let setting = Setting::of(configured(config, &link), config.hostname.clone());
        let (tell, resolver) = (tell.clone(), resolver.clone());
        let name = link.name.clone();
        let kept = thread::Builder::new().name(format!("net-{name}"));
        let started = kept.spawn(move || {
            let applied = interface::Applied::new(link, resolver);
            interface::keep(&setting, applied, |address| {
                // Who does not listen any more need not be told.
                tell.send((name.clone(), address)).ok();
            });
        });
        if let Err(error) = started {
            failed("the network", &error);
        }
    }
    let mut addresses = Vec::new();
    match told.recv_timeout(FIRST) {
        Ok(first) => addresses.push(first),
        Err(_) => say(
            Level::Warning,
            &format!("no address after {} s; going on without", FIRST.as_secs()),
        ),
    }
    addresses.extend(told.try_iter());
    Ok(Network {
        addresses,
        later: told,
    })
}

/// What the configuration says of an interface.
fn configured<'a>(config: &'a CloudConfig, link: &Link) -> Option<&'a Interface> {
    let mac = link.mac.map(|b| format!("{b:02x}")).join(":");
    config.network.interfaces.iter().find(|i| match &i.which {
        Selector::Name(name) => *name == link.name,
        Selector::Mac(address) => address.eq_ignore_ascii_case(&mac),
    })
}

/// Drivers are loaded by then, but what they find shows up when it does. Those that the configuration names are waited for.
fn wait_for_hardware(config: &CloudConfig) -> io::Result<Vec<Link>> {
    let end = Instant::now() + HARDWARE;
    loop {
        let found = links::hardware()?;
        let missing = config.network.interfaces.iter().filter(|i| {
            !found
                .iter()
                .any(|l| configured(config, l).is_some_and(|c| c == *i))
        });
        let missing = missing.count();
        if !found.is_empty() && missing == 0 {
            return Ok(found);
        }
        if Instant::now() > end {
            if missing > 0 {
                say(
                    Level::Error,
                    &format!("{missing} interfaces of the configuration are not there"),
                );
            }
            return Ok(found);
        }
        thread::sleep(LOOK);
    }
}

/// Containers are reached by forwarding; answers of DHCP come before there is an address.
fn forwarding() {
    for (key, value) in [
        ("net/ipv4/ip_forward", "1"),
        ("net/ipv4/conf/all/rp_filter", "0"),
        ("net/ipv4/conf/default/rp_filter", "0"),
    ] {
        fs::write(format!("/proc/sys/{key}"), value).ok();
    }
}
