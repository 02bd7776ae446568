-- Everybody may read the catalog, compute tags and track tables of their own. What could make the caches of others wrong has to be granted.

REVOKE ALL ON ALL FUNCTIONS IN SCHEMA cachetag FROM PUBLIC;

GRANT SELECT ON cachetag.rule, cachetag.binding, cachetag.dependency, cachetag.former, cachetag.rules, cachetag.recipe, cachetag.recipes TO PUBLIC;
-- pg_dump reads them; whoever dumps a database need not be a superuser.
GRANT SELECT ON SEQUENCE cachetag.rule_id_seq, cachetag.dependency_id_seq TO PUBLIC;

GRANT EXECUTE ON FUNCTION
    cachetag.tag(text), cachetag.tag(text, "any"), cachetag.key(text), cachetag.key(text, "any"), cachetag.tags_of(regclass, record),
    cachetag.tag_agg(text), cachetag.tag_agg(text[]),
    cachetag._tag_agg_add(internal, text), cachetag._tag_agg_add(internal, text[]), cachetag._tag_agg_combine(internal, internal),
    cachetag._tag_agg_serialize(internal), cachetag._tag_agg_deserialize(bytea, internal), cachetag._tag_agg_final(internal)
    TO PUBLIC;

-- track and untrack look at who owns the table; attach, republish and report look at who calls.
GRANT EXECUTE ON FUNCTION
    cachetag.track(regclass, text[]), cachetag.track(regclass, text[], text[], text[], boolean, text, text),
    cachetag.track(regclass, text, text[], text[], boolean, text, text), cachetag.untrack(regclass), cachetag.untrack(regclass, text[]), cachetag.attach(), cachetag.republish(),
    cachetag.report(jsonb)
    TO PUBLIC;

-- Invalidating costs hits and never truth: pg_logical_emit_message does as much for everybody. depend and undepend can take an edge away from others,
-- so they are not here. For a role that maintains dependencies:
--   GRANT EXECUTE ON FUNCTION cachetag.depend(text, text[]), cachetag.depend(text, text, int, boolean, text[]),
--       cachetag.depend(text, text[], int, boolean, text[]), cachetag.undepend(text), cachetag.undepend(text, text[]) TO editor;
GRANT EXECUTE ON FUNCTION
    cachetag.invalidate(text[]), cachetag.invalidate_soft(text[]), cachetag._invalidate(text[], boolean),
    cachetag.covers(text), cachetag._newest_epoch(), cachetag.as_of(text), cachetag.capture_begin(text, text[]), cachetag.capture_end(),
    cachetag.capture(text), cachetag.capture(text, "any"), cachetag.capture_as_of(text, text), cachetag.capture_as_of(text, text, "any"),
    cachetag.explain_tags(text), cachetag.explain_tags(text, "any"), cachetag.advise(), cachetag.wait_for(pg_lsn, interval, name), cachetag._committed_so_far(),
    cachetag.descendants(text, int), cachetag.ancestors(text, int)
    TO PUBLIC;

GRANT EXECUTE ON FUNCTION
    cachetag.status(name), cachetag.doctor(name), cachetag.last_report(), cachetag._doctor_server(name), cachetag._doctor_rules(),
    cachetag._doctor_daemon(), cachetag._replica_identity(oid), cachetag._is_member(oid), cachetag._missing_members(), cachetag._catalog_tables(),
    cachetag._template_columns(text), cachetag._event_triggers(),
    cachetag._before_rename(oid), cachetag._before_detach(oid), cachetag._before_drop_concurrently(oid)
    TO PUBLIC;

-- Whoever may register a recipe has the audit run a query of theirs with the rights of the audit's role. For a role that maintains recipes:
--   GRANT EXECUTE ON FUNCTION cachetag.recipe(text, text, text), cachetag._store_recipe(text, text, text, text), cachetag.unrecipe(text) TO editor;
GRANT EXECUTE ON FUNCTION cachetag._key_template_names(text), cachetag._recipe_statement(text, text) TO PUBLIC;
