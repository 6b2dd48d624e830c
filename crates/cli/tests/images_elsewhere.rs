//! An image that was built on one machine runs on another, which has it from there.
#![allow(clippy::unwrap_used)]

mod common;
#[path = "../../api/tests/net/mod.rs"]
mod net;

use common::Daemon;
use coracle_api::machines::PeersElsewhere;
use coracle_api::peer::routes;
use coracle_image::{ImageStore, Reference, RegistryConfig, Silent};
use net::Net;
use std::sync::Arc;

#[test]
fn what_one_machine_built_another_runs() {
    let (mut a, mut b) = (Daemon::start(), Daemon::bare());
    let context = a.dir.path().join("context");
    std::fs::create_dir(&context).unwrap();
    std::fs::write(context.join("copied"), "copied\n").unwrap();
    std::fs::write(
        context.join("Dockerfile"),
        "FROM bb\nRUN echo made > /made && ln /made /linked && rm /data/from-image\nCOPY copied /copied\n\
         CMD [\"sh\", \"-c\", \"cat /linked /copied; ls /data\"]\n",
    )
    .unwrap();
    a.ok(["build", "-t", "localhost/app:1", context.to_str().unwrap()]);
    let said = a.ok(["run", "--rm", "localhost/app:1"]);
    assert_eq!(said, "made\ncopied");
    // A store belongs to one process: the daemons leave theirs to the test, which is the way between them.
    a.terminate();
    b.terminate();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let open = |daemon: &Daemon| {
            ImageStore::open(&daemon.state_dir(), RegistryConfig::default()).unwrap()
        };
        let (from, to, net) = (open(&a), open(&b), Net::new());
        net.serve("a", routes(from)).await;
        to.set_peers(Arc::new(PeersElsewhere::new(net.clone())));
        let reference = Reference::parse_normalized("localhost/app:1").unwrap();
        let pulled = to.pull(&reference, None, None, &Silent).await;
        pulled.unwrap_or_else(|e| panic!("{}", coracle_engine::full_error(&e)));
        net.stop("a");
    });
    drop(runtime);
    a.up();
    b.up();
    assert_eq!(b.ok(["run", "--rm", "localhost/app:1"]), said);
    let id = |daemon: &Daemon| daemon.field("localhost/app:1", ".Id");
    assert_eq!(id(&a), id(&b));
}
