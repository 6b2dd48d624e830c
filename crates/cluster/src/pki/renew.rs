//! Certificates are renewed when a third of their time is left, and asked for again and again until they are.

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio_util::sync::CancellationToken;

use super::{Asked, Identity, PkiError};

/// Longest wait without a look at the clock, which may be set meanwhile.
const LOOK: Duration = Duration::from_secs(60);

/// When a certificate is to be renewed, and when it runs out. Pure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Due {
    /// Before that the clock is wrong, since the CA is not older.
    pub earliest: SystemTime,
    /// It counts from then on. What lies ahead was issued while a clock was fast.
    pub begins: SystemTime,
    /// From then on there is a third of its time left.
    pub renew: SystemTime,
    /// Then it runs out.
    pub expires: SystemTime,
}

impl Due {
    /// Of a certificate that counts between these two, by a CA that counts from `earliest` on.
    pub fn of(earliest: SystemTime, not_before: SystemTime, not_after: SystemTime) -> Self {
        let life = not_after.duration_since(not_before).unwrap_or_default();
        Self {
            earliest,
            begins: not_before,
            renew: not_after - life / 3,
            expires: not_after,
        }
    }

    /// How long to wait before it is asked for, at `now` and after so many tries in vain: none before it is due; then a
    /// hundredth of what is left, doubled with each try, and never more than a tenth, so that there are many tries before the end.
    /// One that counts from a day to come on is of no use to anybody and is due at once.
    pub fn wait(&self, now: SystemTime, tries: u32) -> Duration {
        let is_ahead = self.earliest <= now && now < self.begins;
        if !is_ahead
            && let Ok(early) = self.renew.duration_since(now)
            && !early.is_zero()
        {
            return early;
        }
        if tries == 0 {
            return Duration::ZERO;
        }
        if is_ahead {
            return LOOK;
        }
        let left = self.expires.duration_since(now).unwrap_or_default();
        let wait = (left / 100)
            .saturating_mul(1 << tries.min(5))
            .min(left / 10);
        wait.clamp(Duration::from_secs(1), Duration::from_secs(3600))
    }
}

/// Renews `identity` for as long as this is polled and `stop` is not cancelled. `ask` is given the request and answers the
/// certificate in PEM; what it cannot do now is tried again, sooner or later as [`Due::wait`] says.
pub async fn keep_renewed<F, Fut, E>(identity: Arc<Identity>, mut ask: F, stop: CancellationToken)
where
    F: FnMut(Asked) -> Fut,
    Fut: Future<Output = Result<String, E>>,
    E: std::fmt::Display,
{
    let mut tries = 0;
    loop {
        let wait = || identity.due().wait(SystemTime::now(), tries);
        let mut left = wait();
        while left > Duration::ZERO {
            let nap = left.min(LOOK);
            tokio::select! {
                () = tokio::time::sleep(nap) => {}
                () = stop.cancelled() => return,
            }
            // After a try in vain the time runs by no clock that anybody sets.
            left = match tries {
                0 => wait(),
                _ => left - nap,
            };
        }
        let done = tokio::select! {
            done = renew(&identity, &mut ask) => done,
            () = stop.cancelled() => return,
        };
        match done {
            Ok(()) => {
                tracing::info!(machine = %identity.machine(), "the certificate is renewed");
                tries = 0;
            }
            Err(why) => {
                tries += 1;
                tracing::warn!(%why, tries, "the certificate could not be renewed yet");
            }
        }
    }
}

async fn renew<F, Fut, E>(identity: &Identity, ask: &mut F) -> Result<(), String>
where
    F: FnMut(Asked) -> Fut,
    Fut: Future<Output = Result<String, E>>,
    E: std::fmt::Display,
{
    let say = |e: PkiError| coracle_store::full(&e);
    let request = identity.request().map_err(say)?;
    let certificate = ask(request).await.map_err(|e| e.to_string())?;
    identity.replace(&certificate).map_err(say)
}
