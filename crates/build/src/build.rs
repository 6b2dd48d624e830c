//! One build, from its context to an image: stages that are needed run at the same time, each waits for those it takes from.

use crate::caches::Caches;
use crate::context::Context;
use crate::error::{BuildError, Result, invalid};
use crate::key::Key;
use crate::options::BuildOptions;
use crate::plan::{Base, Plan, plan, platform_args};
use crate::report::{Choir, Event, Events, Voice};
use crate::stage::Stage;
use crate::state::State;
use crate::work::Work;
use chrono::{DateTime, Utc};
use coracle_dockerfile::{Dockerfile, parse};
use coracle_engine::Engine;
use coracle_image::{CacheRecord, Digest, Image, Platform, Reference};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

/// What became of a stage: nothing yet, its image in the making, or a failure that is told elsewhere.
type Outcome = Option<std::result::Result<Arc<State>, ()>>;

/// All that the stages of one build share.
pub(crate) struct Shared {
    pub engine: Engine,
    pub caches: Arc<Caches>,
    pub options: BuildOptions,
    pub file: Dockerfile,
    pub plan: Plan,
    pub context: Context,
    pub work: Arc<Work>,
    pub platform: Platform,
    /// `SOURCE_DATE_EPOCH`, if it is given.
    pub epoch: Option<DateTime<Utc>>,
    outcomes: Vec<watch::Sender<Outcome>>,
    /// Stages that are needed after all: a base's ONBUILD takes from them.
    demand: UnboundedSender<usize>,
    /// Removals of steps that were cut short.
    pub removals: Arc<Mutex<Vec<JoinHandle<()>>>>,
    /// Records of the cache that are on their way to the disk.
    records: Mutex<Vec<JoinHandle<()>>>,
    /// Build arguments that some stage declared.
    pub consumed: Mutex<BTreeSet<String>>,
    /// Serialises pulls, so that two stages do not ask for one image twice.
    pub pulling: tokio::sync::Mutex<()>,
}

/// What a build made.
#[derive(Debug)]
pub struct Built {
    /// The image.
    pub image: Image,
}

impl Shared {
    /// The image in the making of another stage, once it is there.
    pub async fn stage(&self, number: usize) -> Result<Arc<State>> {
        let sender = self.outcomes.get(number);
        let sender = sender.ok_or_else(|| invalid("there is no such stage"))?;
        let mut receiver = sender.subscribe();
        if !self.plan.needed.contains(&number) {
            // Whoever runs stages hears of it as long as one runs.
            let _ = self.demand.send(number);
        }
        let outcome = receiver.wait_for(Option::is_some).await;
        match outcome.as_deref() {
            Ok(Some(Ok(state))) => Ok(state.clone()),
            _ => Err(BuildError::Needed),
        }
    }

    /// What a step made, if the cache knows and may be asked.
    pub fn cached(&self, key: &Digest) -> Option<(CacheRecord, Option<coracle_image::Pin>)> {
        if self.options.no_cache {
            return None;
        }
        self.engine.images().cached(key)
    }

    /// Keeps what a step made, without waiting for the disk.
    pub fn remember(&self, record: CacheRecord) {
        let images = self.engine.images().clone();
        let writing = tokio::task::spawn_blocking(move || {
            if let Err(error) = images.remember(record) {
                let error = coracle_engine::full_error(&error);
                tracing::warn!(error, "a step of a build is not remembered");
            }
        });
        self.records
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(writing);
    }

    /// The time of what is made now.
    pub fn now(&self) -> DateTime<Utc> {
        self.epoch.unwrap_or_else(Utc::now)
    }

    /// Waits until nothing of the build runs or is written any more.
    async fn settled(&self) {
        for list in [&self.removals, &self.records] {
            let waiting: Vec<_> = {
                let mut list = list.lock().unwrap_or_else(PoisonError::into_inner);
                list.drain(..).collect()
            };
            for handle in waiting {
                let _ = handle.await;
            }
        }
    }
}

/// Builds. The context is unpacked already.
pub(crate) async fn build(
    engine: Engine,
    caches: Arc<Caches>,
    work: Arc<Work>,
    context: Context,
    options: BuildOptions,
    events: Events,
) -> Result<Built> {
    let name = options.dockerfile().to_owned();
    let text = context.dockerfile(&name)?;
    context.ignore(&name)?;
    let file = parse(&text).map_err(|source| BuildError::Dockerfile {
        file: name.clone(),
        source,
    })?;
    for warning in &file.warnings {
        let text = format!("{name}:{}: {}", warning.line, warning.text);
        events.send(Event::Warning(text));
    }
    let host = Platform::host();
    let platform = options.platform.clone().unwrap_or_else(Platform::host);
    let mut fixed = platform_args(&host, &platform);
    let plan = plan(&file, &options.target, &options.args, &fixed)?;
    fixed.clear();
    let given = options.args.get("SOURCE_DATE_EPOCH").cloned().flatten();
    let epoch = given.or_else(|| plan.globals.get("SOURCE_DATE_EPOCH").cloned());
    let epoch = match epoch.filter(|e| !e.is_empty()) {
        None => None,
        Some(text) => {
            let seconds = text.parse::<i64>().ok();
            let time = seconds.and_then(|s| DateTime::from_timestamp(s, 0));
            Some(time.ok_or_else(|| {
                invalid(format!(
                    "SOURCE_DATE_EPOCH={text} is no number of seconds since 1970"
                ))
            })?)
        }
    };
    let stages = file.stages.len();
    let (demand, mut demanded) = unbounded_channel();
    let shared = Arc::new(Shared {
        engine,
        caches,
        options,
        demand,
        outcomes: (0..stages).map(|_| watch::Sender::new(None)).collect(),
        file,
        plan,
        context,
        work,
        platform,
        epoch,
        removals: Arc::default(),
        records: Mutex::default(),
        consumed: Mutex::default(),
        pulling: tokio::sync::Mutex::new(()),
    });
    let mut guard = Settle::new(&shared);
    let ended = stages_of(&shared, &events, &mut demanded, &mut guard.running).await;
    let ended = match ended {
        Ok(state) => finish(&shared, &state, &events).await,
        Err(error) => Err(error),
    };
    shared.settled().await;
    guard.done();
    ended
}

/// Lets what a cancelled build left running be removed before its directory is.
pub(crate) struct Settle {
    shared: Option<Arc<Shared>>,
    /// Stages on their way. What they have running is known when they have ended.
    running: JoinSet<Ended>,
}

impl Settle {
    pub fn new(shared: &Arc<Shared>) -> Self {
        Self {
            shared: Some(shared.clone()),
            running: JoinSet::new(),
        }
    }

    /// Nothing was cancelled.
    pub fn done(mut self) {
        self.shared = None;
    }
}

impl Drop for Settle {
    fn drop(&mut self) {
        let Some(shared) = self.shared.take() else {
            return;
        };
        let mut running = std::mem::take(&mut self.running);
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                running.shutdown().await;
                shared.settled().await;
            });
        }
    }
}

async fn stages_of(
    shared: &Arc<Shared>,
    events: &Events,
    demanded: &mut UnboundedReceiver<usize>,
    running: &mut JoinSet<Ended>,
) -> Result<Arc<State>> {
    let choir = Choir::new(events.clone());
    let mut begun = BTreeSet::new();
    for number in shared.plan.needed.iter().copied() {
        begun.insert(number);
        running.spawn(stage(shared.clone(), number, choir.voice()));
    }
    let mut wanted = None;
    loop {
        let ended = tokio::select! {
            Some(number) = demanded.recv() => {
                if begun.insert(number) {
                    running.spawn(stage(shared.clone(), number, choir.voice()));
                }
                continue;
            }
            ended = running.join_next() => ended,
        };
        let Some(ended) = ended else { break };
        let (number, voice, result) = ended?;
        match result {
            Ok(state) if number == shared.plan.target => wanted = Some(state),
            Ok(_) => {}
            // The stage that it waited for tells why.
            Err(BuildError::Needed) => {}
            Err(error) => {
                // Whatever else runs is of no use any more.
                running.shutdown().await;
                voice.failed();
                return Err(error);
            }
        }
    }
    wanted.ok_or(BuildError::Needed)
}

/// Which stage has ended, and how.
type Ended = (usize, Voice, Result<Arc<State>>);

/// Does one stage, and tells those who wait for it.
async fn stage(shared: Arc<Shared>, number: usize, voice: Voice) -> Ended {
    let stage = Stage::new(shared.clone(), number, voice.clone());
    let result = stage.run().await;
    let outcome = match &result {
        Ok(state) => {
            voice.done();
            Ok(state.clone())
        }
        Err(_) => Err(()),
    };
    if let Some(sender) = shared.outcomes.get(number) {
        sender.send_replace(Some(outcome));
    }
    (number, voice, result)
}

async fn finish(shared: &Arc<Shared>, state: &Arc<State>, events: &Events) -> Result<Built> {
    let mut state = State::clone(state);
    if !shared.options.labels.is_empty() {
        let labels = state.config.entry("Labels").or_insert_with(|| json!({}));
        if !labels.is_object() {
            *labels = json!({});
        }
        for (name, value) in &shared.options.labels {
            labels[name] = Value::from(value.as_str());
        }
    }
    let consumed = shared
        .consumed
        .lock()
        .map(|c| c.clone())
        .unwrap_or_default();
    let known = |name: &str| {
        consumed.contains(name)
            || shared.plan.globals.contains_key(name)
            || name == "SOURCE_DATE_EPOCH"
            || crate::stage::PROXIES.contains(&name.to_ascii_uppercase().as_str())
    };
    let unused: Vec<&str> = shared
        .options
        .args
        .keys()
        .map(String::as_str)
        .filter(|n| !known(n))
        .collect();
    if !unused.is_empty() {
        let text = format!(
            "One or more build-args [{}] were not consumed",
            unused.join(" ")
        );
        events.send(Event::Warning(text));
    }
    // The same image as before is as old as before: the same digest.
    let key = Key::new("image 1")
        .add(state.document(DateTime::UNIX_EPOCH))
        .finish();
    let now = match shared.cached(&key) {
        Some((record, _)) if shared.epoch.is_none() => record.created,
        _ => {
            let mut record = CacheRecord::new(key, None, "image".into());
            record.created = shared.now();
            shared.remember(record.clone());
            record.created
        }
    };
    let document = state.document(now);
    let images = shared.engine.images().clone();
    let names: Vec<Reference> = shared.options.tags.clone();
    // Layers stay until the image has them, also if nobody waits for it.
    let (layers, pins) = (state.layers.clone(), state.pins.clone());
    let made = tokio::task::spawn_blocking(move || {
        let made = images.compose(&document, &layers, &names);
        drop(pins);
        made
    });
    let image = made.await??;
    Ok(Built { image })
}

/// How a base is shown.
pub(crate) fn shown(base: &Base) -> String {
    match base {
        Base::Scratch => "scratch".into(),
        Base::Stage(number) => format!("stage {number}"),
        Base::Image(name) => name.clone(),
    }
}
