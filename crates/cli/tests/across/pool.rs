//! The range that machines' subnets come from is said once, when the cluster begins.

use super::*;

fn configured(pool: &str) -> String {
    format!("[network]\noverlay_pool = \"{pool}\"\n")
}

fn subnet(machine: &Machine) -> String {
    let format = "{{(index .IPAM.Config 0).Subnet}}";
    machine.ok(&["network", "inspect", "bridge", "-f", format])
}

#[test]
fn the_pool_is_said_once() {
    let mut setup = Setup::new(3);
    setup.config = configured("172.30.0.0/16");
    let cluster = setup.build();
    let [m1, m2, m3] = [1, 2, 3].map(|n| cluster.machine(n));
    let token = || m1.ok(&["cluster", "token", "-q"]).trim().to_owned();
    let join = |machine: &Machine, token: &str| {
        machine.coracle(&["join", &m1.address(), "--token", token])
    };
    assert!(join(m2, &token()).status.success());
    wait_until("m2 has a subnet of it", MINUTE, || {
        let subnet = subnet(m2);
        subnet.starts_with("172.30.").then_some(()).ok_or(subnet)
    });

    // Another one is refused before the machine has given anything up.
    let file = cluster.dir().join("coracle.toml");
    std::fs::write(&file, configured("172.31.0.0/16")).unwrap();
    m3.terminate();
    m3.start();
    let third = token();
    let refused = errors(&join(m3, &third));
    for words in ["172.31.0.0/16", "172.30.0.0/16", "the same token"] {
        assert!(refused.contains(words), "{words}: {refused}");
    }
    assert!(m3.ok(&["cluster", "status"]).contains("alone"));
    m3.terminate();
    // Who says nothing has the cluster's.
    std::fs::write(&file, "").unwrap();
    m3.start();
    assert!(join(m3, &third).status.success());
    wait_until("m3 has a subnet of it", MINUTE, || {
        let subnet = subnet(m3);
        subnet.starts_with("172.30.").then_some(()).ok_or(subnet)
    });

    // In the cluster, it is refused with what holds; containers run on.
    m3.ok(&["run", "-d", "--name", "on", "bb", "sleep", "1000"]);
    let pid = m3.field("on", ".State.Pid");
    for machine in [m1, m3] {
        std::fs::write(&file, configured("172.31.0.0/16")).unwrap();
        machine.terminate();
        machine.launch();
        wait_for("the daemon says why not", MINUTE, || {
            let said = machine.log();
            said.contains("takes machines' subnets from 172.30.0.0/16")
                && said.contains("coracle leave")
        });
        machine.gone();
        std::fs::write(&file, configured("172.30.0.0/16")).unwrap();
        machine.start();
    }
    assert_eq!(m3.field("on", ".State.Pid"), pid);
}
