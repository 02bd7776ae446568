-- Two sessions at once: `one` has not committed yet when `two` begins.
CREATE EXTENSION dblink;
SELECT dblink_connect('one', 'dbname=' || current_database()), dblink_connect('two', 'dbname=' || current_database());
-- Runs a command in each; says whether two had to wait, and what became of it.
CREATE FUNCTION at_once(in_one text, in_two text) RETURNS TABLE (waited boolean, outcome text) LANGUAGE plpgsql AS $$
DECLARE
    other int := (SELECT pid FROM dblink('two', 'SELECT pg_backend_pid()') AS t(pid int));
BEGIN
    PERFORM dblink_exec('one', 'BEGIN');
    PERFORM dblink_exec('one', in_one);
    PERFORM dblink_send_query('two', in_two);
    WHILE dblink_is_busy('two') = 1 AND NOT EXISTS (SELECT FROM pg_locks WHERE pid = other AND NOT granted) LOOP
        PERFORM pg_sleep(0.005);
    END LOOP;
    waited := dblink_is_busy('two') = 1;
    PERFORM dblink_exec('one', 'COMMIT');
    PERFORM * FROM dblink_get_result('two', false) AS t(result text);
    PERFORM * FROM dblink_get_result('two', false) AS t(result text);
    outcome := split_part(dblink_error_message('two'), E'\n', 1);
    RETURN NEXT;
END $$;
CREATE VIEW bound AS SELECT r.template, b.relation::regclass FROM cachetag.rule r JOIN cachetag.binding b ON b.rule_id = r.id ORDER BY 1, b.relation::regclass::text;
CREATE TABLE a (id int PRIMARY KEY);
CREATE TABLE b (id int PRIMARY KEY);
-- The first two rules of a database, which both want to create the publication.
SELECT * FROM at_once($$DO 'BEGIN PERFORM cachetag.track(''a'', ''a:{id}''); END'$$, $$SELECT cachetag.track('b', 'b:{id}')$$);
SELECT tablename FROM pg_publication_tables ORDER BY 1;
-- The same table, the same rule.
SELECT * FROM at_once($$DO 'BEGIN PERFORM cachetag.track(''a'', ''a:{id}'', ''one''); END'$$, $$SELECT cachetag.track('a', 'a:{id}', 'two')$$);
SELECT template FROM cachetag.rules ORDER BY 1;
-- The same dependency.
SELECT * FROM at_once($$DO 'BEGIN PERFORM cachetag.depend(''child'', ''parent''); END'$$, $$SELECT cachetag.depend('child', 'parent', 'other')$$);
SELECT parent, child FROM cachetag.dependency ORDER BY 1;
-- A table that begins to inherit while its parent's rule is made, and the other way round: it is bound and published.
SELECT * FROM at_once($$DO 'BEGIN PERFORM cachetag.track(''b'', ''b:{id}'', ''bs''); END'$$, 'CREATE TABLE b_child (PRIMARY KEY (id)) INHERITS (b)');
CREATE TABLE c (id int PRIMARY KEY);
SELECT * FROM at_once('CREATE TABLE c_child (PRIMARY KEY (id)) INHERITS (c)', $$SELECT cachetag.track('c', 'c:{id}')$$);
SELECT * FROM bound WHERE template ~ '^[bc]:';
SELECT tablename FROM pg_publication_tables WHERE tablename LIKE '%child' ORDER BY 1;
-- A column that is renamed meanwhile: what counts is the name that it has then.
SELECT * FROM at_once('ALTER TABLE c RENAME id TO no', $$SELECT cachetag.track('c', 'late:{id}')$$);
SELECT * FROM at_once('ALTER TABLE c RENAME no TO id', $$SELECT cachetag.track('c', 'late:{id}')$$);
SELECT template, state FROM cachetag.rules WHERE "table" = 'c'::regclass ORDER BY 1;
-- Writers: track waits for those in flight, so that nothing of theirs is missing from the log; attach does not where nothing is missing.
CREATE TABLE d (id int PRIMARY KEY);
SELECT * FROM at_once('INSERT INTO d VALUES (1)', $$SELECT cachetag.track('d', 'd:{id}')$$);
SELECT * FROM at_once('INSERT INTO d VALUES (2)', $$SELECT cachetag.attach()$$);
-- No longer than lock_timeout allows, and nothing is left behind.
CREATE TABLE e (id int PRIMARY KEY);
SELECT dblink_exec('one', 'BEGIN'), dblink_exec('one', 'INSERT INTO e VALUES (1)');
SET lock_timeout = '20ms';
SELECT cachetag.track('e', 'e:{id}');
RESET lock_timeout;
SELECT dblink_exec('one', 'COMMIT');
SELECT count(*) FROM cachetag.rules WHERE template LIKE 'e:%';
SELECT tablename FROM pg_publication_tables WHERE tablename = 'e';
SELECT dblink_disconnect('one'), dblink_disconnect('two');
