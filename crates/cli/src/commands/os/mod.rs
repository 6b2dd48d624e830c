//! `coracle os`: the operating system of machines that run Coracle's own image. One file a verb.

mod config;
mod install;
mod rollout;
mod status;
mod updates;

use crate::client::Client;
use crate::error::Result;

/// `coracle os`
#[derive(Debug, clap::Subcommand)]
pub enum Os {
    /// The document that tells a machine what it is
    #[command(subcommand)]
    Config(config::Config),
    /// What runs, what each slot holds, and how the last update went
    Status,
    /// Write an update into the other slot; without an image, look at the channel now
    Update(updates::Update),
    /// Write the system that runs onto another disk
    Install(install::Install),
    /// Start from the other slot, with the release that was there before
    Rollback(updates::Rollback),
    /// The channel that updates come from; shown, or set for this machine
    Channel(rollout::Channel),
    /// Which machines of the cluster have a turn for a restart, and how releases stand; shown, or changed
    Rollout(rollout::Rollout),
    /// What became of updates
    History,
    /// The phases of this boot and what each took
    BootReport,
}

pub async fn os(client: &Client, command: &Os) -> Result<()> {
    match command {
        Os::Config(command) => config::config(command),
        Os::Status => status::status(client).await,
        Os::Update(args) => updates::update(client, args).await,
        Os::Install(args) => install::install(client, args).await,
        Os::Rollback(args) => updates::rollback(client, args).await,
        Os::Channel(args) => rollout::channel(client, args).await,
        Os::Rollout(args) => rollout::rollout(client, args).await,
        Os::History => status::history(client).await,
        Os::BootReport => status::boot_report(client).await,
    }
}
