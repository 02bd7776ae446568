// A cache in front of PostgreSQL that is never wrong for long: cachetag with ioredis.
//
//   const cache = new Cache(new Redis("redis://..."));
//   const page = await cache.getOrSet(`page:product:${id}`, async () => Object.values((await db.query(QUERY, [id])).rows[0]));
//
// The loader returns [value, tags]; a value is JSON, or null: there is nothing, which is cached too. The tags come from the same query:
//
//   SELECT (SELECT json_build_object('name', name) FROM products WHERE id = $1) AS value, ARRAY[cachetag.tag('product', $1::int)] AS tags

import { setTimeout as sleep } from "node:timers/promises";

const BYPASS = { state: "bypass", payload: null, token: "", lease: "", age: -1 };
const SERVED = new Set(["hit", "stale", "early"]);

/** After a COMMIT: what to hand to getOrSet as atLeast, so that a hit covers that commit. */
export async function position(db) {
  return (await db.query("SELECT cachetag.position() AS position")).rows[0].position;
}

export class Cache {
  #redis;
  #prefix;
  #refresh;
  #onError;

  /** `refresh` runs a function later, for stale entries; `onError` hears of refreshes that failed and of a Redis that cannot serve. */
  constructor(redis, { namespace = "ct", refresh = (fill) => void fill(), onError = () => {} } = {}) {
    this.#redis = redis;
    this.#prefix = `{${namespace}}:e:`;
    this.#refresh = refresh;
    this.#onError = onError;
  }

  /** The value of `key`. Times are milliseconds. `covers` asks the session that loads, SELECT cachetag.covers(token): give it where
   *  the loader may run in a transaction that has written or is REPEATABLE READ, or on a standby. */
  async getOrSet(key, load, options = {}) {
    const deadline = Date.now() + (options.patience ?? 2000);
    let answer = await this.get(key, options);
    for (let pause = 5; answer.state === "wait" && Date.now() < deadline; pause = Math.min(pause * 2, 100)) {
      await sleep(pause * (0.5 + Math.random() / 2));
      answer = await this.get(key, options);
    }
    if (!SERVED.has(answer.state)) return this.#fill(key, load, answer, options);
    if (answer.lease) this.#refresh(() => this.#fill(key, load, answer, options).catch(this.#onError));
    return answer.payload === null ? null : JSON.parse(answer.payload);
  }

  async #fill(key, load, answer, { ttl = 600_000, absentTtl = 30_000, fresh, covers }) {
    let { token } = answer;
    const { lease } = answer;
    try {
      if (token && covers && !(await covers(token))) token = "";
      const began = Date.now();
      const [value, tags] = await load(); // after the token was given: that is what makes the fill sound
      await this.put(key, value, token, tags, { ttl: value === null ? absentTtl : ttl, fresh, cost: Date.now() - began, lease });
      return value;
    } catch (error) {
      await this.put(key, null, "", [], { lease }); // an error is never stored; the next caller need not wait
      throw error;
    }
  }

  /** { state, payload, token, lease, age } */
  async get(key, { maxLag, atLeast } = {}) {
    const options = maxLag === undefined ? [] : ["MAXLAG", Math.round(maxLag)];
    if (atLeast) options.push("ATLEAST", atLeast);
    const reply = await this.#call("cachetag_get", key, ...options);
    if (reply === null) return BYPASS;
    const [state, payload, token, lease, age] = reply;
    return { state, payload, token, lease, age };
  }

  /** Whether it was stored. Without a token it never is, but the lease is given back. */
  async put(key, value, token, tags, { ttl = 600_000, fresh, cost = 0, lease = "" } = {}) {
    if (!token && !lease) return false;
    const args = [value === null ? "" : JSON.stringify(value), token, Math.max(1, Math.round(ttl)), "TAGS", tags.length, ...tags, "COST", Math.round(cost)];
    if (value === null) args.push("ABSENT");
    if (fresh !== undefined) args.push("FRESH", Math.max(1, Math.round(fresh)));
    if (lease) args.push("LEASE", lease);
    const reply = await this.#call("cachetag_put", key, ...args);
    return reply !== null && reply[0] === "stored";
  }

  async drop(key) {
    return (await this.#call("cachetag_drop", key)) === 1;
  }

  /** The reply; null if Redis cannot serve now (down, full, not loaded yet). A mistake of the caller throws. */
  async #call(name, key, ...args) {
    try {
      return await this.#redis.call("FCALL", name, 1, this.#prefix + key, ...args);
    } catch (error) {
      if (error.message.startsWith("CACHETAG")) throw error;
      this.#onError(error);
      return null;
    }
  }
}

const CHAR = "(?:[^\\x00-\\x20\\x7f:%*{}\\p{Cs}]|%(?:[01][0-9A-F]|20|25|2A|3A|7B|7D|7F))";
const TAG = new RegExp(`^(?:\\*|(${CHAR}+)(?::\\*|(?::${CHAR}*)*))$`, "u");

/** A family or a part of a tag. Text and integers only: what else a column holds, let cachetag.tag() render in the query. */
export function encode(part) {
  if (typeof part !== "string" && typeof part !== "bigint" && !Number.isSafeInteger(part)) {
    throw new TypeError(`a part of a tag is text or an integer, not ${part}: use cachetag.tag() in the query`);
  }
  return String(part).replace(/[\x00-\x20\x7f:%*{}]/g, (c) => "%" + c.charCodeAt(0).toString(16).toUpperCase().padStart(2, "0"));
}

/** The tag family:part:...; a tag of a row is better taken from the query, by cachetag.tag(). */
export function tag(family, ...parts) {
  const text = [family, ...parts].map(encode).join(":");
  if (!isTag(text)) throw new RangeError(`no tag: "${text.slice(0, 80)}" has no family or is longer than 512 bytes`);
  return text;
}

export const wholeFamily = (family) => tag(family) + ":*";

/** Is it a canonical tag? A string, or bytes, which must be UTF-8. */
export function isTag(text) {
  if (typeof text !== "string") {
    try {
      text = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(text);
    } catch {
      return false;
    }
  }
  const match = TAG.exec(text);
  // <family>:* must be a tag too.
  return match !== null && Buffer.byteLength(text) <= 512 && Buffer.byteLength(match[1] ?? "") <= 510;
}
