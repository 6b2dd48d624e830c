//! The door: who is let in, what goes through, and when it is cut.
#![allow(clippy::unwrap_used)]

mod common;

use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get, post};
use common::*;
use coracle_cluster::door::{
    Body, DoorClient, DoorError, DoorOptions, Limits, Paths, Peer, Stranger, Target, keepers_only,
    members_only,
};
use coracle_cluster::members::{Listed, Members, Standing};
use coracle_cluster::pki::{Authority, Directory, Identity, Kind, Lifetimes};
use http_body_util::BodyExt as _;
use hyper::StatusCode;
use hyper::header::{CONNECTION, UPGRADE};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

const BOTH: [(char, Standing); 2] = [('a', Standing::Voter), ('b', Standing::Machine)];

/// Says who asks.
async fn who(request: Request) -> String {
    let peer = request.extensions().get::<Peer>().unwrap();
    match &peer.machine {
        Some(machine) => format!("{} {:?}", &machine.as_str()[..1], peer.standing.unwrap()),
        None => "nobody".to_owned(),
    }
}

/// Sends back what comes, piece by piece.
async fn echo(body: Body) -> Response {
    Body::from_stream(body.into_data_stream()).into_response()
}

/// Sends back what comes after an upgrade.
async fn upgrade(request: Request) -> Response {
    tokio::spawn(async move {
        let io = hyper::upgrade::on(request).await.unwrap();
        let (mut read, mut write) = tokio::io::split(TokioIo::new(io));
        let _ = tokio::io::copy(&mut read, &mut write).await;
        let _ = write.shutdown().await;
    });
    let head = [(CONNECTION, "upgrade"), (UPGRADE, "echo")];
    (StatusCode::SWITCHING_PROTOCOLS, head).into_response()
}

fn router() -> Router {
    let members = Router::new()
        .route("/members", any(who))
        .route("/echo", post(echo))
        .route("/upgrade", get(upgrade));
    Router::new()
        .route("/open", any(who))
        .route("/open/echo", post(echo))
        .merge(members_only(members))
        .merge(keepers_only(Router::new().route("/voters", any(who))))
}

#[tokio::test(flavor = "multi_thread")]
async fn members_are_known_and_strangers_kept_out() {
    let (_ca, authority) = authority();
    let members = members(&BOTH);
    let (a, b) = (Machine::new('a', &authority), Machine::new('b', &authority));
    let door = Open::with(&a, members.subscribe(), router()).await;
    let client = b.client();
    let to = door.target();
    assert_eq!(
        ask(&client, &to, "/members").await,
        (200, "b Machine".into())
    );
    assert_eq!(ask(&client, &to, "/voters").await.0, 403);
    assert_eq!(
        ask(&a.client(), &to, "/voters").await,
        (200, "a Voter".into())
    );
    let stranger = Stranger::new(authority.pin(), DoorOptions::default()).unwrap();
    let at = door.address.to_string();
    let open = stranger.send(&at, request("/open")).await.unwrap();
    assert_eq!(text(open).await, (200, "nobody".into()));
    for path in ["/members", "/voters", "/echo", "/upgrade"] {
        let refused = stranger.send(&at, request(path)).await.unwrap();
        let (code, body) = text(refused).await;
        // The path that takes one method only does not say more than that.
        assert!(code == 401 || code == 405, "{path} {code}");
        assert!(code == 405 || body.contains("\"message\""), "{body}");
    }
    // Who has a certificate and is no member.
    let c = Machine::new('c', &authority).client();
    let (code, body) = ask(&c, &to, "/members").await;
    assert_eq!(code, 401);
    assert!(body.contains(id('c').as_str()), "{body}");
    assert_eq!(ask(&c, &to, "/open").await, (200, "nobody".into()));
    // It becomes one, on the same connection.
    members.send_modify(|m| {
        *m = m
            .iter()
            .map(|(m, s)| (m.clone(), s))
            .chain([(id('c'), Standing::Machine)])
            .collect();
    });
    assert_eq!(ask(&c, &to, "/members").await, (200, "c Machine".into()));
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn both_sides_are_who_they_should_be() {
    let (_one, one) = authority();
    let (_two, two) = authority();
    let members = members(&BOTH);
    let (a, b) = (Machine::new('a', &one), Machine::new('b', &one));
    let door = Open::with(&a, members.subscribe(), router()).await;
    let client = b.client();
    // Another machine than expected is at that address.
    let wrong = Target {
        machine: id('c'),
        ..door.target()
    };
    let refused = client.send(&wrong, request("/open")).await.unwrap_err();
    assert!(
        matches!(refused, DoorError::Unreachable { .. }),
        "{refused}"
    );
    assert!(
        refused
            .to_string()
            .contains("another machine has this address"),
        "{refused}"
    );
    // Another cluster's machine, at whichever end.
    let foreign = Machine::new('b', &two).client();
    let refused = foreign
        .send(&door.target(), request("/open"))
        .await
        .unwrap_err();
    assert!(
        refused.to_string().contains("another cluster's"),
        "{refused}"
    );
    let stranger = Stranger::new(two.pin(), DoorOptions::default()).unwrap();
    let at = door.address.to_string();
    let refused = stranger.send(&at, request("/open")).await.unwrap_err();
    assert!(
        matches!(refused, DoorError::WrongCluster { .. }),
        "{refused}"
    );
    // The other machine trusts our CA but shows its own certificate: TLS refuses it.
    let forged = forged(&one, &two);
    let refused = forged
        .send(&door.target(), request("/open"))
        .await
        .unwrap_err();
    assert!(matches!(refused, DoorError::Broken { .. }), "{refused}");
    // No address, and one where nobody is.
    let nowhere = Target {
        machine: id('a'),
        addresses: vec![],
    };
    let refused = client.send(&nowhere, request("/open")).await.unwrap_err();
    assert!(matches!(refused, DoorError::NoAddress { .. }), "{refused}");
    let mut both = door.target();
    both.addresses.insert(0, "127.0.0.1:1".to_owned());
    assert_eq!(ask(&client, &both, "/open").await.0, 200);
    // A certificate for etcd's peers is no machine's.
    let peer = Machine::new('b', &one);
    let asked = Identity::ask(&peer.dir(), Kind::Peer, &id('b')).unwrap();
    let certificate = one.peer(&asked.pem, &id('b'), &[]).unwrap();
    let (pin, ca) = (one.pin(), one.certificate_pem());
    let peer = Identity::install(&peer.dir(), Kind::Peer, &id('b'), &pin, ca, &certificate);
    let client = DoorClient::new(peer.unwrap(), DoorOptions::default()).unwrap();
    assert_eq!(
        ask(&client, &door.target(), "/open").await,
        (200, "nobody".into())
    );
    door.close().await;
}

/// A client that trusts the one cluster with a certificate that names a machine of it, but that the other's CA signed.
fn forged(one: &Authority, two: &Authority) -> DoorClient {
    let machine = Machine::new('b', two);
    let path = machine.root.path().join("cluster/ca.pem");
    std::fs::write(path, one.certificate_pem()).unwrap();
    let identity = Identity::open(&machine.dir(), Kind::Machine, &id('b')).unwrap();
    DoorClient::new(identity.unwrap(), DoorOptions::default()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_stream_both_ways_and_upgrades_work() {
    let (_ca, authority) = authority();
    let members = members(&BOTH);
    let (a, b) = (Machine::new('a', &authority), Machine::new('b', &authority));
    let door = Open::with(&a, members.subscribe(), router()).await;
    let client = b.client();
    let (feed, body) = pieces();
    let mut sent = request("/echo");
    *sent.method_mut() = hyper::Method::POST;
    *sent.body_mut() = body;
    feed.send("one".into()).unwrap();
    let mut answer = client.send(&door.target(), sent).await.unwrap().into_body();
    for piece in ["one", "two", "three"] {
        let back = soon("a piece", answer.frame()).await.unwrap().unwrap();
        assert_eq!(back.into_data().unwrap(), piece);
        feed.send(match piece {
            "one" => "two".into(),
            _ => "three".into(),
        })
        .unwrap();
    }
    drop(feed);
    let mut io = upgraded(&client, &door.target()).await;
    io.write_all(b"hello").await.unwrap();
    let mut back = [0; 5];
    soon("an echo", io.read_exact(&mut back)).await.unwrap();
    assert_eq!(&back, b"hello");
    // A half that is closed says so to the other side.
    io.shutdown().await.unwrap();
    assert_eq!(soon("the end", io.read(&mut back)).await.unwrap(), 0);
    // Much at once.
    let much = Bytes::from(vec![7; 8 << 20]);
    let mut sent = request("/echo");
    *sent.method_mut() = hyper::Method::POST;
    *sent.body_mut() = Body::from(much.clone());
    let answer = client.send(&door.target(), sent).await.unwrap();
    assert!(answer.into_body().collect().await.unwrap().to_bytes() == much);
    door.close().await;
}

async fn upgraded(client: &DoorClient, to: &Target) -> TokioIo<hyper::upgrade::Upgraded> {
    let mut asked = request("/upgrade");
    let headers = asked.headers_mut();
    headers.insert(CONNECTION, "upgrade".parse().unwrap());
    headers.insert(UPGRADE, "echo".parse().unwrap());
    let answer = client.send(to, asked).await.unwrap();
    assert_eq!(answer.status(), StatusCode::SWITCHING_PROTOCOLS);
    TokioIo::new(hyper::upgrade::on(answer).await.unwrap())
}

/// An open stream of each kind, which both end.
async fn is_cut(client: &DoorClient, to: &Target, cut: impl AsyncFnOnce()) {
    let (feed, body) = pieces();
    let mut sent = request("/echo");
    *sent.method_mut() = hyper::Method::POST;
    *sent.body_mut() = body;
    feed.send("one".into()).unwrap();
    let mut stream = client.send(to, sent).await.unwrap().into_body();
    soon("a piece", stream.frame()).await.unwrap().unwrap();
    let mut io = upgraded(client, to).await;
    io.write_all(b"hello").await.unwrap();
    let mut back = [0; 5];
    soon("an echo", io.read_exact(&mut back)).await.unwrap();
    cut().await;
    let ended = soon("the stream's end", stream.frame()).await;
    assert!(
        ended.is_some_and(|frame| frame.is_err()),
        "it ended as if all were well"
    );
    let ended = soon("the connection's end", io.read(&mut back)).await;
    assert!(ended.is_err() || ended.unwrap() == 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_removed_is_cut_off_in_the_midst_of_it() {
    let (_ca, authority) = authority();
    let members = members(&[BOTH[0], BOTH[1], ('c', Standing::Machine)]);
    let machines = ['a', 'b', 'c'].map(|digit| Machine::new(digit, &authority));
    let door = Open::with(&machines[0], members.subscribe(), router()).await;
    let (b, c) = (machines[1].client(), machines[2].client());
    let mut other = upgraded(&c, &door.target()).await;
    is_cut(&b, &door.target(), async || {
        members.send_replace(
            [(id('a'), Standing::Voter), (id('c'), Standing::Machine)]
                .into_iter()
                .collect(),
        );
    })
    .await;
    // Nobody else is.
    other.write_all(b"hello").await.unwrap();
    let mut back = [0; 5];
    soon("an echo", other.read_exact(&mut back)).await.unwrap();
    assert_eq!(ask(&b, &door.target(), "/members").await.0, 401);
    assert_eq!(ask(&c, &door.target(), "/members").await.0, 200);
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_asks_cuts_its_own_connections_to_one_machine() {
    let (_ca, authority) = authority();
    let members = members(&[BOTH[0], BOTH[1], ('c', Standing::Machine)]);
    let machines = ['a', 'b', 'c'].map(|digit| Machine::new(digit, &authority));
    let one = Open::with(&machines[0], members.subscribe(), router()).await;
    let other = Open::with(&machines[2], members.subscribe(), router()).await;
    let b = machines[1].client();
    let mut to_other = upgraded(&b, &other.target()).await;
    is_cut(&b, &one.target(), async || b.cut(&id('a'))).await;
    to_other.write_all(b"hello").await.unwrap();
    let mut back = [0; 5];
    soon("an echo", to_other.read_exact(&mut back))
        .await
        .unwrap();
    // It can be reached again.
    assert_eq!(ask(&b, &one.target(), "/members").await.0, 200);
    one.close().await;
    other.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_was_a_voter_is_cut_off_and_may_come_again() {
    let (_ca, authority) = authority();
    let members = members(&[BOTH[0], ('b', Standing::Voter)]);
    let (a, b) = (Machine::new('a', &authority), Machine::new('b', &authority));
    let door = Open::with(&a, members.subscribe(), router()).await;
    is_cut(&b.client(), &door.target(), async || {
        members.send_replace(BOTH.into_iter().map(|(m, s)| (id(m), s)).collect());
    })
    .await;
    let again = ask(&b.client(), &door.target(), "/members").await;
    assert_eq!(again, (200, "b Machine".into()));
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_that_comes_again_with_a_new_key_shuts_its_old_one_out() {
    let (_ca, authority) = authority();
    let a = Machine::new('a', &authority);
    let (old, new) = (Machine::new('b', &authority), Machine::new('b', &authority));
    let with = |machine: &Machine| -> Members {
        let listed = |machine: &Machine, standing| Listed {
            standing,
            key: Some(machine.identity.seen().key),
        };
        let all = [
            (id('a'), listed(&a, Standing::Voter)),
            (id('b'), listed(machine, Standing::Machine)),
        ];
        all.into_iter().collect()
    };
    let members = tokio::sync::watch::Sender::new(with(&old));
    let door = Open::with(&a, members.subscribe(), router()).await;
    let to = door.target();
    // It was removed and is there again before the door has looked.
    is_cut(&old.client(), &to, async || {
        members.send_replace(with(&new));
    })
    .await;
    let (code, said) = ask(&old.client(), &to, "/members").await;
    assert_eq!(code, 401, "{said}");
    assert_eq!(ask(&new.client(), &to, "/members").await.0, 200);
    // Nor does the CA's key, which a voter that was removed may have kept, make one of the others of its holder.
    let forged = Machine::new('a', &authority);
    let (code, said) = ask(&forged.client(), &to, "/voters").await;
    assert_eq!(code, 401, "{said}");
    assert_eq!(ask(&a.client(), &to, "/voters").await.0, 200);
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_runs_out_ends_the_connection_and_a_new_one_is_shown_at_once() {
    let (ca, authority) = authority();
    let members = members(&BOTH);
    let a = Machine::new('a', &authority);
    let short = Lifetimes {
        machine: Duration::from_secs(12),
        ..Lifetimes::default()
    };
    let long = Authority::open(&Directory::open(&ca.path().join("cluster")).unwrap());
    let long = long.unwrap().unwrap();
    let b = Machine::new('b', &authority.with_lifetimes(short));
    let door = Open::with(&a, members.subscribe(), router()).await;
    let client = b.client();
    is_cut(&client, &door.target(), async || {}).await;
    assert!(b.identity.is_expired());
    // It is not let in any more.
    let refused = client
        .send(&door.target(), request("/open"))
        .await
        .unwrap_err();
    assert!(matches!(refused, DoorError::Broken { .. }), "{refused}");
    // The same client, with a new certificate.
    let asked = b.identity.request().unwrap();
    b.identity
        .replace(&long.machine(&asked.pem, &id('b'), &[]).unwrap())
        .unwrap();
    assert_eq!(ask(&client, &door.target(), "/members").await.0, 200);
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_door_shows_its_new_certificate_without_a_restart() {
    let (ca, authority) = authority();
    let members = members(&BOTH);
    let short = Lifetimes {
        machine: Duration::from_secs(5),
        ..Lifetimes::default()
    };
    let long = Authority::open(&Directory::open(&ca.path().join("cluster")).unwrap());
    let long = long.unwrap().unwrap();
    let a = Machine::new('a', &authority.with_lifetimes(short));
    let b = Machine::new('b', &long);
    let door = Open::with(&a, members.subscribe(), router()).await;
    until("the door's certificate to run out", async || {
        a.identity.is_expired()
    })
    .await;
    let refused = b
        .client()
        .send(&door.target(), request("/open"))
        .await
        .unwrap_err();
    assert!(refused.to_string().contains("clocks"), "{refused}");
    let asked = a.identity.request().unwrap();
    a.identity
        .replace(&long.machine(&asked.pem, &id('a'), &[]).unwrap())
        .unwrap();
    assert_eq!(ask(&b.client(), &door.target(), "/members").await.0, 200);
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_says_nothing_or_stays_too_long_is_shown_out() {
    let (_ca, authority) = authority();
    let members = members(&BOTH);
    let a = Machine::new('a', &authority);
    let limits = Limits {
        handshake: Duration::from_secs(1),
        handshakes: 2,
        visit: Duration::from_secs(1),
        ..Limits::default()
    };
    let paths = Paths::new(Router::new().route("/inside", any(who))).with_open(router());
    let door = Open::new(&a, members.subscribe(), paths, limits).await;
    let mut silent = Vec::new();
    for _ in 0..4 {
        silent.push(TcpStream::connect(door.address).await.unwrap());
    }
    // Those who wait get their turn.
    let client = a.client();
    until("a turn", async || {
        client
            .send(&door.target(), request("/inside"))
            .await
            .is_ok()
    })
    .await;
    for stream in &mut silent {
        let read = soon("its end", stream.read(&mut [0; 8])).await;
        assert!(read.is_err() || read.unwrap() == 0);
    }
    // One that has a certificate and is no member may wait for that, but not for long.
    let c = Machine::new('c', &authority);
    let (feed, body) = pieces();
    let mut sent = request("/open/echo");
    *sent.method_mut() = hyper::Method::POST;
    *sent.body_mut() = body;
    let client = c.client();
    assert_eq!(ask(&client, &door.target(), "/inside").await.0, 401);
    feed.send("x".into()).unwrap();
    let mut stream = client.send(&door.target(), sent).await.unwrap().into_body();
    soon("a piece", stream.frame()).await.unwrap().unwrap();
    let ended = soon("the stream's end", stream.frame()).await;
    assert!(
        ended.is_some_and(|frame| frame.is_err()),
        "it ended as if all were well"
    );
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_door_that_closes_ends_what_is_open() {
    let (_ca, authority) = authority();
    let members = members(&BOTH);
    let (a, b) = (Machine::new('a', &authority), Machine::new('b', &authority));
    let door = Open::with(&a, members.subscribe(), router()).await;
    let client = b.client();
    let to = door.target();
    let mut open = Some(door);
    is_cut(&client, &to, async || {
        if let Some(door) = open.take() {
            door.close().await;
        }
    })
    .await;
    let refused = client.send(&to, request("/open")).await.unwrap_err();
    assert!(
        matches!(refused, DoorError::Unreachable { .. }),
        "{refused}"
    );
}
