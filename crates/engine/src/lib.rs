//! A container's life.
//!
//! What is asked of a container is kept in Docker's own terms ([`model`]), stored with where the container stands
//! ([`record`]), and turned into an OCI runtime configuration ([`spec`]) when it starts. [`Engine`] holds all of it:
//!
//! | module | what a container lives through there |
//! | --- | --- |
//! | [`create`] | from a request and an image to a record |
//! | `start` | addresses, shim, links, program |
//! | [`exec`], [`stdio`], [`logs`], [`stats`], [`health`] | while it runs |
//! | [`stop`], [`exit`] | its end, and the restart policy |
//! | [`remove`] | gone |
//! | [`step`] | as a step of a build |
//! | [`exclusive`] | never beside another of its kind on any machine |
//! | `restore` | a daemon comes back and finds the truth |
//!
//! The daemon never is a container's parent: the holder forks a shim for each, and [`client`] speaks with both.

pub mod archive;
pub mod changes;
pub mod client;
pub mod commit;
pub mod container;
mod copyup;
pub mod create;
mod door;
mod down;
pub mod engine;
pub mod error;
pub mod events;
pub mod exclusive;
pub mod exec;
pub mod exit;
pub mod files;
mod foreign;
pub mod health;
mod holder;
pub mod id;
mod inbound;
mod join;
pub mod logs;
pub mod machine;
pub mod model;
pub mod mounts;
mod names;
mod overlay;
mod path;
mod ports;
pub mod process;
pub mod record;
pub mod remove;
mod restore;
mod services;
mod skeleton;
pub mod sockets;
pub mod spec;
mod start;
pub mod stats;
pub mod stdio;
pub mod step;
pub mod stop;
mod table;
mod update;
pub mod volumes;

pub use container::Snapshot;
pub use coracle_sys::full as full_error;
pub use door::{Door, Served};
pub use engine::{Engine, EngineOptions};
pub use error::{EngineError, Result};
pub use id::ContainerId;
pub use names::{Instance, SERVICE_LABEL};
pub use services::{PublishedPort, ServiceSpec};
