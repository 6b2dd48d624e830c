//! Accepting connections on a Unix socket.

use axum::Router;
use axum::http::Uri;
use hyper::service::{Service, service_fn};
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// Longest wait for requests that have no answer yet when the daemon leaves.
const ANSWERS: Duration = Duration::from_secs(10);
/// Longest wait for the last bytes of answers.
const BYTES: Duration = Duration::from_secs(1);

/// Serves until `stop` is true. Requests that wait for their answer then still get it; streams are cut, and connections that
/// nobody accepted yet stay in the socket.
///
/// # Errors
/// The listener's own, when it can accept no more.
pub async fn serve(
    listener: UnixListener,
    router: Router,
    mut stop: watch::Receiver<bool>,
) -> io::Result<()> {
    let inner = TowerToHyperService::new(router);
    let unanswered = watch::Sender::new(0_usize);
    let mut connections = JoinSet::new();
    let ended = loop {
        let stream = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                // Out of descriptors: some will come back; others wait in the socket until then.
                Err(e) if is_exhausted(&e) => {
                    tracing::warn!(error = %e, "connections wait");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
                Err(e) if e.kind() == io::ErrorKind::ConnectionAborted => continue,
                Err(e) => break Err(e),
            },
            Some(_) = connections.join_next() => continue,
            () = stopped(&mut stop) => break Ok(()),
        };
        connections.spawn(connection(
            stream,
            inner.clone(),
            unanswered.clone(),
            stop.clone(),
        ));
    };
    // Whoever does not answer in time is cut off.
    let mut count = unanswered.subscribe();
    let _ = tokio::time::timeout(ANSWERS, count.wait_for(|n| *n == 0)).await;
    let all = async { while connections.join_next().await.is_some() {} };
    let _ = tokio::time::timeout(BYTES, all).await;
    ended
}

async fn stopped(stop: &mut watch::Receiver<bool>) {
    // A sender that is gone stops nobody.
    if stop.wait_for(|s| *s).await.is_err() {
        std::future::pending().await
    }
}

async fn connection(
    stream: UnixStream,
    inner: TowerToHyperService<Router>,
    unanswered: watch::Sender<usize>,
    mut stop: watch::Receiver<bool>,
) {
    let peer = stream.as_fd().try_clone_to_owned().ok().map(Arc::new);
    let service = service_fn(move |mut request: hyper::Request<hyper::body::Incoming>| {
        if let Some(peer) = &peer {
            request.extensions_mut().insert(Peer(peer.clone()));
        }
        if let Some(uri) = without_version(request.uri()) {
            *request.uri_mut() = uri;
        }
        let open = Open::new(unanswered.clone());
        let answer = inner.call(request);
        async move {
            let answer = answer.await;
            drop(open);
            answer
        }
    });
    let served = hyper::server::conn::http1::Builder::new()
        // Docker's clients close their half of an attached connection when input ends.
        .half_close(true)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    tokio::pin!(served);
    let ended = tokio::select! {
        ended = &mut served => ended,
        () = stopped(&mut stop) => {
            served.as_mut().graceful_shutdown();
            served.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a client left early");
    }
}

/// The connection that a request came on.
#[derive(Debug, Clone)]
pub struct Peer(Arc<OwnedFd>);

impl Peer {
    /// Waits until the client has read all that it was sent, but not for ever.
    pub async fn has_read(&self) {
        for _ in 0..1000 {
            match coracle_sys::socket::unread(&*self.0) {
                Ok(1..) => tokio::time::sleep(Duration::from_millis(1)).await,
                _ => return,
            }
        }
    }
}

/// A request without an answer.
struct Open(watch::Sender<usize>);

impl Open {
    fn new(count: watch::Sender<usize>) -> Self {
        count.send_modify(|n| *n += 1);
        Self(count)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.send_modify(|n| *n -= 1);
    }
}

fn is_exhausted(error: &io::Error) -> bool {
    // EMFILE and ENFILE.
    matches!(error.raw_os_error(), Some(24 | 23))
}

/// Takes `/v1.44` off; `/v1/…` is ours and stays.
fn without_version(uri: &Uri) -> Option<Uri> {
    let path = uri.path_and_query()?.as_str();
    let (version, rest) = path.strip_prefix("/v")?.split_once('/')?;
    let (major, minor) = version.split_once('.')?;
    let digits = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit());
    if !digits(major) || !digits(minor) {
        return None;
    }
    format!("/{rest}").parse().ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn versions_are_taken_off() {
        let strip = |s: &str| without_version(&s.parse().unwrap()).map(|u| u.to_string());
        assert_eq!(
            strip("/v1.44/containers/json?all=1").unwrap(),
            "/containers/json?all=1"
        );
        for ours in [
            "/v1/units",
            "/containers/json",
            "/volumes/v1.2",
            "/vx.y/z",
            "/v1.44",
        ] {
            assert_eq!(strip(ours), None, "{ours}");
        }
    }
}
