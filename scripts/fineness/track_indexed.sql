-- Tracks every table that can be: as a whole, and by the leading column of each of its indexes, which is what rows are looked up by.
DO $$
DECLARE
    tracked record;
BEGIN
    FOR tracked IN
        SELECT c.oid, format('t%s', c.oid) || coalesce(array_agg(DISTINCT format('t%s_%s:{%s}', c.oid, a.attnum, replace(a.attname, '}', '}}'))) FILTER (WHERE a.attnum > 0), '{}') AS templates
          FROM pg_class c LEFT JOIN pg_index i ON i.indrelid = c.oid AND i.indkey[0] > 0
          LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = i.indkey[0] AND a.attgenerated = ''
         WHERE c.relkind IN ('r', 'p') AND c.relpersistence = 'p' AND c.oid >= 16384 AND NOT c.relispartition
           AND c.relnamespace NOT IN ('cachetag'::regnamespace, 'fineness'::regnamespace)
         GROUP BY c.oid ORDER BY c.oid
    LOOP
        BEGIN
            PERFORM cachetag.track(tracked.oid, tracked.templates, identity => 'full');
        EXCEPTION WHEN OTHERS THEN
            BEGIN
                PERFORM cachetag.track(tracked.oid, tracked.templates, identity => 'family');
            EXCEPTION WHEN OTHERS THEN NULL;
            END;
        END;
    END LOOP;
END $$;
