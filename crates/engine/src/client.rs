//! The daemon's side of the conversation with the holder and the shims.

use crate::error::{EngineError, Result};
use coracle_shim_protocol::address::Address;
use coracle_shim_protocol::frame::{self, HEADER, Kind};
use coracle_shim_protocol::holder::{self, Reply as HolderReply, Request as HolderRequest};
pub use coracle_shim_protocol::shim::Reply;
use coracle_shim_protocol::shim::{self, Request, ShimSpec};
use coracle_shim_protocol::{DEADLINES, PROTOCOL_VERSION};
use serde::Serialize;
use std::io;
use std::path::{Path, PathBuf};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::Mutex;

/// One connection that carries frames.
#[derive(Debug)]
pub struct Connection {
    stream: UnixStream,
}

impl Connection {
    /// Connects to a socket.
    ///
    /// # Errors
    /// The socket's own.
    pub async fn open(path: &Path) -> io::Result<Self> {
        let address = Address::of(path)?;
        Ok(Self {
            stream: UnixStream::connect(address.path()).await?,
        })
    }

    /// Sends a control message.
    ///
    /// # Errors
    /// As [`frame::control`] and the stream's own.
    pub async fn send<T: Serialize>(&mut self, message: &T) -> io::Result<()> {
        self.stream.write_all(&frame::control(message)?).await
    }

    /// Receives a frame; `None` at a clean end. Not safe to cancel between the parts of one frame.
    ///
    /// # Errors
    /// `InvalidData` for a malformed header, `UnexpectedEof` in the middle of a frame.
    pub async fn receive(&mut self) -> io::Result<Option<(Kind, Vec<u8>)>> {
        let mut head = [0; HEADER];
        let mut got = 0;
        while got < HEADER {
            match self.stream.read(&mut head[got..]).await? {
                0 if got == 0 => return Ok(None),
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                n => got += n,
            }
        }
        let (kind, len) = frame::parse_header(&head)?;
        let mut payload = vec![0; len];
        self.stream.read_exact(&mut payload).await?;
        Ok(Some((kind, payload)))
    }

    /// Receives a control message.
    ///
    /// # Errors
    /// `UnexpectedEof` when the peer left, `InvalidData` for anything else than such a message.
    pub async fn message<T: serde::de::DeserializeOwned>(&mut self) -> io::Result<T> {
        match self.receive().await? {
            Some((Kind::Control, payload)) => frame::parse(&payload),
            Some((kind, _)) => Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("a {kind:?} frame where a message was expected"),
            )),
            None => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }

    /// The stream, for stdio that is copied as it comes.
    pub fn into_stream(self) -> UnixStream {
        self.stream
    }
}

/// The holder, over one connection that is made again when it was lost.
#[derive(Debug)]
pub struct Holder {
    socket: PathBuf,
    connection: Mutex<Option<Connection>>,
}

impl Holder {
    /// A holder that listens in this run directory.
    pub fn new(run_dir: &Path) -> Self {
        Self {
            socket: run_dir.join(holder::SOCKET),
            connection: Mutex::new(None),
        }
    }

    async fn ask(&self, action: &'static str, request: &HolderRequest) -> Result<HolderReply> {
        let failed = |source| EngineError::Shim {
            whom: "holder".into(),
            action,
            source,
        };
        let mut slot = self.connection.lock().await;
        let mut connection = match slot.take() {
            Some(connection) => connection,
            None => Connection::open(&self.socket).await.map_err(failed)?,
        };
        connection.send(request).await.map_err(failed)?;
        let reply = connection.message().await.map_err(failed)?;
        // Only a connection whose conversation is complete is used again.
        *slot = Some(connection);
        match reply {
            HolderReply::Error { message } => Err(EngineError::Refused {
                whom: "holder".into(),
                message,
            }),
            reply => Ok(reply),
        }
    }

    /// Asks for the holder's version and pid.
    ///
    /// # Errors
    /// [`EngineError::Shim`] when it cannot be reached.
    pub async fn hello(&self) -> Result<(u32, u32)> {
        match self
            .ask(
                "greeting",
                &HolderRequest::Hello {
                    version: PROTOCOL_VERSION,
                },
            )
            .await?
        {
            HolderReply::Hello { version, pid } => Ok((version, pid)),
            other => Err(unexpected("holder", &other)),
        }
    }

    /// Forks a shim; its socket accepts connections when this returns its process id.
    ///
    /// # Errors
    /// [`EngineError::Shim`], or [`EngineError::Refused`] with the holder's cause.
    pub async fn spawn(&self, spec: ShimSpec) -> Result<u32> {
        // What says nothing new is understood by an older holder.
        let version = if spec.deadline.is_some() {
            DEADLINES
        } else {
            1
        };
        let spec = ShimSpec { version, ..spec };
        match self
            .ask(
                "starting a shim",
                &HolderRequest::Spawn {
                    spec: Box::new(spec),
                },
            )
            .await?
        {
            HolderReply::Spawned { pid } => Ok(pid),
            other => Err(unexpected("holder", &other)),
        }
    }

    /// Tells it to leave with its last shim.
    ///
    /// # Errors
    /// As [`Self::hello`].
    pub async fn retire(&self) -> Result<()> {
        self.ask("retiring", &HolderRequest::Retire)
            .await
            .map(|_| ())
    }
}

fn unexpected(whom: &str, reply: &impl std::fmt::Debug) -> EngineError {
    EngineError::Refused {
        whom: whom.into(),
        message: format!("answered {reply:?}, which was not expected"),
    }
}

/// The control connection to one shim.
#[derive(Debug)]
pub struct Shim {
    socket: PathBuf,
    whom: String,
    connection: Connection,
}

impl Shim {
    fn failed(whom: &str, action: &'static str) -> impl FnOnce(io::Error) -> EngineError {
        let whom = whom.to_owned();
        move |source| EngineError::Shim {
            whom,
            action,
            source,
        }
    }

    async fn open(run_dir: &Path, container: &str) -> Result<Self> {
        let socket = run_dir.join(shim::SOCKET);
        let whom = format!("shim of {container}");
        let connection = Connection::open(&socket)
            .await
            .map_err(Self::failed(&whom, "connecting"))?;
        Ok(Self {
            socket,
            whom,
            connection,
        })
    }

    async fn ask(&mut self, action: &'static str, request: &Request) -> Result<Reply> {
        self.connection
            .send(request)
            .await
            .map_err(Self::failed(&self.whom, action))?;
        self.reply(action).await
    }

    async fn reply(&mut self, action: &'static str) -> Result<Reply> {
        match self
            .connection
            .message()
            .await
            .map_err(Self::failed(&self.whom, action))?
        {
            Reply::Error { message } => Err(EngineError::Refused {
                whom: self.whom.clone(),
                message,
            }),
            reply => Ok(reply),
        }
    }

    /// Connects to a fresh shim and waits until its namespaces exist.
    ///
    /// # Errors
    /// [`EngineError::Shim`] or [`EngineError::Refused`].
    pub async fn prepare(run_dir: &Path, container: &str) -> Result<Self> {
        let mut shim = Self::open(run_dir, container).await?;
        match shim.ask("preparing", &Request::Prepare).await? {
            Reply::Prepared => Ok(shim),
            other => Err(unexpected(&shim.whom, &other)),
        }
    }

    /// Connects to a shim that was there before this daemon.
    ///
    /// # Errors
    /// [`EngineError::Shim`] when nobody listens any more.
    pub async fn watch(run_dir: &Path, container: &str) -> Result<(Self, shim::State)> {
        let mut shim = Self::open(run_dir, container).await?;
        match shim.ask("asking for its state", &Request::Watch).await? {
            Reply::State { state } => Ok((shim, state)),
            other => Err(unexpected(&shim.whom, &other)),
        }
    }

    /// Starts the container and returns init's process id.
    ///
    /// # Errors
    /// [`EngineError::Start`] with docker's exit code when the process could not be started.
    pub async fn start(&mut self) -> Result<u32> {
        match self.ask("starting", &Request::Start).await? {
            Reply::Started { pid } => Ok(pid),
            Reply::Failed {
                reason: shim::FailReason::Late,
                message,
            } => Err(EngineError::NotPermitted(message)),
            Reply::Failed { reason, message } => Err(EngineError::Start {
                code: start_code(reason),
                message,
            }),
            other => Err(unexpected(&self.whom, &other)),
        }
    }

    /// Waits for the container's end.
    ///
    /// # Errors
    /// [`EngineError::Shim`] when the shim itself is gone.
    pub async fn exited(&mut self) -> Result<shim::ExitStatus> {
        match self.reply("waiting").await? {
            Reply::Exited { status } => Ok(status),
            other => Err(unexpected(&self.whom, &other)),
        }
    }

    /// Lets the shim leave. The future returned ends when it has: its mounts, control group and run directory are gone then.
    pub async fn release(mut self) -> impl Future<Output = ()> + Send {
        // A shim that is gone already needs no leave.
        let _ = self.connection.send(&Request::Release).await;
        async move {
            // A container whose end was still on its way says no at first, and tells its end then.
            while let Ok(Some(_)) = self.connection.receive().await {
                if self.connection.send(&Request::Release).await.is_err() {
                    break;
                }
            }
        }
    }

    /// Sends one request on a connection of its own, such as `Kill` or `Resize`.
    ///
    /// # Errors
    /// [`EngineError::Shim`] or [`EngineError::Refused`].
    pub async fn request(run_dir: &Path, container: &str, request: &Request) -> Result<()> {
        let mut shim = Self::open(run_dir, container).await?;
        match shim.ask("asking", request).await? {
            Reply::Ok => Ok(()),
            other => Err(unexpected(&shim.whom, &other)),
        }
    }

    /// Opens a connection that carries stdio: the request is `Attach` or `Exec`, its first answer is returned.
    ///
    /// # Errors
    /// [`EngineError::Shim`], [`EngineError::Refused`], or [`EngineError::Start`] for an exec that failed.
    pub async fn stdio(
        run_dir: &Path,
        container: &str,
        request: &Request,
    ) -> Result<(Connection, Reply)> {
        let mut shim = Self::open(run_dir, container).await?;
        match shim.ask("attaching", request).await? {
            Reply::Failed { reason, message } => Err(EngineError::Start {
                code: start_code(reason),
                message,
            }),
            reply @ (Reply::Attached | Reply::Started { .. }) => Ok((shim.connection, reply)),
            other => Err(unexpected(&shim.whom, &other)),
        }
    }

    /// The socket it listens on.
    pub fn socket(&self) -> &Path {
        &self.socket
    }
}

/// Docker's exit code for a process that could not be started.
fn start_code(reason: shim::FailReason) -> i32 {
    match reason {
        shim::FailReason::NotFound => 127,
        shim::FailReason::NotExecutable => 126,
        shim::FailReason::Late | shim::FailReason::Other => 125,
    }
}
