-- Tracks every permanent table when it is made. For the regression run only.
CREATE EXTENSION cachetag;
CREATE SCHEMA regress_cachetag;
GRANT USAGE ON SCHEMA regress_cachetag TO PUBLIC;
CREATE TABLE regress_cachetag.made (relation oid, name text, exempt text);

-- Tables that tests make to show what PostgreSQL itself does with tables that nobody publishes. pg_regress names the test in application_name.
CREATE TABLE regress_cachetag.exemption (test text, pattern text, reason text);
INSERT INTO regress_cachetag.exemption VALUES
    ('alter_table', 'logged.', 'becomes unlogged, which PostgreSQL refuses for a published table'),
    ('identity', 'itest18', 'becomes unlogged, which PostgreSQL refuses for a published table'),
    ('foreign_data', '(lt1|fd_pt).*', 'gets foreign tables below it, which cachetag refuses for a tracked table'),
    ('alter_table', 'alterlock.?', 'the test lists every lock that an ALTER TABLE holds'),
    ('event_trigger', '.*', 'the test lists every command and every object that is dropped, those of an event trigger of ours too'),
    ('publication', '.*', 'the test is about the writers that PostgreSQL refuses for want of a replica identity');

-- Why a table cannot be tracked, or must not be.
CREATE FUNCTION regress_cachetag.exempt(rel oid) RETURNS text
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT CASE WHEN c.relpersistence <> 'p' THEN 'is unlogged'
                WHEN current_setting('transaction_isolation') NOT IN ('read committed', 'read uncommitted') THEN 'made in a transaction with one snapshot'
                WHEN EXISTS (SELECT FROM cachetag._tree(rel) t WHERE t.relkind = 'f' OR t.relpersistence = 'u') THEN 'has unlogged or foreign tables below it'
                WHEN NOT pg_has_role(cachetag._caller(), c.relowner, 'USAGE') THEN 'made for another owner'
                ELSE (SELECT min(e.reason) FROM regress_cachetag.exemption e
                       WHERE current_setting('application_name') = 'pg_regress/' || e.test AND c.relname ~ ('^' || e.pattern || '$'))
           END
      FROM pg_class c WHERE c.oid = rel
$$;

CREATE FUNCTION regress_cachetag.track_what_is_made() RETURNS event_trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    made record;
    keys text;
    reason text;
BEGIN
    FOR made IN
        SELECT DISTINCT c.oid, c.relname, c.relnamespace::regnamespace AS nsp
          FROM pg_event_trigger_ddl_commands() d JOIN pg_class c ON d.classid = 'pg_class'::regclass AND c.oid = d.objid
         WHERE c.relkind IN ('r', 'p') AND c.relpersistence <> 't' AND d.command_tag <> 'ALTER TABLE' AND NOT d.in_extension
    LOOP
        reason := regress_cachetag.exempt(made.oid);
        INSERT INTO regress_cachetag.made VALUES (made.oid, format('%s.%s', made.nsp, made.relname), reason);
        CONTINUE WHEN reason IS NOT NULL;
        -- By its key where it has one, as people do; a table without one is logged as whole rows.
        SELECT string_agg(format('{%s}', replace(a.attname, '}', '}}')), ':' ORDER BY k.place) INTO keys
          FROM pg_index i, unnest(i.indkey) WITH ORDINALITY AS k(attnum, place), pg_attribute a
         WHERE i.indrelid = made.oid AND i.indisprimary AND i.indimmediate AND k.place <= i.indnkeyatts
           AND a.attrelid = made.oid AND a.attnum = k.attnum AND NOT cachetag._is_name(a.atttypid) AND a.attgenerated = '';
        PERFORM cachetag.track(made.oid, 't' || made.oid || coalesce(':' || keys, ''), identity => CASE WHEN keys IS NULL THEN 'full' ELSE 'family' END);
    END LOOP;
END $$;

CREATE EVENT TRIGGER zz_regress_cachetag ON ddl_command_end WHEN TAG IN ('CREATE TABLE', 'CREATE TABLE AS', 'SELECT INTO', 'CREATE SCHEMA')
    EXECUTE FUNCTION regress_cachetag.track_what_is_made();
