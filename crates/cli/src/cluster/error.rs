//! Why something about the cluster was not done.

use crate::server::DaemonError;
use coracle_cluster::join::JoinError;
use coracle_cluster::member::MemberError;
use coracle_cluster::pki::PkiError;
use coracle_network::overlay::Ipv4Net;

/// Why something about the cluster was not done.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// There is something here that would be lost.
    #[error(
        "this machine is not empty ({what}): joining would lose it; stop and destroy it first, or say --discard"
    )]
    NotEmpty {
        /// What.
        what: String,
    },
    /// It is in a cluster.
    #[error("this machine is in a cluster already; `coracle leave` takes it out")]
    Member,
    /// It is in none.
    #[error(
        "this machine is in no cluster; `coracle cluster token` begins one, `coracle join` joins one"
    )]
    NoMember,
    /// It has none of the keys.
    #[error(
        "this machine is no voter, and only voters give, list and revoke tokens: ask one of {voters}"
    )]
    NoVoter {
        /// Those.
        voters: String,
    },
    /// A voter does not have what it needs.
    #[error(
        "the CA's key is not in STATE_DIR/cluster, where each machine with the store has it: copy ca.key from there on another voter, or have this machine \
         removed (`coracle machine remove` elsewhere) and join again"
    )]
    NoCaKey,
    /// It cannot go.
    #[error("{0}")]
    CannotLeave(String),
    /// There is nothing to recover, or nothing to recover from.
    #[error("{0}")]
    CannotRecover(String),
    /// No copy of the store can be taken here.
    #[error("{0}")]
    CannotCopy(String),
    /// No such machine.
    #[error("{0}")]
    Unknown(String),
    /// Nobody may change what is written of machines.
    #[error("machine {0} cannot be taken off the list now: no machine leads; ask again")]
    NoLeader(coracle_cluster::MachineId),
    /// No address.
    #[error(
        "this machine's address towards others is not known (there is no default route); start the daemon with --advertise ADDRESS"
    )]
    NoAddress,
    /// An address that cannot be read.
    #[error(
        "\"{0}\" is no address of a machine: write one as `coracle cluster token` shows it, for example 192.0.2.7 or 192.0.2.7:7373"
    )]
    Address(String),
    /// A client that cannot be.
    #[error("{0}")]
    BadClient(String),
    /// A client that is there already.
    #[error("{0}")]
    ClientTaken(String),
    /// A token for nobody, or that runs out at once.
    #[error("a token is for one machine at least, and for one second")]
    Useless,
    /// Another range for machines' subnets than the cluster's.
    #[error(
        "this machine's configuration says overlay_pool = \"{own}\" and the cluster takes machines' subnets from {agreed}, since it began; take that line out, start the daemon anew and join again with the same token"
    )]
    Pool {
        /// The configuration's.
        own: Ipv4Net,
        /// The cluster's.
        agreed: Ipv4Net,
    },
    /// A token that cannot be read.
    #[error(transparent)]
    Token(#[from] coracle_cluster::token::TokenError),
    /// The cluster said no, or was not reached.
    #[error(transparent)]
    Join(#[from] JoinError),
    /// Keys.
    #[error(transparent)]
    Pki(#[from] PkiError),
    /// etcd.
    #[error(transparent)]
    Etcd(#[from] MemberError),
    /// The store.
    #[error("the store cannot be used")]
    Store(#[from] coracle_store::StoreError),
    /// The daemon.
    #[error(transparent)]
    Daemon(#[from] DaemonError),
    /// A file.
    #[error("a file of the cluster's could not be written")]
    File(#[from] std::io::Error),
    /// The machines cannot be read.
    #[error("the machines of this cluster cannot be read from the store")]
    Machines(#[source] coracle_fleet::FleetError),
}
