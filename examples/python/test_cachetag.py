"""Against a real PostgreSQL, Redis and daemon: scripts/examples.sh starts them and runs this."""

import json
import multiprocessing
import os
import threading
import time
import unittest
import uuid
from pathlib import Path

import psycopg
import redis

import cachetag
from cachetag import Cache

POSTGRES, REDIS = os.environ["POSTGRES_URL"], os.environ["REDIS_URL"]
VECTORS = json.loads((Path(__file__).parents[2] / "core/vectors/tags.json").read_text(encoding="utf-8"))

PRODUCT = """SELECT (SELECT json_build_object('name', name, 'price', price) FROM products WHERE id = %(id)s),
                    ARRAY[cachetag.tag('product', %(id)s::int)]"""
CATEGORY = """SELECT json_agg(name ORDER BY id), cachetag.tag_agg(cachetag.tag('product', id)) || cachetag.tag('category', %(id)s::int)
                FROM products WHERE category_id = %(id)s"""


def connect():
    return psycopg.connect(POSTGRES, autocommit=True)


def eventually(condition, what, seconds=20):
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end, f"not within {seconds} s: {what}"
        time.sleep(0.005)
    return value


class Shop(unittest.TestCase):
    """Every test has keys of its own; the changes are plain SQL by another session."""

    def setUp(self):
        self.db, self.writer = connect(), connect()
        self.cache = Cache(redis.Redis.from_url(REDIS))
        self.run_id, self.loads = uuid.uuid4().hex[:8], 0
        self.addCleanup(self.db.close)
        self.addCleanup(self.writer.close)

    def page(self, id, query=PRODUCT, cache=None, **options):
        def load():
            self.loads += 1
            return self.db.execute(query, {"id": id}).fetchone()

        return (cache or self.cache).get_or_set(f"{self.run_id}:{id}", load, **options)

    def until_cached(self, *args, **options):
        def again():  # right after a bump a fill may be refused
            before = self.loads
            self.page(*args, **options)
            return self.loads == before

        eventually(again, "a hit")

    def peek(self, id):  # takes no lease
        return self.cache.redis.execute_command("FCALL_RO", "cachetag_peek", 1, "{ct}:e:%s:%s" % (self.run_id, id))[0]

    def price(self, id, price):
        self.writer.execute("UPDATE products SET price = %s WHERE id = %s", [price, id])


class Reading(Shop):
    def test_second_reader_hits(self):
        first = self.page(1)
        self.assertEqual(first, {"name": "Product 1", "price": 11.0})
        self.until_cached(1)
        self.assertEqual(self.page(1), first)

    def test_a_change_of_the_row_changes_the_page(self):
        self.until_cached(2)
        for price in range(100, 130):
            self.price(2, price)
            eventually(lambda: self.page(2)["price"] == price, "the new price")
            for _ in range(5):
                self.assertEqual(self.page(2)["price"], price, "an old value came back")

    def test_never_old_once_the_cache_has_caught_up(self):
        for price in range(200, 230):
            self.until_cached(3)
            self.price(3, price)
            self.assertTrue(self.writer.execute("SELECT cachetag.wait_for(timeout => '20s')").fetchone()[0])
            self.assertEqual(self.page(3)["price"], price)

    def test_no_reader_sees_what_the_cache_has_passed(self):
        caught_up, seen, done = [0], [], threading.Event()

        def read():
            with connect() as db:
                while not done.is_set():
                    least = caught_up[0]
                    page = self.cache.get_or_set(f"{self.run_id}:fire", lambda: db.execute(PRODUCT, {"id": 4}).fetchone())
                    seen.append((least, page["price"]))

        self.price(4, 0)
        readers = [threading.Thread(target=read) for _ in range(3)]
        for reader in readers:
            reader.start()
        for price in range(1, 61):
            self.price(4, price)
            if self.writer.execute("SELECT cachetag.wait_for(timeout => '20s')").fetchone()[0]:
                caught_up[0] = price
        done.set()
        for reader in readers:
            reader.join()
        self.assertEqual(caught_up[0], 60)
        self.assertGreater(len(seen), 60)
        self.assertEqual([pair for pair in seen if pair[1] < pair[0]], [])

    def test_a_list_falls_when_a_row_joins_it(self):
        self.until_cached(5, CATEGORY)
        before = self.page(5, CATEGORY)
        self.writer.execute("UPDATE products SET category_id = 5 WHERE id = 41")
        eventually(lambda: "Product 41" in self.page(5, CATEGORY), "the new row")
        self.writer.execute("UPDATE products SET category_id = 2 WHERE id = 41")
        eventually(lambda: self.page(5, CATEGORY) == before, "the row to leave")

    def test_absent_is_cached_until_the_row_comes(self):
        self.writer.execute("DELETE FROM products WHERE id = 900")
        self.until_cached(900)
        loads = self.loads
        self.assertIsNone(self.page(900))
        self.assertEqual(self.loads, loads)
        answer = self.cache.get(f"{self.run_id}:900")
        self.assertEqual((answer.state, answer.payload, answer.age_ms >= 0), ("hit", None, True))
        self.writer.execute("INSERT INTO products VALUES (900, 1, 'New', 1)")
        eventually(lambda: self.page(900) == {"name": "New", "price": 1.0}, "the new row")
        self.writer.execute("DELETE FROM products WHERE id = 900")
        eventually(lambda: self.page(900) is None, "the row to go")

    def test_errors_are_not_stored_and_give_the_lease_back(self):
        def broken():
            raise RuntimeError("no")

        with self.assertRaises(RuntimeError):
            self.cache.get_or_set(f"{self.run_id}:6", broken)
        self.assertEqual(self.cache.get(f"{self.run_id}:6").state, "miss")


class Consistency(Shop):
    def test_read_your_writes(self):
        for price in range(300, 330):
            self.until_cached(7)
            self.price(7, price)
            self.assertEqual(self.page(7, at_least=cachetag.position(self.writer))["price"], price)
        self.until_cached(7, at_least=cachetag.position(self.writer))
        loads = self.loads
        self.page(7, at_least="FFFFFFFF/0")  # a commit that the cache has not seen
        self.assertEqual(self.loads, loads + 1)

    def test_stale_while_revalidate(self):
        self.until_cached(8)
        old = self.page(8)
        self.writer.execute("SELECT cachetag.invalidate_soft('product:8')")
        eventually(lambda: self.peek(8) == b"stale", "stale")
        later = []
        cache = Cache(self.cache.redis, refresh=lambda *call: later.append(call))
        loads = self.loads
        for _ in range(3):
            self.assertEqual(self.page(8, cache=cache), old)  # served, nobody waits
        self.assertEqual(self.loads, loads)
        self.assertEqual(len(later), 1)  # one refreshes
        function, *args = later[0]
        function(*args)
        self.assertEqual(self.loads, loads + 1)
        eventually(lambda: self.page(8) and self.peek(8) == b"hit", "a fresh entry")

    def test_fresh_time(self):
        self.until_cached(9, fresh=0.3)
        eventually(lambda: self.peek(9) == b"stale", "stale")
        loads = self.loads
        self.assertEqual(self.page(9, fresh=60)["name"], "Product 9")
        eventually(lambda: self.loads == loads + 1 and self.peek(9) == b"hit", "the refresh")

    def test_bypass_reads_the_database_and_stores_nothing(self):
        cache = Cache(self.cache.redis, namespace="nobody")  # no daemon feeds it
        for loads in (1, 2):
            self.assertEqual(self.page(10, cache=cache)["name"], "Product 10")
            self.assertEqual(self.loads, loads)
        self.assertEqual(list(self.cache.redis.scan_iter("{nobody}:*")), [])

    def test_redis_down_is_a_bypass(self):
        self.assertEqual(self.page(10, cache=Cache(redis.Redis(port=1)))["name"], "Product 10")

    def test_a_mistake_of_the_caller_raises(self):
        with self.assertRaisesRegex(redis.ResponseError, "CACHETAG TAGS"):
            self.cache.get_or_set(f"{self.run_id}:x", lambda: (1, ["not a tag"]))

    def test_what_was_read_in_a_writers_transaction_is_not_stored(self):
        def covers(token):
            return self.db.execute("SELECT cachetag.covers(%s)", [token]).fetchone()[0]

        with self.db.transaction(force_rollback=True):
            self.db.execute("UPDATE products SET price = 0 WHERE id = 11")
            self.assertEqual(self.page(11, covers=covers)["price"], 0)
        self.assertEqual(self.page(11, covers=covers)["price"], 21)


class Race(Shop):
    def test_of_three_processes_one_loads(self):
        fork = multiprocessing.get_context("fork")
        for round in range(3):
            key, pages = f"{self.run_id}:race{round}", fork.Queue()
            racers = [fork.Process(target=race, args=(key, pages)) for _ in range(3)]
            for racer in racers:
                racer.start()
            self.assertEqual([pages.get(timeout=60) for _ in racers], [{"name": "Product 12", "price": 22.0}] * 3)
            for racer in racers:
                racer.join()
            self.assertEqual(self.cache.redis.get(f"{key}:loads"), b"1")


def race(key, pages):
    cache = Cache(redis.Redis.from_url(REDIS))

    def load():
        cache.redis.incr(f"{key}:loads")
        db.execute("SELECT pg_sleep(0.2)")
        return db.execute(PRODUCT, {"id": 12}).fetchone()

    cache.redis.incr(f"{key}:ready")
    eventually(lambda: cache.redis.get(f"{key}:ready") == b"3", "the other racers")
    with connect() as db:
        pages.put(cache.get_or_set(key, load, patience=20))


class Tags(unittest.TestCase):
    def test_built(self):
        for vector in VECTORS["built"]:
            self.assertEqual(cachetag.tag(vector["family"], *vector["parts"]), vector["tag"])
            self.assertEqual(cachetag.whole_family(vector["family"]), vector["whole_family"])
            self.assertTrue(cachetag.is_tag(vector["tag"]))

    def test_not_built(self):
        for vector in VECTORS["not_built"]:
            with self.assertRaises(ValueError, msg=vector["reason"]):
                cachetag.tag(vector["family"], *vector["parts"])

    def test_accepted_and_rejected(self):
        for vector in VECTORS["accepted"]:
            self.assertTrue(cachetag.is_tag(vector["tag"]), vector)
        for vector in VECTORS["rejected"]:
            self.assertFalse(cachetag.is_tag(vector["text"]), vector)
        for vector in VECTORS["rejected_bytes"]:
            self.assertFalse(cachetag.is_tag(bytes.fromhex(vector["hex"])), vector)

    def test_parts(self):
        for vector in VECTORS["parts"]:
            self.assertEqual(cachetag.encode(bytes.fromhex(vector["raw_hex"]).decode()), vector["encoded"])

    def test_the_database_agrees(self):
        with connect() as db:
            for part in ("42", "a:b c", "50%", "{x}*", "é東"):
                self.assertEqual(db.execute("SELECT cachetag.tag('f', %s::text)", [part]).fetchone()[0], cachetag.tag("f", part))
        self.assertRaises(TypeError, cachetag.tag, "f", True)
        self.assertEqual(cachetag.tag("f", 42), "f:42")


if __name__ == "__main__":
    unittest.main()
