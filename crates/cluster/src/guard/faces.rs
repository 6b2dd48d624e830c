//! etcd's v3 API at the door: to each member, its own view of the store.

use std::collections::HashMap;
use std::convert::Infallible;
use std::future::{Future, ready};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};

use coracle_gateway::{Face, Gateway, Identity, Reply, Role, Store};
use hyper::body::Incoming;
use hyper::service::Service as _;
use hyper::{Request, Response};
use tokio::sync::watch;
use tonic::Status;

use super::Guarded;
use crate::MachineId;
use crate::door::Peer;
use crate::members::Members;

/// The services that machines ask; locks and elections through the door would be another's.
const SERVICES: [&str; 4] = [
    "/etcdserverpb.KV/",
    "/etcdserverpb.Watch/",
    "/etcdserverpb.Lease/",
    "/etcdserverpb.Maintenance/",
];

struct Inside {
    store: Arc<dyn Store>,
    identity: Identity,
    members: watch::Receiver<Members>,
    faces: Mutex<HashMap<MachineId, Face>>,
}

/// Makes a face of the store for each machine that asks. Cheap to clone.
#[derive(Clone)]
pub struct Faces(Arc<Inside>);

type Answer = Pin<Box<dyn Future<Output = Result<Response<Reply>, Infallible>> + Send>>;

impl Faces {
    /// Of `store`; `identity` is what stands in the answers' headers.
    pub fn new(
        store: Arc<dyn Store>,
        identity: Identity,
        members: watch::Receiver<Members>,
    ) -> Self {
        Self(Arc::new(Inside {
            store,
            identity,
            members,
            faces: Mutex::default(),
        }))
    }

    /// Whether a request of that path is for the store.
    pub(crate) fn is_for(path: &str) -> bool {
        SERVICES.iter().any(|service| path.starts_with(service))
    }

    pub(crate) fn call(&self, peer: &Peer, request: Request<Incoming>) -> Answer {
        let Some(machine) = &peer.machine else {
            let status = Status::unauthenticated(crate::door::stranger(Some(peer)));
            let refused = status.into_http::<axum::body::Body>().map(Reply::Other);
            return Box::pin(ready(Ok(refused)));
        };
        self.face(machine).call(request)
    }

    fn face(&self, machine: &MachineId) -> Face {
        let inside = &self.0;
        let mut faces = inside.faces.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(face) = faces.get(machine) {
            return face.clone();
        }
        // Those of machines that were removed meanwhile.
        let members = inside.members.borrow().clone();
        faces.retain(|known, _| members.standing(known).is_some());
        let guarded = Guarded::new(
            inside.store.clone(),
            machine.clone(),
            inside.members.clone(),
        );
        let gateway = Gateway::new(
            Arc::new(guarded),
            Role::App,
            inside.identity,
            machine.as_str(),
            Vec::new(),
        );
        let face = Face::new(gateway);
        faces.insert(machine.clone(), face.clone());
        face
    }
}
