-- The queries, and what capture says of each and of each read of a relation in it.
SET client_min_messages = warning;
CREATE SCHEMA fineness;
CREATE TABLE fineness.query (id int GENERATED ALWAYS AS IDENTITY, part text, text text);
CREATE TABLE fineness.result (query int, cacheable boolean, reasons text[]);
CREATE TABLE fineness.read (query int, relation regclass, tags text[], reason text);
-- A read has an equality on a tracked column if it has tags of values (and so no reason), or if its reason names a bound column that some rule of the
-- table has in its template.
CREATE VIEW fineness.bound AS
    SELECT q.part, q.id, q.text, r.relation, r.tags, r.reason,
           r.reason IS NULL AND NOT r.tags::text ~ ':\*' AS is_fine,
           r.reason IS NULL OR EXISTS (
               SELECT FROM regexp_matches(r.reason, '\(([^)]*)\)') AS m(names), unnest(string_to_array(m.names[1], ', ')) AS n(name)
                WHERE EXISTS (SELECT FROM cachetag.rule k JOIN cachetag.binding b ON b.rule_id = k.id
                               WHERE b.relation = r.relation AND strpos(k.template, '{' || n.name || '}') > 0)) AS is_bound
      FROM fineness.read r JOIN fineness.query q ON q.id = r.query;
