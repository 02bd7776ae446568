-- Dependencies between tags: when the parent changes, so does the child.

CREATE FUNCTION cachetag.depend(
    child text, parents text[], max_depth int DEFAULT 16, soft boolean DEFAULT false, operations text[] DEFAULT NULL) RETURNS bigint
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET jit = off AS $$
DECLARE
    ops text[] := CASE WHEN operations IS NOT NULL THEN cachetag._operations(operations) END;
    written bigint;
BEGIN
    IF child IS NULL OR soft IS NULL OR coalesce(cardinality(parents), 0) = 0 OR array_position(parents, NULL) IS NOT NULL THEN
        RAISE EXCEPTION 'depend needs a child and at least one parent, none of them NULL'
            USING ERRCODE = 'null_value_not_allowed', HINT = 'For example: SELECT cachetag.depend(''homepage'', ''product:42'');';
    ELSIF max_depth IS NULL OR max_depth < 1 THEN
        RAISE EXCEPTION 'max_depth must be at least 1, not %', coalesce(max_depth::text, 'NULL')
            USING ERRCODE = 'invalid_parameter_value', HINT = 'A dependency with max_depth 1 is followed from the changed tag only.';
    END IF;
    PERFORM cachetag._check_tag(child), cachetag._check_tag(p) FROM unnest(parents) AS u(p);
    PERFORM cachetag._repair_publication();
    -- An edge that is there already is not written again: no row is locked and nothing is in the log.
    INSERT INTO cachetag.dependency AS d (parent, child, soft, max_depth, operations)
    SELECT DISTINCT p, depend.child, depend.soft, depend.max_depth, ops FROM unnest(parents) AS u(p)
     WHERE NOT EXISTS (SELECT FROM cachetag.dependency e
                        WHERE e.parent = p AND e.child = depend.child AND e.soft = depend.soft AND e.max_depth = depend.max_depth
                          AND e.operations IS NOT DISTINCT FROM ops)
     ORDER BY p
    ON CONFLICT ON CONSTRAINT dependency_parent_child_key DO UPDATE
       SET soft = EXCLUDED.soft, max_depth = EXCLUDED.max_depth, operations = EXCLUDED.operations;
    GET DIAGNOSTICS written = ROW_COUNT;
    RETURN written;
END $$;
COMMENT ON FUNCTION cachetag.depend(text, text[], int, boolean, text[]) IS
    'makes every bump of a parent bump the child, and returns how many dependencies are new or changed';

CREATE FUNCTION cachetag.depend(child text, VARIADIC parents text[]) RETURNS bigint
    LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
    SELECT cachetag.depend(child => child, parents => parents, max_depth => 16)
$$;
COMMENT ON FUNCTION cachetag.depend(text, text[]) IS
    'makes every bump of a parent bump the child, and returns how many dependencies are new or changed';

-- One parent with options.
CREATE FUNCTION cachetag.depend(
    child text, parent text, max_depth int DEFAULT 16, soft boolean DEFAULT false, operations text[] DEFAULT NULL) RETURNS bigint
    LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
    SELECT cachetag.depend(child, ARRAY[parent], max_depth, soft, operations)
$$;
COMMENT ON FUNCTION cachetag.depend(text, text, int, boolean, text[]) IS
    'makes every bump of the parent bump the child, and returns how many dependencies are new or changed';

CREATE FUNCTION cachetag.undepend(child text, VARIADIC parents text[]) RETURNS bigint
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET jit = off AS $$
DECLARE
    removed bigint;
BEGIN
    DELETE FROM cachetag.dependency d WHERE d.child = undepend.child AND (parents IS NULL OR d.parent = ANY (parents));
    GET DIAGNOSTICS removed = ROW_COUNT;
    RETURN removed;
END $$;
COMMENT ON FUNCTION cachetag.undepend(text, text[]) IS 'removes dependencies of a child on these parents and returns how many there were';

CREATE FUNCTION cachetag.undepend(child text) RETURNS bigint
    LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
    SELECT cachetag.undepend(child, VARIADIC NULL::text[])
$$;
COMMENT ON FUNCTION cachetag.undepend(text) IS 'removes all dependencies of a child and returns how many there were';

CREATE FUNCTION cachetag.descendants(of_tag text, max_depth int DEFAULT NULL) RETURNS TABLE (tag text, depth int, soft boolean)
    LANGUAGE c STABLE AS 'MODULE_PATHNAME', 'descendants_wrapper';
CREATE FUNCTION cachetag.ancestors(of_tag text, max_depth int DEFAULT NULL) RETURNS TABLE (tag text, depth int, soft boolean)
    LANGUAGE c STABLE AS 'MODULE_PATHNAME', 'ancestors_wrapper';

COMMENT ON FUNCTION cachetag.descendants(text, int) IS 'the tags that are bumped when this one is, and how far away they are';
COMMENT ON FUNCTION cachetag.ancestors(text, int) IS 'the tags whose bump bumps this one, and how far away they are';
