//! Cloud-config documents, as CoreOS and cloud-init have them, to a checked configuration.
//!
//! A document is YAML after a first line `#cloud-config`. [`parse`] takes text in which the machine's addresses already stand
//! ([`substitute`]) and gives whatever could be understood together with every problem: a machine has to stay reachable, so keys and
//! network survive a mistake elsewhere. Nothing here reads files or knows the machine.
//!
//! The keys are those of coreos-cloudinit (`Documentation/cloud-config.md` there) as far as they have a meaning, `write_files` and
//! `manage_etc_hosts` as cloud-init has them, and Coracle's own under `coracle`. `-` and `_` in a key are alike.
//!
//! Where something is wrong with a part, that part is left out: a file, a unit, a label, a key. Of an interface whose address is
//! wrong, the address is left out, and it asks for one by DHCP unless it is told not to.
mod address;
mod content;
mod coracle;
mod coreos;
mod document;
mod fields;
mod files;
mod header;
mod model;
mod nearest;
mod network;
mod problem;
mod recover;
mod settings;
mod ssh;
mod ssh_options;
mod substitute;
mod tree;
mod understand;
mod unit_text;
mod units;
mod update;
mod usual;
mod window;

#[cfg(test)]
mod tests;

pub use content::CONTENT_MAX;
pub use document::{DOCUMENT_MAX, Parsed, parse};
pub use files::FILES_MAX;
pub use model::{
    CloudConfig, CloudUnit, Command, DropIn, Interface, Join, Network, RebootStrategy, Registry,
    Selector, Update, UpdateServer, Weekday, Window, WriteFile,
};
pub use problem::Problem;
pub use settings::render_settings;
pub use substitute::{MissingAddress, needs_address, substitute};
pub use understand::{NOBODYS, understand};
