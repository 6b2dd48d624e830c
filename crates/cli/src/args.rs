//! The command line.

use crate::commands::build::{Build, BuilderCommand};
use crate::commands::clients::Client;
use crate::commands::cluster::{Cluster, Join, Leave};
use crate::commands::containers::{Kill, Logs, Names, Rm, Start, Stop};
use crate::commands::copy::Cp;
use crate::commands::deploys::{Deploy, Rollback, Services};
use crate::commands::files::{Commit, Export};
use crate::commands::fleetctl::args::Fleetctl;
use crate::commands::images::{Images, Import, Load, Rmi, Save};
use crate::commands::list::{Events, Inspect, Ps};
use crate::commands::login::{Login, Logout};
use crate::commands::networks::Network;
use crate::commands::os::Os;
use crate::commands::prune::{Prune, PruneAll};
use crate::commands::registries::{Pull, Push, Search};
use crate::commands::run::{Attach, Exec, Run};
use crate::commands::stats::Stats;
use crate::commands::store::Store;
use crate::commands::system::System;
use crate::commands::units::Unit;
use crate::commands::update::Update;
use crate::commands::volumes::Volume;
use crate::lazy::Lazy;
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
    #[command(flatten)]
    pub globals: Globals,
    #[command(subcommand)]
    pub command: Command,
}

/// Flags of every verb.
#[derive(Debug, clap::Args)]
pub struct Globals {
    /// Where the daemon's sockets are [default: /run/coracle]
    #[arg(
        long,
        global = true,
        env = "CORACLE_RUN_DIR",
        value_name = "DIR",
        hide_env = true
    )]
    pub run_dir: Option<PathBuf>,
    /// Where the daemon is: unix:///path, or tcp://HOST:PORT of another machine, with the certificates of CORACLE_CERT_PATH
    #[arg(
        short = 'H',
        long,
        global = true,
        env = "CORACLE_HOST",
        value_name = "URL",
        hide_env = true
    )]
    pub host: Option<String>,
    /// Ask this machine of the cluster: its id, its host name, or the beginning of either
    #[arg(long, global = true, value_name = "MACHINE")]
    pub machine: Option<String>,
}

/// A verb.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a new container
    Run(Lazy<Box<Run>>),
    /// Make a container without starting it
    #[command(after_help = "Example:\n  coracle create --name web nginx")]
    Create(Lazy<Box<ContainerArgs>>),
    /// Start containers
    Start(Lazy<Start>),
    /// Stop containers
    Stop(Lazy<Stop>),
    /// Stop and start containers
    Restart(Lazy<Stop>),
    /// Send containers a signal
    Kill(Lazy<Kill>),
    /// Freeze containers; of a service that is being deployed, begin nothing more
    #[command(after_help = "Example:\n  coracle pause web")]
    Pause(Lazy<Names>),
    /// Replace what runs by a new version, step by step; what fails goes back by itself
    Deploy(Lazy<Box<Deploy>>),
    /// Show what a deploy would do, and do nothing
    Plan(Lazy<Box<Deploy>>),
    /// Go back to the version before, or to a certain one
    Rollback(Lazy<Rollback>),
    /// Go on with deploys that were paused
    #[command(after_help = "Example:\n  coracle resume web")]
    Resume(Lazy<Services>),
    /// Take deploys back that are under way
    #[command(after_help = "Example:\n  coracle abort web")]
    Abort(Lazy<Services>),
    /// Let frozen containers go on
    #[command(after_help = "Example:\n  coracle unpause web")]
    Unpause(Lazy<Names>),
    /// Wait until containers have ended and print their exit codes
    #[command(after_help = "Example:\n  coracle wait job")]
    Wait(Lazy<Names>),
    /// Remove containers
    Rm(Lazy<Rm>),
    /// Give a container another name
    #[command(after_help = "Example:\n  coracle rename web old-web")]
    Rename {
        /// Container
        from: String,
        /// New name
        to: String,
    },
    /// List containers
    Ps(Lazy<Ps>),
    /// Show everything about containers, images, networks or volumes
    Inspect(Lazy<Inspect>),
    /// Output of a container
    Logs(Lazy<Logs>),
    /// Run a command in a running container
    Exec(Lazy<Exec>),
    /// Join a running container's input and output
    Attach(Lazy<Attach>),
    /// Processor, memory and network use
    Stats(Lazy<Stats>),
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
    /// Change limits and restart policy of containers
    Update(Lazy<Update>),
    /// Make an image of a container's changes
    Commit(Lazy<Commit>),
    /// Copy files into a container or out of it
    Cp(Lazy<Cp>),
    /// Files that a container has added (A), changed (C) or removed (D); with revisions, what differs between two of a service
    #[command(after_help = "Examples:\n  coracle diff web\n  coracle diff web 3 4")]
    Diff {
        /// Container, or service
        name: String,
        /// One revision, beside the present one, or two
        #[arg(num_args = 0..=2, value_name = "REV")]
        revisions: Vec<u64>,
    },
    /// A container's root filesystem as a tar archive
    Export(Lazy<Export>),
    /// What happens, as it happens
    Events(Lazy<Events>),
    /// List images
    Images(Lazy<Images>),
    /// Pull an image from a registry
    Pull(Lazy<Pull>),
    /// Push an image to a registry
    Push(Lazy<Push>),
    /// Search a registry for images
    Search(Lazy<Search>),
    /// Build an image from a Dockerfile
    Build(Lazy<Box<Build>>),
    /// What builds have kept for later ones
    #[command(subcommand)]
    Builder(Lazy<BuilderCommand>),
    /// Make an image of a root filesystem
    Import(Lazy<Import>),
    /// Load images from an archive
    Load(Lazy<Load>),
    /// Save images to an archive
    Save(Lazy<Save>),
    /// Remove images
    Rmi(Lazy<Rmi>),
    /// Give an image another name
    #[command(after_help = "Example:\n  coracle tag app:1 app:stable")]
    Tag {
        /// Image
        from: String,
        /// New name
        to: String,
    },
    /// How an image was made; or what of a service was deployed
    #[command(after_help = "Examples:\n  coracle history app:1\n  coracle history web.container")]
    History {
        /// table, json, or a template
        #[arg(long)]
        format: Option<String>,
        /// Whole ids and commands
        #[arg(long)]
        no_trunc: bool,
        /// For docker's sake: sizes and times are always in words
        #[arg(short = 'H', long)]
        human: bool,
        /// Ids only
        #[arg(short, long)]
        quiet: bool,
        /// Image, or service
        image: String,
    },
    /// Containers: the verbs above, as docker groups them
    #[command(subcommand)]
    Container(Lazy<ContainerCommand>),
    /// Images
    #[command(subcommand)]
    Image(Lazy<ImageCommand>),
    /// Volumes
    #[command(subcommand)]
    Volume(Lazy<Volume>),
    /// Networks
    #[command(subcommand)]
    Network(Lazy<Network>),
    /// Units: what runs and keeps running
    #[command(subcommand)]
    Unit(Lazy<Unit>),
    /// Units and machines in fleet's words, as its command has them
    Fleetctl(Lazy<Box<Fleetctl>>),
    /// The key-value store, in etcdctl's words
    #[command(subcommand)]
    Store(Lazy<Store>),
    /// Machines
    #[command(subcommand)]
    Machine(Lazy<MachineCommand>),
    /// The cluster: tokens for machines that join, and how it stands
    #[command(subcommand)]
    Cluster(Lazy<Cluster>),
    /// Workstations that may use the API over TLS, and this one's own key and certificate
    #[command(subcommand)]
    Client(Lazy<Client>),
    /// Join the cluster of another machine
    Join(Lazy<Join>),
    /// Take this machine out of its cluster
    Leave(Lazy<Leave>),
    /// The operating system, on machines that run Coracle's own image
    #[command(subcommand)]
    Os(Lazy<Os>),
    /// Machine, units and containers at a glance
    #[command(after_help = "Example:\n  coracle status")]
    Status {
        /// table or json
        #[arg(long)]
        format: Option<String>,
    },
    /// The daemon and the machine
    #[command(subcommand)]
    System(Lazy<System>),
    /// What the daemon is and has
    #[command(after_help = "Example:\n  coracle info --format '{{.NCPU}}'")]
    Info {
        /// table, json, or a template
        #[arg(short, long)]
        format: Option<String>,
    },
    /// Versions of client and daemon
    #[command(after_help = "Example:\n  coracle version")]
    Version {
        /// table, json, or a template
        #[arg(short, long)]
        format: Option<String>,
    },
    /// Keep credentials for a registry
    Login(Lazy<Login>),
    /// Forget credentials for a registry
    Logout(Lazy<Logout>),
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
    Ls(Lazy<Ps>),
    /// Run a new container
    Run(Lazy<Box<Run>>),
    /// Make a container
    Create(Lazy<Box<ContainerArgs>>),
    /// Start containers
    Start(Lazy<Start>),
    /// Stop containers
    Stop(Lazy<Stop>),
    /// Stop and start containers
    Restart(Lazy<Stop>),
    /// Send containers a signal
    Kill(Lazy<Kill>),
    /// Remove containers
    Rm(Lazy<Rm>),
    /// Show everything about containers
    Inspect(Lazy<Inspect>),
    /// Output of a container
    Logs(Lazy<Logs>),
    /// Run a command in a running container
    Exec(Lazy<Exec>),
    /// Join a running container's input and output
    Attach(Lazy<Attach>),
    /// Wait until containers have ended and print their exit codes
    #[command(after_help = "Example:\n  coracle container wait job")]
    Wait(Lazy<Names>),
    /// Freeze containers
    #[command(after_help = "Example:\n  coracle container pause web")]
    Pause(Lazy<Names>),
    /// Let frozen containers go on
    #[command(after_help = "Example:\n  coracle container unpause web")]
    Unpause(Lazy<Names>),
    /// Give a container another name
    #[command(after_help = "Example:\n  coracle container rename web old-web")]
    Rename {
        /// Container
        from: String,
        /// New name
        to: String,
    },
    /// Processor, memory and network use
    Stats(Lazy<Stats>),
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
    /// Change limits and restart policy of containers
    Update(Lazy<Update>),
    /// Make an image of a container's changes
    Commit(Lazy<Commit>),
    /// Copy files into a container or out of it
    Cp(Lazy<Cp>),
    /// Files that a container has added (A), changed (C) or removed (D)
    #[command(after_help = "Example:\n  coracle container diff web")]
    Diff {
        /// Container
        name: String,
    },
    /// A container's root filesystem as a tar archive
    Export(Lazy<Export>),
    /// Remove containers that do not run
    #[command(after_help = "Example:\n  coracle container prune -f")]
    Prune(Lazy<Prune>),
}

/// `coracle image`
#[derive(Debug, Subcommand)]
pub enum ImageCommand {
    /// List images
    #[command(visible_alias = "list")]
    Ls(Lazy<Images>),
    /// Pull an image
    Pull(Lazy<Pull>),
    /// Push an image to a registry
    Push(Lazy<Push>),
    /// Build an image from a Dockerfile
    Build(Lazy<Box<Build>>),
    /// Remove images
    Rm(Lazy<Rmi>),
    /// Show everything about images
    Inspect(Lazy<Inspect>),
    /// Make an image of a root filesystem
    Import(Lazy<Import>),
    /// Load images from an archive
    Load(Lazy<Load>),
    /// Save images to an archive
    Save(Lazy<Save>),
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
        /// For docker's sake: sizes and times are always in words
        #[arg(short = 'H', long)]
        human: bool,
        /// Ids only
        #[arg(short, long)]
        quiet: bool,
        /// Image
        image: String,
    },
    /// Remove images that nobody uses
    #[command(after_help = "Example:\n  coracle image prune -f")]
    Prune(Lazy<PruneAll>),
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
    /// A machine, what it has, and how far its drain is
    #[command(after_help = "Example:\n  coracle machine show web-2")]
    Show {
        /// table, json, or a template
        #[arg(long)]
        format: Option<String>,
        /// Id, host name, or the beginning of either
        #[arg(value_name = "MACHINE")]
        name: String,
    },
    /// Set labels of a machine and take them away; units ask for them with MachineMetadata=
    #[command(after_help = "Example:\n  coracle machine label web-2 disk=ssd rack-")]
    Label {
        /// Id, host name, or the beginning of either
        #[arg(value_name = "MACHINE")]
        name: String,
        /// KEY=VALUE sets one, KEY- takes one away
        #[arg(required = true, value_name = "LABEL", allow_hyphen_values = true)]
        labels: Vec<String>,
    },
    /// Give a machine no more units; it keeps those that it has
    #[command(after_help = "Example:\n  coracle machine cordon web-2")]
    Cordon {
        /// Id, host name, or the beginning of either
        #[arg(value_name = "MACHINE")]
        name: String,
    },
    /// Take a machine off the cluster's list: it is cut off at once, and its units run elsewhere
    #[command(after_help = "Example:\n  coracle machine remove web-2")]
    Remove {
        /// Id, host name, or the beginning of an id
        #[arg(value_name = "MACHINE")]
        name: String,
    },
    /// Give a machine units again; a drain ends, and what has moved stays where it is
    #[command(after_help = "Example:\n  coracle machine uncordon web-2")]
    Uncordon {
        /// Id, host name, or the beginning of either
        #[arg(value_name = "MACHINE")]
        name: String,
    },
    /// Move a machine's units to others one by one, each once the one before is healthy; names those that cannot move
    #[command(
        after_help = "The drain goes on when this command is interrupted; `coracle machine uncordon` ends it.\n\nExample:\n  coracle machine drain web-2"
    )]
    Drain {
        /// Return at once
        #[arg(long)]
        no_wait: bool,
        /// Id, host name, or the beginning of either
        #[arg(value_name = "MACHINE")]
        name: String,
    },
}
