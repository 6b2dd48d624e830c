//! The cluster's own certificate authority and a certificate for each machine.
//!
//! All keys are ECDSA P-256. A machine makes its key before it asks for anything and keeps it; what is renewed is the
//! certificate. Files are in `STATE_DIR/cluster` (see [`Directory`]):
//!
//! | file | where | what |
//! | --- | --- | --- |
//! | `format.json` | all | the version of this format |
//! | `ca.pem` | all | the CA's certificate, for 20 years |
//! | `ca.key` | voters | its key |
//! | `machine.key`, `machine.pem` | all | the machine's key and certificate, for 30 days |
//! | `peer.key`, `peer.pem` | voters | the same for etcd's peers, which etcd reads at each connection |
//!
//! # A certificate's life, worked through
//! Machine A founds: it writes `ca.key`, then `ca.pem`, then `machine.key`, and issues itself `machine.pem`. Killed after the
//! first of these, it makes `ca.pem` from the key that is there; killed after the third, it asks for the same key again.
//! Nobody has seen a CA whose certificate was not written.
//!
//! Machine B joins on the 1st of a month: it writes `machine.key` and asks with a token. The answer's certificate counts from an
//! hour before (clocks differ) to the 31st. Killed before `machine.pem` is written, it asks again with the same key, and is
//! answered again. On the 21st a third of the time is left: B asks a voter for a new certificate by the one that it has
//! ([`keep_renewed`]). The new one is written, and from then on new connections show it; those that were opened with the
//! old one may go on until the 31st, when the door cuts them.
//!
//! B becomes a voter: it is given `ca.key` and `peer.pem`. B is removed: the other machines strike it off the list of members, which
//! cuts it off whatever its certificate says. B leaves: [`Directory::clear`].

mod authority;
mod certificate;
mod error;
mod files;
mod identity;
mod renew;

pub(crate) use authority::requested_key;
pub use authority::{Authority, Lifetimes};
pub(crate) use certificate::chain;
pub use certificate::{Fingerprint, Seen};
pub use error::PkiError;
pub use files::{Directory, Item};
pub(crate) use files::{private_directory, put};
pub use identity::{Asked, Identity, Kind};
pub(crate) use identity::{is_for, roots, vouched};
pub use renew::{Due, keep_renewed};

/// What stands after a machine's id in the name that its certificate is for.
pub const MACHINE_DOMAIN: &str = ".machine.coracle.internal";
/// A name that each machine's certificate is for besides.
pub const DOOR_NAME: &str = "door.coracle.internal";
/// The common name of the certificates for etcd's peers, which etcd is to insist on (`--peer-cert-allowed-cn`): machines'
/// own certificates are of the same CA and must not do there.
pub const PEER_NAME: &str = "peer.coracle.internal";
