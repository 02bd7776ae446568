-- The catalog is dumped with the database and fits the tables of the database that it is restored into, whose numbers are others.
CREATE TABLE dropped (id int);
CREATE SCHEMA shop;
CREATE TABLE shop.products (gone int, id int PRIMARY KEY, category_id int NOT NULL, "Odd } name" text);
ALTER TABLE shop.products DROP COLUMN gone;
CREATE UNIQUE INDEX wide ON shop.products (category_id, id);
CREATE TABLE events (tenant int, id int, PRIMARY KEY (tenant, id)) PARTITION BY LIST (tenant);
CREATE TABLE events_1 PARTITION OF events FOR VALUES IN (1);
CREATE TABLE animal (id int PRIMARY KEY);
CREATE TABLE dog (PRIMARY KEY (id)) INHERITS (animal);
CREATE TABLE bare (a int);
SELECT cachetag.track('shop.products', 'category:{category_id}', identity => 'index') IS NOT NULL AS tracked;
SELECT cachetag.track('shop.products', 'odd:{Odd }} name}', identity => 'family') IS NOT NULL AS tracked;
SELECT cachetag.track('events', 'event:{id}', predicate => 'tenant IN (1, 2)', columns => '{id}', soft => true) IS NOT NULL AS tracked;
SELECT cachetag.track('animal', 'animal:{id}') IS NOT NULL AS tracked;
SELECT cachetag.track('bare', 'bare:{a}', identity => 'full') IS NOT NULL AS tracked;
SELECT cachetag.depend('homepage', 'category:*', 'event:1');
SELECT cachetag.report('{"epoch": 1}');
INSERT INTO shop.products VALUES (1, 2, 'x');
INSERT INTO events VALUES (1, 7);
SELECT * FROM cachetag.rules ORDER BY id;

\! "$BINDIR/createdb" restored && "$BINDIR/pg_dump" | "$BINDIR/psql" -X -q -v ON_ERROR_STOP=1 -d restored | grep -v set_config | grep '[a-z]'
\! "$BINDIR/createdb" restored_custom && "$BINDIR/pg_dump" -Fc -f "$PGHOST/dump" && "$BINDIR/pg_restore" -e -j 2 -d restored_custom "$PGHOST/dump" && echo restored
\c restored
SELECT cachetag.attach();
SELECT cachetag.attach();
SELECT * FROM cachetag.rules ORDER BY id;
SELECT r.relid, r.relation = r.relid::oid AS number_of_here, r.used_columns, r.attnums FROM cachetag.rule r ORDER BY id;
SELECT b.relation::regclass FROM cachetag.binding b ORDER BY b.relation::regclass::text;
SELECT schemaname, tablename FROM pg_publication_tables WHERE pubname = 'cachetag' ORDER BY 1, 2;
SELECT parent, child FROM cachetag.dependency ORDER BY id;
SELECT cachetag.last_report();
SELECT cachetag.tags_of('shop.products', p) FROM shop.products p;
SELECT cachetag.tags_of('events', e) FROM events e;
SELECT "check", level, detail FROM cachetag.doctor() WHERE level IN ('error', 'warning');
-- The sequences go on, and everything still works.
SELECT cachetag.track('events', 'new:{id}') > (SELECT max(id) FROM cachetag.rule WHERE template <> 'new:{id}') AS id_is_new;
SELECT cachetag.depend('a', 'b');
ALTER TABLE shop.products RENAME COLUMN category_id TO cat;
SELECT template FROM cachetag.rules ORDER BY id;
UPDATE bare SET a = 1;
DROP EXTENSION cachetag;
SELECT count(*) AS publications FROM pg_publication;
\c restored_custom
SELECT cachetag.attach();
SELECT "table", template, replica_identities, widen, state FROM cachetag.rules ORDER BY id;
SELECT count(*) FROM pg_publication_tables WHERE pubname = 'cachetag';
-- Restored without the triggers, as pg_restore --disable-triggers does: attach finds the tables by their names.
BEGIN;
ALTER TABLE cachetag.rule DISABLE TRIGGER ALL;
UPDATE cachetag.rule SET relation = 1, attnums = '{9}';
DELETE FROM cachetag.binding;
ALTER TABLE cachetag.rule ENABLE ALWAYS TRIGGER rule_before, ENABLE ALWAYS TRIGGER rule_after, ENABLE ALWAYS TRIGGER rules_changed;
SELECT cachetag.attach();
SELECT r.template, r.relation = r.relid::oid AS number_of_here, r.attnums FROM cachetag.rule r ORDER BY id;
SELECT count(*) FROM cachetag.binding;
COMMIT;
\c postgres
DROP DATABASE restored;
DROP DATABASE restored_custom;
