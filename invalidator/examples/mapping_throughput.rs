//! How many changed rows a second the mapping takes: `cargo run --release -p cachetag-invalidator --example mapping_throughput`.

use std::time::Instant;

use cachetag_invalidator::mapping::{
    Column, Limits, Mapper, Metadata, MetadataTable, OldRow, Outcome, Relation, ReplicaIdentity, Value,
};

const ROWS: usize = 1_000_000;
const TABLE: u32 = 16_384;

fn main() {
    // Rows of a transaction, and how many different ids it has.
    for (rows, ids) in [(1, 100_000), (100, 100_000), (10_000, 100), (10_000, 9_000), (100_000, 100_000)] {
        let mut mapper = mapper();
        let texts: Vec<(String, String)> = (0..ids).map(|id| (id.to_string(), (id % 97).to_string())).collect();
        let mut bumps = 0;
        let start = Instant::now();
        for row in 0..ROWS {
            if row % rows == 0 {
                mapper.begin();
            }
            let (id, category) = &texts[row % ids];
            let old = [Value::Text(id.as_bytes()), Value::Text(category.as_bytes()), Value::Text(b"9.99")];
            let new = [Value::Text(id.as_bytes()), Value::Text(category.as_bytes()), Value::Text(b"8.99")];
            let outcome = mapper.update(TABLE, OldRow::Full(old.as_slice()), new.as_slice());
            assert_eq!(outcome, Ok(Outcome::Mapped));
            if (row + 1) % rows == 0 {
                bumps += mapper.commit().hard.len();
            }
        }
        let rate = ROWS as f64 / start.elapsed().as_secs_f64();
        println!("{rows:>7} rows a transaction, {ids:>7} ids: {rate:>10.0} rows/s, {bumps} bumps");
    }
}

/// Two rules and a few edges over `products(id, category, price)`.
fn mapper() -> Mapper {
    let mut metadata = Metadata::default();
    let mut add = |table: MetadataTable, row: &[(&str, &str)]| {
        let value = |name: &str| row.iter().find(|(column, _)| *column == name).map(|(_, text)| *text);
        if let Err(error) = metadata.add(table, value) {
            panic!("{error}");
        }
    };
    let table = TABLE.to_string();
    for (id, template) in [("1", "product:{id}"), ("2", "category:{category}")] {
        let rule = [("id", id), ("relation", &table), ("template", template), ("soft", "f"), ("state", "ok")];
        add(MetadataTable::Rule, &rule);
        add(MetadataTable::Binding, &[("id", id), ("rule_id", id), ("relation", &table)]);
    }
    for (id, parent, child) in [("1", "category:7", "home"), ("2", "home", "feed"), ("3", "category:*", "menu")] {
        add(MetadataTable::Dependency, &[("id", id), ("parent", parent), ("child", child), ("soft", "f")]);
    }
    let mut mapper = Mapper::load(metadata, Limits::default());
    let column = |name: &str| Column { name: name.into(), type_oid: 25, is_key: true };
    mapper.relation(Relation {
        oid: TABLE,
        namespace: "public".into(),
        name: "products".into(),
        identity: ReplicaIdentity::Full,
        columns: ["id", "category", "price"].map(column).into(),
    });
    mapper
}
