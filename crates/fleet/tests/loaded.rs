//! Units that have a machine and do not run there.
#![allow(clippy::unwrap_used)]

mod common;

use common::machine;
use coracle_fleet::{Active, Desired, UnitView};

fn stands(view: &UnitView) -> (Desired, Active, bool) {
    (view.desired, view.active, !view.machine.is_empty())
}

#[test]
fn volumes_are_loaded_as_other_units_are() {
    machine(
        "volumes_are_loaded_as_other_units_are",
        &[|m| {
            Box::pin(async move {
                let sleep = "[Service]\nExecStart=/bin/sleep 1000\n";
                for (name, text) in [("held-a.service", sleep), ("held-b.volume", "[Volume]\n")] {
                    let view = m.submit(name, text).await;
                    assert_eq!(stands(&view), (Desired::Inactive, Active::Inactive, false));
                    let view = m.fleet.load(name, true).await.unwrap();
                    assert_eq!(stands(&view), (Desired::Loaded, Active::Inactive, true));
                    let view = m.start(name).await;
                    assert_eq!(stands(&view), (Desired::Active, Active::Active, true));
                    let view = m.fleet.stop(name, true).await.unwrap();
                    assert_eq!(stands(&view), (Desired::Inactive, Active::Inactive, true));
                }
                let view = m.fleet.unload("held-a", true).await.unwrap();
                assert_eq!(stands(&view), (Desired::Inactive, Active::Inactive, false));
            })
        }],
    );
}
