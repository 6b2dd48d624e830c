//! One place to run containers: the command and the daemon.
//!
//! The daemon (`coracle daemon`, [`server`]) opens the floors of the house and serves; every other verb is a client that
//! asks it over its Unix socket, or another machine's over TLS, in the Docker Engine API's words or our own.

mod api_port;
mod args;
mod client;
mod cluster;
mod commands;
mod docker;
mod doors;
mod error;
mod format;
mod keep;
mod lazy;
mod os;
mod quick;
mod run_args;
mod server;
mod settings;
mod terminal;

use args::{Cli, Command, ContainerCommand, ImageCommand};
use clap::CommandFactory;
use client::{Client, Way};
use commands::{
    build, clients, containers, copy, deploys, files, fleetctl, images, list, login, machines,
    networks, prune, registries, run, stats, store, system, units, update, volumes,
};
use error::{CliError, Result};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

fn main() -> ExitCode {
    let cli = docker::parse();
    let running = match &cli.command {
        Command::Run(_) => true,
        Command::Container(of) => matches!(of.0, ContainerCommand::Run(_)),
        _ => false,
    };
    match dispatch(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let text = coracle_engine::full_error(&error);
            if !text.is_empty() {
                eprintln!("coracle: {text}");
            }
            // A process's exit code has eight bits.
            ExitCode::from(u8::try_from(error.code(running) & 0xff).unwrap_or(1))
        }
    }
}

fn dispatch(cli: Cli) -> Result<()> {
    match cli.command {
        Command::Daemon(_) if cli.globals.machine.is_some() => Err(CliError::Usage(
            "--machine asks a daemon that runs; start this one where it is to run".into(),
        )),
        Command::Daemon(mut args) => {
            args.run_dir = args.run_dir.or(cli.globals.run_dir);
            Ok(server::run(&args)?)
        }
        Command::Completion { shell } => {
            let mut text = Vec::new();
            clap_complete::generate(shell, &mut lazy::whole(Cli::command), "coracle", &mut text);
            format::out(&String::from_utf8_lossy(&text))
        }
        Command::Man { dir } => man(&dir),
        Command::Logout(args) => login::logout(&args),
        command => {
            let host = match &command {
                Command::Fleetctl(args) => args.host()?,
                _ => None,
            };
            let host = host.or(cli.globals.host);
            let way = way(host.as_deref(), cli.globals.run_dir)?;
            let client = Client::new(way).on(cli.globals.machine);
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            let done = runtime.block_on(ask(&client, command));
            // The process ends here. A read of stdin that nobody waits for any more must not keep it, and what is left is
            // taken apart faster by the kernel.
            std::mem::forget(runtime);
            done
        }
    }
}

/// Where the daemon is: what was said, else what docker would be told of another machine, else this machine's own.
fn way(host: Option<&str>, run_dir: Option<PathBuf>) -> Result<Way> {
    if let Some(url) = host {
        return Way::read(url);
    }
    let dockers = std::env::var("DOCKER_HOST").ok();
    match dockers.filter(|url| run_dir.is_none() && url.starts_with("tcp://")) {
        Some(url) => Way::read(&url),
        None => Ok(Way::Socket(
            run_dir
                .unwrap_or_else(|| server::RUN_DIR.into())
                .join("coracle.sock"),
        )),
    }
}

async fn ask(client: &Client, command: Command) -> Result<()> {
    match command {
        Command::Run(args) => run::run(client, &args).await,
        Command::Create(args) => create(client, &args).await,
        Command::Start(args) => containers::start(client, &args).await,
        Command::Stop(args) => containers::stop(client, &args, "stop").await,
        Command::Restart(args) => containers::stop(client, &args, "restart").await,
        Command::Kill(args) => containers::kill(client, &args).await,
        Command::Pause(args) => deploys::pause(client, &args.names).await,
        Command::Deploy(args) => deploys::deploy(client, &args, false).await,
        Command::Plan(args) => deploys::deploy(client, &args, true).await,
        Command::Rollback(args) => deploys::rollback(client, &args).await,
        Command::Resume(args) => deploys::tell(client, &args, "resume").await,
        Command::Abort(args) => deploys::tell(client, &args, "abort").await,
        Command::Unpause(args) => containers::plain(client, &args.names, "unpause").await,
        Command::Wait(args) => containers::wait(client, &args.names).await,
        Command::Rm(args) => containers::rm(client, &args).await,
        Command::Rename { from, to } => containers::rename(client, &from, &to).await,
        Command::Ps(args) => list::ps(client, &args).await,
        Command::Inspect(args) => list::inspect(client, &args).await,
        Command::Logs(args) => containers::logs(client, &args).await,
        Command::Exec(args) => run::exec(client, &args).await,
        Command::Attach(args) => run::attach(client, &args).await,
        Command::Stats(args) => stats::stats(client, &args).await,
        Command::Top { name, ps } => list::top(client, &name, &ps).await,
        Command::Port { name, port } => list::port(client, &name, port.as_deref()).await,
        Command::Commit(args) => files::commit(client, &args).await,
        Command::Update(args) => update::update(client, &args).await,
        Command::Cp(args) => copy::cp(client, &args).await,
        Command::Diff { name, revisions } if revisions.is_empty() => {
            files::diff(client, &name).await
        }
        Command::Diff { name, revisions } => deploys::diff(client, &name, &revisions).await,
        Command::Export(args) => files::export(client, &args).await,
        Command::Events(args) => list::events(client, &args).await,
        Command::Images(args) => images::images(client, &args).await,
        Command::Pull(args) => registries::pull(client, &args).await,
        Command::Push(args) => registries::push(client, &args).await,
        Command::Search(args) => registries::search(client, &args).await,
        Command::Build(args) => build::build(client, &args).await,
        Command::Builder(command) => build::builder(client, &command).await,
        Command::Import(args) => images::import(client, &args).await,
        Command::Load(args) => images::load(client, &args).await,
        Command::Save(args) => images::save(client, &args).await,
        Command::Rmi(args) => images::rmi(client, &args).await,
        Command::Tag { from, to } => images::tag(client, &from, &to).await,
        Command::History {
            format,
            no_trunc,
            human: _,
            quiet,
            image,
        } => {
            let format = if quiet {
                Some("{{.ID}}")
            } else {
                format.as_deref()
            };
            match images::history(client, &image, format, no_trunc).await {
                // What is no image's name may be a unit's.
                Err(
                    no_image @ CliError::Daemon {
                        status: 400 | 404, ..
                    },
                ) if !quiet => match deploys::history(client, &image, format).await {
                    Err(CliError::Daemon { status: 404, .. }) => Err(no_image),
                    done => done,
                },
                done => done,
            }
        }
        Command::Container(command) => container(client, command.0).await,
        Command::Image(command) => image(client, command.0).await,
        Command::Volume(command) => volumes::volume(client, &command).await,
        Command::Network(command) => networks::network(client, &command).await,
        Command::Unit(command) => units::unit(client, &command).await,
        Command::Fleetctl(args) => fleetctl::fleetctl(client, &args).await,
        Command::Store(command) => store::store(client, command.0).await,
        Command::Client(command) => clients::client(client, &command).await,
        Command::Cluster(command) => cluster_commands::cluster(client, &command).await,
        Command::Join(args) => cluster_commands::join(client, &args).await,
        Command::Leave(args) => cluster_commands::leave(client, &args).await,
        Command::Os(command) => commands::os::os(client, &command).await,
        Command::Machine(command) => machines::machine(client, &command).await,
        Command::Status { format } => system::status(client, format.as_deref()).await,
        Command::System(command) => system::system(client, &command).await,
        Command::Info { format } => system::info(client, format.as_deref()).await,
        Command::Version { format } => system::version(client, format.as_deref()).await,
        Command::Login(args) => login::login(client, args.0).await,
        // These need no daemon and were done before.
        Command::Logout(_)
        | Command::Daemon(_)
        | Command::Completion { .. }
        | Command::Man { .. } => Ok(()),
    }
}

async fn create(client: &Client, args: &run_args::ContainerArgs) -> Result<()> {
    let id = run::create(client, args, true).await?;
    format::out(&format!("{id}\n"))
}

async fn container(client: &Client, command: ContainerCommand) -> Result<()> {
    use ContainerCommand as C;
    match command {
        C::Ls(args) => list::ps(client, &args).await,
        C::Run(args) => run::run(client, &args).await,
        C::Create(args) => create(client, &args).await,
        C::Start(args) => containers::start(client, &args).await,
        C::Stop(args) => containers::stop(client, &args, "stop").await,
        C::Restart(args) => containers::stop(client, &args, "restart").await,
        C::Kill(args) => containers::kill(client, &args).await,
        C::Rm(args) => containers::rm(client, &args).await,
        C::Inspect(lazy::Lazy(mut args)) => {
            args.kind = Some("container".into());
            list::inspect(client, &args).await
        }
        C::Logs(args) => containers::logs(client, &args).await,
        C::Exec(args) => run::exec(client, &args).await,
        C::Attach(args) => run::attach(client, &args).await,
        C::Wait(args) => containers::wait(client, &args.names).await,
        C::Pause(args) => containers::plain(client, &args.names, "pause").await,
        C::Unpause(args) => containers::plain(client, &args.names, "unpause").await,
        C::Rename { from, to } => containers::rename(client, &from, &to).await,
        C::Stats(args) => stats::stats(client, &args).await,
        C::Top { name, ps } => list::top(client, &name, &ps).await,
        C::Port { name, port } => list::port(client, &name, port.as_deref()).await,
        C::Commit(args) => files::commit(client, &args).await,
        C::Update(args) => update::update(client, &args).await,
        C::Cp(args) => copy::cp(client, &args).await,
        C::Diff { name } => files::diff(client, &name).await,
        C::Export(args) => files::export(client, &args).await,
        C::Prune(args) => prune::prune(client, prune::What::Containers, &args).await,
    }
}

async fn image(client: &Client, command: ImageCommand) -> Result<()> {
    use ImageCommand as I;
    match command {
        I::Ls(args) => images::images(client, &args).await,
        I::Pull(args) => registries::pull(client, &args).await,
        I::Push(args) => registries::push(client, &args).await,
        I::Build(args) => build::build(client, &args).await,
        I::Rm(args) => images::rmi(client, &args).await,
        I::Inspect(lazy::Lazy(mut args)) => {
            args.kind = Some("image".into());
            list::inspect(client, &args).await
        }
        I::Import(args) => images::import(client, &args).await,
        I::Load(args) => images::load(client, &args).await,
        I::Save(args) => images::save(client, &args).await,
        I::Tag { from, to } => images::tag(client, &from, &to).await,
        I::History {
            format,
            no_trunc,
            human: _,
            quiet,
            image,
        } => {
            let format = if quiet {
                Some("{{.ID}}")
            } else {
                format.as_deref()
            };
            images::history(client, &image, format, no_trunc).await
        }
        I::Prune(args) => {
            prune::prune(client, prune::What::Images { all: args.all }, &args.some).await
        }
    }
}

/// One page for the command and one for each verb, and the same for fleetctl.
fn man(dir: &Path) -> Result<()> {
    let failed = |source| CliError::File {
        action: "writing man pages to",
        path: dir.to_owned(),
        source,
    };
    std::fs::create_dir_all(dir).map_err(failed)?;
    clap_mangen::generate_to(lazy::whole(Cli::command), dir).map_err(failed)?;
    clap_mangen::generate_to(lazy::whole(fleetctl::command), dir).map_err(failed)
}
use crate::commands::cluster as cluster_commands;
