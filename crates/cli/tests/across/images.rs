//! Machines give each other images.

use super::*;
use std::fs;

/// A directory to build from, which machines see at the same path.
fn context(cluster: &Cluster, name: &str, dockerfile: &str) -> String {
    let dir = cluster.dir().join(name);
    fs::create_dir(&dir).unwrap();
    fs::write(dir.join("file"), format!("from {name}\n")).unwrap();
    fs::write(dir.join("Dockerfile"), dockerfile).unwrap();
    dir.to_str().unwrap().to_owned()
}

#[test]
fn images_come_from_machines_before_registries() {
    let cluster = joined(3);
    let [m1, m2, m3] = [1, 2, 3].map(|n| cluster.machine(n));
    // Built on one machine, run on all, without any registry.
    let dockerfile =
        "FROM bb\nRUN echo made >/made\nCOPY file /file\nCMD cat /made /file; exec sleep 1000\n";
    let app = context(&cluster, "app", dockerfile);
    m1.ok(&["build", "-t", "localhost/app:1", &app]);
    let unit = m2.unit(
        "app.container",
        "[Container]\nImage=localhost/app:1\nStopTimeout=1\n[X-Fleet]\nGlobal=yes\n",
    );
    m2.ok(&["unit", "start", &unit]);
    let id = m1.field("localhost/app:1", ".Id");
    for machine in cluster.machines() {
        wait_until("it runs here", MINUTE, || {
            let said = asked(machine, &["--machine", &machine.name(), "logs", "app"])?;
            (said == "made\nfrom app").then_some(()).ok_or(said)
        });
        assert_eq!(machine.field("localhost/app:1", ".Id"), id);
    }
    m3.ok(&["unit", "destroy", "app.container"]);

    // What a tag is, the registry says; the layers come from machines.
    let registry = cluster.outside().registry();
    let shared = format!("{registry}/shared:1");
    let dir = context(
        &cluster,
        "shared",
        "FROM bb\nCOPY file /file\nCMD cat /file\n",
    );
    m1.ok(&["build", "-t", &shared, &dir]);
    m1.ok(&["push", &shared]);
    let pushed = cluster.outside().requests().len();
    let blobs = || {
        let all = cluster.outside().requests();
        let all = all.into_iter().skip(pushed);
        all.filter(|r| r.starts_with("GET") && r.contains("/blobs/"))
            .count()
    };
    assert_eq!(m2.ok(&["run", "--rm", &shared]), "from shared");
    let (asked, first) = (cluster.outside().requests().len(), blobs());
    assert_eq!(m3.ok(&["run", "--rm", &shared]), "from shared");
    let requests = cluster.outside().requests();
    assert!(requests.len() > asked, "what the tag is was not asked");
    assert_eq!(blobs(), first, "{requests:?}");

    // Nobody has it: who was asked, and what to do.
    let refused = errors(&m3.coracle(&["pull", "localhost/nothing:1"]));
    for words in [
        "localhost/nothing:1",
        "m1 (",
        "m2 (",
        "push it to a registry",
        "load it",
    ] {
        assert!(refused.contains(words), "{words}: {refused}");
    }

    // Whoever has it is dead: then the registry gives it.
    m3.ok(&["rmi", "-f", &shared]);
    m1.kill_all();
    m2.kill_all();
    assert_eq!(m3.ok(&["run", "--rm", &shared]), "from shared");
    assert!(blobs() > first, "{:?}", cluster.outside().requests());
}
