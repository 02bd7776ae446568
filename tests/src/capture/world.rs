//! The schema: tables of every shape, views and functions over them, and random rules, indexes and rows.

use std::collections::BTreeSet;

use super::kind::{DATE, INT2, INT4, INT8, KINDS, Kind, MOOD, NUMERIC, TEXT, VARCHAR};
use super::theme::Theme;
use crate::Random;

/// A column that queries know.
pub type Column = (&'static str, &'static Kind);

/// What is read together, and so what a world mostly reads and writes: else few transactions would concern a query.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cluster {
    /// The table with all types.
    Types,
    /// Tables that are joined.
    Joins,
    /// A table with partitions, of partitions.
    Partitions,
    /// Tables that inherit.
    Children,
    /// Tables with policies.
    Policies,
}

/// Something to read from.
#[derive(Debug)]
pub struct Relation {
    /// Its name, and arguments.
    pub name: &'static str,
    /// What queries know of it.
    pub columns: &'static [Column],
    /// Where it belongs.
    cluster: Cluster,
    /// Rows can be written to it under this name.
    pub is_table: bool,
    /// It can be tracked.
    pub is_tracked: bool,
}

/// What a world mostly reads and writes.
#[derive(Debug, Clone)]
pub struct Focus {
    clusters: Vec<Cluster>,
    /// Of the table with all types its key and some others: else no rule and no query would be about the same.
    types: Vec<Column>,
    /// What it is about.
    pub theme: Option<Theme>,
}

impl Focus {
    /// Two clusters, or one; or what the theme says.
    pub fn random(random: &mut Random, theme: Option<Theme>) -> Focus {
        use Cluster::{Children, Joins, Partitions, Policies, Types};
        let clusters = (0..2).map(|_| *random.pick(&[Types, Types, Joins, Partitions, Partitions, Children, Policies]));
        let clusters = theme.map_or_else(|| clusters.collect(), |theme| theme.clusters().to_vec());
        let mut types = vec![ALL[0]];
        match theme.map(Theme::types) {
            Some(names) if !names.is_empty() => types.extend(KINDS.iter().filter(|(name, _)| names.contains(name))),
            _ => types.extend((0..7).map(|_| *random.pick(KINDS))),
        }
        Focus { clusters, types, theme }
    }

    /// The columns of a relation that rules, queries and changes are about.
    pub fn columns<'a>(&'a self, relation: &'a Relation) -> &'a [Column] {
        if relation.cluster == Cluster::Types { &self.types } else { relation.columns }
    }

    /// A relation that fits, mostly one in focus.
    pub fn pick(&self, random: &mut Random, fits: impl Fn(&Relation) -> bool) -> &'static Relation {
        let is_near = random.percent(85);
        loop {
            let relation = random.pick(RELATIONS);
            // There need not be a fitting one in focus.
            if fits(relation) && (!is_near || self.clusters.contains(&relation.cluster) || random.percent(2)) {
                return relation;
            }
        }
    }
}

const A: &[Column] = &[("id", INT4), ("x", INT4), ("y", TEXT), ("z", INT4), ("n", NUMERIC), ("k", INT8)];
const B: &[Column] = &[("id", INT8), ("a_id", INT4), ("x", INT2), ("y", VARCHAR), ("d", DATE), ("m", MOOD)];
const C: &[Column] = &[("x", INT4), ("y", TEXT), ("z", INT4)];
const PART: &[Column] = &[("id", INT4), ("x", INT4), ("y", TEXT), ("z", INT4)];
const BASE: &[Column] = &[("id", INT4), ("x", INT4), ("y", TEXT)];
const ACL: &[Column] = &[("id", INT4), ("x", INT4), ("z", INT4)];
const DETAIL: &[Column] = &[("id", INT4), ("a_id", INT4), ("y", TEXT)];
const JOINED: &[Column] = &[("id", INT4), ("y", TEXT), ("b_id", INT8), ("b_y", VARCHAR)];
const ALL: &[Column] = &{
    let mut all = [("id", INT4); KINDS.len() + 1];
    let mut at = 0;
    while at < KINDS.len() {
        all[at + 1] = KINDS[at];
        at += 1;
    }
    all
};

const fn table(name: &'static str, cluster: Cluster, columns: &'static [Column]) -> Relation {
    Relation { name, columns, cluster, is_table: true, is_tracked: true }
}

const fn member(name: &'static str, cluster: Cluster, columns: &'static [Column]) -> Relation {
    Relation { is_tracked: false, ..table(name, cluster, columns) }
}

const fn derived(name: &'static str, cluster: Cluster, columns: &'static [Column]) -> Relation {
    Relation { is_table: false, ..member(name, cluster, columns) }
}

/// All that queries read.
pub const RELATIONS: &[Relation] = &[
    table("kinds", Cluster::Types, ALL),
    table("a", Cluster::Joins, A),
    table("b", Cluster::Joins, B),
    table("c", Cluster::Joins, C),
    table("part", Cluster::Partitions, PART),
    member("part_0", Cluster::Partitions, PART),
    member("part_1", Cluster::Partitions, PART),
    member("part_2", Cluster::Partitions, PART),
    member("part_2_1", Cluster::Partitions, PART),
    table("base", Cluster::Children, BASE),
    table("child_1", Cluster::Children, BASE),
    member("child_2", Cluster::Children, BASE),
    table("secret", Cluster::Policies, BASE),
    table("acl", Cluster::Policies, ACL),
    table("detail", Cluster::Joins, DETAIL),
    table("loose", Cluster::Policies, BASE),
    member("fleeting", Cluster::Policies, BASE),
    derived("ONLY base", Cluster::Children, BASE),
    derived("v_joined", Cluster::Joins, JOINED),
    derived("v_nested", Cluster::Joins, JOINED),
    derived("v_part", Cluster::Partitions, PART),
    derived("v_barrier", Cluster::Children, BASE),
    derived("v_counts", Cluster::Joins, &[("x", INT4), ("n", INT8)]),
    derived("f_rows(2)", Cluster::Joins, A),
    derived("f_rows(3)", Cluster::Joins, A),
    derived("f_listed('a')", Cluster::Partitions, &[("id", INT4), ("y", TEXT)]),
];

/// Functions of one value: name, the kind of the argument, and of the result.
pub const FUNCTIONS: &[(&str, &Kind, &Kind)] = &[
    ("f_sql", INT4, TEXT),
    ("f_plpgsql", INT4, INT8),
    ("f_caught", INT4, INT4),
    ("f_dynamic", TEXT, INT8),
    ("f_definer", INT4, INT8),
    ("f_loop", INT4, INT8),
    ("f_lower", TEXT, TEXT),
    ("f_row", INT4, TEXT),
    ("f_holder", INT4, TEXT),
];

const SCHEMA: &str = r#"
CREATE SCHEMA app; SET search_path = app, public;
CREATE TYPE mood AS ENUM ('sad', 'fair', 'so happy');
CREATE DOMAIN label AS text; CREATE DOMAIN small AS int CHECK (VALUE < 1000); CREATE DOMAIN exact AS numeric;
CREATE TYPE pair AS (a int, b text);
CREATE COLLATION ci (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
CREATE TABLE a (id int PRIMARY KEY, x int, y text, z int, n numeric, k int8);
CREATE TABLE b (id int8 PRIMARY KEY, a_id int, x int2, y varchar(20), d date, m mood);
CREATE TABLE c (x int, y text, z int);
CREATE TABLE part (id int, x int, y text, z int, PRIMARY KEY (id, x)) PARTITION BY LIST (x);
CREATE TABLE part_0 PARTITION OF part FOR VALUES IN (0, 1);
CREATE TABLE part_1 (y text, gone int, z int, id int NOT NULL, x int NOT NULL); ALTER TABLE part_1 DROP COLUMN gone;
ALTER TABLE part ATTACH PARTITION part_1 FOR VALUES IN (2, 3);
CREATE TABLE part_2 (gone int, id int NOT NULL, x int NOT NULL, z int, y text) PARTITION BY HASH (id); ALTER TABLE part_2 DROP COLUMN gone;
ALTER TABLE part ATTACH PARTITION part_2 FOR VALUES IN (4, 5);
CREATE TABLE part_2_0 PARTITION OF part_2 FOR VALUES WITH (MODULUS 2, REMAINDER 0);
CREATE TABLE part_2_1 (z int, y text, x int NOT NULL, id int NOT NULL); ALTER TABLE part_2 ATTACH PARTITION part_2_1 FOR VALUES WITH (MODULUS 2, REMAINDER 1);
CREATE TABLE part_d PARTITION OF part DEFAULT;
CREATE TABLE spare (LIKE part_0 INCLUDING ALL);
CREATE TABLE base (id int PRIMARY KEY, x int, y text);
CREATE TABLE child_1 (w int, PRIMARY KEY (id)) INHERITS (base);
CREATE TABLE child_2 (w int, y text, x int, id int NOT NULL PRIMARY KEY); ALTER TABLE child_2 INHERIT base;
CREATE TABLE grandchild (PRIMARY KEY (id)) INHERITS (child_1);
CREATE TABLE secret (id int PRIMARY KEY, x int, y text);
CREATE TABLE acl (id int PRIMARY KEY, x int, z int);
CREATE TABLE detail (id int PRIMARY KEY, a_id int REFERENCES a ON DELETE CASCADE ON UPDATE CASCADE, y text);
CREATE TABLE loose (id int PRIMARY KEY, x int, y text);
CREATE UNLOGGED TABLE fleeting (id int PRIMARY KEY, x int, y text);
CREATE VIEW v_joined AS SELECT a.id, a.y, b.id AS b_id, b.y AS b_y FROM a JOIN b ON b.a_id = a.id;
CREATE VIEW v_nested AS SELECT v.* FROM v_joined v WHERE EXISTS (SELECT FROM c WHERE c.x = v.id);
CREATE VIEW v_part AS SELECT id, x, y, z FROM part WHERE z < 4;
CREATE VIEW v_barrier WITH (security_barrier) AS SELECT id, x, y FROM base WHERE x <> 1;
CREATE VIEW v_counts AS SELECT x, count(*) AS n FROM c GROUP BY x;
CREATE FUNCTION f_sql(v int) RETURNS text LANGUAGE sql STABLE AS 'SELECT min(y) FROM app.a WHERE x = v';
CREATE FUNCTION f_rows(v int) RETURNS SETOF a LANGUAGE sql STABLE AS 'SELECT * FROM app.a WHERE x = v';
CREATE FUNCTION f_listed(v text) RETURNS TABLE (id int, y text) LANGUAGE plpgsql STABLE AS $$ BEGIN RETURN QUERY SELECT p.id, p.y FROM app.part p WHERE p.y = v; END $$;
CREATE FUNCTION f_plpgsql(v int) RETURNS int8 LANGUAGE plpgsql STABLE AS $$ BEGIN RETURN (SELECT count(*) FROM app.b WHERE a_id = v); END $$;
CREATE FUNCTION f_caught(v int) RETURNS int LANGUAGE plpgsql STABLE AS $$ DECLARE r int; BEGIN SELECT 6 / z INTO r FROM app.c WHERE x = v ORDER BY z; RETURN r; EXCEPTION WHEN OTHERS THEN RETURN -1; END $$;
CREATE FUNCTION f_dynamic(v text) RETURNS int8 LANGUAGE plpgsql STABLE AS $$ DECLARE r int8; BEGIN EXECUTE 'SELECT count(*) FROM app.base WHERE y = $1' INTO r USING v; RETURN r; END $$;
CREATE FUNCTION f_definer(v int) RETURNS int8 LANGUAGE sql STABLE SECURITY DEFINER SET search_path = app AS 'SELECT count(*) FROM secret WHERE x = v';
CREATE FUNCTION f_loop(v int) RETURNS int8 LANGUAGE plpgsql STABLE AS $$ DECLARE r record; s int8 := 0; BEGIN FOR r IN SELECT id FROM app.part WHERE x = v ORDER BY id LOOP s := s + r.id; EXIT WHEN s > 8; END LOOP; RETURN s; END $$;
CREATE FUNCTION f_lower(v text) RETURNS text LANGUAGE sql IMMUTABLE AS 'SELECT lower(v)';
CREATE TYPE holder AS (held base);
CREATE FUNCTION f_row(v int) RETURNS text LANGUAGE plpgsql STABLE AS $$ DECLARE r app.a%ROWTYPE; BEGIN r.id := v; RETURN to_json(r); END $$;
CREATE FUNCTION f_holder(v int) RETURNS text LANGUAGE plpgsql STABLE AS $$ BEGIN RETURN json_populate_record(NULL::app.holder, json_build_object('held', json_build_object('id', v, 'more', 7))); END $$;
GRANT USAGE ON SCHEMA app TO reader; GRANT SELECT ON ALL TABLES IN SCHEMA app TO reader; GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA app TO reader;
ALTER TABLE secret ENABLE ROW LEVEL SECURITY;
CREATE POLICY seen ON secret USING (x IN (SELECT x FROM acl WHERE z = 1));
"#;

/// How many rows a table begins with, at least and at most.
const ROWS: (usize, usize) = (4, 14);

/// A role that owns nothing, and for whom the policies count.
pub const READER: &str = "reader";

/// Statements that make a world, whatever world was there before.
pub fn statements(random: &mut Random, focus: &Focus) -> Vec<String> {
    let kinds: String = KINDS.iter().map(|(name, kind)| format!(", {name} {}", kind.name)).collect();
    let mut made = vec![
        "DROP SCHEMA IF EXISTS app CASCADE".to_owned(),
        format!("DO $$ BEGIN CREATE ROLE {READER}; EXCEPTION WHEN duplicate_object THEN NULL; END $$"),
        SCHEMA.replace("CREATE TABLE a ", &format!("CREATE TABLE kinds (id int PRIMARY KEY{kinds}); CREATE TABLE a ")),
    ];
    for relation in RELATIONS.iter().filter(|relation| relation.is_table) {
        made.extend((0..random.below(3)).map(|_| index(random, relation)));
    }
    for relation in RELATIONS.iter().filter(|relation| relation.is_table) {
        let rows = ROWS.0 + random.below(ROWS.1 - ROWS.0);
        made.extend((0..rows).map(|id| insert(random, relation, id, " ON CONFLICT DO NOTHING")));
    }
    if random.percent(60) {
        made.push("ANALYZE".to_owned());
    }
    for relation in RELATIONS.iter().filter(|relation| relation.is_tracked) {
        made.extend(rules(random, focus, relation));
    }
    made
}

/// An index of any kind; what cannot be made fails, and is left out.
pub fn index(random: &mut Random, relation: &Relation) -> String {
    let (first, _) = *random.pick(relation.columns);
    let (second, _) = *random.pick(relation.columns);
    let name = relation.name;
    match random.below(8) {
        0 | 1 => format!("CREATE INDEX ON {name} ({first}, {second})"),
        2 => format!("CREATE INDEX ON {name} USING hash ({first})"),
        3 => format!("CREATE INDEX ON {name} ({first}) WHERE {second} IS NOT NULL"),
        4 => format!("CREATE INDEX ON {name} (({first}::text))"),
        5 => format!("CREATE INDEX ON {name} ({first}) INCLUDE ({second})"),
        _ => format!("CREATE INDEX ON {name} ({first})"),
    }
}

/// A row with this key, where there is one.
pub fn insert(random: &mut Random, relation: &Relation, id: usize, tail: &str) -> String {
    let (names, values) = row(random, relation, id);
    format!("INSERT INTO {} ({}) VALUES ({}){tail}", relation.name, names.join(", "), values.join(", "))
}

/// The columns of a row, and literals for them.
pub fn row(random: &mut Random, relation: &Relation, id: usize) -> (Vec<&'static str>, Vec<String>) {
    let names = relation.columns.iter().map(|(name, _)| *name).collect();
    let values = relation.columns.iter().map(|(name, kind)| match *name {
        "id" => id.to_string(),
        // A leaf takes what belongs into it now and then only.
        "x" if relation.name.starts_with("part") => value_of_leaf(random, relation.name),
        _ if random.percent(10) => "NULL".to_owned(),
        _ => kind.literal(random),
    });
    (names, values.collect())
}

fn value_of_leaf(random: &mut Random, name: &str) -> String {
    let first = match name {
        "part_0" => 0,
        "part_1" => 2,
        "part" => return random.below(8).to_string(),
        _ => 4,
    };
    (first + random.below(2)).to_string()
}

/// Between none and four rules of a table. Most have one that sees every row, else little could be cached.
fn rules(random: &mut Random, focus: &Focus, relation: &Relation) -> Vec<String> {
    if random.percent(3) {
        return Vec::new();
    }
    let mut rules: Vec<String> = (0..1 + random.below(3)).map(|number| rule(random, focus, relation, number)).collect();
    if random.percent(80) {
        let name = relation.name;
        let template = if name == "c" || random.percent(30) { format!("{name}:all") } else { format!("{name}:{{id}}") };
        rules.push(format!("SELECT cachetag.track('{name}', ARRAY['{template}'], identity => 'full')"));
    }
    rules
}

/// One rule. Some have options under which a captured tag of theirs would not be enough.
pub fn rule(random: &mut Random, focus: &Focus, relation: &Relation, number: usize) -> String {
    let known = focus.columns(relation);
    let mut columns: Vec<&str> = (0..random.below(3)).map(|_| random.pick(known).0).collect();
    columns.dedup();
    if focus.theme.is_some() && known.len() > 1 && random.percent(60) {
        columns = vec![random.pick(&known[1..]).0];
    }
    let parts: String = columns.iter().map(|column| format!(":{{{column}}}")).collect();
    let family = if random.percent(8) { "shared".to_owned() } else { format!("{}{number}", relation.name) };
    let template =
        if parts.is_empty() && random.percent(50) { format!("{family}:all") } else { format!("{family}{parts}") };
    let mut options = String::new();
    if random.percent(8) {
        // Several, so that there are queries which read no others.
        let some: BTreeSet<&str> = (0..1 + random.below(3)).map(|_| random.pick(known).0).collect();
        options += &format!(", columns => ARRAY['{}']", Vec::from_iter(some).join("','"));
    }
    if random.percent(4) {
        options += *random.pick(&[
            ", operations => '{insert}'",
            ", operations => '{update,delete}'",
            ", operations => '{insert,update,delete}'",
        ]);
    }
    if random.percent(8) && relation.columns.iter().any(|(name, _)| *name == "x") {
        options +=
            *random.pick(&[", predicate => 'x = 1'", ", predicate => 'x IN (1, 2)'", ", predicate => 'x IS NULL'"]);
    }
    if random.percent(4) {
        options += ", soft => true";
    }
    let identity = if relation.name != "c" && random.percent(15) { "family" } else { "full" };
    format!("SELECT cachetag.track('{}', ARRAY['{template}'], identity => '{identity}'{options})", relation.name)
}
