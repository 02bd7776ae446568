-- For each query two statements that print an INSERT of what capture says of it. Each is a transaction of its own: one that has written sees what nobody
-- else sees yet, and nothing of it is cacheable.
SELECT format('SET search_path = %s;', CASE part WHEN 'TPC-H' THEN 'tpch' WHEN 'pgbench' THEN 'pgbench' ELSE 'public' END),
       format('SELECT format(%L, %s, cacheable, reasons) FROM cachetag.capture(%L);', 'INSERT INTO fineness.result VALUES (%s, %L, %L);', id, text),
       format('SELECT format(%L, %s, relation::oid, tags, reason) FROM cachetag.explain_tags(%L);', 'INSERT INTO fineness.read VALUES (%s, %L, %L, %L);', id, text)
  FROM fineness.query ORDER BY id
