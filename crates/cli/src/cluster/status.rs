//! What people see of the cluster: which machines there are, which have the store, and what is to be feared.

use super::Cluster;
use axum::Json;
use axum::extract::State;
use coracle_cluster::MachineId;
use coracle_cluster::member::api::Health;
use coracle_cluster::members::Standing;
use coracle_store::etcd::State as StoreState;
use futures_util::future::join_all;
use serde_json::{Value, json};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

/// How long the store may take to say who leads.
const LEADER: Duration = Duration::from_secs(2);

/// A machine, as far as it matters here.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Row {
    id: MachineId,
    name: String,
    door: Option<String>,
    alive: bool,
    can_vote: bool,
    standing: Standing,
    /// How its etcd stands, or why that is not known; of those that have one.
    etcd: Option<Result<Health, String>>,
}

impl Row {
    fn votes(&self) -> bool {
        self.standing == Standing::Voter
    }

    fn learns(&self) -> bool {
        self.standing == Standing::Learner
    }

    /// Its etcd answers and is one of a majority.
    fn answers(&self) -> bool {
        matches!(&self.etcd, Some(Ok(health)) if health.leader != 0)
    }
}

/// Whether its etcd holds what the one that leads does, as far as can be told.
fn in_step(row: &Row, rows: &[Row]) -> Option<bool> {
    let Some(Ok(own)) = &row.etcd else {
        return None;
    };
    let healths = rows
        .iter()
        .filter_map(|row| row.etcd.as_ref()?.as_ref().ok());
    let leads = healths
        .into_iter()
        .find(|health| health.member == health.leader)?;
    Some(own.in_step_with(leads))
}

impl Cluster {
    fn rows(&self) -> Vec<Row> {
        let neighbours = self.neighbours.borrow();
        let members = self.members.borrow();
        let row = |(id, standing): (&MachineId, Standing)| {
            let known = neighbours.get(id.as_str());
            Row {
                id: id.clone(),
                name: known.map_or_else(|| id.to_string(), |n| n.hostname.clone()),
                door: known.map(|n| n.door.clone()),
                alive: known.is_some_and(|n| n.alive),
                can_vote: known.is_some_and(|n| n.can_vote),
                standing,
                etcd: None,
            }
        };
        members.iter().map(row).collect()
    }

    fn shown(&self, rows: &[Row]) -> Value {
        let row = |row: &Row| {
            let store = match row.standing {
                Standing::Voter => Some("voter"),
                Standing::Learner => Some("learner"),
                Standing::Machine => None,
            };
            let (health, error) = match &row.etcd {
                Some(Ok(health)) => (Some(*health), None),
                Some(Err(error)) => (None, Some(error.clone())),
                None => (None, None),
            };
            json!({
                "id": row.id,
                "hostname": row.name,
                "door": row.door,
                "alive": row.alive,
                "voter": row.votes(),
                "store": store,
                "canVote": row.can_vote,
                "etcd": health,
                "etcdError": error,
                "inStep": in_step(row, rows),
            })
        };
        json!({
            "founded": self.is_founded(),
            "machine": self.machine,
            "address": self.advertise.to_string(),
            "store": if *self.alone.borrow() { "embedded" } else { "etcd" },
            "machines": rows.iter().map(row).collect::<Vec<_>>(),
            "voters": rows.iter().filter(|row| row.votes()).count(),
            "etcd": self.etcd_status(),
            "recovering": self.is_recovering(),
        })
    }

    /// The machine that leads, if the store says so soon.
    async fn leads_now(&self) -> Option<String> {
        if *self.etcd.state().borrow() == StoreState::CutOff && !*self.alone.borrow() {
            return None;
        }
        let fleet = &self.inside.get()?.fleet;
        let asked = tokio::time::timeout(LEADER, fleet.leader()).await;
        asked.ok()?.ok()?
    }
}

/// What is known without asking other machines, and what keeps units from being changed.
pub(super) async fn brief(State(cluster): State<Arc<Cluster>>) -> Json<Value> {
    let mut shown = cluster.shown(&cluster.rows());
    shown["trouble"] = json!(cluster.trouble().await);
    Json(shown)
}

/// The same, with how every etcd stands, who leads, and what that means.
pub(super) async fn status(State(cluster): State<Arc<Cluster>>) -> Json<Value> {
    let mut rows = cluster.rows();
    if !*cluster.alone.borrow() {
        let asked = rows.iter().map(|row| {
            let cluster = &cluster;
            async move {
                match row.standing {
                    Standing::Machine => None,
                    _ => Some(cluster.health_of(&row.id).await),
                }
            }
        });
        let asked = join_all(asked).await;
        for (row, etcd) in rows.iter_mut().zip(asked) {
            row.etcd = etcd;
        }
    }
    let mut shown = cluster.shown(&rows);
    shown["leader"] = json!(cluster.leads_now().await);
    let answers = cluster.answers().await;
    shown["answers"] = json!(answers);
    shown["moved"] = json!((!answers).then(|| cluster.moved()).flatten());
    shown["snapshot"] = json!(cluster.copies().first().map(super::snapshots::shown));
    shown["caution"] = match *cluster.alone.borrow() {
        true => Value::Null,
        false => json!(caution(&rows)),
    };
    shown["trouble"] = json!(cluster.trouble().await);
    let leads = cluster
        .inside
        .get()
        .is_some_and(|inside| inside.fleet.leads());
    if leads && !*cluster.alone.borrow() {
        let decided = cluster
            .decided
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        shown["voting"] = json!(named(&decided, &rows));
    }
    Json(shown)
}

/// A text with machines by their names.
fn named(text: &str, rows: &[Row]) -> String {
    let mut text = text.to_owned();
    for row in rows {
        text = text.replace(row.id.as_str(), &row.name);
    }
    text
}

/// What is to be feared, and the way out. Pure.
fn caution(rows: &[Row]) -> Option<String> {
    let names = |wanted: &dyn Fn(&&Row) -> bool| {
        let names: Vec<&str> = rows
            .iter()
            .filter(wanted)
            .map(|row| row.name.as_str())
            .collect();
        names.join(", ")
    };
    let voters = rows.iter().filter(|row| row.votes()).count();
    let answer = rows
        .iter()
        .filter(|row| row.votes() && row.answers())
        .count();
    let silent = names(&|row| row.votes() && !row.answers());
    let learner = rows.iter().find(|row| row.learns());
    let without = names(&|row| row.alive && !row.can_vote && row.standing == Standing::Machine);
    let install = "install etcd there (packages etcd-server and etcd-client), have no votes = false in its coracle.toml, and restart its daemon";
    if voters == 0 {
        return None;
    }
    if answer < voters / 2 + 1 {
        let copies = match learner {
            Some(learner) => learner.name.clone(),
            None => "one of the machines with a copy".to_owned(),
        };
        return Some(format!(
            "{answer} of {voters} voters answer, which is no majority: what runs runs on, and changes wait until {silent} is back. If it is lost for good, `coracle cluster recover` on {copies} goes on with what there is."
        ));
    }
    if voters < 3 && rows.len() > 1 {
        let voter = names(&|row| row.votes());
        let mut text = match learner {
            Some(learner) => format!(
                "{voter} has the only vote: while it is away, what runs runs on and changes wait. If it is lost for good, `coracle cluster recover` on {}, which has a copy{}, goes on with that.",
                learner.name,
                match in_step(learner, rows) {
                    Some(true) => "",
                    _ => " that is not in step yet",
                },
            ),
            None => format!(
                "{voter} alone has the store: if it is lost for good, so is what was written since its last snapshot, from which `coracle cluster recover` begins anew."
            ),
        };
        if without.is_empty() {
            if rows.len() == 2 {
                text += " A third machine makes three voters.";
            }
        } else {
            text += &format!(" {without} can have no copy: {install}.");
        }
        return Some(text);
    }
    if !silent.is_empty() {
        let spare = answer - (voters / 2 + 1);
        return Some(format!(
            "{silent} does not answer; {} more of the voters may be lost before changes wait. One that stays away is replaced if another machine has etcd.",
            if spare == 0 {
                "none".to_owned()
            } else {
                spare.to_string()
            },
        ));
    }
    None
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn row(n: u64, standing: Standing) -> Row {
        let health = Health {
            member: n,
            leader: 1,
            learner: standing == Standing::Learner,
            applied: 5000,
            revision: 9,
        };
        Row {
            id: format!("{n:032x}").parse().unwrap(),
            name: format!("m{n}"),
            door: None,
            alive: true,
            can_vote: true,
            standing,
            etcd: (standing != Standing::Machine).then_some(Ok(health)),
        }
    }

    fn silent(row: Row) -> Row {
        Row {
            etcd: Some(Err("it does not answer".into())),
            ..row
        }
    }

    #[test]
    fn what_is_to_be_feared_is_said() {
        use Standing::{Learner, Machine, Voter};
        let (a, b, c) = (row(1, Voter), row(2, Voter), row(3, Voter));
        assert_eq!(caution(std::slice::from_ref(&a)), None);
        assert_eq!(caution(&[a.clone(), b.clone(), c.clone()]), None);
        let told = |rows: &[Row], words: &[&str]| {
            let said = caution(rows).unwrap();
            for word in words {
                assert!(said.contains(word), "{word}: {said}");
            }
        };
        let learner = row(2, Learner);
        told(
            &[a.clone(), learner.clone()],
            &[
                "m1 has the only vote",
                "recover` on m2, which has a copy, goes",
                "third machine",
            ],
        );
        let mut behind = learner.clone();
        if let Some(Ok(health)) = &mut behind.etcd {
            health.applied = 0;
        }
        told(&[a.clone(), behind], &["not in step"]);
        let mut plain = row(2, Machine);
        plain.can_vote = false;
        told(
            &[a.clone(), plain],
            &["m1 alone", "m2 can have no copy", "etcd-server"],
        );
        told(
            &[silent(a.clone()), learner],
            &["0 of 1", "until m1 is back", "recover` on m2"],
        );
        told(
            &[a.clone(), b.clone(), silent(c.clone())],
            &["m3 does not answer", "none more"],
        );
        told(
            &[a, silent(b), silent(c)],
            &["1 of 3", "no majority", "recover`"],
        );
    }
}
