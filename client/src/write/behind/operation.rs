//! An operation: one idempotent statement with its parameters.

use std::fmt::Display;
use std::hash::{BuildHasher, RandomState};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};

/// Which statement an operation runs.
///
/// ```
/// use cachetag_client::write::behind::{Operation, What};
///
/// assert_eq!(Operation::statement("set_price").what(), &What::Statement("set_price".into()));
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// One that the worker knows by name.
    Statement(String),
    /// SQL text, which only a worker runs that was told so: whoever can write to Redis can then write to PostgreSQL.
    Sql(String),
}

/// One statement that a worker is to run, with parameters as text: PostgreSQL reads them by the types that the statement gives them.
///
/// Its idempotency key is drawn at random when it is made, so enqueuing the *same value* again after a doubtful error is safe. Where the same
/// operation may be made twice (a request that is repeated), give it a key of the application.
///
/// ```
/// use cachetag_client::write::behind::Operation;
///
/// let operation = Operation::statement("set_price").param(42).param("9.90").null().key("request-7f3a");
/// assert_eq!(operation.idempotency_key(), "request-7f3a");
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operation {
    pub(super) what: What,
    pub(super) params: Vec<Option<String>>,
    pub(super) key: String,
}

impl Operation {
    /// Runs the statement that the worker knows by this name.
    ///
    /// ```
    /// # use cachetag_client::write::behind::Operation;
    /// let operation = Operation::statement("set_price").param(42).param("9.90");
    /// ```
    pub fn statement(name: impl Into<String>) -> Operation {
        Operation { what: What::Statement(name.into()), params: Vec::new(), key: random_key() }
    }

    /// Runs this SQL, on a worker that is allowed to.
    ///
    /// ```
    /// # use cachetag_client::write::behind::Operation;
    /// let operation = Operation::sql("UPDATE products SET price = $2 WHERE id = $1").param(42).param("9.90");
    /// ```
    pub fn sql(text: impl Into<String>) -> Operation {
        Operation { what: What::Sql(text.into()), params: Vec::new(), key: random_key() }
    }

    /// The next parameter, as PostgreSQL would read it from text.
    ///
    /// ```
    /// # use cachetag_client::write::behind::Operation;
    /// assert_eq!(Operation::statement("s").param(42).params(), [Some("42".to_owned())]);
    /// ```
    pub fn param(mut self, value: impl Display) -> Operation {
        self.params.push(Some(value.to_string()));
        self
    }

    /// The next parameter, as JSON: for `json` and `jsonb`.
    ///
    /// ```
    /// # use cachetag_client::write::behind::Operation;
    /// let operation = Operation::statement("s").json(&serde_json::json!({"a": 1}));
    /// assert_eq!(operation.params(), [Some("{\"a\":1}".to_owned())]);
    /// ```
    pub fn json(self, value: &serde_json::Value) -> Operation {
        self.param(value)
    }

    /// The next parameter is NULL.
    ///
    /// ```
    /// # use cachetag_client::write::behind::Operation;
    /// assert_eq!(Operation::statement("s").null().params(), [None]);
    /// ```
    pub fn null(mut self) -> Operation {
        self.params.push(None);
        self
    }

    /// Names it: of all operations of one queue with the same key, one is applied.
    ///
    /// ```
    /// # use cachetag_client::write::behind::Operation;
    /// assert_eq!(Operation::statement("s").key("request-7f3a").idempotency_key(), "request-7f3a");
    /// ```
    pub fn key(mut self, key: impl Into<String>) -> Operation {
        self.key = key.into();
        self
    }

    /// Its idempotency key.
    ///
    /// ```
    /// # use cachetag_client::write::behind::Operation;
    /// let operation = Operation::statement("s");
    /// assert_eq!(operation.clone().idempotency_key(), operation.idempotency_key());
    /// assert_ne!(Operation::statement("s").idempotency_key(), operation.idempotency_key());
    /// ```
    pub fn idempotency_key(&self) -> &str {
        &self.key
    }

    /// What it runs.
    ///
    /// ```
    /// # use cachetag_client::write::behind::Operation;
    /// assert_eq!(Operation::sql("SELECT 1").what(), Operation::sql("SELECT 1").what());
    /// ```
    pub fn what(&self) -> &What {
        &self.what
    }

    /// Its parameters.
    ///
    /// ```
    /// # use cachetag_client::write::behind::Operation;
    /// assert!(Operation::statement("s").params().is_empty());
    /// ```
    pub fn params(&self) -> &[Option<String>] {
        &self.params
    }
}

/// Never the same in two processes: the standard library's hashers are seeded by the operating system.
fn random_key() -> String {
    static PROCESS: LazyLock<(u64, u64)> =
        LazyLock::new(|| (RandomState::new().hash_one(0), RandomState::new().hash_one(1)));
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let (a, b) = *PROCESS;
    format!("{a:016x}{b:016x}-{}", NEXT.fetch_add(1, Ordering::Relaxed))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_differ_and_stay() {
        let (a, b) = (Operation::sql("SELECT 1"), Operation::sql("SELECT 1"));
        assert_ne!(a.key, b.key);
        assert_eq!(a.clone().param(1).key, a.key);
    }

    #[test]
    fn parameters_are_text() {
        let operation =
            Operation::statement("s").param(true).param(1.5).null().json(&serde_json::json!({"a": [1, "x"]}));
        assert_eq!(
            operation.params,
            [Some("true".to_owned()), Some("1.5".to_owned()), None, Some(r#"{"a":[1,"x"]}"#.to_owned())]
        );
    }
}
