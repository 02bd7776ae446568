-- Automatic tags: which rules can speak for what a query reads, and of which types equal values have equal texts.
\pset tuples_only on
\pset format unaligned
\set end 'SELECT array(SELECT t FROM unnest(tags) AS t WHERE t NOT LIKE \'cachetag.ddl%\') AS tags, cacheable, reasons FROM cachetag.capture_end();'

CREATE TABLE t (id int PRIMARY KEY, cat int, shop int NOT NULL, status text, note text);
ALTER TABLE t REPLICA IDENTITY FULL;
-- A column that may be NULL: a row where it is has no tag, so its rule cannot speak for rows of all kinds; for those with a value it can.
SELECT count(*) FROM cachetag.track('t', 'cat:{cat}');
SELECT cachetag.capture_begin() \g /dev/null
SELECT count(*) FROM t WHERE cat = 5;
:end
SELECT cachetag.capture_begin() \g /dev/null
SELECT count(*) FROM t;
:end
SELECT cachetag.capture_begin() \g /dev/null
SELECT count(*) FROM t WHERE cat IS NULL;
:end
-- NOT NULL, and it can.
ALTER TABLE t ALTER cat SET NOT NULL;
SELECT cachetag.capture_begin() \g /dev/null
SELECT count(*) FROM t;
:end
ALTER TABLE t ALTER cat DROP NOT NULL;
-- The finest of several; a rule by several columns needs all of them.
SELECT count(*) FROM cachetag.track('t', 'shop:{shop}', 'in:{shop}:{cat}', 't:{id}');
SELECT cachetag.capture_begin() \g /dev/null
SELECT count(*) FROM t WHERE shop = 1;
:end
SELECT cachetag.capture_begin() \g /dev/null
SELECT count(*) FROM t WHERE shop IN (1, 2) AND cat IN (3, 4);
:end
SELECT cachetag.capture_begin() \g /dev/null
SELECT count(*) FROM t WHERE shop = 1 AND (cat = 3 OR id = 4);
:end
SELECT cachetag.capture_begin() \g /dev/null
SELECT count(*) FROM t;
:end
SELECT count(*) FROM cachetag.untrack('t');
-- One tag for all rows.
SELECT count(*) FROM cachetag.track('t', 'page:t');
SELECT cachetag.capture_begin() \g /dev/null
SELECT count(*) FROM t WHERE id = 1;
:end
SELECT count(*) FROM cachetag.untrack('t');
-- Rules that do not see every change: of some operations, some columns, some rows.
SELECT count(*) FROM cachetag.track('t', 'a:{id}', operations => '{update,delete}'), cachetag.track('t', 'b:{id}', columns => '{status}') AS b, cachetag.track('t', 'c:{id}', predicate => 'status = ''new''') AS c;
SELECT cachetag.capture_begin() \g /dev/null
SELECT note FROM t WHERE id = 1;
:end
SELECT count(*) FROM cachetag.untrack('t');
-- But one of some columns sees what a query for one row reads, if it reads no others.
SELECT count(*) FROM cachetag.track('t', ARRAY['b:{id}'], columns => '{status}');
SELECT cachetag.capture_begin() \g /dev/null
SELECT status FROM t WHERE id = 1;
SELECT 1 FROM t WHERE status = 'new' AND id = 2;
:end
SET enable_seqscan = off;
SELECT cachetag.capture_begin() \g /dev/null
SELECT status FROM t WHERE id = 1;
SELECT id FROM t WHERE id = 2;
:end
RESET enable_seqscan;
-- Not if it reads another, in a condition, as a part of the whole row or by an index that implies it; nor if it may find several rows.
CREATE INDEX partial ON t (id) WHERE note IS NULL;
SELECT query, cacheable, reasons FROM unnest(ARRAY[
    'SELECT status FROM t WHERE id = 1 AND shop = 1', 'SELECT t FROM t WHERE id = 1', 'SELECT id FROM t WHERE id = 1 AND note IS NULL',
    'SELECT status FROM t WHERE id IN (1, 2)', 'SELECT status FROM t WHERE status = ''new''', 'SELECT count(*) FROM t', 'SELECT status FROM t WHERE id < 2'
]) AS query, cachetag.capture(query);
DROP INDEX partial;
SELECT count(*) FROM cachetag.untrack('t');
-- And one of some rows sees those that satisfy its predicate: a query on no others depends on it.
SELECT count(*) FROM cachetag.track('t', 'new:{id}', predicate => 'status = ''new'' AND note IS NULL');
SELECT cachetag.capture_begin() \g /dev/null
SELECT status FROM t WHERE id = 1 AND status = 'new' AND note IS NULL;
:end
SELECT cachetag.capture_begin() \g /dev/null
SELECT count(*) FROM t WHERE status = 'new' AND note IS NULL;
:end
-- By a condition that the planner leaves out, since the index implies it.
CREATE INDEX partial ON t (id) WHERE status = 'new' AND note IS NULL;
SET enable_seqscan = off;
SELECT cachetag.capture_begin() \g /dev/null
SELECT id FROM t WHERE id = 1 AND note IS NULL AND status = 'new';
:end
RESET enable_seqscan;
DROP INDEX partial;
-- With columns too: a change from one value of the predicate to another is no change of these columns.
SELECT count(*) FROM cachetag.untrack('t');
SELECT count(*) FROM cachetag.track('t', ARRAY['both:{id}'], columns => '{status}', predicate => 'shop IN (1, 2)');
SELECT query, cacheable FROM unnest(ARRAY['SELECT status FROM t WHERE id = 1 AND shop = 1', 'SELECT status FROM t WHERE id = 1']) AS query, cachetag.capture(query);
SELECT count(*) FROM cachetag.untrack('t');
SELECT count(*) FROM cachetag.track('t', 'new:{id}', predicate => 'status = ''new'' AND note IS NULL');
-- Not if other rows can satisfy the conditions, nor if what they are compared with is not known with the plan.
SELECT cachetag.capture_begin() \g /dev/null
SELECT status FROM t WHERE id = 1 AND status = 'new';
SELECT status FROM t WHERE id = 1 AND status = 'old' AND note IS NULL;
SELECT status FROM t WHERE id = 1 AND status IN ('new', 'old') AND note IS NULL;
SELECT status FROM t WHERE id = 1 AND status = 'new' AND note IS NOT NULL;
SELECT status FROM t WHERE id = 1 AND (status = 'new' AND note IS NULL OR id = 1);
:end
SELECT count(*) FROM cachetag.untrack('t');
SELECT count(*) FROM cachetag.track('t', 'a:{id}', operations => '{update,delete}');
-- Beside one that does they do no harm.
SELECT count(*) FROM cachetag.track('t', 'd:{id}');
SELECT cachetag.capture_begin() \g /dev/null
SELECT status FROM t WHERE id = 1 AND status = 'new';
:end
SELECT count(*) FROM cachetag.untrack('t');
-- A soft rule speaks where no other does.
SELECT count(*) FROM cachetag.track('t', 'soft:{id}', soft => true), cachetag.track('t', 'hard:{shop}') AS b;
SELECT cachetag.capture_begin() \g /dev/null
SELECT status FROM t WHERE id = 1;
:end
SELECT count(*) FROM cachetag.untrack('t', 'hard:{shop}');
SELECT cachetag.capture_begin() \g /dev/null
SELECT status FROM t WHERE id = 1;
:end
SELECT count(*) FROM cachetag.untrack('t');
-- A rule whose every change counts for the family.
CREATE TABLE g (id int PRIMARY KEY, twice int GENERATED ALWAYS AS (id * 2) STORED);
SELECT count(*) FROM cachetag.track('g', 'twice:{twice}', identity => 'family');
SELECT cachetag.capture_begin() \g /dev/null
SELECT count(*) FROM g WHERE twice = 4;
:end
-- Too many keys, and a tag that is too long: the family.
SELECT count(*) FROM cachetag.track('t', 't:{id}', 'note:{note}');
SET cachetag.capture_keys = 3;
SELECT cachetag.capture_begin() \g /dev/null
SELECT count(*) FROM t WHERE id IN (1, 2, 3);
:end
SELECT cachetag.capture_begin() \g /dev/null
SELECT count(*) FROM t WHERE id IN (1, 2, 3, 4);
:end
SELECT cachetag.capture_begin() \g /dev/null
SELECT count(*) FROM t WHERE id = 1; SELECT count(*) FROM t WHERE id = 2; SELECT count(*) FROM t WHERE id = 3; SELECT count(*) FROM t WHERE id = 4; SELECT count(*) FROM t WHERE id = 5;
:end
SET cachetag.capture_keys = 0;
RESET cachetag.capture_keys;
SELECT cachetag.capture_begin() \g /dev/null
SELECT count(*) FROM t WHERE note = repeat('x', 600);
:end
SELECT cachetag.capture_begin() \g /dev/null
SELECT count(*) FROM t WHERE note = 'a b:*';
:end
-- A rule that comes and goes: captures see what holds now.
SELECT count(*) FROM cachetag.untrack('t', 'note:{note}');
SELECT cachetag.capture_begin() \g /dev/null
SELECT count(*) FROM t WHERE note = 'x';
:end
SELECT count(*) FROM cachetag.untrack('t');
SELECT cachetag.capture_begin() \g /dev/null
SELECT count(*) FROM t WHERE id = 1;
:end

-- Types. What tags_of says of a row is what the query that looks for it depends on; or the family, where equal values may look different.
CREATE TYPE mood AS ENUM ('sad', 'happy');
CREATE DOMAIN code AS varchar(10);
CREATE COLLATION caseless (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
CREATE TABLE types (id serial PRIMARY KEY, c_bool bool NOT NULL, c_int2 int2 NOT NULL, c_int4 int4 NOT NULL, c_int8 int8 NOT NULL, c_oid oid NOT NULL, c_text text NOT NULL,
    c_varchar varchar(20) NOT NULL, c_name name NOT NULL, c_char "char" NOT NULL, c_uuid uuid NOT NULL, c_date date NOT NULL, c_time time NOT NULL, c_timetz timetz NOT NULL,
    c_timestamp timestamp NOT NULL, c_timestamptz timestamptz NOT NULL, c_macaddr macaddr NOT NULL, c_macaddr8 macaddr8 NOT NULL, c_inet inet NOT NULL, c_cidr cidr NOT NULL,
    c_bytea bytea NOT NULL, c_bit bit(3) NOT NULL, c_varbit varbit NOT NULL, c_lsn pg_lsn NOT NULL, c_money money NOT NULL, c_mood mood NOT NULL, c_code code NOT NULL,
    c_numeric numeric NOT NULL, c_float8 float8 NOT NULL, c_interval interval NOT NULL, c_bpchar char(5) NOT NULL, c_jsonb jsonb NOT NULL, c_array int[] NOT NULL,
    c_range int4range NOT NULL, c_caseless text COLLATE caseless NOT NULL);
ALTER TABLE types REPLICA IDENTITY FULL;
INSERT INTO types VALUES (1, true, -2, 3, 4, 4294967295, 'te xt', 'var', 'name', 'c', 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', '2026-01-02', '03:04:05.6', '03:04:05+02', '2026-01-02 03:04:05',
    '2026-01-02 03:04:05+00', '08:00:2b:01:02:03', '08:00:2b:01:02:03:04:05', '10.0.0.1', '10.0.0.0/24', '\x00ff', '101', '1', '16/B374D848', '1234.50', 'happy', 'code',
    1.50, -0.0, '1 month', 'ab', '{"a": 1.0}', '{1,2}', '[1,3)', 'Ab');
SELECT count(*) FROM pg_attribute a, LATERAL cachetag.track('types', a.attname || ':{' || a.attname || '}') WHERE attrelid = 'types'::regclass AND attnum > 1;
-- The session's own settings make no difference.
SET datestyle = 'German'; SET timezone = 'Asia/Tokyo'; SET bytea_output = 'escape'; SET intervalstyle = 'iso_8601';
SET enable_indexscan = off;
DO $$
DECLARE
    c text;
    query text;
    got text;
    want text;
BEGIN
    FOR c IN SELECT attname FROM pg_attribute WHERE attrelid = 'types'::regclass AND attnum > 1 ORDER BY attnum LOOP
        SELECT x INTO want FROM types t, unnest(cachetag.tags_of('types', t)) AS x WHERE x LIKE c || ':%';
        EXECUTE format('SELECT format(%L, %I) FROM types', format('SELECT FROM types WHERE %I = %%L::%s', c, (
            SELECT format_type(atttypid, atttypmod) FROM pg_attribute WHERE attrelid = 'types'::regclass AND attname = c)), c) INTO query;
        PERFORM cachetag.capture_begin();
        EXECUTE query;
        SELECT t INTO got FROM cachetag.capture_end(), unnest(tags) AS t WHERE t NOT LIKE 'cachetag.ddl%';
        RAISE NOTICE '% %', rpad(c, 14), CASE WHEN got = want THEN got WHEN got LIKE '%:*' THEN 'a family' ELSE 'WRONG: ' || got || ' instead of ' || want END;
    END LOOP;
END $$;
RESET datestyle; RESET timezone; RESET bytea_output; RESET intervalstyle; RESET enable_indexscan;
-- Across types of one kind; a cast of the column hides it.
SELECT cachetag.capture_begin() \g /dev/null
SELECT count(*) FROM types WHERE c_int2 = 5::bigint AND c_int8 = 6::int2;
:end
SELECT cachetag.capture_begin() \g /dev/null
SELECT count(*) FROM types WHERE c_varchar = 'x'::text OR c_name = 'y'::text;
:end
SELECT cachetag.capture_begin() \g /dev/null
SELECT count(*) FROM types WHERE c_inet = '10.0.0.0/24'::cidr OR c_cidr = '10.0.0.7/32'::inet;
:end
SELECT cachetag.capture_begin() \g /dev/null
SELECT count(*) FROM types WHERE c_bool OR NOT c_bool;
:end
SELECT cachetag.capture_begin() \g /dev/null
SELECT count(*) FROM types WHERE c_int4 = 5.0;
:end
-- Another collation than the column's: only the one of the comparison counts.
SELECT cachetag.capture_begin() \g /dev/null
SELECT count(*) FROM types WHERE c_caseless = 'ab' COLLATE "C";
:end
SELECT cachetag.capture_begin() \g /dev/null
SELECT count(*) FROM types WHERE c_text = 'ab' COLLATE caseless;
:end
