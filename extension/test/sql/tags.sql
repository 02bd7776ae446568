-- A tag is a family and parts, encoded where they have to be.
SELECT cachetag.tag('homepage');
SELECT cachetag.tag('product', 42), cachetag.tag('product', '42'), cachetag.tag('order', 7, 'a:b', 'é {x} 100%*');
-- The part '*' is not the whole family.
SELECT cachetag.tag('product', '*');
-- Values are written as the daemon sees them, whatever a cast to text would make of them.
SELECT cachetag.tag('t', true), cachetag.tag('t', 'ab'::char(4)), cachetag.tag('t', 1.50::numeric(5,2)), cachetag.tag('t', '2026-01-02 03:04:05+00'::timestamptz);
SET datestyle = 'German, DMY'; SET timezone = 'Asia/Tokyo'; SET bytea_output = escape; SET extra_float_digits = -5;
SELECT cachetag.tag('t', '2026-01-02 03:04:05+00'::timestamptz), cachetag.tag('t', '\x00ff'::bytea), cachetag.tag('t', 0.1::float8 + 0.2);
-- The session has its own settings again.
SELECT '2026-01-02 03:04:05+00'::timestamptz, 0.1::float8 + 0.2;
RESET ALL;
-- NULL anywhere: no tag. An empty part is a part.
SELECT cachetag.tag('product', NULL::int) IS NULL, cachetag.tag(NULL, 1) IS NULL, cachetag.tag(NULL) IS NULL, cachetag.tag('p', ''), cachetag.tag('p', 1, NULL, 2) IS NULL;
SELECT cachetag.tag('product', VARIADIC ARRAY[1, 2]), cachetag.tag('product', VARIADIC '{}'::text[]), cachetag.tag('product', VARIADIC NULL::text[]) IS NULL;
-- Longer than 512 bytes: the whole family, as it is for the daemon. A family that is too long is an error.
SELECT cachetag.tag('p', repeat('x', 510)) = 'p:' || repeat('x', 510), cachetag.tag('p', repeat('x', 511));
SELECT cachetag.tag(repeat('x', 511));
SELECT cachetag.tag('');
SELECT cachetag.tag('', 1);

-- The aggregate: distinct, sorted by bytes, without NULLs; none for no rows.
SELECT cachetag.tag_agg(t) FROM (VALUES ('b'), ('a:2'), (NULL), ('a:10'), ('b'), ('Z')) AS v(t);
SELECT cachetag.tag_agg(t) FROM (VALUES (ARRAY['b', NULL, 'a']), (NULL), ('{}'), (ARRAY['a', 'c'])) AS v(t);
SELECT cachetag.tag_agg(NULL::text), cachetag.tag_agg(NULL::text[]) FROM generate_series(1, 0);
SELECT cachetag.tag_agg('not a tag');
SELECT g % 2 AS odd, cachetag.tag_agg(cachetag.tag('n', g % 3)), cachetag.tag_agg(cachetag.tag('n', g)) FILTER (WHERE g < 4) FROM generate_series(1, 10) g GROUP BY 1 ORDER BY 1;
SELECT g, cachetag.tag_agg(cachetag.tag('n', g)) OVER (ORDER BY g) FROM generate_series(1, 3) g;
-- In parallel workers too.
CREATE TABLE many AS SELECT g FROM generate_series(1, 20000) g;
ANALYZE many;
SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0; SET min_parallel_table_scan_size = 0; SET max_parallel_workers_per_gather = 2;
EXPLAIN (COSTS OFF) SELECT cachetag.tag_agg(cachetag.tag('n', g % 5)) FROM many;
SELECT cachetag.tag_agg(cachetag.tag('n', g % 5)) FROM many;
SELECT cardinality(cachetag.tag_agg(cachetag.tag('n', g))) FROM many;
RESET ALL;

-- Keys: equal values, equal keys.
SELECT cachetag.key('search'), cachetag.key('search', 1, 'shoes', true);
SELECT cachetag.key('q', '{"b": 1.0, "a": [1e2, -0.0, 1.50, "1.0 \" x"]}'::jsonb) = cachetag.key('q', '{"a":[100,0,1.5,"1.0 \" x"], "b":1}'::json);
SELECT cachetag.key('q', '{"a": 1}'::jsonb) = cachetag.key('q', '{"a": "1"}'::jsonb), cachetag.key('q', '[1, 2]'::jsonb) = cachetag.key('q', '[2, 1]'::jsonb), cachetag.key('q', '"1.0"'::jsonb) = cachetag.key('q', '"1"'::jsonb);
SELECT cachetag.key('q', 1.0) = cachetag.key('q', 1), cachetag.key('q', 1.50::float8) = cachetag.key('q', 1.5::numeric), cachetag.key('q', 100) = cachetag.key('q', 1), cachetag.key('q', 1e2::numeric);
-- NULL is a value of its own here: not an empty text, not the text null, not a part that is missing.
SELECT cachetag.key('q', NULL::text), cachetag.key('q', ''), cachetag.key('q', 'null'), cachetag.key('q', 'null'::jsonb), cachetag.key(NULL, 1) IS NULL;
SELECT cachetag.key('q', 'a:b', 'c') = cachetag.key('q', 'a', 'b:c'), cachetag.key('q', '{ct} ü');
-- Long keys are hashed, and stay apart.
SELECT cachetag.key('q', repeat('x', 198)) = 'q:' || repeat('x', 198), cachetag.key('q', repeat('x', 199)), cachetag.key('q', repeat('x', 199)) = cachetag.key('q', repeat('x', 200));
SELECT cachetag.key('q', substr(cachetag.key('q', repeat('x', 199)), 3)) = cachetag.key('q', repeat('x', 199));
SELECT length(cachetag.key(repeat('n', 300))), length(cachetag.key(repeat('n', 300), 1)), cachetag.key(repeat('n', 300)) = cachetag.key(repeat('n', 301));
SET datestyle = 'German'; SET timezone = 'Asia/Tokyo';
SELECT cachetag.key('q', '2026-01-02 03:04:05+00'::timestamptz);
