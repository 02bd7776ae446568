-- The cachetag extension. See the chapters in sql/: this script is all of them, in order.
\echo Use "CREATE EXTENSION cachetag" to load this file. \quit

-- A schema of this name that someone without superuser rights owns could be taken over by that role.
DO $$
BEGIN
    IF NOT (SELECT r.rolsuper FROM pg_catalog.pg_namespace n JOIN pg_catalog.pg_roles r ON r.oid = n.nspowner
             WHERE n.nspname = 'cachetag') THEN
        RAISE EXCEPTION 'schema cachetag belongs to a role that is not a superuser'
            USING HINT = 'Drop or rename it: CREATE EXTENSION creates its own.';
    END IF;
END $$;

GRANT USAGE ON SCHEMA cachetag TO PUBLIC;
