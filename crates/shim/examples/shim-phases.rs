//! Where the time of a start and of an exec goes: medians over many rounds, in milliseconds.
//!
//! `cargo run -p coracle-shim --example shim-phases -- [ROUNDS] [PAUSE_MS]` needs root, `/bin/busybox`, and the holder
//! built beside it. A pause between rounds shows what a machine at rest pays.
#![allow(clippy::unwrap_used)]

#[path = "../tests/common/mod.rs"]
mod common;

use common::Bench;
use common::spec::process_json;
use coracle_shim_protocol::shim::{Reply, Request};
use std::{fs, time::Instant};

fn main() {
    let mut args = std::env::args().skip(1).map(|a| a.parse::<u64>().unwrap());
    let rounds = args.next().unwrap_or(50);
    let pause = args.next().unwrap_or(0);
    let mut bench = Bench::new();
    let mut table: Vec<(&str, Vec<f64>)> = Vec::new();
    let mut note = |name, from: Instant| {
        let ms = from.elapsed().as_secs_f64() * 1e3;
        match table.iter_mut().find(|(n, _)| *n == name) {
            Some((_, list)) => list.push(ms),
            None => table.push((name, vec![ms])),
        }
    };
    for _ in 0..rounds {
        std::thread::sleep(std::time::Duration::from_millis(pause));
        let spec = bench.spec(&["/bin/true"], |_| {});
        let begin = Instant::now();
        bench.spawn(&spec);
        note("1 spawned", begin);
        let mut client = bench.connect(&spec.id);
        client.ask(&Request::Prepare);
        note("2 prepared", begin);
        let reply = client.ask(&Request::Start);
        assert!(matches!(reply, Reply::Started { .. }), "{reply:?}");
        note("3 started", begin);
        client.exited();
        note("4 exited", begin);
        client.release();
        note("5 gone", begin);
    }
    let spec = bench.spec(&["sleep", "1000"], |_| {});
    let (mut client, pid) = bench.start(&spec);
    let caps = common::oci(&[])["process"]["capabilities"].clone();
    for _ in 0..rounds {
        std::thread::sleep(std::time::Duration::from_millis(pause));
        let mut value = process_json(&["/bin/true"]);
        value["capabilities"] = caps.clone();
        let process = serde_json::from_value(value).unwrap();
        let begin = Instant::now();
        let (_, _, _, status) = bench.exec(&spec.id, process);
        assert_eq!(status.unwrap().code, 0);
        note("6 exec, whole", begin);
    }
    let specs: Vec<_> = (0..100)
        .map(|_| bench.spec(&["sleep", "1000"], |_| {}))
        .collect();
    let (queue, bench_ref) = (std::sync::Mutex::new(specs.iter()), &bench);
    let running = std::sync::Mutex::new(Vec::new());
    let begin = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                while let Some(spec) = { queue.lock().unwrap().next() } {
                    let started = bench_ref.start(spec);
                    running.lock().unwrap().push(started);
                }
            });
        }
    });
    println!(
        "100 starts, 8 at a time: {:.0} ms",
        begin.elapsed().as_secs_f64() * 1e3
    );
    let field = |pid: u32, name: &str| -> u64 {
        let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
        let line = rollup.lines().find(|l| l.starts_with(name)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    };
    let shims: Vec<u32> = specs
        .iter()
        .flat_map(|s| common::shim_pids(&bench.shim_dir(&s.id).join("shim.sock")))
        .collect();
    let pss: u64 = shims.iter().map(|p| field(*p, "Pss:")).sum();
    println!(
        "{} shims: {} kB proportional each",
        shims.len(),
        pss / shims.len() as u64
    );
    let begin = Instant::now();
    for (client, pid) in running.into_inner().unwrap() {
        let held = coracle_sys::process::hold(pid).unwrap();
        coracle_sys::process::signal(&held, 9).unwrap();
        let mut client = client;
        client.exited();
        client.release();
    }
    println!(
        "100 ends, one after the other: {:.0} ms",
        begin.elapsed().as_secs_f64() * 1e3
    );
    let rollup = fs::read_to_string(format!("/proc/{}/smaps_rollup", bench.holder.id())).unwrap();
    println!(
        "holder {}",
        rollup.lines().find(|l| l.starts_with("Pss:")).unwrap()
    );
    let _ = std::process::Command::new("kill")
        .args(["-9", &pid.to_string()])
        .status();
    client.exited();
    client.release();
    for (name, mut list) in table {
        list.sort_by(f64::total_cmp);
        println!(
            "{name:<16} median {:6.2}  least {:6.2}  most {:6.2}",
            list[list.len() / 2],
            list[0],
            list[list.len() - 1]
        );
    }
}
