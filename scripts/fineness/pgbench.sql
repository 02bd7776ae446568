-- What pgbench reads, its writes' reads included.
CREATE TABLE pgbench_branches (bid int PRIMARY KEY, bbalance int, filler char(88));
CREATE TABLE pgbench_tellers (tid int PRIMARY KEY, bid int, tbalance int, filler char(84));
CREATE TABLE pgbench_accounts (aid int PRIMARY KEY, bid int, abalance int, filler char(84));
CREATE TABLE pgbench_history (tid int, bid int, aid int, delta int, mtime timestamp, filler char(22));
INSERT INTO pgbench_branches SELECT b, 0 FROM generate_series(1, 2) b;
INSERT INTO pgbench_tellers SELECT t, 1 + t % 2, 0 FROM generate_series(1, 20) t;
INSERT INTO pgbench_accounts SELECT a, 1 + a % 2, 0 FROM generate_series(1, 20000) a;
INSERT INTO pgbench_history SELECT 1 + h % 20, 1 + h % 2, h, h, '2026-01-01' FROM generate_series(1, 200) h;
ANALYZE;
SELECT cachetag.track('pgbench_branches', 'branch:{bid}');
SELECT cachetag.track('pgbench_tellers', 'teller:{tid}');
SELECT cachetag.track('pgbench_accounts', 'account:{aid}');
SELECT cachetag.track('pgbench_history', ARRAY['history:{aid}', 'history_all'], identity => 'full');
INSERT INTO fineness.query (part, text) VALUES
    ('pgbench', 'SELECT abalance FROM pgbench_accounts WHERE aid = 42'),
    ('pgbench', 'SELECT tbalance FROM pgbench_tellers WHERE tid = 7'),
    ('pgbench', 'SELECT bbalance FROM pgbench_branches WHERE bid = 1'),
    ('pgbench', 'SELECT sum(delta) FROM pgbench_history WHERE aid = 42'),
    ('pgbench', 'SELECT a.abalance, b.bbalance FROM pgbench_accounts a JOIN pgbench_branches b USING (bid) WHERE a.aid = 42'),
    ('pgbench', 'SELECT abalance FROM pgbench_accounts WHERE aid IN (1, 2, 3)'),
    ('pgbench', 'SELECT sum(abalance) FROM pgbench_accounts');
