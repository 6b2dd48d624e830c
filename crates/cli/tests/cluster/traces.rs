//! What a cluster must not leave behind.

use super::holding::MARK;
use super::{Cluster, sweep};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Where to look for what is left of one cluster.
pub struct Traces {
    dir: PathBuf,
    ids: Vec<String>,
}

impl Traces {
    pub fn of(cluster: &Cluster) -> Self {
        Self {
            dir: cluster.dir().to_owned(),
            ids: cluster.place.ids().to_vec(),
        }
    }

    /// Of a cluster that another process makes.
    pub fn known(dir: &Path, ids: &[String]) -> Self {
        let (dir, ids) = (dir.to_owned(), ids.to_vec());
        Self { dir, ids }
    }

    /// Everything that is there.
    pub fn left(&self) -> Vec<String> {
        let mut left = self.processes();
        left.extend(self.groups());
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let dir = self.dir.to_str().unwrap();
        let ours = |line: &&str| line.contains(dir);
        left.extend(mounts.lines().filter(ours).map(|l| format!("mount {l}")));
        left.extend(links());
        if self.dir.exists() {
            left.push(format!("directory {dir}"));
        }
        left
    }

    /// Control groups of the machines and of their containers.
    pub fn groups(&self) -> Vec<String> {
        let root = PathBuf::from("/sys/fs/cgroup");
        let inner = fs::read_dir(&root).into_iter().flatten().flatten();
        let mut left = Vec::new();
        for hierarchy in inner.map(|e| e.path()).chain([root.clone()]) {
            for id in &self.ids {
                let group = hierarchy.join(sweep::group(id).trim_start_matches('/'));
                if group.exists() {
                    left.push(format!("control group {}", group.display()));
                }
            }
        }
        left
    }

    /// Processes that were started for the cluster, by their environment, or that are in its control groups.
    pub fn processes(&self) -> Vec<String> {
        let mark = format!("{MARK}={}", self.dir.display()).into_bytes();
        let mut left = Vec::new();
        for process in super::processes::all() {
            let of = |file: &str| fs::read(format!("/proc/{}/{file}", process.pid));
            let environment = of("environ").unwrap_or_default();
            let groups = String::from_utf8_lossy(&of("cgroup").unwrap_or_default()).into_owned();
            let marked = environment.split(|b| *b == 0).any(|word| word == mark);
            if marked || self.ids.iter().any(|id| groups.contains(&sweep::group(id))) {
                left.push(format!("process {} {}", process.pid, process.name));
            }
        }
        left
    }
}

/// Links and rules of any cluster in the network of the test, where there must be none at any time.
pub fn links() -> Vec<String> {
    let said = |program: &str, args: &[&str]| {
        let output = Command::new(program).args(args).output().unwrap();
        assert!(output.status.success(), "{program} {args:?}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let links = said("ip", &["-o", "link"]);
    let rules = said("nft", &["list", "tables"]);
    let link = |l: &&str| l.contains("02:00:c0:00:02:");
    let table = |l: &&str| l.contains("bridge faults");
    let links = links.lines().filter(link);
    links
        .chain(rules.lines().filter(table))
        .map(str::to_owned)
        .collect()
}
