//! Machines become one cluster, and what they say of it.

use super::Cluster;
use super::wait::{MINUTE, wait_for};
use serde_json::Value;
use std::collections::BTreeSet;

impl Cluster {
    /// Has all machines join the first one, at the same time.
    pub fn form(&self) {
        let first = self.machine(1);
        let others = (self.machines().len() - 1).to_string();
        let token = first.ok(&["cluster", "token", "-q", "--uses", &others]);
        self.each(|machine| {
            if machine.n() != 1 {
                machine.ok(&["join", &first.address(), "--token", token.trim()]);
            }
        });
    }

    /// What machine `n` says of the cluster.
    pub fn status(&self, n: usize) -> Value {
        let said = self
            .machine(n)
            .ok(&["cluster", "status", "--format", "json"]);
        serde_json::from_str(&said).unwrap()
    }

    /// Numbers of the machines that have the store, as machine `n` says.
    pub fn voters(&self, n: usize) -> BTreeSet<usize> {
        let status = self.status(n);
        let machines = status["machines"].as_array().unwrap().iter();
        let voters = machines.filter(|m| m["voter"] == true);
        voters
            .filter_map(|m| self.numbered(m["id"].as_str()?))
            .collect()
    }

    /// Waits until three machines have votes and hold the same: while there are two, either's loss stops both.
    pub fn settles(&self) {
        wait_for("three have votes", 2 * MINUTE, || {
            let status = self.status(1);
            let machines = status["machines"].as_array().unwrap().iter();
            let with = machines.filter(|m| !m["store"].is_null());
            let mut with = with.map(|m| m["store"] == "voter" && m["inStep"] == true);
            with.clone().count() == 3 && with.all(|good| good)
        });
    }

    /// The number of the machine with this id.
    pub fn numbered(&self, id: &str) -> Option<usize> {
        let found = self.machines().iter().find(|m| m.id() == id);
        found.map(super::Machine::n)
    }
}
