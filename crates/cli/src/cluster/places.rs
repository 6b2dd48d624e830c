//! Where units run, as this machine knows it, or else the one that leads.

use super::Cluster;
use crate::client::escape;
use axum::body::Body;
use axum::http::{Request, StatusCode, header};
use coracle_api::machines::{PASSED, Place, SendError, Where};
use coracle_fleet::Fleet;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use std::sync::Arc;
use std::time::Duration;

/// How long the machine that leads may take to say where something is.
const PATIENCE: Duration = Duration::from_secs(5);
/// Longest answer, in bytes.
const ANSWER: usize = 4096;

/// See the module.
pub struct Places {
    /// What this machine knows.
    pub fleet: Fleet,
    /// The way to the others.
    pub cluster: Arc<Cluster>,
}

impl Places {
    async fn ask(&self, name: &str) -> Result<Option<Place>, SendError> {
        let Some(leader) = self.fleet.leader().await? else {
            return Ok(None);
        };
        let own = self.cluster.machine.as_str();
        if leader == own {
            return Ok(None);
        }
        let request = Request::get(format!("/v1/places/{}", escape(name)))
            .header(header::HOST, "coracle")
            .header(PASSED, own)
            .body(Body::empty())?;
        let answer = self.cluster.send(&leader, request).await?;
        if answer.status() != StatusCode::OK {
            // One of a release that cannot say it.
            return Ok(None);
        }
        let bytes = axum::body::to_bytes(answer.into_body(), ANSWER).await?;
        Ok(serde_json::from_slice(&bytes)?)
    }
}

impl Where for Places {
    fn place_of<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Option<Place>> {
        async move {
            let here = self.fleet.place_of(name).await;
            if here.is_some() || self.fleet.leads() || !self.cluster.is_founded() {
                return here;
            }
            let asked = tokio::time::timeout(PATIENCE, self.ask(name)).await;
            asked.ok()?.unwrap_or_else(|error| {
                tracing::debug!(%error, name, "the machine that leads does not say where this is");
                None
            })
        }
        .boxed()
    }
}
