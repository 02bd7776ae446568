-- The demo shop: what its pages would ask. `demo/shop.sql` was loaded.
INSERT INTO fineness.query (part, text) VALUES
    ('demo shop', 'SELECT * FROM products WHERE id = 42'),
    ('demo shop', 'SELECT p.name, c.name FROM products p JOIN categories c ON c.id = p.category_id WHERE p.id = 42'),
    ('demo shop', 'SELECT id, name, price FROM products WHERE category_id = 7 ORDER BY price LIMIT 20'),
    ('demo shop', 'SELECT c.name, count(*), min(p.price) FROM categories c JOIN products p ON p.category_id = c.id WHERE c.id = 3 GROUP BY 1'),
    ('demo shop', 'SELECT stars, text FROM reviews WHERE product_id = 42 ORDER BY id DESC LIMIT 10'),
    ('demo shop', 'SELECT avg(stars), count(*) FROM reviews WHERE product_id = 42'),
    ('demo shop', 'SELECT p.id, p.name, (SELECT avg(stars) FROM reviews r WHERE r.product_id = p.id) FROM products p WHERE p.id IN (1, 2, 3)'),
    ('demo shop', 'SELECT o.ordered_on, p.name FROM orders o JOIN products p ON p.id = o.product_id WHERE o.customer_id = 5 ORDER BY 1 DESC LIMIT 5'),
    ('demo shop', 'SELECT sum(quantity) FROM orders WHERE customer_id = 5 AND ordered_on >= ''2025-01-01'''),
    ('demo shop', 'SELECT id, name FROM categories ORDER BY name'),
    ('demo shop', 'SELECT name FROM categories WHERE id = ANY (''{1,3}'')'),
    ('demo shop', 'SELECT EXISTS (SELECT FROM orders WHERE customer_id = 5 AND product_id = 42)'),
    ('demo shop', 'SELECT product_id, count(*) FROM orders GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT 10');
