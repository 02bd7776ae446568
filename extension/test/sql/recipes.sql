-- Recipes: which query makes the value under a cache key.
CREATE TABLE products (id int PRIMARY KEY, name text, price int);
INSERT INTO products VALUES (1, 'jug', 10);
SELECT cachetag.recipe('page:product:{id}', 'SELECT json_build_object(''name'', name) FROM products WHERE id = $1', compare => 'jsonb');
SELECT cachetag.recipe('search:{words}:{page}', 'SELECT string_agg(name, '','') FROM products WHERE name ~ $1 -- a comment', 'bytes');
SELECT cachetag.recipe('search:{words}:{page}', 'SELECT string_agg(name, '','') FROM products WHERE name ~ $1 -- a comment');
SELECT cachetag.recipe('homepage', 'VALUES (1)');
SELECT * FROM cachetag.recipes ORDER BY 1;
-- The same template again replaces the recipe.
SELECT cachetag.recipe('homepage', 'SELECT count(*) FROM products');
SELECT query FROM cachetag.recipes WHERE key_template = 'homepage';
SELECT cachetag.unrecipe('homepage'), cachetag.unrecipe('homepage');
-- What cannot be used is refused when it is registered.
SELECT cachetag.recipe('page:{id', 'SELECT 1');
SELECT cachetag.recipe('page:{a}{b}', 'SELECT 1');
SELECT cachetag.recipe('page', 'SELECT nothing FROM products');
SELECT cachetag.recipe('page', 'SELECT id, name FROM products');
SELECT cachetag.recipe('page', 'DELETE FROM products RETURNING id');
SELECT cachetag.recipe('page', 'WITH gone AS (DELETE FROM products RETURNING id) SELECT id FROM gone');
SELECT cachetag.recipe('page', 'SELECT 1;');
SELECT cachetag.recipe('page:{id}', 'SELECT name FROM products WHERE id = $1 AND price = $2');
SELECT cachetag.recipe('page', 'SELECT 1', compare => 'roughly');
SELECT cachetag.recipe('page', NULL);
SELECT count(*) FROM pg_prepared_statements;
-- Names mean what they meant to whoever registered the recipe.
CREATE SCHEMA "My Shop";
SET search_path = "My Shop", public;
SELECT cachetag.recipe('m', 'SELECT 1');
RESET search_path;
SELECT path FROM cachetag.recipes WHERE key_template = 'm';
-- A recipe is run with the rights of the audit: not everybody may register one, everybody may look.
CREATE ROLE reader; CREATE ROLE editor;
GRANT EXECUTE ON FUNCTION cachetag.recipe(text, text, text), cachetag._store_recipe(text, text, text, text), cachetag.unrecipe(text) TO editor;
SET ROLE reader;
SELECT count(*) FROM cachetag.recipes;
SELECT cachetag.recipe('r', 'SELECT 1');
SELECT cachetag._store_recipe('r', 'SELECT 1', 'text', '');
SELECT cachetag.unrecipe('m');
INSERT INTO cachetag.recipe VALUES ('r', 'SELECT 1');
SET ROLE editor;
SELECT cachetag.recipe('e', 'SELECT 1');
-- What a query does when it is registered, it does with the rights of whoever registers it.
SELECT cachetag.recipe('e', '1); ALTER ROLE editor SUPERUSER; SELECT (1');
SELECT cachetag.unrecipe('e');
RESET ROLE;
-- They are dumped with the database.
\! "$BINDIR/createdb" restored && "$BINDIR/pg_dump" | "$BINDIR/psql" -X -q -v ON_ERROR_STOP=1 -d restored | grep -v set_config | grep '[a-z]'
\c restored
SELECT * FROM cachetag.recipes ORDER BY 1;
\c postgres
DROP DATABASE restored;
DROP DATABASE test_recipes WITH (FORCE);
DROP ROLE reader; DROP ROLE editor;
