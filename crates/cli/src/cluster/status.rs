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

    /// What its etcd says, if that answers.
    fn health(&self) -> Option<&Health> {
        self.etcd.as_ref()?.as_ref().ok()
    }

    /// Its etcd is one of a majority: one that is left without has no leader.
    fn is_led(&self) -> bool {
        self.health().is_some_and(|health| health.leader != 0)
    }
}

/// Whether its etcd holds what the one that leads does, as far as can be told.
fn in_step(row: &Row, rows: &[Row]) -> Option<bool> {
    let own = row.health()?;
    let mut healths = rows.iter().filter_map(Row::health);
    let leads = healths.find(|health| health.member == health.leader)?;
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
                    _ => {
                        let health = cluster.health_of(&row.id).await;
                        Some(health.map_err(|unheard| unheard.to_string()))
                    }
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

/// The names of those, as one reads them out.
fn names(rows: &[Row], between: &str, wanted: impl Fn(&Row) -> bool) -> String {
    let wanted = rows.iter().filter(|row| wanted(row));
    let names: Vec<&str> = wanted.map(|row| row.name.as_str()).collect();
    names.join(between)
}

/// Where the store is to be made anew of what is left: those whose etcd answers and has the most, or else a learner.
fn copies(rows: &[Row]) -> String {
    let left = rows.iter().filter_map(Row::health);
    let newest = left.map(|health| health.revision).max();
    let left = names(rows, " or ", |row| {
        newest.is_some() && row.health().map(|health| health.revision) == newest
    });
    let learners = names(rows, " or ", Row::learns);
    let all = [left, learners].into_iter().find(|names| !names.is_empty());
    all.unwrap_or_else(|| "one of the machines with a copy".to_owned())
}

/// What is to be feared, and the way out. Pure.
fn caution(rows: &[Row]) -> Option<String> {
    let voters: Vec<&Row> = rows.iter().filter(|row| row.votes()).collect();
    let led = voters.iter().filter(|row| row.is_led()).count();
    let majority = voters.len() / 2 + 1;
    match voters.len() {
        0 => None,
        _ if led < majority => Some(no_majority(rows, voters.len(), majority)),
        1 | 2 if rows.len() > 1 => Some(few(rows, voters.len())),
        _ => {
            let silent = names(rows, ", ", |row| row.votes() && row.health().is_none());
            let apart = names(rows, ", ", |row| {
                row.votes() && row.health().is_some() && !row.is_led()
            });
            let what = match (silent.is_empty(), apart.is_empty()) {
                (true, true) => return None,
                (true, false) => format!("{apart} does not reach the other voters"),
                (false, _) => format!("{silent} does not answer"),
            };
            let spare = match led - majority {
                0 => "none".to_owned(),
                spare => spare.to_string(),
            };
            Some(format!(
                "{what}; {spare} more of the voters may be lost before changes wait. One that stays away is replaced if another machine has etcd."
            ))
        }
    }
}

/// The store does not answer: too many are away, or those that are there do not find each other.
fn no_majority(rows: &[Row], voters: usize, majority: usize) -> String {
    let there = rows
        .iter()
        .filter(|row| row.votes() && row.health().is_some());
    let there = there.count();
    if there >= majority {
        return format!(
            "{there} of {voters} voters answer, and have none that leads: what runs runs on, and changes wait until they have, within seconds. If that stays so, their etcds do not reach each other (TCP, the port after the door's)."
        );
    }
    let silent = names(rows, ", ", |row| row.votes() && row.health().is_none());
    let back = match (majority - there, voters - there) {
        (_, 1) => format!("{silent} is back"),
        (needed, lost) if needed == lost => format!("{silent} are back"),
        (1, _) => format!("one of {silent} is back"),
        (needed, _) => format!("{needed} of {silent} are back"),
    };
    format!(
        "{there} of {voters} voters answer, which is no majority: what runs runs on, and changes wait until {back}. If they are lost for good, `coracle cluster recover` on {} goes on with what there is.",
        copies(rows),
    )
}

/// One or two vote, of machines that are more.
fn few(rows: &[Row], voters: usize) -> String {
    let learner = rows.iter().find(|row| row.learns());
    let without = names(rows, ", ", |row| {
        row.alive && !row.can_vote && row.standing == Standing::Machine
    });
    let voter = names(rows, " and ", Row::votes);
    let mut text = match learner {
        _ if voters == 2 => format!(
            "{voter} have the votes: while either is away, what runs runs on and changes wait. If it is lost for good, `coracle cluster recover` on the other one goes on."
        ),
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
    if !without.is_empty() {
        text += &format!(
            " {without} can have no copy: install etcd there (packages etcd-server and etcd-client), have no votes = false in its coracle.toml, and restart its daemon."
        );
    } else if let Some(learner) = learner.filter(|_| voters == 2) {
        text += &format!(" {} takes its copy, and votes then.", learner.name);
    } else if rows.len() == 2 {
        text += " A third machine makes three voters.";
    }
    text
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

    /// Its etcd answers, and is left without a majority.
    fn unled(row: Row) -> Row {
        let left = |health: Health| Health {
            leader: 0,
            ..health
        };
        let etcd = row.etcd.map(|etcd| etcd.map(left));
        Row { etcd, ..row }
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
            &["0 of 1", "until m1 is back", "recover` on m2 goes"],
        );
        told(
            &[a.clone(), b.clone(), silent(c.clone())],
            &["m3 does not answer", "none more"],
        );
        told(
            &[a.clone(), b.clone(), unled(c.clone())],
            &["m3 does not reach", "none more"],
        );
        let left = unled(c.clone());
        told(
            &[silent(a.clone()), silent(b.clone()), left.clone()],
            &["1 of 3", "one of m1, m2 is back", "recover` on m3 goes"],
        );
        // Where they say nothing of what they have, none is the better one; else it is the one with more.
        let (d, e) = (row(4, Voter), row(5, Voter));
        let lost = [silent(a.clone()), silent(b.clone()), silent(d.clone())];
        let five = |last: Row| [&lost[..], &[left.clone(), last]].concat();
        let words = ["2 of 5", "one of m1, m2, m4 is back"];
        told(&five(unled(e.clone())), &words);
        told(&five(unled(e.clone())), &["recover` on m3 or m5 goes"]);
        let mut more = unled(e);
        if let Some(Ok(health)) = &mut more.etcd {
            health.revision += 1;
        }
        told(&five(more), &["recover` on m5 goes"]);
        told(
            &[
                silent(a.clone()),
                silent(b.clone()),
                silent(d),
                left.clone(),
                silent(c),
            ],
            &["1 of 5", "2 of m1, m2, m4, m3 are back"],
        );
        // Nobody is lost, and nobody leads.
        told(
            &[unled(a.clone()), unled(b.clone()), left],
            &["3 of 3", "none that leads"],
        );
    }

    #[test]
    fn two_that_vote_need_each_other() {
        use Standing::{Learner, Machine, Voter};
        let (a, b, c) = (row(1, Voter), row(2, Voter), row(3, Learner));
        let two = caution(&[a.clone(), b.clone()]).unwrap();
        assert!(
            two.starts_with("m1 and m2 have the votes: while either is away"),
            "{two}"
        );
        assert!(
            two.ends_with("A third machine makes three voters."),
            "{two}"
        );
        let three = caution(&[a.clone(), b.clone(), c]).unwrap();
        assert!(
            three.ends_with("m3 takes its copy, and votes then."),
            "{three}"
        );
        let mut plain = row(3, Machine);
        plain.can_vote = false;
        let three = caution(&[a.clone(), b.clone(), plain]).unwrap();
        assert!(three.contains("m3 can have no copy"), "{three}");
        let one = caution(&[silent(a), unled(b)]).unwrap();
        assert!(
            one.contains("1 of 2") && one.contains("until m1 is back"),
            "{one}"
        );
        assert!(one.contains("recover` on m2 goes"), "{one}");
    }
}
