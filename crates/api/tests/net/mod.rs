//! Machines of a test: routers on loopback, reached by names, and a note of all that was asked.
#![allow(clippy::unwrap_used, dead_code)]

use axum::Router;
use axum::body::Body;
use axum::http::{Request, header};
use axum::response::Response;
use coracle_api::machines::{Elsewhere, Known, SendError, over};
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// The name of the machine whose view it is.
pub const OWN: &str = "00000000000000000000000000000000";

/// Where a machine is, and what serves it if it lives.
type Served = (SocketAddr, Option<JoinHandle<()>>);

#[derive(Default)]
pub struct Net {
    machines: Mutex<BTreeMap<String, Served>>,
    /// Machine, path and range.
    pub asked: Mutex<Vec<(String, String, Option<String>)>>,
}

impl Net {
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Serves a machine.
    pub async fn serve(&self, name: &str, router: Router) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let task = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        let mut machines = self.machines.lock().unwrap();
        machines.insert(name.to_owned(), (address, Some(task)));
    }

    /// One whose port nobody listens on any more.
    pub async fn dead(&self, name: &str) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut machines = self.machines.lock().unwrap();
        machines.insert(name.to_owned(), (address, None));
    }

    /// Takes a machine away.
    pub fn stop(&self, name: &str) {
        let (_, task) = self.machines.lock().unwrap().remove(name).unwrap();
        task.unwrap().abort();
    }

    /// How often a machine was asked for content, not counting what is small.
    pub fn asked_for(&self, machine: &str, path: &str) -> usize {
        let asked = self.asked.lock().unwrap();
        let fits = |(m, p, _): &&(String, String, Option<String>)| m == machine && p.contains(path);
        asked.iter().filter(fits).count()
    }
}

impl Elsewhere for Net {
    fn own(&self) -> String {
        OWN.into()
    }

    fn known(&self) -> Vec<Known> {
        let machines = self.machines.lock().unwrap();
        let names = machines.keys().map(String::as_str);
        names
            .chain([OWN])
            .map(|name| Known {
                id: name.into(),
                hostname: name.into(),
                alive: true,
                last_seen: None,
            })
            .collect()
    }

    fn send<'a>(
        &'a self,
        machine: &'a str,
        request: Request<Body>,
    ) -> BoxFuture<'a, Result<Response, SendError>> {
        async move {
            let range = request.headers().get(header::RANGE);
            let range = range.map(|r| r.to_str().unwrap().to_owned());
            let path = request.uri().to_string();
            let asked = (machine.to_owned(), path, range);
            self.asked.lock().unwrap().push(asked);
            let address = self.machines.lock().unwrap().get(machine).map(|m| m.0);
            let address = address.ok_or("no such machine")?;
            let connection = TcpStream::connect(address).await?;
            Ok(over(connection, request).await?)
        }
        .boxed()
    }
}
