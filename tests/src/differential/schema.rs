//! Random tables, rules and dependencies, and the queries whose results are cached.

use cachetag_core::Tag;

use super::history::RowState;
use super::random::Random;

/// Keys of every table.
pub const KEYS: usize = 20;
/// Groups of every table.
pub const GROUPS: usize = 6;

/// Types of the columns that tags are made of.
#[derive(Debug, Clone, Copy)]
enum Type {
    Int,
    Text,
    Uuid,
    Date,
}

const TYPES: [Type; 4] = [Type::Int, Type::Text, Type::Uuid, Type::Date];

impl Type {
    fn name(self) -> &'static str {
        match self {
            Type::Int => "int",
            Type::Text => "text",
            Type::Uuid => "uuid",
            Type::Date => "date",
        }
    }

    /// PostgreSQL's text of the value with this number.
    fn text(self, number: usize) -> String {
        match self {
            Type::Int => (number * 7).to_string(),
            Type::Text => format!("né {number}:%{{*}}'"),
            Type::Uuid => format!("00000000-0000-4000-8000-{number:012x}"),
            Type::Date => format!("2026-02-{:02}", number + 1),
        }
    }

    fn literal(self, number: usize) -> String {
        format!("'{}'", self.text(number).replace('\'', "''"))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shape {
    Ordinary,
    /// Two key columns.
    Composite,
    /// No primary key: the whole old row is in the log.
    Keyless,
    /// A partition for every two groups: a move between groups can be one between partitions.
    ByGroup,
    /// Partitions by key: a new key can be another partition.
    ByKey,
}

/// A table: the key as number (`ki`) and typed (`k`, or `k1`, `k2`), the group likewise (`gi`, `g`), the version (`v`), and a column that
/// no cached value shows (`w`).
#[derive(Debug)]
pub struct Table {
    /// Its name and the family of its rows' tags.
    pub name: String,
    shape: Shape,
    key: Type,
    group: Type,
    full: bool,
    /// Rows that the rule with a predicate is about.
    special: Vec<usize>,
    /// A constant tag for any change, beside the rows' family.
    constant: bool,
    /// The rules name the columns that matter.
    columns: bool,
}

/// What of a table is in a result.
#[derive(Debug, Clone, Copy)]
pub enum Part {
    /// One row.
    Row(usize),
    /// All rows of a group.
    Group(usize),
    /// Rows of a group, if the predicate holds for them.
    Special(usize),
    /// All rows.
    Whole,
}

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

/// Everything random that does not change during the run.
#[derive(Debug)]
pub struct Schema {
    /// The tables.
    pub tables: Vec<Table>,
    /// What is cached.
    pub objects: Vec<Object>,
    /// What to run once.
    pub sql: String,
    /// Every tag that can occur.
    pub tags: Vec<String>,
}

impl Table {
    fn random(number: usize, shape: Shape, random: &mut Random) -> Table {
        Table {
            name: format!("t{number}"),
            shape,
            key: *random.pick(&TYPES),
            group: *random.pick(&TYPES),
            full: shape == Shape::Keyless || random.percent(50),
            special: (0..KEYS).filter(|_| random.percent(40)).chain([0]).collect(),
            constant: random.percent(50),
            columns: random.percent(50),
        }
    }

    fn key_names(&self) -> &'static str {
        if self.shape == Shape::Composite { "k1, k2" } else { "k" }
    }

    /// The texts of the key columns.
    fn key_texts(&self, key: usize) -> Vec<String> {
        match self.shape {
            Shape::Composite => vec![(key % 5).to_string(), self.key.text(key / 5)],
            _ => vec![self.key.text(key)],
        }
    }

    fn key_literals(&self, key: usize) -> String {
        match self.shape {
            Shape::Composite => format!("{}, {}", key % 5, self.key.literal(key / 5)),
            _ => self.key.literal(key),
        }
    }

    fn create(&self) -> String {
        let Table { name, key, group, .. } = self;
        let keys = match self.shape {
            Shape::Composite => format!("k1 int, k2 {}", key.name()),
            _ => format!("k {}", key.name()),
        };
        let unique = match self.shape {
            Shape::Keyless => String::new(),
            Shape::ByGroup => ", PRIMARY KEY (k, gi)".to_owned(),
            _ => format!(", PRIMARY KEY ({})", self.key_names()),
        };
        let partition = match self.shape {
            Shape::ByGroup => " PARTITION BY LIST (gi)",
            Shape::ByKey => " PARTITION BY HASH (k)",
            _ => "",
        };
        let columns = format!("{keys}, ki int, g {} NOT NULL, gi int, v bigint, w int DEFAULT 0{unique}", group.name());
        let mut sql = format!("CREATE TABLE {name} ({columns}){partition};\n");
        for part in 0..3 {
            let bounds = match self.shape {
                Shape::ByGroup => format!("IN ({}, {})", part * 2, part * 2 + 1),
                Shape::ByKey => format!("WITH (MODULUS 3, REMAINDER {part})"),
                _ => break,
            };
            sql += &format!("CREATE TABLE {name}_{part} PARTITION OF {name} FOR VALUES {bounds};\n");
        }
        sql
    }

    fn track(&self) -> String {
        let Table { name, .. } = self;
        let row = if self.shape == Shape::Composite { "{k1}:{k2}" } else { "{k}" };
        let identity = if self.full { "full" } else { "family" };
        let columns = if self.columns { "columns => '{ki,gi,v}', " } else { "" };
        let constant = if self.constant { format!(", '{name}all'") } else { String::new() };
        let column = if self.shape == Shape::Composite { "ki" } else { "k" };
        let literal = |key: &usize| match self.shape {
            Shape::Composite => key.to_string(),
            _ => self.key.literal(*key),
        };
        let special: Vec<String> = self.special.iter().map(literal).collect();
        let predicate = format!("{column} IN ({})", special.join(", ")).replace('\'', "''");
        format!(
            "SELECT cachetag.track('{name}', ARRAY['{name}:{row}', '{name}g:{{g}}'{constant}], {columns}identity => '{identity}');
             SELECT cachetag.track('{name}', ARRAY['{name}p:{{g}}'], {columns}predicate => '{predicate}', identity => '{identity}');\n"
        )
    }

    fn tag(&self, part: Part) -> String {
        let tag = |suffix: &str, parts: &[String]| {
            let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
            Tag::new(&format!("{}{suffix}", self.name), &parts).expect("a short tag").to_string()
        };
        match part {
            Part::Row(key) => tag("", &self.key_texts(key)),
            Part::Group(group) => tag("g", &[self.group.text(group)]),
            Part::Special(group) => tag("p", &[self.group.text(group)]),
            Part::Whole if self.constant => tag("all", &[]),
            Part::Whole => format!("{}:*", self.name),
        }
    }

    /// The condition of a part.
    fn condition(&self, part: Part) -> String {
        match part {
            Part::Row(key) => format!("ki = {key}"),
            Part::Group(group) => format!("gi = {group}"),
            Part::Special(group) => {
                let keys: Vec<String> = self.special.iter().map(usize::to_string).collect();
                format!("gi = {group} AND ki IN ({})", keys.join(","))
            }
            Part::Whole => "true".to_owned(),
        }
    }

    /// Whether a row is in the part.
    pub fn belongs(&self, part: Part, key: usize, state: &RowState) -> bool {
        match part {
            Part::Row(wanted) => key == wanted,
            Part::Group(group) => state.group == group,
            Part::Special(group) => state.group == group && self.special.contains(&key),
            Part::Whole => true,
        }
    }

    // Changes

    /// Inserts a row.
    pub fn insert(&self, key: usize, state: RowState) -> String {
        let RowState { group, version } = state;
        let (names, literals) = (self.key_names(), self.key_literals(key));
        let g = self.group.literal(group);
        format!("INSERT INTO {} ({names}, ki, g, gi, v) VALUES ({literals}, {key}, {g}, {group}, {version})", self.name)
    }

    /// Gives a row a state, and perhaps another key.
    pub fn update(&self, key: usize, new_key: usize, state: RowState) -> String {
        let RowState { group, version } = state;
        let g = self.group.literal(group);
        let rename = if key == new_key {
            String::new()
        } else {
            format!(", ({}) = ROW({}), ki = {new_key}", self.key_names(), self.typed_key(new_key))
        };
        format!("UPDATE {} SET g = {g}, gi = {group}, v = {version}{rename} WHERE ki = {key}", self.name)
    }

    fn typed_key(&self, key: usize) -> String {
        match self.shape {
            Shape::Composite => format!("{}, {}::{}", key % 5, self.key.literal(key / 5), self.key.name()),
            _ => format!("{}::{}", self.key.literal(key), self.key.name()),
        }
    }

    /// Changes what no cached value shows.
    pub fn touch(&self, key: usize) -> String {
        format!("UPDATE {} SET w = w + 1 WHERE ki = {key}", self.name)
    }

    /// Deletes a row.
    pub fn delete(&self, key: usize) -> String {
        format!("DELETE FROM {} WHERE ki = {key}", self.name)
    }

    /// Empties the table or, if `part` is given and there are partitions by group, one partition; tells which groups that concerns.
    pub fn truncate(&self, part: Option<usize>) -> (String, std::ops::Range<usize>) {
        match (self.shape, part) {
            (Shape::ByGroup, Some(part)) => (format!("TRUNCATE {}_{part}", self.name), part * 2..part * 2 + 2),
            _ => (format!("TRUNCATE {}", self.name), 0..GROUPS),
        }
    }
}

impl Schema {
    /// A schema.
    pub fn random(random: &mut Random) -> Schema {
        let shapes = [Shape::Ordinary, Shape::Composite, Shape::Keyless, Shape::ByGroup, Shape::ByKey, Shape::Ordinary];
        let tables: Vec<Table> =
            shapes.iter().enumerate().map(|(number, shape)| Table::random(number, *shape, random)).collect();
        let mut sql: String = tables.iter().map(|table| table.create() + &table.track()).collect();
        let mut objects = Vec::new();
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
            for (index, (table, part)) in sources.iter().enumerate() {
                let mut parent = tables[*table].tag(*part);
                for step in 0..random.below(3) {
                    let middle = format!("middle:{number}:{index}:{step}");
                    sql += &depend(&middle, &parent);
                    parent = middle;
                }
                sql += &depend(&tag, &parent);
            }
            if random.percent(30) {
                // A cycle does no harm.
                sql += &depend(&format!("middle:{number}:0:0"), &tag);
            }
            let key = format!("o{}", objects.len());
            objects.push(Object::new(key, &tables, sources, vec![tag]));
        }
        let mut tags: Vec<String> = objects.iter().flat_map(|object| object.tags.clone()).collect();
        tags.sort_unstable();
        tags.dedup();
        Schema { tables, objects, sql, tags }
    }
}

fn depend(child: &str, parent: &str) -> String {
    format!("SELECT cachetag.depend('{child}', '{}');\n", parent.replace('\'', "''"))
}

impl Object {
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
