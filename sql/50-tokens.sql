-- Tokens: may what this session reads be stored under a token, and has the cache caught up with a commit?

CREATE FUNCTION cachetag.covers(token text) RETURNS boolean
LANGUAGE c VOLATILE STRICT AS 'MODULE_PATHNAME', 'covers_wrapper';
COMMENT ON FUNCTION cachetag.covers IS
    'May what a later statement of this session reads be stored under the token? No in a transaction that has written, in one whose snapshot may be older (REPEATABLE READ, SERIALIZABLE), on a standby that has not replayed so far.';

CREATE FUNCTION cachetag.wait_for(lsn pg_lsn DEFAULT NULL, timeout interval DEFAULT '5s', slot name DEFAULT 'cachetag') RETURNS boolean
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    target pg_lsn := lsn;
    reached pg_lsn;
    deadline timestamptz := clock_timestamp() + timeout;
    pause double precision := 0.001;
    past_header int;
BEGIN
    IF pg_is_in_recovery() THEN
        RAISE EXCEPTION 'wait_for needs the primary' USING ERRCODE = 'object_not_in_prerequisite_state',
            HINT = 'The slot that tells how far the cache is lives there.';
    END IF;
    IF target IS NULL THEN
        target := pg_current_wal_insert_lsn();
        -- Right behind a page header nothing ends: an idle stream would never get there.
        past_header := (target - '0/0'::pg_lsn) % current_setting('wal_block_size')::int;
        IF past_header IN (24, 40) THEN
            target := target - past_header::numeric;
        END IF;
    END IF;
    LOOP
        SELECT confirmed_flush_lsn INTO reached FROM pg_replication_slots WHERE slot_name = slot;
        IF NOT FOUND THEN
            RAISE EXCEPTION 'replication slot % does not exist', quote_ident(slot) USING ERRCODE = 'undefined_object',
                HINT = 'Start the daemon (cachetag run), which creates it, or name its slot.';
        END IF;
        IF reached >= target THEN
            RETURN true;
        END IF;
        IF clock_timestamp() >= deadline THEN
            RETURN false;
        END IF;
        PERFORM pg_sleep(least(pause, extract(epoch FROM deadline - clock_timestamp())));
        pause := least(pause * 1.5, 0.01);
    END LOOP;
END $$;
COMMENT ON FUNCTION cachetag.wait_for IS
    'Waits until the cache has caught up with a position (by default: with everything committed so far); false when the time is up. Call it after COMMIT.';
