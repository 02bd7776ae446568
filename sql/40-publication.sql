-- The publication. Partitions are published under their own identity, not the root's: with publish_via_partition_root, TRUNCATE of one partition
-- would not be published at all.

CREATE FUNCTION cachetag._lock_tree(rel oid, exclusive boolean) RETURNS void
    LANGUAGE c STRICT AS 'MODULE_PATHNAME', 'lock_tree_wrapper';
CREATE FUNCTION cachetag._own_publication(publication oid) RETURNS void
    LANGUAGE c STRICT AS 'MODULE_PATHNAME', 'own_publication_wrapper';

CREATE FUNCTION cachetag._catalog_tables() RETURNS SETOF oid
    LANGUAGE sql STABLE AS $$
    VALUES ('cachetag.rule'::pg_catalog.regclass::pg_catalog.oid), ('cachetag.binding'::pg_catalog.regclass),
           ('cachetag.dependency'::pg_catalog.regclass)
$$;

-- Is a table in the publication by itself, with all its columns and rows? Or with its schema, or with all tables.
CREATE FUNCTION cachetag._is_member(rel oid) RETURNS boolean
    LANGUAGE sql STABLE AS $$
    SELECT EXISTS (
        SELECT FROM pg_catalog.pg_publication p
         WHERE p.pubname = 'cachetag'
           AND (p.puballtables
                OR EXISTS (SELECT FROM pg_catalog.pg_publication_rel r
                            WHERE r.prpubid = p.oid AND r.prqual IS NULL AND r.prattrs IS NULL AND r.prrelid = rel)
                OR EXISTS (SELECT FROM pg_catalog.pg_publication_namespace n JOIN pg_catalog.pg_class c ON c.relnamespace = n.pnnspid
                            WHERE n.pnpubid = p.oid AND c.oid = rel)))
$$;

-- Are the changes of a table published? By itself, or by a partitioned table above it.
CREATE FUNCTION cachetag._is_published(rel oid) RETURNS boolean
    LANGUAGE sql STABLE AS $$
    WITH RECURSIVE up(relation) AS (
        SELECT rel
      UNION
        SELECT i.inhparent FROM up u JOIN pg_catalog.pg_class c ON c.oid = u.relation AND c.relispartition
                                     JOIN pg_catalog.pg_inherits i ON i.inhrelid = u.relation)
    SELECT coalesce(bool_or(cachetag._is_member(relation)), false) FROM up
$$;

-- Makes one table a member, once no writer is in flight: what a transaction wrote before its table joined is not published, even if it commits later.
CREATE FUNCTION cachetag._publish(rel oid) RETURNS boolean
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF cachetag._is_member(rel) THEN
        RETURN false;
    END IF;
    PERFORM cachetag._lock_tree(rel, false);
    IF EXISTS (SELECT FROM pg_publication p JOIN pg_publication_rel r ON r.prpubid = p.oid WHERE p.pubname = 'cachetag' AND r.prrelid = rel) THEN
        -- With a column list or a row filter: a part of it only.
        EXECUTE format('ALTER PUBLICATION cachetag DROP TABLE ONLY %s', rel::regclass);
    END IF;
    -- An event trigger may have put it back already.
    IF NOT cachetag._is_member(rel) THEN
        EXECUTE format('ALTER PUBLICATION cachetag ADD TABLE ONLY %s', rel::regclass);
    END IF;
    RETURN true;
END $$;

-- The tables that have to be members for rules and are not: each tracked table itself, even if a table above it is published (it may be detached),
-- and the tables that inherit from it. Its partitions are published with it.
CREATE FUNCTION cachetag._missing_members() RETURNS TABLE (relation oid, rule_id bigint)
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT r.relation, r.id FROM cachetag.rule r WHERE EXISTS (SELECT FROM pg_class WHERE oid = r.relation) AND NOT cachetag._is_member(r.relation)
    UNION
    SELECT b.relation, b.rule_id FROM cachetag.binding b JOIN pg_class c ON c.oid = b.relation AND NOT c.relispartition
     WHERE NOT cachetag._is_member(b.relation)
$$;

-- The publication's options, as they have to be.
CREATE FUNCTION cachetag._state_publication() RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    ALTER PUBLICATION cachetag SET (publish = 'insert, update, delete, truncate', publish_via_partition_root = false);
END $$;

-- Creates the publication if there is none, and gives it back its options and the tables of the catalog. Returns what it had to do.
CREATE FUNCTION cachetag._repair_publication() RETURNS text[]
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    publication pg_publication;
    rel oid;
    done text[] := '{}';
BEGIN
    SELECT * INTO publication FROM pg_publication WHERE pubname = 'cachetag';
    IF NOT FOUND THEN
        -- Who comes second waits here and finds it, instead of failing on its name.
        PERFORM cachetag._lock_tree('cachetag.rule'::regclass, false);
        SELECT * INTO publication FROM pg_publication WHERE pubname = 'cachetag';
    END IF;
    IF NOT FOUND THEN
        CREATE PUBLICATION cachetag WITH (publish = 'insert, update, delete, truncate', publish_via_partition_root = false);
        SELECT * INTO publication FROM pg_publication WHERE pubname = 'cachetag';
        done := done || 'created publication cachetag'::text;
    ELSIF publication.pubviaroot
          OR NOT (publication.pubinsert AND publication.pubupdate AND publication.pubdelete AND publication.pubtruncate) THEN
        PERFORM cachetag._state_publication();
        done := done || 'set the options of publication cachetag'::text;
    END IF;
    IF NOT EXISTS (SELECT FROM pg_depend WHERE classid = 'pg_publication'::regclass AND objid = publication.oid AND deptype = 'x') THEN
        PERFORM cachetag._own_publication(publication.oid);
    END IF;
    FOR rel IN SELECT cachetag._catalog_tables() LOOP
        IF cachetag._publish(rel) THEN
            done := done || format('added table %s', rel::regclass);
        END IF;
    END LOOP;
    RETURN done;
END $$;

-- Makes the publication again for rules that have lost it, in the transaction that took it away: no change can fall in between.
CREATE FUNCTION cachetag._replace_publication() RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM cachetag._repair_publication();
    PERFORM cachetag._publish(m.relation) FROM (SELECT DISTINCT relation FROM cachetag._missing_members() ORDER BY 1) AS m;
    RAISE WARNING 'there is a publication cachetag again'
        USING DETAIL = 'Without it, changes would not reach the caches.',
              HINT = 'DROP EXTENSION cachetag takes it away; cachetag.untrack(...) takes a table out.';
END $$;

-- Takes tables out that no rule needs any more.
CREATE FUNCTION cachetag._unpublish(rels oid[]) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    rel oid;
BEGIN
    FOR rel IN
        SELECT r.prrelid FROM pg_publication p JOIN pg_publication_rel r ON r.prpubid = p.oid
         WHERE p.pubname = 'cachetag' AND r.prrelid = ANY (rels)
           AND r.prrelid NOT IN (SELECT relation FROM cachetag.rule UNION ALL SELECT relation FROM cachetag.binding)
           AND r.prrelid NOT IN (SELECT cachetag._catalog_tables())
    LOOP
        EXECUTE format('ALTER PUBLICATION cachetag DROP TABLE ONLY %s', rel::regclass);
    END LOOP;
END $$;

-- Invalidates whole families, hard and at commit: a message in the log, in order with everything else.
CREATE FUNCTION cachetag._emit(families text[]) RETURNS void
    LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
    SELECT pg_logical_emit_message(true, 'cachetag', 'hard' || string_agg(DISTINCT E'\n' || CASE f WHEN '*' THEN f ELSE f || ':*' END, ''))
      FROM unnest(families) AS u(f) HAVING count(*) > 0
$$;
