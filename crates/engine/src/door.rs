//! A door at each bridge: a server of somebody else's that containers reach at their network's own address.

use crate::engine::Engine;
use coracle_network::{DOOR_PORT, Driver, Endpoint, Network};
use std::collections::BTreeMap;
use std::io;
use std::net::Ipv4Addr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::net::TcpListener;
use tokio::task::AbortHandle;

/// Serves what comes on a socket, until it is dropped or ends by itself.
pub type Door = Arc<dyn Fn(TcpListener) -> Served + Send + Sync>;
/// The future of a [`Door`].
pub type Served = Pin<Box<dyn Future<Output = io::Result<()>> + Send>>;

/// The doors open now.
#[derive(Default)]
pub(crate) struct Doors {
    what: Mutex<Option<Door>>,
    /// By the network's own address.
    open: Mutex<BTreeMap<Ipv4Addr, AbortHandle>>,
    /// Held while they are opened, so that none is twice.
    opening: tokio::sync::Mutex<()>,
}

/// What the holder calls the socket.
fn name(gateway: Ipv4Addr) -> String {
    format!("door-{gateway}")
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Engine {
    /// Opens a door at [`DOOR_PORT`] of every bridge, now and as networks come. Containers that start from now on are told its
    /// address in `ETCD_ENDPOINTS` and `ETCDCTL_ENDPOINTS`.
    pub async fn open_door(&self, door: Door) {
        *lock(&self.0.doors.what) = Some(door);
        self.open_doors().await;
    }

    pub(crate) async fn open_doors(&self) {
        let _one = self.0.doors.opening.lock().await;
        let Some(door) = lock(&self.0.doors.what).clone() else {
            return;
        };
        for network in self.0.networks.list() {
            let gateway = network.gateway;
            if network.driver != Driver::Bridge || lock(&self.0.doors.open).contains_key(&gateway) {
                continue;
            }
            match self.door_socket(gateway).await {
                Ok(listener) => {
                    let (served, name) = (door(listener), network.name.clone());
                    let task = tokio::spawn(async move {
                        if let Err(error) = served.await {
                            tracing::error!(network = name, %error, "the store is not served any more");
                        }
                    });
                    lock(&self.0.doors.open).insert(gateway, task.abort_handle());
                }
                Err(error) => tracing::error!(
                    network = network.name, address = %gateway, port = DOOR_PORT, %error,
                    "the store is not served: the port cannot be had; its containers are not told of it"
                ),
            }
        }
    }

    /// The socket, from the holder if a former daemon left it there, so that those who came in between wait in it.
    async fn door_socket(&self, gateway: Ipv4Addr) -> io::Result<TcpListener> {
        let name = name(gateway);
        let (run_dir, wanted) = (self.0.options.run_dir.clone(), name.clone());
        let kept =
            tokio::task::spawn_blocking(move || crate::sockets::fetch(&run_dir, &wanted)).await?;
        if let Some(kept) = kept? {
            let listener = std::net::TcpListener::from(kept);
            listener.set_nonblocking(true)?;
            return TcpListener::from_std(listener);
        }
        let listener = TcpListener::bind((gateway, DOOR_PORT)).await?;
        let copy = rustix::io::dup(&listener)?;
        let run_dir = self.0.options.run_dir.clone();
        tokio::task::spawn_blocking(move || crate::sockets::deposit(&run_dir, &name, copy))
            .await??;
        Ok(listener)
    }

    pub(crate) async fn close_door(&self, network: &Network) {
        let _one = self.0.doors.opening.lock().await;
        let gateway = network.gateway;
        let Some(task) = lock(&self.0.doors.open).remove(&gateway) else {
            return;
        };
        task.abort();
        let run_dir = self.0.options.run_dir.clone();
        // A holder that is gone keeps nothing.
        let _ =
            tokio::task::spawn_blocking(move || crate::sockets::discard(&run_dir, &name(gateway)))
                .await;
    }

    /// Where a container with these links finds the door, as a URL.
    pub(crate) fn door_for(&self, endpoints: &[Endpoint]) -> Option<String> {
        let open = lock(&self.0.doors.open);
        let first = endpoints.iter().find(|e| open.contains_key(&e.gateway))?;
        Some(format!("http://{}:{DOOR_PORT}", first.gateway))
    }
}
