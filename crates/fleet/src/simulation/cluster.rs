//! Machines with one store, all in one world.

use super::books::Books;
use super::link::{Line, Shared};
use super::table::{Bad, Table};
use super::world::{Group, World};
use crate::fleet::{Fleet, Here, Stores};
use crate::model::{Machine as Facts, VERSION, keys};
use coracle_store::{DeleteRangeRequest, Store, TxnOp, TxnRequest};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::watch;

/// What does not work as it should, for the checks' own sake.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Broken {
    /// Everything does.
    #[default]
    Nothing,
    /// The store does not look at what writes depend on: whoever led once may write on.
    Compares,
    /// Exclusive units run on where their machine is cut off.
    Watchdogs,
    /// Containers that are removed stay.
    Removals,
    /// A machine's own store forgets all when its daemon ends.
    OwnStore,
}

/// See the module.
pub(crate) struct Cluster {
    pub world: World,
    pub shared: Shared,
    pub books: Arc<Books>,
    pub machines: Vec<Arc<Machine>>,
    pub broken: Broken,
}

/// A machine: what outlives its daemon, and its daemon.
pub(crate) struct Machine {
    pub number: usize,
    pub id: String,
    pub table: Arc<Table>,
    pub line: watch::Sender<Line>,
    may_lead: bool,
    state: Mutex<State>,
}

struct State {
    local: Shared,
    daemon: Option<Group>,
    fleet: Option<Fleet>,
    boot: u64,
    /// It is no member any more.
    removed: bool,
}

impl Cluster {
    pub fn new(
        world: &World,
        machines: usize,
        voters: usize,
        bad: Bad,
        broken: Broken,
        dir: &Path,
    ) -> Arc<Self> {
        let ids: Vec<String> = (0..machines)
            .map(|n| format!("{:032x}", 0xa0 + n))
            .collect();
        let books = Books::new(world, ids.clone(), bad, broken == Broken::Removals);
        let books = Arc::new(books);
        let written = books.clone();
        let told = Box::new(move |by, data: &_, events: &[_]| written.written(by, data, events));
        let shared = Shared::new(world, broken == Broken::Compares, told);
        let of = |(number, id): (usize, String)| {
            let guarded = broken != Broken::Watchdogs;
            let table = Table::new(world, number, &books, guarded, dir.to_owned());
            world.spawn_in(0, table.clone().guard());
            Arc::new(Machine {
                number,
                id,
                table,
                line: watch::Sender::new(Line::GOOD),
                may_lead: number < voters,
                state: Mutex::new(State {
                    local: own_store(world),
                    daemon: None,
                    fleet: None,
                    boot: 1,
                    removed: false,
                }),
            })
        };
        let machines = ids.into_iter().enumerate().map(of).collect();
        world.spawn_in(0, shared.clone().expire());
        Arc::new(Self {
            world: world.clone(),
            shared,
            books,
            machines,
            broken,
        })
    }

    /// The machine that leads, as it sees itself.
    pub fn leader(&self) -> Option<&Arc<Machine>> {
        let leading = |m: &&Arc<Machine>| m.fleet().is_some_and(|fleet| fleet.leads());
        // Of two the one that will find out is drawn as well.
        let all: Vec<_> = self.machines.iter().filter(leading).collect();
        match all.len() {
            0 => None,
            _ => Some(*self.world.of(&all)),
        }
    }

    /// A daemon begins, unless there is one.
    pub fn start(&self, machine: &Arc<Machine>) {
        let mut state = machine.state();
        if state.daemon.is_some() || state.removed {
            return;
        }
        self.world
            .note(|| format!("m{}: its daemon starts", machine.number));
        let group = self.world.new_group();
        state.daemon = Some(group);
        let cluster = self.shared.link(machine.number, machine.line.subscribe());
        let cluster: Arc<dyn Store> = cluster;
        let local: Arc<dyn Store> = state.local.local(machine.number);
        let stores = Stores {
            local,
            cluster,
            alone: watch::channel(false).1,
            may_lead: watch::channel(machine.may_lead).1,
            can_vote: machine.may_lead,
            api_ca: String::new(),
            door: format!("192.0.2.{}:7373", machine.number),
            labels: BTreeMap::from([("rack".into(), format!("r{}", machine.number % 2))]),
        };
        let here = Here {
            machine: Facts {
                version: VERSION,
                id: machine.id.clone(),
                hostname: format!("m{}", machine.number),
                cpus: 4,
                memory: 8 << 30,
                kernel: "6.18".into(),
                coracle: "0.1.0".into(),
                since: self.world.utc(),
                can_vote: machine.may_lead,
                api_ca: String::new(),
                labels: stores.labels.clone(),
                door: stores.door.clone(),
            },
            boot_id: format!("{}-{}", machine.number, state.boot),
            containers: machine.table.clone(),
            engine: None,
        };
        drop(state);
        let (machine, books) = (machine.clone(), self.books.clone());
        self.world.spawn_in(group, async move {
            let (fleet, may_lead) = Fleet::of(stores, here);
            let begun = async {
                let lease = fleet.be_there(false).await?;
                fleet.begin(lease, may_lead).await
            };
            if let Err(error) = begun.await {
                books.is_wrong(format!(
                    "m{}'s daemon does not start: {error}",
                    machine.number
                ));
            }
            let mut state = machine.state();
            if state.daemon == Some(group) {
                state.fleet = Some(fleet);
            }
        });
    }

    /// The daemon is killed.
    pub fn kill(&self, machine: &Machine) {
        let (group, fleet) = {
            let mut state = machine.state();
            if self.broken == Broken::OwnStore {
                state.local = own_store(&self.world);
            }
            (state.daemon.take(), state.fleet.take())
        };
        if let Some(group) = group {
            self.world
                .note(|| format!("m{}: its daemon is killed", machine.number));
            self.world.end(group);
        }
        drop(fleet);
    }

    /// The power goes.
    pub fn power_off(&self, machine: &Machine) {
        self.world
            .note(|| format!("m{}: the power goes", machine.number));
        self.kill(machine);
        machine.table.loses_power();
        machine.state().boot += 1;
    }

    /// It is taken off the list of members for good. It runs on, and nobody hears it.
    pub fn remove(&self, machine: &Machine) {
        self.world
            .note(|| format!("m{}: it is removed", machine.number));
        machine
            .line
            .send_modify(|line| (line.to, line.from) = (false, false));
        machine.state().removed = true;
        let id = machine.id.clone();
        // As a voter's door does it.
        let one = |key| TxnOp::Delete(DeleteRangeRequest::key(key));
        let gone = TxnRequest {
            success: vec![
                one(keys::alive(&id)),
                one(keys::machine(&id)),
                one(keys::marks(&id)),
            ],
            ..TxnRequest::default()
        };
        let _ = self.shared.act(None, |data, _| data.txn(gone));
    }

    /// Everything that is to be there is there again.
    pub fn heal(&self) {
        self.world.note(|| "all is well from now on".into());
        for machine in self.members() {
            machine
                .line
                .send_if_modified(|line| std::mem::replace(line, Line::GOOD) != Line::GOOD);
            self.start(machine);
        }
    }

    pub fn members(&self) -> impl Iterator<Item = &Arc<Machine>> {
        self.machines.iter().filter(|m| !m.is_removed())
    }
}

fn own_store(world: &World) -> Shared {
    Shared::new(world, false, Box::new(|_, _, _| {}))
}

impl Machine {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn fleet(&self) -> Option<Fleet> {
        self.state().fleet.clone()
    }

    pub fn daemon(&self) -> Option<Group> {
        self.state().daemon
    }

    pub fn is_removed(&self) -> bool {
        self.state().removed
    }

    /// What its own store has.
    pub fn own(&self) -> Shared {
        self.state().local.clone()
    }
}
