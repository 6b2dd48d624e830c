//! Speaking HTTP with the daemon over its Unix socket, or with another machine's over TLS.

mod lines;
mod way;

pub use lines::{JsonLines, check_line};
pub use way::{Way, certificates};

use crate::error::{CliError, Result};
use bytes::Bytes;
use http_body_util::{BodyExt, Full, StreamBody, combinators::BoxBody};
use hyper::body::{Frame, Incoming};
use hyper::client::conn::http1::SendRequest;
use hyper::{Method, Request, Response, StatusCode, header};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::io::AsyncRead;
use tokio::net::UnixStream;

/// A request's body.
pub type Body = BoxBody<Bytes, io::Error>;
/// A connection that was taken over.
pub type Hijacked = TokioIo<hyper::upgrade::Upgraded>;

/// The daemon, as a client sees it.
#[derive(Debug, Clone)]
pub struct Client {
    way: Way,
    /// The machine that everything is asked of, if it is not the daemon's own.
    machine: Option<String>,
    /// A connection whose last answer has been read.
    idle: Arc<Mutex<Option<SendRequest<Body>>>>,
    /// Nobody reads what it waits for.
    silent: bool,
}

/// How long an answer may take before it is asked whether there is a daemon at all.
const SILENCE: std::time::Duration = std::time::Duration::from_secs(2);

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Every change under this lock is one assignment.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A body of JSON.
pub fn json(value: &Value) -> Body {
    Full::from(value.to_string())
        .map_err(|e| match e {})
        .boxed()
}

/// No body.
pub fn empty() -> Body {
    Full::default()
        .map_err(|e: std::convert::Infallible| match e {})
        .boxed()
}

/// A body that is read as it is sent.
pub fn stream(from: impl AsyncRead + Send + Sync + 'static) -> Body {
    use tokio_util::io::ReaderStream;
    let pieces = ReaderStream::with_capacity(from, 256 << 10);
    BodyExt::boxed(StreamBody::new(Frames(Box::pin(pieces))))
}

struct Frames<S>(std::pin::Pin<Box<S>>);

impl<S: futures_util::Stream<Item = io::Result<Bytes>>> futures_util::Stream for Frames<S> {
    type Item = io::Result<Frame<Bytes>>;

    fn poll_next(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Self::Item>> {
        self.0
            .as_mut()
            .poll_next(cx)
            .map(|o| o.map(|r| r.map(Frame::data)))
    }
}

/// Text as it may stand in a path or query.
pub fn escape(text: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'~');
    text.bytes()
        .map(|b| {
            if plain(b) {
                char::from(b).to_string()
            } else {
                format!("%{b:02X}")
            }
        })
        .collect()
}

/// A query string of the parameters that are there.
pub fn query(pairs: &[(&str, String)]) -> String {
    let pairs: Vec<String> = pairs
        .iter()
        .filter(|(_, v)| !v.is_empty())
        .map(|(k, v)| format!("{k}={}", escape(v)))
        .collect();
    if pairs.is_empty() {
        String::new()
    } else {
        format!("?{}", pairs.join("&"))
    }
}

impl Client {
    /// A client of the daemon that is reached so.
    pub fn new(way: Way) -> Self {
        Self {
            way,
            machine: None,
            idle: Arc::default(),
            silent: false,
        }
    }

    /// One that says nothing while it waits.
    pub fn silent(socket: &Path) -> Self {
        Self {
            silent: true,
            ..Self::new(Way::Socket(socket.to_owned()))
        }
    }

    /// One that asks another machine of the cluster, by way of this one's daemon.
    pub fn on(&self, machine: Option<String>) -> Self {
        Self {
            way: self.way.clone(),
            machine,
            idle: Arc::default(),
            silent: self.silent,
        }
    }

    /// A connection for somebody who speaks with the daemon himself.
    ///
    /// # Errors
    /// `Usage` for a daemon on another machine.
    pub async fn dial(&self) -> Result<UnixStream> {
        self.way.dial().await
    }

    /// Sends a request and gives the answer whatever its status.
    pub async fn send(
        &self,
        method: Method,
        path: &str,
        body: Body,
        headers: &[(header::HeaderName, String)],
    ) -> Result<Response<Incoming>> {
        Ok(self.sent(method, path, body, headers).await?.0)
    }

    /// Waits for an answer. What it waits for is said after a while: a daemon that is away, whose socket the holder keeps, or a
    /// cluster that cannot be asked.
    async fn waiting<T>(&self, answer: impl Future<Output = T>) -> T {
        if self.silent {
            return answer.await;
        }
        let mut answer = std::pin::pin!(answer);
        // Some answers come after hours, and with good reason.
        let mut rest = SILENCE;
        loop {
            tokio::select! {
                answer = &mut answer => return answer,
                () = tokio::time::sleep(rest) => rest *= 2,
            }
            if let Some(run_dir) = self.way.without_daemon() {
                eprintln!(
                    "no daemon runs for {}; waiting for one (start it with `coracle daemon`, or end this with Ctrl-C)",
                    run_dir.display()
                );
                break;
            }
            tokio::select! {
                answer = &mut answer => return answer,
                trouble = self.trouble() => if let Some(trouble) = trouble {
                    eprintln!("waiting: {trouble} (end this with Ctrl-C)");
                    break;
                },
            }
        }
        answer.await
    }

    /// What the daemon says keeps it from answering.
    async fn trouble(&self) -> Option<String> {
        let mut sender = self.way.connect().await.ok()?;
        let request = Request::get("/v1/cluster").header(header::HOST, "coracle");
        let answer = sender
            .send_request(request.body(empty()).ok()?)
            .await
            .ok()?;
        let bytes = answer.into_body().collect().await.ok()?.to_bytes();
        let found: Value = serde_json::from_slice(&bytes).ok()?;
        found["trouble"].as_str().map(str::to_owned)
    }

    /// Sends a request; the connection comes back with the answer.
    async fn sent(
        &self,
        method: Method,
        path: &str,
        body: Body,
        headers: &[(header::HeaderName, String)],
    ) -> Result<(Response<Incoming>, SendRequest<Body>)> {
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, "coracle");
        if let Some(machine) = &self.machine {
            request = request.header(coracle_api::machines::MACHINE, machine);
        }
        for (name, value) in headers {
            request = request.header(name, value);
        }
        let request = request
            .body(body)
            .map_err(|e| CliError::Usage(format!("this cannot be asked: {e}")))?;
        let idle = locked(&self.idle).take();
        let request = match idle {
            Some(mut sender) => match self.waiting(sender.try_send_request(request)).await {
                Ok(answer) => return Ok((answer, sender)),
                Err(mut error) => match error.take_message() {
                    // It was closed in the meantime and nothing was sent.
                    Some(request) => request,
                    None => return Err(self.way.told(error.into_error()).await),
                },
            },
            None => request,
        };
        let mut sender = self.way.connect().await?;
        match self.waiting(sender.send_request(request)).await {
            Ok(answer) => Ok((answer, sender)),
            Err(error) => Err(self.way.told(error).await),
        }
    }

    /// Sends a request; an answer that is an error becomes one.
    pub async fn ask(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Response<Incoming>> {
        Ok(self.asked(method, path, body).await?.0)
    }

    /// Asks; what may be asked twice is asked again when the daemon went away with the question. The next daemon has it then,
    /// and a start it knows by an id of its own.
    async fn asked(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<(Response<Incoming>, SendRequest<Body>)> {
        let mut headers = Vec::new();
        if body.is_some() {
            headers.push((header::CONTENT_TYPE, "application/json".to_owned()));
        }
        let mut tries = if repeatable(&method, path) { TRIES } else { 1 };
        if tries > 1 && is_start(path) {
            let name = header::HeaderName::from_static(coracle_api::REQUEST);
            headers.push((name, request_id()));
        }
        loop {
            tries -= 1;
            let body = body.map_or_else(empty, json);
            let sent = self.sent(method.clone(), path, body, &headers).await;
            match sent {
                Err(CliError::Http(error)) if tries > 0 && is_cut(&error) => {}
                sent => {
                    let (answer, sender) = sent?;
                    return Ok((check(answer).await?, sender));
                }
            }
        }
    }

    /// Asks and reads the answer as JSON; an empty one is null.
    pub async fn json(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Value> {
        let bytes = self.bytes(method, path, body).await?;
        if bytes.iter().all(u8::is_ascii_whitespace) {
            return Ok(Value::Null);
        }
        Ok(serde_json::from_slice(&bytes)?)
    }

    async fn bytes(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Bytes> {
        let (answer, sender) = self.asked(method, path, body).await?;
        let bytes = answer.into_body().collect().await?.to_bytes();
        *locked(&self.idle) = Some(sender);
        Ok(bytes)
    }

    /// Gets JSON of a known form, which is read in a fraction of the time.
    pub async fn get_as<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        let bytes = self.bytes(Method::GET, path, None).await?;
        Ok(serde_json::from_slice(&bytes)?)
    }

    /// Gets JSON.
    pub async fn get(&self, path: &str) -> Result<Value> {
        self.json(Method::GET, path, None).await
    }

    /// Posts without caring for the answer's body.
    pub async fn post(&self, path: &str, body: Option<&Value>) -> Result<()> {
        self.ask(Method::POST, path, body).await.map(drop)
    }

    /// Posts and takes the connection over. With `exit` the daemon is asked to tell at the stream's end how it ended, by
    /// the condition of a wait.
    pub async fn hijack(
        &self,
        path: &str,
        body: Option<&Value>,
        exit: Option<&str>,
    ) -> Result<Joined> {
        let mut headers = vec![
            (header::CONNECTION, "Upgrade".to_owned()),
            (header::UPGRADE, "tcp".to_owned()),
            (header::CONTENT_TYPE, "application/json".to_owned()),
        ];
        let exit_header = header::HeaderName::from_static(coracle_api::EXIT);
        if let Some(exit) = exit {
            headers.push((exit_header.clone(), exit.to_owned()));
        }
        let sent = body.map_or_else(empty, json);
        let answer = check(self.send(Method::POST, path, sent, &headers).await?).await?;
        let exec = answer.headers().get(coracle_api::EXEC);
        Ok(Joined {
            tells: answer.headers().contains_key(exit_header),
            exec: exec.and_then(|v| v.to_str().ok()).map(str::to_owned),
            connection: TokioIo::new(hyper::upgrade::on(answer).await?),
        })
    }
}

/// A connection that was taken over, and what was said with it.
pub struct Joined {
    /// The connection.
    pub connection: Hijacked,
    /// The stream's last frame will tell how it ended.
    pub tells: bool,
    /// Id of the process that was made for it.
    pub exec: Option<String>,
}

/// How often a question is asked at most.
const TRIES: u32 = 5;

/// Whether asking twice does no more than asking once.
fn repeatable(method: &Method, path: &str) -> bool {
    let path = path.split('?').next().unwrap_or(path);
    let (rest, verb) = path.rsplit_once('/').unwrap_or_default();
    *method == Method::GET
        || (*method == Method::POST
            && (rest.starts_with("/containers/") || rest.starts_with("/v1/units/"))
            && matches!(verb, "start" | "stop"))
        || (*method == Method::POST
            && rest.starts_with("/v1/services/")
            && matches!(verb, "deploy" | "rollback"))
        || (*method == Method::POST
            && rest.starts_with("/v1/machines/")
            && matches!(verb, "cordon" | "uncordon" | "drain" | "undrain"))
}

fn is_start(path: &str) -> bool {
    path.split('?')
        .next()
        .and_then(|p| p.rsplit('/').next())
        .is_some_and(|verb| matches!(verb, "start" | "deploy" | "rollback"))
}

/// An id that no other request has.
fn request_id() -> String {
    use std::hash::{BuildHasher, RandomState};
    let time = std::time::SystemTime::now();
    let own = (std::process::id(), time);
    // The standard library's hashes begin with the system's random bytes.
    format!("{:016x}", RandomState::new().hash_one(own))
}

/// Whether the connection ended before the answer.
fn is_cut(error: &hyper::Error) -> bool {
    let reset = || {
        let cause = std::error::Error::source(error).and_then(|e| e.downcast_ref::<io::Error>());
        cause.is_some_and(|e| {
            matches!(
                e.kind(),
                // The last by TLS, of a daemon that was killed.
                io::ErrorKind::ConnectionReset
                    | io::ErrorKind::BrokenPipe
                    | io::ErrorKind::UnexpectedEof
            )
        })
    };
    error.is_incomplete_message() || error.is_canceled() || error.is_closed() || reset()
}

/// Turns an answer that is an error into one.
pub async fn check(answer: Response<Incoming>) -> Result<Response<Incoming>> {
    let status = answer.status();
    let partial = answer.headers().get(coracle_api::PARTIAL);
    if let Some(Ok(why)) = partial.map(|why| why.to_str()) {
        eprintln!("{why}");
    }
    if status.is_success()
        || status == StatusCode::SWITCHING_PROTOCOLS
        || status == StatusCode::NOT_MODIFIED
    {
        return Ok(answer);
    }
    let bytes = answer.into_body().collect().await?.to_bytes();
    let value: Value = serde_json::from_slice(&bytes).unwrap_or_default();
    let message = value["message"].as_str();
    // fleet's API has it one floor deeper.
    let message = message
        .or_else(|| value["error"]["message"].as_str())
        .map_or_else(
            || String::from_utf8_lossy(&bytes).into_owned(),
            str::to_owned,
        );
    Err(CliError::Daemon {
        status: status.as_u16(),
        message,
        diagnostics: value["diagnostics"].clone(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_be_asked_twice() {
        for (method, path, may) in [
            (Method::GET, "/containers/json?all=1", true),
            (Method::POST, "/containers/x/start", true),
            (Method::POST, "/containers/x/stop?t=3", true),
            (Method::POST, "/v1/units/x.service/stop?block=1", true),
            (Method::POST, "/v1/machines/x/drain", true),
            (Method::POST, "/containers/x/kill", false),
            (Method::POST, "/containers/create?name=start", false),
            (Method::POST, "/exec/x/start", false),
            (Method::DELETE, "/containers/x", false),
        ] {
            assert_eq!(repeatable(&method, path), may, "{method} {path}");
        }
    }

    #[test]
    fn queries() {
        assert_eq!(query(&[("a", String::new())]), "");
        assert_eq!(
            query(&[("a", "x y".into()), ("b", String::new()), ("c", "1".into())]),
            "?a=x%20y&c=1"
        );
    }
}
