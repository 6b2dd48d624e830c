//! Which processes are a machine's.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    pub pid: u32,
    pub parent: u32,
    /// One letter, as in proc(5).
    pub state: char,
    pub name: String,
    /// The namespace of its processes.
    pub namespace: Option<PathBuf>,
}

/// `12 (a name) S 1 …`
fn parse(stat: &str) -> Option<(String, char, u32)> {
    let (head, tail) = stat.rsplit_once(") ")?;
    let name = head.split_once('(')?.1.to_owned();
    let mut words = tail.split(' ');
    let state = words.next()?.chars().next()?;
    Some((name, state, words.next()?.parse().ok()?))
}

/// All that the test can see.
pub fn all() -> Vec<Process> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse() else {
            continue;
        };
        // One that ended meanwhile is none.
        let stat = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        if let Some((name, state, parent)) = parse(&stat) {
            found.push(Process {
                pid,
                parent,
                state,
                name,
                namespace: fs::read_link(entry.path().join("ns/pid")).ok(),
            });
        }
    }
    found
}

/// A machine's processes: those in its first process's namespace, and what descends from them.
pub fn of(init: u32) -> Vec<Process> {
    let all = all();
    let namespace = all
        .iter()
        .find(|p| p.pid == init)
        .and_then(|p| p.namespace.clone());
    let mut children = BTreeMap::<u32, Vec<&Process>>::new();
    for process in &all {
        children.entry(process.parent).or_default().push(process);
    }
    let same = |p: &&Process| p.pid == init || namespace.is_some() && p.namespace == namespace;
    let mut todo: Vec<_> = all.iter().filter(same).collect();
    let mut seen = BTreeSet::new();
    let mut found = Vec::new();
    while let Some(process) = todo.pop() {
        if seen.insert(process.pid) {
            found.push(process.clone());
            todo.extend(children.get(&process.pid).into_iter().flatten());
        }
    }
    found
}

/// Helpers outside the namespace through which the test started some of these.
pub fn starters(of: &[Process]) -> Vec<Process> {
    let members: BTreeSet<_> = of.iter().map(|p| p.pid).collect();
    let parents: BTreeSet<_> = of.iter().map(|p| p.parent).collect();
    let ours = |p: &Process| {
        parents.contains(&p.pid)
            && !members.contains(&p.pid)
            && ["nsenter", "unshare"].contains(&p.name.as_str())
    };
    all().into_iter().filter(ours).collect()
}

/// The processes that `pid` started and that still are its children.
pub fn children(pid: u32) -> Vec<u32> {
    let all = all().into_iter();
    all.filter(|p| p.parent == pid).map(|p| p.pid).collect()
}
