-- Names, columns and tables change; rules follow, and what they stood for is invalidated.
SELECT count(*) FROM pg_create_logical_replication_slot('peek', 'test_decoding');
CREATE VIEW messages AS SELECT substr(data, strpos(data, 'content:') + 8) AS message FROM pg_logical_slot_get_changes('peek', NULL, NULL)
 WHERE data LIKE 'message:%' AND data NOT LIKE '%cachetag.ddl%';
CREATE TABLE products (id int PRIMARY KEY, category_id int, shop int, price numeric, status text);
ALTER TABLE products REPLICA IDENTITY FULL;
SELECT cachetag.track('products', 'product:{id}', columns => '{price,category_id}', predicate => 'shop = 1') IS NOT NULL AS tracked;
SELECT cachetag.track('products', 'category:{category_id}:{shop}') IS NOT NULL AS tracked;
INSERT INTO products VALUES (1, 2, 1, 9.5, 'new');
SELECT * FROM messages;

ALTER TABLE products RENAME TO items;
ALTER TABLE items RENAME COLUMN category_id TO cat;
ALTER TABLE items RENAME COLUMN shop TO "Shop }";
SELECT template, columns, predicate, state FROM cachetag.rules ORDER BY id;
SELECT cachetag.tags_of('items', i) FROM items i;
SELECT * FROM messages;
-- Two columns swap their names in one transaction.
BEGIN;
ALTER TABLE items RENAME COLUMN id TO tmp;
ALTER TABLE items RENAME COLUMN cat TO id;
ALTER TABLE items RENAME COLUMN tmp TO cat;
SELECT template, columns FROM cachetag.rules ORDER BY id;
ROLLBACK;
SELECT template, columns FROM cachetag.rules ORDER BY id;
CREATE SCHEMA shop;
ALTER TABLE items SET SCHEMA shop;
SELECT "table" FROM cachetag.rules;
ALTER TABLE shop.items SET SCHEMA public;
SELECT count(*) FROM messages;

-- Contents that change without rows in the log.
ALTER TABLE items ADD COLUMN stock int DEFAULT 5;
ALTER TABLE items ALTER COLUMN price TYPE text USING 'EUR ' || price;
SELECT * FROM messages;
CREATE POLICY mine ON items USING (id > 0);
ALTER POLICY mine ON items USING (id > 1);
DROP POLICY mine ON items;
SELECT * FROM messages;

-- A column that a rule needs is dropped: every change counts for the family from then on, until there is one of that name again.
ALTER TABLE items DROP COLUMN price;
SELECT template, state FROM cachetag.rules ORDER BY id;
SELECT cachetag.tags_of('items', i) FROM items i;
ALTER TABLE items ADD COLUMN price int;
SELECT template, state FROM cachetag.rules ORDER BY id;
SELECT cachetag.tags_of('items', i) FROM items i;
-- A predicate's column becomes one that cannot be compared, and back.
ALTER TABLE items ALTER COLUMN "Shop }" TYPE numeric;
SELECT template, state FROM cachetag.rules ORDER BY id;
ALTER TABLE items ALTER COLUMN "Shop }" TYPE bigint;
SELECT template, predicate, state FROM cachetag.rules ORDER BY id;
-- A rename makes a rule the same as one whose column is gone: one of them is left, without options that narrow it.
ALTER TABLE items ADD COLUMN a int, ADD COLUMN b int;
SELECT cachetag.track('items', 'x:{a}') IS NOT NULL AS tracked;
SELECT cachetag.track('items', 'x:{b}', operations => '{delete}') IS NOT NULL AS tracked;
ALTER TABLE items DROP COLUMN a;
ALTER TABLE items RENAME COLUMN b TO a;
SELECT template, operations, state FROM cachetag.rules WHERE template LIKE 'x%';
SELECT count(*) FROM messages;

-- Types.
CREATE TYPE mood AS ENUM ('sad', 'happy');
CREATE DOMAIN percent AS int;
CREATE TABLE moods (id int PRIMARY KEY, m mood, p percent);
SELECT cachetag.track('moods', 'mood:{id}') IS NOT NULL AS tracked;
ALTER TYPE mood RENAME VALUE 'sad' TO 'blue';
SELECT * FROM messages;
ALTER DOMAIN percent ADD CHECK (VALUE <= 100);
SELECT * FROM messages;
DROP TYPE mood CASCADE;
SELECT * FROM messages;
CREATE TYPE pair AS (a int, b int);
CREATE TABLE typed OF pair (PRIMARY KEY (a));
SELECT cachetag.track('typed', 'typed:{a}') IS NOT NULL AS tracked;
ALTER TYPE pair ALTER ATTRIBUTE b TYPE bigint CASCADE;
SELECT DISTINCT * FROM messages;

-- Tables that no rule is about.
CREATE TABLE other (id int PRIMARY KEY);
ALTER TABLE other ADD COLUMN a int;
CREATE TEMPORARY TABLE mine (id int);
ALTER TABLE mine ADD COLUMN a int;
DROP TABLE other, mine;
SELECT * FROM messages;

-- A tracked table is dropped: its rules go, its family is invalidated; the publication forgets it.
DROP TABLE items;
SELECT * FROM messages;
SELECT "table", template FROM cachetag.rules ORDER BY id;
SELECT relation::regclass FROM cachetag.binding ORDER BY 1;
CREATE SCHEMA gone CREATE TABLE t1 (id int PRIMARY KEY) CREATE TABLE t2 (id int PRIMARY KEY);
SELECT cachetag.track('gone.t1', 't1:{id}') IS NOT NULL AS tracked, cachetag.track('gone.t2', 't2:{id}') IS NOT NULL AS tracked_too;
DROP SCHEMA gone CASCADE;
SELECT * FROM messages;

-- The publication is kept whole.
ALTER PUBLICATION cachetag DROP TABLE moods;
SELECT tablename FROM pg_publication_tables ORDER BY 1;
ALTER PUBLICATION cachetag SET TABLE moods (id);
SELECT tablename, rowfilter FROM pg_publication_tables ORDER BY 1;
ALTER PUBLICATION cachetag SET (publish = 'insert');
SELECT pubinsert, pubupdate, pubdelete, pubtruncate, pubviaroot FROM pg_publication;

-- Or made again.
DROP PUBLICATION cachetag;
SELECT tablename FROM pg_publication_tables WHERE pubname = 'cachetag' ORDER BY 1;
ALTER PUBLICATION cachetag RENAME TO mine;
SELECT tablename FROM pg_publication_tables WHERE pubname = 'cachetag' ORDER BY 1;
DROP PUBLICATION mine;
SELECT count(*) FROM messages;
-- What a view shows changes with its definition.
CREATE VIEW direct AS SELECT * FROM moods;
CREATE VIEW indirect AS SELECT id FROM direct;
SELECT DISTINCT * FROM messages;
CREATE OR REPLACE VIEW direct AS SELECT id, p FROM moods WHERE id > 0;
SELECT * FROM messages;
DROP VIEW indirect, direct;

-- A transaction that cannot see the rules that others have made since it began.
CREATE TABLE late (id int PRIMARY KEY) PARTITION BY LIST (id);
CREATE EXTENSION dblink;
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT count(*) FROM late;
SELECT * FROM dblink('dbname=' || current_database(), 'SELECT cachetag.track(''late'', ''late:{id}'') IS NOT NULL') AS t(tracked boolean);
CREATE TABLE late_1 PARTITION OF late FOR VALUES IN (1);
ROLLBACK;
-- Other rules are no reason.
BEGIN ISOLATION LEVEL SERIALIZABLE;
SELECT count(*) FROM late;
SELECT * FROM dblink('dbname=' || current_database(), 'SELECT cachetag.track(''moods'', ''later:{id}'') IS NOT NULL') AS t(tracked boolean);
CREATE TABLE unconcerned (id int);
ALTER TABLE unconcerned ADD COLUMN a int;
DROP TABLE unconcerned;
COMMIT;
BEGIN ISOLATION LEVEL REPEATABLE READ;
CREATE TABLE late_1 PARTITION OF late FOR VALUES IN (1);
COMMIT;
SELECT relation::regclass FROM cachetag.binding WHERE rule_id = (SELECT id FROM cachetag.rules WHERE template = 'late:{id}');

-- Replicas replay DDL too.
SET session_replication_role = replica;
ALTER TABLE moods RENAME COLUMN id TO no;
SELECT template FROM cachetag.rules WHERE template LIKE 'mood%';
RESET session_replication_role;
-- Nothing of this is left in the way when the extension goes and comes.
DROP VIEW messages;
SELECT pg_drop_replication_slot('peek');
DROP EXTENSION cachetag CASCADE;
ALTER TABLE moods ADD COLUMN a int;
DROP TABLE moods;
CREATE EXTENSION cachetag;
SELECT count(*) FROM cachetag.rules;
