//! From text to a [`Predicate`].

use super::{Literals, Predicate, Term, Test};
use crate::tag::excerpt;

/// Words that are no column unless in double quotes.
const KEYWORDS: &[&str] = &["and", "or", "not", "in", "is", "null", "true", "false"];

pub(super) fn parse(text: &str) -> Result<Predicate, PredicateError> {
    let fail = |reason| PredicateError { text: excerpt(text), reason };
    let tokens = Lexer { text, at: 0 }.tokens().map_err(fail)?;
    Parser { tokens: &tokens, end: text.len() }.predicate().map_err(fail)
}

#[derive(Debug, Clone, PartialEq)]
enum Token {
    /// A plain word, folded to lower case.
    Word(String),
    /// A name in double quotes.
    Name(String),
    /// A literal, be it in quotes or an integer.
    Literal(String),
    Equal,
    NotEqual,
    Open,
    Close,
    Comma,
}

struct Lexer<'t> {
    text: &'t str,
    at: usize,
}

impl<'t> Lexer<'t> {
    fn tokens(mut self) -> Result<Vec<(usize, Token)>, PredicateReason> {
        let mut tokens = Vec::new();
        loop {
            self.take_while(|c| matches!(c, ' ' | '\t' | '\n' | '\r' | '\x0b' | '\x0c'));
            let at = self.at;
            let Some(first) = self.peek() else { return Ok(tokens) };
            let token = match first {
                '\'' => Token::Literal(self.quoted('\'')?),
                '"' => Token::Name(self.quoted('"')?),
                '0'..='9' | '-' | '+' => Token::Literal(self.integer()?),
                c if is_word_start(c) => Token::Word(self.take_while(is_word).to_ascii_lowercase()),
                _ => self.symbol().ok_or(PredicateReason::Character { at, found: first })?,
            };
            tokens.push((at, token));
        }
    }

    fn rest(&self) -> &'t str {
        &self.text[self.at..]
    }

    fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    fn take_while(&mut self, accept: impl Fn(char) -> bool) -> &'t str {
        let rest = self.rest();
        let taken = &rest[..rest.find(|c| !accept(c)).unwrap_or(rest.len())];
        self.at += taken.len();
        taken
    }

    fn symbol(&mut self) -> Option<Token> {
        const SYMBOLS: [(&str, Token); 6] = [
            ("=", Token::Equal),
            ("<>", Token::NotEqual),
            ("!=", Token::NotEqual),
            ("(", Token::Open),
            (")", Token::Close),
            (",", Token::Comma),
        ];
        let (symbol, token) = SYMBOLS.into_iter().find(|(symbol, _)| self.rest().starts_with(symbol))?;
        self.at += symbol.len();
        Some(token)
    }

    /// The text between two quotes, a doubled quote standing for one.
    fn quoted(&mut self, quote: char) -> Result<String, PredicateReason> {
        let at = self.at;
        let mut content = String::new();
        loop {
            self.at += 1;
            content.push_str(self.take_while(|c| c != quote));
            if self.peek().is_none() {
                return Err(PredicateReason::OpenQuote { at });
            }
            self.at += 1;
            if self.peek() != Some(quote) {
                return Ok(content);
            }
            content.push(quote);
        }
    }

    /// An integer as PostgreSQL shows it: no `+`, no leading zeros.
    fn integer(&mut self) -> Result<String, PredicateReason> {
        let at = self.at;
        let sign = self.take_while(|c| matches!(c, '-' | '+'));
        let digits = self.take_while(|c| c.is_ascii_digit());
        let ends = !self.peek().is_some_and(|next| is_word(next) || next == '.');
        if sign.len() > 1 || digits.is_empty() || !ends {
            return Err(PredicateReason::Number { at });
        }
        match digits.trim_start_matches('0') {
            "" => Ok("0".to_owned()),
            number if sign == "-" => Ok(format!("-{number}")),
            number => Ok(number.to_owned()),
        }
    }
}

// As in PostgreSQL: every character beyond ASCII may be part of a name.
fn is_word_start(c: char) -> bool {
    c.is_ascii_alphabetic() || c == '_' || !c.is_ascii()
}

fn is_word(c: char) -> bool {
    is_word_start(c) || c.is_ascii_digit() || c == '$'
}

struct Parser<'t> {
    tokens: &'t [(usize, Token)],
    end: usize,
}

impl Parser<'_> {
    fn predicate(mut self) -> Result<Predicate, PredicateReason> {
        let mut terms = Vec::new();
        loop {
            terms.push(self.term()?);
            if self.tokens.is_empty() {
                return Ok(Predicate { terms: terms.into() });
            }
            if !self.accept_word("and") {
                return self.expected("AND or the end; for several values of one column write IN ('a', 'b')");
            }
        }
    }

    fn term(&mut self) -> Result<Term, PredicateReason> {
        let column = match self.peek() {
            Some(Token::Word(word)) if !KEYWORDS.contains(&word.as_str()) => word.as_str().into(),
            Some(Token::Name(name)) if !name.is_empty() => name.as_str().into(),
            _ => return self.expected("the name of a column; a keyword as a name must be in double quotes"),
        };
        self.advance();
        Ok(Term { column, test: self.test()? })
    }

    fn test(&mut self) -> Result<Test, PredicateReason> {
        if self.accept(&Token::Equal) {
            return Ok(Test::OneOf(Literals::new(vec![self.literal()?])));
        }
        if self.accept(&Token::NotEqual) {
            return Ok(Test::NoneOf(Literals::new(vec![self.literal()?])));
        }
        if self.accept_word("is") {
            let test = if self.accept_word("not") { Test::IsNotNull } else { Test::IsNull };
            return if self.accept_word("null") { Ok(test) } else { self.expected("NULL or NOT NULL") };
        }
        if self.accept_word("in") {
            return Ok(Test::OneOf(self.list()?));
        }
        if self.accept_word("not") {
            return if self.accept_word("in") { Ok(Test::NoneOf(self.list()?)) } else { self.expected("IN") };
        }
        self.expected("one of =, <>, IN, NOT IN, IS NULL, IS NOT NULL")
    }

    fn list(&mut self) -> Result<Literals, PredicateReason> {
        if !self.accept(&Token::Open) {
            return self.expected("a list of literals in parentheses");
        }
        let mut literals = vec![self.literal()?];
        while self.accept(&Token::Comma) {
            literals.push(self.literal()?);
        }
        if self.accept(&Token::Close) { Ok(Literals::new(literals)) } else { self.expected("',' or ')'") }
    }

    fn literal(&mut self) -> Result<String, PredicateReason> {
        let literal = match self.peek() {
            Some(Token::Literal(text)) => text.clone(),
            Some(Token::Word(word)) if word == "true" || word == "false" => word.clone(),
            Some(Token::Word(word)) if word == "null" => return Err(PredicateReason::NullLiteral { at: self.at() }),
            _ => return self.expected("a literal: 'text', an integer, TRUE or FALSE"),
        };
        self.advance();
        Ok(literal)
    }

    fn peek(&self) -> Option<&Token> {
        self.tokens.first().map(|(_, token)| token)
    }

    fn at(&self) -> usize {
        self.tokens.first().map_or(self.end, |(at, _)| *at)
    }

    fn advance(&mut self) {
        self.tokens = self.tokens.get(1..).unwrap_or_default();
    }

    fn accept(&mut self, token: &Token) -> bool {
        let found = self.peek() == Some(token);
        if found {
            self.advance();
        }
        found
    }

    fn accept_word(&mut self, keyword: &str) -> bool {
        let found = matches!(self.peek(), Some(Token::Word(word)) if word == keyword);
        if found {
            self.advance();
        }
        found
    }

    fn expected<T>(&self, expected: &'static str) -> Result<T, PredicateReason> {
        Err(PredicateReason::Expected { at: self.at(), expected })
    }
}

/// Why a text is not a predicate. Displays with the text, the place and what to write instead.
///
/// ```
/// let error = cachetag_core::Predicate::parse("parent = null").unwrap_err();
/// assert_eq!(
///     error.to_string(),
///     r#"predicate "parent = null": a comparison with NULL at offset 9 never holds: write IS NULL or IS NOT NULL"#,
/// );
/// ```
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("predicate {text:?}: {reason}")]
pub struct PredicateError {
    text: Box<str>,
    #[source]
    reason: PredicateReason,
}

impl PredicateError {
    /// The rule that the text breaks.
    pub fn reason(&self) -> PredicateReason {
        self.reason
    }
}

/// The rule that the text of a predicate breaks. Offsets count bytes from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PredicateReason {
    /// Something else should stand here.
    #[error("expected at offset {at}: {expected}")]
    Expected {
        /// Offset of what stands there; the length of the text at its end.
        at: usize,
        /// What should.
        expected: &'static str,
    },
    /// A character that nothing in a predicate begins with.
    #[error(
        "{found:?} at offset {at} has no meaning here: compare columns with literals by =, <>, IN, NOT IN, IS NULL, joined by AND"
    )]
    Character {
        /// Its offset.
        at: usize,
        /// The character.
        found: char,
    },
    /// A quote that is not closed.
    #[error("the quote at offset {at} is not closed: a quote within quotes is doubled")]
    OpenQuote {
        /// Its offset.
        at: usize,
    },
    /// A number that is not an integer.
    #[error("the number at offset {at} is not an integer: write any other as text, for example '1.50'")]
    Number {
        /// Its offset.
        at: usize,
    },
    /// A comparison with NULL.
    #[error("a comparison with NULL at offset {at} never holds: write IS NULL or IS NOT NULL")]
    NullLiteral {
        /// Offset of the `NULL`.
        at: usize,
    },
}
