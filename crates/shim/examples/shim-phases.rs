//! Where the time of a start and of an exec goes: medians over many rounds, in milliseconds.
//!
//! `cargo run -p coracle-shim --example shim-phases -- [ROUNDS] [PAUSE_MS]` needs root, `/bin/busybox`, and the holder
//! built beside it. A pause between rounds shows what a machine at rest pays.
#![allow(clippy::unwrap_used)]

#[path = "../tests/common/mod.rs"]
mod common;

use common::{Bench, process, process_json};
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
    let _ = process(&[]);
    for pid in common::shim_pids(&bench.shim_dir(&spec.id).join("shim.sock")) {
        let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
        for line in rollup.lines().filter(|l| {
            l.starts_with("Pss:") || l.starts_with("Rss:") || l.starts_with("Private_Dirty")
        }) {
            println!("shim {line}");
        }
    }
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
