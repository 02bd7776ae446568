//! Asks the two servers, each for no longer than it may take.

use std::future::Future;
use std::time::Duration;

use cachetag_core::Version;
use redis::Value;
use redis::aio::MultiplexedConnection;
use tokio::time::timeout;
use tokio_postgres::Client;

use super::facts::{Answer, Asked, Facts, PostgresFacts, RedisFacts, SlotFacts, StateFacts, StreamFacts};
use crate::config::Config;
use crate::control::{COLUMNS, ControlError, Doing, TRANSACTIONS, slot_of, transaction_of};
use crate::sink::{SinkError, connect::connect, reply};
use crate::slot::{sql_name, waiting_name};
use crate::source::{ConnectOptions, SourceError, sql};

/// Transactions that are named.
const NAMED: i64 = 5;

/// Asks PostgreSQL, then Redis: whatever PostgreSQL was told to be safe before, Redis holds after.
pub async fn gather(config: &Config, patience: Duration) -> Facts {
    let postgres = within(patience, postgres(config)).await;
    let redis = within(patience, redis_facts(config, patience)).await;
    let asked = Asked {
        slot: config.slot.clone(),
        namespace: config.namespace.clone(),
        application_name: config.application_name.clone(),
        wal_budget: config.wal_budget,
        redis_replicas: config.redis_replicas,
    };
    Facts { asked, postgres, redis }
}

async fn within<T, E: std::fmt::Display>(patience: Duration, asking: impl Future<Output = Result<T, E>>) -> Answer<T> {
    match timeout(patience, asking).await {
        Ok(Ok(facts)) => Answer::Known(facts),
        Ok(Err(error)) => Answer::Unknown { error: error.to_string() },
        Err(_) => Answer::Unknown { error: format!("no answer within {} ms", patience.as_millis()) },
    }
}

async fn postgres(config: &Config) -> Result<PostgresFacts, ControlError> {
    let mut answer = Err(ControlError::from(SourceError::Options("no host is given".into())));
    for options in ConnectOptions::parse_all(&config.postgres)? {
        answer = host(config, options).await;
        if answer.as_ref().is_ok_and(|facts| !facts.in_recovery) {
            break;
        }
    }
    answer
}

async fn host(config: &Config, options: ConnectOptions) -> Result<PostgresFacts, ControlError> {
    let options = options.with_application_name(&format!("{}-status", config.application_name));
    let client = sql::connect(&options).await?;
    let row = client
        .query_one(
            "SELECT current_setting('server_version'), pg_is_in_recovery(), \
             (SELECT extversion FROM pg_extension WHERE extname = 'cachetag'), \
             (SELECT oid::text || ':' || datname FROM pg_database WHERE datname = current_database()), \
             current_setting('synchronous_standby_names'), \
             (SELECT count(*) FROM pg_stat_activity WHERE application_name = $1 AND datname = current_database()), \
             (SELECT count(*) FROM pg_stat_activity WHERE application_name = $2 AND datname = current_database())",
            &[&sql_name(config), &waiting_name(config)],
        )
        .await
        .doing("asking for the state of the server")?;
    let mut facts = PostgresFacts {
        version: row.get(0),
        in_recovery: row.get(1),
        extension: row.get(2),
        database: row.get(3),
        synchronous_standby_names: row.get(4),
        daemons: row.get(5),
        daemons_waiting: row.get(6),
        ..PostgresFacts::default()
    };
    if !facts.in_recovery {
        on_primary(config, &client, &mut facts).await?;
    }
    Ok(facts)
}

async fn on_primary(config: &Config, client: &Client, facts: &mut PostgresFacts) -> Result<(), ControlError> {
    let row = client
        .query_one("SELECT (pg_current_wal_flush_lsn() - '0/0'::pg_lsn)::text", &[])
        .await
        .doing("asking for the flush position")?;
    facts.flushed = row.get::<_, String>(0).parse().unwrap_or(0);
    let query = format!("SELECT {COLUMNS} FROM pg_replication_slots s WHERE s.slot_name = $1");
    let row = client.query_opt(&query, &[&config.slot]).await.doing("looking at the replication slot")?;
    if let Some(slot) = row.as_ref().map(slot_of).transpose()? {
        let since = |position: Option<cachetag_core::Lsn>| position.map_or(0, |p| slot.current.0.saturating_sub(p.0));
        facts.slot = Some(SlotFacts {
            retained_bytes: since(slot.restart),
            unconfirmed_bytes: since(slot.confirmed),
            confirmed: slot.confirmed.map(|lsn| lsn.0),
            lost: slot.lost,
            client: slot.active.as_ref().map(|user| user.client.clone()).unwrap_or_default(),
            active_pid: slot.active.map(|user| user.pid),
        });
    }
    let pid = facts.slot.as_ref().and_then(|slot| slot.active_pid);
    let row = client
        .query_opt(
            "SELECT state, sync_state, (extract(epoch FROM clock_timestamp() - reply_time) * 1000)::bigint \
             FROM pg_stat_replication WHERE pid = $1",
            &[&pid],
        )
        .await
        .doing("looking at the replication connection")?;
    facts.stream = row.map(|r| StreamFacts { state: r.get(0), sync_state: r.get(1), reply_age_ms: r.get(2) });
    let rows = client.query(TRANSACTIONS, &[&NAMED]).await.doing("looking for old transactions")?;
    facts.transactions = rows.iter().map(transaction_of).collect();
    if facts.extension.is_some() {
        let query = "SELECT r::text, extract(epoch FROM clock_timestamp() - (r ->> 'reported_at')::timestamptz)::bigint \
                     FROM cachetag.last_report() AS r";
        let row = client.query_one(query, &[]).await.doing("reading the last report")?;
        facts.report = row.get::<_, Option<String>>(0).and_then(|text| serde_json::from_str(&text).ok());
        facts.report_age_s = row.get(1);
    }
    Ok(())
}

async fn redis_facts(config: &Config, patience: Duration) -> Result<RedisFacts, SinkError> {
    // Our own patience ends first, and says how long it was.
    let mut connection = connect(&config.redis, patience * 2, patience * 2).await?;
    let key = format!("{{{}}}:w", config.namespace);
    let fields = texts(redis::cmd("HGETALL").arg(key).query_async(&mut connection).await?)?;
    // After the state: an age that is too old by a round trip beats one that is too young.
    let (seconds, micros): (i64, i64) = redis::cmd("TIME").query_async(&mut connection).await?;
    let now = seconds * 1000 + micros / 1000;
    let info: String = redis::cmd("INFO").query_async(&mut connection).await?;
    let field = |name: &str| {
        info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).unwrap_or_default().trim()
    };
    let server = match (field("valkey_version"), field("redis_version")) {
        ("", version) => format!("redis {version}"),
        (version, _) => format!("valkey {version}"),
    };
    let replica = |line: &&str| line.starts_with("slave") && line.contains("state=online");
    Ok(RedisFacts {
        server,
        is_primary: field("role") != "slave",
        replicas: info.lines().filter(replica).count() as u32,
        library: library(&mut connection).await,
        eviction_policy: field("maxmemory_policy").into(),
        used_memory: field("used_memory").parse().unwrap_or(0),
        maxmemory: field("maxmemory").parse().unwrap_or(0),
        state: state(&fields, now),
    })
}

/// The version of the library, if the server tells: FUNCTION is often forbidden to whom EVAL is.
async fn library(connection: &mut MultiplexedConnection) -> Answer<Option<String>> {
    match redis::cmd("FCALL_RO").arg("cachetag_version").arg(0).query_async(connection).await {
        Ok(version) => Answer::Known(Some(version)),
        Err(error) if error.to_string().to_lowercase().contains("function not found") => Answer::Known(None),
        Err(error) => Answer::Unknown { error: error.to_string() },
    }
}

fn texts(value: Value) -> Result<Vec<(String, String)>, SinkError> {
    let mut items = reply::array(value)?.into_iter().map(|item| reply::text(item).unwrap_or_default());
    let mut fields = Vec::new();
    while let (Some(name), Some(value)) = (items.next(), items.next()) {
        fields.push((name, value));
    }
    Ok(fields)
}

fn state(fields: &[(String, String)], now: i64) -> Option<StateFacts> {
    let text = |name: &str| fields.iter().find(|(field, _)| field == name).map(|(_, value)| value.clone());
    let position = |name: &str| Some(text(name)?.parse::<Version>().ok()?.lsn.0);
    let number = |name: &str| text(name)?.parse::<i64>().ok();
    text("epoch").map(|epoch| StateFacts {
        epoch: Some(epoch),
        floor: text("floor"),
        watermark: position("watermark"),
        applied: position("applied"),
        fresh_age_ms: number("fresh_at").map(|at| now - at),
        max_lag_ms: number("max_lag"),
        claimant: text("claimant"),
        source: text("source"),
    })
}
