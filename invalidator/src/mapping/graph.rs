//! Which tags depend on which, and what else changes when a tag does.

use std::collections::{HashMap, VecDeque};

use super::operation::Operations;
use super::scope::{Scope, whole_family};

/// More states than this in the wake of one tag are not followed: everything changes.
const MAX_VISITED: usize = 10_000;

/// `child` changes when `parent` does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Edge {
    pub(super) parent: Box<[u8]>,
    pub(super) child: Box<[u8]>,
    /// The child's entries may still be served while one reader refreshes them.
    pub(super) soft: bool,
    /// The edge is followed only from parents nearer than this to the tag that changed.
    pub(super) max_depth: u32,
    /// What has to happen to the tag that changed for the edge to be followed.
    pub(super) operations: Operations,
}

/// The edges by id, and by what sets them off.
#[derive(Debug, Default)]
pub(super) struct Graph {
    edges: HashMap<i64, Edge>,
    /// Ids by the parent's text; `family:*` is a parent like any other here.
    by_parent: HashMap<Box<[u8]>, Vec<i64>>,
    /// Ids by the parent's family: what a bump of the whole family sets off.
    by_family: HashMap<Box<[u8]>, Vec<i64>>,
}

/// The wake of a tag is larger than what is worth following.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TooWide;

impl Graph {
    pub(super) fn len(&self) -> usize {
        self.edges.len()
    }

    /// Adds or replaces an edge; returns the one that was there.
    pub(super) fn put(&mut self, id: i64, edge: Edge) -> Option<Edge> {
        let old = self.remove(id);
        push(&mut self.by_parent, &edge.parent, id);
        if let Some(family) = family(&edge.parent) {
            push(&mut self.by_family, family, id);
        }
        self.edges.insert(id, edge);
        old
    }

    /// Removes an edge.
    pub(super) fn remove(&mut self, id: i64) -> Option<Edge> {
        let edge = self.edges.remove(&id)?;
        drop_from(&mut self.by_parent, &edge.parent, id);
        if let Some(family) = family(&edge.parent) {
            drop_from(&mut self.by_family, family, id);
        }
        Some(edge)
    }

    /// Does any edge start at this tag? No allocation but for a member whose family has edges.
    pub(super) fn concerns(&self, tag: &[u8]) -> bool {
        if self.edges.is_empty() {
            return false;
        }
        family(tag).is_some_and(|family| self.by_family.contains_key(family))
    }

    /// Calls `visit` for every tag that depends on `tag`, with whether it changes softly; for the same tag softly first and hard later,
    /// if a longer way is the harder one. `tag` itself is not visited.
    pub(super) fn wake(
        &self,
        tag: &[u8],
        cause: Operations,
        soft: bool,
        mut visit: impl FnMut(&[u8], bool),
    ) -> Result<(), TooWide> {
        // Breadth first: the first visit of a state is the one nearest to the changed tag, from where the most edges are within depth.
        let mut seen: HashMap<&[u8], bool> = HashMap::from([(tag, soft)]);
        let mut queue: VecDeque<(&[u8], bool, u32)> = VecDeque::from([(tag, soft, 0)]);
        while let Some((parent, parent_soft, depth)) = queue.pop_front() {
            for id in self.fired_by(parent) {
                let Some(edge) = self.edges.get(&id) else { continue };
                if depth >= edge.max_depth || !edge.operations.intersects(cause) {
                    continue;
                }
                let soft = parent_soft || edge.soft;
                let child: &[u8] = &edge.child;
                match seen.get(child) {
                    // Hard was there before, and no farther away.
                    Some(false) => continue,
                    Some(true) if soft => continue,
                    _ => {}
                }
                seen.insert(child, soft);
                if seen.len() > MAX_VISITED {
                    return Err(TooWide);
                }
                visit(child, soft);
                queue.push_back((child, soft, depth + 1));
            }
        }
        Ok(())
    }

    /// The edges that a change of `tag` sets off.
    fn fired_by(&self, tag: &[u8]) -> impl Iterator<Item = i64> {
        let (own, family) = match Scope::of(tag) {
            // A bump of everything covers whatever depends on it.
            Scope::Everything => (None, None),
            Scope::Family(family) => (None, self.by_family.get(family)),
            Scope::Member(family) => (self.by_parent.get(tag), self.by_parent.get(&whole_family(family))),
        };
        own.into_iter().chain(family).flatten().copied()
    }
}

fn family(tag: &[u8]) -> Option<&[u8]> {
    match Scope::of(tag) {
        Scope::Everything => None,
        Scope::Family(family) | Scope::Member(family) => Some(family),
    }
}

fn push(index: &mut HashMap<Box<[u8]>, Vec<i64>>, key: &[u8], id: i64) {
    index.entry(key.into()).or_default().push(id);
}

fn drop_from(index: &mut HashMap<Box<[u8]>, Vec<i64>>, key: &[u8], id: i64) {
    if let Some(ids) = index.get_mut(key) {
        ids.retain(|&other| other != id);
        if ids.is_empty() {
            index.remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::{BTreeMap, BTreeSet};

    fn edge(parent: &str, child: &str) -> Edge {
        Edge {
            parent: parent.as_bytes().into(),
            child: child.as_bytes().into(),
            soft: false,
            max_depth: 16,
            operations: Operations::ALL,
        }
    }

    fn graph(edges: impl IntoIterator<Item = Edge>) -> Graph {
        let mut graph = Graph::default();
        for (id, edge) in edges.into_iter().enumerate() {
            graph.put(id as i64, edge);
        }
        graph
    }

    /// Tag → soft, as the sink would see it: hard wins.
    fn wake(graph: &Graph, tag: &str, cause: Operations, soft: bool) -> BTreeMap<String, bool> {
        let mut found = BTreeMap::new();
        graph
            .wake(tag.as_bytes(), cause, soft, |child, soft| {
                let known = found.entry(String::from_utf8(child.to_vec()).unwrap()).or_insert(soft);
                *known &= soft;
            })
            .unwrap();
        found
    }

    fn hard(tags: &[&str]) -> BTreeMap<String, bool> {
        tags.iter().map(|tag| (tag.to_string(), false)).collect()
    }

    #[test]
    fn follows_edges_through_cycles() {
        let graph = graph([edge("a", "b"), edge("b", "c"), edge("c", "a")]);
        assert_eq!(wake(&graph, "a", Operations::ALL, false), hard(&["b", "c"]));
    }

    #[test]
    fn families_fire_in_both_directions() {
        let graph = graph([edge("product:*", "list"), edge("product:1", "page")]);
        assert_eq!(wake(&graph, "product:2", Operations::ALL, false), hard(&["list"]));
        assert_eq!(wake(&graph, "product:*", Operations::ALL, false), hard(&["list", "page"]));
        assert_eq!(wake(&graph, "*", Operations::ALL, false), hard(&[]));
    }

    #[test]
    fn depth_is_counted_from_the_changed_tag() {
        let mut near = edge("b", "c");
        near.max_depth = 1;
        let graph = graph([edge("a", "b"), near]);
        assert_eq!(wake(&graph, "a", Operations::ALL, false), hard(&["b"]));
        assert_eq!(wake(&graph, "b", Operations::ALL, false), hard(&["c"]));
    }

    #[test]
    fn softness_and_operations_pass_along() {
        let soft = Edge { soft: true, ..edge("a", "b") };
        let inserts = Edge { operations: Operations::INSERT, ..edge("b", "c") };
        let graph = graph([soft, inserts]);
        let expected: BTreeMap<String, bool> = [("b".to_string(), true), ("c".to_string(), true)].into();
        assert_eq!(wake(&graph, "a", Operations::INSERT, false), expected);
        assert_eq!(wake(&graph, "a", Operations::UPDATE, false).len(), 1);
    }

    #[test]
    fn a_longer_way_may_be_the_harder_one() {
        let soft = Edge { soft: true, ..edge("a", "c") };
        let graph = graph([soft, edge("a", "b"), edge("b", "c"), edge("c", "d")]);
        assert_eq!(wake(&graph, "a", Operations::ALL, false), hard(&["b", "c", "d"]));
    }

    #[test]
    fn a_removed_edge_is_gone() {
        let mut graph = graph([edge("a", "b"), edge("a", "c")]);
        assert!(graph.concerns(b"a"));
        graph.remove(0);
        assert_eq!(wake(&graph, "a", Operations::ALL, false), hard(&["c"]));
        graph.remove(1);
        assert!(!graph.concerns(b"a"));
    }

    #[test]
    fn what_is_too_wide_is_told() {
        let graph = graph((0..=MAX_VISITED).map(|i| edge("a", &format!("b:{i}"))));
        assert_eq!(graph.wake(b"a", Operations::ALL, false, |_, _| ()), Err(TooWide));
    }

    /// Every path within the depths, one by one.
    fn oracle(edges: &[Edge], tag: &str, cause: Operations) -> BTreeMap<String, bool> {
        let mut states: BTreeSet<(String, bool, u32)> = [(tag.to_string(), false, 0)].into();
        loop {
            let mut next = states.clone();
            for (parent, soft, depth) in &states {
                for edge in edges {
                    let edge_parent = std::str::from_utf8(&edge.parent).unwrap();
                    let fires = match parent.strip_suffix(":*") {
                        Some(family) => edge_parent.split(':').next() == Some(family),
                        None => {
                            edge_parent == parent || edge_parent == format!("{}:*", parent.split(':').next().unwrap())
                        }
                    };
                    if fires && *depth < edge.max_depth && edge.operations.intersects(cause) {
                        let child = String::from_utf8(edge.child.to_vec()).unwrap();
                        next.insert((child, *soft || edge.soft, depth + 1));
                    }
                }
            }
            if next == states {
                break;
            }
            states = next;
        }
        let mut found = BTreeMap::new();
        for (child, soft, depth) in states {
            if depth > 0 && child != tag {
                let known = found.entry(child).or_insert(soft);
                *known &= soft;
            }
        }
        found
    }

    fn any_edge() -> impl Strategy<Value = Edge> {
        let tag = || prop::sample::select(vec!["a", "b", "f:1", "f:2", "f:*", "g:1", "g:*", "h"]);
        (tag(), tag(), any::<bool>(), 0u32..4, prop::sample::select(vec![Operations::ALL, Operations::INSERT]))
            .prop_map(|(parent, child, soft, max_depth, operations)| Edge {
                soft,
                max_depth,
                operations,
                ..edge(parent, child)
            })
    }

    proptest! {
        #[test]
        fn agrees_with_the_oracle(edges in prop::collection::vec(any_edge(), 0..12), insert in any::<bool>()) {
            let cause = if insert { Operations::INSERT } else { Operations::UPDATE };
            let graph = graph(edges.clone());
            for tag in ["a", "f:1", "f:*", "h"] {
                let mut found = wake(&graph, tag, cause, false);
                found.remove(tag);
                prop_assert_eq!(found, oracle(&edges, tag, cause), "from {}", tag);
            }
        }
    }
}
