-- Ordinary roles at work beside cachetag: their schema changes go through, their tables can be dropped with them, the owner of a database can dump it.
CREATE ROLE boss; CREATE ROLE dev; CREATE ROLE passive NOINHERIT IN ROLE dev;
CREATE SCHEMA dev AUTHORIZATION dev;
CREATE TABLE tracked (id int PRIMARY KEY);
SELECT count(*) FROM cachetag.track('tracked', 'tracked:{id}');
SET ROLE dev;
CREATE TABLE dev.t (id int PRIMARY KEY, s text);
ALTER TABLE dev.t ADD x int;
ALTER TABLE dev.t DROP COLUMN x;
ALTER TABLE dev.t DROP CONSTRAINT t_pkey;
CREATE INDEX t_s ON dev.t (s);
ALTER INDEX dev.t_s RENAME TO t_s2;
DROP INDEX dev.t_s2;
CREATE TYPE dev.e AS ENUM ('a');
ALTER TYPE dev.e RENAME VALUE 'a' TO 'b';
CREATE TABLE dev.copy AS SELECT * FROM dev.t;
SELECT * INTO dev.again FROM dev.t;
CREATE VIEW dev.v AS SELECT id FROM dev.t;
ALTER VIEW dev.v RENAME TO v2;
CREATE TABLE dev.parts (id int) PARTITION BY LIST (id);
CREATE TABLE dev.part PARTITION OF dev.parts DEFAULT;
ALTER TABLE dev.parts DETACH PARTITION dev.part;
CREATE POLICY mine ON dev.t USING (true);
DROP POLICY mine ON dev.t;
BEGIN;
ALTER TABLE dev.t ADD y int;
DROP TABLE dev.copy;
ROLLBACK;
ALTER TABLE tracked ADD x int;
DROP TABLE dev.copy, dev.again, dev.parts, dev.part, dev.t CASCADE;
-- The same with tables that are tracked.
CREATE TABLE dev.t (id int PRIMARY KEY, s text);
SELECT count(*) FROM cachetag.track('dev.t', 't:{id}');
SELECT count(*) FROM cachetag.track('dev.t', 's:{s}', identity => 'full');
GRANT USAGE ON SCHEMA dev TO passive;
SET ROLE passive;
-- A member that does not inherit its group's rights has to take its role.
SELECT cachetag.track('dev.t', 'x');
SET ROLE dev;
ALTER TABLE dev.t RENAME TO u;
ALTER TABLE dev.u RENAME s TO r;
ALTER TABLE dev.u ADD x int DEFAULT 1;
CREATE TABLE dev.child () INHERITS (dev.u);
INSERT INTO dev.child VALUES (1, 'one');
UPDATE dev.u SET r = 'two';
SELECT "table", template, replica_identities, state FROM cachetag.rules WHERE "table" = 'dev.u'::regclass ORDER BY id;
ALTER TABLE dev.u DROP COLUMN r;
SELECT template, state FROM cachetag.rules WHERE "table" = 'dev.u'::regclass ORDER BY id;
RESET ROLE;
-- Code of users does not run with the rights of track: not the check of a domain, not the expression of an index.
SET ROLE dev;
CREATE TABLE dev.ran (as_whom text);
GRANT ALL ON dev.ran TO PUBLIC;
CREATE FUNCTION dev.f(text) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN INSERT INTO dev.ran VALUES (current_user); RETURN true; END $$;
CREATE DOMAIN dev.d AS text CHECK (dev.f(VALUE));
CREATE TABLE dev.w (id int PRIMARY KEY, d dev.d);
CREATE UNIQUE INDEX ON dev.w (dev.f(d));
SELECT count(*) FROM cachetag.track('dev.w', ARRAY['w:{id}', 'd:{d}'], predicate => 'd = ''x''', identity => 'full');
SELECT * FROM dev.ran;
RESET ROLE;
-- Whose database it is may dump it, cachetag's catalog included.
SELECT format('ALTER DATABASE %I OWNER TO boss', current_database()) \gexec
GRANT USAGE ON SCHEMA dev TO boss;
GRANT SELECT ON ALL TABLES IN SCHEMA dev, public TO boss;
\! "$BINDIR/pg_dump" --role=boss | grep -c '^COPY cachetag'
-- DROP OWNED takes the rules along.
DROP OWNED BY dev CASCADE;
SELECT "table", template FROM cachetag.rules;
-- A table that was dropped while the event trigger was off: the doctor tells, and untrack takes the rule away.
CREATE TABLE lost (id int PRIMARY KEY);
SELECT count(*) FROM cachetag.track('lost', 'lost:{id}');
SELECT 'lost'::regclass::oid AS lost \gset
ALTER EVENT TRIGGER cachetag_drop DISABLE;
DROP TABLE lost;
ALTER EVENT TRIGGER cachetag_drop ENABLE ALWAYS;
SELECT level, replace(detail, :'lost', 'OID') AS detail, replace(remedy, :'lost', 'OID') AS remedy FROM cachetag.doctor() WHERE subject = :'lost';
SELECT cachetag.attach();
SELECT state FROM cachetag.rules WHERE template = 'lost:{id}';
SELECT level, replace(detail, :'lost', 'OID') AS detail, replace(remedy, :'lost', 'OID') AS remedy FROM cachetag.doctor() WHERE subject = :'lost';
SELECT cachetag.untrack(:lost);
SELECT cachetag.untrack(1);
SELECT template FROM cachetag.rules;
SELECT count(*) FROM cachetag.binding WHERE relation = :lost;
-- Nothing is left in the way of the others.
DROP EXTENSION cachetag;
SELECT format('ALTER DATABASE %I OWNER TO postgres', current_database()) \gexec
DROP SCHEMA IF EXISTS dev;
DROP OWNED BY boss, dev, passive;
DROP ROLE boss, passive, dev;
