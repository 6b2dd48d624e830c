//! Keys and what they become.
#![allow(clippy::unwrap_used)]
use super::*;
use coracle_unit::{SpecifierContext, load};

fn unit(name: &str, text: &str) -> Unit {
    let loaded = load(
        &UnitName::new(name).unwrap(),
        text,
        &[],
        &SpecifierContext::default(),
    );
    loaded.map_err(|e| e.to_string()).unwrap()
}

fn translate(name: &str, text: &str) -> Result<CreateRequest> {
    let units: Units = [
        unit("data.volume", "[Volume]\nVolumeName=the-data\n"),
        unit("back.network", "[Network]\n"),
    ]
    .map(|u| (u.name.to_string(), std::sync::Arc::new(u)))
    .into();
    request(&unit(name, text), "u1", &units)
}

#[test]
fn keys_become_what_the_engine_takes() {
    let request = translate(
        "web@2.container",
        "[Container]\nImage=localhost/web:1\nExec=serve \"two words\"\nVolume=data.volume:/data:ro\nVolume=/srv:/srv\n\
         Tmpfs=/run:size=1m\nPublishPort=127.0.0.1:80%i:8080\nPublishPort=53/udp\nNetwork=back.network\n\
         Environment=A=1 B=2\nUser=33\nGroup=44\nHealthCmd=true\nHealthInterval=2s\nMemory=64M\nPidsLimit=9\n\
         NoNewPrivileges=yes\nUlimit=nofile=5:6\nStopTimeout=3\nNetworkAlias=w\nLabel=x=y\nDropCapability=ALL\n",
    )
    .unwrap();
    let (config, host) = (&request.config, &request.host_config);
    assert_eq!(config.cmd.as_ref().unwrap().0, ["serve", "two words"]);
    assert_eq!(config.env, ["A=1", "B=2"]);
    assert_eq!(
        (config.user.as_str(), config.stop_timeout),
        ("33:44", Some(3))
    );
    assert_eq!(config.labels["coracle.service"], "web");
    assert_eq!(config.labels[UNIT_LABEL], "web@2.container");
    assert_eq!(
        config.healthcheck.as_ref().unwrap().test,
        ["CMD-SHELL", "true"]
    );
    assert_eq!(host.binds, ["the-data:/data:ro", "/srv:/srv"]);
    assert_eq!(host.tmpfs["/run"], "size=1m");
    let published = host.port_bindings["8080/tcp"].as_ref().unwrap();
    assert_eq!(
        (
            published[0].host_ip.as_str(),
            published[0].host_port.as_str()
        ),
        ("127.0.0.1", "802")
    );
    assert!(host.port_bindings.contains_key("53/udp"));
    assert_eq!((host.memory, host.pids_limit), (64 << 20, Some(9)));
    assert_eq!(
        (host.network_mode.as_str(), host.ulimits[0].hard),
        ("back", 6)
    );
    assert_eq!(
        request.networking_config.endpoints_config["back"]
            .as_ref()
            .unwrap()
            .aliases,
        ["w"]
    );
    coracle_engine::model::check::check(&request).unwrap();
}

#[test]
fn probes_and_headless_units() {
    let text = "[Container]\nImage=x\n[X-Deploy]\nProbe=http://:8080/healthz\nHeadless=true\n";
    let request = translate("web.container", text).unwrap();
    assert_eq!(
        request.config.healthcheck.unwrap().test,
        ["HTTP", "http://:8080/healthz"]
    );
    assert!(!request.config.labels.contains_key("coracle.service"));
}

#[test]
fn fixed_addresses_of_both_families() {
    let text = "[Container]\nImage=x\nNetwork=a\nNetwork=b\nIP6=fd00::5\nPublishPort=[::1]:80:80\n";
    let request = translate("web.container", text).unwrap();
    let of = |network: &str| {
        let config = request.networking_config.endpoints_config[network].clone();
        config.unwrap().ipam_config
    };
    let first = of("a").unwrap();
    assert_eq!(
        (first.ipv4_address.as_str(), first.ipv6_address.as_str()),
        ("", "fd00::5")
    );
    assert_eq!(of("b"), None);
    let published = request.host_config.port_bindings["80/tcp"]
        .as_ref()
        .unwrap();
    assert_eq!(published[0].host_ip, "::1");
    coracle_engine::model::check::check(&request).unwrap();
}

#[test]
fn what_is_not_honoured_is_named() {
    for (line, word) in [
        ("Mask=/proc/x", "Mask"),
        ("Volume=gone.volume:/x", "gone.volume"),
        ("EnvironmentFile=/no/such/file", "/no/such/file"),
        ("SeccompProfile=/no/profile", "/no/profile"),
    ] {
        let error =
            translate("web.container", &format!("[Container]\nImage=x\n{line}\n")).unwrap_err();
        assert!(error.to_string().contains(word), "{error}");
    }
}

#[test]
fn names() {
    for (stem, name) in [
        ("web", "web"),
        ("web@1", "web-1"),
        ("@x", "unit-x"),
        ("a:b\\c", "a-b-c"),
    ] {
        assert_eq!(plain(stem), name);
    }
}
