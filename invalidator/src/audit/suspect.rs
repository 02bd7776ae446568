//! Which commit should have bumped: a search for the rows behind a wrong entry.
//!
//! What PostgreSQL still knows of the past is in its rows: the transaction that wrote each (`xmin`) and, with `track_commit_timestamp`, when it
//! committed. So the plan of the recipe's query tells which tables it reads and by which conditions; of the rows that meet those, the last written
//! are the suspects, and rules and tags tell why their commit did not reach the entry. What left no row (a DELETE, a row that moved out of
//! the conditions, a function of the query that reads tables by itself) leaves its table at best.

use serde::Serialize;
use serde_json::Value as Json;

use super::AuditError;
use super::database::{Database, Recipe, ValueError};
use super::entry::Entry;

/// Suspects of one table.
const PER_TABLE: usize = 3;
/// Suspects of one mismatch.
const IN_ALL: usize = 6;

/// A commit, or at least a table, that may be why an entry is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Suspect {
    /// The table, with its schema.
    pub table: String,
    /// The transaction that wrote a row that the query reads; none if no such row is left.
    pub xid: Option<u64>,
    /// When it committed, where the server keeps that (`track_commit_timestamp`).
    pub committed_at: Option<String>,
    /// The tags that the row's change bumps, with what depends on them.
    pub tags: Vec<String>,
    /// Why that has not reached the entry.
    pub cause: Cause,
}

/// Why a change of a row has not made an entry invalid.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// No rule tracks the table.
    Untracked,
    /// The entry has none of the tags that the change bumps.
    TagMissing,
    /// The entry has this tag, at this version, which is not above its `as_of`: the bump is missing, or the value is older than its token.
    NotBumped {
        /// The tag.
        tag: String,
        /// Its version; none if it is not registered.
        version: Option<String>,
    },
    /// No row is left to tell.
    NoRow,
}

/// A table in a plan, with the conditions that its rows meet.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Scan {
    table: String,
    alias: String,
    conditions: Vec<String>,
}

/// The suspects of a mismatch, the last written first.
pub async fn suspects(
    database: &Database,
    recipe: &Recipe,
    parameters: &[Option<String>],
    entry: &Entry,
) -> Result<Vec<Suspect>, AuditError> {
    let plan = format!("EXPLAIN (VERBOSE, FORMAT JSON) {}", recipe.statement);
    let plan = match database.diagnose(recipe, &plan, parameters).await {
        Ok(rows) => rows.into_iter().flatten().flatten().collect::<String>(),
        Err(ValueError::Recipe(_)) => return Ok(Vec::new()),
        Err(ValueError::Fatal(error)) => return Err(error),
    };
    let mut found: Vec<(u64, Suspect)> = Vec::new();
    for scan in scans(&serde_json::from_str(&plan).unwrap_or(Json::Null)) {
        // Conditions that speak of other tables too cannot be asked alone.
        let rows = match database.diagnose(recipe, &rows_query(&scan, true), &[]).await {
            Err(ValueError::Recipe(_)) => database.diagnose(recipe, &rows_query(&scan, false), &[]).await,
            other => other,
        };
        let rows = match rows {
            Ok(rows) => rows,
            Err(ValueError::Recipe(_)) => Vec::new(),
            Err(ValueError::Fatal(error)) => return Err(error),
        };
        for row in rows {
            let [age, xid, committed_at, tracked, tags] = row.as_slice() else { continue };
            let is_tracked = tracked.as_deref() == Some("true");
            let tags: Vec<String> =
                tags.as_deref().and_then(|tags| serde_json::from_str(tags).ok()).unwrap_or_default();
            let xid = xid.as_deref().and_then(|xid| xid.parse().ok());
            let cause = if xid.is_none() && is_tracked { Cause::NoRow } else { cause(is_tracked, &tags, entry) };
            let suspect = Suspect { table: scan.table.clone(), xid, committed_at: committed_at.clone(), tags, cause };
            found.push((age.as_deref().and_then(|age| age.parse().ok()).unwrap_or(u64::MAX), suspect));
        }
    }
    found.sort_by_key(|(age, _)| *age);
    found.truncate(IN_ALL);
    Ok(found.into_iter().map(|(_, suspect)| suspect).collect())
}

/// Why a row's change has not reached an entry.
fn cause(is_tracked: bool, tags: &[String], entry: &Entry) -> Cause {
    if !is_tracked {
        return Cause::Untracked;
    }
    let family = |tag: &str| tag.split_once(':').map_or(tag, |(family, _)| family).to_owned();
    // An entry checks its tags and their families; a bumped family reaches its members, a bumped member whoever has the whole family.
    let reaches = |bumped: &String, name: &String| {
        bumped == name || name == "*" || (name.ends_with(":*") && family(bumped) == family(name))
    };
    let met = entry.tags.iter().filter(|tag| tags.iter().any(|bumped| reaches(bumped, &tag.name)));
    // The exact tag says more than the family beside it, which every entry of the family has.
    match met.min_by_key(|tag| !tags.contains(&tag.name)) {
        Some(tag) if tags.contains(&tag.name) || is_of_whole_family(entry, &tag.name) => {
            Cause::NotBumped { tag: tag.name.clone(), version: tag.hard.map(|version| version.to_string()) }
        }
        _ => Cause::TagMissing,
    }
}

/// Is the entry tagged with the family as such? Then its versions are checked twice: that of the whole, that of the members.
fn is_of_whole_family(entry: &Entry, name: &str) -> bool {
    name == "*" || entry.tags.iter().filter(|tag| tag.name == name).count() > 1
}

/// Who wrote the rows that a scan reads, the last first; when they were committed; whether a rule tracks the table; the tags of each row. One row
/// without a writer if there are none.
fn rows_query(scan: &Scan, with_conditions: bool) -> String {
    let Scan { table, alias, conditions } = scan;
    let conditions = match conditions.as_slice() {
        some @ [_, ..] if with_conditions => some.join(" AND "),
        _ => "true".to_owned(),
    };
    let literal = table.replace('\'', "''");
    format!(
        "WITH written AS MATERIALIZED ( \
             SELECT pg_catalog.age({alias}.xmin) AS age, {alias}.xmin::pg_catalog.text AS xid, {alias} AS row \
               FROM ONLY {table} AS {alias} WHERE {conditions} ORDER BY 1 LIMIT {PER_TABLE}), \
         tracked AS (SELECT EXISTS (SELECT FROM cachetag.binding WHERE relation = '{literal}'::pg_catalog.regclass) AS by_rule) \
         SELECT w.age::pg_catalog.text, w.xid, \
                CASE WHEN pg_catalog.current_setting('track_commit_timestamp')::pg_catalog.bool \
                     THEN pg_catalog.pg_xact_commit_timestamp(w.xid::pg_catalog.xid)::pg_catalog.text END, \
                t.by_rule::pg_catalog.text, \
                CASE WHEN t.by_rule AND w.xid IS NOT NULL THEN (SELECT pg_catalog.to_json(pg_catalog.array_agg(DISTINCT u.tag))::pg_catalog.text \
                     FROM pg_catalog.unnest(cachetag.tags_of('{literal}'::pg_catalog.regclass, w.row)) AS own(tag), \
                          LATERAL (SELECT own.tag UNION SELECT d.tag FROM cachetag.descendants(own.tag) d) AS u) END \
           FROM tracked t LEFT JOIN written w ON true ORDER BY w.age"
    )
}

/// The tables that a plan reads, each alias once.
fn scans(plan: &Json) -> Vec<Scan> {
    let mut found = Vec::new();
    walk(plan, &mut found);
    found
}

fn walk(node: &Json, found: &mut Vec<Scan>) {
    match node {
        Json::Array(nodes) => nodes.iter().for_each(|node| walk(node, found)),
        Json::Object(fields) => {
            let text = |name: &str| fields.get(name).and_then(Json::as_str);
            if let (Some(schema), Some(table)) = (text("Schema"), text("Relation Name")) {
                let conditions =
                    ["Index Cond", "Recheck Cond", "TID Cond", "Filter"].iter().filter_map(|name| text(name));
                let scan = Scan {
                    table: format!("{}.{}", quoted(schema), quoted(table)),
                    alias: quoted(text("Alias").unwrap_or(table)),
                    conditions: conditions.map(str::to_owned).collect(),
                };
                if !found.contains(&scan) {
                    found.push(scan);
                }
            }
            fields.values().for_each(|value| walk(value, found));
        }
        _ => {}
    }
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

#[cfg(test)]
mod tests {
    use cachetag_core::{Epoch, Lsn, Version};

    use super::super::entry::{EntryTag, Verdict};
    use super::*;

    fn entry(tags: &[&str]) -> Entry {
        let version = |lsn| Some(Version::new(Epoch::new(1).unwrap(), Lsn(lsn)));
        let tag = |name: &&str| EntryTag { name: (*name).to_owned(), hard: version(1), soft: None };
        Entry {
            verdict: Verdict::Hit,
            reason: String::new(),
            as_of: version(5),
            payload: None,
            put_at: None,
            is_expired: false,
            tags: tags.iter().map(tag).collect(),
            soft_floor: None,
            watermark: version(9),
            lag_ms: 0,
        }
    }

    #[test]
    fn causes() {
        let product = entry(&["product:1", "product:*"]);
        let tags = |tags: &[&str]| tags.iter().map(|tag| (*tag).to_owned()).collect::<Vec<_>>();
        assert_eq!(cause(false, &[], &product), Cause::Untracked);
        assert_eq!(cause(true, &tags(&["product:2"]), &product), Cause::TagMissing);
        assert_eq!(cause(true, &tags(&["category:1"]), &product), Cause::TagMissing);
        let not_bumped =
            |tag: &str| Cause::NotBumped { tag: tag.into(), version: Some("0000000001.00000000000000000001".into()) };
        assert_eq!(cause(true, &tags(&["category:1", "product:1"]), &product), not_bumped("product:1"));
        assert_eq!(cause(true, &tags(&["product:*"]), &product), not_bumped("product:*"));
        assert_eq!(cause(true, &tags(&["product:7"]), &entry(&["product:*", "product:*"])), not_bumped("product:*"));
        assert_eq!(cause(true, &tags(&["product:7"]), &entry(&["*"])), not_bumped("*"));
    }

    #[test]
    fn plans_name_tables_and_conditions() {
        let plan = serde_json::json!([{ "Plan": { "Node Type": "Result", "Plans": [
            { "Node Type": "Index Scan", "Schema": "public", "Relation Name": "odd \" name", "Alias": "p",
              "Index Cond": "(p.id = 1)", "Filter": "p.live" },
            { "Node Type": "Bitmap Index Scan", "Index Name": "i" },
        ] } }]);
        let scan = Scan {
            table: r#""public"."odd "" name""#.into(),
            alias: r#""p""#.into(),
            conditions: vec!["(p.id = 1)".into(), "p.live".into()],
        };
        assert_eq!(scans(&plan), [scan]);
        assert_eq!(scans(&Json::Null), []);
    }
}
