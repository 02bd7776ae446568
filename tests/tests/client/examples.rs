//! The examples of the client, as they are.

use std::sync::Arc;
use std::time::Duration;

use cachetag_client::Source;
use cachetag_client::adaptive::LayerTtl;
use cachetag_client::observe::ObserverOptions;
use cachetag_client::write::Watermarks;
use cachetag_tests::{Stack, StackOptions, eventually};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::trial::{PATIENCE, Trial};

#[allow(dead_code)]
#[path = "../../../client/examples/files.rs"]
mod files;
#[allow(dead_code)]
#[path = "../../../client/examples/shop.rs"]
mod shop;

struct Folder(std::path::PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// What is on disk outlives Redis's memory and the process, and no change of a row.
#[tokio::test]
async fn files_serve_what_redis_and_the_process_have_lost() {
    let trial = Trial::start().await;
    let folder = Folder(std::env::temp_dir().join(format!("cachetag-third-{}", std::process::id())));
    let layer = files::Files::open(&folder.0, 1 << 20).expect("a folder");
    let cache = trial.cache(trial.builder().third(layer)).await;
    for id in [1, 2] {
        trial.database.read(&cache, id).await;
    }
    trial.database.read(&cache, 77).await;
    drop(cache);
    let mut redis = trial.stack.cache().await;
    for key in ["price:1", "price:2", "price:77"] {
        assert!(redis.drop(key).await.expect("dropped"));
    }
    trial.change("UPDATE items SET price = 12 WHERE id = 2").await;
    // The process before has let go of the folder once its tasks have ended.
    let layer = eventually("the folder", PATIENCE, async || files::Files::open(&folder.0, 1 << 20).ok()).await;
    let next = trial.cache(trial.builder().third(layer).layer_ttl(LayerTtl::default())).await;
    let before = trial.database.queries();
    let read = trial.database.get(next.with(Default::default()), 1).await.expect("a value").expect("a price");
    assert_eq!((*read, read.metadata().source()), (10, Source::Third));
    assert_eq!(trial.database.read(&next, 77).await, None);
    assert_eq!(trial.database.queries(), before, "the absence, too");
    assert_eq!(trial.database.read(&next, 2).await, Some(12));
    assert_eq!(trial.database.queries(), before + 1);
    assert!(trial.stack.get("price:1").await.is_hit(), "Redis has it back");
}

/// A browser: it keeps the one cookie that there is.
#[derive(Default)]
struct Browser {
    cookie: Option<String>,
}

impl Browser {
    /// Status line, `X-Cache`, body.
    async fn send(
        &mut self,
        address: std::net::SocketAddr,
        method: &str,
        path: &str,
        body: &str,
    ) -> (String, String, String) {
        let mut stream = TcpStream::connect(address).await.expect("the shop is open");
        let cookie = self.cookie.as_ref().map_or_else(String::new, |cookie| format!("Cookie: a=b; {cookie}\r\n"));
        let length = body.len();
        let request =
            format!("{method} {path} HTTP/1.1\r\nHost: shop\r\n{cookie}Content-Length: {length}\r\n\r\n{body}");
        stream.write_all(request.as_bytes()).await.expect("sent");
        let mut text = String::new();
        stream.read_to_string(&mut text).await.expect("an answer");
        let (head, body) = text.split_once("\r\n\r\n").expect("a head");
        let header = |name: &str| head.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default().to_owned();
        if let Some(cookie) = header("Set-Cookie: ").split(';').next().filter(|cookie| !cookie.is_empty()) {
            self.cookie = Some(cookie.to_owned());
        }
        (head.lines().next().unwrap_or_default()[9..].to_owned(), header("X-Cache: "), body.to_owned())
    }
}

#[tokio::test]
async fn the_shop_is_never_wrong_for_its_users() {
    let schema =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/shop.sql")).expect("the shop");
    let stack = Stack::start(StackOptions::new().schema(&schema)).await;
    let open = async || {
        let manager =
            deadpool_postgres::Manager::new(stack.postgres_url().parse().expect("a URL"), tokio_postgres::NoTls);
        let every = ObserverOptions { sample_every: 1, ..ObserverOptions::default() };
        let builder = cachetag_client::Cache::builder().redis(stack.redis_url()).beta(0.0).observer(every);
        let shop = shop::Shop {
            cache: builder.build().expect("a cache"),
            database: deadpool_postgres::Pool::builder(manager).max_size(4).build().expect("a pool"),
            watermarks: Watermarks::at(&stack.redis_url(), "ct").expect("a URL"),
        };
        assert!(shop.cache.ready(PATIENCE).await);
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        (shop.clone(), address, tokio::spawn(shop::serve(shop, listener)))
    };
    // Two servers: whoever writes at one may read at the other.
    let ((one, here, _), (_, there, _)) = (open().await, open().await);
    let (mut ann, mut bob) = (Browser::default(), Browser::default());
    let (status, source, page) = ann.send(here, "GET", "/product/7", "").await;
    assert_eq!((&*status, &*source), ("200 OK", "Loader"));
    assert!(page.contains("<h1>Product 7</h1><p>17.00</p>") && page.contains("Product 17</a>"), "{page}");
    assert_eq!(bob.send(here, "GET", "/product/7", "").await.1, "Memory");
    // Without a cookie: who has seen a page may have to wait for the watermark until another server may answer from its cache.
    assert_eq!(Browser::default().send(there, "GET", "/product/7", "").await.1, "Redis");
    for (n, at) in [here, there, here, there].into_iter().enumerate() {
        let price = format!("{}.50", 20 + n);
        assert_eq!(ann.send(here, "POST", "/product/7/price", &price).await.0, "200 OK");
        let page = ann.send(at, "GET", "/product/7", "").await.2;
        assert!(page.contains(&format!("<p>{price}</p>")), "she sees what she wrote: {page}");
        eventually("everybody does", PATIENCE, async || {
            bob.send(at, "GET", "/product/7", "").await.2.contains(&price).then_some(())
        })
        .await;
    }
    // Plain SQL of somebody who knows of no page: a name that another page of the category shows, too.
    ann.send(here, "GET", "/product/17", "").await;
    stack.sql("UPDATE products SET name = 'Jug <large>' WHERE id = 7").await;
    for path in ["/product/7", "/product/17"] {
        eventually("the name", PATIENCE, async || {
            bob.send(here, "GET", path, "").await.2.contains("Jug &lt;large&gt;").then_some(())
        })
        .await;
    }
    for (method, path, body, status) in [
        ("GET", "/product/4711", "", "404 Not Found"),
        ("GET", "/product/x", "", "404 Not Found"),
        ("POST", "/product/4711/price", "1", "404 Not Found"),
        ("POST", "/product/7/price", "free", "400 Bad Request"),
        ("POST", "/product/7/price", "-1", "400 Bad Request"),
        ("GET", "/numbers", "", "200 OK"),
        ("GET", "/", "", "404 Not Found"),
    ] {
        assert_eq!(bob.send(here, method, path, body).await.0, status, "{method} {path}");
    }
    // A start after all this is warm.
    assert!(one.warm().shutdown().await.expect("saved") > 0);
    stack.cache().await.drop("page:7").await.expect("dropped");
    let (next, address, _) = open().await;
    let warming = Arc::new(next.warm());
    let report = warming.warm_last_run().await.expect("read");
    assert!(report.warmed >= 1 && report.failed.is_empty() && report.not_stored.is_empty(), "{report:?}");
    assert_eq!(Browser::default().send(address, "GET", "/product/7", "").await.1, "Memory");
    tokio::time::timeout(Duration::from_secs(30), next.cache.forget("page:7"))
        .await
        .expect("in time")
        .expect("forgotten");
}
