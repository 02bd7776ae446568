-- On a standby: reading is fine, once it has replayed as far as the token; everything else says where to go.
CREATE TABLE t (id int PRIMARY KEY);
SELECT cachetag.track('t', 't:{id}') IS NOT NULL AS tracked;
INSERT INTO t VALUES (1);
-- Of an epoch before the last that was reported here, whichever daemon it was.
SELECT cachetag.report('{"epoch": 1767225601}'), cachetag.report('{"epoch": 1767225600}'), cachetag.report('{}');
SELECT current_database() AS db, current_setting('unix_socket_directories') AS socket \gset
\! $AS_POSTGRES "$BINDIR/pg_basebackup" -D "$PGHOST/standby" -U postgres -h "$PGHOST" -p 5432 -R -c fast
\! $AS_POSTGRES sh -c 'echo "port = 5433" >>"$PGHOST/standby/postgresql.conf"; "$BINDIR/pg_ctl" -D "$PGHOST/standby" -l "$PGHOST/standby.log" -w start' >/dev/null
INSERT INTO t VALUES (2);
SELECT pg_current_wal_flush_lsn() AS lsn, '1767225600.' || lpad((pg_current_wal_flush_lsn() - '0/0'::pg_lsn)::text, 20, '0') AS token \gset
\c :db postgres :socket 5433
DO $$ BEGIN WHILE (SELECT count(*) FROM t) < 2 LOOP PERFORM pg_sleep(0.05); END LOOP; END $$;
SELECT pg_is_in_recovery(), cachetag.covers(:'token');
SELECT cachetag.covers('1767225600.' || lpad((:'lsn'::pg_lsn - '0/0'::pg_lsn + 100000000)::text, 20, '0'));
-- A standby that a failover has left behind, with commits that are lost, may have got further than the promoted server: but it does not hear of its epochs.
SELECT cachetag.covers('1767225601.00000000000000000001'), cachetag.covers('1767225602.00000000000000000001'), cachetag.as_of('1767225602.00000000000000000001');
SELECT cachetag.capture_begin('1767225602.00000000000000000001') \g /dev/null
SELECT cacheable, reasons FROM cachetag.capture_end();
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT cachetag.covers(:'token');
COMMIT;
-- A capture here is as of what is replayed.
SELECT cachetag.capture_begin(:'token') \g /dev/null
SELECT id FROM t WHERE id = 2;
SELECT 't:2' = ANY (tags) AS tagged, as_of >= :'token' AS raised, cacheable, reasons FROM cachetag.capture_end();
SELECT current_setting('cachetag.floor')::pg_lsn >= :'lsn' AS floor;
SELECT cachetag.tags_of('t', t), cachetag.tag('t', id) FROM t ORDER BY id;
-- Up to where it has replayed.
SELECT split_part(cachetag.position(), '@', 1), split_part(cachetag.position(), '@', 2)::pg_lsn >= :'lsn';
SELECT slot_exists, retained_bytes, lag_bytes FROM cachetag.status();
SELECT "check", level, detail, remedy FROM cachetag.doctor() WHERE level = 'error';
SELECT cachetag.invalidate('a');
SELECT cachetag.wait_for();
SELECT cachetag.track('t', 'x:{id}');
SELECT cachetag.attach();
\c :db postgres :socket 5432
\! $AS_POSTGRES "$BINDIR/pg_ctl" -D "$PGHOST/standby" -m fast -w stop >/dev/null
