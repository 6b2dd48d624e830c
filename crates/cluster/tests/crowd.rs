//! Many at once, who say nothing or ask in vain.
#![allow(clippy::unwrap_used)]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use common::*;
use coracle_cluster::door::{DoorClient, DoorOptions, Limits, Paths, Target};
use coracle_cluster::members::Standing;
use tokio::io::AsyncReadExt as _;

#[tokio::test(flavor = "multi_thread")]
async fn requests_for_a_machine_that_is_silent_do_not_wait_for_each_other() {
    let (_ca, authority) = authority();
    let b = Machine::new('b', &authority);
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let to = Target {
        machine: id('a'),
        addresses: vec![silent.local_addr().unwrap().to_string()],
    };
    let knocked = Arc::new(AtomicUsize::new(0));
    let counted = knocked.clone();
    let listening = tokio::spawn(async move {
        let mut kept = Vec::new();
        loop {
            kept.push(silent.accept().await.unwrap());
            counted.fetch_add(1, Ordering::SeqCst);
        }
    });
    let options = DoorOptions {
        connect: Duration::from_secs(1),
        ..DoorOptions::default()
    };
    let client = Arc::new(DoorClient::new(b.identity.clone(), options).unwrap());
    let asks = || {
        let (client, to) = (client.clone(), to.clone());
        tokio::spawn(async move { client.send(&to, request("/members")).await })
    };
    let all: Vec<_> = (0..8).map(|_| asks()).collect();
    for one in all {
        let refused = one.await.unwrap().unwrap_err();
        assert!(refused.to_string().contains("does not answer"), "{refused}");
    }
    let first = knocked.load(Ordering::SeqCst);
    assert!(first < 8, "{first}");
    // Whoever asks later has it tried anew.
    assert!(asks().await.unwrap().is_err());
    assert!(knocked.load(Ordering::SeqCst) > first);
    listening.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_that_is_elsewhere_now_is_asked_there() {
    let (_ca, authority) = authority();
    let members = members(&[('a', Standing::Voter), ('b', Standing::Machine)]);
    let (a, b) = (Machine::new('a', &authority), Machine::new('b', &authority));
    let says = |word: &'static str| Router::new().route("/where", get(move || async move { word }));
    let here = Open::with(&a, members.subscribe(), says("here")).await;
    let there = Open::with(&a, members.subscribe(), says("there")).await;
    // Where it was once somebody takes all and says nothing; for as long as that is tried the test would hang.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let options = DoorOptions {
        connect: Duration::from_secs(24 * 3600),
        ..DoorOptions::default()
    };
    let client = DoorClient::new(b.identity.clone(), options).unwrap();
    let mut to = here.target();
    to.addresses
        .insert(0, silent.local_addr().unwrap().to_string());
    let asked = ask(&client, &to, "/where");
    assert_eq!(soon("an answer", asked).await, (200, "here".into()));
    // The connection is there still, and it is not the best way any more.
    let to = there.target();
    let asked = ask(&client, &to, "/where");
    assert_eq!(soon("an answer", asked).await, (200, "there".into()));
    here.close().await;
    there.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_that_say_nothing_do_not_keep_others_out() {
    let (_ca, authority) = authority();
    let members = members(&[('a', Standing::Voter), ('b', Standing::Machine)]);
    let (a, b) = (Machine::new('a', &authority), Machine::new('b', &authority));
    let limits = Limits {
        handshake: Duration::from_secs(600),
        handshakes: 4,
        turns: 2,
        unknown: 6,
        ..Limits::default()
    };
    let paths = Paths::new(Router::new().route("/members", get(|| async { "in" })));
    let door = Open::new(&a, members.subscribe(), paths, limits).await;
    let mut silent = Vec::new();
    for _ in 0..8 {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.2:0".parse().unwrap()).unwrap();
        silent.push(socket.connect(door.address).await.unwrap());
    }
    for stream in &mut silent[6..] {
        let read = soon("its end", stream.read(&mut [0; 8])).await;
        assert!(read.is_err() || read.unwrap() == 0);
    }
    assert_eq!(ask(&b.client(), &door.target(), "/members").await.0, 200);
    // Places that are left are others'.
    silent.clear();
    until("a place", async || {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.2:0".parse().unwrap()).unwrap();
        let mut stream = socket.connect(door.address).await.unwrap();
        let mut buffer = [0; 8];
        let read = stream.read(&mut buffer);
        tokio::time::timeout(Duration::from_millis(200), read)
            .await
            .is_err()
    })
    .await;
    door.close().await;
}
