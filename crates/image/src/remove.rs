//! What removing an image means, as docker's `rmi` decides it. Pure: the index and the containers' claims go
//! in, the steps come out.
//!
//! Worked example: image I has the names `a:1` and `a:2`. `rmi a:1` only takes the name away. `rmi I` is refused
//! (several names) unless forced. `rmi a:2` afterwards takes the last name, the digests of the
//! same repository, and the image, unless a container uses it.

use std::collections::BTreeSet;

use crate::digest::ImageId;
use crate::error::{Conflict, Result};
use crate::index::{Found, Index};
use crate::reference::Reference;

/// A container that was made from an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InUse {
    /// Its short id or name.
    pub container: String,
    /// Whether it runs: then even force does not help.
    pub running: bool,
}

/// One line of what was removed, in docker's words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Removed {
    /// A name was taken away.
    Untagged(String),
    /// The image is gone.
    Deleted(ImageId),
}

/// What to do to the index.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    pub id: ImageId,
    /// Names to take away, in this order.
    pub names: Vec<Reference>,
    /// Whether the image goes too.
    pub delete: bool,
}

pub(crate) fn plan(index: &Index, name: &str, force: bool, in_use: Option<&InUse>) -> Result<Plan> {
    let found = index.find(name)?;
    let id = found.id();
    let mut names: Vec<Reference> = index
        .tags_of(id)
        .chain(index.digests_of(id))
        .cloned()
        .collect();
    let single = is_single(&names);
    let short = id.short();
    let running = in_use.filter(|c| c.running);
    let stopped = in_use.filter(|c| !c.running && !force);
    let used = || {
        if let Some(c) = running {
            return Err(Conflict::UsedByRunning {
                id: short.clone(),
                container: c.container.clone(),
            });
        }
        match stopped {
            Some(c) => Err(Conflict::UsedByStopped {
                id: short.clone(),
                container: c.container.clone(),
            }),
            None => Ok(()),
        }
    };
    let reference = match found {
        Found::Id(_) if !single && !force => {
            used().or_else(|e| if running.is_some() { Err(e) } else { Ok(()) })?;
            return Err(Conflict::MultipleNames { id: short }.into());
        }
        Found::Id(_) => {
            used()?;
            return Ok(Plan {
                id,
                names,
                delete: true,
            });
        }
        Found::Tag(reference, _) | Found::Digest(reference, _) => reference,
    };
    if let Some(c) = in_use.filter(|_| single && !force) {
        let container = c.container.clone();
        return Err(Conflict::NameInUse {
            name: name.to_owned(),
            container,
            id: short,
        }
        .into());
    }
    let mut taken = vec![reference.clone()];
    names.retain(|n| *n != reference);
    let same = |n: &Reference| n.name() == reference.name();
    if reference.digest().is_none() && !names.iter().any(|n| n.digest().is_none() && same(n)) {
        let (digests, rest) = names
            .into_iter()
            .partition(|n| n.digest().is_some() && same(n));
        taken.extend::<Vec<_>>(digests);
        names = rest;
    }
    let delete = names.is_empty() && used().is_ok();
    Ok(Plan {
        id,
        names: taken,
        delete,
    })
}

/// At most one tag, and all names in one repository.
fn is_single(names: &[Reference]) -> bool {
    let tags = names.iter().filter(|n| n.digest().is_none()).count();
    let repositories: BTreeSet<String> = names.iter().map(Reference::name).collect();
    tags <= 1 && repositories.len() <= 1
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::digest::Digest;
    use crate::error::ImageError;
    use crate::index::Record;

    fn index(names: &[&str]) -> (Index, ImageId) {
        let mut index = Index::default();
        let id = ImageId::from(Digest::of(b"config"));
        let record = serde_json::json!(
            {"layers": [], "size": 0, "added": "2024-01-01T00:00:00Z", "blobs": []});
        index
            .images
            .insert(id, serde_json::from_value::<Record>(record).unwrap());
        for name in names {
            let r = Reference::parse_normalized(name).unwrap();
            let map = if r.digest().is_some() {
                &mut index.digests
            } else {
                &mut index.tags
            };
            map.insert(r, id);
        }
        (index, id)
    }

    fn familiar(plan: &Plan) -> Vec<String> {
        plan.names.iter().map(Reference::familiar).collect()
    }

    fn conflict(result: Result<Plan>) -> Conflict {
        match result {
            Err(ImageError::Conflict(c)) => c,
            other => panic!("no conflict: {other:?}"),
        }
    }

    #[test]
    fn names_go_before_the_image() {
        let digest = format!("a@{}", Digest::of(b"m"));
        let (index, id) = index(&["a:1", "a:2", &digest]);
        let p = plan(&index, "a:1", false, None).unwrap();
        assert_eq!((familiar(&p), p.delete), (vec!["a:1".to_owned()], false));
        let c = conflict(plan(&index, &id.short(), false, None));
        assert!(matches!(c, Conflict::MultipleNames { .. }));
        let p = plan(&index, &id.short(), true, None).unwrap();
        assert_eq!((p.names.len(), p.delete), (3, true));
    }

    #[test]
    fn the_last_name_takes_digests_and_image() {
        let digest = format!("a@{}", Digest::of(b"m"));
        let (one, id) = index(&["a:2", &digest]);
        let p = plan(&one, "a:2", false, None).unwrap();
        assert_eq!(
            (familiar(&p), p.delete),
            (vec!["a:2".to_owned(), digest.clone()], true)
        );
        assert!(plan(&one, &id.hex(), false, None).unwrap().delete);
        let (two, _) = index(&["a:2", "b:1", &digest]);
        let p = plan(&two, "a:2", false, None).unwrap();
        assert_eq!(
            (familiar(&p), p.delete),
            (vec!["a:2".to_owned(), digest], false)
        );
    }

    #[test]
    fn containers_hold_on() {
        let stopped = InUse {
            container: "web".into(),
            running: false,
        };
        let running = InUse {
            container: "web".into(),
            running: true,
        };
        let (index, id) = index(&["a:1"]);
        let c = conflict(plan(&index, "a:1", false, Some(&stopped)));
        assert!(matches!(c, Conflict::NameInUse { .. }));
        let c = conflict(plan(&index, &id.hex(), false, Some(&stopped)));
        assert!(matches!(c, Conflict::UsedByStopped { .. }));
        assert!(
            plan(&index, &id.hex(), true, Some(&stopped))
                .unwrap()
                .delete
        );
        let c = conflict(plan(&index, &id.hex(), true, Some(&running)));
        assert!(matches!(c, Conflict::UsedByRunning { .. }));
        let p = plan(&index, "a:1", true, Some(&running)).unwrap();
        assert!(!p.delete, "the name goes, the image stays");
    }
}
