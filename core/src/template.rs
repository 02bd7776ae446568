//! Templates: how a row becomes a tag.

use std::fmt;
use std::str::{self, FromStr};

use crate::tag::{self, Tag, TagReason, encode_part_bytes};

/// Text of a tag with the names of columns in braces: `product:{id}`, `order:{shop}:v{major}`, `homepage`, `product:*`.
///
/// What is not in braces is canonical text of a tag. A placeholder may stand anywhere after the family, as a whole part or within one; the name
/// in it is the column's name as it is, with `}` doubled. A template without placeholders is a constant tag.
///
/// ```
/// use cachetag_core::{Rendered, Template};
///
/// let template: Template = "order:{shop}:{no}".parse()?;
/// assert_eq!(template.columns().collect::<Vec<_>>(), ["shop", "no"]);
/// assert_eq!(template.family(), "order");
/// assert_eq!(template.render(|_| None), Rendered::Null);
/// # Ok::<(), cachetag_core::TemplateError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Template {
    pieces: Pieces<String>,
}

/// A template whose columns are numbers: the form in which it meets the rows. Made by [`Template::bind`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BoundTemplate {
    pieces: Pieces<usize>,
    columns: Box<[usize]>,
    whole_family: Tag,
}

/// A placeholder a step, each with the literal text before it, and the literal text after the last one.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Pieces<C> {
    steps: Box<[Step<C>]>,
    tail: Box<str>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Step<C> {
    literal: Box<str>,
    column: C,
}

/// The tag of a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rendered {
    /// This tag.
    Tag(Tag),
    /// No tag: a column is NULL. That holds whatever is wrong with the other columns.
    Null,
    /// The tag would have more than [`Tag::MAX_LEN`] bytes: take the whole family.
    TooLong,
    /// The tag would not be UTF-8: take the whole family.
    Unrenderable,
}

/// What [`BoundTemplate::render_into`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RenderOutcome {
    /// It appended the canonical text of a tag.
    Tag,
    /// Nothing: a column is NULL, and there is no tag. That holds whatever is wrong with the other columns.
    Null,
    /// Nothing: the tag would have more than [`Tag::MAX_LEN`] bytes. Take the whole family.
    TooLong,
    /// Nothing: the tag would not be UTF-8. Take the whole family.
    Unrenderable,
}

impl Template {
    /// Reads a template. Its text is the only one of the template: [`Template`] displays as what was parsed.
    pub fn parse(text: &str) -> Result<Template, TemplateError> {
        match parse_pieces(text) {
            Ok(pieces) => Ok(Template { pieces }),
            Err(reason) => Err(TemplateError { text: tag::excerpt(text), reason }),
        }
    }

    /// The names of the columns, each once, in the order in which they first appear.
    pub fn columns(&self) -> impl Iterator<Item = &str> {
        let steps = &self.pieces.steps;
        let is_first = |at: usize| steps[..at].iter().all(|earlier| earlier.column != steps[at].column);
        steps.iter().enumerate().filter(move |(at, _)| is_first(*at)).map(|(_, step)| step.column.as_str())
    }

    /// The family of every tag that this template renders, as canonical text; `*` for the template `*`.
    pub fn family(&self) -> &str {
        let first = self.pieces.steps.first().map_or(&self.pieces.tail, |step| &step.literal);
        first.split_once(':').map_or(first, |(family, _)| family)
    }

    /// The tag to take when there is no narrower one: `family:*`, or `*` for the template `*`.
    pub fn whole_family(&self) -> Tag {
        match self.family() {
            "*" => Tag::everything(),
            family => Tag::from_canonical(format!("{family}:*")),
        }
    }

    /// Is it without placeholders? Then it is the same tag for every row.
    pub fn is_constant(&self) -> bool {
        self.pieces.steps.is_empty()
    }

    /// Is it the constant `family:*`?
    pub fn is_whole_family(&self) -> bool {
        self.is_constant() && self.pieces.tail.ends_with(":*")
    }

    /// The tag of a row of which `value` gives the columns by name, as PostgreSQL's text output; `None` is NULL.
    pub fn render<'a>(&self, mut value: impl FnMut(&str) -> Option<&'a [u8]>) -> Rendered {
        let mut text = Vec::new();
        match self.pieces.render_into(|column| value(column), &mut text) {
            // UTF-8 has been looked at; looking again is the price of having no unsafe code here.
            RenderOutcome::Tag => {
                String::from_utf8(text).map_or(Rendered::Unrenderable, |text| Rendered::Tag(Tag::from_canonical(text)))
            }
            RenderOutcome::Null => Rendered::Null,
            RenderOutcome::TooLong => Rendered::TooLong,
            RenderOutcome::Unrenderable => Rendered::Unrenderable,
        }
    }

    /// Puts the numbers of columns in the place of their names. `index_of` is asked once for each name; `None` means that there is no such column.
    pub fn bind(&self, mut index_of: impl FnMut(&str) -> Option<usize>) -> Result<BoundTemplate, UnknownColumn> {
        let mut numbers: Vec<(&str, usize)> = Vec::new();
        for name in self.columns() {
            let index = index_of(name).ok_or_else(|| UnknownColumn::new(name))?;
            numbers.push((name, index));
        }
        let number_of = |name: &str| numbers.iter().find(|(known, _)| *known == name).map(|(_, index)| *index);
        let steps = self
            .pieces
            .steps
            .iter()
            .filter_map(|step| Some(Step { literal: step.literal.clone(), column: number_of(&step.column)? }))
            .collect();
        Ok(BoundTemplate {
            columns: numbers.iter().map(|(_, index)| *index).collect(),
            pieces: Pieces { steps, tail: self.pieces.tail.clone() },
            whole_family: self.whole_family(),
        })
    }

    /// The template after a column was renamed.
    ///
    /// ```
    /// let template: cachetag_core::Template = "product:{id}".parse()?;
    /// assert_eq!(template.rename_column("id", "sku").to_string(), "product:{sku}");
    /// # Ok::<(), cachetag_core::TemplateError>(())
    /// ```
    pub fn rename_column(&self, old: &str, new: &str) -> Template {
        let mut renamed = self.clone();
        for step in &mut renamed.pieces.steps {
            if step.column == old {
                step.column = new.to_owned();
            }
        }
        renamed
    }
}

impl BoundTemplate {
    /// Appends to `out` the tag of a row of which `value` gives the columns by number, as PostgreSQL's text output; `None` is NULL.
    ///
    /// Leaves `out` as it was unless the outcome is [`RenderOutcome::Tag`], when what was appended is the canonical text of a tag. Allocates only if
    /// `out` has to grow.
    ///
    /// ```
    /// use cachetag_core::{RenderOutcome, Template};
    ///
    /// let row = [Some(b"7".as_slice()), Some(b"in stock".as_slice()), None];
    /// let template = Template::parse("stock:{state}:{id}").unwrap().bind(|name| ["id", "state"].iter().position(|column| *column == name)).unwrap();
    ///
    /// let mut out = Vec::new();
    /// assert_eq!(template.render_into(|index| row[index], &mut out), RenderOutcome::Tag);
    /// assert_eq!(out, b"stock:in%20stock:7");
    /// ```
    pub fn render_into<'a>(
        &self,
        mut value: impl FnMut(usize) -> Option<&'a [u8]>,
        out: &mut Vec<u8>,
    ) -> RenderOutcome {
        self.pieces.render_into(|column| value(*column), out)
    }

    /// The numbers of the columns, one for each name in the template.
    pub fn columns(&self) -> &[usize] {
        &self.columns
    }

    /// The tag to take when there is no narrower one: `family:*`, or `*` for the template `*`.
    pub fn whole_family(&self) -> &Tag {
        &self.whole_family
    }
}

impl<C> Pieces<C> {
    fn render_into<'a>(&self, mut value: impl FnMut(&C) -> Option<&'a [u8]>, out: &mut Vec<u8>) -> RenderOutcome {
        let start = out.len();
        let mut fits = true;
        for step in &self.steps {
            let Some(raw) = value(&step.column) else {
                out.truncate(start);
                return RenderOutcome::Null;
            };
            // An encoded value is not shorter than a raw one. After one that is too long, the others are still asked for NULL.
            fits = fits && out.len() - start + step.literal.len() + raw.len() <= Tag::MAX_LEN;
            if fits {
                out.extend_from_slice(step.literal.as_bytes());
                encode_part_bytes(raw, out);
            }
        }
        out.extend_from_slice(self.tail.as_bytes());
        let outcome = if !fits || out.len() - start > Tag::MAX_LEN {
            RenderOutcome::TooLong
        } else if str::from_utf8(&out[start..]).is_err() {
            RenderOutcome::Unrenderable
        } else {
            return RenderOutcome::Tag;
        };
        out.truncate(start);
        outcome
    }
}

fn parse_pieces(text: &str) -> Result<Pieces<String>, TemplateReason> {
    let Some(first_brace) = text.find('{') else {
        tag::check_tag(text)?;
        return Ok(Pieces { steps: Box::default(), tail: text.into() });
    };
    let family_len = text[..first_brace].find(':').ok_or(TemplateReason::FamilyPlaceholder { at: first_brace })?;
    tag::check_family_len(family_len)?;

    let mut steps = Vec::new();
    let mut literal_len = 0;
    let mut rest = text;
    while let Some(brace) = rest.find('{') {
        let at = text.len() - rest.len();
        let literal = &rest[..brace];
        tag::check_encoded(literal, at)?;
        literal_len += literal.len();
        let (column, after) =
            parse_column(&rest[brace + 1..]).ok_or(TemplateReason::UnclosedBrace { at: at + brace })?;
        if column.is_empty() {
            return Err(TemplateReason::NoColumn { at: at + brace });
        }
        steps.push(Step { literal: literal.into(), column });
        rest = after;
    }
    tag::check_encoded(rest, text.len() - rest.len())?;
    tag::check_len(literal_len + rest.len())?;
    Ok(Pieces { steps: steps.into(), tail: rest.into() })
}

/// The name up to a `}` that is not doubled, and what follows it.
fn parse_column(mut rest: &str) -> Option<(String, &str)> {
    let mut column = String::new();
    loop {
        let (name, after) = rest.split_once('}')?;
        column.push_str(name);
        match after.strip_prefix('}') {
            Some(more) => {
                column.push('}');
                rest = more;
            }
            None => return Some((column, after)),
        }
    }
}

impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for step in &self.pieces.steps {
            write!(f, "{}{{{}}}", step.literal, step.column.replace('}', "}}"))?;
        }
        f.write_str(&self.pieces.tail)
    }
}

impl FromStr for Template {
    type Err = TemplateError;

    fn from_str(text: &str) -> Result<Template, TemplateError> {
        Template::parse(text)
    }
}

/// A template or a predicate names a column that the relation does not have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no column {column:?}: correct the name, or add the column to the table and to the publication")]
pub struct UnknownColumn {
    column: Box<str>,
}

impl UnknownColumn {
    pub(crate) fn new(column: &str) -> UnknownColumn {
        UnknownColumn { column: column.into() }
    }

    /// The name that was not found.
    pub fn column(&self) -> &str {
        &self.column
    }
}

/// Why a text is not a template. Displays with the text, the place and what to write instead.
///
/// ```
/// let error = cachetag_core::Template::parse("{kind}:{id}").unwrap_err();
/// assert_eq!(
///     error.to_string(),
///     r#"template "{kind}:{id}": the family before the first ':' must be literal text, but a column begins at offset 0: write for example "kind:{kind}""#,
/// );
/// ```
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("template {text:?}: {reason}")]
pub struct TemplateError {
    text: Box<str>,
    #[source]
    reason: TemplateReason,
}

impl TemplateError {
    /// The rule that the text breaks.
    pub fn reason(&self) -> TemplateReason {
        self.reason
    }
}

/// The rule that the text of a template breaks. Offsets count bytes from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TemplateReason {
    /// The literal text is not canonical text of a tag.
    #[error(transparent)]
    Tag(#[from] TagReason),
    /// A placeholder stands before the first `:`.
    #[error(
        "the family before the first ':' must be literal text, but a column begins at offset {at}: write for example \"kind:{{kind}}\""
    )]
    FamilyPlaceholder {
        /// Offset of the `{`.
        at: usize,
    },
    /// A `{` without its `}`.
    #[error(
        "'{{' at offset {at} is not closed: write the column as {{name}}, with a '}}' in its name doubled; a literal '{{' is %7B"
    )]
    UnclosedBrace {
        /// Offset of the `{`.
        at: usize,
    },
    /// A placeholder without a name.
    #[error("the braces at offset {at} name no column: write {{name}}")]
    NoColumn {
        /// Offset of the `{`.
        at: usize,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    fn template(text: &str) -> Template {
        Template::parse(text).unwrap()
    }

    #[test]
    fn binding_asks_for_each_name_once() {
        let mut asked = Vec::new();
        let bound = template("r:{b}:{a}{b}").bind(|name| {
            asked.push(name.to_owned());
            Some(if name == "a" { 7 } else { 3 })
        });
        assert_eq!(bound.unwrap().columns(), [3, 7]);
        assert_eq!(asked, ["b", "a"]);
    }

    #[test]
    fn an_unknown_column_is_named() {
        let error = template("r:{a}:{b}").bind(|name| (name == "a").then_some(0)).unwrap_err();
        assert_eq!(error.column(), "b");
    }

    #[test]
    fn a_constant_needs_no_row() {
        let bound = template("product:*").bind(|_| None).unwrap();
        let mut out = Vec::new();
        assert_eq!(bound.render_into(|_| None, &mut out), RenderOutcome::Tag);
        assert_eq!(out, b"product:*");
        assert!(template("product:*").is_whole_family());
        assert!(!template("product").is_whole_family() && !template("product:{id}").is_whole_family());
    }

    #[test]
    fn tags_are_appended_one_to_another() {
        let bound = template("a:{x}").bind(|_| Some(0)).unwrap();
        let mut out = Vec::new();
        for value in [Some("1"), None, Some("2")] {
            bound.render_into(|_| value.map(str::as_bytes), &mut out);
        }
        assert_eq!(out, b"a:1a:2");
    }

    #[test]
    fn renaming_keeps_braces_doubled() {
        assert_eq!(template("a:{x}{y}:{x}").rename_column("x", "}").to_string(), "a:{}}}{y}:{}}}");
    }

    #[test]
    fn errors_name_place_and_remedy() {
        let message = |text: &str| Template::parse(text).unwrap_err().to_string();
        assert_eq!(
            message("a:{id"),
            "template \"a:{id\": '{' at offset 2 is not closed: write the column as {name}, with a '}' in its name doubled; a literal '{' is %7B"
        );
        assert_eq!(message("a:{x}{}"), "template \"a:{x}{}\": the braces at offset 5 name no column: write {name}");
        assert_eq!(message("a:{x} "), "template \"a:{x} \": ' ' at offset 5 must be written %20");
    }
}
