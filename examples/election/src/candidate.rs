//! A candidate: its lease, its campaign, and the leader's work.

use etcd_client::{
    Client, Compare, CompareOp, Error, LeaderKey, LeaseKeepAliveStream, LeaseKeeper, Txn, TxnOp,
    TxnOpResponse,
};
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout_at};

use crate::COUNTER;

/// The election's name. Candidates' keys lie below it, the oldest is the leader's.
pub const ELECTION: &str = "/election/leader";
/// How long a leader that is gone keeps others from leading.
const TTL: Duration = Duration::from_secs(5);
const BEAT: Duration = Duration::from_secs(1);
const AGAIN: Duration = Duration::from_millis(500);

pub struct Candidate {
    client: Client,
    name: String,
    /// The lease that its key is under, 0 if there is none.
    lease: AtomicI64,
}

impl Candidate {
    pub fn new(client: Client, name: String) -> Self {
        Self {
            client,
            name,
            lease: AtomicI64::new(0),
        }
    }

    /// Campaigns and leads, again and again.
    pub async fn campaign(&self) {
        loop {
            match self.term().await {
                Ok(()) => println!("{} does not lead any more", self.name),
                Err(error) => eprintln!("{} campaigns again: {error}", self.name),
            }
            self.leave().await;
            sleep(AGAIN).await;
        }
    }

    /// Gives its place up, so that others need not wait for the lease's end.
    pub async fn leave(&self) {
        let lease = self.lease.swap(0, Ordering::Relaxed);
        if lease != 0 {
            // If it cannot be told, the lease ends by itself.
            let told = self.client.clone();
            let _ = timeout_at(Instant::now() + BEAT, revoke(told, lease)).await;
        }
    }

    /// One lease, and what is done under it.
    async fn term(&self) -> Result<(), Error> {
        let granted = Instant::now();
        let seconds = i64::try_from(TTL.as_secs()).unwrap_or(i64::MAX);
        let lease = self.client.clone().lease_grant(seconds, None).await?.id();
        self.lease.store(lease, Ordering::Relaxed);
        tokio::select! {
            () = keep(self.client.clone(), lease, granted) => Ok(()),
            ended = self.lead(lease) => ended,
        }
    }

    /// Waits until it leads, and works until it sees that another does.
    async fn lead(&self, lease: i64) -> Result<(), Error> {
        let mut client = self.client.clone();
        let won = client.campaign(ELECTION, self.name.as_str(), lease).await?;
        let Some(key) = won.leader() else {
            return Ok(());
        };
        println!("{} leads since revision {}", self.name, key.rev());
        let mut clock = interval(BEAT);
        // Who was held up does not make up for it.
        clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            clock.tick().await;
            match count(&mut client, key).await {
                Ok(true) => {}
                Ok(false) => return Ok(()),
                // The store may be back before the lease is over.
                Err(error) => eprintln!("it was not counted: {error}"),
            }
        }
    }
}

async fn revoke(mut client: Client, lease: i64) -> Result<(), Error> {
    client.lease_revoke(lease).await.map(|_| ())
}

/// The leader's work; false if it is none any more, and then nothing is written.
async fn count(client: &mut Client, leader: &LeaderKey) -> Result<bool, Error> {
    let now = client.get(COUNTER, None).await?;
    let found = now.kvs().first();
    let number = found.and_then(|kv| kv.value_str().ok());
    let number: u64 = number.and_then(|text| text.parse().ok()).unwrap_or(0);
    // A key that was made again by a later campaign has another revision.
    let leads = Compare::create_revision(leader.key(), CompareOp::Equal, leader.rev());
    // What somebody else wrote since it was read is not overwritten; 0 is a key that is not there.
    let unchanged = found.map_or(0, |kv| kv.mod_revision());
    let unchanged = Compare::mod_revision(COUNTER, CompareOp::Equal, unchanged);
    let next = TxnOp::put(COUNTER, (number + 1).to_string(), None);
    let txn = Txn::new()
        .when([leads, unchanged])
        .and_then([next])
        .or_else([TxnOp::get(leader.key(), None)]);
    let done = client.txn(txn).await?;
    if done.succeeded() {
        return Ok(true);
    }
    let answers = done.op_responses();
    Ok(match answers.first() {
        Some(TxnOpResponse::Get(key)) => {
            let key = key.kvs().first();
            key.is_some_and(|key| key.create_revision() == leader.rev())
        }
        _ => false,
    })
}

/// Keeps a lease; returns when it is over, for the store or by our own clock.
async fn keep(mut client: Client, lease: i64, granted: Instant) {
    // When the last beat was sent that was answered.
    let mut good = granted;
    let mut stream = None;
    loop {
        let sent = Instant::now();
        match timeout_at(good + TTL, beat(&mut client, lease, &mut stream)).await {
            Ok(Ok(true)) => good = sent,
            Ok(Ok(false)) | Err(_) => return,
            Ok(Err(error)) => {
                eprintln!("the lease is kept over another stream: {error}");
                stream = None;
            }
        }
        sleep(BEAT).await;
    }
}

/// One beat; false if the lease is gone.
async fn beat(
    client: &mut Client,
    lease: i64,
    stream: &mut Option<(LeaseKeeper, LeaseKeepAliveStream)>,
) -> Result<bool, Error> {
    let Some((keeper, answers)) = stream else {
        // It begins with a beat.
        *stream = Some(client.lease_keep_alive(lease).await?);
        return Ok(true);
    };
    keeper.keep_alive().await?;
    match answers.message().await? {
        Some(answer) => Ok(answer.ttl() > 0),
        None => Err(Error::LeaseKeepAliveError("it has ended".into())),
    }
}
