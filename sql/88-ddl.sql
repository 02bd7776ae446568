-- Event triggers: what changes contents, names or replica identities without a row in the log. They do nothing but look at the rules when a command
-- is about a table that no rule is about.

-- These tables, those above them and those below them.
CREATE FUNCTION cachetag._near(rels oid[]) RETURNS SETOF oid
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    WITH RECURSIVE up(relation) AS (
        SELECT unnest(rels)
      UNION
        SELECT i.inhparent FROM pg_inherits i JOIN up u ON i.inhrelid = u.relation),
    down(relation) AS (
        SELECT unnest(rels)
      UNION
        SELECT i.inhrelid FROM pg_inherits i JOIN down d ON i.inhparent = d.relation)
    SELECT relation FROM up UNION SELECT relation FROM down
$$;

-- What automatic tags call definitions: every captured result has the tag cachetag.ddl, which stands for all that a statement uses and that is no row:
-- functions, views, operators, types, and which names mean what. A result that has no tag of the rules of a relation that it names has cachetag.ddl:<oid>
-- for it. Tables above a relation are told too, of which a partition or a child is a part, and those below it, which get its columns.
CREATE FUNCTION cachetag._emit_definitions(everything boolean, rels oid[]) RETURNS void
    LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
    WITH tags(tag) AS (
        SELECT 'cachetag.ddl' WHERE everything
      UNION
        SELECT 'cachetag.ddl:' || relation FROM cachetag._near(rels) AS near(relation) WHERE relation IS NOT NULL)
    SELECT pg_logical_emit_message(true, 'cachetag', 'hard' || string_agg(E'\n' || tag, '' ORDER BY tag)) FROM tags HAVING count(*) > 0
$$;

-- The rules that are about these tables, those above them or those below them.
CREATE FUNCTION cachetag._rules_about(rels oid[]) RETURNS SETOF bigint
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    WITH near AS MATERIALIZED (SELECT relation FROM cachetag._near(rels) AS n(relation))
    SELECT id FROM cachetag.rule WHERE relation IN (SELECT relation FROM near)
    UNION
    SELECT rule_id FROM cachetag.binding WHERE relation IN (SELECT relation FROM near)
$$;

CREATE FUNCTION cachetag._has_unseen_rules(rels oid[]) RETURNS boolean
    LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'has_unseen_rules_wrapper';

-- Are there no rules at all? In a transaction whose snapshot is older than rules about these tables (all tables, if NULL), they could not be made true
-- to what the command does.
CREATE FUNCTION cachetag._no_rules(rels oid[]) RETURNS boolean
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF current_setting('transaction_isolation') IN ('repeatable read', 'serializable') AND cachetag._has_unseen_rules(rels) THEN
        RAISE EXCEPTION 'could not serialize access due to new rules of cachetag'
            USING ERRCODE = 'serialization_failure', HINT = 'Retry the transaction.';
    END IF;
    RETURN NOT EXISTS (SELECT FROM cachetag.rule);
END $$;

-- Makes rules true to their tables and invalidates their families.
CREATE FUNCTION cachetag._touch(rule_ids bigint[]) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    rule_id bigint;
BEGIN
    PERFORM cachetag._emit((SELECT array_agg(family) FROM cachetag.rule WHERE id = ANY (rule_ids)));
    -- Those first that asked for a replica identity: what they get is good for the others.
    FOR rule_id IN SELECT id FROM cachetag.rule WHERE id = ANY (rule_ids) ORDER BY identity NOT IN ('full', 'index'), id LOOP
        PERFORM cachetag._refresh_rule(rule_id, strict => true);
    END LOOP;
END $$;

-- The tables that these views read, through other views too, and what is no view itself.
CREATE FUNCTION cachetag._read_by(rels oid[]) RETURNS SETOF oid
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    WITH RECURSIVE read(relation) AS (
        SELECT unnest(rels)
      UNION
        SELECT d.refobjid
          FROM read r JOIN pg_rewrite w ON w.ev_class = r.relation AND w.ev_type = '1'
                      JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = w.oid AND d.refclassid = 'pg_class'::regclass)
    SELECT relation FROM read
$$;

-- Does the command change the text of values that are stored already, under writers in flight? Their rows are in the log as the old text, and a reader
-- may have cached under the new one before they commit.
CREATE FUNCTION cachetag._changes_texts(command pg_ddl_command) RETURNS boolean
    LANGUAGE c STRICT AS 'MODULE_PATHNAME', 'changes_texts_wrapper';

-- Waits until nobody writes the tables in whose tags values of these types are, and lets nobody until the end of the transaction.
CREATE FUNCTION cachetag._wait_for_writers(types oid[]) RETURNS void
    LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
    SELECT cachetag._lock_tree(t.relation, false)
      FROM (SELECT DISTINCT b.relation
              FROM cachetag.binding b JOIN cachetag.rule r ON r.id = b.rule_id
              JOIN pg_attribute a ON a.attrelid = b.relation AND a.attname = ANY (r.used_columns) AND NOT a.attisdropped AND a.atttypid >= 16384
             WHERE EXISTS (SELECT FROM cachetag._made_of(a.atttypid) AS m(type) WHERE m.type = ANY (types))
             ORDER BY 1) AS t
$$;

CREATE FUNCTION cachetag._on_ddl() RETURNS event_trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET jit = off AS $$
DECLARE
    rels oid[];
    types oid[];
    texts oid[];
    publication boolean;
    concerned bigint[];
BEGIN
    SELECT array_agg(DISTINCT c.objid) FILTER (WHERE c.classid = 'pg_class'::regclass AND c.schema_name IS DISTINCT FROM 'pg_temp')
               || array_agg(DISTINCT p.polrelid) FILTER (WHERE p.oid IS NOT NULL),
           array_agg(DISTINCT c.objid) FILTER (WHERE c.classid = 'pg_type'::regclass AND c.command_tag IN ('ALTER TYPE', 'ALTER DOMAIN')),
           array_agg(DISTINCT coalesce(y.oid, c.objid)) FILTER (WHERE cachetag._changes_texts(c.command)),
           coalesce(bool_or(c.classid = 'pg_publication'::regclass), false)
      INTO rels, types, texts, publication
      FROM pg_event_trigger_ddl_commands() c
      LEFT JOIN pg_policy p ON c.classid = 'pg_policy'::regclass AND p.oid = c.objid
      LEFT JOIN pg_type y ON c.classid = 'pg_class'::regclass AND y.typrelid = c.objid;
    IF rels IS NULL AND types IS NULL AND NOT publication THEN
        RETURN;
    ELSIF cachetag._no_rules(CASE WHEN types IS NULL AND NOT publication THEN ARRAY(SELECT cachetag._read_by(rels)) END) THEN
        RETURN;
    END IF;
    IF texts IS NOT NULL THEN
        PERFORM cachetag._wait_for_writers(texts);
    END IF;
    IF publication AND NOT EXISTS (SELECT FROM pg_publication WHERE pubname = 'cachetag') THEN
        PERFORM cachetag._replace_publication();
    ELSIF publication AND EXISTS (SELECT FROM pg_publication
                                WHERE pubname = 'cachetag' AND (pubviaroot OR NOT (pubinsert AND pubupdate AND pubdelete AND pubtruncate))) THEN
        PERFORM cachetag._state_publication();
        RAISE WARNING 'publication cachetag has got its options back'
            USING DETAIL = 'Without them, changes would not reach the caches.', HINT = 'Untrack the tables whose changes you do not want in it.';
    END IF;
    concerned := ARRAY(SELECT cachetag._rules_about(ARRAY(SELECT cachetag._read_by(rels))));
    IF types IS NOT NULL THEN
        -- Which types are made of which is not worth the search: all rules of tables with a column of a type that users made.
        concerned := concerned || ARRAY(
            SELECT b.rule_id FROM cachetag.binding b
             WHERE EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = b.relation AND a.attnum > 0 AND a.atttypid >= 16384));
    END IF;
    PERFORM cachetag._touch(concerned);
END $$;

CREATE FUNCTION cachetag._on_drop() RETURNS event_trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET jit = off AS $$
DECLARE
    gone oid[];
    changed oid[];
    keys boolean;
    memberships boolean;
    concerned bigint[];
    rel oid;
BEGIN
    SELECT array_agg(d.objid) FILTER (WHERE d.object_type IN ('table', 'foreign table') AND NOT d.is_temporary),
           array_agg(d.objid) FILTER (WHERE d.object_type = 'table column' AND NOT d.is_temporary)
               || array_agg(to_regclass(format('%I.%I', d.address_names[1], d.address_names[2]))::oid) FILTER (WHERE d.object_type = 'policy'),
           coalesce(bool_or((d.original OR d.normal) AND d.object_type IN ('index', 'table constraint')), false),
           coalesce(bool_or(d.object_type LIKE 'publication%' AND d.original), false)
      INTO gone, changed, keys, memberships
      FROM pg_event_trigger_dropped_objects() d;
    IF gone IS NULL AND changed IS NULL AND NOT keys AND NOT memberships THEN
        RETURN;
    ELSIF cachetag._no_rules(CASE WHEN NOT keys AND NOT memberships THEN coalesce(gone, '{}') || coalesce(changed, '{}') END) THEN
        RETURN;
    END IF;

    PERFORM cachetag._emit((SELECT array_agg(r.family) FROM cachetag.rule r WHERE r.relation = ANY (gone)));
    INSERT INTO cachetag.former AS f (schema, name, templates)
    SELECT d.schema_name, d.object_name, array_agg(r.template ORDER BY r.id)
      FROM pg_event_trigger_dropped_objects() d JOIN cachetag.rule r ON r.relation = d.objid
     WHERE d.classid = 'pg_class'::regclass AND d.objsubid = 0
     GROUP BY 1, 2
    ON CONFLICT ON CONSTRAINT former_pkey DO UPDATE SET templates = EXCLUDED.templates;
    DELETE FROM cachetag.rule r WHERE r.relation = ANY (gone);

    concerned := ARRAY(SELECT cachetag._rules_about(changed))
              || ARRAY(SELECT b.rule_id FROM cachetag.binding b WHERE b.relation = ANY (gone));
    IF keys THEN
        -- An index that is gone does not say whose it was. The tables that its loss concerns are those without a replica identity now.
        concerned := concerned || ARRAY(
            SELECT b.rule_id FROM cachetag.binding b, LATERAL cachetag._replica_identity(b.relation) i WHERE i.kind = 'none');
    END IF;
    PERFORM cachetag._touch(concerned);

    -- In the same transaction: no change can fall in between.
    IF memberships AND NOT EXISTS (SELECT FROM pg_publication WHERE pubname = 'cachetag') THEN
        PERFORM cachetag._replace_publication();
    ELSIF memberships THEN
        FOR rel IN SELECT cachetag._catalog_tables() UNION SELECT relation FROM cachetag._missing_members() ORDER BY 1 LOOP
            IF cachetag._publish(rel) THEN
                RAISE WARNING 'table % is in publication cachetag again', rel::regclass
                    USING DETAIL = 'Its changes would no longer reach the caches.',
                          HINT = CASE WHEN rel IN (SELECT cachetag._catalog_tables()) THEN 'The daemon reads it. DROP EXTENSION cachetag takes it out.'
                                      ELSE format('To take it out: SELECT cachetag.untrack(%L);', rel::regclass) END;
            END IF;
        END LOOP;
    END IF;
END $$;

-- Tells automatic tags of commands that create or alter something.
CREATE FUNCTION cachetag._on_definition() RETURNS event_trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET jit = off AS $$
DECLARE
    everything boolean;
    rels oid[];
BEGIN
    -- What the result of no query depends on, and what concerns one relation only, is left out of everything. A new partition is no news but to those
    -- who mean a relation of the same name.
    SELECT coalesce(bool_or(NOT (c.command_tag = ANY ('{CREATE INDEX,ALTER INDEX,CREATE SEQUENCE,ALTER SEQUENCE,CREATE STATISTICS,ALTER STATISTICS,
                                 CREATE TRIGGER,ALTER TRIGGER,CREATE EVENT TRIGGER,ALTER EVENT TRIGGER,COMMENT,SECURITY LABEL,GRANT,REVOKE,
                                 ALTER DEFAULT PRIVILEGES,CREATE PUBLICATION,ALTER PUBLICATION,CREATE SUBSCRIPTION,ALTER SUBSCRIPTION,
                                 REFRESH MATERIALIZED VIEW,ALTER TABLE,ALTER FOREIGN TABLE,CREATE POLICY,ALTER POLICY}')
                                 OR coalesce(r.relispartition, false)
                                    AND NOT EXISTS (SELECT FROM pg_class o WHERE o.relname = r.relname AND o.oid <> r.oid))), false),
           array_agg(DISTINCT coalesce(r.oid, p.polrelid)) FILTER (WHERE r.relkind IN ('r', 'p', 'v', 'm', 'f') OR p.oid IS NOT NULL)
      INTO everything, rels
      FROM pg_event_trigger_ddl_commands() c
      LEFT JOIN pg_class r ON c.classid = 'pg_class'::regclass AND r.oid = c.objid
      LEFT JOIN pg_policy p ON c.classid = 'pg_policy'::regclass AND p.oid = c.objid
     WHERE c.schema_name IS DISTINCT FROM 'pg_temp';
    PERFORM cachetag._emit_definitions(everything, rels);
END $$;

-- And of what is dropped: another function or table may answer to the name, an index may have made a join superfluous.
CREATE FUNCTION cachetag._on_definition_drop() RETURNS event_trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET jit = off AS $$
DECLARE
    everything boolean;
    rels oid[];
BEGIN
    SELECT coalesce(bool_or(d.original AND d.object_type NOT IN (
                        'trigger', 'event trigger', 'sequence', 'statistics object', 'default value', 'table column', 'table constraint', 'policy',
                        'default acl', 'publication', 'publication relation', 'publication namespace', 'subscription', 'user mapping')
                    AND NOT EXISTS (SELECT FROM cachetag.binding b JOIN cachetag.rule r ON r.id = b.rule_id
                                     WHERE d.classid = 'pg_class'::regclass AND b.relation = d.objid AND r.relation <> d.objid)), false),
           array_agg(DISTINCT CASE WHEN d.object_type = 'policy' THEN to_regclass(format('%I.%I', d.address_names[1], d.address_names[2]))::oid
                                   ELSE d.objid END)
               FILTER (WHERE d.object_type IN ('table', 'foreign table', 'view', 'materialized view', 'table column', 'policy'))
      INTO everything, rels
      FROM pg_event_trigger_dropped_objects() d
     WHERE NOT d.is_temporary;
    PERFORM cachetag._emit_definitions(everything, rels);
END $$;

-- ALTER TABLE is seen when it ends; this is for rewrites that other commands cause, as ALTER TYPE ... CASCADE does.
CREATE FUNCTION cachetag._on_rewrite() RETURNS event_trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET jit = off AS $$
BEGIN
    IF NOT cachetag._no_rules(ARRAY[pg_event_trigger_table_rewrite_oid()]) THEN
        PERFORM cachetag._emit((SELECT array_agg(r.family) FROM cachetag.rule r
                                 WHERE r.id IN (SELECT cachetag._rules_about(ARRAY[pg_event_trigger_table_rewrite_oid()]))));
    END IF;
END $$;

-- Some commands have to be met before they begin: those of several transactions, and new names. The function in the library finds out what the command is about and calls these;
-- they do nothing that a user could not do otherwise.

-- A partition that is detached concurrently is gone for readers when the first of the transactions commits; the end of the command may be far away.
CREATE FUNCTION cachetag._before_detach(rel oid) RETURNS void
    LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT cachetag._emit_definitions(false, ARRAY[rel]);
    SELECT cachetag._emit((SELECT array_agg(r.family) FROM cachetag.rule r WHERE r.id IN (SELECT cachetag._rules_about(ARRAY[rel]))))
$$;

-- The first transaction takes the replica identity away, and PostgreSQL would refuse the table's writers until the last one, which can give it another.
CREATE FUNCTION cachetag._before_drop_concurrently(index oid) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    rel regclass := (SELECT b.relation FROM pg_index i JOIN cachetag.binding b ON b.relation = i.indrelid
                      WHERE i.indexrelid = index AND (SELECT r.index FROM cachetag._replica_identity(b.relation) r) = i.indexrelid LIMIT 1);
BEGIN
    IF rel IS NOT NULL AND cachetag._is_published(rel) THEN
        RAISE EXCEPTION 'index % is the replica identity of the tracked table %', index::regclass, rel
            USING ERRCODE = 'object_in_use',
                  DETAIL = 'Until the command ends, PostgreSQL would refuse UPDATE and DELETE on the table.',
                  HINT = format('ALTER TABLE %s REPLICA IDENTITY FULL; first, or another index, or drop it without CONCURRENTLY.', rel);
    END IF;
END $$;

-- A table is about to get another name. What a statement calls by the old or the new one is another table afterwards.
CREATE FUNCTION cachetag._before_rename(rel oid) RETURNS void
    LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT cachetag._emit_definitions(true, ARRAY[rel]) WHERE (SELECT relpersistence FROM pg_class WHERE oid = rel) <> 't';
    INSERT INTO cachetag.former AS f (schema, name, templates)
    SELECT n.nspname, c.relname, array_agg(r.template ORDER BY r.id)
      FROM cachetag.rule r JOIN pg_class c ON c.oid = r.relation JOIN pg_namespace n ON n.oid = c.relnamespace
     WHERE r.relation = rel
     GROUP BY 1, 2
    ON CONFLICT ON CONSTRAINT former_pkey DO UPDATE SET templates = EXCLUDED.templates
$$;

CREATE FUNCTION cachetag._on_start() RETURNS event_trigger
    LANGUAGE c AS 'MODULE_PATHNAME', 'on_start_wrapper';

CREATE EVENT TRIGGER cachetag_start ON ddl_command_start WHEN TAG IN ('ALTER TABLE', 'DROP INDEX')
    EXECUTE FUNCTION cachetag._on_start();
-- ALTER VIEW and ALTER MATERIALIZED VIEW rename columns of tables too.
CREATE EVENT TRIGGER cachetag_ddl ON ddl_command_end
    WHEN TAG IN ('ALTER TABLE', 'CREATE TABLE', 'CREATE FOREIGN TABLE', 'ALTER FOREIGN TABLE', 'CREATE SCHEMA', 'ALTER TYPE', 'ALTER DOMAIN',
                 'CREATE VIEW', 'ALTER VIEW', 'ALTER MATERIALIZED VIEW', 'CREATE POLICY', 'ALTER POLICY', 'ALTER PUBLICATION')
    EXECUTE FUNCTION cachetag._on_ddl();
CREATE EVENT TRIGGER cachetag_drop ON sql_drop EXECUTE FUNCTION cachetag._on_drop();
CREATE EVENT TRIGGER cachetag_definition ON ddl_command_end EXECUTE FUNCTION cachetag._on_definition();
-- Before cachetag_drop, which forgets what a table was a part of: triggers of one event run in the order of their names.
CREATE EVENT TRIGGER cachetag_definition_drop ON sql_drop EXECUTE FUNCTION cachetag._on_definition_drop();
CREATE EVENT TRIGGER cachetag_rewrite ON table_rewrite EXECUTE FUNCTION cachetag._on_rewrite();
ALTER EVENT TRIGGER cachetag_start ENABLE ALWAYS;
ALTER EVENT TRIGGER cachetag_ddl ENABLE ALWAYS;
ALTER EVENT TRIGGER cachetag_drop ENABLE ALWAYS;
ALTER EVENT TRIGGER cachetag_rewrite ENABLE ALWAYS;
ALTER EVENT TRIGGER cachetag_definition ENABLE ALWAYS;
ALTER EVENT TRIGGER cachetag_definition_drop ENABLE ALWAYS;
