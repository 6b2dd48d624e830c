//! What a build says while it goes on. Stages run at the same time; what they say comes stage by stage: one speaks, the others'
//! words are kept until it is their turn.

use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::mpsc::UnboundedSender;

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

/// All stages' voices.
#[derive(Debug)]
pub(crate) struct Choir {
    to: UnboundedSender<Event>,
    state: Mutex<State>,
}

#[derive(Debug)]
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
    pub fn new(stages: usize, to: UnboundedSender<Event>) -> Arc<Self> {
        let stages = (0..stages).map(|_| Part::default()).collect();
        Arc::new(Self {
            to,
            state: Mutex::new(State { speaks: 0, stages }),
        })
    }

    fn say(&self, stage: usize, event: Event) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.speaks == stage {
            // Who asked may have left; then nobody listens.
            let _ = self.to.send(event);
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
            let _ = self
                .to
                .send(Event::Output("[earlier output was left out]\n".into()));
        }
        part.bytes = 0;
        for event in part.waiting.drain(..) {
            let _ = self.to.send(event);
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
    pub fn new(choir: &Arc<Choir>, stage: usize) -> Self {
        Self {
            choir: choir.clone(),
            stage,
        }
    }

    pub fn say(&self, event: Event) {
        self.choir.say(self.stage, event);
    }

    pub fn output(&self, text: impl Into<String>) {
        self.say(Event::Output(text.into()));
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
    use tokio::sync::mpsc::unbounded_channel;

    fn heard(receiver: &mut tokio::sync::mpsc::UnboundedReceiver<Event>) -> Vec<String> {
        let mut all = Vec::new();
        while let Ok(Event::Output(text)) = receiver.try_recv() {
            all.push(text);
        }
        all
    }

    #[test]
    fn one_after_the_other() {
        let (to, mut from) = unbounded_channel();
        let choir = Choir::new(3, to);
        let voices: Vec<Voice> = (0..3).map(|n| Voice::new(&choir, n)).collect();
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
        let (to, mut from) = unbounded_channel();
        let choir = Choir::new(2, to);
        let late = Voice::new(&choir, 1);
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
