"""A cache in front of PostgreSQL that is never wrong for long: cachetag with redis-py.

    cache = Cache(redis.Redis.from_url("redis://..."))
    page = cache.get_or_set(f"page:product:{id}", lambda: db.execute(QUERY, {"id": id}).fetchone())

The loader returns the value (JSON, or None: there is nothing, which is cached too) and its tags, which come from the same query:

    SELECT (SELECT json_build_object('name', name) FROM products WHERE id = %(id)s), ARRAY[cachetag.tag('product', %(id)s::int)]
"""

import json
import random
import re
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Callable, Iterable, NamedTuple, Optional

import redis


class Answer(NamedTuple):
    state: str  # hit, stale, early, miss, wait or bypass
    payload: Optional[bytes]
    token: str  # what the reader is known to see; goes with the put
    lease: str  # not empty: this caller should recompute
    age_ms: int

    @property
    def served(self) -> bool:
        return self.state in ("hit", "stale", "early")


def answer_of(reply) -> Answer:
    """Of a reply of cachetag_get or cachetag_peek; of None, a bypass."""
    state, payload, token, lease, age = reply or ("bypass", None, "", "", -1)
    return Answer(_text(state), payload, _text(token), _text(lease), age)


def position(db) -> str:
    """After a COMMIT: what to hand to get_or_set(at_least=...), so that a hit covers that commit."""
    return str(db.execute("SELECT cachetag.position()").fetchone()[0])


class Cache:
    """`refresh` runs a function later, for stale entries; the default is a pool of threads. A subclass may store other things than JSON."""

    dumps = staticmethod(lambda value: json.dumps(value, ensure_ascii=False))
    loads = staticmethod(json.loads)

    def __init__(self, client: redis.Redis, namespace: str = "ct", refresh: Optional[Callable] = None):
        self.redis, self.prefix = client, "{%s}:e:" % namespace
        self.refresh = refresh or ThreadPoolExecutor(max_workers=4, thread_name_prefix="cachetag").submit

    def get_or_set(self, key: str, load: Callable[[], tuple[Any, Iterable[str]]], *, ttl: float = 600, absent_ttl: float = 30,
                   fresh: Optional[float] = None, max_lag: Optional[float] = None, at_least: Optional[str] = None,
                   covers: Optional[Callable[[str], bool]] = None, patience: float = 2) -> Any:
        """The value of `key`. Times are seconds. `covers` asks the session that loads, SELECT cachetag.covers(token): give it
        where the loader may run in a transaction that has written or is REPEATABLE READ, or on a standby."""

        def fill(answer: Answer) -> Any:
            token = answer.token
            try:
                covered = not (token and covers) or covers(token)
                began = time.monotonic()
                value, tags = load()  # after the token was given: that is what makes the fill sound
                cost = time.monotonic() - began
                token = token if covered or not tags else ""
                self.put(key, value, token, tags, ttl=absent_ttl if value is None else ttl, fresh=fresh, cost=cost, lease=answer.lease)
                return value
            except BaseException:
                self.put(key, None, "", (), lease=answer.lease)  # an error is never stored; the next caller need not wait
                raise

        deadline, pause = time.monotonic() + patience, 0.005
        while True:
            answer = self.get(key, max_lag=max_lag, at_least=at_least)
            if answer.state != "wait" or time.monotonic() > deadline:
                break
            time.sleep(pause * random.uniform(0.5, 1))
            pause = min(pause * 2, 0.1)
        if not answer.served:
            return fill(answer)
        if answer.lease:
            self.refresh(fill, answer)
        return self.value(answer)

    def get(self, key: str, *, max_lag: Optional[float] = None, at_least: Optional[str] = None, lease: bool = True) -> Answer:
        options: list = [] if max_lag is None else ["MAXLAG", round(max_lag * 1000)]
        options += ["ATLEAST", at_least] if at_least else []
        options += [] if lease else ["NOLEASE"]
        return answer_of(self._call("cachetag_get", key, *options))

    def value(self, answer: Answer) -> Any:
        return None if answer.payload is None else self.loads(answer.payload)

    def put(self, key: str, value: Any, token: str, tags: Iterable[str], *, lease: str = "", **options) -> bool:
        """Whether it was stored. Without a token it never is, but the lease is given back."""
        if not token and not lease:
            return False
        reply = self._call("cachetag_put", key, *self.put_arguments(value, token, tags, lease=lease, **options))
        return reply is not None and _text(reply[0]) == "stored"

    def put_arguments(self, value: Any, token: str, tags: Iterable[str], *, ttl: float = 600, fresh: Optional[float] = None,
                      cost: float = 0, lease: str = "") -> list:
        tags = list(tags)
        args = ["" if value is None else self.dumps(value), token, max(1, round(ttl * 1000)), "TAGS", len(tags), *tags, "COST", round(cost * 1000)]
        args += ["ABSENT"] if value is None else []
        args += ["FRESH", max(1, round(fresh * 1000))] if fresh is not None else []
        return args + (["LEASE", lease] if lease else [])

    def drop(self, key: str) -> bool:
        return bool(self._call("cachetag_drop", key))

    def _call(self, function: str, key: str, *args) -> Any:
        """The reply; None if Redis cannot serve now (down, full, not loaded yet). A mistake of the caller raises."""
        try:
            return self.redis.execute_command("FCALL", function, 1, self.prefix + key, *args)
        except redis.RedisError as error:
            if str(error).startswith("CACHETAG"):
                raise
            return None


def _text(reply) -> str:  # a client with decode_responses gives str
    return reply.decode() if isinstance(reply, bytes) else reply


_RAW = re.compile(r"[\x00-\x20\x7f:%*{}]")
_CHAR = r"(?:[^\x00-\x20\x7f:%*{}]|%(?:[01][0-9A-F]|20|25|2A|3A|7B|7D|7F))"
_TAG = re.compile(rf"\*|({_CHAR}+)(?::\*|(?::{_CHAR}*)*)")


def encode(part) -> str:
    """A family or a part of a tag. Text and integers only: what else a column holds, let cachetag.tag() render in the query."""
    if not isinstance(part, (str, int)) or isinstance(part, bool):
        raise TypeError(f"a part of a tag is text or an integer, not {type(part).__name__}: use cachetag.tag() in the query")
    return _RAW.sub(lambda byte: "%%%02X" % ord(byte[0]), str(part))


def tag(family: str, *parts) -> str:
    """The tag family:part:...; a tag of a row is better taken from the query, by cachetag.tag()."""
    text = ":".join(map(encode, (family, *parts)))
    if not is_tag(text):
        raise ValueError(f"no tag: {text[:80]!r} has no family or is longer than 512 bytes")
    return text


def whole_family(family: str) -> str:
    return tag(family) + ":*"


def is_tag(text) -> bool:
    """Is it a canonical tag? Bytes must be UTF-8."""
    try:
        text, size = (text.decode(), len(text)) if isinstance(text, bytes) else (text, len(text.encode()))
    except UnicodeError:
        return False
    match = _TAG.fullmatch(text)
    # <family>:* must be a tag too.
    return bool(match) and size <= 512 and len((match[1] or "").encode()) <= 510
