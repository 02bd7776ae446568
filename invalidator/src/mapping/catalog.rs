//! Which rules concern which tables, as of the present position in the stream.

use std::collections::HashMap;

use cachetag_core::Tag;

use super::graph::{Dependency, Graph};
use super::metadata::{Binding, Metadata, MetadataTable, Rule};

/// The metadata in memory, with the changes of the stream up to now.
#[derive(Debug, Default)]
pub(super) struct Catalog {
    rules: HashMap<i64, Rule>,
    bindings: HashMap<i64, Binding>,
    /// Table → the bindings that name it.
    bound: HashMap<u32, Vec<i64>>,
}

/// The change of a row: its id and contents before and after. Equal contents are no change.
#[derive(Debug)]
pub(super) struct Replacement<T> {
    pub(super) old: Option<(i64, T)>,
    pub(super) new: Option<(i64, T)>,
}

/// What a row of the catalog's tables, or a TRUNCATE of one, changes.
#[derive(Debug)]
pub(super) enum CatalogChange {
    Rule(Replacement<Rule>),
    Binding(Replacement<Binding>),
    Dependency(Replacement<Dependency>),
    /// The table was emptied.
    Emptied(MetadataTable),
}

impl Catalog {
    /// Applies a change; what has to be bumped with it. (Of a table that was emptied nobody knows that: bump everything.)
    pub(super) fn apply(&mut self, graph: &mut Graph, change: CatalogChange) -> Vec<Tag> {
        match change {
            CatalogChange::Rule(change) => self.replace_rule(change),
            CatalogChange::Binding(change) => self.replace_binding(change),
            CatalogChange::Dependency(change) => replace_dependency(graph, change),
            CatalogChange::Emptied(table) => {
                match table {
                    MetadataTable::Rule => self.rules.clear(),
                    MetadataTable::Binding => {
                        self.bindings.clear();
                        self.bound.clear();
                    }
                    MetadataTable::Dependency => *graph = Graph::default(),
                }
                Vec::new()
            }
        }
    }

    /// The catalog and the graph as they were read at the start.
    pub(super) fn load(metadata: Metadata) -> (Self, Graph) {
        let mut catalog = Self { rules: metadata.rules.into_iter().collect(), ..Self::default() };
        for (id, binding) in metadata.bindings {
            catalog.bind(id, binding);
        }
        let mut graph = Graph::default();
        for (id, dependency) in metadata.dependencies {
            graph.insert(id, &dependency);
        }
        (catalog, graph)
    }

    /// The rules that a table feeds. A binding of a rule that is not there says nothing: the rule's own row, which comes
    /// before or after it in the stream, bumps the family.
    pub(super) fn rules_of(&self, relation: u32) -> impl Iterator<Item = (i64, &Rule)> {
        let bindings = self.bound.get(&relation).into_iter().flatten();
        bindings.filter_map(|id| {
            let rule = self.bindings.get(id)?.rule;
            Some((rule, self.rules.get(&rule)?))
        })
    }

    /// Applies the change of a rule; the result is what has to be bumped: the families of all versions of the rule
    /// that are known. The old row counts too: after a start the memory may be ahead of the stream.
    fn replace_rule(&mut self, change: Replacement<Rule>) -> Vec<Tag> {
        let current = change.current(|id| self.rules.get(&id).cloned());
        if change.is_idle(&current) {
            return Vec::new();
        }
        let families = change.versions(&current).map(|rule| rule.template.whole_family()).collect();
        if let Some((id, _)) = change.old {
            self.rules.remove(&id);
        }
        self.rules.extend(change.new);
        families
    }

    /// Applies the change of a binding; what has to be bumped is the rules' families.
    fn replace_binding(&mut self, change: Replacement<Binding>) -> Vec<Tag> {
        let current = change.current(|id| self.bindings.get(&id).copied());
        if change.is_idle(&current) {
            return Vec::new();
        }
        let rules = change.versions(&current).filter_map(|binding| self.rules.get(&binding.rule));
        let families = rules.map(|rule| rule.template.whole_family()).collect();
        if let Some((id, _)) = change.old {
            self.unbind(id);
        }
        if let Some((id, binding)) = change.new {
            self.bind(id, binding);
        }
        families
    }

    fn bind(&mut self, id: i64, binding: Binding) {
        self.unbind(id);
        self.bindings.insert(id, binding);
        self.bound.entry(binding.relation).or_default().push(id);
    }

    fn unbind(&mut self, id: i64) {
        let Some(binding) = self.bindings.remove(&id) else { return };
        if let Some(bindings) = self.bound.get_mut(&binding.relation) {
            bindings.retain(|bound| *bound != id);
            if bindings.is_empty() {
                self.bound.remove(&binding.relation);
            }
        }
    }
}

/// Applies the change of a dependency; what has to be bumped, with all that follows, is the child.
fn replace_dependency(graph: &mut Graph, change: Replacement<Dependency>) -> Vec<Tag> {
    let current = change.current(|id| graph.get(id));
    if change.is_idle(&current) {
        return Vec::new();
    }
    let children = change.versions(&current).map(|dependency| dependency.child.clone()).collect();
    if let Some((id, _)) = change.old {
        graph.remove(id);
    }
    if let Some((id, dependency)) = &change.new {
        graph.insert(*id, dependency);
    }
    children
}

impl<T: PartialEq> Replacement<T> {
    /// What the memory holds under the ids of this change.
    fn current(&self, get: impl Fn(i64) -> Option<T>) -> Vec<T> {
        let old = self.old.as_ref().map(|(id, _)| *id);
        let new = self.new.as_ref().map(|(id, _)| *id).filter(|new| old != Some(*new));
        old.into_iter().chain(new).filter_map(get).collect()
    }

    /// Whether the row says what it said before, and the memory too. Only then nothing needs to be bumped.
    fn is_idle(&self, current: &[T]) -> bool {
        match (&self.old, &self.new) {
            (Some(old), Some(new)) => old == new && matches!(current, [current] if *current == new.1),
            _ => false,
        }
    }

    fn versions<'a>(&'a self, current: &'a [T]) -> impl Iterator<Item = &'a T> {
        self.old.iter().chain(&self.new).map(|(_, row)| row).chain(current)
    }
}
