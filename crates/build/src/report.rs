//! What a build says while it goes on. Stages run at the same time; what they say comes stage by stage: one speaks, the others'
//! words are kept until it is their turn.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::Notify;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

/// Bytes of a waiting stage's output that are kept; of more, the end is.
const KEPT: usize = 4 << 20;

/// Something that a build says.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// A step begins: number, number of all steps, instruction.
    Step(usize, usize, String),
    /// The step's result was here already.
    Cached,
    /// The step's command runs in a container with this short id.
    Running(String),
    /// What it says, or what is to be known.
    Output(String),
    /// The step is done, after so many milliseconds; what it made, if it made a layer.
    Done(Option<String>, u128),
    /// Something that a person should know.
    Warning(String),
}

impl Event {
    fn length(&self) -> usize {
        match self {
            Self::Output(text) | Self::Warning(text) | Self::Step(_, _, text) => text.len() + 64,
            _ => 64,
        }
    }
}

/// Bytes that may wait for whoever listens; then commands wait until he has heard of it.
const AHEAD: usize = 1 << 20;

#[derive(Debug, Default)]
struct Waiting {
    bytes: AtomicUsize,
    less: Notify,
}

/// Where a build says what goes on.
#[derive(Debug, Clone)]
pub struct Events {
    to: UnboundedSender<Event>,
    waiting: Arc<Waiting>,
}

/// What a build says.
#[derive(Debug)]
pub struct Heard {
    from: UnboundedReceiver<Event>,
    waiting: Arc<Waiting>,
}

/// Both ends. What a command prints does not run ahead of who listens by more than a mebibyte.
#[must_use]
pub fn events() -> (Events, Heard) {
    let (to, from) = unbounded_channel();
    let waiting = Arc::<Waiting>::default();
    let heard = Heard {
        from,
        waiting: waiting.clone(),
    };
    (Events { to, waiting }, heard)
}

impl Events {
    pub(crate) fn send(&self, event: Event) {
        let length = event.length();
        self.waiting.bytes.fetch_add(length, Ordering::AcqRel);
        // Who asked may have left; then nobody listens.
        let _ = self.to.send(event);
    }

    /// Returns when there is room for more, or nobody listens.
    pub(crate) async fn ready(&self) {
        loop {
            let mut less = std::pin::pin!(self.waiting.less.notified());
            less.as_mut().enable();
            if self.waiting.bytes.load(Ordering::Acquire) <= AHEAD {
                return;
            }
            tokio::select! {
                () = less => {}
                () = self.to.closed() => return,
            }
        }
    }
}

impl Heard {
    /// The next event; none when the build is done.
    pub async fn recv(&mut self) -> Option<Event> {
        let event = self.from.recv().await?;
        let length = event.length();
        self.waiting.bytes.fetch_sub(length, Ordering::AcqRel);
        self.waiting.less.notify_waiters();
        Some(event)
    }
}

/// All stages' voices.
#[derive(Debug)]
pub(crate) struct Choir {
    to: Events,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    speaks: usize,
    stages: Vec<Part>,
}

#[derive(Debug, Default)]
struct Part {
    waiting: std::collections::VecDeque<Event>,
    bytes: usize,
    left_out: bool,
    done: bool,
}

impl Choir {
    pub fn new(to: Events) -> Arc<Self> {
        Arc::new(Self {
            to,
            state: Mutex::default(),
        })
    }

    /// The voice of one more stage, heard after those that are there.
    pub fn voice(self: &Arc<Self>) -> Voice {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.stages.push(Part::default());
        Voice {
            choir: self.clone(),
            stage: state.stages.len() - 1,
        }
    }

    fn say(&self, stage: usize, event: Event) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.speaks == stage {
            self.to.send(event);
            return;
        }
        let Some(part) = state.stages.get_mut(stage) else {
            return;
        };
        part.bytes += event.length();
        part.waiting.push_back(event);
        while part.bytes > KEPT {
            let Some(first) = part.waiting.pop_front() else {
                break;
            };
            part.bytes -= first.length();
            part.left_out = true;
        }
    }

    fn flush(&self, part: &mut Part) {
        if std::mem::take(&mut part.left_out) {
            self.to
                .send(Event::Output("[earlier output was left out]\n".into()));
        }
        part.bytes = 0;
        for event in part.waiting.drain(..) {
            self.to.send(event);
        }
    }

    /// Returns when a stage may say more. Of one whose turn it is not, only so much is kept; it does not wait.
    async fn ready(&self, stage: usize) {
        let speaks = self
            .state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .speaks;
        if speaks == stage {
            self.to.ready().await;
        }
    }

    /// A stage has nothing more to say: the next ones are heard.
    fn done(&self, stage: usize) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(part) = state.stages.get_mut(stage) {
            part.done = true;
        }
        let mut at = state.speaks;
        while state.stages.get(at).is_some_and(|p| p.done) {
            at += 1;
            if let Some(next) = state.stages.get_mut(at) {
                self.flush(next);
            }
        }
        state.speaks = at;
    }

    /// A stage failed: what it said is heard at once.
    fn failed(&self, stage: usize) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(part) = state.stages.get_mut(stage) {
            self.flush(part);
        }
    }
}

/// One stage's voice.
#[derive(Debug, Clone)]
pub(crate) struct Voice {
    choir: Arc<Choir>,
    stage: usize,
}

impl Voice {
    pub fn say(&self, event: Event) {
        self.choir.say(self.stage, event);
    }

    pub fn output(&self, text: impl Into<String>) {
        self.say(Event::Output(text.into()));
    }

    /// Returns when whoever listens has heard enough of what was said.
    pub async fn ready(&self) {
        self.choir.ready(self.stage).await;
    }

    pub fn done(&self) {
        self.choir.done(self.stage);
    }

    pub fn failed(&self) {
        self.choir.failed(self.stage);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn heard(receiver: &mut Heard) -> Vec<String> {
        let mut all = Vec::new();
        while let Ok(Event::Output(text)) = receiver.from.try_recv() {
            all.push(text);
        }
        all
    }

    #[tokio::test]
    async fn who_prints_waits_for_who_listens() {
        use futures_util::FutureExt;
        let (to, mut from) = events();
        let choir = Choir::new(to);
        let (first, second) = (choir.voice(), choir.voice());
        let mut said = 0;
        while first.ready().now_or_never().is_some() {
            first.output("x".repeat(64 << 10));
            said += 64 << 10;
            assert!(said <= 2 * AHEAD, "it does not wait");
        }
        assert!(second.ready().now_or_never().is_some(), "not its turn");
        let waiting = tokio::spawn({
            let first = first.clone();
            async move { first.ready().await }
        });
        from.recv().await.unwrap();
        from.recv().await.unwrap();
        waiting.await.unwrap();
        while first.ready().now_or_never().is_some() {
            first.output("x".repeat(64 << 10));
        }
        drop(from);
        first.ready().await;
    }

    #[test]
    fn one_after_the_other() {
        let (to, mut from) = events();
        let choir = Choir::new(to);
        let voices: Vec<Voice> = (0..3).map(|_| choir.voice()).collect();
        voices[2].output("c");
        voices[1].output("b");
        voices[0].output("a");
        assert_eq!(heard(&mut from), ["a"]);
        voices[1].done();
        voices[0].output("a2");
        assert_eq!(heard(&mut from), ["a2"]);
        voices[0].done();
        assert_eq!(heard(&mut from), ["b", "c"]);
        voices[2].output("c2");
        assert_eq!(heard(&mut from), ["c2"]);
    }

    #[test]
    fn a_failure_is_heard_at_once() {
        let (to, mut from) = events();
        let choir = Choir::new(to);
        let (_first, late) = (choir.voice(), choir.voice());
        for _ in 0..5 {
            late.output("x".repeat(1 << 20));
        }
        late.output("why");
        late.failed();
        let all = heard(&mut from);
        assert!(
            all[0].contains("left out") && all.len() == 5,
            "{}",
            all.len()
        );
        assert_eq!(all.last().unwrap(), "why");
    }
}
