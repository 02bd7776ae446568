"""Against a real PostgreSQL, Redis and daemon: scripts/examples.sh starts them and runs this. What a Django cache does without tags is
tested by Django's own suite: own_suite.py."""

import os
import threading
import time
import unittest
import uuid
from urllib.parse import urlsplit

import django
import psycopg
from django.conf import settings

POSTGRES = urlsplit(os.environ["POSTGRES_URL"])
settings.configure(
    DATABASES={"default": {"ENGINE": "django.db.backends.postgresql", "NAME": POSTGRES.path[1:], "USER": POSTGRES.username,
                           "HOST": POSTGRES.hostname, "PORT": POSTGRES.port}},
    CACHES={"default": {"BACKEND": "cachetag_django.CachetagCache", "LOCATION": os.environ["REDIS_URL"]},
            "nobody": {"BACKEND": "cachetag_django.CachetagCache", "LOCATION": os.environ["REDIS_URL"], "OPTIONS": {"namespace": "nobody"}},
            "down": {"BACKEND": "cachetag_django.CachetagCache", "LOCATION": "redis://127.0.0.1:1"}},
)
django.setup()

from django.core.cache import cache, caches
from django.db import connections, models, transaction
from django.db.models import F

from cachetag import tag
from cachetag_django import Tag, TagAgg, Tagged


class Product(models.Model):
    category_id = models.IntegerField()
    name = models.TextField()
    price = models.DecimalField(max_digits=8, decimal_places=2)

    class Meta:
        app_label, db_table, managed = "shop", "products", False


def eventually(condition, what, seconds=20):
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end, f"not within {seconds} s: {what}"
        time.sleep(0.005)
    return value


class Shop(unittest.TestCase):
    def setUp(self):
        self.writer = psycopg.connect(os.environ["POSTGRES_URL"], autocommit=True)  # writes plain SQL, knows nothing of caches
        self.addCleanup(self.writer.close)
        self.run_id, self.loads = uuid.uuid4().hex[:8], 0

    def key(self, id):
        return f"{self.run_id}:{id}"

    def product(self, id):
        self.loads += 1
        row = Product.objects.filter(pk=id).values("name", "price").annotate(tag=Tag("product", "id")).first()
        return Tagged({"name": row["name"], "price": int(row["price"])}, [row["tag"]]) if row else Tagged(None, [tag("product", id)])

    def page(self, id, cache=cache, **options):
        return cache.get_or_set(self.key(id), lambda: self.product(id), **options)

    def until_cached(self, read):
        def again():  # right after a bump a fill may be refused
            before = self.loads
            read()
            return self.loads == before

        eventually(again, "a hit")

    def price(self, id, price):
        self.writer.execute("UPDATE products SET price = %s WHERE id = %s", [price, id])

    def caught_up(self):
        self.assertTrue(self.writer.execute("SELECT cachetag.wait_for(timeout => '20s')").fetchone()[0])


class Tags(Shop):
    def test_never_old_once_the_cache_has_caught_up(self):
        for price in range(100, 120):
            self.until_cached(lambda: self.page(71))
            self.price(71, price)
            self.caught_up()
            self.assertEqual(self.page(71)["price"], price)

    def test_read_your_writes(self):
        for price in range(300, 320):
            self.until_cached(lambda: self.page(72))
            Product.objects.filter(pk=72).update(price=price)
            self.assertEqual(self.page(72, at_least=cache.position())["price"], price)
            found = cache.get(self.key(72), at_least=cache.position())
            self.assertIn(found and found["price"], [None, price])
        loads = self.loads
        self.page(72, at_least="FFFFFFFF/0")  # a commit that the cache has not seen
        self.assertEqual(self.loads, loads + 1)
        self.assertIsNone(cache.get(self.key(72), at_least="FFFFFFFF/0"))

    def test_the_tags_of_a_list_come_from_its_query(self):
        def names():
            self.loads += 1
            rows = Product.objects.filter(category_id=10).order_by("id")
            tags = rows.aggregate(tags=TagAgg(Tag("product", "id")))["tags"]
            return Tagged([row.name for row in rows], [*tags, tag("category", 10)])

        def read():
            return cache.get_or_set(self.key("list"), names)

        self.until_cached(read)
        before = read()
        self.assertEqual(len(before), 10)
        self.writer.execute("UPDATE products SET category_id = 10 WHERE id = 77")
        eventually(lambda: "Product 77" in read(), "the new row")
        self.writer.execute("UPDATE products SET category_id = 8 WHERE id = 77")
        eventually(lambda: read() == before, "the row to leave")

    def test_absent_is_cached_until_the_row_comes(self):
        self.until_cached(lambda: self.page(905))
        self.assertIsNone(cache.get(self.key(905), "default"))
        Product.objects.create(id=905, category_id=1, name="New", price=1)
        eventually(lambda: self.page(905) == {"name": "New", "price": 1}, "the new row")
        Product.objects.filter(pk=905).delete()
        eventually(lambda: self.page(905) is None, "the row to go")

    def test_set_with_a_token(self):
        with self.assertRaisesRegex(ValueError, "token"):
            cache.set(self.key(1), 1, tags=["product:1"])
        token = cache.token()
        cache.set(self.key(73), self.product(73).value, tags=["product:73"], token=token)
        self.assertEqual(cache.get(self.key(73))["name"], "Product 73")
        self.price(73, 1)
        self.caught_up()
        self.assertIsNone(cache.get(self.key(73)))
        # A slow reader comes with what it read before the change.
        cache.set(self.key(73), "old", tags=["product:73"], token=token)
        self.assertIsNone(cache.get(self.key(73)))

    def test_what_rewrites_an_entry_keeps_its_tags(self):
        def fall(key, version=None):
            self.assertIsNotNone(cache.get(key, version=version))
            self.price(74, self.loads)
            self.loads += 1
            self.caught_up()
            self.assertIsNone(cache.get(key, version=version))

        def fresh(tags):
            def stored():
                cache.set(self.key(74), 1, tags=tags, token=cache.token())
                return cache.has_key(self.key(74))

            eventually(stored, "the entry")

        fresh(["product:74"])
        self.assertTrue(cache.touch(self.key(74), 1000))
        fall(self.key(74))
        fresh(["product:*"])
        self.assertEqual(cache.incr(self.key(74), 5), 6)
        fall(self.key(74))
        fresh(["*"])
        self.assertEqual(cache.incr_version(self.key(74)), 2)
        self.assertFalse(cache.has_key(self.key(74)))
        fall(self.key(74), version=2)
        fresh(["category:5", "product:75"])  # product 74 is in category 5
        self.assertTrue(cache.touch(self.key(74), 1000))
        fall(self.key(74))
        fresh(["category:1", "product:75"])
        self.assertTrue(cache.touch(self.key(74), 1000))
        self.price(74, 0)
        self.caught_up()
        self.assertEqual(cache.get(self.key(74)), 1)  # neither is a whole family, and both stand

    def test_a_rewrite_does_not_outrun_a_change(self):
        def stored():
            cache.set(self.key(70), 1, tags=["product:70"], token=cache.token())
            return cache.has_key(self.key(70))

        def change(value):  # a commit between the look at the entry and the put
            self.price(70, 1)
            self.caught_up()
            return value

        eventually(stored, "the entry")
        self.assertFalse(cache._change(cache._key(self.key(70), None), change))
        self.assertIsNone(cache.get(self.key(70)))

    def test_increments_of_many_threads_all_count(self):
        cache.set(self.key("n"), 0)

        def work():
            for _ in range(25):
                cache.incr(self.key("n"))

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(cache.get(self.key("n")), 100)

    def test_clear_leaves_what_is_not_djangos(self):
        cache._redis.execute_command("FCALL", "cachetag_put", 1, "{ct}:e:other:" + self.run_id, "x", cache.token(), 60000, "TAGS", 0)
        cache.set(self.key("mine"), 1)
        cache.clear()
        self.assertFalse(cache.has_key(self.key("mine")))
        self.assertEqual(cache._redis.execute_command("FCALL", "cachetag_drop", 1, "{ct}:e:other:" + self.run_id), 1)


class Readers(Shop):
    def test_stale_while_revalidate(self):
        self.until_cached(lambda: self.page(76))
        self.writer.execute("SELECT cachetag.invalidate_soft('product:76')")
        self.caught_up()
        key = f"{{ct}}:e:django::1:{self.key(76)}"
        peek = lambda: cache._redis.execute_command("FCALL_RO", "cachetag_peek", 1, key)[0]
        eventually(lambda: peek() == b"stale", "stale")
        loads = self.loads
        self.assertEqual(self.page(76)["name"], "Product 76")  # served
        eventually(lambda: self.loads == loads + 1, "a refresh in another thread")
        eventually(lambda: self.page(76) and peek() == b"hit", "a fresh entry")

    def test_of_many_threads_one_loads(self):
        def slow():
            self.loads += 1
            time.sleep(0.2)
            return Tagged("page", ["product:78"])

        def read():
            pages.append(cache.get_or_set(self.key(78), slow, patience=20))
            connections.close_all()

        pages = []
        threads = [threading.Thread(target=read) for _ in range(5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual((pages, self.loads), (["page"] * 5, 1))

    def test_a_plain_get_takes_no_lease(self):
        self.assertEqual(cache.get(self.key(1), "default"), "default")
        self.assertEqual(cache._cache.get(cache._key(self.key(1), None)).state, "miss")

    def test_a_writers_transaction_stores_nothing(self):
        class Rollback(Exception):
            pass

        with self.assertRaises(Rollback), transaction.atomic():
            Product.objects.filter(pk=79).update(price=F("price") * 0)
            self.assertEqual(self.page(79)["price"], 0)
            raise Rollback
        self.assertEqual(self.page(79)["price"], 89)

    def test_a_readers_transaction_stores(self):
        with transaction.atomic():
            self.until_cached(lambda: self.page(80))

    def test_without_a_daemon_or_redis_nothing_is_stored(self):
        for name in ("nobody", "down"):
            for _ in range(2):
                self.assertEqual(self.page(10, cache=caches[name])["name"], "Product 10")
            caches[name].set("a", 1)
            self.assertIsNone(caches[name].get("a"))
            self.assertEqual(caches[name].set_many({"a": 1}), ["a"])
            self.assertEqual(caches[name].get_many(["a"]), {})
            self.assertFalse(caches[name].touch("a"))
            self.assertFalse(caches[name].add("a", 1))
            self.assertFalse(caches[name].delete("a"))
        self.assertEqual(self.loads, 4)


if __name__ == "__main__":
    unittest.main()
