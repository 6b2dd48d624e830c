//! The store of a real etcd (3.4 to 3.6), by its v3 API.
//!
//! # What is tried again
//! A request goes to the member that answered last. Where no connection can be made the next one is asked, also for writes, since
//! nothing was sent. A read that fails on its way is asked again of the next. A write that fails on its way is not: it may have
//! been done, and who asked must look; the error says so ([`StoreError::Unreachable`] with `sent`).
//!
//! # Watches
//! A watch is a stream of its own with a position: the revision it has told last. When the stream breaks it is opened anew at the
//! next one, on whichever member answers, so that nothing is told twice and nothing left out; what was compacted meanwhile is said
//! to be.
//!
//! # States
//! [`EtcdStore::state`] tells the layers above whether to trust what they do: [`State::Connected`], [`State::Degraded`] (some
//! members do not answer), [`State::CutOff`] (none does, or there is no leader).

pub mod bolt;
mod convert;
mod dial;
mod members;
pub(crate) mod seed;
mod watch;

use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use coracle_etcd_proto::etcdserverpb as pb;
use pb::kv_client::KvClient;
use pb::lease_client::LeaseClient;
use pb::maintenance_client::MaintenanceClient;
use tonic::transport::Channel;

use crate::error::StoreError;
use crate::store::{BoxFuture, Store, WatchStream};
use crate::types::*;
use convert::{Of, revision};
pub use dial::{Dial, Io};
use members::Members;
pub use members::{Reached, State, Tls};

/// Where etcd is and how it is asked.
#[derive(Clone, Debug)]
pub struct EtcdOptions {
    /// Its members' client URLs: `http://127.0.0.1:2379`, or `https://…` with [`Self::tls`].
    pub endpoints: Vec<String>,
    /// Certificates for both sides.
    pub tls: Option<Tls>,
    /// How connections are made, in place of TCP and [`Self::tls`]; endpoints are `http://NAME` then, whatever the connection is.
    pub dial: Option<Dial>,
    /// How long a request may take, all tries together. Default 5 s.
    pub timeout: Duration,
    /// How long a connection may take to be made. Default 2 s.
    pub connect_timeout: Duration,
    /// A watch is told what it missed in one message, however large, and not cut in pieces of 1.5 MiB. To cut 100,000 small
    /// events etcd 3.4 takes half a minute. Default false.
    pub whole: bool,
    /// A watch waits for a member that answers for as long as that takes. Without, it ends with an error when its member is lost and no
    /// other answers, so that who is told can ask elsewhere. Default true.
    pub lasting: bool,
}

impl EtcdOptions {
    /// Those members, without TLS.
    pub fn new(endpoints: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self {
            endpoints: endpoints.into_iter().map(Into::into).collect(),
            tls: None,
            dial: None,
            timeout: Duration::from_secs(5),
            connect_timeout: Duration::from_secs(2),
            whole: false,
            lasting: true,
        }
    }
}

/// See the module.
pub struct EtcdStore {
    members: Arc<Members>,
}

/// Messages of ranges may be as large as the store.
fn kv(channel: Channel) -> KvClient<Channel> {
    KvClient::new(channel).max_decoding_message_size(usize::MAX)
}

impl EtcdStore {
    /// Over these members; none has to be there yet.
    ///
    /// # Errors
    /// `Endpoint` for an address or a certificate that makes no sense.
    pub fn new(options: EtcdOptions) -> Result<Self, StoreError> {
        Ok(Self {
            members: Arc::new(Members::new(options)?),
        })
    }

    /// Asks these members from now on, the first one first; of none, every request is answered that there is nobody to ask. Connections
    /// to those that stay are kept, and what is under way goes on where it is.
    ///
    /// # Errors
    /// `Endpoint` for an address that makes no sense; nothing changes then.
    pub fn reach(&self, members: Vec<Reached>) -> Result<(), StoreError> {
        self.members.reach(members)
    }

    /// How it stands, and when that changes.
    pub fn state(&self) -> tokio::sync::watch::Receiver<State> {
        self.members.state()
    }
}

impl Store for EtcdStore {
    fn range(&self, request: RangeRequest) -> BoxFuture<'_, RangeResponse> {
        Box::pin(async move {
            let of = Of::revision(request.revision);
            let request = convert::range(request);
            let ask = |channel| {
                let request = request.clone();
                async move { kv(channel).range(request).await }
            };
            let answer = self.members.read(of, ask).await?;
            Ok(convert::range_answer(answer))
        })
    }

    fn put(&self, request: PutRequest) -> BoxFuture<'_, PutResponse> {
        Box::pin(async move {
            let of = Of::put(&request);
            let request = convert::put(request);
            let ask = |channel| {
                let request = request.clone();
                async move { kv(channel).put(request).await }
            };
            let answer = self.members.write(of, ask).await?;
            Ok(convert::put_answer(answer))
        })
    }

    fn delete_range(&self, request: DeleteRangeRequest) -> BoxFuture<'_, DeleteRangeResponse> {
        Box::pin(async move {
            let request = convert::delete(request);
            let ask = |channel| {
                let request = request.clone();
                async move { kv(channel).delete_range(request).await }
            };
            let answer = self.members.write(Of::default(), ask).await?;
            Ok(convert::delete_answer(answer))
        })
    }

    fn txn(&self, request: TxnRequest) -> BoxFuture<'_, TxnResponse> {
        Box::pin(async move {
            let of = Of::txn(&request);
            let request = convert::txn(request);
            let ask = |channel| {
                let request = request.clone();
                async move { kv(channel).txn(request).await }
            };
            let answer = self.members.write(of, ask).await?;
            Ok(convert::txn_answer(answer))
        })
    }

    fn compact(&self, requested: Revision) -> BoxFuture<'_, CompactResponse> {
        Box::pin(async move {
            let request = pb::CompactionRequest {
                revision: requested,
                physical: false,
            };
            let ask = |channel| async move { kv(channel).compact(request).await };
            let answer = self.members.write(Of::revision(requested), ask).await?;
            Ok(CompactResponse {
                revision: revision(&answer.header),
            })
        })
    }

    fn watch(&self, request: WatchRequest) -> BoxFuture<'_, WatchStream> {
        Box::pin(async move {
            let watch = watch::Watch::open(self.members.clone(), request).await?;
            Ok(WatchStream::new(watch))
        })
    }

    fn lease_grant(&self, ttl: i64, id: LeaseId) -> BoxFuture<'_, LeaseGrantResponse> {
        Box::pin(async move {
            let request = pb::LeaseGrantRequest { ttl, id };
            let ask = |channel| async move { LeaseClient::new(channel).lease_grant(request).await };
            let answer = self.members.write(Of::grant(id, ttl), ask).await?;
            Ok(LeaseGrantResponse {
                revision: revision(&answer.header),
                id: answer.id,
                ttl: answer.ttl,
            })
        })
    }

    fn lease_revoke(&self, id: LeaseId) -> BoxFuture<'_, LeaseRevokeResponse> {
        Box::pin(async move {
            let request = pb::LeaseRevokeRequest { id };
            let ask =
                |channel| async move { LeaseClient::new(channel).lease_revoke(request).await };
            let answer = self.members.write(Of::lease(id), ask).await?;
            Ok(LeaseRevokeResponse {
                revision: revision(&answer.header),
            })
        })
    }

    fn lease_keep_alive(&self, id: LeaseId) -> BoxFuture<'_, LeaseKeepAliveResponse> {
        Box::pin(async move {
            // To say so twice does no harm, so it is asked as a read is.
            let ask = |channel| async move {
                let one = tokio_stream::once(pb::LeaseKeepAliveRequest { id });
                let mut client = LeaseClient::new(channel);
                let mut answers = client.lease_keep_alive(one).await?.into_inner();
                let cut = || tonic::Status::unavailable("the stream ended before its answer");
                let answer = answers.message().await?.ok_or_else(cut)?;
                Ok(tonic::Response::new(answer))
            };
            let answer = self.members.read(Of::lease(id), ask).await?;
            // etcd's way to say that it is not there.
            if answer.ttl <= 0 {
                return Err(StoreError::LeaseNotFound(id));
            }
            Ok(LeaseKeepAliveResponse {
                revision: revision(&answer.header),
                ttl: answer.ttl,
            })
        })
    }

    fn lease_time_to_live(
        &self,
        id: LeaseId,
        keys: bool,
    ) -> BoxFuture<'_, LeaseTimeToLiveResponse> {
        Box::pin(async move {
            let ask = |channel| async move {
                let request = pb::LeaseTimeToLiveRequest { id, keys };
                LeaseClient::new(channel).lease_time_to_live(request).await
            };
            let mut answer = self.members.read(Of::lease(id), ask).await?;
            if answer.ttl < 0 {
                return Err(StoreError::LeaseNotFound(id));
            }
            answer.keys.sort();
            Ok(LeaseTimeToLiveResponse {
                revision: revision(&answer.header),
                id,
                ttl: answer.ttl,
                granted_ttl: answer.granted_ttl,
                keys: answer.keys,
            })
        })
    }

    fn leases(&self) -> BoxFuture<'_, LeasesResponse> {
        Box::pin(async move {
            let ask = |channel| async move {
                let request = pb::LeaseLeasesRequest {};
                LeaseClient::new(channel).lease_leases(request).await
            };
            let answer = self.members.read(Of::default(), ask).await?;
            Ok(LeasesResponse {
                revision: revision(&answer.header),
                ids: answer.leases.into_iter().map(|lease| lease.id).collect(),
            })
        })
    }

    fn defragment(&self) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            let ask = |channel| async move {
                let request = pb::DefragmentRequest {};
                MaintenanceClient::new(channel).defragment(request).await
            };
            self.members.write(Of::default(), ask).await?;
            Ok(())
        })
    }

    fn hash(&self, requested: Revision) -> BoxFuture<'_, HashResponse> {
        Box::pin(async move {
            let ask = |channel| async move {
                let request = pb::HashKvRequest {
                    revision: requested,
                };
                MaintenanceClient::new(channel).hash_kv(request).await
            };
            let answer = self.members.read(Of::revision(requested), ask).await?;
            let now = revision(&answer.header);
            Ok(HashResponse {
                revision: now,
                hash: answer.hash,
                hash_revision: if requested > 0 { requested } else { now },
                compact_revision: answer.compact_revision,
            })
        })
    }

    fn status(&self) -> BoxFuture<'_, Status> {
        Box::pin(async move {
            let ask = |channel: Channel| async move {
                let mut client = MaintenanceClient::new(channel);
                let status = client.status(pb::StatusRequest {}).await?.into_inner();
                let alarms = client
                    .alarm(pb::AlarmRequest::default())
                    .await?
                    .into_inner();
                Ok(tonic::Response::new((status, alarms)))
            };
            let (status, alarms) = self.members.read(Of::default(), ask).await?;
            let bytes = |n: i64| u64::try_from(n).unwrap_or(0);
            let nospace = i32::from(pb::AlarmType::Nospace);
            Ok(Status {
                revision: revision(&status.header),
                // Not told by etcd's status.
                compact_revision: 0,
                bytes_in_use: bytes(status.db_size_in_use),
                bytes_on_disk: bytes(status.db_size),
                // Told from 3.6 on; before, its default.
                quota_bytes: match bytes(status.db_size_quota) {
                    0 => 2 << 30,
                    told => told,
                },
                no_space: alarms.alarms.iter().any(|alarm| alarm.alarm == nospace),
                leases: self.leases().await?.ids.len(),
            })
        })
    }

    fn snapshot(&self, mut out: Box<dyn Write + Send>) -> BoxFuture<'_, Revision> {
        Box::pin(async move {
            let ask = |channel| async move {
                let mut client = MaintenanceClient::new(channel);
                client.snapshot(pb::SnapshotRequest {}).await
            };
            let mut pieces = self.members.write(Of::default(), ask).await?;
            let failed = |e| StoreError::io("writing a snapshot to", "its file".as_ref(), e);
            loop {
                let piece = pieces.message().await;
                let piece = piece.map_err(|s| convert::error(s, Of::default(), "etcd", false))?;
                let Some(piece) = piece else { break };
                out = tokio::task::spawn_blocking(move || out.write_all(&piece.blob).map(|()| out))
                    .await
                    .map_err(|e| failed(std::io::Error::other(e)))?
                    .map_err(failed)?;
            }
            out.flush().map_err(failed)?;
            Ok(self.status().await?.revision)
        })
    }
}
