//! Columns that come, go and change their names under a rule.

use crate::situations::{Case, in_every_situation};

const TABLE: &str = "CREATE TABLE t (id int PRIMARY KEY, grp int, note text); INSERT INTO t VALUES (1, 5, 'a');
    CREATE TABLE other (id int PRIMARY KEY); INSERT INTO other VALUES (1);
    SELECT cachetag.track('t', ARRAY['t:{id}', 'g:{grp}'], identity => 'full');
    SELECT cachetag.track('other', 'other:{id}');";

#[tokio::test]
async fn a_column_dropped_and_another_of_its_name_added() {
    in_every_situation(Case {
        schema: TABLE,
        change: &[
            "UPDATE t SET grp = 6",
            "ALTER TABLE t DROP grp",
            "UPDATE t SET note = 'b'",
            "ALTER TABLE t ADD grp text DEFAULT 'new'",
            "UPDATE t SET note = 'c'",
        ],
        lost: &["t:1", "g:5", "g:6", "g:new"],
        kept: &["other:1"],
        then: Some(("t", "UPDATE t SET note = note || 'x'")),
    })
    .await;
}

#[tokio::test]
async fn a_column_that_a_rule_names_is_dropped_for_good() {
    in_every_situation(Case {
        schema: TABLE,
        change: &["UPDATE t SET grp = 6", "ALTER TABLE t DROP grp", "UPDATE t SET note = 'b'"],
        lost: &["t:1", "g:5", "g:6", "g:7"],
        kept: &["other:1"],
        then: Some(("t", "UPDATE t SET note = note || 'x'")),
    })
    .await;
}

#[tokio::test]
async fn two_columns_swap_their_names() {
    in_every_situation(Case {
        schema: "CREATE TABLE t (id int PRIMARY KEY, a int, b int); INSERT INTO t VALUES (1, 10, 20);
                 SELECT cachetag.track('t', ARRAY['a:{a}', 'b:{b}'], columns => '{a}', predicate => 'b <> 99', identity => 'full');",
        change: &[
            "UPDATE t SET a = 11",
            "ALTER TABLE t RENAME a TO c",
            "UPDATE t SET c = 12",
            "ALTER TABLE t RENAME b TO a",
            "ALTER TABLE t RENAME c TO b",
            "UPDATE t SET b = 13",
        ],
        lost: &["a:10", "a:11", "a:12", "a:13", "b:20"],
        kept: &[],
        then: Some(("t", "UPDATE t SET a = a + 1, b = b + 1")),
    })
    .await;
}

/// PostgreSQL takes other ALTER commands for tables too, when it comes to names.
#[tokio::test]
async fn columns_renamed_by_alter_view() {
    in_every_situation(Case {
        schema: "CREATE TABLE t (id int PRIMARY KEY, a int, b int); INSERT INTO t VALUES (1, 10, 20);
                 SELECT cachetag.track('t', ARRAY['a:{a}'], identity => 'full');",
        change: &[
            "ALTER VIEW t RENAME COLUMN a TO c",
            "ALTER MATERIALIZED VIEW t RENAME COLUMN b TO a",
            "ALTER VIEW t RENAME COLUMN c TO b",
        ],
        lost: &["a:10", "a:20"],
        kept: &[],
        then: Some(("t", "UPDATE t SET a = a + 1, b = b + 1")),
    })
    .await;
}

#[tokio::test]
async fn a_change_of_the_schema_that_is_rolled_back() {
    in_every_situation(Case {
        schema: TABLE,
        change: &["BEGIN; SAVEPOINT s; ALTER TABLE t RENAME grp TO gruppe; UPDATE t SET gruppe = 6; ROLLBACK TO s; UPDATE t SET grp = 7; COMMIT"],
        lost: &["t:1", "g:5", "g:7"],
        kept: &["g:6", "other:1"],
        then: Some(("t", "UPDATE t SET grp = grp + 1")),
    })
    .await;
}

#[tokio::test]
async fn a_generated_column_in_a_template_widens_and_becomes_precise_when_it_is_no_longer_generated() {
    in_every_situation(Case {
        schema: "CREATE TABLE t (id int PRIMARY KEY, n int, twice int GENERATED ALWAYS AS (n * 2) STORED); INSERT INTO t VALUES (1, 5);
                 SELECT cachetag.track('t', ARRAY['w:{twice}'], columns => '{twice}', identity => 'family');",
        change: &["UPDATE t SET n = 6", "ALTER TABLE t ALTER twice DROP EXPRESSION", "UPDATE t SET twice = 13"],
        lost: &["w:10", "w:12", "w:13"],
        kept: &[],
        then: Some(("t", "UPDATE t SET twice = twice + 1")),
    })
    .await;
}

/// The parent's column is an ordinary one; this child computes it.
#[tokio::test]
async fn a_column_that_only_a_child_generates() {
    in_every_situation(Case {
        schema: "CREATE TABLE t (id int PRIMARY KEY, n int, grp int);
                 CREATE TABLE child (id int PRIMARY KEY, n int, grp int GENERATED ALWAYS AS (n * 2) STORED);
                 INSERT INTO child VALUES (1, 5);
                 SELECT cachetag.track('t', ARRAY['g:{grp}'], identity => 'full');",
        change: &["ALTER TABLE child INHERIT t", "UPDATE child SET n = 6"],
        lost: &["g:10", "g:12"],
        kept: &[],
        then: Some(("t", "UPDATE t SET n = n + 1")),
    })
    .await;
}

#[tokio::test]
async fn replica_identities_change_between_rows() {
    in_every_situation(Case {
        schema:
            "CREATE TABLE t (id int PRIMARY KEY, grp int NOT NULL, note text); CREATE UNIQUE INDEX t_grp ON t (grp, id);
                 INSERT INTO t VALUES (1, 5, 'a'), (2, 50, 'a');
                 SELECT cachetag.track('t', ARRAY['t:{id}', 'g:{grp}'], identity => 'family');",
        change: &[
            "UPDATE t SET grp = 6 WHERE id = 1",
            "ALTER TABLE t REPLICA IDENTITY USING INDEX t_grp",
            "UPDATE t SET grp = 7 WHERE id = 1",
            "DROP INDEX t_grp",
            "UPDATE t SET grp = 8 WHERE id = 1",
            "ALTER TABLE t REPLICA IDENTITY FULL",
            "UPDATE t SET grp = 9 WHERE id = 1",
            "ALTER TABLE t REPLICA IDENTITY NOTHING",
            "UPDATE t SET grp = 10, id = 3 WHERE id = 1",
            "ALTER TABLE t REPLICA IDENTITY DEFAULT",
            "UPDATE t SET grp = 11 WHERE id = 3",
            "DELETE FROM t WHERE id = 2",
        ],
        lost: &["t:1", "t:2", "t:3", "g:5", "g:6", "g:7", "g:8", "g:9", "g:10", "g:11", "g:50"],
        kept: &[],
        then: Some(("t", "UPDATE t SET grp = grp + 1")),
    })
    .await;
}

#[tokio::test]
async fn the_primary_key_changes_between_rows() {
    in_every_situation(Case {
        schema: TABLE,
        change: &[
            "ALTER TABLE t REPLICA IDENTITY DEFAULT",
            "UPDATE t SET note = 'b'",
            "ALTER TABLE t DROP CONSTRAINT t_pkey",
            "UPDATE t SET id = 2",
            "ALTER TABLE t ADD PRIMARY KEY (grp)",
            "UPDATE t SET id = 3, grp = 6",
            "ALTER TABLE t DROP id",
            "UPDATE t SET grp = 7",
        ],
        lost: &["t:1", "t:2", "t:3", "g:5", "g:6", "g:7"],
        kept: &["other:1"],
        then: Some(("t", "UPDATE t SET grp = grp + 1")),
    })
    .await;
}
