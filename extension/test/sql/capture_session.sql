-- Automatic tags: transactions, snapshots, cursors, errors, and what depends on the session or on the moment.
\pset tuples_only on
\pset format unaligned
\set end 'SELECT array(SELECT t FROM unnest(tags) AS t WHERE t NOT LIKE \'cachetag.ddl%\') AS tags, cacheable, reasons, depends_on_session FROM cachetag.capture_end();'
CREATE TABLE t (id int PRIMARY KEY, a text);
INSERT INTO t SELECT g, 'a' || g FROM generate_series(1, 100) AS g;
SELECT count(*) FROM cachetag.track('t', 't:{id}');
SELECT cachetag.capture_end();
-- Autocommit, a transaction, savepoints.
SELECT cachetag.capture_begin() \g /dev/null
SELECT a FROM t WHERE id = 1;
BEGIN;
SELECT a FROM t WHERE id = 2;
SAVEPOINT s;
SELECT a FROM t WHERE id = 3;
RELEASE s;
COMMIT;
SELECT a FROM t WHERE id = 4;
:end
SELECT cachetag.capture_begin() \g /dev/null
BEGIN;
SAVEPOINT s;
SELECT a FROM t WHERE id = 5;
ROLLBACK TO s;
COMMIT;
:end
SELECT cachetag.capture_begin() \g /dev/null
SELECT a FROM t WHERE id = 6;
SELECT 1 / 0;
:end
SELECT cachetag.capture_begin() \g /dev/null
BEGIN;
SELECT a FROM t WHERE id = 6;
ROLLBACK;
:end
-- Beginning anew forgets.
SELECT cachetag.capture_begin() \g /dev/null
SELECT 1 / 0;
SELECT cachetag.capture_begin() \g /dev/null
SELECT a FROM t WHERE id = 7;
:end
-- An error that was caught.
CREATE FUNCTION catches(user_id int) RETURNS text LANGUAGE plpgsql STABLE AS $$ DECLARE r int; BEGIN SELECT 1 / (id - 8) INTO r FROM t WHERE id = user_id; RETURN 'ok'; EXCEPTION WHEN OTHERS THEN RETURN 'caught'; END $$;
SELECT cachetag.capture_begin() \g /dev/null
SELECT catches(8);
:end
SELECT cachetag.capture_begin() \g /dev/null
SELECT catches(9);
:end
-- Own writes, before and during the capture; other commands.
BEGIN;
UPDATE t SET a = 'mine' WHERE id = 10;
SELECT cachetag.capture_begin() \g /dev/null
SELECT a FROM t WHERE id = 10;
:end
ROLLBACK;
SELECT cachetag.capture_begin() \g /dev/null
UPDATE t SET a = a WHERE id = 11;
:end
SELECT cachetag.capture_begin() \g /dev/null
WITH w AS (DELETE FROM t WHERE id = -1 RETURNING id) SELECT count(*) FROM w;
:end
SELECT cachetag.capture_begin() \g /dev/null
COPY (SELECT a FROM t WHERE id = 12) TO STDOUT;
CREATE TEMP TABLE copied AS SELECT * FROM t WHERE id = 12;
LOCK TABLE t IN SHARE MODE;
DISCARD ALL;
:end
SELECT cachetag.capture_begin() \g /dev/null
DISCARD PLANS;
SELECT a FROM t WHERE id = 13;
:end
-- Where the results of the capture themselves go is no part of it; what the query reads beside is.
CREATE TABLE kept (tags text[], cacheable boolean);
SELECT cachetag.capture_begin() \g /dev/null
SELECT a FROM t WHERE id = 14;
INSERT INTO kept SELECT array(SELECT x FROM unnest(tags) AS x WHERE x NOT LIKE 'cachetag.ddl%'), cacheable FROM cachetag.capture_end();
SELECT * FROM kept;
SELECT cachetag.capture_begin() \g /dev/null
SELECT (SELECT count(*) FROM t), cacheable, reasons FROM cachetag.capture_end();
-- Isolation: one snapshot for the transaction, taken before the capture began; unless the floor was shown before it.
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT cachetag.capture_begin() \g /dev/null
SELECT a FROM t WHERE id = 15;
:end
COMMIT;
BEGIN ISOLATION LEVEL SERIALIZABLE;
SHOW cachetag.floor \g /dev/null
SELECT cachetag.capture_begin() \g /dev/null
SELECT a FROM t WHERE id = 16;
:end
COMMIT;
-- Shown too late.
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT 1;
SHOW cachetag.floor \g /dev/null
SELECT cachetag.capture_begin() \g /dev/null
:end
COMMIT;
-- The transaction begins after the capture.
SELECT cachetag.capture_begin() \g /dev/null
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT a FROM t WHERE id = 17;
COMMIT;
:end
-- A snapshot that another transaction had before; shown before or not.
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT pg_export_snapshot() AS snapshot \gset
\setenv SNAPSHOT :snapshot
\! "$BINDIR/psql" -X -q -A -t -c "BEGIN ISOLATION LEVEL REPEATABLE READ" -c "SHOW cachetag.floor" -c "SET TRANSACTION SNAPSHOT '$SNAPSHOT'" -c "SELECT cachetag.covers('1767225600.00000000000000000001')" | sed 1d
\! "$BINDIR/psql" -X -q -A -t -c "SELECT cachetag.capture_begin()" -c "BEGIN ISOLATION LEVEL REPEATABLE READ" -c "SET TRANSACTION SNAPSHOT '$SNAPSHOT'" -c "SELECT a FROM t WHERE id = 17" -c "COMMIT" -c "SELECT cacheable, reasons FROM cachetag.capture_end()"
COMMIT;
-- Within one statement: a stable function reads with the statement's snapshot, which is older than the capture.
CREATE FUNCTION begins() RETURNS int LANGUAGE plpgsql VOLATILE AS $$ BEGIN PERFORM cachetag.capture_begin(); RETURN 1; END $$;
CREATE FUNCTION reads(user_id int) RETURNS text LANGUAGE plpgsql STABLE AS $$ BEGIN RETURN (SELECT a FROM t WHERE id = user_id); END $$;
SELECT begins(), reads(18);
:end
DO $$ BEGIN PERFORM cachetag.capture_begin(); PERFORM a FROM t WHERE id = 19; PERFORM reads(20); END $$;
:end
-- Cursors: opened before, opened within, held.
BEGIN;
DECLARE before CURSOR FOR SELECT a FROM t WHERE id = 21;
SELECT cachetag.capture_begin() \g /dev/null
FETCH 1 FROM before;
:end
SELECT cachetag.capture_begin() \g /dev/null
DECLARE within CURSOR FOR SELECT a FROM t WHERE id = 22;
FETCH 1 FROM within;
CLOSE within;
:end
-- One that stays open past the end of its capture, and is read in the next.
SELECT cachetag.capture_begin() \g /dev/null
DECLARE past CURSOR FOR SELECT u.a FROM t JOIN t AS u ON u.id = t.id + 1 WHERE t.id IN (23, 24);
FETCH 1 FROM past;
SELECT cacheable FROM cachetag.capture_end();
FETCH 1 FROM past;
SELECT cachetag.capture_begin() \g /dev/null
FETCH 1 FROM past;
:end
COMMIT;
DECLARE held CURSOR WITH HOLD FOR SELECT a FROM t WHERE id = 25;
SELECT cachetag.capture_begin() \g /dev/null
SELECT a FROM t WHERE id = 26;
:end
CLOSE held;
SELECT cachetag.capture_begin() \g /dev/null
DECLARE held CURSOR WITH HOLD FOR SELECT a FROM t WHERE id = 27;
FETCH 1 FROM held;
:end
CLOSE held;
-- A cursor that a function opens, and a loop.
CREATE FUNCTION loops() RETURNS int LANGUAGE plpgsql STABLE AS $$ DECLARE n int := 0; r record; BEGIN FOR r IN SELECT id FROM t WHERE id IN (28, 29) LOOP n := n + r.id; END LOOP; RETURN n; END $$;
SELECT cachetag.capture_begin() \g /dev/null
SELECT loops();
:end

-- The time, chance, the session.
SELECT cachetag.capture_begin() \g /dev/null
SELECT now() IS NULL, random() < 0, clock_timestamp() IS NULL, CURRENT_DATE IS NULL, age(timestamp '2000-01-01') IS NULL, nextval(pg_get_serial_sequence('t', 'id')) FROM t WHERE false;
:end
SELECT cachetag.capture_begin() \g /dev/null
SELECT current_user = session_user, current_setting('work_mem') IS NULL, current_schema(), current_setting('work' || '_mem') IS NULL, date_trunc('day', timestamptz '2026-01-01 12:00+00') IS NULL, to_tsvector('x') IS NULL, 't'::regclass::text;
:end
SELECT cachetag.capture_begin(keyed_by => '{current_user,TimeZone}') \g /dev/null
SELECT current_user = '', extract(hour FROM timestamptz '2026-01-01 12:00+00') IS NULL;
:end
SELECT cachetag.capture_begin() \g /dev/null
SHOW work_mem \g /dev/null
:end
SELECT cachetag.capture_begin() \g /dev/null
SELECT date 'today' IS NULL, timestamp ' Now' IS NULL;
:end
SELECT cachetag.capture_begin() \g /dev/null
SELECT timestamp '12:00 today' IS NULL;
:end
SELECT cachetag.capture_begin() \g /dev/null
SELECT 'today', date '2026-01-01', lower('A'), json_agg(a) FROM t WHERE id = 30;
:end
-- In functions, whose expressions nobody sees: what their text names counts.
CREATE FUNCTION of_now() RETURNS boolean LANGUAGE plpgsql STABLE AS $$ BEGIN /* random() */ RETURN now() IS NULL; -- nextval()
END $$;
CREATE FUNCTION of_user() RETURNS boolean LANGUAGE plpgsql STABLE AS $$ DECLARE u text := current_user; BEGIN RETURN u IS NULL; END $$;
CREATE FUNCTION through() RETURNS boolean LANGUAGE plpgsql STABLE AS $$ BEGIN RETURN of_user(); END $$;
CREATE FUNCTION unlabelled() RETURNS int LANGUAGE plpgsql AS $$ BEGIN RETURN 1; END $$;
CREATE FUNCTION inlined() RETURNS boolean LANGUAGE sql AS $$ SELECT now() IS NULL $$;
CREATE FUNCTION pg_temp.passing() RETURNS int LANGUAGE sql IMMUTABLE AS $$ SELECT 1 $$;
CREATE FUNCTION transition(int, int) RETURNS int LANGUAGE plpgsql AS $$ BEGIN RETURN coalesce($1, 0) + coalesce($2, 0); END $$;
CREATE AGGREGATE own_sum(int) (SFUNC = transition, STYPE = int);
SELECT cachetag.capture_begin() \g /dev/null
SELECT of_now();
:end
SELECT cachetag.capture_begin() \g /dev/null
SELECT through();
:end
SELECT cachetag.capture_begin() \g /dev/null
SELECT unlabelled(), inlined(), own_sum(id) FROM t WHERE id = 31;
:end
-- Known by its former text no more.
CREATE OR REPLACE FUNCTION of_now() RETURNS boolean LANGUAGE plpgsql STABLE AS $$ BEGIN RETURN true; END $$;
SELECT cachetag.capture_begin() \g /dev/null
SELECT of_now();
:end
-- What looks like a comment in a string is none; names in quotes; operators; columns that are functions; times in quotes of any kind.
CREATE FUNCTION dashes() RETURNS text LANGUAGE plpgsql STABLE AS $$ BEGIN RETURN '--' || now(); END $$;
CREATE FUNCTION "Moment"() RETURNS text LANGUAGE plpgsql STABLE AS $$ BEGIN RETURN now(); END $$;
CREATE FUNCTION quotes() RETURNS text LANGUAGE plpgsql STABLE AS $$ BEGIN RETURN "Moment"(); END $$;
CREATE FUNCTION after(int, int) RETURNS text LANGUAGE plpgsql STABLE AS $$ BEGIN RETURN now(); END $$;
CREATE OPERATOR <+> (FUNCTION = after, LEFTARG = int, RIGHTARG = int);
CREATE FUNCTION operates() RETURNS text LANGUAGE plpgsql STABLE AS $$ BEGIN RETURN 1<+>2; END $$;
CREATE FUNCTION age_of(t) RETURNS text LANGUAGE plpgsql STABLE AS $$ BEGIN RETURN now(); END $$;
CREATE FUNCTION attributes() RETURNS text LANGUAGE plpgsql STABLE AS $$ DECLARE r t; BEGIN RETURN (r).age_of; END $$;
CREATE FUNCTION says_now() RETURNS text LANGUAGE plpgsql STABLE AS $$ BEGIN RETURN 'now'::timestamp; END $$;
CREATE FUNCTION says_now_in_dollars() RETURNS text LANGUAGE plpgsql STABLE AS 'BEGIN RETURN $q$now$q$::timestamp; END';
CREATE FUNCTION encodes() RETURNS text LANGUAGE plpgsql STABLE AS $$ BEGIN RETURN U&"\006eow"(); END $$;
SELECT cachetag.capture_begin() \g /dev/null
SELECT dashes() IS NULL;
:end
SELECT cachetag.capture_begin() \g /dev/null
SELECT quotes() IS NULL;
:end
SELECT cachetag.capture_begin() \g /dev/null
SELECT operates() IS NULL;
:end
SELECT cachetag.capture_begin() \g /dev/null
SELECT attributes() IS NULL;
:end
SELECT cachetag.capture_begin() \g /dev/null
SELECT says_now() IS NULL;
:end
SELECT cachetag.capture_begin() \g /dev/null
SELECT says_now_in_dollars() IS NULL, $q$now$q$::timestamp IS NULL;
:end
SELECT cachetag.capture_begin() \g /dev/null
SELECT encodes() IS NULL;
:end
-- In functions that become parts of the plan.
CREATE FUNCTION of_today(date) RETURNS boolean LANGUAGE sql STABLE AS $$ SELECT $1 >= 'today' $$;
CREATE FUNCTION rows_of_today() RETURNS SETOF t LANGUAGE sql STABLE AS $$ SELECT * FROM t WHERE id = 30 AND of_today('2000-01-01') $$;
SELECT cachetag.capture_begin() \g /dev/null
SELECT of_today('2000-01-01');
:end
SELECT cachetag.capture_begin() \g /dev/null
SELECT count(*) FROM rows_of_today();
:end
-- Of a function that is called in a text: the arguments that it has by default; of a type: the function that makes another of it.
CREATE FUNCTION by_default(x timestamptz DEFAULT now()) RETURNS text LANGUAGE plpgsql STABLE AS $$ BEGIN RETURN x; END $$;
CREATE FUNCTION calls_by_default() RETURNS text LANGUAGE plpgsql STABLE AS $$ BEGIN RETURN by_default(); END $$;
SELECT cachetag.capture_begin() \g /dev/null
SELECT calls_by_default() IS NULL;
:end
CREATE TYPE mood AS ENUM ('fair');
CREATE FUNCTION now_of(mood) RETURNS int LANGUAGE plpgsql STABLE AS $$ BEGIN RETURN extract(epoch FROM now())::int; END $$;
CREATE CAST (mood AS int) WITH FUNCTION now_of(mood);
CREATE FUNCTION casts() RETURNS int LANGUAGE plpgsql STABLE AS $$ DECLARE x mood := 'fair'; BEGIN RETURN x::int; END $$;
SELECT cachetag.capture_begin() \g /dev/null
SELECT casts() IS NULL;
:end
DROP CAST (mood AS int);
SELECT cachetag.capture_begin() \g /dev/null
SELECT calls_by_default() IS NULL;
:end
-- Parameters that are computed when they are given.
PREPARE before(timestamptz) AS SELECT count(*) FROM t WHERE id = 30 AND $1 IS NOT NULL;
SELECT cachetag.capture_begin() \g /dev/null
EXECUTE before('2000-01-01');
:end
SELECT cachetag.capture_begin() \g /dev/null
EXECUTE before('now');
:end
SELECT cachetag.capture_begin() \g /dev/null
EXECUTE before(now());
:end
-- What leaves out every partition is in none of them.
CREATE TABLE events (id int, at timestamptz, name text, PRIMARY KEY (id, at, name)) PARTITION BY RANGE (at);
CREATE TABLE events_1 PARTITION OF events FOR VALUES FROM ('2100-01-01') TO ('2200-01-01') PARTITION BY LIST (name);
CREATE TABLE events_1_a PARTITION OF events_1 FOR VALUES IN ('somebody', 'anybody');
CREATE TABLE events_2 PARTITION OF events FOR VALUES FROM ('2200-01-01') TO ('2300-01-01');
SELECT count(*) FROM cachetag.track('events', 'events:{id}');
SELECT cachetag.capture_begin() \g /dev/null
SELECT count(*) FROM events WHERE at < now();
:end
SELECT cachetag.capture_begin() \g /dev/null
SELECT count(*) FROM events WHERE at < '2150-01-01' AND name = current_setting('x.y', true);
:end
SELECT cachetag.capture_begin() \g /dev/null
SELECT count(*) FROM events WHERE at < to_date('2000-01-01', 'YYYY-MM-DD');
:end
-- The daemon's halves of the catalog are not for caches.
SELECT cachetag.capture_begin() \g /dev/null
SELECT count(*) > 0 FROM cachetag.rules;
SELECT cacheable FROM cachetag.capture_end();
