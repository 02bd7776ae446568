// Against a real PostgreSQL, Redis and daemon: scripts/examples.sh starts them and runs this.

import assert from "node:assert/strict";
import { fork } from "node:child_process";
import { randomUUID } from "node:crypto";
import { readFileSync } from "node:fs";
import { after, before, beforeEach, describe, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";

import { Redis } from "ioredis";
import pg from "pg";

import { Cache, encode, isTag, position, tag, wholeFamily } from "./cachetag.mjs";

const PRODUCT = `SELECT (SELECT json_build_object('name', name, 'price', price) FROM products WHERE id = $1) AS value,
                        ARRAY[cachetag.tag('product', $1::int)] AS tags`;
const CATEGORY = `SELECT json_agg(name ORDER BY id) AS value, cachetag.tag_agg(cachetag.tag('product', id)) || cachetag.tag('category', $1::int) AS tags
                    FROM products WHERE category_id = $1`;

const redis = new Redis(process.env.REDIS_URL);
const db = new pg.Pool({ connectionString: process.env.POSTGRES_URL, max: 8 });
const cache = new Cache(redis);
const load = async (query, id) => Object.values((await db.query(query, [id])).rows[0]);

async function eventually(condition, what, ms = 20_000) {
  for (const end = Date.now() + ms; !(await condition()); await sleep(5)) assert.ok(Date.now() < end, `not within ${ms} ms: ${what}`);
}

if (process.argv[2] === "race") {
  // One of the racers that a test below starts.
  const key = process.argv[3];
  await redis.incr(`${key}:ready`);
  await eventually(async () => (await redis.get(`${key}:ready`)) === "3", "the other racers");
  const page = await cache.getOrSet(key, async () => {
    await redis.incr(`${key}:loads`);
    await sleep(200);
    return load(PRODUCT, 22);
  }, { patience: 20_000 });
  process.send(page, () => process.exit());
} else {
  let run, loads;
  const key = (id) => `${run}:${id}`;
  const page = (id, { query = PRODUCT, from = cache, ...options } = {}) =>
    from.getOrSet(key(id), () => (loads++, load(query, id)), options);
  const peek = async (id) => (await redis.call("FCALL_RO", "cachetag_peek", 1, `{ct}:e:${key(id)}`))[0]; // takes no lease
  const setPrice = (id, price) => db.query("UPDATE products SET price = $2 WHERE id = $1", [id, price]);
  // Right after a bump a fill may be refused.
  const untilCached = (id, options) => eventually(async () => {
    const before = loads;
    await page(id, options);
    return loads === before;
  }, "a hit");

  beforeEach(() => ((run = randomUUID().slice(0, 8)), (loads = 0)));
  after(async () => (redis.disconnect(), await db.end()));

  describe("reading", () => {
    test("the second reader hits", async () => {
      await untilCached(21);
      const before = loads;
      assert.deepEqual(await page(21), { name: "Product 21", price: 31 });
      assert.equal(loads, before);
    });

    test("a change of the row changes the page", async () => {
      for (let price = 100; price < 120; price++) {
        await setPrice(13, price);
        await eventually(async () => (await page(13)).price === price, "the new price");
        for (let again = 0; again < 5; again++) assert.equal((await page(13)).price, price, "an old value came back");
      }
    });

    test("no reader sees what the cache has passed", async () => {
      let passed = 0, done = false, seen = 0;
      await setPrice(14, 0);
      const reader = async () => {
        while (!done) {
          const least = passed;
          const { price } = await page(14);
          assert.ok(price >= least, `${price} after ${least}`);
          seen++;
        }
      };
      const readers = [reader(), reader(), reader()];
      for (let price = 1; price <= 60; price++) {
        await setPrice(14, price);
        if ((await db.query("SELECT cachetag.wait_for(timeout => '20s') AS passed")).rows[0].passed) passed = price;
      }
      done = true;
      await Promise.all(readers);
      assert.equal(passed, 60);
      assert.ok(seen > 60);
    });

    test("a list falls when a row joins it", async () => {
      const list = () => page(6, { query: CATEGORY });
      await untilCached(6, { query: CATEGORY });
      const before = await list();
      await db.query("UPDATE products SET category_id = 6 WHERE id = 42");
      await eventually(async () => (await list()).includes("Product 42"), "the new row");
      await db.query("UPDATE products SET category_id = 3 WHERE id = 42");
      await eventually(async () => (await list()).length === before.length, "the row to leave");
    });

    test("absent is cached until the row comes", async () => {
      await untilCached(901);
      assert.equal(await page(901), null);
      const answer = await cache.get(key(901));
      assert.deepEqual([answer.state, answer.payload, answer.age >= 0], ["hit", null, true]);
      await db.query("INSERT INTO products VALUES (901, 1, 'New', 1)");
      await eventually(async () => (await page(901))?.name === "New", "the new row");
      await db.query("DELETE FROM products WHERE id = 901");
      await eventually(async () => (await page(901)) === null, "the row to go");
    });

    test("errors are not stored and give the lease back", async () => {
      await assert.rejects(cache.getOrSet(key(1), async () => { throw new Error("no"); }), /^Error: no$/);
      assert.equal((await cache.get(key(1))).state, "miss");
    });
  });

  describe("consistency", () => {
    test("read your writes", async () => {
      for (let price = 300; price < 330; price++) {
        await untilCached(15);
        await setPrice(15, price);
        assert.equal((await page(15, { atLeast: await position(db) })).price, price);
      }
      await untilCached(15, { atLeast: await position(db) });
      const before = loads;
      await page(15, { atLeast: "FFFFFFFF/0" }); // a commit that the cache has not seen
      assert.equal(loads, before + 1);
    });

    test("stale while revalidate: all are served, one refreshes", async () => {
      await untilCached(16);
      const old = await page(16);
      await db.query("SELECT cachetag.invalidate_soft('product:16')");
      await eventually(async () => (await peek(16)) === "stale", "stale");
      const later = [];
      const from = new Cache(redis, { refresh: (fill) => later.push(fill) });
      const before = loads;
      for (let reader = 0; reader < 3; reader++) assert.deepEqual(await page(16, { from }), old);
      assert.deepEqual([loads, later.length], [before, 1]);
      await later[0]();
      assert.equal(loads, before + 1);
      await eventually(async () => (await page(16)) && (await peek(16)) === "hit", "a fresh entry");
    });

    test("past its fresh time an entry is served and refreshed", async () => {
      await untilCached(17, { fresh: 300 });
      await eventually(async () => (await peek(17)) === "stale", "stale");
      const before = loads;
      assert.equal((await page(17, { fresh: 60_000 })).name, "Product 17");
      await eventually(async () => loads === before + 1 && (await peek(17)) === "hit", "the refresh");
    });

    test("a bypass reads the database and stores nothing", async () => {
      const from = new Cache(redis, { namespace: "nobody" }); // no daemon feeds it
      for (const expected of [1, 2]) {
        assert.equal((await page(10, { from })).name, "Product 10");
        assert.equal(loads, expected);
      }
      assert.deepEqual(await redis.keys("{nobody}:*"), []);
    });

    test("a Redis that is down is a bypass", async () => {
      const down = new Redis({ port: 1, retryStrategy: null, maxRetriesPerRequest: 0 });
      const errors = [];
      down.on("error", () => {});
      const from = new Cache(down, { onError: (error) => errors.push(error) });
      assert.equal((await page(10, { from })).name, "Product 10");
      assert.ok(errors.length > 0);
    });

    test("a mistake of the caller throws", async () => {
      await assert.rejects(cache.getOrSet(key("x"), async () => [1, ["not a tag"]]), /CACHETAG TAGS/);
    });

    test("what was read in a writer's transaction is not stored", async (t) => {
      const session = await db.connect();
      t.after(() => session.release(true));
      const options = { covers: async (token) => (await session.query("SELECT cachetag.covers($1) AS yes", [token])).rows[0].yes };
      const read = async () => Object.values((await session.query(PRODUCT, [18])).rows[0]);
      await session.query("BEGIN");
      await session.query("UPDATE products SET price = 0 WHERE id = 18");
      assert.equal((await cache.getOrSet(key(18), read, options)).price, 0);
      await session.query("ROLLBACK");
      assert.equal((await cache.getOrSet(key(18), read, options)).price, 28);
    });

    test("of three processes one loads, and of ten tasks in one", async () => {
      const racers = [1, 2, 3].map(() => fork(fileURLToPath(import.meta.url), ["race", key("race")], { execArgv: [] }));
      const pages = await Promise.all(racers.map((racer) => new Promise((resolve, reject) => racer.once("message", resolve).once("error", reject))));
      assert.deepEqual(pages, Array(3).fill({ name: "Product 22", price: 32 }));
      assert.equal(await redis.get(`${key("race")}:loads`), "1");

      const slow = async () => (loads++, await sleep(100), load(PRODUCT, 22));
      await Promise.all(Array.from({ length: 10 }, () => cache.getOrSet(key("tasks"), slow, { patience: 20_000 })));
      assert.equal(loads, 1);
    });
  });

  describe("tags", () => {
    let vectors;
    before(() => (vectors = JSON.parse(readFileSync(new URL("../../core/vectors/tags.json", import.meta.url)))));

    test("built", () => {
      for (const { family, parts, tag: expected, whole_family } of vectors.built) {
        assert.equal(tag(family, ...parts), expected);
        assert.equal(wholeFamily(family), whole_family);
        assert.ok(isTag(expected));
      }
    });

    test("not built", () => {
      for (const { family, parts, reason } of vectors.not_built) assert.throws(() => tag(family, ...parts), RangeError, reason);
    });

    test("accepted and rejected", () => {
      for (const vector of vectors.accepted) assert.ok(isTag(vector.tag), vector.tag);
      for (const vector of vectors.rejected) assert.ok(!isTag(vector.text), vector.text);
      for (const vector of vectors.rejected_bytes) assert.ok(!isTag(Buffer.from(vector.hex, "hex")), vector.hex);
    });

    test("parts", () => {
      for (const { raw_hex, encoded } of vectors.parts) assert.equal(encode(Buffer.from(raw_hex, "hex").toString()), encoded);
      assert.throws(() => encode(true), TypeError);
    });

    test("the database agrees", async () => {
      for (const part of ["42", "a:b c", "50%", "{x}*", "é東"]) {
        assert.equal((await db.query("SELECT cachetag.tag('f', $1::text) AS tag", [part])).rows[0].tag, tag("f", part));
      }
    });
  });
}
