//! `etcdserverpb.KV`.

use coracle_etcd_proto::etcdserverpb as pb;
use coracle_etcd_proto::etcdserverpb::kv_server::Kv;
use tonic::{Request, Response, Status};

use crate::context::{Gateway, status};
use crate::convert;

type Answer<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl Kv for Gateway {
    async fn range(&self, request: Request<pb::RangeRequest>) -> Answer<pb::RangeResponse> {
        let request = convert::range(request.into_inner())?;
        let answer = self.store.range(request).await.map_err(status)?;
        Ok(Response::new(self.range_answer(answer)))
    }

    async fn put(&self, request: Request<pb::PutRequest>) -> Answer<pb::PutResponse> {
        let request = convert::put(request.into_inner())?;
        let answer = self.store.put(request).await.map_err(status)?;
        Ok(Response::new(self.put_answer(answer)))
    }

    async fn delete_range(
        &self,
        request: Request<pb::DeleteRangeRequest>,
    ) -> Answer<pb::DeleteRangeResponse> {
        let request = convert::delete(request.into_inner())?;
        let answer = self.store.delete_range(request).await.map_err(status)?;
        Ok(Response::new(self.delete_answer(answer)))
    }

    async fn txn(&self, request: Request<pb::TxnRequest>) -> Answer<pb::TxnResponse> {
        let request = convert::txn(request.into_inner())?;
        let answer = self.store.txn(request).await.map_err(status)?;
        Ok(Response::new(self.txn_answer(answer)))
    }

    async fn compact(
        &self,
        request: Request<pb::CompactionRequest>,
    ) -> Answer<pb::CompactionResponse> {
        self.operator("compaction")?;
        // `physical` asks to wait until the space is free; here it is as soon as it is answered, for what comes next.
        let revision = request.into_inner().revision;
        let answer = self.store.compact(revision).await.map_err(status)?;
        Ok(Response::new(pb::CompactionResponse {
            header: self.header(answer.revision),
        }))
    }
}
