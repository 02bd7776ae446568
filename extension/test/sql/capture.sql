-- Automatic tags: what queries of every shape read. Below each query: the tags, whether the result may be cached, and why not.
\pset tuples_only on
\pset format unaligned
\set end 'SELECT array(SELECT t FROM unnest(tags) AS t WHERE t NOT LIKE \'cachetag.ddl%\') AS tags, cacheable, reasons, depends_on_session FROM cachetag.capture_end();'
CREATE TABLE users (id int PRIMARY KEY, org int NOT NULL, name text, email text UNIQUE);
CREATE TABLE orders (id bigint PRIMARY KEY, uid int, amount numeric, status text NOT NULL);
CREATE INDEX ON orders (uid);
INSERT INTO users SELECT g, g % 50, 'n' || g, 'e' || g FROM generate_series(1, 1000) AS g;
INSERT INTO orders SELECT g, g % 1000 + 1, g, 's' || g % 7 FROM generate_series(1, 5000) AS g;
ALTER TABLE users REPLICA IDENTITY FULL;
ALTER TABLE orders REPLICA IDENTITY FULL;
ANALYZE users, orders;
SELECT count(*) FROM cachetag.track('users', 'user:{id}', 'org:{org}', 'email:{email}') AS a, cachetag.track('orders', 'order:{id}', 'of:{uid}') AS b;
SET plan_cache_mode = force_custom_plan;

-- Index scan, index-only scan, bitmap scan, sequential scan.
SELECT cachetag.capture_begin() \g /dev/null
SELECT name FROM users WHERE id = 42;
:end
SELECT cachetag.capture_begin() \g /dev/null
SELECT email FROM users WHERE email = 'e77';
:end
SET enable_indexscan = off; SET enable_indexonlyscan = off;
SELECT cachetag.capture_begin() \g /dev/null
SELECT count(*) FROM orders WHERE uid = 10;
:end
SET enable_bitmapscan = off;
SELECT cachetag.capture_begin() \g /dev/null
SELECT count(*) FROM orders WHERE uid = 10;
:end
RESET enable_indexscan; RESET enable_indexonlyscan; RESET enable_bitmapscan;
-- Lists, OR over two rules, AND within OR, NULL, a value from the other side.
SELECT cachetag.capture_begin() \g /dev/null
SELECT count(*) FROM users WHERE id IN (1, 2, NULL);
:end
SELECT cachetag.capture_begin() \g /dev/null
SELECT count(*) FROM orders WHERE uid = 10 OR id = 5;
:end
SELECT cachetag.capture_begin() \g /dev/null
SELECT count(*) FROM orders WHERE (uid = 10 AND status = 's1') OR (uid = 11 AND amount > 3);
:end
SELECT cachetag.capture_begin() \g /dev/null
SELECT count(*) FROM orders WHERE uid = 10 OR amount = 5;
:end
SELECT cachetag.capture_begin() \g /dev/null
SELECT count(*) FROM orders WHERE id = NULL;
:end
SELECT cachetag.capture_begin() \g /dev/null
SELECT count(*) FROM users WHERE 7 = id;
:end
-- A nested loop whose inner key changes, with and without memoize; a hash join reads all of a side.
SET enable_hashjoin = off; SET enable_mergejoin = off; SET enable_memoize = off;
SELECT cachetag.capture_begin() \g /dev/null
SELECT count(*) FROM users u JOIN orders o ON o.uid = u.id WHERE u.id IN (3, 4);
:end
SET enable_memoize = on;
SELECT cachetag.capture_begin() \g /dev/null
SELECT count(*) FROM orders o JOIN users u ON u.id = o.uid WHERE o.id IN (100, 101, 1100);
:end
RESET enable_hashjoin; SET enable_nestloop = off;
SELECT cachetag.capture_begin() \g /dev/null
SELECT count(*) FROM orders o JOIN users u ON u.id = o.uid WHERE o.id = 100;
:end
RESET enable_mergejoin; RESET enable_nestloop;
-- The inner side of a join that nobody pulls has not been read.
SELECT cachetag.capture_begin() \g /dev/null
SELECT count(*) FROM orders o JOIN users u ON u.id = o.uid WHERE o.id = -1;
:end
-- Subqueries: correlated, scalar, EXISTS, NOT EXISTS, NOT IN, LATERAL.
SELECT cachetag.capture_begin() \g /dev/null
SELECT id, (SELECT count(*) FROM orders o WHERE o.uid = u.id) FROM users u WHERE id IN (1, 2) ORDER BY id;
:end
SELECT cachetag.capture_begin() \g /dev/null
SELECT name FROM users WHERE id = (SELECT max(uid) FROM orders WHERE id = 77);
:end
SELECT cachetag.capture_begin() \g /dev/null
SELECT EXISTS (SELECT FROM orders WHERE uid = 5), NOT EXISTS (SELECT FROM orders WHERE uid = 100000);
:end
SELECT cachetag.capture_begin() \g /dev/null
SELECT count(*) FROM users u WHERE id = 6 AND NOT EXISTS (SELECT FROM orders o WHERE o.uid = u.id);
:end
SELECT cachetag.capture_begin() \g /dev/null
SELECT count(*) FROM users WHERE id = 6 AND id NOT IN (SELECT uid FROM orders WHERE id IN (1, 2));
:end
SELECT cachetag.capture_begin() \g /dev/null
SELECT l.c FROM users u, LATERAL (SELECT count(*) AS c FROM orders o WHERE o.uid = u.id OFFSET 0) AS l WHERE u.id = 8;
:end
-- Common table expressions, set operations, window functions, LIMIT, grouping sets, recursion.
SELECT cachetag.capture_begin() \g /dev/null
WITH x AS MATERIALIZED (SELECT * FROM users WHERE id = 9) SELECT x.name, o.id FROM x JOIN orders o ON o.id = x.id;
:end
SELECT cachetag.capture_begin() \g /dev/null
SELECT name FROM users WHERE id = 1 UNION ALL SELECT name FROM users WHERE id = 2 EXCEPT SELECT status FROM orders WHERE id = 3;
:end
SELECT cachetag.capture_begin() \g /dev/null
SELECT row_number() OVER (ORDER BY id) FROM orders WHERE uid = 12 LIMIT 1;
:end
SELECT cachetag.capture_begin() \g /dev/null
WITH RECURSIVE r(id) AS (SELECT 1 UNION ALL SELECT u.id + 1 FROM r JOIN users u ON u.id = r.id WHERE u.id < 3) SELECT count(*) FROM r;
:end
-- Views, also with a barrier; functions in SQL and PL/pgSQL; a function that returns rows.
CREATE VIEW few WITH (security_barrier) AS SELECT id, name FROM users WHERE org < 10;
CREATE FUNCTION name_of(int) RETURNS text LANGUAGE sql STABLE AS 'SELECT name FROM users WHERE id = $1';
CREATE FUNCTION mail_of(user_id int) RETURNS text LANGUAGE plpgsql STABLE AS $$ DECLARE r text; BEGIN SELECT email INTO r FROM users WHERE id = user_id; RETURN upper(r); END $$;
CREATE FUNCTION of_user(int) RETURNS SETOF orders LANGUAGE sql STABLE AS 'SELECT * FROM orders WHERE uid = $1';
SELECT cachetag.capture_begin() \g /dev/null
SELECT name FROM few WHERE id = 3;
:end
SELECT cachetag.capture_begin() \g /dev/null
SELECT name_of(12), mail_of(13), (SELECT count(*) FROM of_user(14));
:end
-- Prepared statements with generic plans: parameters, lists of them, arrays.
SET plan_cache_mode = force_generic_plan;
PREPARE one(int) AS SELECT name FROM users WHERE id = $1;
PREPARE list(int, int) AS SELECT count(*) FROM users WHERE id IN ($1, $2);
PREPARE anyof(int[]) AS SELECT count(*) FROM users WHERE id = ANY ($1);
PREPARE wide(bigint) AS SELECT name FROM users WHERE id = $1;
PREPARE unindexed(text) AS SELECT count(*) FROM orders WHERE uid = 3 AND status = $1;
SELECT cachetag.capture_begin() \g /dev/null
EXECUTE one(5); EXECUTE one(6); EXECUTE one(NULL); EXECUTE list(7, NULL); EXECUTE anyof('{8,9,NULL}'); EXECUTE wide(10); EXECUTE unindexed('x');
:end
SET plan_cache_mode = force_custom_plan;
-- A parallel plan runs in one process, so that nothing is read where nobody looks.
SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0; SET min_parallel_table_scan_size = 0; SET min_parallel_index_scan_size = 0;
SET enable_hashjoin = off; SET enable_mergejoin = off; SET enable_memoize = off;
EXPLAIN (COSTS off) SELECT count(*) FROM orders o JOIN users u ON u.id = o.uid WHERE o.amount < 5;
SELECT cachetag.capture_begin() \g /dev/null
SELECT count(*) FROM orders o JOIN users u ON u.id = o.uid WHERE o.amount < 5;
:end
RESET parallel_setup_cost; RESET parallel_tuple_cost; RESET min_parallel_table_scan_size; RESET min_parallel_index_scan_size;
-- A subquery that no row needed has no value: the whole family.
CREATE TABLE empty (a int NOT NULL, b int NOT NULL, PRIMARY KEY (a, b));
SELECT count(*) FROM cachetag.track('empty', 'a:{a}');
SELECT cachetag.capture_begin() \g /dev/null
SELECT count(*) FROM empty WHERE b > 3 AND a = (SELECT id FROM users WHERE id = 15);
:end
-- A bitmap that was not made because another one was empty.
CREATE TABLE pairs (p int NOT NULL, q int NOT NULL, filler text, id serial PRIMARY KEY);
INSERT INTO pairs SELECT g % 1000, g % 997, repeat('x', 200) FROM generate_series(1, 20000) AS g;
CREATE INDEX ON pairs (p); CREATE INDEX ON pairs (q);
ALTER TABLE pairs REPLICA IDENTITY FULL;
ANALYZE pairs;
SELECT count(*) FROM cachetag.track('pairs', 'p:{p}');
CREATE TABLE driver (p int, low int);
INSERT INTO driver VALUES (1, 100), (2, 5000), (3, 100);
ALTER TABLE driver REPLICA IDENTITY FULL;
SELECT count(*) FROM cachetag.track('driver', 'driver');
SET enable_seqscan = off; SET enable_indexscan = off;
SELECT cachetag.capture_begin() \g /dev/null
SELECT count(*) FROM driver d, LATERAL (SELECT * FROM pairs b WHERE b.p = d.p AND b.q BETWEEN d.low AND d.low + 20 OFFSET 0) AS s;
:end
RESET enable_seqscan; RESET enable_indexscan; RESET enable_hashjoin; RESET enable_mergejoin; RESET enable_memoize;
-- A key that is computed when the scan starts.
SELECT cachetag.capture_begin(keyed_by => '{current_setting(app.id)}') \g /dev/null
SET app.id = 16;
SELECT name FROM users WHERE id = current_setting('app.id')::int;
:end

-- Partitions: rules of the root and of a partition; columns with other numbers; a partition that is attached; pruning when planned and when run.
CREATE TABLE events (id int NOT NULL, kind int NOT NULL, body text, PRIMARY KEY (kind, id)) PARTITION BY LIST (kind);
CREATE TABLE events_1 PARTITION OF events FOR VALUES IN (1);
CREATE TABLE events_2 (body text, gone int, kind int NOT NULL, id int NOT NULL, PRIMARY KEY (kind, id));
ALTER TABLE events_2 DROP gone;
ALTER TABLE events ATTACH PARTITION events_2 FOR VALUES IN (2);
INSERT INTO events SELECT g, 1 + g % 2, 'b' FROM generate_series(1, 100) AS g;
SELECT count(*) FROM cachetag.track('events', 'event:{kind}:{id}');
SELECT cachetag.capture_begin() \g /dev/null
SELECT body FROM events WHERE kind = 2 AND id = 7;
:end
SELECT cachetag.capture_begin() \g /dev/null
SELECT body FROM events WHERE kind IN (1, 2) AND id = 7;
:end
SELECT cachetag.capture_begin() \g /dev/null
SELECT body FROM events WHERE id = 7;
:end
SELECT cachetag.capture_begin() \g /dev/null
SELECT count(*) FROM events WHERE kind = 3;
SELECT array(SELECT CASE t WHEN 'cachetag.ddl:' || 'events'::regclass::oid THEN 'cachetag.ddl:<events>' ELSE t END FROM unnest(tags) AS t), cacheable FROM cachetag.capture_end();
SET plan_cache_mode = force_generic_plan;
PREPARE pruned(int) AS SELECT count(*) FROM events WHERE kind = $1 AND id = 7;
SELECT cachetag.capture_begin() \g /dev/null
EXECUTE pruned(2);
:end
SET plan_cache_mode = force_custom_plan;
-- Inheritance: each child under its parent's rules and its own.
CREATE TABLE base (id int PRIMARY KEY, a int);
CREATE TABLE child (PRIMARY KEY (id)) INHERITS (base);
SELECT count(*) FROM cachetag.track('base', 'base:{id}');
SELECT cachetag.capture_begin() \g /dev/null
SELECT count(*) FROM base WHERE id = 4;
:end
SELECT cachetag.capture_begin() \g /dev/null
SELECT count(*) FROM ONLY base WHERE id = 4;
:end
SELECT cachetag.capture_begin() \g /dev/null
SELECT count(*) FROM child;
:end

-- Row-level security: what the policy reads, the role that it is for, the setting that it looks at.
CREATE TABLE member (org int NOT NULL, login text NOT NULL, PRIMARY KEY (login, org));
SELECT count(*) FROM cachetag.track('member', 'member:{login}');
CREATE ROLE capture_reader;
GRANT SELECT ON users, orders, member TO capture_reader;
CREATE POLICY own ON users USING (org IN (SELECT m.org FROM member m WHERE m.login = current_user));
CREATE POLICY own ON orders USING (uid = current_setting('app.uid')::int);
ALTER TABLE users ENABLE ROW LEVEL SECURITY;
ALTER TABLE orders ENABLE ROW LEVEL SECURITY;
SET ROLE capture_reader;
SET app.uid = 17;
SELECT cachetag.capture_begin() \g /dev/null
SELECT count(*) FROM users WHERE id = 1;
:end
SELECT cachetag.capture_begin(keyed_by => '{current_user,current_setting(app.uid)}') \g /dev/null
SELECT count(*) FROM orders;
:end
RESET ROLE;
ALTER TABLE users DISABLE ROW LEVEL SECURITY;
ALTER TABLE orders DISABLE ROW LEVEL SECURITY;

-- What has no tags, or none that can be trusted.
CREATE TABLE untracked (id int PRIMARY KEY);
CREATE UNLOGGED TABLE unlogged (id int PRIMARY KEY);
CREATE TEMP TABLE temporary (id int PRIMARY KEY);
CREATE TEMP VIEW passing AS SELECT * FROM users;
CREATE MATERIALIZED VIEW material AS SELECT 1 AS x;
CREATE SEQUENCE counter;

SELECT cachetag.capture_begin() \g /dev/null
SELECT count(*) FROM untracked, unlogged, temporary, material, counter, pg_class, passing;
:end
SELECT cachetag.capture_begin() \g /dev/null
SELECT name FROM users WHERE id = 1 FOR UPDATE;
:end
SELECT cachetag.capture_begin() \g /dev/null
SELECT count(*) > 0 FROM users TABLESAMPLE BERNOULLI (100);
:end
SELECT cachetag.capture_begin() \g /dev/null
SELECT xmin = xmin FROM users WHERE id = 1;
:end
SELECT cachetag.capture_begin() \g /dev/null
SELECT tableoid = 'users'::regclass FROM users WHERE id = 1;
:end

REVOKE ALL ON users, orders, member FROM capture_reader;
DROP ROLE capture_reader;
