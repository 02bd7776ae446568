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
CREATE TABLE t (id int PRIMARY KEY, a int NOT NULL, b text);
CREATE TABLE u (id int PRIMARY KEY, t_id int UNIQUE);
SELECT count(*) FROM cachetag.track('t', 't:{id}'), cachetag.track('u', 'u:{id}') AS u;
CREATE VIEW v AS SELECT id FROM t;
CREATE FUNCTION f(int) RETURNS int LANGUAGE sql STABLE AS 'SELECT a FROM t WHERE id = $1';
SELECT count(*) > 0 FROM bumped();

-- Rows in the log are no business of definitions; other tables neither.
SELECT count(*) FROM bumped() \g /dev/null
SELECT cachetag.capture_begin() \g /dev/null
SELECT count(*) FROM t WHERE id = 1;
SELECT tags, cacheable FROM cachetag.capture_end() \gset
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
SELECT count(*) FROM bumped() \g /dev/null
SELECT cachetag.capture_begin() \g /dev/null
SELECT count(*) FROM t WHERE id = 1;
SELECT tags, cacheable FROM cachetag.capture_end() \gset
ALTER TABLE t RENAME TO t2;
SELECT falls(:'tags');
ALTER TABLE t2 RENAME TO t;
-- A view, a function that was inlined, one that was not.
SELECT count(*) FROM bumped() \g /dev/null
SELECT cachetag.capture_begin() \g /dev/null
SELECT count(*) FROM v WHERE id = 1;
SELECT tags, cacheable FROM cachetag.capture_end() \gset
CREATE OR REPLACE VIEW v AS SELECT id + 1 AS id FROM t;
SELECT falls(:'tags');
SELECT count(*) FROM bumped() \g /dev/null
SELECT cachetag.capture_begin() \g /dev/null
SELECT f(1);
SELECT tags, cacheable FROM cachetag.capture_end() \gset
CREATE OR REPLACE FUNCTION f(int) RETURNS int LANGUAGE sql STABLE AS 'SELECT a + 1 FROM t WHERE id = $1';
SELECT falls(:'tags');
SELECT count(*) FROM bumped() \g /dev/null
SELECT cachetag.capture_begin() \g /dev/null
SELECT abs(-1);
SELECT tags, cacheable FROM cachetag.capture_end() \gset
CREATE FUNCTION public.abs(bigint) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT 7';
SELECT falls(:'tags');
DROP FUNCTION public.abs(bigint);
SELECT falls(:'tags');
-- What is not read: a key that is NULL, a table whose join is superfluous, a partition that is pruned.
SELECT count(*) FROM bumped() \g /dev/null
SELECT cachetag.capture_begin() \g /dev/null
SELECT count(*) FROM t WHERE id = NULL;
SELECT tags, cacheable FROM cachetag.capture_end() \gset
ALTER TABLE t ALTER b TYPE varchar;
SELECT falls(:'tags');
SELECT count(*) FROM bumped() \g /dev/null
SELECT cachetag.capture_begin() \g /dev/null
SELECT count(*) FROM t LEFT JOIN u ON u.t_id = t.id;
SELECT tags, cacheable FROM cachetag.capture_end() \gset
ALTER TABLE u DROP CONSTRAINT u_t_id_key;
SELECT falls(:'tags');
CREATE UNIQUE INDEX u_unique ON u (t_id);
SELECT count(*) FROM bumped() \g /dev/null
SELECT cachetag.capture_begin() \g /dev/null
SELECT count(*) FROM t LEFT JOIN u ON u.t_id = t.id;
SELECT tags, cacheable FROM cachetag.capture_end() \gset
DROP INDEX u_unique;
SELECT falls(:'tags');
CREATE TABLE p (id int, kind int NOT NULL, PRIMARY KEY (id, kind)) PARTITION BY LIST (kind);
CREATE TABLE p1 PARTITION OF p FOR VALUES IN (1);
CREATE TABLE p2 (id int, kind int NOT NULL, PRIMARY KEY (id, kind));
SELECT count(*) FROM cachetag.track('p', 'p:{id}');
SELECT count(*) > 0 FROM bumped();
SELECT count(*) FROM bumped() \g /dev/null
SELECT cachetag.capture_begin() \g /dev/null
SELECT count(*) FROM p WHERE kind = 2;
SELECT tags, cacheable FROM cachetag.capture_end() \gset
SELECT array_to_string(:'tags'::text[], ',') LIKE '%p:%';
ALTER TABLE p ATTACH PARTITION p2 FOR VALUES IN (2);
SELECT falls(:'tags');
SELECT count(*) FROM bumped() \g /dev/null
SELECT cachetag.capture_begin() \g /dev/null
SELECT count(*) FROM p WHERE kind = 2 AND id = 3;
SELECT tags, cacheable FROM cachetag.capture_end() \gset
ALTER TABLE p DETACH PARTITION p2;
SELECT falls(:'tags');
SELECT count(*) FROM bumped() \g /dev/null
SELECT cachetag.capture_begin() \g /dev/null
SELECT count(*) FROM p WHERE kind = 3;
SELECT tags, cacheable FROM cachetag.capture_end() \gset
CREATE TABLE p3 PARTITION OF p FOR VALUES IN (3);
SELECT falls(:'tags');
-- A new partition takes nobody's name: results of other tables stay.
SELECT count(*) FROM bumped() \g /dev/null
SELECT cachetag.capture_begin() \g /dev/null
SELECT count(*) FROM t WHERE id = 1;
SELECT tags, cacheable FROM cachetag.capture_end() \gset
CREATE TABLE p4 PARTITION OF p FOR VALUES IN (4);
DROP TABLE p4;
SELECT falls(:'tags');
CREATE TABLE p4 PARTITION OF p FOR VALUES IN (4);
SELECT count(*) FROM bumped() WHERE false;
SELECT count(*) FROM bumped() \g /dev/null
SELECT cachetag.capture_begin() \g /dev/null
SELECT count(*) FROM p WHERE kind = 4;
SELECT tags, cacheable FROM cachetag.capture_end() \gset
DROP TABLE p4;
SELECT falls(:'tags');
-- Partitions tracked one by one, the root not.
CREATE TABLE q (id int, kind int NOT NULL, PRIMARY KEY (id, kind)) PARTITION BY LIST (kind);
CREATE TABLE q1 PARTITION OF q FOR VALUES IN (1);
SELECT count(*) FROM cachetag.track('q1', 'q1:{id}');
SELECT count(*) > 0 FROM bumped();
SELECT count(*) FROM bumped() \g /dev/null
SELECT cachetag.capture_begin() \g /dev/null
SELECT count(*) FROM q WHERE id = 1;
SELECT tags, cacheable FROM cachetag.capture_end() \gset
CREATE TABLE q2 PARTITION OF q FOR VALUES IN (2);
SELECT falls(:'tags'), :'cacheable';
SELECT count(*) FROM bumped() \g /dev/null
SELECT cachetag.capture_begin() \g /dev/null
SELECT count(*) FROM q WHERE kind = 1 AND id = 1;
SELECT tags, cacheable FROM cachetag.capture_end() \gset
ALTER TABLE q DETACH PARTITION q1 CONCURRENTLY;
SELECT falls(:'tags'), :'cacheable';
-- Policies, enums, operators, another table that takes the name.
SELECT count(*) FROM bumped() \g /dev/null
SELECT cachetag.capture_begin() \g /dev/null
SELECT count(*) FROM t WHERE id = NULL;
SELECT tags, cacheable FROM cachetag.capture_end() \gset
CREATE POLICY mine ON t USING (a = 1);
SELECT falls(:'tags');
SELECT count(*) FROM bumped() \g /dev/null
SELECT cachetag.capture_begin() \g /dev/null
SELECT count(*) FROM t WHERE id = NULL;
SELECT tags, cacheable FROM cachetag.capture_end() \gset
ALTER TABLE t ENABLE ROW LEVEL SECURITY;
SELECT falls(:'tags');
SELECT count(*) FROM bumped() \g /dev/null
SELECT cachetag.capture_begin() \g /dev/null
SELECT count(*) FROM t WHERE id = NULL;
SELECT tags, cacheable FROM cachetag.capture_end() \gset
DROP POLICY mine ON t;
SELECT falls(:'tags');
CREATE TYPE mood AS ENUM ('sad', 'happy');
SELECT count(*) > 0 FROM bumped();
SELECT count(*) FROM bumped() \g /dev/null
SELECT cachetag.capture_begin() \g /dev/null
SELECT 'sad'::mood;
SELECT tags, cacheable FROM cachetag.capture_end() \gset
ALTER TYPE mood RENAME VALUE 'sad' TO 'blue';
SELECT falls(:'tags');
SELECT count(*) FROM bumped() \g /dev/null
SELECT cachetag.capture_begin() \g /dev/null
SELECT count(*) FROM t WHERE id = 1;
SELECT tags, cacheable FROM cachetag.capture_end() \gset
CREATE SCHEMA first;
CREATE TABLE first.t (id int);
SELECT falls(:'tags');
-- No row of the table is read, but its columns make a type.
SELECT count(*) FROM bumped() \g /dev/null
SELECT cachetag.capture_begin() \g /dev/null
SELECT json_populate_record(NULL::u, '{"id": 1, "more": 2}');
SELECT tags, cacheable FROM cachetag.capture_end() \gset
ALTER TABLE u ADD more int;
SELECT falls(:'tags'), :'cacheable';
-- A table gets the columns of those above it, too.
CREATE TABLE heir (PRIMARY KEY (id)) INHERITS (u);
SELECT count(*) FROM bumped() \g /dev/null
SELECT cachetag.capture_begin() \g /dev/null
SELECT json_populate_record(NULL::heir, '{"id": 1, "still_more": 2}');
SELECT tags, cacheable FROM cachetag.capture_end() \gset
ALTER TABLE u ADD still_more int;
SELECT falls(:'tags'), :'cacheable';
DROP TABLE heir;
-- Behind the column of another type; behind a domain, an array, a range.
CREATE TABLE outer_t (id int, part u);
SELECT count(*) FROM bumped() \g /dev/null
SELECT cachetag.capture_begin() \g /dev/null
SELECT json_populate_record(NULL::outer_t, '{"part": {"id": 1, "and_more": 2}}');
SELECT tags, cacheable FROM cachetag.capture_end() \gset
ALTER TABLE u ADD and_more int;
SELECT falls(:'tags'), :'cacheable';
DROP TABLE outer_t;
CREATE DOMAIN us AS u[];
SELECT count(*) FROM bumped() \g /dev/null
SELECT cachetag.capture_begin() \g /dev/null
SELECT NULL::us;
SELECT tags, cacheable FROM cachetag.capture_end() \gset
ALTER TABLE u ADD in_domain int;
SELECT falls(:'tags'), :'cacheable';
DROP DOMAIN us;
CREATE TYPE u_range AS RANGE (subtype = u);
SELECT count(*) FROM bumped() \g /dev/null
SELECT cachetag.capture_begin() \g /dev/null
SELECT NULL::u_range, NULL::u_multirange;
SELECT tags, cacheable FROM cachetag.capture_end() \gset
ALTER TABLE u ADD in_range int;
SELECT falls(:'tags'), :'cacheable';
DROP TYPE u_range;
-- In a variable of a function, whose expressions no plan shows. The second time by what the session has kept of the first.
CREATE TABLE kind (id int);
CREATE FUNCTION columns_of_kind() RETURNS text LANGUAGE plpgsql STABLE AS $$ DECLARE r kind%ROWTYPE; BEGIN RETURN to_json(r); END $$;
PREPARE of_kind AS SELECT columns_of_kind();
SELECT count(*) FROM bumped() \g /dev/null
SELECT cachetag.capture_begin() \g /dev/null
EXECUTE of_kind;
SELECT tags, cacheable FROM cachetag.capture_end() \gset
ALTER TABLE kind ADD a int;
SELECT falls(:'tags'), :'cacheable';
SELECT cachetag.capture_begin() \g /dev/null
EXECUTE of_kind;
SELECT tags, cacheable FROM cachetag.capture_end() \gset
SELECT count(*) FROM bumped() \g /dev/null
ALTER TABLE kind ADD b int;
SELECT falls(:'tags'), :'cacheable';
-- Another table takes the name.
BEGIN;
ALTER TABLE kind RENAME TO old_kind;
CREATE TABLE kind (other int);
COMMIT;
SELECT cachetag.capture_begin() \g /dev/null
EXECUTE of_kind;
SELECT tags, cacheable FROM cachetag.capture_end() \gset
SELECT count(*) FROM bumped() \g /dev/null
ALTER TABLE kind ADD c int;
SELECT falls(:'tags'), :'cacheable';
-- A partition takes the name of a table that stands behind it in the search path; another one takes none.
CREATE TABLE whole (id int) PARTITION BY LIST (id);
CREATE SCHEMA behind;
CREATE TABLE behind.piece (id int);
SET search_path = public, behind;
SELECT count(*) FROM bumped() \g /dev/null
SELECT cachetag.capture_begin() \g /dev/null
SELECT count(*) FROM piece;
SELECT tags FROM cachetag.capture_end() \gset
CREATE TABLE other_piece PARTITION OF whole FOR VALUES IN (1);
SELECT falls(:'tags');
CREATE TABLE piece PARTITION OF whole FOR VALUES IN (2);
SELECT falls(:'tags');
RESET search_path;
-- Never if it rolls back.
SELECT count(*) FROM bumped() \g /dev/null
SELECT cachetag.capture_begin() \g /dev/null
SELECT f(1);
SELECT tags, cacheable FROM cachetag.capture_end() \gset
BEGIN;
CREATE OR REPLACE FUNCTION f(int) RETURNS int LANGUAGE sql STABLE AS 'SELECT 1';
ROLLBACK;
SELECT falls(:'tags');
DROP FUNCTION falls(text[]), bumped();
SELECT pg_drop_replication_slot('peek');
