//! Accepting connections on a Unix socket.

use axum::Router;
use axum::http::Uri;
use hyper::service::{Service, service_fn};
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use std::io;
use std::sync::Arc;
use tokio::net::UnixListener;
use tokio::sync::Notify;

/// Serves until `stop` is notified; connections that are open then are finished by their own tasks as long as the
/// runtime lives.
///
/// # Errors
/// The listener's own, when it can accept no more.
pub async fn serve(listener: UnixListener, router: Router, stop: Arc<Notify>) -> io::Result<()> {
    let inner = TowerToHyperService::new(router);
    loop {
        let stream = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                // Out of descriptors: some will come back; others wait in the socket until then.
                Err(e) if is_exhausted(&e) => {
                    tracing::warn!(error = %e, "connections wait");
                    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                    continue;
                }
                Err(e) if e.kind() == io::ErrorKind::ConnectionAborted => continue,
                Err(e) => return Err(e),
            },
            () = stop.notified() => return Ok(()),
        };
        let inner = inner.clone();
        tokio::spawn(async move {
            let service = service_fn(move |mut request: hyper::Request<hyper::body::Incoming>| {
                if let Some(uri) = without_version(request.uri()) {
                    *request.uri_mut() = uri;
                }
                inner.call(request)
            });
            let served = hyper::server::conn::http1::Builder::new()
                // Docker's clients close their half of an attached connection when input ends.
                .half_close(true)
                .serve_connection(TokioIo::new(stream), service)
                .with_upgrades();
            if let Err(error) = served.await {
                tracing::debug!(%error, "a client left early");
            }
        });
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
