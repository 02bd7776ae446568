-- What the daemon does with the catalog, and what people see of it all.

-- Roles that run the daemon: superusers, those with the REPLICATION attribute, those to whom someone granted the function by name.
CREATE FUNCTION cachetag._require_operator(function regprocedure) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    caller oid := cachetag._caller();
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE oid = caller AND (rolsuper OR rolreplication))
       OR EXISTS (SELECT FROM pg_proc p, aclexplode(p.proacl) a
                   WHERE p.oid = function AND a.privilege_type = 'EXECUTE' AND a.grantee NOT IN (0, p.proowner)
                     AND pg_has_role(caller, a.grantee, 'USAGE')) THEN
        RETURN;
    END IF;
    RAISE EXCEPTION 'permission denied for function %', function
        USING ERRCODE = 'insufficient_privilege',
              HINT = format('It is for the daemon: ALTER ROLE %1$I REPLICATION; or GRANT EXECUTE ON FUNCTION %2$s TO %1$I;',
                            pg_get_userbyid(caller), function);
END $$;

-- Makes a rule true to what its table has become: names of columns, bindings, replica identities, what the daemon is told of it.
-- strict: what would make the cache wrong without anyone hearing of it is an error, for the event triggers; otherwise it is noted in the state.
CREATE FUNCTION cachetag._refresh_rule(rule_id bigint, strict boolean) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    r cachetag.rule;
    was cachetag.rule;
    old_names text[];
    new_names text[];
    problem text;
    part record;
    rel oid;
    bindings record;
    needed text[];
    lost regclass[] := '{}';
BEGIN
    SELECT * INTO r FROM cachetag.rule WHERE id = rule_id;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    was := r;
    r.relation := r.relid;
    IF NOT EXISTS (SELECT FROM pg_class WHERE oid = r.relid) THEN
        UPDATE cachetag.rule SET state = 'its table does not exist' WHERE id = rule_id AND state <> 'its table does not exist';
        RETURN;
    END IF;

    -- Columns have been renamed if their numbers say so. A restore without triggers leaves numbers of another table behind.
    IF was.relation = r.relation THEN
        SELECT array_agg(u.name), array_agg(a.attname::text) INTO old_names, new_names
          FROM unnest(r.used_columns, r.attnums) AS u(name, attnum)
          JOIN pg_attribute a ON a.attrelid = r.relid AND a.attnum = u.attnum AND a.attnum > 0 AND NOT a.attisdropped AND a.attname <> u.name;
    END IF;
    IF old_names IS NOT NULL THEN
        r.template := cachetag._template_renamed(r.template, old_names, new_names);
        r.predicate := cachetag._predicate_renamed(r.predicate, old_names, new_names);
        r.columns_that_matter := (
            SELECT array_agg(coalesce(n.new, c.name) ORDER BY c.place)
              FROM unnest(r.columns_that_matter) WITH ORDINALITY AS c(name, place)
              LEFT JOIN unnest(old_names, new_names) AS n(old, new) ON n.old = c.name);
        -- A rule whose columns are gone may have the text that this one gets. One of them is enough, with no option that narrows it.
        DELETE FROM cachetag.rule o WHERE o.relid = r.relid AND o.template = r.template AND o.id <> r.id;
        IF FOUND THEN
            r.columns_that_matter := NULL;
            r.operations := cachetag._operations(NULL);
            r.soft := false;
            r.predicate := NULL;
        END IF;
    END IF;
    r.used_columns := cachetag._used_columns(r.template, r.columns_that_matter, r.predicate);
    problem := cachetag._hidden_columns(r.relid, r.used_columns);
    IF problem IS NULL AND r.predicate IS NOT NULL THEN
        BEGIN
            r.predicate := cachetag._predicate_canonical(r.relid, r.predicate);
        EXCEPTION WHEN data_exception OR feature_not_supported OR syntax_error THEN
            problem := format('predicate %s: %s', r.predicate, SQLERRM);
        END;
    END IF;

    SELECT t.relation::regclass AS name, CASE t.relkind WHEN 'f' THEN 'foreign' ELSE 'unlogged' END AS kind INTO part
      FROM cachetag._tree(r.relid) t WHERE t.relkind = 'f' OR t.relpersistence = 'u' ORDER BY t.relation LIMIT 1;
    IF FOUND THEN
        IF strict THEN
            RAISE EXCEPTION 'table % is % and would belong to the tracked table %', part.name, part.kind, r.relid
                USING ERRCODE = 'object_not_in_prerequisite_state',
                      DETAIL = 'Its changes are not in the log: the cache would go on with values that are no longer true.',
                      HINT = format('To stop caching by this table first: SELECT cachetag.untrack(%L);', r.relid);
        END IF;
        problem := concat_ws('; ', problem, format('changes of the %s table %s are not in the log', part.kind, part.name));
    END IF;

    r.state := coalesce(problem, 'ok');
    UPDATE cachetag.rule u
       SET relid = r.relid, template = r.template, columns_that_matter = r.columns_that_matter, operations = r.operations, soft = r.soft,
           predicate = r.predicate, state = r.state
     WHERE u.id = r.id
       AND (was.relation <> r.relation
            OR (u.template, u.columns_that_matter, u.operations, u.soft, u.predicate, u.state) IS DISTINCT FROM
               (r.template, r.columns_that_matter, r.operations, r.soft, r.predicate, r.state)
            OR EXISTS (SELECT FROM unnest(u.used_columns, u.attnums) AS c(name, attnum)
                         LEFT JOIN pg_attribute a ON a.attrelid = r.relid AND a.attname = c.name AND NOT a.attisdropped
                        WHERE c.attnum <> coalesce(a.attnum, 0)));
    IF r.state <> 'ok' AND r.state <> was.state THEN
        RAISE WARNING 'rule % of table %: %', quote_literal(r.template), r.relid, r.state
            USING HINT = 'From now on every change of the table counts for the whole family. Track it with a template of columns that it has, and untrack this one.';
    END IF;

    SELECT * INTO bindings FROM cachetag._sync_bindings(r);
    IF EXISTS (SELECT FROM pg_publication WHERE pubname = 'cachetag') THEN
        -- New tables that inherit; partitions are published with the tracked table. A restore publishes the others itself.
        PERFORM cachetag._publish(t) FROM unnest(bindings.added) AS u(t) WHERE NOT cachetag._is_published(t);
        PERFORM cachetag._unpublish(bindings.removed);
    END IF;

    -- In the order of what matters most: what the rule asked for, then that nobody's UPDATE fails.
    r.widen := false;
    needed := CASE WHEN r.operations && '{update,delete}' AND problem IS NULL THEN r.used_columns ELSE '{}' END;
    FOR rel IN SELECT b.relation FROM cachetag.binding b WHERE b.rule_id = r.id ORDER BY b.relation LOOP
        IF strict AND NOT cachetag._is_published(rel) THEN
            -- A restore is under way: keys and publication are still to come.
            r.widen := r.widen OR was.widen;
            CONTINUE;
        END IF;
        CONTINUE WHEN cachetag._give_old_values(rel, needed, r.identity);
        IF (SELECT kind FROM cachetag._replica_identity(rel)) = 'none' THEN
            EXECUTE format('ALTER TABLE ONLY %s REPLICA IDENTITY FULL', rel::regclass);
            RAISE WARNING 'table % was left without a replica identity and has got REPLICA IDENTITY FULL', rel::regclass
                USING DETAIL = 'PostgreSQL refuses UPDATE and DELETE on such a table when it is published, as cachetag needs it.',
                      HINT = format('Give it a primary key, then ALTER TABLE %s REPLICA IDENTITY DEFAULT; or untrack it.', rel::regclass);
        ELSE
            r.widen := true;
            lost := lost || rel::regclass;
        END IF;
    END LOOP;
    UPDATE cachetag.rule u SET widen = r.widen WHERE u.id = r.id AND u.widen <> r.widen;
    IF r.widen AND NOT was.widen AND r.identity <> 'family' THEN
        RAISE WARNING 'the log no longer has the old values that rule % of table % needs', quote_literal(r.template), r.relid
            USING DETAIL = format('The replica identity of %s has not got its columns. The daemon takes the whole family instead.',
                                  array_to_string(lost, ', ')),
                  HINT = format('SELECT cachetag.track(%L, %L, identity => ''full''); or identity => ''family'' if that is what you want.',
                                r.relid, r.template);
    END IF;
END $$;

CREATE FUNCTION cachetag._event_triggers() RETURNS name[]
    LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$ SELECT '{cachetag_start,cachetag_ddl,cachetag_drop,cachetag_rewrite,cachetag_definition,cachetag_definition_drop}'::pg_catalog.name[] $$;

CREATE FUNCTION cachetag.attach() RETURNS text[]
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET jit = off SET lock_timeout = '5s' AS $$
DECLARE
    done text[];
    late bigint[] := '{}';
    missing record;
    off name;
BEGIN
    PERFORM cachetag._require_operator('cachetag.attach()');
    IF pg_is_in_recovery() THEN
        RAISE EXCEPTION 'this server is a standby, where nothing can be attached'
            USING ERRCODE = 'read_only_sql_transaction', HINT = 'Connect the daemon to the primary.';
    END IF;
    done := cachetag._repair_publication();
    FOR off IN SELECT evtname FROM pg_event_trigger WHERE evtname = ANY (cachetag._event_triggers()) AND evtenabled <> 'A' ORDER BY 1 LOOP
        EXECUTE format('ALTER EVENT TRIGGER %I ENABLE ALWAYS', off);
        done := done || format('enabled event trigger %s', off);
        -- Nobody knows what was done to the tables while it was off.
        PERFORM cachetag._emit('{*}');
    END LOOP;
    PERFORM cachetag._refresh_rule(id, strict => false) FROM (SELECT id FROM cachetag.rule ORDER BY identity NOT IN ('full', 'index'), id) AS r;
    FOR missing IN SELECT m.relation, array_agg(m.rule_id) AS rule_ids FROM cachetag._missing_members() m GROUP BY 1 ORDER BY 1 LOOP
        IF cachetag._publish(missing.relation) THEN
            done := done || format('added table %s', missing.relation::regclass);
        END IF;
        late := late || missing.rule_ids;
    END LOOP;
    -- What was written while the tables were out has not been published.
    PERFORM cachetag._emit((SELECT array_agg(r.family) FROM cachetag.rule r WHERE r.id = ANY (late)));
    RETURN done;
END $$;
COMMENT ON FUNCTION cachetag.attach() IS
    'gives the publication what it lacks and makes every rule true to its table, for example after a restore; returns what it did';

-- The change changes nothing, but decoding takes note of it: what it knows of the published tables it reads anew.
CREATE FUNCTION cachetag.republish() RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET jit = off SET lock_timeout = '5s' AS $$
BEGIN
    PERFORM cachetag._require_operator('cachetag.republish()');
    PERFORM cachetag._state_publication();
END $$;
COMMENT ON FUNCTION cachetag.republish() IS
    'has logical decoding read the catalog anew from its commit on; the daemon calls it where a slot is new';

CREATE FUNCTION cachetag.report(body jsonb) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM cachetag._require_operator('cachetag.report(jsonb)');
    INSERT INTO cachetag.report AS l (at, body, epoch)
    VALUES (clock_timestamp(), report.body, CASE WHEN report.body->>'epoch' ~ '^\d{1,10}$' THEN (report.body->>'epoch')::bigint END)
    ON CONFLICT (one) DO UPDATE SET at = EXCLUDED.at, body = EXCLUDED.body, epoch = greatest(l.epoch, EXCLUDED.epoch);
END $$;
COMMENT ON FUNCTION cachetag.report(jsonb) IS 'keeps what the daemon has to say of itself; the last report counts';

CREATE FUNCTION cachetag.last_report() RETURNS jsonb
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT jsonb_build_object('reported_at', l.at) || l.body FROM cachetag.report l
$$;
COMMENT ON FUNCTION cachetag.last_report() IS 'the last report of the daemon, with the time of it; NULL if there is none';

-- Of several caches each has a daemon and epochs of its own.
CREATE FUNCTION cachetag._newest_epoch() RETURNS bigint
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$ SELECT l.epoch FROM cachetag.report l $$;

CREATE FUNCTION cachetag.status(slot name DEFAULT 'cachetag') RETURNS TABLE (
    slot_name name, slot_exists boolean, active boolean, wal_status text, retained_bytes bigint, confirmed_flush_lsn pg_lsn, lag_bytes bigint,
    reported_at timestamptz, report_age interval, epoch text, claimant text, watermark text, redis_version text, eviction_policy text,
    report jsonb)
    LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
    SELECT slot, s.slot_name IS NOT NULL, s.active, s.wal_status, (w.now - s.restart_lsn)::bigint, s.confirmed_flush_lsn,
           CASE WHEN s.confirmed_flush_lsn IS NOT NULL THEN greatest(w.now - s.confirmed_flush_lsn, 0)::bigint END,
           (r.body->>'reported_at')::timestamptz, clock_timestamp() - (r.body->>'reported_at')::timestamptz,
           r.body->>'epoch', r.body->>'claimant', r.body->>'watermark', r.body->>'redis_version',
           jsonb_path_query_first(r.body, '$.**.eviction_policy') #>> '{}', r.body
      FROM (SELECT CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END) AS w(now)
      CROSS JOIN (SELECT cachetag.last_report()) AS r(body)
      LEFT JOIN pg_replication_slots s ON s.slot_name = slot AND s.slot_type = 'logical'
$$;
COMMENT ON FUNCTION cachetag.status(name) IS 'one row: the replication slot, how far behind it is, the last report of the daemon';
