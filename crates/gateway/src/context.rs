//! What every service of the gateway has at hand.

use std::sync::Arc;

use coracle_etcd_proto::etcdserverpb as pb;
use coracle_store::{Code, Revision, Store, StoreError, full};
use tonic::Status;

/// The version that is answered as etcd's: the newest whose API is served whole.
pub(crate) const VERSION: &str = "3.5.0";

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// An app in a container: keys, watches, leases, locks and elections.
    App,
    /// The machine's operator: compaction and maintenance too.
    Operator,
}

/// The names in every answer's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The cluster's.
    pub cluster: u64,
    /// This machine's.
    pub member: u64,
}

/// One face of a store: for one role, under one identity.
#[derive(Clone)]
pub struct Gateway {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) identity: Identity,
    pub(crate) role: Role,
    /// What `member list` calls this machine.
    pub(crate) name: Arc<str>,
    /// The addresses that clients may use, as URLs.
    pub(crate) urls: Arc<[String]>,
}

impl Gateway {
    /// Serves `store` as it is; an app's should be a [`crate::Scoped`].
    pub fn new(
        store: Arc<dyn Store>,
        role: Role,
        identity: Identity,
        name: &str,
        urls: Vec<String>,
    ) -> Self {
        Self {
            store,
            identity,
            role,
            name: name.into(),
            urls: urls.into(),
        }
    }

    pub(crate) fn header(&self, revision: Revision) -> Option<pb::ResponseHeader> {
        Some(pb::ResponseHeader {
            cluster_id: self.identity.cluster,
            member_id: self.identity.member,
            revision,
            raft_term: 1,
        })
    }

    /// The header of an answer that has nothing of the store's but its revision.
    pub(crate) async fn header_now(&self) -> Result<Option<pb::ResponseHeader>, Status> {
        let status = self.store.status().await.map_err(status)?;
        Ok(self.header(status.revision))
    }

    /// Refuses what is not for apps.
    pub(crate) fn operator(&self, what: &str) -> Result<(), Status> {
        match self.role {
            Role::Operator => Ok(()),
            Role::App => Err(Status::permission_denied(format!(
                "etcdserver: permission denied: {what} is the operator's, by `coracle store` or the loopback address"
            ))),
        }
    }
}

/// An error of the store as etcd's status: clients match on code and text.
pub(crate) fn status(error: StoreError) -> Status {
    let code = match error.code() {
        Code::Unknown => tonic::Code::Unknown,
        Code::InvalidArgument => tonic::Code::InvalidArgument,
        Code::NotFound => tonic::Code::NotFound,
        Code::PermissionDenied => tonic::Code::PermissionDenied,
        Code::ResourceExhausted => tonic::Code::ResourceExhausted,
        Code::FailedPrecondition => tonic::Code::FailedPrecondition,
        Code::OutOfRange => tonic::Code::OutOfRange,
        Code::Unavailable => tonic::Code::Unavailable,
        Code::DataLoss => tonic::Code::DataLoss,
    };
    if matches!(code, tonic::Code::Unavailable | tonic::Code::DataLoss) {
        tracing::warn!(error = %full(&error), "the store could not answer");
    }
    Status::new(code, error.etcd_text())
}
