//! The daemon's API for workstations: over TLS, at a port of its own, to clients that are on the list alone.
//!
//! What is served is what the sockets have. Whether somebody comes in is said in [`coracle_cluster::clients`].

use crate::doors;
use crate::server::DaemonError;
use axum::Router;
use coracle_api::{Answers, Peer};
use coracle_cluster::clients::{self, Clients, Kept, Port, PortLimits, Server, Stream, Visit};
use coracle_cluster::pki::Fingerprint;
use coracle_engine::full_error;
use coracle_store::Store;
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// How often it is looked whether the certificate is for all that the machine is called, and long enough.
const LOOK: Duration = Duration::from_secs(5);
/// Between two tries to have the address.
const AGAIN: Duration = Duration::from_secs(5);
/// Longest wait for the last bytes of answers.
const BYTES: Duration = Duration::from_secs(1);

/// What the daemon is told of it.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    /// Where it listens.
    pub(crate) listen: SocketAddr,
    /// Names and addresses that the machine is reached by besides its own.
    pub(crate) names: Vec<String>,
    /// Clients that the configuration names.
    pub(crate) pinned: Vec<(Fingerprint, String)>,
}

impl Options {
    /// Reads `api_listen`, `api_names` and `api_clients`; none where nothing is to be served.
    ///
    /// # Errors
    /// What is wrong, and the way out.
    pub(crate) fn read(
        listen: Option<&str>,
        names: Vec<String>,
        clients: &[String],
    ) -> Result<Option<Self>, String> {
        let pinned = clients.iter().map(|line| clients::read_pin(line));
        let pinned: Result<_, _> = pinned.collect();
        let pinned = pinned.map_err(|e| format!("api_clients: {e}"))?;
        if let Some(bad) = names.iter().find(|name| !is_name(name)) {
            return Err(format!(
                "api_names: \"{bad}\" is neither a name nor an address of a machine; write for example web1.example.com or 203.0.113.7"
            ));
        }
        if listen.is_none() && !clients.is_empty() {
            tracing::warn!(
                "api_clients lets nobody in, since the API is not served; write api_listen = \"0.0.0.0\" beside it, or api_listen = \"none\" if that is meant"
            );
        }
        let Some(text) = listen.filter(|text| *text != "none") else {
            return Ok(None);
        };
        let alone = || {
            text.parse()
                .ok()
                .map(|ip| SocketAddr::new(ip, clients::PORT))
        };
        let listen = text.parse().ok().or_else(alone);
        let listen = listen.filter(|at: &SocketAddr| at.port() != 0).ok_or_else(|| {
            format!(
                "api_listen = \"{text}\" is no address of this machine; write for example 0.0.0.0:{}, or none",
                clients::PORT
            )
        })?;
        Ok(Some(Self {
            listen,
            names,
            pinned,
        }))
    }
}

fn is_name(text: &str) -> bool {
    let part = |part: &str| {
        !part.is_empty()
            && part.len() <= 63
            && part.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
            && !part.starts_with('-')
            && !part.ends_with('-')
    };
    text.parse::<IpAddr>().is_ok() || (text.len() <= 253 && text.split('.').all(part))
}

/// See the module.
pub(crate) struct ApiPort {
    options: Options,
    advertise: IpAddr,
    server: Arc<Server>,
    dir: PathBuf,
}

impl ApiPort {
    /// Opens what is in `STATE_DIR/api`, or makes it.
    ///
    /// # Errors
    /// When files there cannot be used.
    pub(crate) fn open(
        options: Options,
        advertise: SocketAddr,
        state_dir: &Path,
    ) -> Result<Self, DaemonError> {
        let dir = state_dir.join("api");
        let server = Server::open(&dir, &hostname());
        let server = server.map_err(|e| DaemonError::Cluster {
            what: "opening what workstations know this machine by",
            source: Box::new(e),
        })?;
        Ok(Self {
            options,
            advertise: advertise.ip(),
            server: Arc::new(server),
            dir,
        })
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.options.listen
    }

    /// The certificate of the CA that workstations know this machine by, in PEM.
    pub(crate) fn ca(&self) -> String {
        self.server.ca_pem().to_owned()
    }

    /// Serves that router until `stop` is true. `store` comes with its number. An address that cannot be had is waited for: what runs here is to
    /// be looked after, whatever the network does.
    pub(crate) async fn begin(
        self,
        router: Router,
        store: (Arc<dyn Store>, u64),
        run_dir: &Path,
        mut stop: watch::Receiver<bool>,
    ) -> JoinHandle<()> {
        let (answers, run_dir) = (Answers::new(router, stop.clone()), run_dir.to_owned());
        self.look();
        let listener = doors::listen(&run_dir, self.options.listen).await;
        if let Err(error) = &listener {
            let error = full_error(error);
            tracing::error!(
                error,
                "the API is not served to workstations yet; it is tried again. --api-listen says where"
            );
        }
        let ended = CancellationToken::new();
        let stopping = ended.clone();
        tokio::spawn(async move {
            // A sender that is gone means the same.
            let _ = stop.wait_for(|stop| *stop).await;
            stopping.cancel();
        });
        let (store, number) = store;
        let kept = Kept::new(&self.dir, number);
        let pinned = self.options.pinned.clone();
        let known = watch::Sender::new(Clients::of(&kept.load(), &pinned));
        let allowed = known.subscribe();
        tokio::spawn(clients::follow(store, kept, pinned, known, ended.clone()));
        tokio::spawn(async move {
            let serving = async {
                let listener = match listener {
                    Ok(listener) => listener,
                    Err(_) => tokio::select! {
                        listener = listen_later(&run_dir, self.options.listen) => listener,
                        () = ended.cancelled() => return,
                    },
                };
                self.serve(listener, allowed, &answers, ended.clone()).await;
            };
            tokio::select! {
                () = serving => {}
                () = self.look_on() => {}
            }
        })
    }

    async fn serve(
        &self,
        listener: TcpListener,
        allowed: watch::Receiver<Clients>,
        answers: &Answers,
        stop: CancellationToken,
    ) {
        let address = self.options.listen;
        let port = match Port::new(self.server.clone(), allowed, PortLimits::default()) {
            Ok(port) => port,
            Err(error) => {
                let error = full_error(&error);
                return tracing::error!(error, "the API cannot be served to workstations");
            }
        };
        tracing::info!(%address, fingerprint = self.server.fingerprint(), "the API is served to workstations");
        let each = answers.clone();
        let serve = move |visit: Visit<Box<dyn Stream>>| {
            let answers = each.clone();
            async move {
                let peer = visit.socket.map(Peer::remote);
                tokio::select! {
                    () = answers.on(visit.stream, peer) => {}
                    () = visit.cut.cancelled() => {}
                }
            }
        };
        let leaving = async {
            answers.given().await;
            tokio::time::sleep(BYTES).await;
        };
        if let Err(error) = port.serve(listener, serve, stop, leaving).await {
            tracing::error!(%error, "the API's port for workstations failed");
        }
    }

    async fn look_on(&self) {
        loop {
            tokio::time::sleep(LOOK).await;
            self.look();
        }
    }

    /// Has a certificate that is for all that this machine is called now.
    fn look(&self) {
        let (names, addresses) = self.called();
        match self.server.look(SystemTime::now(), &names, &addresses) {
            Ok(true) => tracing::info!(
                names = names.join(" "),
                "there is a new certificate for workstations"
            ),
            Ok(false) => {}
            Err(error) => {
                let error = full_error(&error);
                tracing::error!(error, "no new certificate for workstations could be made");
            }
        }
    }

    /// What this machine is reached by. What was said comes first, since a certificate has room for so many addresses.
    fn called(&self) -> (Vec<String>, Vec<IpAddr>) {
        let mut names = Vec::new();
        let mut addresses = vec![self.advertise, self.options.listen.ip()];
        for said in &self.options.names {
            match said.parse() {
                Ok(address) => addresses.push(address),
                Err(_) => names.push(said.clone()),
            }
        }
        names.extend(Some(hostname()).filter(|name| is_name(name)));
        names.push("localhost".to_owned());
        addresses.push(Ipv4Addr::LOCALHOST.into());
        addresses.push(Ipv6Addr::LOCALHOST.into());
        let read = |file: &str| {
            let path = format!("/proc/thread-self/net/{file}");
            // What the kernel does not tell has to be said.
            std::fs::read_to_string(path).unwrap_or_default()
        };
        addresses.extend(ipv4(&read("fib_trie")));
        addresses.extend(ipv6(&read("if_inet6")));
        let (mut seen, mut seen_names) = (BTreeSet::new(), BTreeSet::new());
        addresses.retain(|ip| !ip.is_unspecified() && seen.insert(*ip));
        names.retain(|name| seen_names.insert(name.clone()));
        (names, addresses)
    }
}

fn hostname() -> String {
    let name = rustix::system::uname();
    name.nodename().to_string_lossy().to_lowercase()
}

/// The machine's own addresses, of the kernel's table of routes (`/proc/net/fib_trie`): each stands above a line `/32 host LOCAL`. Pure.
fn ipv4(table: &str) -> BTreeSet<IpAddr> {
    let mut found = BTreeSet::new();
    let mut last = None;
    for line in table.lines() {
        match line.trim_start().strip_prefix("|-- ") {
            Some(address) => last = address.trim().parse::<Ipv4Addr>().ok(),
            None if line.ends_with("/32 host LOCAL") => found.extend(last.map(IpAddr::from)),
            None => {}
        }
    }
    found
}

/// The machine's own IPv6 addresses but those of one link alone, of `/proc/net/if_inet6`. Pure.
fn ipv6(table: &str) -> BTreeSet<IpAddr> {
    const LINK: &str = "20";
    let address = |line: &str| {
        let mut words = line.split_whitespace();
        let bits = u128::from_str_radix(words.next()?, 16).ok()?;
        // Behind it: the link's number, the prefix' length, the scope.
        (words.nth(2)? != LINK).then(|| IpAddr::from(Ipv6Addr::from_bits(bits)))
    };
    table.lines().filter_map(address).collect()
}

/// The socket at an address, when it can be had.
async fn listen_later(run_dir: &Path, address: SocketAddr) -> TcpListener {
    loop {
        tokio::time::sleep(AGAIN).await;
        if let Ok(listener) = doors::listen(run_dir, address).await {
            return listener;
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told() {
        let read = |text| Options::read(Some(text), Vec::new(), &[]);
        for (text, address) in [
            ("0.0.0.0:2376", "0.0.0.0:2376"),
            ("192.0.2.1", "192.0.2.1:2376"),
            ("[::]:1", "[::]:1"),
        ] {
            let found = read(text).unwrap().unwrap().listen;
            assert_eq!(found, address.parse().unwrap(), "{text}");
        }
        assert!(read("none").unwrap().is_none());
        for bad in ["", "web1", "1.2.3.4:0", ":2376", "1.2.3.4:x"] {
            assert!(read(bad).unwrap_err().contains("api_listen"), "{bad}");
        }
        let with = |name: &str, client: &str| {
            Options::read(Some("::1"), vec![name.to_owned()], &[client.to_owned()])
        };
        let key = format!("sha256:{}", "0f".repeat(32));
        assert!(with("web1.example.com", &key).is_ok());
        assert!(
            with("a b", &key)
                .unwrap_err()
                .contains("api_names: \"a b\"")
        );
        assert!(
            with("a", "sha256:0")
                .unwrap_err()
                .starts_with("api_clients: ")
        );
    }

    #[test]
    fn addresses_of_the_kernels_tables() {
        let table = "Main:\n  +-- 0.0.0.0/0 3 0 5\n     |-- 0.0.0.0\n        /0 universe UNICAST\nLocal:\n     |-- 10.0.2.15\n        /32 host LOCAL\n     |-- 10.0.2.255\n        /32 link BROADCAST\n     |-- 127.0.0.0\n        /32 link BROADCAST\n        /8 host LOCAL\n";
        assert_eq!(ipv4(table), ["10.0.2.15".parse().unwrap()].into());
        let table = "00000000000000000000000000000001 01 80 10 80       lo\nfe800000000000005054fffffe123456 02 40 20 80     eth0\n20010db8000000000000000000000007 02 40 00 80     eth0\n";
        let want = ["::1", "2001:db8::7"].map(|ip| ip.parse().unwrap());
        assert_eq!(ipv6(table), want.into());
    }
}
