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
        all.into_iter().find(|table| *relation.namespace == *NAMESPACE && *relation.name == *table.name())
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

/// The catalog cannot be read, so nobody knows which tags the following changes touch. The way on is a new epoch.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the rules could not be read: {table}, column {column}: {reason}")]
pub struct MetadataError {
    table: MetadataTable,
    column: &'static str,
    reason: MetadataReason,
}

/// What is wrong with a value of the catalog.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum MetadataReason {
    #[error("not in the log; the catalog's tables need REPLICA IDENTITY FULL: run SELECT cachetag.attach()")]
    Unknown,
    #[error("unexpected NULL; does the extension's version fit the daemon's?")]
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
    /// Reads a row and its id.
    fn read<'a>(value: &dyn Fn(&str) -> Known<'a>) -> Result<(i64, Self), MetadataError>;
}

/// One column of one row, for errors that name it.
struct Field<'a> {
    table: MetadataTable,
    column: &'static str,
    value: Known<'a>,
}

impl<'a> Field<'a> {
    fn optional<T, E: Into<MetadataReason>>(
        self,
        read: impl FnOnce(&'a [u8]) -> Result<T, E>,
    ) -> Result<Option<T>, MetadataError> {
        match self.value {
            Known::Null => Ok(None),
            Known::Text(text) => read(text).map(Some).map_err(|reason| self.error(reason)),
            Known::Unknown => Err(self.error(MetadataReason::Unknown)),
        }
    }

    fn required<T, E: Into<MetadataReason>>(
        self,
        read: impl FnOnce(&'a [u8]) -> Result<T, E>,
    ) -> Result<T, MetadataError> {
        let null = MetadataError { table: self.table, column: self.column, reason: MetadataReason::Null };
        self.optional(read)?.ok_or(null)
    }

    fn error(&self, reason: impl Into<MetadataReason>) -> MetadataError {
        MetadataError { table: self.table, column: self.column, reason: reason.into() }
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
    fn read<'a>(value: &dyn Fn(&str) -> Known<'a>) -> Result<(i64, Self), MetadataError> {
        let field = |column| Field { table: MetadataTable::Rule, column, value: value(column) };
        let state = field("state").required(|raw| text::utf8(raw).map(str::to_owned))?;
        let mut rule = Self {
            relation: field("relation").required(text::number)?,
            template: field("template").required(|raw| Ok::<_, MetadataReason>(Template::parse(text::utf8(raw)?)?))?,
            columns_that_matter: field("columns_that_matter").optional(names)?,
            operations: field("operations").optional(Operations::parse)?.unwrap_or(Operations::ALL),
            soft: field("soft").required(text::boolean)?,
            predicate: None,
            degraded: (state != "ok").then_some(state),
        };
        // A predicate that this version does not understand only costs precision.
        if let Some(predicate) = field("predicate").optional(|raw| text::utf8(raw).map(Predicate::parse))? {
            match predicate {
                Ok(predicate) => rule.predicate = Some(predicate),
                Err(error) => rule.degraded = Some(error.to_string()),
            }
        }
        Ok((field("id").required(text::number)?, rule))
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
    fn read<'a>(value: &dyn Fn(&str) -> Known<'a>) -> Result<(i64, Self), MetadataError> {
        let field = |column| Field { table: MetadataTable::Binding, column, value: value(column) };
        let binding = Self {
            rule: field("rule_id").required(text::number)?,
            relation: field("relation").required(text::number)?,
        };
        Ok((field("id").required(text::number)?, binding))
    }
}

impl Entry for Dependency {
    fn read<'a>(value: &dyn Fn(&str) -> Known<'a>) -> Result<(i64, Self), MetadataError> {
        let field = |column| Field { table: MetadataTable::Dependency, column, value: value(column) };
        let dependency = Self {
            parent: field("parent").required(tag)?,
            child: field("child").required(tag)?,
            soft: field("soft").required(text::boolean)?,
            max_depth: field("max_depth").optional(text::number)?.unwrap_or(u32::MAX),
            operations: field("operations").optional(Operations::parse)?.unwrap_or(Operations::ALL),
        };
        Ok((field("id").required(text::number)?, dependency))
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
                .starts_with("the rules could not be read: cachetag.rule, column id: unexpected NULL")
        );
        assert!(message(&[("soft", Some("maybe"))]).contains("cachetag.rule, column soft: \"maybe\" is not a boolean"));
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
        assert!(error.to_string().contains("cachetag.dependency, column child: tag \"home page\""), "{error}");
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
