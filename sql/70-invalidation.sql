-- Invalidation by name, and tokens: what a reader may store, and how long a writer waits.

CREATE FUNCTION cachetag._invalidation_message(tags text[], soft boolean) RETURNS text
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'invalidation_message_wrapper';

CREATE FUNCTION cachetag._invalidate(tags text[], soft boolean) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF pg_is_in_recovery() THEN
        RAISE EXCEPTION 'this server is a standby and cannot invalidate anything'
            USING ERRCODE = 'read_only_sql_transaction', HINT = 'Call it on the primary, in the transaction that makes the change.';
    ELSIF current_setting('transaction_read_only')::boolean THEN
        RAISE EXCEPTION 'a read-only transaction cannot invalidate anything'
            USING ERRCODE = 'read_only_sql_transaction', HINT = 'Call it in the transaction that makes the change.';
    ELSIF tags IS NULL THEN
        RAISE EXCEPTION 'the tags are NULL' USING ERRCODE = 'null_value_not_allowed', HINT = 'Pass an array of tags; NULLs in it are left out.';
    END IF;
    IF EXISTS (SELECT FROM unnest(tags) AS u(tag) WHERE tag IS NOT NULL) THEN
        PERFORM pg_logical_emit_message(true, 'cachetag', cachetag._invalidation_message(tags, soft));
    END IF;
END $$;

CREATE FUNCTION cachetag.invalidate(VARIADIC tags text[]) RETURNS void
    LANGUAGE sql VOLATILE AS $$ SELECT cachetag._invalidate(tags, false) $$;
COMMENT ON FUNCTION cachetag.invalidate(text[]) IS
    'invalidates what has one of these tags: when this transaction commits, in order with its changes; never if it rolls back';

CREATE FUNCTION cachetag.invalidate_soft(VARIADIC tags text[]) RETURNS void
    LANGUAGE sql VOLATILE AS $$ SELECT cachetag._invalidate(tags, true) $$;
COMMENT ON FUNCTION cachetag.invalidate_soft(text[]) IS
    'as invalidate, but what has one of these tags may still be served while one reader refreshes it';

CREATE FUNCTION cachetag.covers(token text) RETURNS boolean
    LANGUAGE c VOLATILE STRICT PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'covers_wrapper';
COMMENT ON FUNCTION cachetag.covers(text) IS
    'may what this session reads from now on be stored under the token? Not after a write of its own, in REPEATABLE READ, on a standby that is behind or was left behind by a failover, in another history';

CREATE FUNCTION cachetag.position() RETURNS text
    LANGUAGE c VOLATILE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'position_wrapper';
COMMENT ON FUNCTION cachetag.position() IS
    'after COMMIT: the timeline and the place in the log that a reader presents as ATLEAST, so that it reads what was written';

-- The position up to which everything committed so far reaches.
CREATE FUNCTION cachetag._committed_so_far() RETURNS pg_lsn
    LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
    SELECT split_part(cachetag.position(), '@', 2)::pg_lsn
$$;

CREATE FUNCTION cachetag.wait_for(lsn pg_lsn DEFAULT NULL, timeout interval DEFAULT '5s', slot name DEFAULT 'cachetag') RETURNS boolean
    LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    started CONSTANT timestamptz := clock_timestamp();
    target pg_lsn := lsn;
    confirmed pg_lsn;
    pause double precision := 0.001;
BEGIN
    IF slot IS NULL OR timeout IS NULL THEN
        RAISE EXCEPTION 'the slot and the timeout must not be NULL' USING ERRCODE = 'null_value_not_allowed', HINT = 'Leave them out for slot cachetag and 5 seconds.';
    ELSIF pg_is_in_recovery() THEN
        RAISE EXCEPTION 'this server is a standby and does not know how far the cache is'
            USING ERRCODE = 'object_not_in_prerequisite_state', HINT = 'Call it on the primary.';
    END IF;
    target := coalesce(target, cachetag._committed_so_far());
    LOOP
        SELECT s.confirmed_flush_lsn INTO confirmed FROM pg_replication_slots s WHERE s.slot_name = slot AND s.slot_type = 'logical';
        IF NOT FOUND THEN
            RAISE EXCEPTION 'there is no logical replication slot %', quote_literal(slot)
                USING ERRCODE = 'undefined_object',
                      HINT = 'The daemon creates it: start it on this server, or name the slot that it uses: wait_for(slot => ...).';
        ELSIF confirmed >= target THEN
            RETURN true;
        ELSIF clock_timestamp() >= started + timeout THEN
            RETURN false;
        END IF;
        PERFORM pg_sleep(least(pause, extract(epoch FROM started + timeout - clock_timestamp())));
        pause := least(pause * 2, 0.01);
    END LOOP;
END $$;
COMMENT ON FUNCTION cachetag.wait_for(pg_lsn, interval, name) IS
    'waits until the cache has caught up with this position (everything committed so far, if none is given); false if the time is over first';
