//! Transactions that change data.

use super::kind::{Kind, quoted};
use super::world::{Focus, Relation, insert, row};
use crate::Random;

/// One transaction, as statements that a session runs one after the other.
#[derive(Debug, Clone)]
pub struct Mutation {
    /// With BEGIN and COMMIT where it has more than one.
    pub statements: Vec<String>,
}

impl Mutation {
    /// A change of rows.
    pub fn rows(random: &mut Random, focus: &Focus) -> Mutation {
        let mut statements: Vec<String> = match random.below(100) {
            0..80 => vec![statement(random, focus)],
            80..86 => {
                let (kept, undone) = (statement(random, focus), statement(random, focus));
                vec!["BEGIN".into(), kept, "SAVEPOINT s".into(), undone, "ROLLBACK TO s".into(), "COMMIT".into()]
            }
            86..92 => vec![
                "BEGIN".into(),
                statement(random, focus),
                "SAVEPOINT s".into(),
                statement(random, focus),
                "RELEASE s".into(),
                "COMMIT".into(),
            ],
            92..95 => vec![
                "BEGIN".into(),
                statement(random, focus),
                "PREPARE TRANSACTION 'two'".into(),
                "COMMIT PREPARED 'two'".into(),
            ],
            _ => vec!["BEGIN".into(), statement(random, focus), statement(random, focus), "COMMIT".into()],
        };
        if random.percent(2) {
            statements.insert(
                0,
                format!(
                    "TRUNCATE {}",
                    random.pick(&["c", "part", "part_1", "ONLY base", "child_1", "acl", "a CASCADE", "detail"])
                ),
            );
            if statements.len() > 1 {
                statements.truncate(1);
            }
        }
        Mutation { statements }
    }
}

fn statement(random: &mut Random, focus: &Focus) -> String {
    // A partition or a table below another is written to under its own name now and then.
    let is_direct = random.percent(30);
    let relation = focus.pick(random, |relation| relation.is_table && (relation.is_tracked || is_direct));
    let name = relation.name;
    let id = random.below(24);
    match random.below(100) {
        0..14 => insert(random, relation, id, ""),
        14..28 => {
            // Several at a time make up for what is deleted.
            let (names, _) = row(random, relation, id);
            let rows: Vec<String> =
                (0..2 + random.below(5)).map(|more| row(random, relation, id + more).1.join(", ")).collect();
            format!("INSERT INTO {name} ({}) VALUES ({}) ON CONFLICT DO NOTHING", names.join(", "), rows.join("), ("))
        }
        28..34 => {
            let (names, values) = row(random, relation, id);
            let key = if name.starts_with("part") { "id, x" } else { "id" };
            let set = assignments(random, focus, relation);
            format!(
                "INSERT INTO {name} ({}) VALUES ({}) ON CONFLICT ({key}) DO UPDATE SET {set}",
                names.join(", "),
                values.join(", ")
            )
        }
        34..68 => {
            format!(
                "UPDATE {name} SET {} WHERE {}",
                assignments(random, focus, relation),
                filter(random, focus, relation, true)
            )
        }
        68..72 => {
            // Rows move between keys, and between partitions.
            let (column, kind) = *random.pick(relation.columns);
            if kind.literals.iter().all(|text| text.parse::<i32>().is_ok()) {
                format!("UPDATE {name} SET {column} = {column} + 1 WHERE {}", filter(random, focus, relation, true))
            } else {
                format!("UPDATE {name} SET {column} = NULL WHERE {}", filter(random, focus, relation, true))
            }
        }
        72..86 => format!("DELETE FROM {name} WHERE {}", filter(random, focus, relation, false)),
        86..90 => {
            let (names, values) = row(random, relation, id);
            let set = assignments(random, focus, relation);
            let (key, value) = (names[0], &values[0]);
            let arm = *random.pick(&["UPDATE SET ", "DELETE"]);
            let set = if arm == "DELETE" { String::new() } else { set };
            format!(
                "MERGE INTO {name} t USING (SELECT 1) s ON t.{key} = {value} WHEN MATCHED THEN {arm}{set} WHEN NOT MATCHED THEN INSERT ({}) VALUES ({})",
                names.join(", "),
                values.join(", ")
            )
        }
        90..94 => {
            let (filter, other) = (filter(random, focus, relation, false), *random.pick(&["c", "acl"]));
            let columns = if other == "c" { "x, z" } else { "id, x" };
            format!(
                "WITH gone AS (DELETE FROM {name} WHERE {filter} RETURNING 1) INSERT INTO {other} ({columns}) SELECT {id}, count(*) FROM gone"
            )
        }
        94..97 => {
            let (names, values) = row(random, relation, id);
            let line = values
                .iter()
                .map(|value| if value == "NULL" { "\\N".to_owned() } else { unquoted(value) })
                .collect::<Vec<_>>()
                .join("\t");
            // The shell's printf reads the backslashes once more.
            let line = line.replace('\\', "\\\\\\\\").replace('%', "%%").replace('"', "\\\"").replace('\'', "'\\''");
            format!("COPY {name} ({}) FROM PROGRAM {}", names.join(", "), quoted(&format!("printf '{line}\\n'")))
        }
        _ => format!(
            "UPDATE {name} t SET {} FROM acl s WHERE s.id = t.{} ",
            assignments(random, focus, relation),
            relation.columns[0].0
        ),
    }
}

fn unquoted(literal: &str) -> String {
    literal.trim_matches('\'').replace("''", "'").replace('\\', "\\\\")
}

fn value(random: &mut Random, kind: &Kind) -> String {
    if random.percent(10) { "NULL".to_owned() } else { kind.literal(random) }
}

fn assignments(random: &mut Random, focus: &Focus, relation: &Relation) -> String {
    let mut chosen = vec![*random.pick(focus.columns(relation))];
    while random.percent(30) {
        let next = *random.pick(focus.columns(relation));
        if chosen.iter().all(|(name, _)| *name != next.0) {
            chosen.push(next);
        }
    }
    let set = chosen.into_iter().map(|(name, kind)| format!("{name} = {}", value(random, kind)));
    set.collect::<Vec<_>>().join(", ")
}

fn filter(random: &mut Random, focus: &Focus, relation: &Relation, is_update: bool) -> String {
    let (name, kind) = *random.pick(focus.columns(relation));
    let key = relation.columns[0].0;
    // Mostly one row: the more is bumped, the more a missing tag may hide.
    match random.below(100) {
        0..38 => format!("{key} = {}", random.below(14)),
        38..60 => format!("{key} % 3 = {}", random.below(3)),
        60..72 if is_update => "true".to_owned(),
        72..77 => format!("{name} IS NULL"),
        _ => format!("{name} = {}", kind.literal(random)),
    }
}
