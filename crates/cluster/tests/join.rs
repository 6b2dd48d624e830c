//! Machines come in, renew and become voters, through real doors.
#![allow(clippy::unwrap_used)]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use common::*;
use coracle_cluster::door::{DoorError, DoorOptions, Target};
use coracle_cluster::join::{
    Join, JoinError, Joined, Newcomer, Reception, Voter, Why, become_voter, join, renew,
};
use coracle_cluster::members::{self, Members, Standing};
use coracle_cluster::pki::{Authority, Directory, Identity, Kind, Seen};
use coracle_cluster::token::{Token, issue};
use coracle_store::EmbeddedStore;
use serde_json::json;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Founded by `a`.
struct Cluster {
    _ca: tempfile::TempDir,
    _dir: tempfile::TempDir,
    store: Arc<EmbeddedStore>,
    authority: Arc<Authority>,
    members: watch::Receiver<Members>,
    voters: watch::Sender<Vec<Voter>>,
    reception: Reception,
    a: Machine,
    door: Open,
    admitted: Arc<AtomicUsize>,
    closed: Arc<AtomicBool>,
    stop: CancellationToken,
}

async fn cluster() -> Cluster {
    let (ca, authority) = authority();
    let authority = Arc::new(authority);
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    let a = Machine::new('a', &authority);
    members::found(&*store, &a.id, a.identity.seen().key, now())
        .await
        .unwrap();
    let known = watch::Sender::new(members::list(&*store).await.unwrap());
    let members = known.subscribe();
    let stop = CancellationToken::new();
    tokio::spawn(members::follow(store.clone(), known, stop.clone()));
    let voters = watch::Sender::new(Vec::new());
    let (admitted, closed) = (
        Arc::new(AtomicUsize::new(0)),
        Arc::new(AtomicBool::new(false)),
    );
    let (counted, shut) = (admitted.clone(), closed.clone());
    let reception = Reception {
        store: store.clone(),
        authority: watch::channel(Some(authority.clone())).1,
        cluster: "rack".to_owned(),
        voters: voters.subscribe(),
        admit: Arc::new(move |newcomer: Newcomer| {
            counted.fetch_add(1, Ordering::SeqCst);
            let shut = shut.load(Ordering::SeqCst);
            Box::pin(async move {
                match shut {
                    true => Err("no quorum".to_owned()),
                    false => Ok(json!({ "hello": newcomer.facts["hostname"] })),
                }
            })
        }),
    };
    let door = Open::with(&a, members.clone(), reception.clone().router()).await;
    voters.send_replace(vec![Voter {
        machine: a.id.clone(),
        address: door.address.to_string(),
    }]);
    Cluster {
        _ca: ca,
        _dir: dir,
        store,
        authority,
        members,
        voters,
        reception,
        a,
        door,
        admitted,
        closed,
        stop,
    }
}

impl Cluster {
    async fn token(&self, uses: u32) -> Token {
        let token = Token::random(self.authority.pin()).unwrap();
        let hour = Duration::from_secs(3600);
        issue(&*self.store, &token, hour, uses, "test", now())
            .await
            .unwrap();
        token
    }

    fn asks(&self, digit: char, token: &Token) -> Join {
        Join {
            token: token.clone(),
            at: self.door.address.to_string(),
            newcomer: Newcomer {
                machine: id(digit),
                address: "127.0.0.1:1".to_owned(),
                can_vote: true,
                facts: json!({ "hostname": "box" }),
            },
            addresses: vec!["127.0.0.1".parse().unwrap()],
        }
    }

    async fn end(self) {
        self.stop.cancel();
        self.door.close().await;
    }
}

struct New {
    _root: tempfile::TempDir,
    dir: Directory,
}

fn new() -> New {
    let root = tempfile::tempdir().unwrap();
    New {
        dir: Directory::open(&root.path().join("cluster")).unwrap(),
        _root: root,
    }
}

async fn comes(dir: &Directory, asks: &Join) -> Result<Joined, JoinError> {
    join(dir, asks, DoorOptions::default()).await
}

fn why(answer: Result<Joined, JoinError>) -> Why {
    match answer.unwrap_err() {
        JoinError::Refused { refusal } => refusal.why,
        other => panic!("{other}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_joins_and_is_a_member() {
    let cluster = cluster().await;
    let token = cluster.token(1).await;
    let b = new();
    let joined = comes(&b.dir, &cluster.asks('b', &token)).await.unwrap();
    assert_eq!(joined.answer.cluster, "rack");
    assert_eq!(joined.answer.extra, json!({ "hello": "box" }));
    assert_eq!(joined.answer.voters, *cluster.voters.borrow());
    assert_eq!(joined.identity.seen().machine, Some(id('b')));
    let opened = Identity::open(&b.dir, Kind::Machine, &id('b'))
        .unwrap()
        .unwrap();
    assert_eq!(opened.pin(), cluster.authority.pin());
    assert!(Authority::open(&b.dir).unwrap().is_none());
    let list = members::list(&*cluster.store).await.unwrap();
    assert_eq!(list.standing(&id('b')), Some(Standing::Machine));
    // It is answered again as long as it has nothing else: its certificate was lost on the way, say.
    let again = new();
    for file in ["machine.key", "format.json"] {
        let from = b._root.path().join("cluster").join(file);
        std::fs::copy(from, again._root.path().join("cluster").join(file)).unwrap();
    }
    comes(&again.dir, &cluster.asks('b', &token)).await.unwrap();
    assert_eq!(cluster.admitted.load(Ordering::SeqCst), 2);
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_refusal_says_what_it_is() {
    let cluster = cluster().await;
    let token = cluster.token(2).await;
    let b = new();
    let asks = cluster.asks('b', &token);
    // What the cluster cannot do now does not use the machine's token up.
    cluster.closed.store(true, Ordering::SeqCst);
    assert_eq!(why(comes(&b.dir, &asks).await), Why::NotNow);
    cluster.closed.store(false, Ordering::SeqCst);
    comes(&b.dir, &asks).await.unwrap();
    // The same id, another key: a copied disk, or a thief.
    assert_eq!(why(comes(&new().dir, &asks).await), Why::OtherKey);
    let c = new();
    comes(&c.dir, &cluster.asks('c', &token)).await.unwrap();
    let late = new();
    assert_eq!(
        why(comes(&late.dir, &cluster.asks('d', &token)).await),
        Why::TokenUnknown
    );
    let expired = Token::random(cluster.authority.pin()).unwrap();
    issue(&*cluster.store, &expired, Duration::ZERO, 1, "test", now())
        .await
        .unwrap();
    assert_eq!(
        why(comes(&late.dir, &cluster.asks('d', &expired)).await),
        Why::TokenExpired
    );
    let (_other, other) = authority();
    let foreign = Token::random(other.pin()).unwrap();
    let refused = comes(&late.dir, &cluster.asks('d', &foreign))
        .await
        .unwrap_err();
    assert!(
        matches!(refused, JoinError::Door(DoorError::WrongCluster { .. })),
        "{refused}"
    );
    assert!(
        Identity::open(&late.dir, Kind::Machine, &id('d'))
            .unwrap()
            .is_none()
    );
    let mut nowhere = cluster.asks('d', &token);
    nowhere.at = "127.0.0.1:1".to_owned();
    let refused = comes(&late.dir, &nowhere).await.unwrap_err();
    assert!(refused.to_string().contains("127.0.0.1:1"), "{refused}");
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_is_no_voter_sends_newcomers_on() {
    let cluster = cluster().await;
    let b = new();
    let token = cluster.token(2).await;
    let joined = comes(&b.dir, &cluster.asks('b', &token)).await.unwrap();
    let machine = Machine {
        root: b._root,
        id: id('b'),
        identity: joined.identity,
    };
    let reception = Reception {
        authority: watch::channel(None).1,
        ..cluster.reception.clone()
    };
    let door = Open::with(&machine, cluster.members.clone(), reception.router()).await;
    let c = new();
    let mut asks = cluster.asks('c', &token);
    asks.at = door.address.to_string();
    comes(&c.dir, &asks).await.unwrap();
    // One that knows of no other.
    cluster.voters.send_replace(Vec::new());
    let refused = comes(&new().dir, &asks).await.unwrap_err();
    assert!(matches!(refused, JoinError::NoVoter { .. }), "{refused}");
    door.close().await;
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn members_renew_and_voters_are_given_the_cas_key() {
    let cluster = cluster().await;
    let b = new();
    let token = cluster.token(1).await;
    let joined = comes(&b.dir, &cluster.asks('b', &token)).await.unwrap();
    let machine = Machine {
        root: b._root,
        id: id('b'),
        identity: joined.identity,
    };
    let client = machine.client();
    // The first does not answer, the second does.
    let away = Target {
        machine: id('f'),
        addresses: vec!["127.0.0.1:1".to_owned()],
    };
    let voters = [away, cluster.door.target()];
    let asked = machine.identity.request().unwrap();
    let pem = soon("a certificate", async {
        loop {
            // The door hears of its new member in a moment.
            let renewed = renew(&client, &voters, asked.pem.clone(), vec![]).await;
            if let Ok(pem) = renewed {
                break pem;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    machine.identity.replace(&pem).unwrap();
    // Not for another key, nor for a machine that is no member.
    let other = Machine::new('c', &cluster.authority);
    let foreign = other.identity.request().unwrap().pem;
    assert!(
        renew(&client, &voters, foreign.clone(), vec![])
            .await
            .is_err()
    );
    assert!(
        renew(&other.client(), &voters, foreign, vec![])
            .await
            .is_err()
    );
    // The key of the CA is for voters.
    let becomes = async || {
        let addresses = vec!["127.0.0.1".parse().unwrap()];
        become_voter(&b.dir, &client, &machine.identity, &voters, addresses).await
    };
    let refused = becomes().await.unwrap_err();
    assert!(matches!(refused, JoinError::Refused { .. }), "{refused}");
    assert!(Authority::open(&b.dir).unwrap().is_none());
    // Nor by a list that is old.
    let old = watch::Sender::new(Members::from_iter([(id('b'), Standing::Voter)]));
    let router = cluster.reception.clone().router();
    let door = Open::with(&cluster.a, old.subscribe(), router).await;
    // Asked by another client: this one has a connection to the machine already.
    let (asked_there, client_there) = ([door.target()], machine.client());
    let refused = become_voter(
        &b.dir,
        &client_there,
        &machine.identity,
        &asked_there,
        vec![],
    );
    let refused = refused.await.unwrap_err().to_string();
    assert!(refused.contains("no voter any more"), "{refused}");
    door.close().await;
    // Learners are given it too, so that one can take over.
    members::set_standing(&*cluster.store, &id('b'), Standing::Learner)
        .await
        .unwrap();
    until("it to be a learner", async || becomes().await.is_ok()).await;
    let authority = Authority::open(&b.dir).unwrap().unwrap();
    assert_eq!(authority.pin(), cluster.authority.pin());
    let peer = Identity::open(&b.dir, Kind::Peer, &id('b'))
        .unwrap()
        .unwrap();
    assert_eq!(
        (peer.seen().machine, &*peer.seen().common_name),
        (None, "peer.coracle.internal")
    );
    // What it signs now, others take.
    let d = Machine::new('d', &authority);
    assert_eq!(d.identity.pin(), cluster.authority.pin());
    assert!(Seen::read(cluster.a.identity.ca()).is_ok());
    // Removed, it renews nothing.
    members::remove(&*cluster.store, &id('b')).await.unwrap();
    until("it to be no member", async || {
        renew(&client, &voters, asked.pem.clone(), vec![])
            .await
            .is_err()
    })
    .await;
    cluster.end().await;
}
