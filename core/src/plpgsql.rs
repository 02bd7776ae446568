//! What the text of a PL/pgSQL function names. When in doubt, a name too many.

use std::collections::BTreeSet;

/// How much of an identifier the server looks at, in bytes.
const IDENTIFIER: usize = 63;
const OPERATOR: &str = "+-*/<>=~!@#%^&|`?";

/// A name, as the server would look it up.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Word {
    /// Its letters, small ones unless it is quoted.
    pub name: String,
    /// A parenthesis follows.
    pub is_called: bool,
    /// It follows a dot: a column, or a function of one argument that is written like one.
    pub is_attribute: bool,
}

/// What a source names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Names {
    /// Names of anything, keywords too.
    pub words: BTreeSet<Word>,
    /// Operators, and what may be one.
    pub operators: BTreeSet<String>,
    /// A name is written in another way than by its letters: `U&"…"`.
    pub is_encoded: bool,
}

/// Everything that a source names outside its comments; strings may be statements, and count.
///
/// ```
/// let names = cachetag_core::plpgsql::names("DECLARE p products%ROWTYPE; -- of today\nBEGIN RETURN price(p); END");
/// assert!(names.words.iter().any(|word| word.name == "products"));
/// assert!(names.words.iter().any(|word| word.name == "price" && word.is_called));
/// assert!(!names.words.iter().any(|word| word.name == "today"));
/// ```
pub fn names(source: &str) -> Names {
    let mut names = Names::default();
    if !Scanner::new(source, &mut names).scan() {
        // Where a string ends is a matter of settings: then nothing is a comment, and everything may be a name.
        scan_text(source, &mut names);
    }
    names
}

/// Everything that may be a name or an operator, wherever it stands.
fn scan_text(text: &str, names: &mut Names) {
    // A quote may open a name or close one, so what lies between any two is taken for one.
    for (at, _) in text.match_indices('"') {
        let (name, end) = quoted(&text[at + 1..]);
        let is_called = text[at + 1 + end..].trim_start().starts_with('(');
        names.words.extend([false, true].map(|is_attribute| Word { name: name.clone(), is_called, is_attribute }));
        names.is_encoded |= ["U&", "u&"].iter().any(|mark| text[..at].ends_with(mark));
    }
    let mut scanner = Scanner::new(text, names);
    while let Some(first) = scanner.rest.chars().next() {
        if first.is_whitespace() || matches!(first, '\'' | '"') {
            scanner.skip(first.len_utf8());
        } else {
            scanner.token(first);
        }
    }
    scanner.finish(false);
}

struct Scanner<'n, 's> {
    names: &'n mut Names,
    rest: &'s str,
    /// The name that was read last, if only white space and comments have come since.
    word: Option<Word>,
    is_after_dot: bool,
}

impl<'n, 's> Scanner<'n, 's> {
    fn new(source: &'s str, names: &'n mut Names) -> Self {
        Scanner { names, rest: source, word: None, is_after_dot: false }
    }

    /// `false`: what is a string and what a comment is not certain.
    fn scan(mut self) -> bool {
        let mut is_certain = true;
        while let Some(first) = self.rest.chars().next() {
            if first.is_whitespace() {
                self.skip(first.len_utf8());
            } else if self.rest.starts_with("--") {
                self.skip(self.rest.find(['\n', '\r']).unwrap_or(self.rest.len()));
            } else if self.rest.starts_with("/*") {
                self.skip(comment(self.rest));
            } else if first == '\'' {
                let has_escapes = self.word.as_ref().is_some_and(|word| word.name == "e");
                let (content, end) = string(&self.rest[1..], has_escapes);
                is_certain &= has_escapes || !content.ends_with('\\');
                self.string(content, 1 + end);
            } else if let Some(tag) = dollar_tag(self.rest) {
                let after = &self.rest[tag.len()..];
                let content = &after[..after.find(tag).unwrap_or(after.len())];
                self.string(content, (tag.len() * 2 + content.len()).min(self.rest.len()));
            } else {
                self.token(first);
            }
        }
        self.finish(false);
        is_certain
    }

    /// What is in a string may be a statement.
    fn string(&mut self, content: &str, len: usize) {
        self.finish(false);
        self.is_after_dot = false;
        scan_text(content, self.names);
        self.skip(len);
    }

    fn token(&mut self, first: char) {
        let is_part = |c: char| c.is_alphanumeric() || c == '_' || c == '$' || !c.is_ascii();
        if first == '"' {
            let (name, end) = quoted(&self.rest[1..]);
            self.name(name, 1 + end);
        } else if (first == 'U' || first == 'u') && self.rest[1..].starts_with("&\"") {
            self.names.is_encoded = true;
            self.skip(2);
        } else if first.is_alphabetic() || first == '_' || !first.is_ascii() {
            let end = self.rest.find(|c| !is_part(c)).unwrap_or(self.rest.len());
            self.name(self.rest[..end].to_ascii_lowercase(), end);
        } else if OPERATOR.contains(first) {
            let mut end = self.rest.find(|c| !OPERATOR.contains(c)).unwrap_or(self.rest.len());
            for comment in ["--", "/*"] {
                end = self.rest[..end].find(comment).filter(|at| *at > 0).unwrap_or(end);
            }
            let operator = &self.rest[..end];
            // Where one ends and the next begins is the server's affair.
            for from in 0..end {
                for to in from + 1..=end {
                    self.names.operators.insert(operator[from..to].to_owned());
                }
            }
            self.finish(false);
            self.is_after_dot = false;
            self.rest = &self.rest[end..];
        } else {
            self.finish(first == '(');
            self.is_after_dot = first == '.';
            self.skip(first.len_utf8());
        }
    }

    fn name(&mut self, name: String, len: usize) {
        self.finish(false);
        self.word = Some(Word { name: shortened(name), is_called: false, is_attribute: self.is_after_dot });
        self.is_after_dot = false;
        self.skip(len);
    }

    fn finish(&mut self, is_called: bool) {
        if let Some(word) = self.word.take() {
            // In an encoding of one byte, other letters than those of ASCII are made small too.
            let name = if word.name.is_ascii() { None } else { Some(shortened(word.name.to_lowercase())) };
            self.names.words.extend(name.map(|name| Word { name, is_called, ..word }));
            self.names.words.insert(Word { is_called, ..word });
        }
    }

    fn skip(&mut self, len: usize) {
        self.rest = self.rest.get(len..).unwrap_or_default();
    }
}

/// The length of a comment, which may hold others.
fn comment(text: &str) -> usize {
    let mut depth = 0_usize;
    let mut at = 0;
    while at < text.len() {
        if text[at..].starts_with("/*") {
            depth += 1;
            at += 2;
        } else if text[at..].starts_with("*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += text[at..].chars().next().map_or(1, char::len_utf8);
        }
    }
    text.len()
}

/// What is in a string, and how long it is with the quote that ends it. A doubled quote ends it and begins the next.
fn string(text: &str, has_escapes: bool) -> (&str, usize) {
    let mut is_escaped = false;
    for (at, c) in text.char_indices() {
        match c {
            _ if is_escaped => is_escaped = false,
            '\\' if has_escapes => is_escaped = true,
            '\'' => return (&text[..at], at + 1),
            _ => {}
        }
    }
    (text, text.len())
}

/// A name in double quotes, and how long it is with the quote that ends it.
fn quoted(text: &str) -> (String, usize) {
    let mut name = String::new();
    let mut chars = text.char_indices().peekable();
    while let Some((at, c)) = chars.next() {
        if c == '"' && chars.next_if(|(_, next)| *next == '"').is_none() {
            return (shortened(name), at + 1);
        }
        name.push(c);
    }
    (shortened(name), text.len())
}

/// `$$` or `$tag$` at the beginning.
fn dollar_tag(text: &str) -> Option<&str> {
    let tag = text.strip_prefix('$')?;
    let end = tag
        .find(|c: char| !(c.is_alphanumeric() || c == '_' || !c.is_ascii()))
        .filter(|end| tag[*end..].starts_with('$'))?;
    let is_parameter = tag.starts_with(|c: char| c.is_ascii_digit());
    (!is_parameter).then(|| &text[..end + 2])
}

fn shortened(mut name: String) -> String {
    let mut end = IDENTIFIER.min(name.len());
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    name.truncate(end);
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The words as text: `()` behind those that are called, `.` before attributes.
    fn words(source: &str) -> Vec<String> {
        let shown = |word: &Word| {
            format!(
                "{}{}{}",
                if word.is_attribute { "." } else { "" },
                word.name,
                if word.is_called { "()" } else { "" }
            )
        };
        names(source).words.iter().map(shown).collect()
    }

    #[test]
    fn names_are_as_the_server_looks_them_up() {
        assert_eq!(words("RETURN Now () + s.F/* x */(1), r.total"), [".f()", "now()", "r", "return", "s", ".total"]);
        assert_eq!(words(r#""My ""Fn""" (1) "t""#), [r#"My "Fn"()"#, "t"]);
        assert_eq!(words("ÄRGER"), ["Ärger", "ärger"], "what is made small is a matter of the encoding");
        assert_eq!(words(&"x".repeat(80)), ["x".repeat(63)]);
        assert!(names(r#"U&"\0441"()"#).is_encoded);
    }

    #[test]
    fn comments_end_where_the_server_says() {
        assert_eq!(words("a -- b\n c /* d /* e */ f */ g"), ["a", "c", "g"]);
        assert_eq!(words("'--' || now()"), ["now()"], "it is in a string");
        assert_eq!(words("$q$ /* $q$ || now() /* */"), ["now()"]);
        assert_eq!(words("$1 + $2"), Vec::<String>::new());
        assert_eq!(words(r"E'\' -- ' || now()"), ["e", "now()"]);
        assert_eq!(words(r#""--" now()"#), ["--", "now()"]);
    }

    #[test]
    fn a_backslash_before_the_end_of_a_string_is_taken_both_ways() {
        assert_eq!(words(r"'\' || a() -- ' || b()"), ["a()", "b()"]);
    }

    #[test]
    fn strings_may_be_statements() {
        for word in ["F()", "execute", "select", "x"] {
            assert!(words(r#"EXECUTE 'SELECT "F" (x)'"#).contains(&word.to_owned()), "{word}");
        }
        assert!(words("'it''s now()'").contains(&"now()".to_owned()));
    }

    #[test]
    fn operators_are_told_in_every_way_they_may_be_read() {
        let operators: Vec<String> = names("a <+> b -- + c").operators.into_iter().collect();
        assert_eq!(operators, ["+", "+>", "<", "<+", "<+>", ">"]);
        assert_eq!(names("1 +/* x */ 2").operators.into_iter().collect::<Vec<_>>(), ["+"]);
    }

    #[test]
    fn any_bytes_are_read_to_their_end() {
        for source in ["'", "\"", "$a$", "/*", "--", "$", "é$é$", "U&\"", "a.", "'\\", "e'\\", "/*/", "+--", "+/*"] {
            names(source);
        }
    }
}
