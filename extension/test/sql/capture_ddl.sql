-- Automatic tags: changes of definitions. Each capture is followed by a command; does a message in the log make what was captured fall?
\pset tuples_only on
\pset format unaligned
SELECT count(*) FROM pg_create_logical_replication_slot('peek', 'test_decoding');
CREATE FUNCTION bumped() RETURNS SETOF text LANGUAGE sql AS $$
    SELECT tag FROM pg_logical_slot_get_changes('peek', NULL, NULL) c, regexp_split_to_table(substr(c.data, strpos(c.data, 'content:hard') + 13), E'\n') AS tag
     WHERE c.data LIKE 'message: transactional: 1%'
$$;
-- A bump reaches the tag itself, the family of the tag, and every tag if it is of the family.
CREATE FUNCTION falls(tags text[]) RETURNS boolean LANGUAGE sql AS $$
    SELECT coalesce(bool_or(b = t OR split_part(b, ':', 1) = split_part(t, ':', 1) AND (b LIKE '%:*' OR t LIKE '%:*')), false) FROM bumped() AS b, unnest(tags) AS t
$$;
\set begin 'SELECT count(*) FROM bumped() \\g /dev/null\nSELECT cachetag.capture_begin() \\g /dev/null'
\set end 'SELECT tags, cacheable FROM cachetag.capture_end() \\gset'
CREATE TABLE t (id int PRIMARY KEY, a int NOT NULL, b text);
CREATE TABLE u (id int PRIMARY KEY, t_id int UNIQUE);
SELECT count(*) FROM cachetag.track('t', 't:{id}'), cachetag.track('u', 'u:{id}') AS u;
CREATE VIEW v AS SELECT id FROM t;
CREATE FUNCTION f(int) RETURNS int LANGUAGE sql STABLE AS 'SELECT a FROM t WHERE id = $1';
SELECT count(*) > 0 FROM bumped();

-- Rows in the log are no business of definitions; other tables neither.
:begin
SELECT count(*) FROM t WHERE id = 1;
:end
CREATE INDEX ON t (a);
CREATE INDEX ON u (t_id);
COMMENT ON TABLE t IS 'x';
ANALYZE t;
GRANT SELECT ON t TO PUBLIC;
CREATE TEMP TABLE x (id int);
CREATE TEMP VIEW y AS SELECT 1 AS one;
DROP TABLE x;
ALTER TABLE u ADD c int;
SELECT falls(:'tags'), :'cacheable';
-- The table.
ALTER TABLE t ADD c int;
SELECT falls(:'tags');
:begin
SELECT count(*) FROM t WHERE id = 1;
:end
ALTER TABLE t RENAME TO t2;
SELECT falls(:'tags');
ALTER TABLE t2 RENAME TO t;
-- A view, a function that was inlined, one that was not.
:begin
SELECT count(*) FROM v WHERE id = 1;
:end
CREATE OR REPLACE VIEW v AS SELECT id + 1 AS id FROM t;
SELECT falls(:'tags');
:begin
SELECT f(1);
:end
CREATE OR REPLACE FUNCTION f(int) RETURNS int LANGUAGE sql STABLE AS 'SELECT a + 1 FROM t WHERE id = $1';
SELECT falls(:'tags');
:begin
SELECT abs(-1);
:end
CREATE FUNCTION public.abs(bigint) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT 7';
SELECT falls(:'tags');
DROP FUNCTION public.abs(bigint);
SELECT falls(:'tags');
-- What is not read: a key that is NULL, a table whose join is superfluous, a partition that is pruned.
:begin
SELECT count(*) FROM t WHERE id = NULL;
:end
ALTER TABLE t ALTER b TYPE varchar;
SELECT falls(:'tags');
:begin
SELECT count(*) FROM t LEFT JOIN u ON u.t_id = t.id;
:end
ALTER TABLE u DROP CONSTRAINT u_t_id_key;
SELECT falls(:'tags');
CREATE UNIQUE INDEX u_unique ON u (t_id);
:begin
SELECT count(*) FROM t LEFT JOIN u ON u.t_id = t.id;
:end
DROP INDEX u_unique;
SELECT falls(:'tags');
CREATE TABLE p (id int, kind int NOT NULL, PRIMARY KEY (id, kind)) PARTITION BY LIST (kind);
CREATE TABLE p1 PARTITION OF p FOR VALUES IN (1);
CREATE TABLE p2 (id int, kind int NOT NULL, PRIMARY KEY (id, kind));
SELECT count(*) FROM cachetag.track('p', 'p:{id}');
SELECT count(*) > 0 FROM bumped();
:begin
SELECT count(*) FROM p WHERE kind = 2;
:end
SELECT array_to_string(:'tags'::text[], ',') LIKE '%p:%';
ALTER TABLE p ATTACH PARTITION p2 FOR VALUES IN (2);
SELECT falls(:'tags');
:begin
SELECT count(*) FROM p WHERE kind = 2 AND id = 3;
:end
ALTER TABLE p DETACH PARTITION p2;
SELECT falls(:'tags');
:begin
SELECT count(*) FROM p WHERE kind = 3;
:end
CREATE TABLE p3 PARTITION OF p FOR VALUES IN (3);
SELECT falls(:'tags');
-- A new partition takes nobody's name: results of other tables stay.
:begin
SELECT count(*) FROM t WHERE id = 1;
:end
CREATE TABLE p4 PARTITION OF p FOR VALUES IN (4);
DROP TABLE p4;
SELECT falls(:'tags');
CREATE TABLE p4 PARTITION OF p FOR VALUES IN (4);
SELECT count(*) FROM bumped() WHERE false;
:begin
SELECT count(*) FROM p WHERE kind = 4;
:end
DROP TABLE p4;
SELECT falls(:'tags');
-- Partitions tracked one by one, the root not.
CREATE TABLE q (id int, kind int NOT NULL, PRIMARY KEY (id, kind)) PARTITION BY LIST (kind);
CREATE TABLE q1 PARTITION OF q FOR VALUES IN (1);
SELECT count(*) FROM cachetag.track('q1', 'q1:{id}');
SELECT count(*) > 0 FROM bumped();
:begin
SELECT count(*) FROM q WHERE id = 1;
:end
CREATE TABLE q2 PARTITION OF q FOR VALUES IN (2);
SELECT falls(:'tags'), :'cacheable';
:begin
SELECT count(*) FROM q WHERE kind = 1 AND id = 1;
:end
ALTER TABLE q DETACH PARTITION q1 CONCURRENTLY;
SELECT falls(:'tags'), :'cacheable';
-- Policies, enums, operators, another table that takes the name.
:begin
SELECT count(*) FROM t WHERE id = NULL;
:end
CREATE POLICY mine ON t USING (a = 1);
SELECT falls(:'tags');
:begin
SELECT count(*) FROM t WHERE id = NULL;
:end
ALTER TABLE t ENABLE ROW LEVEL SECURITY;
SELECT falls(:'tags');
:begin
SELECT count(*) FROM t WHERE id = NULL;
:end
DROP POLICY mine ON t;
SELECT falls(:'tags');
CREATE TYPE mood AS ENUM ('sad', 'happy');
SELECT count(*) > 0 FROM bumped();
:begin
SELECT 'sad'::mood;
:end
ALTER TYPE mood RENAME VALUE 'sad' TO 'blue';
SELECT falls(:'tags');
:begin
SELECT count(*) FROM t WHERE id = 1;
:end
CREATE SCHEMA first;
CREATE TABLE first.t (id int);
SELECT falls(:'tags');
-- Never if it rolls back.
:begin
SELECT f(1);
:end
BEGIN;
CREATE OR REPLACE FUNCTION f(int) RETURNS int LANGUAGE sql STABLE AS 'SELECT 1';
ROLLBACK;
SELECT falls(:'tags');
DROP FUNCTION falls(text[]), bumped();
SELECT pg_drop_replication_slot('peek');
