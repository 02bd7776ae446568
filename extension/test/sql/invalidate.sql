-- Invalidation by name: a message in the log, in the transaction, in order with its changes.
SELECT count(*) FROM pg_create_logical_replication_slot('peek', 'test_decoding');
CREATE TABLE t (id int PRIMARY KEY);
SELECT cachetag.track('t', 't:{id}') IS NOT NULL AS tracked;
SELECT count(*) > 0 AS consumed FROM pg_logical_slot_get_changes('peek', NULL, NULL);
BEGIN;
INSERT INTO t VALUES (1);
SELECT cachetag.invalidate('product:42', 'homepage', NULL, 'homepage');
INSERT INTO t VALUES (2);
SELECT cachetag.invalidate_soft('category:7', '*');
COMMIT;
SELECT data FROM pg_logical_slot_get_changes('peek', NULL, NULL, 'include-xids', 'off');
-- Never if the transaction rolls back.
BEGIN;
SELECT cachetag.invalidate('product:42');
ROLLBACK;
BEGIN;
SAVEPOINT s;
SELECT cachetag.invalidate('lost');
ROLLBACK TO s;
SELECT cachetag.invalidate('kept');
COMMIT;
SELECT data FROM pg_logical_slot_get_changes('peek', NULL, NULL, 'include-xids', 'off') WHERE data LIKE 'message%';
-- NULLs are no tags; none is no message.
SELECT cachetag.invalidate(NULL::text), cachetag.invalidate(VARIADIC '{}'::text[]), cachetag.invalidate(VARIADIC ARRAY['a', 'b:*']);
SELECT data FROM pg_logical_slot_get_changes('peek', NULL, NULL, 'include-xids', 'off') WHERE data LIKE 'message%';
SELECT cachetag.invalidate('product: 42');
SELECT cachetag.invalidate('a', '');
SELECT cachetag.invalidate(VARIADIC NULL::text[]);
BEGIN READ ONLY;
SELECT cachetag.invalidate('a');
ROLLBACK;
SELECT pg_drop_replication_slot('peek');

-- What the daemon reads: pgoutput publishes the message.
SELECT count(*) FROM pg_create_logical_replication_slot('cachetag', 'pgoutput');
SELECT cachetag.invalidate('product:42');
SELECT chr(get_byte(data, 0)) AS kind, get_byte(data, 1) AS transactional, encode(substr(data, 11), 'escape') AS prefix_length_and_content
  FROM pg_logical_slot_get_binary_changes('cachetag', NULL, NULL, 'proto_version', '1', 'publication_names', 'cachetag', 'messages', 'true')
 WHERE get_byte(data, 0) = ascii('M');
SELECT pg_drop_replication_slot('cachetag');
