//! A physical standby that lags.

use std::time::Duration;

use cachetag_invalidator::dev::Postgres;

use crate::Stack;
use crate::fault::{discard, standby_of};
use crate::stack::DATABASE;

/// How much later than the primary it shows a commit.
pub const LAG: Duration = Duration::from_millis(100);

/// A hot standby of a stack's PostgreSQL.
#[derive(Debug)]
pub struct Standby {
    postgres: Postgres,
}

impl Standby {
    /// Copies the primary and follows whoever is at its address.
    pub async fn start(stack: &mut Stack) -> Standby {
        let data = stack.new_home().join("data");
        let mut postgres = standby_of(&stack.postgres, &data, stack.proxies().app_postgres.port()).await;
        let lag = format!("{}ms", LAG.as_millis());
        let configured = postgres.configure(&[("recovery_min_apply_delay", &lag)]);
        configured.and(postgres.reload().await).unwrap_or_else(|error| panic!("{error}"));
        Standby { postgres }
    }

    /// Ends it and removes its data.
    pub fn end(self) {
        discard(self.postgres);
    }

    /// The URL of its database.
    pub fn url(&self) -> String {
        self.postgres.url(DATABASE)
    }
}
