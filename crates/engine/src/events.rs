//! What happened, told to whoever listens: Docker's event messages.
//!
//! The last [`KEPT`] events are kept in memory for listeners that ask for the past.

use chrono::{DateTime, Utc};
use serde::Serialize;
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, PoisonError};
use tokio::sync::broadcast;

/// How many past events a listener can ask for.
pub const KEPT: usize = 1024;

/// Who an event is about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Actor {
    /// Id of the container, image, volume or network.
    #[serde(rename = "ID")]
    pub id: String,
    /// Name, image, labels, and what the action adds (`exitCode`, `signal`).
    pub attributes: BTreeMap<String, String>,
}

/// Docker's `EventMessage`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Event {
    /// `container`, `image`, `network`, `volume`, `daemon`.
    #[serde(rename = "Type")]
    pub kind: String,
    /// `create`, `start`, `die`, …
    #[serde(rename = "Action")]
    pub action: String,
    /// Who.
    #[serde(rename = "Actor")]
    pub actor: Actor,
    /// `local`.
    pub scope: &'static str,
    /// Seconds since 1970.
    pub time: i64,
    /// Nanoseconds since 1970.
    #[serde(rename = "timeNano")]
    pub time_nano: i64,
}

impl Event {
    /// An event that happens now.
    pub fn now(kind: &str, action: &str, id: &str, attributes: BTreeMap<String, String>) -> Self {
        Self::at(Utc::now(), kind, action, id, attributes)
    }

    fn at(
        when: DateTime<Utc>,
        kind: &str,
        action: &str,
        id: &str,
        attributes: BTreeMap<String, String>,
    ) -> Self {
        Self {
            kind: kind.into(),
            action: action.into(),
            actor: Actor {
                id: id.into(),
                attributes,
            },
            scope: "local",
            time: when.timestamp(),
            // Absent only after the year 2262.
            time_nano: when.timestamp_nanos_opt().unwrap_or(i64::MAX),
        }
    }
}

/// The stream of events.
#[derive(Debug)]
pub struct Events {
    past: Mutex<VecDeque<Event>>,
    sender: broadcast::Sender<Event>,
}

impl Default for Events {
    fn default() -> Self {
        Self {
            past: Mutex::default(),
            sender: broadcast::channel(KEPT).0,
        }
    }
}

impl Events {
    /// Tells everybody.
    pub fn publish(&self, event: Event) {
        // The lock is held over both, so that a subscriber sees every event once: in the past or live.
        let mut past = self.past.lock().unwrap_or_else(PoisonError::into_inner);
        if past.len() == KEPT {
            past.pop_front();
        }
        past.push_back(event.clone());
        // Nobody listening is no error.
        let _ = self.sender.send(event);
    }

    /// Past events that are kept, oldest first, and those to come. A receiver that falls [`KEPT`] events behind is
    /// told so.
    pub fn subscribe(&self) -> (Vec<Event>, broadcast::Receiver<Event>) {
        let past = self.past.lock().unwrap_or_else(PoisonError::into_inner);
        (past.iter().cloned().collect(), self.sender.subscribe())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn every_event_is_seen_once() {
        let events = Events::default();
        for n in 0..KEPT + 3 {
            events.publish(Event::now(
                "container",
                "start",
                &n.to_string(),
                BTreeMap::new(),
            ));
        }
        let (past, mut live) = events.subscribe();
        assert_eq!(past.len(), KEPT);
        assert_eq!(past[0].actor.id, "3");
        events.publish(Event::now("container", "die", "x", BTreeMap::new()));
        assert_eq!(live.try_recv().unwrap().action, "die");
        assert!(live.try_recv().is_err());
    }
}
