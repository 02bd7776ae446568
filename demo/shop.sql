-- A shop of about 120,000 rows, and what its cached values depend on.
-- `cachetag dev --load demo/shop.sql` runs this once, in the database of the private server.

BEGIN;
SELECT setseed(0.42);

CREATE TABLE categories (
    id   int PRIMARY KEY,
    name text NOT NULL
);

CREATE TABLE products (
    id          int PRIMARY KEY,
    category_id int NOT NULL REFERENCES categories,
    name        text NOT NULL,
    price       numeric(8, 2) NOT NULL,
    stock       int NOT NULL
);
CREATE INDEX ON products (category_id);

CREATE TABLE reviews (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    product_id int NOT NULL REFERENCES products,
    stars      int NOT NULL CHECK (stars BETWEEN 1 AND 5),
    text       text NOT NULL
);
CREATE INDEX ON reviews (product_id);

CREATE TABLE customers (
    id   int PRIMARY KEY,
    name text NOT NULL
);

CREATE TABLE orders (
    id          bigint GENERATED ALWAYS AS IDENTITY,
    ordered_on  date NOT NULL,
    customer_id int NOT NULL REFERENCES customers,
    product_id  int NOT NULL REFERENCES products,
    quantity    int NOT NULL
) PARTITION BY RANGE (ordered_on);
CREATE TABLE orders_2024 PARTITION OF orders FOR VALUES FROM ('2024-01-01') TO ('2025-01-01');
CREATE TABLE orders_2025 PARTITION OF orders FOR VALUES FROM ('2025-01-01') TO ('2026-01-01');
CREATE INDEX ON orders (customer_id);

INSERT INTO categories
SELECT ordinality, name
FROM unnest(ARRAY[
    'Kitchen', 'Garden', 'Office', 'Bathroom', 'Lighting', 'Bedding', 'Storage', 'Tools', 'Toys', 'Sports',
    'Camping', 'Cycling', 'Music', 'Photo', 'Audio', 'Luggage', 'Watches', 'Jewellery', 'Stationery', 'Books',
    'Coffee', 'Tea', 'Baking', 'Spices', 'Pets', 'Baby', 'Shoes', 'Outdoor', 'Winter', 'Beach'
]) WITH ORDINALITY AS names (name, ordinality);

INSERT INTO products
SELECT
    id,
    1 + id % 30,
    (ARRAY['Sturdy', 'Slim', 'Classic', 'Folding', 'Travel', 'Compact', 'Quiet', 'Bright', 'Soft', 'Heavy'])[1 + id % 10] || ' '
    || (ARRAY['oak', 'steel', 'linen', 'copper', 'glass', 'leather', 'bamboo', 'cotton', 'ceramic', 'wool', 'cork'])[1 + id / 10 % 11] || ' '
    || (ARRAY['lamp', 'box', 'chair', 'jug', 'knife', 'bag', 'tray', 'clock', 'frame', 'bowl', 'stand', 'rack', 'cup'])[1 + id / 110 % 13]
    || ' ' || 100 + id / 1430,
    round((5 + 95 * random() ^ 2)::numeric, 2),
    (random() * 200)::int
FROM generate_series(1, 20000) AS id;

INSERT INTO reviews (product_id, stars, text)
SELECT
    1 + (random() ^ 2 * 19999)::int,
    1 + (random() ^ 0.5 * 4)::int,
    (ARRAY['Does what it should.', 'Better than expected.', 'Arrived late, works well.', 'Would buy it again.', 'Not for me.',
           'A present; much liked.', 'Good value.', 'Smaller than it looks.'])[1 + (random() * 7)::int]
FROM generate_series(1, 60000);

INSERT INTO customers
SELECT
    id,
    (ARRAY['Ada', 'Bruno', 'Chiara', 'Dario', 'Elif', 'Femi', 'Greta', 'Hugo', 'Ines', 'Jun', 'Kofi', 'Lena', 'Mira', 'Nils'])[1 + id % 14] || ' '
    || (ARRAY['Abbot', 'Berg', 'Costa', 'Diaz', 'Eriksen', 'Fontaine', 'Garcia', 'Huber', 'Ito', 'Jansen', 'Kaya'])[1 + id / 14 % 11]
FROM generate_series(1, 5000) AS id;

INSERT INTO orders (ordered_on, customer_id, product_id, quantity)
SELECT
    date '2024-01-01' + (random() * 730)::int,
    1 + n % 5000,
    1 + (random() * 19999)::int,
    1 + (random() ^ 3 * 4)::int
FROM generate_series(1, 40000) AS n;

-- The demo looks at these.
UPDATE products SET name = 'Classic copper jug 100', price = 39.00, category_id = 1 WHERE id = 42;
UPDATE products SET name = 'Folding oak chair 100', price = 74.50, category_id = 2 WHERE id = 43;

COMMIT;

ANALYZE;

-- Rules: a change of this row touches these tags, those of its old values (the category that a product leaves) and those of its new ones.
-- identity => 'full': PostgreSQL shall write whole old rows to its log.
SELECT cachetag.track('categories', 'category:{id}');
SELECT cachetag.track('products', ARRAY['product:{id}', 'category:{category_id}'], identity => 'full');
SELECT cachetag.track('reviews', ARRAY['product:{product_id}'], identity => 'full');
SELECT cachetag.track('orders', ARRAY['customer:{customer_id}'], identity => 'full');

-- Dependencies: the home page shows two categories.
SELECT cachetag.depend('homepage', 'category:1', 'category:3');
