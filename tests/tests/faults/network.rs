//! The network between any two, refused, silent, late, slow, and cut in the middle of a message.

use std::time::Duration;

use cachetag_tests::fault::{Fault, Harm, Link};

use crate::trial::{Trial, WHILE};

/// Longer than every timeout of the daemon's that concerns a server which does not answer, but that of a silent stream.
const LONG: Duration = Duration::from_secs(12);

async fn every_harm_to(link: Link) {
    let mut trial = Trial::start().await;
    for harm in Harm::of(link) {
        trial.suffers(Fault::Network(link, harm), WHILE).await;
    }
    trial.finish().await;
}

#[tokio::test]
async fn between_daemon_and_postgresql() {
    every_harm_to(Link::DaemonPostgres).await;
}

#[tokio::test]
async fn on_the_replication_connection_alone() {
    every_harm_to(Link::DaemonReplication).await;
}

#[tokio::test]
async fn on_the_sql_connection_alone() {
    every_harm_to(Link::DaemonSql).await;
}

#[tokio::test]
async fn between_daemon_and_redis() {
    every_harm_to(Link::DaemonRedis).await;
}

#[tokio::test]
async fn between_application_and_redis() {
    every_harm_to(Link::AppRedis).await;
}

#[tokio::test]
async fn between_application_and_postgresql() {
    every_harm_to(Link::AppPostgres).await;
}

#[tokio::test]
async fn silent_beyond_every_timeout() {
    let mut trial = Trial::start().await;
    for link in [Link::DaemonPostgres, Link::DaemonSql, Link::DaemonRedis] {
        trial.suffers(Fault::Network(link, Harm::Silent), LONG).await;
    }
    trial.finish().await;
}

/// Dead connections that look alive: nobody closes them, nothing arrives. The daemon finds out by itself, and ends its own server process,
/// which does not know either.
#[tokio::test]
async fn a_firewall_that_forgets_connections() {
    let mut trial = Trial::start().await;
    let epoch = trial.epoch().await;
    for link in [Link::DaemonRedis, Link::DaemonSql, Link::DaemonReplication] {
        trial.suffers(Fault::Network(link, Harm::Forgotten), Duration::ZERO).await;
    }
    assert_eq!(trial.epoch().await, epoch);
    trial.finish().await;
}
