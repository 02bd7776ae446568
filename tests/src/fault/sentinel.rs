//! A sentinel that watches a primary.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use cachetag_invalidator::dev::{Process, Redis};
use redis::aio::MultiplexedConnection;

use crate::wait::eventually;

const PATIENCE: Duration = Duration::from_secs(60);
/// In milliseconds. After a failover a sentinel connects to the new primary within a second: any less, and it may take that for down, too.
const DOWN_AFTER: u32 = 2_000;
/// The name of the primary.
const NAME: &str = "mymaster";

/// One sentinel, which is the quorum.
#[derive(Debug)]
pub struct Sentinel {
    _process: Process,
    port: u16,
}

impl Sentinel {
    /// Starts one that works in a folder of `folder`, and waits until it has found the primary's replica: a failover is possible from then on.
    pub async fn start(folder: &Path, primary: &Redis) -> Sentinel {
        let program = std::env::var_os("CACHETAG_REDIS_SERVER").map_or_else(|| "redis-server".into(), PathBuf::from);
        let port = std::net::TcpListener::bind(("127.0.0.1", 0)).and_then(|l| l.local_addr()).expect("a port").port();
        let home = folder.join("sentinel");
        std::fs::create_dir(&home).expect("a folder");
        let config = home.join("sentinel.conf");
        let text = format!(
            "port {port}\nbind 127.0.0.1\ndir {}\nsentinel monitor {NAME} 127.0.0.1 {} 1\n\
             sentinel down-after-milliseconds {NAME} {DOWN_AFTER}\nsentinel failover-timeout {NAME} 3000\n",
            home.display(),
            primary.port()
        );
        std::fs::write(&config, text).expect("a file");
        let mut command = Command::new(program);
        command.arg(&config).arg("--sentinel");
        let process = Process::spawn("sentinel", command, &home.join("log"), None, libc::SIGKILL);
        let sentinel = Sentinel { _process: process.expect("a sentinel"), port };
        sentinel.knows_a_replica().await;
        sentinel
    }

    /// The URL that leads to the primary by way of this sentinel. Another, named before it, is not there.
    pub fn url(&self) -> String {
        format!("redis+sentinel://127.0.0.1:1,127.0.0.1:{}/{NAME}/0", self.port)
    }

    /// Promotes the replica though the primary is well.
    pub async fn fail_over(&self) {
        assert!(self.try_fail_over().await, "it fails over");
    }

    /// The same; whether the sentinel does it: not while another failover is under way, nor without a replica that is well.
    pub async fn try_fail_over(&self) -> bool {
        let mut connection = self.connection().await;
        redis::cmd("SENTINEL").arg("FAILOVER").arg(NAME).exec_async(&mut connection).await.is_ok()
    }

    /// The port of the primary, as the sentinel sees it.
    pub async fn primary(&self) -> u16 {
        let mut connection = self.connection().await;
        let asked: Vec<String> = redis::cmd("SENTINEL")
            .arg("GET-MASTER-ADDR-BY-NAME")
            .arg(NAME)
            .query_async(&mut connection)
            .await
            .expect("an address");
        asked[1].parse().expect("a port")
    }

    async fn connection(&self) -> MultiplexedConnection {
        eventually("the sentinel", PATIENCE, async || {
            let client = redis::Client::open(("127.0.0.1", self.port)).ok()?;
            client.get_multiplexed_async_connection().await.ok()
        })
        .await
    }

    async fn knows_a_replica(&self) {
        let mut connection = self.connection().await;
        eventually("the replica's discovery", PATIENCE, async || {
            let replicas: Vec<BTreeMap<String, String>> =
                redis::cmd("SENTINEL").arg("REPLICAS").arg(NAME).query_async(&mut connection).await.ok()?;
            let replica = replicas.first()?;
            (replica["flags"] == "slave" && replica["master-link-status"] == "ok").then_some(())
        })
        .await;
    }
}
