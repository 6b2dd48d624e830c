//! Debian's `etcdctl`, verb by verb, against ours and against the real etcd: the same words, the same output.
//!
//! Apart from what `both` leaves out, each because it is one server's own: cluster, member and lease ids, the raft term, addresses, and
//! in lines of etcdctl's log the time. Sizes, hashes, versions and times taken differ and are looked at one by one.
#![allow(clippy::unwrap_used)]

mod common;
mod etcdctl {
    pub mod both;
}

use std::time::Instant;

use common::PATIENCE;
use etcdctl::both::Both;

#[tokio::test]
async fn put() {
    let mut both = Both::new().await;
    assert_eq!(both.same(&["put", "a", "1"]).await, "OK\n");
    both.same_fed(&["put", "b"], "from the\ninput").await;
    both.same(&["get", "b"]).await;
    both.same(&["put", "a", "2", "--prev-kv"]).await;
    both.same(&["put", "ab", "3", "--prev-kv"]).await;
    both.grant(1000).await;
    both.same(&["put", "c", "leased", "--lease={0}"]).await;
    both.same(&["put", "c", "kept", "--ignore-lease"]).await;
    both.same(&["put", "a", "--ignore-value", "--lease={0}"])
        .await;
    let leased = both.same(&["get", "a", "-w", "json"]).await;
    assert!(leased.contains("\"lease\":"), "{leased}");
    both.same(&["get", "c", "-w", "json"]).await;
    both.same(&["put", "a", "3", "-w", "json", "--prev-kv"])
        .await;
    both.same(&["put", "a", "4", "-w", "fields", "--prev-kv"])
        .await;
    for wrong in [
        &["put", "", "x"][..],
        &["put", "a", "x", "--ignore-value"],
        &["put", "a", "x", "--lease={0}", "--ignore-lease"],
        &["put", "none", "--ignore-value"],
        &["put", "none", "x", "--ignore-lease"],
        &["put", "a", "x", "--lease=1234"],
        &["put", "a", "x", "--lease=none"],
    ] {
        both.same_error(wrong).await;
    }
}

#[tokio::test]
async fn get() {
    let both = Both::new().await;
    // Versions 1 to 3, and values that are sorted otherwise than the keys.
    for (key, value) in [("a", "9"), ("b", "3"), ("ba", "7"), ("bb", "1"), ("c", "5")] {
        both.same(&["put", key, value]).await;
    }
    for (key, value) in [("b", "4"), ("ba", "8"), ("b", "2")] {
        both.same(&["put", key, value]).await;
    }
    assert_eq!(both.same(&["get", "b"]).await, "b\n2\n");
    for words in [
        &["get", "none"][..],
        &["get", "a", "c"],
        &["get", "c", "a"],
        &["get", "b", "--prefix"],
        &["get", "", "--prefix"],
        &["get", "", "--from-key"],
        &["get", "ba", "--from-key"],
        &["get", "b", "--rev=3"],
        &["get", "b", "--rev=7", "--prefix"],
        &["get", "a", "--rev=1"],
        &["get", "", "--prefix", "--limit=2"],
        &["get", "", "--prefix", "--limit=2", "-w", "json"],
        &["get", "", "--prefix", "--limit=9", "-w", "fields"],
        &["get", "b", "--prefix", "--keys-only"],
        &["get", "b", "--prefix", "--print-value-only"],
        &["get", "b", "--prefix", "--consistency=s"],
        &["get", "b", "-w", "json"],
        &["get", "b", "-w", "fields"],
        &["get", "none", "-w", "json"],
        &["get", "b", "--hex"],
        &["get", "b", "--prefix", "--hex"],
        &["get", "b", "--hex", "-w", "fields"],
    ] {
        both.same(words).await;
    }
    let mut sorted = Vec::new();
    for by in ["CREATE", "KEY", "MODIFY", "VALUE", "VERSION"] {
        for order in ["ASCEND", "DESCEND"] {
            let (by, order) = (format!("--sort-by={by}"), format!("--order={order}"));
            let words = ["get", "", "--prefix", "--keys-only", &by, &order];
            sorted.push(both.same(&words).await);
            both.same(&["get", "", "--prefix", "--limit=2", &by, &order])
                .await;
        }
    }
    assert_eq!(sorted[6], "bb\n\nb\n\nc\n\nba\n\na\n\n", "by value");
    // By a target alone, without an order.
    both.same(&["get", "", "--prefix", "--sort-by=VALUE"]).await;
    let future = both.same_error(&["get", "a", "--rev=1000"]).await;
    assert!(
        future.contains("etcdserver: mvcc: required revision is a future revision"),
        "{future}"
    );
    both.same(&["compaction", "5"]).await;
    both.same(&["get", "b", "--rev=5"]).await;
    let compacted = both.same_error(&["get", "b", "--rev=4"]).await;
    assert!(
        compacted.contains("etcdserver: mvcc: required revision has been compacted"),
        "{compacted}"
    );
    both.same_error(&["get", "a", "--prefix", "--from-key"])
        .await;
}

#[tokio::test]
async fn del() {
    let both = Both::new().await;
    let fill = async || {
        for key in ["a", "b", "ba", "bb", "c", "d", "e"] {
            both.same(&["put", key, "value"]).await;
        }
    };
    fill().await;
    assert_eq!(both.same(&["del", "a"]).await, "1\n");
    for words in [
        &["del", "a"][..],
        &["del", "b", "--prefix", "--prev-kv"],
        &["del", "c", "e", "--prev-kv", "-w", "json"],
        &["del", "c", "a"],
        &["get", "", "--prefix", "-w", "json"],
        &["del", "e", "-w", "fields"],
    ] {
        both.same(words).await;
    }
    fill().await;
    assert_eq!(both.same(&["del", "c", "--from-key"]).await, "3\n");
    fill().await;
    assert_eq!(both.same(&["del", "", "--prefix"]).await, "7\n");
    fill().await;
    assert_eq!(both.same(&["del", "", "--from-key"]).await, "7\n");
    both.same_error(&["del", ""]).await;
}

#[tokio::test]
async fn txn() {
    let mut both = Both::new().await;
    both.grant(1000).await;
    both.same(&["put", "a", "1", "--lease={0}"]).await;
    both.same(&["put", "b", "1"]).await;
    for input in [
        "value(\"a\") = \"1\"\n\nput a 2\nget a\n\nput b no\n\n",
        "value(\"a\") = \"1\"\n\nput a 3\n\nput b yes\nget b\n\n",
        "mod(\"a\") > \"0\"\n\nget \"\" --prefix\ndel b\nput c \"with space\" --prev-kv\n\n\n",
        "create(\"none\") = \"0\"\nversion(\"a\") < \"9\"\n\nput none now\n\n\n",
        "\n\ndel \"\" --prefix --prev-kv\n\n",
        "\nget none\n\n\n",
    ] {
        both.same_fed(&["txn"], input).await;
        both.same_fed(&["txn", "-w", "json"], input).await;
        both.same_fed(&["txn", "-w", "fields"], input).await;
        both.same(&["get", "", "--prefix"]).await;
    }
    let compared = "value(\"b\") = \"1\"\n\nget b\n\nput b 1\n\n";
    let told = both.same_fed(&["txn"], compared).await;
    assert_eq!(told, "FAILURE\n\nOK\n");
    let told = both.same_fed(&["txn"], compared).await;
    assert_eq!(told, "SUCCESS\n\nb\n1\n");
    let twice = both.raw(&["txn"], "\nput x 1\nput x 2\n\n\n").await;
    for (well, text) in twice {
        let expected = "etcdserver: duplicate key given in txn request";
        assert!(!well && text.contains(expected), "{text}");
    }
    let many = format!("\n{}\n\n", "get a\n".repeat(129));
    for (well, text) in both.raw(&["txn"], &many).await {
        let expected = "etcdserver: too many operations in txn request";
        assert!(!well && text.contains(expected), "{text}");
    }
}

#[tokio::test]
async fn watch() {
    let both = Both::new().await;
    both.same(&["put", "a", "1"]).await;
    both.same(&["put", "ab", "2"]).await;
    both.same(&["put", "b", "3"]).await;
    both.same(&["del", "a", "--prefix"]).await;
    both.same(&["put", "a", "4"]).await;
    // Each with the lines that history gives: kind, key and value of an event, and where asked for key and value before.
    for (words, lines) in [
        (&["watch", "a", "--rev=1"][..], 9),
        (&["watch", "a", "--rev=5"], 6),
        (&["watch", "a", "--prefix", "--rev=2"], 15),
        (&["watch", "a", "--prefix", "--rev=1", "--prev-kv"], 19),
        (&["watch", "a", "b", "--rev=3"], 12),
        (&["watch", "", "--prefix", "--rev=1"], 18),
        (&["watch", "a", "--rev=5", "-w", "json"], 1),
        (&["watch", "a", "--rev=5", "--hex"], 6),
    ] {
        let [mut etcd, mut ours] = both.start(words);
        let (etcd, ours) = tokio::join!(etcd.lines(lines), ours.lines(lines));
        assert_eq!(etcd, ours, "etcdctl {words:?}: etcd left, ours right");
    }
    // What comes after it began, which its first line says.
    let mut watches = both.start(&["watch", "a", "--rev=6"]);
    for watch in &mut watches {
        assert_eq!(watch.lines(3).await, "PUT\na\n4\n");
    }
    both.same(&["put", "a", "5"]).await;
    both.same(&["put", "b", "6"]).await;
    both.same(&["del", "a"]).await;
    for watch in &mut watches {
        assert_eq!(watch.lines(6).await, "PUT\na\n5\nDELETE\na\n\n");
    }
    // Not lasting: the command ends with the watch.
    both.same(&["compaction", "6"]).await;
    both.same_error(&["watch", "a", "--rev=2"]).await;
}

#[tokio::test]
async fn lease() {
    let mut both = Both::new().await;
    both.grant(500).await;
    both.grant(1000).await;
    both.same(&["put", "b", "1", "--lease={0}"]).await;
    both.same(&["put", "a", "1", "--lease={0}"]).await;
    // The seconds that remain are chance.
    for words in [
        &["lease", "timetolive", "{0}"][..],
        &["lease", "timetolive", "{0}", "--keys"],
        &["lease", "timetolive", "{1}", "--keys"],
    ] {
        let said = both.raw(words, "").await.map(|(well, text)| {
            assert!(well, "{text}");
            let (_, rest) = text.split_once(" granted with TTL(").unwrap();
            let (granted, rest) = rest.split_once("s), remaining(").unwrap();
            let (left, rest) = rest.split_once("s)").unwrap();
            let left: i64 = left.parse().unwrap();
            let granted: i64 = granted.parse().unwrap();
            assert!((granted - 30..=granted).contains(&left), "{text}");
            // etcd gives the keys in no order.
            let mut keys: Vec<_> = rest.split(['[', ' ', ']']).map(str::to_owned).collect();
            keys.sort();
            (granted, keys)
        });
        assert_eq!(said[0], said[1], "etcdctl {words:?}");
    }
    // Both lists have the one that runs out first at the head.
    assert_eq!(
        both.same(&["lease", "list"]).await,
        "found 2 leases\n<id>\n<id>\n"
    );
    both.same(&["lease", "keep-alive", "--once", "{0}"]).await;
    both.same(&["lease", "revoke", "{0}"]).await;
    assert_eq!(both.same(&["get", "", "--prefix"]).await, "");
    for gone in ["{0}", "1234"] {
        both.same(&["lease", "timetolive", gone]).await;
        let said = both.same_error(&["lease", "revoke", gone]).await;
        assert!(
            said.contains("etcdserver: requested lease not found"),
            "{said}"
        );
        both.same_error(&["lease", "keep-alive", "--once", gone])
            .await;
    }
    both.same_error(&["lease", "grant", "9000000001"]).await;
    // Too short ones are lengthened.
    for (well, text) in both.raw(&["lease", "grant", "1"], "").await {
        assert!(well && text.contains("granted with TTL(2s)"), "{text}");
    }
    both.same_error(&["lease", "grant", "none"]).await;
}

#[tokio::test]
async fn lock() {
    let both = Both::new().await;
    let told = both
        .same(&[
            "lock",
            "jobs",
            "--",
            "sh",
            "-c",
            "echo \"$ETCD_LOCK_KEY at $ETCD_LOCK_REV\"",
        ])
        .await;
    assert_eq!(told, "jobs/<id> at 2\n");
    // The lock is left with the command, and its exit code is etcdctl's.
    assert_eq!(both.same(&["get", "jobs", "--prefix"]).await, "");
    both.same_error(&["lock", "jobs", "--", "sh", "-c", "exit 3"])
        .await;
    // One has it, another waits.
    let mut holders = both.start(&["lock", "jobs"]);
    for holder in &mut holders {
        assert_eq!(holder.lines(1).await, "jobs/<id>\n");
    }
    let waiting = both.start(&["lock", "jobs", "--", "sh", "-c", "echo mine"]);
    let deadline = Instant::now() + PATIENCE;
    loop {
        let count = |(_, text): &(bool, String)| text.matches("jobs/").count();
        let queue = both
            .raw(&["get", "jobs/", "--prefix", "--keys-only"], "")
            .await;
        if queue.iter().map(count).eq([2, 2]) {
            break;
        }
        assert!(Instant::now() < deadline, "{queue:?}");
    }
    for (holder, waiting) in holders.into_iter().zip(waiting) {
        holder.interrupt().await;
        assert_eq!(waiting.end().await, "mine\n");
    }
}

#[tokio::test]
async fn elect() {
    let both = Both::new().await;
    let mut first = both.start(&["elect", "chief", "one"]);
    for candidate in &mut first {
        assert_eq!(candidate.lines(2).await, "chief/<id>\none\n");
    }
    let mut listeners = both.start(&["elect", "-l", "chief"]);
    for listener in &mut listeners {
        assert_eq!(listener.lines(2).await, "chief/<id>\none\n");
    }
    let mut second = both.start(&["elect", "chief", "two"]);
    for ((candidate, second), listener) in first.into_iter().zip(&mut second).zip(&mut listeners) {
        candidate.interrupt().await;
        assert_eq!(second.lines(2).await, "chief/<id>\ntwo\n");
        assert_eq!(listener.lines(2).await, "chief/<id>\ntwo\n");
    }
}

#[tokio::test]
async fn compaction() {
    let both = Both::new().await;
    for value in ["1", "2", "3", "4"] {
        both.same(&["put", "a", value]).await;
    }
    assert_eq!(
        both.same(&["compaction", "3"]).await,
        "compacted revision 3\n"
    );
    both.same(&["compaction", "4", "--physical"]).await;
    both.same_error(&["compaction", "4"]).await;
    both.same_error(&["compaction", "2"]).await;
    both.same_error(&["compaction", "100"]).await;
    both.same_error(&["compaction", "none"]).await;
    both.same_error(&["compaction"]).await;
    both.same(&["get", "a", "--rev=4", "-w", "json"]).await;
}

#[tokio::test]
async fn maintenance() {
    let both = Both::new().await;
    both.same(&["put", "a", "1"]).await;
    both.same(&["defrag"]).await;
    assert_eq!(both.same(&["alarm", "list"]).await, "");
    both.same(&["alarm", "disarm"]).await;
    for words in [["user", "list"], ["role", "list"]] {
        assert_eq!(both.same(&words).await, "");
    }
    for words in [
        &["user", "get", "root"][..],
        &["user", "delete", "root"],
        &["role", "get", "root"],
        &["role", "delete", "root"],
    ] {
        both.same_error(words).await;
    }
    // `auth enable` of 3.4 first makes the user and the role root if there are none; users are not kept here. There is
    // no `auth status` in 3.4.
    both.same(&["auth", "disable"]).await;
    // The time it took comes after the comma.
    for (well, text) in both.raw(&["endpoint", "health"], "").await {
        assert!(
            well && text.contains("is healthy: successfully committed proposal: took = "),
            "{text}"
        );
    }
}

/// Address, id, version, size, leader, learner, term, index, applied index, errors: as many columns, of the same kinds.
#[tokio::test]
async fn endpoint_status() {
    let both = Both::new().await;
    both.same(&["put", "a", "1"]).await;
    for (side, (well, text)) in both
        .raw(&["endpoint", "status"], "")
        .await
        .iter()
        .enumerate()
    {
        assert!(well, "{text}");
        let text = text.trim_end().trim_end_matches(',');
        let columns: Vec<_> = text.split(", ").collect();
        let [
            address,
            id,
            version,
            size,
            leader,
            learner,
            term,
            index,
            applied,
            rest @ ..,
        ] = &columns[..]
        else {
            panic!("{text}");
        };
        assert_eq!(*address, both.addresses()[side].to_string());
        assert!(u64::from_str_radix(id, 16).unwrap() > 0, "{text}");
        assert_eq!(version.split('.').count(), 3, "{text}");
        assert!(size.ends_with('B'), "{text}");
        assert_eq!((*leader, *learner), ("true", "false"), "{text}");
        for number in [term, index, applied] {
            assert!(number.parse::<u64>().unwrap() > 0, "{text}");
        }
        assert!(rest.is_empty(), "no errors: {text}");
    }
    // The hash is over other bytes: it is the same while nothing changes, and another after a put.
    let hash = async || {
        both.raw(&["endpoint", "hashkv"], "")
            .await
            .map(|(well, text)| {
                assert!(well, "{text}");
                text.trim_end()
                    .split_once(", ")
                    .unwrap()
                    .1
                    .parse::<u32>()
                    .unwrap()
            })
    };
    let (first, again) = (hash().await, hash().await);
    assert_eq!(first, again);
    both.same(&["put", "a", "2"]).await;
    let changed = hash().await;
    assert!(changed[0] != first[0] && changed[1] != first[1]);
}

/// Id, state, name, peers' URLs, clients' URLs, learner.
#[tokio::test]
async fn member_list() {
    let both = Both::new().await;
    let members = both.raw(&["member", "list"], "").await;
    for (side, (well, text)) in members.iter().enumerate() {
        assert!(well, "{text}");
        assert_eq!(text.lines().count(), 1, "{text}");
        let columns: Vec<_> = text.trim_end().split(", ").collect();
        let [id, state, name, _, clients, learner] = columns[..] else {
            panic!("{text}");
        };
        assert!(u64::from_str_radix(id, 16).unwrap() > 0, "{text}");
        assert_eq!((state, learner), ("started", "false"), "{text}");
        assert_eq!(name, ["m0", "here"][side]);
        assert_eq!(clients, format!("http://{}", both.addresses()[side]));
    }
}

#[tokio::test]
async fn snapshot_save() {
    let both = Both::new().await;
    both.same(&["put", "a", &"x".repeat(100_000)]).await;
    let dir = tempfile::tempdir().unwrap();
    for (address, name) in both.addresses().into_iter().zip(["etcd", "ours"]) {
        let path = dir.path().join(name);
        let words = ["snapshot", "save", path.to_str().unwrap()];
        let (well, text) = common::etcdctl(address, &words).await;
        assert!(well, "{text}");
        let file = std::fs::read(&path).unwrap();
        let (copy, sum) = file.split_last_chunk::<32>().unwrap();
        assert!(
            copy.len() > 100_000 && copy.len() % 512 == 0,
            "{name}: {}",
            copy.len()
        );
        assert_eq!(sha256(&dir.path().join("copy"), copy), hex(sum), "{name}");
    }
}

/// By the program of Debian's coreutils.
fn sha256(scratch: &std::path::Path, bytes: &[u8]) -> String {
    std::fs::write(scratch, bytes).unwrap();
    let output = std::process::Command::new("sha256sum")
        .arg(scratch)
        .output()
        .unwrap();
    String::from_utf8(output.stdout).unwrap()[..64].to_owned()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}
