//! What a loader is given: it says on it what its value depends on and how it is to be stored.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use cachetag_core::{Tag, Version};
use parking_lot::Mutex;

use crate::cached::Metadata;
use crate::flight::Terms;
use crate::options::AtLeast;

tokio::task_local! {
    /// The load that is running in this task: nested reads hand their tags to it.
    static CURRENT: Load;
    /// What the value of that load is asked for, and so its parts.
    static TERMS: Terms;
}

/// Runs a loader whose value has to satisfy these terms: so do the reads inside of it.
pub(crate) async fn under<F: Future>(terms: Terms, loader: F) -> F::Output {
    TERMS.scope(terms, loader).await
}

/// What the load that runs in this task has to satisfy, if one does.
pub(crate) fn terms() -> Option<Terms> {
    TERMS.try_with(|terms| *terms).ok()
}

/// The context of one load. Cheap to clone; what is said on any clone counts, before or after the queries, until the loader returns.
///
/// Reads of the cache inside a loader add their tags by themselves: a page depends on what its fragments depend on. And they are asked for what the page is
/// asked for ([`ReadOptions`](crate::ReadOptions)), besides their own: a page that covers a commit has no fragment that does not. They may be on other shards
/// than the page; for a moment after the start, or after a shard has opened a new epoch, such a page is returned and not stored.
///
/// ```no_run
/// # async fn example(cache: cachetag_client::Cache, db: std::sync::Arc<tokio_postgres::Client>) -> Result<(), cachetag_client::Error> {
/// use std::time::Duration;
///
/// let price = cache
///     .get_or_load("price:42", |load| async move {
///         load.tag("product:42").ttl(Duration::from_secs(600));
///         let row = db.query_one("SELECT price FROM products WHERE id = 42", &[]).await?;
///         Ok::<i32, tokio_postgres::Error>(row.get(0))
///     })
///     .await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Load(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    key: Box<str>,
    token: Option<Version>,
    shard: usize,
    /// The loads that this one is part of, the outermost first.
    within: Ancestry,
    plan: Mutex<Plan>,
}

/// The keys of the loads that a read is part of.
pub(crate) type Ancestry = Arc<[Box<str>]>;

/// How the value is to be stored.
#[derive(Debug, Clone, Default)]
pub(crate) struct Plan {
    pub tags: BTreeSet<Tag>,
    pub ttl: Option<Duration>,
    pub fresh_for: Option<Duration>,
    pub cost: Option<Duration>,
    pub confidence: Option<f32>,
    /// How sure the least sure of its parts is.
    pub parts: Option<f32>,
    /// At most the token, and no newer than what any nested read is known to be true up to.
    pub as_of: Option<Version>,
    /// Up to where the parts are known to be true that other shards vouch for, in their epochs.
    pub elsewhere: BTreeMap<usize, Version>,
    /// Every commit that the loader may have seen ends here or earlier.
    pub seen: Option<AtLeast>,
    /// When the first of its parts was asked for that a layer vouched for: see [`Found::asked`](crate::cached::Found::asked).
    pub asked: Option<Instant>,
    /// Why the value must not be stored.
    pub refused: Option<String>,
}

impl Plan {
    /// How sure the value is: no surer than its loader, nor than any of its parts.
    pub fn sureness(&self) -> f32 {
        self.confidence.unwrap_or(1.0).min(self.parts.unwrap_or(1.0))
    }
}

/// What can be made a tag: a [`Tag`], or its text.
///
/// ```
/// use cachetag_client::IntoTag;
///
/// assert_eq!("product:42".into_tag().unwrap().to_string(), "product:42");
/// assert!("product 42".into_tag().is_err());
/// ```
pub trait IntoTag {
    /// The tag, or why there is none.
    fn into_tag(self) -> Result<Tag, String>;
}

impl IntoTag for Tag {
    fn into_tag(self) -> Result<Tag, String> {
        Ok(self)
    }
}

impl IntoTag for &Tag {
    fn into_tag(self) -> Result<Tag, String> {
        Ok(self.clone())
    }
}

impl IntoTag for &str {
    fn into_tag(self) -> Result<Tag, String> {
        Tag::parse(self).map_err(|error| error.to_string())
    }
}

impl IntoTag for String {
    fn into_tag(self) -> Result<Tag, String> {
        self.as_str().into_tag()
    }
}

impl IntoTag for &String {
    fn into_tag(self) -> Result<Tag, String> {
        self.as_str().into_tag()
    }
}

impl Load {
    pub(crate) fn new(key: &str, shard: usize, token: Option<Version>, within: Ancestry) -> Load {
        let plan = Plan { as_of: token, ..Plan::default() };
        Load(Arc::new(Inner { key: key.into(), token, shard, within, plan: Mutex::new(plan) }))
    }

    /// The keys that a read inside of this load is part of.
    pub(crate) fn ancestry(&self) -> Ancestry {
        self.0.within.iter().cloned().chain([self.0.key.clone()]).collect()
    }

    /// The key that is being loaded.
    ///
    /// ```
    /// # use cachetag_client::Load;
    /// fn say(load: &Load) {
    ///     println!("loading {}", load.key());
    /// }
    /// ```
    pub fn key(&self) -> &str {
        &self.0.key
    }

    /// The token of the miss: what `cachetag.covers` is asked. `None` where the cache cannot vouch for anything now; then nothing is stored.
    ///
    /// ```
    /// # use cachetag_client::Load;
    /// fn say(load: &Load) {
    ///     if load.token().is_none() { println!("it will not be stored") }
    /// }
    /// ```
    pub fn token(&self) -> Option<Version> {
        self.0.token
    }

    /// The value depends on this. A text that is no tag keeps the value from being stored: what it stood for would never invalidate it.
    ///
    /// ```
    /// # use cachetag_client::Load;
    /// fn say(load: &Load) {
    ///     load.tag("product:42").tag(format!("category:{}", 7));
    /// }
    /// ```
    pub fn tag(&self, tag: impl IntoTag) -> &Load {
        match tag.into_tag() {
            Ok(tag) => {
                self.0.plan.lock().tags.insert(tag);
                self
            }
            Err(problem) => self.do_not_store(problem),
        }
    }

    /// The value depends on all of these. Redis takes 4,096 tags for a value; one with more is kept in memory alone. A family tag such as `product:*` stands
    /// for any number of them.
    ///
    /// ```
    /// # use cachetag_client::Load;
    /// fn say(load: &Load) {
    ///     load.tags(["product:42", "category:7"]);
    /// }
    /// ```
    pub fn tags<T: IntoTag>(&self, tags: impl IntoIterator<Item = T>) -> &Load {
        tags.into_iter().for_each(|tag| {
            self.tag(tag);
        });
        self
    }

    /// How long it is kept at most. Jitter is added to it.
    ///
    /// ```
    /// # use cachetag_client::Load;
    /// fn say(load: &Load) {
    ///     load.ttl(std::time::Duration::from_secs(60));
    /// }
    /// ```
    pub fn ttl(&self, ttl: Duration) -> &Load {
        self.0.plan.lock().ttl = Some(ttl);
        self
    }

    /// After this it is still served while one reader refreshes it.
    ///
    /// ```
    /// # use cachetag_client::Load;
    /// fn say(load: &Load) {
    ///     load.fresh_for(std::time::Duration::from_secs(10));
    /// }
    /// ```
    pub fn fresh_for(&self, time: Duration) -> &Load {
        self.0.plan.lock().fresh_for = Some(time);
        self
    }

    /// What it cost, where the time that the loader took does not tell.
    ///
    /// ```
    /// # use cachetag_client::Load;
    /// fn say(load: &Load) {
    ///     load.cost(std::time::Duration::from_millis(250));
    /// }
    /// ```
    pub fn cost(&self, cost: Duration) -> &Load {
        self.0.plan.lock().cost = Some(cost);
        self
    }

    /// How sure the loader is, from 0 to 1: less than 1 for what came from a fallback. Below the cache's `min_confidence` it is not stored. A page is no surer
    /// than its fragments.
    ///
    /// ```
    /// # use cachetag_client::Load;
    /// fn say(load: &Load) {
    ///     load.confidence(0.4); // from a fallback
    /// }
    /// ```
    pub fn confidence(&self, confidence: f32) -> &Load {
        self.0.plan.lock().confidence = Some(confidence.clamp(0.0, 1.0));
        self
    }

    /// The version that the query's snapshot is known to cover, for example what `cachetag.as_of` gave; it may be above the token.
    ///
    /// ```
    /// # use cachetag_client::{Load, core::Version};
    /// fn say(load: &Load, raised: Version) {
    ///     load.as_of(raised); // SELECT cachetag.as_of(token)
    /// }
    /// ```
    pub fn as_of(&self, version: Version) -> &Load {
        let mut plan = self.0.plan.lock();
        // Only of the token's epoch, and never where a nested read has lowered it already.
        if plan.as_of == self.0.token
            && self.0.token.is_some_and(|token| token.epoch == version.epoch && token <= version)
        {
            plan.as_of = Some(version);
        }
        drop(plan);
        self
    }

    /// A position that covers every commit which the loader may have seen: `cachetag.position()`, asked after the query. A [`Session`](crate::Session) needs
    /// it to never go back behind what was loaded; [`Load::query`] says it by itself.
    ///
    /// ```
    /// # use cachetag_client::{AtLeast, Load};
    /// fn say(load: &Load, position: AtLeast) {
    ///     load.seen(position); // SELECT cachetag.position()
    /// }
    /// ```
    ///
    /// An LSN will do, but for the moment after a failover that lost commits: see [`AtLeast::on`]. Of a version only the place in the log counts.
    pub fn seen(&self, position: impl Into<AtLeast>) -> &Load {
        let position = position.into().without_epoch();
        let mut plan = self.0.plan.lock();
        plan.seen = Some(plan.seen.map_or(position, |known| known.and(position)));
        drop(plan);
        self
    }

    /// The value is returned, and not stored. The reason is told by `tracing`.
    ///
    /// ```
    /// # use cachetag_client::Load;
    /// fn say(load: &Load) {
    ///     load.do_not_store("a part of it is missing");
    /// }
    /// ```
    pub fn do_not_store(&self, reason: impl Into<String>) -> &Load {
        self.0.plan.lock().refused.get_or_insert_with(|| reason.into());
        self
    }

    /// What the loader has said so far.
    pub(crate) fn plan(&self) -> Plan {
        self.0.plan.lock().clone()
    }

    /// Runs a loader, so that reads inside of it find this context.
    pub(crate) async fn scope<F: Future>(&self, loader: F) -> F::Output {
        CURRENT.scope(self.clone(), loader).await
    }

    /// The load that runs in this task, if one does.
    pub(crate) fn current() -> Option<Load> {
        CURRENT.try_with(Load::clone).ok()
    }

    /// The value contains this one; `asked` is when a layer was asked for it, `None` if it was loaded for this very load.
    pub(crate) fn contains(&self, part: &Metadata, asked: Option<Instant>) {
        if let Some(asked) = asked {
            let mut plan = self.0.plan.lock();
            plan.asked = Some(plan.asked.map_or(asked, |first| first.min(asked)));
        }
        let Metadata { valid_to, stale, tags, shard, tags_known, seen, confidence, .. } = part;
        let mut plan = self.0.plan.lock();
        plan.parts = Some(plan.parts.map_or(*confidence, |least| least.min(*confidence)));
        drop(plan);
        if let Some(position) = seen {
            self.seen(*position);
        }
        if *stale {
            // Stored under its age, it would be refused; under the token, it would be taken for fresh.
            self.do_not_store("it contains a stale value");
            return;
        }
        if !*tags_known {
            self.do_not_store("it contains a value whose tags are not known");
            return;
        }
        let mut plan = self.0.plan.lock();
        let vouched = match valid_to {
            None => false,
            Some(version) if *shard != self.0.shard => {
                let known = plan.elsewhere.entry(*shard).or_insert(*version);
                let comparable = known.epoch == version.epoch;
                *known = (*known).min(*version);
                comparable
            }
            Some(version) => {
                let comparable = plan.as_of.is_none_or(|as_of| as_of.epoch == version.epoch);
                plan.as_of = plan.as_of.map(|as_of| as_of.min(*version));
                comparable
            }
        };
        // Positions of two epochs of one shard are not compared.
        if !vouched {
            plan.refused.get_or_insert_with(|| "it contains a value that nothing vouches for here".into());
        }
        plan.tags.extend(tags.get().iter().cloned());
    }
}

#[cfg(test)]
mod tests {
    use cachetag_core::Lsn;

    use super::*;
    use crate::cached::Source;
    use cachetag_core::Epoch;

    fn version(lsn: u64) -> Version {
        Version::new(Epoch::new(7).unwrap(), Lsn(lsn))
    }

    fn child(valid_to: Option<Version>, stale: bool, shard: usize) -> Metadata {
        let tags = Arc::<[Tag]>::from([Tag::parse("fragment:1").unwrap()]).into();
        Metadata { as_of: valid_to, valid_to, tags, stale, ..Metadata::new(Source::Redis, shard, Instant::now()) }
    }

    #[test]
    fn what_is_no_tag_keeps_the_value_out() {
        let load = Load::new("k", 0, Some(version(5)), Ancestry::default());
        load.tag("product:1").tag("no good{");
        let plan = load.plan();
        assert_eq!(plan.tags.len(), 1);
        assert!(plan.refused.unwrap().contains("no good"));
    }

    #[test]
    fn a_page_is_no_newer_than_its_fragments_and_has_their_tags() {
        let load = Load::new("k", 0, Some(version(5)), Ancestry::default());
        load.contains(&child(Some(version(9)), false, 0), None);
        assert_eq!(load.plan().as_of, Some(version(5)));
        load.contains(&child(Some(version(3)), false, 0), None);
        assert_eq!(load.plan().as_of, Some(version(3)));
        assert_eq!(load.plan().tags.len(), 1);
        assert!(load.plan().refused.is_none());
        // A snapshot that is known to be newer does not make the fragment newer.
        load.as_of(version(8));
        assert_eq!(load.plan().as_of, Some(version(3)));
    }

    #[test]
    fn what_nothing_vouches_for_keeps_the_page_out() {
        for (valid_to, stale, shard, known) in [
            (None, false, 0, true),
            (Some(version(9)), true, 0, true),
            (None, false, 1, true),
            (Some(version(9)), true, 1, true),
            (Some(version(9)), false, 1, false),
            (Some(version(9)), false, 0, false),
            (Some(Version::new(Epoch::new(8).unwrap(), Lsn(9))), false, 0, true),
        ] {
            let load = Load::new("k", 0, Some(version(5)), Ancestry::default());
            load.contains(&Metadata { tags_known: known, ..child(valid_to, stale, shard) }, None);
            assert!(load.plan().refused.is_some());
        }
    }

    #[test]
    fn a_page_was_asked_for_when_the_first_of_its_fragments_was() {
        let load = Load::new("k", 0, Some(version(5)), Ancestry::default());
        load.contains(&child(Some(version(9)), false, 0), None);
        assert_eq!(load.plan().asked, None);
        let (first, second) = (Instant::now(), Instant::now() + Duration::from_secs(1));
        load.contains(&child(Some(version(9)), false, 0), Some(second));
        // What is not stored counts as well: it is answered with.
        load.contains(&child(None, true, 0), Some(first));
        load.contains(&child(Some(version(9)), false, 0), Some(second));
        assert_eq!(load.plan().asked, Some(first));
    }

    #[tokio::test]
    async fn a_loader_knows_what_it_has_to_satisfy() {
        let outer = Terms { max_lag: Duration::from_secs(1), at_least: Some(Lsn(7).into()), fresh: false };
        assert_eq!(terms(), None);
        assert_eq!(under(outer, async { terms() }).await, Some(outer));
    }

    #[test]
    fn what_other_shards_vouch_for_is_kept_in_their_terms() {
        let load = Load::new("k", 0, Some(version(5)), Ancestry::default());
        for lsn in [4, 2, 3] {
            load.contains(&child(Some(version(lsn)), false, 1), None);
        }
        load.contains(&child(Some(version(8)), false, 2), None);
        let plan = load.plan();
        assert_eq!((plan.as_of, plan.tags.len()), (Some(version(5)), 1));
        assert_eq!(plan.elsewhere, BTreeMap::from([(1, version(2)), (2, version(8))]));
        assert!(plan.refused.is_none());
        for epoch in [6, 8] {
            let load = Load::new("k", 0, Some(version(5)), Ancestry::default());
            load.contains(&child(Some(version(4)), false, 1), None);
            load.contains(&child(Some(Version::new(Epoch::new(epoch).unwrap(), Lsn(4))), false, 1), None);
            assert!(load.plan().refused.is_some(), "two epochs of one shard");
        }
    }

    #[test]
    fn a_page_is_no_surer_than_its_fragments() {
        let load = Load::new("k", 0, Some(version(5)), Ancestry::default());
        assert_eq!(load.plan().sureness(), 1.0);
        for confidence in [0.5, 0.25, 0.75] {
            load.contains(&Metadata { confidence, ..child(Some(version(9)), false, 0) }, None);
        }
        assert_eq!(load.plan().sureness(), 0.25);
        // Whatever the loader says of its own.
        load.confidence(0.9);
        assert_eq!(load.plan().sureness(), 0.25);
        load.confidence(0.1);
        assert_eq!(load.plan().sureness(), 0.1);
    }

    #[test]
    fn a_token_is_raised_within_its_epoch_only() {
        let load = Load::new("k", 0, Some(version(5)), Ancestry::default());
        load.as_of(Version::new(Epoch::new(8).unwrap(), Lsn(9))).as_of(version(4));
        assert_eq!(load.plan().as_of, Some(version(5)));
        load.as_of(version(6));
        assert_eq!(load.plan().as_of, Some(version(6)));
        let bypassed = Load::new("k", 0, None, Ancestry::default());
        bypassed.as_of(version(6));
        assert_eq!(bypassed.plan().as_of, None);
    }

    #[tokio::test]
    async fn a_nested_read_finds_its_load() {
        assert!(Load::current().is_none());
        let load = Load::new("outer", 0, None, Ancestry::default());
        let inside = load.scope(async { Load::current().map(|load| load.key().to_owned()) }).await;
        assert_eq!(inside.as_deref(), Some("outer"));
    }
}
