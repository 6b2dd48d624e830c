//! Which containers there are, by id, by name and by the beginning of an id.

use crate::container::Container;
use crate::error::{EngineError, Result};
use crate::id::ContainerId;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

/// The containers of one daemon.
#[derive(Default)]
pub(crate) struct Table {
    by_id: BTreeMap<ContainerId, Arc<Container>>,
    names: HashMap<String, ContainerId>,
    /// Exit codes of the last that went with their end, for clients that were cut off from them.
    gone: VecDeque<(ContainerId, i32)>,
}

/// That many exit codes of what is gone are known.
const MOST_GONE: usize = 1000;

fn taken(name: &str, by: &ContainerId) -> EngineError {
    EngineError::Conflict(format!(
        "Conflict. The container name \"/{name}\" is already in use by container \"{by}\". You have to remove (or \
         rename) that container to be able to reuse that name."
    ))
}

impl Table {
    /// Keeps a name for a container that is being made.
    ///
    /// # Errors
    /// [`EngineError::Conflict`] naming who has it.
    pub fn reserve(&mut self, name: &str, id: &ContainerId) -> Result<()> {
        if let Some(by) = self.names.get(name) {
            return Err(taken(name, by));
        }
        self.names.insert(name.to_owned(), id.clone());
        Ok(())
    }

    /// Gives a name back that was reserved or belonged to `id`.
    pub fn free(&mut self, name: &str, id: &ContainerId) {
        if self.names.get(name) == Some(id) {
            self.names.remove(name);
        }
    }

    /// Shows a container whose name is reserved.
    pub fn insert(&mut self, container: Arc<Container>) {
        self.by_id.insert(container.id.clone(), container);
    }

    /// Takes a container and its name out.
    pub fn remove(&mut self, id: &ContainerId) {
        if let Some(container) = self.by_id.remove(id) {
            self.names.retain(|_, owner| owner != id);
            if let Some(code) =
                container.read(|r| r.host_config.auto_remove.then_some(r.state.exit_code))
            {
                self.gone.truncate(MOST_GONE - 1);
                self.gone.push_front((id.clone(), code));
            }
        }
    }

    /// Exit code of one that went with its end, by full id.
    pub fn gone(&self, id: &str) -> Option<i32> {
        let found = self.gone.iter().find(|(gone, _)| gone.as_str() == id);
        found.map(|(_, code)| *code)
    }

    /// By full id, name (with or without a slash), or the beginning of an id.
    ///
    /// # Errors
    /// [`EngineError::NotFound`] or [`EngineError::Ambiguous`].
    pub fn find(&self, key: &str) -> Result<Arc<Container>> {
        let missing = || EngineError::not_found("container", key);
        let bare = key.strip_prefix('/').unwrap_or(key);
        if let Some(id) = ContainerId::from_known(bare.to_owned())
            && let Some(container) = self.by_id.get(&id)
        {
            return Ok(container.clone());
        }
        if let Some(found) = self.names.get(bare).and_then(|id| self.by_id.get(id)) {
            return Ok(found.clone());
        }
        if bare.is_empty() {
            return Err(missing());
        }
        let mut matching = self
            .by_id
            .values()
            .filter(|c| c.id.as_str().starts_with(bare));
        match (matching.next(), matching.next()) {
            (Some(one), None) => Ok(one.clone()),
            (Some(_), Some(_)) => Err(EngineError::Ambiguous {
                prefix: bare.to_owned(),
            }),
            _ => Err(missing()),
        }
    }

    /// All of them, by id.
    pub fn all(&self) -> Vec<Arc<Container>> {
        self.by_id.values().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::record::Record;

    fn add(table: &mut Table, id: &str, name: &str) -> ContainerId {
        let id = ContainerId::from_known(format!("{id:0<64}")).unwrap();
        table.reserve(name, &id).unwrap();
        let request = serde_json::from_value(serde_json::json!({ "Image": "x" })).unwrap();
        let record = Record::new(id.clone(), name.into(), request, "sha256:0".into());
        table.insert(Container::new(record, "/s".into(), "/r".into(), "/c"));
        id
    }

    #[test]
    fn by_name_id_and_prefix() {
        let mut table = Table::default();
        let a = add(&mut table, "abc1", "web");
        let b = add(&mut table, "abc2", "abc1");
        assert_eq!(table.find("web").unwrap().id, a);
        assert_eq!(table.find("/web").unwrap().id, a);
        assert_eq!(
            table.find("abc1").unwrap().id,
            b,
            "a name goes before a prefix"
        );
        assert_eq!(table.find("abc10").unwrap().id, a);
        assert!(matches!(
            table.find("abc"),
            Err(EngineError::Ambiguous { .. })
        ));
        assert!(matches!(table.find(""), Err(EngineError::NotFound { .. })));
        assert!(
            table
                .reserve("web", &b)
                .unwrap_err()
                .to_string()
                .contains(a.as_str())
        );
        table.remove(&a);
        assert!(table.find("web").is_err());
        table.reserve("web", &b).unwrap();
        table.free("web", &a);
        assert!(
            table.reserve("web", &a).is_err(),
            "only its owner frees a name"
        );
    }
}
