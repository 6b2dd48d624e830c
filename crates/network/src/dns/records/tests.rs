use super::*;

#[test]
fn a_service_has_one_address_for_those_who_reach_it() {
    let view = |id: &str, n: u8, internal| NetworkView {
        id: id.into(),
        name: id.to_ascii_lowercase(),
        gateway: Ipv4Addr::new(10, 0, n, 1),
        gateway6: None,
        internal,
    };
    let container = |id: &str, name: &str, service: Option<&str>, on: &[(&str, u8, u8)]| {
        let place = |(network, n, h): &(&str, u8, u8)| Place {
            network: (*network).into(),
            ip: Ipv4Addr::new(10, 0, *n, *h),
            ip6: None,
            aliases: Vec::new(),
        };
        Container {
            id: id.repeat(32),
            name: name.into(),
            service: service.map(Into::into),
            healthy: true,
            places: on.iter().map(place).collect(),
            ..Container::default()
        }
    };
    let (own, away): (Ipv4Addr, Ipv4Addr) =
        (Ipv4Addr::new(10, 216, 0, 5), Ipv4Addr::new(10, 216, 0, 6));
    let all = vec![
        container("a1", "web-1", Some("web"), &[("E", 1, 2), ("I", 2, 2)]),
        container("a2", "asker", None, &[("D", 0, 9)]),
        container("a3", "beside", None, &[("E", 1, 9)]),
        container("a4", "inside", None, &[("I", 2, 9)]),
        // Not of the service that is called so.
        container("a5", "db", None, &[("D", 0, 5)]),
    ];
    let views = vec![view("D", 0, false), view("E", 1, false), view("I", 2, true)];
    let services = [("Web", own), ("none", away), ("db", away)].map(|(n, a)| (n.to_owned(), a));
    let records = Records::new(all, views).with_services(services, "D");
    let ask = |n, h, name: &str| records.lookup(Ipv4Addr::new(10, 0, n, h), name);
    let is = |ip: Ipv4Addr| Answer::Addresses(vec![ip.into()]);
    for name in ["web", "WEB.coracle.internal"] {
        assert_eq!(ask(0, 9, name), is(own));
        assert_eq!(ask(0, 1, name), is(own), "the machine itself");
        assert_eq!(ask(1, 9, name), is(own));
        assert_eq!(ask(2, 9, name), is(Ipv4Addr::new(10, 0, 2, 2)));
    }
    assert_eq!(ask(1, 9, "tasks.web"), is(Ipv4Addr::new(10, 0, 1, 2)));
    // Nobody serves it yet, and it has its address all the same, where that leads anywhere.
    assert_eq!(ask(0, 9, "none"), is(away));
    assert_eq!(ask(1, 9, "none"), Answer::NoSuchName);
    assert_eq!(ask(0, 9, "db"), is(Ipv4Addr::new(10, 0, 0, 5)));
}

#[test]
fn answers_depend_on_who_asks() {
    let ip = |n, h| Ipv4Addr::new(10, 0, n, h);
    let ip6 = |n, h| Ipv6Addr::new(0xfd00, n, 0, 0, 0, 0, 0, h);
    // On network B, of index 1, there is IPv6.
    let place = |n: u8, h: u8| Place {
        network: if n == 0 { "A" } else { "B" }.into(),
        ip: ip(n, h),
        ip6: (n == 1).then(|| ip6(1, h.into())),
        aliases: Vec::new(),
    };
    let called = |place: Place, alias: &str| Place {
        aliases: vec![alias.into()],
        ..place
    };
    let make = |name: &str, service: Option<&str>, healthy, places: Vec<Place>| Container {
        id: "ab".repeat(32),
        name: name.into(),
        service: service.map(Into::into),
        healthy,
        places,
        ..Container::default()
    };
    let records = Records::new(
        vec![
            make(
                "web-1",
                Some("web"),
                true,
                vec![called(place(0, 2), "shop"), place(1, 2)],
            ),
            make("web-2", Some("web"), false, vec![place(1, 3)]),
            make("db", None, false, vec![place(1, 4)]),
            Container {
                id: "cd".repeat(32),
                links: vec![("mine".into(), "ab".repeat(32))],
                ..make("solo", None, true, vec![place(0, 5)])
            },
        ],
        vec![NetworkView {
            id: "A".into(),
            name: "front".into(),
            gateway: ip(0, 1),
            gateway6: Some(ip6(0, 1)),
            internal: false,
        }],
    );
    let one = |i: Ipv4Addr| Answer::Addresses(vec![i.into()]);
    let two = |h: u8| Answer::Addresses(vec![ip(1, h).into(), ip6(1, h.into()).into()]);
    assert_eq!(records.lookup(ip(1, 4), "WEB-1"), two(2));
    assert_eq!(
        records.lookup(ip(0, 5), "web-1.coracle.internal"),
        one(ip(0, 2))
    );
    assert_eq!(records.lookup(ip(1, 4), "tasks.web"), two(2));
    assert_eq!(records.lookup(ip(1, 4), "db"), two(4));
    assert_eq!(records.lookup(ip(0, 5), "db"), Answer::NoSuchName);
    assert_eq!(records.lookup(ip(0, 5), "example.org"), Answer::Forward);
    assert_eq!(
        records.lookup(ip(0, 5), "host.docker.internal"),
        Answer::Addresses(vec![ip(0, 1).into(), ip6(0, 1).into()])
    );
    // An alias is known where it was given, a link to who has it.
    assert_eq!(records.lookup(ip(0, 5), "Shop"), one(ip(0, 2)));
    assert_eq!(records.lookup(ip(1, 4), "shop"), Answer::NoSuchName);
    assert_eq!(records.lookup(ip(0, 5), "mine"), one(ip(0, 2)));
    assert_eq!(records.lookup(ip(0, 2), "mine"), Answer::NoSuchName);
    assert_eq!(records.lookup(ip(0, 5), "web-1.front"), one(ip(0, 2)));
    assert_eq!(records.lookup(ip(0, 5), "shop.front"), one(ip(0, 2)));
    assert_eq!(records.lookup(ip(1, 4), "solo.front"), Answer::Forward);
    let pointer = || Answer::Pointer("web-2.coracle.internal".into());
    assert_eq!(records.reverse(ip(1, 4), ip(1, 3).into()), pointer());
    assert_eq!(records.reverse(ip(1, 4), ip6(1, 3).into()), pointer());
    assert_eq!(records.reverse(ip(0, 5), ip6(1, 3).into()), Answer::Forward);
}
