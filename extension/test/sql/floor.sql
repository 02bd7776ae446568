-- The commit floor: the newest position up to which every commit is visible to a snapshot taken from now on.
\pset tuples_only on
\pset format unaligned
CREATE TABLE t (id int PRIMARY KEY);
CREATE EXTENSION dblink;
CREATE FUNCTION lsn(token text) RETURNS pg_lsn LANGUAGE sql IMMUTABLE AS $$ SELECT '0/0'::pg_lsn + split_part(token, '.', 2)::numeric $$;
CREATE FUNCTION token(lsn pg_lsn) RETURNS text LANGUAGE sql IMMUTABLE AS $$ SELECT '1767225600.' || lpad((lsn - '0/0'::pg_lsn)::text, 20, '0') $$;
\set old '''1767225600.00000000000000000001'''
-- A token is raised to it, in its own epoch; one that is newer stays.
SELECT pg_current_wal_flush_lsn() AS before \gset
INSERT INTO t VALUES (1);
SELECT split_part(cachetag.as_of(:old), '.', 1), lsn(cachetag.as_of(:old)) > :'before', lsn(cachetag.as_of(:old)) <= pg_current_wal_insert_lsn();
SELECT current_setting('cachetag.floor')::pg_lsn > :'before';
-- Of another history, or after a write of one's own: nothing may be stored.
SELECT cachetag.as_of(token(pg_current_wal_insert_lsn() + 100000000)) IS NULL;
BEGIN;
INSERT INTO t VALUES (2);
SELECT cachetag.as_of(:old) IS NULL;
ROLLBACK;
SELECT cachetag.as_of('x');
-- REPEATABLE READ: what was shown before its snapshot counts, whatever has been committed since.
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT cachetag.as_of(:old);
ROLLBACK;
SELECT pg_current_wal_flush_lsn() AS before \gset
BEGIN ISOLATION LEVEL REPEATABLE READ;
SHOW cachetag.floor \g /dev/null
SELECT count(*) FROM t;
SELECT count(*) FROM dblink('dbname=' || current_database(), 'INSERT INTO t VALUES (3) RETURNING id') AS r(id int);
SHOW cachetag.floor \g /dev/null
SELECT pg_current_wal_flush_lsn() AS now \gset
SELECT cachetag.covers(token(:'before')), cachetag.covers(token(:'now'));
SELECT lsn(cachetag.as_of(:old)) >= :'before', lsn(cachetag.as_of(:old)) < :'now', cachetag.as_of(token(:'now')) = cachetag.as_of(:old);
SELECT count(*) FROM t;
COMMIT;
SELECT cachetag.covers(token(:'now'));
-- Forgotten with the transaction.
BEGIN ISOLATION LEVEL SERIALIZABLE;
SELECT cachetag.covers(:old);
COMMIT;
-- A commit that is in the log and not visible holds the floor back: it waits for a standby that there is not.
SELECT pg_current_wal_flush_lsn() AS before \gset
SELECT count(*) FROM dblink_connect('waiting', 'dbname=' || current_database());
SELECT dblink_exec('waiting', 'SET synchronous_commit = remote_apply');
ALTER SYSTEM SET synchronous_standby_names = 'nobody';
SELECT pg_reload_conf();
DO $$ BEGIN WHILE (SELECT s FROM dblink('waiting', 'SELECT current_setting(''synchronous_standby_names'')') AS r(s text)) = '' LOOP PERFORM pg_sleep(0.01); END LOOP; END $$;
SET synchronous_commit = local;
-- The checkpointer tells commits to wait, whenever it hears of the setting: the first ones may not.
DO $$
DECLARE
    id int := 1000;
BEGIN
    LOOP
        PERFORM dblink_send_query('waiting', format('INSERT INTO t VALUES (%s)', id));
        WHILE dblink_is_busy('waiting') = 1 AND NOT EXISTS (SELECT FROM pg_stat_activity WHERE wait_event = 'SyncRep') LOOP
            PERFORM pg_sleep(0.01), pg_stat_clear_snapshot();
        END LOOP;
        EXIT WHEN dblink_is_busy('waiting') = 1;
        PERFORM FROM dblink_get_result('waiting') AS r(status text);
        PERFORM FROM dblink_get_result('waiting') AS r(status text);
        id := id + 1;
    END LOOP;
    PERFORM set_config('test.waiting', id::text, false);
END $$;
INSERT INTO t VALUES (5);
SELECT id FROM t WHERE id IN (5, current_setting('test.waiting')::int);
SELECT pg_current_wal_flush_lsn() AS after \gset
SELECT current_setting('cachetag.floor')::pg_lsn < :'after', lsn(cachetag.as_of(:old)) < :'after';
ALTER SYSTEM RESET synchronous_standby_names;
SELECT pg_reload_conf();
DO $$ BEGIN WHILE dblink_is_busy('waiting') = 1 LOOP PERFORM pg_sleep(0.01); END LOOP; END $$;
SELECT * FROM dblink_get_result('waiting') AS r(status text);
SELECT count(*) FROM dblink_get_result('waiting') AS r(status text);
SELECT count(*) FROM t WHERE id IN (5, current_setting('test.waiting')::int);
SELECT current_setting('cachetag.floor')::pg_lsn >= :'after';
-- Prepared transactions, subtransactions, cancelled and terminated backends leave no note behind.
BEGIN;
INSERT INTO t VALUES (6);
PREPARE TRANSACTION 'p';
SELECT pg_current_wal_flush_lsn() AS after \gset
SELECT current_setting('cachetag.floor')::pg_lsn >= :'after';
COMMIT PREPARED 'p';
COMMIT PREPARED 'p';
SELECT pg_current_wal_flush_lsn() AS after \gset
SELECT current_setting('cachetag.floor')::pg_lsn >= :'after';
-- Those of subscriptions with two_phase are committed without our knowing when: while there is one, no token is raised.
BEGIN;
INSERT INTO t VALUES (10);
PREPARE TRANSACTION 'pg_gid_16384_700';
SHOW cachetag.floor;
SELECT cachetag.as_of(:old) = :old, cachetag.covers(:old);
BEGIN ISOLATION LEVEL REPEATABLE READ;
SHOW cachetag.floor \g /dev/null
SELECT cachetag.covers(:old);
ROLLBACK;
COMMIT PREPARED 'pg_gid_16384_700';
SELECT pg_current_wal_flush_lsn() AS after \gset
SELECT current_setting('cachetag.floor')::pg_lsn >= :'after', lsn(cachetag.as_of(:old)) >= :'after';
CREATE TABLE deferred (id int PRIMARY KEY DEFERRABLE INITIALLY DEFERRED);
BEGIN;
INSERT INTO deferred VALUES (1), (1);
COMMIT;
CREATE PROCEDURE commits() LANGUAGE plpgsql AS $$ BEGIN INSERT INTO t VALUES (7); COMMIT; INSERT INTO t VALUES (8); ROLLBACK; END $$;
CALL commits();
SELECT dblink_exec('waiting', 'BEGIN; INSERT INTO t VALUES (9)');
SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE query LIKE 'BEGIN; INSERT INTO t VALUES (9)%' AND pid <> pg_backend_pid();
DO $$ BEGIN WHILE EXISTS (SELECT FROM pg_stat_activity WHERE query LIKE 'BEGIN; INSERT INTO t VALUES (9)%' AND pid <> pg_backend_pid()) LOOP PERFORM pg_sleep(0.01); PERFORM pg_stat_clear_snapshot(); END LOOP; END $$;
SELECT pg_current_wal_flush_lsn() AS after \gset
SELECT current_setting('cachetag.floor')::pg_lsn >= :'after';
-- A capture raises its token.
SELECT count(*) FROM cachetag.track('t', 't:{id}');
SELECT cachetag.capture_begin(:old) \g /dev/null
SELECT count(*) FROM t WHERE id = 1;
SELECT lsn(as_of) >= :'after', cacheable FROM cachetag.capture_end();
SELECT cachetag.capture_begin(token(pg_current_wal_insert_lsn() + 100000000)) \g /dev/null
SELECT as_of IS NULL, cacheable, reasons FROM cachetag.capture_end();
-- It cannot be set.
SET cachetag.floor = '0/1';

-- Without preload: a capture works, the floor says what is missing.
\! mkdir "$PGHOST/plain" && chown --reference="$PGHOST/data" "$PGHOST/plain" && $AS_POSTGRES "$BINDIR/initdb" -D "$PGHOST/plain/data" -U postgres -A trust -E UTF8 --no-locale -N >/dev/null
\! $AS_POSTGRES sh -c 'printf "listen_addresses = \047\047\nunix_socket_directories = \047%s\047\nport = 5434\nfsync = off\nwal_level = logical\n" "$PGHOST" >>"$PGHOST/plain/data/postgresql.conf"; "$BINDIR/pg_ctl" -D "$PGHOST/plain/data" -l "$PGHOST/plain/log" -w start' >/dev/null
SELECT current_setting('unix_socket_directories') AS socket \gset
\c postgres postgres :socket 5434
SET client_min_messages = warning;
CREATE EXTENSION cachetag;
CREATE TABLE t (id int PRIMARY KEY);
SELECT count(*) FROM cachetag.track('t', 't:{id}');
\c
-- Queries that were running when the library was loaded are not known, so nothing within that statement is trusted.
DO $$ BEGIN PERFORM cachetag.capture_begin(); PERFORM id FROM t WHERE id = 1; END $$;
SELECT cacheable, reasons FROM cachetag.capture_end();
SELECT cachetag.capture_begin(:old);
SELECT count(*) FROM t WHERE id = 1;
SELECT as_of = :old, cacheable, reasons FROM cachetag.capture_end();
SELECT cachetag.covers(:old);
SELECT cachetag.as_of(:old);
SHOW cachetag.floor;
\c
SELECT rows, cacheable FROM cachetag.capture('SELECT count(*) FROM t WHERE id = 2');
\! $AS_POSTGRES "$BINDIR/pg_ctl" -D "$PGHOST/plain/data" -m fast -w stop >/dev/null
