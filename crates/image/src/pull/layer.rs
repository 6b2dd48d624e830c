//! One layer of a pull.
//!
//! Its bytes come from one machine after the other and then from the registry, each going on where the one before broke off; the unpacking
//! notices nothing. What is wrong shows at the end only, and then all machines that had a part in it are out.

use std::collections::VecDeque;
use std::io::{self, Read};
use std::sync::Arc;

use bytes::Bytes;
use futures_util::StreamExt as _;
use tokio::sync::mpsc;
use tokio::time::{Duration, Instant, timeout};

use super::source::{NotGot, Sources};
use super::{Kept, event};
use crate::digest::Digest;
use crate::error::{ImageError, Result};
use crate::ingest::Expected;
use crate::manifest::Named;
use crate::peers::{Crowd, PeerError, content_path};
use crate::progress::{Progress, Status};
use crate::registry::{Registry, RegistryError};
use crate::store::ImageStore;

/// Pieces of a blob that wait for the unpacker.
const WAITING: usize = 32;
/// Progress is told about this often: every so many bytes.
const STEP: u64 = 512 << 10;
/// How often the machines are gone through: one that is just starting anew breaks off and comes back.
const ROUNDS: u32 = 3;
/// Bytes in a second below which a machine is slow, if there is another source.
const SLOW: u64 = 64 << 10;

/// How often a layer is begun anew because of what was false.
const ANEW: u32 = 8;

/// Whom a try asks.
#[derive(PartialEq)]
enum Turn {
    /// All machines that have it, and the registry.
    All,
    /// One machine, to see whether it is honest.
    Only(Arc<str>),
}

/// What becomes of a blob on its way.
struct Taken<'a> {
    layer: Named,
    received: u64,
    told: u64,
    to: &'a mpsc::Sender<Result<Bytes, ()>>,
    progress: &'a dyn Progress,
}

/// How a source's part ended well.
#[derive(PartialEq)]
enum Part {
    /// With the blob's end.
    Whole,
    /// Nobody takes it any more.
    Unwanted,
}

impl Taken<'_> {
    /// Passes a piece on; false if nobody takes it any more.
    async fn piece(&mut self, piece: Bytes) -> bool {
        self.received += piece.len() as u64;
        let (now, total) = (self.received, self.layer.size);
        if now - self.told >= STEP || now == total {
            self.told = now;
            let current = now;
            let status = Status::Downloading { current, total };
            self.progress.event(event(&self.layer, status));
        }
        self.to.send(Ok(piece)).await.is_ok()
    }

    fn ended(&self, part: &Part) {
        if *part == Part::Whole {
            let complete = event(&self.layer, Status::DownloadComplete);
            self.progress.event(complete);
        }
    }
}

impl ImageStore {
    /// Has a layer in its place.
    pub(super) async fn layer(
        &self,
        sources: &Sources<'_>,
        layer: Named,
        diff_id: Digest,
        of: &str,
        progress: &dyn Progress,
    ) -> Result<Kept> {
        // Two pulls, or one image with a layer twice: one of them does the work.
        let lock = self.layer_lock(diff_id);
        let _once = lock.lock().await;
        let pin = self.pin([diff_id, layer.digest]);
        if self.has_layer(&diff_id) {
            progress.event(event(&layer, Status::AlreadyExists));
            return Ok(Kept::Already(pin));
        }
        progress.event(event(&layer, Status::Waiting));
        let _slot = self
            .0
            .downloads
            .acquire()
            .await
            .map_err(|_| ImageError::Interrupted)?;
        let expected = Expected {
            blob: Some(layer.digest),
            blob_size: Some(layer.size),
            diff_id: Some(diff_id),
            verbatim: true,
        };
        let taken = self.take(sources, (layer, expected), of, progress).await;
        let Err(error) = taken else { return taken };
        if error.is_no_space() || diff_id == layer.digest {
            return Err(error);
        }
        // Whoever has the layer from another source can make its plain archive.
        sources.crowd.look_for([diff_id]).await;
        if sources.crowd.holders(&diff_id).is_empty() {
            return Err(error);
        }
        let plain = Named {
            digest: diff_id,
            size: 0,
        };
        let expected = Expected {
            diff_id: Some(diff_id),
            ..Expected::default()
        };
        let only = Sources::new(&self.0.config, sources.crowd, None);
        let taken = self.take(&only, (plain, expected), of, progress).await;
        taken.map_err(|plain| {
            tracing::info!(layer = %diff_id, error = coracle_sys::full(&plain), "the plain layer did not come either");
            error
        })
    }

    /// Downloads and unpacks; begins anew without the machines that gave something false.
    async fn take(
        &self,
        sources: &Sources<'_>,
        (layer, expected): (Named, Expected),
        of: &str,
        progress: &dyn Progress,
    ) -> Result<Kept> {
        let mut turns = VecDeque::from([Turn::All]);
        let mut last = ImageError::Interrupted;
        let mut tries = 0;
        while let Some(turn) = turns.pop_front() {
            let (sender, receiver) = mpsc::channel(WAITING);
            let (store, name, image) = (self.clone(), layer.digest.short(), of.to_owned());
            let unpacking = tokio::task::spawn_blocking(move || {
                let stream = Incoming {
                    receiver,
                    rest: Bytes::new(),
                };
                store.take_layer(stream, expected, (&name, &image), |_| {})
            });
            let mut taken = Taken {
                layer,
                received: 0,
                told: 0,
                to: &sender,
                progress,
            };
            let mut gave = Vec::new();
            let downloaded = download(sources, &turn, &mut taken, &mut gave).await;
            drop(sender);
            let placed = unpacking.await.map_err(|_| ImageError::Interrupted)?;
            let once_more = turn == Turn::All && tries < ANEW;
            tries += 1;
            last = match (placed, downloaded) {
                (Ok(placed), _) => {
                    progress.event(event(&layer, Status::PullComplete));
                    return Ok(Kept::Placed(placed));
                }
                (Err(error), _) if error.is_no_space() => return Err(error),
                // The unpacker's end is the cause, not the consequence, unless it only saw the stream end.
                (Err(error), Ok(())) if gave.is_empty() => return Err(error),
                (Err(error), Ok(())) => {
                    match gave.as_slice() {
                        [machine] => sources.crowd.accuse(machine, &wrong(machine, &error)),
                        // Which of them it was shows when each gives all of it.
                        several => turns.extend(several.iter().cloned().map(Turn::Only)),
                    }
                    if once_more {
                        turns.push_back(Turn::All);
                    }
                    error
                }
                (Err(_), Err(not_got)) => {
                    // What it gave is not built on.
                    if once_more && matches!(not_got, NotGot::Peers(PeerError::Wrong { .. })) {
                        turns.push_back(Turn::All);
                    }
                    match not_got {
                        // That nobody is left says less than what became of the last one.
                        NotGot::Peers(PeerError::Nobody) if tries > 1 => last,
                        not_got => not_got.of(of),
                    }
                }
            };
        }
        Err(last)
    }
}

fn wrong(machine: &Arc<str>, error: &ImageError) -> PeerError {
    PeerError::Wrong {
        machine: machine.to_string(),
        what: coracle_sys::full(error),
    }
}

/// Has a blob's bytes sent. Ends quietly when the receiver has. `gave` are the machines of which there are bytes among them.
async fn download(
    sources: &Sources<'_>,
    turn: &Turn,
    taken: &mut Taken<'_>,
    gave: &mut Vec<Arc<str>>,
) -> Result<(), NotGot> {
    let crowd = sources.crowd;
    let digest = taken.layer.digest;
    let (mut last, mut refused) = (PeerError::Nobody, None);
    for round in 0..ROUNDS {
        let mut machines = crowd.holders(&digest);
        if let Turn::Only(one) = turn {
            machines.retain(|m| m == one);
        }
        let others = machines.len() > 1 || sources.has_registry();
        for machine in &machines {
            if taken.layer.size > 0 && taken.received == taken.layer.size {
                taken.ended(&Part::Whole);
                return Ok(());
            }
            let before = taken.received;
            let part = from_machine(crowd, machine, taken, round == 0 && others).await;
            if taken.received > before && !gave.contains(machine) {
                gave.push(machine.clone());
            }
            last = match part {
                Ok(part) => {
                    taken.ended(&part);
                    return Ok(());
                }
                Err(error) => error,
            };
            tracing::info!(layer = %digest, error = coracle_sys::full(&last), "the layer's next source is asked");
            match &last {
                PeerError::Wrong { .. } => {
                    crowd.accuse(machine, &last);
                    let _ = taken.to.send(Err(())).await;
                    return Err(NotGot::Peers(last));
                }
                PeerError::Status { .. } | PeerError::Silent { .. } => crowd.shun(machine),
                _ => {}
            }
        }
        if round == 0 && *turn == Turn::All {
            match sources.registry().await {
                Ok(Some(registry)) => match from_registry(registry, taken).await {
                    Ok(part) => {
                        taken.ended(&part);
                        return Ok(());
                    }
                    Err(error) => refused = Some(NotGot::Registry(error)),
                },
                Ok(None) => {}
                Err(error) => refused = Some(error),
            }
        }
        if machines.is_empty() || crowd.holders(&digest).is_empty() {
            break;
        }
        tokio::time::sleep(sources.pause(round)).await;
    }
    // The unpacker must not take the end for the end of the blob.
    let _ = taken.to.send(Err(())).await;
    Err(refused.unwrap_or(NotGot::Peers(last)))
}

/// One connection to a machine. One that is too slow is an error if `hurry`.
async fn from_machine(
    crowd: &Crowd,
    machine: &Arc<str>,
    taken: &mut Taken<'_>,
    hurry: bool,
) -> Result<Part, PeerError> {
    let path = content_path(&taken.layer.digest);
    let mut answer = crowd.open(machine, &path, taken.received).await?;
    // Without ranges it comes from the beginning: what we have is skipped.
    let mut skip = if answer.status == 206 {
        0
    } else {
        taken.received
    };
    let (mut waited, mut came) = (Duration::ZERO, 0_u64);
    loop {
        let since = Instant::now();
        let piece = timeout(crowd.patience(), answer.body.next()).await;
        let piece = piece.map_err(|_| crowd.silent(machine))?;
        let Some(mut piece) = piece.transpose().map_err(|source| PeerError::Unreachable {
            machine: machine.to_string(),
            source,
        })?
        else {
            break;
        };
        // Only its time counts, not the unpacker's.
        waited += since.elapsed();
        came += piece.len() as u64;
        if waited >= crowd.patience() {
            if hurry && came < SLOW.saturating_mul(waited.as_secs().max(1)) {
                return Err(PeerError::Slow {
                    machine: machine.to_string(),
                });
            }
            (waited, came) = (Duration::ZERO, 0);
        }
        let cut = usize::try_from(skip.min(piece.len() as u64)).unwrap_or(piece.len());
        skip -= cut as u64;
        let _ = piece.split_to(cut);
        if piece.is_empty() {
            continue;
        }
        let size = taken.layer.size;
        if size > 0 && taken.received + piece.len() as u64 > size {
            return Err(PeerError::Wrong {
                machine: machine.to_string(),
                what: format!("more than {size} bytes"),
            });
        }
        if !taken.piece(piece).await {
            return Ok(Part::Unwanted);
        }
    }
    if taken.received < taken.layer.size {
        return Err(PeerError::Incomplete {
            machine: machine.to_string(),
            received: taken.received,
            expected: taken.layer.size,
        });
    }
    Ok(Part::Whole)
}

/// Asks a registry, again and again while that may help.
async fn from_registry(
    registry: &Registry<'_>,
    taken: &mut Taken<'_>,
) -> Result<Part, RegistryError> {
    let digest = taken.layer.digest.to_string();
    let mut tries = 1;
    loop {
        let before = taken.received;
        let error = match once(registry, &digest, taken).await {
            Ok(part) => return Ok(part),
            Err(error) => error,
        };
        if taken.received > before {
            // It got further: the registry lives.
            tries = 1;
        }
        if !registry.may_go(&error) || tries >= registry.attempts() {
            return Err(error);
        }
        let pause = registry.pause(tries, &error);
        let seconds = pause.as_secs().max(1);
        let retrying = event(&taken.layer, Status::Retrying { seconds });
        taken.progress.event(retrying);
        tracing::info!(layer = digest, %error, "a download broke and is tried again");
        tokio::time::sleep(pause).await;
        tries += 1;
    }
}

/// One connection to a registry.
async fn once(
    registry: &Registry<'_>,
    digest: &str,
    taken: &mut Taken<'_>,
) -> Result<Part, RegistryError> {
    let mut response = registry.blob(digest, taken.received).await?;
    // Without ranges it comes from the beginning: what we have is skipped.
    let mut skip = if response.status() == reqwest::StatusCode::PARTIAL_CONTENT {
        0
    } else {
        taken.received
    };
    let url = response.url().to_string();
    loop {
        let chunk = response.chunk().await;
        let Some(mut chunk) = chunk.map_err(|source| RegistryError::Transport {
            url: url.clone(),
            source,
        })?
        else {
            break;
        };
        let cut = usize::try_from(skip.min(chunk.len() as u64)).unwrap_or(chunk.len());
        skip -= cut as u64;
        let _ = chunk.split_to(cut);
        if !chunk.is_empty() && !taken.piece(chunk).await {
            return Ok(Part::Unwanted);
        }
    }
    if taken.received < taken.layer.size {
        return Err(RegistryError::Incomplete {
            url,
            received: taken.received,
            expected: taken.layer.size,
        });
    }
    Ok(Part::Whole)
}

/// What was received, as a blocking reader.
struct Incoming {
    receiver: mpsc::Receiver<Result<Bytes, ()>>,
    rest: Bytes,
}

impl Read for Incoming {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.rest.is_empty() {
            match self.receiver.blocking_recv() {
                Some(Ok(bytes)) => self.rest = bytes,
                // The download failed, which it says itself.
                Some(Err(())) => return Err(io::ErrorKind::BrokenPipe.into()),
                None => return Ok(0),
            }
        }
        let length = buffer.len().min(self.rest.len());
        buffer[..length].copy_from_slice(&self.rest.split_to(length));
        Ok(length)
    }
}
