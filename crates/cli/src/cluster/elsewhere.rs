//! Other machines, reached through their doors.

use super::{Cluster, Neighbour};
use axum::body::Body;
use axum::http::Request;
use axum::response::Response;
use coracle_api::machines::{Elsewhere, Known, SendError};
use coracle_cluster::door::Target;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use std::sync::Arc;

/// The way to other machines.
pub struct Away(pub Arc<Cluster>);

impl Cluster {
    /// Where a machine's door is.
    pub(super) fn target(&self, machine: &str) -> Result<Target, SendError> {
        let neighbours = self.neighbours.borrow();
        let Some(found) = neighbours.get(machine) else {
            return Err(format!("machine {machine} is not known here").into());
        };
        Ok(Target {
            machine: machine.parse()?,
            addresses: vec![found.door.clone()],
        })
    }

    /// The machines that have said what they are.
    pub(super) fn neighbours(&self) -> Vec<Known> {
        let neighbours = self.neighbours.borrow();
        let known = |(id, n): (&String, &Neighbour)| Known {
            id: id.clone(),
            hostname: n.hostname.clone(),
            alive: n.alive,
            last_seen: None,
        };
        neighbours.iter().map(known).collect()
    }

    /// Sends a request to a machine's door.
    pub(super) async fn send(
        &self,
        machine: &str,
        request: Request<Body>,
    ) -> Result<Response, SendError> {
        let client = self.client.get().ok_or("this machine is in no cluster")?;
        let target = self.target(machine)?;
        let answer = client.send(&target, request).await?;
        Ok(answer.map(Body::new))
    }
}

impl Elsewhere for Away {
    fn own(&self) -> String {
        self.0.machine.to_string()
    }

    fn known(&self) -> Vec<Known> {
        let own = self.own();
        let mut all = self.0.neighbours();
        if !all.iter().any(|m| m.id == own) {
            let hostname = rustix::system::uname();
            all.push(Known {
                id: own,
                hostname: hostname.nodename().to_string_lossy().into_owned(),
                alive: true,
                last_seen: None,
            });
        }
        all
    }

    fn send<'a>(
        &'a self,
        machine: &'a str,
        request: Request<Body>,
    ) -> BoxFuture<'a, Result<Response, SendError>> {
        self.0.send(machine, request).boxed()
    }
}
