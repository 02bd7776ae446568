//! A grammar of queries whose rows depend on the data only: not on the plan, not on the order of rows.

use super::kind::{Class, INT8, Kind, TEXT};
use super::theme::Theme;
use super::world::{Column, FUNCTIONS, Focus, READER, Relation};
use crate::Random;

/// A query.
#[derive(Debug, Clone)]
pub struct Query {
    /// With `$1`, `$2` and so on.
    text: String,
    /// Type and value of each parameter.
    params: Vec<(String, String)>,
    /// The role that runs it; the owner of everything without.
    pub role: Option<&'static str>,
}

impl Query {
    /// With literals in the place of parameters.
    pub fn inlined(&self) -> String {
        let numbered = self.params.iter().enumerate().rev();
        numbered.fold(self.text.clone(), |text, (at, (kind, value))| {
            text.replace(&format!("${}", at + 1), &format!("{value}::{kind}"))
        })
    }

    /// As a prepared statement: its PREPARE and its EXECUTE.
    pub fn prepared(&self, name: &str) -> (String, String) {
        let list = |parts: Vec<&str>| match parts.join(", ") {
            list if list.is_empty() => list,
            list => format!(" ({list})"),
        };
        let kinds = self.params.iter().map(|(kind, _)| kind.as_str()).collect();
        // A value of a part that was left out need not be one of its type.
        let value = |(at, (_, value)): (usize, &'_ (String, String))| {
            if self.uses(at + 1) { value.clone() } else { "NULL".to_owned() }
        };
        let values: Vec<String> = self.params.iter().enumerate().map(value).collect();
        let prepare = format!("PREPARE {name}{} AS {}", list(kinds), self.text);
        (prepare, format!("EXECUTE {name}{}", list(values.iter().map(String::as_str).collect())))
    }

    /// Does the text have the parameter of this number?
    fn uses(&self, number: usize) -> bool {
        let parameter = format!("${number}");
        let ends =
            |(at, _): (usize, &str)| !self.text[at + parameter.len()..].starts_with(|next: char| next.is_ascii_digit());
        self.text.match_indices(&parameter).any(ends)
    }

    /// A query of the grammar.
    pub fn random(random: &mut Random, focus: &Focus) -> Query {
        let room = 1 + random.below(6);
        let mut grammar = Grammar { random, focus, params: Vec::new(), aliases: 0, room };
        let text = grammar.query();
        let params = grammar.params;
        // Policies are for those who do not own the table.
        let role = (text.contains("secret") && random.percent(85) || random.percent(10)).then_some(READER);
        Query { text, params, role }
    }
}

/// A relation in a FROM: its alias, and its columns.
type Item = (String, Vec<(String, &'static Kind)>);

struct Grammar<'r> {
    random: &'r mut Random,
    focus: &'r Focus,
    params: Vec<(String, String)>,
    aliases: usize,
    /// Subqueries and relations that may still come.
    room: usize,
}

impl Grammar<'_> {
    fn query(&mut self) -> String {
        match self.focus.theme {
            Some(Theme::Lazy) if self.random.percent(70) => return self.lazy(),
            Some(Theme::Definitions) if self.random.percent(70) => return format!("SELECT {}", self.call(&[])),
            Some(Theme::Collations | Theme::Settings | Theme::Texts) if self.random.percent(50) => return self.equal(),
            _ => {}
        }
        match self.random.below(100) {
            0..25 => self.star(),
            25..55 => self.select(&[], 1 + self.room % 3),
            55..65 => self.grouped(),
            65..71 => {
                let query = self.select(&[], 2);
                let (limit, offset) = (1 + self.random.below(4), self.random.below(3));
                format!("SELECT * FROM ({query}) s ORDER BY s::text LIMIT {limit} OFFSET {offset}")
            }
            71..76 => self.first(),
            76..82 => {
                let operator = *self.random.pick(&["UNION", "UNION ALL", "INTERSECT", "EXCEPT", "EXCEPT ALL"]);
                format!("{} {operator} {}", self.select(&[], 1), self.select(&[], 1))
            }
            82..87 => self.with(),
            87..90 => self.recursive(),
            90..94 => self.window(),
            94..97 => self.scalars(),
            _ => self.refused(),
        }
    }

    fn alias(&mut self) -> String {
        self.aliases += 1;
        format!("t{}", self.aliases)
    }

    fn param(&mut self, kind: &str, value: String) -> String {
        self.params.push((kind.to_owned(), value));
        format!("${}", self.params.len())
    }

    fn relation(&mut self) -> &'static Relation {
        self.room = self.room.saturating_sub(1);
        self.focus.pick(self.random, |_| true)
    }

    /// One relation with all of its columns: what a change of its columns changes, too.
    fn star(&mut self) -> String {
        let relation = self.relation();
        let item = named(self.alias(), self.focus.columns(relation));
        let condition = self.condition(std::slice::from_ref(&item), &[]);
        format!("SELECT * FROM {} {} WHERE {condition}", relation.name, item.0)
    }

    /// An expression over a column that has one text for equal values of it.
    fn output(&mut self, item: &Item) -> (String, &'static Kind) {
        let (column, kind) = self.random.pick(&item.1).clone();
        let place = format!("{}.{column}", item.0);
        match kind.class {
            Class::Int => (format!("{place}::int8"), INT8),
            // Their collations are not the database's.
            _ if kind.name == "name" || kind.name.contains("COLLATE") => {
                (format!("encode(convert_to({place}::text, 'UTF8'), 'hex')"), TEXT)
            }
            _ => (format!("{place}::text"), TEXT),
        }
    }

    /// A FROM of one to three items, and a condition that joins those listed with commas.
    fn from(&mut self, outer: &[Item]) -> (String, Vec<Item>, Option<String>) {
        let (mut text, first) = self.item(outer);
        let mut items = vec![first];
        let mut condition = None;
        while items.len() < 3 && self.room > 0 && self.random.percent(45) {
            let lateral = self.random.percent(20);
            let seen: Vec<Item> = if lateral { items.iter().chain(outer).cloned().collect() } else { outer.to_vec() };
            let (next, item) = if lateral { self.subquery(&seen, "LATERAL ") } else { self.item(outer) };
            let on = self.equal_columns(std::slice::from_ref(&item), &items);
            match self.random.below(6) {
                0 if condition.is_none() => {
                    text += &format!(", {next}");
                    condition = Some(on);
                }
                1 => text += &format!(" CROSS JOIN {next}"),
                2 => text += &format!(" LEFT JOIN {next} ON {on}"),
                3 if !lateral => text += &format!(" {} JOIN {next} ON {on}", self.random.pick(&["RIGHT", "FULL"])),
                _ => text += &format!(" JOIN {next} ON {on}"),
            }
            items.push(item);
        }
        (text, items, condition)
    }

    fn item(&mut self, outer: &[Item]) -> (String, Item) {
        if self.room > 1 && self.random.percent(12) {
            return self.subquery(outer, "");
        }
        let relation = self.relation();
        let alias = self.alias();
        (format!("{} {alias}", relation.name), named(alias, self.focus.columns(relation)))
    }

    fn subquery(&mut self, outer: &[Item], lateral: &str) -> (String, Item) {
        self.room = self.room.saturating_sub(1);
        let (text, item) = self.columns(if lateral.is_empty() { &[] } else { outer });
        // OFFSET keeps it a subquery.
        let fence = if self.random.percent(20) { " OFFSET 0" } else { "" };
        (format!("{lateral}({text}{fence}) {}", item.0), item)
    }

    /// A SELECT of some columns under their own names.
    fn columns(&mut self, outer: &[Item]) -> (String, Item) {
        let (from, items, joined) = self.from(outer);
        let alias = self.alias();
        let mut columns = Vec::new();
        let mut list = Vec::new();
        for number in 0..2 {
            let item = self.random.pick(&items).clone();
            let (text, kind) = self.output(&item);
            list.push(format!("{text} AS o{number}"));
            columns.push((format!("o{number}"), kind));
        }
        let condition = self.conditions(&items, outer, joined);
        (format!("SELECT {} FROM {from} WHERE {condition}", list.join(", ")), (alias, columns))
    }

    /// A SELECT of this many columns; of one column, it is an integer.
    fn select(&mut self, outer: &[Item], width: usize) -> String {
        let (from, items, joined) = self.from(outer);
        let mut list = Vec::new();
        for _ in 0..width {
            let item = self.random.pick(&items).clone();
            let (text, kind) = self.output(&item);
            list.push(if width == 1 && kind.class != Class::Int { format!("length({text})::int8") } else { text });
        }
        if width > 1 && self.room > 0 && self.random.percent(25) {
            list.push(self.value(&items));
        }
        let distinct = if self.random.percent(12) { "DISTINCT " } else { "" };
        let condition = self.conditions(&items, outer, joined);
        format!("SELECT {distinct}{} FROM {from} WHERE {condition}", list.join(", "))
    }

    fn conditions(&mut self, items: &[Item], outer: &[Item], joined: Option<String>) -> String {
        let condition = self.condition(items, outer);
        joined.map_or(condition.clone(), |joined| format!("{joined} AND {condition}"))
    }

    /// A value that another query computes for each row.
    fn value(&mut self, items: &[Item]) -> String {
        self.room = self.room.saturating_sub(1);
        match self.random.below(4) {
            0 => self.call(items),
            1 => format!("EXISTS ({})", self.select(items, 1)),
            2 => format!(
                "CASE WHEN {} THEN (SELECT count(*) FROM ({}) q) END",
                self.simple(items),
                self.select(items, 1)
            ),
            _ => format!("(SELECT sum(q.v) FROM ({}) q(v))", self.select(items, 1)),
        }
    }

    fn call(&mut self, items: &[Item]) -> String {
        let (name, argument, _) = *self.random.pick(FUNCTIONS);
        match self.column_of(items, argument.class) {
            Some(column) if self.random.percent(60) => format!("{name}({column}::{})", argument.name),
            _ => {
                let value = argument.literal(self.random);
                format!("{name}({})", self.param(argument.name, value))
            }
        }
    }

    fn column_of(&mut self, items: &[Item], class: Class) -> Option<String> {
        let fit = |(alias, columns): &Item| -> Vec<String> {
            let fit = columns.iter().filter(|(_, kind)| kind.class == class);
            fit.map(|(column, _)| format!("{alias}.{column}")).collect()
        };
        let all: Vec<String> = items.iter().flat_map(fit).collect();
        (!all.is_empty()).then(|| self.random.pick(&all).clone())
    }

    /// A column of the one equals one of the other.
    fn equal_columns(&mut self, left: &[Item], right: &[Item]) -> String {
        let class = if self.random.percent(80) { Class::Int } else { Class::Text };
        match (self.column_of(left, class), self.column_of(right, class)) {
            (Some(left), Some(right)) => format!("{left} = {right}"),
            _ => self.simple(left),
        }
    }

    fn condition(&mut self, items: &[Item], outer: &[Item]) -> String {
        let mut text = if !outer.is_empty() && self.random.percent(70) {
            self.equal_columns(items, outer)
        } else {
            self.predicate(items)
        };
        while self.random.percent(35) {
            let next = self.predicate(items);
            text = match self.random.below(5) {
                0 | 1 => format!("{text} AND {next}"),
                2 => format!("({text} OR {next})"),
                3 => format!("({text} AND NOT ({next}))"),
                _ => format!("{next} AND {text}"),
            };
        }
        text
    }

    fn predicate(&mut self, items: &[Item]) -> String {
        if self.room == 0 || self.random.percent(72) {
            return self.simple(items);
        }
        self.room -= 1;
        let int = self.column_of(items, Class::Int).unwrap_or_else(|| "1".to_owned());
        match self.random.below(7) {
            0 => format!("{int} = (SELECT max(q.v) FROM ({}) q(v))", self.select(&[], 1)),
            1 => format!("{int} IN ({})", self.select(&[], 1)),
            2 => format!("{int} NOT IN (SELECT q.v FROM ({}) q(v) WHERE q.v IS NOT NULL)", self.select(items, 1)),
            3 => format!("EXISTS ({})", self.select(items, 1)),
            4 => format!("NOT EXISTS ({})", self.select(items, 1)),
            5 => format!("{int} = ANY (ARRAY({}))", self.select(&[], 1)),
            _ => format!("{} IS NOT NULL", self.call(items)),
        }
    }

    /// A predicate without a subquery, mostly an equality.
    fn simple(&mut self, items: &[Item]) -> String {
        if items.is_empty() {
            return "true".to_owned();
        }
        let item = self.random.pick(items).clone();
        let (name, kind) = self.random.pick(&item.1).clone();
        let column = format!("{}.{name}", item.0);
        match self.random.below(20) {
            0..8 => {
                let (kind, value) = (kind.compared(self.random), kind.literal(self.random));
                let value = self.param(kind, value);
                if self.random.percent(20) { format!("{value} = {column}") } else { format!("{column} = {value}") }
            }
            8..10 => {
                let of = kind.compared(self.random);
                let mut values = Vec::new();
                for _ in 0..1 + self.random.below(3) {
                    let value = kind.literal(self.random);
                    values.push(self.param(of, value));
                }
                format!("{column} IN ({})", values.join(", "))
            }
            10 => {
                let of = kind.compared(self.random);
                let values: Vec<String> = (0..self.random.below(4)).map(|_| kind.literal(self.random)).collect();
                let value = self.param(&format!("{of}[]"), format!("(ARRAY[{}]::{of}[])", values.join(", ")));
                format!("{column} = ANY ({value})")
            }
            11 => format!("{column} IS {}NULL", self.random.pick(&["", "NOT "])),
            12 | 13 => {
                let (of, value) = (kind.compared(self.random), kind.literal(self.random));
                let operator =
                    *self.random.pick(&["<", "<=", ">", ">=", "<>", "IS NOT DISTINCT FROM", "IS DISTINCT FROM"]);
                format!("{column} {operator} {}", self.param(of, value))
            }
            14 => self.row(&item),
            15 => self.equal_columns(std::slice::from_ref(&item), items),
            16 => {
                let call = self.call(items);
                format!("{call} = {call}")
            }
            17 if kind.class == Class::Int => format!("{column} + 0 = {}", self.random.below(5)),
            18 => {
                let (of, value) = (kind.compared(self.random), kind.literal(self.random));
                let value = self.param(of, value);
                format!("coalesce({column} = {value}, {})", self.random.pick(&["false", "true", "NULL"]))
            }
            _ => {
                let null = self.param(kind.name.split(" COLLATE").next().unwrap_or(kind.name), "NULL".to_owned());
                if self.random.percent(25) { format!("{column} = {null}") } else { "true".to_owned() }
            }
        }
    }

    fn row(&mut self, item: &Item) -> String {
        let (one, two) = (self.random.pick(&item.1).clone(), self.random.pick(&item.1).clone());
        let mut pair = || {
            let values = [one.1, two.1].map(|kind| {
                let (of, value) = (kind.compared(self.random), kind.literal(self.random));
                self.param(of, value)
            });
            format!("({}, {})", values[0], values[1])
        };
        let (first, second) = (pair(), pair());
        let columns = format!("({}.{}, {}.{})", item.0, one.0, item.0, two.0);
        match self.random.below(3) {
            0 => format!("{columns} = {first}"),
            1 => format!("{columns} < {first}"),
            _ => format!("{columns} IN ({first}, {second})"),
        }
    }

    fn grouped(&mut self) -> String {
        let (from, items, joined) = self.from(&[]);
        let (key, value) = (self.random.pick(&items).clone(), self.random.pick(&items).clone());
        let ((key, _), (value, _)) = (self.output(&key), self.output(&value));
        let aggregate =
            self.random.pick(&["count", "min", "max", "count DISTINCT"]).replace("count DISTINCT", "count(DISTINCT ");
        let aggregate = if aggregate.ends_with("DISTINCT ") {
            format!("{aggregate}{value})")
        } else {
            format!("{aggregate}({value})")
        };
        let condition = self.conditions(&items, &[], joined);
        match self.random.below(4) {
            0 => format!("SELECT {aggregate}, count(*) FROM {from} WHERE {condition}"),
            1 => format!("SELECT {key}, {aggregate} FROM {from} WHERE {condition} GROUP BY 1 HAVING count(*) > 1"),
            2 => format!(
                "SELECT {key}, count(*) FILTER (WHERE {value} IS NULL) FROM {from} WHERE {condition} GROUP BY ROLLUP (1)"
            ),
            _ => format!("SELECT {key}, {aggregate} FROM {from} WHERE {condition} GROUP BY 1"),
        }
    }

    /// The first rows by key: a scan that ends before it has seen everything.
    fn first(&mut self) -> String {
        let is_ordered =
            |relation: &Relation| relation.is_table && relation.columns[0].0 == "id" && relation.name != "base";
        let relation = self.focus.pick(self.random, is_ordered);
        let item = named(self.alias(), self.focus.columns(relation));
        let condition = self.condition(std::slice::from_ref(&item), &[]);
        let (name, alias) = (relation.name, &item.0);
        match self.random.below(3) {
            0 => format!("SELECT max({alias}.id) FROM {name} {alias} WHERE {condition}"),
            1 => format!("SELECT min({alias}.id), max({alias}.id) FROM {name} {alias} WHERE {condition}"),
            _ => {
                let order = *self.random.pick(&["", " DESC"]);
                format!(
                    "SELECT {alias}.id FROM {name} {alias} WHERE {condition} ORDER BY {alias}.id{order} LIMIT {}",
                    1 + self.random.below(3)
                )
            }
        }
    }

    fn with(&mut self) -> String {
        let (text, mut item) = self.columns(&[]);
        item.0 = "w".to_owned();
        let kind = *self.random.pick(&["", "MATERIALIZED ", "NOT MATERIALIZED "]);
        let (next, other) = self.item(&[]);
        let on = self.equal_columns(std::slice::from_ref(&other), std::slice::from_ref(&item));
        let condition = self.simple(&[item.clone(), other.clone()]);
        let (out, _) = self.output(&other);
        let again = if self.random.percent(30) { " WHERE w.o0 IN (SELECT o0 FROM w)" } else { "" };
        match self.random.below(3) {
            0 => format!(
                "WITH w AS {kind}({text}) SELECT w.o0, w.o1, {out} FROM w JOIN {next} ON {on} WHERE {condition}"
            ),
            1 => format!("WITH w AS {kind}({text}) SELECT count(*), (SELECT count(*) FROM w) FROM w{again}"),
            _ => format!("WITH w AS {kind}({text}) SELECT w.o0, {out} FROM {next} LEFT JOIN w ON {on}"),
        }
    }

    fn recursive(&mut self) -> String {
        let (first, next) = (
            *self.random.pick(&["a", "base", "part", "v_part", "secret"]),
            *self.random.pick(&["a", "base", "acl", "part"]),
        );
        let value = self.random.below(5).to_string();
        let start = self.param("int4", format!("'{value}'"));
        format!(
            "WITH RECURSIVE r(id, x) AS (SELECT s.id, s.x FROM {first} s WHERE s.id = {start} UNION SELECT n.id, n.x FROM {next} n JOIN r ON n.id = r.x) SELECT * FROM r"
        )
    }

    fn window(&mut self) -> String {
        let relation = self.relation();
        let item = named(self.alias(), self.focus.columns(relation));
        let condition = self.condition(std::slice::from_ref(&item), &[]);
        let (out, _) = self.output(&item);
        let (part, _) = self.output(&item);
        let call = *self.random.pick(&["count(*)", "rank()", "dense_rank()"]);
        format!(
            "SELECT {out}, {call} OVER (PARTITION BY {part} ORDER BY {out}) FROM {} {} WHERE {condition}",
            relation.name, item.0
        )
    }

    /// A condition on a value that is asked for only where a row fulfils another one.
    fn lazy(&mut self) -> String {
        let relation = self.focus.pick(self.random, |relation| relation.is_table && relation.is_tracked);
        let item = named(self.alias(), relation.columns);
        let (first, kind) = self.random.pick(&item.1).clone();
        let value = kind.literal(self.random);
        let of = kind.compared(self.random);
        let value = self.param(of, value);
        let second = self.column_of(std::slice::from_ref(&item), Class::Int).unwrap_or_else(|| "1".to_owned());
        let (name, alias) = (relation.name, &item.0);
        let needed = match self.random.below(4) {
            0 => self.select(&[], 1),
            1 => "SELECT q.x FROM acl q".to_owned(),
            2 => "SELECT q.z FROM c q WHERE q.z < 4".to_owned(),
            _ => "SELECT q.x FROM base q".to_owned(),
        };
        format!(
            "SELECT * FROM {name} {alias} WHERE {alias}.{first} = {value} AND {second} = (SELECT max(q.v) FROM ({needed}) q(v))"
        )
    }

    /// One column is equal to one value.
    fn equal(&mut self) -> String {
        let relation = self.focus.pick(self.random, |relation| relation.is_table && relation.is_tracked);
        let (column, kind) = *self.random.pick(&self.focus.columns(relation)[1..]);
        let (of, value) = (kind.compared(self.random), kind.literal(self.random));
        let value = self.param(of, value);
        format!("SELECT * FROM {} WHERE {column} = {value}", relation.name)
    }

    fn scalars(&mut self) -> String {
        if self.random.percent(25) {
            // No row is read, but the columns of a table make the type.
            let of = *self.random.pick(&["a", "base", "part", "child_2"]);
            return format!("SELECT json_populate_record(NULL::{of}, '{{\"id\": 1, \"more\": 7}}')::text");
        }
        let values: Vec<String> = (0..1 + self.random.below(2)).map(|_| self.value(&[])).collect();
        format!("SELECT {}", values.join(", "))
    }

    /// What no capture may call cacheable, or only with what it depends on.
    fn refused(&mut self) -> String {
        let query = self.select(&[], 2);
        match self.random.below(6) {
            0 => format!("{query} AND random() >= 0"),
            1 => format!("SELECT id, y FROM {} FOR UPDATE", self.random.pick(&["a", "base", "part", "detail"])),
            2 => format!("{query} AND now() > '2000-01-01'"),
            3 => "SELECT relname, relnatts FROM pg_class WHERE relname IN ('a', 'part_1')".to_owned(),
            4 => format!(
                "SELECT id, x FROM {} TABLESAMPLE bernoulli (50) REPEATABLE (1)",
                self.random.pick(&["a", "base", "part"])
            ),
            _ => format!("{query} AND current_user <> 'nobody'"),
        }
    }
}

fn named(alias: String, columns: &[Column]) -> Item {
    (alias, columns.iter().map(|(name, kind)| ((*name).to_owned(), *kind)).collect())
}
