//! Which stages a build needs, and what each stands on. Pure.
//!
//! Worked example: `FROM a AS one`, `FROM b AS two`, `FROM scratch` with `COPY --from=one /x /x`. Wanted is the last: stages 0 and
//! 2 are needed, and `two` is never begun.

use crate::error::{Result, invalid};
use coracle_dockerfile::{Dockerfile, Instruction, Kind, Mount, Stage, expand};
use coracle_image::Platform;
use std::collections::{BTreeMap, BTreeSet};

/// What a stage stands on, or something is copied from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Base {
    /// Nothing.
    Scratch,
    /// An earlier stage.
    Stage(usize),
    /// An image, as it is written.
    Image(String),
}

/// A build's stages.
#[derive(Debug)]
pub(crate) struct Plan {
    /// Global arguments and those that every build has.
    pub globals: BTreeMap<String, String>,
    /// For each stage of the file: what it stands on and for which platform.
    pub bases: Vec<(Base, Option<Platform>)>,
    /// Stages that are needed, in the file's order.
    pub needed: BTreeSet<usize>,
    /// The stage that becomes the image.
    pub target: usize,
}

/// Arguments that every build has, once a stage declares them.
pub(crate) fn platform_args(build: &Platform, target: &Platform) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    for (prefix, platform) in [("BUILD", build), ("TARGET", target)] {
        let variant = platform.variant.clone().unwrap_or_default();
        let mut whole = format!("{}/{}", platform.os, platform.architecture);
        if !variant.is_empty() {
            whole = format!("{whole}/{variant}");
        }
        for (name, value) in [
            ("PLATFORM", whole),
            ("OS", platform.os.clone()),
            ("ARCH", platform.architecture.clone()),
            ("VARIANT", variant),
        ] {
            all.insert(format!("{prefix}{name}"), value);
        }
    }
    all
}

/// Plans a build. `args` are those that were given, `fixed` those that every build has.
pub(crate) fn plan(
    file: &Dockerfile,
    target: &str,
    args: &BTreeMap<String, Option<String>>,
    fixed: &BTreeMap<String, String>,
) -> Result<Plan> {
    let mut globals = fixed.clone();
    for arg in &file.global_args {
        let given = args.get(&arg.name).cloned().flatten();
        let value = match (given, &arg.default) {
            (Some(given), _) => Some(given),
            (None, Some(default)) => Some(
                expand(default, file.escape, &|name| globals.get(name).cloned())
                    .map_err(|e| invalid(format!("ARG {}: {e}", arg.name)))?,
            ),
            (None, None) => None,
        };
        if let Some(value) = value {
            globals.insert(arg.name.clone(), value);
        }
    }
    let mut bases = Vec::new();
    for (number, stage) in file.stages.iter().enumerate() {
        bases.push(base(file, number, stage, &globals)?);
    }
    let target = wanted(file, target)?;
    let mut needed = BTreeSet::new();
    let mut ahead = vec![target];
    while let Some(number) = ahead.pop() {
        if !needed.insert(number) {
            continue;
        }
        if let Base::Stage(below) = bases[number].0 {
            ahead.push(below);
        }
        for instruction in &file.stages[number].instructions {
            for from in froms(instruction) {
                if let Base::Stage(other) = find(file, number, &from) {
                    ahead.push(other);
                }
            }
        }
    }
    Ok(Plan {
        globals,
        bases,
        needed,
        target,
    })
}

fn base(
    file: &Dockerfile,
    number: usize,
    stage: &Stage,
    globals: &BTreeMap<String, String>,
) -> Result<(Base, Option<Platform>)> {
    let variable = |name: &str| globals.get(name).cloned();
    let at = |why: String| invalid(format!("line {}: {}: {why}", stage.line, stage.source));
    let name = expand(&stage.base, file.escape, &variable).map_err(|e| at(e.to_string()))?;
    if name.is_empty() {
        return Err(at(format!(
            "base name ({}) should not be blank; give the argument a value",
            stage.base
        )));
    }
    let platform = match &stage.platform {
        None => None,
        Some(text) => {
            let text = expand(text, file.escape, &variable).map_err(|e| at(e.to_string()))?;
            let read = text.parse::<Platform>();
            Some(read.map_err(|_| {
                at(format!(
                    "invalid platform \"{text}\"; write for example linux/amd64"
                ))
            })?)
        }
    };
    // By name only: a number is an image's name here.
    let below = file.stages[..number]
        .iter()
        .rposition(|s| s.name.as_deref() == Some(name.to_ascii_lowercase().as_str()));
    let base = match below {
        Some(below) => Base::Stage(below),
        None if name == "scratch" => Base::Scratch,
        None => Base::Image(name),
    };
    Ok((base, platform))
}

fn wanted(file: &Dockerfile, target: &str) -> Result<usize> {
    let last = file.stages.len().checked_sub(1);
    let last = last.ok_or_else(|| invalid("the Dockerfile has no stage; begin it with FROM"))?;
    if target.is_empty() {
        return Ok(last);
    }
    let name = target.to_ascii_lowercase();
    let named = file
        .stages
        .iter()
        .position(|s| s.name.as_deref() == Some(&name));
    let numbered = || target.parse::<usize>().ok().filter(|n| *n <= last);
    named.or_else(numbered).ok_or_else(|| {
        let names = file.stages.iter().filter_map(|s| s.name.as_deref());
        let names: Vec<&str> = names.collect();
        invalid(format!(
            "failed to reach build target {target} in Dockerfile; its stages are: {}",
            if names.is_empty() {
                "without names".into()
            } else {
                names.join(", ")
            }
        ))
    })
}

/// What `--from` of a stage's instruction means.
pub(crate) fn find(file: &Dockerfile, stage: usize, from: &str) -> Base {
    let name = from.to_ascii_lowercase();
    let before = &file.stages[..stage.min(file.stages.len())];
    let named = before
        .iter()
        .rposition(|s| s.name.as_deref() == Some(&name));
    let numbered = || from.parse::<usize>().ok().filter(|n| *n < before.len());
    match named.or_else(numbered) {
        Some(number) => Base::Stage(number),
        None if name == "scratch" => Base::Scratch,
        None => Base::Image(from.to_owned()),
    }
}

/// Everything that an instruction takes files from.
fn froms(instruction: &Instruction) -> Vec<String> {
    match &instruction.kind {
        Kind::Copy(copy) | Kind::Add(copy) => copy.from.iter().cloned().collect(),
        Kind::Run(run) => {
            let parsed = run.mounts.iter().filter_map(|m| Mount::parse(m).ok());
            parsed.filter_map(|m| m.from).collect()
        }
        _ => Vec::new(),
    }
}

impl Plan {
    /// Steps of a stage: its FROM and its instructions.
    pub fn steps(&self, file: &Dockerfile, stage: usize) -> usize {
        1 + file.stages.get(stage).map_or(0, |s| s.instructions.len())
    }

    /// Steps of all stages that are needed, and how many come before one.
    pub fn count(&self, file: &Dockerfile, before: usize) -> (usize, usize) {
        let of = |n: &usize| self.steps(file, *n);
        let all = self.needed.iter().map(of).sum();
        let first = self.needed.range(..before).map(of).sum();
        (first, all)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn planned(text: &str, target: &str, args: &[(&str, &str)]) -> Result<Plan> {
        let args = args
            .iter()
            .map(|(n, v)| ((*n).to_owned(), Some((*v).to_owned())))
            .collect();
        let host: Platform = "linux/amd64".parse().unwrap();
        let fixed = platform_args(&host, &host);
        plan(
            &coracle_dockerfile::parse(text).unwrap(),
            target,
            &args,
            &fixed,
        )
    }

    fn needed(text: &str, target: &str) -> Vec<usize> {
        planned(text, target, &[])
            .unwrap()
            .needed
            .into_iter()
            .collect()
    }

    #[test]
    fn only_what_is_needed() {
        let text = "FROM a AS one\nFROM b AS two\nFROM one AS three\nRUN --mount=from=two,target=/x true\n\
                    FROM scratch\nCOPY --from=0 /x /x\n";
        assert_eq!(needed(text, ""), [0, 3]);
        assert_eq!(needed(text, "three"), [0, 1, 2]);
        assert_eq!(needed(text, "TWO"), [1]);
        assert_eq!(needed(text, "1"), [1]);
        let error = planned(text, "four", &[]).unwrap_err().to_string();
        assert!(error.contains("four") && error.contains("three"), "{error}");
    }

    #[test]
    fn arguments_before_from() {
        let text = "ARG V=1\nARG N=img:$V\nFROM --platform=$BUILDPLATFORM ${N} AS x\nFROM x";
        let plan = planned(text, "", &[]).unwrap();
        assert_eq!(plan.bases[0].0, Base::Image("img:1".into()));
        assert_eq!(plan.bases[0].1.as_ref().unwrap().architecture, "amd64");
        assert_eq!(plan.bases[1].0, Base::Stage(0));
        let plan = planned(text, "", &[("V", "2")]).unwrap();
        assert_eq!(plan.bases[0].0, Base::Image("img:2".into()));
        let error = planned("FROM $NOPE", "", &[]).unwrap_err().to_string();
        assert!(error.contains("should not be blank"), "{error}");
    }
}
