//! The JSON gateway: `POST /v3/kv/range` and its like, as etcd's grpc-gateway maps them.
//!
//! A request's JSON becomes the message that the descriptors say, the same service that gRPC clients reach answers it, and
//! its answer becomes JSON: names as in the protocol, bytes in base64, 64-bit numbers as strings, what is zero left out. A
//! stream's answers come one a line, each in `{"result": …}`.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::{Arc, LazyLock};

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use futures_util::stream;
use futures_util::{Stream, StreamExt as _};
use http_body_util::BodyExt as _;
use prost_reflect::prost::Message as _;
use prost_reflect::{DescriptorPool, DynamicMessage, Kind, MessageDescriptor, SerializeOptions};
use serde_json::{Value, json};
use tonic::{Code, Status};

/// Bytes of one request's JSON; base64 makes the largest message a third longer.
const LARGEST: usize = 4 << 20;

/// Path below `/v3` and what it calls.
const ROUTES: &[(&str, &str, &str)] = &[
    ("/kv/range", KV, "Range"),
    ("/kv/put", KV, "Put"),
    ("/kv/deleterange", KV, "DeleteRange"),
    ("/kv/txn", KV, "Txn"),
    ("/kv/compaction", KV, "Compact"),
    ("/watch", "etcdserverpb.Watch", "Watch"),
    ("/lease/grant", LEASE, "LeaseGrant"),
    ("/lease/revoke", LEASE, "LeaseRevoke"),
    ("/kv/lease/revoke", LEASE, "LeaseRevoke"),
    ("/lease/keepalive", LEASE, "LeaseKeepAlive"),
    ("/lease/timetolive", LEASE, "LeaseTimeToLive"),
    ("/kv/lease/timetolive", LEASE, "LeaseTimeToLive"),
    ("/lease/leases", LEASE, "LeaseLeases"),
    ("/kv/lease/leases", LEASE, "LeaseLeases"),
    ("/cluster/member/add", CLUSTER, "MemberAdd"),
    ("/cluster/member/remove", CLUSTER, "MemberRemove"),
    ("/cluster/member/update", CLUSTER, "MemberUpdate"),
    ("/cluster/member/list", CLUSTER, "MemberList"),
    ("/cluster/member/promote", CLUSTER, "MemberPromote"),
    ("/maintenance/alarm", MAINTENANCE, "Alarm"),
    ("/maintenance/status", MAINTENANCE, "Status"),
    ("/maintenance/defragment", MAINTENANCE, "Defragment"),
    ("/maintenance/hash", MAINTENANCE, "HashKV"),
    ("/maintenance/snapshot", MAINTENANCE, "Snapshot"),
    (
        "/maintenance/transfer-leadership",
        MAINTENANCE,
        "MoveLeader",
    ),
    ("/maintenance/downgrade", MAINTENANCE, "Downgrade"),
    ("/auth/enable", AUTH, "AuthEnable"),
    ("/auth/disable", AUTH, "AuthDisable"),
    ("/auth/status", AUTH, "AuthStatus"),
    ("/auth/authenticate", AUTH, "Authenticate"),
    ("/auth/user/add", AUTH, "UserAdd"),
    ("/auth/user/get", AUTH, "UserGet"),
    ("/auth/user/list", AUTH, "UserList"),
    ("/auth/user/delete", AUTH, "UserDelete"),
    ("/auth/user/changepw", AUTH, "UserChangePassword"),
    ("/auth/user/grant", AUTH, "UserGrantRole"),
    ("/auth/user/revoke", AUTH, "UserRevokeRole"),
    ("/auth/role/add", AUTH, "RoleAdd"),
    ("/auth/role/get", AUTH, "RoleGet"),
    ("/auth/role/list", AUTH, "RoleList"),
    ("/auth/role/delete", AUTH, "RoleDelete"),
    ("/auth/role/grant", AUTH, "RoleGrantPermission"),
    ("/auth/role/revoke", AUTH, "RoleRevokePermission"),
    ("/lock/lock", "v3lockpb.Lock", "Lock"),
    ("/lock/unlock", "v3lockpb.Lock", "Unlock"),
    ("/election/campaign", ELECTION, "Campaign"),
    ("/election/proclaim", ELECTION, "Proclaim"),
    ("/election/leader", ELECTION, "Leader"),
    ("/election/observe", ELECTION, "Observe"),
    ("/election/resign", ELECTION, "Resign"),
];
const KV: &str = "etcdserverpb.KV";
const LEASE: &str = "etcdserverpb.Lease";
const CLUSTER: &str = "etcdserverpb.Cluster";
const MAINTENANCE: &str = "etcdserverpb.Maintenance";
const AUTH: &str = "etcdserverpb.Auth";
const ELECTION: &str = "v3electionpb.Election";

/// Where a path leads.
struct Method {
    grpc: String,
    input: MessageDescriptor,
    output: MessageDescriptor,
    /// The client sends many messages, the server answers with many.
    streams: (bool, bool),
}

/// By path. Made when the first request comes: most clients speak gRPC, and it is a megabyte.
static METHODS: LazyLock<HashMap<String, Method>> = LazyLock::new(methods);

struct Json {
    services: Router,
}

/// The routes of the JSON gateway in front of the gRPC services.
pub(crate) fn routes(services: Router) -> Router {
    let json = Arc::new(Json { services });
    let mut router = Router::new();
    for (path, ..) in ROUTES {
        router = router.route(&format!("/v3{path}"), post(answer));
    }
    router.with_state(json)
}

fn methods() -> HashMap<String, Method> {
    // They were encoded by our own build; a test goes through all routes.
    let pool = DescriptorPool::decode(coracle_etcd_proto::DESCRIPTORS).unwrap_or_default();
    let mut methods = HashMap::new();
    for (path, service, name) in ROUTES {
        let service_of = pool.get_service_by_name(service);
        let method = service_of.and_then(|s| s.methods().find(|m| m.name() == *name));
        if let Some(found) = method {
            let method = Method {
                grpc: format!("/{service}/{name}"),
                input: found.input(),
                output: found.output(),
                streams: (found.is_client_streaming(), found.is_server_streaming()),
            };
            methods.insert(format!("/v3{path}"), method);
        }
    }
    methods
}

async fn answer(State(json): State<Arc<Json>>, request: Request) -> Response {
    let path = request.uri().path().to_owned();
    match json.call(&path, request).await {
        Ok(answer) => answer,
        Err(status) => refusal(&status),
    }
}

impl Json {
    async fn call(self: Arc<Self>, path: &str, request: Request) -> Result<Response, Status> {
        // The router has no other paths.
        let method = METHODS
            .get(path)
            .ok_or_else(|| Status::not_found("Not Found"))?;
        let (many_in, many_out) = method.streams;
        let body = if many_in {
            let input = method.input.clone();
            let mut frames = Box::pin(frames(request.into_body(), input));
            // Of the first one the answer's code depends.
            match frames.next().await {
                Some(first) => Body::from_stream(stream::iter([Ok(first?)]).chain(frames)),
                None => Body::empty(),
            }
        } else {
            let bytes = axum::body::to_bytes(request.into_body(), LARGEST).await;
            let bytes = bytes.map_err(|e| Status::invalid_argument(e.to_string()))?;
            Body::from(frame(&message(&method.input, &bytes)?))
        };
        let call = axum::http::Request::post(method.grpc.as_str())
            .header(header::CONTENT_TYPE, "application/grpc")
            .header(header::TE, "trailers")
            .body(body)
            .map_err(|e| Status::internal(e.to_string()))?;
        let mut services = self.services.clone();
        let answered = tower_call(&mut services, call).await;
        if let Some(status) = status_of(answered.headers()) {
            return Err(status);
        }
        let answers = Answers {
            body: answered.into_body(),
            buffer: BytesMut::new(),
            output: method.output.clone(),
        };
        if many_out {
            return Ok(lines(answers));
        }
        let mut answers = answers;
        let first = answers.next().await?;
        let first = first.ok_or_else(|| Status::internal("the service gave no answer"))?;
        // Its trailers may say that it failed after all.
        answers.next().await?;
        Ok(axum::Json(first).into_response())
    }
}

async fn tower_call(services: &mut Router, request: axum::http::Request<Body>) -> Response {
    use hyper_util::service::TowerToHyperService;
    let service = TowerToHyperService::new(services.clone());
    let answered = hyper::service::Service::call(&service, request).await;
    answered.unwrap_or_else(|never: Infallible| match never {})
}

/// One message as gRPC frames it: not compressed, its length in 4 bytes, itself.
fn frame(message: &DynamicMessage) -> Bytes {
    let length = message.encoded_len();
    let mut framed = BytesMut::with_capacity(5 + length);
    framed.put_u8(0);
    // Not longer than what was read of it, see `LARGEST`.
    framed.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
    // A `BytesMut` grows as it must.
    let _ = message.encode(&mut framed);
    framed.freeze()
}

fn message(input: &MessageDescriptor, text: &[u8]) -> Result<DynamicMessage, Status> {
    if text.trim_ascii().is_empty() {
        return Ok(DynamicMessage::new(input.clone()));
    }
    let read = serde_json::from_slice(text).and_then(|mut value: Value| {
        keep_known(&mut value, input);
        DynamicMessage::deserialize(input.clone(), value)
    });
    read.map_err(|e| Status::invalid_argument(e.to_string()))
}

/// Takes out fields that the message has not: newer clients may send some. Not left to the deserializer, which would
/// pass over names of no enumeration's value too.
fn keep_known(value: &mut Value, of: &MessageDescriptor) {
    let Value::Object(fields) = value else { return };
    fields.retain(|name, value| {
        let field = of.get_field_by_name(name);
        let Some(field) = field.or_else(|| of.get_field_by_json_name(name)) else {
            return false;
        };
        if let Kind::Message(inner) = field.kind() {
            match value {
                Value::Array(values) => values.iter_mut().for_each(|v| keep_known(v, &inner)),
                value => keep_known(value, &inner),
            }
        }
        true
    });
}

/// The JSON values of a body, one message each, as they come.
fn frames(body: Body, input: MessageDescriptor) -> impl Stream<Item = Result<Bytes, Status>> {
    let state = (body.into_data_stream(), BytesMut::new(), input, false);
    stream::unfold(
        state,
        |(mut body, mut buffer, input, mut ended)| async move {
            loop {
                match value(&buffer, ended) {
                    Ok(Some(length)) => {
                        let text = buffer.split_to(length);
                        let framed = message(&input, &text).map(|m| frame(&m));
                        return Some((framed, (body, buffer, input, ended)));
                    }
                    Ok(None) if ended => return None,
                    Ok(None) if buffer.len() > LARGEST => {
                        buffer.clear();
                        let large = Status::invalid_argument("etcdserver: request is too large");
                        return Some((Err(large), (body, buffer, input, true)));
                    }
                    Ok(None) => match body.next().await {
                        Some(Ok(bytes)) => buffer.extend_from_slice(&bytes),
                        _ => ended = true,
                    },
                    Err(error) => {
                        buffer.clear();
                        let status = Status::invalid_argument(error.to_string());
                        return Some((Err(status), (body, buffer, input, true)));
                    }
                }
            }
        },
    )
}

/// How many bytes the first whole JSON value takes, if there is one.
fn value(buffer: &[u8], ended: bool) -> Result<Option<usize>, serde_json::Error> {
    let mut values =
        serde_json::Deserializer::from_slice(buffer).into_iter::<serde::de::IgnoredAny>();
    match values.next() {
        None => Ok(None),
        Some(Ok(_)) => Ok(Some(values.byte_offset())),
        Some(Err(error)) if error.is_eof() && !ended => Ok(None),
        Some(Err(error)) => Err(error),
    }
}

/// What a gRPC service answers, message by message.
struct Answers {
    body: Body,
    buffer: BytesMut,
    output: MessageDescriptor,
}

impl Answers {
    async fn next(&mut self) -> Result<Option<Value>, Status> {
        loop {
            if let Some((head, _)) = self.buffer.split_first_chunk::<5>() {
                let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
                if self.buffer.len() >= 5 + length {
                    self.buffer.advance(5);
                    let bytes = self.buffer.split_to(length).freeze();
                    let message = DynamicMessage::decode(self.output.clone(), bytes);
                    let message = message.map_err(|e| Status::internal(e.to_string()))?;
                    return shown(&message).map(Some);
                }
            }
            let Some(frame) = self.body.frame().await else {
                return Ok(None);
            };
            let frame = frame.map_err(|e| Status::internal(e.to_string()))?;
            match frame.into_data() {
                Ok(data) => self.buffer.extend_from_slice(&data),
                Err(frame) => {
                    if let Some(status) = frame.trailers_ref().and_then(status_of) {
                        return Err(status);
                    }
                }
            }
        }
    }
}

/// The status in headers or trailers, unless it is OK.
fn status_of(headers: &HeaderMap) -> Option<Status> {
    Status::from_header_map(headers).filter(|status| status.code() != Code::Ok)
}

fn shown(message: &DynamicMessage) -> Result<Value, Status> {
    let options = SerializeOptions::new()
        .use_proto_field_name(true)
        .stringify_64_bit_integers(true)
        .skip_default_fields(true);
    let value = message.serialize_with_options(serde_json::value::Serializer, &options);
    value.map_err(|e| Status::internal(e.to_string()))
}

fn lines(answers: Answers) -> Response {
    let lines = stream::unfold(Some(answers), |answers| async move {
        let mut answers = answers?;
        let (line, rest) = match answers.next().await {
            Ok(Some(answer)) => (json!({ "result": answer }), Some(answers)),
            Ok(None) => return None,
            Err(status) => {
                let (code, http) = (status.code() as i32, http_status(status.code()));
                let error = json!({
                    "grpc_code": code, "http_code": http.as_u16(),
                    "message": status.message(), "http_status": http.canonical_reason(),
                });
                (json!({ "error": error }), None)
            }
        };
        Some((Ok::<_, Infallible>(format!("{line}\n")), rest))
    });
    let kind = [(header::CONTENT_TYPE, "application/json")];
    (kind, Body::from_stream(lines)).into_response()
}

/// An error as etcd's gateway answers it.
pub(crate) fn refusal(status: &Status) -> Response {
    let code = status.code() as i32;
    let body = json!({ "error": status.message(), "code": code, "message": status.message() });
    (http_status(status.code()), axum::Json(body)).into_response()
}

fn http_status(code: Code) -> StatusCode {
    match code {
        Code::Ok => StatusCode::OK,
        Code::Cancelled => StatusCode::REQUEST_TIMEOUT,
        Code::InvalidArgument | Code::FailedPrecondition | Code::OutOfRange => {
            StatusCode::BAD_REQUEST
        }
        Code::DeadlineExceeded => StatusCode::GATEWAY_TIMEOUT,
        Code::NotFound => StatusCode::NOT_FOUND,
        Code::AlreadyExists | Code::Aborted => StatusCode::CONFLICT,
        Code::PermissionDenied => StatusCode::FORBIDDEN,
        Code::Unauthenticated => StatusCode::UNAUTHORIZED,
        Code::ResourceExhausted => StatusCode::TOO_MANY_REQUESTS,
        Code::Unimplemented => StatusCode::NOT_IMPLEMENTED,
        Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        Code::Unknown | Code::Internal | Code::DataLoss => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_route_leads_somewhere() {
        let methods = methods();
        assert_eq!(methods.len(), ROUTES.len());
    }

    #[test]
    fn values_are_cut_where_they_end() {
        assert_eq!(value(b" {\"a\":1} {\"b\"", false).ok(), Some(Some(8)));
        assert_eq!(value(b"{\"b\"", false).ok(), Some(None));
        assert!(value(b"{\"b\"", true).is_err());
        assert!(value(b"}", false).is_err());
        assert_eq!(value(b"  ", true).ok(), Some(None));
    }
}
