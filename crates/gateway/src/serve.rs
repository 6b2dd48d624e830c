//! One port for everything: gRPC over HTTP/2, JSON over HTTP/1.1 and 2.

use std::io;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::map_response;
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get};
use coracle_etcd_proto::etcdserverpb::auth_server::AuthServer;
use coracle_etcd_proto::etcdserverpb::cluster_server::ClusterServer;
use coracle_etcd_proto::etcdserverpb::kv_server::KvServer;
use coracle_etcd_proto::etcdserverpb::lease_server::LeaseServer;
use coracle_etcd_proto::etcdserverpb::maintenance_server::MaintenanceServer;
use coracle_etcd_proto::etcdserverpb::watch_server::WatchServer;
use coracle_etcd_proto::v3electionpb::election_server::ElectionServer;
use coracle_etcd_proto::v3lockpb::lock_server::LockServer;
use coracle_sys::accept::{Missed, SHORTAGE};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tonic::Status;
use tonic::service::Routes;

use crate::context::{Gateway, VERSION};
use crate::direct::Face;
use crate::{json, undecoded};

/// Bytes of one message to us: etcd's largest request and what gRPC puts around it.
pub(crate) const LARGEST: usize = 2 << 20;
/// Requests at once on one connection.
const STREAMS: u32 = 4096;
/// Connections at once; more wait in the socket. A container that opens them without end takes its own door from its network,
/// and not the daemon's descriptors.
const CONNECTIONS: usize = 1024;
/// Longest wait for a client's first byte.
const SILENCE: Duration = Duration::from_secs(30);
/// Longest wait for answers when we leave.
const LEAVING: Duration = Duration::from_secs(1);

/// All paths of one face of the store.
pub(crate) fn router(gateway: Gateway) -> Router {
    let services = services(&gateway);
    let pages = Router::new()
        .route("/health", get(health))
        .route("/version", get(version))
        .route("/metrics", get(metrics))
        .with_state(gateway);
    let all = below_v3(services.clone()).merge(pages).merge(services);
    all.fallback(unknown)
}

/// The JSON paths below `/v3` alone, to stand beside others'.
pub fn json_router(gateway: &Gateway) -> Router {
    below_v3(services(gateway))
}

fn below_v3(services: Router) -> Router {
    json::routes(services).route("/v3/{*rest}", any(nothing))
}

fn services(gateway: &Gateway) -> Router {
    macro_rules! service {
        ($server:ident) => {
            $server::new(gateway.clone())
                .max_decoding_message_size(LARGEST)
                .max_encoding_message_size(usize::MAX)
        };
    }
    Routes::new(service!(KvServer))
        .add_service(service!(WatchServer))
        .add_service(service!(LeaseServer))
        .add_service(service!(ClusterServer))
        .add_service(service!(MaintenanceServer))
        .add_service(service!(AuthServer))
        .add_service(service!(LockServer))
        .add_service(service!(ElectionServer))
        .into_axum_router()
        .layer(map_response(undecoded::in_etcds_words))
}

/// No such path: gRPC has a status for it in an answer that is otherwise well, others see the code.
async fn unknown(headers: HeaderMap) -> Response {
    let kind = headers.get(header::CONTENT_TYPE);
    if kind.is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc")) {
        return Status::unimplemented("")
            .into_http::<Body>()
            .into_response();
    }
    (StatusCode::NOT_FOUND, "404 page not found\n").into_response()
}

async fn nothing() -> Response {
    json::refusal(&Status::not_found("Not Found"))
}

/// etcd's: healthy is who has a leader and no alarm.
async fn health(State(gateway): State<Gateway>) -> Response {
    let (code, health, reason) = match gateway.store.status().await {
        Ok(found) if !found.no_space => (StatusCode::OK, "true", String::new()),
        Ok(_) => (
            StatusCode::SERVICE_UNAVAILABLE,
            "false",
            "ALARM NOSPACE".into(),
        ),
        Err(error) => (StatusCode::SERVICE_UNAVAILABLE, "false", error.to_string()),
    };
    let body = json!({ "health": health, "reason": reason });
    (code, axum::Json(body)).into_response()
}

async fn version() -> Response {
    axum::Json(json!({ "etcdserver": VERSION, "etcdcluster": VERSION })).into_response()
}

/// Prometheus' text format, under the names that etcd's dashboards look for.
async fn metrics(State(gateway): State<Gateway>) -> Response {
    let found = match gateway.store.status().await {
        Ok(found) => found,
        Err(error) => return (StatusCode::SERVICE_UNAVAILABLE, error.to_string()).into_response(),
    };
    let gauge = |name: &str, help: &str, value: u64| {
        format!("# HELP {name} {help}\n# TYPE {name} gauge\n{name} {value}\n")
    };
    let revision = |r: i64| r.unsigned_abs();
    let text = [
        gauge(
            "etcd_server_has_leader",
            "Whether the store can be written to.",
            1,
        ),
        gauge(
            "etcd_mvcc_db_total_size_in_bytes",
            "Bytes that the store takes on disk.",
            found.bytes_on_disk,
        ),
        gauge(
            "etcd_mvcc_db_total_size_in_use_in_bytes",
            "Bytes of keys, values and history.",
            found.bytes_in_use,
        ),
        gauge(
            "etcd_server_quota_backend_bytes",
            "Bytes of them allowed.",
            found.quota_bytes,
        ),
        gauge(
            "etcd_debugging_mvcc_current_revision",
            "The newest revision.",
            revision(found.revision),
        ),
        gauge(
            "etcd_debugging_mvcc_compact_revision",
            "The oldest revision kept.",
            revision(found.compact_revision),
        ),
        gauge("coracle_store_leases", "Leases alive.", found.leases as u64),
        gauge(
            "coracle_store_no_space",
            "Whether puts are refused for want of space.",
            u64::from(found.no_space),
        ),
    ];
    let kind = [(header::CONTENT_TYPE, "text/plain; version=0.0.4")];
    (kind, text.concat()).into_response()
}

/// Serves until `stop` is true; then requests have a second for their answers, and streams are cut.
///
/// # Errors
/// The listener's own, when it can accept no more.
pub async fn serve(
    listener: TcpListener,
    face: impl Into<Face>,
    mut stop: watch::Receiver<bool>,
) -> io::Result<()> {
    let face = face.into();
    let mut connections = JoinSet::new();
    let ended = loop {
        let stream = tokio::select! {
            accepted = listener.accept(), if connections.len() < CONNECTIONS => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => match Missed::of(&error) {
                    Missed::One => continue,
                    Missed::Room => {
                        tracing::warn!(%error, "connections wait");
                        tokio::time::sleep(SHORTAGE).await;
                        continue;
                    }
                    Missed::All => break Err(error),
                },
            },
            Some(_) = connections.join_next() => continue,
            () = stopped(&mut stop) => break Ok(()),
        };
        connections.spawn(connection(stream, face.clone(), stop.clone()));
    };
    let all = async { while connections.join_next().await.is_some() {} };
    let _ = tokio::time::timeout(LEAVING, all).await;
    ended
}

async fn stopped(stop: &mut watch::Receiver<bool>) {
    // A sender that is gone stops nobody.
    if stop.wait_for(|s| *s).await.is_err() {
        std::future::pending().await
    }
}

async fn connection(stream: TcpStream, face: Face, mut stop: watch::Receiver<bool>) {
    let mut first = [0];
    let heard = tokio::select! {
        heard = tokio::time::timeout(SILENCE, stream.peek(&mut first)) => heard,
        () = stopped(&mut stop) => return,
    };
    if !matches!(heard, Ok(Ok(1..))) {
        return;
    }
    // Small answers are what there is most of; where it cannot be set they come a little later.
    let _ = stream.set_nodelay(true);
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new());
    // As etcd: clients of gRPC have no use for it, and it would be packed anew for each answer.
    builder.http2().auto_date_header(false);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS)
        // A machine that vanished, or a process that was stopped, does not keep its watches and its answers for ever.
        .keep_alive_interval(Duration::from_secs(60))
        .keep_alive_timeout(Duration::from_secs(20));
    let served = builder.serve_connection(TokioIo::new(stream), face);
    tokio::pin!(served);
    let ended = tokio::select! {
        ended = &mut served => ended,
        () = stopped(&mut stop) => {
            served.as_mut().graceful_shutdown();
            served.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(error = error, "a client left early");
    }
}
