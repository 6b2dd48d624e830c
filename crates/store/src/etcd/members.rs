//! The members of an etcd cluster: whom to ask, and what to do when one does not answer.

use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Code, Response};

use super::convert::{self, Of};
use super::{Dial, EtcdOptions};
use crate::error::StoreError;
use crate::full;

/// Certificates of both sides, in PEM.
#[derive(Clone)]
pub struct Tls {
    /// Who vouches for the servers.
    pub ca: Vec<u8>,
    /// Our certificate, and those between it and the CA.
    pub certificate: Vec<u8>,
    /// Its key.
    pub key: Vec<u8>,
    /// The name that the servers' certificates are for, where it is not the one in their URLs.
    pub domain: Option<String>,
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Not the key.
        f.write_str("Tls")
    }
}

/// Whether the cluster answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Not asked yet.
    Unknown,
    /// The member asked last answered, and none before it had to be passed over.
    Connected,
    /// One answered, after others did not.
    Degraded,
    /// None answers, or there is no leader among them.
    CutOff,
}

/// A member to ask, for [`super::EtcdStore::reach`].
#[derive(Clone, Debug)]
pub struct Reached {
    /// Its client URL, or `http://NAME` with [`Self::dial`].
    pub url: String,
    /// How connections to it are made, in place of TCP.
    pub dial: Option<Dial>,
}

pub(super) struct Member {
    url: String,
    endpoint: Endpoint,
    dial: Option<Dial>,
    /// The connection, once made; it is taken down when a request on it fails.
    channel: Mutex<Option<Channel>>,
}

/// Whom to ask.
struct Asked {
    members: Vec<Arc<Member>>,
    /// The one that answered last.
    current: usize,
}

pub(super) struct Members {
    asked: Mutex<Asked>,
    options: EtcdOptions,
    state: watch::Sender<State>,
}

/// A member as it is asked.
fn member(reached: Reached, options: &EtcdOptions) -> Result<Arc<Member>, StoreError> {
    let Reached { url, dial } = reached;
    let wrong = |why: String| StoreError::Endpoint {
        endpoint: url.clone(),
        why,
    };
    let mut endpoint = Channel::from_shared(url.clone()).map_err(|e| wrong(e.to_string()))?;
    endpoint = endpoint
        .connect_timeout(options.connect_timeout)
        .tcp_nodelay(true)
        // A member whose machine vanished is noticed by the watches on it.
        .http2_keep_alive_interval(options.timeout)
        .keep_alive_timeout(options.connect_timeout)
        .keep_alive_while_idle(true);
    if let Some(tls) = &options.tls {
        let mut config = ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(&tls.ca))
            .identity(Identity::from_pem(&tls.certificate, &tls.key));
        if let Some(domain) = &tls.domain {
            config = config.domain_name(domain);
        }
        endpoint = endpoint.tls_config(config).map_err(|e| wrong(full(&e)))?;
    }
    Ok(Arc::new(Member {
        url,
        endpoint,
        dial,
        channel: Mutex::default(),
    }))
}

impl Member {
    fn slot(&self) -> std::sync::MutexGuard<'_, Option<Channel>> {
        self.channel.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A connection, made if there is none.
    async fn channel(&self) -> Result<Channel, String> {
        let known = self.slot().clone();
        if let Some(channel) = known {
            return Ok(channel);
        }
        let made = match &self.dial {
            Some(dial) => self.endpoint.connect_with_connector(dial.clone()).await,
            None => self.endpoint.connect().await,
        };
        let channel = made.map_err(|e| format!("{}: {}", self.url, full(&e)))?;
        *self.slot() = Some(channel.clone());
        Ok(channel)
    }

    fn forget(&self) {
        *self.slot() = None;
    }

    async fn one<T, F>(
        &self,
        ask: &impl Fn(Channel) -> F,
    ) -> Result<Result<T, tonic::Status>, Missed>
    where
        F: Future<Output = Result<Response<T>, tonic::Status>>,
    {
        let channel = self.channel().await.map_err(Missed::Before)?;
        match ask(channel).await {
            Ok(answer) => Ok(Ok(answer.into_inner())),
            // Both are what a broken connection gives; a server's own refusals have other codes.
            Err(status)
                if matches!(status.code(), Code::Unavailable | Code::Unknown)
                    && is_transport(&status) =>
            {
                self.forget();
                Err(Missed::After(status))
            }
            Err(status) => Ok(Err(status)),
        }
    }
}

/// What is said where there is nobody to ask.
const NOBODY: &str = "no machine with the store is known: no leader";

/// How a try ended without an answer.
enum Missed {
    /// Nothing was sent.
    Before(String),
    /// It may have been done.
    After(tonic::Status),
}

impl Members {
    pub(super) fn new(options: EtcdOptions) -> Result<Self, StoreError> {
        if options.endpoints.is_empty() {
            return Err(StoreError::Endpoint {
                endpoint: String::new(),
                why: "no endpoint is given".to_owned(),
            });
        }
        let reached = options.endpoints.iter().map(|url| Reached {
            url: url.clone(),
            dial: options.dial.clone(),
        });
        let members = reached.map(|reached| member(reached, &options));
        Ok(Self {
            asked: Mutex::new(Asked {
                members: members.collect::<Result<_, _>>()?,
                current: 0,
            }),
            options,
            state: watch::Sender::new(State::Unknown),
        })
    }

    fn asked(&self) -> std::sync::MutexGuard<'_, Asked> {
        // A list is whole at every step.
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks these from now on, the first one first. Connections to those that stay are kept; watches stay where they are until they break.
    pub(super) fn reach(&self, all: Vec<Reached>) -> Result<(), StoreError> {
        let mut asked = self.asked();
        let same = asked
            .members
            .iter()
            .map(|m| &m.url)
            .eq(all.iter().map(|r| &r.url));
        if same {
            return Ok(());
        }
        let known = |reached: Reached| {
            let found = asked.members.iter().find(|m| m.url == reached.url);
            found.map_or_else(|| member(reached, &self.options), |found| Ok(found.clone()))
        };
        let members = all.into_iter().map(known).collect::<Result<_, _>>()?;
        *asked = Asked {
            members,
            current: 0,
        };
        Ok(())
    }

    /// All of them, the one that answered last first.
    fn in_turn(&self) -> Vec<Arc<Member>> {
        let asked = self.asked();
        let mut all = asked.members.clone();
        all.rotate_left(asked.current);
        all
    }

    /// That one answered.
    fn answered(&self, by: &Arc<Member>) {
        let mut asked = self.asked();
        if let Some(at) = asked.members.iter().position(|m| Arc::ptr_eq(m, by)) {
            asked.current = at;
        }
    }

    pub(super) fn state(&self) -> watch::Receiver<State> {
        self.state.subscribe()
    }

    /// Whether watches are told all at once.
    pub(super) fn whole(&self) -> bool {
        self.options.whole
    }

    /// Whether watches wait for a member that answers.
    pub(super) fn lasting(&self) -> bool {
        self.options.lasting
    }

    fn is(&self, state: State) {
        self.state
            .send_if_modified(|known| std::mem::replace(known, state) != state);
    }

    /// Asks until one answers or the time is over; `again` says whether what may have been done may be asked twice.
    async fn ask<T, F>(
        &self,
        of: Of,
        again: bool,
        ask: impl Fn(Channel) -> F,
    ) -> Result<T, StoreError>
    where
        F: Future<Output = Result<Response<T>, tonic::Status>>,
    {
        let deadline = Instant::now() + self.options.timeout;
        let mut tries = 0;
        loop {
            let mut last = unreachable(NOBODY.to_owned(), false);
            let all = self.in_turn();
            // Where there is one only, what it says is what there is to say.
            let others = all.len() > 1;
            for at in &all {
                // One that hangs must leave time for another; what is written twice would be done twice.
                let limit = match again && others {
                    true => deadline.min(Instant::now() + self.options.timeout * 3 / 5),
                    false => deadline,
                };
                match timeout_at(limit, at.one(&ask)).await {
                    Ok(Ok(Ok(answer))) => {
                        self.answered(at);
                        self.is(if tries == 0 {
                            State::Connected
                        } else {
                            State::Degraded
                        });
                        return Ok(answer);
                    }
                    Ok(Ok(Err(status))) => {
                        let refused = convert::error(status, of.clone(), &at.url, false);
                        match refused {
                            // It has no leader, or is no voter: another may.
                            StoreError::Unreachable { sent, .. } if others && (again || !sent) => {
                                last = refused;
                            }
                            StoreError::Unreachable { .. } => {
                                self.leave(at);
                                self.is(State::CutOff);
                                return Err(refused);
                            }
                            _ => {
                                self.is(State::Connected);
                                return Err(refused);
                            }
                        }
                    }
                    Ok(Err(Missed::Before(why))) => last = unreachable(why, false),
                    Ok(Err(Missed::After(status))) => {
                        last = unreachable(format!("{}: {}", at.url, status.message()), true);
                        if !again {
                            self.is(State::CutOff);
                            return Err(last);
                        }
                    }
                    Err(_) => {
                        self.leave(at);
                        last = unreachable(format!("{}: no answer in time", at.url), !again);
                        if Instant::now() >= deadline {
                            self.is(State::CutOff);
                            return Err(last);
                        }
                    }
                }
                tries += 1;
            }
            // All were asked once; those that start or elect a leader need a moment.
            self.is(State::CutOff);
            let moment = Instant::now() + self.rest();
            if moment >= deadline || all.is_empty() {
                return Err(match last {
                    StoreError::Unreachable { why, .. } => unreachable(why, false),
                    other => other,
                });
            }
            tokio::time::sleep_until(moment).await;
        }
    }

    /// Something that may be asked twice.
    pub(super) async fn read<T, F>(
        &self,
        of: Of,
        ask: impl Fn(Channel) -> F,
    ) -> Result<T, StoreError>
    where
        F: Future<Output = Result<Response<T>, tonic::Status>>,
    {
        self.ask(of, true, ask).await
    }

    /// Something that must not be done twice.
    pub(super) async fn write<T, F>(
        &self,
        of: Of,
        ask: impl Fn(Channel) -> F,
    ) -> Result<T, StoreError>
    where
        F: Future<Output = Result<Response<T>, tonic::Status>>,
    {
        self.ask(of, false, ask).await
    }

    /// A connection to the member that answered last, or to another if it does not, and which one it is.
    pub(super) async fn connect(&self) -> Result<(Channel, Arc<Member>), StoreError> {
        let mut last = NOBODY.to_owned();
        for at in self.in_turn() {
            match at.channel().await {
                Ok(channel) => {
                    self.answered(&at);
                    return Ok((channel, at));
                }
                Err(why) => last = why,
            }
        }
        self.is(State::CutOff);
        Err(unreachable(last, false))
    }

    /// A stream on this member's connection broke, or it has no leader: the next one is asked.
    pub(super) fn broke(&self, at: &Arc<Member>) {
        at.forget();
        self.leave(at);
    }

    /// The one after it is asked first from now on.
    fn leave(&self, at: &Arc<Member>) {
        let mut asked = self.asked();
        if asked
            .members
            .get(asked.current)
            .is_some_and(|m| Arc::ptr_eq(m, at))
        {
            asked.current = (asked.current + 1) % asked.members.len();
        }
    }

    /// How long to wait before all are asked anew.
    pub(super) fn rest(&self) -> Duration {
        self.options.connect_timeout / 20
    }
}

fn unreachable(why: String, sent: bool) -> StoreError {
    StoreError::Unreachable { why, sent }
}

/// Whether the status was made by the transport here, and not sent by the server.
fn is_transport(status: &tonic::Status) -> bool {
    use std::error::Error as _;
    status.source().is_some()
}
