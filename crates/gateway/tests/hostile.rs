//! Clients that ask for too much, do not read, or speak nonsense: they are refused or served, and others are served as before.
#![allow(clippy::unwrap_used)]

mod common;
mod hostile {
    mod pieces;
    pub mod raw;
}

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use common::{Ours, PATIENCE};
use coracle_etcd_proto::etcdserverpb as pb;
use coracle_etcd_proto::mvccpb;
use coracle_gateway::Role;
use futures_util::{StreamExt as _, stream};
use hostile::raw;
use pb::kv_client::KvClient;
use pb::lease_client::LeaseClient;
use pb::request_op::Request as RequestUnion;
use pb::watch_client::WatchClient;
use pb::watch_request::RequestUnion as WatchUnion;
use tokio::sync::{Mutex, MutexGuard, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Code, Streaming};

/// One at a time: one of them looks at the memory of the process, and all load it.
static ALONE: Mutex<()> = Mutex::const_new(());

async fn alone() -> (MutexGuard<'static, ()>, Ours) {
    let held = ALONE.lock().await;
    (held, common::ours(Role::App).await)
}

async fn kv(address: SocketAddr) -> KvClient<Channel> {
    let client = KvClient::new(common::channel(address).await);
    client.max_decoding_message_size(usize::MAX)
}

fn put(key: impl Into<Bytes>, value: impl Into<Bytes>) -> pb::PutRequest {
    pb::PutRequest {
        key: key.into(),
        value: value.into(),
        ..Default::default()
    }
}

fn get(key: impl Into<Bytes>) -> pb::RangeRequest {
    pb::RangeRequest {
        key: key.into(),
        ..Default::default()
    }
}

fn everything() -> pb::RangeRequest {
    pb::RangeRequest {
        range_end: Bytes::from_static(b"\0"),
        ..get(&b"\0"[..])
    }
}

/// Another client writes, reads and watches as if nothing was.
async fn others_are_well(ours: &Ours) {
    let well = async {
        let mut kv = kv(ours.address).await;
        let mut watch = Watching::start(ours.address).await;
        watch.ask(create("well", 1)).await;
        assert!(watch.answer().await.created);
        let done = kv.put(put("well", "x")).await.unwrap().into_inner();
        let found = kv.range(get("well")).await.unwrap().into_inner();
        let revision = done.header.unwrap().revision;
        assert_eq!(found.kvs[0].mod_revision, revision);
        loop {
            let answer = watch.answer().await;
            let last: &mvccpb::Event = answer.events.last().unwrap();
            if last.kv.as_ref().unwrap().mod_revision == revision {
                break;
            }
        }
    };
    tokio::time::timeout(PATIENCE, well)
        .await
        .expect("others are served");
}

fn create(key: impl Into<Bytes>, start_revision: i64) -> pb::WatchRequest {
    let create = pb::WatchCreateRequest {
        key: key.into(),
        start_revision,
        ..Default::default()
    };
    pb::WatchRequest {
        request_union: Some(WatchUnion::CreateRequest(create)),
    }
}

/// A watch stream.
struct Watching {
    ask: mpsc::Sender<pb::WatchRequest>,
    answers: Streaming<pb::WatchResponse>,
}

impl Watching {
    async fn start(address: SocketAddr) -> Self {
        let mut client = WatchClient::new(common::channel(address).await);
        let (ask, asked) = mpsc::channel(16);
        let answers = client.watch(ReceiverStream::new(asked)).await.unwrap();
        Self {
            ask,
            answers: answers.into_inner(),
        }
    }

    async fn ask(&self, request: pb::WatchRequest) {
        self.ask.send(request).await.unwrap();
    }

    async fn answer(&mut self) -> pb::WatchResponse {
        let answer = tokio::time::timeout(PATIENCE, self.answers.message()).await;
        answer
            .expect("an answer in time")
            .unwrap()
            .expect("the stream goes on")
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_watches_on_one_stream() {
    const MANY: usize = 10_000;
    let (_alone, ours) = alone().await;
    let mut watching = Watching::start(ours.address).await;
    let ask = watching.ask.clone();
    let asking = tokio::spawn(async move {
        for n in 0..MANY {
            ask.send(create(format!("key{n}"), 0)).await.unwrap();
        }
    });
    for n in 0..MANY {
        let answer = watching.answer().await;
        assert!(answer.created && !answer.canceled, "{answer:?}");
        assert_eq!(answer.watch_id, n as i64);
    }
    asking.await.unwrap();
    let mut kv = kv(ours.address).await;
    for n in [0, 1, MANY / 2, MANY - 1] {
        kv.put(put(format!("key{n}"), "x")).await.unwrap();
        let answer = watching.answer().await;
        assert_eq!((answer.watch_id, answer.events.len()), (n as i64, 1));
    }
    // All at once: one transaction after the other, each of which concerns many.
    for begin in (0..MANY).step_by(100) {
        let success = (begin..begin + 100).map(|n| pb::RequestOp {
            request: Some(RequestUnion::RequestPut(put(format!("key{n}"), "y"))),
        });
        let txn = pb::TxnRequest {
            success: success.collect(),
            ..Default::default()
        };
        kv.txn(txn).await.unwrap();
    }
    let mut told = vec![false; MANY];
    for _ in 0..MANY {
        let answer = watching.answer().await;
        assert_eq!(answer.events.len(), 1);
        let told = &mut told[answer.watch_id as usize];
        assert!(!std::mem::replace(told, true), "told twice");
    }
    others_are_well(&ours).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_leases() {
    const MANY: i64 = 10_000;
    let (_alone, ours) = alone().await;
    let client = LeaseClient::new(common::channel(ours.address).await);
    let client = client.max_decoding_message_size(usize::MAX);
    let grants = stream::iter(1..=MANY).map(|id| {
        let mut client = client.clone();
        async move {
            let request = pb::LeaseGrantRequest { ttl: 1000, id };
            client.lease_grant(request).await.unwrap().into_inner().id
        }
    });
    let mut granted: Vec<_> = grants.buffer_unordered(500).collect().await;
    granted.sort();
    assert!(granted.iter().copied().eq(1..=MANY));
    let mut lease = client;
    let found = lease.lease_leases(pb::LeaseLeasesRequest {}).await.unwrap();
    assert_eq!(found.into_inner().leases.len(), MANY as usize);
    let mut kv = kv(ours.address).await;
    let leased = pb::PutRequest {
        lease: MANY / 2,
        ..put("leased", "x")
    };
    kv.put(leased).await.unwrap();
    let id = MANY / 2;
    lease
        .lease_revoke(pb::LeaseRevokeRequest { id })
        .await
        .unwrap();
    let gone = kv.range(get("leased")).await.unwrap().into_inner();
    assert_eq!(gone.count, 0);
    others_are_well(&ours).await;
}

/// Kilobytes that the process has in memory.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find_map(|l| l.strip_prefix("VmRSS:"))
        .unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_does_not_read() {
    const EVENTS: usize = 200;
    const SIZE: usize = 256 << 10;
    let (_alone, ours) = alone().await;
    let mut kv = kv(ours.address).await;
    // What a first write takes is not counted below.
    kv.put(put("big", vec![b'x'; SIZE])).await.unwrap();
    let mut lazy = Vec::new();
    for _ in 0..8 {
        let watching = Watching::start(ours.address).await;
        watching.ask(create("big", 3)).await;
        lazy.push(watching);
    }
    for watching in &mut lazy {
        assert!(watching.answer().await.created);
    }
    let before = resident();
    let writing = async {
        for n in 0..EVENTS {
            let mut value = vec![b'x'; SIZE];
            value[..8].copy_from_slice(&n.to_be_bytes());
            kv.put(put("big", value)).await.unwrap();
        }
    };
    let written = tokio::time::timeout(PATIENCE, writing).await;
    written.expect("the writer is not held up");
    // Each of the eight would have 50 MB waiting; the store's own pages and what is under way are far less.
    let grown = resident().saturating_sub(before) >> 10;
    assert!(
        grown < 100,
        "{grown} MiB more after 50 MiB of events for 8 clients"
    );
    others_are_well(&ours).await;
    // Whoever begins to read has missed nothing.
    let mut seen = 0;
    while seen < EVENTS {
        for event in lazy[0].answer().await.events {
            let value = event.kv.unwrap().value;
            assert_eq!(value[..8], seen.to_be_bytes());
            seen += 1;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_http() {
    let (_alone, ours) = alone().await;
    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    // Length, kind, flags, stream: a frame's head.
    let settings = [PREFACE, &[0, 0, 0, 4, 0, 0, 0, 0, 0]].concat();
    let after = |rest: &[u8]| [&settings[..], rest].concat();
    for bytes in [
        vec![0; 4096],
        vec![0xff; 1 << 20],
        b"GET".to_vec(),
        b"GET / HTTP/9.9\r\n\r\n".to_vec(),
        b"POST /v3/kv/range HTTP/1.1\r\nContent-Length: 99999999999999999999\r\n\r\n".to_vec(),
        b"POST /v3/kv/range HTTP/1.1\r\nContent-Length: -1\r\n\r\n".to_vec(),
        b"POST /v3/kv/range HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n".to_vec(),
        [b"GET /".to_vec(), vec![b'a'; 1 << 20]].concat(),
        PREFACE[..10].to_vec(),
        [PREFACE, b"nonsense nonsense nonsense"].concat(),
        // A frame of 16 MB; data on no stream; headers that cannot be unpacked; a setting of odd length; a window of 0 more;
        // the answer to a stream of the server's; a continuation of nothing.
        after(&[0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 1]),
        after(&[0, 0, 1, 0, 0, 0, 0, 0, 0, 7]),
        after(&[0, 0, 3, 1, 5, 0, 0, 0, 1, 0xff, 0xff, 0xff]),
        after(&[0, 0, 5, 4, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5]),
        after(&[0, 0, 4, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
        after(&[0, 0, 1, 1, 5, 0, 0, 0, 2, 0x82]),
        after(&[0, 0, 1, 9, 4, 0, 0, 0, 1, 0x82]),
    ] {
        raw::send(ours.address, &bytes).await;
    }
    // Streams that are opened and cut in one breath, on and on.
    let mut rapid = settings.clone();
    for n in 0..2000u32 {
        let id = (2 * n + 1).to_be_bytes();
        let head = [&[0, 0, 3, 1, 4][..], &id, &[0x83, 0x86, 0x84]].concat();
        let reset = [&[0, 0, 4, 3, 0][..], &id, &[0, 0, 0, 8]].concat();
        rapid.extend([head, reset].concat());
    }
    raw::send(ours.address, &rapid).await;
    // Connections that say nothing.
    let mut silent = Vec::new();
    for _ in 0..200 {
        silent.push(tokio::net::TcpStream::connect(ours.address).await.unwrap());
    }
    others_are_well(&ours).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_message() {
    let (_alone, ours) = alone().await;
    let framed = |flag: u8, length: u32, message: &[u8]| {
        [&[flag][..], &length.to_be_bytes(), message].concat()
    };
    let range = "/etcdserverpb.KV/Range";
    for (body, codes) in [
        // No message, half a head, half a message, more than it says.
        (vec![], &[Code::Internal][..]),
        (vec![0, 0], &[Code::Internal]),
        (framed(0, 9, b"\x0a\x01a"), &[Code::Internal]),
        (
            framed(0, 3, b"\x0a\x01a trailing"),
            &[Code::Internal, Code::Ok],
        ),
        // Packed in a way that is not known here, or not at all.
        (
            framed(1, 3, b"\x0a\x01a"),
            &[Code::Internal, Code::Unimplemented],
        ),
        (framed(7, 3, b"\x0a\x01a"), &[Code::Internal]),
        // No protobuf: a length beyond the end, a field of no kind.
        (framed(0, 2, b"\x0a\x7f"), &[Code::Internal]),
        (framed(0, 2, b"\xff\xff"), &[Code::Internal]),
        (framed(0, u32::MAX, b""), &[Code::ResourceExhausted]),
    ] {
        let (code, text) = raw::call(ours.address, range, body.clone()).await;
        assert!(codes.contains(&code), "{body:?}: {code:?} {text}");
    }
    // No such service, no such method.
    for path in [
        "/etcdserverpb.Nothing/Range",
        "/etcdserverpb.KV/Nothing",
        "/nothing",
    ] {
        let (code, _) = raw::call(ours.address, path, framed(0, 0, b"")).await;
        assert_eq!(code, Code::Unimplemented, "{path}");
    }
    let nonsense = framed(0, 2, b"\xff\xff");
    for path in [
        "/etcdserverpb.Watch/Watch",
        "/etcdserverpb.Lease/LeaseKeepAlive",
    ] {
        let (code, text) = raw::call(ours.address, path, nonsense.clone()).await;
        assert_eq!(code, Code::Internal, "{path}: {text}");
    }
    others_are_well(&ours).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_too_large() {
    let (_alone, ours) = alone().await;
    let etcd = common::etcd().await;
    for size in [1 << 20, (3 << 19) + 1, (2 << 20) - 100, 2 << 20, 5 << 20] {
        let mut answers = Vec::new();
        for address in [etcd.address, ours.address] {
            let mut kv = kv(address).await;
            let answer = kv.put(put("large", vec![b'x'; size])).await;
            answers.push(
                answer
                    .map(drop)
                    .map_err(|s| (s.code(), s.message().to_owned())),
            );
        }
        assert_eq!(
            answers[0], answers[1],
            "{size} bytes: etcd left, ours right"
        );
        assert_eq!(answers[1].is_ok(), size == 1 << 20, "{size} bytes");
    }
    let mut watching = Watching::start(ours.address).await;
    watching.ask(create(vec![b'x'; 3 << 20], 0)).await;
    let refused = watching.answers.message().await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
    others_are_well(&ours).await;
}

/// Transactions within transactions.
fn nested(depth: usize) -> pb::TxnRequest {
    let mut txn = pb::TxnRequest::default();
    for _ in 0..depth {
        let inner = RequestUnion::RequestTxn(std::mem::take(&mut txn));
        txn.success = vec![pb::RequestOp {
            request: Some(inner),
        }];
    }
    txn
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn transactions_too_deep() {
    let (_alone, ours) = alone().await;
    let etcd = common::etcd().await;
    // Between these two ours, whose reader goes no deeper, refuses what etcd takes.
    for depth in [1, 10, 40, 129, 500] {
        let mut answers = Vec::new();
        for address in [etcd.address, ours.address] {
            let answer = kv(address).await.txn(nested(depth)).await;
            answers.push(
                answer
                    .map(drop)
                    .map_err(|s| (s.code(), s.message().to_owned())),
            );
        }
        assert_eq!(
            answers[0], answers[1],
            "{depth} deep: etcd left, ours right"
        );
        assert_eq!(answers[1].is_ok(), depth <= 40, "{depth} deep");
    }
    let (code, text) = raw::call(ours.address, "/etcdserverpb.KV/Txn", raw::deep(100_000)).await;
    let expected = "etcdserver: too many operations in txn request";
    assert_eq!((code, &text[..]), (Code::InvalidArgument, expected));
    others_are_well(&ours).await;
}

/// What a range of everything shows is of one revision.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ranges_over_everything_while_writing() {
    const KEYS: usize = 5000;
    let (_alone, ours) = alone().await;
    let writer = kv(ours.address).await;
    let fill = stream::iter(0..KEYS).map(|n| {
        let mut kv = writer.clone();
        async move {
            kv.put(put(format!("key{n:05}"), vec![b'x'; 100]))
                .await
                .unwrap()
        }
    });
    fill.buffer_unordered(500).collect::<Vec<_>>().await;
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let readers: Vec<_> = (0..4)
        .map(|_| {
            let (address, stopped) = (ours.address, stopped.clone());
            tokio::spawn(async move {
                let mut kv = kv(address).await;
                let mut ranges = 0;
                while !*stopped.borrow() || ranges == 0 {
                    let found = kv.range(everything()).await.unwrap().into_inner();
                    assert!(found.count as usize >= KEYS);
                    let value = |key: &str| {
                        let kv = found.kvs.iter().find(|kv| kv.key == key);
                        kv.map(|kv| kv.value.clone())
                    };
                    // Both are put in one transaction.
                    assert_eq!(value("a"), value("z"));
                    ranges += 1;
                }
                ranges
            })
        })
        .collect();
    let mut writer = writer;
    for n in 0..200 {
        let both = ["a", "z"].map(|key| pb::RequestOp {
            request: Some(RequestUnion::RequestPut(put(key, n.to_string()))),
        });
        let txn = pb::TxnRequest {
            success: both.to_vec(),
            ..Default::default()
        };
        let done = tokio::time::timeout(Duration::from_secs(10), writer.txn(txn)).await;
        done.expect("the writer is not held up").unwrap();
    }
    others_are_well(&ours).await;
    stop.send(true).unwrap();
    for reader in readers {
        assert!(reader.await.unwrap() > 0);
    }
}
