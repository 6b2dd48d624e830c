//! The way up: whom a unit waits for, and what is made and started.

use crate::fleet::Fleet;
use crate::model::{Active, Actual, Desired, Due, Pinned};
use crate::order;
use crate::plan::{Cause, Seen};
use crate::service::{NotUp, Run, Wanted, by_watchdog, section};
use crate::supervise::{Memory, Supervised};
use crate::translate;
use coracle_engine::{EngineError, full_error};
use coracle_network::NetworkSpec;
use coracle_unit::container::ContainerUnit;
use coracle_unit::service::ServiceSection;
use coracle_unit::{Kind, Unit};
use std::collections::BTreeSet;
use std::sync::Arc;

impl Fleet {
    pub(crate) fn run<'a>(
        &'a self,
        supervised: &'a Supervised,
        unit: &'a Unit,
        service: &'a ServiceSection,
    ) -> Run<'a> {
        Run {
            fleet: self,
            unit,
            service,
            supervised,
            run: supervised.actual.borrow().run,
            main_pid: None,
            wanted: None,
            hurry: self.hurry(),
        }
    }

    /// Starts it. What has nothing that runs on ends with its outcome, as what failed does.
    pub(crate) async fn bring_up(
        &self,
        unit: &Arc<Supervised>,
        file: &Unit,
        fresh: bool,
        memory: &mut Memory,
        wanted: &Wanted,
    ) -> Result<(), NotUp> {
        let record = unit.record();
        let mut actual = unit.actual();
        actual.process = None;
        actual.outcome = None;
        actual.due = Due::Nothing;
        if let Some(service) = section(file) {
            self.run(unit, file, service).clear(None).await;
        }
        actual.restarts = if fresh { 0 } else { actual.restarts + 1 };
        actual.generation = record.generation;
        self.boot_id().clone_into(&mut actual.boot_id);
        actual.run += 1;
        if fresh {
            actual.revision = record.revision;
            actual.container = None;
        }
        // Before waiting, so that a failure of another unit is the answer to this request and not a reason to ask again.
        self.keep(unit, actual.clone()).await;
        // A start that another unit's failure ends counts, too: the limit is to stop those that try again.
        memory.starts.push(crate::pace::utc());
        wanted.unless(self.wait_for_others(unit, file)).await??;
        if matches!(file.kind, Kind::Container { .. }) {
            wanted.unless(self.until_renumbered()).await?;
        }
        if unit.is_exclusive() {
            // Before anything is made of it: it may be another machine's by now.
            wanted.unless(self.permit(unit, wanted)).await?;
        } else if unit.fence() == 0 {
            unit.set_fence(self.fence(&unit.instance).await);
        }
        match &file.kind {
            Kind::Volume(volume) => {
                self.containers().have_volume(volume)?;
                Err(NotUp::new(0, "it is there"))
            }
            Kind::Network(network) => {
                self.bring_up_network(network).await?;
                Err(NotUp::new(0, "it is there"))
            }
            Kind::Service(service) => {
                self.owe(unit, service, Due::StopPost).await;
                let run = Run {
                    wanted: Some(wanted),
                    ..self.run(unit, file, service)
                };
                run.make_log_dir()?;
                self.bring_up_service(unit, &run).await
            }
            Kind::Container { service, .. } => {
                self.owe(unit, service, Due::StopPost).await;
                let run = Run {
                    wanted: Some(wanted),
                    ..self.run(unit, file, service)
                };
                run.make_log_dir()?;
                wanted.unless(self.have_ports(file)).await??;
                run.before().await?;
                self.bring_up_container(unit, &run).await
            }
        }
    }

    /// The ports that its service publishes are this machine's, before anything is done for it.
    async fn have_ports(&self, file: &Unit) -> Result<(), NotUp> {
        let ports = crate::services::published(file);
        let Some(service) = crate::services::name_of(file).filter(|_| !ports.is_empty()) else {
            return Ok(());
        };
        let ports: Vec<_> = ports.iter().map(|p| p.published()).collect();
        let had = self.containers().have_ports(&service, &ports).await;
        had.map_err(|why| NotUp::new(125, why))
    }

    async fn bring_up_container(&self, unit: &Supervised, run: &Run<'_>) -> Result<(), NotUp> {
        let there = |id: &String| self.containers().look(id).is_some();
        let id = match unit.actual().container.filter(there) {
            Some(id) => id,
            None => self.make_container(unit, run).await?,
        };
        self.containers().serve(&id, unit.serves());
        match run.wanted {
            Some(wanted) => self.start_container(unit, &id, wanted).await?,
            None => self.containers().start(&id).await?,
        }
        let Err(failed) = run.after().await else {
            self.owe(unit, run.service, Due::Stop).await;
            return Ok(());
        };
        // The container of a unit that did not come up must not run on.
        match self.containers().stop(&id, None, None).await {
            Ok(()) | Err(EngineError::NotModified | EngineError::NotFound { .. }) => {}
            Err(error) => {
                tracing::error!(unit = %run.unit.name, error = full_error(&error), "its container could not be stopped");
            }
        }
        // What speaks with a container that its watchdog ends fails by that.
        match self.see(unit, run.unit).await {
            Seen::Ended {
                code,
                cause: cause @ Cause::Watchdog(_),
                ..
            } => Err(NotUp::because(code, cause)),
            _ => Err(failed),
        }
    }

    async fn bring_up_service(&self, unit: &Supervised, run: &Run<'_>) -> Result<(), NotUp> {
        run.before().await?;
        let Some(main) = run.main().await? else {
            run.after().await?;
            self.owe(unit, run.service, Due::Stop).await;
            return Err(NotUp::because(0, Cause::Done));
        };
        let started = Actual {
            process: Some(main.clone()),
            ..unit.actual()
        };
        self.keep(unit, started).await;
        let Err(failed) = run.after().await else {
            self.owe(unit, run.service, Due::Stop).await;
            return Ok(());
        };
        let ended = run.stop(&main).await;
        // As of a container.
        Err(ended.as_ref().and_then(by_watchdog).unwrap_or(failed))
    }

    /// Remembers which last commands this run will have; of a unit that has none there is nothing to write.
    pub(crate) async fn owe(&self, unit: &Supervised, service: &ServiceSection, due: Due) {
        let none = service.exec_stop.is_empty() && service.exec_stop_post.is_empty();
        let actual = unit.actual();
        if actual.due != due && !none {
            self.keep(unit, Actual { due, ..actual }).await;
        }
    }

    /// Units that come first are up, or have failed; those that cannot run beside it are down.
    async fn wait_for_others(&self, unit: &Supervised, file: &Unit) -> Result<(), NotUp> {
        let units = self.units();
        let mut enemies: BTreeSet<String> = order::conflicts(file.name.as_str(), &units)
            .into_iter()
            .collect();
        enemies.extend(unit.record().conflicts);
        for name in enemies {
            let Some(other) = self.supervised(&name) else {
                self.ends_elsewhere(&name).await;
                continue;
            };
            let down = |a: &Actual| {
                matches!(a.active, Active::Inactive | Active::Failed)
                    || other.goal.borrow().desired == Desired::Active
            };
            let _ = other.actual.subscribe().wait_for(down).await;
        }
        let required = order::requires(file);
        let failed = |name: &str| {
            let reason =
                format!("{name}, which it requires, failed: `coracle unit status {name}` says why");
            Err(NotUp::new(1, reason))
        };
        let mut first = order::waits_for(file.name.as_str(), &units);
        // Units elsewhere say there that they come before this one.
        first.extend(unit.record().after);
        for name in first {
            let Some(other) = self.supervised(&name) else {
                if self.has_failed_elsewhere(&name).await && required.contains(&name) {
                    return failed(&name);
                }
                continue;
            };
            let goal = *other.goal.borrow();
            if goal.desired != Desired::Active {
                continue;
            }
            let mut actual = other.actual.subscribe();
            let there = actual
                .wait_for(|a| {
                    a.generation == goal.generation && (a.settled || a.active == Active::Active)
                        || *other.goal.borrow() != goal
                })
                .await
                .map(|a| a.clone());
            let has_failed = there.is_ok_and(|a| a.active == Active::Failed);
            if has_failed && required.contains(&name) {
                return failed(&name);
            }
        }
        Ok(())
    }

    async fn bring_up_network(
        &self,
        network: &coracle_unit::unit::NetworkUnit,
    ) -> Result<(), NotUp> {
        if self.engine().networks().get(&network.network_name).is_ok() {
            return Ok(());
        }
        let mut spec = NetworkSpec {
            name: network.network_name.clone(),
            internal: network.internal,
            labels: network.labels.clone(),
            ..NetworkSpec::default()
        };
        type Take = fn(&mut NetworkSpec, &str) -> Result<(), coracle_network::NetworkError>;
        let lists: [(&str, &[String], Take); 3] = [
            ("Subnet", &network.subnets, NetworkSpec::add_subnet),
            ("Gateway", &network.gateways, NetworkSpec::add_gateway),
            ("IPRange", &network.ip_ranges, NetworkSpec::add_range),
        ];
        for (key, texts, take) in lists {
            for text in texts {
                let bad = |e| NotUp::new(1, format!("{key}={text} cannot be honoured: {e}"));
                take(&mut spec, text).map_err(bad)?;
            }
        }
        // As Podman has it, an IPv6 subnet says enough.
        spec.ipv6 = network.ipv6 || spec.names_ipv6();
        self.engine().create_network(spec).await?;
        Ok(())
    }

    /// The container of a unit that has taken another's place has its name, once that is free.
    pub(crate) async fn take_name(&self, unit: &Supervised, file: &Unit) {
        let is_own = file.name.is_successor() || !matches!(file.kind, Kind::Container { .. });
        let Some(id) = unit.actual().container.filter(|_| !is_own) else {
            return;
        };
        let (look, name) = (self.containers().look(&id), translate::container_name(file));
        if look.is_none_or(|look| look.name == name) {
            return;
        }
        if let Err(error) = self.containers().rename(&id, &name).await {
            tracing::warn!(unit = %file.name, container = id, error = full_error(&error), "its container keeps its former name for now");
        }
    }

    /// Has the image here that a unit is to run, and answers what it is called here. What was deployed runs the image that its name stood for then.
    async fn have_image(
        &self,
        unit: &Supervised,
        container: &ContainerUnit,
    ) -> Result<String, NotUp> {
        let (here, name) = (self.containers(), &container.image);
        let text = self.text(unit.uid(), unit.actual().revision).await;
        let text = text.map_err(|e| NotUp::new(1, full_error(&e)))?;
        let Some(pinned) = text.and_then(|t| t.image).filter(|p| p.name == *name) else {
            here.have_image(name, &container.pull).await?;
            return Ok(name.clone());
        };
        self.have_pinned(&pinned).await
    }

    /// Has the image here that a name stood for when it was deployed, and answers what it is called here.
    pub(crate) async fn have_pinned(&self, pinned: &Pinned) -> Result<String, NotUp> {
        let here = self.containers();
        let names = [Some(&pinned.name), pinned.digest.as_ref(), Some(&pinned.id)];
        let stands_for = |n: &&String| here.pinned(n).is_some_and(|p| p.id == pinned.id);
        let known = || names.into_iter().flatten().find(stands_for).cloned();
        if let Some(known) = known() {
            return Ok(known);
        }
        let name = &pinned.name;
        let source = pinned.digest.as_ref().unwrap_or(name);
        here.have_image(source, "missing").await?;
        known().ok_or_else(|| {
            let id = pinned.id.get(..19).unwrap_or(&pinned.id);
            NotUp::new(
                125,
                format!(
                    "the image that {name} stood for when it was deployed ({id}) is neither here nor on another machine; deploy the unit anew"
                ),
            )
        })
    }

    /// Makes the unit's container anew from its present text.
    async fn make_container(&self, unit: &Supervised, run: &Run<'_>) -> Result<String, NotUp> {
        let (file, uid) = (run.unit, unit.uid());
        let failed = |error: &dyn std::error::Error| NotUp::new(125, full_error(error));
        let mut request = translate::request(file, uid, &self.units()).map_err(|e| failed(&e))?;
        let (env, fence) = (&mut request.config.env, unit.fence());
        if fence > 0 {
            env.retain(|e| !e.starts_with("CORACLE_FENCE="));
            env.push(format!("CORACLE_FENCE={fence}"));
        }
        // What an earlier run, or one that was cut short, left.
        self.remove_containers(uid).await?;
        if let Kind::Container { container, .. } = &file.kind {
            let image = self.have_image(unit, container);
            request.config.image = match run.wanted {
                Some(wanted) => wanted.unless(image).await??,
                None => image.await?,
            };
        }
        let mut name = translate::container_name(file);
        if file.name.is_successor() {
            // The unit whose place it takes has that name still.
            name = format!("{name}-{}", uid.get(..8).unwrap_or(uid));
        }
        let created = self.containers().create(name, request).await?;
        let made = Actual {
            image: self.containers().look(&created).and_then(|look| look.image),
            container: Some(created.clone()),
            ..unit.actual()
        };
        self.keep(unit, made).await;
        Ok(created)
    }
}
