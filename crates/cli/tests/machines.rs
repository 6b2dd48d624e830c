//! The harness of clusters itself: each fault acts, as the kernel's own tools see it, and nothing is left.
#![allow(clippy::unwrap_used)]

mod cluster;
mod common;

use cluster::wait::{MINUTE, stays};
use cluster::{Cluster, Setup, traces, wait_for};
use std::collections::BTreeSet;

#[path = "machines/acts.rs"]
mod acts;
#[path = "machines/plans.rs"]
mod plans;
#[path = "machines/servers.rs"]
mod servers;
