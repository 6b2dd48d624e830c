//! A store is made anew of what one machine has left, and the daemon is killed at each step of it; what another store counts more than is
//! put aside.
#![allow(clippy::unwrap_used)]

mod copied;
mod lives;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use copied::{Copied, DOOR, copied, plain};
use coracle_cluster::member::config::MemberConfig;
use coracle_cluster::member::find::{Found, Program};
use coracle_cluster::member::moving::{Mode, mode, set_mode};
use coracle_cluster::member::record::cluster_of;
use coracle_cluster::member::recover::{
    Source, Step, make_room, own_database, restore, restored, tidy,
};
use coracle_cluster::member::run::{Member, State};
use coracle_cluster::member::snapshots::verify;
use coracle_store::{Revision, StoreExt as _};
use lives::{Machine, PATIENCE, die, machine};

const STEPS: [Step; 8] = [
    Step::Ended,
    Step::Read,
    Step::Made,
    Step::Named,
    Step::Aside,
    Step::Placed,
    Step::Configured,
    Step::Flipped,
];
const LIVES: usize = 2 + 2 * STEPS.len();

fn copy(from: &Path, to: &Path) {
    let _ = fs::remove_dir_all(to);
    let copied = Command::new("cp").arg("-a").args([from, to]).status();
    assert!(copied.unwrap().success());
}

/// What the lives have of each other.
struct Left {
    b: Machine,
    found: Found,
    config: MemberConfig,
    /// `STATE_DIR/cluster` of the learner when it was left.
    before: PathBuf,
    snapshot: PathBuf,
    last: Revision,
}

impl Left {
    async fn of(a: &Machine) -> Self {
        let b = a.beside("b").await;
        let (before, snapshot) = (a.dir.join("before"), a.dir.join("snapshot.db"));
        let id = b.engine.machine_id().parse().unwrap();
        Self {
            found: Program::Host { path: None }.find().await.unwrap(),
            config: MemberConfig {
                cluster: cluster_of(&id, 1),
                ..plain(&b, DOOR)
            },
            last: verify(&snapshot).unwrap(),
            b,
            before,
            snapshot,
        }
    }

    /// The nth of all pairs.
    fn pair(&self, n: usize) -> (Step, Source) {
        match STEPS.get(n) {
            Some(step) => (*step, Source::Own),
            None => (
                STEPS[n - STEPS.len()],
                Source::Snapshot(self.snapshot.clone()),
            ),
        }
    }

    /// As it was left, and then it dies at the step.
    async fn dies(&self, (step, source): (Step, Source)) -> ! {
        copy(&self.before, &self.b.cluster());
        let (engine, dir) = (&self.b.engine, self.b.cluster());
        let dies = |done| {
            if done == step {
                die();
            }
        };
        let _ = restore(engine, &self.found, &self.config, &dir, &source, &dies).await;
        panic!("it should have died at {step:?}");
    }

    /// What the next daemon finds, and what it can do with it.
    async fn goes_on(&self, (step, source): (Step, Source)) {
        let (engine, dir) = (&self.b.engine, self.b.cluster());
        let is_new = restored(&dir) == Some(self.config.cluster.clone());
        assert_eq!(is_new, STEPS[5..].contains(&step), "{step:?}");
        if is_new {
            self.config.save(&dir).unwrap();
            set_mode(&dir, Mode::Etcd).unwrap();
        } else {
            // The old one is run as before, and is there to be read again.
            let old = MemberConfig::load(&dir).unwrap().unwrap();
            let member = Member::start(engine.clone(), &self.found, old, &dir);
            let mut state = member.state();
            let begun = state.wait_for(|state| *state != State::Starting);
            let begun = tokio::time::timeout(PATIENCE, begun).await.unwrap();
            let begun = begun.unwrap().clone();
            match step {
                Step::Aside => {
                    assert!(
                        matches!(&begun, State::Resting { why } if why.contains("is gone")),
                        "{begun:?}"
                    );
                    assert!(!dir.join("etcd/data").exists());
                }
                _ => assert!(matches!(begun, State::Running { .. }), "{begun:?}"),
            }
            member.stop().await.unwrap();
            let own = own_database(&dir).unwrap();
            assert_eq!(verify(&own).unwrap(), self.last, "{step:?}");
            restore(engine, &self.found, &self.config, &dir, &source, &|_| {})
                .await
                .unwrap();
        }
        assert_eq!(mode(&dir).unwrap(), Mode::Etcd);
        let config = MemberConfig::load(&dir).unwrap().unwrap();
        assert_eq!(config, self.config);
        let member = Member::start(engine.clone(), &self.found, config, &dir);
        member.ready(PATIENCE).await.unwrap();
        let store = member.store().unwrap();
        assert_eq!(store.list("k").await.unwrap().count, 100, "{step:?}");
        let last = store.get("last").await.unwrap().unwrap();
        assert_eq!(last.mod_revision, self.last, "{step:?}");
        member.stop().await.unwrap();
        // Once, and the old one is there still.
        let now = verify(&own_database(&dir).unwrap()).unwrap();
        assert!((1..2).contains(&(now / 1_000_000_000)), "{step:?}: {now}");
        let aside = dir.join("etcd/data.before-1/member/snap/db");
        assert_eq!(verify(&aside).unwrap(), self.last, "{step:?}");
        for gone in ["etcd/data.before-2", "etcd/data.new", "etcd/recovered.db"] {
            assert!(!dir.join(gone).exists(), "{step:?}: {gone}");
        }
    }
}

async fn life(a: Machine, life: usize) {
    if life == 0 {
        let Copied { b, snapshot, .. } = copied(&a).await;
        copy(&b.cluster(), &a.dir.join("before"));
        fs::copy(snapshot, a.dir.join("snapshot.db")).unwrap();
        return;
    }
    let left = Left::of(&a).await;
    if life > 1 {
        left.goes_on(left.pair(life - 2)).await;
    }
    if life + 1 < LIVES {
        left.dies(left.pair(life - 1)).await;
    }
    left.b.clear().await;
}

#[test]
fn killed_at_each_step_it_is_done_again() {
    machine("killed_at_each_step_it_is_done_again", LIVES, |a, n| {
        Box::pin(life(a, n))
    });
}

/// Of its own cluster, what a machine has goes for a new member; of another one it may be all that is left.
#[test]
fn what_another_cluster_had_is_put_aside() {
    machine("what_another_cluster_had_is_put_aside", 1, |machine, _| {
        Box::pin(async move {
            let (engine, dir) = (&machine.engine, machine.cluster());
            let config = plain(&machine, DOOR);
            let data = || {
                config.save(&dir).unwrap();
                fs::create_dir_all(config.data_dir.join("member")).unwrap();
                fs::write(dir.join("etcd/data.begun"), "").unwrap();
            };
            let aside = dir.join("etcd/data.before-1");
            let none = || {
                for gone in ["etcd/member.json", "etcd/data", "etcd/data.begun"] {
                    assert!(!dir.join(gone).exists(), "{gone}");
                }
            };
            data();
            make_room(engine, &dir, &config.cluster).await.unwrap();
            none();
            assert!(!aside.exists());
            data();
            let other = cluster_of(&config.name, 1);
            make_room(engine, &dir, &other).await.unwrap();
            none();
            assert!(aside.join("member").exists());
            // Nothing more is there.
            make_room(engine, &dir, &other).await.unwrap();
            tidy(&dir).unwrap();
            assert!(!dir.join("etcd/data.before-2").exists());
        })
    });
}
