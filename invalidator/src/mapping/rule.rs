//! A rule compiled against a physical table, and what it makes of a changed row.

use cachetag_core::{BoundPredicate, BoundTemplate, RenderOutcome, Tag, Value};

use super::catalog::Rule;
use super::operation::Operations;
use super::relation::Relation;
use super::row::{After, Before, Known, OldRow, Row, Side};

/// Receives the tags that a change touches: the tag, the cause, and whether softly.
pub(super) type Touch<'t> = dyn FnMut(&[u8], Operations, bool) + 't;

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct CompiledRule {
    /// `None`: a column is missing, or the extension found something wrong: the whole family, at every change.
    precise: Option<Precise>,
    family: Tag,
    operations: Operations,
    soft: bool,
    /// Rows may move between this table and another that feeds the rule; the log shows that as a delete and an insert.
    rows_may_move: bool,
}

#[derive(Debug)]
struct Precise {
    template: BoundTemplate,
    is_constant: bool,
    predicate: Option<BoundPredicate>,
    /// Columns of which at least one must differ for an update to count.
    must_differ: Option<Vec<usize>>,
}

impl CompiledRule {
    pub(super) fn new(rule: &Rule, relation: &Relation, rows_may_move: bool) -> Self {
        Self {
            precise: if rule.is_sound { Precise::new(rule, relation) } else { None },
            family: rule.template.whole_family(),
            operations: rule.operations,
            soft: rule.soft,
            rows_may_move,
        }
    }

    /// The causes of a change that the log shows as `shown`.
    fn cause(&self, shown: Operations) -> Operations {
        if self.rows_may_move { shown | Operations::UPDATE } else { shown }
    }

    pub(super) fn insert<R: Row + ?Sized>(
        &self,
        relation: &Relation,
        new: &R,
        out: &mut Vec<u8>,
        touch: &mut Touch<'_>,
    ) {
        let cause = self.cause(Operations::INSERT);
        if self.operations.intersects(cause) {
            let after = After::insert(relation, new);
            match &self.precise {
                None => self.touch_family(cause, touch),
                Some(precise) if precise.matches(&after) => self.touch_row(precise, &after, cause, out, touch),
                Some(_) => {}
            }
        }
    }

    pub(super) fn delete<R: Row + ?Sized>(
        &self,
        relation: &Relation,
        old: OldRow<'_, R>,
        out: &mut Vec<u8>,
        touch: &mut Touch<'_>,
    ) {
        let cause = self.cause(Operations::DELETE);
        if self.operations.intersects(cause) {
            let before = Before { relation, old, new: None };
            match &self.precise {
                None => self.touch_family(cause, touch),
                Some(precise) if precise.matches(&before) => self.touch_row(precise, &before, cause, out, touch),
                Some(_) => {}
            }
        }
    }

    pub(super) fn update<R: Row + ?Sized>(
        &self,
        relation: &Relation,
        old: OldRow<'_, R>,
        new: &R,
        out: &mut Vec<u8>,
        touch: &mut Touch<'_>,
    ) {
        let cause = Operations::UPDATE;
        if !self.operations.intersects(cause) {
            return;
        }
        let Some(precise) = &self.precise else {
            self.touch_family(cause, touch);
            return;
        };
        let before = Before { relation, old, new: Some(new) };
        let after = After::update(relation, old, new);
        if let Some(columns) = &precise.must_differ
            && !columns.iter().any(|&column| after.may_differ(column))
        {
            return;
        }
        let matches_after = precise.matches(&after);
        if matches_after {
            self.touch_row(precise, &after, cause, out, touch);
        }
        let same_tag = matches_after && !precise.template.columns().iter().any(|&column| after.may_differ(column));
        if !same_tag && precise.matches(&before) {
            self.touch_row(precise, &before, cause, out, touch);
        }
    }

    pub(super) fn truncate(&self, out: &mut Vec<u8>, touch: &mut Touch<'_>) {
        let cause = Operations::TRUNCATE;
        if self.operations.intersects(cause) {
            match &self.precise {
                Some(precise) if precise.is_constant => {
                    out.clear();
                    precise.template.render_into(|_| None, out);
                    touch(out, cause, self.soft);
                }
                _ => self.touch_family(cause, touch),
            }
        }
    }

    fn touch_family(&self, cause: Operations, touch: &mut Touch<'_>) {
        touch(self.family.as_str().as_bytes(), cause, self.soft);
    }

    /// The tag of one side of the row, or the family where it cannot be told.
    fn touch_row(
        &self,
        precise: &Precise,
        side: &impl Side,
        cause: Operations,
        out: &mut Vec<u8>,
        touch: &mut Touch<'_>,
    ) {
        out.clear();
        let mut unknown = false;
        let outcome = precise.template.render_into(
            |column| match side.known(column) {
                Known::Text(text) => Some(text),
                Known::Null => None,
                Known::Unknown => {
                    unknown = true;
                    None
                }
            },
            out,
        );
        match outcome {
            _ if unknown => self.touch_family(cause, touch),
            RenderOutcome::Tag => touch(out, cause, self.soft),
            RenderOutcome::Null => {}
            RenderOutcome::TooLong | RenderOutcome::Unrenderable => self.touch_family(cause, touch),
        }
    }
}

impl Precise {
    /// `None` when a column that the rule names is not in the stream.
    fn new(rule: &Rule, relation: &Relation) -> Option<Self> {
        let template = rule.template.bind(|name| relation.column(name)).ok()?;
        let predicate = match &rule.predicate {
            Some(predicate) => Some(predicate.bind(|name| relation.column(name)).ok()?),
            None => None,
        };
        let must_differ = match &rule.columns_that_matter {
            None => None,
            Some(names) => {
                let mut columns = names.iter().map(|name| relation.column(name)).collect::<Option<Vec<usize>>>()?;
                columns.extend(template.columns());
                columns.extend(predicate.iter().flat_map(|predicate| predicate.columns()));
                Some(columns)
            }
        };
        Some(Self { is_constant: rule.template.is_constant(), template, predicate, must_differ })
    }

    /// What is not known to be outside of the predicate is inside.
    fn matches(&self, side: &impl Side) -> bool {
        let Some(predicate) = &self.predicate else { return true };
        let verdict = predicate.eval(|column| match side.known(column) {
            Known::Text(text) => Value::Text(text),
            Known::Null => Value::Null,
            Known::Unknown => Value::Unknown,
        });
        verdict != Some(false)
    }
}
