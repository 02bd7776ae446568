-- The doctor says what is wrong and what to do. In the beginning: nobody has started the daemon.
SELECT "check", level, detail, remedy FROM cachetag.doctor();
CREATE TABLE products (id int PRIMARY KEY, category_id int, twice int GENERATED ALWAYS AS (id * 2) STORED);
SELECT cachetag.track('products', 'product:{id}') IS NOT NULL AS tracked;
SELECT cachetag.track('products', ARRAY['category:{category_id}', 'twice:{twice}'], identity => 'family') IS NOT NULL AS tracked;
SELECT count(*) FROM pg_create_logical_replication_slot('cachetag', 'pgoutput');
SELECT "check", level, subject, detail, remedy FROM cachetag.doctor() WHERE level <> 'ok';
-- Everything that can go wrong when nobody looks.
ALTER EVENT TRIGGER cachetag_ddl DISABLE;
ALTER EVENT TRIGGER cachetag_drop DISABLE;
ALTER PUBLICATION cachetag SET (publish = 'insert');
ALTER PUBLICATION cachetag DROP TABLE products, cachetag.dependency;
ALTER TABLE products REPLICA IDENTITY NOTHING;
SELECT "check", level, subject, detail, remedy FROM cachetag.doctor() WHERE level IN ('error', 'warning');
-- attach repairs what it can.
SELECT cachetag.attach();
SELECT cachetag.attach();
SELECT "check", level, subject, detail FROM cachetag.doctor() WHERE level IN ('error', 'warning');
ALTER EVENT TRIGGER cachetag_drop DISABLE;
DROP PUBLICATION cachetag;
ALTER EVENT TRIGGER cachetag_drop ENABLE ALWAYS;
SELECT "check", level, subject, detail FROM cachetag.doctor() WHERE level = 'error' AND "check" <> 'slot';
SELECT cachetag.attach();
-- What the daemon reports of Redis.
SELECT cachetag.report('{"epoch": 1767225600, "claimant": "me", "redis_version": "7.0.15", "eviction_policy": "allkeys-lru"}');
SELECT slot_name, slot_exists, active, wal_status, retained_bytes > 0 AS retains, lag_bytes >= 0 AS lags, report_age < '1 minute' AS fresh, epoch, claimant, redis_version, eviction_policy, report - 'reported_at' AS report FROM cachetag.status();
SELECT "check", level, detail, remedy FROM cachetag.doctor() WHERE "check" IN ('daemon report', 'eviction policy');
SELECT cachetag.report('{"shards": [{"eviction_policy": "noeviction"}, {"eviction_policy": "volatile-lru"}]}');
SELECT "check", level, detail, remedy FROM cachetag.doctor() WHERE "check" IN ('daemon report', 'eviction policy');
UPDATE cachetag.report SET at = at - interval '1 hour';
SELECT "check", level, detail FROM cachetag.doctor() WHERE "check" = 'daemon report';
SELECT count(*) AS reports FROM cachetag.report;
SELECT pg_drop_replication_slot('cachetag');
-- A slot that is somebody else's.
SELECT count(*) FROM pg_create_logical_replication_slot('cachetag', 'test_decoding');
SELECT level, detail ~ 'plugin test_decoding$' AS named FROM cachetag.doctor() WHERE "check" = 'slot';
SELECT pg_drop_replication_slot('cachetag');
-- All slots taken.
SELECT count(pg_create_physical_replication_slot('s' || g)) FROM generate_series(1, 4) g;
SELECT level, detail, remedy FROM cachetag.doctor() WHERE "check" = 'free slots';
SELECT count(pg_drop_replication_slot('s' || g)) FROM generate_series(1, 4) g;
SELECT slot_name, slot_exists, active FROM cachetag.status('nope');
