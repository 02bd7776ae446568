//! Transactions that change what tables, views, functions and policies are. Each leaves a world in which the grammar's names mean something.

use super::mutation::Mutation;
use super::theme::Theme;
use super::world::{Focus, RELATIONS, index, rule};
use crate::Random;

/// Changes under which every name still exists.
const CHANGES: &[&str] = &[
    // Contents without a row in the log.
    "ALTER TABLE a ALTER x TYPE int USING x + 1",
    "ALTER TABLE b ALTER y TYPE varchar(20) USING coalesce(y, 'z')",
    "ALTER TABLE base ALTER x TYPE int USING coalesce(x, 0)",
    "ALTER TABLE part ALTER y TYPE text USING y || 'x'",
    "ALTER TABLE a ADD COLUMN more int DEFAULT 5",
    "ALTER TABLE base ADD COLUMN more int DEFAULT 5",
    "ALTER TABLE a DROP COLUMN IF EXISTS more",
    "ALTER TABLE base DROP COLUMN IF EXISTS more",
    "ALTER TABLE c ADD COLUMN IF NOT EXISTS more text",
    "ALTER TABLE a DROP COLUMN k; ALTER TABLE a ADD COLUMN k int8 DEFAULT 3",
    // Names.
    "ALTER TABLE a RENAME x TO swapped; ALTER TABLE a RENAME z TO x; ALTER TABLE a RENAME swapped TO z",
    "ALTER TABLE part RENAME y TO renamed; ALTER TABLE part RENAME renamed TO y",
    "ALTER TABLE loose RENAME TO swapped; ALTER TABLE secret RENAME TO loose; ALTER TABLE swapped RENAME TO secret; GRANT SELECT ON secret, loose TO reader",
    "ALTER TYPE mood RENAME VALUE 'fair' TO 'good'; ALTER TYPE mood RENAME VALUE 'so happy' TO 'fair'; ALTER TYPE mood RENAME VALUE 'good' TO 'so happy'",
    "ALTER TYPE pair RENAME ATTRIBUTE a TO c",
    // Partitions and children.
    "ALTER TABLE part DETACH PARTITION part_1",
    "ALTER TABLE part DETACH PARTITION part_2",
    "ALTER TABLE part_2 DETACH PARTITION part_2_1",
    "ALTER TABLE part DETACH PARTITION part_d; ALTER TABLE part ATTACH PARTITION part_1 FOR VALUES IN (2, 3); ALTER TABLE part ATTACH PARTITION part_d DEFAULT",
    "ALTER TABLE part DETACH PARTITION part_d; ALTER TABLE part ATTACH PARTITION part_2 FOR VALUES IN (4, 5); ALTER TABLE part ATTACH PARTITION part_d DEFAULT",
    "ALTER TABLE part_2 ATTACH PARTITION part_2_1 FOR VALUES WITH (MODULUS 2, REMAINDER 1)",
    "INSERT INTO spare VALUES (1, 9, 'a', 1), (2, 9, 'b', 2) ON CONFLICT DO NOTHING; DELETE FROM part_d WHERE x = 9; ALTER TABLE part ATTACH PARTITION spare FOR VALUES IN (9)",
    "ALTER TABLE part DETACH PARTITION spare",
    "ALTER TABLE part DETACH PARTITION part_d; ALTER TABLE part ATTACH PARTITION part_d DEFAULT",
    "DROP TABLE part_d; CREATE TABLE part_d PARTITION OF part DEFAULT; GRANT SELECT ON part_d TO reader",
    "ALTER TABLE child_2 NO INHERIT base",
    "ALTER TABLE child_2 INHERIT base",
    "ALTER TABLE loose INHERIT base",
    "ALTER TABLE loose NO INHERIT base",
    "DROP TABLE grandchild; CREATE TABLE grandchild (PRIMARY KEY (id)) INHERITS (child_1); INSERT INTO grandchild VALUES (40, 1, 'a', 1)",
    // Views.
    "CREATE OR REPLACE VIEW v_joined AS SELECT a.id, a.y, b.id AS b_id, b.y AS b_y FROM a JOIN b ON b.a_id = a.z",
    "CREATE OR REPLACE VIEW v_joined AS SELECT a.id, a.y, b.id AS b_id, b.y AS b_y FROM a JOIN b ON b.a_id = a.id",
    "CREATE OR REPLACE VIEW v_part AS SELECT id, x, y, z FROM part WHERE z >= 2",
    "DROP VIEW v_part; CREATE VIEW v_part AS SELECT id, x, y, z FROM part_0; GRANT SELECT ON v_part TO reader",
    "CREATE OR REPLACE VIEW v_counts AS SELECT x, count(y) AS n FROM c GROUP BY x",
    "CREATE OR REPLACE VIEW v_counts AS SELECT x, count(*) AS n FROM c GROUP BY x",
    "CREATE OR REPLACE VIEW v_barrier WITH (security_barrier) AS SELECT id, x, y FROM base WHERE x <> 2",
    "ALTER VIEW v_barrier RENAME TO v_swapped; CREATE VIEW v_barrier AS SELECT id, x, y FROM child_1; GRANT SELECT ON v_barrier TO reader; DROP VIEW v_swapped",
    // Functions.
    "CREATE OR REPLACE FUNCTION f_sql(v int) RETURNS text LANGUAGE sql STABLE AS 'SELECT max(y) FROM app.a WHERE x = v'",
    "CREATE OR REPLACE FUNCTION f_sql(v int) RETURNS text LANGUAGE sql STABLE AS 'SELECT min(y) FROM app.a WHERE z = v'",
    "CREATE OR REPLACE FUNCTION f_plpgsql(v int) RETURNS int8 LANGUAGE plpgsql STABLE AS $$ BEGIN RETURN (SELECT count(*) FROM app.b WHERE x = v); END $$",
    "CREATE OR REPLACE FUNCTION f_dynamic(v text) RETURNS int8 LANGUAGE plpgsql STABLE AS $$ DECLARE r int8; BEGIN EXECUTE 'SELECT count(*) FROM app.c WHERE y = $1' INTO r USING v; RETURN r; END $$",
    "CREATE OR REPLACE FUNCTION f_lower(v text) RETURNS text LANGUAGE sql IMMUTABLE AS 'SELECT upper(v)'",
    "CREATE OR REPLACE FUNCTION f_lower(v text) RETURNS text LANGUAGE sql IMMUTABLE AS 'SELECT lower(v)'",
    "ALTER FUNCTION f_plpgsql(int) RENAME TO f_swapped; ALTER FUNCTION f_loop(int) RENAME TO f_plpgsql; ALTER FUNCTION f_swapped(int) RENAME TO f_loop",
    "DROP FUNCTION f_definer(int); CREATE FUNCTION f_definer(v int) RETURNS int8 LANGUAGE sql STABLE SECURITY DEFINER SET search_path = app AS 'SELECT count(*) FROM secret WHERE id = v'",
    // Policies.
    "ALTER POLICY seen ON secret USING (x IN (SELECT x FROM acl WHERE z = 2))",
    "ALTER POLICY seen ON secret USING (x IN (SELECT x FROM acl WHERE z = 1))",
    "CREATE POLICY also ON secret USING (x = 3)",
    "DROP POLICY IF EXISTS also ON secret",
    "ALTER TABLE secret DISABLE ROW LEVEL SECURITY",
    "ALTER TABLE secret ENABLE ROW LEVEL SECURITY",
    // Constraints and defaults, which change no row but may change plans.
    "ALTER TABLE a ADD CONSTRAINT few CHECK (id < 100)",
    "ALTER TABLE a DROP CONSTRAINT IF EXISTS few",
    "DELETE FROM c WHERE x IS NULL; ALTER TABLE c ALTER x SET NOT NULL",
    "ALTER TABLE c ALTER x DROP NOT NULL",
    "TRUNCATE part_0, c",
    "TRUNCATE a, detail",
];

impl Mutation {
    /// A change of definitions, of rules among them.
    pub fn definition(random: &mut Random, focus: &Focus) -> Mutation {
        if focus.theme == Some(Theme::Definitions) && random.percent(80) {
            let of_functions: Vec<_> = CHANGES.iter().filter(|text| text.contains(" FUNCTION ")).collect();
            return Mutation {
                statements: vec!["BEGIN".to_owned(), random.pick(&of_functions).to_string(), "COMMIT".to_owned()],
            };
        }
        let text = match random.below(10) {
            0 => {
                let relation = random.pick(RELATIONS);
                index(random, relation)
            }
            1 | 2 => {
                let tracked: Vec<_> = RELATIONS.iter().filter(|relation| relation.is_tracked).collect();
                let relation = *random.pick(&tracked);
                let number = random.below(3);
                match random.below(3) {
                    0 => format!(
                        "SELECT cachetag.untrack('{0}', (SELECT min(template) FROM cachetag.rules WHERE \"table\" = '{0}'::regclass))",
                        relation.name
                    ),
                    _ => rule(random, focus, relation, number),
                }
            }
            _ => (*random.pick(CHANGES)).to_owned(),
        };
        let statements = vec!["BEGIN".to_owned(), text, "COMMIT".to_owned()];
        Mutation { statements }
    }
}
