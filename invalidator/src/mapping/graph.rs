//! The dependency graph: when a parent tag changes, its children do.
//!
//! Changed tags are planted as seeds while a transaction is read; [`Graph::close`] then walks from all of them at once. So a
//! transaction costs at most one walk over the graph, however many of its rows lead to the same edges.

use std::collections::HashMap;

use cachetag_core::Tag;

use super::operation::{Marks, Operations};
use super::scope::Scope;

/// An edge, as a row of `cachetag.dependency` describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dependency {
    /// The tag whose change fires the edge; `family:*` is fired by any tag of the family, `*` by any tag at all.
    pub parent: Tag,
    /// The tag that changes with it.
    pub child: Tag,
    /// Whether the child, and whatever follows from it, is only bumped softly.
    pub soft: bool,
    /// The edge is followed while its parent is nearer to the changed tag than this (the changed tag itself is at 0). No limit:
    /// `u32::MAX`.
    pub max_depth: u32,
    /// The causes that it listens to.
    pub operations: Operations,
}

/// A walk that was given up: more edges than allowed. The caller bumps everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TooWide {
    /// Whether every change that led into the graph was soft.
    pub(super) soft: bool,
}

type NodeId = u32;

/// All edges, with the state of the walk of the current transaction.
#[derive(Debug, Default)]
pub(super) struct Graph {
    nodes: Vec<Node>,
    /// Numbers of nodes that are not in use.
    free: Vec<NodeId>,
    by_tag: HashMap<Tag, NodeId>,
    /// The nodes that have edges, by family.
    parents: HashMap<Box<str>, Parents>,
    /// Dependency id → where its edge is.
    edges: HashMap<i64, Place>,
    /// Nodes whose `seeds` may be set.
    seeded: Vec<NodeId>,
}

#[derive(Debug)]
struct Node {
    tag: Tag,
    out: Vec<Edge>,
    /// Edges that lead here.
    incoming: usize,
    /// Position in its family's list of parents.
    place: usize,
    /// Changes of this transaction that fire this node's edges.
    seeds: Marks,
    /// During a walk: what has fired this node's edges.
    fired: Marks,
    /// During a walk: how this tag was reached as a child.
    reached: Marks,
}

#[derive(Debug)]
struct Edge {
    id: i64,
    child: NodeId,
    soft: bool,
    max_depth: u32,
    operations: Operations,
}

#[derive(Debug, Default)]
struct Parents {
    nodes: Vec<NodeId>,
    /// The one of them that is `family:*`.
    whole: Option<NodeId>,
}

#[derive(Debug, Clone, Copy)]
struct Place {
    parent: NodeId,
    index: usize,
}

impl Graph {
    /// Puts an edge in the place of the one with the same id, if any.
    pub(super) fn insert(&mut self, id: i64, dependency: &Dependency) {
        self.remove(id);
        let parent = self.node(&dependency.parent);
        let child = self.node(&dependency.child);
        self.nodes[child as usize].incoming += 1;
        let out = &mut self.nodes[parent as usize].out;
        self.edges.insert(id, Place { parent, index: out.len() });
        out.push(Edge {
            id,
            child,
            soft: dependency.soft,
            max_depth: dependency.max_depth,
            operations: dependency.operations,
        });
        if out.len() == 1 {
            self.list_parent(parent);
        }
    }

    /// Takes an edge out; nothing happens if there is none with this id.
    pub(super) fn remove(&mut self, id: i64) {
        let Some(Place { parent, index }) = self.edges.remove(&id) else { return };
        let out = &mut self.nodes[parent as usize].out;
        let edge = out.swap_remove(index);
        let is_empty = out.is_empty();
        if let Some(moved) = out.get(index)
            && let Some(place) = self.edges.get_mut(&moved.id)
        {
            place.index = index;
        }
        if is_empty {
            self.unlist_parent(parent);
        }
        self.nodes[edge.child as usize].incoming -= 1;
        self.release(edge.child);
        self.release(parent);
    }

    /// Notes that a tag has changed. Constant time, except for `family:*`, which stands for every parent of its family.
    pub(super) fn seed(&mut self, tag: &str, marks: Marks) {
        if self.edges.is_empty() {
            return;
        }
        let Self { nodes, by_tag, parents, seeded, .. } = self;
        for_each_fired(by_tag, parents, tag, |node| {
            let seeds = &mut nodes[node as usize].seeds;
            if seeds.is_empty() {
                seeded.push(node);
            }
            seeds.add(marks);
        });
    }

    /// The edge with this id.
    pub(super) fn get(&self, id: i64) -> Option<Dependency> {
        let place = self.edges.get(&id)?;
        let parent = &self.nodes[place.parent as usize];
        let edge = &parent.out[place.index];
        Some(Dependency {
            parent: parent.tag.clone(),
            child: self.nodes[edge.child as usize].tag.clone(),
            soft: edge.soft,
            max_depth: edge.max_depth,
            operations: edge.operations,
        })
    }

    /// Forgets the seeds.
    pub(super) fn discard(&mut self) {
        for node in self.seeded.drain(..) {
            self.nodes[node as usize].seeds = Marks::NONE;
        }
    }

    /// Walks from the seeds and gives every tag that changes with them to `emit`, some of them more than once. The seeds are
    /// gone afterwards.
    ///
    /// Breadth first, so that a node is met at its least distance first; what comes later with no new mark can lead
    /// nowhere new, and cycles end.
    pub(super) fn close(&mut self, max_edges: usize, mut emit: impl FnMut(&Tag, Marks)) -> Result<(), TooWide> {
        if self.seeded.is_empty() {
            return Ok(());
        }
        let mut frontier = Vec::with_capacity(self.seeded.len());
        let mut soft = true;
        for node in std::mem::take(&mut self.seeded) {
            // A node that was given up since it was seeded has no edges, one that was seeded again is listed twice.
            let seeds = std::mem::take(&mut self.nodes[node as usize].seeds);
            if !seeds.is_empty() {
                soft &= !seeds.is_hard();
                self.nodes[node as usize].fired = seeds;
                frontier.push((node, seeds));
            }
        }
        let mut touched: Vec<NodeId> = frontier.iter().map(|(node, _)| *node).collect();
        let walked = self.walk(frontier, max_edges, &mut touched, &mut emit);
        for node in touched {
            let node = &mut self.nodes[node as usize];
            (node.fired, node.reached) = (Marks::NONE, Marks::NONE);
        }
        if walked { Ok(()) } else { Err(TooWide { soft }) }
    }

    /// Whether the walk came to its end.
    fn walk(
        &mut self,
        mut frontier: Vec<(NodeId, Marks)>,
        max_edges: usize,
        touched: &mut Vec<NodeId>,
        emit: &mut impl FnMut(&Tag, Marks),
    ) -> bool {
        let Self { nodes, by_tag, parents, .. } = self;
        let mut edges_left = max_edges;
        let mut distance = 0;
        let (mut reached, mut fired) = (Vec::new(), Vec::new());
        while !frontier.is_empty() {
            for (parent, marks) in frontier.drain(..) {
                let out = std::mem::take(&mut nodes[parent as usize].out);
                let within = edges_left >= out.len();
                edges_left = edges_left.saturating_sub(out.len());
                for edge in out.iter().filter(|edge| within && distance < edge.max_depth) {
                    let marks = marks.caused_by(edge.operations);
                    let marks = if edge.soft { marks.softened() } else { marks };
                    let child = &mut nodes[edge.child as usize];
                    let new = child.reached.add(marks);
                    if !new.is_empty() {
                        touched.push(edge.child);
                        reached.push((edge.child, new));
                        emit(&child.tag, new);
                    }
                }
                nodes[parent as usize].out = out;
                if !within {
                    return false;
                }
            }
            for (child, marks) in reached.drain(..) {
                for_each_fired(by_tag, parents, nodes[child as usize].tag.as_str(), |node| fired.push(node));
                for node in fired.drain(..) {
                    let new = nodes[node as usize].fired.add(marks);
                    if !new.is_empty() {
                        touched.push(node);
                        frontier.push((node, new));
                    }
                }
            }
            distance += 1;
        }
        true
    }

    fn node(&mut self, tag: &Tag) -> NodeId {
        if let Some(&node) = self.by_tag.get(tag) {
            return node;
        }
        let fresh = Node {
            tag: tag.clone(),
            out: Vec::new(),
            incoming: 0,
            place: 0,
            seeds: Marks::NONE,
            fired: Marks::NONE,
            reached: Marks::NONE,
        };
        let id = match self.free.pop() {
            Some(id) => {
                self.nodes[id as usize] = fresh;
                id
            }
            None => {
                self.nodes.push(fresh);
                (self.nodes.len() - 1) as NodeId
            }
        };
        self.by_tag.insert(tag.clone(), id);
        id
    }

    /// Gives a node up that no edge uses any more.
    fn release(&mut self, id: NodeId) {
        let node = &mut self.nodes[id as usize];
        if node.incoming > 0 || !node.out.is_empty() || self.by_tag.remove(&node.tag).is_none() {
            return;
        }
        self.free.push(id);
    }

    fn list_parent(&mut self, id: NodeId) {
        let node = &mut self.nodes[id as usize];
        let parents = self.parents.entry(node.tag.family().into()).or_default();
        node.place = parents.nodes.len();
        parents.nodes.push(id);
        if node.tag.is_whole_family() || node.tag.is_everything() {
            parents.whole = Some(id);
        }
    }

    fn unlist_parent(&mut self, id: NodeId) {
        let node = &self.nodes[id as usize];
        let Some(parents) = self.parents.get_mut(node.tag.family()) else { return };
        parents.nodes.swap_remove(node.place);
        if parents.whole == Some(id) {
            parents.whole = None;
        }
        if parents.nodes.is_empty() {
            self.parents.remove(node.tag.family());
        } else if let Some(&moved) = parents.nodes.get(node.place) {
            self.nodes[moved as usize].place = self.nodes[id as usize].place;
        }
    }
}

/// The nodes whose edges a change of `tag` fires. `*` covers everything by itself and fires nothing.
fn for_each_fired(
    by_tag: &HashMap<Tag, NodeId>,
    parents: &HashMap<Box<str>, Parents>,
    tag: &str,
    mut fire: impl FnMut(NodeId),
) {
    let scope = Scope::of(tag);
    let (Scope::Family(family) | Scope::Member(family)) = scope else { return };
    if let Some(everything) = parents.get("*") {
        everything.nodes.iter().copied().for_each(&mut fire);
    }
    let Some(relatives) = parents.get(family) else { return };
    match scope {
        Scope::Family(_) => relatives.nodes.iter().copied().for_each(fire),
        _ => {
            relatives.whole.into_iter().for_each(&mut fire);
            by_tag.get(tag).copied().into_iter().for_each(fire);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;

    use super::*;

    const UPDATE: Operations = Operations::UPDATE;

    fn dependency(parent: &str, child: &str) -> Dependency {
        Dependency {
            parent: Tag::parse(parent).unwrap(),
            child: Tag::parse(child).unwrap(),
            soft: false,
            max_depth: u32::MAX,
            operations: Operations::ALL,
        }
    }

    fn graph(edges: &[Dependency]) -> Graph {
        let mut graph = Graph::default();
        for (id, edge) in (1..).zip(edges) {
            graph.insert(id, edge);
        }
        graph
    }

    /// Tag → whether it was reached hard.
    fn close(graph: &mut Graph, max_edges: usize) -> Result<BTreeMap<String, bool>, TooWide> {
        let mut reached = BTreeMap::new();
        graph.close(max_edges, |tag, marks| *reached.entry(tag.to_string()).or_insert(false) |= marks.is_hard())?;
        assert!(graph.nodes.iter().all(|n| n.seeds.is_empty() && n.fired.is_empty() && n.reached.is_empty()));
        Ok(reached)
    }

    fn closure(graph: &mut Graph, tag: &str, cause: Operations, soft: bool) -> BTreeMap<String, bool> {
        graph.seed(tag, Marks::new(cause, soft));
        close(graph, usize::MAX).unwrap()
    }

    fn names(reached: &BTreeMap<String, bool>) -> Vec<&str> {
        reached.keys().map(String::as_str).collect()
    }

    #[test]
    fn children_follow_their_parents() {
        let mut graph = graph(&[dependency("p:1", "c:1"), dependency("c:1", "home"), dependency("p:2", "other")]);
        assert_eq!(names(&closure(&mut graph, "p:1", UPDATE, false)), ["c:1", "home"]);
        assert_eq!(names(&closure(&mut graph, "home", UPDATE, false)), [""; 0]);
        assert_eq!(names(&closure(&mut graph, "x:1", UPDATE, false)), [""; 0]);
    }

    #[test]
    fn families_fire_and_are_fired_as_a_whole() {
        let mut graph = graph(&[
            dependency("p:1", "one"),
            dependency("p:*", "any"),
            dependency("p", "bare"),
            dependency("q:7", "p:*"),
        ]);
        assert_eq!(names(&closure(&mut graph, "p:9", UPDATE, false)), ["any"]);
        assert_eq!(names(&closure(&mut graph, "p:1", UPDATE, false)), ["any", "one"]);
        assert_eq!(names(&closure(&mut graph, "p:*", UPDATE, false)), ["any", "bare", "one"]);
        assert_eq!(names(&closure(&mut graph, "q:7", UPDATE, false)), ["any", "bare", "one", "p:*"]);
        assert_eq!(names(&closure(&mut graph, "q:*", UPDATE, false)), ["any", "bare", "one", "p:*"]);
    }

    #[test]
    fn everything_fires_nothing_and_is_fired_by_all() {
        let mut graph = graph(&[dependency("p:1", "*"), dependency("q:1", "one"), dependency("*", "audit")]);
        assert_eq!(names(&closure(&mut graph, "p:1", UPDATE, false)), ["*", "audit"]);
        assert_eq!(names(&closure(&mut graph, "z", UPDATE, false)), ["audit"]);
        assert_eq!(names(&closure(&mut graph, "*", UPDATE, false)), [""; 0]);
    }

    #[test]
    fn an_edge_is_followed_up_to_its_depth() {
        let deep = |parent, child, max_depth| Dependency { max_depth, ..dependency(parent, child) };
        let mut graph = graph(&[deep("a", "b", 1), deep("b", "c", 1), deep("b", "d", 2), deep("d", "e", 2)]);
        assert_eq!(names(&closure(&mut graph, "a", UPDATE, false)), ["b", "d"]);
        assert_eq!(names(&closure(&mut graph, "b", UPDATE, false)), ["c", "d", "e"]);
    }

    #[test]
    fn soft_edges_and_soft_causes_stay_soft_and_hard_wins() {
        let soft = |parent, child| Dependency { soft: true, ..dependency(parent, child) };
        let mut graph = graph(&[
            soft("a", "b"),
            dependency("b", "c"),
            dependency("a", "x"),
            dependency("x", "c"),
            dependency("b", "d"),
        ]);
        let reached = closure(&mut graph, "a", UPDATE, false);
        assert_eq!(
            reached,
            [("b", false), ("c", true), ("d", false), ("x", true)].map(|(t, h)| (t.to_owned(), h)).into()
        );
        assert!(closure(&mut graph, "a", UPDATE, true).values().all(|hard| !hard));
    }

    #[test]
    fn an_edge_listens_to_its_operations() {
        let edge = Dependency { operations: Operations::INSERT | Operations::DELETE, ..dependency("a", "b") };
        let mut graph = graph(&[edge, dependency("b", "c")]);
        assert_eq!(names(&closure(&mut graph, "a", Operations::DELETE, false)), ["b", "c"]);
        assert_eq!(names(&closure(&mut graph, "a", UPDATE, false)), [""; 0]);
        assert_eq!(names(&closure(&mut graph, "a", UPDATE | Operations::INSERT, false)), ["b", "c"]);
    }

    #[test]
    fn cycles_end() {
        let mut graph = graph(&[dependency("a", "b"), dependency("b", "a"), dependency("c", "c")]);
        assert_eq!(names(&closure(&mut graph, "a", UPDATE, false)), ["a", "b"]);
        assert_eq!(names(&closure(&mut graph, "c", UPDATE, false)), ["c"]);
    }

    #[test]
    fn a_walk_has_a_limit() {
        let edges: Vec<_> = (0..10).map(|n| dependency("a", &format!("c:{n}"))).collect();
        let mut graph = graph(&edges);
        graph.seed("a", Marks::new(UPDATE, true));
        assert_eq!(close(&mut graph, 10).unwrap().len(), 10);
        graph.seed("a", Marks::new(UPDATE, true));
        assert_eq!(graph.close(9, |_, _| ()), Err(TooWide { soft: true }));
        graph.seed("a", Marks::new(UPDATE, false));
        assert_eq!(graph.close(9, |_, _| ()), Err(TooWide { soft: false }));
        assert_eq!(close(&mut graph, 9), Ok(BTreeMap::new()), "the seeds are gone");
    }

    #[test]
    fn discarded_seeds_fire_nothing() {
        let mut graph = graph(&[dependency("a", "b")]);
        graph.seed("a", Marks::new(UPDATE, false));
        graph.discard();
        assert_eq!(close(&mut graph, 9), Ok(BTreeMap::new()));
    }

    #[test]
    fn edges_are_replaced_and_removed_without_a_trace() {
        let mut graph =
            graph(&[dependency("a", "b"), dependency("a", "c"), dependency("a", "d"), dependency("a:*", "e")]);
        graph.remove(1);
        graph.remove(1);
        graph.insert(2, &dependency("x", "a"));
        assert_eq!(graph.get(2), Some(dependency("x", "a")));
        assert_eq!(names(&closure(&mut graph, "x", UPDATE, false)), ["a", "d", "e"]);
        for id in 2..5 {
            graph.remove(id);
        }
        assert_eq!(graph.get(2), None);
        assert!(graph.edges.is_empty() && graph.by_tag.is_empty() && graph.parents.is_empty());
        assert_eq!(graph.free.len(), graph.nodes.len());
        graph.insert(9, &dependency("p", "q"));
        assert_eq!(names(&closure(&mut graph, "p", UPDATE, false)), ["q"]);
    }

    #[test]
    fn a_node_that_is_used_again_does_not_inherit_seeds() {
        let mut graph = graph(&[dependency("a", "b")]);
        graph.seed("a", Marks::new(UPDATE, false));
        graph.remove(1);
        graph.insert(2, &dependency("b", "a"));
        graph.insert(3, &dependency("z", "y"));
        assert_eq!(close(&mut graph, 9), Ok(BTreeMap::new()));
    }

    /// The definition, state by state: (tag, distance, soft), one cause at a time, edges looked for by reading all of them.
    fn oracle(edges: &BTreeMap<i64, Dependency>, seeds: &[(Tag, Operations, bool)]) -> BTreeMap<String, bool> {
        let fires = |changed: &Tag, parent: &Tag| {
            !changed.is_everything()
                && (changed == parent
                    || parent.is_everything()
                    || ((changed.is_whole_family() || parent.is_whole_family()) && changed.family() == parent.family()))
        };
        let mut reached = BTreeMap::new();
        for cause in [Operations::INSERT, Operations::UPDATE, Operations::DELETE, Operations::TRUNCATE] {
            let start = seeds.iter().filter(|seed| seed.1.intersects(cause));
            let mut open: Vec<(Tag, u32, bool)> = start.map(|(tag, _, soft)| (tag.clone(), 0, *soft)).collect();
            let mut seen: BTreeSet<_> = open.iter().cloned().collect();
            while let Some((tag, distance, soft)) = open.pop() {
                for edge in edges.values() {
                    let follows =
                        fires(&tag, &edge.parent) && distance < edge.max_depth && edge.operations.intersects(cause);
                    // No simple path is longer than the number of edges.
                    if follows && distance as usize <= edges.len() {
                        let next = (edge.child.clone(), distance + 1, soft || edge.soft);
                        *reached.entry(next.0.to_string()).or_insert(false) |= !next.2;
                        if seen.insert(next.clone()) {
                            open.push(next);
                        }
                    }
                }
            }
        }
        reached
    }

    fn tag() -> impl Strategy<Value = Tag> {
        prop_oneof![
            12 => (0..3u8, 0..3u8).prop_map(|(family, n)| format!("f{family}:{n}")),
            3 => (0..3u8).prop_map(|family| format!("f{family}")),
            2 => (0..3u8).prop_map(|family| format!("f{family}:*")),
            1 => Just("*".to_owned()),
        ]
        .prop_map(|text| Tag::parse(&text).unwrap())
    }

    fn operations() -> impl Strategy<Value = Operations> {
        let some =
            [Operations::INSERT, Operations::UPDATE, Operations::INSERT | Operations::DELETE, Operations::TRUNCATE];
        prop_oneof![Just(Operations::ALL), prop::sample::select(some.to_vec())]
    }

    fn edge() -> impl Strategy<Value = Dependency> {
        let max_depth = prop_oneof![3 => Just(u32::MAX), 2 => 0..4u32];
        (tag(), tag(), any::<bool>(), max_depth, operations()).prop_map(
            |(parent, child, soft, max_depth, operations)| Dependency { parent, child, soft, max_depth, operations },
        )
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(512))]

        /// Through any history of edges, closures are those of the edges that are left.
        #[test]
        fn closures_are_those_of_the_definition(
            history in prop::collection::vec((0..12i64, prop::option::weighted(0.8, edge())), 0..25),
            seeds in prop::collection::vec((tag(), operations(), any::<bool>()), 1..4),
        ) {
            let (mut graph, mut edges) = (Graph::default(), BTreeMap::new());
            for (id, edge) in history {
                match edge {
                    Some(edge) => {
                        graph.insert(id, &edge);
                        edges.insert(id, edge);
                    }
                    None => {
                        graph.remove(id);
                        edges.remove(&id);
                    }
                }
                for id in 0..12 {
                    prop_assert_eq!(graph.get(id), edges.get(&id).cloned());
                }
            }
            for (tag, cause, soft) in &seeds {
                graph.seed(tag.as_str(), Marks::new(*cause, *soft));
            }
            prop_assert_eq!(close(&mut graph, usize::MAX).unwrap(), oracle(&edges, &seeds));
        }
    }
}
