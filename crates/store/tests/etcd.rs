//! The store over etcd when etcd does not answer: members that die and come back, connections that need certificates.
#![allow(clippy::unwrap_used)]

#[path = "common/etcd.rs"]
mod server;

use std::time::{Duration, Instant};

use coracle_store::etcd::{Reached, State, Tls};
use coracle_store::*;
use server::{Etcd, certificates, cluster, etcd};

fn over(members: &[Etcd]) -> EtcdStore {
    EtcdStore::new(EtcdOptions::new(members.iter().map(Etcd::url))).unwrap()
}

/// Until the cluster answers; a write that failed on its way is made anew, as its name says what it is.
async fn put(store: &EtcdStore, key: &str, value: &str) -> Revision {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        match store
            .put(PutRequest::new(key.to_owned(), value.to_owned()))
            .await
        {
            Ok(done) => return done.revision,
            Err(error) => assert!(Instant::now() < deadline, "{error}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_goes_on_where_it_was_when_etcd_comes_back() {
    let mut etcd = etcd().await;
    let store = over(std::slice::from_ref(&etcd));
    let mut watch = store.watch(WatchRequest::prefix("a/")).await.unwrap();
    let lease = store.lease_grant(300, 0).await.unwrap().id;
    put(&store, "a/1", "x").await;
    let seen = watch.next().await.unwrap().unwrap();
    assert_eq!(seen.events[0].kv.key, "a/1");
    etcd.kill();
    let refused = store.put(PutRequest::new("a/2", "x")).await.unwrap_err();
    assert!(
        matches!(refused, StoreError::Unreachable { .. }),
        "{refused}"
    );
    assert_eq!(*store.state().borrow(), State::CutOff);
    etcd.start();
    // What is written while the watch is away is told when it is back, once and in order.
    let other = over(std::slice::from_ref(&etcd));
    for n in 2..6 {
        put(&other, &format!("a/{n}"), "x").await;
    }
    let mut keys = Vec::new();
    while keys.last().is_none_or(|last| last != "a/5") {
        let next = tokio::time::timeout(Duration::from_secs(60), watch.next());
        let answer = next.await.unwrap().unwrap().unwrap();
        keys.extend(answer.events.into_iter().map(|event| event.kv.key));
    }
    assert!(
        ["a/2", "a/3", "a/4", "a/5"]
            .iter()
            .all(|key| keys.iter().filter(|k| k == key).count() >= 1),
        "{keys:?}"
    );
    assert!(keys.is_sorted(), "{keys:?}");
    assert!(!keys.contains(&"a/1".into()), "{keys:?}");
    // The lease is there still.
    assert_eq!(store.lease_keep_alive(lease).await.unwrap().ttl, 300);
    assert_eq!(*store.state().borrow(), State::Connected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_that_was_away_too_long_is_told_so() {
    let mut etcd = etcd().await;
    let store = over(std::slice::from_ref(&etcd));
    let first = put(&store, "k", "1").await;
    let mut watch = store
        .watch(WatchRequest::key("k").from(first))
        .await
        .unwrap();
    assert_eq!(watch.next().await.unwrap().unwrap().events.len(), 1);
    etcd.kill();
    etcd.start();
    // By a connection of its own, before the watch is back or after: then there is nothing compacted that it has not told.
    let other = over(std::slice::from_ref(&etcd));
    let last = put(&other, "k", "2").await;
    let mut told = watch.next().await.unwrap().unwrap();
    if !told.canceled {
        assert_eq!(told.events[0].kv.mod_revision, last);
        let old = other
            .watch(WatchRequest::key("k").from(first))
            .await
            .unwrap();
        other.compact(last).await.unwrap();
        drop(old);
        let mut late = other
            .watch(WatchRequest::key("k").from(first))
            .await
            .unwrap();
        told = late.next().await.unwrap().unwrap();
    }
    assert!(told.canceled, "{told:?}");
    assert_eq!(told.compact_revision, last);
    let refused = other
        .range(RangeRequest::key("k").at(first))
        .await
        .unwrap_err();
    assert!(matches!(refused, StoreError::Compacted { requested, .. } if requested == first));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_three_may_go() {
    let mut members = cluster(3, None);
    let store = over(&members);
    put(&store, "k", "1").await;
    let mut watch = store.watch(WatchRequest::key("k")).await.unwrap();
    // Whichever it is, the leader or the one that we talk to: one after the other is away.
    for (gone, member) in members.iter_mut().enumerate() {
        member.kill();
        let value = gone.to_string();
        let written = put(&store, "k", &value).await;
        loop {
            let next = tokio::time::timeout(Duration::from_secs(60), watch.next());
            let answer = next.await.unwrap().unwrap().unwrap();
            if answer
                .events
                .iter()
                .any(|event| event.kv.mod_revision >= written)
            {
                break;
            }
        }
        assert_eq!(store.get("k").await.unwrap().unwrap().value, value);
        member.start();
    }
    // Two away: no leader, and that is what is said.
    members[0].kill();
    members[1].kill();
    let refused = store.put(PutRequest::new("k", "x")).await.unwrap_err();
    assert!(
        matches!(refused, StoreError::Unreachable { .. }),
        "{refused}"
    );
    assert_eq!(*store.state().borrow(), State::CutOff);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_asked_may_change() {
    let mut members = cluster(3, None);
    let store = over(&members[..1]);
    put(&store, "k", "1").await;
    let urls: Vec<_> = members.iter().map(Etcd::url).collect();
    let reach = |at: &[usize]| {
        let member = |n: &usize| Reached {
            url: urls[*n].clone(),
            dial: None,
        };
        store.reach(at.iter().map(member).collect()).unwrap();
    };
    let mut watch = store.watch(WatchRequest::key("k")).await.unwrap();
    let passing = EtcdOptions {
        lasting: false,
        ..EtcdOptions::new([urls[0].clone()])
    };
    let passing = EtcdStore::new(passing).unwrap();
    let mut ends = passing.watch(WatchRequest::key("k")).await.unwrap();
    // The one that was asked goes; requests and the watch go on at those that are named now.
    reach(&[1, 2]);
    members[0].kill();
    let written = put(&store, "k", "2").await;
    let next = tokio::time::timeout(Duration::from_secs(60), watch.next());
    let told = next.await.unwrap().unwrap().unwrap();
    assert_eq!(told.events[0].kv.mod_revision, written);
    // One that is not to wait for its member ends with it.
    let next = tokio::time::timeout(Duration::from_secs(60), ends.next());
    assert!(next.await.unwrap().unwrap().is_err());
    assert!(ends.next().await.is_none());
    // Nobody to ask, which is surely not done; and somebody again.
    reach(&[]);
    let refused = store.put(PutRequest::new("k", "x")).await.unwrap_err();
    assert!(
        matches!(refused, StoreError::Unreachable { sent: false, .. }),
        "{refused}"
    );
    assert!(refused.etcd_text().ends_with("no leader"), "{refused}");
    reach(&[0, 2]);
    put(&store, "k", "3").await;
    // A member that has lost its leader is no place to wait at, and says so as soon as it has noticed.
    members[1].kill();
    let alone = over(&members[2..]);
    let deadline = Instant::now() + Duration::from_secs(60);
    while alone.watch(WatchRequest::key("k")).await.is_ok() {
        assert!(Instant::now() < deadline, "a watch begins without a leader");
    }
    members[1].start();
    put(&alone, "k", "4").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn both_sides_show_certificates() {
    let dir = tempfile::tempdir().unwrap();
    let good = certificates(dir.path(), "good");
    let member = &cluster(1, Some(&good))[0];
    let with = |tls: &server::Certificates, ca: &server::Certificates| {
        let read = |path: &std::path::Path| std::fs::read(path).unwrap();
        let mut options = EtcdOptions::new([format!("https://{}", member.address)]);
        options.tls = Some(Tls {
            ca: read(&ca.ca),
            certificate: read(&tls.certificate),
            key: read(&tls.key),
            domain: None,
        });
        EtcdStore::new(options).unwrap()
    };
    let store = with(&good, &good);
    put(&store, "k", "1").await;
    // A certificate of somebody else's CA is not taken, nor is a server's that ours did not sign.
    let other = certificates(dir.path(), "other");
    for stranger in [with(&other, &good), with(&good, &other)] {
        let refused = stranger.get("k").await.unwrap_err();
        assert!(
            matches!(refused, StoreError::Unreachable { .. }),
            "{refused}"
        );
    }
    let plain = EtcdStore::new(EtcdOptions::new([member.url()])).unwrap();
    assert!(plain.get("k").await.is_err());
}

#[test]
fn addresses_that_make_no_sense_are_named() {
    for wrong in ["", "not an address"] {
        let refused = EtcdStore::new(EtcdOptions::new([wrong]))
            .map(drop)
            .unwrap_err();
        assert!(
            refused.to_string().contains("http://127.0.0.1:2379"),
            "{refused}"
        );
    }
    assert!(EtcdStore::new(EtcdOptions::new(Vec::<String>::new())).is_err());
}
