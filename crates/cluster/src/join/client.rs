//! The side of the machine.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{
    CertificateAnswer, CertificateRequest, JoinAnswer, JoinRequest, LARGEST, Newcomer, Refusal,
    VERSION, VoterAnswer, Why,
};
use crate::door::{Body, DoorClient, DoorError, DoorOptions, Stranger, Target};
use crate::pki::{Authority, Directory, Identity, Kind, PkiError};
use crate::token::Token;

/// Longest wait for an answer: the cluster may have to do something for a newcomer first.
const ANSWER: Duration = Duration::from_secs(90);

/// Why a machine did not get what it asked the cluster for.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JoinError {
    /// The cluster said no.
    #[error("{}", refusal.message)]
    Refused {
        /// What it said.
        refusal: Refusal,
    },
    /// The machines asked are no voters and know of none that could be asked.
    #[error("none of the machines asked is a voter ({asked}): give the address of one")]
    NoVoter {
        /// Their addresses.
        asked: String,
    },
    /// What was answered is not what this release understands.
    #[error(
        "{from} answered what this release does not understand ({what}): compare the releases of both"
    )]
    Answer {
        /// Who answered.
        from: String,
        /// What it was.
        what: String,
    },
    /// No answer in time.
    #[error("{from} did not answer within {} s; it may be asked again", ANSWER.as_secs())]
    Late {
        /// Who was asked.
        from: String,
    },
    /// The door.
    #[error(transparent)]
    Door(#[from] DoorError),
    /// Keys and certificates.
    #[error(transparent)]
    Pki(#[from] PkiError),
}

/// What is needed to join.
#[derive(Clone, Debug)]
pub struct Join {
    /// The token.
    pub token: Token,
    /// `ADDRESS:PORT` of a member's door.
    pub at: String,
    /// What the cluster is told of this machine.
    pub newcomer: Newcomer,
    /// IP addresses that its certificate is to be for besides.
    pub addresses: Vec<IpAddr>,
}

/// What came of it.
#[derive(Debug)]
pub struct Joined {
    /// This machine's identity, which is on disk now.
    pub identity: Arc<Identity>,
    /// All that was answered.
    pub answer: JoinAnswer,
}

/// Joins a cluster: afterwards the machine's key and certificate and the CA's certificate are in `dir`. May be repeated
/// with the same token after an error or a crash.
///
/// # Errors
/// See [`JoinError`]; `Door(WrongCluster)` where the token is another cluster's.
pub async fn join(dir: &Directory, join: &Join, options: DoorOptions) -> Result<Joined, JoinError> {
    let machine = &join.newcomer.machine;
    let asked = Identity::ask(dir, Kind::Machine, machine)?;
    let request = JoinRequest {
        version: VERSION,
        token: join.token.id.clone(),
        secret: join.token.secret.to_hex(),
        newcomer: join.newcomer.clone(),
        request: asked.pem,
        addresses: join.addresses.clone(),
    };
    let stranger = Stranger::new(join.token.pin, options)?;
    let mut known = BTreeSet::from([join.at.clone()]);
    let mut left = vec![join.at.clone()];
    let mut last = None;
    while let Some(address) = left.pop() {
        let from = format!("the machine at {address}");
        let sent = async {
            let request = post("/v1/cluster/join", &request)?;
            let answer = stranger.send(&address, request).await?;
            read::<JoinAnswer>(&from, answer).await
        };
        match in_time(&from, sent).await {
            Ok(answer) => {
                let (ca, certificate) = (&answer.ca, &answer.certificate);
                let pin = &join.token.pin;
                let identity =
                    Identity::install(dir, Kind::Machine, machine, pin, ca, certificate)?;
                return Ok(Joined { identity, answer });
            }
            Err(JoinError::Refused { refusal }) if refusal.why == Why::NotHere => {
                let new = refusal.voters.into_iter().map(|voter| voter.address);
                left.extend(new.filter(|address| known.insert(address.clone())));
            }
            // Of several voters the next may answer.
            Err(error @ JoinError::Door(DoorError::Unreachable { .. })) => last = Some(error),
            Err(error) => return Err(error),
        }
    }
    let asked = known.into_iter().collect::<Vec<_>>().join(", ");
    Err(last.unwrap_or(JoinError::NoVoter { asked }))
}

/// Asks a voter for a machine's next certificate, for [`crate::pki::keep_renewed`]; answers it in PEM.
///
/// # Errors
/// See [`JoinError`].
pub async fn renew(
    client: &DoorClient,
    voters: &[Target],
    request: String,
    addresses: Vec<IpAddr>,
) -> Result<String, JoinError> {
    let request = CertificateRequest {
        version: VERSION,
        request,
        addresses,
    };
    let answer: CertificateAnswer = ask(client, voters, "/v1/cluster/renew", &request).await?;
    Ok(answer.certificate)
}

/// Gets what a voter needs: the CA's key and a certificate for etcd's peers, both in `dir` afterwards. May be repeated.
///
/// # Errors
/// See [`JoinError`]; refused as long as the other voters do not say that this machine is one.
pub async fn become_voter(
    dir: &Directory,
    client: &DoorClient,
    identity: &Identity,
    voters: &[Target],
    addresses: Vec<IpAddr>,
) -> Result<(Authority, Arc<Identity>), JoinError> {
    let asked = Identity::ask(dir, Kind::Peer, identity.machine())?;
    let request = CertificateRequest {
        version: VERSION,
        request: asked.pem,
        addresses,
    };
    let answer: VoterAnswer = ask(client, voters, "/v1/cluster/voter", &request).await?;
    let authority = Authority::adopt(dir, &answer.ca_key)?;
    let peer = Identity::install(
        dir,
        Kind::Peer,
        identity.machine(),
        &identity.pin(),
        authority.certificate_pem(),
        &answer.certificate,
    )?;
    Ok((authority, peer))
}

/// Asks one voter after the other, until one answers or refuses for good.
async fn ask<T: DeserializeOwned>(
    client: &DoorClient,
    voters: &[Target],
    path: &str,
    request: &impl Serialize,
) -> Result<T, JoinError> {
    let mut last = None;
    for voter in voters {
        let from = format!("machine {}", voter.machine);
        let sent = async {
            let answer = client.send(voter, post(path, request)?).await?;
            read(&from, answer).await
        };
        match in_time(&from, sent).await {
            Ok(answer) => return Ok(answer),
            Err(error) => last = Some(error),
        }
    }
    Err(last.unwrap_or(JoinError::NoVoter {
        asked: "no voter is known".to_owned(),
    }))
}

async fn in_time<T>(
    from: &str,
    sent: impl Future<Output = Result<T, JoinError>>,
) -> Result<T, JoinError> {
    let late = || JoinError::Late {
        from: from.to_owned(),
    };
    let answered = tokio::time::timeout(ANSWER, sent).await;
    answered.map_err(|_| late())?
}

fn post(path: &str, body: &impl Serialize) -> Result<Request<Body>, JoinError> {
    let wrong = |why: String| DoorError::Request {
        machine: "the cluster".to_owned(),
        why,
    };
    let body = serde_json::to_vec(body).map_err(|e| wrong(e.to_string()))?;
    let request = Request::builder()
        .method(Method::POST)
        .uri(path)
        .header(header::CONTENT_TYPE, "application/json")
        .body(Body::from(body));
    Ok(request.map_err(|e| wrong(e.to_string()))?)
}

async fn read<T: DeserializeOwned>(from: &str, answer: Response<Incoming>) -> Result<T, JoinError> {
    let odd = |what: String| JoinError::Answer {
        from: from.to_owned(),
        what,
    };
    let code = answer.status();
    let body = Limited::new(answer.into_body(), LARGEST).collect().await;
    let body = body.map_err(|e| odd(e.to_string()))?.to_bytes();
    if code == StatusCode::OK {
        return serde_json::from_slice(&body).map_err(|e| odd(e.to_string()));
    }
    match serde_json::from_slice(&body) {
        Ok(refusal) => Err(JoinError::Refused { refusal }),
        // The door's own refusals have a message only.
        Err(_) => match serde_json::from_slice::<serde_json::Value>(&body) {
            Ok(value) if value["message"].is_string() => Err(JoinError::Refused {
                refusal: Refusal {
                    message: value["message"].as_str().unwrap_or_default().to_owned(),
                    why: Why::Other,
                    voters: Vec::new(),
                },
            }),
            _ => Err(odd(format!("status {code}"))),
        },
    }
}
