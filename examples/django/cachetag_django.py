"""A Django cache whose entries fall when rows change: CACHES = {"default": {"BACKEND": "cachetag_django.CachetagCache", "LOCATION": "redis://..."}}

    from cachetag_django import Tag, TagAgg, Tagged

    def product_page(id):                    # the tags come from the query that makes the value
        row = Product.objects.filter(pk=id).values("name", "price").annotate(tag=Tag("product", "id")).first()
        return Tagged(row and render(row), [row["tag"] if row else tag("product", id)])

    page = cache.get_or_set(f"page:product:{id}", lambda: product_page(id), timeout=600, fresh=60)

What has no tags behaves as in any Django cache: only its timeout ends it. While the daemon is down everything is a miss and nothing is stored:
keep sessions and locks elsewhere. None is an absent value, and is cached.
"""

import pickle
import re
import threading
from typing import Any, Iterable, NamedTuple

import redis
from asgiref.sync import sync_to_async
from django.contrib.postgres.fields import ArrayField
from django.core.cache.backends.base import DEFAULT_TIMEOUT, BaseCache
from django.db import connections
from django.db.models import Aggregate, Func, TextField, Value

import cachetag

FOREVER = 10 * 365 * 86400  # seconds; a timeout of None


class Tagged(NamedTuple):
    """What a loader of get_or_set returns: the value and what it depends on."""

    value: Any
    tags: Iterable[str]


class Tag(Func):
    """cachetag.tag('product', id) in a query: annotate(tag=Tag("product", "id"))."""

    function = "cachetag.tag"
    output_field = TextField()

    def __init__(self, family, *parts, **extra):
        super().__init__(Value(family, output_field=TextField()) if isinstance(family, str) else family, *parts, **extra)


class TagAgg(Aggregate):
    """All tags of a result: aggregate(tags=TagAgg(Tag("product", "id")))."""

    function = "cachetag.tag_agg"
    output_field = ArrayField(TextField())


class _Pickles(cachetag.Cache):
    dumps = staticmethod(lambda value: pickle.dumps(value, pickle.HIGHEST_PROTOCOL))
    loads = staticmethod(pickle.loads)


class CachetagCache(BaseCache):
    """OPTIONS: namespace ("ct"); group ("django"), what clear() removes; using ("default"), the database whose transactions count;
    the others go to redis-py."""

    def __init__(self, location, params):
        super().__init__(params)
        options = {name: value for name, value in params.get("OPTIONS", {}).items() if name not in ("MAX_ENTRIES", "CULL_FREQUENCY")}
        namespace, self._group, self._using = (options.pop(*pair) for pair in (("namespace", "ct"), ("group", "django"), ("using", "default")))
        self._redis = redis.Redis.from_url(location, **options)
        self._cache = _Pickles(self._redis, namespace, self._refresh)

    # --- with tags

    def get_or_set(self, key, default, timeout=DEFAULT_TIMEOUT, version=None, *, fresh=None, max_lag=None, at_least=None, patience=2):
        """As Django's; of many callers that miss, one computes. `default` may return Tagged(value, tags). Times are seconds."""
        ttl = self._ttl(timeout)

        def load():
            value = default() if callable(default) else default
            return value if isinstance(value, Tagged) else Tagged(value, ())

        if ttl <= 0:
            return load().value
        return self._cache.get_or_set(self._key(key, version), load, ttl=ttl, absent_ttl=ttl, fresh=fresh, max_lag=max_lag, at_least=at_least,
                                      covers=self._covers, patience=patience)

    async def aget_or_set(self, key, default, timeout=DEFAULT_TIMEOUT, version=None, **options):
        return await sync_to_async(self.get_or_set)(key, default, timeout, version, **options)

    def token(self):
        """What set(tags=...) needs, taken before the query whose result is set. Empty while nothing can be stored."""
        return self._peek("token").token

    def position(self):
        """After a commit: what to hand to get(at_least=...) or get_or_set(at_least=...), so that a hit covers that commit."""
        with connections[self._using].cursor() as cursor:
            cursor.execute("SELECT cachetag.position()")
            return str(cursor.fetchone()[0])

    def set(self, key, value, timeout=DEFAULT_TIMEOUT, version=None, *, tags=(), token=None, fresh=None):
        tags = list(tags)
        if tags and token is None:
            raise ValueError("tags need a token: token = cache.token() before the query, or get_or_set(), which takes one")
        key, ttl = self._key(key, version), self._ttl(timeout)
        if ttl <= 0:
            self._cache.drop(key)
        elif not self._cache.put(key, value, self._peek(key).token if token is None else token, tags, ttl=ttl, fresh=fresh):
            self._cache.drop(key)  # the old value must not outlive a set

    # --- as Django's

    def get(self, key, default=None, version=None, *, max_lag=None, at_least=None):
        answer = self._cache.get(self._key(key, version), max_lag=max_lag, at_least=at_least, lease=False)
        return self._cache.value(answer) if answer.served else default

    def get_many(self, keys, version=None):
        keys = {key: self._key(key, version) for key in keys}
        answers = self._pipeline([("FCALL_RO", "cachetag_peek", key) for key in keys.values()])
        found = ((key, cachetag.answer_of(reply)) for key, reply in zip(keys, answers))
        return {key: self._cache.value(answer) for key, answer in found if answer.served}

    def set_many(self, data, timeout=DEFAULT_TIMEOUT, version=None):
        ttl, keys = self._ttl(timeout), {key: self._key(key, version) for key in data}
        if ttl <= 0:
            self.delete_many(data, version)
            return []
        token = self.token() if data else ""
        replies = self._pipeline(
            [("FCALL", "cachetag_put", keys[key], *self._cache.put_arguments(value, token, (), ttl=ttl)) for key, value in data.items()])
        return [key for key, reply in zip(data, replies) if not reply or reply[0] != b"stored"]

    def add(self, key, value, timeout=DEFAULT_TIMEOUT, version=None):
        key, ttl = self._key(key, version), self._ttl(timeout)
        if ttl <= 0:
            return not self._peek(key).served
        put = self._cache.put_arguments(value, self.token(), (), ttl=ttl)
        return self._atomically(key, lambda pipe: None if self._peek(key, pipe).served else (key, put))

    def touch(self, key, timeout=DEFAULT_TIMEOUT, version=None):
        key, ttl = self._key(key, version), self._ttl(timeout)
        if ttl <= 0:
            return self._cache.drop(key)
        return self._change(key, lambda value: value, ttl=ttl)

    def incr(self, key, delta=1, version=None):
        result = []
        if not self._change(self._key(key, version), lambda value: result.append(value + delta) or result[-1]):
            raise ValueError(f"Key {key!r} not found")
        return result[-1]

    def incr_version(self, key, delta=1, version=None):
        version = self.version if version is None else version
        old = self._key(key, version)
        if not self._change(old, lambda value: value, to=self._key(key, version + delta)):
            raise ValueError(f"Key {key!r} not found")
        self._cache.drop(old)
        return version + delta

    def delete(self, key, version=None):
        return self._cache.drop(self._key(key, version))

    def delete_many(self, keys, version=None):
        self._pipeline([("FCALL", "cachetag_drop", self._key(key, version)) for key in keys])

    def has_key(self, key, version=None):
        return self._peek(self._key(key, version)).served

    def clear(self):
        """Removes the entries of the group. What is being computed meanwhile may be stored after it: to invalidate what changed, bump its tag."""
        pattern = re.sub(r"([\\*?\[\]])", r"\\\1", f"{self._cache.prefix}{self._group}:") + "*"
        keys = [key.decode()[len(self._cache.prefix) :] for key in self._redis.scan_iter(pattern, count=1000)]
        self._pipeline([("FCALL", "cachetag_drop", key) for key in keys])

    def close(self, **kwargs):
        pass  # connections stay in the pool, for the next request

    # --- inside

    def _key(self, key, version):
        return f"{self._group}:{self.make_and_validate_key(key, version=version)}"

    def _ttl(self, timeout):
        timeout = self.default_timeout if timeout == DEFAULT_TIMEOUT else timeout
        return FOREVER if timeout is None else timeout

    def _covers(self, token):
        """May what this thread's session reads now be stored? Not what it has written itself and not yet committed."""
        connection = connections[self._using]
        if connection.vendor != "postgresql" or not connection.in_atomic_block:
            return True
        with connection.cursor() as cursor:
            cursor.execute("SELECT cachetag.covers(%s)", [token])
            return cursor.fetchone()[0]

    def _refresh(self, fill, *args):
        def run():
            try:
                fill(*args)
            finally:
                connections.close_all()  # those of this thread

        threading.Thread(target=run, name="cachetag", daemon=True).start()

    def _peek(self, key, client=None):
        try:
            return cachetag.answer_of((client or self._redis).execute_command("FCALL_RO", "cachetag_peek", 1, self._cache.prefix + key))
        except redis.RedisError:
            return cachetag.answer_of(None)

    def _pipeline(self, calls):
        """The replies of (command, function, key, argument...), in one round trip; of a Redis that cannot serve, Nones."""
        if not calls:
            return []
        pipe = self._redis.pipeline(transaction=False)
        for command, function, key, *args in calls:
            pipe.execute_command(command, function, 1, self._cache.prefix + key, *args)
        try:
            return [None if isinstance(reply, Exception) else reply for reply in pipe.execute(raise_on_error=False)]
        except redis.RedisError:
            return [None] * len(calls)

    def _atomically(self, key, decide):
        """Puts what `decide` says, (key, arguments) or None, if nobody has written `key` in between."""
        try:
            with self._redis.pipeline() as pipe:
                while True:
                    pipe.watch(self._cache.prefix + key)
                    put = decide(pipe)
                    if put is None:
                        return False
                    pipe.multi()
                    pipe.execute_command("FCALL", "cachetag_put", 1, self._cache.prefix + put[0], *put[1])
                    try:
                        return pipe.execute()[0][0] == b"stored"
                    except redis.WatchError:
                        continue
        except redis.RedisError:
            return False

    def _change(self, key, change, *, ttl=None, to=None):
        """Puts an entry again with its tags, times and as_of, so that it falls by the same commits as before. Whether there was one."""

        def decide(pipe):
            answer = self._peek(key, pipe)
            if not answer.served:
                return None
            reply = pipe.execute_command("FCALL_RO", "cachetag_explain", 1, self._cache.prefix + key)
            about = {name.decode(): value.decode() for name, value in zip(reply[::2], reply[1::2])}
            # A tag is listed with its family, product:42 with product:*; that the family itself is a tag shows in its members.
            tags = [name[4:] for name in about if name.startswith("tag:") and not name.endswith(":*")]
            families = [name[8:] for name in about if name.startswith("members:")]
            tags += ["*" if family == "*" else f"{family}:*" for family in families]
            options = {"ttl": ttl or int(about["expires_in_ms"]) / 1000, "cost": int(about["cost_ms"] or 0) / 1000}
            if about["fresh_in_ms"]:
                options["fresh"] = max(0.001, int(about["fresh_in_ms"]) / 1000)
            return to or key, self._cache.put_arguments(change(self._cache.value(answer)), about["as_of"], tags, **options)

        return self._atomically(key, decide)
