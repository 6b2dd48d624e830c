//! The machines around, as one pull sees them: who has what, and who is not to be asked again.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::stream::{self, BoxStream};
use futures_util::{FutureExt as _, Stream, StreamExt as _};
use serde::de::DeserializeOwned;
use tokio::time::timeout;

use super::{Held, Here, PeerAnswer, PeerError, Peers, content_path, here_path, name_path};
use crate::digest::Digest;
use crate::reference::Reference;

/// Machines that are asked at once.
const AT_ONCE: usize = 32;
/// Digests that one question has at most: it must fit into a request's head.
const DIGESTS: usize = 100;
/// More machines than these need not have the same content; more are not looked for.
const ENOUGH: usize = 4;
/// Longest wait for the next machine's answer, and for that of one more when each content has a holder: one that does not answer must not
/// keep an image from those that do.
const QUESTION: Duration = Duration::from_secs(4);
const MORE: Duration = Duration::from_millis(100);
/// Longest answer to a question about names or digests, in bytes.
const ANSWER_MAX: u64 = 64 << 10;

/// What a machine answered: nothing if it has nothing.
type Answer<T> = (Result<Option<T>, PeerError>, Arc<str>);

/// One pull's view of the machines. Cheap to make; without peers it is empty.
pub(crate) struct Crowd {
    peers: Option<Arc<dyn Peers>>,
    patience: Duration,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    /// Machines by the content that they said to have, in the order in which they answered.
    holders: BTreeMap<Digest, Vec<Arc<str>>>,
    /// Content whose holders were looked for.
    looked_for: BTreeSet<Digest>,
    /// What these say is not believed any more, or they do not answer.
    shunned: BTreeSet<Arc<str>>,
    /// Counts the content that was asked for, so that not all of it comes from one machine.
    turn: usize,
}

impl Crowd {
    pub fn new(peers: Option<Arc<dyn Peers>>, patience: Duration) -> Self {
        Self {
            peers,
            patience,
            // Many machines that need the same at once do not all begin with the same one.
            known: Mutex::new(Known {
                turn: usize::from(getrandom::u32().unwrap_or_default() as u8),
                ..Known::default()
            }),
        }
    }

    /// How long a machine may be silent.
    pub fn patience(&self) -> Duration {
        self.patience
    }

    pub fn is_empty(&self) -> bool {
        self.machines().is_empty()
    }

    /// All machines that live, as people call them.
    pub fn called(&self) -> Vec<String> {
        let Some(peers) = &self.peers else {
            return Vec::new();
        };
        let all = peers.machines().into_iter();
        all.map(|machine| peers.called(&machine)).collect()
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Those that may be asked.
    fn machines(&self) -> Vec<Arc<str>> {
        let all = self.peers.as_ref().map_or_else(Vec::new, |p| p.machines());
        let known = self.known();
        all.into_iter()
            .map(Arc::from)
            .filter(|m| !known.shunned.contains(m))
            .collect()
    }

    /// A machine that is not asked again for this pull.
    pub fn shun(&self, machine: &Arc<str>) {
        self.known().shunned.insert(machine.clone());
    }

    /// Finds out who has these, as far as that is not known.
    pub async fn look_for(&self, digests: impl IntoIterator<Item = Digest>) {
        let new: BTreeSet<Digest> = {
            let mut known = self.known();
            let digests = digests.into_iter();
            digests.filter(|d| known.looked_for.insert(*d)).collect()
        };
        let new: Vec<Digest> = new.into_iter().collect();
        for some in new.chunks(DIGESTS) {
            self.look_for_some(some).await;
        }
    }

    /// Asks all machines the same, some at once.
    fn each<'a, T: DeserializeOwned + Send + 'a>(
        &'a self,
        path: &'a str,
    ) -> impl Stream<Item = Answer<T>> + 'a {
        let asked = self.machines().into_iter().map(move |machine| {
            let asking = async move { (self.json::<T>(&machine, path).await, machine) };
            asking.boxed()
        });
        stream::iter(asked).buffer_unordered(AT_ONCE)
    }

    async fn look_for_some(&self, digests: &[Digest]) {
        let path = here_path(digests);
        let mut answers = pin!(self.each::<Here>(&path));
        let mut left = QUESTION;
        while let Ok(Some((answer, machine))) = timeout(left, answers.next()).await {
            match answer {
                Ok(Some(said)) => {
                    let mut known = self.known();
                    for digest in said.here.iter().filter(|d| digests.contains(d)) {
                        let holders = known.holders.entry(*digest).or_default();
                        holders.push(machine.clone());
                    }
                    let have = |n| {
                        let of = |d| known.holders.get(d).is_some_and(|h| h.len() >= n);
                        digests.iter().all(of)
                    };
                    if have(ENOUGH) {
                        return;
                    }
                    if have(1) {
                        left = MORE;
                    }
                }
                Ok(None) => {}
                Err(error) => self.failed(&machine, &error),
            }
        }
    }

    fn failed(&self, machine: &Arc<str>, error: &PeerError) {
        tracing::info!(
            error = coracle_sys::full(error),
            "another machine is not asked for this image"
        );
        self.shun(machine);
    }

    /// Those that have it, each time beginning with another one.
    pub fn holders(&self, digest: &Digest) -> Vec<Arc<str>> {
        let mut known = self.known();
        known.turn += 1;
        let all = known.holders.get(digest).into_iter().flatten();
        let mut all: Vec<_> = all
            .filter(|m| !known.shunned.contains(*m))
            .cloned()
            .collect();
        if !all.is_empty() {
            let by = known.turn % all.len();
            all.rotate_left(by);
        }
        all
    }

    /// What machines have under a name, each image once: what was made last comes first. Of one time it is what came last, and then the
    /// greatest digest, so that all machines choose the same.
    pub async fn named(&self, reference: &Reference) -> Vec<Held> {
        let path = name_path(&reference.to_string());
        let mut answers = pin!(self.each::<Held>(&path));
        let mut all = Vec::new();
        while let Some((answer, machine)) = answers.next().await {
            match answer {
                Ok(held) => all.extend(held),
                Err(error) => self.failed(&machine, &error),
            }
        }
        all.sort_by_key(|h| Reverse((h.created, h.added, h.manifest)));
        let mut seen = BTreeSet::new();
        all.retain(|h| seen.insert(h.manifest));
        all
    }

    /// A small document of that digest, from whoever has it; none if nobody gives it.
    pub async fn document(&self, digest: &Digest, limit: u64) -> Option<Vec<u8>> {
        self.look_for([*digest]).await;
        for machine in self.holders(digest) {
            match self.small(&machine, &content_path(digest), limit).await {
                Ok(Some(bytes)) if Digest::of(&bytes) == *digest => return Some(bytes),
                Ok(Some(_)) => {
                    let what = format!("its bytes are not those of {digest}");
                    let error = PeerError::Wrong {
                        machine: machine.to_string(),
                        what,
                    };
                    self.accuse(&machine, &error);
                }
                // It has gone there since.
                Ok(None) => {}
                Err(error) => self.failed(&machine, &error),
            }
        }
        None
    }

    /// A machine that gave something false.
    pub fn accuse(&self, machine: &Arc<str>, error: &PeerError) {
        tracing::warn!(
            error = coracle_sys::full(error),
            "another machine gives false content, and is asked no more for this image"
        );
        self.shun(machine);
    }

    /// Opens content at a machine, from a byte on. The status is 200 or 206.
    pub async fn open(
        &self,
        machine: &Arc<str>,
        path: &str,
        from: u64,
    ) -> Result<PeerAnswer, PeerError> {
        let Some(peers) = &self.peers else {
            return Err(PeerError::Nobody);
        };
        let answer = timeout(self.patience, peers.get(machine, path, from)).await;
        let answer = answer.map_err(|_| self.silent(machine))?;
        let answer = answer.map_err(|source| PeerError::Unreachable {
            machine: machine.to_string(),
            source,
        })?;
        match answer.status {
            200 | 206 => Ok(answer),
            status => Err(PeerError::Status {
                machine: machine.to_string(),
                status,
            }),
        }
    }

    /// That a machine said nothing for too long.
    pub fn silent(&self, machine: &Arc<str>) -> PeerError {
        PeerError::Silent {
            machine: machine.to_string(),
            seconds: self.patience.as_secs().max(1),
        }
    }

    /// A short answer, whole; none if the machine says that there is none.
    async fn small(
        &self,
        machine: &Arc<str>,
        path: &str,
        limit: u64,
    ) -> Result<Option<Vec<u8>>, PeerError> {
        // As a whole: one that sends byte by byte is not waited for either.
        let asking = timeout(self.patience.min(QUESTION), async {
            match self.open(machine, path, 0).await {
                Err(PeerError::Status { status: 404, .. }) => Ok(None),
                answer => self.whole(machine, answer?.body, limit).await.map(Some),
            }
        });
        asking.await.map_err(|_| self.silent(machine))?
    }

    async fn whole(
        &self,
        machine: &Arc<str>,
        mut body: BoxStream<'static, std::io::Result<bytes::Bytes>>,
        limit: u64,
    ) -> Result<Vec<u8>, PeerError> {
        let mut bytes = Vec::new();
        while let Some(piece) = body.next().await {
            let piece = piece.map_err(|source| PeerError::Unreachable {
                machine: machine.to_string(),
                source,
            })?;
            bytes.extend_from_slice(&piece);
            if bytes.len() as u64 > limit {
                return Err(PeerError::Wrong {
                    machine: machine.to_string(),
                    what: format!("more than {limit} bytes"),
                });
            }
        }
        Ok(bytes)
    }

    async fn json<T: DeserializeOwned>(
        &self,
        machine: &Arc<str>,
        path: &str,
    ) -> Result<Option<T>, PeerError> {
        let Some(bytes) = self.small(machine, path, ANSWER_MAX).await? else {
            return Ok(None);
        };
        let read = serde_json::from_slice(&bytes);
        read.map(Some).map_err(|error| PeerError::Wrong {
            machine: machine.to_string(),
            what: format!("its answer cannot be read: {error}"),
        })
    }
}
