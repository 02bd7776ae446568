"""cashews (redis-py, asyncio) as the bench asks for it: a command a line comes in, a line of JSON goes out; see ../README.md."""

import asyncio
import json
import random
import sys
import time
from importlib.metadata import version

import psycopg
from cashews import Cache
from cashews.backends.memory import Memory
from redis.asyncio import BlockingConnectionPool, Redis

TTL = 3600
CONCURRENT_FILLS = 100
# More than a run has keys: an eviction would be a miss that nobody asked for.
L1_ITEMS = 1_000_000
# How many connections cashews has by itself; the plain clients beside it have as many.
CONNECTIONS = 10

postgres_url, redis_url, shared_redis_url = sys.argv[1:]


def value(price):
    return str(price).rjust(500, "0")


async def delay():
    """Less than two milliseconds. In a thread: the event loop's timer is no finer than one."""
    await asyncio.to_thread(time.sleep, random.uniform(0, 0.002))


class Process:
    """What one process of an application has: a cache with or without the client-side layer, and a function that is cached."""

    def __init__(self, layer, database):
        self.cache = Cache()
        options = {"client_side": True, "local_cache": Memory(size=L1_ITEMS)} if layer == "l1" else {}
        self.cache.setup(redis_url, max_connections=CONNECTIONS, **options)

        tags = ("product:{product}", "category:{group}", "brand:{group}", "homepage")

        @self.cache(ttl=TTL, key="page:{group}:{product}", tags=tags)
        async def page(product, group):
            return value(product)

        @self.cache(ttl=TTL, key="race:{run}:{product}", tags=("product:{product}",))
        async def raced(run, product):
            row = await (await database.execute("SELECT price FROM products WHERE id = %s", (product,))).fetchone()
            await delay()
            return value(row[0])

        self.page, self.raced = page, raced


class Peer:
    async def start(self):
        connect = psycopg.AsyncConnection.connect
        self.reader_database = await connect(postgres_url, autocommit=True)
        self.writer_database = await connect(postgres_url, autocommit=True)
        self.reading = {layer: Process(layer, self.reader_database) for layer in ("l2", "l1")}
        self.writing = {layer: Process(layer, self.writer_database) for layer in ("l2", "l1")}
        pool = BlockingConnectionPool.from_url
        self.redis = Redis(connection_pool=pool(redis_url, max_connections=CONNECTIONS))
        # Where cachetag's entries are: the same read in the same language.
        self.shared = Redis(connection_pool=pool(shared_redis_url, max_connections=CONNECTIONS))
        self.races = 0
        await self.redis.set("plain", value(0))
        for process in self.reading.values():
            await process.page(0, 0)

    async def read(self, what):
        if what == "get":
            return await self.redis.get("plain")
        if what == "cachetag":
            reply = await self.shared.fcall("cachetag_get", 1, "{ct}:e:hit")
            return reply[1] if reply[0] == b"hit" else None
        return await self.reading[what].cache.get("page:0:0")

    async def checked_read(self, what):
        found = await self.read(what)
        if found is None or len(found) != 500:
            raise RuntimeError(f"not a hit: {what}")

    async def hits(self, what, count, at_once):
        await self.checked_read(what)
        started = time.perf_counter()
        for _ in range(0, count, at_once):
            if at_once == 1:
                await self.checked_read(what)
            else:
                await asyncio.gather(*(self.checked_read(what) for _ in range(at_once)))
        return {"seconds": time.perf_counter() - started}

    async def fill(self, group, entries):
        page = self.reading["l2"].page
        for done in range(0, entries, CONCURRENT_FILLS):
            some = range(done, min(done + CONCURRENT_FILLS, entries))
            await asyncio.gather(*(page(1_000_000 + i, group) for i in some))
        return {}

    async def invalidate(self, group):
        key = f"page:{group}:1000000"
        before = await self.reading["l2"].cache.get(key)
        started = time.perf_counter()
        await self.writing["l2"].cache.delete_tags(f"category:{group}")
        seconds = time.perf_counter() - started
        after = await self.reading["l2"].cache.get(key)
        if before is None or after is not None:
            raise RuntimeError("the tag was not invalidated")
        return {"ms": seconds * 1000}

    async def race(self, layer, rounds, quiet_ms, apart):
        self.races += 1
        reading, writing = self.reading[layer], self.writing[layer]
        for product in range(1, rounds + 1):
            fill = asyncio.create_task(reading.raced(self.races, product))
            await (fill if apart else delay())
            await self.writer_database.execute("UPDATE products SET price = price + 1 WHERE id = %s", (product,))
            await writing.cache.delete_tags(f"product:{product}")
            await fill
        await asyncio.sleep(quiet_ms / 1000)
        rows = await self.reader_database.execute("SELECT id, price FROM products WHERE id <= %s", (rounds,))
        stale = hits = 0
        for product, price in await rows.fetchall():
            found = await reading.cache.get(f"race:{self.races}:{product}")
            hits += found is not None
            stale += found is not None and found != value(price)
        return {"stale": stale, "hits": hits, "rounds": rounds}

    async def answer(self, command, *args):
        if command == "hits":
            return await self.hits(args[0], int(args[1]), int(args[2]))
        if command == "fill":
            return await self.fill(args[0], int(args[1]))
        if command == "invalidate":
            return await self.invalidate(args[0])
        if command == "race":
            return await self.race(args[0], int(args[1]), int(args[2]), args[3] == "apart")
        raise ValueError(f"unknown command {command}")


async def main():
    peer = Peer()
    await peer.start()
    hello = {"version": version("cashews"), "language": "Python", "layers": ["l2", "l1"], "races": ["l2", "l1"], "at_once": True}
    print(json.dumps(hello), flush=True)
    while line := await asyncio.to_thread(sys.stdin.readline):
        print(json.dumps(await peer.answer(*line.split())), flush=True)


asyncio.run(main())
