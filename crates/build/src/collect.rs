//! Room on the disk: what builds have kept and images that can be had again go, the longest unused first, once the file system is
//! fuller than the high water mark, until it is as full as the low one.
//!
//! Never touched: what a container or a unit needs, images with a name that no registry has, and what is younger than
//! [`Marks::min_age`]. Worked example: 90 % are used, marks are 85 and 80. A cached step of last week and an image pulled a month ago
//! are enough for 80; the image that was pulled yesterday and one that was built here stay.

use crate::caches::Caches;
use crate::error::Result;
use crate::{BuildError, Builder};
use chrono::{DateTime, Utc};
use coracle_engine::Engine;
use coracle_image::{Digest, ImageId, InUse};
use serde::Serialize;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

/// When is collected, and how much.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Marks {
    /// Percent of the file system in use above which is collected; 100 for never.
    pub high: u8,
    /// Percent in use at which collecting ends.
    pub low: u8,
    /// What was made, pulled or used since is left.
    pub min_age: Duration,
}

impl Default for Marks {
    /// 85 and 80 percent, a day.
    fn default() -> Self {
        Self {
            high: 85,
            low: 80,
            min_age: Duration::from_secs(24 * 60 * 60),
        }
    }
}

/// How full a file system is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Disk {
    /// Bytes in use.
    pub used: u64,
    /// Bytes that could be.
    pub total: u64,
}

impl Disk {
    fn above(self, percent: u8) -> u64 {
        let bound = u128::from(self.total) * u128::from(percent) / 100;
        self.used
            .saturating_sub(u64::try_from(bound).unwrap_or(u64::MAX))
    }
}

/// What could go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    /// A step's record.
    Step,
    /// A directory of `RUN --mount=type=cache`.
    Mount,
    /// An image without a name.
    Dangling,
    /// An image that a registry has.
    Image,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Candidate {
    kind: Kind,
    key: String,
    size: u64,
    last_used: DateTime<Utc>,
}

/// What went.
#[derive(Debug, Clone, Default, Serialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub struct Collected {
    /// Percent in use before.
    pub before: u8,
    /// Percent in use afterwards.
    pub after: u8,
    /// Names and ids.
    pub removed: Vec<String>,
}

/// Chooses what goes. Pure.
fn plan(disk: Disk, marks: &Marks, now: DateTime<Utc>, mut all: Vec<Candidate>) -> Vec<Candidate> {
    if disk.above(marks.high) == 0 {
        return Vec::new();
    }
    let mut wanted = disk.above(marks.low);
    let age = chrono::Duration::from_std(marks.min_age).unwrap_or(chrono::Duration::MAX);
    all.retain(|c| now - c.last_used >= age);
    all.sort_by(|a, b| (a.kind, a.last_used, &a.key).cmp(&(b.kind, b.last_used, &b.key)));
    let mut chosen = Vec::new();
    for candidate in all {
        if wanted == 0 {
            break;
        }
        wanted = wanted.saturating_sub(candidate.size);
        chosen.push(candidate);
    }
    chosen
}

impl Builder {
    /// Whether [`Self::collect`] would make room now.
    ///
    /// # Errors
    /// As [`Self::collect`].
    pub async fn is_full(&self, marks: Marks) -> Result<bool> {
        let engine = self.engine.clone();
        let look = move || {
            // The last chance before the daemon may go.
            engine.images().write_down()?;
            Ok(disk(&engine)?.above(marks.high) > 0)
        };
        tokio::task::spawn_blocking(look).await?
    }

    /// Makes room, if there is too little. `units` are the images that units name; a name that ends with `*` stands for all that
    /// begin so.
    ///
    /// # Errors
    /// [`BuildError::Image`] and [`BuildError::File`]; what went before stays gone.
    pub async fn collect(&self, marks: Marks, units: BTreeSet<String>) -> Result<Collected> {
        let (engine, caches) = (self.engine.clone(), self.caches.clone());
        tokio::task::spawn_blocking(move || collect(&engine, &caches, &marks, &units)).await?
    }
}

fn disk(engine: &Engine) -> Result<Disk> {
    let dir = &engine.options().state_dir;
    let facts = rustix::fs::statvfs(dir).map_err(|e| BuildError::File {
        action: "looking at the file system of",
        path: dir.clone(),
        source: e.into(),
    })?;
    let bytes = |blocks: u64| blocks.saturating_mul(facts.f_frsize);
    let used = bytes(facts.f_blocks.saturating_sub(facts.f_bfree));
    // As df counts: what is set apart for root is neither used nor free.
    Ok(Disk {
        used,
        total: used.saturating_add(bytes(facts.f_bavail)),
    })
}

fn percent(disk: Disk) -> u8 {
    let percent = u128::from(disk.used) * 100 / u128::from(disk.total.max(1));
    u8::try_from(percent).unwrap_or(100)
}

fn collect(
    engine: &Engine,
    caches: &Arc<Caches>,
    marks: &Marks,
    units: &BTreeSet<String>,
) -> Result<Collected> {
    // The last chance before the daemon may go.
    engine.images().write_down()?;
    let before = disk(engine)?;
    let mut done = Collected {
        before: percent(before),
        after: percent(before),
        removed: Vec::new(),
    };
    if before.above(marks.high) == 0 {
        return Ok(done);
    }
    let all = candidates(engine, caches, units);
    for candidate in plan(before, marks, Utc::now(), all) {
        let name = remove(engine, caches, &candidate)?;
        let Some(name) = name else { continue };
        let (bytes, full) = (candidate.size, done.before);
        tracing::info!(name, bytes, percent_in_use = full, "removed to make room");
        done.removed.push(name);
    }
    done.after = percent(disk(engine)?);
    if done.after > marks.high {
        tracing::warn!(
            percent_in_use = done.after,
            high = marks.high,
            "the disk is nearly full, and nothing more can go: what is left is needed, young, or was made here; see `system df`"
        );
    }
    Ok(done)
}

fn candidates(engine: &Engine, caches: &Arc<Caches>, units: &BTreeSet<String>) -> Vec<Candidate> {
    let images = engine.images();
    let mut all = Vec::new();
    for (record, size, shared) in images.cache() {
        // One without a layer takes no room.
        if !shared && record.layer.is_some() {
            all.push(Candidate {
                kind: Kind::Step,
                key: record.key.hex(),
                size,
                last_used: record.last_used,
            });
        }
    }
    for mount in caches.list() {
        if !mount.in_use {
            all.push(Candidate {
                kind: Kind::Mount,
                key: mount.key,
                size: mount.size,
                last_used: mount.last_used,
            });
        }
    }
    let used: BTreeSet<String> = engine
        .list()
        .into_iter()
        .map(|s| s.record.image_id)
        .collect();
    let shared = images.usage(&BTreeSet::new()).shared;
    for image in images.list() {
        let named = !image.repo_tags.is_empty();
        let id = image.id.to_string();
        let needed = used.contains(&id)
            || units.contains(&id)
            || image
                .repo_tags
                .iter()
                .chain(&image.repo_digests)
                .any(|n| is_named(n, units));
        if needed || !can_be_had_again(&image.repo_tags, &image.repo_digests) {
            continue;
        }
        all.push(Candidate {
            kind: if named || !image.repo_digests.is_empty() {
                Kind::Image
            } else {
                Kind::Dangling
            },
            key: image.id.to_string(),
            size: image
                .size
                .saturating_sub(shared.get(&image.id).copied().unwrap_or(0)),
            last_used: image.last_used.unwrap_or(image.added).max(image.added),
        });
    }
    all
}

/// Whether a registry has an image by each of its names: one that is only here would be lost.
fn can_be_had_again(tags: &[String], digests: &[String]) -> bool {
    let repository = |name: &String| {
        let name = coracle_image::Reference::parse_normalized(name);
        name.map_or_else(|_| String::new(), |r| r.name())
    };
    let known: BTreeSet<String> = digests.iter().map(repository).collect();
    tags.iter().all(|tag| known.contains(&repository(tag)))
}

/// Whether units name an image so.
fn is_named(name: &str, units: &BTreeSet<String>) -> bool {
    let whole = |text: &str| {
        let name = coracle_image::Reference::parse_normalized(text);
        name.map_or_else(|_| text.to_owned(), |r| r.to_string())
    };
    let name = whole(name);
    units.iter().any(|unit| match unit.strip_suffix('*') {
        Some(start) => name.starts_with(start) || name.contains(&format!("/{start}")),
        None => {
            let unit = whole(unit);
            unit == name || format!("{unit}:latest") == name
        }
    })
}

/// Removes one; what it is called, unless somebody began to use it meanwhile.
fn remove(engine: &Engine, caches: &Arc<Caches>, candidate: &Candidate) -> Result<Option<String>> {
    match candidate.kind {
        Kind::Step => {
            let Ok(key) = Digest::from_hex(&candidate.key) else {
                return Ok(None);
            };
            let gone = engine.images().forget_one(&key)?;
            Ok(gone.map(|description| format!("cached step: {description}")))
        }
        Kind::Mount => Ok(caches
            .remove(&candidate.key)?
            .map(|id| format!("cache mount {id}"))),
        Kind::Dangling | Kind::Image => {
            let in_use = |id: &ImageId| {
                let users = engine.list().into_iter();
                let mut users = users.filter(|s| s.record.image_id == id.to_string());
                users.next().map(|s| InUse {
                    container: s.record.name,
                    running: true,
                })
            };
            match engine.images().remove(&candidate.key, true, &in_use) {
                Ok(_) => Ok(Some(format!("image {}", candidate.key))),
                Err(error) if error.kind() == coracle_image::ErrorKind::Internal => {
                    Err(error.into())
                }
                Err(_) => Ok(None),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn candidate(kind: Kind, key: &str, size: u64, days: i64) -> Candidate {
        Candidate {
            kind,
            key: key.into(),
            size,
            last_used: DateTime::UNIX_EPOCH - chrono::Duration::days(days),
        }
    }

    fn chosen(used: u64, all: &[Candidate]) -> Vec<String> {
        let disk = Disk { used, total: 1000 };
        let plan = plan(disk, &Marks::default(), DateTime::UNIX_EPOCH, all.to_vec());
        plan.into_iter().map(|c| c.key).collect()
    }

    #[test]
    fn the_longest_unused_first_and_no_more_than_needed() {
        let all = [
            candidate(Kind::Image, "old image", 30, 40),
            candidate(Kind::Image, "image", 30, 3),
            candidate(Kind::Step, "step", 20, 2),
            candidate(Kind::Step, "old step", 40, 7),
            candidate(Kind::Mount, "mount", 5, 9),
            candidate(Kind::Dangling, "nameless", 5, 2),
            candidate(Kind::Step, "of today", 500, 0),
        ];
        assert!(chosen(850, &all).is_empty(), "the mark is not passed");
        assert_eq!(chosen(851, &all), ["old step", "step"]);
        assert_eq!(
            chosen(900, &all),
            ["old step", "step", "mount", "nameless", "old image"]
        );
        assert_eq!(chosen(999, &all).len(), 6, "what is young stays");
    }

    #[test]
    fn names_that_are_nowhere_else() {
        let all = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>();
        let digest = format!("reg.example/a@{}", Digest::of(b"a"));
        let again = |tags: &[&str], digests: &[&str]| can_be_had_again(&all(tags), &all(digests));
        assert!(again(&["reg.example/a:1", "reg.example/a:2"], &[&digest]));
        assert!(again(&[], &[]) && again(&[], &[&digest]));
        assert!(!again(&["reg.example/a:1", "mine:1"], &[&digest]));
        assert!(!again(&["mine:1"], &[]));
    }

    #[test]
    fn names_of_units() {
        let units: BTreeSet<String> = ["redis", "reg.example/a:1", "localhost/app-*"]
            .map(str::to_owned)
            .into();
        for yes in ["redis:latest", "reg.example/a:1", "localhost/app-7:latest"] {
            assert!(is_named(yes, &units), "{yes}");
        }
        for no in ["redis:7", "reg.example/a:2", "localhost/other:latest"] {
            assert!(!is_named(no, &units), "{no}");
        }
    }
}
