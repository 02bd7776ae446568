CREATE TABLE products (id int PRIMARY KEY, category_id int, name text, "odd } Name" int);
ALTER TABLE products REPLICA IDENTITY FULL;
-- Templates: placeholders after the family, as whole parts or within one; a template without any is a constant.
SELECT cachetag.track('products', 'product:{id}', 'products', 'everything:*', 'shelf:c{category_id}-{id}:x', 'odd:{odd }} Name}');
SELECT template, family, used_columns, attnums FROM cachetag.rule ORDER BY id;
INSERT INTO products VALUES (1, 2, 'a', 3), (2, NULL, 'b', NULL);
SELECT cachetag.tags_of('products', p) FROM products p ORDER BY id;
SELECT cachetag.untrack('products');

-- What is not one says so.
SELECT cachetag.track('products', '');
SELECT cachetag.track('products', '{id}');
SELECT cachetag.track('products', 'p{id}:x');
SELECT cachetag.track('products', 'product:{id');
SELECT cachetag.track('products', 'product:{}');
SELECT cachetag.track('products', 'product: {id}');
SELECT cachetag.track('products', 'product:%2f');
SELECT cachetag.track('products', 'product:{ID}');
SELECT cachetag.track('products', 'product:{id}', 'product:{nope}');
SELECT cachetag.track('products', 'p:' || repeat('x', 600));
SELECT cachetag.track('products', ARRAY[]::text[]);
SELECT cachetag.track('products', ARRAY['product:{id}', NULL]);
SELECT cachetag.track(NULL, 'product:{id}');
SELECT cachetag.track('nope', 'product:{id}');
SELECT cachetag.track('products', 'product:{id}', columns => '{}');
SELECT cachetag.track('products', 'product:{id}', columns => '{nope}');
SELECT cachetag.track('products', 'product:{id}', operations => '{upsert}');
SELECT cachetag.track('products', 'product:{id}', operations => '{}');
SELECT cachetag.track('products', 'product:{id}', identity => 'maybe');
SELECT count(*) AS rules FROM cachetag.rule;

-- Predicates: literals are kept as their columns write them.
CREATE TYPE mood AS ENUM ('sad', 'happy');
CREATE DOMAIN code AS varchar(5);
CREATE COLLATION nondet (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
CREATE TABLE things (
    id int PRIMARY KEY, b boolean, n smallint, i int, l bigint, o oid, t text, v varchar(3), c char(3), nm name, ch "char", u uuid, d date, m mood, k code,
    num numeric, f float8, ts timestamptz, j jsonb, ci text COLLATE nondet);
ALTER TABLE things REPLICA IDENTITY FULL;
SELECT cachetag.track('things', 'a:{id}', predicate => 'b = TRUE AND n = 007 AND i <> ''+1'' AND l IN (1, 2) AND o = 3');
SELECT cachetag.track('things', 'b:{id}', predicate => 'T = ''It''''s'' and v not in (''x'', ''toolong'') and nm = ''n'' and ch = ''c'' and "k" is not null');
SELECT cachetag.track('things', 'c:{id}', predicate => 'u = ''A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11'' AND d = ''Jan 2, 2026'' AND m = ''sad'' AND num IS NULL AND ts IS NOT NULL');
SELECT template, predicate FROM cachetag.rules WHERE predicate IS NOT NULL ORDER BY id;
SELECT cachetag.track('things', 'x:{id}', predicate => 'm = ''angry''');
SELECT cachetag.track('things', 'x:{id}', predicate => 'i = ''one''');
SELECT cachetag.track('things', 'x:{id}', predicate => 'i > 1');
SELECT cachetag.track('things', 'x:{id}', predicate => 'i = 1 OR n = 2');
SELECT cachetag.track('things', 'x:{id}', predicate => '');
SELECT cachetag.track('things', 'x:{id}', predicate => 'nope = 1');
SELECT cachetag.track('things', 'x:{id}', predicate => 'num = ''1.0''');
SELECT cachetag.track('things', 'x:{id}', predicate => 'f = 1');
SELECT cachetag.track('things', 'x:{id}', predicate => 'c = ''a''');
SELECT cachetag.track('things', 'x:{id}', predicate => 'ts <> ''2026-01-02''');
SELECT cachetag.track('things', 'x:{id}', predicate => 'j = ''{}''');
SELECT cachetag.track('things', 'x:{id}', predicate => 'ci = ''a''');

-- Rows under a predicate: true only, as in SQL.
INSERT INTO things (id, b, n, i, l, o) VALUES (1, true, 7, 2, 1, 3), (2, true, 7, 1, 1, 3), (3, true, 7, NULL, 1, 3), (4, NULL, 7, 2, 1, 3);
INSERT INTO things (id, u, d, m, ts) VALUES (5, 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', '2026-01-02', 'sad', now());
SELECT id, cachetag.tags_of('things', x) FROM things x ORDER BY id;

-- The same rule again: the new options, no second rule.
SELECT cachetag.track('things', 'a:{id}', operations => '{DELETE, insert}', soft => true, columns => '{i,b}') = (SELECT id FROM cachetag.rule WHERE template = 'a:{id}');
SELECT "table", template, columns, operations, soft, predicate FROM cachetag.rules WHERE template = 'a:{id}';
