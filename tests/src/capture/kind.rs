//! Column types, and literals of them: few, so that queries meet rows, and among them equal values with unequal texts.

use crate::Random;

/// A type as the grammar sees it.
#[derive(Debug)]
pub struct Kind {
    /// In a column's definition.
    pub name: &'static str,
    /// What values of it are joined and compared with.
    pub class: Class,
    /// Texts of values.
    pub literals: &'static [&'static str],
    /// Types with which it has an equality operator, beside its own; `literals` are texts of these, too.
    pub others: &'static [&'static str],
}

/// Values of one class can be compared with each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// Integers.
    Int,
    /// Strings.
    Text,
    /// Only with literals and itself.
    Other,
}

const INTS: &[&str] = &["0", "1", "2", "3", "4", "5"];
const TEXTS: &[&str] = &["a", "b", "A", "c:d", "e %*", "", "é"];

const fn kind(name: &'static str, literals: &'static [&'static str], others: &'static [&'static str]) -> Kind {
    Kind { name, class: Class::Other, literals, others }
}

/// The column types of the tables that are joined.
pub const INT4: &Kind =
    &Kind { name: "int4", class: Class::Int, literals: INTS, others: &["int8", "int2", "numeric", "float8"] };
/// See [`INT4`].
pub const INT2: &Kind = &Kind { name: "int2", class: Class::Int, literals: INTS, others: &["int8", "int4", "numeric"] };
/// See [`INT4`].
pub const INT8: &Kind = &Kind { name: "int8", class: Class::Int, literals: INTS, others: &["int4", "int2"] };
/// See [`INT4`].
pub const TEXT: &Kind = &Kind { name: "text", class: Class::Text, literals: TEXTS, others: &["varchar"] };
/// See [`INT4`].
pub const VARCHAR: &Kind = &Kind { name: "varchar(20)", class: Class::Text, literals: TEXTS, others: &["text"] };
/// Equal values of it have several texts.
pub const NUMERIC: &Kind = &kind("numeric", &["1", "1.0", "2", "2.50", "NaN", "3"], &["int4"]);
/// See [`INT4`].
pub const DATE: &Kind = &kind("date", &["2026-01-01", "2026-01-02", "infinity"], &["timestamp", "timestamptz"]);
/// See [`INT4`].
pub const MOOD: &Kind = &kind("mood", &["sad", "fair", "so happy"], &[]);

/// The columns of the table `kinds`, beside its key: every type that has an equality.
pub const KINDS: &[(&str, &Kind)] = &[
    ("c_int2", INT2),
    ("c_int4", INT4),
    ("c_int8", INT8),
    ("c_numeric", NUMERIC),
    ("c_scaled", &kind("numeric(9,3)", &["1", "1.0005", "2.5", "NaN"], &["int4", "numeric"])),
    ("c_float4", &kind("float4", &["0.1", "0", "-0", "NaN", "Infinity"], &["float8"])),
    ("c_float8", &kind("float8", &["0.1", "0", "-0", "NaN", "1e300"], &["float4"])),
    ("c_money", &kind("money", &["1.00", "2.50"], &[])),
    ("c_bool", &kind("bool", &["true", "false"], &[])),
    ("c_text", TEXT),
    ("c_c", &Kind { name: "text COLLATE \"C\"", class: Class::Other, literals: TEXTS, others: &["text"] }),
    ("c_ci", &Kind { name: "text COLLATE ci", class: Class::Other, literals: TEXTS, others: &["text"] }),
    ("c_varchar", VARCHAR),
    ("c_char", &kind("char(6)", &["a", "a ", "b", "A", ""], &["text", "varchar"])),
    ("c_byte", &kind("\"char\"", &["x", "y", ""], &[])),
    ("c_name", &kind("name", &["Some name", "other", "a"], &["text"])),
    ("c_bytea", &kind("bytea", &["\\x00ff41", "\\x", "a:b"], &[])),
    ("c_uuid", &kind("uuid", &["A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11", "00000000-0000-0000-0000-000000000000"], &[])),
    ("c_date", DATE),
    ("c_time", &kind("time", &["05:06:07.8", "00:00", "24:00"], &[])),
    ("c_timetz", &kind("timetz", &["05:06:07+02", "03:06:07+00", "05:06:07+00"], &[])),
    (
        "c_timestamp",
        &kind("timestamp", &["2026-01-01", "2026-01-02 03:04:05.6", "-infinity"], &["date", "timestamptz"]),
    ),
    (
        "c_timestamptz",
        &kind(
            "timestamptz",
            &["2026-01-01 00:00+00", "2026-01-01 02:00+02", "2026-01-02 03:04:05.6+01"],
            &["timestamp"],
        ),
    ),
    ("c_interval", &kind("interval", &["1 day", "24:00", "1 mon", "30 days", "-1 day"], &[])),
    ("c_inet", &kind("inet", &["10.0.0.1/8", "10.0.0.1", "::1", "10.0.0.0/8"], &[])),
    ("c_cidr", &kind("cidr", &["10.0.0.0/8", "10.0.0.0/16"], &["inet"])),
    ("c_macaddr", &kind("macaddr", &["08:00:2b:01:02:03", "00:00:00:00:00:00"], &[])),
    ("c_macaddr8", &kind("macaddr8", &["08:00:2b:01:02:03:04:05", "08:00:2b:01:02:03"], &[])),
    ("c_bit", &kind("bit(4)", &["0101", "0000"], &[])),
    ("c_varbit", &kind("varbit", &["01", "0", ""], &[])),
    ("c_jsonb", &kind("jsonb", &["1", "1.0", "{\"b\" : 1, \"a\":2}", "{\"a\":2.0,\"b\":1}", "null"], &[])),
    ("c_oid", &kind("oid", &["7", "4000000000"], &["int4"])),
    ("c_xid8", &kind("xid8", &["8", "9"], &[])),
    ("c_lsn", &kind("pg_lsn", &["16/B374D848", "0/0"], &[])),
    ("c_tid", &kind("tid", &["(1,2)", "(0,1)"], &[])),
    ("c_tsvector", &kind("tsvector", &["the:1 cat:2", "cat"], &[])),
    ("c_int4range", &kind("int4range", &["[1,5)", "[1,4]", "empty"], &[])),
    ("c_numrange", &kind("numrange", &["[1,2]", "[1.0,2.00]"], &[])),
    ("c_multirange", &kind("int4multirange", &["{[1,2)}", "{}"], &[])),
    ("c_ints", &kind("int[]", &["{1,NULL,3}", "{}", "{1}"], &[])),
    ("c_texts", &kind("text[]", &["{\"a b\",NULL,\"NULL\"}", "{a}"], &[])),
    ("c_numerics", &kind("numeric[]", &["{1.0}", "{1}", "{2}"], &[])),
    ("c_mood", MOOD),
    ("c_label", &Kind { name: "label", class: Class::Text, literals: TEXTS, others: &["text"] }),
    ("c_small", &Kind { name: "small", class: Class::Int, literals: INTS, others: &["int8", "int4"] }),
    ("c_exact", &kind("exact", &["1", "1.0", "2"], &["numeric"])),
    ("c_pair", &kind("pair", &["(1,x)", "(1,\"x y\")", "(,)"], &[])),
];

impl Kind {
    /// A literal without its type, quoted.
    pub fn literal(&self, random: &mut Random) -> String {
        quoted(random.pick::<&str>(self.literals))
    }

    /// The type of a literal to compare it with.
    pub fn compared(&self, random: &mut Random) -> &'static str {
        // A collation is of the column, not of the type.
        let own = self.name.split(" COLLATE").next().unwrap_or(self.name);
        // Nor do parameters have the modifiers of their types, which would round.
        let own = if own.starts_with("numeric(") { "numeric" } else { own };
        if !self.others.is_empty() && random.percent(30) { random.pick::<&'static str>(self.others) } else { own }
    }
}

/// A string literal.
pub fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}
