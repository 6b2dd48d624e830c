//! The doors to the store: what of it is shown to whom, and where.
//!
//! | door | who | where |
//! | --- | --- | --- |
//! | the bridges | apps | each network's own address, port 2379 |
//! | loopback | the machine's operator | `--store-listen`, 127.0.0.1:2379 |
//! | `coracle.sock` | `coracle store` | the paths below `/v3` |
//!
//! All three show the apps' keys; the operator may compact and look after the store too.

use crate::keep;
use crate::server::{DaemonError, file};
use bytes::Bytes;
use coracle_engine::Engine;
use coracle_fleet::model::keys;
use coracle_gateway::{Face, Gateway, Identity, Role, Router, Scope, Scoped};
use coracle_store::{Options, PutRequest, Store, StoreError, StoreExt as _};
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;

/// Where the store's own name is.
const CLUSTER: &str = "/coracle/v1/cluster";

/// How names begin of sockets at addresses that settings say.
const KEPT: &str = "store-";

/// How long a store is asked for a name that is known.
const MOMENT: Duration = Duration::from_secs(1);

/// The entry of the cluster: which one this store is.
#[derive(Serialize, Deserialize)]
struct Cluster {
    /// The format.
    version: u64,
    /// 16 hexadecimal digits.
    id: String,
}

/// The faces of one store.
pub struct Doors {
    identity: Identity,
    app: Gateway,
    operator: Gateway,
}

impl Doors {
    /// Names the store if it has no name yet; `known` is its number for as long as it cannot be asked.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn new(
        store: Arc<dyn Store>,
        options: &Options,
        engine: &Engine,
        known: Option<u64>,
    ) -> Result<Self, StoreError> {
        let scope = Scope {
            prefix: Bytes::from_static(keys::APPS.as_bytes()),
            offset: 0,
            // The rest is for the machine's own: units must start though apps have filled their share.
            quota_bytes: options.quota_bytes / 4 * 3,
        };
        let machine = engine.machine_id();
        let number = |text: &str| u64::from_str_radix(text, 16).ok();
        // What is known need not be waited for: a machine comes up without the cluster's store too.
        let named = match known {
            Some(_) => tokio::time::timeout(MOMENT, cluster(&*store)).await.ok(),
            None => Some(cluster(&*store).await),
        };
        let identity = Identity {
            cluster: match named {
                Some(Ok(found)) => number(&found).unwrap_or(1),
                // Also one that was removed meanwhile.
                None | Some(Err(StoreError::Unreachable { .. } | StoreError::Refused { .. })) => {
                    known.unwrap_or(1)
                }
                Some(Err(error)) => return Err(error),
            },
            member: machine.get(..16).and_then(number).unwrap_or(1),
        };
        let scoped: Arc<dyn Store> = Arc::new(Scoped::new(store, scope));
        let face = |role| {
            let name = machine.get(..12).unwrap_or(machine);
            Gateway::new(scoped.clone(), role, identity, name, Vec::new())
        };
        Ok(Self {
            identity,
            app: face(Role::App),
            operator: face(Role::Operator),
        })
    }

    /// What stands in the headers of answers.
    pub fn identity(&self) -> Identity {
        self.identity
    }

    /// What stands at the bridges' addresses.
    pub fn for_apps(&self) -> Face {
        Face::new(self.app.clone())
    }

    /// What stands on loopback.
    pub fn for_operator(&self) -> Face {
        Face::new(self.operator.clone())
    }

    /// What stands on our own socket.
    pub fn for_command(&self) -> Router {
        coracle_gateway::json_router(&self.operator)
    }
}

/// The store's name, given to it once. A store that is full has one for as long as the daemon lives, and gets it later.
async fn cluster(store: &dyn Store) -> Result<String, StoreError> {
    if let Some((found, _)) = store.get_json::<Cluster>(CLUSTER).await? {
        return Ok(found.id);
    }
    let entry = Cluster {
        version: 1,
        id: format!("{:016x}", coracle_store::own_lease()),
    };
    let value = serde_json::to_vec(&entry).map_err(|source| StoreError::Json {
        key: CLUSTER.to_owned(),
        source: Arc::new(source),
    })?;
    match store.create(PutRequest::new(CLUSTER, value)).await {
        Ok((true, _)) | Err(StoreError::NoSpace { .. }) => Ok(entry.id),
        Err(error) => Err(error),
        // Somebody else was first.
        Ok((false, _)) => {
            let found = store.get_json::<Cluster>(CLUSTER).await?;
            Ok(found.map_or(entry.id, |(found, _)| found.id))
        }
    }
}

/// What the holder keeps an address' socket as.
fn kept_as(address: SocketAddr) -> String {
    format!("{KEPT}{address}")
}

/// Has the holder close the sockets that a daemon with other settings had it keep: nobody would answer there.
pub async fn keep_only(run_dir: &Path, addresses: &[SocketAddr]) {
    let wanted: Vec<String> = addresses.iter().map(|a| kept_as(*a)).collect();
    if let Err(error) = keep::keep_only(run_dir, KEPT, &wanted).await {
        tracing::warn!(%error, "addresses of former settings may stay open, where nobody answers");
    }
}

/// A socket at an address: the one that the holder kept, or a new one that it keeps from now on.
///
/// # Errors
/// If the address cannot be had.
pub async fn listen(run_dir: &Path, address: SocketAddr) -> Result<TcpListener, DaemonError> {
    let name = kept_as(address);
    let shown = address.to_string();
    let failed = |action| file(action, Path::new(&shown));
    let fetched = keep::fetch(run_dir, &name)
        .await
        .map_err(failed("fetching"))?;
    if let Some(kept) = fetched {
        let listener = std::net::TcpListener::from(kept);
        listener.set_nonblocking(true).map_err(failed("using"))?;
        return TcpListener::from_std(listener).map_err(failed("using"));
    }
    let listener = TcpListener::bind(address)
        .await
        .map_err(failed("listening on"))?;
    let copy = rustix::io::dup(&listener).map_err(|e| failed("keeping")(e.into()))?;
    keep::deposit(run_dir, &name, copy)
        .await
        .map_err(failed("keeping"))?;
    Ok(listener)
}
