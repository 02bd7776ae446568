-- Recipes: which query makes the value under a cache key. `cachetag audit` computes values anew by them and compares.

CREATE TABLE cachetag.recipe (
    key_template text PRIMARY KEY,
    query        text NOT NULL,
    compare      text NOT NULL DEFAULT 'text' CHECK (compare IN ('text', 'bytes', 'jsonb')),
    path         text NOT NULL DEFAULT ''  -- the search_path under which the names in the query mean what they meant to whoever registered it
);
SELECT pg_catalog.pg_extension_config_dump('cachetag.recipe', '');

-- What the audit asks. As a scalar subquery a query is one statement that reads, of one column; no row and NULL are the same: there is nothing.
CREATE FUNCTION cachetag._recipe_statement(query text, compare text) RETURNS text
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
    SELECT format(E'SELECT (\n%s\n)::pg_catalog.%s', query, CASE compare WHEN 'bytes' THEN 'bytea' ELSE 'text' END)
$$;

-- Its rights are those of its owner: who may call it decides what the audit runs.
CREATE FUNCTION cachetag._store_recipe(key_template text, query text, compare text, path text) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM cachetag._key_template_names(key_template);
    INSERT INTO cachetag.recipe AS r (key_template, query, compare, path) VALUES ($1, $2, $3, $4)
    ON CONFLICT ON CONSTRAINT recipe_pkey DO UPDATE SET query = EXCLUDED.query, compare = EXCLUDED.compare, path = EXCLUDED.path;
END $$;

-- The query is tried with the caller's own rights, so this is no SECURITY DEFINER function.
CREATE FUNCTION cachetag.recipe(key_template text, query text, compare text DEFAULT 'text') RETURNS text[]
    LANGUAGE plpgsql AS $$
DECLARE
    names pg_catalog.text[];
    wanted pg_catalog.int4;
BEGIN
    IF key_template IS NULL OR query IS NULL OR compare IS NULL THEN
        RAISE EXCEPTION 'recipe needs a key template and a query, neither of them NULL'
            USING ERRCODE = 'null_value_not_allowed',
                  HINT = 'For example: SELECT cachetag.recipe(''page:product:{id}'', ''SELECT to_json(p) FROM products p WHERE id = $1'');';
    ELSIF compare NOT IN ('text', 'bytes', 'jsonb') THEN
        RAISE EXCEPTION '% is not a way to compare', pg_catalog.quote_literal(compare)
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'text: the payload is the value as PostgreSQL writes it; bytes: it is the value, a bytea; jsonb: both are equal as jsonb.';
    END IF;
    names := cachetag._key_template_names(key_template);
    BEGIN
        EXECUTE 'PREPARE "cachetag.recipe" AS ' OPERATOR(pg_catalog.||) cachetag._recipe_statement(query, compare);
    EXCEPTION WHEN OTHERS THEN
        RAISE EXCEPTION 'the query of recipe % cannot be used: %', pg_catalog.quote_literal(key_template), SQLERRM
            USING ERRCODE = SQLSTATE,
                  HINT = 'It is one SELECT of one column, without a semicolon, in which $1, $2, ... are the names in the key template in their order.';
    END;
    SELECT pg_catalog.cardinality(p.parameter_types) INTO wanted FROM pg_catalog.pg_prepared_statements p WHERE p.name = 'cachetag.recipe';
    DEALLOCATE "cachetag.recipe";
    IF wanted > pg_catalog.cardinality(names) THEN
        RAISE EXCEPTION 'the query of recipe % has the parameter $%, the key template only % names', pg_catalog.quote_literal(key_template), wanted,
                        pg_catalog.cardinality(names)
            USING ERRCODE = 'undefined_parameter', HINT = '$1, $2, ... are the names in the key template in their order.';
    END IF;
    PERFORM cachetag._store_recipe(key_template, query, compare, (
        SELECT coalesce(pg_catalog.string_agg(pg_catalog.quote_ident(s.name), ', ' ORDER BY s.place), '')
          FROM pg_catalog.unnest(pg_catalog.current_schemas(false)) WITH ORDINALITY AS s(name, place)));
    RETURN names;
END $$;
COMMENT ON FUNCTION cachetag.recipe(text, text, text) IS
    'tells cachetag audit which query makes the values of these cache keys, and returns the names that $1, $2, ... stand for; replaces the recipe of the same template';

CREATE FUNCTION cachetag.unrecipe(key_template text) RETURNS boolean
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    DELETE FROM cachetag.recipe r WHERE r.key_template = unrecipe.key_template;
    RETURN FOUND;
END $$;
COMMENT ON FUNCTION cachetag.unrecipe(text) IS 'removes a recipe; false if there was none';

CREATE VIEW cachetag.recipes AS
    SELECT r.key_template, cachetag._key_template_names(r.key_template) AS names, r.query, r.compare, r.path
      FROM cachetag.recipe r;
COMMENT ON VIEW cachetag.recipes IS 'the recipes, for people: $1, $2, ... of a query are the names in their order';
