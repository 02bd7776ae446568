-- Tags: the same grammar and the same bytes as in the daemon.

CREATE FUNCTION cachetag._tag(family text, parts text[]) RETURNS text
LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'tag_of_parts_wrapper';
CREATE FUNCTION cachetag._check_tags(tags text[]) RETURNS void
LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'check_tags_wrapper';
CREATE FUNCTION cachetag._key(namespace text, parts text[]) RETURNS text
LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'key_of_parts_wrapper';
CREATE FUNCTION cachetag._key_json(namespace text, args text) RETURNS text
LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'key_of_json_wrapper';
CREATE FUNCTION cachetag._template_family(template text) RETURNS text
LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'template_family_wrapper';
CREATE FUNCTION cachetag._rule_columns(template text, columns text[], predicate text) RETURNS text[]
LANGUAGE c IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'rule_columns_wrapper';
CREATE FUNCTION cachetag._template_rename(template text, old text, new text) RETURNS text
LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'template_rename_wrapper';
CREATE FUNCTION cachetag._predicate_rename(predicate text, old text, new text) RETURNS text
LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'predicate_rename_wrapper';
CREATE FUNCTION cachetag._predicate_literals(predicate text) RETURNS text[]
LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'predicate_literals_wrapper';
CREATE FUNCTION cachetag._predicate_with(predicate text, literals text[]) RETURNS text
LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'predicate_with_wrapper';
CREATE FUNCTION cachetag._message(soft boolean, tags text[]) RETURNS text
LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'message_wrapper';
-- The role that calls, as SET ROLE left it, whatever SECURITY DEFINER functions lie in between.
CREATE FUNCTION cachetag._caller() RETURNS oid
LANGUAGE c STABLE STRICT AS 'MODULE_PATHNAME', 'caller_wrapper';

CREATE FUNCTION cachetag.tag(family text, VARIADIC parts text[] DEFAULT '{}') RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE WHEN array_position(parts, NULL) IS NULL THEN cachetag._tag(family, parts) END;
COMMENT ON FUNCTION cachetag.tag IS 'The tag of a family and parts, canonically encoded; NULL when any of them is NULL.';

-- A key of up to 200 bytes stays readable, a longer one ends in its SHA-256.
CREATE FUNCTION cachetag._short(key text) RETURNS text
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
RETURN CASE WHEN octet_length(key) <= 200 THEN key
            ELSE split_part(key, ':', 1) || ':#' || encode(sha256(convert_to(key, 'UTF8')), 'hex') END;

CREATE FUNCTION cachetag.key(namespace text, VARIADIC parts text[] DEFAULT '{}') RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN cachetag._short(cachetag._key(namespace, parts));
COMMENT ON FUNCTION cachetag.key(text, text[]) IS 'A cache key; different parts give different keys, NULL differs from the empty text.';

CREATE FUNCTION cachetag.key(namespace text, args jsonb) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN cachetag._short(cachetag._key_json(namespace, args::text));
COMMENT ON FUNCTION cachetag.key(text, jsonb) IS 'A cache key; equal JSON gives equal keys, whatever the order of its members and the scale of its numbers.';

CREATE FUNCTION cachetag.tags_of(rel regclass, "row" record) RETURNS text[]
LANGUAGE c STABLE STRICT AS 'MODULE_PATHNAME', 'tags_of_wrapper';
COMMENT ON FUNCTION cachetag.tags_of IS 'The tags that a change of this row touches, by the rules of the table.';

CREATE FUNCTION cachetag._tag_agg_one(state internal, tag text) RETURNS internal
LANGUAGE c IMMUTABLE AS 'MODULE_PATHNAME', 'tag_agg_one_wrapper';
CREATE FUNCTION cachetag._tag_agg_many(state internal, tags text[]) RETURNS internal
LANGUAGE c IMMUTABLE AS 'MODULE_PATHNAME', 'tag_agg_many_wrapper';
CREATE FUNCTION cachetag._tag_agg_final(state internal) RETURNS text[]
LANGUAGE c IMMUTABLE AS 'MODULE_PATHNAME', 'tag_agg_final_wrapper';

CREATE AGGREGATE cachetag.tag_agg(text) (SFUNC = cachetag._tag_agg_one, STYPE = internal, FINALFUNC = cachetag._tag_agg_final);
CREATE AGGREGATE cachetag.tag_agg(text[]) (SFUNC = cachetag._tag_agg_many, STYPE = internal, FINALFUNC = cachetag._tag_agg_final);
COMMENT ON AGGREGATE cachetag.tag_agg(text) IS 'The distinct tags, sorted; NULLs are ignored.';
COMMENT ON AGGREGATE cachetag.tag_agg(text[]) IS 'The distinct tags, sorted; NULLs are ignored.';

CREATE FUNCTION cachetag._emit(soft boolean, tags text[]) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF cardinality(tags) > 0 THEN
        PERFORM pg_logical_emit_message(true, 'cachetag', cachetag._message(soft, tags));
    END IF;
END $$;

CREATE FUNCTION cachetag.invalidate(VARIADIC tags text[]) RETURNS void
LANGUAGE sql VOLATILE AS $$ SELECT cachetag._emit(false, tags) $$;
COMMENT ON FUNCTION cachetag.invalidate IS 'Invalidates tags when this transaction commits, in commit order; never if it rolls back.';

CREATE FUNCTION cachetag.invalidate_soft(VARIADIC tags text[]) RETURNS void
LANGUAGE sql VOLATILE AS $$ SELECT cachetag._emit(true, tags) $$;
COMMENT ON FUNCTION cachetag.invalidate_soft IS 'Like invalidate, but what has the tags may be served while one reader refreshes it.';
