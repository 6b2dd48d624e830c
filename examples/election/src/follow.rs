//! What is watched, for ever: a stream that breaks, with the daemon or by compaction, is begun anew with a read.

use etcd_client::{Client, Error, EventType, KeyValue, WatchOptions};
use std::time::Duration;

use crate::candidate::ELECTION;

const AGAIN: Duration = Duration::from_millis(500);

/// Tells what a key is now and at each change; None while it is not there.
pub async fn key(mut client: Client, key: &str, tell: impl Fn(Option<&KeyValue>)) {
    loop {
        if let Err(error) = watch(&mut client, key, &tell).await {
            eprintln!("{key} is watched again: {error}");
        }
        tokio::time::sleep(AGAIN).await;
    }
}

/// Returns at the stream's end.
async fn watch(
    client: &mut Client,
    key: &str,
    tell: &impl Fn(Option<&KeyValue>),
) -> Result<(), Error> {
    let now = client.get(key, None).await?;
    tell(now.kvs().first());
    // Nothing is missed between the reading and the watch.
    let next = now.header().map_or(0, |h| h.revision()) + 1;
    let from = WatchOptions::new().with_start_revision(next);
    let mut stream = client.watch(key, Some(from)).await?;
    while let Some(answer) = stream.message().await? {
        if answer.canceled() {
            break;
        }
        for event in answer.events() {
            tell(event.kv().filter(|_| event.event_type() == EventType::Put));
        }
    }
    Ok(())
}

/// Tells who leads, now and at each change; nothing while nobody does.
pub async fn leader(mut client: Client, tell: impl Fn(String)) {
    loop {
        if let Err(error) = observe(&mut client, &tell).await {
            eprintln!("the election is observed again: {error}");
        }
        tokio::time::sleep(AGAIN).await;
    }
}

async fn observe(client: &mut Client, tell: &impl Fn(String)) -> Result<(), Error> {
    let mut stream = client.observe(ELECTION).await?;
    while let Some(answer) = stream.message().await? {
        if let Some(kv) = answer.kv() {
            tell(String::from_utf8_lossy(kv.value()).into_owned());
        }
    }
    Ok(())
}
