//! One request on its way to another machine and back.

use axum::body::Body;
use axum::extract::Request;
use axum::http::header::{self, HeaderName};
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri};
use axum::response::Response;
use bytes::Bytes;
use chrono::Utc;
use coracle_engine::full_error;
use http_body_util::BodyExt as _;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, copy, split};

use super::{Known, MACHINE, Machines, PASSED, SendError, VERSION};
use crate::error::{ApiError, Result};
use crate::exec::EXEC;
use crate::serve::{Peer, left};
use crate::version::ApiVersion;

/// Headers that are about one connection, not about what is asked (RFC 9110, section 7.6.1).
const HOP: [HeaderName; 7] = [
    header::CONNECTION,
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];
/// Longest answer that is read for the id of a process, in bytes.
const ID_ANSWER: usize = 64 << 10;

/// Takes what another machine wrote on a request for us.
pub(super) fn received(request: &mut Request) {
    request.headers_mut().remove(MACHINE);
    let version = request.headers_mut().remove(VERSION);
    let version = version.and_then(|v| v.to_str().ok()?.parse().ok());
    if let Some(version) = version {
        request.extensions_mut().insert::<ApiVersion>(version);
    }
}

impl Machines {
    /// Passes a request on, and its answer back.
    pub(super) async fn pass(
        &self,
        machine: &Known,
        uri: Option<Uri>,
        mut request: Request,
    ) -> Result<Response> {
        let makes_process = request.uri().path().ends_with("/exec");
        let peer = request.extensions().get::<Peer>().cloned();
        let upgrade = request.headers().contains_key(header::UPGRADE);
        let ours = upgrade.then(|| hyper::upgrade::on(&mut request));
        let request = self.addressed(uri, request)?;
        let sent = self.0.elsewhere.send(&machine.id, request).await;
        let mut answer = sent.map_err(|error| unreachable(machine, &error))?;
        let theirs = hyper::upgrade::on(&mut answer);
        if let (StatusCode::SWITCHING_PROTOCOLS, Some(ours)) = (answer.status(), ours) {
            if let Some(id) = answer.headers().get(EXEC).and_then(|v| v.to_str().ok()) {
                self.remember(id.to_owned(), &machine.id);
            }
            tokio::spawn(joined(ours, theirs, peer));
            *answer.body_mut() = Body::empty();
        } else {
            clear(answer.headers_mut());
        }
        if makes_process && answer.status() == StatusCode::CREATED {
            answer = self.process_made(machine, answer).await?;
        }
        if let Ok(id) = HeaderValue::from_str(&machine.id) {
            answer.headers_mut().insert(MACHINE, id);
        }
        Ok(answer)
    }

    /// The request as it goes out.
    fn addressed(&self, uri: Option<Uri>, request: Request) -> Result<axum::http::Request<Body>> {
        let cannot = |e: &dyn std::error::Error| {
            ApiError::invalid(format!("this cannot be asked of another machine: {e}"))
        };
        let (parts, body) = request.into_parts();
        let uri = uri.unwrap_or(parts.uri);
        let path = uri.path_and_query().map_or("/", |p| p.as_str());
        let mut headers = parts.headers;
        let upgrade = headers.get(header::UPGRADE).cloned();
        clear(&mut headers);
        headers.remove(MACHINE);
        if let Some(upgrade) = upgrade {
            headers.insert(header::UPGRADE, upgrade);
            let connection = HeaderValue::from_static("Upgrade");
            headers.insert(header::CONNECTION, connection);
        }
        headers.insert(header::HOST, HeaderValue::from_static("coracle"));
        let own = HeaderValue::from_str(&self.0.elsewhere.own());
        headers.insert(PASSED, own.map_err(|e| cannot(&e))?);
        if let Some(version) = parts.extensions.get::<ApiVersion>() {
            let version = HeaderValue::from_str(&version.to_string());
            headers.insert(VERSION, version.map_err(|e| cannot(&e))?);
        }
        let mut request = axum::http::Request::builder()
            .method(parts.method)
            .uri(path)
            .body(body)
            .map_err(|e| cannot(&e))?;
        *request.headers_mut() = headers;
        Ok(request)
    }

    /// Remembers which process was made there.
    async fn process_made(&self, machine: &Known, answer: Response) -> Result<Response> {
        let (parts, body) = answer.into_parts();
        let bytes: Bytes = axum::body::to_bytes(body, ID_ANSWER)
            .await
            .map_err(|e| unreachable(machine, &e.into()))?;
        let value: serde_json::Value = serde_json::from_slice(&bytes).unwrap_or_default();
        if let Some(id) = value["Id"].as_str() {
            self.remember(id.to_owned(), &machine.id);
        }
        Ok(Response::from_parts(parts, Body::from(bytes)))
    }
}

/// Takes the headers away that are about one connection, those among them that `Connection` names.
fn clear(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|v| v.to_str().ok())
        .flat_map(|v| v.split(','))
        .filter_map(|n| n.trim().parse().ok())
        .collect();
    for name in HOP.iter().chain(&named) {
        headers.remove(name);
    }
    headers.remove("keep-alive");
}

fn unreachable(machine: &Known, error: &SendError) -> ApiError {
    let seen = match machine.last_seen {
        _ if machine.alive => "it was alive lately".to_owned(),
        Some(time) => {
            let ago = (Utc::now() - time).num_seconds().max(0);
            format!(
                "it was seen last at {}, {ago} s ago",
                time.format("%Y-%m-%d %H:%M:%S UTC")
            )
        }
        None => "it has not been seen".to_owned(),
    };
    ApiError::new(
        StatusCode::BAD_GATEWAY,
        format!(
            "machine {} cannot be asked: {}; {seen}. `coracle machine list` shows who is there",
            machine.named(),
            full_error(&**error)
        ),
    )
}

/// Carries bytes both ways. Each side may end its half; when the other machine has said all, or our client has gone, it is over.
async fn joined(ours: OnUpgrade, theirs: OnUpgrade, peer: Option<Peer>) {
    let (Ok(ours), Ok(theirs)) = tokio::join!(ours, theirs) else {
        return;
    };
    if let Some(peer) = &peer {
        // Some clients lose what comes together with the answer's head.
        peer.has_read().await;
    }
    let (mut from_us, mut to_us) = split(TokioIo::new(ours));
    let (mut from_them, mut to_them) = split(TokioIo::new(theirs));
    let input = async {
        let copied = copy(&mut from_us, &mut to_them).await;
        let _ = to_them.shutdown().await;
        if copied.is_ok() {
            // Input is over, output is not.
            std::future::pending::<()>().await;
        }
    };
    let output = async {
        let copied = copy(&mut from_them, &mut to_us).await;
        let _ = to_us.shutdown().await;
        copied
    };
    tokio::select! {
        copied = output => if let Err(error) = copied {
            tracing::debug!(%error, "a connection to another machine broke");
        },
        () = input => {}
        () = left(peer) => {}
    }
}

/// Sends a request over a connection that is for it alone, as [`super::Elsewhere::send`] is to.
///
/// # Errors
/// What the connection says.
pub async fn over(
    connection: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    request: axum::http::Request<Body>,
) -> std::result::Result<Response, hyper::Error> {
    let connection = TokioIo::new(connection);
    let (mut sender, driver) = hyper::client::conn::http1::handshake(connection).await?;
    // It ends with the answer; what goes wrong with it is seen there.
    tokio::spawn(async move { drop(driver.with_upgrades().await) });
    let answer = sender.send_request(request).await?;
    Ok(answer.map(|body| Body::new(body.map_err(axum::Error::new))))
}
