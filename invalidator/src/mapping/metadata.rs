//! Rows of the extension's catalog, read from their text form: the same at the start and from the stream.

use cachetag_core::{Predicate, Tag, TagError, Template, TemplateError, Value as Known};

use super::graph::Dependency;
use super::operation::{Operations, OperationsError};
use super::relation::Relation;
use super::text::{self, TextError};

/// The schema of the extension's catalog.
const NAMESPACE: &str = "cachetag";

/// A table of the extension's catalog that the mapping follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetadataTable {
    /// `cachetag.rule`
    Rule,
    /// `cachetag.binding`
    Binding,
    /// `cachetag.dependency`
    Dependency,
}

impl MetadataTable {
    /// The catalog table that a relation is, if it is one.
    pub fn of(relation: &Relation) -> Option<Self> {
        let all = [Self::Rule, Self::Binding, Self::Dependency];
        all.into_iter().find(|table| is_ours(relation) && *relation.name == *table.name())
    }

    /// The query whose rows [`Metadata`] reads. All three have to run in one snapshot.
    pub fn query(self) -> &'static str {
        match self {
            Self::Rule => {
                "SELECT id, relation, template, columns_that_matter, operations, soft, predicate, state FROM cachetag.rule"
            }
            Self::Binding => "SELECT id, rule_id, relation FROM cachetag.binding",
            Self::Dependency => "SELECT id, parent, child, soft, max_depth, operations FROM cachetag.dependency",
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Rule => "rule",
            Self::Binding => "binding",
            Self::Dependency => "dependency",
        }
    }
}

impl std::fmt::Display for MetadataTable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{NAMESPACE}.{}", self.name())
    }
}

/// Whether a relation is in the extension's schema.
pub(super) fn is_ours(relation: &Relation) -> bool {
    *relation.namespace == *NAMESPACE
}

/// The catalog as it was read at the start.
#[derive(Debug, Default)]
pub struct Metadata {
    pub(super) rules: Vec<(i64, Rule)>,
    pub(super) bindings: Vec<(i64, Binding)>,
    pub(super) dependencies: Vec<(i64, Dependency)>,
}

impl Metadata {
    /// Reads a row of [`MetadataTable::query`]; `column` gives the text of a column by name, `None` for NULL.
    pub fn add<'a>(
        &mut self,
        table: MetadataTable,
        column: impl Fn(&str) -> Option<&'a str>,
    ) -> Result<(), MetadataError> {
        let value = |name: &str| column(name).map_or(Known::Null, |text| Known::Text(text.as_bytes()));
        match table {
            MetadataTable::Rule => self.rules.push(Entry::read(&value)?),
            MetadataTable::Binding => self.bindings.push(Entry::read(&value)?),
            MetadataTable::Dependency => self.dependencies.push(Entry::read(&value)?),
        }
        Ok(())
    }
}

/// A row of the catalog that cannot be read. Nobody knows which tags the changes after it touch: the way on is a new epoch.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the rules could not be read: {table}, row {id}, column {column}: {reason}")]
pub struct MetadataError {
    table: MetadataTable,
    id: String,
    column: &'static str,
    reason: MetadataReason,
}

/// What is wrong with a value of the catalog.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum MetadataReason {
    #[error("not in the log; the catalog's tables need REPLICA IDENTITY FULL, and the extension the daemon's version")]
    Unknown,
    #[error("unexpected NULL; is the extension of another version than the daemon?")]
    Null,
    #[error(transparent)]
    Text(#[from] TextError),
    #[error(transparent)]
    Template(#[from] TemplateError),
    #[error(transparent)]
    Tag(#[from] TagError),
    #[error(transparent)]
    Operations(#[from] OperationsError),
}

/// A row of one of the tables.
pub(super) trait Entry: Sized {
    const TABLE: MetadataTable;

    /// Reads a row and its id.
    fn read<'a>(value: &dyn Fn(&str) -> Known<'a>) -> Result<(i64, Self), MetadataError>;
}

/// A row as its columns' values by name.
struct Fields<'f, 'a> {
    table: MetadataTable,
    value: &'f dyn Fn(&str) -> Known<'a>,
}

impl<'a> Fields<'_, 'a> {
    fn optional<T, E: Into<MetadataReason>>(
        &self,
        column: &'static str,
        read: impl FnOnce(&'a [u8]) -> Result<T, E>,
    ) -> Result<Option<T>, MetadataError> {
        match (self.value)(column) {
            Known::Null => Ok(None),
            Known::Text(text) => read(text).map(Some).map_err(|reason| self.error(column, reason)),
            Known::Unknown => Err(self.error(column, MetadataReason::Unknown)),
        }
    }

    fn required<T, E: Into<MetadataReason>>(
        &self,
        column: &'static str,
        read: impl FnOnce(&'a [u8]) -> Result<T, E>,
    ) -> Result<T, MetadataError> {
        self.optional(column, read)?.ok_or_else(|| self.error(column, MetadataReason::Null))
    }

    fn error(&self, column: &'static str, reason: impl Into<MetadataReason>) -> MetadataError {
        let id = match (self.value)("id") {
            Known::Text(id) => String::from_utf8_lossy(id).into_owned(),
            Known::Null | Known::Unknown => "unknown".to_owned(),
        };
        MetadataError { table: self.table, id, column, reason: reason.into() }
    }
}

/// A row of `cachetag.rule`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Rule {
    /// The table that was tracked; the tables bound to the rule are this one or its partitions and children.
    pub(super) relation: u32,
    pub(super) template: Template,
    /// The columns whose update matters beside those of the template and the predicate; `None`: every update matters.
    pub(super) columns_that_matter: Option<Vec<String>>,
    pub(super) operations: Operations,
    pub(super) soft: bool,
    pub(super) predicate: Option<Predicate>,
    /// Why the rule bumps its whole family, if it does.
    pub(super) degraded: Option<String>,
}

impl Entry for Rule {
    const TABLE: MetadataTable = MetadataTable::Rule;

    fn read<'a>(value: &dyn Fn(&str) -> Known<'a>) -> Result<(i64, Self), MetadataError> {
        let fields = Fields { table: Self::TABLE, value };
        let state = fields.required("state", |raw| text::utf8(raw).map(str::to_owned))?;
        let mut rule = Self {
            relation: fields.required("relation", text::number)?,
            template: fields.required("template", |raw| Ok::<_, MetadataReason>(Template::parse(text::utf8(raw)?)?))?,
            columns_that_matter: fields.optional("columns_that_matter", names)?,
            operations: fields.optional("operations", Operations::parse)?.unwrap_or(Operations::ALL),
            soft: fields.required("soft", text::boolean)?,
            predicate: None,
            degraded: (state != "ok").then_some(state),
        };
        // A predicate that this version does not understand only costs precision.
        if let Some(predicate) = fields.optional("predicate", |raw| text::utf8(raw).map(Predicate::parse))? {
            match predicate {
                Ok(predicate) => rule.predicate = Some(predicate),
                Err(error) => rule.degraded = Some(error.to_string()),
            }
        }
        Ok((fields.required("id", text::number)?, rule))
    }
}

fn names(raw: &[u8]) -> Result<Vec<String>, TextError> {
    let array = text::array(raw)?;
    array
        .into_iter()
        .map(|name| name.ok_or_else(|| TextError::Array(String::from_utf8_lossy(raw).into_owned())))
        .collect()
}

/// A row of `cachetag.binding`: changes of this table feed this rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Binding {
    pub(super) rule: i64,
    pub(super) relation: u32,
}

impl Entry for Binding {
    const TABLE: MetadataTable = MetadataTable::Binding;

    fn read<'a>(value: &dyn Fn(&str) -> Known<'a>) -> Result<(i64, Self), MetadataError> {
        let fields = Fields { table: Self::TABLE, value };
        let binding = Self {
            rule: fields.required("rule_id", text::number)?,
            relation: fields.required("relation", text::number)?,
        };
        Ok((fields.required("id", text::number)?, binding))
    }
}

impl Entry for Dependency {
    const TABLE: MetadataTable = MetadataTable::Dependency;

    fn read<'a>(value: &dyn Fn(&str) -> Known<'a>) -> Result<(i64, Self), MetadataError> {
        let fields = Fields { table: Self::TABLE, value };
        let dependency = Self {
            parent: fields.required("parent", tag)?,
            child: fields.required("child", tag)?,
            soft: fields.required("soft", text::boolean)?,
            max_depth: fields.optional("max_depth", text::number)?.unwrap_or(u32::MAX),
            operations: fields.optional("operations", Operations::parse)?.unwrap_or(Operations::ALL),
        };
        Ok((fields.required("id", text::number)?, dependency))
    }
}

fn tag(raw: &[u8]) -> Result<Tag, MetadataReason> {
    Ok(Tag::parse(text::utf8(raw)?)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    type Columns<'a> = &'a [(&'a str, Option<&'a str>)];

    const RULE: Columns<'static> = &[
        ("id", Some("7")),
        ("relation", Some("16384")),
        ("template", Some("product:{id}")),
        ("columns_that_matter", Some("{price,\"in stock\"}")),
        ("operations", Some("{update,delete}")),
        ("soft", Some("t")),
        ("predicate", Some("active = 't'")),
        ("state", Some("ok")),
    ];

    fn read(table: MetadataTable, columns: Columns<'_>, changed: Columns<'_>) -> Result<Metadata, MetadataError> {
        let mut metadata = Metadata::default();
        let find = |columns: Columns<'_>, name: &str| columns.iter().position(|(column, _)| *column == name);
        metadata.add(table, |name| match find(changed, name) {
            Some(at) => changed[at].1,
            None => columns[find(columns, name).expect("the query has the column")].1,
        })?;
        Ok(metadata)
    }

    fn rule(changed: Columns<'_>) -> Result<(i64, Rule), MetadataError> {
        read(MetadataTable::Rule, RULE, changed).map(|mut metadata| metadata.rules.remove(0))
    }

    #[test]
    fn a_rule_is_read() {
        let expected = Rule {
            relation: 16384,
            template: Template::parse("product:{id}").unwrap(),
            columns_that_matter: Some(vec!["price".into(), "in stock".into()]),
            operations: Operations::UPDATE | Operations::DELETE,
            soft: true,
            predicate: Some(Predicate::parse("active = 't'").unwrap()),
            degraded: None,
        };
        assert_eq!(rule(&[]), Ok((7, expected.clone())));
        let (_, sparse) = rule(&[("columns_that_matter", None), ("predicate", None), ("operations", None)]).unwrap();
        assert_eq!(
            sparse,
            Rule { columns_that_matter: None, predicate: None, operations: Operations::ALL, ..expected }
        );
    }

    #[test]
    fn a_rule_that_is_not_ok_says_why() {
        let degraded = |changed: Columns<'_>| rule(changed).unwrap().1.degraded;
        assert_eq!(degraded(&[("state", Some("column gone"))]), Some("column gone".into()));
        assert!(degraded(&[("predicate", Some("price > 3"))]).is_some());
    }

    #[test]
    fn errors_name_the_table_the_column_and_the_cause() {
        let message = |changed: Columns<'_>| rule(changed).unwrap_err().to_string();
        assert!(
            message(&[("id", None)])
                .starts_with("the rules could not be read: cachetag.rule, row unknown, column id: unexpected NULL")
        );
        assert!(
            message(&[("soft", Some("maybe"))])
                .contains("cachetag.rule, row 7, column soft: \"maybe\" is not a boolean")
        );
        assert!(message(&[("template", Some("{id}"))]).contains("column template: template \"{id}\""));
        assert!(message(&[("operations", Some("{merge}"))]).contains("unknown operation \"merge\""));
        assert!(message(&[("columns_that_matter", Some("{NULL}"))]).contains("{NULL}"));
        assert!(message(&[("relation", Some("-1"))]).contains("column relation: \"-1\""));
    }

    #[test]
    fn bindings_and_dependencies_are_read() {
        let columns: Columns<'_> = &[("id", Some("1")), ("rule_id", Some("7")), ("relation", Some("4294967295"))];
        let metadata = read(MetadataTable::Binding, columns, &[]).unwrap();
        assert_eq!(metadata.bindings, [(1, Binding { rule: 7, relation: u32::MAX })]);

        let columns: Columns<'_> = &[
            ("id", Some("2")),
            ("parent", Some("p:*")),
            ("child", Some("home")),
            ("soft", Some("f")),
            ("max_depth", Some("3")),
            ("operations", Some("{insert}")),
        ];
        let expected = Dependency {
            parent: Tag::parse("p:*").unwrap(),
            child: Tag::parse("home").unwrap(),
            soft: false,
            max_depth: 3,
            operations: Operations::INSERT,
        };
        assert_eq!(read(MetadataTable::Dependency, columns, &[]).unwrap().dependencies, [(2, expected.clone())]);
        let unlimited = read(MetadataTable::Dependency, columns, &[("max_depth", None)]).unwrap();
        assert_eq!(unlimited.dependencies, [(2, Dependency { max_depth: u32::MAX, ..expected })]);
        let error = read(MetadataTable::Dependency, columns, &[("child", Some("home page"))]).unwrap_err();
        assert!(error.to_string().contains("cachetag.dependency, row 2, column child: tag \"home page\""), "{error}");
    }

    #[test]
    fn the_queries_name_every_column_that_is_read() {
        for (table, columns) in [(MetadataTable::Rule, RULE)] {
            for (column, _) in columns {
                assert!(table.query().contains(column), "{column}");
            }
        }
    }
}
