//! HTTP: the Docker Engine API (versions 1.24 to 1.51, exact from 1.44 on), our own API under `/v1`, and fleet's under
//! `/fleet/v1`.
//!
//! A path may carry Docker's version (`/v1.44/containers/json`); it is taken off before routing, and handlers whose answers
//! differ ask for it ([`ApiVersion`]). Bodies, codes and error texts are those of the Engine API's definition; where
//! something is not honoured the answer is an error that says so, never silence.

#![recursion_limit = "256"]

mod archive;
mod build;
mod containers;
mod deploys;
mod elsewhere;
mod error;
mod events;
mod exec;
mod filters;
mod fleet_v1;
mod image_inspect;
mod images;
mod inspect;
mod list;
mod machine_verbs;
pub mod machines;
mod networks;
pub mod peer;
mod platform;
mod query;
mod registries;
mod rest;
mod serve;
mod stats;
mod streams;
mod system;
mod transfer;
mod units;
mod version;
mod volumes;
mod websocket;

use axum::Router;
use axum::routing::{any, delete, get, post, put};
use coracle_build::{Builder, Marks};
use coracle_engine::Engine;
use coracle_fleet::Fleet;
use std::sync::Arc;
use tokio::sync::Notify;

pub use build::SECRETS;
pub use containers::REQUEST;
pub use exec::EXEC;
pub use fleet_v1::{hash as unit_hash, options as unit_options, own_address};
pub use list::human;
pub use machines::Machines;
pub use serve::{Answers, Peer, serve};
pub use streams::EXIT;
pub use units::PARTIAL;
pub use version::ApiVersion;

/// Version of the Docker Engine API that is spoken.
pub const API_VERSION: &str = "1.51";
/// Oldest version of it that clients may ask for.
pub const MIN_API_VERSION: &str = "1.24";
/// This release.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// What every handler may use.
#[derive(Clone)]
pub struct App {
    /// Containers, images, networks, volumes.
    pub engine: Engine,
    /// Dockerfile to image.
    pub builder: Builder,
    /// Units and machines.
    pub fleet: Fleet,
    /// The machines around.
    pub machines: Machines,
    /// When room is made on the disk.
    pub marks: Marks,
    /// Told when a client asks for everything to be taken down and the daemon to leave.
    pub down: Arc<Notify>,
}

/// Every route. Requests for other machines are passed on.
pub fn router(app: App) -> Router {
    let (machines, engine) = (app.machines.clone(), app.engine.clone());
    machines
        .before(routes(app), Arc::new(engine))
        .layer(axum::middleware::from_fn(rest::taken))
}

/// What a machine's door has for the others: every route, and images. Nothing that comes here is passed on once more. The door lets
/// members in only.
pub fn door_routes(app: App) -> Router {
    let images = app.engine.images().clone();
    machines::for_us(routes(app))
        .layer(axum::middleware::from_fn(rest::taken))
        .merge(peer::routes(images))
}

fn routes(app: App) -> Router {
    Router::new()
        .merge(system_routes())
        .merge(container_routes())
        .merge(image_routes())
        .merge(network_and_volume_routes())
        .merge(unit_routes())
        .nest("/fleet/v1", fleet_v1::routes())
        .merge(elsewhere::routes())
        .fallback(error::no_such_page)
        .layer(axum::middleware::from_fn(rest::told))
        .with_state(app)
}

fn system_routes() -> Router<App> {
    Router::new()
        .route("/_ping", get(system::ping))
        .route("/version", get(system::version))
        .route("/info", get(system::info))
        .route("/auth", post(registries::auth))
        .route("/events", get(events::events))
        .route("/system/df", get(system::disk_usage))
}

fn container_routes() -> Router<App> {
    Router::new()
        .route("/containers/json", get(list::list))
        .route("/containers/create", post(containers::create))
        .route("/containers/prune", post(containers::prune))
        .route("/containers/{id}", delete(containers::remove))
        .route("/containers/{id}/json", get(inspect::inspect))
        .route("/containers/{id}/start", post(containers::start))
        .route("/containers/{id}/stop", post(containers::stop))
        .route("/containers/{id}/restart", post(containers::restart))
        .route("/containers/{id}/kill", post(containers::kill))
        .route("/containers/{id}/pause", post(containers::pause))
        .route("/containers/{id}/unpause", post(containers::unpause))
        .route("/containers/{id}/update", post(containers::update))
        .route("/containers/{id}/rename", post(containers::rename))
        .route("/containers/{id}/wait", post(containers::wait))
        .route("/containers/{id}/resize", post(containers::resize))
        .route(
            "/containers/{id}/archive",
            get(archive::get).head(archive::stat).put(archive::put),
        )
        .route("/containers/{id}/export", get(archive::export))
        .route("/containers/{id}/changes", get(archive::changes))
        .route("/containers/{id}/top", get(containers::top))
        .route("/containers/{id}/logs", get(streams::logs))
        .route("/containers/{id}/attach", post(streams::attach))
        .route("/containers/{id}/attach/ws", get(websocket::attach))
        .route("/containers/{id}/stats", get(stats::stats))
        .route("/containers/{id}/exec", post(exec::create))
        .route("/exec/{id}/start", post(exec::start))
        .route("/exec/{id}/resize", post(exec::resize))
        .route("/exec/{id}/json", get(exec::inspect))
}

fn image_routes() -> Router<App> {
    Router::new()
        .route("/build", post(build::build))
        .route("/build/prune", post(build::prune))
        .route("/build/cancel", post(build::cancel))
        .route("/commit", post(images::commit))
        .route("/images/json", get(images::list))
        .route("/images/create", post(transfer::create))
        .route("/images/load", post(transfer::load))
        .route("/images/get", get(transfer::save_many))
        .route("/images/prune", post(images::prune))
        .route("/images/search", get(registries::search))
        .route("/distribution/{*rest}", get(registries::distribution))
        // Names of images have slashes in them, so what follows the name is told apart by the handler.
        .route("/images/{*rest}", any(images::named))
}

fn network_and_volume_routes() -> Router<App> {
    Router::new()
        .route("/networks", get(networks::list))
        .route("/networks/create", post(networks::create))
        .route("/networks/prune", post(networks::prune))
        .route("/v1/overlay", get(networks::overlay))
        .route(
            "/networks/{id}",
            get(networks::inspect).delete(networks::remove),
        )
        .route("/networks/{id}/connect", post(networks::connect))
        .route("/networks/{id}/disconnect", post(networks::disconnect))
        .route("/volumes", get(volumes::list))
        .route("/volumes/create", post(volumes::create))
        .route("/volumes/prune", post(volumes::prune))
        .route(
            "/volumes/{name}",
            get(volumes::inspect)
                .delete(volumes::remove)
                .put(elsewhere::no_manager),
        )
}

fn unit_routes() -> Router<App> {
    Router::new()
        .route("/v1/containers/{id}/exec", post(exec::run))
        .route("/v1/places/{name}", get(machines::told))
        .route("/v1/units", get(units::list))
        .route(
            "/v1/units/{name}",
            get(units::get).put(units::submit).delete(units::destroy),
        )
        .route("/v1/units/{name}/start", post(units::start))
        .route("/v1/units/{name}/stop", post(units::stop))
        .route("/v1/units/{name}/restart", post(units::restart))
        .route("/v1/units/{name}/reload", post(units::reload))
        .route("/v1/units/{name}/logs", get(units::logs))
        .route("/v1/units/{name}/explain", get(machine_verbs::explain))
        .route("/v1/services/{name}", get(deploys::get))
        .route("/v1/services/{name}/deploy", post(deploys::deploy))
        .route("/v1/services/{name}/rollback", post(deploys::rollback))
        .route("/v1/services/{name}/pause", post(deploys::pause))
        .route("/v1/services/{name}/resume", post(deploys::resume))
        .route("/v1/services/{name}/abort", post(deploys::abort))
        .route("/v1/services/{name}/history", get(deploys::history))
        .route(
            "/v1/services/{name}/revisions/{number}",
            get(deploys::revision),
        )
        .route("/v1/volumes/{name}/rebind", post(machine_verbs::rebind))
        .route("/v1/machines", get(machine_verbs::list))
        .route("/v1/machines/{name}", get(machine_verbs::get))
        .route("/v1/machines/{name}/cordon", post(machine_verbs::cordon))
        .route(
            "/v1/machines/{name}/uncordon",
            post(machine_verbs::uncordon),
        )
        .route("/v1/machines/{name}/drain", post(machine_verbs::drain))
        .route("/v1/machines/{name}/undrain", post(machine_verbs::undrain))
        .route("/v1/machines/{name}/labels", put(machine_verbs::labels))
        .route("/v1/system/status", get(system::status))
        .route("/v1/system/down", post(system::down))
        .route("/v1/system/collect", post(build::collect))
}
