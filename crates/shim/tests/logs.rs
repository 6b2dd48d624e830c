//! The log: rotated, and in nobody's way.
#![allow(clippy::unwrap_used)]

mod common;

use common::{Bench, log_texts};
use coracle_shim_protocol::shim::{LogConfig, Request};
use std::fs;

#[test]
fn logs_are_rotated_and_hold_long_lines() {
    let mut bench = Bench::new();
    let script = "i=0; while [ $i -lt 200 ]; do echo line number $i of the log; i=$((i+1)); done; \
                  dd if=/dev/zero bs=20000 count=1 2>/dev/null | tr '\\0' x; echo; printf end";
    let mut spec = bench.spec(&["sh", "-c", script], |_| {});
    let path = bench.state_dir(&spec.id).join("x.log");
    spec.log = Some(LogConfig {
        path: path.clone(),
        max_size: 30_000,
        max_files: 2,
        attrs: Default::default(),
    });
    let (_, stdout, _) = bench.run(&spec);
    let first = path.with_extension("log.1");
    assert!(
        fs::metadata(&path).unwrap().len() <= 30_000
            && fs::metadata(&first).unwrap().len() <= 30_000
    );
    let mut texts = log_texts(&first);
    texts.extend(log_texts(&path));
    let pieces: Vec<usize> = texts
        .iter()
        .map(String::len)
        .filter(|l| *l > 1000)
        .collect();
    assert_eq!(pieces, [16 << 10, 20_001 - (16 << 10)]);
    assert_eq!(texts.last().unwrap(), "end");
    assert!(stdout.ends_with(&texts.concat()));
}

/// A small filesystem that goes with its guard.
struct Small(std::path::PathBuf);

impl Small {
    fn new(path: &std::path::Path, size: &str) -> Self {
        fs::create_dir_all(path).unwrap();
        let options = std::ffi::CString::new(format!("size={size}")).unwrap();
        let flags = rustix::mount::MountFlags::empty();
        rustix::mount::mount("tmpfs", path, "tmpfs", flags, options.as_c_str()).unwrap();
        Self(path.to_owned())
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(&self.0, rustix::mount::UnmountFlags::DETACH);
    }
}

#[test]
fn a_full_disk_neither_stops_nor_kills() {
    let mut bench = Bench::new();
    let disk = Small::new(&bench.dir.path().join("small"), "256k");
    fs::write(disk.0.join("filler"), vec![0; 128 << 10]).unwrap();
    let script = "seq 1 5000; echo full; read x; echo after";
    let mut spec = bench.spec(&["sh", "-c", script], |_| {});
    let path = disk.0.join("x.log");
    spec.log = Some(LogConfig {
        path: path.clone(),
        max_size: 10 << 20,
        max_files: 1,
        attrs: Default::default(),
    });
    spec.open_stdin = true;
    let mut client = bench.prepare(&spec);
    let mut attached = bench.attach(&spec.id, true);
    client.ask(&Request::Start);
    let seen = attached.until("full\n");
    assert!(seen.ends_with("5000\nfull\n"));
    fs::remove_file(disk.0.join("filler")).unwrap();
    attached.stdin(b"\n");
    assert_eq!(attached.output().0, "after\n");
    assert_eq!(client.exited().code, 0);
    client.release();
    let texts = log_texts(&path);
    assert_eq!(texts.last().unwrap(), "after\n");
    let (notices, lines): (Vec<_>, Vec<_>) = texts.iter().partition(|t| t.starts_with("coracle: "));
    let lost: usize = notices
        .iter()
        .map(|n| n.split(' ').nth(1).unwrap().parse::<usize>().unwrap())
        .sum();
    assert!(lost > 0 && lines.len() > 100);
    assert_eq!(lines.len() + lost, 5002, "{notices:?}");
}
