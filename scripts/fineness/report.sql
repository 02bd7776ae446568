-- The shares. A read has an equality on a tracked column if it has tags of values (and so no reason), or if its reason names a bound column that some
-- rule of the table has in its template.
SELECT format('not cacheable: %s: %s', left(q.text, 80), array_to_string(r.reasons, '; '))
  FROM fineness.query q JOIN fineness.result r ON r.query = q.id WHERE NOT r.cacheable ORDER BY q.id;
CREATE VIEW fineness.bound AS
    SELECT q.part, q.id, q.text, r.relation, r.tags, r.reason,
           r.reason IS NULL AND NOT r.tags::text ~ ':\*' AS is_fine,
           r.reason IS NULL OR EXISTS (
               SELECT FROM regexp_matches(r.reason, '\(([^)]*)\)') AS m(names), unnest(string_to_array(m.names[1], ', ')) AS n(name)
                WHERE EXISTS (SELECT FROM cachetag.rule k JOIN cachetag.binding b ON b.rule_id = k.id
                               WHERE b.relation = r.relation AND strpos(k.template, '{' || n.name || '}') > 0)) AS is_bound
      FROM fineness.read r JOIN fineness.query q ON q.id = r.query;
SELECT format('coarse: %s of %s: %s', relation::regclass, left(text, 60), coalesce(reason, 'more values than cachetag.capture_keys, or not known'))
  FROM fineness.bound WHERE is_bound AND NOT is_fine ORDER BY id;
SELECT format('%-10s %s of %s SELECTs cacheable (%s %%); %s of %s reads with an equality on a tracked column finer than the family (%s %%)',
              coalesce(part, 'all'), cacheable, selects, round(100.0 * cacheable / selects, 1), fine, bound, round(100.0 * fine / nullif(bound, 0), 1))
  FROM (SELECT q.part, count(*) AS selects, count(*) FILTER (WHERE r.cacheable) AS cacheable,
               (SELECT count(*) FILTER (WHERE is_fine) FROM fineness.bound b WHERE is_bound AND (b.part = q.part OR q.part IS NULL)) AS fine,
               (SELECT count(*) FROM fineness.bound b WHERE is_bound AND (b.part = q.part OR q.part IS NULL)) AS bound
          FROM fineness.query q JOIN fineness.result r ON r.query = q.id GROUP BY ROLLUP (q.part)) AS shares
 ORDER BY part NULLS LAST;
