//! `v3electionpb.Election`.

use std::pin::Pin;
use std::sync::Arc;

use coracle_etcd_proto::v3electionpb as pb;
use coracle_etcd_proto::v3electionpb::election_server::Election;
use coracle_store::*;
use futures_util::Stream;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use crate::concurrency::{self, Place, status};
use crate::context::Gateway;
use crate::convert::key_value;

type Answer<T> = Result<Response<T>, Status>;

fn place(leader: Option<pb::LeaderKey>) -> Result<Place, Status> {
    let leader =
        leader.ok_or_else(|| Status::invalid_argument("\"leader\" field must be provided"))?;
    Ok(Place {
        key: leader.key,
        created: leader.rev,
        lease: leader.lease,
        revision: 0,
    })
}

#[tonic::async_trait]
impl Election for Gateway {
    async fn campaign(
        &self,
        request: Request<pb::CampaignRequest>,
    ) -> Answer<pb::CampaignResponse> {
        let request = request.into_inner();
        let entered = concurrency::enter(&self.store, &request.name, request.lease, request.value);
        let place = entered.await?;
        Ok(Response::new(pb::CampaignResponse {
            header: self.header(place.revision),
            leader: Some(pb::LeaderKey {
                name: request.name,
                key: place.key,
                rev: place.created,
                lease: place.lease,
            }),
        }))
    }

    async fn proclaim(
        &self,
        request: Request<pb::ProclaimRequest>,
    ) -> Answer<pb::ProclaimResponse> {
        let request = request.into_inner();
        let place = place(request.leader)?;
        let revision = concurrency::set(&self.store, &place, request.value).await?;
        Ok(Response::new(pb::ProclaimResponse {
            header: self.header(revision),
        }))
    }

    async fn leader(&self, request: Request<pb::LeaderRequest>) -> Answer<pb::LeaderResponse> {
        let queue = concurrency::queue(&request.into_inner().name);
        let found = self.store.range(concurrency::first(&queue)).await;
        let found = found.map_err(status)?;
        let Some(kv) = found.kvs.into_iter().next() else {
            return Err(Status::unknown("election: no leader"));
        };
        Ok(Response::new(pb::LeaderResponse {
            header: self.header(found.revision),
            kv: Some(key_value(kv)),
        }))
    }

    type ObserveStream = Pin<Box<dyn Stream<Item = Result<pb::LeaderResponse, Status>> + Send>>;

    async fn observe(&self, request: Request<pb::LeaderRequest>) -> Answer<Self::ObserveStream> {
        let (out, answers) = mpsc::channel(1);
        let observer = Observer {
            gateway: self.clone(),
            queue: concurrency::queue(&request.into_inner().name),
            out,
        };
        tokio::spawn(async move {
            let out = observer.out.clone();
            let ended = tokio::select! {
                ended = observer.run() => ended,
                () = out.closed() => return,
            };
            if let Err(error) = ended {
                // A client that left is told nothing.
                let _ = out.send(Err(error)).await;
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(answers))))
    }

    async fn resign(&self, request: Request<pb::ResignRequest>) -> Answer<pb::ResignResponse> {
        let place = place(request.into_inner().leader)?;
        let same = CompareTarget::Create(place.created);
        let txn = TxnRequest {
            compare: vec![Compare::new(place.key.clone(), CompareResult::Equal, same)],
            success: vec![TxnOp::Delete(DeleteRangeRequest::key(place.key))],
            failure: Vec::new(),
        };
        let answer = self.store.txn(txn).await.map_err(status)?;
        Ok(Response::new(pb::ResignResponse {
            header: self.header(answer.revision),
        }))
    }
}

/// Tells of every leader, and of every value that a leader proclaims.
struct Observer {
    gateway: Gateway,
    queue: bytes::Bytes,
    out: mpsc::Sender<Result<pb::LeaderResponse, Status>>,
}

impl Observer {
    async fn run(&self) -> Result<(), Status> {
        let store: &Arc<dyn Store> = &self.gateway.store;
        loop {
            let found = store.range(concurrency::first(&self.queue)).await;
            let found = found.map_err(status)?;
            let leader = found.kvs.into_iter().next();
            let watch = match &leader {
                Some(kv) => WatchRequest::key(kv.key.clone()),
                None => WatchRequest::prefix(self.queue.clone()),
            };
            let watch = store.watch(watch.from(found.revision + 1)).await;
            let mut watch = watch.map_err(status)?;
            if let Some(kv) = leader {
                self.tell(found.revision, kv).await?;
                self.follow(&mut watch).await?;
            } else {
                // Whatever it is, the queue is looked at anew.
                let next = watch.next().await.transpose().map_err(status)?;
                next.ok_or_else(|| Status::unavailable("etcdserver: server stopped"))?;
            }
        }
    }

    /// Until the leader's key is deleted, or its past is compacted.
    async fn follow(&self, watch: &mut WatchStream) -> Result<(), Status> {
        while let Some(answer) = watch.next().await {
            let answer = answer.map_err(status)?;
            for event in answer.events {
                match event.kind {
                    EventKind::Put => self.tell(answer.revision, event.kv).await?,
                    EventKind::Delete => return Ok(()),
                }
            }
            if answer.canceled {
                return Ok(());
            }
        }
        Err(Status::unavailable("etcdserver: server stopped"))
    }

    async fn tell(&self, revision: Revision, kv: KeyValue) -> Result<(), Status> {
        let answer = pb::LeaderResponse {
            header: self.gateway.header(revision),
            kv: Some(key_value(kv)),
        };
        let sent = self.out.send(Ok(answer)).await;
        sent.map_err(|_| Status::cancelled("the client left"))
    }
}
