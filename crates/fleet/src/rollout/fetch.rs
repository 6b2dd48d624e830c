//! Every machine that has instances of a service has the new image before the first of them is replaced: a deploy that cannot be had somewhere ends
//! before anything is changed, and none waits for a download with an instance less. Pure.
//!
//! A machine that gets its first instance in the midst of a deploy has the image when that is begun, as ever.

use super::record::{DeployRecord, Report};
use crate::model::HadRecord;
use std::collections::{BTreeMap, BTreeSet};

/// What follows for a deploy that has not begun yet.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Fetch {
    /// All have it.
    Had,
    /// These are to be asked.
    Ask(BTreeSet<String>),
    /// Some have not answered.
    Wait,
    /// One cannot have it.
    Failed(Report),
}

/// `machines` are those that have instances and give signs, with what they are called; `asked` for which deploy each was asked, `had` what
/// each has said. `late` is whether it takes longer than a batch may.
pub(crate) fn next(
    deploy: &DeployRecord,
    machines: &BTreeMap<String, String>,
    asked: &BTreeMap<String, u64>,
    had: &BTreeMap<String, HadRecord>,
    late: bool,
) -> Fetch {
    let answer = |id: &String| had.get(id).filter(|h| h.deploy == deploy.number);
    let report = |who: &String, reason: String| {
        let step = format!("have the image of revision {} on {who}", deploy.to);
        Fetch::Failed(Report {
            step,
            unit: deploy.unit.clone(),
            reason,
            code: None,
            last_lines: Vec::new(),
        })
    };
    for (id, who) in machines {
        if let Some(error) = answer(id).and_then(|h| h.error.clone()) {
            return report(who, error);
        }
    }
    let unasked = machines
        .keys()
        .filter(|id| asked.get(*id) != Some(&deploy.number) && answer(id).is_none());
    let unasked: BTreeSet<String> = unasked.cloned().collect();
    if !unasked.is_empty() {
        return Fetch::Ask(unasked);
    }
    match machines.iter().find(|(id, _)| answer(id).is_none()) {
        None => Fetch::Had,
        Some((_, who)) if late => {
            let seconds = deploy.settings.timeout;
            report(who, format!("it was not had within {seconds} s"))
        }
        Some(_) => Fetch::Wait,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::plan::tests::deploy;
    use super::*;

    #[test]
    fn all_have_it_before_anything_begins() {
        let deploy = deploy(&[("web@1.container", 3)], &["web@1.container"]);
        let machines: BTreeMap<String, String> = [("a", "m1"), ("b", "m2")]
            .map(|(i, n)| (i.to_owned(), n.to_owned()))
            .into();
        let said = |deploy, error: Option<&str>| HadRecord {
            version: 1,
            deploy,
            error: error.map(str::to_owned),
        };
        let (mut asked, mut had) = (BTreeMap::new(), BTreeMap::new());
        // What they said of the deploy before does not count.
        had.insert("a".to_owned(), said(0, None));
        let both = BTreeSet::from(["a".to_owned(), "b".to_owned()]);
        assert_eq!(
            next(&deploy, &machines, &asked, &had, false),
            Fetch::Ask(both)
        );
        asked.extend([("a".to_owned(), 1), ("b".to_owned(), 1)]);
        had.insert("a".to_owned(), said(1, None));
        assert_eq!(next(&deploy, &machines, &asked, &had, false), Fetch::Wait);
        let late = next(&deploy, &machines, &asked, &had, true);
        assert!(matches!(late, Fetch::Failed(r) if r.step.ends_with("on m2")));
        // One that is away is not waited for.
        let near = machines.clone().into_iter().take(1).collect();
        assert_eq!(next(&deploy, &near, &asked, &had, false), Fetch::Had);
        had.insert("b".to_owned(), said(1, Some("the disk is full")));
        let failed = next(&deploy, &machines, &asked, &had, false);
        assert!(matches!(failed, Fetch::Failed(r) if r.reason == "the disk is full"));
        had.insert("b".to_owned(), said(1, None));
        assert_eq!(next(&deploy, &machines, &asked, &had, false), Fetch::Had);
    }
}
