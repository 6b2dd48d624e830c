//! What machines of one cluster have from each other: images, addresses, names; and fleet's own sample units on three of them.
#![allow(clippy::unwrap_used)]

mod cluster;
mod common;
#[path = "across/fleet.rs"]
mod fleet;
#[path = "across/images.rs"]
mod images;
#[path = "across/network.rs"]
mod network;
#[path = "across/pool.rs"]
mod pool;

use cluster::wait::MINUTE;
use cluster::{Cluster, Machine, Setup, parts, wait_for, wait_until};
use common::{errors, text};
use std::collections::BTreeSet;
use std::time::Duration;

/// Machines of one cluster.
fn joined(machines: usize) -> Cluster {
    let cluster = Cluster::new(machines);
    cluster.form();
    cluster
}

/// As `Machine::ok`, with the reason if it fails, to be tried again.
fn asked(machine: &Machine, args: &[&str]) -> Result<String, String> {
    let output = machine.coracle(args);
    match output.status.success() {
        true => Ok(text(&output)),
        false => Err(format!("{} {args:?}: {}", machine.name(), errors(&output))),
    }
}
