//! Whom this machine asks for the store, and what it may do: both follow the list of members while it runs.

use super::Cluster;
use coracle_cluster::door::{DoorClient, Target, endpoint};
use coracle_cluster::members::Standing;
use coracle_cluster::pki::Authority;
use coracle_engine::full_error;
use coracle_store::etcd::{Dial, Reached};
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

impl Cluster {
    /// What it has of the list of members; None where that is not known.
    pub(super) fn standing(&self) -> Option<Standing> {
        self.members.borrow().standing(&self.machine)
    }

    /// Whether this machine's own etcd is asked first: it has a vote, or nothing is known yet, or is not said yet in a store that was
    /// made anew.
    fn asks_its_own(&self) -> bool {
        let recovering = self.recovering.load(Ordering::Acquire);
        let votes = matches!(self.standing(), Some(Standing::Voter) | None);
        *self.keeps.borrow() && (votes || recovering)
    }

    /// Keeps up with the list.
    pub(super) async fn follow_standing(self: Arc<Self>) {
        let (mut members, mut voters) = (self.members.subscribe(), self.voters.subscribe());
        let (mut keeps, mut leaving) = (self.keeps.subscribe(), self.leaving.subscribe());
        let mut ailing = self.ailing.subscribe();
        loop {
            self.stand();
            let changed = tokio::select! {
                changed = members.changed() => changed,
                changed = voters.changed() => changed,
                changed = keeps.changed() => changed,
                changed = leaving.changed() => changed,
                changed = ailing.changed() => changed,
                () = self.stop.cancelled() => return,
            };
            if changed.is_err() {
                return;
            }
        }
    }

    /// What follows from who this machine is now.
    pub(super) fn stand(&self) {
        if *self.alone.borrow() {
            return;
        }
        self.aim();
        let votes = matches!(self.standing(), Some(Standing::Voter) | None);
        // A learner has the CA's key too, and gives nobody anything by it.
        let known = self.authority.borrow().is_some();
        if votes && !known {
            match Authority::open(&self.keys) {
                Ok(Some(authority)) => {
                    self.authority.send_replace(Some(Arc::new(authority)));
                }
                Ok(None) => {}
                Err(error) => tracing::error!(
                    error = full_error(&error),
                    "the CA's key cannot be read, so no machine is let in here"
                ),
            }
        } else if !votes && known {
            self.authority.send_replace(None);
        }
        // One that leaves, or has no etcd that answers, stays at the head until there is another one.
        let goes = *self.leaving.borrow() || *self.ailing.borrow();
        let goes = goes && !self.targets().is_empty();
        let may = votes && *self.keeps.borrow() && !goes;
        self.may_lead
            .send_if_modified(|known| std::mem::replace(known, may) != may);
    }

    /// Asks who has the store now: this machine's own etcd first, then through the voters' doors.
    pub(super) fn aim(&self) {
        let url = self.client_url();
        let own = || Reached {
            url: url.clone(),
            dial: None,
        };
        let mut all = Vec::new();
        if self.asks_its_own() {
            all.push(own());
        }
        if let Some(client) = self.client.get() {
            let dial = self.dial(client);
            let mut doors = self.targets();
            for voter in self.heard().iter() {
                if voter.machine != self.machine && doors.iter().all(|d| d.machine != voter.machine)
                {
                    doors.push(Target {
                        machine: voter.machine.clone(),
                        addresses: vec![voter.address.clone()],
                    });
                }
            }
            all.extend(doors.iter().map(|target| Reached {
                url: endpoint(&target.machine),
                dial: Some(dial.clone()),
            }));
        }
        let at_door = self.keeps.borrow().then(own).into_iter().collect();
        for aimed in [self.etcd.reach(all), self.at_door.reach(at_door)] {
            if let Err(error) = aimed {
                tracing::error!(error = full_error(&error), "the store cannot be asked so");
            }
        }
    }

    /// Where this machine's own etcd is, or would be.
    pub(super) fn client_url(&self) -> String {
        let member = self.member();
        let config = member.as_ref().map(|member| member.config().client_url());
        config.unwrap_or_else(|| coracle_cluster::member::config::client_url_beside(self.advertise))
    }

    pub(super) fn heard(&self) -> std::sync::MutexGuard<'_, Vec<coracle_cluster::join::Voter>> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Connections to doors: where a machine says that it is now, then where it was, then where others say that it is. What is known
    /// is looked at for each connection.
    fn dial(&self, client: &Arc<DoorClient>) -> Dial {
        let (neighbours, voters) = (self.neighbours.clone(), self.voters.subscribe());
        let heard = self.heard.clone();
        client.dial(move |machine| {
            let now = neighbours
                .borrow()
                .get(machine.as_str())
                .map(|n| n.door.clone());
            let mut all = voters.borrow().clone();
            all.extend_from_slice(&heard.lock().unwrap_or_else(PoisonError::into_inner));
            let then = all.into_iter().filter(|v| v.machine == *machine);
            let mut addresses = Vec::new();
            for address in now.into_iter().chain(then.map(|v| v.address)) {
                if !address.is_empty() && !addresses.contains(&address) {
                    addresses.push(address);
                }
            }
            (!addresses.is_empty()).then(|| Target {
                machine: machine.clone(),
                addresses,
            })
        })
    }
}
