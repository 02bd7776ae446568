// bentocache (ioredis) as the bench asks for it: a command a line comes in, a line of JSON goes out; see ../README.md.
import { readFileSync } from 'node:fs';
import { createInterface } from 'node:readline';
import { BentoCache, bentostore } from 'bentocache';
import { memoryDriver } from 'bentocache/drivers/memory';
import { redisBusDriver, redisDriver } from 'bentocache/drivers/redis';
import { Redis } from 'ioredis';
import pg from 'pg';

const TTL = '1h';
const CONCURRENT_FILLS = 100;
// More than a run has keys and tags: an eviction would be a miss that nobody asked for.
const L1_ITEMS = 1_000_000;

const [postgresUrl, redisUrl, sharedRedisUrl] = process.argv.slice(2);
const redis = new Redis(redisUrl);
// Where cachetag's entries are: the same read in the same language.
const shared = new Redis(sharedRedisUrl);
const address = { host: redis.options.host, port: redis.options.port, db: redis.options.db };
const reader = new pg.Client(postgresUrl);
const writer = new pg.Client(postgresUrl);

// What one process of an application has: with an L1, also the bus by which the processes tell each other.
function cache(layer) {
  let store = bentostore();
  if (layer === 'l1') store = store.useL1Layer(memoryDriver({ maxItems: L1_ITEMS }));
  store = store.useL2Layer(redisDriver({ connection: address }));
  if (layer === 'l1') store = store.useBus(redisBusDriver({ connection: address }));
  return new BentoCache({ default: 'app', stores: { app: store }, ttl: TTL });
}

// The process that reads and the process that writes.
const reading = { l1: cache('l1'), l2: cache('l2') };
const writing = { l1: cache('l1'), l2: cache('l2') };

const value = (price) => String(price).padStart(500, '0');
const tags = (product, group) => [`product:${product}`, `category:${group}`, `brand:${group}`, 'homepage'];

// Less than two milliseconds, slept by PostgreSQL: no timer of Node is finer than one, and a busy wait would keep the servers from their processor.
const delay = (connection) => connection.query('SELECT pg_sleep($1)', [Math.random() * 0.002]);

const reads = {
  get: () => redis.get('plain'),
  cachetag: () => shared.fcall('cachetag_get', 1, '{ct}:e:hit').then((reply) => (reply[0] === 'hit' ? reply[1] : null)),
  l1: () => reading.l1.get({ key: 'hit' }),
  l2: () => reading.l2.get({ key: 'hit' }),
};

async function hits(what, count, atOnce) {
  const read = reads[what];
  const check = (found) => {
    if (found?.length !== 500) throw new Error(`not a hit: ${what}`);
  };
  check(await read());
  const started = performance.now();
  for (let done = 0; done < count; done += atOnce) {
    if (atOnce === 1) check(await read());
    else (await Promise.all(Array.from({ length: atOnce }, read))).forEach(check);
  }
  return { seconds: (performance.now() - started) / 1000 };
}

async function fill(group, entries) {
  for (let done = 0; done < entries; done += CONCURRENT_FILLS) {
    const keys = Array.from({ length: Math.min(CONCURRENT_FILLS, entries - done) }, (_, i) => done + i);
    const set = (i) => reading.l2.set({ key: `${group}:${i}`, value: value(i), tags: tags(1_000_000 + i, group) });
    await Promise.all(keys.map(set));
  }
  return {};
}

async function invalidate(group) {
  const before = await reading.l2.get({ key: `${group}:0` });
  const started = performance.now();
  await writing.l2.deleteByTag({ tags: [`category:${group}`] });
  const ms = performance.now() - started;
  const after = await reading.l2.get({ key: `${group}:0` });
  if (before === undefined || after !== undefined) throw new Error('the tag was not invalidated');
  return { ms };
}

let races = 0;

async function race(layer, rounds, quiet, apart) {
  const run = ++races;
  const key = (id) => `race:${run}:${id}`;
  const read = async (id) => {
    const { rows } = await reader.query('SELECT price FROM products WHERE id = $1', [id]);
    await delay(reader);
    return value(rows[0].price);
  };
  for (let id = 1; id <= rounds; id++) {
    const fills = reading[layer].getOrSet({ key: key(id), factory: () => read(id), tags: [`product:${id}`] });
    if (apart) await fills;
    else await delay(writer);
    await writer.query('UPDATE products SET price = price + 1 WHERE id = $1', [id]);
    await writing[layer].deleteByTag({ tags: [`product:${id}`] });
    await fills;
  }
  await new Promise((done) => setTimeout(done, quiet));
  const { rows } = await reader.query('SELECT id, price FROM products WHERE id <= $1', [rounds]);
  let [stale, hit] = [0, 0];
  for (const { id, price } of rows) {
    const found = await reading[layer].get({ key: key(id) });
    if (found !== undefined) hit += 1;
    if (found !== undefined && found !== value(price)) stale += 1;
  }
  return { stale, hits: hit, rounds };
}

async function answer([command, ...args]) {
  if (command === 'hits') return hits(args[0], Number(args[1]), Number(args[2]));
  if (command === 'fill') return fill(args[0], Number(args[1]));
  if (command === 'invalidate') return invalidate(args[0]);
  if (command === 'race') return race(args[0], Number(args[1]), Number(args[2]), args[3] === 'apart');
  throw new Error(`unknown command ${command}`);
}

await Promise.all([reader.connect(), writer.connect()]);
await redis.set('plain', value(0));
for (const layer of ['l1', 'l2']) await reading[layer].set({ key: 'hit', value: value(0), tags: tags(0, 0) });
const { version } = JSON.parse(readFileSync(new URL('node_modules/bentocache/package.json', import.meta.url)));
console.log(JSON.stringify({ version, language: 'Node', layers: ['l2', 'l1'], races: ['l2', 'l1'], at_once: true }));
for await (const line of createInterface({ input: process.stdin })) console.log(JSON.stringify(await answer(line.split(' '))));
process.exit(0);
