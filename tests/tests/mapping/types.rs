//! Every type in a template: what `tags_of` computes in any session is what the daemon bumps.

use crate::bumps::{Tags, bumped_since, bumps, log_end, stack, tags};

/// Types of our own.
const OWN: &str = "
    CREATE SCHEMA odd;
    CREATE TYPE odd.mood AS ENUM ('happy', 'so: sad', 'größer');
    CREATE DOMAIN odd.percent AS numeric(5, 2) CHECK (VALUE >= 0);
    CREATE TYPE odd.pair AS (at timestamptz, amount float8, what text);
    CREATE TYPE odd.floats AS RANGE (subtype = float8);
    CREATE TABLE odd.here (i int);
    CREATE EXTENSION IF NOT EXISTS hstore;";

/// Session settings under which text output differs the most from the usual.
const ODD_SETTINGS: &str = "
    SET datestyle = 'German'; SET timezone = 'Asia/Kolkata'; SET intervalstyle = 'sql_standard'; SET extra_float_digits = -3;
    SET bytea_output = 'escape'; SET lc_monetary = 'en_US.UTF-8'; SET lc_numeric = 'C'; SET lc_time = 'C';
    SET search_path = odd, public; SET quote_all_identifiers = on; SET xmloption = document; SET standard_conforming_strings = on;";

/// Type, and expressions of that type.
const TYPES: &[(&str, &[&str])] = &[
    ("smallint", &["-32768"]),
    ("int", &["0", "-7"]),
    ("bigint", &["9223372036854775807"]),
    ("numeric", &["1.50", "'NaN'", "'-Infinity'", "1e30"]),
    ("numeric(6,2)", &["1.5"]),
    ("real", &["0.1", "1e-30", "'Infinity'"]),
    ("double precision", &["0.1::float8 + 0.2", "1e300", "'NaN'", "'-0'"]),
    ("money", &["1234.5::numeric::money", "(-0.01)::numeric::money"]),
    ("text", &["''", "'a:b %*{}'", "E'line\\nfeed\\ttab'", "'größer 你好 🦀'"]),
    ("varchar(10)", &["'abc'"]),
    ("char(5)", &["'ab'"]),
    ("\"char\"", &["'x'"]),
    ("name", &["'Some name'"]),
    ("bytea", &[r"'\x00ff3a61'"]),
    ("boolean", &["true", "false"]),
    ("date", &["'2026-11-23'", "'infinity'", "'0044-03-15 BC'"]),
    ("time", &["'13:14:15.123456'"]),
    ("timetz", &["'13:14:15.5+05:30'"]),
    ("timestamp", &["'2026-11-23 13:14:15.1'"]),
    ("timestamptz", &["'2026-11-23 13:14:15.1+01'", "'1890-01-01 00:00:00+00'", "'-infinity'"]),
    ("interval", &["'1 year 2 mons -3 days 04:05:06.7'", "'-1 day'", "'0'"]),
    ("uuid", &["'A0EEBC99-9c0b-4ef8-bb6d-6bb9bd380a11'"]),
    ("json", &["'{\"b\": 1,  \"a\":[ ]}'"]),
    ("jsonb", &["'{\"b\": 1,  \"a\":[1.50, null]}'"]),
    ("jsonpath", &["'$.a[*] ? (@ > 1)'"]),
    ("xml", &["xmlparse(CONTENT '<a b=\"c\">x</a>')"]),
    ("inet", &["'10.0.0.1/8'", "'::1'"]),
    ("cidr", &["'10.0.0.0/8'"]),
    ("macaddr", &["'08-00-2B-01-02-03'"]),
    ("macaddr8", &["'08:00:2b:01:02:03:04:05'"]),
    ("bit(5)", &["B'10110'"]),
    ("varbit", &["B'101'"]),
    ("point", &["'(0.1,2)'"]),
    ("line", &["'{1,-1,0.3}'"]),
    ("lseg", &["'[(0,0),(1.5,1)]'"]),
    ("box", &["'(1,1),(0,0)'"]),
    ("path", &["'((0,0),(1,1))'", "'[(0,0),(1,1)]'"]),
    ("polygon", &["'((0,0),(1,0.1),(1,1))'"]),
    ("circle", &["'<(0,0),0.1>'"]),
    ("tsvector", &["to_tsvector('simple', 'the quick: ''brown'' fox')"]),
    ("tsquery", &["to_tsquery('simple', 'quick & !fox')"]),
    ("pg_lsn", &["'16/B374D848'"]),
    ("oid", &["4294967295::oid"]),
    ("xid", &["'123'"]),
    ("xid8", &["'123'"]),
    ("cid", &["'123'"]),
    ("tid", &["'(1,2)'"]),
    ("pg_snapshot", &["'10:20:10,14,15'"]),
    ("int4range", &["'[1,5]'"]),
    ("numrange", &["'(1.50,)'"]),
    ("daterange", &["'[2026-01-02,2026-03-04]'"]),
    ("tsrange", &["'[2026-01-02 03:04,2026-03-04 05:06)'"]),
    ("tstzrange", &["'[2026-01-02 03:04+01,)'"]),
    ("int8multirange", &["'{[1,3),[5,9)}'"]),
    ("datemultirange", &["'{[2026-01-02,2026-03-04)}'"]),
    ("int[]", &["'{1,NULL,3}'", "'{}'", "'[2:3]={1,2}'", "'{{1,2},{3,4}}'"]),
    ("text[]", &["ARRAY['a b', '', 'NULL', 'q\"x', '{}']"]),
    ("timestamptz[]", &["ARRAY['2026-11-23 13:14:15+01'::timestamptz]"]),
    ("float8[]", &["ARRAY[0.1::float8 + 0.2]"]),
    ("bytea[]", &[r"ARRAY['\x00ff'::bytea]"]),
    ("odd.mood", &["'so: sad'", "'größer'"]),
    ("odd.mood[]", &["'{happy,\"so: sad\"}'"]),
    ("odd.percent", &["12.5"]),
    ("odd.pair", &["ROW('2026-11-23 13:14:15+01', 0.1::float8 + 0.2, 'a,b')::odd.pair"]),
    ("odd.pair[]", &["ARRAY[ROW('2026-11-23 13:14:15+01', 0.1, NULL)::odd.pair]"]),
    ("odd.floats", &["odd.floats(0.1::float8 + 0.2, 1)"]),
    ("odd.here", &["ROW(7)::odd.here"]),
    ("hstore", &["'a=>1, b=>NULL'"]),
];

#[tokio::test]
async fn tags_computed_in_any_session_are_the_tags_that_the_daemon_bumps() {
    let mut schema = OWN.to_owned();
    let (mut fill, mut compute) = (String::new(), Vec::new());
    for (number, (name, values)) in TYPES.iter().enumerate() {
        schema += &format!(
            "CREATE TABLE type_{number} (id int PRIMARY KEY, v {name});
             SELECT cachetag.track('type_{number}', ARRAY['v{number}:{{v}}'], identity => 'full');\n"
        );
        for (row, value) in values.iter().enumerate() {
            fill += &format!("INSERT INTO public.type_{number} VALUES ({row}, {value});\n");
        }
        compute.push(format!(
            "SELECT {number}, unnest(cachetag.tags_of('public.type_{number}', t)) FROM public.type_{number} t"
        ));
    }
    let stack = stack(&schema).await;

    let session = stack.connect().await;
    let odd: Vec<&str> = ODD_SETTINGS.split(';').map(str::trim).filter(|setting| !setting.is_empty()).collect();
    for setting in odd {
        if let Err(error) = session.batch_execute(setting).await {
            // A locale that this machine does not have.
            assert!(setting.contains("lc_monetary"), "{setting}: {error:?}");
        }
    }
    stack.wait_caught_up_now().await;
    let place = log_end(&stack).await;
    // Dates are written as the session writes them; what counts is what they mean.
    let fill = format!("BEGIN; SET LOCAL datestyle = 'ISO, YMD'; {fill} COMMIT");
    session.batch_execute(&fill).await.unwrap_or_else(|error| panic!("{error:?}"));
    stack.wait_caught_up_now().await;
    let inserted = bumped_since(&stack, &place).await;

    let computed = session.query(&compute.join(" UNION ALL "), &[]).await.unwrap_or_else(|error| panic!("{error:?}"));
    let mut expected = Tags::new();
    let mut differing = Vec::new();
    for row in &computed {
        let (number, tag): (i32, String) = (row.get(0), row.get(1));
        if !inserted.contains(&tag) {
            let bumped: Vec<_> = inserted.iter().filter(|t| t.starts_with(&format!("v{number}:"))).collect();
            differing.push(format!("{}: tags_of says {tag}, the daemon bumped {bumped:?}", TYPES[number as usize].0));
        }
        expected.insert(tag);
    }
    assert_eq!(differing, Vec::<String>::new());
    assert_eq!(inserted, expected);
    assert_eq!(computed.len(), TYPES.iter().map(|(_, values)| values.len()).sum::<usize>(), "a tag for each");

    // The old row is written by other code of the server than the new one.
    let place = log_end(&stack).await;
    let deletes: Vec<String> = (0..TYPES.len()).map(|number| format!("DELETE FROM public.type_{number}")).collect();
    session.batch_execute(&deletes.join(";")).await.expect("deletes");
    stack.wait_caught_up_now().await;
    assert_eq!(bumped_since(&stack, &place).await, expected);
}

#[tokio::test]
async fn tag_agg_of_a_query_is_what_falls_when_one_of_its_rows_changes() {
    let stack = stack(
        "CREATE TABLE t (id int PRIMARY KEY, at timestamptz, grp text);
         INSERT INTO t VALUES (1, '2026-01-01 00:00+00', 'a'), (2, '2026-01-02 00:00+00', 'a'), (3, NULL, 'b');
         SELECT cachetag.track('t', ARRAY['t:{id}', 'at:{at}', 'g:{grp}'], identity => 'full');",
    )
    .await;
    let query = "SET timezone = 'Asia/Tokyo'; SET datestyle = 'SQL, DMY';
                 SELECT array_to_string(cachetag.tag_agg(cachetag.tags_of('t', t)), '|') FROM t WHERE grp = 'a'";
    let found = stack.value(query).await;
    let found: Vec<&str> = found.split('|').collect();
    stack.fill("query", "1,2", &found).await;
    assert_eq!(bumps(&stack, "UPDATE t SET grp = 'c' WHERE id = 3").await, tags(["t:3", "g:b", "g:c"]));
    assert!(stack.get("query").await.is_hit());
    assert_eq!(
        bumps(&stack, "UPDATE t SET at = NULL WHERE id = 2").await,
        tags(["t:2", "g:a", "at:2026-01-02%2000%3A00%3A00+00"])
    );
    assert!(stack.get("query").await.is_miss());
}
