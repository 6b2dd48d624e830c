//! The port between machines: TLS 1.3, HTTP/1.1 and HTTP/2, with upgrades.
//!
//! # Who is let in
//! Who shows no certificate is a stranger: it reaches the paths that are open to all (to join), and is shown out after two
//! minutes. A certificate must be of the cluster's CA, or the connection is refused. Whether the machine that it names is a
//! member, and has the key that it is for, is asked at each request, of the list in memory ([`crate::members`]): who has the CA's key
//! alone comes in as nobody.
//!
//! # A connection, worked through
//! Machine B connects, shows a certificate that counts until the 31st, and opens three streams: a watch, `logs -f`, and an
//! `exec` that takes the connection over. Beside the connection a guardian waits for what comes first: B leaves the list of
//! members, B is a voter no more (a watch may tell what only voters may read), the 31st comes, the daemon stops, or the
//! connection ends by itself. In the first four cases it cuts: every read and write on the connection fails from then on, also
//! those of the `exec`, which hyper knows nothing of any more.
//!
//! Sessions are never resumed: that would spare a handshake and let an expired certificate in.

mod accept;
mod arrivals;
mod client;
mod cut;
mod error;
mod layer;
mod pin;
mod server;
mod tls;

pub(crate) use accept::Accepting;
pub(crate) use arrivals::{Arrival, Arrivals};
pub use client::{Body, DoorClient, DoorOptions, Stranger, Target, endpoint};
pub(crate) use cut::Cuttable;
pub use error::DoorError;
pub(crate) use layer::stranger;
pub use layer::{keepers_only, members_only};
pub use pin::WrongCluster;
pub use server::{Door, Limits, Paths};

use std::net::SocketAddr;

use crate::MachineId;
use crate::members::Standing;

/// The door's port where none is given.
pub const PORT: u16 = 7373;

/// Who sent a request; each request that came through the door has one among its extensions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// The machine, if it is a member now.
    pub machine: Option<MachineId>,
    /// What it may do; of members only.
    pub standing: Option<Standing>,
    /// The machine that its certificate names, member or not.
    pub shown: Option<MachineId>,
    /// Where the connection came from.
    pub address: SocketAddr,
}
