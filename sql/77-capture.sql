-- Automatic tags: which tags the result of unchanged queries depends on, and the commit floor that makes a token as new as it can be.

CREATE FUNCTION cachetag.as_of(token text) RETURNS text
    LANGUAGE c VOLATILE STRICT PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'as_of_wrapper';
COMMENT ON FUNCTION cachetag.as_of(text) IS
    'the token raised to the newest version under which what this session reads from now on may be stored; NULL if nothing may';

CREATE FUNCTION cachetag.capture_begin(token text DEFAULT NULL, keyed_by text[] DEFAULT '{}') RETURNS void
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'capture_begin_wrapper';
COMMENT ON FUNCTION cachetag.capture_begin(text, text[]) IS
    'begins to record what the queries of this session read; keyed_by: what of the session is part of the cache key, in the words of depends_on_session';

CREATE FUNCTION cachetag.capture_end(
    OUT tags text[], OUT as_of text, OUT cacheable boolean, OUT reasons text[], OUT depends_on_session text[]) RETURNS SETOF record
    LANGUAGE c VOLATILE ROWS 1 PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'capture_end_wrapper';
COMMENT ON FUNCTION cachetag.capture_end() IS
    'ends the recording: the tags that the results depend on, the version to store them under, and whether they may be stored at all';

-- "any", not text[]: a parameter has a type, by which the query is planned.
CREATE FUNCTION cachetag.capture(
    query text, VARIADIC params "any",
    OUT rows jsonb, OUT tags text[], OUT as_of text, OUT cacheable boolean, OUT reasons text[], OUT depends_on_session text[]) RETURNS SETOF record
    LANGUAGE c VOLATILE ROWS 1 PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'capture_query_wrapper';
COMMENT ON FUNCTION cachetag.capture(text, "any") IS 'runs one SELECT: its rows, and what capture_end says of it';
CREATE FUNCTION cachetag.capture(
    query text,
    OUT rows jsonb, OUT tags text[], OUT as_of text, OUT cacheable boolean, OUT reasons text[], OUT depends_on_session text[]) RETURNS SETOF record
    LANGUAGE c VOLATILE ROWS 1 PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'capture_query_wrapper';
COMMENT ON FUNCTION cachetag.capture(text) IS 'runs one SELECT: its rows, and what capture_end says of it';

CREATE FUNCTION cachetag.capture_as_of(
    token text, query text, VARIADIC params "any",
    OUT rows jsonb, OUT tags text[], OUT as_of text, OUT cacheable boolean, OUT reasons text[], OUT depends_on_session text[]) RETURNS SETOF record
    LANGUAGE c VOLATILE ROWS 1 PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'capture_query_as_of_wrapper';
COMMENT ON FUNCTION cachetag.capture_as_of(text, text, "any") IS 'as capture, with the token under which the rows are to be stored';
CREATE FUNCTION cachetag.capture_as_of(
    token text, query text,
    OUT rows jsonb, OUT tags text[], OUT as_of text, OUT cacheable boolean, OUT reasons text[], OUT depends_on_session text[]) RETURNS SETOF record
    LANGUAGE c VOLATILE ROWS 1 PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'capture_query_as_of_wrapper';
COMMENT ON FUNCTION cachetag.capture_as_of(text, text) IS 'as capture, with the token under which the rows are to be stored';

CREATE FUNCTION cachetag.explain_tags(query text, VARIADIC params "any", OUT relation regclass, OUT tags text[], OUT reason text, OUT finer text)
    RETURNS SETOF record
    LANGUAGE c VOLATILE ROWS 10 PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'explain_tags_wrapper';
COMMENT ON FUNCTION cachetag.explain_tags(text, "any") IS
    'runs one SELECT: for each read of a table the tags, why they are no finer, and the statement that makes the rule by which they would be';
CREATE FUNCTION cachetag.explain_tags(query text, OUT relation regclass, OUT tags text[], OUT reason text, OUT finer text) RETURNS SETOF record
    LANGUAGE c VOLATILE ROWS 10 PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'explain_tags_wrapper';
COMMENT ON FUNCTION cachetag.explain_tags(text) IS
    'runs one SELECT: for each read of a table the tags, why they are no finer, and the statement that makes the rule by which they would be';

CREATE FUNCTION cachetag.advise(OUT relation regclass, OUT template text, OUT scans bigint, OUT example text, OUT sql text) RETURNS SETOF record
    LANGUAGE c VOLATILE ROWS 10 PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'advise_wrapper';
COMMENT ON FUNCTION cachetag.advise() IS
    'rules that would make the tags of what this session has captured finer, the most useful first, each with the statement that makes it';
