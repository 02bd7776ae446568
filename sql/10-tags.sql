-- Tags, keys and the grammar of templates: the library's functions, declared.
-- Functions that begin with an underscore are for the other chapters; users have no right to execute them unless 90-grants.sql says so.

CREATE FUNCTION cachetag.tag(family text) RETURNS text
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'tag_family_wrapper';
COMMENT ON FUNCTION cachetag.tag(text) IS 'the tag that is a family alone';

-- "any", not text[]: a value of any type is written as the daemon writes it, which casts to text do not do (boolean, char(n), timestamps).
CREATE FUNCTION cachetag.tag(family text, VARIADIC parts "any") RETURNS text
    LANGUAGE c STABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'tag_wrapper';
COMMENT ON FUNCTION cachetag.tag(text, "any") IS
    'the tag family:part:...; NULL if an argument is NULL; the whole family if it would be longer than 512 bytes';

CREATE FUNCTION cachetag.key(namespace text) RETURNS text
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'key_namespace_wrapper';
COMMENT ON FUNCTION cachetag.key(text) IS 'the cache key that is a namespace alone';

CREATE FUNCTION cachetag.key(namespace text, VARIADIC parts "any") RETURNS text
    LANGUAGE c STABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'key_wrapper';
COMMENT ON FUNCTION cachetag.key(text, "any") IS
    'a cache key of safe characters, the same for equal values: jsonb whatever the order of its members and the way its numbers are written; hashed if longer than 200 bytes';

CREATE FUNCTION cachetag.tags_of(rel regclass, "row" record) RETURNS text[]
    LANGUAGE c STABLE STRICT PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'tags_of_wrapper';
COMMENT ON FUNCTION cachetag.tags_of(regclass, record) IS
    'the tags that a change of this row touches, by the rules of the table: exactly what the daemon computes';

CREATE FUNCTION cachetag._tag_agg_add(internal, text) RETURNS internal
    LANGUAGE c IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'tag_agg_add_wrapper';
CREATE FUNCTION cachetag._tag_agg_add(internal, text[]) RETURNS internal
    LANGUAGE c IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'tag_agg_add_array_wrapper';
CREATE FUNCTION cachetag._tag_agg_combine(internal, internal) RETURNS internal
    LANGUAGE c IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'tag_agg_combine_wrapper';
CREATE FUNCTION cachetag._tag_agg_serialize(internal) RETURNS bytea
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'tag_agg_serialize_wrapper';
CREATE FUNCTION cachetag._tag_agg_deserialize(bytea, internal) RETURNS internal
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'tag_agg_deserialize_wrapper';
CREATE FUNCTION cachetag._tag_agg_final(internal) RETURNS text[]
    LANGUAGE c IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'tag_agg_final_wrapper';

CREATE AGGREGATE cachetag.tag_agg(text) (
    SFUNC = cachetag._tag_agg_add, STYPE = internal, FINALFUNC = cachetag._tag_agg_final, COMBINEFUNC = cachetag._tag_agg_combine,
    SERIALFUNC = cachetag._tag_agg_serialize, DESERIALFUNC = cachetag._tag_agg_deserialize, PARALLEL = SAFE);
COMMENT ON AGGREGATE cachetag.tag_agg(text) IS 'the tags of a result, each once, sorted; NULLs are left out';
CREATE AGGREGATE cachetag.tag_agg(text[]) (
    SFUNC = cachetag._tag_agg_add, STYPE = internal, FINALFUNC = cachetag._tag_agg_final, COMBINEFUNC = cachetag._tag_agg_combine,
    SERIALFUNC = cachetag._tag_agg_serialize, DESERIALFUNC = cachetag._tag_agg_deserialize, PARALLEL = SAFE);
COMMENT ON AGGREGATE cachetag.tag_agg(text[]) IS 'the tags of a result, each once, sorted; NULLs are left out';

CREATE FUNCTION cachetag._check_tag(tag text) RETURNS text
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'check_tag_wrapper';
CREATE FUNCTION cachetag._template_family(template text) RETURNS text
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'template_family_wrapper';
CREATE FUNCTION cachetag._template_columns(template text) RETURNS text[]
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'template_columns_wrapper';
CREATE FUNCTION cachetag._key_template_names(template text) RETURNS text[]
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'key_template_names_wrapper';
CREATE FUNCTION cachetag._template_renamed(template text, old text[], new text[]) RETURNS text
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'template_renamed_wrapper';
CREATE FUNCTION cachetag._predicate_columns(predicate text) RETURNS text[]
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'predicate_columns_wrapper';
CREATE FUNCTION cachetag._predicate_renamed(predicate text, old text[], new text[]) RETURNS text
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'predicate_renamed_wrapper';
CREATE FUNCTION cachetag._predicate_canonical(rel oid, predicate text) RETURNS text
    LANGUAGE c STABLE STRICT AS 'MODULE_PATHNAME', 'predicate_canonical_wrapper';

-- The columns whose values a rule looks at, each once.
CREATE FUNCTION cachetag._used_columns(template text, columns text[], predicate text) RETURNS text[]
    LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
    SELECT coalesce(array_agg(DISTINCT u.name ORDER BY u.name), '{}')
      FROM unnest(cachetag._template_columns(template) || columns || cachetag._predicate_columns(predicate)) AS u(name)
$$;
