//! How a daemon is reached.

use super::{Body, locked};
use crate::error::{CliError, Result};
use coracle_cluster::clients::{Credentials, Remote};
use coracle_shim_protocol::address::Address;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::rt::{Read, Write};
use hyper_util::rt::TokioIo;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::net::UnixStream;
use tokio::task::JoinHandle;

/// How long it is waited for the reason of a connection's end.
const REASON: Duration = Duration::from_secs(1);

/// Where a daemon is.
#[derive(Debug, Clone)]
pub enum Way {
    /// On this machine, at its Unix socket.
    Socket(PathBuf),
    /// On another machine, at its port for workstations.
    Machine(Machine),
}

/// A machine that is reached with certificates.
#[derive(Debug, Clone)]
pub struct Machine {
    remote: Remote,
    /// Where `ca.pem`, `cert.pem` and `key.pem` are.
    dir: PathBuf,
    /// How the connection that was made last ended.
    last: Arc<Mutex<Option<Ended>>>,
}

type Ended = JoinHandle<Option<hyper::Error>>;

/// Where this workstation's certificates are: CORACLE_CERT_PATH, DOCKER_CERT_PATH, `~/.coracle`, or `~/.docker` where they are there alone.
pub fn certificates() -> PathBuf {
    let said = |name| std::env::var_os(name).filter(|path| !path.is_empty());
    if let Some(path) = said("CORACLE_CERT_PATH").or_else(|| said("DOCKER_CERT_PATH")) {
        return path.into();
    }
    let home = PathBuf::from(said("HOME").unwrap_or_else(|| "/".into()));
    let (ours, dockers) = (home.join(".coracle"), home.join(".docker"));
    match !ours.join("cert.pem").exists() && dockers.join("cert.pem").exists() {
        true => dockers,
        false => ours,
    }
}

impl Way {
    /// Reads `unix:///path` or `tcp://HOST:PORT`, as docker writes them.
    ///
    /// # Errors
    /// `Usage` for anything else.
    pub fn read(url: &str) -> Result<Self> {
        if let Some(path) = url.strip_prefix("unix://") {
            return Ok(Self::Socket(path.into()));
        }
        let Some(address) = url.strip_prefix("tcp://") else {
            return Err(CliError::Usage(format!(
                "host \"{url}\" is not supported by this release; write unix:///path, or tcp://HOST:2376 for another machine"
            )));
        };
        Ok(Self::Machine(Machine {
            remote: Remote::read(address)?,
            dir: certificates(),
            last: Arc::default(),
        }))
    }

    pub(super) async fn dial(&self) -> Result<UnixStream> {
        let Self::Socket(socket) = self else {
            return Err(CliError::Usage(
                "a connection to a daemon is passed on from its own machine only: leave --host out"
                    .into(),
            ));
        };
        let unreachable = |source| CliError::Unreachable {
            socket: socket.clone(),
            source,
        };
        let address = Address::of(socket).map_err(unreachable)?;
        let stream = UnixStream::connect(address.path()).await;
        stream.map_err(unreachable)
    }

    pub(super) async fn connect(&self) -> Result<SendRequest<Body>> {
        match self {
            Self::Socket(_) => Ok(speak(TokioIo::new(self.dial().await?)).await?.0),
            Self::Machine(machine) => {
                // Read anew for each connection: a certificate may be exchanged while a command waits.
                let credentials = Credentials::read(&machine.dir)?;
                let stream = machine.remote.connect(&credentials).await?;
                let (sender, ended) = speak(TokioIo::new(stream)).await?;
                *locked(&machine.last) = Some(ended);
                Ok(sender)
            }
        }
    }

    /// The run directory, if no daemon has it.
    pub(super) fn without_daemon(&self) -> Option<&Path> {
        let Self::Socket(socket) = self else {
            return None;
        };
        let run_dir = socket.parent().unwrap_or(socket);
        (!crate::server::is_locked(run_dir)).then_some(run_dir)
    }

    /// What an error comes to: a machine says by TLS why it does not let somebody in, and only after that thinks to be in.
    pub(super) async fn told(&self, error: hyper::Error) -> CliError {
        let Self::Machine(machine) = self else {
            return error.into();
        };
        if let Some(refused) = machine.remote.refusal(&error) {
            return refused.into();
        }
        let last = locked(&machine.last).take();
        if let Some(last) = last
            && let Ok(Ok(Some(end))) = tokio::time::timeout(REASON, last).await
            && let Some(refused) = machine.remote.refusal(&end)
        {
            return refused.into();
        }
        error.into()
    }
}

/// Begins HTTP on a connection. The task ends with it.
async fn speak(
    stream: impl Read + Write + Unpin + Send + 'static,
) -> Result<(SendRequest<Body>, Ended)> {
    let (sender, connection) = handshake(stream).await?;
    let ended = tokio::spawn(async move { connection.with_upgrades().await.err() });
    Ok((sender, ended))
}
