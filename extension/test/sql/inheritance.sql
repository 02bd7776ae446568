-- Tables that inherit: their rows are rows of the parent, too.
SELECT count(*) FROM pg_create_logical_replication_slot('peek', 'test_decoding');
CREATE VIEW messages AS SELECT substr(data, strpos(data, 'content:') + 8) AS message FROM pg_logical_slot_get_changes('peek', NULL, NULL)
 WHERE data LIKE 'message:%' AND data NOT LIKE '%cachetag.ddl%';
CREATE TABLE animal (id int PRIMARY KEY, name text);
CREATE TABLE dog (breed text, PRIMARY KEY (id)) INHERITS (animal);
SELECT cachetag.track('animal', 'animal:{id}') IS NOT NULL AS tracked;
SELECT relation::regclass FROM cachetag.binding ORDER BY 1;
SELECT tablename FROM pg_publication_tables WHERE schemaname = 'public' ORDER BY 1;
-- New ones join, with an identity if they have none.
CREATE TABLE cat (lives int) INHERITS (animal);
CREATE TABLE puppy (PRIMARY KEY (id)) INHERITS (dog);
CREATE TABLE fish (water text, name text, id int NOT NULL PRIMARY KEY);
ALTER TABLE fish INHERIT animal;
SELECT replica_identities FROM cachetag.rules;
SELECT tablename FROM pg_publication_tables WHERE schemaname = 'public' ORDER BY 1;
INSERT INTO dog VALUES (1, 'rex', 'pug'); INSERT INTO puppy VALUES (2, 'toy', 'pug'); INSERT INTO fish VALUES ('salt', 'nemo', 3);
UPDATE animal SET name = name || '!';
SELECT cachetag.tags_of('animal', a) FROM animal a ORDER BY 1;
SELECT cachetag.tags_of('fish', f), cachetag.tags_of('animal', f) FROM fish f;
SELECT * FROM messages;
-- And leave.
ALTER TABLE fish NO INHERIT animal;
SELECT relation::regclass FROM cachetag.binding ORDER BY 1;
SELECT tablename FROM pg_publication_tables WHERE schemaname = 'public' ORDER BY 1;
SELECT * FROM messages;
-- A temporary table that inherits is nobody else's business.
CREATE TEMPORARY TABLE mine () INHERITS (animal);
SELECT relation::regclass FROM cachetag.binding ORDER BY 1;
DROP TABLE mine;
SELECT * FROM messages;
-- A column renamed at the top is renamed below.
ALTER TABLE animal RENAME COLUMN id TO no;
SELECT template FROM cachetag.rules;
SELECT cachetag.tags_of('animal', a) FROM animal a ORDER BY 1;
DROP TABLE puppy;
SELECT cachetag.untrack('animal');
SELECT tablename FROM pg_publication_tables WHERE schemaname = 'public' ORDER BY 1;
DROP VIEW messages;
SELECT pg_drop_replication_slot('peek');
