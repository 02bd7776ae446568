-- explain_tags: why tags are as they are, and what would make them finer; capture of one query; advice.
CREATE TABLE products (id int PRIMARY KEY, category_id int NOT NULL, name text, price numeric);
CREATE TABLE reviews (id int PRIMARY KEY, product_id int NOT NULL, stars int);
CREATE TABLE logs (id int PRIMARY KEY, "odd } name" int);
ALTER TABLE products REPLICA IDENTITY FULL;
INSERT INTO products SELECT g, g % 5, 'p' || g, g FROM generate_series(1, 100) AS g;
INSERT INTO reviews SELECT g, g % 100, g % 5 FROM generate_series(1, 500) AS g;
SELECT count(*) FROM cachetag.track('products', 'product:{id}'), cachetag.track('reviews', 'reviews') AS b;
SELECT * FROM cachetag.explain_tags('SELECT * FROM products WHERE id = 4');
SELECT * FROM cachetag.explain_tags('SELECT * FROM products WHERE category_id = 4;');
SELECT * FROM cachetag.explain_tags('SELECT * FROM products WHERE price > $1', 5);
SELECT * FROM cachetag.explain_tags('SELECT p.name, r.stars FROM products p JOIN reviews r ON r.product_id = p.id WHERE p.id = $1 -- a comment', 7);
-- Each read has its own tags, though one that reads all of the table has the others in it.
SELECT relation, tags, reason FROM cachetag.explain_tags('SELECT (SELECT max(price) FROM products), name FROM products WHERE id IN (4, 5)');
SELECT * FROM cachetag.explain_tags('SELECT now() IS NULL, current_user IS NULL, l.* FROM logs l WHERE "odd } name" = 3');
SELECT * FROM cachetag.explain_tags('SELECT 1');
-- The advice is good: the statement makes the rule, the rule the tags.
ALTER TABLE logs REPLICA IDENTITY FULL;
SELECT "relation", template, scans, sql FROM cachetag.advise() ORDER BY 1, 2;
SELECT sql FROM cachetag.advise() WHERE relation = 'products'::regclass \gexec
SELECT sql FROM cachetag.advise() WHERE relation = 'logs'::regclass \gexec
SELECT tags FROM cachetag.explain_tags('SELECT * FROM products WHERE category_id = 4;');
SELECT tags FROM cachetag.explain_tags('SELECT * FROM logs WHERE "odd } name" = 3');

SELECT rows, cacheable, reasons FROM cachetag.capture('SELECT id, name FROM products WHERE id IN (3, 4) ORDER BY id DESC');
SELECT rows, cacheable FROM cachetag.capture('SELECT id FROM products WHERE name = $1 AND price < $2', 'p9', 9.5);
SELECT rows FROM cachetag.capture('SELECT id FROM products WHERE id = $1', NULL::int);
SELECT rows FROM cachetag.capture('SELECT id FROM products WHERE false');
SELECT rows, as_of >= '1767225600.00000000000000000001' AS raised FROM cachetag.capture_as_of('1767225600.00000000000000000001', 'SELECT $1 AS one', 1);
SELECT * FROM cachetag.capture(NULL);
SELECT * FROM cachetag.capture('UPDATE products SET price = 1');
SELECT * FROM cachetag.capture('SELECT 1 / 0');
SELECT cachetag.capture_end();
SELECT cachetag.capture_begin();
SELECT * FROM cachetag.capture('SELECT 1');
SELECT cacheable FROM cachetag.capture_end();
SELECT cachetag.capture_begin('not a token');
SELECT cachetag.capture_begin(keyed_by => NULL);
SELECT cacheable FROM cachetag.capture_end();
