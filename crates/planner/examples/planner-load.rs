//! How many units a second are decided: for a fresh cluster, and when one machine is lost.
//!
//! `cargo run -p coracle-planner --example planner-load [UNITS A MACHINE]` (20).
use coracle_planner::*;
use std::time::{Duration, Instant};

fn unit(n: usize, of: usize) -> (UnitName, UnitSpec) {
    let template = n % (of / 20).max(1);
    let needs = Needs {
        cpu_millis: 50 + 25 * (template as u64 % 4),
        memory: (64 << 20) * (1 + template as u64 % 3),
        spread: Some(format!("app{template}@.container")),
        ..Needs::default()
    };
    let spec = UnitSpec {
        uid: format!("u{template}").into(),
        wanted: Wanted::Launched,
        incarnation: 0,
        needs,
    };
    (format!("app{template}@{n}.container").into(), spec)
}

fn placed(decisions: &[Decision]) -> usize {
    decisions
        .iter()
        .filter(|d| matches!(d, Decision::Place { .. }))
        .count()
}

fn healthy(planner: &mut Planner, decisions: &[Decision]) {
    for decision in decisions {
        match decision {
            Decision::Place { placement, .. } => {
                let condition = Condition::Healthy;
                let placed = Placed {
                    condition,
                    leaving: false,
                };
                planner.set_placed(placement, Some(placed));
            }
            Decision::Withdraw { placement, .. } => planner.set_placed(placement, None),
            Decision::Wait { .. } | Decision::Settled { .. } => {}
        }
    }
}

/// Bytes that this process has in memory now; 0 where that cannot be read.
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = status
        .split_whitespace()
        .nth(1)
        .and_then(|n| n.parse::<usize>().ok());
    pages.unwrap_or(0) * 4096
}

fn rate(n: usize, time: Duration) -> f64 {
    n as f64 / time.as_secs_f64()
}

fn main() {
    let each = std::env::args()
        .nth(1)
        .and_then(|n| n.parse().ok())
        .unwrap_or(20);
    println!(
        "machines    units  fresh: told   decided   units/s  lost: units  decided   units/s  one more  resident"
    );
    for machines in [100, 1000, 5000] {
        let (units, before) = (machines * each, resident());
        let mut planner = Planner::new(Settings::default());
        let state = MachineState {
            alive: true,
            cpu_millis: 16_000,
            memory: 64 << 30,
            ..MachineState::default()
        };
        let id = |n: usize| MachineId::from(format!("{n:032x}"));
        let start = Instant::now();
        for n in 0..machines {
            planner.set_machine(&id(n), Some(state.clone()));
        }
        for n in 0..units {
            let (name, spec) = unit(n, units);
            planner.set_unit(&name, Some(spec));
        }
        let told = start.elapsed();
        let start = Instant::now();
        let decisions = planner.plan(Timestamp(0));
        let fresh = start.elapsed();
        let all = placed(&decisions);
        healthy(&mut planner, &decisions);
        drop(decisions);
        planner.plan(Timestamp(1));
        let memory = resident().saturating_sub(before);

        let start = Instant::now();
        planner.set_machine(
            &id(machines / 2),
            Some(MachineState {
                alive: false,
                ..state
            }),
        );
        let decisions = planner.plan(Timestamp(2));
        let lost = start.elapsed();
        let moved = placed(&decisions);
        healthy(&mut planner, &decisions);
        planner.plan(Timestamp(3));

        let rounds = 1000u32;
        let start = Instant::now();
        for n in 0..rounds {
            let (name, spec) = unit(units + n as usize, units);
            planner.set_unit(&name, Some(spec));
            planner.plan(Timestamp(4));
        }
        let one = start.elapsed() / rounds;
        println!(
            "{machines:8} {units:8}  {:8.0} ms {:6.0} ms {:9.0}  {moved:11} {:5.2} ms {:9.0} {:6.1} us {:6} MiB",
            told.as_secs_f64() * 1e3,
            fresh.as_secs_f64() * 1e3,
            rate(all, fresh),
            lost.as_secs_f64() * 1e3,
            rate(moved, lost),
            one.as_secs_f64() * 1e6,
            memory >> 20,
        );
    }
}
