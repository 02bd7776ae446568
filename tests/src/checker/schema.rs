//! Random tables, rules and dependencies, and the queries whose results are cached.

use super::history::RowState;
use super::table::{Shape, Table};
use crate::random::Random;

pub use super::table::Part;

/// Keys of every table.
pub const KEYS: usize = 20;
/// Groups of every table.
pub const GROUPS: usize = 6;

/// A query whose result is cached.
#[derive(Debug)]
pub struct Object {
    /// The cache key.
    pub key: String,
    /// What it reads: number of the table, and the part.
    pub sources: Vec<(usize, Part)>,
    /// The tags that a filler knows beforehand.
    pub tags: Vec<String>,
    /// One row: the value.
    pub query: String,
    /// One row: the value, and the tags that the extension computes, between line feeds; empty if the result is.
    pub tagged_query: Option<String>,
}

/// The edges that lead to the tag of an object.
#[derive(Debug)]
pub struct Dependency {
    /// Number of the object.
    pub object: usize,
    /// Each as the child and the statement that makes it (again).
    pub edges: Vec<(String, String)>,
}

/// Everything random that does not change during the run.
#[derive(Debug)]
pub struct Schema {
    /// The tables.
    pub tables: Vec<Table>,
    /// What is cached.
    pub objects: Vec<Object>,
    /// What to run once.
    pub sql: String,
    /// The dependencies of each object that has some.
    pub dependencies: Vec<Dependency>,
    /// Every tag that can occur.
    pub tags: Vec<String>,
}

impl Schema {
    /// A schema.
    pub fn random(random: &mut Random) -> Schema {
        let shapes = [Shape::Ordinary, Shape::Composite, Shape::Keyless, Shape::ByGroup, Shape::ByKey, Shape::Ordinary];
        let tables: Vec<Table> =
            shapes.iter().enumerate().map(|(number, shape)| Table::random(number, *shape, random)).collect();
        let mut sql: String = tables.iter().map(|table| table.create() + &table.track()).collect();
        let mut objects = Vec::new();
        let mut dependencies = Vec::new();
        for (number, table) in tables.iter().enumerate() {
            let rows = (0..KEYS).map(Part::Row);
            let groups = (0..GROUPS).map(Part::Group);
            let special = (0..GROUPS).map(Part::Special);
            for part in rows.chain(groups).chain(special).chain([Part::Whole]) {
                let key = format!("o{}", objects.len());
                objects.push(Object::new(key, &tables, vec![(number, part)], vec![table.tag(part)]));
            }
        }
        for number in 0..16 {
            let sources: Vec<(usize, Part)> = (0..1 + random.below(3))
                .map(|_| {
                    let part = match random.below(5) {
                        0 | 1 => Part::Row(random.below(KEYS)),
                        2 => Part::Group(random.below(GROUPS)),
                        3 => Part::Special(random.below(GROUPS)),
                        _ => Part::Whole,
                    };
                    (random.below(tables.len()), part)
                })
                .collect();
            let tag = format!("dep:{number}");
            let mut edges = Vec::new();
            for (index, (table, part)) in sources.iter().enumerate() {
                let mut parent = tables[*table].tag(*part);
                for step in 0..random.below(3) {
                    let middle = format!("middle:{number}:{index}:{step}");
                    edges.push((middle.clone(), depend(&middle, &parent)));
                    parent = middle;
                }
                edges.push((tag.clone(), depend(&tag, &parent)));
            }
            if random.percent(30) {
                // A cycle does no harm.
                let middle = format!("middle:{number}:0:0");
                edges.push((middle.clone(), depend(&middle, &tag)));
            }
            let key = format!("o{}", objects.len());
            sql.extend(edges.iter().map(|(_, sql)| sql.as_str()));
            dependencies.push(Dependency { object: objects.len(), edges });
            objects.push(Object::new(key, &tables, sources, vec![tag]));
        }
        let mut tags: Vec<String> = objects.iter().flat_map(|object| object.tags.clone()).collect();
        tags.sort_unstable();
        tags.dedup();
        Schema { tables, objects, sql, dependencies, tags }
    }

    /// The object that is one row.
    pub fn row_object(&self, table: usize, key: usize) -> usize {
        self.object_of(table, Part::Row(key))
    }

    /// The object that is this part of a table and nothing else.
    pub fn object_of(&self, table: usize, part: Part) -> usize {
        let first = table * (KEYS + 2 * GROUPS + 1);
        match part {
            Part::Row(key) => first + key,
            Part::Group(group) => first + KEYS + group,
            Part::Special(group) => first + KEYS + GROUPS + group,
            Part::Whole => first + KEYS + 2 * GROUPS,
        }
    }
}

/// The rows of one source of a value, ascending by key.
pub fn rows_of(text: &str) -> Option<Vec<(usize, RowState)>> {
    if text.is_empty() {
        return Some(Vec::new());
    }
    let row = |row: &str| {
        let mut numbers = row.split('/').map(str::parse::<u64>);
        let mut next = || numbers.next()?.ok();
        let (key, group, version) = (next()?, next()?, next()?);
        (key < KEYS as u64 && group < GROUPS as u64)
            .then_some((key as usize, RowState { group: group as usize, version }))
    };
    text.split(',').map(row).collect()
}

fn depend(child: &str, parent: &str) -> String {
    format!("SELECT cachetag.depend('{child}', '{}');\n", parent.replace('\'', "''"))
}

impl Object {
    /// The rows that a value lists, for each source: `key/group/version,…`, sources separated by `|`. Nothing if that is not its form.
    pub fn rows_of(&self, value: &str) -> Option<Vec<Vec<(usize, RowState)>>> {
        let parts: Vec<_> = value.split('|').map(rows_of).collect::<Option<_>>()?;
        (parts.len() == self.sources.len()).then_some(parts)
    }

    /// Whether it is one row, which may not be there.
    pub fn is_row(&self) -> bool {
        matches!(self.sources[..], [(_, Part::Row(_))])
    }

    /// Whether it is made of a table.
    pub fn is_of(&self, table: usize) -> bool {
        self.sources.iter().any(|(source, _)| *source == table)
    }

    fn new(key: String, tables: &[Table], sources: Vec<(usize, Part)>, tags: Vec<String>) -> Object {
        const VALUE: &str = "coalesce(string_agg(ki || '/' || gi || '/' || v, ',' ORDER BY ki), '')";
        let subqueries: Vec<String> = sources
            .iter()
            .map(|(table, part)| {
                let table = &tables[*table];
                format!("(SELECT {VALUE} FROM {} WHERE {})", table.name, table.condition(*part))
            })
            .collect();
        let tagged_query = match sources[..] {
            [(table, part @ (Part::Row(_) | Part::Group(_)))] => {
                let (name, condition) = (&tables[table].name, tables[table].condition(part));
                Some(format!(
                    "SELECT {VALUE}, array_to_string(cachetag.tag_agg(cachetag.tags_of('{name}', t)), E'\\n') FROM {name} t WHERE {condition}"
                ))
            }
            _ => None,
        };
        Object { key, sources, tags, query: format!("SELECT {}", subqueries.join(" || '|' || ")), tagged_query }
    }
}
