//! What holds for all inputs.

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use crate::*;

/// Text in which the bytes that matter to the grammars are as likely as all others together.
fn text() -> impl Strategy<Value = String> {
    vec(prop_oneof![4 => "[:%*{} 0-9a-fA-F]", 2 => "[a-z]", 1 => any::<char>().prop_map(String::from)], 0..24)
        .prop_map(|chars| chars.concat())
}

fn bytes() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        6 => text().prop_map(String::into_bytes),
        1 => vec(any::<u8>(), 0..24),
        1 => (text(), 0..60_usize).prop_map(|(text, times)| text.repeat(times).into_bytes()),
    ]
}

fn name() -> impl Strategy<Value = String> {
    prop_oneof!["[a-d]", text().prop_filter("a column has a name", |name| !name.is_empty())]
}

fn tag() -> impl Strategy<Value = Tag> {
    let built = (text(), vec(text(), 0..4)).prop_filter_map("no tag", |(family, parts)| {
        Tag::new(&family, &parts.iter().map(String::as_str).collect::<Vec<_>>()).ok()
    });
    let family =
        text().prop_filter_map("no family", |family| Tag::new(&family, &[]).ok().map(|tag| tag.whole_family()));
    prop_oneof![4 => built, 1 => family, 1 => Just(Tag::everything())]
}

fn epoch() -> impl Strategy<Value = Epoch> {
    prop_oneof![0..=Epoch::MAX.get(), 0..4_u64].prop_map(|number| Epoch::new(number).unwrap())
}

fn version() -> impl Strategy<Value = Version> {
    let lsn = prop_oneof![any::<u64>(), (0..64_u32).prop_map(|bits| 1 << bits), 0..4_u64];
    (epoch(), lsn).prop_map(|(epoch, lsn)| Version::new(epoch, Lsn(lsn)))
}

/// A template as its parts: the raw family, then literal (raw) and column by turns.
#[derive(Debug, Clone)]
struct Written {
    family: String,
    steps: Vec<(String, String)>,
    tail: String,
}

impl Written {
    fn text(&self) -> String {
        let mut text = String::new();
        encode_part(&self.family, &mut text);
        text.push(':');
        for (literal, column) in &self.steps {
            encode_part(literal, &mut text);
            text.push_str(&format!("{{{}}}", column.replace('}', "}}")));
        }
        encode_part(&self.tail, &mut text);
        text
    }
}

fn written() -> impl Strategy<Value = Written> {
    let family = text().prop_filter("a tag has a family", |family| !family.is_empty());
    (family, vec((text(), name()), 0..4), text()).prop_map(|(family, steps, tail)| Written { family, steps, tail })
}

/// A value of a row: NULL, text or not known.
type Cell = Option<Option<String>>;

/// A term as data, and what SQL makes of it for a known value.
#[derive(Debug, Clone)]
enum Oracle {
    In { column: usize, negated: bool, literals: Vec<String> },
    Null { column: usize, negated: bool },
}

const COLUMNS: [&str; 3] = ["a", "b", "Select \"x\""];

fn literal() -> impl Strategy<Value = String> {
    prop_oneof![8 => "[xyz]", 2 => Just("it's".to_owned()), 1 => Just(String::new()), 1 => any::<String>()]
}

fn oracle() -> impl Strategy<Value = Oracle> {
    let column = 0..COLUMNS.len();
    prop_oneof![
        4 => (column.clone(), any::<bool>(), vec(literal(), 1..4)).prop_map(|(column, negated, literals)| Oracle::In { column, negated, literals }),
        1 => (column, any::<bool>()).prop_map(|(column, negated)| Oracle::Null { column, negated }),
    ]
}

impl Oracle {
    fn column(&self) -> usize {
        let (Oracle::In { column, .. } | Oracle::Null { column, .. }) = *self;
        column
    }

    fn sql(&self) -> String {
        let (Oracle::In { negated, .. } | Oracle::Null { negated, .. }) = *self;
        let column = format!("\"{}\"", COLUMNS[self.column()].replace('"', "\"\""));
        match self {
            Oracle::Null { .. } => format!("{column} is {}null", if negated { "not " } else { "" }),
            Oracle::In { literals, .. } => {
                let literals: Vec<String> =
                    literals.iter().map(|literal| format!("'{}'", literal.replace('\'', "''"))).collect();
                format!("{column}{} in({})", if negated { " not" } else { "" }, literals.join(","))
            }
        }
    }

    /// SQL's three values for a row of known cells: `None` is NULL.
    fn holds(&self, row: &[Option<String>]) -> Option<bool> {
        match self {
            Oracle::Null { column, negated } => Some(row[*column].is_none() != *negated),
            Oracle::In { column, negated, literals } => {
                row[*column].as_ref().map(|value| literals.contains(value) != *negated)
            }
        }
    }
}

/// Does SQL's WHERE take the row?
fn where_takes(terms: &[Oracle], row: &[Option<String>]) -> bool {
    terms.iter().all(|term| term.holds(row) == Some(true))
}

fn predicate_value(cell: &Cell) -> Value<'_> {
    match cell {
        None => Value::Unknown,
        Some(None) => Value::Null,
        Some(Some(text)) => Value::Text(text.as_bytes()),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn parts_survive_encoding(raw in text()) {
        let mut encoded = String::new();
        encode_part(&raw, &mut encoded);
        let mut encoded_bytes = Vec::new();
        encode_part_bytes(raw.as_bytes(), &mut encoded_bytes);
        prop_assert_eq!(encoded.as_bytes(), &encoded_bytes);
        prop_assert_eq!(decode_part(&encoded), Ok(raw));
    }

    #[test]
    fn tags_are_their_family_and_parts(family in text(), parts in vec(text(), 0..4)) {
        let borrowed: Vec<&str> = parts.iter().map(String::as_str).collect();
        if let Ok(tag) = Tag::new(&family, &borrowed) {
            prop_assert_eq!(decode_part(tag.family()), Ok(family));
            prop_assert_eq!(tag.parts().map(|part| decode_part(part).unwrap()).collect::<Vec<_>>(), parts);
            prop_assert!(!tag.is_whole_family() && !tag.is_everything());
            prop_assert_eq!(Tag::parse(tag.as_str()), Ok(tag.clone()));
            prop_assert!(tag.whole_family().is_whole_family());
            prop_assert_eq!(Tag::parse(tag.whole_family().as_str()), Ok(tag.whole_family()));
        } else {
            // Only emptiness and length can stand in the way.
            let raw_len = family.len() + parts.iter().map(|part| part.len() + 1).sum::<usize>();
            prop_assert!(family.is_empty() || raw_len * 3 > Tag::MAX_LEN);
        }
    }

    /// A text is a tag exactly if it is what encoding makes of its decoded parts: so no tag has two texts.
    #[test]
    fn a_tag_has_one_text(text in text()) {
        let rebuilt = || {
            let mut parts = text.split(':').map(decode_loosely);
            let family = parts.next()??;
            let parts: Vec<String> = parts.collect::<Option<_>>()?;
            Tag::new(&family, &parts.iter().map(String::as_str).collect::<Vec<_>>()).ok()
        };
        let is_star = text == "*" || text.strip_suffix(":*").is_some_and(|family| !family.contains(':') && Tag::parse(family).is_ok_and(|tag| !tag.is_everything()));
        let canonical = is_star || rebuilt().is_some_and(|tag| tag.as_str() == text);
        prop_assert_eq!(Tag::parse(&text).is_ok(), canonical, "{:?}", text);
    }

    #[test]
    fn nothing_panics(text in prop_oneof![text(), any::<String>()], bytes in vec(any::<u8>(), 0..64)) {
        let _ = Tag::parse(&text).map_err(|error| error.to_string());
        let _ = Template::parse(&text).map_err(|error| error.to_string());
        let _ = Template::parse(&format!("f:{text}")).map_err(|error| error.to_string());
        let _ = Predicate::parse(&text).map_err(|error| error.to_string());
        let _ = decode_part(&text).map_err(|error| error.to_string());
        let _ = text.parse::<Version>().map_err(|error| error.to_string());
        let _ = text.parse::<Lsn>().map_err(|error| error.to_string());
        let _ = InvalidationMessage::parse(&bytes).map_err(|error| error.to_string());
        let _ = InvalidationMessage::parse(&[b"hard\n", text.as_bytes()].concat()).map_err(|error| error.to_string());
        let mut out = Vec::new();
        encode_part_bytes(&bytes, &mut out);
        prop_assert_eq!(std::str::from_utf8(&out).is_ok(), std::str::from_utf8(&bytes).is_ok());
    }

    /// Words of the language in any order: what random text hardly ever hits.
    #[test]
    fn a_predicate_displays_as_itself(words in vec(prop_oneof![
        Just("a"), Just("\"b c\""), Just("'x'"), Just("'it''s'"), Just("="), Just("<>"), Just("and"), Just("is"), Just("not"), Just("null"), Just("in"),
        Just("("), Just(")"), Just(","), Just("-07"), Just("true"), Just("a = 1 and"), Just("b in ('x', 'y')"), Just("c is not null"),
    ], 0..8)) {
        if let Ok(predicate) = Predicate::parse(&words.join(" ")) {
            let canonical = predicate.to_string();
            prop_assert_eq!(Predicate::parse(&canonical), Ok(predicate.clone()));
            prop_assert_eq!(Predicate::parse(&canonical).unwrap().to_string(), canonical);
        }
    }

    #[test]
    fn versions_order_as_their_texts(one in version(), other in version()) {
        prop_assert_eq!(one.cmp(&other), one.to_string().as_bytes().cmp(other.to_string().as_bytes()));
        prop_assert_eq!(one.to_bytes().to_vec(), one.to_string().into_bytes());
        prop_assert_eq!(one.to_string().len(), Version::LEN);
        prop_assert_eq!(one.to_string().parse(), Ok(one));
        prop_assert_eq!(one.lsn.to_string().parse(), Ok(one.lsn));
    }

    #[test]
    fn messages_survive(soft in any::<bool>(), tags in vec(tag(), 0..5), line_feed in any::<bool>()) {
        let message = InvalidationMessage { soft, tags };
        let payload = message.encode() + if line_feed { "\n" } else { "" };
        prop_assert_eq!(InvalidationMessage::parse(payload.as_bytes()), Ok(message));
    }

    #[test]
    fn reaching_is_mutual_but_for_nothing(one in tag(), other in tag()) {
        prop_assert_eq!(one.reaches(&other), other.reaches(&one));
        prop_assert!(one.reaches(&one) && one.reaches(&one.whole_family()) && one.whole_family().reaches(&one));
        prop_assert!(Tag::everything().reaches(&one));
    }

    #[test]
    fn templates_survive(written in written(), new in name()) {
        if let Ok(template) = Template::parse(&written.text()) {
            prop_assert_eq!(template.to_string(), written.text());
            let names: Vec<&str> = written.steps.iter().map(|(_, column)| column.as_str()).collect();
            let columns: Vec<&str> = template.columns().collect();
            prop_assert!(names.iter().all(|name| columns.contains(name)) && columns.iter().all(|column| names.contains(column)));
            prop_assert_eq!(template.is_constant(), names.is_empty());
            if let Some(old) = names.first() {
                let renamed = template.rename_column(old, &new);
                prop_assert_eq!(Template::parse(&renamed.to_string()), Ok(renamed.clone()));
                prop_assert!(renamed.columns().any(|column| column == new));
                prop_assert!(*old == new || renamed.columns().all(|column| column != *old));
            }
        }
    }

    /// Rendering by name, by number, and by hand with `Tag::new` are one thing.
    #[test]
    fn rendering_is_encoding_the_filled_in_text(written in written(), row in vec(option::weighted(0.9, bytes()), 4)) {
        let Ok(template) = Template::parse(&written.text()) else { return Ok(()) };
        let columns: Vec<&str> = template.columns().collect();
        // A row in another order than the template's, with a column before them.
        let index_of = |name: &str| columns.iter().rev().position(|column| *column == name).map(|index| index + 1);
        let row: Vec<Option<&[u8]>> = std::iter::once(None).chain(row.iter().map(Option::as_deref)).collect();

        let bound = template.bind(index_of).unwrap();
        let mut out = b"before".to_vec();
        let outcome = bound.render_into(|index| row[index], &mut out);
        let rendered = template.render(|name| row[index_of(name).unwrap()]);

        let values: Option<Vec<&[u8]>> = written.steps.iter().map(|(_, column)| row[index_of(column).unwrap()]).collect();
        let expected = match values {
            None => Rendered::Null,
            Some(values) => {
                let mut part = Vec::new();
                for ((literal, _), value) in written.steps.iter().zip(&values) {
                    part.extend_from_slice(literal.as_bytes());
                    part.extend_from_slice(value);
                }
                part.extend_from_slice(written.tail.as_bytes());
                let mut whole = Vec::new();
                encode_part_bytes(&part, &mut whole);
                let family_len = written.text().find(':').unwrap();
                if family_len + 1 + whole.len() > Tag::MAX_LEN {
                    Rendered::TooLong
                } else if let Ok(part) = std::str::from_utf8(&part) {
                    Rendered::Tag(Tag::new(&written.family, &[part]).unwrap())
                } else {
                    Rendered::Unrenderable
                }
            }
        };
        prop_assert_eq!(&rendered, &expected);
        let (expected_outcome, appended) = match &expected {
            Rendered::Tag(tag) => (RenderOutcome::Tag, tag.as_str()),
            Rendered::Null => (RenderOutcome::Null, ""),
            Rendered::TooLong => (RenderOutcome::TooLong, ""),
            Rendered::Unrenderable => (RenderOutcome::Unrenderable, ""),
        };
        prop_assert_eq!(outcome, expected_outcome);
        prop_assert_eq!(out, [b"before", appended.as_bytes()].concat());
    }

    /// With unknown cells the answer is that of all ways to fill them in, where they agree, else none.
    #[test]
    fn predicates_agree_with_sql(terms in vec(oracle(), 1..4), row in vec(option::weighted(0.8, option::weighted(0.7, literal())), 3)) {
        let sql = terms.iter().map(Oracle::sql).collect::<Vec<_>>().join("\nAND ");
        let predicate = Predicate::parse(&sql).unwrap();
        let bound = predicate.bind(|name| COLUMNS.iter().position(|column| *column == name)).unwrap();

        let verdict = predicate.eval(|name| predicate_value(&row[COLUMNS.iter().position(|column| *column == name).unwrap()]));
        prop_assert_eq!(bound.eval(|index| predicate_value(&row[index])), verdict);
        prop_assert_eq!(Predicate::parse(&predicate.to_string()), Ok(predicate));

        match verdict {
            Some(verdict) => {
                for filled in fillings(&row, &terms) {
                    prop_assert_eq!(where_takes(&terms, &filled), verdict, "{} on {:?}", sql, filled);
                }
            }
            // Never said needlessly: something is unknown, and no known cell rules the row out.
            None => {
                let known: Vec<Option<String>> = row.iter().map(|cell| cell.clone().flatten()).collect();
                let open = |term: &Oracle| row[term.column()].is_none() || term.holds(&known) == Some(true);
                prop_assert!(row.iter().any(Option::is_none));
                prop_assert!(terms.iter().all(open));
            }
        }
    }
}

/// `%XX` to its byte with either case, everything else as it is; `None` if that gives no text.
fn decode_loosely(part: &str) -> Option<String> {
    let mut raw = Vec::new();
    let mut bytes = part.bytes();
    while let Some(byte) = bytes.next() {
        if byte == b'%' {
            let digits = [bytes.next()?, bytes.next()?].map(char::from);
            raw.push(digits.iter().try_fold(0_u8, |value, digit| Some(value << 4 | digit.to_digit(16)? as u8))?);
        } else {
            raw.push(byte);
        }
    }
    String::from_utf8(raw).ok()
}

/// The row with each unknown cell set to NULL, to every literal of the terms, and to a text that none of them has.
fn fillings(row: &[Cell], terms: &[Oracle]) -> Vec<Vec<Option<String>>> {
    let mut values = vec![None, Some("none of them".to_owned())];
    for term in terms {
        if let Oracle::In { literals, .. } = term {
            values.extend(literals.iter().cloned().map(Some));
        }
    }
    let mut rows = vec![Vec::new()];
    for cell in row {
        let candidates = cell.as_ref().map_or_else(|| values.clone(), |known| vec![known.clone()]);
        rows = rows
            .iter()
            .flat_map(|begun| {
                candidates.iter().map(move |value| [begun.as_slice(), std::slice::from_ref(value)].concat())
            })
            .collect();
    }
    rows
}
