-- doctor: everything that can be wrong on PostgreSQL's side, with what to do about it.

CREATE FUNCTION cachetag._doctor_server(slot name) RETURNS TABLE ("check" text, level text, subject text, detail text, remedy text)
    LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET jit = off AS $$
DECLARE
    used int;
    allowed int;
    s record;
    keep text := current_setting('max_slot_wal_keep_size');
BEGIN
    RETURN QUERY SELECT 'wal_level', CASE WHEN current_setting('wal_level') = 'logical' THEN 'ok' ELSE 'error' END, 'server',
        'wal_level is ' || current_setting('wal_level'),
        CASE WHEN current_setting('wal_level') <> 'logical' THEN 'ALTER SYSTEM SET wal_level = logical; then restart the server' END;
    RETURN QUERY SELECT 'encoding', CASE WHEN getdatabaseencoding() = 'UTF8' THEN 'ok' ELSE 'error' END, current_database()::text,
        'the encoding is ' || getdatabaseencoding(),
        CASE WHEN getdatabaseencoding() <> 'UTF8' THEN 'create the database with ENCODING ''UTF8''' END;
    RETURN QUERY SELECT 'primary', CASE WHEN pg_is_in_recovery() THEN 'error' ELSE 'ok' END, 'server',
        CASE WHEN pg_is_in_recovery() THEN 'the server is a standby' ELSE 'the server is a primary' END,
        CASE WHEN pg_is_in_recovery() THEN 'connect the daemon to the primary' END;
    RETURN QUERY SELECT 'slot budget', CASE WHEN keep = '-1' THEN 'warning' ELSE 'ok' END, 'server', 'max_slot_wal_keep_size is ' || keep,
        CASE WHEN keep = '-1' THEN 'set a limit, for example ALTER SYSTEM SET max_slot_wal_keep_size = ''10GB''; without one, a daemon that is away can fill the disk' END;

    SELECT p.slot_name, p.plugin, p.database, p.active, p.wal_status, p.restart_lsn,
           CASE WHEN pg_is_in_recovery() THEN NULL ELSE pg_current_wal_lsn() - p.restart_lsn END AS retained
      INTO s FROM pg_replication_slots p WHERE p.slot_name = slot;
    IF NOT FOUND THEN
        SELECT count(*) INTO used FROM pg_replication_slots;
        allowed := current_setting('max_replication_slots');
        RETURN QUERY SELECT 'slot', 'warning', slot::text, 'the replication slot does not exist', 'start the daemon: it creates the slot';
        RETURN QUERY SELECT 'free slots', CASE WHEN used < allowed THEN 'ok' ELSE 'error' END, 'server',
            format('%s of %s replication slots are used', used, allowed),
            CASE WHEN used >= allowed THEN 'raise max_replication_slots and restart the server, or drop a slot that nobody uses' END;
    ELSIF s.database IS DISTINCT FROM current_database() OR s.plugin IS DISTINCT FROM 'pgoutput' THEN
        RETURN QUERY SELECT 'slot', 'error', slot::text, format('the slot is one of database %s and plugin %s', s.database, s.plugin),
            'give the daemon of each database a slot of its own';
    ELSIF s.wal_status = 'lost' THEN
        RETURN QUERY SELECT 'slot', 'error', slot::text, 'the slot is lost: the log that it needs has been removed',
            'start the daemon: it replaces the slot and opens a new epoch; then raise max_slot_wal_keep_size';
    ELSIF s.wal_status = 'unreserved' THEN
        RETURN QUERY SELECT 'slot', 'error', slot::text, 'the log that the slot needs is about to be removed',
            'see to it that the daemon catches up, or raise max_slot_wal_keep_size';
    ELSE
        RETURN QUERY SELECT 'slot', CASE WHEN s.active THEN 'ok' ELSE 'error' END, slot::text,
            CASE WHEN s.active THEN 'the daemon is connected' ELSE 'nobody is connected to the slot' END,
            CASE WHEN NOT s.active THEN 'start the daemon; until then caches answer bypass and the slot keeps the log' END;
    END IF;
    IF s.retained > 1073741824 THEN
        RETURN QUERY SELECT 'retained log', 'warning', slot::text, format('the slot keeps %s of the log', pg_size_pretty(s.retained)),
            'see to it that the daemon runs and catches up; long transactions hold it back too';
    END IF;

    SELECT count(*) INTO used FROM pg_stat_replication;
    allowed := current_setting('max_wal_senders');
    RETURN QUERY SELECT 'free wal senders', CASE WHEN used < allowed OR s.active THEN 'ok' ELSE 'error' END, 'server',
        format('%s of %s wal senders are used', used, allowed),
        CASE WHEN used >= allowed AND s.active IS NOT TRUE THEN 'raise max_wal_senders and restart the server' END;
END $$;

CREATE FUNCTION cachetag._doctor_rules() RETURNS TABLE ("check" text, level text, subject text, detail text, remedy text)
    LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET jit = off AS $$
BEGIN
    RETURN QUERY SELECT 'publication', CASE WHEN count(*) FILTER (WHERE pubinsert AND pubupdate AND pubdelete AND pubtruncate AND NOT pubviaroot) = 1
                                            THEN 'ok' ELSE 'error' END, 'cachetag',
        CASE WHEN count(*) = 0 THEN 'the publication does not exist'
             WHEN bool_or(pubinsert AND pubupdate AND pubdelete AND pubtruncate AND NOT pubviaroot) THEN 'the publication exists'
             ELSE 'the publication leaves operations out or publishes via roots' END,
        CASE WHEN count(*) FILTER (WHERE pubinsert AND pubupdate AND pubdelete AND pubtruncate AND NOT pubviaroot) = 0
             THEN 'SELECT cachetag.attach();' END
      FROM pg_publication WHERE pubname = 'cachetag';
    RETURN QUERY SELECT 'published', 'error', t.rel::regclass::text, 'the table is not in the publication', 'SELECT cachetag.attach();'
      FROM (SELECT c FROM cachetag._catalog_tables() c WHERE NOT cachetag._is_member(c)
            UNION SELECT relation FROM cachetag._missing_members()) AS t(rel) ORDER BY t.rel::regclass::text;
    RETURN QUERY SELECT 'replica identity', 'error', t.rel::regclass::text,
        'the table has no replica identity: PostgreSQL refuses UPDATE and DELETE on it while it is published',
        format('ALTER TABLE %s REPLICA IDENTITY FULL;', t.rel::regclass)
      FROM (SELECT DISTINCT relation FROM cachetag.binding) AS t(rel), LATERAL cachetag._replica_identity(t.rel) i
     WHERE i.kind = 'none' ORDER BY t.rel::regclass::text;
    RETURN QUERY SELECT 'replica identity', CASE r.identity WHEN 'family' THEN 'info' ELSE 'warning' END, r.relid::text,
        format('the log has not got all old values for rule %L: the daemon takes the whole family where they are needed', r.template),
        format('SELECT cachetag.track(%L, %L, identity => ''full'');', r.relid, r.template)
      FROM cachetag.rule r WHERE r.widen ORDER BY r.id;
    RETURN QUERY SELECT 'rule', CASE WHEN r.state LIKE '%are not in the log' THEN 'error'
                                     WHEN r.identity = 'family' AND (r.state LIKE '%its value is not in the log' OR r.state LIKE '%what it names is renamed') THEN 'info' ELSE 'warning' END,
        r.relid::text, format('rule %L: %s; every change of the table counts for the whole family', r.template, r.state),
        format('SELECT cachetag.untrack(%L, %L); and track it with a template of columns that the table has', r.relid, r.template)
      FROM cachetag.rule r WHERE r.state <> 'ok' AND EXISTS (SELECT FROM pg_class WHERE oid = r.relid) ORDER BY r.id;
    RETURN QUERY SELECT 'rule', 'error', r.relid::text, format('rule %L: its table does not exist', r.template),
        format('SELECT cachetag.untrack(%s);', r.relid::oid)
      FROM cachetag.rule r WHERE NOT EXISTS (SELECT FROM pg_class WHERE oid = r.relid) ORDER BY r.id;
    RETURN QUERY SELECT 'successor', 'warning', c.oid::regclass::text,
        'another table of this name was tracked; this one is not, and its changes touch no tags',
        format('SELECT cachetag.track(%L, %s); or, if no query takes it for the other: DELETE FROM cachetag.former WHERE (schema, name) = (%L, %L);',
               c.oid::regclass, (SELECT string_agg(quote_literal(t), ', ') FROM unnest(f.templates) AS u(t)), f.schema, f.name)
      FROM cachetag.former f JOIN pg_namespace n ON n.nspname = f.schema
      JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = f.name AND c.relkind IN ('r', 'p', 'f', 'v', 'm')
     WHERE NOT EXISTS (SELECT FROM cachetag.rule r WHERE r.relation = c.oid) ORDER BY f.schema, f.name;
    RETURN QUERY SELECT 'rules', 'ok', 'cachetag', format('%s rules on %s tables', count(*), count(DISTINCT r.relid)), NULL::text
      FROM cachetag.rule r;
    RETURN QUERY SELECT 'index', 'info', r.relid::text,
        format('no index begins with the columns of rule %L: queries by its tag scan the table', r.template),
        format('CREATE INDEX ON %s (%s);', r.relid, (SELECT string_agg(format('%I', n), ', ') FROM unnest(c.names) AS u(n)))
      FROM cachetag.rule r, LATERAL (SELECT cachetag._template_columns(r.template)) AS c(names)
     WHERE c.names <> '{}' AND r.state = 'ok' AND EXISTS (SELECT FROM pg_class WHERE oid = r.relid)
       AND NOT EXISTS (SELECT FROM pg_index i WHERE i.indrelid = r.relid AND i.indisvalid AND i.indpred IS NULL
                          AND c.names <@ (SELECT array_agg(a.attname::text) FROM unnest(i.indkey) WITH ORDINALITY AS k(attnum, place)
                                            JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
                                           WHERE k.place <= cardinality(c.names)))
     ORDER BY r.id;
    RETURN QUERY SELECT 'event triggers', CASE WHEN count(*) FILTER (WHERE evtenabled = 'A') = cardinality(cachetag._event_triggers()) THEN 'ok' ELSE 'error' END, 'cachetag',
        format('%s of %s event triggers are enabled', count(*) FILTER (WHERE evtenabled = 'A'), cardinality(cachetag._event_triggers())),
        CASE WHEN count(*) FILTER (WHERE evtenabled = 'A') < cardinality(cachetag._event_triggers()) THEN 'SELECT cachetag.attach();' END
      FROM pg_event_trigger WHERE evtname = ANY (cachetag._event_triggers());
END $$;

CREATE FUNCTION cachetag._doctor_daemon() RETURNS TABLE ("check" text, level text, subject text, detail text, remedy text)
    LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET jit = off AS $$
DECLARE
    body jsonb := cachetag.last_report();
    age interval := clock_timestamp() - (body->>'reported_at')::timestamptz;
BEGIN
    IF body IS NULL THEN
        RETURN QUERY SELECT 'daemon report', 'warning', 'daemon', 'the daemon has never reported', 'start the daemon on this database';
        RETURN;
    END IF;
    RETURN QUERY SELECT 'daemon report', CASE WHEN age > interval '1 minute' THEN 'warning' ELSE 'ok' END, 'daemon',
        CASE WHEN age > interval '1 minute' THEN 'the last report of the daemon is older than a minute' ELSE 'the daemon reports' END,
        CASE WHEN age > interval '1 minute' THEN 'see whether the daemon runs and what it logs' END;
    -- The report has it once, or once for each shard.
    RETURN QUERY SELECT DISTINCT 'eviction policy',
        CASE WHEN p.policy LIKE 'allkeys%' THEN 'error' WHEN p.policy LIKE 'noeviction' THEN 'warning' ELSE 'ok' END, 'Redis',
        CASE WHEN p.policy LIKE 'allkeys%' THEN format('maxmemory-policy is %s: Redis may evict the state, and every cache starts anew', p.policy)
             WHEN p.policy = 'noeviction' THEN 'maxmemory-policy is noeviction: when memory is full, nothing more is stored'
             ELSE format('maxmemory-policy is %s', p.policy) END,
        CASE WHEN p.policy LIKE 'allkeys%' OR p.policy = 'noeviction' THEN 'CONFIG SET maxmemory-policy volatile-lru in Redis' END
      FROM (SELECT q #>> '{}' FROM jsonb_path_query(body, '$.**.eviction_policy') AS q
            UNION SELECT q #>> '{}' FROM jsonb_path_query(body, '$.**.maxmemory_policy') AS q) AS p(policy)
     WHERE p.policy IS NOT NULL;
END $$;

CREATE FUNCTION cachetag.doctor(slot name DEFAULT 'cachetag')
    RETURNS TABLE ("check" text, level text, subject text, detail text, remedy text)
    LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
    SELECT d.* FROM (SELECT * FROM cachetag._doctor_server(slot)
                     UNION ALL SELECT * FROM cachetag._doctor_rules()
                     UNION ALL SELECT * FROM cachetag._doctor_daemon()) AS d
     ORDER BY array_position('{error,warning,info,ok}', d.level), d."check", d.subject, d.detail
$$;
COMMENT ON FUNCTION cachetag.doctor(name) IS
    'what is wrong on this side and what to do about it: level is error, warning, info or ok, the worst first';
