-- track and untrack: which tags the rows of a table stand for.
-- jit = off, here and in whatever else DDL and people call: to the planner, functions within functions look expensive, and each would be compiled anew
-- at every call.

CREATE FUNCTION cachetag._caller() RETURNS oid
    LANGUAGE c STABLE AS 'MODULE_PATHNAME', 'caller_wrapper';

-- Refuses what a rule cannot be made for: tables of others, and those whose changes are not in the log.
CREATE FUNCTION cachetag._require_trackable(rel regclass) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    c pg_class;
    part record;
BEGIN
    SELECT * INTO c FROM pg_class WHERE oid = rel;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'relation with OID % does not exist', rel::oid USING ERRCODE = 'undefined_table';
    END IF;
    IF NOT pg_has_role(cachetag._caller(), c.relowner, 'USAGE') THEN
        RAISE EXCEPTION 'must be owner of table %', rel
            USING ERRCODE = 'insufficient_privilege',
                  HINT = format('Call it as %I, or as a superuser. Inside a SECURITY DEFINER function it is the caller who counts.',
                                pg_get_userbyid(c.relowner));
    END IF;
    IF c.oid < 16384 OR c.relnamespace IN ('pg_catalog'::regnamespace, 'cachetag'::regnamespace) THEN
        RAISE EXCEPTION '% is a system table', rel
            USING ERRCODE = 'wrong_object_type', HINT = 'Its changes are not published. Track tables of your own.';
    ELSIF c.relkind = 'v' THEN
        RAISE EXCEPTION '% is a view', rel
            USING ERRCODE = 'wrong_object_type', HINT = 'It has no rows of its own. Track the tables that it reads.';
    ELSIF c.relkind = 'm' THEN
        RAISE EXCEPTION '% is a materialized view', rel
            USING ERRCODE = 'wrong_object_type',
                  HINT = 'Its changes are not published. Call cachetag.invalidate(...) in the transaction that refreshes it.';
    ELSIF c.relkind = 'f' THEN
        RAISE EXCEPTION '% is a foreign table', rel
            USING ERRCODE = 'wrong_object_type',
                  HINT = 'Its changes are in another server''s log. Track the table there, or call cachetag.invalidate(...) after changes.';
    ELSIF c.relkind NOT IN ('r', 'p') THEN
        RAISE EXCEPTION '% is not a table', rel USING ERRCODE = 'wrong_object_type', HINT = 'Track tables.';
    ELSIF c.relpersistence = 't' THEN
        RAISE EXCEPTION '% is a temporary table', rel
            USING ERRCODE = 'wrong_object_type', HINT = 'One session sees it, and the log does not. Use a permanent table.';
    ELSIF c.relpersistence = 'u' THEN
        RAISE EXCEPTION '% is an unlogged table', rel
            USING ERRCODE = 'wrong_object_type',
                  HINT = format('Its changes are not in the log. To change that: ALTER TABLE %s SET LOGGED;', rel);
    END IF;
    SELECT t.relation::regclass AS name, t.relkind INTO part
      FROM cachetag._tree(rel) t WHERE t.relkind = 'f' OR t.relpersistence = 'u' LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'table % has the % table % below it', rel,
                        CASE part.relkind WHEN 'f' THEN 'foreign' ELSE 'unlogged' END, part.name
            USING ERRCODE = 'wrong_object_type',
                  HINT = 'Its changes are not in the log. Detach it or track the other tables one by one'
                         || CASE part.relkind WHEN 'f' THEN '.' ELSE format(', or ALTER TABLE %s SET LOGGED;', part.name) END;
    END IF;
END $$;

-- The operations, each once, in one order; NULL stands for all of them.
CREATE FUNCTION cachetag._operations(operations text[]) RETURNS text[]
    LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    known CONSTANT text[] := '{insert,update,delete,truncate}';
    given text[] := (SELECT array_agg(lower(trim(o))) FROM unnest(operations) AS u(o));
    wrong text;
BEGIN
    IF operations IS NULL THEN
        RETURN known;
    END IF;
    SELECT coalesce(o, 'NULL') INTO wrong FROM unnest(given) AS u(o) WHERE o IS NULL OR o <> ALL (known) LIMIT 1;
    IF FOUND OR given IS NULL THEN
        RAISE EXCEPTION '% is not an operation', coalesce(quote_literal(wrong), 'an empty array')
            USING ERRCODE = 'invalid_parameter_value', HINT = 'The operations are insert, update, delete and truncate; leave them out for all.';
    END IF;
    RETURN (SELECT array_agg(o ORDER BY place) FROM unnest(known) WITH ORDINALITY AS u(o, place) WHERE o = ANY (given));
END $$;

-- A type and the types that its values are made of: elements, what is below a domain, attributes, bounds.
CREATE FUNCTION cachetag._made_of(type oid) RETURNS SETOF oid
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    WITH RECURSIVE made_of(type) AS (
        SELECT _made_of.type
      UNION
        SELECT p.type FROM made_of m JOIN pg_type t ON t.oid = m.type,
               LATERAL (SELECT t.typelem UNION ALL SELECT t.typbasetype
                        UNION ALL SELECT r.rngsubtype FROM pg_range r WHERE t.oid IN (r.rngtypid, r.rngmultitypid)
                        UNION ALL SELECT a.atttypid FROM pg_attribute a WHERE a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped) AS p(type)
         WHERE p.type <> 0)
    SELECT m.type FROM made_of m
$$;

-- Is the text of its values the name of something else? A rename changes it, of which the rows and the log know nothing.
CREATE FUNCTION cachetag._is_name(type oid) RETURNS boolean
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT EXISTS (SELECT FROM cachetag._made_of(type) AS m(type)
                    WHERE m.type = ANY ('{regclass,regcollation,regconfig,regdictionary,regnamespace,regoper,regoperator,regproc,regprocedure,regrole,regtype,aclitem}'::regtype[]))
$$;

-- Why a rule cannot see what it looks at, or NULL: columns that are missing, not in the log, or not the same for long.
CREATE FUNCTION cachetag._hidden_columns(rel oid, names text[]) RETURNS text
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT string_agg(CASE WHEN a.attnum IS NULL THEN format('column "%s" does not exist', u.name)
                           WHEN a.attnum < 0 THEN format('column "%s" is a system column: its value is not in the log', u.name)
                           WHEN a.attgenerated <> '' THEN format('column "%s" is generated: its value is not in the log', u.name)
                           ELSE format('column "%s" is of type %s: its text changes when what it names is renamed', u.name, format_type(a.atttypid, NULL)) END,
                      '; ' ORDER BY u.place)
      FROM unnest(names) WITH ORDINALITY AS u(name, place)
      LEFT JOIN pg_attribute a ON a.attrelid = rel AND a.attname = u.name AND NOT a.attisdropped
     WHERE a.attnum IS NULL OR a.attnum < 0 OR a.attgenerated <> '' OR cachetag._is_name(a.atttypid)
$$;

CREATE FUNCTION cachetag._require_columns(rel regclass, names text[], identity text) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    missing text;
    hidden text;
BEGIN
    SELECT u.name INTO missing FROM unnest(names) AS u(name)
     WHERE NOT EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = rel AND a.attname = u.name AND NOT a.attisdropped) LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'column "%" of table % does not exist', missing, rel
            USING ERRCODE = 'undefined_column',
                  HINT = format('The table has the columns %s.',
                                (SELECT string_agg(format('%I', a.attname), ', ' ORDER BY a.attnum) FROM pg_attribute a
                                  WHERE a.attrelid = rel AND a.attnum > 0 AND NOT a.attisdropped));
    END IF;
    hidden := cachetag._hidden_columns(rel, names);
    IF hidden IS NOT NULL AND identity <> 'family' THEN
        RAISE EXCEPTION 'table %: %', rel, hidden
            USING ERRCODE = 'feature_not_supported',
                  HINT = 'Use columns of the row itself, or say identity => ''family'': then every change of the table counts for the whole family.';
    END IF;
END $$;

-- Sees to it that the log has what a rule needs, as its identity option says; true if the rule has to do without.
CREATE FUNCTION cachetag._require_identity(rel regclass, template text, names text[], identity text, needs_old_values boolean) RETURNS boolean
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    part regclass;
    needed text[] := CASE WHEN needs_old_values THEN names ELSE '{}' END;
    widen boolean := false;
    lacking regclass[] := '{}';
    unusable boolean := false;
    remedies text;
BEGIN
    FOR part IN SELECT t::regclass FROM cachetag._tables_of(rel) t ORDER BY t LOOP
        CONTINUE WHEN cachetag._give_old_values(part, needed, identity);
        IF (SELECT kind FROM cachetag._replica_identity(part)) = 'none' THEN
            unusable := true;
            lacking := lacking || part;
        ELSIF identity = 'family' THEN
            widen := true;
        ELSE
            lacking := lacking || part;
        END IF;
    END LOOP;
    IF lacking = '{}' THEN
        RETURN widen;
    END IF;

    part := lacking[1];
    remedies := coalesce(E'\n  an index that exists:  '
                         || cachetag._use_index_sql(part, cachetag._identity_index(part, needed || cachetag._needed_columns(part))) || ';', '')
        || CASE WHEN identity = 'index' AND needed <> '{}'
                THEN format(E'\n  a new index:           %s', cachetag._create_index_sql(part, needed)) ELSE '' END
        || format(E'\n  whole old rows:        ALTER TABLE %s REPLICA IDENTITY FULL;', part)
        || CASE WHEN cardinality(lacking) > 1 OR lacking[1] <> rel
                THEN format(E'\n  the same for all of its tables:  SELECT cachetag.track(%L, %L, identity => ''full'');', rel, template) ELSE '' END
        || CASE WHEN unusable THEN ''
                ELSE format(E'\n  the whole family instead of the old row''s tag:  SELECT cachetag.track(%L, %L, identity => ''family'');', rel, template) END;
    IF unusable THEN
        RAISE EXCEPTION 'table % has no replica identity', part
            USING ERRCODE = 'object_not_in_prerequisite_state',
                  DETAIL = 'PostgreSQL would refuse UPDATE and DELETE on it once it is published, so it is not.'
                           || CASE WHEN cardinality(lacking) > 1 THEN format(' There are %s such tables.', cardinality(lacking)) ELSE '' END,
                  HINT = 'Give it a primary key, or one of:' || remedies;
    END IF;
    RAISE EXCEPTION 'the log has not got the old values of % for table %',
                    (SELECT string_agg(format('%I', n), ', ') FROM unnest(needed) AS u(n)
                      WHERE n <> ALL (coalesce((SELECT columns FROM cachetag._replica_identity(part)), '{}'))), part
        USING ERRCODE = 'object_not_in_prerequisite_state',
              DETAIL = format('When a row changes, rule %L needs them for the tag that the row had before. The replica identity of the table is (%s).',
                              template, (SELECT array_to_string(columns, ', ') FROM cachetag._replica_identity(part)))
                       || CASE WHEN cardinality(lacking) > 1 THEN format(' The same holds for %s more tables.', cardinality(lacking) - 1) ELSE '' END,
              HINT = 'One of:' || remedies;
END $$;

CREATE FUNCTION cachetag.track(
    rel regclass, templates text[], columns text[] DEFAULT NULL, operations text[] DEFAULT NULL, soft boolean DEFAULT false,
    predicate text DEFAULT NULL, identity text DEFAULT 'check') RETURNS SETOF bigint
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET jit = off AS $$
DECLARE
    wanted text;
    names text[];
    ops text[];
    canonical text;
    needs_old_values boolean;
    exclusive boolean := false;
    does_without boolean;
    rule_id bigint;
BEGIN
    IF rel IS NULL OR soft IS NULL OR identity IS NULL OR coalesce(cardinality(templates), 0) = 0 OR array_position(templates, NULL) IS NOT NULL THEN
        RAISE EXCEPTION 'track needs a table and at least one template, none of them NULL'
            USING ERRCODE = 'null_value_not_allowed', HINT = 'For example: SELECT cachetag.track(''products'', ''product:{id}'');';
    ELSIF columns = '{}' OR array_position(columns, NULL) IS NOT NULL THEN
        RAISE EXCEPTION 'the columns that matter are an empty array or have a NULL in it'
            USING ERRCODE = 'invalid_parameter_value', HINT = 'Name them, or leave them out: then every UPDATE counts.';
    ELSIF identity NOT IN ('check', 'full', 'index', 'family') THEN
        RAISE EXCEPTION '% is not a way to see to the replica identity', quote_literal(identity)
            USING ERRCODE = 'invalid_parameter_value', HINT = 'The ways are check (the default), full, index and family.';
    ELSIF getdatabaseencoding() <> 'UTF8' THEN
        RAISE EXCEPTION 'the encoding of database % is %', current_database(), getdatabaseencoding()
            USING ERRCODE = 'feature_not_supported', HINT = 'Tags are UTF-8: create the database with ENCODING ''UTF8''.';
    ELSIF current_setting('transaction_isolation') NOT IN ('read committed', 'read uncommitted') THEN
        RAISE EXCEPTION 'track cannot run in a % transaction', upper(current_setting('transaction_isolation'))
            USING ERRCODE = 'invalid_transaction_state', HINT = 'Its snapshot may be older than what track has to look at. Use READ COMMITTED.';
    END IF;
    ops := cachetag._operations(operations);
    needs_old_values := ops && '{update,delete}';
    PERFORM cachetag._require_trackable(rel);

    -- Raising the lock later could deadlock with a reader, so: will the replica identity have to change?
    IF identity IN ('full', 'index') THEN
        FOREACH wanted IN ARRAY templates LOOP
            names := cachetag._used_columns(wanted, columns, predicate);
            exclusive := exclusive OR EXISTS (SELECT FROM cachetag._tables_of(rel) t
                                               WHERE NOT cachetag._has_old_values(t, CASE WHEN needs_old_values THEN names ELSE '{}' END));
        END LOOP;
    END IF;
    PERFORM cachetag._lock_tree(rel, exclusive);
    -- Once more: before the lock it could have changed.
    PERFORM cachetag._require_trackable(rel);
    canonical := cachetag._predicate_canonical(rel, predicate);
    -- The catalog first: what is inserted into it from here on is published.
    PERFORM cachetag._repair_publication();

    FOREACH wanted IN ARRAY templates LOOP
        names := cachetag._used_columns(wanted, columns, canonical);
        PERFORM cachetag._require_columns(rel, names, identity);
        does_without := cachetag._require_identity(rel, wanted, names, identity, needs_old_values);
        -- Its partitions are published with it, tables that inherit from it are not.
        PERFORM cachetag._publish(rel);
        PERFORM cachetag._publish(t) FROM cachetag._tables_of(rel) t WHERE NOT cachetag._is_published(t);
        INSERT INTO cachetag.rule AS r (relid, template, columns_that_matter, operations, soft, predicate, identity, widen, state)
        VALUES (rel, wanted, columns, ops, soft, canonical, identity, does_without, coalesce(cachetag._hidden_columns(rel, names), 'ok'))
        ON CONFLICT ON CONSTRAINT rule_relid_template_key DO UPDATE
           SET columns_that_matter = EXCLUDED.columns_that_matter, operations = EXCLUDED.operations, soft = EXCLUDED.soft,
               predicate = EXCLUDED.predicate, identity = EXCLUDED.identity, widen = EXCLUDED.widen, state = EXCLUDED.state
         WHERE (r.columns_that_matter, r.operations, r.soft, r.predicate, r.identity, r.widen, r.state) IS DISTINCT FROM
               (EXCLUDED.columns_that_matter, EXCLUDED.operations, EXCLUDED.soft, EXCLUDED.predicate, EXCLUDED.identity, EXCLUDED.widen,
                EXCLUDED.state);
        SELECT r.id INTO rule_id FROM cachetag.rule r WHERE r.relid = rel AND r.template = wanted;
        RETURN NEXT rule_id;
    END LOOP;

    IF current_setting('wal_level') <> 'logical' THEN
        RAISE WARNING 'wal_level is %, so nothing is invalidated yet', current_setting('wal_level')
            USING HINT = 'ALTER SYSTEM SET wal_level = logical; then restart the server.';
    END IF;
END $$;
COMMENT ON FUNCTION cachetag.track(regclass, text[], text[], text[], boolean, text, text) IS
    'makes changes of a table touch the tags of these templates, and returns the ids of the rules; a rule that exists gets the new options';

CREATE FUNCTION cachetag.track(rel regclass, VARIADIC templates text[]) RETURNS SETOF bigint
    LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
    SELECT cachetag.track(rel => rel, templates => templates, columns => NULL::text[])
$$;
COMMENT ON FUNCTION cachetag.track(regclass, text[]) IS
    'makes every change of a table touch the tags of these templates, and returns the ids of the rules';

-- One template with options.
CREATE FUNCTION cachetag.track(
    rel regclass, template text, columns text[] DEFAULT NULL, operations text[] DEFAULT NULL, soft boolean DEFAULT false,
    predicate text DEFAULT NULL, identity text DEFAULT 'check') RETURNS SETOF bigint
    LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
    SELECT cachetag.track(rel, ARRAY[template], columns, operations, soft, predicate, identity)
$$;
COMMENT ON FUNCTION cachetag.track(regclass, text, text[], text[], boolean, text, text) IS
    'makes changes of a table touch the tags of this template, and returns the id of the rule; a rule that exists gets the new options';

CREATE FUNCTION cachetag.untrack(rel regclass, VARIADIC templates text[]) RETURNS bigint
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET jit = off AS $$
DECLARE
    owner oid := (SELECT relowner FROM pg_class WHERE oid = rel);
    concerned oid[];
    removed bigint;
BEGIN
    IF rel IS NULL THEN
        RAISE EXCEPTION 'untrack needs a table' USING ERRCODE = 'null_value_not_allowed';
    ELSIF owner IS NULL AND NOT EXISTS (SELECT FROM cachetag.rule r WHERE r.relation = rel) THEN
        RAISE EXCEPTION 'relation with OID % does not exist', rel::oid USING ERRCODE = 'undefined_table';
    -- A rule that its table left behind, dropped while the event triggers were off, is nobody's: no row of it can change any more.
    ELSIF owner IS NOT NULL AND NOT pg_has_role(cachetag._caller(), owner, 'USAGE') THEN
        RAISE EXCEPTION 'must be owner of table %', rel
            USING ERRCODE = 'insufficient_privilege', HINT = format('Call it as %I, or as a superuser.', pg_get_userbyid(owner));
    END IF;
    concerned := (SELECT array_agg(b.relation) FROM cachetag.rule r JOIN cachetag.binding b ON b.rule_id = r.id WHERE r.relation = rel) || rel::oid;
    DELETE FROM cachetag.rule r WHERE r.relation = rel AND (templates IS NULL OR r.template = ANY (templates));
    GET DIAGNOSTICS removed = ROW_COUNT;
    PERFORM cachetag._unpublish(concerned);
    RETURN removed;
END $$;
COMMENT ON FUNCTION cachetag.untrack(regclass, text[]) IS 'removes these rules of a table and returns how many there were';

CREATE FUNCTION cachetag.untrack(rel regclass) RETURNS bigint
    LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
    SELECT cachetag.untrack(rel, VARIADIC NULL::text[])
$$;
COMMENT ON FUNCTION cachetag.untrack(regclass) IS 'removes all rules of a table and returns how many there were';

CREATE VIEW cachetag.rules AS
    SELECT r.id, r.relid AS "table", r.template, r.columns_that_matter AS columns, r.operations, r.soft, r.predicate, r.identity,
           (SELECT pg_catalog.array_agg(pg_catalog.format('%s: %s', b.relation::pg_catalog.regclass,
                       CASE i.kind WHEN 'index' THEN pg_catalog.array_to_string(i.columns, ', ') ELSE i.kind END)
                       ORDER BY b.relation::pg_catalog.regclass::pg_catalog.text)
              FROM cachetag.binding b, LATERAL cachetag._replica_identity(b.relation) i
             WHERE b.rule_id = r.id) AS replica_identities,
           r.widen, r.state
      FROM cachetag.rule r;
COMMENT ON VIEW cachetag.rules IS 'the rules, for people: which tags the rows of which table stand for';
