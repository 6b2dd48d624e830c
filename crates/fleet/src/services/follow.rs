//! A machine learns the services of the cluster, and tells its engine.
//!
//! They are kept in `STATE_DIR/cluster/services.json` for a daemon that comes up while the store is away.

use super::ServiceRecord;
use crate::fleet::{Fleet, Inner};
use crate::leader::family;
use crate::model::{VERSION, keys};
use coracle_engine::{ServiceSpec, full_error};
use coracle_store::{EventKind, StoreError, WatchRequest};
use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Weak;
use std::time::Duration;

/// How long a store that refused is left alone.
const REST: Duration = Duration::from_secs(1);
/// Changes that come together are done together.
const TOGETHER: Duration = Duration::from_millis(20);
/// But no longer than this.
const LONGEST: Duration = Duration::from_millis(200);

type Records = BTreeMap<String, ServiceRecord>;

/// `services.json`.
#[derive(Serialize, Deserialize)]
struct Kept {
    /// [`VERSION`].
    version: u32,
    services: Records,
}

struct Following {
    weak: Weak<Inner>,
    file: PathBuf,
    range: Ipv4Net,
    records: Records,
    /// What is on the disk.
    kept: Option<Records>,
    /// Services whose addresses were said to be outside.
    outside: BTreeSet<String>,
}

impl Fleet {
    /// Tells the engine of services for as long as there is a fleet.
    pub(crate) fn follow_services(&self) {
        if self.0.alone() {
            self.engine().elsewhere_is_known();
        }
        let options = self.engine().options();
        let mut following = Following {
            weak: std::sync::Arc::downgrade(&self.0),
            file: options.state_dir.join("cluster/services.json"),
            range: options.network.services,
            records: Records::new(),
            kept: None,
            outside: BTreeSet::new(),
        };
        let mut gone = self.0.leader.subscribe();
        tokio::spawn(async move {
            let follow = async {
                following.resume();
                following.run().await;
            };
            tokio::select! {
                () = follow => {}
                // The sender goes with the fleet.
                _ = gone.wait_for(|_| false) => {}
            }
        });
    }
}

impl Following {
    /// The store of a machine that is alone is never away.
    fn alone(&self) -> bool {
        self.weak.upgrade().is_none_or(|inner| inner.alone())
    }

    /// Goes on from where the daemon before this one was.
    fn resume(&mut self) {
        if self.alone() {
            return;
        }
        let read = match std::fs::read(&self.file) {
            Ok(bytes) => serde_json::from_slice::<Kept>(&bytes).map_err(io::Error::from),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return,
            Err(error) => Err(error),
        };
        match read {
            Ok(kept) if kept.version > VERSION => tracing::warn!(
                file = %self.file.display(),
                version = kept.version,
                "a newer release wrote this; services are not known until the store is asked"
            ),
            Ok(kept) => {
                self.records = kept.services;
                self.kept = Some(self.records.clone());
                self.tell();
            }
            Err(error) => tracing::warn!(
                file = %self.file.display(),
                %error,
                "services are not known until the store is asked"
            ),
        }
    }

    async fn run(&mut self) {
        let mut said = false;
        loop {
            match self.follow().await {
                Ok(()) => said = false,
                Err(error) if !said => {
                    said = true;
                    tracing::warn!(
                        error = full_error(&error),
                        "services are not followed, and stay as they are; it is tried again"
                    );
                }
                Err(_) => {}
            }
            tokio::time::sleep(REST).await;
        }
    }

    /// Until a watch ends.
    async fn follow(&mut self) -> Result<(), StoreError> {
        let Some(inner) = self.weak.upgrade() else {
            return Ok(());
        };
        let store = inner.cluster.clone();
        drop(inner);
        let read = store.status().await?.revision;
        self.records = family(&*store, keys::SERVICES, read).await?;
        let request = WatchRequest::prefix(keys::SERVICES).from(read + 1);
        let mut watch = store.watch(request).await?;
        let mut late = None;
        loop {
            self.tell();
            self.keep().await;
            let mut next = match late.take() {
                Some(next) => next,
                None => watch.next().await,
            };
            let begun = tokio::time::Instant::now();
            loop {
                let Some(answer) = next.transpose()?.filter(|a| !a.canceled) else {
                    return Ok(());
                };
                for event in &answer.events {
                    let key = String::from_utf8_lossy(&event.kv.key);
                    let Some(name) = key.strip_prefix(keys::SERVICES) else {
                        continue;
                    };
                    let record = serde_json::from_slice(&event.kv.value);
                    match (event.kind, record) {
                        (EventKind::Put, Ok(record)) => {
                            self.records.insert(name.to_owned(), record);
                        }
                        // Perhaps of a newer release; what was known of it holds.
                        (EventKind::Put, Err(error)) => {
                            tracing::error!(service = name, %error, "what is said of a service cannot be read");
                        }
                        (EventKind::Delete, _) => drop(self.records.remove(name)),
                    }
                }
                match tokio::time::timeout(TOGETHER, watch.next()).await {
                    Ok(more) if begun.elapsed() < LONGEST => next = more,
                    Ok(more) => {
                        late = Some(more);
                        break;
                    }
                    Err(_) => break,
                }
            }
        }
    }

    fn tell(&mut self) {
        let Some(inner) = self.weak.upgrade() else {
            return;
        };
        let (mut specs, mut taken) = (BTreeMap::new(), BTreeSet::new());
        for (name, record) in &self.records {
            let inside = record.address.filter(|ip| self.range.contains(ip));
            // Two that have one would keep all from having theirs.
            let inside = inside.filter(|ip| taken.insert(*ip));
            if let Some(ip) = record.address.filter(|ip| !self.range.contains(ip))
                && self.outside.insert(name.clone())
            {
                tracing::error!(
                    service = name,
                    "its address {ip} is not of {}, which services have their addresses from on this machine: write the same `services` into [network] of coracle.toml on every machine",
                    self.range
                );
            }
            let spec = ServiceSpec {
                address: inside,
                published: record.ports.iter().map(|p| p.published()).collect(),
            };
            specs.insert(name.clone(), spec);
        }
        inner.engine().set_services(specs);
    }

    /// Whole or not at all.
    async fn keep(&mut self) {
        if self.alone() || self.kept.as_ref() == Some(&self.records) {
            return;
        }
        let (file, services) = (self.file.clone(), self.records.clone());
        let written = tokio::task::spawn_blocking(move || write(&file, services)).await;
        match written.map_err(io::Error::from).flatten() {
            Ok(()) => self.kept = Some(self.records.clone()),
            Err(error) => tracing::warn!(
                file = %self.file.display(),
                %error,
                "services could not be written down"
            ),
        }
    }
}

fn write(file: &Path, services: Records) -> io::Result<()> {
    let dir = file.parent().unwrap_or(Path::new("/"));
    std::fs::create_dir_all(dir)?;
    let new = file.with_extension("json.new");
    let kept = Kept {
        version: VERSION,
        services,
    };
    std::fs::write(&new, serde_json::to_vec(&kept)?)?;
    // A start waits for its service's ports, so this is to outlive the power.
    std::fs::File::open(&new)?.sync_all()?;
    std::fs::rename(new, file)?;
    std::fs::File::open(dir)?.sync_all()
}
