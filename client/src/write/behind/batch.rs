//! A batch: some operations in one transaction, with their keys.

use std::collections::{HashMap, HashSet};
use std::error::Error;

use bytes::BytesMut;
use tokio::time::timeout;
use tokio_postgres::Statement;
use tokio_postgres::types::{Format, IsNull, ToSql, Type, to_sql_checked};

use super::entry::Entry;
use super::operation::{Operation, What};
use super::session::{Failure, Session};
use crate::postgres::pipelined::pipelined;

/// Commands that would end the batch's transaction, or begin another.
const TRANSACTION_WORDS: [&str; 9] =
    ["begin", "start", "commit", "end", "rollback", "abort", "prepare", "savepoint", "release"];

/// The statements that a worker runs.
#[derive(Debug, Clone, Default)]
pub(super) struct Statements {
    pub(super) named: HashMap<String, String>,
    /// Whether SQL from the stream is run too.
    pub(super) any_sql: bool,
}

impl Statements {
    fn sql<'a>(&'a self, operation: &'a Operation) -> Result<&'a str, String> {
        let sql = match operation.what() {
            What::Statement(name) => match self.named.get(name) {
                Some(sql) => sql,
                None => {
                    return Err(format!(
                        "this worker knows no statement {name:?}: give it to WorkerBuilder::statement"
                    ));
                }
            },
            What::Sql(sql) if self.any_sql => sql,
            What::Sql(_) => {
                return Err("this worker runs named statements only: allow SQL by WorkerBuilder::allow_sql".to_owned());
            }
        };
        let word = first_word(sql);
        if TRANSACTION_WORDS.iter().any(|other| word.eq_ignore_ascii_case(other)) {
            return Err(format!(
                "{} controls transactions: operations run inside one of the worker's",
                word.to_uppercase()
            ));
        }
        Ok(sql)
    }
}

/// The first word of a statement. A prepared statement is one command, so it tells which; comments and empty commands may come before it.
fn first_word(sql: &str) -> &str {
    let mut rest = sql;
    loop {
        rest = rest.trim_start_matches(|c: char| c == ';' || c.is_ascii_whitespace() || c == '\x0B');
        if let Some(comment) = rest.strip_prefix("--") {
            rest = comment.split_once(['\n', '\r']).map_or("", |(_, after)| after);
        } else if let Some(comment) = rest.strip_prefix("/*") {
            rest = after_comment(comment);
        } else {
            return rest.split(|c: char| !c.is_ascii_alphabetic()).next().unwrap_or_default();
        }
    }
}

/// What follows a comment whose beginning has been taken off. They nest.
fn after_comment(mut rest: &str) -> &str {
    let mut depth = 1;
    while depth > 0 {
        let Some(at) = rest.find(['/', '*']) else { return "" };
        rest = &rest[at..];
        if let Some(inner) = rest.strip_prefix("/*") {
            (rest, depth) = (inner, depth + 1);
        } else if let Some(outer) = rest.strip_prefix("*/") {
            (rest, depth) = (outer, depth - 1);
        } else {
            rest = &rest[1..];
        }
    }
    rest
}

/// A parameter as text, whatever its type is: the server reads it.
#[derive(Debug)]
struct Text<'a>(Option<&'a str>);

impl ToSql for Text<'_> {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        let Some(text) = self.0 else { return Ok(IsNull::Yes) };
        out.extend_from_slice(text.as_bytes());
        Ok(IsNull::No)
    }

    fn accepts(_: &Type) -> bool {
        true
    }

    fn encode_format(&self, _: &Type) -> Format {
        Format::Text
    }

    to_sql_checked!();
}

/// What a batch came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Applied {
    /// Operations that were run.
    pub(super) run: usize,
    /// Operations whose keys were there already.
    pub(super) skipped: usize,
}

impl Session {
    /// Runs the operations of a batch in order in one transaction, those that were applied before left out. After a failure nothing of it is committed,
    /// unless the connection was lost while COMMIT was under way: then its keys tell the next try.
    pub(super) async fn apply(&mut self, batch: &[Entry], statements: &Statements) -> Result<Applied, Failure> {
        let patience = self.patience;
        let result = timeout(patience, self.try_apply(batch, statements)).await.unwrap_or_else(|_| {
            Err(Failure::away(format!("no end within {} ms: the worker's patience is over", patience.as_millis())))
        });
        if result.is_err() {
            self.forget_statements();
            if !self.client.is_closed() {
                // If this fails too, the next statement will tell.
                let _ = timeout(patience, self.client.batch_execute("ROLLBACK")).await;
            }
        }
        result
    }

    async fn try_apply(&mut self, batch: &[Entry], statements: &Statements) -> Result<Applied, Failure> {
        let mut operations = Vec::with_capacity(batch.len());
        for (at, entry) in batch.iter().enumerate() {
            let operation = entry.operation().map_err(|problem| Failure::permanent(at, problem))?;
            let sql = statements.sql(&operation).map_err(|problem| Failure::permanent(at, problem))?;
            let statement = self.statement(sql).await.map_err(|failure| failure.at(at))?;
            let (needed, given) = (statement.params().len(), operation.params().len());
            if needed != given {
                return Err(Failure::permanent(
                    at,
                    format!("the statement has {needed} parameters, the operation {given}"),
                ));
            }
            operations.push((operation, statement));
        }
        let (mut fresh, transaction) = self.claim(batch, &operations).await?;
        let mut run = Vec::new();
        for (at, (operation, statement)) in operations.iter().enumerate() {
            // Of operations with the same key the first is run.
            if fresh.remove(operation.idempotency_key()) {
                run.push((at, operation, statement));
            }
        }
        let sent = run.iter().map(|(_, operation, statement)| {
            let params: Vec<Text<'_>> = operation.params().iter().map(|param| Text(param.as_deref())).collect();
            Box::pin(self.client.execute_raw(*statement, params))
        });
        for ((at, _, _), answer) in run.iter().zip(pipelined(sent.collect()).await) {
            answer.map_err(|error| Failure::of(&error).at(*at))?;
        }
        if let Some(transaction) = transaction {
            let now: Option<String> = self.client.query_one(&self.same, &[]).await?.try_get(0)?;
            if now.as_ref() != Some(&transaction) {
                return Err(Failure {
                    at: None,
                    ..Failure::permanent(0, "an operation has ended the worker's transaction".to_owned())
                });
            }
        }
        self.client.batch_execute("COMMIT").await?;
        Ok(Applied { run: run.len(), skipped: batch.len() - run.len() })
    }

    /// Begins the transaction; answers the keys that are new, and the transaction's number if there are any.
    async fn claim(
        &self,
        batch: &[Entry],
        operations: &[(Operation, Statement)],
    ) -> Result<(HashSet<String>, Option<String>), Failure> {
        let keys: Vec<&str> = operations.iter().map(|(operation, _)| operation.idempotency_key()).collect();
        let times: Vec<i64> = batch.iter().map(Entry::ms).collect();
        self.client.batch_execute("BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE").await?;
        let rows = self.client.query(&self.claim, &[&self.queue, &keys, &times]).await?;
        let mut fresh = HashSet::with_capacity(rows.len());
        let mut transaction = None;
        for row in rows {
            fresh.insert(row.try_get(0)?);
            transaction = Some(row.try_get(1)?);
        }
        Ok((fresh, transaction))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_word_is_found() {
        assert_eq!(first_word("-- commit\n/* commit */ select 'commit'"), "select");
        assert_eq!(first_word("update x set y = 1"), "update");
        for nothing in ["", "--", "-- commit", "/* commit", "/*/ commit", "(select 1)", "é"] {
            assert_eq!(first_word(nothing), "", "{nothing}");
        }
    }

    #[test]
    fn statements_are_found_and_guarded() {
        let mut statements = Statements::default();
        statements.named.insert("one".into(), "SELECT 1".into());
        assert_eq!(statements.sql(&Operation::statement("one")), Ok("SELECT 1"));
        let unknown = statements.sql(&Operation::statement("two")).unwrap_err();
        assert_eq!(unknown, "this worker knows no statement \"two\": give it to WorkerBuilder::statement");
        assert!(statements.sql(&Operation::sql("SELECT 1")).unwrap_err().contains("allow_sql"));
        statements.any_sql = true;
        assert_eq!(statements.sql(&Operation::sql("SELECT 1")), Ok("SELECT 1"));
        for sql in
            [" Commit", "ROLLBACK;", "begin", "END", "/* a /* b */ c */ ;\x0B-- d\nabort", "/**//*/*/**/*/*/commit"]
        {
            assert!(statements.sql(&Operation::sql(sql)).unwrap_err().contains("controls transactions"), "{sql}");
        }
    }
}
