-- A partitioned table: its rules hold for every partition, each under its own identity.
SELECT count(*) FROM pg_create_logical_replication_slot('peek', 'test_decoding');
CREATE VIEW messages AS SELECT substr(data, strpos(data, 'content:') + 8) AS message FROM pg_logical_slot_get_changes('peek', NULL, NULL)
 WHERE data LIKE 'message:%' AND data NOT LIKE '%cachetag.ddl%';
CREATE TABLE events (tenant int, id int, kind text, PRIMARY KEY (tenant, id)) PARTITION BY LIST (tenant);
CREATE TABLE events_1 PARTITION OF events FOR VALUES IN (1);
CREATE TABLE events_2 PARTITION OF events FOR VALUES IN (2) PARTITION BY RANGE (id);
CREATE TABLE events_2a PARTITION OF events_2 FOR VALUES FROM (0) TO (10);
SELECT cachetag.track('events', 'event:{tenant}:{id}') IS NOT NULL AS tracked;
SELECT relation::regclass FROM cachetag.binding ORDER BY 1;
SELECT tablename FROM pg_publication_tables WHERE schemaname = 'public' ORDER BY 1;
INSERT INTO events VALUES (1, 1, 'a'), (2, 2, 'b');
-- A row of the root, of a partition, of a partition of a partition.
SELECT cachetag.tags_of('events', e) FROM events e ORDER BY 1;
SELECT cachetag.tags_of('events', e), cachetag.tags_of('events_1', e) FROM events_1 e;
SELECT cachetag.tags_of('events_2', e), cachetag.tags_of('events_2a', e), cachetag.tags_of('events', e) FROM events_2a e;
SELECT * FROM messages;

-- Created, attached, detached, dropped: bindings follow, and the family is invalidated when it happens.
CREATE TABLE events_3 PARTITION OF events FOR VALUES IN (3);
SELECT * FROM messages;
CREATE TABLE events_4 (kind text, gone int, id int NOT NULL, tenant int NOT NULL);
ALTER TABLE events_4 DROP COLUMN gone;
INSERT INTO events_4 VALUES ('x', 9, 4);
SELECT * FROM messages;
ALTER TABLE events ATTACH PARTITION events_4 FOR VALUES IN (4);
SELECT * FROM messages;
SELECT cachetag.tags_of('events', e) FROM events_4 e;
CREATE TABLE events_2b (LIKE events);
ALTER TABLE events_2 ATTACH PARTITION events_2b FOR VALUES FROM (10) TO (20);
SELECT relation::regclass FROM cachetag.binding ORDER BY 1;
ALTER TABLE events DETACH PARTITION events_4;
SELECT * FROM messages;
ALTER TABLE events DETACH PARTITION events_3 CONCURRENTLY;
SELECT * FROM messages;
SELECT relation::regclass FROM cachetag.binding ORDER BY 1;
DROP TABLE events_2b;
SELECT * FROM messages;
DROP TABLE events_2;
SELECT * FROM messages;
SELECT relation::regclass FROM cachetag.binding ORDER BY 1;
-- What is rolled back says nothing.
BEGIN;
DROP TABLE events_1;
ROLLBACK;
SELECT * FROM messages;
SELECT relation::regclass FROM cachetag.binding ORDER BY 1;

-- Without an identity of its own, a partition would make its writers fail.
CREATE TABLE log (at date, what text) PARTITION BY RANGE (at);
CREATE TABLE log_1 PARTITION OF log FOR VALUES FROM ('2026-01-01') TO ('2026-02-01');
CREATE TABLE log_2 PARTITION OF log FOR VALUES FROM ('2026-02-01') TO ('2026-03-01');
SELECT cachetag.track('log', 'log:{what}');
SELECT cachetag.track('log', 'log:{what}', identity => 'full') IS NOT NULL AS tracked;
SELECT replica_identities FROM cachetag.rules WHERE "table" = 'log'::regclass;
-- The rule asked for whole rows, so new partitions have them.
CREATE TABLE log_3 PARTITION OF log FOR VALUES FROM ('2026-03-01') TO ('2026-04-01');
SELECT replica_identities FROM cachetag.rules WHERE "table" = 'log'::regclass;
-- This one did not: the partition gets what it needs to be written at all, or the rule is widened.
CREATE TABLE plain (id int, a int) PARTITION BY LIST (id);
CREATE TABLE plain_1 PARTITION OF plain (PRIMARY KEY (id)) FOR VALUES IN (1);
SELECT cachetag.track('plain', 'plain:{id}') IS NOT NULL AS tracked;
CREATE TABLE plain_2 PARTITION OF plain FOR VALUES IN (2);
CREATE TABLE plain_3 PARTITION OF plain (a PRIMARY KEY) FOR VALUES IN (3);
INSERT INTO plain VALUES (1, 1), (2, 2), (3, 3);
UPDATE plain SET a = a + 1;
SELECT replica_identities, widen FROM cachetag.rules WHERE "table" = 'plain'::regclass;

-- Partitions whose changes are not in the log are refused, as PostgreSQL refuses it for the root.
CREATE FOREIGN DATA WRAPPER fdw;
CREATE SERVER server FOREIGN DATA WRAPPER fdw;
CREATE FOREIGN TABLE plain_4 PARTITION OF plain FOR VALUES IN (4) SERVER server;
CREATE UNLOGGED TABLE plain_5 PARTITION OF plain FOR VALUES IN (5);
ALTER TABLE plain_1 SET UNLOGGED;
CREATE FOREIGN TABLE elsewhere (id int, a int) SERVER server;
ALTER TABLE plain ATTACH PARTITION elsewhere FOR VALUES IN (6);
SELECT relname FROM pg_class WHERE relname ~ '^plain|elsewhere' ORDER BY 1;

-- A partition can be tracked by itself, and both rules hold for it.
SELECT cachetag.track('events_1', 'first:{id}') IS NOT NULL AS tracked;
SELECT cachetag.tags_of('events', e), cachetag.tags_of('events_1', e) FROM events_1 e;
ALTER TABLE events DETACH PARTITION events_1;
SELECT tablename FROM pg_publication_tables WHERE tablename LIKE 'events%';
ALTER TABLE events ATTACH PARTITION events_1 FOR VALUES IN (1);
SELECT cachetag.untrack('events');
SELECT tablename FROM pg_publication_tables WHERE tablename LIKE 'events%';
SELECT * FROM messages;
ALTER TABLE events ADD COLUMN more int;
SELECT * FROM messages;
DROP TABLE events;
SELECT * FROM messages;
SELECT "table", template FROM cachetag.rules ORDER BY id;
DROP VIEW messages;
SELECT pg_drop_replication_slot('peek');
