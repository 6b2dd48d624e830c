//! What is measured of one size of cluster.

use super::Fallible;
use super::agents::Agents;
use super::etcd::{Counts, Etcd};
use super::lead::Leading;
use super::units;
use coracle_store::{EtcdOptions, EtcdStore};
use std::path::Path;
use std::time::{Duration, Instant};
use tokio::process::Command;

/// A cluster, and how it is measured.
#[derive(Clone, Copy)]
pub struct Size {
    pub machines: usize,
    pub units: usize,
    /// How long nothing happens while that is measured.
    pub idle: Duration,
    /// Machines that are lost, one after the other.
    pub lost: usize,
    /// Units that are started one by one.
    pub more: usize,
}

/// Name, value and unit, told as they are measured.
pub struct Figures<'a>(pub &'a mut (dyn FnMut(&'static str, f64, &'static str) + Send));

impl Figures<'_> {
    fn push(&mut self, (name, value, unit): (&'static str, f64, &'static str)) {
        (self.0)(name, value, unit);
    }
}

/// A command that comes to [`super::lead::serve`], given etcd's address and a directory.
pub type Program<'a> = &'a (dyn Fn(&str, &Path) -> Command + Sync);

/// Measures everything, in directories below `dir`.
pub async fn measure(
    size: Size,
    dir: &Path,
    program: Program<'_>,
    figures: &mut Figures<'_>,
) -> Fallible<()> {
    apart(size, &dir.join("apart"), program, figures).await?;
    together(size, &dir.join("together"), program, figures).await
}

/// How often the leader is asked: that is work for it, too, more of it with more units.
fn often(size: Size) -> Duration {
    Duration::from_millis(match size.units {
        0..5_000 => 5,
        5_000..50_000 => 100,
        _ => 250,
    })
}

/// Each by itself: machines do not answer before everything is written.
async fn apart(
    size: Size,
    dir: &Path,
    program: Program<'_>,
    figures: &mut Figures<'_>,
) -> Fallible<()> {
    let (etcd, agents, mut leader) = begin(size, dir, program, false).await?;
    let (count, units) = (size.units as f64, size.units);
    let begun = (etcd.counts().await?, cpu(&etcd, &leader)?);
    let placed = leader
        .until("all are placed", often(size), |t| t.placed == units)
        .await?;
    let wrote = agents.asked(units).await?;
    let written = (etcd.counts().await?, cpu(&etcd, &leader)?);
    figures.push(("decided", count / placed.deciding, "units/s"));
    figures.push(("committed", count / wrote, "units/s"));
    processors(
        figures,
        ["commit-etcd", "commit-leader", "commit-agents"],
        begun.1,
        written.1,
    );
    traffic(
        figures,
        ["commit-requests", "commit-puts", "commit-in", "commit-out"],
        &begun.0,
        &written.0,
        count,
    );

    let released = Instant::now();
    agents.answer();
    leader
        .until("all answers are taken in", often(size), |t| {
            t.answered == units
        })
        .await?;
    figures.push((
        "acknowledged",
        count / released.elapsed().as_secs_f64(),
        "units/s",
    ));
    let answered = (etcd.counts().await?, cpu(&etcd, &leader)?);
    processors(
        figures,
        ["answer-etcd", "answer-leader", "answer-agents"],
        written.1,
        answered.1,
    );
    traffic(
        figures,
        ["answer-requests", "answer-puts", "answer-in", "answer-out"],
        &written.0,
        &answered.0,
        count,
    );
    figures.push(("leader-memory", memory(leader.pid(), "VmRSS:")?, "MiB"));
    figures.push(("leader-memory-most", memory(leader.pid(), "VmHWM:")?, "MiB"));

    idle(size, &etcd, &leader, figures).await?;
    lost(size, &agents, &mut leader, figures).await?;
    figures.push(("lapsed", agents.lapsed() as f64, "leases"));
    end(etcd, agents, leader).await
}

/// As it is: machines answer while more is written.
async fn together(
    size: Size,
    dir: &Path,
    program: Program<'_>,
    figures: &mut Figures<'_>,
) -> Fallible<()> {
    let begun = Instant::now();
    let (etcd, agents, mut leader) = begin(size, dir, program, true).await?;
    figures.push(("prepared", begun.elapsed().as_secs_f64(), "s"));
    let begun = Instant::now();
    let units = size.units;
    leader.until("it leads", often(size), |_| true).await?;
    figures.push(("leads", begun.elapsed().as_secs_f64(), "s"));
    leader
        .until("all run", often(size), |t| t.running == units)
        .await?;
    let took = begun.elapsed().as_secs_f64();
    figures.push(("all-run", took, "s"));
    figures.push(("run", units as f64 / took, "units/s"));
    let mut more = Vec::new();
    for n in 0..size.more {
        more.push(leader.one_more(&format!("more-{n}.container")).await? * 1e3);
    }
    figures.push(("one-more", median(more), "ms"));
    figures.push(("lapsed-together", agents.lapsed() as f64, "leases"));
    end(etcd, agents, leader).await
}

async fn begin(
    size: Size,
    dir: &Path,
    program: Program<'_>,
    answer: bool,
) -> Fallible<(Etcd, Agents, Leading)> {
    let etcd = Etcd::start(&dir.join("etcd")).await?;
    let url = Etcd::url();
    let agents = Agents::join(&url, size.machines).await?;
    let store = EtcdStore::new(EtcdOptions::new([&url]))?;
    units::write(&store, size.units).await?;
    if answer {
        agents.answer();
    }
    let leader = Leading::start(program(&url, &dir.join("leader")))?;
    Ok((etcd, agents, leader))
}

async fn end(etcd: Etcd, agents: Agents, leader: Leading) -> Fallible<()> {
    leader.end().await?;
    agents.end();
    etcd.end().await
}

/// What machines ask of the store while nothing happens.
async fn idle(
    size: Size,
    etcd: &Etcd,
    leader: &Leading,
    figures: &mut Figures<'_>,
) -> Fallible<()> {
    // What was set off has come to rest when nothing was written for a second.
    let mut before = etcd.counts().await?.puts();
    loop {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let now = etcd.counts().await?.puts();
        if std::mem::replace(&mut before, now) == now {
            break;
        }
    }
    let (before, cpu_before, begun) = (etcd.counts().await?, cpu(etcd, leader)?, Instant::now());
    tokio::time::sleep(size.idle).await;
    let (after, cpu_after, took) = (etcd.counts().await?, cpu(etcd, leader)?, begun.elapsed());
    let each = size.machines as f64 * took.as_secs_f64();
    let of = |count: fn(&Counts) -> f64| (count(&after) - count(&before)) / each;
    figures.push(("idle-requests", of(Counts::requests), "/s a machine"));
    figures.push(("idle-operations", of(Counts::operations), "/s a machine"));
    figures.push((
        "idle-bytes",
        of(|c| c.received() + c.sent()),
        "bytes/s a machine",
    ));
    let busy = |n: usize| 100.0 * (cpu_after[n] - cpu_before[n]) / took.as_secs_f64();
    figures.push(("idle-etcd", busy(0), "% of a processor"));
    figures.push(("idle-leader", busy(1), "% of a processor"));
    Ok(())
}

async fn lost(
    size: Size,
    agents: &Agents,
    leader: &mut Leading,
    figures: &mut Figures<'_>,
) -> Fallible<()> {
    let (mut took, mut had) = (Vec::new(), 0);
    for n in 0..size.lost {
        let (seconds, units) = agents.lose(n * size.machines / size.lost).await?;
        took.push(seconds * 1e3);
        had = had.max(units);
        let so = |t: &coracle_fleet::Tally| t.running == size.units;
        leader.until("all run again", often(size), so).await?;
    }
    figures.push(("lost-units", had as f64, "units at most"));
    figures.push((
        "replaced-most",
        took.iter().copied().fold(0.0, f64::max),
        "ms",
    ));
    figures.push(("replaced", median(took), "ms"));
    Ok(())
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}

fn traffic(
    figures: &mut Figures<'_>,
    names: [&'static str; 4],
    before: &Counts,
    after: &Counts,
    units: f64,
) {
    let of = |count: fn(&Counts) -> f64| (count(after) - count(before)) / units;
    figures.push((names[0], of(Counts::operations), "a unit"));
    figures.push((names[1], of(Counts::puts), "a unit"));
    figures.push((names[2], of(Counts::received), "bytes a unit"));
    figures.push((names[3], of(Counts::sent), "bytes a unit"));
}

fn processors(
    figures: &mut Figures<'_>,
    names: [&'static str; 3],
    before: [f64; 3],
    after: [f64; 3],
) {
    for (n, name) in names.into_iter().enumerate() {
        figures.push((name, after[n] - before[n], "processor seconds"));
    }
}

/// Processor seconds of etcd, the leader, and this process with all agents.
fn cpu(etcd: &Etcd, leader: &Leading) -> Fallible<[f64; 3]> {
    let of = |pid: u32| -> Fallible<f64> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
        let fields = stat.rsplit_once(") ").map_or("", |(_, rest)| rest);
        let ticks = fields.split(' ').skip(11).take(2);
        let ticks: f64 = ticks.filter_map(|t| t.parse::<f64>().ok()).sum();
        // The kernel tells hundredths.
        Ok(ticks / 100.0)
    };
    Ok([of(etcd.pid())?, of(leader.pid())?, of(std::process::id())?])
}

/// MiB, by the name that the kernel has for it.
fn memory(pid: u32, what: &str) -> Fallible<f64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix(what));
    let kib = line.and_then(|rest| rest.trim().trim_end_matches(" kB").parse::<f64>().ok());
    Ok(kib.ok_or("the kernel does not tell how large a process is")? / 1024.0)
}
