//! This machine's etcd as the daemon finds it when it starts, and how it stands.
//!
//! A machine whose etcd cannot be found comes up all the same: what runs here runs on, the store is asked of the other voters, and
//! the program is looked for again and again. Once it is there the daemon begins anew and runs it.

use super::{Cluster, Options, failed};
use crate::server::DaemonError;
use coracle_cluster::member::MemberError;
use coracle_cluster::member::config::MemberConfig;
use coracle_cluster::member::find::{Found, Program};
use coracle_cluster::member::run::{Member, State, runs};
use coracle_cluster::member::unpacked::unpack;
use coracle_engine::{Engine, full_error};
use coracle_image::{ImageError, Reference, Silent};
use serde_json::{Value, json};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// How often a program is looked for that was not there.
const LOOK: Duration = Duration::from_secs(5);

/// What there is of it.
#[derive(Default)]
pub(super) struct Own {
    /// The etcd that is looked after.
    pub member: Option<Member>,
    /// Why there is none though there should be one.
    pub missing: Option<String>,
    /// One runs here, looked after or not.
    pub here: bool,
}

/// Runs this machine's etcd if it has one, by the programs that were `found`.
pub(super) async fn own(
    engine: &Engine,
    options: &Options,
    dir: &Path,
    found: Result<Found, MemberError>,
) -> Result<Own, DaemonError> {
    let config = MemberConfig::load(dir).map_err(|e| failed("reading member.json")(Box::new(e)))?;
    let Some(config) = config else {
        return Ok(Own::default());
    };
    let config = MemberConfig {
        program: options.program.clone(),
        ..config
    };
    match found {
        Ok(found) => Ok(Own {
            member: Some(Member::start(engine.clone(), &found, config, dir)),
            missing: None,
            here: true,
        }),
        Err(error) => {
            let why = full_error(&error);
            tracing::error!(
                error = why,
                "this machine's etcd does not run; what runs here runs on, and its program is looked for every {} s",
                LOOK.as_secs()
            );
            Ok(Own {
                member: None,
                missing: Some(why),
                // One that was started before its program went still answers.
                here: runs(engine).await,
            })
        }
    }
}

impl Options {
    /// Whether etcd's programs seem to be here. Nothing is run or unpacked for that: a machine that is alone may never need them, and
    /// does not wait for them when it starts.
    pub(super) fn seems_here(&self, engine: &Engine) -> bool {
        match &self.program {
            Program::Image(name) => engine.images().get(name).is_ok(),
            host => host.is_on_host(),
        }
    }

    /// Finds etcd's programs; those of an image are unpacked below `dir` (`STATE_DIR/cluster`), and the image is pulled if it is
    /// not here and that is wanted.
    pub(super) async fn find(
        &self,
        engine: &Engine,
        dir: &Path,
        pull: bool,
    ) -> Result<Found, MemberError> {
        let Program::Image(name) = &self.program else {
            return self.program.find().await;
        };
        let images = engine.images();
        let image = match images.get(name) {
            Err(_) if pull => {
                let reference = Reference::parse_normalized(name)
                    .map_err(|e| MemberError::Engine(ImageError::from(e).into()))?;
                let pulled = images.pull(&reference, None, None, &Silent).await;
                pulled.map_err(|e| MemberError::Engine(e.into()))?
            }
            found => found.map_err(|_| MemberError::Image(name.clone()))?,
        };
        let layers = images.layer_dirs(&image.id);
        let layers = layers.map_err(|e| MemberError::Engine(e.into()))?;
        let (dir, id) = (dir.to_owned(), image.id.to_string());
        let unpacked = tokio::task::spawn_blocking(move || {
            unpack(&dir, id.trim_start_matches("sha256:"), &layers)
        });
        let root = unpacked
            .await
            .map_err(coracle_engine::EngineError::from)??;
        Found::in_image(name, &root).await
    }
}

impl Cluster {
    /// etcd's programs, as the settings say.
    ///
    /// # Errors
    /// Each says the way out.
    pub(super) async fn find_etcd(&self) -> Result<Found, MemberError> {
        self.options.find(&self.engine, &self.dir, true).await
    }

    /// Whether it is here now.
    pub(super) async fn has_etcd(&self) -> bool {
        let found = self.options.find(&self.engine, &self.dir, false).await;
        found.is_ok()
    }

    /// Looks for etcd's program where it was not there; with it the daemon begins anew.
    pub(super) async fn look_for_etcd(self: Arc<Self>) {
        loop {
            tokio::select! {
                () = tokio::time::sleep(LOOK) => {}
                () = self.stop.cancelled() => return,
            }
            if self.find_etcd().await.is_ok() {
                tracing::info!("etcd's program is there: the daemon begins anew");
                self.again.notify_one();
                return;
            }
        }
    }

    /// How this machine's etcd stands; null where it has none.
    pub(super) fn etcd_status(&self) -> Value {
        if let Some(why) = &self.no_etcd {
            return json!({ "state": "missing", "why": why });
        }
        let Some(state) = self.member().as_ref().map(|m| m.state().borrow().clone()) else {
            return Value::Null;
        };
        match state {
            State::Starting => json!({ "state": "starting" }),
            State::Running { pid } => json!({ "state": "running", "pid": pid }),
            State::Resting { why } => json!({ "state": "resting", "why": why }),
            State::Stopped => json!({ "state": "stopped" }),
        }
    }
}
