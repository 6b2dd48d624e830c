//! A watch on etcd that outlasts its connections.
//!
//! It knows the first revision not told yet. Say it has told all up to 40 and the member goes: the next stream starts at 41, on
//! another member, which tells 41 and what follows, or that 41 is compacted. An answer that comes in pieces (etcd cuts what is
//! too large for a message) is told as one, so that the position is always between two revisions.
//!
//! While there is nobody to ask it is asked again, after a rest that doubles: up to 8 times a member's rest where none can be
//! reached, which may change at any moment, and up to 64 times where it is refused, as a machine is that was removed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use coracle_etcd_proto::etcdserverpb as pb;
use pb::watch_client::WatchClient;
use pb::watch_request::RequestUnion;
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use super::convert::{self, Of, revision};
use super::members::{Member, Members};
use crate::error::StoreError;
use crate::store::{WatchControl, WatchHandle, WatchNext, Watching};
use crate::types::*;

#[derive(Default)]
struct Asked {
    progress: AtomicBool,
    canceled: AtomicBool,
    wake: Notify,
}

struct Handle(Arc<Asked>);

impl WatchControl for Handle {
    fn request_progress(&self) {
        self.0.progress.store(true, Ordering::Release);
        self.0.wake.notify_one();
    }

    fn cancel(&self) {
        self.0.canceled.store(true, Ordering::Release);
        self.0.wake.notify_one();
    }
}

struct Stream {
    ask: mpsc::Sender<pb::WatchRequest>,
    answers: Streaming<pb::WatchResponse>,
    member: Arc<Member>,
    since: Instant,
}

pub(super) struct Watch {
    members: Arc<Members>,
    request: WatchRequest,
    begun: Revision,
    next: Revision,
    stream: Option<Stream>,
    /// Pieces of an answer that is not whole yet.
    pieces: Vec<Event>,
    asked: Arc<Asked>,
    /// Tries in vain since something was heard.
    tries: u32,
    /// The last one was answered with a refusal.
    refused: bool,
    /// A progress answer is owed; a stream that broke is asked for it anew.
    owed: bool,
    over: bool,
}

impl Watch {
    pub(super) async fn open(
        members: Arc<Members>,
        mut request: WatchRequest,
    ) -> Result<Self, StoreError> {
        if request.key.is_empty() {
            request.key = Bytes::from_static(b"\0");
        }
        let mut watch = Self {
            members,
            next: request.start_revision,
            request,
            begun: 0,
            stream: None,
            pieces: Vec::new(),
            asked: Arc::default(),
            tries: 0,
            refused: false,
            owed: false,
            over: false,
        };
        watch.begun = watch.connect().await?;
        if watch.next <= 0 {
            watch.next = watch.begun + 1;
        }
        Ok(watch)
    }

    /// A new stream from the position; answers the store's revision then.
    async fn connect(&mut self) -> Result<Revision, StoreError> {
        use pb::watch_create_request::FilterType;
        self.pieces.clear();
        let (channel, member) = self.members.connect().await?;
        let filter = |on: bool, filter: FilterType| on.then(|| i32::from(filter));
        let request = &self.request;
        let filters = [
            filter(request.no_put, FilterType::Noput),
            filter(request.no_delete, FilterType::Nodelete),
        ];
        let create = pb::WatchCreateRequest {
            key: request.key.clone(),
            range_end: request.range_end.clone(),
            start_revision: self.next.max(0),
            // Also if nobody asked: a watch that sees no change for long is not to stand before a compaction.
            progress_notify: true,
            filters: filters.into_iter().flatten().collect(),
            prev_kv: request.prev_kv,
            watch_id: 0,
            fragment: !self.members.whole(),
        };
        let (ask, asked) = mpsc::channel(8);
        let broken = |status: tonic::Status| {
            self.members.broke(&member);
            convert::error(status, Of::default(), "etcd", false)
        };
        let create = pb::WatchRequest {
            request_union: Some(RequestUnion::CreateRequest(create)),
        };
        // The other end is here until the stream is made.
        let _ = ask.send(create).await;
        let mut client = WatchClient::new(channel).max_decoding_message_size(usize::MAX);
        let mut request = tonic::Request::new(ReceiverStream::new(asked));
        // A member that has lost its leader, as one that is cut off, says so and is left, in place of telling nothing for ever.
        let required = tonic::metadata::MetadataValue::from_static("true");
        request.metadata_mut().insert("hasleader", required);
        let answers = client.watch(request).await;
        let mut answers = answers.map_err(broken)?.into_inner();
        let created = answers.message().await.map_err(broken)?;
        let created = created.unwrap_or_default();
        if created.canceled && created.cancel_reason.contains("permission denied") {
            return Err(StoreError::Refused {
                endpoint: "the member asked".to_owned(),
                code: tonic::Code::PermissionDenied.into(),
                text: created.cancel_reason,
            });
        }
        if created.canceled || !created.created {
            self.members.broke(&member);
            return Err(StoreError::Unreachable {
                why: "etcd ended the watch before it began".to_owned(),
                sent: false,
            });
        }
        self.stream = Some(Stream {
            ask,
            answers,
            member,
            since: Instant::now(),
        });
        if self.owed {
            self.asked.progress.store(true, Ordering::Release);
        }
        Ok(revision(&created.header))
    }

    async fn answer(&mut self) -> Option<Result<WatchResponse, StoreError>> {
        loop {
            if self.over {
                return None;
            }
            if self.asked.canceled.load(Ordering::Acquire) {
                self.over = true;
                self.stream = None;
                return Some(Ok(WatchResponse {
                    revision: self.next - 1,
                    canceled: true,
                    ..Default::default()
                }));
            }
            if self.stream.is_none()
                && let Err(error) = self.connect().await
            {
                if !self.members.lasting() {
                    self.over = true;
                    return Some(Err(error));
                }
                // As long as there is nobody to ask, it is asked: a watch is not over because a machine is away.
                self.refused = !matches!(error, StoreError::Unreachable { .. });
                self.rest().await;
                continue;
            }
            // Made above, if there was none.
            let Some(stream) = &mut self.stream else {
                continue;
            };
            if self.asked.progress.swap(false, Ordering::AcqRel) {
                self.owed = true;
                let progress = RequestUnion::ProgressRequest(pb::WatchProgressRequest {});
                let ask = pb::WatchRequest {
                    request_union: Some(progress),
                };
                // A stream that is over says so below.
                let _ = stream.ask.send(ask).await;
            }
            let asked = self.asked.clone();
            let told = tokio::select! {
                told = stream.answers.message() => told,
                () = asked.wake.notified() => continue,
            };
            match told {
                Ok(Some(told)) => {
                    self.tries = 0;
                    if let Some(answer) = self.take(told) {
                        return Some(Ok(answer));
                    }
                }
                Ok(None) | Err(_) => {
                    let (member, lived) = (stream.member.clone(), stream.since.elapsed());
                    self.stream = None;
                    self.members.broke(&member);
                    // One that stood for a while is begun anew at once; one that ends as it begins would end so without end.
                    match lived > self.members.rest() {
                        true => self.tries = 0,
                        false => self.rest().await,
                    }
                }
            }
        }
    }

    /// Waits before the next try, or until somebody wants something of the watch.
    async fn rest(&mut self) {
        let doubled = self.tries.min(if self.refused { 6 } else { 3 });
        self.tries += 1;
        let asked = self.asked.clone();
        let rest = self.members.rest() * (1 << doubled);
        let _ = tokio::time::timeout(rest, asked.wake.notified()).await;
    }

    fn take(&mut self, told: pb::WatchResponse) -> Option<WatchResponse> {
        let at = revision(&told.header);
        if told.compact_revision != 0 {
            self.over = true;
            return Some(WatchResponse {
                revision: at,
                compact_revision: told.compact_revision,
                canceled: true,
                ..Default::default()
            });
        }
        if told.canceled {
            // The member stops, or lost its leader: another goes on.
            let member = self.stream.take().map(|stream| stream.member);
            self.members.broke(&member?);
            return None;
        }
        self.pieces
            .extend(told.events.into_iter().map(convert::event));
        if told.fragment {
            return None;
        }
        let events = std::mem::take(&mut self.pieces);
        if let Some(last) = events.last() {
            // The header may be of a moment before or after it.
            self.next = self.next.max(last.kv.mod_revision + 1);
        } else if told.watch_id < 0 {
            // Asked for. Before 3.4.25 and 3.5.8 it may overtake what is still to be told, so the position stays.
            self.owed = false;
        } else {
            self.next = self.next.max(at + 1);
            if !self.request.progress_notify {
                return None;
            }
        }
        Some(WatchResponse {
            revision: events.last().map_or(at, |event| event.kv.mod_revision),
            events,
            ..Default::default()
        })
    }
}

impl Watching for Watch {
    fn next(&mut self) -> WatchNext<'_> {
        Box::pin(self.answer())
    }

    fn handle(&self) -> WatchHandle {
        WatchHandle::new(Handle(self.asked.clone()))
    }

    fn revision(&self) -> Revision {
        self.begun
    }
}
