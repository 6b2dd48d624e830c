//! `etcdserverpb.Lease`.

use std::pin::Pin;

use coracle_etcd_proto::etcdserverpb as pb;
use coracle_etcd_proto::etcdserverpb::lease_server::Lease;
use coracle_store::StoreError;
use futures_util::{Stream, StreamExt as _};
use tonic::{Request, Response, Status, Streaming};

use crate::context::{Gateway, status};

type Answer<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl Lease for Gateway {
    async fn lease_grant(
        &self,
        request: Request<pb::LeaseGrantRequest>,
    ) -> Answer<pb::LeaseGrantResponse> {
        let request = request.into_inner();
        let answer = self.store.lease_grant(request.ttl, request.id).await;
        let answer = answer.map_err(status)?;
        Ok(Response::new(pb::LeaseGrantResponse {
            header: self.header(answer.revision),
            id: answer.id,
            ttl: answer.ttl,
            error: String::new(),
        }))
    }

    async fn lease_revoke(
        &self,
        request: Request<pb::LeaseRevokeRequest>,
    ) -> Answer<pb::LeaseRevokeResponse> {
        let answer = self.store.lease_revoke(request.into_inner().id).await;
        let revision = answer.map_err(status)?.revision;
        Ok(Response::new(pb::LeaseRevokeResponse {
            header: self.header(revision),
        }))
    }

    type LeaseKeepAliveStream =
        Pin<Box<dyn Stream<Item = Result<pb::LeaseKeepAliveResponse, Status>> + Send>>;

    /// Each request has one answer, in order; a lease that is not there has a time of 0.
    async fn lease_keep_alive(
        &self,
        request: Request<Streaming<pb::LeaseKeepAliveRequest>>,
    ) -> Answer<Self::LeaseKeepAliveStream> {
        let gateway = self.clone();
        let answers = request.into_inner().then(move |request| {
            let gateway = gateway.clone();
            async move { gateway.keep_alive(request?.id).await }
        });
        Ok(Response::new(Box::pin(answers)))
    }

    async fn lease_time_to_live(
        &self,
        request: Request<pb::LeaseTimeToLiveRequest>,
    ) -> Answer<pb::LeaseTimeToLiveResponse> {
        let request = request.into_inner();
        let found = self.store.lease_time_to_live(request.id, request.keys);
        let answer = match found.await {
            Ok(found) => pb::LeaseTimeToLiveResponse {
                header: self.header(found.revision),
                id: request.id,
                ttl: found.ttl,
                granted_ttl: found.granted_ttl,
                keys: found.keys,
            },
            Err(StoreError::LeaseNotFound(_)) => pb::LeaseTimeToLiveResponse {
                header: self.header_now().await?,
                id: request.id,
                ttl: -1,
                ..Default::default()
            },
            Err(error) => return Err(status(error)),
        };
        Ok(Response::new(answer))
    }

    async fn lease_leases(
        &self,
        _: Request<pb::LeaseLeasesRequest>,
    ) -> Answer<pb::LeaseLeasesResponse> {
        let found = self.store.leases().await.map_err(status)?;
        let leases = found.ids.into_iter().map(|id| pb::LeaseStatus { id });
        Ok(Response::new(pb::LeaseLeasesResponse {
            header: self.header(found.revision),
            leases: leases.collect(),
        }))
    }
}

impl Gateway {
    async fn keep_alive(&self, id: i64) -> Result<pb::LeaseKeepAliveResponse, Status> {
        let (header, ttl) = match self.store.lease_keep_alive(id).await {
            Ok(kept) => (self.header(kept.revision), kept.ttl),
            Err(StoreError::LeaseNotFound(_)) => (self.header_now().await?, 0),
            Err(error) => return Err(status(error)),
        };
        Ok(pb::LeaseKeepAliveResponse { header, id, ttl })
    }
}
