-- What is not cacheable, and what is coarse, each with the reason.
SELECT format('not cacheable: %s: %s', left(q.text, 80), array_to_string(r.reasons, '; '))
  FROM fineness.query q JOIN fineness.result r ON r.query = q.id WHERE NOT r.cacheable ORDER BY q.id;
SELECT format('coarse: %s of %s: %s', relation::regclass, left(text, 60), coalesce(reason, 'more values than cachetag.capture_keys, or not known'))
  FROM fineness.bound WHERE is_bound AND NOT is_fine ORDER BY id;
