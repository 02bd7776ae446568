-- Rules: which tags a change of a row touches.

-- Equality of these types is equality of their text, which is what the daemon compares in a predicate.
CREATE FUNCTION cachetag._compares_as_text(type oid, collation_ oid) RETURNS boolean
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT (type = ANY ('{bool,int2,int4,int8,oid,text,varchar,uuid,date,"char",name}'::regtype[])
            OR EXISTS (SELECT FROM pg_type t WHERE t.oid = type AND t.typtype = 'e'))
       AND NOT EXISTS (SELECT FROM pg_collation c WHERE c.oid = collation_ AND NOT c.collisdeterministic)
$$;

-- The predicate with its literals as PostgreSQL prints values of the columns' types under the daemon's settings.
CREATE FUNCTION cachetag._predicate_of(rel regclass, predicate text) RETURNS text
LANGUAGE plpgsql STABLE STRICT SET search_path = pg_catalog, pg_temp
SET datestyle = 'ISO' SET timezone = 'UTC' SET intervalstyle = 'postgres' SET extra_float_digits = 1 SET bytea_output = 'hex' AS $$
DECLARE
    pairs text[] := cachetag._predicate_literals(predicate);
    literals text[] := '{}';
    literal text;
    col record;
BEGIN
    FOR i IN 1 .. cardinality(pairs) BY 2 LOOP
        SELECT a.atttypid, a.attcollation, format_type(a.atttypid, a.atttypmod) AS type INTO col
        FROM pg_attribute a WHERE a.attrelid = rel AND a.attname = pairs[i] AND NOT a.attisdropped;
        IF NOT cachetag._compares_as_text(col.atttypid, col.attcollation) THEN
            RAISE EXCEPTION 'column % of % has type %, which a predicate cannot compare', quote_ident(pairs[i]), rel, col.type
                USING ERRCODE = 'feature_not_supported',
                      HINT = 'Two equal values of this type can look different. Use a column of type bool, integer, text, varchar, uuid, date or an enum, or leave the predicate out.';
        END IF;
        -- The type's output function, as in the stream: a cast to text makes `true` of what is printed as `t`.
        EXECUTE format('SELECT format(''%%s'', %L::%s)', pairs[i + 1], col.type) INTO literal;
        literals := literals || literal;
    END LOOP;
    RETURN cachetag._predicate_with(predicate, literals);
END $$;

CREATE FUNCTION cachetag._own(rel regclass) RETURNS void
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF NOT pg_has_role(cachetag._caller(), (SELECT relowner FROM pg_class WHERE oid = rel), 'USAGE') THEN
        RAISE EXCEPTION 'must be owner of table %', rel
            USING ERRCODE = 'insufficient_privilege', HINT = 'Ask the owner of the table to track it.';
    END IF;
END $$;

-- Only what logical replication publishes, and publishes whole, can be tracked.
CREATE FUNCTION cachetag._check_trackable(rel regclass) RETURNS void
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    c pg_class;
    problem text;
    remedy text;
BEGIN
    SELECT * INTO c FROM pg_class WHERE oid = rel;
    CASE
        WHEN c.relnamespace IN ('pg_catalog'::regnamespace, 'information_schema'::regnamespace, 'cachetag'::regnamespace) THEN
            problem := 'a system table';
            remedy := 'Only tables of applications can be tracked.';
        WHEN c.relkind = 'v' THEN
            problem := 'a view';
            remedy := 'Track the tables that it reads.';
        WHEN c.relkind = 'm' THEN
            problem := 'a materialized view';
            remedy := 'A refresh is not in the replication stream: call cachetag.invalidate() after REFRESH, or track the tables that it reads.';
        WHEN c.relkind = 'f' THEN
            problem := 'a foreign table';
            remedy := 'Its changes happen on another server: track the table there.';
        WHEN c.relkind NOT IN ('r', 'p') THEN
            problem := 'not a table';
            remedy := 'Only ordinary and partitioned tables can be tracked.';
        WHEN c.relpersistence = 't' THEN
            problem := 'a temporary table';
            remedy := 'Nobody else can see it, so nothing read from it belongs into a shared cache.';
        WHEN c.relpersistence = 'u' THEN
            problem := 'an unlogged table';
            remedy := format('Its changes are not in the WAL. Run: ALTER TABLE %s SET LOGGED;', rel);
        ELSE
            RETURN;
    END CASE;
    RAISE EXCEPTION 'cannot track %: it is %', rel, problem USING ERRCODE = 'wrong_object_type', HINT = remedy;
END $$;

-- A unique index that can serve as replica identity and holds the columns.
CREATE FUNCTION cachetag._identity_index(rel oid, needed text[]) RETURNS regclass
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT i.indexrelid::regclass
    FROM pg_index i
    WHERE i.indrelid = rel AND i.indisunique AND i.indimmediate AND i.indisvalid AND i.indpred IS NULL AND i.indexprs IS NULL
      AND NOT EXISTS (SELECT FROM unnest(i.indkey::int2[]) k JOIN pg_attribute a ON a.attrelid = rel AND a.attnum = k WHERE NOT a.attnotnull)
      AND needed <@ ARRAY(SELECT a.attname::text FROM pg_attribute a WHERE a.attrelid = rel AND a.attnum = ANY (i.indkey::int2[]))
    ORDER BY i.indnatts, i.indexrelid LIMIT 1
$$;

-- Sees to it that the WAL holds what the rule needs of old rows of one table; tells whether it does.
CREATE FUNCTION cachetag._settle_identity(rel oid, needed text[], identity text, family text) RETURNS boolean
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    own record;
    index regclass;
    index_name text;
    missing text[];
BEGIN
    SELECT * INTO own FROM cachetag._identity(rel);
    IF own.kind = 'f' OR (own.usable AND needed <@ own.columns) THEN
        RETURN true;
    END IF;
    IF identity = 'full' THEN
        EXECUTE format('ALTER TABLE %s REPLICA IDENTITY FULL', rel::regclass);
        RETURN true;
    END IF;
    index := cachetag._identity_index(rel, needed);
    IF identity = 'index' THEN
        IF index IS NULL THEN
            RAISE EXCEPTION 'no index of % can be its replica identity and hold %', rel::regclass, array_to_string(needed, ', ')
                USING ERRCODE = 'object_not_in_prerequisite_state',
                      HINT = format('It has to be unique, not partial, not deferrable, and all its columns NOT NULL. For example: CREATE UNIQUE INDEX ON %s (%s);',
                                    rel::regclass, (SELECT string_agg(quote_ident(c), ', ') FROM unnest(own.columns || needed) WITH ORDINALITY u(c, n)));
        END IF;
        EXECUTE format('ALTER TABLE %s REPLICA IDENTITY USING INDEX %I', rel::regclass, (SELECT relname FROM pg_class WHERE oid = index));
        RETURN true;
    END IF;
    IF identity = 'family' AND own.usable THEN
        RETURN false;
    END IF;
    missing := ARRAY(SELECT c FROM unnest(needed) c WHERE NOT c = ANY (own.columns));
    index_name := (SELECT quote_ident(relname) FROM pg_class WHERE oid = index);
    IF own.usable THEN
        RAISE EXCEPTION 'the old values of % of % are not in the WAL', array_to_string(missing, ', '), rel::regclass
            USING ERRCODE = 'object_not_in_prerequisite_state',
                  DETAIL = format('An UPDATE or DELETE logs only the replica identity of the old row: %s.', array_to_string(own.columns, ', ')),
                  HINT = concat('Choose one: ',
                      format('(1) ALTER TABLE %s REPLICA IDENTITY USING INDEX ', rel::regclass) || index_name || '; (or identity => ''index''); ',
                      CASE WHEN index IS NULL THEN format('(1) CREATE UNIQUE INDEX ON %s (%s); and identity => ''index''; ', rel::regclass,
                          (SELECT string_agg(quote_ident(c), ', ') FROM unnest(own.columns || missing) c)) END,
                      format('(2) ALTER TABLE %s REPLICA IDENTITY FULL; (or identity => ''full''), which logs whole old rows; ', rel::regclass),
                      format('(3) identity => ''family'': updates and deletes invalidate %s:* as a whole', family));
    END IF;
    RAISE EXCEPTION '% has no usable replica identity', rel::regclass
        USING ERRCODE = 'object_not_in_prerequisite_state',
              DETAIL = 'PostgreSQL would refuse every UPDATE and DELETE of it while it is tracked.',
              HINT = concat('Choose one: ',
                  format('(1) ALTER TABLE %s REPLICA IDENTITY USING INDEX ', rel::regclass) || index_name || '; (or identity => ''index''); ',
                  CASE WHEN index IS NULL THEN '(1) a primary key; ' END,
                  format('(2) ALTER TABLE %s REPLICA IDENTITY FULL; (or identity => ''full'')', rel::regclass));
END $$;

-- The publication, with the catalog and every tracked table in it.
CREATE FUNCTION cachetag._publish(tables oid[]) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    pub pg_publication;
    rel oid;
BEGIN
    SELECT * INTO pub FROM pg_publication WHERE pubname = 'cachetag';
    IF NOT FOUND THEN
        CREATE PUBLICATION cachetag WITH (publish = 'insert, update, delete, truncate', publish_via_partition_root = false);
        SELECT * INTO pub FROM pg_publication WHERE pubname = 'cachetag';
    ELSIF NOT (pub.pubinsert AND pub.pubupdate AND pub.pubdelete AND pub.pubtruncate) OR pub.pubviaroot THEN
        ALTER PUBLICATION cachetag SET (publish = 'insert, update, delete, truncate', publish_via_partition_root = false);
    END IF;
    FOREACH rel IN ARRAY '{cachetag.rule,cachetag.binding,cachetag.dependency}'::regclass[]::oid[] || tables LOOP
        IF NOT EXISTS (SELECT FROM pg_publication_rel WHERE prpubid = pub.oid AND prrelid = rel) AND NOT pub.puballtables
           AND EXISTS (SELECT FROM pg_class WHERE oid = rel) THEN
            EXECUTE format('ALTER PUBLICATION cachetag ADD TABLE ONLY %s', rel::regclass);
        END IF;
    END LOOP;
END $$;

-- What has to be a member: partitions come with their root, children of plain inheritance one by one.
CREATE FUNCTION cachetag._members(root oid) RETURNS oid[]
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT array_agg(t) FROM cachetag._tables(root) t JOIN pg_class c ON c.oid = t
    WHERE t = root OR NOT c.relispartition
$$;

CREATE FUNCTION cachetag.attach() RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    r record;
BEGIN
    PERFORM cachetag._require_daemon();
    PERFORM cachetag._publish('{}');
    FOR r IN SELECT id FROM cachetag.rule WHERE EXISTS (SELECT FROM pg_class WHERE oid = relid) ORDER BY id LOOP
        PERFORM cachetag._resettle(r.id);
    END LOOP;
END $$;
COMMENT ON FUNCTION cachetag.attach IS 'Brings the publication in line with the rules; the daemon calls it at each start.';

CREATE VIEW cachetag.rules AS
SELECT r.id, r.relid AS "table", r.template, r.columns_that_matter AS columns,
       coalesce(r.operations, '{insert,update,delete,truncate}') AS operations, r.soft, r.predicate,
       CASE WHEN r.state <> 'ok' THEN 'family'
            WHEN r.widen THEN 'precise for inserts, family for updates and deletes'
            ELSE 'precise' END AS precision,
       r.state
FROM cachetag.rule r;
GRANT SELECT ON cachetag.rules TO PUBLIC;

CREATE FUNCTION cachetag.track(
    rel regclass, templates text[], columns text[] DEFAULT NULL, operations text[] DEFAULT NULL,
    soft boolean DEFAULT false, predicate text DEFAULT NULL, identity text DEFAULT 'check'
) RETURNS SETOF cachetag.rules
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
DECLARE
    template text;
    needed text[];
    leaf oid;
    canonical text;
    precise boolean;
    touches_old boolean;
    bad text;
BEGIN
    IF rel IS NULL OR templates IS NULL OR cardinality(templates) = 0 OR array_position(templates, NULL) IS NOT NULL THEN
        RAISE EXCEPTION 'track needs a table and at least one template' USING ERRCODE = 'null_value_not_allowed',
            HINT = 'For example: SELECT cachetag.track(''products'', ''product:{id}'');';
    END IF;
    IF identity IS NULL OR identity NOT IN ('check', 'index', 'full', 'family') THEN
        RAISE EXCEPTION 'identity % is not one of check, index, full, family', coalesce(quote_literal(identity), 'NULL')
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    SELECT o INTO bad FROM unnest(operations) o WHERE o IS NULL OR o NOT IN ('insert', 'update', 'delete', 'truncate') LIMIT 1;
    IF FOUND OR cardinality(operations) = 0 THEN
        RAISE EXCEPTION 'operation % is not one of insert, update, delete, truncate', coalesce(quote_literal(bad), 'NULL')
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF pg_encoding_to_char((SELECT encoding FROM pg_database WHERE datname = current_database())) <> 'UTF8' THEN
        RAISE EXCEPTION 'the database has encoding %', pg_encoding_to_char((SELECT encoding FROM pg_database WHERE datname = current_database()))
            USING ERRCODE = 'feature_not_supported', HINT = 'Tags are UTF-8: cachetag needs a database with ENCODING ''UTF8''.';
    END IF;
    PERFORM cachetag._check_trackable(rel);
    PERFORM cachetag._own(rel);

    -- Writers in flight are waited for, and none slips in before the publication has changed: a transaction that wrote the table
    -- before it was published would never be in the stream.
    EXECUTE format('LOCK TABLE %s IN SHARE ROW EXCLUSIVE MODE', rel);

    touches_old := operations IS NULL OR operations && '{update,delete}';
    FOREACH template IN ARRAY templates LOOP
        needed := cachetag._rule_columns(template, columns, predicate);
        PERFORM cachetag._check_columns(rel, needed, identity);
        canonical := cachetag._predicate_of(rel, predicate);
        precise := true;
        FOR leaf IN SELECT t FROM cachetag._tables(rel) t JOIN pg_class c ON c.oid = t WHERE c.relkind = 'r' LOOP
            PERFORM cachetag._check_trackable(leaf::regclass);
            precise := cachetag._settle_identity(leaf, CASE WHEN touches_old THEN needed ELSE '{}' END, identity,
                                                 cachetag._template_family(template)) AND precise;
        END LOOP;
        INSERT INTO cachetag.rule AS r (relid, relation, template, family, columns_that_matter, operations, soft, predicate, widen)
        VALUES (rel, rel, template, '', columns, operations, coalesce(soft, false), canonical, NOT precise)
        ON CONFLICT ON CONSTRAINT rule_relid_template_key DO UPDATE
        SET columns_that_matter = excluded.columns_that_matter, operations = excluded.operations, soft = excluded.soft,
            predicate = excluded.predicate, widen = excluded.widen, state = 'ok';
    END LOOP;
    PERFORM cachetag._publish(cachetag._members(rel));
    RETURN QUERY SELECT v.* FROM cachetag.rules v WHERE v."table" = rel AND v.template = ANY (templates) ORDER BY v.id;
END $$;
COMMENT ON FUNCTION cachetag.track(regclass, text[], text[], text[], boolean, text, text) IS
    'Binds a table to tag templates: a change of a row touches the tags of its old and of its new values.';

CREATE FUNCTION cachetag.track(rel regclass, VARIADIC templates text[]) RETURNS SETOF cachetag.rules
LANGUAGE sql AS $$ SELECT * FROM cachetag.track(rel, templates, NULL, NULL, false, NULL, 'check') $$;

-- Columns have to exist, and their values have to be in the WAL.
CREATE FUNCTION cachetag._check_columns(rel regclass, needed text[], identity text) RETURNS void
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    name text;
    col pg_attribute;
BEGIN
    FOREACH name IN ARRAY needed LOOP
        SELECT * INTO col FROM pg_attribute WHERE attrelid = rel AND attname = name AND NOT attisdropped;
        IF NOT FOUND THEN
            RAISE EXCEPTION 'column % of % does not exist', quote_ident(name), rel
                USING ERRCODE = 'undefined_column',
                      HINT = 'Its columns are: ' || (SELECT string_agg(quote_ident(attname), ', ' ORDER BY attnum) FROM pg_attribute
                                                     WHERE attrelid = rel AND attnum > 0 AND NOT attisdropped) || '.';
        ELSIF col.attnum < 0 THEN
            RAISE EXCEPTION 'column % of % is a system column', quote_ident(name), rel
                USING ERRCODE = 'feature_not_supported', HINT = 'Its values are not in the replication stream. Use a column of the table.';
        ELSIF col.attgenerated <> '' AND identity <> 'family' THEN
            RAISE EXCEPTION 'column % of % is generated', quote_ident(name), rel
                USING ERRCODE = 'feature_not_supported',
                      HINT = 'Its values are not in the replication stream. Use the columns that it is made of, or identity => ''family'': every change then invalidates the whole family.';
        END IF;
    END LOOP;
END $$;

CREATE FUNCTION cachetag.untrack(rel regclass, VARIADIC templates text[] DEFAULT '{}') RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    removed integer;
    unknown text;
    member oid;
BEGIN
    PERFORM cachetag._own(rel);
    SELECT t INTO unknown FROM unnest(templates) t WHERE NOT EXISTS (SELECT FROM cachetag.rule WHERE relid = rel AND template = t) LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION '% has no rule %', rel, coalesce(quote_literal(unknown), 'NULL')
            USING ERRCODE = 'undefined_object',
                  HINT = coalesce('Its rules are: ' || (SELECT string_agg(quote_literal(template), ', ') FROM cachetag.rule WHERE relid = rel), 'It is not tracked.');
    END IF;
    DELETE FROM cachetag.rule WHERE relid = rel AND (cardinality(templates) = 0 OR template = ANY (templates));
    GET DIAGNOSTICS removed = ROW_COUNT;
    FOREACH member IN ARRAY cachetag._members(rel) LOOP
        IF NOT EXISTS (SELECT FROM cachetag.binding WHERE relation = member)
           AND EXISTS (SELECT FROM pg_publication_rel pr JOIN pg_publication p ON p.oid = pr.prpubid WHERE p.pubname = 'cachetag' AND prrelid = member) THEN
            EXECUTE format('ALTER PUBLICATION cachetag DROP TABLE ONLY %s', member::regclass);
        END IF;
    END LOOP;
    RETURN removed;
END $$;
COMMENT ON FUNCTION cachetag.untrack IS 'Removes rules of a table (all when no template is named); returns how many.';
