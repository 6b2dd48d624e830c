//! Shapes, groups and globs are held as long as something needs them.
use crate::core::{Core, Group, Shape};
use crate::globs::literal_prefix;
use crate::ids::{G, MachineId, P, S, U, UnitName};
use crate::model::Needs;
use coracle_unit::fleet::glob_match;
use std::collections::BTreeSet;
use std::sync::Arc;

impl Core {
    pub(crate) fn hold_shape(&mut self, needs: &Needs) -> S {
        if let Some(s) = self.shape_by_needs.get(needs) {
            self.shapes[s.0].refs += 1;
            return *s;
        }
        let pool = self.machines.hold_pool(&needs.fleet.machine_metadata);
        let conflicts = self.hold_globs(&needs.fleet.conflicts);
        let replaces = self.hold_globs(&needs.fleet.replaces);
        let group = needs.spread.as_ref().map(|name| self.hold_group(name));
        let needs = Arc::new(needs.clone());
        let s = S(self.shapes.insert(Shape {
            refs: 1,
            pool,
            conflicts,
            replaces,
            group,
            peers: needs
                .fleet
                .machine_of
                .iter()
                .map(|n| n.as_str().into())
                .collect(),
            machine_id: needs.fleet.machine_id.as_deref().map(MachineId::from),
            exclusive: (needs.exclusive || !needs.volumes.is_empty()) && !needs.fleet.global,
            needs: needs.clone(),
        }));
        self.shape_by_needs.insert(needs, s);
        s
    }

    fn hold_globs(&mut self, globs: &[String]) -> Vec<P> {
        let unique: BTreeSet<&String> = globs.iter().collect();
        unique
            .into_iter()
            .map(|glob| self.hold_glob(glob))
            .collect()
    }

    fn hold_glob(&mut self, glob: &str) -> P {
        let (p, new) = self.globs.hold(glob);
        if !new {
            return p;
        }
        let prefix = literal_prefix(glob);
        let near = self.names.range(UnitName::from(prefix)..);
        let near = near.take_while(|(name, _)| name.as_str().starts_with(prefix));
        let matches: Vec<U> = near
            .filter(|(name, _)| glob_match(glob, name.as_str()))
            .map(|(_, u)| *u)
            .collect();
        for u in matches {
            let unit = &mut self.units[u.0];
            unit.matched_by.push(p);
            // Waiting units are compared by it.
            unit.matched_by.sort_unstable();
            let pattern = self.globs.get_mut(p);
            pattern.matches.insert(u);
            for held in &unit.held {
                pattern.matched.change(held.m, true, 1);
            }
            if let Some(m) = unit.kept {
                pattern.matched.change(m, true, 1);
            }
        }
        p
    }

    fn hold_group(&mut self, name: &str) -> G {
        let g = match self.group_of.get(name) {
            Some(g) => *g,
            None => {
                let g = G(self.groups.insert(Group {
                    name: name.to_owned(),
                    ..Group::default()
                }));
                self.group_of.insert(name.to_owned(), g);
                g
            }
        };
        self.groups[g.0].refs += 1;
        g
    }

    pub(crate) fn release_shape(&mut self, s: S) {
        let shape = &mut self.shapes[s.0];
        shape.refs -= 1;
        if shape.refs > 0 {
            return;
        }
        let (needs, pool, group) = (shape.needs.clone(), shape.pool, shape.group);
        let globs: Vec<P> = shape
            .conflicts
            .iter()
            .chain(&shape.replaces)
            .copied()
            .collect();
        self.shapes.remove(s.0);
        self.shape_by_needs.remove(&needs);
        self.machines.release_pool(pool);
        for p in globs {
            for u in self.globs.release(p) {
                self.unit_mut(u).matched_by.retain(|other| *other != p);
            }
        }
        if let Some(g) = group {
            self.groups[g.0].refs -= 1;
            if self.groups[g.0].refs == 0 {
                let name = self.groups[g.0].name.clone();
                self.group_of.remove(&name);
                self.groups.remove(g.0);
            }
        }
    }
}
