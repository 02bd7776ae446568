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
