//! Predicates: which rows of a table a rule is about.

mod parse;

use std::fmt;
use std::str::FromStr;

pub use parse::{PredicateError, PredicateReason};

use crate::template::UnknownColumn;

/// A condition on one row: comparisons of columns with literals, joined by `AND`.
///
/// ```text
/// predicate = term ( AND term )*
/// term      = column ( "=" | "<>" | "!=" ) literal | column [ NOT ] IN "(" literal ( "," literal )* ")" | column IS [ NOT ] NULL
/// literal   = 'text' with ' doubled | integer | TRUE | FALSE
/// column    = a plain name, folded to lower case as SQL does it, or one in double quotes
/// ```
///
/// Values are compared byte for byte with PostgreSQL's text output of the column. Therefore a predicate that a user wrote has to be given its
/// columns' own spelling of the literals once ([`Predicate::map_literals`]: `TRUE` is `t` in a boolean column, `1.5` is `1.50` in a
/// `numeric(9,2)`), and it must not be used on a column whose type holds values that are equal and look different (`citext`, plain
/// `numeric`, nondeterministic collations).
///
/// ```
/// use cachetag_core::{Predicate, Value};
///
/// let predicate: Predicate = "Status IN ('new', 'paid') and deleted_at is null".parse()?;
/// assert_eq!(predicate.to_string(), r#""status" IN ('new', 'paid') AND "deleted_at" IS NULL"#);
///
/// let paid = |column: &str| if column == "status" { Value::Text(b"paid") } else { Value::Null };
/// assert_eq!(predicate.eval(paid), Some(true));
/// # Ok::<(), cachetag_core::PredicateError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Predicate {
    terms: Box<[Term]>,
}

/// A predicate that finds its columns by number. Made by [`Predicate::bind`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BoundPredicate {
    terms: Box<[(usize, Test)]>,
    columns: Box<[usize]>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Term {
    column: Box<str>,
    test: Test,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Test {
    /// `=` and `IN`.
    OneOf(Literals),
    /// `<>` and `NOT IN`.
    NoneOf(Literals),
    IsNull,
    IsNotNull,
}

/// At least one, each once, in the order in which they were written.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Literals(Box<[Box<str>]>);

/// What is known of a column's value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Value<'a> {
    /// It is NULL.
    Null,
    /// PostgreSQL's text output of it.
    Text(&'a [u8]),
    /// Nothing: the log has not got it.
    Unknown,
}

impl Predicate {
    /// Reads a predicate in the syntax above. [`Predicate`] displays in one canonical form, which parses to an equal predicate and is valid SQL.
    pub fn parse(text: &str) -> Result<Predicate, PredicateError> {
        parse::parse(text)
    }

    /// The names of the columns, each once, in the order in which they first appear.
    pub fn columns(&self) -> impl Iterator<Item = &str> {
        let terms = &self.terms;
        let is_first = |at: usize| terms[..at].iter().all(|earlier| earlier.column != terms[at].column);
        terms.iter().enumerate().filter(move |(at, _)| is_first(*at)).map(|(_, term)| &*term.column)
    }

    /// The predicate after a column was renamed.
    pub fn rename_column(&self, old: &str, new: &str) -> Predicate {
        let mut renamed = self.clone();
        for term in &mut renamed.terms {
            if &*term.column == old {
                term.column = new.into();
            }
        }
        renamed
    }

    /// The predicate with every literal replaced by what `map` makes of it, given the column that it is compared with. The first error ends it.
    ///
    /// ```
    /// use cachetag_core::Predicate;
    ///
    /// let written = Predicate::parse("active = true").unwrap();
    /// let stored = written.map_literals(|_column, literal| match literal {
    ///     "true" => Ok("t".to_owned()),
    ///     "false" => Ok("f".to_owned()),
    ///     other => Err(format!("{other} is not a boolean")),
    /// });
    /// assert_eq!(stored.unwrap().to_string(), r#""active" = 't'"#);
    /// ```
    pub fn map_literals<E>(&self, mut map: impl FnMut(&str, &str) -> Result<String, E>) -> Result<Predicate, E> {
        let terms = self.terms.iter().map(|term| {
            let mut mapped = |literals: &Literals| {
                literals.0.iter().map(|literal| map(&term.column, literal)).collect::<Result<_, E>>().map(Literals::new)
            };
            let test = match &term.test {
                Test::OneOf(literals) => Test::OneOf(mapped(literals)?),
                Test::NoneOf(literals) => Test::NoneOf(mapped(literals)?),
                other => other.clone(),
            };
            Ok(Term { column: term.column.clone(), test })
        });
        Ok(Predicate { terms: terms.collect::<Result<_, E>>()? })
    }

    /// Does the row match of which `value` gives the columns by name?
    ///
    /// `Some(false)` where SQL says false or NULL. `None`: it depends on a value that is unknown; treat the row as matching.
    pub fn eval<'a>(&self, mut value: impl FnMut(&str) -> Value<'a>) -> Option<bool> {
        all(self.terms.iter().map(|term| term.test.eval(value(&term.column))))
    }

    /// Puts the numbers of columns in the place of their names. `index_of` is asked once for each name; `None` means that there is no such column.
    pub fn bind(&self, mut index_of: impl FnMut(&str) -> Option<usize>) -> Result<BoundPredicate, UnknownColumn> {
        let mut numbers: Vec<(&str, usize)> = Vec::new();
        for name in self.columns() {
            numbers.push((name, index_of(name).ok_or_else(|| UnknownColumn::new(name))?));
        }
        let number_of = |name: &str| numbers.iter().find(|(known, _)| *known == name).map(|(_, index)| *index);
        let terms = self.terms.iter().filter_map(|term| Some((number_of(&term.column)?, term.test.clone())));
        Ok(BoundPredicate { terms: terms.collect(), columns: numbers.iter().map(|(_, index)| *index).collect() })
    }
}

impl BoundPredicate {
    /// [`Predicate::eval`] with columns by number.
    pub fn eval<'a>(&self, mut value: impl FnMut(usize) -> Value<'a>) -> Option<bool> {
        all(self.terms.iter().map(|(column, test)| test.eval(value(*column))))
    }

    /// The numbers of the columns, one for each name in the predicate.
    pub fn columns(&self) -> &[usize] {
        &self.columns
    }
}

/// One term that is known not to hold decides, whatever is unknown of the others.
fn all(terms: impl Iterator<Item = Option<bool>>) -> Option<bool> {
    let mut verdict = Some(true);
    for holds in terms {
        match holds {
            Some(true) => {}
            Some(false) => return Some(false),
            None => verdict = None,
        }
    }
    verdict
}

impl Test {
    fn eval(&self, value: Value<'_>) -> Option<bool> {
        match (value, self) {
            (Value::Unknown, _) => None,
            (Value::Null, test) => Some(*test == Test::IsNull),
            (Value::Text(text), Test::OneOf(literals)) => Some(literals.contain(text)),
            (Value::Text(text), Test::NoneOf(literals)) => Some(!literals.contain(text)),
            (Value::Text(_), Test::IsNull) => Some(false),
            (Value::Text(_), Test::IsNotNull) => Some(true),
        }
    }
}

impl Literals {
    fn new(written: Vec<String>) -> Literals {
        let mut literals: Vec<Box<str>> = Vec::with_capacity(written.len());
        for literal in written {
            if literals.iter().all(|known| **known != *literal) {
                literals.push(literal.into());
            }
        }
        Literals(literals.into())
    }

    fn contain(&self, text: &[u8]) -> bool {
        self.0.iter().any(|literal| literal.as_bytes() == text)
    }
}

impl fmt::Display for Predicate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, term) in self.terms.iter().enumerate() {
            if index > 0 {
                f.write_str(" AND ")?;
            }
            write!(f, "{} {}", quoted(&term.column, '"'), term.test)?;
        }
        Ok(())
    }
}

impl fmt::Display for Test {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (literals, comparison, list) = match self {
            Test::OneOf(literals) => (literals, "=", "IN"),
            Test::NoneOf(literals) => (literals, "<>", "NOT IN"),
            Test::IsNull => return f.write_str("IS NULL"),
            Test::IsNotNull => return f.write_str("IS NOT NULL"),
        };
        match &*literals.0 {
            [literal] => write!(f, "{comparison} {}", quoted(literal, '\'')),
            several => {
                write!(f, "{list} (")?;
                for (index, literal) in several.iter().enumerate() {
                    let separator = if index > 0 { ", " } else { "" };
                    write!(f, "{separator}{}", quoted(literal, '\''))?;
                }
                f.write_str(")")
            }
        }
    }
}

fn quoted(text: &str, quote: char) -> String {
    let doubled = text.replace(quote, &format!("{quote}{quote}"));
    format!("{quote}{doubled}{quote}")
}

impl FromStr for Predicate {
    type Err = PredicateError;

    fn from_str(text: &str) -> Result<Predicate, PredicateError> {
        Predicate::parse(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn predicate(text: &str) -> Predicate {
        Predicate::parse(text).unwrap()
    }

    fn canonical(text: &str) -> String {
        predicate(text).to_string()
    }

    #[test]
    fn canonical_form() {
        assert_eq!(canonical("a='x'"), r#""a" = 'x'"#);
        assert_eq!(canonical("A != 'X' aNd \"A\" Is Not Null"), r#""a" <> 'X' AND "A" IS NOT NULL"#);
        assert_eq!(canonical("a in('x')"), r#""a" = 'x'"#);
        assert_eq!(canonical("a NOT  IN\n( 'x','y' ,'x')"), r#""a" NOT IN ('x', 'y')"#);
        assert_eq!(canonical("n IN (7, -5, +3, 007, -0)"), r#""n" IN ('7', '-5', '3', '0')"#);
        assert_eq!(canonical("b = TRUE AND c <> false"), r#""b" = 'true' AND "c" <> 'false'"#);
        assert_eq!(canonical(r#""a""b" = 'it''s'"#), r#""a""b" = 'it''s'"#);
        assert_eq!(canonical("_x$1 = '' AND ÄB = 'é'"), "\"_x$1\" = '' AND \"Äb\" = 'é'");
        assert_eq!(canonical(r#""and" IS NULL"#), r#""and" IS NULL"#);
    }

    #[test]
    fn anything_else_is_an_error() {
        for text in [
            "",
            " ",
            "a",
            "a =",
            "= 'x'",
            "a = b",
            "a = \"x\"",
            "'a' = 'x'",
            "a == 'x'",
            "a < 'x'",
            "a >= 'x'",
            "a = 'x' AND",
            "AND a = 'x'",
            "a = 'x' OR b = 'y'",
            "NOT a = 'x'",
            "(a = 'x')",
            "a = 'x';",
            "a = 'x' -- why",
            "a = 'x' /* why */",
            "a = 'x'::text",
            "a = E'x'",
            "a = 'x",
            "a = 'x''",
            "\"a = 'x'",
            "\"\" = 'x'",
            "a IN ()",
            "a IN 'x'",
            "a IN ('x'",
            "a IN ('x',)",
            "a IN ('x' 'y')",
            "a NOT 'x'",
            "a NOT NULL",
            "a IS 'x'",
            "a IS NOT",
            "a IS TRUE",
            "a = NULL",
            "a IN ('x', NULL)",
            "a = 1.5",
            "a = 1e3",
            "a = 5x",
            "a = -",
            "a = --1",
            "a = +-1",
            "a = - 1",
            "null IS NULL",
            "in IN ('x')",
            "lower(a) = 'x'",
            "t.a = 'x'",
            "a = $1",
            "a = 'x' 'y'",
            "a LIKE 'x'",
        ] {
            assert!(Predicate::parse(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn errors_name_place_and_remedy() {
        let message = |text: &str| Predicate::parse(text).unwrap_err().to_string();
        assert_eq!(
            message("a = 'x' OR b = 'y'"),
            r#"predicate "a = 'x' OR b = 'y'": expected at offset 8: AND or the end; for several values of one column write IN ('a', 'b')"#
        );
        assert_eq!(
            message("a ="),
            r#"predicate "a =": expected at offset 3: a literal: 'text', an integer, TRUE or FALSE"#
        );
        assert_eq!(
            message("a = 1.5"),
            r#"predicate "a = 1.5": the number at offset 4 is not an integer: write any other as text, for example '1.50'"#
        );
        assert_eq!(
            message("a = 'x"),
            r#"predicate "a = 'x": the quote at offset 4 is not closed: a quote within quotes is doubled"#
        );
    }

    #[test]
    fn null_matches_only_is_null() {
        for (text, matches) in [
            ("a = 'x'", false),
            ("a <> 'x'", false),
            ("a IN ('x', 'y')", false),
            ("a NOT IN ('x', 'y')", false),
            ("a IS NULL", true),
            ("a IS NOT NULL", false),
        ] {
            assert_eq!(predicate(text).eval(|_| Value::Null), Some(matches), "{text}");
        }
    }

    #[test]
    fn what_is_unknown_matters_only_if_nothing_else_decides() {
        let both = predicate("a = 'x' AND b = 'y'");
        let row = |a| move |column: &str| if column == "a" { a } else { Value::Unknown };
        assert_eq!(both.eval(row(Value::Text(b"x"))), None);
        assert_eq!(both.eval(row(Value::Text(b"z"))), Some(false));
        assert_eq!(both.eval(row(Value::Null)), Some(false));
        assert_eq!(predicate("b = 'y' AND a = 'x'").eval(row(Value::Text(b"z"))), Some(false));
        assert_eq!(predicate("b IS NULL").eval(row(Value::Null)), None);
    }

    #[test]
    fn values_are_compared_byte_for_byte() {
        let equal =
            |literal: &str, value: &'static [u8]| predicate(&format!("a = '{literal}'")).eval(|_| Value::Text(value));
        assert_eq!(equal("x", b"x"), Some(true));
        for other in [b"X".as_slice(), b"x ", b"", b"\xff"] {
            assert_eq!(equal("x", other), Some(false));
        }
    }

    #[test]
    fn columns_are_named_once_bound_and_renamed() {
        let predicate = predicate("b = 'x' AND a = 'y' AND b <> 'z'");
        assert_eq!(predicate.columns().collect::<Vec<_>>(), ["b", "a"]);
        assert_eq!(predicate.bind(|name| Some(name.len())).unwrap().columns(), [1, 1]);
        assert_eq!(predicate.bind(|name| (name == "b").then_some(0)).unwrap_err().column(), "a");
        assert_eq!(predicate.rename_column("b", "B").to_string(), r#""B" = 'x' AND "a" = 'y' AND "B" <> 'z'"#);
    }

    #[test]
    fn mapped_literals_may_become_equal() {
        let mapped = predicate("n IN ('1', '01', '2') AND n IS NOT NULL").map_literals(|column, literal| {
            literal.parse::<i64>().map(|n| n.to_string()).map_err(|_| column.to_owned())
        });
        assert_eq!(mapped.unwrap().to_string(), r#""n" IN ('1', '2') AND "n" IS NOT NULL"#);
        assert_eq!(
            predicate("n = 'one'").map_literals(|column, _| Err::<String, _>(column.to_owned())),
            Err("n".to_owned())
        );
    }
}
