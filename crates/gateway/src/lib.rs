//! The store's public face: etcd's v3 API over any [`Store`], as gRPC and as JSON.
//!
//! ```text
//! client ── HTTP/2, gRPC ── direct ──┐
//! client ── HTTP/1.1, JSON ── json ──┴─> services (kv, watch, lease, …) ──> Scoped ──> Store
//! ```
//! [`Scoped`] is a store that shows the keys below one prefix as the whole store. The services translate
//! messages, and know which of two [`Role`]s asks: an app, or the machine's operator.

mod auth;
mod cluster;
mod concurrency;
mod context;
mod convert;
mod direct;
mod election;
mod json;
mod kv;
mod lease;
mod lock;
mod maintenance;
mod scoped;
mod serve;
mod undecoded;
mod watch;

pub use axum::Router;
pub use context::{Gateway, Identity, Role};
pub use direct::{Face, Reply};
pub use scoped::{Scope, Scoped};
pub use serve::{json_router, serve};

#[doc(no_inline)]
pub use coracle_store::Store;
