//! etcd's API through the door: the store as each machine may use it.
#![allow(clippy::unwrap_used)]

mod common;

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use axum::Router;
use common::*;
use coracle_cluster::door::{Limits, Paths, endpoint};
use coracle_cluster::guard::Faces;
use coracle_cluster::members::{Members, Standing};
use coracle_cluster::pki::{Asked, Authority, Directory, Lifetimes, keep_renewed};
use coracle_gateway::Identity;
use coracle_store::*;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

struct Cluster {
    _dirs: (tempfile::TempDir, tempfile::TempDir),
    authority: Authority,
    store: Arc<EmbeddedStore>,
    members: watch::Sender<Members>,
    open: Open,
}

/// `a` has the store, `b` and `c` are machines, `d` is another voter.
async fn cluster() -> Cluster {
    let (ca, authority) = authority();
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    let members = members(&[
        ('a', Standing::Voter),
        ('b', Standing::Machine),
        ('c', Standing::Machine),
        ('d', Standing::Voter),
    ]);
    let identity = Identity {
        cluster: 1,
        member: 2,
    };
    let faces = Faces::new(store.clone(), identity, members.subscribe());
    let a = Machine::new('a', &authority);
    let paths = Paths::new(Router::new()).with_store(faces);
    let open = Open::new(&a, members.subscribe(), paths, Limits::default()).await;
    Cluster {
        _dirs: (ca, dir),
        authority,
        store,
        members,
        open,
    }
}

impl Cluster {
    /// The store as that machine has it.
    fn store_of(&self, digit: char) -> EtcdStore {
        self.store_as(&Machine::new(digit, &self.authority))
    }

    fn store_as(&self, machine: &Machine) -> EtcdStore {
        self.store_noting(machine, Arc::default())
    }

    /// The same; notes when it connects.
    fn store_noting(&self, machine: &Machine, dials: Arc<Mutex<Vec<Instant>>>) -> EtcdStore {
        let target = self.open.target();
        let dial = machine.client().dial(move |id| {
            dials.lock().unwrap().push(Instant::now());
            (*id == target.machine).then(|| target.clone())
        });
        let mut options = EtcdOptions::new([endpoint(&self.open.machine)]);
        options.dial = Some(dial);
        EtcdStore::new(options).unwrap()
    }
}

fn denied<T: std::fmt::Debug>(answer: Result<T, StoreError>) {
    let error = answer.unwrap_err();
    assert_eq!(error.code(), Code::PermissionDenied, "{error}");
}

fn key(rest: &str, machine: char) -> String {
    format!("/coracle/v1/{}", rest.replace("<id>", id(machine).as_str()))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_writes_what_is_its_own() {
    let cluster = cluster().await;
    let b = cluster.store_of('b');
    for own in [
        "machines/<id>",
        "alive/<id>",
        "actual/<id>/u/0/1",
        "subnets/<id>",
        "apps/x",
    ] {
        let own = key(own, 'b');
        let put = b.put(PutRequest::new(own.clone(), "1")).await.unwrap();
        let kept = cluster.store.get(own.clone()).await.unwrap().unwrap();
        assert_eq!(kept.mod_revision, put.revision);
        assert_eq!(b.get(own).await.unwrap().unwrap().value, "1");
    }
    for foreign in [
        key("machines/<id>", 'c'),
        key("actual/<id>/u/0/1", 'c'),
        key("members/<id>", 'b'),
        key("desired/<id>/u/0/1", 'b'),
        key("units/web", 'b'),
        key("leader", 'b'),
        key("secrets/x", 'b'),
        "elsewhere".to_owned(),
    ] {
        let put = PutRequest::new(foreign.clone(), "x");
        denied(b.put(put.clone()).await);
        denied(
            b.delete_range(DeleteRangeRequest::key(foreign.clone()))
                .await,
        );
        // Nor in a transaction, in whichever branch and however deep.
        let inner = TxnRequest {
            failure: vec![TxnOp::Put(put)],
            ..TxnRequest::default()
        };
        let outer = TxnRequest {
            success: vec![TxnOp::Txn(inner)],
            ..TxnRequest::default()
        };
        denied(b.txn(outer).await);
        assert!(cluster.store.get(foreign).await.unwrap().is_none());
    }
    // A range that is its own in part.
    denied(
        b.delete_range(DeleteRangeRequest::prefix(key("machines/", 'b')))
            .await,
    );
    let gone = b
        .delete_range(DeleteRangeRequest::prefix(key("actual/<id>/", 'b')))
        .await
        .unwrap();
    assert_eq!(gone.deleted, 1);
    cluster.open.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_hidden_is_not_read_in_any_way() {
    let cluster = cluster().await;
    let token = key("tokens/1", 'a');
    cluster
        .store
        .put(PutRequest::new(token.clone(), "s"))
        .await
        .unwrap();
    let b = cluster.store_of('b');
    denied(b.get(token.clone()).await);
    denied(b.list("/coracle/v1/").await);
    denied(b.list("").await);
    denied(b.watch(WatchRequest::key(token.clone())).await.map(drop));
    denied(b.watch(WatchRequest::prefix("/coracle/")).await.map(drop));
    // A compare tells something too.
    let compare = Compare::absent(token.clone());
    let txn = TxnRequest {
        compare: vec![compare],
        ..TxnRequest::default()
    };
    denied(b.txn(txn).await);
    denied(b.compact(1).await);
    denied(b.defragment().await);
    denied(b.hash(0).await);
    denied(b.snapshot(Box::new(std::io::sink())).await);
    assert!(b.status().await.unwrap().revision > 1);
    // A voter sees and writes all of it.
    let d = cluster.store_of('d');
    assert_eq!(d.get(token).await.unwrap().unwrap().value, "s");
    d.put(PutRequest::new(key("units/web", 'd'), "1"))
        .await
        .unwrap();
    assert_eq!(d.list("/coracle/v1/").await.unwrap().kvs.len(), 2);
    denied(d.compact(1).await);
    cluster.open.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn leases_are_its_own_or_apps() {
    let cluster = cluster().await;
    let (b, c) = (cluster.store_of('b'), cluster.store_of('c'));
    let own = b.lease_grant(60, 0).await.unwrap().id;
    assert!(is_lease_of(id('b').as_str(), own) && !is_lease_of(id('c').as_str(), own));
    let alive = PutRequest::new(key("alive/<id>", 'b'), "1").with_lease(own);
    b.put(alive).await.unwrap();
    assert_eq!(b.lease_keep_alive(own).await.unwrap().ttl, 60);
    // For another machine it is not there.
    let stolen = PutRequest::new(key("alive/<id>", 'c'), "1").with_lease(own);
    let gone = |error: StoreError| matches!(error, StoreError::LeaseNotFound(_));
    assert!(gone(c.put(stolen).await.unwrap_err()));
    assert!(gone(c.lease_keep_alive(own).await.unwrap_err()));
    assert!(gone(c.lease_revoke(own).await.unwrap_err()));
    assert!(gone(c.lease_time_to_live(own, true).await.unwrap_err()));
    assert!(!c.leases().await.unwrap().ids.contains(&own));
    let taken = c.lease_grant(60, machine_lease(id('b').as_str())).await;
    assert!(matches!(taken.unwrap_err(), StoreError::LeaseExists(_)));
    // An app's goes with the app, from machine to machine.
    let app = b.lease_grant(60, 77).await.unwrap().id;
    let put = PutRequest::new(key("apps/x", 'b'), "1").with_lease(app);
    c.put(put).await.unwrap();
    assert_eq!(c.lease_keep_alive(app).await.unwrap().ttl, 60);
    // But what another machine hung on it does not go by our word.
    let put = PutRequest::new(key("alive/<id>", 'b'), "1").with_lease(app);
    b.put(put).await.unwrap();
    denied(c.lease_revoke(app).await);
    b.lease_revoke(app).await.unwrap();
    b.lease_revoke(own).await.unwrap();
    assert!(cluster.store.leases().await.unwrap().ids.is_empty());
    cluster.open.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_machine_is_cut_off_with_its_watches() {
    let cluster = cluster().await;
    let (b, c) = (cluster.store_of('b'), cluster.store_of('c'));
    let prefix = key("machines/", 'b');
    let mut watches = Vec::new();
    for store in [&b, &c] {
        let watch = store.watch(WatchRequest::prefix(prefix.clone()));
        watches.push(watch.await.unwrap());
    }
    let written = key("machines/<id>", 'a');
    let put = PutRequest::new(written.clone(), "1");
    cluster.store.put(put).await.unwrap();
    for watch in &mut watches {
        let told = soon("an event", watch.next()).await.unwrap().unwrap();
        assert_eq!(told.events[0].kv.key, written.as_bytes());
    }
    cluster.members.send_replace(
        [(id('a'), Standing::Voter), (id('c'), Standing::Machine)]
            .into_iter()
            .collect(),
    );
    // What is written from now on reaches the one and never the other.
    until("the machine to be shut out", async || {
        b.get(written.clone()).await.is_err()
    })
    .await;
    let put = PutRequest::new(written.clone(), "2");
    cluster.store.put(put).await.unwrap();
    let told = soon("an event", watches[1].next()).await.unwrap().unwrap();
    assert_eq!(told.events[0].kv.value, "2");
    let error = b.put(PutRequest::new(key("machines/<id>", 'b'), "1")).await;
    let error = error.unwrap_err();
    assert!(error.to_string().contains("not a member"), "{error}");
    // Its watch goes on asking, and is told nothing while the other hears of one after the other.
    let (gone, other) = watches.split_at_mut(1);
    tokio::select! {
        told = gone[0].next() => panic!("{told:?}"),
        () = async {
            for n in 0..20 {
                let put = PutRequest::new(written.clone(), n.to_string());
                cluster.store.put(put).await.unwrap();
                soon("an event", other[0].next()).await.unwrap().unwrap();
            }
        } => {}
    }
    cluster.open.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_of_a_removed_machine_asks_less_and_less() {
    let cluster = cluster().await;
    let dials = Arc::new(Mutex::new(Vec::new()));
    let b = Machine::new('b', &cluster.authority);
    let b = cluster.store_noting(&b, dials.clone());
    let prefix = key("apps/", 'b');
    let mut watch = b.watch(WatchRequest::prefix(prefix)).await.unwrap();
    let before = cluster.members.borrow().clone();
    let others = before.iter().filter(|(machine, _)| **machine != id('b'));
    let others = others.map(|(machine, standing)| (machine.clone(), standing));
    cluster.members.send_replace(others.collect());
    // At first it asks ten times a second.
    let rests = async || {
        let dials = dials.lock().unwrap();
        // The first is of the watch as it was opened.
        let mut gaps = dials.windows(2).skip(1).map(|two| two[1] - two[0]);
        gaps.any(|gap| gap > Duration::from_secs(1))
    };
    tokio::select! {
        told = watch.next() => panic!("{told:?}"),
        () = until("it rests for a second", rests) => {}
    }
    let asked = dials.lock().unwrap().len();
    assert!(asked < 12, "{asked}");
    // Taken in again, it hears what was written meanwhile.
    let put = PutRequest::new(key("apps/x", 'b'), "1");
    cluster.store.put(put).await.unwrap();
    cluster.members.send_replace(before);
    let told = soon("an event", watch.next()).await.unwrap().unwrap();
    assert_eq!(told.events[0].kv.value, "1");
    cluster.open.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_outlasts_the_certificates_that_it_was_opened_with() {
    let cluster = cluster().await;
    let ca = Directory::open(&cluster._dirs.0.path().join("cluster")).unwrap();
    let short = Authority::open(&ca).unwrap().unwrap();
    let short = Arc::new(short.with_lifetimes(Lifetimes {
        machine: Duration::from_secs(6),
        skew: Duration::ZERO,
    }));
    let machine = Machine::new('b', &short);
    let b = cluster.store_as(&machine);
    let first = machine.identity.seen();
    let ask = move |asked: Asked| {
        let short = short.clone();
        async move { short.machine(&asked.pem, &id('b'), &[]) }
    };
    let stop = CancellationToken::new();
    let identity = machine.identity.clone();
    let renewing = tokio::spawn(keep_renewed(identity, ask, stop.clone()));
    let prefix = key("apps/", 'b');
    let mut watch = b.watch(WatchRequest::prefix(prefix)).await.unwrap();
    let mut written = 0;
    let mut told = 0;
    // Until the first certificate and one that followed have run out.
    let over = first.not_after + Duration::from_secs(6);
    while written < 3 || SystemTime::now() < over {
        let value = written.to_string();
        let put = PutRequest::new(key("apps/x", 'b'), value.clone());
        cluster.store.put(put).await.unwrap();
        written += 1;
        while told < written {
            let next = soon("an event", watch.next()).await.unwrap().unwrap();
            for event in next.events {
                assert_eq!(event.kv.value, told.to_string());
                told += 1;
            }
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(machine.identity.seen().not_after > over);
    until("a write", async || {
        let put = PutRequest::new(key("alive/<id>", 'b'), "1");
        b.put(put).await.is_ok()
    })
    .await;
    stop.cancel();
    renewing.await.unwrap();
    cluster.open.close().await;
}
