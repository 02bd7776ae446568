//! Rules as they meet the rows of one table.

use cachetag_core::{BoundPredicate, BoundTemplate, RenderOutcome, Tag, Value as Known};

use super::bumps::{Added, TagSet};
use super::graph::Graph;
use super::metadata::Rule;
use super::operation::{Marks, Operations};
use super::relation::Relation;
use super::row::{After, Before, Row, Side};

/// How often the mapping had to bump more than what has changed, since the daemon started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Widened {
    /// Changes under rules that can only bump their whole family.
    pub rules: u64,
    /// A tag needed a value that the log does not hold: the replica identity, or a TOAST value that did not change.
    pub unknown_values: u64,
    /// A tag would have been too long or not UTF-8.
    pub unrenderable: u64,
    /// Families that were bumped as a whole because a transaction had too many tags.
    pub families: u64,
    /// Transactions that bumped everything: too many families, or too wide a graph.
    pub transactions: u64,
}

/// Where changed tags go.
pub(super) struct Changes<'m> {
    pub(super) tags: &'m mut TagSet,
    /// `None`: the edges are fired later.
    pub(super) graph: Option<&'m mut Graph>,
    pub(super) widened: &'m mut Widened,
    /// Reused from row to row.
    pub(super) text: &'m mut Vec<u8>,
}

impl Changes<'_> {
    /// A tag has changed.
    pub(super) fn touch(&mut self, tag: &str, marks: Marks) {
        match self.tags.add(tag, marks) {
            Added::Known => {}
            // A tag that its family absorbs still has edges of its own.
            Added::New | Added::Absorbed => {
                if let Some(graph) = &mut self.graph {
                    graph.seed(tag, marks);
                }
            }
        }
    }
}

/// A rule bound to the columns of one table.
#[derive(Debug)]
pub(super) struct CompiledRule {
    operations: Operations,
    soft: bool,
    /// Whether the table is a partition (or child) of the one that was tracked.
    is_part: bool,
    whole_family: Tag,
    form: Form,
}

#[derive(Debug)]
enum Form {
    /// Any change may concern any tag of the family.
    WholeFamily,
    /// A template without placeholders.
    Constant(Tag, Condition),
    Rows(BoundTemplate, Condition),
}

/// Which rows and which of their updates count.
#[derive(Debug)]
struct Condition {
    predicate: Option<BoundPredicate>,
    /// Of these columns, beside those of the template and the predicate, an update has to change one.
    columns: Option<Box<[usize]>>,
}

impl CompiledRule {
    /// Binds a rule. What cannot be bound makes it a rule that bumps its whole family; the second result says why.
    pub(super) fn new(rule: &Rule, relation: &Relation) -> (Self, Option<String>) {
        let (form, degraded) = match Form::new(rule, relation) {
            Ok(form) => (form, None),
            Err(reason) => (Form::WholeFamily, Some(reason)),
        };
        let compiled = Self {
            operations: rule.operations,
            soft: rule.soft,
            is_part: rule.relation != relation.oid,
            whole_family: rule.template.whole_family(),
            form,
        };
        (compiled, degraded)
    }

    /// A row was inserted.
    pub(super) fn insert<R: Row + ?Sized>(&self, row: &After<'_, R>, changes: &mut Changes<'_>) {
        if let Some(marks) = self.marks(Operations::INSERT) {
            self.touch_side(row, marks, changes);
        }
    }

    /// A row was deleted.
    pub(super) fn delete<R: Row + ?Sized>(&self, row: &Before<'_, R>, changes: &mut Changes<'_>) {
        if let Some(marks) = self.marks(Operations::DELETE) {
            self.touch_side(row, marks, changes);
        }
    }

    /// A row was updated: both what it was and what it is now have changed.
    pub(super) fn update<R: Row + ?Sized>(&self, row: &After<'_, R>, changes: &mut Changes<'_>) {
        let Some(marks) = self.marks(Operations::UPDATE) else { return };
        let (template, condition) = match &self.form {
            Form::WholeFamily => return self.touch_side(row, marks, changes),
            Form::Constant(_, condition) => (None, condition),
            Form::Rows(template, condition) => (Some(template), condition),
        };
        let may_differ = |columns: &[usize]| columns.iter().any(|column| row.may_differ(*column));
        let tag_may_differ = template.is_some_and(|template| may_differ(template.columns()));
        let (before, after) = (condition.holds(&row.before), condition.holds(row));
        if let Some(columns) = &condition.columns {
            let predicate_may_differ = match (before, after) {
                (Some(before), Some(after)) => before != after,
                _ => condition.predicate.as_ref().is_some_and(|predicate| may_differ(predicate.columns())),
            };
            if !tag_may_differ && !predicate_may_differ && !may_differ(columns) {
                return;
            }
        }
        let (before, after) = (before != Some(false), after != Some(false));
        if before {
            self.touch_tag(&row.before, marks, changes);
        }
        // The new row's tag, unless it is sure to be the old one's.
        if after && (!before || tag_may_differ) {
            self.touch_tag(row, marks, changes);
        }
    }

    /// The table was emptied.
    pub(super) fn truncate(&self, changes: &mut Changes<'_>) {
        let Some(marks) = self.marks(Operations::TRUNCATE) else { return };
        match &self.form {
            Form::Constant(tag, _) => changes.touch(tag.as_str(), marks),
            Form::WholeFamily | Form::Rows(..) => changes.touch(self.whole_family.as_str(), marks),
        }
    }

    /// The marks of a change by this operation, if the rule listens to it.
    fn marks(&self, operation: Operations) -> Option<Marks> {
        // An update that moves a row between partitions is logged as a delete here and an insert there.
        let moves = self.is_part && (Operations::INSERT | Operations::DELETE).intersects(operation);
        let cause = if moves { operation | Operations::UPDATE } else { operation };
        self.operations.intersects(cause).then(|| Marks::new(cause, self.soft))
    }

    fn touch_side(&self, side: &impl Side, marks: Marks, changes: &mut Changes<'_>) {
        let holds = match &self.form {
            Form::WholeFamily => {
                changes.widened.rules += 1;
                return changes.touch(self.whole_family.as_str(), marks);
            }
            Form::Constant(_, condition) | Form::Rows(_, condition) => condition.holds(side),
        };
        if holds != Some(false) {
            self.touch_tag(side, marks, changes);
        }
    }

    /// The tag of one side of a row.
    fn touch_tag(&self, side: &impl Side, marks: Marks, changes: &mut Changes<'_>) {
        let template = match &self.form {
            Form::WholeFamily => return changes.touch(self.whole_family.as_str(), marks),
            Form::Constant(tag, _) => return changes.touch(tag.as_str(), marks),
            Form::Rows(template, _) => template,
        };
        let mut is_unknown = false;
        for column in template.columns() {
            match side.known(*column) {
                // No tag, whatever the other columns are.
                Known::Null => return,
                Known::Unknown => is_unknown = true,
                Known::Text(_) => {}
            }
        }
        if is_unknown {
            changes.widened.unknown_values += 1;
            return changes.touch(self.whole_family.as_str(), marks);
        }
        let mut text = std::mem::take(changes.text);
        text.clear();
        let value = |column| match side.known(column) {
            Known::Text(text) => Some(text),
            Known::Null | Known::Unknown => None,
        };
        match (template.render_into(value, &mut text), std::str::from_utf8(&text)) {
            (RenderOutcome::Tag, Ok(tag)) => changes.touch(tag, marks),
            (RenderOutcome::Null, _) => {}
            _ => {
                changes.widened.unrenderable += 1;
                changes.touch(self.whole_family.as_str(), marks);
            }
        }
        *changes.text = text;
    }
}

impl Form {
    fn new(rule: &Rule, relation: &Relation) -> Result<Self, String> {
        if let Some(reason) = &rule.degraded {
            return Err(reason.clone());
        }
        let index_of = |name: &str| relation.column(name);
        let predicate = match &rule.predicate {
            Some(predicate) => Some(predicate.bind(index_of).map_err(|error| error.to_string())?),
            None => None,
        };
        // A column that the stream does not carry, such as a generated one, may change with any other.
        let columns =
            rule.columns_that_matter.as_ref().and_then(|names| names.iter().map(|name| index_of(name)).collect());
        let condition = Condition { predicate, columns };
        if rule.template.is_constant() {
            let tag = Tag::parse(&rule.template.to_string()).map_err(|error| error.to_string())?;
            return Ok(Self::Constant(tag, condition));
        }
        Ok(Self::Rows(rule.template.bind(index_of).map_err(|error| error.to_string())?, condition))
    }
}

impl Condition {
    /// Whether the predicate holds; `None` if that depends on an unknown value.
    fn holds(&self, side: &impl Side) -> Option<bool> {
        self.predicate.as_ref().map_or(Some(true), |predicate| predicate.eval(|column| side.known(column)))
    }
}
