-- covers: may what this session reads now be stored under the token?
CREATE TABLE t (id int PRIMARY KEY);
SELECT '1767225600.' || lpad((pg_current_wal_insert_lsn() - '0/0'::pg_lsn)::text, 20, '0') AS token \gset
SELECT cachetag.covers(:'token');
-- The log of this server does not reach as far: another history.
SELECT cachetag.covers('1767225600.' || lpad((pg_current_wal_insert_lsn() - '0/0'::pg_lsn + 100000000)::text, 20, '0'));
-- A snapshot that may be older than the token.
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT cachetag.covers(:'token');
COMMIT;
BEGIN ISOLATION LEVEL SERIALIZABLE;
SELECT cachetag.covers(:'token');
COMMIT;
-- What nobody else sees yet.
BEGIN;
SELECT cachetag.covers(:'token');
INSERT INTO t VALUES (1);
SELECT cachetag.covers(:'token');
COMMIT;
SELECT cachetag.covers(:'token');
BEGIN;
SAVEPOINT s;
INSERT INTO t VALUES (2);
ROLLBACK TO s;
SELECT cachetag.covers(:'token');
ROLLBACK;
SELECT cachetag.covers(NULL);
SELECT cachetag.covers('');
SELECT cachetag.covers('0/16B374D8');
SELECT cachetag.covers('1767225600.16');
SELECT cachetag.covers('1767225600.99999999999999999999');

-- wait_for: has the cache caught up?
SELECT cachetag.wait_for();
SELECT cachetag.wait_for('0/1', slot => 'physical');
SELECT count(*) FROM pg_create_logical_replication_slot('cachetag', 'pgoutput');
SELECT cachetag.wait_for('0/1');
INSERT INTO t VALUES (3);
SELECT cachetag.wait_for(timeout => '50ms');
-- What a daemon does: it confirms all that is flushed.
SELECT pg_sleep(0.5);
SELECT count(*) FROM pg_replication_slot_advance('cachetag', pg_current_wal_flush_lsn());
SELECT pg_sleep(0.5);
SELECT count(*) FROM pg_replication_slot_advance('cachetag', pg_current_wal_flush_lsn());
SELECT cachetag.wait_for();
SELECT cachetag.wait_for('FFFFFFFF/0', '0');
SELECT cachetag.wait_for(slot => NULL);
-- After a switch of segments the next record has no place yet: nobody can confirm more than the beginning of the segment.
INSERT INTO t VALUES (4);
SELECT count(*) FROM pg_switch_wal();
SELECT pg_sleep(0.5);
SELECT count(*) FROM pg_replication_slot_advance('cachetag', pg_current_wal_flush_lsn());
SELECT cachetag.wait_for(timeout => '1s');
SELECT pg_drop_replication_slot('cachetag');

-- position: the timeline and the LSN after a commit. It covers that commit, and lies in the log.
SELECT cachetag.position() ~ '^1@[0-9A-F]+/[0-9A-F]+$';
SELECT pg_current_wal_insert_lsn() AS before \gset
INSERT INTO t VALUES (5);
SELECT split_part(cachetag.position(), '@', 2)::pg_lsn > :'before';
SELECT split_part(cachetag.position(), '@', 2)::pg_lsn <= pg_current_wal_insert_lsn();
