-- Health: what the daemon reports, and what is wrong with the installation.

-- The daemon's functions are for roles that may replicate anyway.
CREATE FUNCTION cachetag._require_daemon() RETURNS void
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE oid = cachetag._caller() AND (rolsuper OR rolreplication)) THEN
        RAISE EXCEPTION 'only the daemon''s role may do this' USING ERRCODE = 'insufficient_privilege',
            HINT = format('ALTER ROLE %I REPLICATION;', (SELECT rolname FROM pg_roles WHERE oid = cachetag._caller()));
    END IF;
END $$;

CREATE FUNCTION cachetag.report(report jsonb) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM cachetag._require_daemon();
    INSERT INTO cachetag.daemon_report (at, report) VALUES (now(), report.report)
    ON CONFLICT (only_row) DO UPDATE SET at = excluded.at, report = excluded.report;
END $$;
COMMENT ON FUNCTION cachetag.report IS 'Stores what the daemon says about itself.';

CREATE FUNCTION cachetag.last_report() RETURNS jsonb
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT d.report || jsonb_build_object('at', d.at) FROM cachetag.daemon_report d
$$;
COMMENT ON FUNCTION cachetag.last_report IS 'What the daemon last said about itself: epoch, Redis and its eviction policy, slot, library.';

CREATE FUNCTION cachetag.status() RETURNS TABLE (
    slot name, active boolean, wal_status text, confirmed_flush_lsn pg_lsn, lag_bytes numeric, retained_bytes numeric,
    rules bigint, dependencies bigint, report jsonb)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT n.slot, coalesce(s.active, false), coalesce(s.wal_status, 'no slot'), s.confirmed_flush_lsn,
           w.here - s.confirmed_flush_lsn, w.here - s.restart_lsn,
           (SELECT count(*) FROM cachetag.rule), (SELECT count(*) FROM cachetag.dependency), cachetag.last_report()
    FROM (SELECT coalesce(cachetag.last_report() ->> 'slot', 'cachetag')::name AS slot) n
    CROSS JOIN (SELECT CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_insert_lsn() END AS here) w
    LEFT JOIN pg_replication_slots s ON s.slot_name = n.slot
$$;
COMMENT ON FUNCTION cachetag.status IS 'One row: the slot, how far behind it is, how much WAL it holds back, and the daemon''s last report.';

CREATE FUNCTION cachetag.doctor() RETURNS TABLE ("check" text, level text, subject text, detail text, remedy text)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    report jsonb := cachetag.last_report();
    slot_name_ name := coalesce(report ->> 'slot', 'cachetag');
    s pg_replication_slots;
    r record;
    policy text;
    retained numeric;
BEGIN
    "check" := 'server'; subject := 'recovery';
    IF pg_is_in_recovery() THEN
        SELECT 'error', 'this server is a standby', 'run the daemon against the primary' INTO level, detail, remedy;
    ELSE
        SELECT 'ok', 'this server is a primary', '' INTO level, detail, remedy;
    END IF;
    RETURN NEXT;

    subject := 'wal_level';
    IF current_setting('wal_level') <> 'logical' THEN
        SELECT 'error', 'wal_level is ' || current_setting('wal_level'), 'ALTER SYSTEM SET wal_level = ''logical''; then restart PostgreSQL' INTO level, detail, remedy;
    ELSE
        SELECT 'ok', 'wal_level is logical', '' INTO level, detail, remedy;
    END IF;
    RETURN NEXT;

    subject := 'max_replication_slots';
    SELECT * INTO s FROM pg_replication_slots p WHERE p.slot_name = slot_name_;
    IF s.slot_name IS NULL AND (SELECT count(*) FROM pg_replication_slots) >= current_setting('max_replication_slots')::int THEN
        SELECT 'error', 'all ' || current_setting('max_replication_slots') || ' replication slots are in use',
            'raise max_replication_slots and restart, or drop a slot that nobody uses: SELECT slot_name FROM pg_replication_slots WHERE NOT active' INTO level, detail, remedy;
    ELSE
        SELECT 'ok', (SELECT count(*) FROM pg_replication_slots) || ' of ' || current_setting('max_replication_slots') || ' slots in use', '' INTO level, detail, remedy;
    END IF;
    RETURN NEXT;

    subject := 'max_wal_senders';
    IF NOT coalesce(s.active, false) AND (SELECT count(*) FROM pg_stat_get_wal_senders()) >= current_setting('max_wal_senders')::int THEN
        SELECT 'error', 'all ' || current_setting('max_wal_senders') || ' WAL senders are in use', 'raise max_wal_senders and restart, or end a replication client' INTO level, detail, remedy;
    ELSE
        SELECT 'ok', (SELECT count(*) FROM pg_stat_get_wal_senders()) || ' of ' || current_setting('max_wal_senders') || ' WAL senders in use', '' INTO level, detail, remedy;
    END IF;
    RETURN NEXT;

    subject := 'max_slot_wal_keep_size';
    IF current_setting('max_slot_wal_keep_size') = '-1' THEN
        SELECT 'warning', 'a slot may hold back WAL without limit', 'ALTER SYSTEM SET max_slot_wal_keep_size = ''10GB''; then SELECT pg_reload_conf(). Past it the daemon opens a new epoch; the disk stays free' INTO level, detail, remedy;
    ELSE
        SELECT 'ok', current_setting('max_slot_wal_keep_size') || ' at most', '' INTO level, detail, remedy;
    END IF;
    RETURN NEXT;

    "check" := 'slot'; subject := slot_name_;
    retained := CASE WHEN NOT pg_is_in_recovery() THEN pg_current_wal_insert_lsn() - s.restart_lsn END;
    IF s.slot_name IS NULL THEN
        SELECT 'error', 'the slot does not exist', 'start the daemon: cachetag run' INTO level, detail, remedy;
    ELSIF s.wal_status = 'lost' THEN
        SELECT 'error', 'the WAL that it needs is gone', 'start the daemon: it replaces the slot and opens a new epoch' INTO level, detail, remedy;
    ELSIF NOT s.active THEN
        SELECT 'error', 'nobody reads it; it holds back ' || pg_size_pretty(retained), 'start the daemon, or drop the slot: SELECT pg_drop_replication_slot(' || quote_literal(slot_name_) || ')' INTO level, detail, remedy;
    ELSIF retained > 1024 * 1024 * 1024 THEN
        SELECT 'warning', 'it holds back ' || pg_size_pretty(retained), 'see the daemon''s log: Redis may be down or slow, or a transaction has been open for long' INTO level, detail, remedy;
    ELSE
        SELECT 'ok', 'active, holds back ' || pg_size_pretty(retained), '' INTO level, detail, remedy;
    END IF;
    RETURN NEXT;

    "check" := 'publication';
    FOR r IN
        SELECT DISTINCT m AS rel FROM unnest('{cachetag.rule,cachetag.binding,cachetag.dependency}'::regclass[]::oid[]) m
        UNION SELECT unnest(cachetag._members(relid)) FROM cachetag.rule
        ORDER BY 1
    LOOP
        subject := r.rel::regclass::text;
        IF EXISTS (SELECT FROM pg_publication_rel pr JOIN pg_publication p ON p.oid = pr.prpubid WHERE p.pubname = 'cachetag' AND pr.prrelid = r.rel) THEN
            SELECT 'ok', 'published', '' INTO level, detail, remedy;
        ELSE
            SELECT 'error', 'not in publication cachetag: its changes invalidate nothing', 'SELECT cachetag.attach(); or restart the daemon. What changed meanwhile: SELECT cachetag.invalidate(''*'')' INTO level, detail, remedy;
        END IF;
        RETURN NEXT;
    END LOOP;

    "check" := 'replica identity';
    FOR r IN
        SELECT b.relation, array_agg(DISTINCT n) FILTER (WHERE n IS NOT NULL AND NOT ru.widen) AS needed
        FROM cachetag.binding b JOIN cachetag.rule ru ON ru.id = b.rule_id JOIN pg_class c ON c.oid = b.relation AND c.relkind = 'r'
        LEFT JOIN LATERAL unnest(ru.attnames) n ON ru.operations IS NULL OR ru.operations && '{update,delete}'
        GROUP BY 1 ORDER BY 1
    LOOP
        subject := r.relation::regclass::text;
        SELECT CASE WHEN NOT i.usable THEN 'error' WHEN i.kind <> 'f' AND NOT coalesce(r.needed, '{}') <@ i.columns THEN 'warning' ELSE 'ok' END,
               CASE WHEN NOT i.usable THEN 'none: PostgreSQL refuses its UPDATEs and DELETEs'
                    WHEN i.kind = 'f' THEN 'the whole row'
                    WHEN NOT coalesce(r.needed, '{}') <@ i.columns THEN 'only ' || array_to_string(i.columns, ', ') || ': updates and deletes invalidate whole families'
                    ELSE array_to_string(i.columns, ', ') END,
               CASE WHEN NOT i.usable OR (i.kind <> 'f' AND NOT coalesce(r.needed, '{}') <@ i.columns)
                    THEN format('ALTER TABLE %s REPLICA IDENTITY FULL', r.relation::regclass) ELSE '' END
        INTO level, detail, remedy FROM cachetag._identity(r.relation) i;
        RETURN NEXT;
    END LOOP;

    "check" := 'rule';
    FOR r IN SELECT ru.*, t.template AS shown FROM cachetag.rule ru, LATERAL (SELECT ru.relid || ' ' || ru.template) t(template) ORDER BY ru.id LOOP
        subject := r.shown;
        IF r.state <> 'ok' THEN
            SELECT 'warning', r.state || ': every change invalidates ' || r.family || ':*',
                format('SELECT cachetag.untrack(%L, %L); and track it with a template that fits', r.relid, r.template) INTO level, detail, remedy;
        ELSIF cardinality(cachetag._rule_columns(r.template, NULL, NULL)) > 0 AND NOT EXISTS (
                SELECT FROM pg_index i WHERE i.indrelid = r.relid AND i.indisvalid AND i.indpred IS NULL
                AND (SELECT attname FROM pg_attribute WHERE attrelid = r.relid AND attnum = i.indkey[0]) = ANY (cachetag._rule_columns(r.template, NULL, NULL))) THEN
            SELECT 'info', 'no index begins with a column of the template: queries by it read the whole table',
                format('CREATE INDEX ON %s (%s)', r.relid, (SELECT string_agg(quote_ident(c), ', ') FROM unnest(cachetag._rule_columns(r.template, NULL, NULL)) c)) INTO level, detail, remedy;
        ELSE
            SELECT 'ok', CASE WHEN r.widen THEN 'updates and deletes invalidate whole families, as asked' ELSE 'precise' END, '' INTO level, detail, remedy;
        END IF;
        RETURN NEXT;
    END LOOP;

    "check" := 'event trigger';
    FOR r IN SELECT n.name, t.evtenabled FROM unnest('{cachetag_ddl,cachetag_drop}'::name[]) n(name) LEFT JOIN pg_event_trigger t ON t.evtname = n.name LOOP
        subject := r.name;
        IF r.evtenabled IS DISTINCT FROM 'A' THEN
            SELECT 'error', 'not enabled: schema changes invalidate nothing', format('ALTER EVENT TRIGGER %I ENABLE ALWAYS', r.name) INTO level, detail, remedy;
        ELSE
            SELECT 'ok', 'enabled', '' INTO level, detail, remedy;
        END IF;
        RETURN NEXT;
    END LOOP;

    "check" := 'daemon'; subject := 'report';
    IF report IS NULL THEN
        SELECT 'error', 'no daemon has ever reported', 'start the daemon: cachetag run' INTO level, detail, remedy;
        RETURN NEXT;
        RETURN;
    END IF;
    SELECT 'ok', format('epoch %s, %s, library %s, started %s', report ->> 'epoch', report -> 'redis' ->> 'server', report ->> 'library', report ->> 'at'), '' INTO level, detail, remedy;
    RETURN NEXT;

    "check" := 'redis'; subject := 'maxmemory-policy';
    policy := coalesce(report -> 'redis' ->> 'eviction_policy', '');
    IF policy LIKE 'allkeys-%' THEN
        SELECT 'error', policy || ' can evict cachetag''s own state, which costs a new epoch each time', 'CONFIG SET maxmemory-policy volatile-lru' INTO level, detail, remedy;
    ELSIF policy = 'noeviction' AND coalesce((report -> 'redis' ->> 'maxmemory')::bigint, 0) > 0 THEN
        SELECT 'warning', 'noeviction: once memory is full nothing can be stored any more', 'CONFIG SET maxmemory-policy volatile-lru' INTO level, detail, remedy;
    ELSIF policy = '' THEN
        SELECT 'info', 'unknown: Redis does not tell (CONFIG is forbidden)', 'make sure that it is volatile-lru, volatile-lfu or volatile-ttl' INTO level, detail, remedy;
    ELSE
        SELECT 'ok', policy, '' INTO level, detail, remedy;
    END IF;
    RETURN NEXT;
END $$;
COMMENT ON FUNCTION cachetag.doctor IS 'What is right and what is wrong with this installation, with the remedy for each.';
