-- The tag that a row had before a change can be computed only if the log has its old values.
CREATE TABLE products (id int PRIMARY KEY, category_id int NOT NULL, shop int, sku text NOT NULL, price numeric);
CREATE UNIQUE INDEX products_sku ON products (sku, category_id);
SELECT cachetag.track('products', 'product:{id}');
-- check, the default: refused with everything that could be done.
SELECT cachetag.track('products', 'category:{category_id}');
SELECT cachetag.track('products', 'shop:{shop}');
SELECT cachetag.track('products', 'product:{id}', columns => '{price}');
SELECT cachetag.track('products', 'product:{id}', predicate => 'shop = 1');
-- What needs no old values is fine.
SELECT cachetag.track('products', 'new:{category_id}', operations => '{insert,truncate}') IS NOT NULL AS tracked;
-- family: the whole family where old values are missing.
SELECT cachetag.track('products', 'shop:{shop}', identity => 'family') IS NOT NULL AS tracked;
SELECT template, identity, replica_identities, widen, state FROM cachetag.rules ORDER BY id;
-- index: takes one that has the columns of all rules of the table, here (category_id) and (id).
SELECT cachetag.track('products', 'category:{category_id}', identity => 'index');
CREATE UNIQUE INDEX products_wide ON products (id, category_id);
SELECT cachetag.track('products', 'category:{category_id}', identity => 'index') IS NOT NULL AS tracked;
SELECT template, identity, replica_identities, widen FROM cachetag.rules ORDER BY id;
-- full: whole old rows. What was widened is not any more.
SELECT cachetag.track('products', 'shop:{shop}', identity => 'full') IS NOT NULL AS tracked;
SELECT template, identity, replica_identities, widen FROM cachetag.rules ORDER BY id;
-- Whole rows no longer: the rule that asked for them gives them back.
ALTER TABLE products REPLICA IDENTITY USING INDEX products_sku;
SELECT relreplident FROM pg_class WHERE oid = 'products'::regclass;
SELECT cachetag.untrack('products', 'shop:{shop}', 'new:{category_id}');
-- A rule that did not ask is widened, with a warning, and back again.
ALTER TABLE products REPLICA IDENTITY USING INDEX products_sku;
SELECT template, identity, replica_identities, widen FROM cachetag.rules ORDER BY id;
ALTER TABLE products REPLICA IDENTITY USING INDEX products_wide;
SELECT template, identity, replica_identities, widen FROM cachetag.rules ORDER BY id;

-- A table without any identity: PostgreSQL would refuse its writers, so it is not published.
CREATE TABLE bare (a int, b int NOT NULL);
SELECT cachetag.track('bare', 'x');
SELECT cachetag.track('bare', 'x:{a}', identity => 'family');
SELECT cachetag.track('bare', 'x:{b}', identity => 'index');
SELECT cachetag.track('bare', 'x:{a}', identity => 'index');
INSERT INTO bare VALUES (1, 1);
UPDATE bare SET a = 2;
SELECT cachetag.track('bare', 'x:{a}', identity => 'full') IS NOT NULL AS tracked;
UPDATE bare SET a = 3;
CREATE TABLE nothing (a int PRIMARY KEY);
ALTER TABLE nothing REPLICA IDENTITY NOTHING;
SELECT cachetag.track('nothing', 'x:{a}');
SELECT cachetag.track('nothing', 'x:{a}', identity => 'index') IS NOT NULL AS tracked;
CREATE TABLE deferred (a int PRIMARY KEY DEFERRABLE);
SELECT cachetag.track('deferred', 'x:{a}');

-- No writer fails, whatever becomes of the identity: the table gets one at once.
CREATE TABLE k (id int CONSTRAINT k_pkey PRIMARY KEY, u int NOT NULL);
CREATE UNIQUE INDEX k_u ON k (u);
INSERT INTO k VALUES (1, 1);
SELECT cachetag.track('k', 'k:{id}') IS NOT NULL AS tracked;
ALTER TABLE k DROP CONSTRAINT k_pkey;
UPDATE k SET id = 2;
SELECT relreplident FROM pg_class WHERE oid = 'k'::regclass;
ALTER TABLE k ADD PRIMARY KEY (id), REPLICA IDENTITY USING INDEX k_u;
DROP INDEX k_u;
UPDATE k SET id = 3;
ALTER TABLE k REPLICA IDENTITY NOTHING;
UPDATE k SET id = 4;
ALTER TABLE k REPLICA IDENTITY DEFAULT;
ALTER TABLE k DROP COLUMN id;
UPDATE k SET u = 5;
SELECT relreplident FROM pg_class WHERE oid = 'k'::regclass;
SELECT template, widen, state FROM cachetag.rules WHERE "table" = 'k'::regclass;
CREATE UNIQUE INDEX k_u ON k (u);
ALTER TABLE k REPLICA IDENTITY USING INDEX k_u;
DROP INDEX CONCURRENTLY k_u;
UPDATE k SET u = 6;
-- Once untracked, a table is the user's own affair.
SELECT cachetag.untrack('k');
ALTER TABLE k REPLICA IDENTITY NOTHING;
SELECT relreplident FROM pg_class WHERE oid = 'k'::regclass;
UPDATE k SET u = 7;
