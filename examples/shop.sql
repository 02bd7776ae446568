-- The shop that the examples cache: `cachetag dev --load examples/shop.sql` loads it. Nothing in it but the last two lines knows of caches.

CREATE TABLE products (
    id          int PRIMARY KEY,
    category_id int NOT NULL,
    name        text NOT NULL,
    price       numeric(8, 2) NOT NULL
);
INSERT INTO products SELECT id, 1 + id % 10, 'Product ' || id, 10 + id FROM generate_series(1, 100) AS id;

-- A change of a row touches its page and the list of its category; a product that moves touches both lists, so PostgreSQL logs whole old rows.
SELECT cachetag.track('products', ARRAY['product:{id}', 'category:{category_id}'], identity => 'full');
