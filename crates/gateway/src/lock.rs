//! `v3lockpb.Lock`.

use coracle_etcd_proto::v3lockpb as pb;
use coracle_etcd_proto::v3lockpb::lock_server::Lock;
use coracle_store::DeleteRangeRequest;
use tonic::{Request, Response, Status};

use crate::concurrency::{self, status};
use crate::context::Gateway;

#[tonic::async_trait]
impl Lock for Gateway {
    async fn lock(
        &self,
        request: Request<pb::LockRequest>,
    ) -> Result<Response<pb::LockResponse>, Status> {
        let request = request.into_inner();
        let value = bytes::Bytes::new();
        let entered = concurrency::enter(&self.store, &request.name, request.lease, value);
        let place = entered.await?;
        Ok(Response::new(pb::LockResponse {
            header: self.header(place.revision),
            key: place.key,
        }))
    }

    async fn unlock(
        &self,
        request: Request<pb::UnlockRequest>,
    ) -> Result<Response<pb::UnlockResponse>, Status> {
        let request = DeleteRangeRequest::key(request.into_inner().key);
        let gone = self.store.delete_range(request).await.map_err(status)?;
        Ok(Response::new(pb::UnlockResponse {
            header: self.header(gone.revision),
        }))
    }
}
