//! People and programs on workstations: the daemon's API over TLS 1.3, for clients that show a certificate of their own.
//!
//! # Who is let in
//! As machines are: by a list, not by who signed. A client has a key and a certificate that it has signed itself; its key's fingerprint
//! stands in the store ([`list`]) or in the machine's configuration. There is no CA of clients whose key could be lost, nothing has to be
//! signed for a key that was made at home, and who is struck off is cut off at once, on every machine.
//!
//! # Two worlds
//! A client's certificate is for `NAME.client.coracle.internal` and says that it is a client's; machines' are of the cluster's CA, for names
//! below `machine.` and `peer.coracle.internal`. The door (port 7373) knows the CA alone, so that a client is refused there; here the name, the
//! purpose and the list are asked, so that a machine is refused, even if somebody wrote its key into the list.
//!
//! # The other direction
//! A machine shows a certificate of a CA of its own ([`Server`]), whose key never leaves it: it is the same before, in and after a cluster. What
//! a workstation has as `ca.pem` are the CAs of those machines that it may meet.
//!
//! # A connection, worked through
//! ann's laptop connects and shows her certificate. While TLS is agreed upon her key is looked up in the list in memory. Beside the connection a
//! guardian waits for what comes first: she is struck off, her certificate or her entry runs out, the daemon stops, the connection ends. In the
//! first three cases it cuts, as at the door, also what was upgraded (`exec`).

mod admission;
mod connect;
mod list;
mod pair;
mod port;
mod server;

pub use connect::{Credentials, Remote, RemoteError, Shown, TlsIo, look};
pub use list::{Allowed, Change, Client, Clients, Kept, add, check_name, follow, list, revoke};
pub use pair::{Pair, PinError, fingerprint_of, read_pin};
pub use port::{Port, PortLimits, Stream, Visit};
pub use server::Server;

/// What stands after a client's name in the name that its certificate is for.
pub const CLIENT_DOMAIN: &str = ".client.coracle.internal";
/// The port where none is given: docker's for TLS.
pub const PORT: u16 = 2376;
/// What stands before a fingerprint that people carry about.
pub const SHA256: &str = "sha256:";
