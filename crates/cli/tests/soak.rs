//! A cluster of real machines under faults at random, with commands at random meanwhile.
//!
//! After each fault: nothing is lost, everything asked for runs again within its bound, never two of an exclusive unit, nothing
//! doubled, no container without a unit; what had nothing to do with the fault ran on; names and addresses reach every instance;
//! data is there. At the end all is destroyed, and nothing is left in the store, the networks and the mounts.
//!
//! `CORACLE_SEED` repeats a run, `CORACLE_MINUTES` and `CORACLE_ROUNDS` say how long it is, `CORACLE_MACHINES` how many machines.
//!
//! Times count from the moment at which a majority of the machines with the store is connected: before, changes wait.
#![allow(clippy::unwrap_used)]

#[path = "soak/asked.rs"]
mod asked;
mod cluster;
mod common;
#[path = "soak/round.rs"]
mod round;
#[path = "soak/seen.rs"]
mod seen;
#[path = "soak/store.rs"]
mod store;

use asked::{Ask, Asked, Kind, Verb};
use cluster::chaos::{Fault, Length, Random};
use cluster::wait::{MINUTE, stays};
use cluster::witness::Witness;
use cluster::{Cluster, Setup, parts, wait_until};
use common::{errors, text};
use round::{Hold, Round};
use seen::Run;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// A lost machine's units run elsewhere by then, and what a start takes on a busy machine besides.
const BOUND: Duration = Duration::from_secs(20 + 20);
/// A command that takes longer waits for something that is not there now.
const PATIENCE: Duration = Duration::from_secs(6);
/// A daemon that is away for less is not taken for lost.
const SHORT: Duration = Duration::from_secs(7);
/// How long faults go on unless the environment says.
const USUAL: Duration = Duration::from_secs(60);

struct Soak {
    cluster: Cluster,
    witness: Witness,
    random: Random,
    asked: Asked,
    /// Commands that have not been answered yet.
    pending: Vec<Ask>,
    /// How many leases there are without units.
    leases: usize,
    /// How often data was written.
    written: u32,
    /// What each machine has without units.
    bare: Vec<BTreeSet<String>>,
}

#[test]
fn faults_at_random() {
    let random = Random::from_environment();
    let machines = std::env::var("CORACLE_MACHINES").map_or(3, |n| n.parse().unwrap());
    let length = match Length::from_environment(0) {
        Length::Rounds(0) => Length::Time(USUAL),
        given => given,
    };
    let mut soak = Soak::begin(machines, random);
    let (begun, mut rounds) = (Instant::now(), 0);
    loop {
        let over = match length {
            Length::Rounds(wanted) => rounds >= wanted,
            Length::Time(time) => begun.elapsed() >= time,
        };
        if over {
            break;
        }
        rounds += 1;
        soak.round(rounds);
    }
    eprintln!("{rounds} rounds in {:.0} s", begun.elapsed().as_secs_f64());
    let traces = soak.cluster.traces();
    soak.end();
    assert_eq!(traces.left(), [""; 0]);
}

/// The same seed makes the same rounds, and in time each kind of fault and command.
#[test]
fn the_same_seed_makes_the_same_rounds() {
    let rounds = |seed: u64| {
        let (mut random, mut asked) = (Random::new(seed), Asked::first());
        let next = |_| Round::next(&mut random, 3, &mut asked);
        (0..200).map(next).collect::<Vec<_>>()
    };
    assert_eq!(rounds(7), rounds(7));
    assert_ne!(rounds(7), rounds(8));
    let all = rounds(9);
    let word = |fault: &Fault| format!("{fault:?}").split('(').next().unwrap().to_owned();
    let kinds: BTreeSet<String> = all.iter().flat_map(|r| r.faults.iter().map(word)).collect();
    assert_eq!(kinds.len(), 10, "{kinds:?}");
    for verb in [Verb::Start, Verb::Stop, Verb::Restart, Verb::Destroy] {
        assert!(
            all.iter()
                .any(|r| r.asks.iter().any(|(_, a)| a.verb == verb)),
            "{verb:?}"
        );
    }
    for round in &all {
        let hit = round.hit();
        assert!(round.faults.iter().all(|f| (1..=3).contains(&f.machine())));
        assert!(
            round.asks.iter().all(|(n, _)| !hit.contains(n)),
            "{round:?}"
        );
        let disturbed: BTreeSet<usize> = round.faults.iter().map(|f| f.machine()).collect();
        assert_eq!(disturbed.len(), round.faults.len(), "{round:?}");
    }
    assert!(
        all.iter().any(|r| r.hold == Hold::UntilMoved) && all.iter().any(|r| r.drained.is_some())
    );
}

impl Soak {
    fn begin(machines: usize, random: Random) -> Self {
        let cluster = Setup::new(machines).build();
        cluster.each(|machine| {
            machine.load(&parts::redis(), "redis");
            machine.load(&parts::nginx(), "nginx");
        });
        cluster.form();
        store::has_voters(&cluster);
        let witness = Witness::new(&cluster, "only");
        let mut soak = Self {
            cluster,
            witness,
            random,
            asked: Asked::first(),
            pending: Vec::new(),
            leases: 0,
            written: 0,
            bare: Vec::new(),
        };
        let machines = soak.cluster.machines().iter();
        let connected = machines.map(|machine| {
            wait_until("the machines' network is there", MINUTE, || {
                let bare = soak.without_units(machine);
                let has = bare.iter().any(|what| what.contains("cor-overlay"));
                has.then_some(bare).ok_or_else(|| machine.log())
            })
        });
        soak.bare = connected.collect();
        soak.leases = store::leases(&soak.cluster);
        soak.start_all();
        soak.until_as_asked("all was started");
        soak
    }

    fn start_all(&self) {
        let first = self.cluster.machine(1);
        let redis =
            parts::REDIS_UNIT.replace("redis.volume:/data", "keep.volume:/data\nStopTimeout=1");
        // What is to begin where a disk is full just now is begun again, too seldom for the limit of starts.
        let again = |text: &str| format!("{text}[Service]\nRestart=on-failure\nRestartSec=3\n");
        let files = [
            ("web@.container", again(parts::TELL_UNIT)),
            ("front.container", again(parts::NGINX_UNIT)),
            ("keep.volume", "[Volume]\n".to_owned()),
            ("keep.container", again(&redis)),
            (
                "every.container",
                again(
                    "[Container]\nImage=bb\nExec=sleep 100000\nStopTimeout=1\n[X-Fleet]\nGlobal=yes\n",
                ),
            ),
            (
                "only.container",
                again(&self.witness.unit("[X-Deploy]\nExclusive=yes\n")),
            ),
            (
                "job.service",
                again(&format!("[Service]\nExecStart=/bin/sleep {}\n", seen::JOB)),
            ),
        ];
        // Every machine has the files, so that each can be asked.
        for machine in self.cluster.machines() {
            for (name, text) in &files {
                machine.unit(name, text);
            }
        }
        let paths: Vec<String> = files.iter().map(|(name, _)| self.file(1, name)).collect();
        let mut args = vec!["unit", "start"];
        args.extend(paths.iter().map(String::as_str));
        let webs: Vec<&str> = self
            .asked
            .running()
            .filter(|u| u.starts_with("web@"))
            .collect();
        args.extend(webs);
        first.ok(&args);
    }

    /// The path of a unit's file on a machine.
    fn file(&self, n: usize, name: &str) -> String {
        let dir = self.cluster.dir().join(format!("m{n}/units"));
        dir.join(name).to_str().unwrap().to_owned()
    }

    fn all(&self) -> BTreeSet<usize> {
        (1..=self.cluster.machines().len()).collect()
    }

    fn runs(&self) -> Vec<Run> {
        wait_until("every machine says what runs", MINUTE, || {
            seen::look(&self.cluster, &self.all())
        })
    }

    /// Links and mounts of a machine.
    fn without_units(&self, machine: &cluster::Machine) -> BTreeSet<String> {
        let said = |program: &str, args: &[&str]| {
            text(&machine.inside(program).args(args).output().unwrap())
        };
        let links = said("ip", &["-o", "link"]);
        let name = |line: &str| {
            Some(format!(
                "link {}",
                line.split(": ").nth(1)?.split('@').next()?
            ))
        };
        let mounts = said("cat", &["/proc/self/mountinfo"]);
        let place = |line: &str| Some(format!("mount {}", line.split(' ').nth(4)?));
        let links = links.lines().filter_map(name);
        links.chain(mounts.lines().filter_map(place)).collect()
    }

    /// Asks machine `n`, for no longer than [`PATIENCE`].
    fn ask(&self, n: usize, ask: &Ask) -> Result<(), String> {
        let file = self.file(n, ask.unit);
        let is_file = !ask.unit.contains('@');
        let args = match ask.verb {
            // Destroyed, it is known by its file alone.
            Verb::Start if is_file => ["unit", "start", &file],
            Verb::Start => ["unit", "start", ask.unit],
            Verb::Stop => ["unit", "stop", ask.unit],
            Verb::Restart => ["unit", "restart", ask.unit],
            Verb::Destroy => ["unit", "destroy", ask.unit],
        };
        let mut command = self.cluster.machine(n).limited(PATIENCE);
        let output = command.args(args).output().unwrap();
        let said = errors(&output);
        let gone = ask.verb == Verb::Destroy && said.contains("no such unit");
        match output.status.success() || gone {
            true => Ok(()),
            false => Err(format!("m{n} {args:?}: {:?} {said}", output.status.code())),
        }
    }

    fn round(&mut self, number: usize) {
        let machines = self.cluster.machines().len();
        let round = Round::next(&mut self.random, machines, &mut self.asked);
        eprintln!("round {number}: {round:?}");
        let (hit, voters, before) = (round.hit(), self.cluster.voters(1), self.runs());
        if let Some(n) = round.drained {
            let name = self.cluster.machine(n).name();
            self.cluster
                .machine(n)
                .ok(&["machine", "drain", "--no-wait", &name]);
        }
        let begun = Instant::now();
        for fault in &round.faults {
            self.cluster.inflict(*fault);
        }
        for (n, ask) in &round.asks {
            if let Err(why) = self.ask(*n, ask) {
                eprintln!("  waits: {why}");
                self.pending.push(ask.clone());
            }
        }
        let well: BTreeSet<usize> = self.all().difference(&hit).copied().collect();
        let majority = 2 * voters.intersection(&well).count() > voters.len();
        match round.hold {
            Hold::UntilMoved if majority => {
                let but: BTreeSet<&str> = self.pending.iter().map(|ask| ask.unit).collect();
                let left = BOUND.saturating_sub(begun.elapsed());
                wait_until("what was lost runs elsewhere", left, || {
                    // A machine that has nothing is to be missed as well.
                    self.misses(&well, &hit)?;
                    let seen = seen::look(&self.cluster, &well)?;
                    seen::nowhere(&self.asked, &seen, &well, round.drained, &but)
                });
                eprintln!("  moved after {:.1} s", begun.elapsed().as_secs_f64());
            }
            Hold::UntilMoved => self.hold(SHORT),
            Hold::For(time) => self.hold(time),
        }
        for fault in &round.faults {
            self.cluster.mend(*fault);
        }
        self.cluster.each(cluster::Machine::ready);
        let away = begun.elapsed();
        let mended = Instant::now();
        self.catch_up(&round);
        self.until_as_asked("all is as asked");
        eprintln!(
            "  as asked {:.1} s after it was mended",
            mended.elapsed().as_secs_f64()
        );
        self.ran_on(&round, &before, &voters, away);
        self.has_its_data();
        self.never_two();
    }

    /// Whether a machine that is well takes those that are hit for lost.
    fn misses(&self, well: &BTreeSet<usize>, hit: &BTreeSet<usize>) -> Result<(), String> {
        let status = self.cluster.status(*well.first().unwrap());
        let machines = status["machines"].as_array().unwrap().iter();
        for machine in machines.filter(|m| m["alive"] == true) {
            let n = self.cluster.numbered(machine["id"].as_str().unwrap());
            if n.is_some_and(|n| hit.contains(&n)) {
                return Err(format!("{n:?} is not missed"));
            }
        }
        Ok(())
    }

    /// Of the exclusive unit no two ran at once, and none after its successor.
    fn never_two(&self) {
        self.witness.was_alone();
        assert_eq!(self.witness.stale(), []);
    }

    /// Leaves things as they are, and looks at the witness.
    fn hold(&self, time: Duration) {
        stays(time, || {
            self.never_two();
            true
        });
    }

    /// What could not be done is done now.
    fn catch_up(&mut self, round: &Round) {
        let mut random = self.random.clone();
        let mut anyone = || 1 + random.below(self.cluster.machines().len());
        if let Some(n) = round.drained {
            let name = self.cluster.machine(n).name();
            wait_until("the drain is ended", MINUTE, || {
                let mut command = self.cluster.machine(anyone()).limited(PATIENCE);
                let output = command
                    .args(["machine", "uncordon", &name])
                    .output()
                    .unwrap();
                output
                    .status
                    .success()
                    .then_some(())
                    .ok_or_else(|| errors(&output))
            });
        }
        for ask in &self.pending {
            wait_until(&format!("{ask:?} is done"), MINUTE, || {
                self.ask(anyone(), ask)
            });
        }
        self.pending.clear();
    }

    fn until_as_asked(&self, what: &str) {
        let all = self.all();
        let look = || {
            let seen = seen::look(&self.cluster, &all)?;
            seen::differs(&self.asked, &seen, all.len())?;
            for machine in self.cluster.machines() {
                seen::lists(&self.asked, machine)?;
                seen::reaches(&self.asked, machine)?;
            }
            store::is_settled(&self.cluster)?;
            Ok::<_, String>(seen)
        };
        wait_until(what, BOUND, || {
            let first = look()?;
            // What changes between two looks is not there yet.
            match look()? == first {
                true => Ok(()),
                false => Err("it still changes".to_owned()),
            }
        });
    }

    /// What had nothing to do with the faults and was not asked to change ran on.
    fn ran_on(&self, round: &Round, before: &[Run], voters: &BTreeSet<usize>, away: Duration) {
        let hit = round.hit();
        let well = voters.difference(&hit).count();
        // Without a majority there is no telling who is lost to whom.
        let few = 2 * well <= voters.len();
        let killed = |f: &Fault| matches!(f, Fault::Kill(_));
        let brief = round.faults.iter().all(killed) && away < SHORT;
        if few && !brief {
            return;
        }
        let asked: BTreeSet<&str> = round.asks.iter().map(|(_, ask)| ask.unit).collect();
        // What may be there once only ends by itself when the store does not answer soon, as while another is elected.
        let silent = brief || !voters.is_disjoint(&hit);
        let once = |unit: &str| matches!(asked::kind(unit), Kind::Exclusive | Kind::Pinned);
        let now = self.runs();
        for run in before.iter().filter(|r| r.runs) {
            let there = !hit.contains(&run.machine) || brief;
            let drained = round.drained == Some(run.machine);
            let may_end = drained || silent && once(&run.unit);
            if there && !may_end && !asked.contains(&*run.unit) {
                assert!(
                    now.contains(run),
                    "{run:?} did not run on; now there is {now:#?}"
                );
            }
        }
    }

    fn has_its_data(&mut self) {
        let n = 1 + self.written as usize % self.cluster.machines().len();
        let redis = |args: &[&str]| {
            let mut command = self.cluster.machine(n).limited(PATIENCE);
            command.args(["exec", "keep", "redis-cli"]).args(args);
            let output = command.output().unwrap();
            match output.status.success() {
                true => Ok(text(&output)),
                false => Err(errors(&output)),
            }
        };
        if self.written > 0 {
            let is = wait_until("Redis answers", MINUTE, || redis(&["get", "written"]));
            assert_eq!(is, self.written.to_string(), "data was lost");
        }
        self.written += 1;
        let next = self.written.to_string();
        wait_until("Redis takes data", MINUTE, || {
            match redis(&["set", "written", &next])?.as_str() {
                "OK" => Ok(()),
                other => Err(other.to_owned()),
            }
        });
    }

    /// All is destroyed, and nothing is left.
    fn end(mut self) {
        for unit in self.asked.known() {
            let ask = Ask {
                verb: Verb::Destroy,
                unit,
            };
            wait_until(&format!("{unit} is destroyed"), MINUTE, || {
                self.ask(2, &ask)
            });
        }
        self.cluster
            .machine(1)
            .ok(&["unit", "destroy", "web@.container", "keep.volume"]);
        self.asked = Asked::nothing();
        wait_until("nothing runs", BOUND, || {
            let seen = seen::look(&self.cluster, &self.all())?;
            seen::differs(&self.asked, &seen, self.all().len())
        });
        for (machine, bare) in self.cluster.machines().iter().zip(&self.bare) {
            wait_until("links and mounts are as before", BOUND, || {
                let now = self.without_units(machine);
                let more: Vec<_> = now.symmetric_difference(bare).collect();
                more.is_empty()
                    .then_some(())
                    .ok_or_else(|| format!("m{}: {more:?}", machine.n()))
            });
        }
        store::is_bare(&self.cluster, self.leases);
    }
}
