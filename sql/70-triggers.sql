-- Schema changes: what alters contents without a row in the WAL, and what would make rules or writers fail, is seen when it is done.

-- Brings a rule in line with its table: new names, dropped columns, partitions that came or went, replica identities.
CREATE FUNCTION cachetag._resettle(rule_id bigint) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    r cachetag.rule;
    now_named text;
    dropped text[] := '{}';
    renamed boolean := false;
    leaf oid;
    own record;
    narrow text[] := '{}';
BEGIN
    SELECT * INTO r FROM cachetag.rule WHERE id = rule_id;
    FOR i IN 1 .. cardinality(r.attnums) LOOP
        SELECT CASE WHEN attisdropped THEN NULL ELSE attname END INTO now_named FROM pg_attribute WHERE attrelid = r.relation AND attnum = r.attnums[i];
        IF now_named IS NULL THEN
            dropped := dropped || r.attnames[i];
        ELSIF now_named <> r.attnames[i] THEN
            r.template := cachetag._template_rename(r.template, r.attnames[i], now_named);
            r.predicate := cachetag._predicate_rename(r.predicate, r.attnames[i], now_named);
            r.columns_that_matter := array_replace(r.columns_that_matter, r.attnames[i], now_named);
            renamed := true;
        END IF;
    END LOOP;
    IF cardinality(dropped) > 0 AND r.state = 'ok' THEN
        r.state := format('column %s was dropped', array_to_string(dropped, ', '));
        UPDATE cachetag.rule SET state = r.state WHERE id = rule_id;
        RAISE WARNING 'cachetag: rule % of % uses the dropped column %', quote_literal(r.template), r.relid, array_to_string(dropped, ', ')
            USING DETAIL = format('From now on every change of the table invalidates %s:* as a whole.', r.family),
                  HINT = format('SELECT cachetag.untrack(%L, %L); and track it with a template that fits.', r.relid, r.template);
    ELSIF renamed THEN
        UPDATE cachetag.rule SET template = r.template, predicate = r.predicate, columns_that_matter = r.columns_that_matter WHERE id = rule_id;
    END IF;

    PERFORM cachetag._bind(rule_id, r.relation);
    -- Without a publication no writer is in danger. A restore of a dump is there: its primary keys and its own CREATE PUBLICATION are
    -- still to come, and attach() settles the rest.
    IF NOT EXISTS (SELECT FROM pg_publication WHERE pubname = 'cachetag') THEN
        RETURN;
    END IF;
    PERFORM cachetag._publish(cachetag._members(r.relation));

    FOR leaf IN SELECT t FROM cachetag._tables(r.relation) t JOIN pg_class c ON c.oid = t WHERE c.relkind = 'r' LOOP
        SELECT * INTO own FROM cachetag._identity(leaf);
        IF NOT own.usable THEN
            EXECUTE format('ALTER TABLE %s REPLICA IDENTITY FULL', leaf::regclass);
            RAISE WARNING 'cachetag: % is tracked and was left without a replica identity; it is now REPLICA IDENTITY FULL', leaf::regclass
                USING DETAIL = 'PostgreSQL would have refused its UPDATEs and DELETEs.',
                      HINT = 'Give it a primary key or a unique index as replica identity, or untrack it.';
        ELSIF own.kind <> 'f' AND NOT r.attnames <@ own.columns AND (r.operations IS NULL OR r.operations && '{update,delete}') THEN
            narrow := narrow || leaf::regclass::text;
        END IF;
    END LOOP;
    IF cardinality(narrow) > 0 AND NOT r.widen AND r.state = 'ok' THEN
        UPDATE cachetag.rule SET widen = true WHERE id = rule_id;
        RAISE WARNING 'cachetag: the old values that rule % of % needs are no longer in the WAL (%)', quote_literal(r.template), r.relid, array_to_string(narrow, ', ')
            USING DETAIL = format('Updates and deletes of it invalidate %s:* as a whole.', r.family),
                  HINT = format('ALTER TABLE %s REPLICA IDENTITY FULL; then track it again.', narrow[1]);
    END IF;
END $$;

CREATE FUNCTION cachetag._on_ddl() RETURNS event_trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    command record;
    affected bigint[] := '{}';
BEGIN
    IF NOT EXISTS (SELECT FROM cachetag.rule) THEN
        RETURN;
    END IF;
    FOR command IN SELECT classid, objid, command_tag FROM pg_event_trigger_ddl_commands() LOOP
        IF command.command_tag IN ('ALTER TYPE', 'ALTER DOMAIN') THEN
            -- A renamed enum value changes what rows look like, in whichever table.
            affected := affected || ARRAY(SELECT id FROM cachetag.rule);
        ELSIF command.classid = 'pg_class'::regclass THEN
            -- The table itself, what it is a part of, and what was a part of it until now; an index concerns its table.
            affected := affected || ARRAY(
                SELECT r.id FROM cachetag.rule r
                WHERE r.relation IN (SELECT cachetag._ancestors_of(coalesce((SELECT indrelid FROM pg_index WHERE indexrelid = command.objid), command.objid)))
                UNION
                SELECT b.rule_id FROM cachetag.binding b WHERE b.relation = command.objid);
        END IF;
    END LOOP;
    PERFORM cachetag._resettle(id) FROM cachetag.rule WHERE id = ANY (affected);
    PERFORM cachetag._emit(false, ARRAY(SELECT DISTINCT CASE family WHEN '*' THEN '*' ELSE family || ':*' END FROM cachetag.rule WHERE id = ANY (affected)));
END $$;

CREATE FUNCTION cachetag._on_drop() RETURNS event_trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    dropped record;
    affected bigint[] := '{}';
    families text[] := '{}';
    identities boolean := false;
BEGIN
    -- The extension itself may be on its way out.
    IF to_regclass('cachetag.rule') IS NULL OR to_regclass('cachetag.binding') IS NULL THEN
        RETURN;
    END IF;
    IF NOT EXISTS (SELECT FROM cachetag.rule) THEN
        RETURN;
    END IF;
    FOR dropped IN SELECT classid, objid, objsubid, object_type FROM pg_event_trigger_dropped_objects() LOOP
        IF dropped.object_type IN ('index', 'table constraint') THEN
            identities := true;
        ELSIF dropped.classid = 'pg_class'::regclass THEN
            families := families || ARRAY(SELECT r.family FROM cachetag.rule r JOIN cachetag.binding b ON b.rule_id = r.id WHERE b.relation = dropped.objid);
            IF dropped.objsubid = 0 THEN
                DELETE FROM cachetag.rule WHERE relation = dropped.objid;
                DELETE FROM cachetag.binding WHERE relation = dropped.objid;
            ELSE
                affected := affected || ARRAY(SELECT id FROM cachetag.rule WHERE relation = dropped.objid);
            END IF;
        END IF;
    END LOOP;
    IF identities THEN
        affected := affected || ARRAY(
            SELECT DISTINCT b.rule_id FROM cachetag.binding b JOIN pg_class c ON c.oid = b.relation AND c.relkind = 'r', cachetag._identity(b.relation) i
            WHERE NOT i.usable);
    END IF;
    PERFORM cachetag._resettle(id) FROM cachetag.rule r WHERE id = ANY (affected) AND EXISTS (SELECT FROM pg_class WHERE oid = r.relation);
    PERFORM cachetag._emit(false, ARRAY(SELECT DISTINCT CASE f WHEN '*' THEN '*' ELSE f || ':*' END FROM unnest(families) f));
END $$;

CREATE EVENT TRIGGER cachetag_ddl ON ddl_command_end
    WHEN TAG IN ('ALTER TABLE', 'CREATE TABLE', 'CREATE TABLE AS', 'SELECT INTO', 'ALTER TYPE', 'ALTER DOMAIN', 'ALTER INDEX', 'CREATE INDEX')
    EXECUTE FUNCTION cachetag._on_ddl();
CREATE EVENT TRIGGER cachetag_drop ON sql_drop EXECUTE FUNCTION cachetag._on_drop();
ALTER EVENT TRIGGER cachetag_ddl ENABLE ALWAYS;
ALTER EVENT TRIGGER cachetag_drop ENABLE ALWAYS;

-- Everything whose name begins with an underscore is for the functions above only, except what SQL-language callers inline.
DO $$
DECLARE
    f record;
BEGIN
    FOR f IN SELECT oid::regprocedure AS name FROM pg_proc
             WHERE pronamespace = 'cachetag'::regnamespace
               AND proname IN ('_settle_identity', '_publish', '_bind', '_resettle', '_on_ddl', '_on_drop', '_rule_fill', '_rule_bind')
    LOOP
        EXECUTE format('REVOKE ALL ON FUNCTION %s FROM PUBLIC', f.name);
    END LOOP;
END $$;
