//! Many simulated machines, one real leader, one real etcd: how many units a second, and at what cost.
//!
//! ```text
//! fleet-load MACHINES UNITS [IDLE] [DIRECTORY]     figures, one a line: name, value, unit
//! ```
//! IDLE is for how many seconds the idle load is measured (30). It runs in namespaces of its own, which take everything with them
//! when it ends, however it ends. Machines are simulated (see `agents`); the leader is the real one in a process of its own (`lead`),
//! with the real planner, over Debian's etcd (`etcd`). `scripts/bench-fleet` makes tables of it.

mod agents;
mod etcd;
mod lead;
mod run;
mod units;

use run::{Figures, Size};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What goes wrong ends the program.
type Fallible<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

const INSIDE: &str = "CORACLE_FLEET_LOAD_INSIDE";

fn main() -> Fallible<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    match *words {
        ["lead", url, dir] => runtime.block_on(lead::serve(url, Path::new(dir))),
        [_, _, ..] if std::env::var_os(INSIDE).is_none() => inside(&words),
        [machines, units, ref rest @ ..] => {
            let size = Size {
                machines: machines.parse()?,
                units: units.parse()?,
                idle: Duration::from_secs(rest.first().map_or(Ok(30), |s| s.parse())?),
                lost: 5,
                more: 20,
            };
            let dir = tempfile::Builder::new()
                .prefix("fleet-load")
                .tempdir_in(rest.get(1).map_or_else(std::env::temp_dir, PathBuf::from))?;
            let own = std::env::current_exe()?;
            let program = |url: &str, dir: &Path| {
                let mut command = tokio::process::Command::new(&own);
                command.args(["lead", url]).arg(dir);
                command
            };
            let mut tell = |name: &'static str, value: f64, unit: &'static str| {
                println!("{name} {value:.3} {unit}");
            };
            let mut figures = Figures(&mut tell);
            let measured = run::measure(size, dir.path(), &program, &mut figures);
            runtime.block_on(measured)
        }
        _ => Err("usage: fleet-load MACHINES UNITS [IDLE] [DIRECTORY]".into()),
    }
}

/// Runs this program anew in namespaces of its own.
fn inside(words: &[&str]) -> Fallible<()> {
    let ended = std::process::Command::new("unshare")
        .args([
            "--net",
            "--mount-proc",
            "--pid",
            "--fork",
            "--kill-child",
            "--",
        ])
        .args(["sh", "-c", "ip link set lo up && exec \"$@\"", "sh"])
        .arg(std::env::current_exe()?)
        .args(words)
        .env(INSIDE, "1")
        .status()?;
    ended
        .success()
        .then_some(())
        .ok_or_else(|| format!("it failed: {ended}").into())
}
