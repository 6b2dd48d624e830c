//! The JSON gateway, asked by curl: ours and that of Debian's etcd 3.4 answer the same, codes and bodies.
//!
//! Left out of the comparison, each because it is one server's own: ids of cluster, member and leases, and the raft term. Where 3.4 answers
//! otherwise than 3.5 and 3.6, ours is held to the later ones, and the place says so.
#![allow(clippy::unwrap_used)]

mod common;
mod json {
    pub mod both;
}

use json::both::{Both, ask, comparable};
use serde_json::{Value, json};

use common::PATIENCE;

// base64 of "a", "b", "c", "z", and of the end of everything.
const A: &str = "YQ==";
const B: &str = "Yg==";
const C: &str = "Yw==";
const Z: &str = "eg==";
const END: &str = "AA==";

#[tokio::test]
async fn keys() {
    let both = Both::new().await;
    both.same("/v3/kv/put", json!({"key": A, "value": B})).await;
    let put = json!({"key": A, "value": C, "prev_kv": true});
    let answer = both.same("/v3/kv/put", put).await;
    assert_eq!(answer["prev_kv"]["value"], B);
    assert_eq!(answer["header"]["revision"], "3");
    both.same("/v3/kv/put", json!({"key": B})).await;
    for range in [
        json!({"key": A}),
        json!({"key": Z}),
        json!({"key": A, "range_end": END}),
        json!({"key": A, "range_end": END, "limit": 1}),
        json!({"key": A, "range_end": END, "limit": "1"}),
        json!({"key": A, "range_end": END, "count_only": true}),
        json!({"key": A, "range_end": END, "keys_only": true}),
        json!({"key": A, "range_end": END, "sort_order": "DESCEND", "sort_target": "MOD"}),
        json!({"key": A, "range_end": END, "sort_order": 2, "sort_target": 4}),
        json!({"key": A, "revision": 2}),
        json!({"key": A, "revision": "2", "serializable": true}),
        json!({"key": A, "min_mod_revision": "4", "range_end": END}),
        // The protocol's own names and those of JSON.
        json!({"key": A, "rangeEnd": END, "countOnly": true}),
        json!({"key": A, "revision": null}),
        json!({"key": A, "unknown": {"field": [1]}}),
    ] {
        both.same("/v3/kv/range", range).await;
    }
    both.same_error("/v3/kv/range", json!({})).await;
    both.same_error("/v3/kv/put", json!({"value": A})).await;
    both.same_error(
        "/v3/kv/put",
        json!({"key": A, "value": A, "ignore_value": true}),
    )
    .await;
    both.same_error("/v3/kv/put", json!({"key": Z, "ignore_lease": true}))
        .await;
    both.same_error("/v3/kv/put", json!({"key": A, "lease": "77"}))
        .await;
    both.same_error("/v3/kv/range", json!({"key": A, "revision": 99}))
        .await;
    both.same(
        "/v3/kv/compaction",
        json!({"revision": "3", "physical": true}),
    )
    .await;
    both.same_error("/v3/kv/range", json!({"key": A, "revision": 2}))
        .await;
    both.same_error("/v3/kv/compaction", json!({"revision": 2}))
        .await;
    both.same_error("/v3/kv/compaction", json!({"revision": 99}))
        .await;
    let gone = both
        .same("/v3/kv/deleterange", json!({"key": A, "prev_kv": true}))
        .await;
    assert_eq!(gone["deleted"], "1");
    both.same("/v3/kv/deleterange", json!({"key": A})).await;
    both.same("/v3/kv/deleterange", json!({"key": A, "range_end": END}))
        .await;
    both.same_error("/v3/kv/deleterange", json!({})).await;
}

#[tokio::test]
async fn txn() {
    let both = Both::new().await;
    let put = |key, value| json!({"request_put": {"key": key, "value": value}});
    let absent = json!({"key": A, "target": "CREATE", "result": "EQUAL", "create_revision": "0"});
    let txn = json!({
        "compare": [absent],
        "success": [put(A, B), {"request_range": {"key": A}}],
        "failure": [
            {"request_delete_range": {"key": A, "prev_kv": true}},
            {"request_txn": {"success": [put(C, A)]}},
        ],
    });
    let answer = both.same("/v3/kv/txn", txn.clone()).await;
    assert_eq!(answer["succeeded"], true);
    let answer = both.same("/v3/kv/txn", txn).await;
    assert_eq!(
        answer["responses"][0]["response_delete_range"]["deleted"],
        "1"
    );
    for compare in [
        json!({"key": C, "target": "VALUE", "value": A}),
        json!({"key": C, "target": 3, "result": 3, "value": B}),
        json!({"key": C, "target": "VERSION", "result": "LESS", "version": 2}),
        json!({"key": C, "target": "MOD", "result": "GREATER", "mod_revision": "1"}),
        json!({"key": C, "target": "LEASE", "result": "EQUAL"}),
        json!({"key": A, "range_end": END, "target": "VALUE", "value": A}),
    ] {
        let answer = both.same("/v3/kv/txn", json!({"compare": [compare]})).await;
        assert_eq!(answer["succeeded"], true, "{compare}");
    }
    both.same("/v3/kv/txn", json!({})).await;
    both.same_error("/v3/kv/txn", json!({"success": [put(A, A), put(A, B)]}))
        .await;
    both.same_error("/v3/kv/txn", json!({"success": vec![put(A, A); 129]}))
        .await;
    both.same_error("/v3/kv/txn", json!({"success": [{}]}))
        .await;
    both.same_error("/v3/kv/txn", json!({"compare": [{}]}))
        .await;
}

#[tokio::test]
async fn leases() {
    let both = Both::new().await;
    let granted = both
        .same("/v3/lease/grant", json!({"TTL": 500, "ID": "77"}))
        .await;
    assert_eq!(granted["TTL"], "500");
    both.same("/v3/lease/grant", json!({"TTL": "500"})).await;
    both.same("/v3/kv/put", json!({"key": A, "lease": 77}))
        .await;
    both.same("/v3/lease/keepalive", json!({"ID": 77})).await;
    both.same("/v3/lease/keepalive", json!({"ID": 78})).await;
    // The seconds left are chance.
    for path in ["/v3/lease/timetolive", "/v3/kv/lease/timetolive"] {
        let asked = json!({"ID": 77, "keys": true}).to_string();
        let told = both.raw("POST", path, &asked).await.map(|(code, text)| {
            let mut told = comparable(&text);
            let left: i64 = told["TTL"].take().as_str().unwrap().parse().unwrap();
            assert!((470..=500).contains(&left), "{text}");
            (code, told)
        });
        assert_eq!(told[0], told[1], "{path}");
        assert_eq!(told[1].1["keys"][0], A);
    }
    both.same("/v3/lease/timetolive", json!({"ID": 78})).await;
    for path in ["/v3/lease/leases", "/v3/kv/lease/leases"] {
        let found = both.same(path, json!({})).await;
        assert_eq!(found["leases"].as_array().unwrap().len(), 2);
    }
    both.same_precondition("/v3/lease/grant", json!({"TTL": 500, "ID": 77}))
        .await;
    both.same_error("/v3/lease/grant", json!({"TTL": "9000000001"}))
        .await;
    both.same("/v3/lease/revoke", json!({"ID": 77})).await;
    both.same_error("/v3/lease/revoke", json!({"ID": 77})).await;
    both.same_error("/v3/kv/lease/revoke", json!({"ID": 77}))
        .await;
    both.same("/v3/kv/range", json!({"key": A})).await;
}

#[tokio::test]
async fn watch() {
    let both = Both::new().await;
    both.same("/v3/kv/put", json!({"key": A, "value": B})).await;
    both.same("/v3/kv/put", json!({"key": A, "value": C})).await;
    let create = json!({"create_request": {
        "key": A, "range_end": END, "start_revision": "3", "prev_kv": true,
    }});
    let mut streams = both.start("/v3/watch", create);
    let mut both_say = async || {
        let [etcd, ours] = &mut streams;
        let (etcd, ours) = tokio::join!(etcd.line(), ours.line());
        assert_eq!(etcd, ours, "etcd left, ours right");
        ours
    };
    let created = both_say().await;
    assert_eq!(created["result"]["created"], true);
    let history = both_say().await;
    assert_eq!(history["result"]["events"][0]["prev_kv"]["value"], B);
    both.same("/v3/kv/deleterange", json!({"key": A})).await;
    let deleted = both_say().await;
    assert_eq!(deleted["result"]["events"][0]["type"], "DELETE");
    both.same("/v3/kv/put", json!({"key": Z})).await;
    both_say().await;
    both.same("/v3/kv/compaction", json!({"revision": "4"}))
        .await;
    let old = json!({"create_request": {"key": A, "start_revision": 2}});
    let [mut etcd, mut ours] = both.start("/v3/watch", old);
    for _ in 0..2 {
        assert_eq!(etcd.line().await, ours.line().await);
    }
    let none = json!({"create_request": {"key": B, "range_end": A}});
    let [mut etcd, mut ours] = both.start("/v3/watch", none);
    assert_eq!(etcd.line().await, ours.line().await);
}

#[tokio::test]
async fn locks_and_elections() {
    let both = Both::new().await;
    both.same("/v3/lease/grant", json!({"TTL": 500, "ID": 77}))
        .await;
    both.same("/v3/lease/grant", json!({"TTL": 500, "ID": 78}))
        .await;
    let locked = both
        .same("/v3/lock/lock", json!({"name": A, "lease": "77"}))
        .await;
    assert_eq!(locked["key"], "YS80ZA==", "a/4d");
    both.same("/v3/lock/lock", json!({"name": A, "lease": "77"}))
        .await;
    let waiting = both.start("/v3/lock/lock", json!({"name": A, "lease": "78"}));
    // Until its place in the queue is there.
    for address in both.addresses() {
        let queue = json!({"key": "YS8=", "range_end": "YTA=", "count_only": true}).to_string();
        let deadline = std::time::Instant::now() + PATIENCE;
        while comparable(&ask(address, "POST", "/v3/kv/range", &queue).await.1)["count"] != "2" {
            assert!(std::time::Instant::now() < deadline);
        }
    }
    both.same("/v3/lock/unlock", json!({"key": locked["key"]}))
        .await;
    let [mut etcd, mut ours] = waiting;
    let (etcd, ours) = tokio::join!(etcd.line(), ours.line());
    assert_eq!(etcd, ours);
    assert_eq!(ours["key"], "YS80ZQ==", "a/4e");
    both.same("/v3/lock/unlock", json!({"key": Z})).await;
    both.same_error("/v3/lock/lock", json!({"name": A, "lease": "99"}))
        .await;
    both.same_error("/v3/election/campaign", json!({"name": A, "lease": "99"}))
        .await;
    both.same_error("/v3/lock/unlock", json!({})).await;

    both.same_error("/v3/election/leader", json!({"name": B}))
        .await;
    let campaign = json!({"name": B, "lease": "77", "value": C});
    let mut won = both
        .raw("POST", "/v3/election/campaign", &campaign.to_string())
        .await
        .map(|(code, text)| {
            assert_eq!(code, 200, "{text}");
            serde_json::from_str::<Value>(&text).unwrap()
        });
    assert_eq!(won[0]["leader"], won[1]["leader"]);
    let leader = won[1]["leader"].take();
    both.same("/v3/election/leader", json!({"name": B})).await;
    let mut observers = both.start("/v3/election/observe", json!({"name": B}));
    let mut seen = async || {
        let [etcd, ours] = &mut observers;
        let (etcd, ours) = tokio::join!(etcd.line(), ours.line());
        assert_eq!(etcd, ours, "etcd left, ours right");
        ours
    };
    assert_eq!(seen().await["result"]["kv"]["value"], C);
    both.same(
        "/v3/election/proclaim",
        json!({"leader": leader, "value": Z}),
    )
    .await;
    assert_eq!(seen().await["result"]["kv"]["value"], Z);
    both.same("/v3/election/resign", json!({"leader": leader}))
        .await;
    both.same_error(
        "/v3/election/proclaim",
        json!({"leader": leader, "value": A}),
    )
    .await;
    both.same_error("/v3/election/leader", json!({"name": B}))
        .await;
}

#[tokio::test]
async fn cluster_maintenance_and_auth() {
    let both = Both::new().await;
    let shape =
        |value: &Value| -> Vec<String> { value.as_object().unwrap().keys().cloned().collect() };
    let members = both
        .raw("POST", "/v3/cluster/member/list", "{}")
        .await
        .map(|(code, text)| {
            assert_eq!(code, 200, "{text}");
            comparable(&text)["members"].take()
        });
    assert_eq!(members[1].as_array().unwrap().len(), 1);
    assert_eq!(members[1][0]["name"], "here");
    assert_eq!(
        members[1][0]["clientURLs"][0],
        format!("http://{}", both.ours.address)
    );
    for field in shape(&members[1][0]) {
        assert!(
            members[0][0].get(&field).is_some(),
            "{field} is none of etcd's"
        );
    }
    both.same("/v3/kv/put", json!({"key": A, "value": B})).await;
    let status = both
        .raw("POST", "/v3/maintenance/status", "{}")
        .await
        .map(|(code, text)| {
            assert_eq!(code, 200, "{text}");
            comparable(&text)
        });
    // Later ones than 3.4 say `storageVersion` and `dbSizeQuota` too.
    for field in shape(&status[0]) {
        assert!(
            status[1].get(&field).is_some(),
            "{field} is missing: {}",
            status[1]
        );
    }
    // 3.4 leaves the header out of these two.
    for path in ["/v3/maintenance/alarm", "/v3/maintenance/defragment"] {
        let [etcd, ours] = both.raw("POST", path, "{}").await;
        assert_eq!(etcd, (200, "{}".to_owned()), "{path}");
        assert_eq!(ours.0, 200, "{path}: {}", ours.1);
        assert_eq!(shape(&comparable(&ours.1)), ["header"], "{path}");
    }
    // 3.4 has no `auth status`.
    let (code, text) = ask(both.ours.address, "POST", "/v3/auth/status", "{}").await;
    assert_eq!(
        (code, comparable(&text)["enabled"].clone()),
        (200, Value::Null),
        "{text}"
    );
    for path in [
        "/v3/auth/user/list",
        "/v3/auth/role/list",
        "/v3/auth/disable",
    ] {
        both.same(path, json!({})).await;
    }
    both.same_precondition("/v3/auth/user/get", json!({"name": "x"}))
        .await;
    both.same_precondition("/v3/auth/role/get", json!({"role": "x"}))
        .await;
    both.same_precondition("/v3/auth/enable", json!({})).await;
    both.same_precondition(
        "/v3/auth/authenticate",
        json!({"name": "x", "password": "y"}),
    )
    .await;
}

/// Where both refuse, the texts are those of different readers of JSON and need only be there.
#[tokio::test]
async fn what_is_no_request() {
    let both = Both::new().await;
    for text in [
        "",
        "{}",
        " ",
        "null",
        "{",
        "}",
        "[]",
        "7",
        "\"a\"",
        "{\"key\": \"YQ==\"",
        "{\"key\": 7}",
        "{\"key\": \"?\"}",
        "{\"key\": [\"YQ==\"]}",
        "{\"key\": \"YQ==\", \"limit\": \"x\"}",
        "{\"key\": \"YQ==\", \"limit\": 1.5}",
        "{\"key\": \"YQ==\", \"limit\": 99999999999999999999}",
        "{\"key\": \"YQ==\", \"sort_order\": \"NONSENSE\"}",
        "{\"key\": \"YQ==\", \"unknown\": nonsense}",
    ] {
        for (code, body) in both.raw("POST", "/v3/kv/range", text).await {
            let body = comparable(&body);
            assert_eq!((code, &body["code"]), (400, &json!(3)), "{text}: {body}");
            assert!(!body["message"].as_str().unwrap().is_empty(), "{text}");
            assert_eq!(body["message"], body["error"], "{text}");
        }
    }
    // 3.4 and 3.5 read base64 in its strictest form and pass over what comes behind the first value; 3.6 and ours take all
    // forms of base64 that the protocol's JSON allows, and refuse the rest.
    for (text, etcd, ours) in [
        ("{\"key\": \"YQ\"}", 400, 200),
        ("{\"key\": \"_-8=\"}", 400, 200),
        ("{\"key\": \"YQ==\"} {\"key\": \"Yg==\"}", 200, 400),
        ("{\"key\": \"YQ==\"} nonsense", 200, 400),
    ] {
        let codes = both.raw("POST", "/v3/kv/range", text).await.map(|a| a.0);
        assert_eq!(codes, [etcd, ours], "{text}");
    }
    // A stream's first message that is none: 3.4 calls it unknown, ours as any other.
    let codes = both.raw("POST", "/v3/watch", "nonsense").await;
    assert_eq!(codes.map(|a| a.0), [500, 400]);
    // What follows the first is refused within the stream.
    let later = "{\"create_request\": {\"key\": \"YQ==\"}} nonsense";
    let (code, text) = ask(both.ours.address, "POST", "/v3/watch", later).await;
    let lines: Vec<_> = text.lines().map(comparable).collect();
    assert_eq!((code, lines.len()), (200, 2), "{text}");
    assert_eq!(lines[0]["result"]["created"], true);
    assert_eq!(lines[1]["error"]["grpc_code"], 3, "{text}");
}

#[tokio::test]
async fn paths_and_methods() {
    let both = Both::new().await;
    for (method, path, code) in [
        ("POST", "/v3/nothing", 404),
        ("POST", "/v3/", 404),
        ("POST", "/", 404),
        ("GET", "/nothing", 404),
        ("POST", "/v3alpha/kv/range", 404),
        ("POST", "/v3/kv/range/", 404),
        ("GET", "/v3/kv/range", 405),
        ("PUT", "/v3/kv/range", 405),
        ("DELETE", "/v3/kv/range", 405),
        ("GET", "/v3/watch", 405),
        ("POST", "/health", 405),
        ("POST", "/version", 405),
    ] {
        let codes = both.raw(method, path, "").await.map(|a| a.0);
        assert_eq!(codes, [code, code], "{method} {path}");
    }
    // 3.5 has no beta any more.
    let codes = both.raw("POST", "/v3beta/kv/range", "").await;
    assert_eq!(codes.map(|a| a.0), [400, 404]);
}

#[tokio::test]
async fn pages() {
    let both = Both::new().await;
    let address = both.ours.address;
    // 3.5 gives a reason too.
    let [etcd, ours] = both.raw("GET", "/health", "").await;
    assert_eq!(etcd, (200, "{\"health\":\"true\"}".to_owned()));
    let healthy = json!({"health": "true", "reason": ""});
    assert_eq!((ours.0, comparable(&ours.1)), (200, healthy));
    for (code, text) in both.raw("GET", "/version", "").await {
        let version = comparable(&text);
        assert_eq!(code, 200);
        for field in ["etcdserver", "etcdcluster"] {
            assert!(version[field].as_str().unwrap().starts_with("3."), "{text}");
        }
    }
    for n in 0..5 {
        both.same(
            "/v3/kv/put",
            json!({"key": A, "value": n.to_string().repeat(4)}),
        )
        .await;
    }
    both.same("/v3/lease/grant", json!({"TTL": 500})).await;
    let (code, text) = ask(address, "GET", "/metrics", "").await;
    assert_eq!(code, 200);
    let value = |name: &str| -> u64 {
        let line = text
            .lines()
            .find_map(|l| l.strip_prefix(&format!("{name} ")));
        line.unwrap_or_else(|| panic!("no {name}")).parse().unwrap()
    };
    assert_eq!(value("etcd_debugging_mvcc_current_revision"), 6);
    assert_eq!(value("etcd_server_has_leader"), 1);
    assert_eq!(value("coracle_store_leases"), 1);
    assert_eq!(value("coracle_store_no_space"), 0);
    assert_eq!(
        value("etcd_server_quota_backend_bytes"),
        common::scope().quota_bytes
    );
    assert!(value("etcd_mvcc_db_total_size_in_use_in_bytes") > 20);
    assert!(value("etcd_mvcc_db_total_size_in_bytes") > 0);
    // Under the names of etcd's own, and each with its kind and a word of help.
    let (_, theirs) = ask(both.etcd.address, "GET", "/metrics", "").await;
    for line in text.lines().filter(|l| !l.starts_with('#')) {
        let name = line.split(' ').next().unwrap();
        assert!(text.contains(&format!("# TYPE {name} gauge\n")), "{name}");
        assert!(text.contains(&format!("# HELP {name} ")), "{name}");
        let is_etcds = theirs.contains(&format!("# TYPE {name} gauge\n"));
        assert!(
            is_etcds || name.starts_with("coracle_"),
            "{name} is none of etcd's"
        );
    }
}
