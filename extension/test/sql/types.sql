-- A column of every type that is built in, in a template: the tag under odd settings is the tag under the fixed ones, and what the log shows.
CREATE TYPE mood AS ENUM ('sad', 'so happy');
CREATE TYPE pair AS (a int, b text);
CREATE DOMAIN stamp AS timestamptz;
CREATE TABLE everything (
    id int PRIMARY KEY, c_int2 int2, c_int8 int8, c_numeric numeric, c_scaled numeric(9,3), c_float4 float4, c_float8 float8, c_money money,
    c_bool bool, c_text text, c_varchar varchar(20), c_char char(6), c_quoted_char "char", c_name name, c_bytea bytea, c_uuid uuid,
    c_date date, c_time time, c_timetz timetz, c_timestamp timestamp, c_timestamptz timestamptz(3), c_interval interval,
    c_inet inet, c_cidr cidr, c_macaddr macaddr, c_macaddr8 macaddr8, c_bit bit(4), c_varbit varbit, c_json json, c_jsonb jsonb, c_jsonpath jsonpath, c_xml xml,
    c_point point, c_line line, c_lseg lseg, c_box box, c_path path, c_polygon polygon, c_circle circle,
    c_tsvector tsvector, c_tsquery tsquery, c_oid oid, c_regclass regclass, c_regproc regproc, c_regprocedure regprocedure, c_regoper regoper,
    c_regoperator regoperator, c_regtype regtype, c_regrole regrole, c_regnamespace regnamespace, c_regconfig regconfig, c_regdictionary regdictionary,
    c_regcollation regcollation, c_xid xid, c_xid8 xid8, c_cid cid, c_tid tid, c_pg_lsn pg_lsn, c_snapshot pg_snapshot,
    c_int4range int4range, c_numrange numrange, c_tsrange tsrange, c_tstzrange tstzrange, c_daterange daterange, c_int4multirange int4multirange,
    c_tstzmultirange tstzmultirange, c_ints int[], c_texts text[], c_stamps timestamptz[], c_floats float8[], c_byteas bytea[],
    c_mood mood, c_pair pair, c_stamp stamp, c_int2vector int2vector, c_oidvector oidvector);
CREATE FUNCTION odd(int) RETURNS int LANGUAGE sql AS 'SELECT 1';
INSERT INTO everything VALUES (
    1, -2, 9007199254740993, 'NaN', 1.5, 0.1, 0.1::float8 + 0.2, '12.34',
    true, 'a:b {c} é', '100%', 'ab', 'x', 'Name', '\x00ff41', 'A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11',
    '2026-03-04', '05:06:07.8', '05:06:07+02', '2026-03-04 05:06:07', '2026-03-04 05:06:07.123456+02', '1 year 2 mons -3 days 04:05:06.7',
    '10.0.0.1/8', '10.0.0.0/8', '08:00:2b:01:02:03', '08:00:2b:01:02:03:04:05', '0101', '01', '{"b" : 1, "a":2}', '{"b" : 1, "a":2}', '$.a[*]', '<a b="1"/>',
    '(1,2)', '{1,2,3}', '[(0,0),(1,1)]', '(1,1),(0,0)', '[(0,0),(1,1)]', '((0,0),(1,1))', '<(0,0),1>',
    'the:1 cat:2', 'the & cat', 4000000000, 'everything', 'odd', 'odd(int)', '||/', '+(int,int)', 'mood', 'postgres', 'public', 'english', 'simple',
    '"C"', '7', '8', '9', '(1,2)', '16/B374D848', '10:20:10,14',
    '[1,5)', '(1.5,)', '[2026-03-04 05:06,)', '[2026-03-04 05:06+02,)', '[2026-03-04,2026-03-05]', '{[1,2)}',
    '{[2026-03-04 05:06+02,)}', '{1,NULL,3}', '{"a b",NULL,"NULL"}', '{2026-03-04 05:06+02}', '{0.30000000000000004}', '{"\\x00ff"}',
    'so happy', '(1,"x y")', '2026-03-04 05:06:07+02', '1 2', '3 4');
ALTER TABLE everything REPLICA IDENTITY FULL;
-- Some texts are names of other things, and change with them.
SELECT cachetag.track('everything', 'c_regrole:{c_regrole}');
CREATE VIEW lasting AS SELECT attname, attnum FROM pg_attribute
 WHERE attrelid = 'everything'::regclass AND attnum > 0 AND format_type(atttypid, NULL) !~ '^reg';
SELECT count(*) FROM cachetag.track('everything', (SELECT array_agg(format('%s:{%s}', attname, attname) ORDER BY attnum) FROM lasting));
SELECT unnest(cachetag.tags_of('everything', e)) AS tag FROM everything e;
CREATE TABLE fixed AS SELECT cachetag.tags_of('everything', e) AS tags FROM everything e;
-- By tag(), value by value, the same.
DO $$
DECLARE
    name text; computed text; own text[] := '{}';
BEGIN
    FOR name IN SELECT attname FROM lasting LOOP
        EXECUTE format('SELECT cachetag.tag(%L, %I) FROM everything', name, name) INTO computed;
        own := own || computed;
    END LOOP;
    IF (SELECT cachetag.tag_agg(o) FROM unnest(own) AS u(o)) <> (SELECT tags FROM fixed) THEN
        RAISE EXCEPTION 'tag() and tags_of() differ';
    END IF;
END $$;
-- Under odd settings, the same.
SET datestyle = 'SQL, DMY'; SET timezone = 'Asia/Kathmandu'; SET intervalstyle = iso_8601; SET extra_float_digits = -15; SET bytea_output = escape;
SET xmloption = document; SET quote_all_identifiers = on; SET search_path = public, pg_catalog;
SELECT cachetag.tags_of('everything', e) = (SELECT tags FROM fixed) AS the_same FROM everything e;
SET datestyle = 'German'; SET intervalstyle = sql_standard; SET search_path = '';
SELECT cachetag.tags_of('public.everything', e) = (SELECT tags FROM public.fixed) AS the_same FROM public.everything e;
SHOW datestyle; SHOW search_path; SHOW extra_float_digits;
RESET ALL;
-- In a subtransaction that fails, and in a function with settings of its own: the session's settings are what they were.
SET datestyle = 'SQL, DMY';
DO $$
BEGIN
    PERFORM cachetag.tag('x', '2026-03-04'::date, 1 / (SELECT 0));
EXCEPTION WHEN division_by_zero THEN
    RAISE NOTICE '%', '2026-03-04'::date;
END $$;
SELECT cachetag.tag('x', '2026-03-04'::date), '2026-03-04'::date;
RESET datestyle;

-- What the log shows under the fixed settings: test_decoding writes values by their output functions, as pgoutput does.
SELECT count(*) FROM pg_create_logical_replication_slot('peek', 'test_decoding');
UPDATE everything SET id = 1;
SET datestyle = ISO; SET timezone = UTC; SET intervalstyle = postgres; SET extra_float_digits = 1; SET bytea_output = hex; SET lc_monetary = 'C'; SET search_path = pg_catalog; SET quote_all_identifiers = off;
CREATE TABLE public.logged AS SELECT split_part(data, 'new-tuple: ', 2) AS row FROM pg_logical_slot_get_changes('peek', NULL, NULL) WHERE data LIKE '%new-tuple: %';
DO $$
DECLARE
    name text; value text; rest text; different text[] := '{}'; logged text := (SELECT ' ' || row FROM public.logged);
BEGIN
    FOR name IN SELECT attname FROM public.lasting LOOP
        EXECUTE format('SELECT cachetag.tag(%L, %I) FROM public.everything', name, name) INTO value;
        value := split_part(value, ':', 2);
        value := replace(replace(replace(replace(replace(replace(value, '%20', ' '), '%3A', ':'), '%2A', '*'), '%7B', '{'), '%7D', '}'), '%25', '%');
        -- name[type]:value, where test_decoding quotes what is not a number, and writes true for t and B'01' for 01.
        rest := substr(logged, strpos(logged, ' ' || name || '['));
        rest := substr(rest, strpos(rest, ']:') + 2);
        IF NOT starts_with(rest, value) AND NOT starts_with(ltrim(rest, 'B'), '''' || replace(value, '''', '''''') || '''') THEN
            different := different || name;
        END IF;
    END LOOP;
    RAISE NOTICE 'different in the log: %', different;
END $$;
RESET ALL;
SELECT pg_drop_replication_slot('peek');

-- A row with columns of the same names has to have their types too, modifiers included: they make the text.
SELECT cachetag.untrack('everything');
SELECT count(*) FROM cachetag.track('everything', 'x:{c_scaled}:{c_varchar}:{c_stamp}');
SELECT cachetag.tags_of('everything', r) FROM (SELECT c_scaled, c_varchar, c_stamp FROM everything) r;
SELECT cachetag.tags_of('everything', r) FROM (SELECT c_scaled, c_varchar::text, c_stamp::timestamptz FROM everything) r;
SELECT cachetag.tags_of('everything', r) FROM (SELECT c_scaled + 0 AS c_scaled, c_varchar, c_stamp FROM everything) r;
SELECT cachetag.tags_of('everything', r) FROM (SELECT c_scaled::text AS c_scaled, c_varchar, c_stamp FROM everything) r;
SELECT cachetag.tags_of('everything', NULL), cachetag.tags_of(NULL, e) FROM everything e;
SELECT cachetag.tags_of('everything', e) FROM (VALUES (1)) AS v(i) LEFT JOIN everything e ON e.id = 2;
SELECT cachetag.tags_of('fixed', f) FROM fixed f;
-- In PL/pgSQL, of a record; toasted; too long.
ALTER TABLE everything ALTER COLUMN c_text SET STORAGE EXTERNAL;
UPDATE everything SET c_text = repeat('t', 100000);
SELECT count(*) FROM cachetag.track('everything', 'long:{c_text}', 'short:{id}');
DO $$
DECLARE
    r record; e everything;
BEGIN
    SELECT * INTO r FROM everything;
    RAISE NOTICE '%', cachetag.tags_of('everything', r);
    SELECT * INTO e FROM everything;
    RAISE NOTICE '%', cachetag.tags_of('everything', e);
END $$;
-- A rule of this or another session counts for the next row.
CREATE EXTENSION dblink;
SELECT cachetag.untrack('everything', 'x:{c_scaled}:{c_varchar}:{c_stamp}');
SELECT cachetag.tags_of('everything', e) FROM everything e;
SELECT * FROM dblink('dbname=' || current_database(), 'SELECT cachetag.untrack(''everything'', ''long:{c_text}'')') AS t(n bigint);
SELECT cachetag.tags_of('everything', e) FROM everything e;
BEGIN;
SELECT count(*) FROM cachetag.track('everything', 'mine:{id}');
SELECT cachetag.tags_of('everything', e) FROM everything e;
ROLLBACK;
SELECT cachetag.tags_of('everything', e) FROM everything e;
-- In REPEATABLE READ too: the rows of this transaction are published under rules that it does not see.
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT count(*) FROM everything;
SELECT * FROM dblink('dbname=' || current_database(), 'SELECT cachetag.track(''everything'', ''theirs:{id}'') IS NOT NULL') AS t(tracked boolean);
SELECT cachetag.tags_of('everything', e) FROM everything e;
COMMIT;
SELECT cachetag.tags_of('everything', e) FROM everything e;
