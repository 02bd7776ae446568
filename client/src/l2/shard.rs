//! A shard: one Redis and one namespace in it.

use std::sync::Arc;
use std::time::Duration;

use redis::{Cmd, Pipeline, Value};

use super::asked::Asked;
use super::connection::Connection;
use super::reply::unexpected;
use super::verdict::before_tags;
use super::{
    Error, Explain, Fast, GetOptions, Got, Lease, LeaseGuard, Put, RawEntry, Reading, ShardState, Stored, TagReading,
    TagValue, Terms, Verdict, judge,
};
use super::{explain, fast, get, put, reply};

/// How long to wait for Redis.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// For a connection, with its handshake.
    pub connect: Duration,
    /// For an answer.
    pub response: Duration,
}

impl Default for Timeouts {
    /// A second to connect, half a second to answer.
    fn default() -> Timeouts {
        Timeouts { connect: Duration::from_secs(1), response: Duration::from_millis(500) }
    }
}

/// One Redis and one namespace in it: a slot, in a cluster. Clones share the connection.
///
/// Every call may be dropped at any point, and may still be executed then, as one that timed out may. A `get` that timed out may hold a lease
/// that nobody knows of, until it runs out; one that was dropped gives it back.
///
/// ```
/// use cachetag_client::l2::{Shard, Timeouts};
///
/// let shard = Shard::open("redis://127.0.0.1/", "ct", Timeouts::default())?;
/// assert_eq!(shard.entry_key("page:42"), "{ct}:e:page:42");
/// # Ok::<(), cachetag_client::l2::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Shard {
    pub(super) connection: Arc<Connection>,
    /// `{namespace}:`
    pub(super) prefix: Arc<str>,
}

impl Shard {
    /// Connects.
    pub async fn connect(url: &str, namespace: &str, timeouts: Timeouts) -> Result<Shard, Error> {
        let shard = Shard::open(url, namespace, timeouts)?;
        shard.connection.ready().await?;
        Ok(shard)
    }

    /// Without connecting: the first call does. The error is only of a wrong URL or namespace, so an application starts without Redis.
    pub fn open(url: &str, namespace: &str, timeouts: Timeouts) -> Result<Shard, Error> {
        if namespace.is_empty() || namespace.contains(['{', '}']) {
            return Err(Error::Namespace { namespace: namespace.to_owned() });
        }
        let connection = Connection::new(url, timeouts)?;
        Ok(Shard { connection: Arc::new(connection), prefix: format!("{{{namespace}}}:").into() })
    }

    /// The URL, without its password.
    pub fn url(&self) -> &str {
        self.connection.url()
    }

    /// The namespace.
    pub fn namespace(&self) -> &str {
        &self.prefix[1..self.prefix.len() - 2]
    }

    /// Is there a connection, as far as is known without asking?
    pub fn is_up(&self) -> bool {
        self.connection.is_up()
    }

    /// The key of Redis that holds an entry.
    pub fn entry_key(&self, key: &str) -> String {
        format!("{}e:{key}", self.prefix)
    }

    /// `cachetag_get`. Dropped on its way, it gives back the lease that it may be given.
    pub async fn get(&self, key: &str, options: &GetOptions) -> Result<Got, Error> {
        let command = self.get_command(key, options);
        if options.no_lease {
            return get::parse(self.connection.call(&command).await?);
        }
        let connection = self.connection.clone();
        let call = Box::pin(async move { Ok(vec![get::parse(connection.call(&command).await?)?]) });
        let mut got = Asked::new(self.clone(), vec![key.to_owned()], call).await?;
        Ok(got.pop().unwrap_or(Got::BYPASS))
    }

    /// `cachetag_get` for many keys, in one round trip. A key that holds a stranger's value is a bypass.
    pub async fn get_many<K: AsRef<str>>(&self, keys: &[K], options: &GetOptions) -> Result<Vec<Got>, Error> {
        let pipeline = pipeline(keys.iter().map(|key| self.get_command(key.as_ref(), options)));
        let connection = self.connection.clone();
        let call = async move {
            let replies = connection.pipeline(&pipeline).await?;
            let got = replies.into_iter().map(|reply| match connection.checked(reply).and_then(get::parse) {
                Err(error) if error.is_call() => {
                    tracing::warn!(%error, "a key cannot be read: it is a bypass");
                    Ok(Got::BYPASS)
                }
                result => result,
            });
            got.collect()
        };
        if options.no_lease {
            return call.await;
        }
        let names = keys.iter().map(|key| key.as_ref().to_owned()).collect();
        Asked::new(self.clone(), names, Box::pin(call)).await
    }

    /// `cachetag_put`.
    pub async fn put(&self, key: &str, put: &Put) -> Result<Stored, Error> {
        put::parse(&self.connection.call(&self.put_command(key, put)).await?)
    }

    /// `cachetag_put` of many entries, in one round trip. Each has its own answer: Redis may have room for some only.
    pub async fn put_many<K: AsRef<str>>(&self, puts: &[(K, Put)]) -> Result<Vec<Result<Stored, Error>>, Error> {
        let commands = puts.iter().map(|(key, put)| self.put_command(key.as_ref(), put));
        let replies = self.connection.pipeline(&pipeline(commands)).await?;
        Ok(replies.into_iter().map(|reply| put::parse(&self.connection.checked(reply)?)).collect())
    }

    /// `cachetag_drop`: removes an entry; whether there was one. It does not stop a fill in flight: to invalidate what changed, bump its tag.
    pub async fn drop_entry(&self, key: &str) -> Result<bool, Error> {
        let call = self.function("FCALL", "cachetag_drop", key);
        as_bool("cachetag_drop", &self.connection.call(&call).await?)
    }

    /// `cachetag_release`: gives a lease back without a put; whether it was still held.
    pub async fn release(&self, key: &str, lease: &Lease) -> Result<bool, Error> {
        let mut call = self.function("FCALL", "cachetag_release", key);
        call.arg(lease.id());
        as_bool("cachetag_release", &self.connection.call(&call).await?)
    }

    /// The lease of a key, for this long, unless it is held: for who makes an entry anew that is valid, which `cachetag_get` gives no lease for.
    /// Dropped on its way, it may hold a lease that nobody knows of, until that runs out.
    pub(crate) async fn lease(&self, key: &str, time: Duration) -> Result<Option<LeaseGuard>, Error> {
        // As `take_lease` of the library does.
        let id = format!("{:020x}", fastrand::u128(..) >> 48);
        let mut call = Cmd::new();
        call.arg("SET").arg(format!("{}l:{key}", self.prefix)).arg(&id);
        call.arg("NX").arg("PX").arg(time.as_millis().max(1) as u64);
        match self.connection.call(&call).await? {
            Value::Okay => Ok(Some(self.guard(key, Lease::new(id)))),
            Value::Nil => Ok(None),
            other => Err(unexpected("SET of a lease", &other)),
        }
    }

    /// A guard that gives the lease back when it is dropped.
    pub fn guard(&self, key: impl Into<String>, lease: Lease) -> LeaseGuard {
        LeaseGuard::new(self.clone(), key.into(), lease)
    }

    /// `cachetag_explain`: an entry and the verdict on it, for people. Takes no lease.
    pub async fn explain(&self, key: &str, options: &GetOptions) -> Result<Explain, Error> {
        let mut call = self.function("FCALL_RO", "cachetag_explain", key);
        options.write(&mut call);
        explain::parse(&self.connection.call(&call).await?)
    }

    /// Where the shard stands.
    pub async fn state(&self) -> Result<ShardState, Error> {
        ShardState::read(&self.connection.call(&self.state_command()).await?)
    }

    /// Entries as they are, in one round trip: nobody has judged them. `None` for none, for one of an older library, and for what is no
    /// entry at all: [`Shard::get`] tells these apart.
    pub async fn entries<K: AsRef<str>>(&self, keys: &[K]) -> Result<Vec<Option<RawEntry>>, Error> {
        if let [key] = keys {
            let reply = self.connection.call(&self.entry_command(key.as_ref())).await;
            return match reply {
                Ok(reply) => Ok(vec![RawEntry::read(reply)]),
                Err(error) if error.is_call() => Ok(vec![None]),
                Err(error) => Err(error),
            };
        }
        let replies =
            self.connection.pipeline(&pipeline(keys.iter().map(|key| self.entry_command(key.as_ref())))).await?;
        replies.into_iter().map(|reply| self.raw(reply)).collect()
    }

    /// Entries as they are, with the state and the time before them, in one round trip.
    pub async fn reading<K: AsRef<str>>(&self, keys: &[K]) -> Result<Reading, Error> {
        let mut time = Cmd::new();
        time.arg("TIME");
        let commands = [self.state_command(), time].into_iter();
        let mut name = String::new();
        let commands = commands.chain(keys.iter().map(|key| self.named_entry_command(key.as_ref(), &mut name)));
        let mut replies = self.connection.pipeline(&pipeline(commands)).await?.into_iter();
        let mut next = || self.connection.checked(replies.next().unwrap_or(Value::Nil));
        let (state, now_ms) = (ShardState::read(&next()?)?, fast::time(&next()?)?);
        let entries = replies.map(|reply| self.raw(reply)).collect::<Result<_, _>>()?;
        Ok(Reading { state, now_ms, entries })
    }

    /// Values of keys as [`RawEntry::keys`] names them, with the state and the time at that very moment, in one round trip.
    pub async fn tags<'a>(&self, keys: impl IntoIterator<Item = &'a str>) -> Result<TagReading, Error> {
        let mut pipeline = redis::pipe();
        // In one step: a Redis that goes back between two answers (a failover, a restore) would vouch for what it no longer knows.
        pipeline.atomic().add_command(self.state_command()).cmd("TIME").cmd("MGET");
        let mut count = 0;
        for key in keys {
            pipeline.arg(format!("{}{key}", self.prefix));
            count += 1;
        }
        if count == 0 {
            // MGET asks for one.
            pipeline.arg(format!("{}w", self.prefix));
        }
        let mut replies = self.connection.transaction(&pipeline).await?.into_iter();
        let mut next = || self.connection.checked(replies.next().unwrap_or(Value::Nil));
        let (state, now_ms) = (ShardState::read(&next()?)?, fast::time(&next()?)?);
        match next()? {
            Value::Array(values) if values.len() == count.max(1) => {
                let values =
                    values.iter().take(count).map(|value| reply::text(value).and_then(TagValue::parse)).collect();
                Ok(TagReading { state, now_ms, values })
            }
            other => Err(unexpected("MGET", &other)),
        }
    }

    /// Entries with the verdict on each, by plain commands: one round trip, and a second one for the tags of those that `known` leaves
    /// open. It is asked for every entry that time, floor and epoch have not ruled out, and may answer from a feed of the log.
    ///
    /// No lease is taken and no token given: whatever is no hit is for [`Shard::get`].
    ///
    /// ```no_run
    /// # async fn run(shard: cachetag_client::l2::Shard) -> Result<(), cachetag_client::l2::Error> {
    /// use cachetag_client::l2::{Terms, Verdict};
    ///
    /// for read in shard.fast_many(&["page:1", "page:2"], &Terms::default(), |_, _| None).await? {
    ///     if let (Verdict::Hit, Some(entry)) = (read.verdict, read.entry) {
    ///         println!("{:?}", entry.value());
    ///     }
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub async fn fast_many<K: AsRef<str>>(
        &self,
        keys: &[K],
        terms: &Terms,
        mut known: impl FnMut(usize, &RawEntry) -> Option<Verdict>,
    ) -> Result<Vec<Fast>, Error> {
        let Reading { state, now_ms, entries } = self.reading(keys).await?;
        let verdicts: Vec<Option<Verdict>> = entries
            .iter()
            .enumerate()
            .map(|(i, entry)| match before_tags(entry.as_ref(), &state, now_ms, terms) {
                Err(verdict) => Some(verdict),
                Ok(entry) => known(i, entry),
            })
            .collect();
        let open =
            || entries.iter().zip(&verdicts).filter(|(_, verdict)| verdict.is_none()).flat_map(|(entry, _)| entry);
        // Each key once: pages of one site share most of their tags.
        let mut names: Vec<&str> = open().flat_map(RawEntry::keys).collect();
        names.sort_unstable();
        names.dedup();
        let tags = if names.is_empty() { None } else { Some(self.tags(names.iter().copied()).await?) };
        let judged: Vec<Verdict> = entries
            .iter()
            .zip(verdicts)
            .map(|(entry, verdict)| match (verdict, &tags) {
                (Some(verdict), _) => verdict,
                (None, Some(tags)) => {
                    let values = entry.as_ref().map(|entry| tags.of(&names, entry)).unwrap_or_default();
                    judge(entry.as_ref(), &tags.state, &values, tags.now_ms, terms)
                }
                // Of entries without tags alone.
                (None, None) => judge(entry.as_ref(), &state, &[], now_ms, terms),
            })
            .collect();
        Ok(entries.into_iter().zip(judged).map(|(entry, verdict)| Fast { verdict, entry }).collect())
    }

    fn raw(&self, reply: Value) -> Result<Option<RawEntry>, Error> {
        // Whatever else it is, it is read as no entry.
        if !matches!(reply, Value::ServerError(_)) {
            return Ok(RawEntry::read(reply));
        }
        match self.connection.checked(reply) {
            Err(error) if !error.is_call() => Err(error),
            _ => Ok(None),
        }
    }

    fn function(&self, command: &str, function: &str, key: &str) -> Cmd {
        let mut call = Cmd::new();
        call.arg(command).arg(function).arg(1).arg(self.entry_key(key));
        call
    }

    fn get_command(&self, key: &str, options: &GetOptions) -> Cmd {
        let mut call = self.function("FCALL", "cachetag_get", key);
        options.write(&mut call);
        call
    }

    fn put_command(&self, key: &str, put: &Put) -> Cmd {
        let mut call = self.function("FCALL", "cachetag_put", key);
        put.write(&mut call);
        call
    }

    fn entry_command(&self, key: &str) -> Cmd {
        self.named_entry_command(key, &mut String::new())
    }

    /// The same for one of many: they share the memory in which the key is written.
    fn named_entry_command(&self, key: &str, name: &mut String) -> Cmd {
        name.clear();
        name.extend([&*self.prefix, "e:", key]);
        let mut call = Cmd::with_capacity(4, "HMGETpayloadmeta".len() + name.len());
        call.arg("HMGET").arg(&*name).arg("payload").arg("meta");
        call
    }

    fn state_command(&self) -> Cmd {
        let mut call = Cmd::new();
        call.arg("HMGET").arg(format!("{}w", self.prefix)).arg(&ShardState::FIELDS);
        call
    }
}

fn pipeline(commands: impl Iterator<Item = Cmd>) -> Pipeline {
    let mut pipeline = Pipeline::with_capacity(commands.size_hint().0);
    for command in commands {
        pipeline.add_command(command);
    }
    pipeline
}

fn as_bool(call: &'static str, reply: &Value) -> Result<bool, Error> {
    match reply {
        Value::Int(0) => Ok(false),
        Value::Int(1) => Ok(true),
        other => Err(unexpected(call, other)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_has_no_braces() {
        for namespace in ["", "{ct}", "a}b"] {
            let error = Shard::open("redis://a", namespace, Timeouts::default()).unwrap_err();
            assert!(matches!(error, Error::Namespace { .. }), "{error}");
        }
        let shard = Shard::open("redis://u:secret@a", "ct0", Timeouts::default()).unwrap();
        assert_eq!((shard.namespace(), shard.url()), ("ct0", "redis://…@a"));
        assert!(!shard.is_up());
    }

    #[test]
    fn yes_and_no() {
        assert!(as_bool("x", &Value::Int(1)).unwrap() && !as_bool("x", &Value::Int(0)).unwrap());
        assert!(as_bool("x", &Value::Okay).is_err());
    }
}
