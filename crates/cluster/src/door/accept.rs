//! The loop that lets connections in, which every port with TLS has.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use coracle_sys::accept::{Missed, SHORTAGE};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::{Arrival, Arrivals};

/// A port, as the loop needs it.
pub(crate) struct Accepting<'a> {
    /// What it is called in the log.
    pub name: &'static str,
    /// Connections at once; more wait in the socket.
    pub connections: usize,
    /// Who knocks.
    pub arrivals: &'a Arc<Arrivals>,
    /// Ends it.
    pub stop: CancellationToken,
}

impl Accepting<'_> {
    /// Has each connection served by the task that `each` makes of it, until it is stopped: then what is served may end as long as `leaving` takes,
    /// and the rest is cut, by the token that each was given.
    ///
    /// # Errors
    /// The listener's own, when it can accept no more.
    pub async fn serve<Served: Future<Output = ()> + Send + 'static>(
        self,
        listener: TcpListener,
        leaving: impl Future<Output = ()>,
        mut each: impl FnMut(TcpStream, SocketAddr, Arrival, CancellationToken) -> Served,
    ) -> io::Result<()> {
        let mut connections = JoinSet::new();
        let cut = CancellationToken::new();
        let ended = loop {
            let (stream, address) = tokio::select! {
                accepted = listener.accept(), if connections.len() < self.connections => match accepted {
                    Ok(accepted) => accepted,
                    Err(error) => match Missed::of(&error) {
                        Missed::One => continue,
                        Missed::Room => {
                            tracing::warn!(%error, "connections wait at {}", self.name);
                            tokio::time::sleep(SHORTAGE).await;
                            continue;
                        }
                        Missed::All => break Err(error),
                    },
                },
                Some(_) = connections.join_next() => continue,
                () = self.stop.cancelled() => break Ok(()),
            };
            let Some(arrival) = self.arrivals.come(address.ip()) else {
                tracing::debug!(%address, "too many from one address knock at {}", self.name);
                continue;
            };
            connections.spawn(each(stream, address, arrival, cut.child_token()));
        };
        drop(listener);
        let all = async { while connections.join_next().await.is_some() {} };
        tokio::select! {
            () = all => {}
            // Also what was upgraded and is held by others now.
            () = leaving => cut.cancel(),
        }
        connections.shutdown().await;
        ended
    }
}
