-- When the parent changes, so does the child.
SELECT cachetag.depend('homepage', 'product:*', 'banner'), cachetag.depend('site', 'homepage'), cachetag.depend('feed', ARRAY['homepage'], max_depth => 1, soft => true);
SELECT cachetag.depend('homepage', 'banner'), cachetag.depend('feed', 'homepage', max_depth => 1, soft => false);
SELECT parent, child, soft, max_depth, operations FROM cachetag.dependency ORDER BY id;
SELECT * FROM cachetag.descendants('product:42');
SELECT * FROM cachetag.descendants('product:42', 1);
SELECT * FROM cachetag.descendants('homepage');
SELECT * FROM cachetag.descendants('unknown');
SELECT * FROM cachetag.ancestors('site');
SELECT * FROM cachetag.ancestors('feed');
SELECT * FROM cachetag.ancestors('product:1');

-- A whole family on either side: it stands for its members, and they for it.
SELECT cachetag.depend('shelf:1', 'product:1'), cachetag.depend('shelf:2', 'product:2'), cachetag.depend('menu:*', 'shelf:1');
SELECT cachetag.depend('footer', 'menu:top'), cachetag.depend('all', 'product');
SELECT * FROM cachetag.descendants('product:*');
SELECT * FROM cachetag.descendants('product:1');
SELECT * FROM cachetag.ancestors('footer');
SELECT * FROM cachetag.ancestors('menu:anything');
SELECT * FROM cachetag.descendants('*', 1);
SELECT count(*) FROM cachetag.depend('*', 'panic');
SELECT * FROM cachetag.descendants('panic', 1);

-- Cycles end. The distance is the least.
TRUNCATE cachetag.dependency;
SELECT cachetag.depend('b', 'a'), cachetag.depend('c', 'b'), cachetag.depend('a', 'c'), cachetag.depend('c', 'a'), cachetag.depend('a', 'a');
SELECT * FROM cachetag.descendants('a');
SELECT * FROM cachetag.ancestors('a');
-- An edge is followed while its parent is nearer than max_depth.
TRUNCATE cachetag.dependency;
SELECT cachetag.depend('t1', 't0', max_depth => 1), cachetag.depend('t2', 't1', max_depth => 2), cachetag.depend('t3', 't2', max_depth => 2);
SELECT * FROM cachetag.descendants('t0');
SELECT * FROM cachetag.descendants('t1');
SELECT * FROM cachetag.ancestors('t3');
SELECT * FROM cachetag.ancestors('t2');
-- Soft, unless a way of hard edges leads there, if a longer one.
TRUNCATE cachetag.dependency;
SELECT cachetag.depend('x', 'root', soft => true), cachetag.depend('y', 'root'), cachetag.depend('x', 'y'), cachetag.depend('z', 'x'), cachetag.depend('s', 'root', soft => true), cachetag.depend('u', 's');
SELECT * FROM cachetag.descendants('root');
SELECT * FROM cachetag.ancestors('z');

-- Again with other options: the new ones.
SELECT cachetag.depend('s', 'root', soft => true, operations => '{delete,insert}', max_depth => 3), cachetag.depend('s', 'root', soft => true, operations => '{insert,delete}', max_depth => 3);
SELECT parent, child, soft, max_depth, operations FROM cachetag.dependency WHERE child = 's';
SELECT cachetag.undepend('x', 'y', 'nope'), cachetag.undepend('z'), cachetag.undepend('z');
SELECT parent, child FROM cachetag.dependency ORDER BY id;

-- What is not one says so.
SELECT cachetag.depend('a b', 'c');
SELECT cachetag.depend('a', 'c', 'd{');
SELECT cachetag.depend(NULL, 'c');
SELECT cachetag.depend('a', ARRAY['c', NULL]);
SELECT cachetag.depend('a', ARRAY[]::text[]);
SELECT cachetag.depend('a', 'c', max_depth => 0);
SELECT cachetag.depend('a', 'c', max_depth => NULL);
SELECT cachetag.depend('a', 'c', operations => '{merge}');
SELECT * FROM cachetag.descendants('a b');
SELECT * FROM cachetag.descendants('a', 0);
SELECT count(*) AS written_by_the_refused FROM cachetag.dependency WHERE child = 'a';
