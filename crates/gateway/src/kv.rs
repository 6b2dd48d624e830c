//! `etcdserverpb.KV`.

use coracle_etcd_proto::etcdserverpb as pb;
use coracle_etcd_proto::etcdserverpb::kv_server::Kv;
use tonic::{Request, Response, Status};

use crate::context::{Gateway, status};
use crate::convert;

type Answer<T> = Result<Response<T>, Status>;

impl Gateway {
    pub(crate) async fn do_range(
        &self,
        request: pb::RangeRequest,
    ) -> Result<pb::RangeResponse, Status> {
        let request = convert::range(request)?;
        let answer = self.store.range(request).await.map_err(status)?;
        Ok(self.range_answer(answer))
    }

    pub(crate) async fn do_put(&self, request: pb::PutRequest) -> Result<pb::PutResponse, Status> {
        let request = convert::put(request)?;
        let answer = self.store.put(request).await.map_err(status)?;
        Ok(self.put_answer(answer))
    }

    pub(crate) async fn do_delete(
        &self,
        request: pb::DeleteRangeRequest,
    ) -> Result<pb::DeleteRangeResponse, Status> {
        let request = convert::delete(request)?;
        let answer = self.store.delete_range(request).await.map_err(status)?;
        Ok(self.delete_answer(answer))
    }

    pub(crate) async fn do_txn(&self, request: pb::TxnRequest) -> Result<pb::TxnResponse, Status> {
        let request = convert::txn(request)?;
        let answer = self.store.txn(request).await.map_err(status)?;
        Ok(self.txn_answer(answer))
    }
}

#[tonic::async_trait]
impl Kv for Gateway {
    async fn range(&self, request: Request<pb::RangeRequest>) -> Answer<pb::RangeResponse> {
        self.do_range(request.into_inner()).await.map(Response::new)
    }

    async fn put(&self, request: Request<pb::PutRequest>) -> Answer<pb::PutResponse> {
        self.do_put(request.into_inner()).await.map(Response::new)
    }

    async fn delete_range(
        &self,
        request: Request<pb::DeleteRangeRequest>,
    ) -> Answer<pb::DeleteRangeResponse> {
        self.do_delete(request.into_inner())
            .await
            .map(Response::new)
    }

    async fn txn(&self, request: Request<pb::TxnRequest>) -> Answer<pb::TxnResponse> {
        self.do_txn(request.into_inner()).await.map(Response::new)
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
