//! The end of a transaction, whose outcome may have to be found out.

use std::collections::BTreeMap;
use std::time::Duration;

use cachetag_client::AtLeast;
use tokio_postgres::{Client, SimpleQueryMessage};

use super::history::RowState;
use super::schema::Part;
use super::world::World;

/// What a transaction has made of rows: table and key → state.
pub type Changes = BTreeMap<(usize, usize), Option<RowState>>;

/// One of them.
type Change<'a> = (&'a (usize, usize), &'a Option<RowState>);

/// How often the outcome of a transaction that is still in progress is asked for.
const POLL: Duration = Duration::from_millis(5);
/// A position that covers everything committed before.
const POSITION: &str = "SELECT cachetag.position()";

/// Begins a transaction, which gets its id at once.
pub async fn begin(client: &Client, local: bool) -> Result<u64, tokio_postgres::Error> {
    // A commit that waits for nobody is visible at once.
    let local = if local { "SET LOCAL synchronous_commit = local; " } else { "" };
    let begun = client.simple_query(&format!("BEGIN; {local}SELECT pg_current_xact_id()")).await?;
    let id = first(&begun).and_then(|id| id.parse().ok());
    Ok(id.unwrap_or_else(|| panic!("no id in the answer to BEGIN and the question for it: {begun:?}")))
}

/// Commits and notes what was changed. A prepared transaction is committed by its name.
pub async fn commit(world: &World, client: &Client, xid: u64, prepared: Option<&str>, changes: &Changes) -> bool {
    let changes: Vec<Change> = {
        let rows = world.rows.borrow();
        changes.iter().filter(|((table, key), state)| rows[*table][*key] != **state).collect()
    };
    let before = world.clock.now();
    for ((table, key), state) in &changes {
        world.judge.borrow_mut().may_be(*table, *key, **state, before, xid);
    }
    let ended = match end(client, prepared).await {
        Ok(position) => Some(position),
        Err(_) => outcome(world, xid, prepared, &changes).await,
    };
    let after = world.clock.now();
    let mut judge = world.judge.borrow_mut();
    let mut rows = world.rows.borrow_mut();
    for ((table, key), state) in &changes {
        match ended {
            Some(position) => {
                judge.is_so(*table, *key, after, position.lsn().0);
                rows[*table][*key] = **state;
                world.returned(world.schema.row_object(*table, *key), position);
                if let Some(state) = state {
                    world.returned(world.schema.object_of(*table, Part::Group(state.group)), position);
                }
            }
            None => judge.never_was(*table, *key),
        }
    }
    ended.is_some()
}

async fn end(client: &Client, prepared: Option<&str>) -> Result<AtLeast, tokio_postgres::Error> {
    let answer = match prepared {
        None => client.simple_query(&format!("COMMIT; {POSITION}")).await?,
        Some(name) => {
            client.batch_execute(&format!("COMMIT PREPARED '{name}'")).await?;
            client.simple_query(POSITION).await?
        }
    };
    Ok(position(&answer).expect("a position"))
}

/// Whether a transaction whose end nobody told was committed: a position that covers it. A prepared one is committed if it is still there.
///
/// The rows tell: nobody else changes them. (Its id does not: a server that crashed may give it to another transaction.)
async fn outcome(world: &World, xid: u64, prepared: Option<&str>, changes: &[Change<'_>]) -> Option<AtLeast> {
    world.report.borrow_mut().error("commits");
    let &((table, key), state) = changes.first()?;
    let running = format!(
        "SELECT count(*) FROM (SELECT FROM pg_stat_activity WHERE backend_xid::text = '{0}'
                               UNION ALL SELECT FROM pg_prepared_xacts WHERE transaction::text = '{0}') AS t",
        xid & 0xFFFF_FFFF
    );
    let row = world.schema.tables[*table].state_of(*key);
    loop {
        let client = world.postgres().await;
        if let Some(name) = prepared {
            // If it is not there any more, that is what was wanted.
            let _ = client.batch_execute(&format!("COMMIT PREPARED '{name}'")).await;
        }
        if let Ok(answer) = client.simple_query(&running).await
            && first(&answer) == Some("0")
            && let Ok(answer) = client.simple_query(&row).await
        {
            let expected = state.map(|state| format!("{}/{}", state.group, state.version));
            if first(&answer) != expected.as_deref() {
                return None;
            }
            if let Ok(answer) = client.simple_query(POSITION).await {
                return position(&answer);
            }
        }
        tokio::time::sleep(POLL).await;
    }
}

/// Undoes a transaction that was to be prepared under this name, or has been.
pub async fn forget_prepared(world: &World, xid: u64, name: &str) {
    // A server process that has lost its client goes on, and may get to prepare it yet.
    let there = format!(
        "SELECT count(*) FROM pg_stat_activity WHERE backend_xid::text = '{}';
         SELECT gid FROM pg_prepared_xacts WHERE gid = '{name}'",
        xid & 0xFFFF_FFFF
    );
    loop {
        let client = world.postgres().await;
        if let Ok(answer) = client.simple_query(&there).await {
            match answer.iter().filter_map(text).collect::<Vec<_>>()[..] {
                ["0"] => return,
                ["0", gid] => drop(client.batch_execute(&format!("ROLLBACK PREPARED '{gid}'")).await),
                _ => {}
            }
        }
        tokio::time::sleep(POLL).await;
    }
}

fn position(answer: &[SimpleQueryMessage]) -> Option<AtLeast> {
    first(answer).map(|text| text.parse().expect("a position"))
}

/// The first value of an answer.
pub fn first(messages: &[SimpleQueryMessage]) -> Option<&str> {
    messages.iter().find_map(text)
}

fn text(message: &SimpleQueryMessage) -> Option<&str> {
    match message {
        SimpleQueryMessage::Row(row) => row.get(0),
        _ => None,
    }
}
