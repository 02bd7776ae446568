-- The catalog: what the daemon reads and follows. The three tables are in the publication, so that a change of a rule is in order with the changes
-- of rows, and have REPLICA IDENTITY FULL, so that the daemon sees what was removed.

CREATE TABLE cachetag.rule (
    id                  bigint   GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    relid               regclass NOT NULL,  -- dumped as a name
    relation            oid      NOT NULL,  -- the same as a number, which is what the daemon meets in the log
    template            text     NOT NULL,
    family              text     NOT NULL,
    columns_that_matter text[],             -- an UPDATE that changes none of them does not count; NULL: every UPDATE counts
    operations          text[]   NOT NULL DEFAULT '{insert,update,delete,truncate}',
    soft                boolean  NOT NULL DEFAULT false,
    predicate           text,               -- literals as their columns write them
    identity            text     NOT NULL DEFAULT 'check' CHECK (identity IN ('check', 'full', 'index', 'family')),
    widen               boolean  NOT NULL DEFAULT false,  -- old values are not in the log: the daemon takes the whole family where it needs them
    state               text     NOT NULL DEFAULT 'ok',   -- or why every change counts for the whole family
    used_columns        text[]   NOT NULL DEFAULT '{}',   -- what template, columns_that_matter and predicate name
    attnums             int2[]   NOT NULL DEFAULT '{}',   -- their numbers, by which a renamed column is found; 0: there is none
    UNIQUE (relid, template)
);

-- Every physical table whose changes fall under a rule: the table itself, each partition, each inheriting table. Derived, so it is not dumped: the
-- trigger on rule makes it again.
CREATE TABLE cachetag.binding (
    id       bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    rule_id  bigint NOT NULL,
    relation oid    NOT NULL,
    UNIQUE (rule_id, relation)
);
CREATE INDEX binding_relation ON cachetag.binding (relation);

CREATE TABLE cachetag.dependency (
    id         bigint  GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    parent     text    NOT NULL,
    child      text    NOT NULL,
    soft       boolean NOT NULL DEFAULT false,
    max_depth  int     NOT NULL DEFAULT 16 CHECK (max_depth >= 1),
    operations text[],
    UNIQUE (parent, child)
);
CREATE INDEX dependency_child ON cachetag.dependency (child);
CREATE INDEX dependency_parent_family ON cachetag.dependency (pg_catalog.split_part(parent, ':', 1));
CREATE INDEX dependency_child_family ON cachetag.dependency (pg_catalog.split_part(child, ':', 1));

-- Names under which tables were tracked that are gone or have other names. A table that takes such a name is not tracked, and queries that name it
-- may go on to compute the tags of its predecessor. Not published: nobody follows it but doctor.
CREATE TABLE cachetag.former (
    schema    name   NOT NULL,
    name      name   NOT NULL,
    templates text[] NOT NULL,
    PRIMARY KEY (schema, name)
);

ALTER TABLE cachetag.rule REPLICA IDENTITY FULL;
ALTER TABLE cachetag.binding REPLICA IDENTITY FULL;
ALTER TABLE cachetag.dependency REPLICA IDENTITY FULL;

-- The daemon's last report. Not published: nobody follows it.
CREATE TABLE cachetag.report (
    one   boolean     PRIMARY KEY DEFAULT true CHECK (one),
    at    timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    body  jsonb       NOT NULL,
    -- The newest that any daemon has reported.
    epoch bigint
);

SELECT pg_catalog.pg_extension_config_dump('cachetag.rule', '');
SELECT pg_catalog.pg_extension_config_dump('cachetag.rule_id_seq', '');
SELECT pg_catalog.pg_extension_config_dump('cachetag.dependency', '');
SELECT pg_catalog.pg_extension_config_dump('cachetag.dependency_id_seq', '');

-- The tables of a tree, the root included: partitions at every level, inheriting tables.
CREATE FUNCTION cachetag._tree(root oid) RETURNS TABLE (relation oid, relkind "char", relpersistence "char")
    LANGUAGE sql STABLE AS $$
    WITH RECURSIVE tree(relation) AS (
        SELECT root
      UNION
        SELECT i.inhrelid FROM pg_catalog.pg_inherits i JOIN tree t ON i.inhparent = t.relation)
    SELECT c.oid, c.relkind, c.relpersistence FROM tree t JOIN pg_catalog.pg_class c ON c.oid = t.relation
$$;

-- Those of them whose rows can be in the log. A temporary table that inherits belongs to one session and to no cache. The setting keeps the planner from
-- inlining the function, or it would ask what callers ask of these tables of all tables there are.
CREATE FUNCTION cachetag._tables_of(root oid) RETURNS SETOF oid
    LANGUAGE sql STABLE ROWS 10 SET search_path = pg_catalog, pg_temp AS $$
    SELECT relation FROM cachetag._tree(root) WHERE relkind = 'r' AND relpersistence <> 't'
$$;

-- Makes the bindings of a rule what its tree is.
CREATE FUNCTION cachetag._sync_bindings(rule cachetag.rule, OUT added oid[], OUT removed oid[])
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    WITH gone AS (
        DELETE FROM cachetag.binding b
         WHERE b.rule_id = rule.id AND NOT EXISTS (SELECT FROM cachetag._tables_of(rule.relation) t WHERE t = b.relation)
        RETURNING b.relation)
    SELECT coalesce(array_agg(g.relation), '{}') INTO removed FROM gone g;
    WITH new AS (
        INSERT INTO cachetag.binding (rule_id, relation)
        SELECT rule.id, t FROM cachetag._tables_of(rule.relation) t ORDER BY t
        ON CONFLICT DO NOTHING
        RETURNING relation)
    SELECT coalesce(array_agg(n.relation), '{}') INTO added FROM new n;
END $$;

-- What a rule names is authoritative; numbers are derived from it. They are other ones after a dump and a restore.
CREATE FUNCTION cachetag._rule_before() RETURNS trigger
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    NEW.relation := NEW.relid::oid;
    NEW.family := cachetag._template_family(NEW.template);
    NEW.used_columns := cachetag._used_columns(NEW.template, NEW.columns_that_matter, NEW.predicate);
    NEW.attnums := (
        SELECT coalesce(array_agg(coalesce(a.attnum, 0) ORDER BY u.place), '{}')
          FROM unnest(NEW.used_columns) WITH ORDINALITY AS u(name, place)
          LEFT JOIN pg_attribute a ON a.attrelid = NEW.relation AND a.attname = u.name AND NOT a.attisdropped);
    RETURN NEW;
END $$;
CREATE TRIGGER rule_before BEFORE INSERT OR UPDATE ON cachetag.rule
    FOR EACH ROW EXECUTE FUNCTION cachetag._rule_before();

CREATE FUNCTION cachetag._rule_after() RETURNS trigger
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF TG_OP = 'DELETE' THEN
        DELETE FROM cachetag.binding WHERE rule_id = OLD.id;
    ELSIF TG_OP = 'INSERT' OR NEW.relation <> OLD.relation THEN
        PERFORM cachetag._sync_bindings(NEW);
    END IF;
    -- Whoever tracks a table, or no longer wants to, knows what its name stands for.
    IF TG_OP <> 'UPDATE' THEN
        DELETE FROM cachetag.former f USING pg_class c
         WHERE c.oid = CASE TG_OP WHEN 'INSERT' THEN NEW.relation ELSE OLD.relation END AND f.schema = (SELECT nspname FROM pg_namespace WHERE oid = c.relnamespace) AND f.name = c.relname;
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER rule_after AFTER INSERT OR UPDATE OR DELETE ON cachetag.rule
    FOR EACH ROW EXECUTE FUNCTION cachetag._rule_after();

-- Backends keep the rules that tags_of needs; this tells them to forget.
CREATE FUNCTION cachetag._rules_changed() RETURNS trigger
    LANGUAGE c AS 'MODULE_PATHNAME', 'rules_changed_wrapper';
CREATE TRIGGER rules_changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON cachetag.rule
    FOR EACH STATEMENT EXECUTE FUNCTION cachetag._rules_changed();
CREATE TRIGGER rules_changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON cachetag.binding
    FOR EACH STATEMENT EXECUTE FUNCTION cachetag._rules_changed();

-- Also for sessions that replay: session_replication_role = replica.
ALTER TABLE cachetag.rule ENABLE ALWAYS TRIGGER rule_before;
ALTER TABLE cachetag.rule ENABLE ALWAYS TRIGGER rule_after;
ALTER TABLE cachetag.rule ENABLE ALWAYS TRIGGER rules_changed;
ALTER TABLE cachetag.binding ENABLE ALWAYS TRIGGER rules_changed;
