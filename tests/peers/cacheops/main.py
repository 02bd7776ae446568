"""django-cacheops (Django, redis-py) as the bench asks for it: a command a line comes in, a line of JSON goes out; see ../README.md."""

import json
import random
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib.metadata import version
from urllib.parse import urlsplit

import django
import redis
from django.conf import settings

postgres_url, redis_url, shared_redis_url = sys.argv[1:]
TTL = 3600


def configure():
    postgres = urlsplit(postgres_url)
    database = {
        "ENGINE": "django.db.backends.postgresql",
        "HOST": postgres.hostname,
        "PORT": postgres.port,
        "USER": postgres.username,
        "PASSWORD": postgres.password,
        "NAME": postgres.path.lstrip("/"),
        "CONN_MAX_AGE": None,
    }
    settings.configure(
        INSTALLED_APPS=["cacheops"],
        DATABASES={"default": database},
        CACHEOPS_REDIS=redis_url,
        # Nothing by itself: what is cached is said where it is cached.
        CACHEOPS={"*.*": {"ops": (), "timeout": TTL}},
    )
    django.setup()


configure()

from cacheops import cached_as, invalidate_obj  # noqa: E402
from django.db import models  # noqa: E402


class Product(models.Model):
    id = models.IntegerField(primary_key=True)
    category_id = models.IntegerField()
    brand_id = models.IntegerField()
    homepage = models.BooleanField()
    price = models.IntegerField()

    class Meta:
        app_label = "shop"
        db_table = "products"
        managed = False


def value(price):
    return str(price).rjust(500, "0")


def samples(product, group):
    """The four tags, in the words of cacheops: queries whose results a change may be in."""
    all_products = Product.objects
    return (
        all_products.filter(id=product),
        all_products.filter(category_id=group),
        all_products.filter(brand_id=group),
        all_products.filter(homepage=True),
    )


class Page:
    """A cached function, which says whether it was called."""

    def __init__(self, compute, samples, extra, keep_fresh=False):
        self.called = False

        @cached_as(*samples, extra=extra, keep_fresh=keep_fresh)
        def page():
            self.called = True
            return compute()

        self.get = page

    def found(self):
        """The cached value, if there is one."""
        self.called = False
        result = self.get()
        return None if self.called else result


def slow_price(product):
    price = Product.objects.get(id=product).price
    time.sleep(random.uniform(0, 0.002))
    return value(price)


class Peer:
    def __init__(self):
        self.redis = redis.Redis.from_url(redis_url)
        # Where cachetag's entries are: the same read in the same language.
        self.shared = redis.Redis.from_url(shared_redis_url)
        # The process that reads beside the one that writes, which is this thread.
        self.reader = ThreadPoolExecutor(max_workers=1)
        self.races = 0
        self.redis.set("plain", value(0))
        self.hit = Page(lambda: value(0), samples(0, 0), "hit")
        self.hit.get()
        self.filled = {}

    def read(self, what):
        if what == "get":
            return self.redis.get("plain")
        if what == "cachetag":
            reply = self.shared.fcall("cachetag_get", 1, "{ct}:e:hit")
            return reply[1] if reply[0] == b"hit" else None
        return self.hit.found()

    def hits(self, what, count):
        started = time.perf_counter()
        for _ in range(count):
            found = self.read(what)
            if found is None or len(found) != 500:
                raise RuntimeError(f"not a hit: {what}")
        return {"seconds": time.perf_counter() - started}

    def fill(self, group, entries):
        # From the last to the first, which stays to be looked at.
        for i in reversed(range(entries)):
            page = Page(lambda: value(0), samples(1_000_000 + i, group), f"{group}:{i}")
            page.get()
        self.filled[group] = page
        return {}

    def invalidate(self, group):
        changed = Product(id=-1, category_id=group, brand_id=-1, homepage=False, price=0)
        page = self.filled[group]
        before = page.found()
        started = time.perf_counter()
        invalidate_obj(changed)
        seconds = time.perf_counter() - started
        if before is None or page.found() is not None:
            raise RuntimeError("the tag was not invalidated")
        return {"ms": seconds * 1000}

    def race(self, how, rounds, quiet_ms, apart):
        self.races += 1
        pages = {}
        for product in range(1, rounds + 1):
            row = Product.objects.filter(id=product)
            pages[product] = Page(partial(slow_price, product), [row], self.races, keep_fresh=how == "keep_fresh")
        for product, page in pages.items():
            row = Product.objects.get(id=product)
            row.price += 1
            fill = self.reader.submit(page.get)
            if apart:
                fill.result()
            else:
                time.sleep(random.uniform(0, 0.002))
            row.save()
            fill.result()
        time.sleep(quiet_ms / 1000)
        stale = hits = 0
        prices = dict(Product.objects.filter(id__lte=rounds).values_list("id", "price"))
        for product, page in pages.items():
            found = page.found()
            hits += found is not None
            stale += found is not None and found != value(prices[product])
        return {"stale": stale, "hits": hits, "rounds": rounds}

    def answer(self, command, *args):
        if command == "hits":
            return self.hits(args[0], int(args[1]))
        if command == "fill":
            return self.fill(int(args[0]), int(args[1]))
        if command == "invalidate":
            return self.invalidate(int(args[0]))
        if command == "race":
            return self.race(args[0], int(args[1]), int(args[2]), args[3] == "apart")
        raise ValueError(f"unknown command {command}")


def main():
    peer = Peer()
    hello = {
        "version": version("django-cacheops"),
        "language": "Python",
        "layers": ["l2"],
        "races": ["cached_as", "keep_fresh"],
        "at_once": False,
    }
    print(json.dumps(hello), flush=True)
    for line in sys.stdin:
        print(json.dumps(peer.answer(*line.split())), flush=True)


main()
