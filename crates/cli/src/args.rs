//! The command line.

use crate::commands::containers::{Kill, Logs, Names, Rm, Start, Stop};
use crate::commands::images::{Images, Import, Load, Pull, Rmi, Save};
use crate::commands::list::{Events, Inspect, Ps, Stats};
use crate::commands::login::{Login, Logout};
use crate::commands::networks::Network;
use crate::commands::run::{Attach, Exec, Run};
use crate::commands::system::System;
use crate::commands::units::Unit;
use crate::commands::volumes::Volume;
use crate::run_args::ContainerArgs;
use crate::server::DaemonArgs;
use clap::{Parser, Subcommand};
use std::path::PathBuf;

/// One place to run containers: docker's verbs, systemd's units, on one machine or many.
#[derive(Debug, Parser)]
#[command(
    name = "coracle",
    version,
    disable_help_subcommand = true,
    arg_required_else_help = true
)]
pub struct Cli {
    /// Where the daemon's sockets are [default: /run/coracle]
    #[arg(
        long,
        global = true,
        env = "CORACLE_RUN_DIR",
        value_name = "DIR",
        hide_env = true
    )]
    pub run_dir: Option<PathBuf>,
    /// Socket of the daemon, unix:///path
    #[arg(
        short = 'H',
        long,
        global = true,
        env = "CORACLE_HOST",
        value_name = "URL",
        hide_env = true
    )]
    pub host: Option<String>,
    #[command(subcommand)]
    pub command: Command,
}

/// A verb.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a new container
    Run(Box<Run>),
    /// Make a container without starting it
    #[command(after_help = "Example:\n  coracle create --name web nginx")]
    Create(Box<ContainerArgs>),
    /// Start containers
    Start(Start),
    /// Stop containers
    Stop(Stop),
    /// Stop and start containers
    Restart(Stop),
    /// Send containers a signal
    Kill(Kill),
    /// Freeze containers
    #[command(after_help = "Example:\n  coracle pause web")]
    Pause(Names),
    /// Let frozen containers go on
    #[command(after_help = "Example:\n  coracle unpause web")]
    Unpause(Names),
    /// Wait until containers have ended and print their exit codes
    #[command(after_help = "Example:\n  coracle wait job")]
    Wait(Names),
    /// Remove containers
    Rm(Rm),
    /// Give a container another name
    #[command(after_help = "Example:\n  coracle rename web old-web")]
    Rename {
        /// Container
        from: String,
        /// New name
        to: String,
    },
    /// List containers
    Ps(Ps),
    /// Show everything about containers, images, networks or volumes
    Inspect(Inspect),
    /// Output of a container
    Logs(Logs),
    /// Run a command in a running container
    Exec(Exec),
    /// Join a running container's input and output
    Attach(Attach),
    /// Processor, memory and network use
    Stats(Stats),
    /// Processes of a container
    #[command(after_help = "Example:\n  coracle top web")]
    Top {
        /// Container
        name: String,
        /// Arguments of ps
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        ps: Vec<String>,
    },
    /// Published ports of a container
    #[command(after_help = "Example:\n  coracle port web 80")]
    Port {
        /// Container
        name: String,
        /// Port inside
        port: Option<String>,
    },
    /// What happens, as it happens
    Events(Events),
    /// List images
    Images(Images),
    /// Pull an image from a registry
    Pull(Pull),
    /// Make an image of a root filesystem
    Import(Import),
    /// Load images from an archive
    Load(Load),
    /// Save images to an archive
    Save(Save),
    /// Remove images
    Rmi(Rmi),
    /// Give an image another name
    #[command(after_help = "Example:\n  coracle tag app:1 app:stable")]
    Tag {
        /// Image
        from: String,
        /// New name
        to: String,
    },
    /// How an image was made
    #[command(after_help = "Example:\n  coracle history app:1")]
    History {
        /// table, json, or a template
        #[arg(long)]
        format: Option<String>,
        /// Whole ids and commands
        #[arg(long)]
        no_trunc: bool,
        /// Image
        image: String,
    },
    /// Containers: the verbs above, as docker groups them
    #[command(subcommand)]
    Container(ContainerCommand),
    /// Images
    #[command(subcommand)]
    Image(ImageCommand),
    /// Volumes
    #[command(subcommand)]
    Volume(Volume),
    /// Networks
    #[command(subcommand)]
    Network(Network),
    /// Units: what runs and keeps running
    #[command(subcommand)]
    Unit(Unit),
    /// Machines
    #[command(subcommand)]
    Machine(MachineCommand),
    /// Machine, units and containers at a glance
    #[command(after_help = "Example:\n  coracle status")]
    Status {
        /// table or json
        #[arg(long)]
        format: Option<String>,
    },
    /// The daemon and the machine
    #[command(subcommand)]
    System(System),
    /// What the daemon is and has
    #[command(after_help = "Example:\n  coracle info --format '{{.NCPU}}'")]
    Info {
        /// json, or a template
        #[arg(short, long)]
        format: Option<String>,
    },
    /// Versions of client and daemon
    #[command(after_help = "Example:\n  coracle version")]
    Version {
        /// json, or a template
        #[arg(short, long)]
        format: Option<String>,
    },
    /// Keep credentials for a registry
    Login(Login),
    /// Forget credentials for a registry
    Logout(Logout),
    /// Run the daemon
    #[command(after_help = "Example:\n  coracle daemon --registry-mirror http://127.0.0.1:5000")]
    Daemon(DaemonArgs),
    /// Print completions for a shell
    #[command(after_help = "Example:\n  coracle completion bash > /etc/bash_completion.d/coracle")]
    Completion {
        /// Shell
        shell: clap_complete::Shell,
    },
    /// Write the man pages to a directory
    #[command(after_help = "Example:\n  coracle man /usr/local/share/man/man1")]
    Man {
        /// Directory
        dir: PathBuf,
    },
}

/// `coracle container`
#[derive(Debug, Subcommand)]
pub enum ContainerCommand {
    /// List containers
    #[command(visible_alias = "list")]
    Ls(Ps),
    /// Run a new container
    Run(Box<Run>),
    /// Make a container
    Create(Box<ContainerArgs>),
    /// Start containers
    Start(Start),
    /// Stop containers
    Stop(Stop),
    /// Stop and start containers
    Restart(Stop),
    /// Send containers a signal
    Kill(Kill),
    /// Remove containers
    Rm(Rm),
    /// Show everything about containers
    Inspect(Inspect),
    /// Output of a container
    Logs(Logs),
    /// Run a command in a running container
    Exec(Exec),
    /// Join a running container's input and output
    Attach(Attach),
    /// Wait until containers have ended and print their exit codes
    #[command(after_help = "Example:\n  coracle container wait job")]
    Wait(Names),
    /// Freeze containers
    #[command(after_help = "Example:\n  coracle container pause web")]
    Pause(Names),
    /// Let frozen containers go on
    #[command(after_help = "Example:\n  coracle container unpause web")]
    Unpause(Names),
    /// Give a container another name
    #[command(after_help = "Example:\n  coracle container rename web old-web")]
    Rename {
        /// Container
        from: String,
        /// New name
        to: String,
    },
    /// Processor, memory and network use
    Stats(Stats),
    /// Processes of a container
    #[command(after_help = "Example:\n  coracle container top web")]
    Top {
        /// Container
        name: String,
        /// Arguments of ps
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        ps: Vec<String>,
    },
    /// Published ports of a container
    #[command(after_help = "Example:\n  coracle container port web 80")]
    Port {
        /// Container
        name: String,
        /// Port inside
        port: Option<String>,
    },
    /// Remove containers that do not run
    #[command(after_help = "Example:\n  coracle container prune -f")]
    Prune {
        /// Without asking
        #[arg(short, long)]
        force: bool,
    },
}

/// `coracle image`
#[derive(Debug, Subcommand)]
pub enum ImageCommand {
    /// List images
    #[command(visible_alias = "list")]
    Ls(Images),
    /// Pull an image
    Pull(Pull),
    /// Remove images
    Rm(Rmi),
    /// Show everything about images
    Inspect(Inspect),
    /// Make an image of a root filesystem
    Import(Import),
    /// Load images from an archive
    Load(Load),
    /// Save images to an archive
    Save(Save),
    /// Give an image another name
    #[command(after_help = "Example:\n  coracle image tag app:1 app:stable")]
    Tag {
        /// Image
        from: String,
        /// New name
        to: String,
    },
    /// How an image was made
    #[command(after_help = "Example:\n  coracle image history app:1")]
    History {
        /// table, json, or a template
        #[arg(long)]
        format: Option<String>,
        /// Whole ids and commands
        #[arg(long)]
        no_trunc: bool,
        /// Image
        image: String,
    },
    /// Remove images that nobody uses
    #[command(after_help = "Example:\n  coracle image prune -f")]
    Prune {
        /// Those with names too
        #[arg(short, long)]
        all: bool,
        /// Without asking
        #[arg(short, long)]
        force: bool,
    },
}

/// `coracle machine`
#[derive(Debug, Subcommand)]
pub enum MachineCommand {
    /// List machines
    #[command(visible_alias = "ls", after_help = "Example:\n  coracle machine list")]
    List {
        /// table, json, or a template
        #[arg(long)]
        format: Option<String>,
    },
}
