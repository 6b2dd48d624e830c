//! Servers and clients for measuring: `scripts/bench-store` runs them beside etcd.
//!
//! ```text
//! store-load serve ADDRESS DIRECTORY         an embedded store behind the gateway
//! store-load nothing ADDRESS                 a gRPC server that answers puts and does nothing
//! store-load put URL CLIENTS COUNT           256-byte puts; prints puts per second
//! store-load get URL CLIENTS COUNT           gets of keys that were put
//! store-load watch URL COUNT                 from a put's sending to its event; prints the median in microseconds
//! ```

use std::error::Error;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use coracle_etcd_proto::etcdserverpb as pb;
use coracle_etcd_proto::etcdserverpb::kv_client::KvClient;
use coracle_etcd_proto::etcdserverpb::kv_server::{Kv, KvServer};
use coracle_etcd_proto::etcdserverpb::watch_client::WatchClient;
use coracle_gateway::{Face, Gateway, Identity, Role, Scope, Scoped};
use coracle_store::{EmbeddedStore, Options};
use tokio::net::TcpListener;
use tonic::transport::Channel;
use tonic::{Request, Response, Status};

type Fallible<T> = Result<T, Box<dyn Error + Send + Sync>>;
type Answer<T> = Result<Response<T>, Status>;

/// Answers, and that is all.
struct Nothing;

#[tonic::async_trait]
impl Kv for Nothing {
    async fn range(&self, _: Request<pb::RangeRequest>) -> Answer<pb::RangeResponse> {
        Ok(Response::new(Default::default()))
    }
    async fn put(&self, request: Request<pb::PutRequest>) -> Answer<pb::PutResponse> {
        std::hint::black_box(request.into_inner());
        Ok(Response::new(Default::default()))
    }
    async fn delete_range(
        &self,
        _: Request<pb::DeleteRangeRequest>,
    ) -> Answer<pb::DeleteRangeResponse> {
        Ok(Response::new(Default::default()))
    }
    async fn txn(&self, _: Request<pb::TxnRequest>) -> Answer<pb::TxnResponse> {
        Ok(Response::new(Default::default()))
    }
    async fn compact(&self, _: Request<pb::CompactionRequest>) -> Answer<pb::CompactionResponse> {
        Ok(Response::new(Default::default()))
    }
}

async fn serve(address: &str, directory: &str) -> Fallible<()> {
    let options = Options {
        quota_bytes: 2 << 30,
        ..Options::default()
    };
    let store = EmbeddedStore::open(directory.as_ref(), options)?;
    let scope = Scope {
        prefix: Bytes::from_static(b"/coracle/v1/apps/"),
        offset: 0,
        quota_bytes: 2 << 30,
    };
    let scoped = Arc::new(Scoped::new(Arc::new(store), scope));
    let identity = Identity {
        cluster: 1,
        member: 1,
    };
    let gateway = Gateway::new(scoped, Role::Operator, identity, "load", Vec::new());
    let listener = TcpListener::bind(address).await?;
    let stop = tokio::sync::watch::Sender::new(false);
    coracle_gateway::serve(listener, Face::new(gateway), stop.subscribe()).await?;
    Ok(())
}

async fn nothing(address: &str) -> Fallible<()> {
    let listener = TcpListener::bind(address).await?;
    let service = tonic::service::Routes::new(KvServer::new(Nothing)).into_axum_router();
    let stop = tokio::sync::watch::Sender::new(false);
    coracle_gateway::serve(listener, service, stop.subscribe()).await?;
    Ok(())
}

async fn channel(url: &str) -> Fallible<Channel> {
    let endpoint = Channel::from_shared(url.to_owned())?.tcp_nodelay(true);
    Ok(endpoint.connect().await?)
}

fn key(client: u64, n: u64) -> String {
    // Spread over the key space, the same for puts and gets.
    let mixed = (client << 32 | n).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    format!("/load/{mixed:016x}")
}

/// Each client has a connection of its own, as clients in different containers have.
async fn load(url: &str, clients: u64, count: u64, put: bool) -> Fallible<()> {
    let mut connected = Vec::new();
    for _ in 0..clients {
        connected.push(KvClient::new(channel(url).await?));
    }
    let begun = Instant::now();
    let tasks = connected.into_iter().zip(0..).map(|(mut kv, client)| {
        tokio::spawn(async move {
            for n in 0..count / clients {
                let key = Bytes::from(key(client, n));
                if put {
                    let value = Bytes::from_static(&[b'v'; 256]);
                    let request = pb::PutRequest {
                        key,
                        value,
                        ..Default::default()
                    };
                    kv.put(request).await?;
                } else {
                    let request = pb::RangeRequest {
                        key,
                        ..Default::default()
                    };
                    kv.range(request).await?;
                }
            }
            Ok::<_, Status>(())
        })
    });
    let tasks: Vec<_> = tasks.collect();
    for task in tasks {
        task.await??;
    }
    let done = clients * (count / clients);
    println!("{:.0}", done as f64 / begun.elapsed().as_secs_f64());
    Ok(())
}

async fn watch(url: &str, count: usize) -> Fallible<()> {
    let channel = channel(url).await?;
    let (mut kv, mut watch) = (KvClient::new(channel.clone()), WatchClient::new(channel));
    let (ask, asked) = tokio::sync::mpsc::channel(1);
    let create = pb::WatchCreateRequest {
        key: "watched".into(),
        ..Default::default()
    };
    let union = pb::watch_request::RequestUnion::CreateRequest(create);
    ask.send(pb::WatchRequest {
        request_union: Some(union),
    })
    .await?;
    let asked = tokio_stream::wrappers::ReceiverStream::new(asked);
    let mut events = watch.watch(asked).await?.into_inner();
    events.message().await?;
    let mut times: Vec<Duration> = Vec::new();
    for n in 0..count {
        let begun = Instant::now();
        let put = pb::PutRequest {
            key: "watched".into(),
            value: n.to_string().into(),
            ..Default::default()
        };
        let (put, event) = tokio::join!(kv.put(put), events.message());
        put?;
        event?;
        times.push(begun.elapsed());
    }
    times.sort();
    println!("{}", times[count / 2].as_micros());
    Ok(())
}

#[tokio::main(worker_threads = 1)]
async fn main() -> Fallible<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words[..] {
        ["serve", address, directory] => serve(address, directory).await,
        ["nothing", address] => nothing(address).await,
        [what @ ("put" | "get"), url, clients, count] => {
            load(url, clients.parse()?, count.parse()?, what == "put").await
        }
        ["watch", url, count] => watch(url, count.parse()?).await,
        _ => Err("usage: store-load serve|nothing|put|get|watch …".into()),
    }
}
