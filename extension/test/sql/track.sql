-- What cannot be tracked, and what to do instead.
CREATE TABLE t (id int PRIMARY KEY, a int);
CREATE VIEW v AS SELECT * FROM t;
CREATE MATERIALIZED VIEW m AS SELECT * FROM t;
CREATE SEQUENCE s;
CREATE INDEX i ON t (a);
CREATE TYPE comp AS (a int);
CREATE TEMPORARY TABLE temp (id int PRIMARY KEY);
CREATE UNLOGGED TABLE u (id int PRIMARY KEY);
CREATE FOREIGN DATA WRAPPER fdw;
CREATE SERVER server FOREIGN DATA WRAPPER fdw;
CREATE FOREIGN TABLE f (id int) SERVER server;
SELECT cachetag.track('v', 'x:{id}');
SELECT cachetag.track('m', 'x:{id}');
SELECT cachetag.track('s', 'x');
SELECT cachetag.track('i', 'x');
SELECT cachetag.track('comp', 'x');
SELECT cachetag.track('temp', 'x:{id}');
SELECT cachetag.track('u', 'x:{id}');
SELECT cachetag.track('f', 'x:{id}');
SELECT cachetag.track('pg_class', 'x:{oid}');
SELECT cachetag.track('information_schema.sql_features', 'x');
SELECT cachetag.track('cachetag.rule', 'x:{id}');
SELECT cachetag.track(99999999::regclass, 'x');

CREATE TABLE mixed (id int) PARTITION BY LIST (id);
CREATE TABLE mixed_1 PARTITION OF mixed FOR VALUES IN (1);
CREATE FOREIGN TABLE mixed_2 PARTITION OF mixed FOR VALUES IN (2) SERVER server;
SELECT cachetag.track('mixed', 'x:{id}', identity => 'full');
DROP FOREIGN TABLE mixed_2;
CREATE UNLOGGED TABLE mixed_3 PARTITION OF mixed FOR VALUES IN (3);
SELECT cachetag.track('mixed', 'x:{id}', identity => 'full');

-- Columns that are not in the log.
CREATE TABLE g (id int PRIMARY KEY, twice int GENERATED ALWAYS AS (id * 2) STORED);
SELECT cachetag.track('g', 'x:{twice}');
SELECT cachetag.track('g', 'x:{ctid}');
SELECT cachetag.track('g', 'x:{twice}', identity => 'family');
SELECT template, identity, state FROM cachetag.rules;
INSERT INTO g VALUES (1);
SELECT cachetag.tags_of('g', g) FROM g;

BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT cachetag.track('t', 'x:{id}');
ROLLBACK;

-- A lock that cannot be had is not waited for longer than the session wants.
CREATE EXTENSION IF NOT EXISTS dblink;
SELECT dblink_connect('writer', 'dbname=' || current_database());
SELECT dblink_exec('writer', 'BEGIN'), dblink_exec('writer', 'INSERT INTO t VALUES (1)');
SET lock_timeout = '100ms';
SELECT cachetag.track('t', 'x:{id}');
SELECT dblink_exec('writer', 'COMMIT');
SELECT cachetag.track('t', 'x:{id}') IS NOT NULL AS tracked;
SELECT cachetag.track('t', 'x:{id}') IS NOT NULL AS again, count(*) FROM cachetag.rule WHERE relid = 't'::regclass;
SELECT mode, relation::regclass FROM pg_locks WHERE relation = 't'::regclass;
BEGIN;
SELECT cachetag.track('t', 'y:{id}') IS NOT NULL AS tracked;
SELECT mode FROM pg_locks WHERE relation = 't'::regclass AND pid = pg_backend_pid() ORDER BY 1;
ROLLBACK;

-- The publication has the catalog and the table; untrack takes the table out.
SELECT tablename FROM pg_publication_tables WHERE pubname = 'cachetag' ORDER BY 1;
SELECT cachetag.untrack('t', 'nope'), cachetag.untrack('t', 'x:{id}');
SELECT cachetag.untrack('g');
SELECT tablename FROM pg_publication_tables WHERE pubname = 'cachetag' ORDER BY 1;
SELECT cachetag.untrack('t');
SELECT count(*) FROM cachetag.binding;
DROP EXTENSION cachetag;
SELECT count(*) AS publications FROM pg_publication;
