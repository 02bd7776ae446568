//! A random table: its columns, its rules and tags, and the statements that change it.

use cachetag_core::Tag;

use super::history::{RowState, Selection};
use super::schema::{GROUPS, KEYS};
use crate::random::Random;

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

/// What kind of table it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// A primary key of one column.
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
    /// What kind of table it is.
    pub shape: Shape,
    key: Type,
    group: Type,
    full: bool,
    /// Rows that the rule with a predicate is about.
    special: Vec<usize>,
    /// A constant tag for any change, beside the rows' family.
    constant: bool,
    /// The rules name the columns that matter.
    columns: bool,
    /// What its rules invalidate may still be served as stale.
    soft: bool,
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

impl Table {
    /// A table with random columns and rules.
    pub fn random(number: usize, shape: Shape, random: &mut Random) -> Table {
        Table {
            name: format!("t{number}"),
            shape,
            key: *random.pick(&TYPES),
            group: *random.pick(&TYPES),
            full: shape == Shape::Keyless || random.percent(50),
            special: (0..KEYS).filter(|_| random.percent(40)).chain([0]).collect(),
            constant: random.percent(50),
            columns: random.percent(50),
            soft: random.percent(20),
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

    /// Creates it.
    pub fn create(&self) -> String {
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
        let columns =
            format!("{keys}, ki int, g {} NOT NULL, gi int, v bigint, w int DEFAULT 0, f text{unique}", group.name());
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

    /// Makes its rules, or makes them anew.
    pub fn track(&self) -> String {
        let Table { name, .. } = self;
        let row = if self.shape == Shape::Composite { "{k1}:{k2}" } else { "{k}" };
        let identity = if self.full { "full" } else { "family" };
        let columns = if self.columns { "columns => '{ki,gi,v}', " } else { "" };
        let soft = if self.soft { "soft => true, " } else { "" };
        let constant = if self.constant { format!(", '{name}all'") } else { String::new() };
        let column = if self.shape == Shape::Composite { "ki" } else { "k" };
        let literal = |key: &usize| match self.shape {
            Shape::Composite => key.to_string(),
            _ => self.key.literal(*key),
        };
        let special: Vec<String> = self.special.iter().map(literal).collect();
        let predicate = format!("{column} IN ({})", special.join(", ")).replace('\'', "''");
        format!(
            "SELECT cachetag.track('{name}', ARRAY['{name}:{row}', '{name}g:{{g}}'{constant}], {columns}{soft}identity => '{identity}');
             SELECT cachetag.track('{name}', ARRAY['{name}p:{{g}}'], {columns}{soft}predicate => '{predicate}', identity => '{identity}');\n"
        )
    }

    /// The tag of a part.
    pub fn tag(&self, part: Part) -> String {
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
    /// Makes a query of the whole table one of a part.
    pub fn condition(&self, part: Part) -> String {
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

    /// The rows of a part.
    pub fn selection(&self, part: Part) -> Rows<'_> {
        Rows { table: self, part }
    }

    // Changes

    /// Inserts a row that is not there, in one of the ways to do so.
    pub fn insert(&self, key: usize, state: RowState, random: &mut Random) -> Statement {
        let RowState { group, version } = state;
        let (name, names, literals) = (&self.name, self.key_names(), self.key_literals(key));
        let g = self.group.literal(group);
        let columns = format!("{names}, ki, g, gi, v");
        let values = format!("{literals}, {key}, {g}, {group}, {version}");
        let unique = matches!(self.shape, Shape::Ordinary | Shape::Composite | Shape::ByKey);
        match random.below(10) {
            0 => Statement::Copy {
                sql: format!("COPY {name} ({columns}) FROM STDIN"),
                line: format!(
                    "{}\t{key}\t{}\t{group}\t{version}\n",
                    self.key_texts(key).join("\t"),
                    self.group.text(group)
                ),
            },
            1 | 2 if unique => Statement::Sql(format!(
                "INSERT INTO {name} ({columns}) VALUES ({values}) ON CONFLICT ({names}) DO UPDATE SET v = EXCLUDED.v"
            )),
            _ => Statement::Sql(format!("INSERT INTO {name} ({columns}) VALUES ({values})")),
        }
    }

    /// Gives a row that is there another state, as an insertion that finds it or by MERGE.
    pub fn merge(&self, key: usize, state: RowState, random: &mut Random) -> String {
        let RowState { group, version } = state;
        let (name, names, literals) = (&self.name, self.key_names(), self.key_literals(key));
        let g = self.group.literal(group);
        if matches!(self.shape, Shape::Ordinary | Shape::Composite | Shape::ByKey) && random.percent(50) {
            return format!(
                "INSERT INTO {name} ({names}, ki, g, gi, v) VALUES ({literals}, {key}, {g}, {group}, {version})
                 ON CONFLICT ({names}) DO UPDATE SET g = EXCLUDED.g, gi = EXCLUDED.gi, v = EXCLUDED.v"
            );
        }
        format!(
            "MERGE INTO {name} t USING (VALUES ({key})) AS s(ki) ON t.ki = s.ki
             WHEN MATCHED THEN UPDATE SET g = {g}, gi = {group}, v = {version}"
        )
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

    /// Changes what no cached value shows, of many rows, and much of it: the transaction is streamed before it ends.
    pub fn bulk(&self, keys: &[usize]) -> String {
        let keys: Vec<String> = keys.iter().map(usize::to_string).collect();
        format!(
            "UPDATE {} SET w = w + 1, f = repeat(md5(random()::text), 600) WHERE ki IN ({})",
            self.name,
            keys.join(",")
        )
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

impl Table {
    /// Asks for the state of a row: `group/version`.
    pub fn state_of(&self, key: usize) -> String {
        format!("SELECT gi || '/' || v FROM {} WHERE ki = {key}", self.name)
    }

    /// Asks for all rows: `key/group/version,…`.
    pub fn all_states(&self) -> String {
        format!("SELECT coalesce(string_agg(ki || '/' || gi || '/' || v, ',' ORDER BY ki), '') FROM {}", self.name)
    }

    /// Takes a partition away, and gives it back.
    pub fn detach_attach(&self, part: usize) -> (String, String) {
        let name = &self.name;
        let bounds = format!("FOR VALUES IN ({}, {})", part * 2, part * 2 + 1);
        (
            format!("ALTER TABLE {name} DETACH PARTITION {name}_{part}"),
            format!("ALTER TABLE {name} ATTACH PARTITION {name}_{part} {bounds}"),
        )
    }

    /// Gives the table or a partition another replica identity, and the one it had.
    pub fn other_identity(&self, part: usize) -> (String, String) {
        let relation = match self.shape {
            Shape::ByGroup | Shape::ByKey => format!("{}_{part}", self.name),
            _ => self.name.clone(),
        };
        let (full, default) = ("FULL", "DEFAULT");
        let (other, own) = if self.full { (default, full) } else { (full, default) };
        let statement = |identity| format!("ALTER TABLE {relation} REPLICA IDENTITY {identity}");
        (statement(other), statement(own))
    }
}

/// The rows of a part of a table.
#[derive(Debug, Clone, Copy)]
pub struct Rows<'a> {
    table: &'a Table,
    part: Part,
}

impl Selection for Rows<'_> {
    fn keys(&self) -> impl Iterator<Item = usize> {
        match self.part {
            Part::Row(key) => key..key + 1,
            _ => 0..KEYS,
        }
    }

    fn has(&self, key: usize, state: &RowState) -> bool {
        match self.part {
            Part::Row(wanted) => key == wanted,
            Part::Group(group) => state.group == group,
            Part::Special(group) => state.group == group && self.table.special.contains(&key),
            Part::Whole => true,
        }
    }
}

/// How a change is made.
#[derive(Debug)]
pub enum Statement {
    /// By a statement.
    Sql(String),
    /// By COPY.
    Copy {
        /// The statement.
        sql: String,
        /// What it reads.
        line: String,
    },
}
