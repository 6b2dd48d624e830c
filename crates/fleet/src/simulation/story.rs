//! What happens in a world: operators ask, machines fail, then all is well again and what was asked for has to be so.

use super::cluster::{Cluster, Machine};
use super::link::Line;
use super::table::BROKEN;
use super::texts::text;
use super::world::Spawned;
use crate::error::FleetError;
use crate::fleet::Fleet;
use crate::machines::Mark;
use crate::model::Desired;
use crate::rollout::Asked;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;

/// How long an operator waits for one answer.
const PATIENCE: Duration = Duration::from_secs(25);
/// How long it takes at most until all is as it was asked, once nothing fails any more.
pub(crate) const BOUND: Duration = Duration::from_secs(180);
/// How long nothing may change then.
const CALM: Duration = Duration::from_secs(35);

/// What may be asked for.
#[derive(Clone, Debug)]
enum Ask {
    Submit(String, String),
    Start(String, bool),
    Stop(String, bool),
    Restart(String),
    Unload(String),
    Destroy(String),
    Mark(usize, Mark),
    Rebind(String, usize),
    /// A new text, and whether it comes up.
    Deploy(String, String),
    Abort(String),
    Rollback(String),
}

/// Whether it was done, or why it is refused, or nothing if somebody else is to be asked.
type Coming = oneshot::Receiver<Result<(), Option<String>>>;

/// An answer for sure.
enum Answer {
    Done,
    Refused(String),
}

/// See the module.
pub(crate) struct Story {
    cluster: Arc<Cluster>,
    texts: BTreeMap<String, String>,
    /// What each unit was asked to be, if that is known; None of one that is not there.
    asked: BTreeMap<String, Option<Desired>>,
    /// Of which nobody knows whether it was done.
    unsure: BTreeMap<String, Ask>,
    /// Deployed while they did not run: what fails stops them again, whoever started them meanwhile.
    open: BTreeSet<String>,
}

impl Story {
    /// With units that are drawn.
    pub fn new(cluster: &Arc<Cluster>) -> Self {
        let world = &cluster.world;
        let kinds = [
            "web-a", "web-b", "ex-a", "ex-b", "vol-a", "res-a", "glob-a", "bad-a", "dep-a",
            "rack-a",
        ];
        let mut texts = BTreeMap::new();
        for _ in 0..2 + world.below(4) {
            let name = format!("{}.container", world.of(&kinds));
            let text = text(&name, world);
            texts.insert(name, text);
        }
        if texts.contains_key("res-a.container") {
            texts.insert(
                "kept.volume".to_owned(),
                "[Volume]\nVolumeName=kept\n".to_owned(),
            );
        }
        if texts.contains_key("dep-a.container") {
            let web = "web-a.container".to_owned();
            let text = text(&web, world);
            texts.insert(web, text);
        }
        Self {
            cluster: cluster.clone(),
            texts,
            asked: BTreeMap::new(),
            unsure: BTreeMap::new(),
            open: BTreeSet::new(),
        }
    }

    async fn wait(&self, least: u64, most: u64) {
        let world = &self.cluster.world;
        let time = least + world.below(most - least);
        world.sleep(Duration::from_millis(time)).await;
    }

    /// Lives through it.
    pub async fn run(mut self) {
        let (cluster, world) = (self.cluster.clone(), self.cluster.world.clone());
        for machine in &cluster.machines {
            cluster.start(machine);
            if world.one_in(2) {
                self.wait(0, 2000).await;
            }
        }
        for (name, text) in self.texts.clone() {
            self.ask(Ask::Submit(name.clone(), text), 4).await;
            if name.ends_with(".container") && !world.one_in(6) {
                self.ask(Ask::Start(name, false), 4).await;
            }
        }
        let (done, troubles) = oneshot::channel();
        let failing = cluster.clone();
        world.spawn_in(0, async move {
            troubles_of(&failing).await;
            let _ = done.send(());
        });
        for _ in 0..1 + world.below(5) {
            self.wait(0, 9_000).await;
            let next = self.draw();
            self.ask(next, 1 + world.below(2)).await;
        }
        let _ = troubles.await;
        cluster.heal();
        for machine in cluster.members() {
            self.ask(Ask::Mark(machine.number, Mark::Uncordon), 10)
                .await;
        }
        if cluster.members().count() > 1 && world.one_in(3) {
            let machine = cluster.members().last().map_or(0, |m| m.number);
            self.ask(Ask::Mark(machine, Mark::Drain), 10).await;
        }
        for (name, mut ask) in std::mem::take(&mut self.unsure) {
            // One that cannot come up now would be waited for without end.
            if let Ask::Start(_, block) = &mut ask {
                *block = false;
            }
            self.ask(ask, 10).await;
            if self.unsure.contains_key(&name) {
                cluster
                    .books
                    .is_wrong(format!("nobody answers of {name}, and all is well"));
            }
        }
        self.ends_well().await;
    }

    fn draw(&self) -> Ask {
        let world = &self.cluster.world;
        let names = self
            .texts
            .keys()
            .filter(|name| name.ends_with(".container"));
        let names: Vec<&String> = names.collect();
        let name = (*world.of(&names)).clone();
        let machine = world.below(self.cluster.machines.len() as u64) as usize;
        let again = || Ask::Submit(name.clone(), self.texts[&name].clone());
        match (self.asked.get(&name), world.below(17)) {
            (Some(None), _) => again(),
            (_, 0..=3) => Ask::Start(name, world.one_in(3)),
            (_, 4 | 5) => Ask::Stop(name, world.one_in(3)),
            (_, 6) => Ask::Restart(name),
            (_, 7) => Ask::Unload(name),
            (_, 8 | 9) => Ask::Destroy(name),
            (_, 10) => Ask::Mark(machine, Mark::Cordon),
            (_, 11 | 12) => Ask::Mark(machine, Mark::Drain),
            _ if !world.one_in(4) && !name.starts_with("glob") => match world.below(6) {
                0 => Ask::Abort(name),
                1 => Ask::Rollback(name),
                _ => {
                    let text = &self.texts[&name];
                    let broken = if world.one_in(3) { BROKEN } else { "BROKEN=0" };
                    let version = world.below(1000);
                    let more = format!("[Container]\nEnvironment=V={version} {broken}\n");
                    Ask::Deploy(
                        name.clone(),
                        format!("{text}{more}[X-Deploy]\nSettleSec=2\n"),
                    )
                }
            },
            _ => Ask::Rebind(world.of(&["vol-a", "kept"]).to_string(), machine),
        }
    }

    /// Asks whoever leads, some times over.
    async fn ask(&mut self, ask: Ask, times: u64) {
        let world = self.cluster.world.clone();
        world.note(|| format!("ask: {ask:?}"));
        let mut sent = false;
        for _ in 0..times {
            let until = world.now() + PATIENCE;
            while world.now() < until {
                let leader = self.cluster.leader().cloned();
                let asked = leader.and_then(|leader| self.send(&leader, ask.clone()));
                let Some((asked, answer)) = asked else {
                    self.wait(100, 1000).await;
                    continue;
                };
                sent = true;
                let answer = crate::pace::within(PATIENCE, answer).await;
                // Who asks no more is not answered any more.
                asked.abort();
                match answer {
                    Some(Ok(Ok(()))) => return self.answered(&ask, Answer::Done),
                    Some(Ok(Err(Some(why)))) => return self.answered(&ask, Answer::Refused(why)),
                    // It may have been done, or is being done still.
                    Some(Ok(Err(None)) | Err(_)) | None => self.wait(100, 1000).await,
                }
            }
        }
        world.note(|| format!("nobody answered: {ask:?}, sent {sent}"));
        match &ask {
            Ask::Mark(..) | Ask::Rebind(..) | Ask::Abort(_) => {}
            Ask::Deploy(name, _) | Ask::Rollback(name) => {
                // It may be under way, or not: what it comes to is looked at in the end.
                let name = name.clone();
                self.may_start(&name);
            }
            Ask::Submit(name, _)
            | Ask::Start(name, _)
            | Ask::Stop(name, _)
            | Ask::Restart(name)
            | Ask::Unload(name)
            | Ask::Destroy(name) => {
                let name = name.clone();
                for one in [name.as_str(), "web-a.container", "dep-a.container"] {
                    // What goes with it is as unsure.
                    if one == name || name.starts_with("web-a") || name.starts_with("dep-a") {
                        self.asked.remove(one);
                    }
                }
                self.unsure.insert(name, ask);
            }
        }
    }

    /// Asks one machine.
    fn send(&self, leader: &Machine, ask: Ask) -> Option<(Spawned, Coming)> {
        let (fleet, group) = (leader.fleet()?, leader.daemon()?);
        let (answer, come) = oneshot::channel();
        let ids: Vec<String> = self.cluster.machines.iter().map(|m| m.id.clone()).collect();
        let asked = self.cluster.world.spawn_in(group, async move {
            let done = match perform(&fleet, ask, &ids).await {
                // It is asked for, and done when the machine answers.
                Ok(()) | Err(FleetError::Silent { .. }) => Ok(()),
                Err(
                    FleetError::NotLeader | FleetError::Store(_) | FleetError::NotDestroyed { .. },
                ) => Err(None),
                Err(other) => Err(Some(other.to_string())),
            };
            let _ = answer.send(done);
        });
        Some((asked, come))
    }

    fn answered(&mut self, ask: &Ask, answer: Answer) {
        let world = self.cluster.world.clone();
        let now = match (ask, &answer) {
            (_, Answer::Refused(why)) => {
                world.note(|| format!("refused: {why}"));
                // That it is not there may be the answer to what was done when it was asked before.
                match ask {
                    Ask::Destroy(name) => Some((name.clone(), None)),
                    // Some of it was done all the same, such as a start that did not come up.
                    Ask::Start(name, _) | Ask::Restart(name) => {
                        self.asked.remove(name);
                        if name.starts_with("dep") {
                            // What it needs may have been started for it.
                            self.asked.remove("web-a.container");
                        }
                        None
                    }
                    Ask::Deploy(name, _) | Ask::Rollback(name) => {
                        // Asked anew, it finds what it was asked before under way.
                        self.may_start(name);
                        None
                    }
                    _ => None,
                }
            }
            // It runs where those are that need it.
            (Ask::Submit(name, _), _) if name.ends_with(".volume") => None,
            (Ask::Submit(name, _), _) => match self.asked.get(name) {
                Some(Some(_)) => None,
                _ if self.unsure.contains_key(name) => None,
                _ => Some((name.clone(), Some(Desired::Inactive))),
            },
            (Ask::Start(name, _) | Ask::Restart(name), _) => {
                if name.starts_with("dep") && !self.open.contains("web-a.container") {
                    self.asked
                        .insert("web-a.container".into(), Some(Desired::Active));
                }
                Some((name.clone(), Some(Desired::Active)))
            }
            (Ask::Stop(name, _) | Ask::Unload(name), _) => {
                self.stops_with(name);
                Some((name.clone(), Some(Desired::Inactive)))
            }
            (Ask::Destroy(name), _) => {
                self.stops_with(name);
                Some((name.clone(), None))
            }
            (Ask::Mark(..) | Ask::Rebind(..) | Ask::Abort(_), _) => None,
            // What ran before runs whatever comes of it; otherwise that is open.
            (Ask::Deploy(name, _) | Ask::Rollback(name), _) => {
                self.may_start(name);
                None
            }
        };
        if let Some((name, now)) = now {
            self.unsure.remove(&name);
            match now {
                Some(Desired::Active) if self.open.contains(&name) => self.asked.remove(&name),
                now => self.asked.insert(name, now),
            };
        }
        world.note(|| "answered".into());
    }

    /// A unit, and what it needs, runs from now on or does not.
    fn may_start(&mut self, name: &str) {
        let needed = name.starts_with("dep").then_some("web-a.container");
        for one in [Some(name), needed].into_iter().flatten() {
            if self.asked.get(one) != Some(&Some(Desired::Active)) {
                self.asked.remove(one);
                self.open.insert(one.to_owned());
            }
        }
    }

    fn stops_with(&mut self, name: &str) {
        if name.starts_with("web-a")
            && let Some(Some(other)) = self.asked.get_mut("dep-a.container")
        {
            *other = Desired::Inactive;
        }
    }

    /// Waits until all is as it was asked, and nothing moves any more.
    async fn ends_well(&self) {
        let (world, books) = (&self.cluster.world, &self.cluster.books);
        let until = world.now() + BOUND;
        loop {
            let before = books.changes();
            let mut left = super::check::differences(&self.cluster, &self.asked);
            if left.is_empty() {
                world.note(|| "all is as it should be".into());
                world.sleep(CALM).await;
                left = super::check::differences(&self.cluster, &self.asked);
                if left.is_empty() && books.changes() == before {
                    return;
                }
                left.push("it does not come to rest".into());
            }
            if !books.wrong().is_empty() {
                return;
            }
            if world.now() >= until {
                for what in left {
                    books.is_wrong(format!("at the end: {what}"));
                }
                return;
            }
            world.sleep(Duration::from_secs(1)).await;
        }
    }
}

async fn perform(fleet: &Fleet, ask: Ask, ids: &[String]) -> Result<(), FleetError> {
    match ask {
        Ask::Submit(name, text) => fleet.submit(&name, &text, Vec::new()).await.map(drop),
        Ask::Start(name, block) => fleet.start(&name, block).await.map(drop),
        Ask::Stop(name, block) => fleet.stop(&name, block).await.map(drop),
        Ask::Restart(name) => fleet.restart(&name, false).await.map(drop),
        Ask::Unload(name) => fleet.unload(&name, false).await.map(drop),
        Ask::Destroy(name) => fleet.destroy(&name).await,
        Ask::Mark(machine, mark) => fleet.mark(&ids[machine], &mark).await.map(drop),
        Ask::Deploy(name, text) => {
            let asked = Asked {
                text: Some(text),
                timeout: Some(40),
                ..Asked::default()
            };
            fleet.deploy(&name, asked).await.map(drop)
        }
        Ask::Abort(name) => fleet.abort(&name, "somebody").await.map(drop),
        Ask::Rollback(name) => fleet.rollback(&name, Asked::default()).await.map(drop),
        Ask::Rebind(volume, machine) => fleet.rebind(&volume, &ids[machine]).await.map(drop),
    }
}

/// Machines, lines and containers fail and come back.
async fn troubles_of(cluster: &Arc<Cluster>) {
    let world = &cluster.world;
    let wait = |most| world.sleep(Duration::from_millis(world.below(most)));
    for _ in 0..1 + world.below(4) {
        wait(10_000).await;
        let machine = world.of(&cluster.machines).clone();
        if machine.is_removed() {
            continue;
        }
        match world.below(13) {
            0..=3 => {
                let (to, from) = *world.of(&[(false, false), (true, false), (false, true)]);
                cut(cluster, &machine, to, from).await;
            }
            4..=6 => {
                cluster.kill(&machine);
                wait(if world.one_in(3) { 30_000 } else { 2_000 }).await;
                cluster.start(&machine);
            }
            7 => {
                cluster.power_off(&machine);
                wait(40_000).await;
                cluster.start(&machine);
            }
            8 => {
                // The store is away: of all, and leases have their whole time again.
                world.note(|| "the store is away".into());
                let lines = cluster.members();
                let lines: Vec<_> = lines.map(|m| (m.clone(), *m.line.borrow())).collect();
                for (machine, line) in &lines {
                    let (to, from) = (false, false);
                    machine.line.send_replace(Line { to, from, ..*line });
                }
                cluster
                    .shared
                    .act(None, |data, now| data.is_away(true, now));
                wait(20_000).await;
                cluster
                    .shared
                    .act(None, |data, now| data.is_away(false, now));
                for (machine, line) in lines {
                    machine.line.send_replace(line);
                }
                world.note(|| "the store is back".into());
            }
            9 => {
                machine.line.send_modify(|line| line.slow = 1500);
                wait(20_000).await;
                machine.line.send_modify(|line| line.slow = 20);
            }
            10 if cluster.machines.len() > 2 && machine.number > 1 => cluster.remove(&machine),
            _ => {
                if let Some(id) = machine.table.any_running() {
                    machine.table.ends(&id, 1, "it dies");
                }
            }
        }
    }
}

async fn cut(cluster: &Arc<Cluster>, machine: &Arc<Machine>, to: bool, from: bool) {
    let world = &cluster.world;
    world.note(|| format!("m{} is cut off: to {to}, from {from}", machine.number));
    machine
        .line
        .send_modify(|line| (line.to, line.from) = (to, from));
    let time = world.below(if world.one_in(2) { 5_000 } else { 60_000 });
    world.sleep(Duration::from_millis(time)).await;
    if !machine.is_removed() {
        machine
            .line
            .send_modify(|line| (line.to, line.from) = (true, true));
        world.note(|| format!("m{} is no more cut off", machine.number));
    }
}
