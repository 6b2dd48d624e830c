//! `etcdserverpb.Watch`: many watches on one stream.
//!
//! Each watch has a task that reads it and sends to the client through a queue of few places. A client that stops
//! reading fills the queue; then the tasks wait, and nothing is kept for it: a watch is a position in the history.
//!
//! A progress request is answered (with watch id -1) once every watch of the stream has told all up to the revision
//! in the answer: each is asked for its own progress, and the least of them is the answer.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use coracle_etcd_proto::etcdserverpb as pb;
use coracle_etcd_proto::etcdserverpb::watch_request::RequestUnion;
use coracle_etcd_proto::etcdserverpb::watch_server::Watch;
use coracle_etcd_proto::mvccpb;
use coracle_store::{Revision, WatchHandle, WatchRequest, WatchResponse, WatchStream, full};
use futures_util::Stream;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::context::{Gateway, status};
use crate::{convert, undecoded};

/// Answers that wait for the client.
const QUEUE: usize = 4;
/// Watches of one stream.
const WATCHES: usize = 100_000;
/// Where a response is cut in pieces if the client asked for that: bytes of etcd's largest request.
const FRAGMENT: usize = 3 << 19;

type Out = mpsc::Sender<Result<pb::WatchResponse, Status>>;

#[tonic::async_trait]
impl Watch for Gateway {
    type WatchStream = Pin<Box<dyn Stream<Item = Result<pb::WatchResponse, Status>> + Send>>;

    async fn watch(
        &self,
        request: Request<Streaming<pb::WatchRequest>>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let (out, answers) = mpsc::channel(QUEUE);
        let (told, news) = mpsc::unbounded_channel();
        let watches = Watches {
            gateway: self.clone(),
            out,
            told,
            running: BTreeMap::new(),
            compacted: BTreeSet::new(),
            next_id: 0,
            progress: Progress::default(),
        };
        tokio::spawn(watches.run(request.into_inner(), news));
        Ok(Response::new(Box::pin(ReceiverStream::new(answers))))
    }
}

/// What a watch's task tells its stream.
enum News {
    /// It was asked for progress: all up to this is told.
    Progress(i64, Revision),
    /// It is over: cancelled by the client, or for a compaction.
    Over { id: i64, compacted: bool },
}

struct Running {
    handle: WatchHandle,
    task: tokio::task::AbortHandle,
    /// The next progress answer is the stream's and not the client's own.
    asked: Arc<AtomicBool>,
}

#[derive(Default)]
struct Progress {
    /// Watches that have yet to answer; a round goes on while there are any.
    waiting: BTreeSet<i64>,
    least: Option<Revision>,
    /// Rounds asked for while one went on.
    more: usize,
}

struct Watches {
    gateway: Gateway,
    out: Out,
    told: mpsc::UnboundedSender<News>,
    running: BTreeMap<i64, Running>,
    /// Ended by a compaction; etcd gives their ids to no other until the client has cancelled them.
    compacted: BTreeSet<i64>,
    next_id: i64,
    progress: Progress,
}

impl Watches {
    async fn run(
        mut self,
        mut requests: Streaming<pb::WatchRequest>,
        mut news: mpsc::UnboundedReceiver<News>,
    ) {
        // A client that ends its half still reads, as a JSON client does.
        let mut open = true;
        loop {
            let gone = self.out.clone();
            let result = tokio::select! {
                request = requests.message(), if open => match request {
                    Ok(Some(request)) => self.request(request).await,
                    Ok(None) => { open = false; Ok(()) }
                    // Not a message, or the client left and hears nothing more.
                    Err(error) => {
                        let _ = self.out.send(Err(undecoded::status(error))).await;
                        return;
                    }
                },
                Some(news) = news.recv() => self.hear(news).await,
                () = gone.closed() => return,
            };
            if result.is_err() {
                return;
            }
        }
    }

    async fn send(&self, answer: pb::WatchResponse) -> Result<(), ()> {
        self.out.send(Ok(answer)).await.map_err(drop)
    }

    async fn request(&mut self, request: pb::WatchRequest) -> Result<(), ()> {
        match request.request_union {
            Some(RequestUnion::CreateRequest(create)) => self.create(create).await,
            Some(RequestUnion::CancelRequest(cancel)) => {
                let watch_id = cancel.watch_id;
                if self.compacted.remove(&watch_id) {
                    let Ok(header) = self.gateway.header_now().await else {
                        return Err(());
                    };
                    let canceled = pb::WatchResponse {
                        header,
                        watch_id,
                        canceled: true,
                        ..Default::default()
                    };
                    return self.send(canceled).await;
                }
                if let Some(running) = self.running.get(&watch_id) {
                    running.handle.cancel();
                }
                Ok(())
            }
            Some(RequestUnion::ProgressRequest(_)) if self.progress.waiting.is_empty() => {
                self.ask_progress().await
            }
            Some(RequestUnion::ProgressRequest(_)) => {
                self.progress.more += 1;
                Ok(())
            }
            None => Ok(()),
        }
    }

    async fn create(&mut self, create: pb::WatchCreateRequest) -> Result<(), ()> {
        let (asked_id, fragment) = (create.watch_id, create.fragment);
        let progress_notify = create.progress_notify;
        let begun = match self.choose(asked_id, &create) {
            Ok(id) => match self.gateway.store.watch(request_of(create)).await {
                Ok(stream) => Ok((id, stream)),
                Err(error) => Err(status(error).message().to_owned()),
            },
            Err(reason) => Err(reason.to_owned()),
        };
        let (id, stream) = match begun {
            Ok(begun) => begun,
            Err(cancel_reason) => {
                let Ok(header) = self.gateway.header_now().await else {
                    return Err(());
                };
                let refused = pb::WatchResponse {
                    header,
                    watch_id: -1,
                    created: true,
                    canceled: true,
                    cancel_reason,
                    ..Default::default()
                };
                return self.send(refused).await;
            }
        };
        let created = pb::WatchResponse {
            header: self.gateway.header(stream.revision()),
            watch_id: id,
            created: true,
            ..Default::default()
        };
        self.send(created).await?;
        let asked = Arc::new(AtomicBool::new(false));
        let handle = stream.handle();
        let pump = Pump {
            gateway: self.gateway.clone(),
            id,
            out: self.out.clone(),
            told: self.told.clone(),
            asked: asked.clone(),
            fragment,
            progress_notify,
        };
        let task = tokio::spawn(pump.run(stream)).abort_handle();
        let running = Running {
            handle,
            task,
            asked,
        };
        self.running.insert(id, running);
        Ok(())
    }

    /// The watch's id, or why there can be no such watch, in etcd's words.
    fn choose(&mut self, asked: i64, create: &pb::WatchCreateRequest) -> Result<i64, &'static str> {
        let range_end = &create.range_end[..];
        let key = if create.key.is_empty() {
            b"\0"
        } else {
            &create.key[..]
        };
        if !matches!(range_end, b"" | b"\0") && key >= range_end {
            return Err("mvcc: watcher range is empty");
        }
        let taken = |id: &i64| self.running.contains_key(id) || self.compacted.contains(id);
        if self.running.len() + self.compacted.len() >= WATCHES {
            return Err("etcdserver: too many watches on one stream");
        }
        if asked != 0 {
            return match taken(&asked) {
                true => Err("mvcc: duplicate watch ID provided on the WatchStream"),
                false => Ok(asked),
            };
        }
        let mut id = self.next_id;
        while taken(&id) {
            id += 1;
        }
        self.next_id = id + 1;
        Ok(id)
    }

    async fn ask_progress(&mut self) -> Result<(), ()> {
        if self.running.is_empty() {
            let Ok(header) = self.gateway.header_now().await else {
                return Err(());
            };
            return self.answer_progress(header).await;
        }
        self.progress.least = None;
        self.progress.waiting = self.running.keys().copied().collect();
        for running in self.running.values() {
            running.asked.store(true, Ordering::Release);
            running.handle.request_progress();
        }
        Ok(())
    }

    async fn answer_progress(&self, header: Option<pb::ResponseHeader>) -> Result<(), ()> {
        let answer = pb::WatchResponse {
            header,
            watch_id: -1,
            ..Default::default()
        };
        self.send(answer).await
    }

    async fn hear(&mut self, news: News) -> Result<(), ()> {
        let id = match news {
            News::Progress(id, revision) => {
                if self.progress.waiting.contains(&id) {
                    let least = self.progress.least.unwrap_or(revision);
                    self.progress.least = Some(least.min(revision));
                }
                id
            }
            News::Over { id, compacted } => {
                self.running.remove(&id);
                if compacted {
                    self.compacted.insert(id);
                }
                id
            }
        };
        if self.progress.waiting.remove(&id) && self.progress.waiting.is_empty() {
            match self.progress.least {
                Some(least) => self.answer_progress(self.gateway.header(least)).await?,
                // All that were asked ended first.
                None => self.progress.more += 1,
            }
            if self.progress.more > 0 {
                self.progress.more -= 1;
                self.ask_progress().await?;
            }
        }
        Ok(())
    }
}

impl Drop for Watches {
    fn drop(&mut self) {
        for running in self.running.values() {
            running.task.abort();
        }
    }
}

fn request_of(create: pb::WatchCreateRequest) -> WatchRequest {
    use pb::watch_create_request::FilterType;
    let filters = |kind: FilterType| create.filters.contains(&i32::from(kind));
    WatchRequest {
        no_put: filters(FilterType::Noput),
        no_delete: filters(FilterType::Nodelete),
        key: create.key,
        range_end: create.range_end,
        start_revision: create.start_revision,
        prev_kv: create.prev_kv,
        progress_notify: create.progress_notify,
    }
}

/// Carries one watch's answers to the client.
struct Pump {
    gateway: Gateway,
    id: i64,
    out: Out,
    told: mpsc::UnboundedSender<News>,
    asked: Arc<AtomicBool>,
    fragment: bool,
    progress_notify: bool,
}

impl Pump {
    async fn run(self, mut stream: WatchStream) {
        let id = self.id;
        let mut compacted = false;
        while let Some(answer) = stream.next().await {
            let answer = match answer {
                Ok(answer) => answer,
                Err(error) => {
                    tracing::warn!(watch = id, error = %full(&error), "a watch could not go on");
                    let _ = self.out.send(Err(status(error))).await;
                    break;
                }
            };
            let over = answer.canceled;
            compacted = answer.compact_revision != 0;
            if self.tell(answer).await.is_err() || over {
                break;
            }
        }
        // The stream's own task may be gone with the client.
        let _ = self.told.send(News::Over { id, compacted });
    }

    async fn tell(&self, answer: WatchResponse) -> Result<(), ()> {
        if answer.events.is_empty() && !answer.canceled {
            if self.asked.swap(false, Ordering::AcqRel) {
                let news = News::Progress(self.id, answer.revision);
                return self.told.send(news).map_err(drop);
            }
            if !self.progress_notify {
                return Ok(());
            }
        }
        let mut rest = answer.events.into_iter().map(convert::event).peekable();
        loop {
            let mut events = Vec::new();
            let mut size = 0;
            while let Some(event) = rest.peek() {
                let length = length(event);
                if self.fragment && !events.is_empty() && size + length > FRAGMENT {
                    break;
                }
                size += length;
                events.extend(rest.next());
            }
            let fragment = rest.peek().is_some();
            let revision = match answer.compact_revision {
                0 => answer.revision,
                // etcd's: there the one that matters is the other.
                _ => 0,
            };
            let piece = pb::WatchResponse {
                header: self.gateway.header(revision),
                watch_id: self.id,
                canceled: answer.canceled,
                compact_revision: answer.compact_revision,
                fragment,
                events,
                ..Default::default()
            };
            self.out.send(Ok(piece)).await.map_err(drop)?;
            if !fragment {
                return Ok(());
            }
        }
    }
}

/// About how many bytes an event takes on the wire.
fn length(event: &mvccpb::Event) -> usize {
    let kv = |kv: &Option<mvccpb::KeyValue>| {
        let bytes = |b: &Bytes| b.len();
        kv.as_ref()
            .map_or(0, |kv| bytes(&kv.key) + bytes(&kv.value) + 48)
    };
    kv(&event.kv) + kv(&event.prev_kv) + 8
}
