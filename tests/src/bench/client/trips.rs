//! Round trips to Redis, counted on the way there.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use cachetag_client::Cache;
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::super::Table;
use super::{cache, page};
use crate::Stack;

/// Hits of each kind.
const HITS: u32 = 200;

/// Passes on what goes to Redis and back. For each connection: how often the client has spoken after Redis had.
#[derive(Clone, Default)]
struct Trips(Arc<Mutex<Vec<Arc<AtomicU32>>>>);

impl Trips {
    /// Returns the URL of the way through here.
    async fn start(&self, port: u16) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("redis://{}/", listener.local_addr().expect("an address"));
        let trips = self.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let Ok(server) = TcpStream::connect(("127.0.0.1", port)).await else { continue };
                let count = Arc::new(AtomicU32::new(0));
                trips.0.lock().push(count.clone());
                tokio::spawn(pass(client, server, count));
            }
        });
        url
    }

    /// Of the connection with the most since, as of all hits: the feed, on its own, only waits.
    fn since(&self, before: &[u32]) -> u32 {
        let earlier = before.iter().copied().chain(std::iter::repeat(0));
        self.now().into_iter().zip(earlier).map(|(now, before)| now - before).max().unwrap_or(0)
    }

    fn now(&self) -> Vec<u32> {
        self.0.lock().iter().map(|count| count.load(Ordering::Relaxed)).collect()
    }
}

async fn pass(mut client: TcpStream, mut server: TcpStream, count: Arc<AtomicU32>) {
    let (mut there, mut back) = (vec![0; 1 << 16], vec![0; 1 << 16]);
    let mut answered = true;
    loop {
        // Cancel safe: a read that does not end has read nothing.
        tokio::select! {
            read = client.read(&mut there) => {
                let Ok(1..) = read else { return };
                count.fetch_add(u32::from(std::mem::take(&mut answered)), Ordering::Relaxed);
                let Ok(()) = server.write_all(&there[..read.unwrap_or(0)]).await else { return };
            }
            read = server.read(&mut back) => {
                let Ok(1..) = read else { return };
                answered = true;
                let Ok(()) = client.write_all(&back[..read.unwrap_or(0)]).await else { return };
            }
        }
    }
}

/// One key at a time, and a hundred at once.
pub(super) async fn measure(table: &mut Table, stack: &Stack) {
    let trips = Trips::default();
    let url = trips.start(stack.redis.port()).await;
    let cache = cache(Cache::builder().redis(url).memory(0)).await;
    let loads = Arc::default();
    let keys: Vec<String> = (0..100).map(|i| format!("page:{i}")).collect();
    for key in &keys {
        page(&cache, key, &loads).await;
    }
    let loaded = loads.load(Ordering::Relaxed);
    let before = trips.now();
    for key in keys.iter().cycle().take(HITS as usize) {
        page(&cache, key, &loads).await;
    }
    let single = trips.since(&before);
    let before = trips.now();
    for _ in 0..HITS {
        let load = |_| async { Err::<Vec<Option<String>>, _>(std::io::Error::other("not a hit")) };
        cache.get_many(&keys, load).await.expect("hits");
    }
    let many = trips.since(&before);
    assert_eq!(loads.load(Ordering::Relaxed), loaded, "these are hits");
    for (what, count) in [("a hit from Redis", single), ("100 hits from Redis", many)] {
        let measured = format!("{:.2} round trips", f64::from(count) / f64::from(HITS));
        table.row(&format!("client: {what}"), measured, String::new(), "(1)".into());
    }
}
