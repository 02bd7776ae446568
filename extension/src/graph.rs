//! Dependencies: what else changes when a tag does.

use std::collections::HashMap;

use cachetag_core::Tag;
use pgrx::prelude::*;

use crate::error::{Error, Result};

type Report = pg_sys::panic::ErrorReport;
type Found = TableIterator<'static, (name!(tag, String), name!(depth, i32), name!(soft, bool))>;

/// An edge of `cachetag.dependency`.
struct Edge {
    parent: String,
    child: String,
    soft: bool,
    max_depth: i32,
}

/// Which way edges are followed.
#[derive(Clone, Copy)]
enum Direction {
    Down,
    Up,
}

/// A tag on its way: how it was reached decides how far it leads.
#[derive(Clone)]
struct Step {
    tag: String,
    soft: bool,
    /// How many more edges may come before the first one of the path. Only going up needs it: there the changed tag is found last.
    slack: i32,
}

/// The best that is known of a tag and a softness.
struct Reached {
    depth: i32,
    slack: i32,
}

/// Every tag that is bumped when this one is, with its least distance; soft unless a path of hard edges leads to it.
#[pg_extern(sql = false)]
fn descendants(tag: &str, max_depth: Option<i32>) -> Result<Found, Report> {
    Ok(found(tag, max_depth, Direction::Down)?)
}

/// Every tag whose bump bumps this one, with its least distance; soft unless a path of hard edges leads from it.
#[pg_extern(sql = false)]
fn ancestors(tag: &str, max_depth: Option<i32>) -> Result<Found, Report> {
    Ok(found(tag, max_depth, Direction::Up)?)
}

fn found(tag: &str, max_depth: Option<i32>, direction: Direction) -> Result<Found> {
    let start = Tag::parse(tag)?;
    if let Some(max_depth) = max_depth.filter(|max_depth| *max_depth < 1) {
        return Err(Error::MaxDepth(max_depth));
    }
    let reached = walk(&start, max_depth.unwrap_or(i32::MAX), direction)?;
    let mut tags: HashMap<String, (i32, bool)> = HashMap::new();
    for ((tag, soft), Reached { depth, .. }) in reached {
        if tag != start.as_str() {
            let known = tags.entry(tag).or_insert((depth, soft));
            *known = (known.0.min(depth), known.1 && soft);
        }
    }
    let mut rows: Vec<(String, i32, bool)> = tags.into_iter().map(|(tag, (depth, soft))| (tag, depth, soft)).collect();
    rows.sort_unstable_by(|a, b| (a.1, &a.0).cmp(&(b.1, &b.0)));
    Ok(TableIterator::new(rows))
}

/// Breadth first, a query a level. A tag is followed again only if it was reached harder or with more slack than before, so cycles end.
fn walk(start: &Tag, max_depth: i32, direction: Direction) -> Result<HashMap<(String, bool), Reached>> {
    let mut reached: HashMap<(String, bool), Reached> = HashMap::new();
    let mut frontier = vec![Step { tag: start.as_str().to_owned(), soft: false, slack: i32::MAX }];
    for depth in 0..max_depth {
        if frontier.is_empty() {
            break;
        }
        let edges = edges(&frontier, direction)?;
        let mut next = Vec::new();
        for step in &frontier {
            for edge in edges.iter().filter(|edge| leads_on(&step.tag, edge, direction)) {
                let slack = match direction {
                    Direction::Down if depth < edge.max_depth => i32::MAX,
                    Direction::Up if step.slack > 0 => (step.slack - 1).min(edge.max_depth - 1),
                    _ => continue,
                };
                let to = match direction {
                    Direction::Down => &edge.child,
                    Direction::Up => &edge.parent,
                };
                let soft = step.soft || edge.soft;
                let known = reached.get_mut(&(to.clone(), soft));
                match known {
                    Some(known) if known.slack >= slack => continue,
                    Some(known) => known.slack = slack,
                    None => {
                        reached.insert((to.clone(), soft), Reached { depth: depth + 1, slack });
                    }
                }
                next.push(Step { tag: to.clone(), soft, slack });
            }
        }
        frontier = next;
    }
    Ok(reached)
}

/// Is the edge one that a change of `tag` sets off (down), or one that touches `tag` (up)?
fn leads_on(tag: &str, edge: &Edge, direction: Direction) -> bool {
    let (Ok(tag), Ok(end)) = (
        Tag::parse(tag),
        Tag::parse(match direction {
            Direction::Down => &edge.parent,
            Direction::Up => &edge.child,
        }),
    ) else {
        return false;
    };
    match direction {
        Direction::Down => tag.reaches(&end),
        Direction::Up => end.reaches(&tag),
    }
}

/// The edges that may lead on from these tags: those of the tags themselves, of `family:*` and of `*`, and of all members where a whole family changes.
fn edges(frontier: &[Step], direction: Direction) -> Result<Vec<Edge>> {
    const DOWN: &str = "SELECT parent, child, soft, max_depth FROM cachetag.dependency \
         WHERE parent OPERATOR(pg_catalog.=) ANY ($1) OR pg_catalog.split_part(parent, ':', 1) OPERATOR(pg_catalog.=) ANY ($2) OR $3";
    const UP: &str = "SELECT parent, child, soft, max_depth FROM cachetag.dependency \
         WHERE child OPERATOR(pg_catalog.=) ANY ($1) OR pg_catalog.split_part(child, ':', 1) OPERATOR(pg_catalog.=) ANY ($2) OR $3";
    let mut tags = vec!["*".to_owned()];
    let mut families = Vec::new();
    let mut everything = false;
    for step in frontier {
        let tag = Tag::parse(&step.tag)?;
        everything |= tag.is_everything();
        if tag.is_whole_family() {
            families.push(tag.family().to_owned());
        }
        tags.push(tag.whole_family().into());
        tags.push(tag.into());
    }
    let query = match direction {
        Direction::Down => DOWN,
        Direction::Up => UP,
    };
    Spi::connect(|client| {
        let rows = client.select(query, None, &[tags.into(), families.into(), everything.into()])?;
        rows.map(|row| {
            Ok(Edge {
                parent: row.get(1)?.unwrap_or_default(),
                child: row.get(2)?.unwrap_or_default(),
                soft: row.get(3)?.unwrap_or_default(),
                max_depth: row.get(4)?.unwrap_or_default(),
            })
        })
        .collect()
    })
}
