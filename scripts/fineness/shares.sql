-- The shares, of each part and of all.
SELECT format('%-10s %s of %s SELECTs cacheable (%s %%); %s of %s reads with an equality on a tracked column finer than the family (%s %%)',
              coalesce(part, 'all'), cacheable, selects, round(100.0 * cacheable / selects, 1), fine, bound, round(100.0 * fine / nullif(bound, 0), 1))
  FROM (SELECT q.part, count(*) AS selects, count(*) FILTER (WHERE r.cacheable) AS cacheable,
               (SELECT count(*) FILTER (WHERE is_fine) FROM fineness.bound b WHERE is_bound AND (b.part = q.part OR q.part IS NULL)) AS fine,
               (SELECT count(*) FROM fineness.bound b WHERE is_bound AND (b.part = q.part OR q.part IS NULL)) AS bound
          FROM fineness.query q JOIN fineness.result r ON r.query = q.id GROUP BY ROLLUP (q.part) HAVING q.part IS NOT NULL OR count(DISTINCT q.part) > 1) AS shares
 ORDER BY part NULLS LAST;
