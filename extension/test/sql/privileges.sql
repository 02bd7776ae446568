-- Who may do what. Everybody: read the catalog, compute tags, invalidate, track tables of their own.
CREATE ROLE owner; CREATE ROLE member IN ROLE owner; CREATE ROLE app; CREATE ROLE daemon REPLICATION; CREATE ROLE helper;
GRANT CREATE ON SCHEMA public TO owner, app;
SET ROLE owner;
CREATE TABLE products (id int PRIMARY KEY, a int);
SELECT cachetag.track('products', 'product:{id}') IS NOT NULL AS tracked;
INSERT INTO products VALUES (1, 1);
GRANT SELECT ON products TO PUBLIC;
SET ROLE member;
SELECT cachetag.track('products', 'member:{id}') IS NOT NULL AS tracked;
SET ROLE app;
SELECT cachetag.track('products', 'app:{id}');
SELECT cachetag.untrack('products');
SELECT cachetag.tag('a', 1), cachetag.key('a', 1), cachetag.tags_of('products', p), cachetag.covers('1767225600.00000000000000000001') FROM products p;
SELECT cachetag.tag_agg(cachetag.tags_of('products', p)) FROM products p;
SELECT cachetag.invalidate('a'), cachetag.invalidate_soft('a');
SELECT "table", template, replica_identities FROM cachetag.rules ORDER BY id;
SELECT count(*) FROM cachetag.rule, cachetag.binding LEFT JOIN cachetag.dependency ON true;
SELECT slot_exists FROM cachetag.status();
SELECT DISTINCT level FROM cachetag.doctor() ORDER BY 1;
SELECT cachetag.last_report(), count(*) FROM cachetag.descendants('a');
-- Not everybody: what could make caches of others wrong.
SELECT cachetag.depend('a', 'b');
SELECT cachetag.undepend('a');
SELECT cachetag.attach();
SELECT cachetag.republish();
SELECT cachetag.report('{}');
INSERT INTO cachetag.rule (relid, template) VALUES ('products', 'x');
DELETE FROM cachetag.dependency;
SELECT cachetag._lock_tree('products'::regclass, true);
SELECT cachetag._refresh_rule(1, false);
SELECT cachetag._give_old_values('products'::regclass, '{a}', 'full');
SELECT * FROM cachetag.report;
RESET ROLE;
GRANT EXECUTE ON FUNCTION cachetag.depend(text, text[]), cachetag.depend(text, text, int, boolean, text[]),
    cachetag.depend(text, text[], int, boolean, text[]) TO app;
GRANT EXECUTE ON FUNCTION cachetag.report(jsonb) TO helper;
SET ROLE app;
SELECT cachetag.depend('a', 'b');
SET ROLE daemon;
SELECT cachetag.attach(), cachetag.republish(), cachetag.report('{"epoch": 1}');
SET ROLE helper;
SELECT cachetag.report('{"epoch": 2}');
SELECT cachetag.attach();
SET ROLE app;
SELECT cachetag.last_report()->'epoch' AS epoch;
RESET ROLE;

-- The caller counts, not the owner of a function in between.
CREATE FUNCTION lend() RETURNS bigint LANGUAGE sql SECURITY DEFINER AS $$ SELECT cachetag.track('products', 'lent:{id}') $$;
SET ROLE app;
SELECT lend();
RESET ROLE;

-- Names that shadow those of PostgreSQL do not reach into functions that run with more rights.
SET ROLE app;
CREATE SCHEMA trap;
RESET ROLE;
CREATE SCHEMA trap AUTHORIZATION app;
SET ROLE app;
CREATE TABLE trap.pg_class (oid oid, relowner oid);
CREATE FUNCTION trap.pg_has_role(oid, oid, text) RETURNS boolean LANGUAGE sql AS 'SELECT true';
CREATE FUNCTION trap.format(text, VARIADIC text[]) RETURNS text LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'trapped as %', current_user; END $$;
CREATE FUNCTION trap.same(text, text) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'trapped as %', current_user; END $$;
CREATE OPERATOR trap.= (LEFTARG = text, RIGHTARG = text, FUNCTION = trap.same);
SET search_path = trap, pg_catalog, public;
SELECT cachetag.track('products', 'trap:{id}');
CREATE TABLE own (id int PRIMARY KEY);
SELECT cachetag.track('own', 'own:{id}') IS NOT NULL AS tracked;
ALTER TABLE own RENAME COLUMN id TO no;
SELECT template FROM cachetag.rule WHERE relid::oid OPERATOR(pg_catalog.=) 'own'::regclass::oid;
INSERT INTO own VALUES (1);
SELECT cachetag.tags_of('own', o) FROM own o;
CREATE TEMPORARY TABLE pg_publication (pubname text);
SELECT cachetag.untrack('own');
DROP TABLE own;
RESET ALL; RESET ROLE;
-- Every function with more rights than its caller has a pinned search_path, with the temporary schema last.
SELECT p.oid::regprocedure FROM pg_proc p
 WHERE pronamespace = 'cachetag'::regnamespace AND prosecdef AND NOT coalesce('search_path=pg_catalog, pg_temp' = ANY (proconfig), false);
-- What PUBLIC may execute.
SELECT p.oid::regprocedure FROM pg_proc p, aclexplode(p.proacl) a
 WHERE pronamespace = 'cachetag'::regnamespace AND a.grantee = 0 ORDER BY p.oid::regprocedure::text COLLATE "C";
DROP SCHEMA trap CASCADE;
DROP TABLE products;
DROP EXTENSION cachetag;
DROP OWNED BY owner, member, app, daemon, helper;
DROP ROLE owner, member, app, daemon, helper;
