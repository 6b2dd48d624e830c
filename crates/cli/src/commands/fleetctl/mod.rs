//! fleet's command over fleet's API. What that API has no words for, a text with its comments, output and reasons, comes
//! from our own.

mod api;
pub mod args;
mod change;
mod files;
mod lists;
mod names;
mod show;
mod ssh;
mod tabs;

use crate::client::Client;
use crate::error::{CliError, Result};
use crate::format::out;
use args::{Fleetctl, Verb};

pub use args::{command, read};

pub async fn fleetctl(client: &Client, args: &Fleetctl) -> Result<()> {
    if let Some(tunnel) = &args.tunnel {
        return Err(CliError::Usage(format!(
            "--tunnel is not supported; call `ssh {tunnel} fleetctl …`, or forward the socket of that machine (`ssh -L \
             PATH:/run/coracle/coracle.sock {tunnel}`) and give --endpoint unix://PATH"
        )));
    }
    match &args.verb {
        Verb::Submit(files) => change::submit(client, files).await,
        Verb::Load(args) => change::load(client, args).await,
        Verb::Start(args) => change::start(client, args).await,
        Verb::Stop(args) => change::stop(client, args).await,
        Verb::Restart(args) => change::restart(client, args).await,
        Verb::Unload(args) => change::unload(client, args).await,
        Verb::Destroy { no_block, units } => change::destroy(client, units, *no_block).await,
        Verb::Cat { unit } => show::cat(client, unit).await,
        Verb::Status { units } => show::status(client, units).await,
        Verb::Journal {
            follow,
            lines,
            unit,
        } => show::journal(client, unit, *lines, *follow).await,
        Verb::Ssh(ssh) => ssh::ssh(client, &args.ssh, ssh).await,
        Verb::ListMachines(args) => lists::machines(client, args).await,
        Verb::ListUnits(args) => lists::units(client, args).await,
        Verb::ListUnitFiles(args) => lists::unit_files(client, args).await,
        Verb::Verify { files } => super::units::verify(files),
        Verb::Version => out(&format!("fleetctl version {}\n", env!("CARGO_PKG_VERSION"))),
    }
}
