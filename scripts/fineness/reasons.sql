-- Why results are not cacheable and reads coarse: how many for each reason, names left out.
SELECT format('%s not cacheable: %s', count(*), reason)
  FROM (SELECT regexp_replace(regexp_replace(unnest(reasons), '^table \S+ |function [^ ]+\(\)|^(rule|collation) \S+|^\S+\(\)|^\S+\.\S+ ', '… '), '\mcurrent_setting\([^)]*\)', 'current_setting(…)') AS reason
          FROM fineness.result WHERE NOT cacheable) AS r
 GROUP BY reason ORDER BY count(*) DESC, reason LIMIT 15;
SELECT format('%s coarse: %s', count(*), reason)
  FROM (SELECT coalesce(reason, 'more values than cachetag.capture_keys, or not known') AS reason FROM fineness.bound WHERE is_bound AND NOT is_fine) AS r
 GROUP BY reason ORDER BY count(*) DESC, reason LIMIT 15;
