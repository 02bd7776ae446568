-- Replica identities: which old values are in the log, and what to do about those that are not.

-- How a table's old rows are identified in the log: 'full', 'index' with its key columns, or 'none': then PostgreSQL refuses UPDATE and DELETE on a
-- published table.
CREATE FUNCTION cachetag._replica_identity(rel oid) RETURNS TABLE (kind text, index oid, columns text[])
    LANGUAGE sql STABLE AS $$
    SELECT CASE WHEN c.relreplident = 'f' THEN 'full' WHEN i.indexrelid IS NOT NULL THEN 'index' ELSE 'none' END,
           i.indexrelid,
           (SELECT pg_catalog.array_agg(a.attname::text ORDER BY k.place)
              FROM pg_catalog.unnest(i.indkey) WITH ORDINALITY AS k(attnum, place)
              JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum = k.attnum
             WHERE k.place <= i.indnkeyatts)
      FROM pg_catalog.pg_class c
      LEFT JOIN pg_catalog.pg_index i
             ON i.indrelid = c.oid AND i.indisvalid AND i.indisunique AND i.indimmediate AND i.indpred IS NULL
            AND (c.relreplident = 'd' AND i.indisprimary OR c.relreplident = 'i' AND i.indisreplident)
     WHERE c.oid = rel
$$;

-- Has the log the old values of these columns?
CREATE FUNCTION cachetag._has_old_values(rel oid, names text[]) RETURNS boolean
    LANGUAGE sql STABLE AS $$
    SELECT i.kind = 'full' OR i.kind = 'index' AND names <@ i.columns FROM cachetag._replica_identity(rel) i
$$;

-- An index that PostgreSQL takes as a replica identity and that has these columns; the primary key first, then the narrowest.
CREATE FUNCTION cachetag._identity_index(rel oid, names text[]) RETURNS oid
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT i.indexrelid
      FROM pg_index i,
           LATERAL (SELECT array_agg(a.attname::text) AS columns, bool_and(a.attnotnull) AS not_null
                      FROM unnest(i.indkey) WITH ORDINALITY AS k(attnum, place)
                      JOIN pg_attribute a ON a.attrelid = rel AND a.attnum = k.attnum
                     WHERE k.place <= i.indnkeyatts) AS k
     WHERE i.indrelid = rel AND i.indisunique AND i.indisvalid AND i.indimmediate AND i.indpred IS NULL AND i.indexprs IS NULL
       AND k.not_null AND names <@ k.columns
     ORDER BY i.indisprimary DESC, i.indnkeyatts, i.indexrelid
     LIMIT 1
$$;

-- The statement that makes an index the replica identity.
CREATE FUNCTION cachetag._use_index_sql(rel oid, index oid) RETURNS text
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT CASE WHEN i.indisprimary THEN format('ALTER TABLE %s REPLICA IDENTITY DEFAULT', rel::regclass)
                ELSE format('ALTER TABLE %s REPLICA IDENTITY USING INDEX %I', rel::regclass, c.relname) END
      FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
     WHERE i.indexrelid = index
$$;

-- The statements that give a table an index that can be its replica identity with these columns: they and what is unique already.
CREATE FUNCTION cachetag._create_index_sql(rel oid, names text[]) RETURNS text
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    WITH wanted AS (
        SELECT n AS name, 1 AS rank, place FROM unnest(names) WITH ORDINALITY AS u(n, place)
      UNION ALL
        SELECT a.attname::text, 2, k.place
          FROM pg_index i, unnest(i.indkey) WITH ORDINALITY AS k(attnum, place), pg_attribute a
         WHERE i.indrelid = rel AND i.indisprimary AND a.attrelid = rel AND a.attnum = k.attnum AND a.attname <> ALL (names)),
    nullable AS (
        SELECT string_agg(format('ALTER TABLE %s ALTER COLUMN %I SET NOT NULL; ', rel::regclass, w.name), '' ORDER BY w.rank, w.place) AS sql
          FROM wanted w JOIN pg_attribute a ON a.attrelid = rel AND a.attname = w.name AND NOT a.attnotnull)
    SELECT coalesce(n.sql, '') || format('CREATE UNIQUE INDEX ON %s (%s);', rel::regclass,
               (SELECT string_agg(format('%I', w.name), ', ' ORDER BY w.rank, w.place) FROM wanted w))
      FROM nullable n
$$;

-- The columns whose old values the rules of a table need, apart from rules that do without.
CREATE FUNCTION cachetag._needed_columns(rel oid) RETURNS text[]
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT coalesce(array_agg(DISTINCT u.name), '{}')
      FROM cachetag.binding b JOIN cachetag.rule r ON r.id = b.rule_id, unnest(r.used_columns) AS u(name)
     WHERE b.relation = rel AND NOT r.widen AND r.state = 'ok' AND r.operations && '{update,delete}'
$$;

-- Puts old values of these columns into the log, as a rule's identity option asks for; false if it cannot.
CREATE FUNCTION cachetag._give_old_values(rel oid, names text[], identity text) RETURNS boolean
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    found_index oid;
BEGIN
    IF cachetag._has_old_values(rel, names) THEN
        RETURN true;
    ELSIF identity = 'full' THEN
        EXECUTE format('ALTER TABLE ONLY %s REPLICA IDENTITY FULL', rel::regclass);
        RETURN true;
    ELSIF identity = 'index' THEN
        -- Other rules of the table must not lose what this one gains.
        found_index := cachetag._identity_index(rel, names || cachetag._needed_columns(rel));
        IF found_index IS NOT NULL THEN
            EXECUTE cachetag._use_index_sql(rel, found_index);
            RETURN true;
        END IF;
    END IF;
    RETURN false;
END $$;
