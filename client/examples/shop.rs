//! A small shop on HTTP, cached: product pages made of fragments, tags from the queries, users who see what they have written, and a warm start.
//!
//! ```text
//! cachetag dev --load examples/shop.sql            # prints the two URLs
//! POSTGRES_URL=… REDIS_URL=… cargo run --example shop
//!
//! curl -c jar -b jar localhost:8080/product/7
//! curl -c jar -b jar localhost:8080/product/7/price -d 12.50
//! curl -c jar -b jar localhost:8080/product/7       # the new price, at once; and everybody else's page changes about a millisecond later
//! psql "$POSTGRES_URL" -c "UPDATE products SET name = 'Jug' WHERE id = 7"    # nobody has to tell the shop
//! ```

use std::sync::Arc;
use std::time::Duration;

use cachetag_client::warm::Warming;
use cachetag_client::write::{Watermarks, write_through};
use cachetag_client::{AtLeast, Cache, Cached, Error, Load, Session, Source};
use deadpool_postgres::Pool;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Requests with longer bodies are not answered.
const BODY: usize = 1024;

/// All that a request needs.
#[derive(Clone)]
pub struct Shop {
    /// One for the whole process.
    pub cache: Cache,
    /// Where everything comes from.
    pub database: Pool,
    /// How far the cache has got, for who writes.
    pub watermarks: Watermarks,
}

/// A product as its fragments show it.
#[derive(serde::Serialize, serde::Deserialize)]
struct Product {
    name: String,
    price: String,
    category: i32,
}

impl Shop {
    /// A product. The query that reads it also says which tags it depends on; where it finds nothing, the tag of what would be there is said by hand.
    async fn product(&self, session: &Session, id: i32) -> Result<Option<Cached<Product>>, Error> {
        let database = self.database.clone();
        let load = move |load: Load| async move {
            load.tag(format!("product:{id}"));
            let sql = "SELECT name, price::text, category_id, cachetag.tag('product', id) AS cachetag_tags FROM products WHERE id = $1";
            let rows = load.query(&database.get().await?, sql, &[&id]).await?;
            let product = rows.first().map(|row| Product { name: row.get(0), price: row.get(1), category: row.get(2) });
            Ok::<_, Failure>(product)
        };
        self.cache.session(session).get_or_load_optional(&format!("product:{id}"), load).await
    }

    /// A fragment that many pages share: what else there is in a category.
    async fn shelf(&self, session: &Session, category: i32) -> Result<Cached<String>, Error> {
        let database = self.database.clone();
        let load = move |load: Load| async move {
            // A product that comes into the category or leaves it touches this.
            load.tag(format!("category:{category}"));
            let sql = "SELECT id, name, cachetag.tag('product', id) AS cachetag_tags FROM products WHERE category_id = $1 ORDER BY id";
            let rows = load.query(&database.get().await?, sql, &[&category]).await?;
            let links = rows
                .iter()
                .map(|row| format!("<a href=/product/{}>{}</a> ", row.get::<_, i32>(0), escaped(row.get(1))));
            Ok::<_, Failure>(links.collect::<String>())
        };
        self.cache.session(session).get_or_load(&format!("shelf:{category}"), load).await
    }

    /// A page is cached, too. It depends on what its fragments depend on without saying so.
    async fn page(&self, session: &Arc<Session>, id: i32) -> Result<Option<Cached<String>>, Error> {
        let (shop, inner) = (self.clone(), Arc::clone(session));
        // With the session: a user who has just changed the price must not get a page made of the old product.
        let load = move |_: Load| async move { shop.render(&inner, id).await };
        self.cache.session(session).get_or_load_optional(&format!("page:{id}"), load).await
    }

    /// Makes a page of its fragments.
    async fn render(&self, session: &Session, id: i32) -> Result<Option<String>, Error> {
        let Some(product) = self.product(session, id).await? else { return Ok(None) };
        let shelf = self.shelf(session, product.category).await?;
        let Product { name, price, .. } = &*product;
        Ok(Some(format!("<h1>{}</h1><p>{price}</p><nav>{}</nav>", escaped(name), *shelf)))
    }

    /// Keeps pages warm: those that were asked for most come back on start, and what is bumped while it is hot is made anew before anybody asks.
    pub fn warm(&self) -> Warming {
        let shop = self.clone();
        let load = move |load: Load| {
            let (shop, id) = (shop.clone(), load.key()["page:".len()..].parse());
            async move {
                match id {
                    Ok(id) => shop.render(&Session::new(), id).await,
                    Err(_) => Ok(None),
                }
            }
        };
        self.cache.warming().loader("page:", load).save_in_redis().start()
    }

    /// Changes a price. When it returns, no reader of Redis hits the old one; the session makes sure of this user's copies in memory.
    async fn set_price(&self, session: &Session, id: i32, price: &str) -> Result<bool, Failure> {
        let mut client = self.database.get().await?;
        let done = write_through(&mut client, &self.watermarks, Duration::from_secs(1), async |tx| {
            tx.execute("UPDATE products SET price = $2::text::numeric WHERE id = $1", &[&id, &price]).await
        })
        .await?;
        if let Some(commit) = done.commit {
            session.wrote(commit);
        }
        Ok(done.value == 1)
    }
}

/// Status, where the answer came from, body.
struct Response(&'static str, Option<Source>, String);

/// Serves until it is dropped.
pub async fn serve(shop: Shop, listener: TcpListener) -> std::io::Result<()> {
    loop {
        let (stream, _) = listener.accept().await?;
        let shop = shop.clone();
        tokio::spawn(async move {
            if let Err(error) = connection(&shop, stream).await {
                eprintln!("a connection ended: {error}");
            }
        });
    }
}

/// As little of HTTP/1.1 as will do: one request a connection.
async fn connection(shop: &Shop, stream: TcpStream) -> Result<(), Failure> {
    let mut stream = BufReader::new(stream.take(16 << 10));
    let mut line = String::new();
    stream.read_line(&mut line).await?;
    let (method, path) =
        line.split_once(' ').and_then(|(method, rest)| Some((method, rest.split(' ').next()?))).unwrap_or_default();
    let (method, path) = (method.to_owned(), path.to_owned());
    let (session, mut length) = (Arc::new(Session::new()), 0);
    loop {
        line.clear();
        if stream.read_line(&mut line).await? == 0 || line.trim().is_empty() {
            break;
        }
        let Some((name, value)) = line.trim().split_once(':') else { continue };
        match name.to_ascii_lowercase().as_str() {
            "content-length" => length = value.trim().parse().unwrap_or(usize::MAX),
            // What this user has seen and written so far, on whichever server.
            "cookie" => {
                let position = value.split(';').find_map(|cookie| cookie.trim().strip_prefix("seen="));
                if let Some(position) = position.and_then(|text| text.parse::<AtLeast>().ok()) {
                    session.wrote(position);
                }
            }
            _ => {}
        }
    }
    if length > BODY {
        return Err(format!("a body of {length} bytes").into());
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await?;
    let Response(status, source, text) =
        match answer(shop, &session, &method, &path, &String::from_utf8_lossy(&body)).await {
            Ok(response) => response,
            Err(error) => Response("503 Service Unavailable", None, format!("{error}\n")),
        };
    let mut head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/html; charset=utf-8\r\nContent-Length: {}\r\nConnection: close\r\n",
        text.len()
    );
    if let Some(source) = source {
        head.push_str(&format!("X-Cache: {source:?}\r\n"));
    }
    if let Some(position) = session.position() {
        head.push_str(&format!("Set-Cookie: seen={position}; Path=/; HttpOnly; SameSite=Lax\r\n"));
    }
    let mut stream = stream.into_inner().into_inner();
    stream.write_all(format!("{head}\r\n{text}").as_bytes()).await?;
    Ok(stream.shutdown().await?)
}

async fn answer(
    shop: &Shop,
    session: &Arc<Session>,
    method: &str,
    path: &str,
    body: &str,
) -> Result<Response, Failure> {
    let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    let not_found = || Response("404 Not Found", None, "there is no such product\n".into());
    match (method, parts.as_slice()) {
        ("GET", ["product", id]) => {
            let Ok(id) = id.parse() else { return Ok(not_found()) };
            let page = shop.page(session, id).await?;
            Ok(page.map_or_else(not_found, |page| {
                Response("200 OK", Some(page.metadata().source()), format!("{}\n", *page))
            }))
        }
        ("POST", ["product", id, "price"]) => {
            let Ok(id) = id.parse() else { return Ok(not_found()) };
            // What numeric(8, 2) takes.
            let price: &str = body.trim();
            if !price.parse::<f64>().is_ok_and(|price| (0.0..1e6).contains(&price)) {
                return Ok(Response("400 Bad Request", None, format!("{} is no price\n", escaped(price))));
            }
            let changed = shop.set_price(session, id, price).await?;
            Ok(if changed { Response("200 OK", None, "changed\n".into()) } else { not_found() })
        }
        ("GET", ["numbers"]) => Ok(Response("200 OK", None, serde_json::to_string_pretty(&shop.cache.snapshot())?)),
        _ => Ok(Response("404 Not Found", None, "there is /product/<id>, /product/<id>/price and /numbers\n".into())),
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Failure> {
    let variable = |name: &str| std::env::var(name).map_err(|_| format!("{name} is not set: start `cachetag dev`"));
    let (postgres, redis) = (variable("POSTGRES_URL")?, variable("REDIS_URL")?);
    let manager = deadpool_postgres::Manager::new(postgres.parse()?, tokio_postgres::NoTls);
    let database = Pool::builder(manager).max_size(16).build()?;
    let cache = Cache::builder().redis(&*redis).ttl(Duration::from_secs(600)).build()?;
    let shop = Shop { cache: cache.clone(), database, watermarks: Watermarks::at(&redis, "ct")? };

    let warming = shop.warm();
    match warming.warm_last_run().await {
        Ok(report) => println!("{} pages warmed, {} were there", report.warmed, report.present),
        Err(error) => println!("a cold start: {error}"),
    }

    let listener = TcpListener::bind("127.0.0.1:8080").await?;
    println!("http://{}/product/7", listener.local_addr()?);
    tokio::select! {
        served = serve(shop, listener) => served?,
        stopped = tokio::signal::ctrl_c() => stopped?,
    }
    println!("{} hot keys saved", warming.shutdown().await?);
    Ok(())
}
