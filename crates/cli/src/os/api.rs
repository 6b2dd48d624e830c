//! `/v1/os/…` of our own socket.

use super::{
    Os,
    error::OsError,
    update::{Allowed, Tell},
};
use axum::{
    Json, Router,
    body::{Body, Bytes},
    extract::{Query, State},
    http::header::CONTENT_TYPE,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use coracle_os::{
    BOOT_REPORT,
    entries::Standing,
    history::{Outcome, Update},
    machine::MachineError,
};
use serde::Deserialize;
use serde_json::{Value, json};
use std::{convert::Infallible, sync::Arc};
use tokio::sync::mpsc;

#[path = "api/rollout.rs"]
mod rollout;

type There = Option<Arc<Os>>;

/// The routes; on a machine with another system each says so.
pub fn routes(os: There) -> Router {
    Router::new()
        .route("/v1/os", get(status))
        .route("/v1/os/history", get(history))
        .route("/v1/os/boot-report", get(boot_report))
        .route("/v1/os/update", post(update))
        .route("/v1/os/install", post(install))
        .route("/v1/os/rollback", post(rollback))
        .merge(rollout::routes())
        .with_state(os)
}

fn there(os: There) -> Result<Arc<Os>, OsError> {
    os.ok_or(OsError::Machine(MachineError::NotOurs))
}

async fn status(State(os): State<There>) -> Result<Json<Value>, OsError> {
    let os = there(os)?;
    aside(move || shown(&os)).await
}

/// Does what waits for the disk where no other request waits for it.
async fn aside<T: Send + 'static>(
    act: impl FnOnce() -> Result<T, OsError> + Send + 'static,
) -> Result<T, OsError> {
    let done = tokio::task::spawn_blocking(act).await;
    done.map_err(|_| OsError::Interrupted)?
}

fn shown(os: &Os) -> Result<Json<Value>, OsError> {
    let (entries, history) = (os.machine.entries()?, os.history()?);
    let slots: Vec<_> = entries
        .values()
        .map(|e| {
            let tries = match e.standing {
                Standing::Proven => Value::Null,
                Standing::Tries { left, .. } => json!(left),
            };
            json!({
                "slot": e.slot.letter().to_string(),
                "title": e.title,
                "running": e.slot == os.machine.slot,
                "proven": e.standing == Standing::Proven,
                "tries_left": tries,
                "order": e.order,
            })
        })
        .collect();
    let floor = history.floor.as_ref().max(Some(&os.machine.about.floor));
    Ok(Json(json!({
        "version": os.machine.about.version,
        "slot": os.machine.slot.letter().to_string(),
        "floor": floor,
        "etcd": os.machine.about.etcd,
        "slots": slots,
        "last_update": history.updates.last(),
        "channel": os.channel(),
        "updates": os.progress(),
    })))
}

async fn history(State(os): State<There>) -> Result<Json<Value>, OsError> {
    Ok(Json(json!(there(os)?.history()?.updates)))
}

async fn boot_report(State(os): State<There>) -> Result<Response, OsError> {
    there(os)?;
    let text = tokio::fs::read(BOOT_REPORT)
        .await
        .map_err(|e| OsError::Read(BOOT_REPORT.to_owned(), e))?;
    Ok(([(CONTENT_TYPE, "application/json")], text).into_response())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct UpdateOf {
    /// An image that is here.
    image: String,
    #[serde(default)]
    allow_downgrade: bool,
    /// Whether the machine restarts into it.
    #[serde(default)]
    restart: bool,
}

async fn update(
    State(os): State<There>,
    Query(asked): Query<UpdateOf>,
) -> Result<Response, OsError> {
    let os = there(os)?;
    Ok(telling(move |tell| async move {
        let allowed = Allowed {
            downgrade: asked.allow_downgrade,
            ..Allowed::default()
        };
        let before = os.before().await;
        os.update_from_image(&asked.image, allowed, before, tell)
            .await?;
        match asked.restart {
            true => os.restart().map(|()| "restarting"),
            false => Ok("the next restart starts it"),
        }
    }))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct InstallOf {
    /// The device of a whole disk.
    disk: String,
    /// Whether it is written over if there is something on it.
    #[serde(default)]
    erase: bool,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct With {
    /// A cloud-config document; without it the one that this machine goes by.
    #[serde(default)]
    configuration: Option<String>,
}

async fn install(
    State(os): State<There>,
    Query(asked): Query<InstallOf>,
    with: Bytes,
) -> Result<Response, OsError> {
    let os = there(os)?;
    let with = match with.as_ref() {
        [] => With::default(),
        with => serde_json::from_slice(with).map_err(OsError::Body)?,
    };
    Ok(telling(move |tell| async move {
        os.install(asked.disk, asked.erase, with.configuration, tell)
            .await?;
        Ok("done")
    }))
}

/// Does something and tells how it goes as lines of JSON: `status`, and `error` as the last one if it failed.
fn telling<F>(act: impl FnOnce(Tell) -> F + Send + 'static) -> Response
where
    F: Future<Output = Result<&'static str, OsError>> + Send,
{
    let (said, mut heard) = mpsc::unbounded_channel::<Value>();
    // A client that leaves must not leave it half done.
    tokio::spawn(async move {
        let each = said.clone();
        let tell: Tell = Arc::new(move |line| {
            each.send(json!({ "status": line })).ok();
        });
        let last = match act(tell).await {
            Ok(line) => json!({ "status": line }),
            Err(error) => json!({ "error": coracle_engine::full_error(&error) }),
        };
        said.send(last).ok();
    });
    let lines = futures_util::stream::poll_fn(move |context| {
        heard
            .poll_recv(context)
            .map(|line| line.map(|l| Ok::<_, Infallible>(format!("{l}\n"))))
    });
    let body = Body::from_stream(lines);
    ([(CONTENT_TYPE, "application/json")], body).into_response()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RollbackOf {
    #[serde(default)]
    restart: bool,
}

async fn rollback(
    State(os): State<There>,
    Query(asked): Query<RollbackOf>,
) -> Result<Json<Value>, OsError> {
    let os = there(os)?;
    aside(move || roll_back(&os, asked.restart)).await
}

fn roll_back(os: &Os, restart: bool) -> Result<Json<Value>, OsError> {
    let _alone = os.busy.try_acquire().map_err(|_| OsError::Busy)?;
    let written = |update: &Update| update.outcome == Outcome::Written;
    if os.history()?.updates.last().is_some_and(written) {
        // It has not been started yet, so there is nothing to go back from.
        os.take_back(|update| update.outcome = Outcome::RolledBack)?;
        let (slot, version) = (os.machine.slot, &os.machine.about.version);
        if restart {
            os.restart()?;
        }
        return Ok(Json(
            json!({ "slot": slot.letter().to_string(), "title": format!("Coracle {version}") }),
        ));
    }
    let entry = os.machine.prefer_other()?;
    let own = os.machine.slot.letter();
    os.change(|history| {
        if let Some(last) = history.updates.last_mut()
            && last.slot == own
        {
            last.outcome = Outcome::RolledBack;
        }
    })?;
    if restart {
        os.restart()?;
    }
    Ok(Json(
        json!({ "slot": entry.slot.letter().to_string(), "title": entry.title }),
    ))
}
