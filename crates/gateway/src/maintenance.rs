//! `etcdserverpb.Maintenance`: what may be looked at is for everybody, what changes or copies the store is the operator's.

use std::io::Write;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use coracle_etcd_proto::etcdserverpb as pb;
use coracle_etcd_proto::etcdserverpb::maintenance_server::Maintenance;
use futures_util::Stream;
use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use crate::context::{Gateway, VERSION, status};

type Answer<T> = Result<Response<T>, Status>;

/// Bytes of a snapshot in one answer, as etcd's.
const PIECE: usize = 32 << 10;

#[tonic::async_trait]
impl Maintenance for Gateway {
    /// Alarms come and go by themselves: NOSPACE is up as long as puts are refused for want of space. So there is nothing
    /// to raise, and to disarm one changes nothing but is no error.
    async fn alarm(&self, request: Request<pb::AlarmRequest>) -> Answer<pb::AlarmResponse> {
        use pb::alarm_request::AlarmAction;
        let action = request.into_inner().action;
        if action == i32::from(AlarmAction::Activate) {
            self.operator("raising alarms")?;
            return Err(Status::unimplemented(
                "alarms are raised by the store itself, for as long as their cause lasts",
            ));
        }
        let found = self.store.status().await.map_err(status)?;
        let alarms = found.no_space.then(|| pb::AlarmMember {
            member_id: self.identity.member,
            alarm: pb::AlarmType::Nospace.into(),
        });
        Ok(Response::new(pb::AlarmResponse {
            header: self.header(found.revision),
            alarms: alarms.into_iter().collect(),
        }))
    }

    async fn status(&self, _: Request<pb::StatusRequest>) -> Answer<pb::StatusResponse> {
        let found = self.store.status().await.map_err(status)?;
        let size = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
        let index = found.revision.unsigned_abs();
        let errors = found
            .no_space
            .then(|| format!("memberID:{} alarm:NOSPACE ", self.identity.member));
        Ok(Response::new(pb::StatusResponse {
            header: self.header(found.revision),
            version: VERSION.to_owned(),
            db_size: size(found.bytes_on_disk),
            leader: self.identity.member,
            raft_index: index,
            raft_term: 1,
            raft_applied_index: index,
            errors: errors.into_iter().collect(),
            db_size_in_use: size(found.bytes_in_use),
            is_learner: false,
            storage_version: VERSION.to_owned(),
            db_size_quota: size(found.quota_bytes),
        }))
    }

    async fn defragment(
        &self,
        _: Request<pb::DefragmentRequest>,
    ) -> Answer<pb::DefragmentResponse> {
        self.operator("defragmenting")?;
        self.store.defragment().await.map_err(status)?;
        Ok(Response::new(pb::DefragmentResponse {
            header: self.header_now().await?,
        }))
    }

    async fn hash(&self, _: Request<pb::HashRequest>) -> Answer<pb::HashResponse> {
        self.operator("hashing the store")?;
        let found = self.store.hash(0).await.map_err(status)?;
        Ok(Response::new(pb::HashResponse {
            header: self.header(found.revision),
            hash: found.hash,
        }))
    }

    async fn hash_kv(&self, request: Request<pb::HashKvRequest>) -> Answer<pb::HashKvResponse> {
        self.operator("hashing the store")?;
        let revision = request.into_inner().revision;
        let found = self.store.hash(revision).await.map_err(status)?;
        Ok(Response::new(pb::HashKvResponse {
            header: self.header(found.revision),
            hash: found.hash,
            compact_revision: found.compact_revision,
            hash_revision: found.hash_revision,
        }))
    }

    type SnapshotStream = Pin<Box<dyn Stream<Item = Result<pb::SnapshotResponse, Status>> + Send>>;

    /// The copy, then a SHA-256 of it, as etcd sends: its clients check the length for that.
    async fn snapshot(&self, _: Request<pb::SnapshotRequest>) -> Answer<Self::SnapshotStream> {
        self.operator("a snapshot of the store")?;
        let (out, answers) = mpsc::channel(4);
        let gateway = self.clone();
        let sum = Arc::new(Mutex::new(Sha256::new()));
        tokio::spawn(async move {
            let writer = Pieces {
                gateway: gateway.clone(),
                out: out.clone(),
                piece: Vec::with_capacity(PIECE),
                sum: sum.clone(),
            };
            let last = match gateway.store.snapshot(Box::new(writer)).await {
                Ok(_) => {
                    let sum = std::mem::take(&mut *locked(&sum)).finalize();
                    Ok(blob(&gateway, sum.to_vec()))
                }
                Err(error) => Err(status(error)),
            };
            // A client that left is told nothing.
            let _ = out.send(last).await;
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(answers))))
    }

    async fn move_leader(
        &self,
        _: Request<pb::MoveLeaderRequest>,
    ) -> Answer<pb::MoveLeaderResponse> {
        self.operator("moving the leader")?;
        Err(Status::failed_precondition(
            "etcdserver: leader transfer failed: there is one member",
        ))
    }

    async fn downgrade(&self, _: Request<pb::DowngradeRequest>) -> Answer<pb::DowngradeResponse> {
        self.operator("a downgrade")?;
        Err(Status::unimplemented(
            "the store's format goes with the release of coracle",
        ))
    }
}

/// Sends what is written in pieces. Its store writes from a thread that may block.
struct Pieces {
    gateway: Gateway,
    out: mpsc::Sender<Result<pb::SnapshotResponse, Status>>,
    piece: Vec<u8>,
    /// Of all that was written.
    sum: Arc<Mutex<Sha256>>,
}

fn locked(sum: &Mutex<Sha256>) -> MutexGuard<'_, Sha256> {
    // Nothing under this lock panics half way.
    sum.lock().unwrap_or_else(PoisonError::into_inner)
}

fn blob(gateway: &Gateway, bytes: Vec<u8>) -> pb::SnapshotResponse {
    pb::SnapshotResponse {
        header: gateway.header(0),
        remaining_bytes: 0,
        blob: Bytes::from(bytes),
        version: String::new(),
    }
}

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let taken = bytes.len().min(PIECE - self.piece.len());
        self.piece.extend_from_slice(&bytes[..taken]);
        locked(&self.sum).update(&bytes[..taken]);
        if self.piece.len() == PIECE {
            self.flush()?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        if self.piece.is_empty() {
            return Ok(());
        }
        let full = std::mem::replace(&mut self.piece, Vec::with_capacity(PIECE));
        let answer = blob(&self.gateway, full);
        let gone = |_| std::io::Error::from(std::io::ErrorKind::BrokenPipe);
        self.out.blocking_send(Ok(answer)).map_err(gone)
    }
}
