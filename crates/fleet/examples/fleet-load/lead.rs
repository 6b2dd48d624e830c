//! The machine that leads: the real fleet over a real engine, in a process of its own, with the cluster's store in etcd.
//!
//! Nothing of a unit runs on it: it is cordoned. It is asked by lines on its standard input, and answers by lines that begin with
//! [`ANSWER`].

use super::Fallible;
use coracle_engine::{Engine, EngineOptions};
use coracle_fleet::model::{Marks, VERSION, keys};
use coracle_fleet::{Fleet, Stores, Tally};
use coracle_store::{EmbeddedStore, EtcdOptions, EtcdStore, Options, Store, StoreExt as _};
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

const ANSWER: &str = "leader: ";
/// The leader's machine.
const ID: &str = "feedfeedfeedfeedfeedfeedfeedfeed";
const PATIENCE: Duration = Duration::from_secs(300);

/// Leads until its standard input ends.
pub async fn serve(url: &str, dir: &Path) -> Fallible<()> {
    let (state, run) = (dir.join("state"), dir.join("run"));
    std::fs::create_dir_all(&state)?;
    std::fs::write(state.join("machine-id"), format!("{ID}\n"))?;
    let cluster: Arc<dyn Store> = Arc::new(EtcdStore::new(EtcdOptions::new([url]))?);
    let cordoned = Marks {
        version: VERSION,
        cordoned: true,
        ..Marks::default()
    };
    cluster.put_json(&keys::marks(ID), &cordoned).await?;
    let engine = Engine::open(EngineOptions::new(&state, &run)).await?;
    let own = EmbeddedStore::open(&state.join("store"), Options::default())?;
    let stores = Stores {
        local: Arc::new(own),
        cluster,
        alone: tokio::sync::watch::channel(false).1,
        may_lead: tokio::sync::watch::channel(true).1,
        door: String::new(),
        can_vote: false,
        api_ca: String::new(),
        labels: BTreeMap::new(),
    };
    let fleet = Fleet::join(stores, engine.clone()).await?;
    let answered = answer(&fleet).await;
    fleet.shutdown(None).await;
    engine.down(Some(Duration::ZERO)).await?;
    answered
}

async fn answer(fleet: &Fleet) -> Fallible<()> {
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    while let Some(line) = lines.next_line().await? {
        match line.split_once(' ') {
            Some(("start", name)) => {
                let begun = Instant::now();
                fleet.submit(name, &super::units::text(0), vec![]).await?;
                fleet.start(name, true).await?;
                println!("{ANSWER}{}", begun.elapsed().as_secs_f64());
            }
            _ => println!("{ANSWER}{}", serde_json::to_string(&fleet.tally().ok())?),
        }
    }
    Ok(())
}

/// That process, seen from outside; it ends when dropped.
pub struct Leading {
    child: Child,
    ask: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
}

impl Leading {
    /// By a command that comes to [`serve`].
    pub fn start(mut command: Command) -> Fallible<Self> {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let (ask, answers) = (child.stdin.take(), child.stdout.take());
        let (Some(ask), Some(answers)) = (ask, answers) else {
            return Err("the leader has no pipes".into());
        };
        Ok(Self {
            child,
            ask,
            answers: BufReader::new(answers).lines(),
        })
    }

    async fn ask(&mut self, what: &str) -> Fallible<String> {
        self.ask.write_all(format!("{what}\n").as_bytes()).await?;
        while let Some(line) = self.answers.next_line().await? {
            if let Some((_, answer)) = line.split_once(ANSWER) {
                return Ok(answer.to_owned());
            }
        }
        Err("the leader has ended".into())
    }

    /// What it knows; None while it does not lead.
    pub async fn tally(&mut self) -> Fallible<Option<Tally>> {
        Ok(serde_json::from_str(&self.ask("tally").await?)?)
    }

    /// Waits until it knows something, asking every so often.
    pub async fn until(
        &mut self,
        what: &str,
        often: Duration,
        so: impl Fn(&Tally) -> bool,
    ) -> Fallible<Tally> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let told = self.tally().await?;
            if let Some(tally) = told.as_ref().filter(|t| so(t)) {
                return Ok(tally.clone());
            }
            if Instant::now() > deadline {
                return Err(format!("never seen: {what}; {told:?}").into());
            }
            tokio::time::sleep(often).await;
        }
    }

    /// Has a unit submitted and started; answers the seconds until it ran.
    pub async fn one_more(&mut self, name: &str) -> Fallible<f64> {
        Ok(self.ask(&format!("start {name}")).await?.parse()?)
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id().unwrap_or_default()
    }

    /// Has it go down in order.
    pub async fn end(mut self) -> Fallible<()> {
        drop(self.ask);
        let ended = self.child.wait().await?;
        ended
            .success()
            .then_some(())
            .ok_or_else(|| format!("the leader: {ended}").into())
    }
}
