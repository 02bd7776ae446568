-- Dependencies: when a parent changes, so does its child.

CREATE FUNCTION cachetag.depend(
    child text, parents text[], max_depth int DEFAULT 16, soft boolean DEFAULT false, operations text[] DEFAULT NULL
) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
DECLARE
    parent text;
    bad text;
BEGIN
    IF child IS NULL OR parents IS NULL OR cardinality(parents) = 0 OR array_position(parents, NULL) IS NOT NULL THEN
        RAISE EXCEPTION 'depend needs a child and at least one parent' USING ERRCODE = 'null_value_not_allowed',
            HINT = 'For example: SELECT cachetag.depend(''homepage'', ''product:42'');';
    END IF;
    PERFORM cachetag._check_tags(parents || child);
    IF '*' = ANY (parents) THEN
        RAISE EXCEPTION 'nothing needs to depend on *' USING ERRCODE = 'invalid_parameter_value',
            HINT = 'A bump of * invalidates every entry, whatever its tags are.';
    END IF;
    IF max_depth IS NULL OR max_depth NOT BETWEEN 1 AND 1000 THEN
        RAISE EXCEPTION 'max_depth % is not in 1 to 1000', coalesce(max_depth::text, 'NULL') USING ERRCODE = 'invalid_parameter_value';
    END IF;
    SELECT o INTO bad FROM unnest(operations) o WHERE o IS NULL OR o NOT IN ('insert', 'update', 'delete', 'truncate') LIMIT 1;
    IF FOUND OR cardinality(operations) = 0 THEN
        RAISE EXCEPTION 'operation % is not one of insert, update, delete, truncate', coalesce(quote_literal(bad), 'NULL')
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    -- The catalog is in the publication before anything is in the catalog.
    PERFORM cachetag._publish('{}');
    FOREACH parent IN ARRAY parents LOOP
        INSERT INTO cachetag.dependency AS d (parent, child, soft, max_depth, operations, owner)
        VALUES (parent, child, coalesce(soft, false), max_depth, operations, (SELECT rolname FROM pg_roles WHERE oid = cachetag._caller()))
        ON CONFLICT ON CONSTRAINT dependency_parent_child_key DO UPDATE
        SET soft = excluded.soft, max_depth = excluded.max_depth, operations = excluded.operations
        WHERE cachetag._may_change(d.owner);
    END LOOP;
END $$;
COMMENT ON FUNCTION cachetag.depend(text, text[], int, boolean, text[]) IS
    'When a parent changes, so does the child: softly, only for some operations, only within a distance, as asked.';

CREATE FUNCTION cachetag.depend(child text, VARIADIC parents text[]) RETURNS void
LANGUAGE sql AS $$ SELECT cachetag.depend(child, parents, 16, false, NULL) $$;

-- Removing an edge can make a cache of somebody else stale: only who made it may.
CREATE FUNCTION cachetag._may_change(owner name) RETURNS boolean
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    owner_oid oid := (SELECT oid FROM pg_roles WHERE rolname = owner);
BEGIN
    -- The edge of a role that is gone is nobody's.
    IF owner_oid IS NULL OR pg_has_role(cachetag._caller(), owner_oid, 'USAGE') THEN
        RETURN true;
    END IF;
    RAISE EXCEPTION 'the dependency belongs to role %', owner
        USING ERRCODE = 'insufficient_privilege', HINT = 'Only its owner, a member of that role or a superuser may change or remove it.';
END $$;

CREATE FUNCTION cachetag.undepend(child text, VARIADIC parents text[] DEFAULT '{}') RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
    removed integer;
BEGIN
    DELETE FROM cachetag.dependency d
    WHERE d.child = undepend.child AND (cardinality(parents) = 0 OR d.parent = ANY (parents)) AND cachetag._may_change(d.owner);
    GET DIAGNOSTICS removed = ROW_COUNT;
    RETURN removed;
END $$;
COMMENT ON FUNCTION cachetag.undepend IS 'Removes dependencies of a child (on all its parents when none is named); returns how many.';

-- What a change of the tag reaches. Distances count edges; hard wins where several ways lead to a tag.
CREATE FUNCTION cachetag.descendants(tag text, max_depth int DEFAULT NULL) RETURNS TABLE (descendant text, depth int, soft boolean)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    WITH RECURSIVE wake(tag, soft, depth) AS (
        SELECT descendants.tag, false, 0 FROM cachetag._check_tags(ARRAY[descendants.tag])
        UNION
        SELECT d.child, w.soft OR d.soft, w.depth + 1
        FROM wake w JOIN cachetag.dependency d
          ON d.parent IN (w.tag, split_part(w.tag, ':', 1) || ':*')
          OR (right(w.tag, 2) = ':*' AND split_part(d.parent, ':', 1) = split_part(w.tag, ':', 1))
        WHERE w.tag <> '*' AND w.depth < d.max_depth AND w.depth < coalesce(descendants.max_depth, 1000)
    )
    SELECT w.tag, min(w.depth), bool_and(w.soft) FROM wake w
    WHERE w.depth > 0 AND w.tag <> descendants.tag GROUP BY w.tag ORDER BY 2, 1
$$;
COMMENT ON FUNCTION cachetag.descendants IS 'What changes when the tag does: tag, distance, whether only softly.';

-- Which changes reach the tag. `slack` is how many more edges may come on top before one below is out of its depth.
CREATE FUNCTION cachetag.ancestors(tag text, max_depth int DEFAULT NULL) RETURNS TABLE (ancestor text, depth int, soft boolean)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    WITH RECURSIVE way(tag, soft, depth, slack) AS (
        SELECT ancestors.tag, false, 0, 1000 FROM cachetag._check_tags(ARRAY[ancestors.tag])
        UNION
        SELECT d.parent, w.soft OR d.soft, w.depth + 1, least(w.slack - 1, d.max_depth)
        FROM way w JOIN cachetag.dependency d
          ON d.child IN (w.tag, split_part(w.tag, ':', 1) || ':*')
          OR (right(w.tag, 2) = ':*' AND split_part(d.child, ':', 1) = split_part(w.tag, ':', 1))
        WHERE least(w.slack - 1, d.max_depth) > 0 AND w.depth < least(coalesce(ancestors.max_depth, 64), 64)
    )
    SELECT w.tag, min(w.depth), bool_and(w.soft) FROM way w
    WHERE w.depth > 0 AND w.tag <> ancestors.tag GROUP BY w.tag ORDER BY 2, 1
$$;
COMMENT ON FUNCTION cachetag.ancestors IS 'What the tag depends on: tag, distance, whether only softly.';
