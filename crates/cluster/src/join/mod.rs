//! How a machine comes in, keeps its certificate fresh, and becomes a voter: three paths on the door, JSON over HTTP.
//!
//! | path | who | asks | is given |
//! | --- | --- | --- | --- |
//! | `POST /v1/cluster/join` | who has a token | [`JoinRequest`] | [`JoinAnswer`] |
//! | `POST /v1/cluster/renew` | members | [`CertificateRequest`] | [`CertificateAnswer`] |
//! | `POST /v1/cluster/voter` | voters and learners | [`CertificateRequest`] | [`VoterAnswer`] |
//!
//! What is refused is answered with a status and a [`Refusal`].
//!
//! # A join, worked through
//! B writes its key, and asks A, whose address the operator gave, with the token's id and secret; that A is of the token's
//! cluster was settled by TLS before. A is no voter: it answers 421 with the voters' addresses, and B asks one of these. The
//! voter redeems the token, which makes B a member; does what the cluster does for a newcomer; and signs B's certificate. B
//! verifies all that it was given, writes it, and is in. Wherever this is cut short, B asks again with the same key and token.
//! After that B asks as itself: to renew, and, once the voters say that it is one of them, for what a voter needs.

mod client;
mod server;

pub use client::{Join, JoinError, Joined, become_voter, join, renew};
pub use server::{Admit, Reception};

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::MachineId;

/// The version of all messages here.
pub const VERSION: u32 = 1;
/// Bytes of a message at most.
const LARGEST: usize = 1 << 20;

/// A machine that has the store, and its door.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Voter {
    /// The machine.
    pub machine: MachineId,
    /// `ADDRESS:PORT` of its door.
    pub address: String,
}

/// What a newcomer tells of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Newcomer {
    /// The machine.
    pub machine: MachineId,
    /// `ADDRESS:PORT` of its door, as others reach it.
    pub address: String,
    /// It can run etcd, so that it may become a voter.
    pub can_vote: bool,
    /// What else the cluster may want to know.
    #[serde(default)]
    pub facts: Value,
}

/// Shows a token.
#[derive(Clone, Serialize, Deserialize)]
pub struct JoinRequest {
    /// [`VERSION`].
    pub version: u32,
    /// The token's id.
    pub token: String,
    /// Its secret, in hexadecimal digits.
    pub secret: String,
    /// Who asks.
    pub newcomer: Newcomer,
    /// The request for a certificate, in PEM.
    pub request: String,
    /// IP addresses that the certificate is to be for besides.
    pub addresses: Vec<IpAddr>,
}

/// What a newcomer is given.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinAnswer {
    /// [`VERSION`].
    pub version: u32,
    /// Its certificate, in PEM.
    pub certificate: String,
    /// The CA's.
    pub ca: String,
    /// The cluster's name.
    pub cluster: String,
    /// Who has the store.
    pub voters: Vec<Voter>,
    /// What else the cluster has for it.
    #[serde(default)]
    pub extra: Value,
}

/// Asks for a certificate as a member.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CertificateRequest {
    /// [`VERSION`].
    pub version: u32,
    /// The request for a certificate, in PEM.
    pub request: String,
    /// IP addresses that it is to be for besides.
    pub addresses: Vec<IpAddr>,
}

/// A certificate.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CertificateAnswer {
    /// [`VERSION`].
    pub version: u32,
    /// In PEM.
    pub certificate: String,
}

/// What a voter needs.
#[derive(Clone, Serialize, Deserialize)]
pub struct VoterAnswer {
    /// [`VERSION`].
    pub version: u32,
    /// The certificate for etcd's peers, in PEM.
    pub certificate: String,
    /// The CA's key, in PEM.
    pub ca_key: String,
}

/// Why something is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Why {
    /// The token is not known, or used up.
    TokenUnknown,
    /// The token ran out.
    TokenExpired,
    /// The machine is a member with another key.
    OtherKey,
    /// This machine is no voter; [`Refusal::voters`] are.
    NotHere,
    /// The request makes no sense.
    Malformed,
    /// Another time it may be answered.
    NotNow,
    /// Something that a newer release says.
    #[serde(other)]
    Other,
}

/// The body of an answer that is no success.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// For a person.
    pub message: String,
    /// For a program.
    pub why: Why,
    /// Whom to ask instead.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub voters: Vec<Voter>,
}
