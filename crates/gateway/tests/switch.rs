//! The embedded store becomes an etcd behind the gateway while apps use it: locks, elections, watches and writes go on.
#![allow(clippy::unwrap_used)]

mod common;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use common::{Etcd, PATIENCE, etcdctl_command, face, restored, scope};
use coracle_gateway::Role;
use coracle_store::{EmbeddedStore, EtcdOptions, EtcdStore, Options, Store, Switch, compare};
use etcd_client::{Client, LockOptions, WatchOptions};
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdout};

/// A store behind an app's gateway that can be exchanged.
struct Moving {
    address: SocketAddr,
    store: Arc<EmbeddedStore>,
    switch: Arc<Switch>,
    dir: tempfile::TempDir,
    _face: common::Ours,
}

impl Moving {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let options = Options {
            memory_bytes: 4096,
            ..Options::default()
        };
        let store = Arc::new(EmbeddedStore::open(&dir.path().join("store"), options).unwrap());
        let switch = Arc::new(Switch::new(store.clone()));
        let face = face(switch.clone(), Role::App, scope(), None).await;
        Self {
            address: face.address,
            store,
            switch,
            dir,
            _face: face,
        }
    }

    /// All of it, as the move does it.
    async fn exchange(&self) -> Etcd {
        let frozen = self.switch.freeze().await;
        self.store.hold(true).await.unwrap();
        let path = self.dir.path().join("db");
        self.store.seed(&path).await.unwrap();
        let etcd = restored(&path).await;
        let new = EtcdStore::new(EtcdOptions::new([etcd.url()])).unwrap();
        for lease in new.leases().await.unwrap().ids {
            new.lease_keep_alive(lease).await.unwrap();
        }
        assert_eq!(compare(&*self.store, &new).await.unwrap(), None);
        frozen.switch_to(Arc::new(new)).await.unwrap();
        etcd
    }
}

/// An `etcdctl` that runs on, and what it says.
struct Running {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Running {
    fn new(address: SocketAddr, words: &[&str]) -> Self {
        let mut child = etcdctl_command(address, words).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines }
    }

    async fn line(&mut self) -> String {
        let line = tokio::time::timeout(PATIENCE, self.lines.next_line()).await;
        line.expect("it says something in time").unwrap().unwrap()
    }

    /// Ends it as Ctrl-C does: it lets go of what it has.
    async fn end(&mut self) {
        let pid = self.child.id().unwrap().try_into().unwrap();
        let pid = rustix::process::Pid::from_raw(pid).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
        let ended = tokio::time::timeout(PATIENCE, self.child.wait()).await;
        ended.expect("it ends").unwrap();
    }
}

async fn client(address: SocketAddr) -> Client {
    Client::connect([format!("http://{address}")], None)
        .await
        .unwrap()
}

/// Until so many keys are there.
async fn until(address: SocketAddr, prefix: &str, count: i64) {
    let mut client = client(address).await;
    let deadline = std::time::Instant::now() + PATIENCE;
    loop {
        let options = etcd_client::GetOptions::new().with_prefix();
        let found = client.get(prefix, Some(options)).await.unwrap().count();
        if found == count {
            return;
        }
        assert!(
            std::time::Instant::now() < deadline,
            "{found} keys below {prefix}"
        );
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_of_etcdctl_locks_keeps_its_order() {
    let moving = Moving::new().await;
    let mut queue = Vec::new();
    for n in 1..=4 {
        queue.push(Running::new(moving.address, &["lock", "queue"]));
        until(moving.address, "queue/", n).await;
    }
    let first = queue[0].line().await;
    assert!(first.starts_with("queue/"), "{first}");
    let mut queue = queue.into_iter();
    queue.next().unwrap().end().await;
    let mut second = queue.next().unwrap();
    second.line().await;
    let _etcd = moving.exchange().await;
    // The holder let go at the new store; those behind it watch keys that went over.
    second.end().await;
    for mut waiter in queue {
        waiter.line().await;
        waiter.end().await;
    }
    until(moving.address, "queue/", 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_of_the_lock_service_are_answered_in_turn() {
    let moving = Moving::new().await;
    let mut holder = client(moving.address).await;
    let lease = holder.lease_grant(300, None).await.unwrap().id();
    let options = || LockOptions::new().with_lease(lease);
    let held = holder.lock("l", Some(options())).await.unwrap();
    let (told, mut turns) = tokio::sync::mpsc::unbounded_channel();
    for n in 0..5 {
        let (told, address) = (told.clone(), moving.address);
        tokio::spawn(async move {
            let mut client = client(address).await;
            let lease = client.lease_grant(300, None).await.unwrap().id();
            let options = LockOptions::new().with_lease(lease);
            let lock = client.lock("l", Some(options)).await.unwrap();
            told.send(n).unwrap();
            client.unlock(lock.key().to_vec()).await.unwrap();
        });
        until(moving.address, "l/", n + 2).await;
    }
    let _etcd = moving.exchange().await;
    assert!(turns.try_recv().is_err(), "one got it while it was held");
    holder.unlock(held.key().to_vec()).await.unwrap();
    for n in 0..5 {
        let turn = tokio::time::timeout(PATIENCE, turns.recv()).await;
        assert_eq!(turn.unwrap().unwrap(), n);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn observers_of_an_election_see_every_leader_once() {
    let moving = Moving::new().await;
    let mut one = Running::new(moving.address, &["elect", "e", "one"]);
    one.line().await;
    until(moving.address, "e/", 1).await;
    let mut two = Running::new(moving.address, &["elect", "e", "two"]);
    until(moving.address, "e/", 2).await;
    let mut observer = Running::new(moving.address, &["elect", "--listen", "e"]);
    let mut seen = Vec::new();
    let see = async |observer: &mut Running, seen: &mut Vec<String>, leader: &str| {
        // A key and its value for each.
        while seen.last().is_none_or(|last| last != leader) {
            let line = observer.line().await;
            if !line.starts_with("e/") {
                seen.push(line);
            }
        }
    };
    see(&mut observer, &mut seen, "one").await;
    let _etcd = moving.exchange().await;
    let mut three = Running::new(moving.address, &["elect", "e", "three"]);
    until(moving.address, "e/", 3).await;
    one.end().await;
    see(&mut observer, &mut seen, "two").await;
    // etcdctl lets go of nothing when it is ended before it knows that it leads.
    two.line().await;
    two.end().await;
    see(&mut observer, &mut seen, "three").await;
    three.line().await;
    three.end().await;
    assert_eq!(seen, ["one", "two", "three"]);
}

/// Writers do not stop; whoever watches is told all they wrote, once and in order, by whichever store.
#[tokio::test(flavor = "multi_thread")]
async fn watches_miss_nothing_and_see_nothing_twice() {
    let moving = Moving::new().await;
    let address = moving.address;
    let first = client(address)
        .await
        .put("w/begin", "", None)
        .await
        .unwrap();
    let from = first.header().unwrap().revision();
    let revision = from.to_string();
    let mut etcdctl = Running::new(address, &["watch", "--prefix", "w/", "--rev", &revision]);
    let mut idle = client(address).await;
    let mut idle_watch = idle.watch("idle", None).await.unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let mut writers = Vec::new();
    for writer in 0..3 {
        let stop = stop.clone();
        writers.push(tokio::spawn(async move {
            let mut client = client(address).await;
            let lease = client.lease_grant(5, None).await.unwrap().id();
            let (mut keeper, mut kept) = client.lease_keep_alive(lease).await.unwrap();
            let mut revisions = Vec::new();
            let mut n = 0;
            while !stop.load(Ordering::Acquire) {
                let options = etcd_client::PutOptions::new().with_lease(lease);
                let put = client
                    .put(format!("w/{writer}"), n.to_string(), Some(options))
                    .await;
                revisions.push(put.unwrap().header().unwrap().revision());
                if n % 10 == 0 {
                    keeper.keep_alive().await.unwrap();
                    assert!(kept.message().await.unwrap().unwrap().ttl() > 0);
                }
                n += 1;
            }
            revisions
        }));
    }
    let reached = async |count: i64| {
        let mut client = client(address).await;
        let deadline = std::time::Instant::now() + PATIENCE;
        let begun = client
            .get("w/0", None)
            .await
            .unwrap()
            .header()
            .unwrap()
            .revision();
        while client
            .get("w/0", None)
            .await
            .unwrap()
            .header()
            .unwrap()
            .revision()
            < begun + count
        {
            assert!(
                std::time::Instant::now() < deadline,
                "the writers stand still"
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    reached(200).await;
    // One that reads nothing until all is over.
    let mut slow = client(address).await;
    let options = WatchOptions::new().with_prefix().with_start_revision(from);
    let mut slow_watch = slow.watch("w/", Some(options)).await.unwrap();
    let _etcd = moving.exchange().await;
    reached(200).await;
    stop.store(true, Ordering::Release);
    let mut wanted = vec![from];
    for writer in writers {
        wanted.extend(writer.await.unwrap());
    }
    wanted.sort_unstable();
    let mut seen = Vec::new();
    while seen.len() < wanted.len() {
        let next = tokio::time::timeout(PATIENCE, slow_watch.message()).await;
        let answer = next.unwrap().unwrap().unwrap();
        let events = answer.events().iter();
        seen.extend(events.map(|event| event.kv().unwrap().mod_revision()));
    }
    assert_eq!(seen, wanted);
    // etcdctl says PUT, key and value; the values of each writer count up.
    let mut next = [0; 3];
    for _ in 0..wanted.len() {
        assert_eq!(etcdctl.line().await, "PUT");
        let (key, value) = (etcdctl.line().await, etcdctl.line().await);
        if key != "w/begin" {
            let writer: usize = key.strip_prefix("w/").unwrap().parse().unwrap();
            assert_eq!(value, next[writer].to_string(), "{key}");
            next[writer] += 1;
        }
    }
    let end = client(address)
        .await
        .put("idle", "now", None)
        .await
        .unwrap();
    let told = async {
        loop {
            let answer = idle_watch.message().await.unwrap().unwrap();
            if let Some(event) = answer.events().first() {
                return event.kv().unwrap().mod_revision();
            }
        }
    };
    let at = tokio::time::timeout(PATIENCE, told).await.unwrap();
    assert_eq!(at, end.header().unwrap().revision());
}

/// A freeze that comes to nothing: writes wait, and then are done where they always were.
#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_store_thaws() {
    let moving = Moving::new().await;
    let mut app = client(moving.address).await;
    app.put("k", "1", None).await.unwrap();
    let lease = app.lease_grant(2, None).await.unwrap().id();
    let options = etcd_client::PutOptions::new().with_lease(lease);
    app.put("leased", "1", Some(options)).await.unwrap();
    let frozen = moving.switch.freeze().await;
    moving.store.hold(true).await.unwrap();
    let revision = moving.store.status().await.unwrap().revision;
    let mut other = client(moving.address).await;
    let mut waiting = tokio::spawn(async move { other.put("k", "2", None).await.unwrap() });
    // Longer than the lease, which does not run out meanwhile; reads are answered.
    let late = tokio::time::timeout(Duration::from_millis(2500), &mut waiting).await;
    assert!(late.is_err(), "a write went through");
    assert_eq!(app.get("leased", None).await.unwrap().count(), 1);
    assert_eq!(moving.store.status().await.unwrap().revision, revision);
    moving.store.hold(false).await.unwrap();
    frozen.thaw();
    waiting.await.unwrap();
    until(moving.address, "leased", 0).await;
    // Something else is no successor.
    let etcd = common::etcd().await;
    let new = EtcdStore::new(EtcdOptions::new([etcd.url()])).unwrap();
    let refused = moving.switch.freeze().await.switch_to(Arc::new(new)).await;
    assert!(refused.is_err());
    app.put("k", "3", None).await.unwrap();
    let kept = moving
        .store
        .range(coracle_store::RangeRequest::key("/coracle/v1/apps/k"));
    assert_eq!(kept.await.unwrap().kvs[0].value, "3");
}
