//! How fresh a read is, by its own choice; and what a page is made of.

use std::time::Duration;

use cachetag_client::core::Lsn;
use cachetag_client::{ReadOptions, Session, Source};
use cachetag_tests::{DaemonOptions, StackOptions, eventually};

use crate::trial::{PATIENCE, Trial};

#[tokio::test]
async fn a_session_reads_its_own_writes_at_once() {
    let trial = Trial::start().await;
    let cache = trial.cache(trial.builder()).await;
    let session = Session::new();
    for price in 100..160 {
        let position = trial.stack.commit(&format!("UPDATE items SET price = {price} WHERE id = 1")).await;
        session.wrote(Lsn(position).into());
        let read = trial.database.get(cache.session(&session), 1).await.expect("a value").expect("a price");
        assert_eq!(*read, price);
    }
}

#[tokio::test]
async fn fresh_goes_to_the_database_and_refills() {
    let trial = Trial::start().await;
    let cache = trial.cache(trial.builder()).await;
    trial.database.read(&cache, 1).await;
    let fresh = trial.database.get(cache.with(ReadOptions::new().fresh()), 1).await.expect("a value").expect("a price");
    assert_eq!((fresh.metadata().source(), trial.database.queries()), (Source::Loader, 2));
    trial.database.read(&cache, 1).await;
    assert_eq!(trial.database.queries(), 2);
}

/// No daemon: nothing proves that anything is still true.
#[tokio::test]
async fn without_a_daemon_nothing_is_served_beyond_max_lag() {
    let daemon = DaemonOptions::new().max_lag(Duration::from_secs(1));
    let mut trial = Trial::with(StackOptions::new().daemon(daemon)).await;
    let cache = trial.cache(trial.builder().max_lag(Duration::from_secs(1))).await;
    trial.database.read(&cache, 1).await;
    trial.stack.daemon().kill9().await;
    trial.stack.sql("UPDATE items SET price = 11 WHERE id = 1").await;
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    assert_eq!(trial.database.read(&cache, 1).await, Some(11));
    assert_eq!(trial.database.read(&cache, 1).await, Some(11));
    assert_eq!(trial.database.queries(), 3, "nothing is stored either");
    trial.stack.daemon().start_again();
    eventually("hits again", PATIENCE, async || {
        let read = trial.database.get(cache.with(Default::default()), 1).await.ok()??;
        (read.metadata().source() == Source::Memory && *read == 11).then_some(())
    })
    .await;
}

/// A page is made of fragments that are cached by themselves: it has their tags without having said so.
#[tokio::test]
async fn a_page_falls_with_its_fragments() {
    let trial = Trial::start().await;
    let cache = trial.cache(trial.builder()).await;
    let page = || {
        let (inner, database) = (cache.clone(), trial.database.clone());
        cache.get_or_load("page", move |load| async move {
            load.tag("layout");
            let one = database.read(&inner, 1).await.unwrap_or_default();
            let two = database.read(&inner, 2).await.unwrap_or_default();
            let shelf = inner.get_or_load("shelf:0", move |load| database.shelf(load, 0)).await?;
            Ok::<_, cachetag_client::Error>(format!("{one} {two} {}", *shelf))
        })
    };
    let first = page().await.expect("a page");
    let tags: Vec<_> = first.metadata().tags().iter().map(|tag| tag.to_string()).collect();
    assert_eq!((first.as_str(), tags.join(" ")), ("10 10 30", "item:1 item:2 layout shelf:0".into()));
    assert_eq!(page().await.expect("a page").metadata().source(), Source::Memory);
    // Moved from another shelf, by somebody who knows nothing of pages.
    trial.stack.sql("UPDATE items SET shelf = 0, price = 5 WHERE id = 4").await;
    eventually("the page", PATIENCE, async || (page().await.ok()?.as_str() == "10 10 35").then_some(())).await;
    trial.stack.sql("UPDATE items SET price = 12 WHERE id = 2").await;
    eventually("the page", PATIENCE, async || (page().await.ok()?.as_str() == "10 12 35").then_some(())).await;
}

/// A session that is ahead of the feed: its fragments come from Redis with their tags all the same, or the page could not be stored.
#[tokio::test]
async fn a_page_of_a_session_is_stored_though_the_feed_is_behind() {
    let trial = Trial::start().await;
    let cache = trial.cache(trial.builder()).await;
    let session = std::sync::Arc::new(Session::new());
    for round in 0..30 {
        // Of another shelf and item: the fragments stay valid, and are asked for as of now.
        let commit = trial.stack.commit(&format!("UPDATE items SET price = {round} WHERE id = 2")).await;
        session.wrote(Lsn(commit).into());
        let (inner, database, reads) = (cache.clone(), trial.database.clone(), session.clone());
        let load = move |_: cachetag_client::Load| async move {
            let one = database.get(inner.session(&reads), 1).await?.map_or(0, |price| *price);
            let three = database.get(inner.session(&reads), 3).await?.map_or(0, |price| *price);
            Ok::<_, cachetag_client::Error>(one + three)
        };
        let page = cache.get_or_load(&format!("page:{round}"), load).await.expect("a page");
        let tags: Vec<_> = page.metadata().tags().iter().map(|tag| tag.to_string()).collect();
        assert_eq!((*page, tags.join(" ")), (20, "item:1 item:3".into()));
    }
    let events = cache.snapshot().events;
    assert_eq!(events.get("refused_uncovered"), None, "{events:?}");
}

/// What a loader read before the change is not stored after it, however slow it was.
#[tokio::test]
async fn a_load_that_a_commit_overtakes_is_not_stored() {
    let trial = Trial::start().await;
    let cache = trial.cache(trial.builder()).await;
    let (read, go) = (tokio::sync::oneshot::channel::<()>(), tokio::sync::oneshot::channel::<()>());
    let (database, has_read, may_go) = (trial.database.clone(), read.0, go.1);
    let (inner, reading) = (cache.clone(), cache.clone());
    let slow = tokio::spawn(async move {
        let load = move |load| async move {
            let price = database.price(load, 1).await?;
            let _ = has_read.send(());
            let _ = may_go.await;
            Ok::<_, tokio_postgres::Error>(price)
        };
        inner.get_or_load_optional("price:1", load).await
    });
    read.1.await.expect("it reads");
    trial.change("UPDATE items SET price = 99 WHERE id = 1").await;
    let _ = go.0.send(());
    assert_eq!(
        slow.await.expect("no panic").expect("a value").map(|price| *price),
        Some(10),
        "it was true when it was read"
    );
    assert_eq!(trial.database.read(&reading, 1).await, Some(99));
}

#[tokio::test]
async fn a_soft_bump_serves_the_old_value_while_one_makes_it_anew() {
    let trial = Trial::start().await;
    let cache = trial.cache(trial.builder()).await;
    trial.database.read(&cache, 1).await;
    trial.change("SELECT cachetag.invalidate_soft('item:1')").await;
    let stale = trial.database.get(cache.with(Default::default()), 1).await.expect("a value").expect("a price");
    assert!(stale.metadata().is_stale(), "{:?}", stale.metadata());
    eventually("the fresh value", PATIENCE, async || {
        let read = trial.database.get(cache.with(Default::default()), 1).await.ok()??;
        (!read.metadata().is_stale()).then_some(())
    })
    .await;
    assert_eq!(trial.database.queries(), 2);
}
