//! `coracle daemon`: opens the floors from the ground up, serves, and leaves without stopping a container.

mod error;

pub use error::DaemonError;
pub(crate) use error::file;

use crate::api_port::ApiPort;
use crate::cluster::{self, Away, Cluster, Inside, Places};
use crate::doors::{self, Doors};
use crate::keep;
use crate::os::{Os, Rollout};
use crate::settings::{Settings, settings};
use coracle_api::machines::PeersElsewhere;
use coracle_api::{App, Machines};
use coracle_build::Builder;
use coracle_engine::{Door, Engine};
use coracle_fleet::{ConnectOptions, Fleet, Stores};
use coracle_store::EmbeddedStore;
use rustix::fs::{FlockOperation, Mode, chmod, chown};
use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::UnixListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Notify, watch};

/// Where things lie when nothing else is said.
pub const STATE_DIR: &str = "/var/lib/coracle";
/// As [`STATE_DIR`], for what does not survive a reboot.
pub const RUN_DIR: &str = "/run/coracle";
/// Names of the API's sockets in the run directory, and of what the holder keeps of them.
const SOCKETS: [&str; 2] = ["coracle.sock", "docker.sock"];
const LOCK: &str = "daemon.lock";
/// Longest time that a look at the lock takes.
const LOOKED_AT: Duration = Duration::from_millis(200);
/// How often the firewall is looked after.
const FIREWALL: Duration = Duration::from_secs(10);
/// How often the disk is.
const DISK: Duration = Duration::from_secs(300);

/// Flags of the daemon; each goes before the configuration file.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct DaemonArgs {
    /// Where images, containers and volumes are kept [default: /var/lib/coracle]
    #[arg(long, env = "CORACLE_STATE_DIR", value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
    /// Where sockets and shims live; emptied by a reboot [default: /run/coracle]
    #[arg(long, env = "CORACLE_RUN_DIR", value_name = "DIR")]
    pub run_dir: Option<PathBuf>,
    /// Configuration file [default: /etc/coracle/coracle.toml, if there is one]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Mirror of docker.io, asked before it; may be given more than once
    #[arg(long, value_name = "URL")]
    pub registry_mirror: Vec<String>,
    /// Where etcd's API is served to this machine's operator: an address of loopback and a port, or `none` [default: 127.0.0.1:2379]
    #[arg(long, env = "CORACLE_STORE_LISTEN", value_name = "ADDRESS:PORT")]
    pub store_listen: Option<String>,
    /// Where the API is served to workstations, over TLS and to clients that this machine knows alone: an address and a port [default: nowhere]
    #[arg(long, env = "CORACLE_API_LISTEN", value_name = "ADDRESS[:PORT]")]
    pub api_listen: Option<String>,
    /// Where other machines reach this one's door [default: the source address of the default route, port 7373]
    #[arg(long, env = "CORACLE_ADVERTISE", value_name = "ADDRESS[:PORT]")]
    pub advertise: Option<String>,
    /// Registry without TLS or with a certificate that nobody vouches for; may be given more than once
    #[arg(long, value_name = "HOST[:PORT]")]
    pub insecure_registry: Vec<String>,
}

/// Runs until SIGTERM, SIGINT or a request to go down.
///
/// # Errors
/// [`DaemonError`] naming what could not be had.
pub fn run(args: &DaemonArgs) -> Result<(), DaemonError> {
    let filter = tracing_subscriber::EnvFilter::try_from_env("CORACLE_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    // Somebody else's subscriber is as good.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_target(false)
        .try_init();
    let settings = settings(args)?;
    let anew = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        // Threads that wait on the kernel: each costs little, and many starts at once use many.
        .max_blocking_threads(64)
        .thread_keep_alive(Duration::from_secs(5))
        .enable_all()
        .build()
        .map_err(DaemonError::Runtime)?
        .block_on(serve(settings))?;
    if anew {
        // In this process' place: its supervisor need not know.
        let program = std::env::current_exe().map_err(DaemonError::Runtime)?;
        let error = std::process::Command::new(program)
            .args(std::env::args_os().skip(1))
            .exec();
        return Err(DaemonError::Runtime(error));
    }
    Ok(())
}

/// Answers whether the daemon is to begin anew, as another machine than it was.
async fn serve(settings: Settings) -> Result<bool, DaemonError> {
    let Settings {
        engine: options,
        marks,
        store_listen,
        store: limits,
        cluster,
        labels,
        updates,
        config,
        api,
    } = settings;
    let advertise = cluster.advertise;
    let run_dir = options.run_dir.clone();
    std::fs::create_dir_all(&run_dir).map_err(file("making", &run_dir))?;
    let _lock = lock(&run_dir)?;
    let _network = alone_in_the_network()?;
    let mut terminate = signal(SignalKind::terminate()).map_err(DaemonError::Runtime)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(DaemonError::Runtime)?;
    let engine = Engine::open(options).await?;
    let down = Arc::new(Notify::new());
    let store = engine.options().state_dir.join("store");
    let opened = limits.clone();
    let store = tokio::task::spawn_blocking(move || EmbeddedStore::open(&store, opened))
        .await
        .map_err(|e| DaemonError::Runtime(io::Error::other(e)))??;
    let cluster = Cluster::open(&engine, Arc::new(store), cluster).await?;
    if let Err(why) = cluster.fits_agreed().await {
        return Err(DaemonError::Config { path: config, why });
    }
    let store = cluster.store();
    let doors = Doors::new(store.clone(), &limits, &engine, cluster.store_number).await?;
    let stop = watch::Sender::new(false);
    // Before units start, which may ask for it at once.
    engine.open_door(app_door(&doors, &stop)).await;
    let port = match api {
        Some(api) => match ApiPort::open(api, advertise, &engine.options().state_dir) {
            Ok(port) => Some(port),
            // What runs here is to be looked after, whoever can look in.
            Err(error) => {
                let error = coracle_engine::full_error(&error);
                tracing::error!(error, "workstations are not let in");
                None
            }
        },
        None => None,
    };
    let stores = Stores {
        labels,
        api_ca: port.as_ref().map_or_else(String::new, ApiPort::ca),
        ..cluster.stores()
    };
    let away = Arc::new(Away(cluster.clone()));
    let peers = PeersElsewhere::new(away.clone());
    // Before the fleet, which fetches images as soon as it is there.
    engine.images().set_peers(Arc::new(peers));
    let fleet = Fleet::join(stores, engine.clone()).await?;
    if let std::net::IpAddr::V4(underlay) = advertise.ip()
        && !underlay.is_unspecified()
    {
        fleet.connect_machines(ConnectOptions { underlay });
    } else {
        engine.elsewhere_is_known();
    }
    let places = Places {
        fleet: fleet.clone(),
        cluster: cluster.clone(),
    };
    let app = App {
        builder: Builder::open(engine.clone())?,
        engine: engine.clone(),
        machines: Machines::new(away, Arc::new(places)),
        fleet: fleet.clone(),
        marks,
        down: down.clone(),
    };
    let disk = tokio::spawn(look_after_the_disk(app.clone()));
    let inside = Inside {
        fleet: fleet.clone(),
        own: coracle_api::door_routes(app.clone()),
        all: coracle_api::router(app.clone()),
        store: doors.identity(),
        run_dir: run_dir.clone(),
    };
    cluster.begin(inside).await?;
    let os = match Os::here(&engine, store.clone(), Rollout::new(updates, &run_dir)) {
        Ok(os) => Some(os),
        Err(error) => {
            if !error.is_another_system() {
                let error = coracle_engine::full_error(&error);
                tracing::error!(error, "this machine's slots cannot be used");
            }
            None
        }
    };
    let state = (cluster.clone(), fleet);
    let router = coracle_api::router(app)
        .merge(cluster::routes(cluster.clone()))
        .merge(crate::os::routes(os.clone()))
        .layer(axum::middleware::from_fn_with_state(state, cluster::led))
        .merge(doors.for_command());
    let mut servers = tokio::task::JoinSet::new();
    for name in SOCKETS {
        let listener = listener(&run_dir, name).await?;
        servers.spawn(coracle_api::serve(
            listener,
            router.clone(),
            stop.subscribe(),
        ));
    }
    let ports = port.as_ref().map(ApiPort::address).into_iter();
    let wanted: Vec<SocketAddr> = ports.chain(store_listen).collect();
    doors::keep_only(&run_dir, &wanted).await;
    let port = match port {
        Some(port) => {
            let store = (store, doors.identity().cluster);
            Some(port.begin(router, store, &run_dir, stop.subscribe()).await)
        }
        None => None,
    };
    let operator = operator_door(&run_dir, store_listen, &doors, &stop).await;
    let firewall = tokio::spawn(look_after_the_network(engine.clone()));
    tracing::info!(run_dir = %run_dir.display(), version = coracle_api::VERSION, "ready");
    // Without a supervisor there is nobody to tell.
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
    if let Some(os) = os {
        tokio::spawn(os.keep());
    }
    let mut anew = false;
    let ours_to_remove = tokio::select! {
        _ = terminate.recv() => false,
        _ = interrupt.recv() => false,
        () = down.notified() => true,
        () = cluster.again.notified() => {
            anew = true;
            false
        }
        Some(ended) = servers.join_next() => {
            if let Ok(Err(error)) = ended {
                tracing::error!(%error, "the API's socket failed");
            }
            false
        }
    };
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
    cluster.leave_off();
    firewall.abort();
    disk.abort();
    stop.send_replace(true);
    while servers.join_next().await.is_some() {}
    // They end by the same sign.
    if let Some(operator) = operator {
        let _ = operator.await;
    }
    if let Some(port) = port {
        let _ = port.await;
    }
    if let Err(error) = engine.images().write_down() {
        let error = coracle_engine::full_error(&error);
        tracing::warn!(error, "when images were used last is not written down");
    }
    if ours_to_remove {
        for name in SOCKETS {
            let _ = std::fs::remove_file(run_dir.join(name));
        }
        tracing::info!("everything is down; the daemon leaves");
    } else {
        tracing::info!("the daemon leaves; containers run on");
    }
    Ok(anew)
}

/// The store at each bridge's address, for apps.
fn app_door(doors: &Doors, stop: &watch::Sender<bool>) -> Door {
    let (face, stop) = (doors.for_apps(), stop.subscribe());
    Arc::new(move |listener| Box::pin(coracle_gateway::serve(listener, face.clone(), stop.clone())))
}

/// The store on loopback. That somebody else has the address (an etcd of this machine's, say) keeps nothing else from working.
async fn operator_door(
    run_dir: &Path,
    address: Option<SocketAddr>,
    doors: &Doors,
    stop: &watch::Sender<bool>,
) -> Option<tokio::task::JoinHandle<io::Result<()>>> {
    let address = address?;
    match doors::listen(run_dir, address).await {
        Ok(listener) => Some(tokio::spawn(coracle_gateway::serve(
            listener,
            doors.for_operator(),
            stop.subscribe(),
        ))),
        Err(error) => {
            tracing::warn!(
                error = coracle_engine::full_error(&error),
                "the store is not served on {address}: give another with --store-listen, or none"
            );
            None
        }
    }
}

/// One daemon a run directory.
fn lock(run_dir: &Path) -> Result<File, DaemonError> {
    let path = run_dir.join(LOCK);
    let lock = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(file("opening", &path))?;
    let give_up = Instant::now() + LOOKED_AT;
    // A client that looks whether it is locked has it for an instant.
    while rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
        if Instant::now() > give_up {
            return Err(DaemonError::Busy {
                path: run_dir.to_owned(),
            });
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(lock)
}

/// Whether a daemon has the run directory.
pub(crate) fn is_locked(run_dir: &Path) -> bool {
    let lock = File::open(run_dir.join(LOCK));
    lock.is_ok_and(|lock| rustix::fs::flock(&lock, FlockOperation::NonBlockingLockShared).is_err())
}

/// Links, addresses and rules of a network namespace are one daemon's: another one would take them away from it. The name
/// is the namespace's own, and goes with its holder.
fn alone_in_the_network() -> Result<UnixDatagram, DaemonError> {
    let name = std::os::unix::net::SocketAddr::from_abstract_name("coracle.network");
    let bound = name.and_then(|name| UnixDatagram::bind_addr(&name));
    bound.map_err(|e| match e.kind() {
        io::ErrorKind::AddrInUse => DaemonError::Network,
        _ => DaemonError::Runtime(e),
    })
}

/// The socket that the holder kept, in which clients wait already, or a new one that it keeps from now on.
async fn listener(run_dir: &Path, name: &'static str) -> Result<UnixListener, DaemonError> {
    let path = run_dir.join(name);
    let failed = |action| file(action, &path);
    let kept = keep::fetch(run_dir, name).await;
    let kept = kept.map_err(failed("fetching"))?;
    if let Some(kept) = kept.filter(|_| path.exists()) {
        let listener = std::os::unix::net::UnixListener::from(kept);
        listener.set_nonblocking(true).map_err(failed("using"))?;
        return UnixListener::from_std(listener).map_err(failed("using"));
    }
    match std::fs::remove_file(&path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(failed("removing the old")(e)),
        _ => {}
    }
    let listener = UnixListener::bind(&path).map_err(failed("listening on"))?;
    chmod(&path, Mode::from_raw_mode(0o660))
        .map_err(|e| failed("setting the mode of")(e.into()))?;
    if let Some(group) = group("coracle") {
        chown(&path, None, Some(group)).map_err(|e| failed("giving its group to")(e.into()))?;
    }
    let copy: OwnedFd = rustix::io::dup(&listener).map_err(|e| failed("keeping")(e.into()))?;
    let kept = keep::deposit(run_dir, name, copy).await;
    kept.map_err(failed("keeping"))?;
    Ok(listener)
}

/// A group's number, from group(5).
fn group(name: &str) -> Option<rustix::fs::Gid> {
    let text = std::fs::read_to_string("/etc/group").ok()?;
    let line = text.lines().find(|l| l.split(':').next() == Some(name))?;
    line.split(':')
        .nth(2)?
        .parse()
        .ok()
        .map(rustix::fs::Gid::from_raw)
}

/// Somebody else's reload may have taken our table away, or routes to other machines.
async fn look_after_the_network(engine: Engine) {
    loop {
        tokio::time::sleep(FIREWALL).await;
        match engine.ensure_overlay().await {
            Ok(true) => tracing::warn!("the network between machines was not whole and is again"),
            Err(error) => tracing::error!(
                error = coracle_engine::full_error(&error),
                "the network between machines cannot be made whole"
            ),
            Ok(false) => {}
        }
        let engine = engine.clone();
        let looked = tokio::task::spawn_blocking(move || engine.networks().ensure_firewall()).await;
        match looked {
            Ok(Ok(true)) => tracing::warn!("the firewall table was gone and is loaded again"),
            Ok(Err(error)) => tracing::error!(
                error = coracle_engine::full_error(&error),
                "the firewall cannot be loaded"
            ),
            _ => {}
        }
    }
}

/// Makes room before there is none.
async fn look_after_the_disk(app: App) {
    loop {
        tokio::time::sleep(DISK).await;
        // What units need is asked only if something is to go.
        let full = app.builder.is_full(app.marks.clone()).await;
        let done = match full {
            Ok(false) => continue,
            Ok(true) => match app.fleet.images().await {
                Ok(needed) => app
                    .builder
                    .collect(app.marks.clone(), needed)
                    .await
                    .map(drop),
                // What is not known to be needed by nobody stays.
                Err(error) => {
                    let error = coracle_engine::full_error(&error);
                    tracing::error!(
                        error,
                        "no room can be made on the disk: it is not known which images units need"
                    );
                    continue;
                }
            },
            Err(error) => Err(error),
        };
        if let Err(error) = done {
            let error = coracle_engine::full_error(&error);
            tracing::error!(error, "no room could be made on the disk");
        }
    }
}
