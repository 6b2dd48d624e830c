//! The members of an etcd cluster: whom to ask, and what to do when one does not answer.

use std::future::Future;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Code, Response};

use super::EtcdOptions;
use super::convert::{self, Of};
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

struct Member {
    url: String,
    endpoint: Endpoint,
    /// The connection, once made; it is taken down when a request on it fails.
    channel: Mutex<Option<Channel>>,
}

pub(super) struct Members {
    members: Vec<Member>,
    options: EtcdOptions,
    /// The one that answered last.
    current: AtomicUsize,
    state: watch::Sender<State>,
}

/// How a try ended without an answer.
enum Missed {
    /// Nothing was sent.
    Before(String),
    /// It may have been done.
    After(tonic::Status),
}

impl Members {
    pub(super) fn new(options: EtcdOptions) -> Result<Self, StoreError> {
        let member = |url: &String| {
            let wrong = |source: tonic::transport::Error| StoreError::Endpoint {
                endpoint: url.clone(),
                why: full(&source),
            };
            let mut endpoint =
                Channel::from_shared(url.clone()).map_err(|e| StoreError::Endpoint {
                    endpoint: url.clone(),
                    why: e.to_string(),
                })?;
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
                endpoint = endpoint.tls_config(config).map_err(wrong)?;
            }
            Ok(Member {
                url: url.clone(),
                endpoint,
                channel: Mutex::default(),
            })
        };
        if options.endpoints.is_empty() {
            return Err(StoreError::Endpoint {
                endpoint: String::new(),
                why: "no endpoint is given".to_owned(),
            });
        }
        Ok(Self {
            members: options
                .endpoints
                .iter()
                .map(member)
                .collect::<Result<_, _>>()?,
            options,
            current: AtomicUsize::new(0),
            state: watch::Sender::new(State::Unknown),
        })
    }

    pub(super) fn state(&self) -> watch::Receiver<State> {
        self.state.subscribe()
    }

    /// Whether watches are told all at once.
    pub(super) fn whole(&self) -> bool {
        self.options.whole
    }

    fn is(&self, state: State) {
        self.state
            .send_if_modified(|known| std::mem::replace(known, state) != state);
    }

    /// A connection to a member, made if there is none.
    async fn channel(&self, at: usize) -> Result<Channel, String> {
        let member = &self.members[at];
        let slot = || {
            member
                .channel
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
        };
        let known = slot().clone();
        if let Some(channel) = known {
            return Ok(channel);
        }
        let made = match &self.options.dial {
            Some(dial) => member.endpoint.connect_with_connector(dial.clone()).await,
            None => member.endpoint.connect().await,
        };
        let channel = made.map_err(|e| format!("{}: {}", member.url, full(&e)))?;
        *slot() = Some(channel.clone());
        Ok(channel)
    }

    fn forget(&self, at: usize) {
        let slot = self.members[at].channel.lock();
        *slot.unwrap_or_else(PoisonError::into_inner) = None;
    }

    async fn one<T, F>(
        &self,
        at: usize,
        ask: &impl Fn(Channel) -> F,
    ) -> Result<Result<T, tonic::Status>, Missed>
    where
        F: Future<Output = Result<Response<T>, tonic::Status>>,
    {
        let channel = self.channel(at).await.map_err(Missed::Before)?;
        match ask(channel).await {
            Ok(answer) => Ok(Ok(answer.into_inner())),
            // Both are what a broken connection gives; a server's own refusals have other codes.
            Err(status)
                if matches!(status.code(), Code::Unavailable | Code::Unknown)
                    && is_transport(&status) =>
            {
                self.forget(at);
                Err(Missed::After(status))
            }
            Err(status) => Ok(Err(status)),
        }
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
        let first = self.current.load(Ordering::Relaxed);
        let mut last;
        let mut tries = 0;
        loop {
            let at = (first + tries) % self.members.len();
            let url = self.members[at].url.as_str();
            match timeout_at(deadline, self.one(at, &ask)).await {
                Ok(Ok(Ok(answer))) => {
                    self.current.store(at, Ordering::Relaxed);
                    self.is(if tries == 0 {
                        State::Connected
                    } else {
                        State::Degraded
                    });
                    return Ok(answer);
                }
                Ok(Ok(Err(status))) => {
                    let refused = convert::error(status, of, url, false);
                    let cut_off = matches!(refused, StoreError::Unreachable { .. });
                    self.is(if cut_off {
                        State::CutOff
                    } else {
                        State::Connected
                    });
                    return Err(refused);
                }
                Ok(Err(Missed::Before(why))) => last = why,
                Ok(Err(Missed::After(status))) => {
                    last = format!("{url}: {}", status.message());
                    if !again {
                        self.is(State::CutOff);
                        return Err(unreachable(last, true));
                    }
                }
                Err(_) => {
                    self.is(State::CutOff);
                    let why = format!("{url}: no answer within {:?}", self.options.timeout);
                    return Err(unreachable(why, !again));
                }
            }
            tries += 1;
            if tries % self.members.len() == 0 {
                // All were asked once; those that start or elect a leader need a moment.
                self.is(State::CutOff);
                let moment = Instant::now() + self.rest();
                if moment >= deadline {
                    return Err(unreachable(last, false));
                }
                tokio::time::sleep_until(moment).await;
            }
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
    pub(super) async fn connect(&self) -> Result<(Channel, usize), StoreError> {
        let first = self.current.load(Ordering::Relaxed);
        let mut last = String::new();
        for tries in 0..self.members.len() {
            let at = (first + tries) % self.members.len();
            match self.channel(at).await {
                Ok(channel) => {
                    self.current.store(at, Ordering::Relaxed);
                    return Ok((channel, at));
                }
                Err(why) => last = why,
            }
        }
        self.is(State::CutOff);
        Err(unreachable(last, false))
    }

    /// A stream on this member's connection broke: the next one is asked.
    pub(super) fn broke(&self, at: usize) {
        self.forget(at);
        let next = (at + 1) % self.members.len();
        let _ = self
            .current
            .compare_exchange(at, next, Ordering::Relaxed, Ordering::Relaxed);
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
