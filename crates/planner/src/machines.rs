//! Machines, what is given away of them, and pools of those that get new units, least loaded first.
use crate::ids::{G, L, M, MachineId, U};
use crate::model::{MachineState, Protocol, Settings};
use crate::slab::Slab;
use std::collections::{BTreeMap, BTreeSet, HashMap};

pub(crate) type Labels = BTreeMap<String, String>;
/// MachineMetadata.
pub(crate) type Wants = BTreeMap<String, BTreeSet<String>>;

/// What placements take of a machine.
#[derive(Debug, Default)]
pub(crate) struct Used {
    /// Requested, in thousandths of a processor.
    pub cpu: u64,
    /// Requested, in bytes.
    pub memory: u64,
    /// The same with what units without a request count.
    pub weigh_cpu: u64,
    pub weigh_memory: u64,
    pub count: u64,
    pub ports: BTreeMap<(u16, Protocol), u32>,
    pub groups: BTreeMap<G, u32>,
    /// Units and how many placements each has here, and places kept for it.
    pub units: BTreeMap<U, u32>,
}

#[derive(Debug)]
pub(crate) struct Machine {
    pub id: MachineId,
    /// Nothing: not a member, only named by something.
    pub state: Option<MachineState>,
    /// Lost for so long that nothing exclusive runs there any more.
    pub fenced: bool,
    pub used: Used,
    /// Pools it stands in, under `load`. Empty while it gets nothing new.
    pools: Vec<L>,
    load: u64,
    /// Units that a drain has moved from here and that are not settled yet.
    pub moving: BTreeSet<U>,
}

impl Machine {
    pub(crate) fn alive(&self) -> bool {
        self.state.as_ref().is_some_and(|s| s.alive)
    }
    pub(crate) fn draining(&self) -> bool {
        self.state.as_ref().is_some_and(|s| s.alive && s.draining)
    }
    /// Whether it gets new units.
    pub(crate) fn available(&self) -> bool {
        let open = |s: &MachineState| s.alive && !s.cordoned && !s.draining;
        self.state.as_ref().is_some_and(open)
    }

    /// In millionths of the machine: the scarcer of processor time and memory, and something for each unit.
    pub(crate) fn load(&self, settings: &Settings) -> u64 {
        let share = |used: u64, of: u64| match u128::from(used) * 1_000_000 / u128::from(of.max(1))
        {
            _ if of == 0 => 0,
            share => u64::try_from(share).unwrap_or(u64::MAX / 2),
        };
        let (cpu, memory) = self
            .state
            .as_ref()
            .map_or((0, 0), |s| (s.cpu_millis, s.memory));
        let used = &self.used;
        let most = share(used.weigh_cpu, cpu).max(share(used.weigh_memory, memory));
        most.saturating_add(used.count.saturating_mul(settings.unit_weight))
    }
}

/// The machines that fit one MachineMetadata and get new units.
#[derive(Debug)]
pub(crate) struct Pool {
    wants: Wants,
    refs: usize,
    /// Load, id, number.
    pub order: BTreeSet<(u64, MachineId, M)>,
}

#[derive(Debug, Default)]
pub(crate) struct Machines {
    slots: Vec<Machine>,
    by_id: BTreeMap<MachineId, M>,
    pools: Slab<Pool>,
    pool_of: HashMap<Wants, L>,
    /// Available machines by label.
    labels: BTreeMap<String, BTreeMap<String, BTreeSet<M>>>,
    /// How many get new units.
    pub available: usize,
}

impl Machines {
    /// The machine of that id, which need not be a member.
    pub(crate) fn intern(&mut self, id: &MachineId) -> M {
        if let Some(m) = self.by_id.get(id) {
            return *m;
        }
        let m = M(u32::try_from(self.slots.len()).unwrap_or(u32::MAX));
        self.slots.push(Machine {
            id: id.clone(),
            state: None,
            fenced: false,
            used: Used::default(),
            pools: Vec::new(),
            load: 0,
            moving: BTreeSet::new(),
        });
        self.by_id.insert(id.clone(), m);
        m
    }
    pub(crate) fn find(&self, id: &MachineId) -> Option<M> {
        self.by_id.get(id).copied()
    }
    pub(crate) fn get(&self, m: M) -> &Machine {
        &self.slots[m.0 as usize]
    }
    pub(crate) fn get_mut(&mut self, m: M) -> &mut Machine {
        &mut self.slots[m.0 as usize]
    }
    /// All that are or were known, by id.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (M, &Machine)> {
        self.by_id.values().map(|m| (*m, self.get(*m)))
    }
    pub(crate) fn pool(&self, l: L) -> &Pool {
        &self.pools[l.0]
    }

    /// Sets what is known of a machine and moves it between pools.
    pub(crate) fn set(&mut self, m: M, state: Option<MachineState>, settings: &Settings) {
        self.unlist(m);
        let machine = self.get_mut(m);
        if state.as_ref().is_some_and(|s| s.alive) {
            machine.fenced = false;
        }
        machine.state = state;
        self.list(m, settings);
    }

    fn unlist(&mut self, m: M) {
        let machine = self.get_mut(m);
        if !machine.available() {
            return;
        }
        let (pools, load, id) = (
            std::mem::take(&mut machine.pools),
            machine.load,
            machine.id.clone(),
        );
        let labels = machine
            .state
            .as_ref()
            .map(|s| s.labels.clone())
            .unwrap_or_default();
        for l in pools {
            self.pools[l.0].order.remove(&(load, id.clone(), m));
        }
        for (key, value) in labels {
            if let Some(values) = self.labels.get_mut(&key) {
                if let Some(machines) = values.get_mut(&value) {
                    machines.remove(&m);
                    if machines.is_empty() {
                        values.remove(&value);
                    }
                }
                if values.is_empty() {
                    self.labels.remove(&key);
                }
            }
        }
        self.available -= 1;
    }

    fn list(&mut self, m: M, settings: &Settings) {
        let machine = self.get_mut(m);
        machine.load = machine.load(settings);
        if !machine.available() {
            return;
        }
        let (load, id) = (machine.load, machine.id.clone());
        let labels = machine
            .state
            .as_ref()
            .map(|s| s.labels.clone())
            .unwrap_or_default();
        let fitting = self
            .pools
            .iter()
            .filter(|(_, pool)| fits(&pool.wants, &labels));
        let fitting: Vec<L> = fitting.map(|(l, _)| L(l)).collect();
        for l in &fitting {
            self.pools[l.0].order.insert((load, id.clone(), m));
        }
        self.get_mut(m).pools = fitting;
        for (key, value) in labels {
            self.labels
                .entry(key)
                .or_default()
                .entry(value)
                .or_default()
                .insert(m);
        }
        self.available += 1;
    }

    /// After what is given away of it has changed.
    pub(crate) fn reorder(&mut self, m: M, settings: &Settings) {
        let machine = self.get_mut(m);
        let (before, after) = (machine.load, machine.load(settings));
        if before == after {
            return;
        }
        machine.load = after;
        let (id, pools) = (machine.id.clone(), std::mem::take(&mut machine.pools));
        for l in &pools {
            let order = &mut self.pools[l.0].order;
            order.remove(&(before, id.clone(), m));
            order.insert((after, id.clone(), m));
        }
        self.get_mut(m).pools = pools;
    }

    /// The pool for a MachineMetadata.
    pub(crate) fn hold_pool(&mut self, wants: &Wants) -> L {
        if let Some(l) = self.pool_of.get(wants) {
            self.pools[l.0].refs += 1;
            return *l;
        }
        let candidates = self.candidates(wants);
        let order: BTreeSet<_> = candidates
            .into_iter()
            .map(|m| (self.get(m), m))
            .filter(|(machine, _)| machine.available())
            .filter(|(machine, _)| {
                machine
                    .state
                    .as_ref()
                    .is_some_and(|s| fits(wants, &s.labels))
            })
            .map(|(machine, m)| (machine.load, machine.id.clone(), m))
            .collect();
        let members: Vec<M> = order.iter().map(|(_, _, m)| *m).collect();
        let l = L(self.pools.insert(Pool {
            wants: wants.clone(),
            refs: 1,
            order,
        }));
        for m in members {
            self.get_mut(m).pools.push(l);
        }
        self.pool_of.insert(wants.clone(), l);
        l
    }

    /// Few machines, among which are all that fit: those of the rarest label.
    fn candidates(&self, wants: &Wants) -> Vec<M> {
        let with = |key: &str, values: &BTreeSet<String>| -> Vec<&BTreeSet<M>> {
            let known = self.labels.get(key);
            values.iter().filter_map(|v| known?.get(v)).collect()
        };
        let rarest = wants
            .iter()
            .map(|(key, values)| with(key, values))
            .min_by_key(|sets| sets.iter().map(|set| set.len()).sum::<usize>());
        match rarest {
            Some(sets) => sets.into_iter().flatten().copied().collect(),
            None => self.by_id.values().copied().collect(),
        }
    }

    pub(crate) fn release_pool(&mut self, l: L) {
        let pool = &mut self.pools[l.0];
        pool.refs -= 1;
        if pool.refs > 0 {
            return;
        }
        let members: Vec<M> = pool.order.iter().map(|(_, _, m)| *m).collect();
        let wants = std::mem::take(&mut pool.wants);
        self.pools.remove(l.0);
        self.pool_of.remove(&wants);
        for m in members {
            self.get_mut(m).pools.retain(|other| *other != l);
        }
    }
}

fn fits(wants: &Wants, labels: &Labels) -> bool {
    wants
        .iter()
        .all(|(k, any)| labels.get(k).is_some_and(|v| any.contains(v)))
}
