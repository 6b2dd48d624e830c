//! Keys and certificates on disk: made once, whole after any crash, renewed while in use.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use common::*;
use coracle_cluster::pki::{
    Authority, Directory, Due, Identity, Item, Kind, Lifetimes, PkiError, Seen, keep_renewed,
};
use tokio_util::sync::CancellationToken;

/// All that a founder writes, in its order.
const FILES: [&str; 5] = [
    "format.json",
    "ca.key",
    "ca.pem",
    "machine.key",
    "machine.pem",
];

fn found(path: &Path) -> (Authority, Arc<Identity>) {
    let dir = Directory::open(path).unwrap();
    let authority = Authority::found(&dir).unwrap();
    let machine = id('a');
    if let Some(identity) = Identity::open(&dir, Kind::Machine, &machine).unwrap() {
        return (authority, identity);
    }
    let asked = Identity::ask(&dir, Kind::Machine, &machine).unwrap();
    let certificate = authority.machine(&asked.pem, &machine, &[]).unwrap();
    let (pin, ca) = (authority.pin(), authority.certificate_pem());
    let identity = Identity::install(&dir, Kind::Machine, &machine, &pin, ca, &certificate);
    (authority, identity.unwrap())
}

#[test]
fn whatever_moment_the_power_goes_it_is_made_whole() {
    let whole = tempfile::tempdir().unwrap();
    let (authority, identity) = found(whole.path());
    for count in 0..=FILES.len() {
        let part = tempfile::tempdir().unwrap();
        for file in &FILES[..count] {
            fs::copy(whole.path().join(file), part.path().join(file)).unwrap();
        }
        // The next one was on its way.
        let next = FILES.get(count).unwrap_or(&"machine.pem");
        fs::write(part.path().join(format!(".{next}.new")), "-----BEG").unwrap();
        let (again, same) = found(part.path());
        // Once there is a key it stays, and so what was said of it.
        assert_eq!(again.pin() == authority.pin(), count >= 2, "{count}");
        assert_eq!(
            same.seen().key == identity.seen().key,
            count >= 4,
            "{count}"
        );
        let found = fs::read_dir(part.path()).unwrap();
        let mut found: Vec<_> = found.map(|e| e.unwrap().file_name()).collect();
        found.sort();
        let mut expected = FILES.to_vec();
        expected.sort();
        assert_eq!(found, expected);
    }
}

#[test]
fn keys_are_for_the_owner_alone() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("cluster");
    found(&path);
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&path), 0o700);
    for (file, expected) in [("ca.key", 0o600), ("machine.key", 0o600), ("ca.pem", 0o644)] {
        assert_eq!(mode(&path.join(file)), expected, "{file}");
    }
}

#[test]
fn a_certificate_is_for_one_machine_and_counts_for_30_days() {
    let (_ca, authority) = authority();
    let machine = Machine::new('a', &authority);
    let seen = machine.identity.seen();
    assert_eq!(seen.machine, Some(id('a')));
    let now = SystemTime::now();
    let day = Duration::from_secs(24 * 3600);
    assert!(seen.not_before < now - Duration::from_secs(3000));
    assert!(seen.not_after > now + day * 29 && seen.not_after < now + day * 31);
    let ca = Seen::read(authority.certificate()).unwrap();
    assert!(ca.not_after > now + day * 365 * 19);
    assert_eq!((ca.machine, ca.key), (None, authority.pin()));
    // A third is left when it is renewed.
    let due = machine.identity.due();
    assert!(due.renew > now + day * 19 && due.renew < now + day * 21);
}

#[test]
fn when_a_certificate_is_asked_for() {
    let day = Duration::from_secs(24 * 3600);
    let ca = SystemTime::UNIX_EPOCH + day * 20_000;
    let from = ca + day * 100;
    let due = Due::of(ca, from, from + day * 30);
    assert_eq!(due.wait(from, 0), day * 20);
    assert_eq!(due.wait(from + day * 21, 0), Duration::ZERO);
    // In vain: many times before the end.
    let (mut now, mut tries) = (from + day * 20, 0);
    while now < due.expires {
        tries += 1;
        now += due.wait(now, tries);
    }
    assert!(tries > 50, "{tries}");
    // Issued while the clock was fast: due at once, and soon again.
    assert_eq!(due.wait(from - day, 0), Duration::ZERO);
    assert!(due.wait(from - day, 9) <= Duration::from_secs(60));
    // A clock that stands before the CA was made is no reason to give away a good one.
    assert!(due.wait(ca - day, 0) > day * 100);
    assert!(due.wait(SystemTime::UNIX_EPOCH, 0) > day * 20_000);
}

#[test]
fn nothing_that_does_not_fit_is_kept() {
    let (_one, one) = authority();
    let (_two, two) = authority();
    let a = Machine::new('a', &one);
    let request = a.identity.request().unwrap();
    let unfit = |certificate: &str| {
        let refused = a.identity.replace(certificate).unwrap_err();
        assert!(matches!(refused, PkiError::Unfit { .. }), "{refused}");
    };
    unfit(&two.machine(&request.pem, &id('a'), &[]).unwrap());
    unfit(&one.machine(&request.pem, &id('b'), &[]).unwrap());
    unfit(&one.peer(&request.pem, &id('a'), &[]).unwrap());
    let b = Machine::new('b', &one).identity.request().unwrap();
    unfit(&one.machine(&b.pem, &id('a'), &[]).unwrap());
    assert!(a.identity.replace("nothing").is_err());
    assert!(one.machine("nothing", &id('a'), &[]).is_err());
    // A request whose signature is another key's: its last bytes are changed.
    let mut der = pem(&request.pem);
    let last = der.len() - 5;
    der[last] ^= 1;
    let broken = armoured("CERTIFICATE REQUEST", &der);
    let refused = one.machine(&broken, &id('a'), &[]).unwrap_err();
    assert!(matches!(refused, PkiError::Foreign { .. }), "{refused}");
    a.identity
        .replace(&one.machine(&request.pem, &id('a'), &[]).unwrap())
        .unwrap();
    // Another cluster's answer to the same machine.
    let certificate = two.machine(&request.pem, &id('a'), &[]).unwrap();
    let install = |authority: &Authority, pin| {
        let ca = authority.certificate_pem();
        Identity::install(&a.dir(), Kind::Machine, &id('a'), &pin, ca, &certificate)
    };
    assert!(install(&two, one.pin()).is_err());
    assert!(install(&one, one.pin()).is_err());
    install(&two, two.pin()).unwrap();
}

fn pem(text: &str) -> Vec<u8> {
    let body: String = text.lines().filter(|l| !l.starts_with("-----")).collect();
    data_encoding::BASE64.decode(body.as_bytes()).unwrap()
}

fn armoured(label: &str, der: &[u8]) -> String {
    let body = data_encoding::BASE64.encode(der);
    format!("-----BEGIN {label}-----\n{body}\n-----END {label}-----\n")
}

#[test]
fn files_that_make_no_sense_are_named() {
    let root = tempfile::tempdir().unwrap();
    found(root.path());
    let dir = Directory::open(root.path()).unwrap();
    let path = |item| dir.path(item);
    let named = |error: PkiError, file: &str| {
        assert!(error.to_string().contains(file), "{error}");
    };
    let good = fs::read(path(Item::MachineKey)).unwrap();
    fs::copy(path(Item::CaKey), path(Item::MachineKey)).unwrap();
    named(
        Identity::open(&dir, Kind::Machine, &id('a')).unwrap_err(),
        "machine.key",
    );
    fs::write(path(Item::MachineKey), "x").unwrap();
    named(
        Identity::open(&dir, Kind::Machine, &id('a')).unwrap_err(),
        "machine.key",
    );
    fs::copy(path(Item::MachineKey), path(Item::CaKey)).unwrap();
    named(Authority::found(&dir).unwrap_err(), "ca.key");
    fs::write(path(Item::CaKey), good).unwrap();
    named(Authority::found(&dir).unwrap_err(), "ca.pem");
    fs::remove_file(path(Item::CaKey)).unwrap();
    named(Authority::found(&dir).unwrap_err(), "ca.pem");
    fs::write(path(Item::Format), "{\"version\":2}").unwrap();
    named(Directory::open(root.path()).unwrap_err(), "version 2");
    fs::write(path(Item::Format), "{\"version\":1,\"more\":true}").unwrap();
    Directory::open(root.path()).unwrap().clear().unwrap();
    assert_eq!(fs::read_dir(root.path()).unwrap().count(), 0);
}

#[test]
fn the_cas_key_moves_with_voters() {
    let (_ca, authority) = authority();
    let machine = Machine::new('b', &authority);
    let dir = machine.dir();
    assert!(Authority::open(&dir).unwrap().is_none());
    let (_other, other) = common::authority();
    assert!(Authority::adopt(&dir, &other.key_pem()).is_err());
    assert!(Authority::open(&dir).unwrap().is_none());
    let adopted = Authority::adopt(&dir, &authority.key_pem()).unwrap();
    assert_eq!(adopted.pin(), authority.pin());
    let c = Machine::new('c', &Authority::open(&dir).unwrap().unwrap());
    assert_eq!(c.identity.pin(), authority.pin());
    Authority::forget(&dir).unwrap();
    assert!(Authority::open(&dir).unwrap().is_none());
}

#[test]
fn a_certificate_says_which_addresses_it_is_for() {
    let (_ca, authority) = authority();
    let machine = Machine::new('a', &authority);
    let addresses: [std::net::IpAddr; 2] =
        ["192.0.2.7".parse().unwrap(), "fd00::7".parse().unwrap()];
    let asked = machine.identity.request().unwrap();
    for wanted in [&addresses[..], &addresses[1..], &[]] {
        let made = authority.machine(&asked.pem, &id('a'), wanted).unwrap();
        machine.identity.replace(&made).unwrap();
        assert_eq!(machine.identity.seen().addresses, wanted);
    }
}

#[tokio::test]
async fn it_is_renewed_while_in_use_and_asked_for_again_after_failures() {
    let (_ca, authority) = authority();
    // A minute old when it is made, with a third and less left: due at once.
    let short = Lifetimes {
        machine: Duration::from_secs(25),
        skew: Duration::from_secs(60),
    };
    let authority = Arc::new(authority.with_lifetimes(short));
    let machine = Machine::new('a', &authority);
    let before = machine.identity.seen();
    let tries = Arc::new(AtomicUsize::new(0));
    let (counted, long) = (
        tries.clone(),
        Authority::open(&dir_of(&_ca)).unwrap().unwrap(),
    );
    let long = Arc::new(long);
    let ask = move |asked: coracle_cluster::pki::Asked| {
        let (counted, long) = (counted.clone(), long.clone());
        async move {
            match counted.fetch_add(1, Ordering::SeqCst) {
                0 => Err("not now".to_owned()),
                1 => Ok("nothing".to_owned()),
                _ => long
                    .machine(&asked.pem, &id('a'), &[])
                    .map_err(|e| e.to_string()),
            }
        }
    };
    let stop = CancellationToken::new();
    let task = tokio::spawn(keep_renewed(machine.identity.clone(), ask, stop.clone()));
    until("a new certificate", async || {
        machine.identity.seen().not_after > before.not_after
    })
    .await;
    assert_eq!(tries.load(Ordering::SeqCst), 3);
    // It is on disk too, with the same key.
    let again = Identity::open(&machine.dir(), Kind::Machine, &id('a'))
        .unwrap()
        .unwrap();
    assert_eq!(again.seen().not_after, machine.identity.seen().not_after);
    assert_eq!(again.seen().key, before.key);
    stop.cancel();
    soon("its end", task).await.unwrap();
}

/// A certificate that was issued while the CA's clock was a year ahead.
fn from_a_fast_clock(machine: &Machine, authority: &Authority) -> String {
    let key = rcgen::KeyPair::from_pem(&authority.key_pem()).unwrap();
    let issuer = rcgen::Issuer::from_ca_cert_der(authority.certificate(), key).unwrap();
    let key = fs::read_to_string(machine.dir().path(Item::MachineKey)).unwrap();
    let name = format!("{}.machine.coracle.internal", machine.id);
    let mut params = rcgen::CertificateParams::new(vec![name]).unwrap();
    let (year, day) = (365 * 24 * 3600, 24 * 3600);
    let then = SystemTime::now() + Duration::from_secs(year);
    params.not_before = then.into();
    params.not_after = (then + Duration::from_secs(30 * day)).into();
    params.distinguished_name = Default::default();
    let common_name = rcgen::DnType::CommonName;
    params
        .distinguished_name
        .push(common_name, machine.id.as_str());
    let key = rcgen::KeyPair::from_pem(&key).unwrap();
    params.signed_by(&key, &issuer).unwrap().pem()
}

#[tokio::test]
async fn one_that_a_fast_clock_dated_ahead_is_replaced_when_the_clock_is_right() {
    let (_ca, authority) = authority();
    let machine = Machine::new('a', &authority);
    let ahead = from_a_fast_clock(&machine, &authority);
    fs::write(machine.dir().path(Item::MachineCertificate), ahead).unwrap();
    let opened = Identity::open(&machine.dir(), Kind::Machine, &machine.id);
    let identity = opened.unwrap().unwrap();
    assert!(identity.seen().not_before > SystemTime::now());
    let (authority, id) = (Arc::new(authority), machine.id.clone());
    let ask = move |asked: coracle_cluster::pki::Asked| {
        let (authority, id) = (authority.clone(), id.clone());
        async move { authority.machine(&asked.pem, &id, &[]) }
    };
    let stop = CancellationToken::new();
    let task = tokio::spawn(keep_renewed(identity.clone(), ask, stop.clone()));
    until("one that counts", async || {
        identity.seen().not_before < SystemTime::now()
    })
    .await;
    stop.cancel();
    soon("its end", task).await.unwrap();
}

fn dir_of(root: &tempfile::TempDir) -> Directory {
    Directory::open(&root.path().join("cluster")).unwrap()
}
