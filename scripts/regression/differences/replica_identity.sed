# A tracked table is not left with REPLICA IDENTITY NOTHING, under which PostgreSQL would refuse the writers of a published table: it becomes FULL.
/^SELECT relreplident FROM pg_class WHERE oid = 'test_replica_identity'::regclass;$/,/^\(1 row\)$/s/^ [nf]$/ n or f/
