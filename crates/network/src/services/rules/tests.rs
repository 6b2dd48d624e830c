#![allow(clippy::unwrap_used)]
use super::*;

fn places() -> Places {
    Places {
        bridge: "coracle0".into(),
        subnet: "10.210.0.0/22".parse().unwrap(),
        gateway: Ipv4Addr::new(10, 210, 0, 1),
        others: vec![
            ("cor-a".into(), "10.210.4.0/24".parse().unwrap(), false),
            ("cor-b".into(), "10.210.5.0/24".parse().unwrap(), true),
        ],
        peers: Some(vec!["10.212.0.0/22".parse().unwrap()]),
    }
}

fn rendered(backends: &[(&str, bool)], protocol: &str, held: bool) -> Rendered {
    let backends: Vec<_> = backends
        .iter()
        .map(|(ip, ready)| serde_json::json!({ "address": ip, "ready": ready }))
        .collect();
    let service: Service = serde_json::from_value(serde_json::json!({
        "name": "web@1", "address": "10.216.0.5", "backends": backends,
        "ports": [{ "protocol": protocol, "port": 80, "target": 8080,
            "published": [{ "port": 8000 }, { "ip": "127.0.0.1", "port": 8001 }] }],
    }))
    .unwrap();
    let keys = service.ports[0].keys().into_iter();
    let keys = keys.filter(|_| held).map(|k| (k, service.name.clone()));
    Rendered::new(std::slice::from_ref(&service), &keys.collect(), &places())
}

/// Where there are no services any more.
fn none() -> Rendered {
    Rendered::new(&[], &BTreeMap::new(), &places())
}

#[test]
fn a_service_and_its_changes() {
    let one = rendered(&[("10.210.0.2", true), ("10.212.0.2", false)], "tcp", true);
    let expected = "\
add chain inet coracle service/web_401/tcp/80
add rule inet coracle service/web_401/tcp/80 meta l4proto tcp dnat ip to 10.210.0.2:8080
flush chain inet coracle service_held
add rule inet coracle service_held tcp dport 8000 drop
add rule inet coracle service_held ip daddr 127.0.0.1 tcp dport 8001 drop
add element inet coracle service_ports { 127.0.0.1 . tcp . 8001 : goto service/web_401/tcp/80 }
add element inet coracle service_ports_any { tcp . 8000 : goto service/web_401/tcp/80 }
add element inet coracle services { 10.216.0.5 . tcp . 80 : goto service/web_401/tcp/80 }
add element inet coracle services_from { \"coracle0\" . 10.216.0.5 . tcp . 80 : goto service/web_401/tcp/80 }
";
    assert_eq!(one.change(&none()), expected);
    assert_eq!(one.change(&one), "");
    let two = rendered(&[("10.210.0.2", true), ("10.212.0.2", true)], "tcp", true);
    let expected = "\
flush chain inet coracle service/web_401/tcp/80
add rule inet coracle service/web_401/tcp/80 meta l4proto tcp dnat ip to numgen random mod 2 map { 0 : 10.210.0.2, 1 : 10.212.0.2 }:8080
add rule inet coracle service/web_401/tcp/80 meta l4proto tcp dnat ip to 10.210.0.2:8080
";
    assert_eq!(two.change(&one), expected);
    let expected = "\
flush chain inet coracle service_held
delete element inet coracle service_ports { 127.0.0.1 . tcp . 8001 }
delete element inet coracle service_ports_any { tcp . 8000 }
delete element inet coracle services { 10.216.0.5 . tcp . 80 }
delete element inet coracle services_from { \"coracle0\" . 10.216.0.5 . tcp . 80 }
flush chain inet coracle service/web_401/tcp/80
delete chain inet coracle service/web_401/tcp/80
";
    assert_eq!(none().change(&one), expected);
    assert!(two.ways.is_empty(), "TCP ends by itself");
}

#[test]
fn an_address_that_stands_for_its_instances() {
    let service = |backends: &[&str]| -> Service {
        let backends: Vec<_> = backends
            .iter()
            .map(|ip| serde_json::json!({ "address": ip, "ready": true }))
            .collect();
        let text = serde_json::json!({ "name": "web", "address": "10.216.0.5", "every_port": true,
                "ports": [], "backends": backends });
        serde_json::from_value(text).unwrap()
    };
    let render =
        |backends: &[&str]| Rendered::new(&[service(backends)], &BTreeMap::new(), &places());
    let two = render(&["10.210.0.2", "10.212.0.2"]);
    let expected = "\
add chain inet coracle service/web
add rule inet coracle service/web dnat ip to numgen random mod 2 map { 0 : 10.210.0.2, 1 : 10.212.0.2 }
add rule inet coracle service/web dnat ip to 10.210.0.2
flush chain inet coracle service_known
add rule inet coracle service_known ip daddr 10.216.0.5 drop
add element inet coracle services_all { 10.216.0.5 : goto service/web }
add element inet coracle services_all_from { \"coracle0\" . 10.216.0.5 : goto service/web }
";
    assert_eq!(two.change(&none()), expected);
    let nobody = render(&[]);
    let expected = "\
flush chain inet coracle service/web
add rule inet coracle service/web meta l4proto tcp reject with tcp reset
add rule inet coracle service/web reject with icmpx type port-unreachable
";
    assert_eq!(nobody.change(&two), expected);
    assert_eq!(two.ways.len(), 2);
    let other = render(&["10.210.4.2"]);
    assert_eq!(other.chains["service/web/cor-a"], ["dnat ip to 10.210.4.2"]);
}

#[test]
fn nobody_is_sent_where_they_may_not_go() {
    let all = [
        ("10.210.0.2", true),
        ("10.210.4.2", true),
        ("10.210.5.2", true),
        ("10.212.0.2", true),
        ("10.212.9.2", true),
    ];
    let all = rendered(&all, "udp", false);
    let rules = |bridge: &str| all.chains[&format!("service/web_401/udp/80{bridge}")].join("; ");
    let near = rules("");
    for (ip, reached) in [
        ("10.210.0.2", true),
        ("10.210.4.2", true),
        ("10.210.5.2", false),
        ("10.212.0.2", true),
        ("10.212.9.2", false),
    ] {
        assert_eq!(near.contains(ip), reached, "{ip}: {near}");
    }
    let only = |ip: &str| format!("meta l4proto udp dnat ip to {ip}:8080");
    assert_eq!(rules("/cor-a"), only("10.210.4.2"));
    assert_eq!(rules("/cor-b"), only("10.210.5.2"));
    assert_eq!(all.ways.len(), 4);
    let maps: BTreeSet<_> = all.elements.keys().map(|k| k.0).collect();
    assert_eq!(maps, BTreeSet::from(["services", "services_from"]));
    let none = rendered(&[("10.210.5.2", true)], "tcp", false);
    let rules = &none.chains["service/web_401/tcp/80"];
    assert_eq!(rules[..], ["meta l4proto tcp reject with tcp reset"]);
}
