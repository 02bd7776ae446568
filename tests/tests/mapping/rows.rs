//! Which tags the change of a row touches.

use crate::bumps::{bumps, stack, tags};

const PRODUCTS: &str = "
    CREATE TABLE products (id int PRIMARY KEY, category_id int, price int, note text);
    INSERT INTO products VALUES (1, 10, 5, 'n'), (2, 10, 5, 'n'), (3, 20, 5, 'n'), (4, NULL, 5, 'n');
    SELECT cachetag.track('products', ARRAY['product:{id}', 'category:{category_id}'], identity => 'full');";

#[tokio::test]
async fn a_row_moved_between_two_categories_bumps_both() {
    let stack = stack(PRODUCTS).await;
    stack.fill("c10", "1,2", &["category:10"]).await;
    stack.fill("c20", "3", &["category:20"]).await;
    stack.fill("c30", "", &["category:30"]).await;
    let found = bumps(&stack, "UPDATE products SET category_id = 20 WHERE id = 1").await;
    assert_eq!(found, tags(["product:1", "category:10", "category:20"]));
    assert!(stack.get("c10").await.is_miss());
    assert!(stack.get("c20").await.is_miss());
    assert!(stack.get("c30").await.is_hit(), "it has nothing to do with it");
}

#[tokio::test]
async fn old_and_new_values_are_bumped_and_null_is_no_tag() {
    let stack = stack(PRODUCTS).await;
    let cases = [
        ("INSERT INTO products VALUES (5, 30)", tags(["product:5", "category:30"])),
        ("INSERT INTO products VALUES (6, NULL)", tags(["product:6"])),
        ("UPDATE products SET category_id = 40 WHERE id = 4", tags(["product:4", "category:40"])),
        ("UPDATE products SET category_id = NULL WHERE id = 4", tags(["product:4", "category:40"])),
        ("UPDATE products SET id = 7 WHERE id = 5", tags(["product:5", "product:7", "category:30"])),
        ("DELETE FROM products WHERE id = 7", tags(["product:7", "category:30"])),
        ("TRUNCATE products", tags(["product:*", "category:*"])),
        ("UPDATE products SET price = 1 WHERE false", tags([])),
    ];
    for (sql, expected) in cases {
        assert_eq!(bumps(&stack, sql).await, expected, "{sql}");
    }
}

#[tokio::test]
async fn copy_merge_on_conflict_and_returning_are_changes_like_any_other() {
    let stack = stack(PRODUCTS).await;
    let merge = "MERGE INTO products p USING (VALUES (1, 11), (8, 80)) AS new (id, category_id) ON p.id = new.id
                 WHEN MATCHED THEN UPDATE SET category_id = new.category_id
                 WHEN NOT MATCHED THEN INSERT (id, category_id) VALUES (new.id, new.category_id)";
    assert_eq!(
        bumps(&stack, merge).await,
        tags(["product:1", "product:8", "category:10", "category:11", "category:80"])
    );
    let upsert = "INSERT INTO products VALUES (2, 12), (9, 90) ON CONFLICT (id) DO UPDATE SET category_id = excluded.category_id";
    assert_eq!(
        bumps(&stack, upsert).await,
        tags(["product:2", "product:9", "category:10", "category:12", "category:90"])
    );
    let nothing = "INSERT INTO products VALUES (2, 99) ON CONFLICT DO NOTHING";
    assert_eq!(bumps(&stack, nothing).await, tags([]));
    let with = "WITH gone AS (DELETE FROM products WHERE id = 3 RETURNING *) INSERT INTO products SELECT 33, category_id + 1 FROM gone";
    assert_eq!(bumps(&stack, with).await, tags(["product:3", "product:33", "category:20", "category:21"]));
    let copy = "COPY products (id, category_id) FROM PROGRAM 'printf ''70\\t7\\n71\\t7\\n'''";
    assert_eq!(bumps(&stack, copy).await, tags(["product:70", "product:71", "category:7"]));
}

#[tokio::test]
async fn cascades_and_triggers_are_seen() {
    let stack = stack(
        "CREATE TABLE categories (id int PRIMARY KEY);
         CREATE TABLE products (id int PRIMARY KEY, category_id int REFERENCES categories ON DELETE CASCADE ON UPDATE CASCADE);
         CREATE TABLE audit (no int PRIMARY KEY);
         INSERT INTO categories VALUES (1), (2);
         INSERT INTO products VALUES (10, 1), (11, 1), (20, 2);
         CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN INSERT INTO audit VALUES (OLD.id); RETURN OLD; END';
         CREATE TRIGGER note AFTER DELETE ON categories FOR EACH ROW EXECUTE FUNCTION note();
         SELECT cachetag.track('products', ARRAY['product:{id}', 'category:{category_id}'], identity => 'full');
         SELECT cachetag.track('audit', 'audit:{no}');",
    )
    .await;
    let deleted = bumps(&stack, "DELETE FROM categories WHERE id = 1").await;
    assert_eq!(deleted, tags(["product:10", "product:11", "category:1", "audit:1"]));
    let renamed = bumps(&stack, "UPDATE categories SET id = 3 WHERE id = 2").await;
    assert_eq!(renamed, tags(["product:20", "category:2", "category:3"]));
}

#[tokio::test]
async fn composite_keys_and_foreign_names_are_tags_too() {
    let stack = stack(
        r#"CREATE SCHEMA "Лавка";
           CREATE TABLE "Лавка"."Order ""lines""" (shop text, no int, "Größe {cm}" text, PRIMARY KEY (shop, no));
           SELECT cachetag.track('"Лавка"."Order ""lines"""', ARRAY['line:{shop}:{no}', 'size:{Größe {cm}}}'], identity => 'full');"#,
    )
    .await;
    let insert = r#"INSERT INTO "Лавка"."Order ""lines""" VALUES ('a:b %', 1, 'größer*')"#;
    assert_eq!(bumps(&stack, insert).await, tags(["line:a%3Ab%20%25:1", "size:größer%2A"]));
    let computed = stack.value(r#"SELECT array_to_string(cachetag.tags_of('"Лавка"."Order ""lines"""', t), '|') FROM "Лавка"."Order ""lines""" t"#).await;
    assert_eq!(computed, "line:a%3Ab%20%25:1|size:größer%2A");
    let update = r#"UPDATE "Лавка"."Order ""lines""" SET shop = ''"#;
    assert_eq!(bumps(&stack, update).await, tags(["line:a%3Ab%20%25:1", "line::1", "size:größer%2A"]));
}

#[tokio::test]
async fn too_long_a_tag_bumps_the_family() {
    let stack = stack(
        "CREATE TABLE pages (path text); SELECT cachetag.track('pages', ARRAY['page:{path}'], identity => 'full');",
    )
    .await;
    let found = bumps(&stack, "INSERT INTO pages VALUES (repeat('x', 507)), (repeat('y', 508))").await;
    assert_eq!(found, tags(["page:*"]), "the family covers the member that would have fitted");
    assert_eq!(
        stack
            .value("SELECT array_to_string(cachetag.tags_of('pages', p), '|') FROM pages p WHERE path LIKE 'y%'")
            .await,
        "page:*"
    );
}

#[tokio::test]
async fn the_primary_key_suffices_where_the_templates_need_no_more() {
    let stack = stack(
        "CREATE TABLE a (id int PRIMARY KEY, grp int); INSERT INTO a VALUES (1, 1);
         CREATE TABLE b (id int PRIMARY KEY, grp int NOT NULL, UNIQUE (id, grp)); INSERT INTO b VALUES (1, 1);
         SELECT cachetag.track('a', ARRAY['a:{id}', 'ag:{grp}'], identity => 'family');
         SELECT cachetag.track('b', ARRAY['b:{id}', 'bg:{grp}'], identity => 'index');",
    )
    .await;
    assert_eq!(stack.value("SELECT relreplident FROM pg_class WHERE oid = 'a'::regclass").await, "d");
    assert_eq!(stack.value("SELECT relreplident FROM pg_class WHERE oid = 'b'::regclass").await, "i");
    assert_eq!(bumps(&stack, "INSERT INTO a VALUES (2, 2)").await, tags(["a:2", "ag:2"]));
    assert_eq!(bumps(&stack, "UPDATE a SET grp = 3 WHERE id = 2").await, tags(["a:2", "ag:*"]));
    assert_eq!(bumps(&stack, "DELETE FROM a WHERE id = 2").await, tags(["a:2", "ag:*"]));
    assert_eq!(bumps(&stack, "UPDATE b SET grp = 3").await, tags(["b:1", "bg:1", "bg:3"]));
    assert_eq!(bumps(&stack, "DELETE FROM b").await, tags(["b:1", "bg:3"]));
}

#[tokio::test]
async fn an_unchanged_toast_value_is_precise_under_full_and_the_family_otherwise() {
    // A row is taken apart when it is longer than two kilobytes, and `pad` has to stay in line.
    let value = "SELECT string_agg(md5(i::text), '') FROM generate_series(1, 12) i";
    let table = "(id int PRIMARY KEY, n int, body text, pad text)";
    let stack = stack(&format!(
        "CREATE TABLE f {table}; ALTER TABLE f ALTER body SET STORAGE EXTERNAL, ALTER pad SET STORAGE PLAIN;
         CREATE TABLE p {table}; ALTER TABLE p ALTER body SET STORAGE EXTERNAL, ALTER pad SET STORAGE PLAIN;
         INSERT INTO f VALUES (1, 0, ({value}), repeat('x', 1900)); INSERT INTO p SELECT * FROM f;
         SELECT cachetag.track('f', ARRAY['f:{{body}}'], identity => 'full');
         SELECT cachetag.track('p', ARRAY['p:{{body}}'], identity => 'family');"
    ))
    .await;
    let is_toasted = "SELECT pg_relation_size(reltoastrelid) > 0 FROM pg_class WHERE oid = 'p'::regclass";
    assert_eq!(stack.value(is_toasted).await, "t");
    let body = stack.value(value).await;
    assert_eq!(bumps(&stack, "UPDATE f SET n = 1").await, tags([&format!("f:{body}")]));
    assert_eq!(bumps(&stack, "UPDATE p SET n = 1").await, tags(["p:*"]));
    assert_eq!(bumps(&stack, "UPDATE f SET body = 'short'").await, tags([&format!("f:{body}"), "f:short"]));
    assert_eq!(bumps(&stack, "UPDATE p SET body = 'short'").await, tags(["p:*"]));
}
