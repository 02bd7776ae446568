#!lua name=cachetag

-- cachetag: what runs inside Redis (>= 7.0) or Valkey (>= 7.2). One file, no dependency, loaded by FUNCTION LOAD.
--
-- The rule that every line below serves: a hit is a value that was true no longer ago than the caller's max_lag; an invalidation that is
-- missing, evicted, lost or late may cost a miss, never a wrong hit. What cannot be proven is a miss, a refusal or a bypass.
--
-- Keys. All of one instance share the hash tag of KEYS[1], written {ct} here, so that an instance is one slot of a cluster:
--
--   {ct}:w         hash    the state: epoch floor soft_floor watermark applied fresh_at claimant source max_lag lease_ms version
--                          log_from log_len log_bytes marked
--   {ct}:e:<key>   hash    an entry: payload as_of keys put_at expires_at fresh_until cost kind; meta: the same again, without the payload,
--                          as one text, for clients that judge entries themselves and want two fields instead of eight
--   {ct}:t:<tag>   string  "<hard version>" or "<hard version> <soft version>": when the tag was last bumped, or registered;
--                          {ct}:t:<family>:* is the last bump of the whole family
--   {ct}:a:<family> string likewise: the last bump of any member of the family; {ct}:a:* the last bump of any tag at all
--   {ct}:l:<key>   string  the lease: id of the one caller that recomputes
--   {ct}:log       stream  id <lsn>-0, fields from, hard, soft: the tags of one applied batch, each between line feeds
--
-- Which keys an entry checks is settled when it is put (field `keys`), so that a get is three reads and no string work:
--
--   tag product:42   t:product:42 and t:product:*
--   tag product:*    t:product:* and a:product
--   tag *            a:*                             (the floor is checked for every entry)
--
-- Versions are text, "EEEEEEEEEE.LLLLLLLLLLLLLLLLLLLL", and are compared as text: an LSN does not fit a Lua number.
--
-- A malformed call is answered with an error that begins with "CACHETAG " and names the argument; it changes nothing.

local VERSION = '0.1.0'

local LSN_MAX = '18446744073709551615'   -- 2^64 - 1, also the largest sequence number of a stream id
local MS_MAX = 1000000000000             -- 31 years: any longer time is a unit error
local TIME_MAX = 10000000000000          -- ms since 1970: the year 2286, when epochs end too
local TAG_BYTES = 512
local ENTRY_TAGS = 4096                  -- tags of one entry; beyond it a family tag is the right tool
local LEASE_MS = 10000
local LOG_RECORDS = 10000                -- the log is cut back to this many when it is a tenth longer
local LOG_BYTES = 64 * 1024 * 1024       -- and to half of its records when their text is longer than this
local SCAN_RECORDS = 512                 -- how much of the log a fill looks through before it gives up
local SCAN_BYTES = 256 * 1024
local SCAN_WORK = 4 * 1024 * 1024        -- bytes of text times unregistered keys
local CHUNK = 2000                       -- arguments of one MGET: Lua's stack holds 8000
local TAG_GRACE_MS = 60000               -- a tag outlives its entries at least by this, so that a refill finds it registered
local MEMO_VERSIONS = 4096
local MEMO_BYTES = 1024 * 1024           -- text of the entries' `keys` that are remembered taken apart
local EARLY_REACH = 36.1                 -- -ln(2^-52), rounded up: no draw of XFetch reaches further

-- The API and Lua's libraries, as locals. Redis hides them while a library loads: the first call binds them.
local call, pcall_redis, sha1hex, error_reply
local byte, find, format, match, sub, upper, char, rep, gsub
local whole, ln, exp, max, min
local concat

local function bind()
  call, pcall_redis, sha1hex, error_reply = redis.call, redis.pcall, redis.sha1hex, redis.error_reply
  byte, find, format, match, sub, upper = string.byte, string.find, string.format, string.match, string.sub, string.upper
  char, rep, gsub = string.char, string.rep, string.gsub
  whole, ln, exp, max, min = math.floor, math.log, math.exp, math.max, math.min
  concat = table.concat
end

---------------------------------------------------------------------------------------------------------------------------------------
-- Arguments

-- Ends the call with an error; `register` turns it into the reply.
local function fail(argument, problem)
  error({ cachetag = 'CACHETAG ' .. argument .. ': ' .. problem })
end

-- Foreign text in a message: short, printable, quoted; or that there is none.
local function shown(text)
  if not text then return 'nothing' end
  local short = gsub(sub(text, 1, 80), '[%z\1-\31\127-\255]', '?')
  return '"' .. short .. (#text > 80 and '…"' or '"')
end

local function natural(argument, text, least, unit, most)
  local number = text and #text <= 14 and find(text, '^%d+$') and tonumber(text)
  if not number or number < least or number > (most or MS_MAX) then
    fail(argument, format('expected %s, an integer from %d to %.0f, got %s', unit, least, most or MS_MAX, shown(text)))
  end
  return number
end

-- The shape of a version: 10 digits, a dot, 20 digits. Hot versions are met again and again: those found good are remembered.
local good, good_count = {}, 0
local function is_version(text)
  if good[text] then return true end
  if #text ~= 31 or byte(text, 11) ~= 46 or not find(text, '^%d+%.%d+$') then return false end
  if good_count == MEMO_VERSIONS then good, good_count = {}, 0 end
  good[text], good_count = true, good_count + 1
  return true
end

local function version(argument, text)
  if not (text and is_version(text) and sub(text, 12) <= LSN_MAX) then
    fail(argument, 'expected a version, ten digits, a dot and twenty digits, got ' .. shown(text))
  end
  return text
end

-- An LSN as twenty decimal digits, from PostgreSQL's X/Y or from decimal digits; nil if it is neither. 2^32 is taken apart as
-- 42949 * 10^5 + 67296, so that no intermediate result passes 2^53.
local function lsn_digits(text)
  local high, low = match(text, '^(%x+)/(%x+)$')
  if high then
    if #high > 8 or #low > 8 then return nil end
    high, low = tonumber(high, 16), tonumber(low, 16)
    local a = high * 42949
    local b = (a % 100000) * 100000 + high * 67296 + low
    return format('%010.0f%010.0f', whole(a / 100000) + whole(b / 10000000000), b % 10000000000)
  end
  if not find(text, '^%d+$') or #text > 20 then return nil end
  local digits = rep('0', 20 - #text) .. text
  return digits <= LSN_MAX and digits or nil
end

-- What is wrong with the UTF-8 of a text; nil if nothing is.
local function utf8_problem(text)
  local i, n = 1, #text
  while i <= n do
    local a, b = byte(text, i, i + 1)
    local more, least, most = 0, 128, 191
    if a >= 128 then
      if a >= 194 and a <= 223 then more = 1
      elseif a >= 224 and a <= 239 then
        more = 2
        if a == 224 then least = 160 elseif a == 237 then most = 159 end
      elseif a >= 240 and a <= 244 then
        more = 3
        if a == 240 then least = 144 elseif a == 244 then most = 143 end
      else return 'not UTF-8' end
      if not b or b < least or b > most then return 'not UTF-8' end
      for j = i + 2, i + more do
        local c = byte(text, j)
        if not c or c < 128 or c > 191 then return 'not UTF-8' end
      end
    end
    i = i + 1 + more
  end
  return nil
end

-- Why a text is not a canonical tag; nil if it is one. The first line decides nearly all.
local function tag_problem(tag)
  if find(tag, '^[a-z0-9_.A-Z-][a-z0-9:_.A-Z-]*$') and #tag <= TAG_BYTES - 2 then return nil end
  if tag == '' then return 'empty' end
  if #tag > TAG_BYTES then return format('%d bytes, at most %d', #tag, TAG_BYTES) end
  if tag == '*' then return nil end
  local body = match(tag, '^([^:]*):%*$') or tag
  if body == '' or byte(body) == 58 then return 'no family before the first ":"' end
  if (find(body, ':', 1, true) or #body + 1) > TAG_BYTES - 1 then return 'the family is too long: <family>:* must be a tag too' end
  local raw = match(body, '[%z\1-\32\127*{}]')
  if raw then return format('byte %%%02X must be percent-encoded', byte(raw)) end
  local i = find(body, '%', 1, true)
  while i do
    local hex = match(body, '^[0-9A-F][0-9A-F]', i + 1)
    if not hex then return '"%" without two upper-case hexadecimal digits' end
    local code = tonumber(hex, 16)
    if not (code <= 32 or code == 127 or find(':%*{}', char(code), 1, true)) then
      return format('%%%s encodes a byte that stands for itself', hex)
    end
    i = find(body, '%', i + 3, true)
  end
  return utf8_problem(body)
end

local function checked_tag(argument, tag)
  local problem = tag_problem(tag)
  if problem then fail(argument, 'tag ' .. shown(tag) .. ' is not canonical: ' .. problem) end
end

-- The prefix of all keys of the instance, "{ct}:", from KEYS[1], which must be {ct}:e:<key> or {ct}:w.
local function prefix_of_entry(keys)
  local prefix = #keys == 1 and match(keys[1], '^({[^{}]+}:)e:.')
  if not prefix then
    fail('KEYS', 'expected one key of the form {namespace}:e:<key>, got ' .. (keys[1] and shown(concat(keys, ' ')) or 'none'))
  end
  return prefix
end

local function prefix_of_state(keys)
  local prefix = #keys == 1 and match(keys[1], '^({[^{}]+}:)w$')
  if not prefix then
    fail('KEYS', 'expected one key of the form {namespace}:w, got ' .. (keys[1] and shown(concat(keys, ' ')) or 'none'))
  end
  return prefix
end

local function name_argument(argument, text, bytes)
  if not text or text == '' or #text > bytes then
    fail(argument, format('expected a text of 1 to %d bytes', bytes))
  end
  return text
end

local function no_more(args, i)
  if args[i] then fail('arguments', 'unexpected ' .. shown(args[i])) end
end

---------------------------------------------------------------------------------------------------------------------------------------
-- Reading

local function now_ms()
  local t = call('TIME')
  return t[1] * 1000 + whole(t[2] / 1000), t
end

-- A read of a key that may hold a stranger's type.
local function read(remedy, command, key, ...)
  local reply = pcall_redis(command, key, ...)
  if type(reply) == 'table' and reply.err then fail('key ' .. shown(key), reply.err .. '; ' .. remedy) end
  return reply
end

local function read_state(key, ...)
  return read('this key belongs to cachetag: delete it and restart the daemon', 'HMGET', key, ...)
end

local function read_entry(key, ...)
  return read('cachetag_drop removes it', 'HMGET', key, ...)
end

local function mget(keys)
  local n = #keys
  if n == 0 then return {} end
  if n <= CHUNK then return call('MGET', unpack(keys)) end
  local values = {}
  for first = 1, n, CHUNK do
    local last = min(first + CHUNK - 1, n)
    local part = call('MGET', unpack(keys, first, last))
    for i = 1, last - first + 1 do values[first + i - 1] = part[i] end
  end
  return values
end

-- Hard and soft version of a tag's value; nil if it is absent or no value of ours.
local function tag_versions(value)
  if not value then return nil end
  if #value == 31 then return is_version(value) and value or nil end
  if #value ~= 63 or byte(value, 32) ~= 32 then return nil end
  local hard, soft = sub(value, 1, 31), sub(value, 33)
  if is_version(hard) and is_version(soft) then return hard, soft end
  return nil
end

-- The full keys of an entry's `keys`, a suffix a line. Remembered, because taking them apart costs more than reading them.
local lists, lists_bytes = {}, 0
local function keys_of(prefix, text)
  local of_prefix = lists[prefix]
  local keys = of_prefix and of_prefix[text]
  if keys then return keys end
  keys = {}
  local n, from = 0, 1
  while from <= #text do
    local to = find(text, '\n', from, true) or #text + 1
    n = n + 1
    keys[n] = prefix .. sub(text, from, to - 1)
    from = to + 1
  end
  lists_bytes = lists_bytes + #prefix + #text
  if lists_bytes > MEMO_BYTES then lists, lists_bytes, of_prefix = {}, 0, nil end
  if not of_prefix then
    of_prefix = {}
    lists[prefix] = of_prefix
  end
  of_prefix[text] = keys
  return keys
end

-- The tag that a key stands for in replies: a:product is the members of product:*.
local function tag_of(prefix, key)
  local kind, tag = sub(key, #prefix + 1, #prefix + 1), sub(key, #prefix + 3)
  if kind == 'a' and tag ~= '*' then return tag .. ':*' end
  return tag
end

-- The timeline of a position, if it names one, and the place in it; nothing for a timeline that is none.
local function split_position(text)
  local timeline, place = match(text, '^(%d+)@(.*)$')
  if not timeline then return nil, text end
  if #timeline > 10 then return nil, nil end
  return tonumber(timeline), place
end

-- What ATLEAST takes, into the fields at_least, at_least_epoch and at_least_timeline of `o`.
local function position(name, value, o)
  local timeline, place = split_position(value or '')
  o.at_least_timeline = timeline
  if place and is_version(place) then
    o.at_least, o.at_least_epoch = sub(version(name, place), 12), sub(place, 1, 10)
  else
    o.at_least = place and find(place, '/', 1, true) and lsn_digits(place)
  end
  if not o.at_least then
    fail(name, 'expected a version, an LSN such as 16/B374D848 or a position such as 1@16/B374D848, got ' .. shown(value))
  end
end

-- What SEEN takes: a position or an LSN, as it is given.
local function seen_position(name, value)
  local _, place = split_position(value or '')
  if place and find(place, '/', 1, true) and lsn_digits(place) then return value end
  fail(name, 'expected a position such as 1@16/B374D848, or an LSN, got ' .. shown(value))
end

-- Options of get, peek and explain.
local READ_OPTIONS = { MAXLAG = 'max_lag', ATLEAST = 'at_least', BETA = 'beta', NOLEASE = 'no_lease', SEEN = 'seen' }
local NO_OPTIONS = { beta = 1 }
local function read_options(args)
  if #args == 0 then return NO_OPTIONS end
  local o, i, n = {}, 1, #args
  while i <= n do
    local name, value = upper(args[i]), args[i + 1]
    local field = READ_OPTIONS[name]
    if not field then fail('option ' .. shown(args[i]), 'unknown; there are MAXLAG ms, ATLEAST position, BETA x, NOLEASE, SEEN') end
    if o[field] then fail(name, 'given twice') end
    if field == 'no_lease' or field == 'seen' then
      o[field] = true
    else
      i = i + 1
      if field == 'max_lag' then
        o.max_lag = natural(name, value, 0, 'milliseconds')
      elseif field == 'beta' then
        o.beta = value and #value <= 20 and find(value, '^%d[%d.eE+-]*$') and tonumber(value)
        if not o.beta or o.beta > 1000 then fail(name, 'expected a decimal number from 0 to 1000, got ' .. shown(value)) end
      else
        position(name, value, o)
      end
    end
    i = i + 1
  end
  o.beta = o.beta or 1
  return o
end

-- Does a version cover ATLEAST? LSN and epoch are compared apart: a new epoch may begin at an earlier LSN than the last one reached.
local function covers(o, v)
  return sub(v, 12) >= o.at_least and (not o.at_least_epoch or sub(v, 1, 10) >= o.at_least_epoch)
end

-- Does the state follow the timeline that ATLEAST names, or a later one? The positions of a promoted server may lie before those that the state
-- knows of the old one, and mean other commits.
local function follows(prefix, o)
  if not o.at_least_timeline then return true end
  local timeline = tonumber(match(call('HGET', prefix .. 'w', 'source') or '', '^%d+/(%d+)/'))
  return timeline and timeline >= o.at_least_timeline
end

-- Why nothing at all may be served; nil if the state is good.
local function closed(s, now, o)
  local floor, watermark, fresh_at = s[1], s[2], tonumber(s[3] or nil)
  if not watermark then return 'no watermark' end
  local max_lag = o.max_lag or tonumber(s[5] or nil)
  if not (floor and is_version(floor) and is_version(watermark) and fresh_at and max_lag) then return 'state' end
  if not (fresh_at <= now) then return 'clock' end
  if not (now - fresh_at <= max_lag) then return 'lag' end
  return nil
end

local STATE = { 'floor', 'watermark', 'fresh_at', 'soft_floor', 'max_lag' }
local ENTRY = { 'payload', 'as_of', 'keys', 'put_at', 'expires_at', 'fresh_until', 'cost', 'kind', 'seen' }

-- The verdict on an entry `e` (fields of ENTRY) under a state `s` (fields of STATE) that is not closed: 'hit', 'stale' or 'miss', the
-- cause, and for a cause that is a key, the key and its value.
local function judge(prefix, s, e, now, o)
  local as_of, expires_at = e[2], tonumber(e[5] or nil)
  if not as_of then return 'miss', e[1] and 'malformed' or 'none' end
  if not (is_version(as_of) and e[1] and e[3] and tonumber(e[4] or nil) and expires_at and (e[8] == 'value' or e[8] == 'absent')) then
    return 'miss', 'malformed'
  end
  if not (now < expires_at) then return 'miss', 'expired' end
  -- The floor's epoch is the present one, so an entry at or above the floor is of this epoch or, after a restore, of a foreign later one.
  if sub(as_of, 1, 10) ~= sub(s[1], 1, 10) then return 'miss', 'epoch' end
  if as_of < s[1] then return 'miss', 'floor' end
  if o.at_least and not covers(o, s[2]) and not covers(o, as_of) then return 'miss', 'at_least' end
  if not follows(prefix, o) then return 'miss', 'timeline' end

  local stale, key, value
  if e[3] ~= '' then
    local keys = keys_of(prefix, e[3])
    local values = mget(keys)
    for i = 1, #keys do
      local hard, soft = values[i], nil
      if not good[hard] then hard, soft = tag_versions(hard) end
      if not hard then return 'miss', 'unregistered', keys[i], values[i] end
      if hard > as_of then return 'miss', 'bumped', keys[i], hard end
      if soft and soft > as_of and not stale then stale, key, value = 'soft', keys[i], soft end
    end
  end
  if stale then return 'stale', stale, key, value end
  if s[4] and s[4] > as_of then return 'stale', 'soft_floor' end
  local fresh_until = e[6]
  if fresh_until and fresh_until ~= '' and now >= (tonumber(fresh_until) or 0) then return 'stale', 'fresh' end
  return 'hit'
end

---------------------------------------------------------------------------------------------------------------------------------------
-- Chance and leases

-- math.random is seeded alike in every call; this counter and the clock are not.
local draws = 0

local function random_hex(key, time)
  draws = draws + 1
  return sha1hex(time[1] .. '.' .. time[2] .. '.' .. draws .. '.' .. key)
end

-- XFetch (Vattani, Chierichetti, Lowenstein 2015): recompute when now - cost * beta * ln(u) >= expiry, u uniform in (0, 1].
local function is_early(e, now, o, key, time)
  local reach = (tonumber(e[7]) or 0) * o.beta
  if reach <= 0 then return false end
  local due = min(tonumber(e[5]), tonumber(e[6] or nil) or TIME_MAX * 2)
  if due - now > reach * EARLY_REACH then return false end
  local u = (tonumber(sub(random_hex(key, time), 1, 13), 16) + 1) / 4503599627370496
  return now - reach * ln(u) >= due
end

local function lease_key(prefix, key)
  return prefix .. 'l:' .. sub(key, #prefix + 3)
end

-- The lease for the caller: its id, or '' while another holds it.
local function take_lease(prefix, key, time)
  local id = sub(random_hex(key, time), 1, 20)
  local lease_ms = tonumber(call('HGET', prefix .. 'w', 'lease_ms') or nil) or LEASE_MS
  return call('SET', lease_key(prefix, key), id, 'NX', 'PX', format('%.0f', max(1, lease_ms))) and id or ''
end

local function release_lease(prefix, key, id)
  local name = lease_key(prefix, key)
  if pcall_redis('GET', name) == id then return call('DEL', name) end
  return 0
end

---------------------------------------------------------------------------------------------------------------------------------------
-- For applications

local function answer(keys, args, may_lease)
  local prefix, key, o = prefix_of_entry(keys), keys[1], read_options(args)
  local now, time = now_ms()
  local s = read_state(prefix .. 'w', unpack(STATE))
  if closed(s, now, o) then return { 'bypass', false, '', '', -1, o.seen and '' } end
  local e = read_entry(key, unpack(ENTRY))
  local state = judge(prefix, s, e, now, o)
  local lease = ''
  may_lease = may_lease and not o.no_lease
  if state == 'hit' then
    if may_lease and is_early(e, now, o, key, time) then
      lease = take_lease(prefix, key, time)
      if lease ~= '' then state = 'early' end
    end
  elseif may_lease then
    lease = take_lease(prefix, key, time)
    if state == 'miss' and lease == '' then state = 'wait' end
  end
  if state == 'miss' or state == 'wait' then return { state, false, s[2], lease, -1, o.seen and '' } end
  return { state, e[8] == 'value' and e[1], s[2], lease, max(0, now - tonumber(e[4])), o.seen and (e[9] or '') }
end

-- FCALL cachetag_get 1 {ct}:e:<key> [MAXLAG ms] [ATLEAST position] [BETA x] [NOLEASE] [SEEN]
--   → [state, payload | nil, token, lease, age_ms]  and with SEEN one element more: seen
--
--   state   hit     true no longer ago than max_lag: use it
--           stale   past its FRESH time, or softly bumped: may be used; whoever got the lease should recompute
--           early   a hit, but this caller is chosen to recompute before expiry (XFetch); it always has the lease
--           miss    compute it; with the lease, unless NOLEASE
--           wait    a miss that another caller is computing already: ask again shortly, or compute it as well
--           bypass  Redis cannot vouch for anything now (no daemon, or further behind than max_lag): read the database, store nothing
--   payload nil for miss, wait and bypass, and for an entry put with ABSENT: then state is hit, stale or early
--   token   the watermark, '' for bypass. Take the database snapshot after this reply, and hand the token to cachetag_put
--   lease   '' or the id of the lease, for one caller at a time; hand it to cachetag_put, which frees it
--   age_ms  milliseconds since the entry was put; -1 when none is served
--
--   MAXLAG  milliseconds; default: what the daemon was configured with (field max_lag of the state)
--   ATLEAST a position, as cachetag.position() gives it after a COMMIT (1@16/B374D848), an LSN (16/B374D848) or a version: a hit must cover that
--           commit, else it is a miss (read your writes). An LSN does not say of which timeline it is: after a failover that lost commits it may
--           be covered before the daemon has met the promoted server
--   BETA    XFetch's eagerness, default 1; 0 never recomputes early
--   NOLEASE takes no lease: never wait, never early
--   SEEN    adds what cachetag_put was told with SEEN; '' for none. A session that presents it as ATLEAST from then on never goes back behind this
--           value
--
-- Errors: KEYS, options. Writes nothing but the lease. O(number of tags).
local function cachetag_get(keys, args)
  return answer(keys, args, true)
end

-- FCALL_RO cachetag_peek 1 {ct}:e:<key> [options of cachetag_get]
--   → as cachetag_get with NOLEASE
--
--   Writes nothing, and so runs on replicas: what they lag behind shows in fresh_at, given that the clocks agree; a replica's clock that is
--   slow by d allows d more.
local function cachetag_peek(keys, args)
  return answer(keys, args, false)
end

-- Looks for bumps of `missing` keys after `as_of` in the log. Returns a set of the keys found, and whether the rest is known to be clean.
local function search_log(prefix, missing, as_of, s)
  local log_key, found = prefix .. 'log', {}
  -- A token raised past what is applied: no bump after it can have been applied, let alone forgotten.
  if as_of >= s.applied then return found, true end
  if not s.log_from or not is_version(s.log_from) or s.log_from > as_of then return found, false end
  -- The log may be evicted or deleted behind our back; its length is known.
  if pcall_redis('XLEN', log_key) ~= tonumber(s.log_len or nil) then return found, false end

  local wanted, n = {}, #missing
  for i = 1, n do
    local key = missing[i]
    local kind, tag = sub(key, #prefix + 1, #prefix + 1), sub(key, #prefix + 3)
    -- Needles, one of which is in the text if the key was bumped. A family's members also match its whole-family bump: no harm.
    if kind == 't' then wanted[i] = { '\n' .. tag .. '\n' }
    elseif tag == '*' then wanted[i] = { '\n' }
    else wanted[i] = { '\n' .. tag .. ':', '\n' .. tag .. '\n' } end
  end

  local budget = min(SCAN_BYTES, SCAN_WORK / n)
  local start = '(' .. match(sub(as_of, 12), '^0*(%d+)$') .. '-' .. LSN_MAX
  local records, bytes, chunk = 0, 0, 2
  while true do
    local part = call('XRANGE', log_key, start, '+', 'COUNT', chunk)
    for i = 1, #part do
      local fields = part[i][2]
      for f = 1, #fields, 2 do
        if fields[f] == 'hard' or fields[f] == 'soft' then
          local text = fields[f + 1]
          bytes = bytes + #text
          if bytes > budget then return found, false end
          for k = 1, n do
            if not found[missing[k]] then
              for _, needle in ipairs(wanted[k]) do
                if find(text, needle, 1, true) then found[missing[k]] = true end
              end
            end
          end
        end
      end
    end
    if #part < chunk then return found, true end
    records = records + #part
    if records >= SCAN_RECORDS then return found, false end
    start = '(' .. part[#part][1]
    chunk = min(chunk * 2, 32, SCAN_RECORDS - records)
  end
end

-- The field `meta`: as_of, put_at, expires_at, fresh_until ('-' if there is none), cost, kind and seen (likewise) in a line, then the keys, a line each.
-- A word more in the first line tells a client that there is more to an entry than it knows: it must not judge it then.
local function meta_of(as_of, put_at, expires_at, fresh_until, cost, kind, seen, keys)
  local head = concat({ as_of, put_at, expires_at, fresh_until == '' and '-' or fresh_until, cost, kind, seen == '' and '-' or seen }, ' ')
  return keys == '' and head or head .. '\n' .. keys
end

-- The keys that an entry with these tags checks, without the prefix, a key a line.
local function keys_for_tags(tags)
  local keys, n, known = {}, 0, {}
  local function add(key)
    if not known[key] then
      known[key] = true
      n = n + 1
      keys[n] = key
    end
  end
  for i = 1, #tags do
    local tag = tags[i]
    local family = match(tag, '^[^:]+')
    if tag == '*' then
      add('a:*')
    elseif tag == family .. ':*' then
      add('t:' .. tag)
      add('a:' .. family)
    else
      add('t:' .. tag)
      add('t:' .. family .. ':*')
    end
  end
  return concat(keys, '\n')
end

local PUT_OPTIONS = { TAGS = 'tags', FRESH = 'fresh', COST = 'cost', ABSENT = 'absent', LEASE = 'lease', SEEN = 'seen' }
local function put_options(args)
  local o, i, n = {}, 4, #args
  while i <= n do
    local name, value = upper(args[i]), args[i + 1]
    local field = PUT_OPTIONS[name]
    if not field then fail('option ' .. shown(args[i]), 'unknown; there are TAGS n tag…, FRESH ms, COST ms, ABSENT, LEASE id, SEEN position') end
    if o[field] then fail(name, 'given twice') end
    if field == 'absent' then
      o.absent = true
    else
      i = i + 1
      if field == 'tags' then
        local count = natural(name, value, 0, 'the number of tags')
        if count > ENTRY_TAGS then
          fail(name, format('%d tags, at most %d; a family tag such as product:* stands for them all', count, ENTRY_TAGS))
        end
        if i + count > n then fail(name, format('%d tags announced, %d arguments left', count, n - i)) end
        o.tags = { unpack(args, i + 1, i + count) }
        for t = 1, count do checked_tag(name, o.tags[t]) end
        i = i + count
      elseif field == 'lease' then
        o.lease = value or fail(name, 'expected the id that cachetag_get gave')
      elseif field == 'seen' then
        o.seen = seen_position(name, value)
      else
        o[field] = natural(name, value, field == 'fresh' and 1 or 0, 'milliseconds')
      end
    end
    i = i + 1
  end
  if not o.tags then fail('TAGS', 'missing; TAGS 0 stores an entry that only its TTL and the floor end') end
  return o
end

-- FCALL cachetag_put 1 {ct}:e:<key> payload token ttl_ms TAGS n tag… [FRESH ms] [COST ms] [ABSENT] [LEASE id] [SEEN position]
--   → ['stored', version]            version: the entry's as_of, which is the token
--   → ['refused', reason, tag]       nothing is stored; what was computed may still be returned to the user
--       bypass        there is no watermark; also the answer to an empty token, which is what cachetag_get gives with bypass
--       epoch         the token is of another epoch, earlier or later
--       floor         the token is below the floor
--       bumped        `tag` changed after the token
--       unregistered  whether `tag` changed after the token cannot be told any more; it is registered now, and the next try can succeed
--
--   payload the value, any bytes; '' with ABSENT
--   token   from cachetag_get, before the database snapshot was taken (or raised by cachetag.as_of)
--   ttl_ms  1 to 10^12; the caller adds jitter if it wants any
--   TAGS    canonical tags, at most 4096; more may be given than were known at the miss, repetitions do no harm
--   FRESH   milliseconds after which the entry is served as stale
--   COST    milliseconds that computing took: what XFetch weighs
--   ABSENT  the answer is that there is nothing: a negative entry
--   LEASE   the lease to free, whatever the answer (not if the call is an error)
--   SEEN    a position that no commit which the value may hold ends after: cachetag.position(), asked after the query. See cachetag_get. An LSN
--           will do, but for the moment after a failover that lost commits: see ATLEAST there
--
-- Errors: KEYS, payload, token, ttl_ms, options. Without allow-oom: under noeviction a full Redis answers OOM and the lease runs out by
-- itself. O(number of tags), plus the part of the log after the token if a tag is not registered.
local function cachetag_put(keys, args)
  local prefix, key = prefix_of_entry(keys), keys[1]
  local payload, as_of = args[1], args[2]
  if not payload then fail('payload', 'missing') end
  if as_of ~= '' then version('token', as_of) end
  local ttl = natural('ttl_ms', args[3], 1, 'milliseconds')
  local o = put_options(args)
  if o.absent and payload ~= '' then fail('payload', 'must be empty with ABSENT') end
  read_entry(key, 'as_of')
  local w = read_state(prefix .. 'w', 'epoch', 'floor', 'watermark', 'applied', 'log_from', 'log_len', 'soft_floor')
  local s = { epoch = w[1], floor = w[2], watermark = w[3], applied = w[4], log_from = w[5], log_len = w[6], soft_floor = w[7] }

  local function refuse(reason, tag)
    if o.lease then release_lease(prefix, key, o.lease) end
    return { 'refused', reason, tag or '' }
  end
  if as_of == '' or not (s.watermark and s.epoch and s.floor and is_version(s.floor) and s.applied and is_version(s.applied)) then
    return refuse('bypass')
  end
  if sub(as_of, 1, 10) ~= s.epoch then return refuse('epoch') end
  if as_of < s.floor then return refuse('floor') end
  if s.soft_floor and s.soft_floor > as_of then return refuse('bumped', '*') end

  local suffixes = keys_for_tags(o.tags)
  local tag_keys = keys_of(prefix, suffixes)
  local values = mget(tag_keys)
  local missing, present = {}, {}
  for i = 1, #tag_keys do
    local hard, soft = tag_versions(values[i])
    -- A later epoch than the present one was never ours to write: as good as absent.
    if not hard or sub(soft or hard, 1, 10) > s.epoch then
      missing[#missing + 1] = tag_keys[i]
    elseif hard > as_of or (soft and soft > as_of) then
      return refuse('bumped', tag_of(prefix, tag_keys[i]))
    else
      present[#present + 1] = tag_keys[i]
    end
  end

  local tag_ttl = format('%.0f', ttl + max(TAG_GRACE_MS, whole(ttl / 4)))
  if #missing > 0 then
    local found, complete = search_log(prefix, missing, as_of, s)
    local reason, tag
    for i = 1, #missing do
      local name = missing[i]
      local clean = complete and not found[name]
      -- At `applied`, not at the watermark: what was bumped between the two, the log may forget.
      call('SET', name, clean and as_of or s.applied, 'PX', tag_ttl)
      if not clean and not tag then reason, tag = found[name] and 'bumped' or 'unregistered', tag_of(prefix, name) end
    end
    if tag then return refuse(reason, tag) end
  end
  for i = 1, #present do
    local left = call('PTTL', present[i])
    if left >= 0 and left <= ttl then call('PEXPIRE', present[i], tag_ttl) end
  end

  local now = now_ms()
  local put_at, expires_at, fresh_until = format('%.0f', now), format('%.0f', now + ttl), o.fresh and format('%.0f', now + o.fresh) or ''
  local cost, kind, seen = format('%.0f', o.cost or 0), o.absent and 'absent' or 'value', o.seen or ''
  call('HSET', key, 'payload', payload, 'as_of', as_of, 'keys', suffixes, 'put_at', put_at, 'expires_at', expires_at,
    'fresh_until', fresh_until, 'cost', cost, 'kind', kind, 'seen', seen,
    'meta', meta_of(as_of, put_at, expires_at, fresh_until, cost, kind, seen, suffixes))
  call('PEXPIRE', key, format('%.0f', ttl))
  if o.lease then release_lease(prefix, key, o.lease) end
  return { 'stored', as_of }
end

-- FCALL cachetag_drop 1 {ct}:e:<key>  → 1, or 0 if there was none
--   Removes the entry, whatever the key holds. It does not stop a fill in flight: to invalidate what changed, bump its tag.
local function cachetag_drop(keys, args)
  prefix_of_entry(keys)
  no_more(args, 1)
  return call('UNLINK', keys[1])
end

-- FCALL cachetag_release 1 {ct}:e:<key> lease  → 1, or 0 if that lease is not held any more
--   Gives a lease back without a put, so that the next caller need not wait until it runs out: for a computation that failed.
--
-- Errors: KEYS, lease. O(1).
local function cachetag_release(keys, args)
  local prefix = prefix_of_entry(keys)
  local id = name_argument('lease', args[1], 256)
  no_more(args, 2)
  return release_lease(prefix, keys[1], id)
end

-- Words for what judge and closed return.
local REASONS = {
  ['no watermark'] = function() return 'there is no watermark: no daemon has advanced this epoch yet' end,
  state = function() return 'the state is malformed: a reset by the daemon mends it' end,
  clock = function() return 'fresh_at is in the future: the clock of this Redis went back' end,
  lag = function(c) return format('the daemon was last known to be caught up %s ms ago, max_lag is %s ms', c.lag, c.max_lag) end,
  none = function() return 'there is no entry' end,
  malformed = function() return 'the entry is malformed: something else wrote to its key' end,
  expired = function() return 'the entry has expired' end,
  epoch = function(c) return 'the entry is of epoch ' .. sub(c.as_of, 1, 10) .. ', the present one is ' .. c.epoch end,
  floor = function(c) return 'as_of is below the floor ' .. c.floor end,
  at_least = function(c) return 'neither the watermark nor as_of covers ATLEAST ' .. c.at_least end,
  timeline = function(c) return 'ATLEAST is of timeline ' .. c.timeline .. ', which the daemon has not met yet' end,
  unregistered = function(c)
    return c.tag .. (c.value and ' has a malformed version' or ' is not registered: expired, evicted or lost')
  end,
  bumped = function(c) return c.tag .. ' was bumped by ' .. c.value .. ', after as_of ' .. c.as_of end,
  soft = function(c) return c.tag .. ' was softly bumped by ' .. c.value .. ', after as_of ' .. c.as_of end,
  soft_floor = function(c) return 'everything was softly bumped by ' .. c.soft_floor .. ', after as_of ' .. c.as_of end,
  fresh = function() return 'past its FRESH time' end,
}

-- FCALL_RO cachetag_explain 1 {ct}:e:<key> [options of cachetag_get]
--   → field, value, …: all text, '' for what there is not
--       verdict         what cachetag_get would answer: hit stale miss wait bypass (early is chance: see early_probability)
--       reason          why, in words
--       as_of kind payload_bytes age_ms expires_in_ms fresh_in_ms cost_ms early_probability lease (held or free)
--       epoch floor soft_floor watermark applied fresh_at lag_ms max_lag_ms log_from now_ms
--       tag:<tag>       one for each key that the entry checks: "<hard>", "<hard> <soft>" or "absent"; its families as tag:<family>:*
--       members:<family> likewise, for an entry tagged <family>:* ; members:* for one tagged *
--
-- Errors: KEYS, options. Writes nothing. O(number of tags).
local function cachetag_explain(keys, args)
  local prefix, key, o = prefix_of_entry(keys), keys[1], read_options(args)
  local now = now_ms()
  local s = read_state(prefix .. 'w', 'floor', 'watermark', 'fresh_at', 'soft_floor', 'max_lag', 'epoch', 'applied', 'log_from')
  local e = read_entry(key, unpack(ENTRY))
  local held = call('EXISTS', lease_key(prefix, key)) == 1

  local verdict, cause, cause_key, cause_value = 'bypass', closed(s, now, o), nil, nil
  if not cause then verdict, cause, cause_key, cause_value = judge(prefix, s, e, now, o) end
  if verdict == 'miss' and held and not o.no_lease then verdict = 'wait' end

  local function ms(value) return value and format('%.0f', value) or '' end
  local fresh_at, expires_at, fresh_until = tonumber(s[3] or nil), tonumber(e[5] or nil), tonumber(e[6] or nil)
  local put_at, cost = tonumber(e[4] or nil), tonumber(e[7] or nil)
  local lag, max_lag = ms(fresh_at and now - fresh_at), ms(o.max_lag or tonumber(s[5] or nil))
  local early = 0
  if verdict == 'hit' and not o.no_lease and cost and cost * o.beta > 0 then
    early = exp(-max(0, min(expires_at, fresh_until or expires_at) - now) / (cost * o.beta))
  end
  local reason = 'every tag is registered and none was bumped after as_of'
  if cause then
    reason = REASONS[cause]({
      lag = lag, max_lag = max_lag, as_of = e[2], epoch = sub(s[1] or '', 1, 10), floor = s[1], soft_floor = s[4], value = cause_value,
      tag = cause_key and tag_of(prefix, cause_key), at_least = (o.at_least_epoch and o.at_least_epoch .. '.' or '') .. (o.at_least or ''),
      timeline = o.at_least_timeline,
    })
  end
  local reply = {
    'verdict', verdict, 'reason', reason,
    'as_of', e[2] or '', 'kind', e[8] or '', 'payload_bytes', e[1] and ms(#e[1]) or '', 'age_ms', ms(put_at and max(0, now - put_at)),
    'expires_in_ms', ms(expires_at and expires_at - now), 'fresh_in_ms', ms(fresh_until and fresh_until - now), 'cost_ms', e[7] or '',
    'early_probability', format('%.6f', early), 'lease', held and 'held' or 'free',
    'epoch', s[6] or '', 'floor', s[1] or '', 'soft_floor', s[4] or '', 'watermark', s[2] or '', 'applied', s[7] or '',
    'fresh_at', s[3] or '', 'lag_ms', lag, 'max_lag_ms', max_lag, 'log_from', s[8] or '', 'now_ms', ms(now),
  }
  local tag_keys = keys_of(prefix, e[3] or '')
  local values = mget(tag_keys)
  for i = 1, #tag_keys do
    local name = sub(tag_keys[i], #prefix + 3)
    reply[#reply + 1] = (sub(tag_keys[i], #prefix + 1, #prefix + 1) == 'a' and 'members:' or 'tag:') .. name
    reply[#reply + 1] = values[i] or 'absent'
  end
  return reply
end

---------------------------------------------------------------------------------------------------------------------------------------
-- For the daemon

-- The whole state as field, value, …, with the present time and the version of this library.
local function whole_state(key)
  local reply = read('this key belongs to cachetag: delete it', 'HGETALL', key)
  reply[#reply + 1] = 'now_ms'
  reply[#reply + 1] = format('%.0f', (now_ms()))
  reply[#reply + 1] = 'library'
  reply[#reply + 1] = VERSION
  return reply
end

-- FCALL_RO cachetag_version 0  → the version of this library
local function cachetag_version()
  return VERSION
end

-- FCALL_RO cachetag_state 1 {ct}:w  → field, value, …: the fields of the state, then now_ms and library
local function cachetag_state(keys, args)
  prefix_of_state(keys)
  no_more(args, 1)
  return whole_state(keys[1])
end

-- FCALL cachetag_claim 1 {ct}:w claimant source max_lag_ms [lease_ms]
--   → field, value, …: the state after claiming, then now_ms and library
--
--   Makes `claimant` (unique for every start of a daemon) the only one whose calls are obeyed. A state that was built from another source
--   (field source, stored by cachetag_reset) is none that this claimant could continue: applied, watermark and fresh_at are removed, so
--   that nothing is served until it resets.
--
-- Errors: KEYS, claimant (1 to 256 bytes), source (1 to 1024 bytes), max_lag_ms, lease_ms. O(1).
local function cachetag_claim(keys, args)
  prefix_of_state(keys)
  local key = keys[1]
  local claimant, source = name_argument('claimant', args[1], 256), name_argument('source', args[2], 1024)
  local max_lag = natural('max_lag_ms', args[3], 1, 'milliseconds')
  local lease_ms = args[4] and natural('lease_ms', args[4], 1, 'milliseconds') or LEASE_MS
  no_more(args, 5)
  local stored = read_state(key, 'source')[1]
  if stored and stored ~= source then call('HDEL', key, 'applied', 'watermark', 'fresh_at') end
  call('HSET', key, 'claimant', claimant, 'max_lag', format('%.0f', max_lag), 'lease_ms', format('%.0f', lease_ms), 'version', VERSION)
  return whole_state(key)
end

-- Refuses the call of a former claimant, or one that continues from elsewhere; nil if neither. After a flush there is no claimant: that
-- is a discontinuity, not a rival.
local function refusal(s, claimant, from)
  if s.claimant and s.claimant ~= claimant then return { 'fenced', s.claimant } end
  if not s.claimant or s.applied ~= from then return { 'discontinuity', s.applied or '' } end
  return nil
end

-- The arguments `from` and `to`: versions of one epoch.
local function span(from, to)
  version('from', from)
  version('to', to)
  if sub(from, 1, 10) ~= sub(to, 1, 10) then fail('to', 'epoch differs from that of from; cachetag_reset opens an epoch') end
  if to < from then fail('to', to .. ' is below from ' .. from) end
end

-- Takes the tags among the arguments first to last; v, which bumps them, is above that of any tag taken before. One pattern tells nearly
-- always both that a tag is canonical and its family.
local function take(list, args, first, last, v)
  local names, at, members, n = list.names, list.at, list.members, #list.names
  for t = first, last do
    local tag = args[t]
    local family = #tag <= TAG_BYTES - 2 and match(tag, '^([a-z0-9_.A-Z-]+):[a-z0-9:_.A-Z-]*$')
    if not family then
      checked_tag('tags', tag)
      family = match(tag, '^[^:]+')
    end
    if not at[tag] then
      n = n + 1
      names[n] = tag
    end
    at[tag] = v
    members[family] = v
    members['*'] = v
  end
end

-- The arguments of cachetag_apply from the fourth on: tags, each with the last version that bumps it, hard and soft, and the same of the
-- families with a member among them.
local function read_groups(args, from, to)
  local hard = { names = {}, at = {}, members = {} }
  local soft = { names = {}, at = {}, members = {} }
  local i, n, last = 4, #args, from
  while i <= n do
    local v = version('version', args[i])
    if v < last or v == from then fail('version', v .. ' is not above ' .. last .. ': groups ascend, from excluded') end
    if v > to or sub(v, 1, 10) ~= sub(to, 1, 10) then fail('version', v .. ' is above to ' .. to) end
    last = v
    local nhard, nsoft = natural('nhard', args[i + 1], 0, 'a number of tags'), natural('nsoft', args[i + 2], 0, 'a number of tags')
    i = i + 3
    if i + nhard + nsoft - 1 > n then
      fail('nhard, nsoft', format('%.0f and %.0f tags announced, %d arguments left', nhard, nsoft, n - i + 1))
    end
    take(hard, args, i, i + nhard - 1, v)
    take(soft, args, i + nhard, i + nhard + nsoft - 1, v)
    i = i + nhard + nsoft
  end
  return hard, soft
end

-- Moves the versions of the registered ones among the keys that begin with `prefix` and end with what is in `hard` and `soft`; a version
-- never falls. Returns how many were moved.
local function bump(prefix, names, hard, soft, epoch)
  local moved = 0
  for first = 1, #names, CHUNK do
    local count, keys = min(CHUNK, #names - first + 1), {}
    for i = 1, count do keys[i] = prefix .. names[first + i - 1] end
    local values = call('MGET', unpack(keys))
    for i = 1, count do
      local value = values[i]
      if value then
        local name = names[first + i - 1]
        local h, s = hard[name], soft[name]
        local old_h, old_s = tag_versions(value)
        if not old_h or sub(old_s or old_h, 1, 10) > epoch then
          h, s = h or s, s     -- not ours: nothing is known of it but this bump, which then counts as hard
          if s and s > h then h = s end
        else
          if not h or old_h > h then h = old_h end
          if not s or (old_s and old_s > s) then s = old_s end
        end
        local new = s and s > h and h .. ' ' .. s or h
        if new ~= value then
          call('SET', keys[i], new, 'XX', 'KEEPTTL')
          moved = moved + 1
        end
      end
    end
  end
  return moved
end

-- The names that have a key: those of both kinds, each once, without "*", whose key is the floor.
local function names_of_keys(hard, soft)
  if #soft.names == 0 and not hard.at['*'] then return hard.names end
  local names = {}
  for i = 1, #hard.names do
    if hard.names[i] ~= '*' then names[#names + 1] = hard.names[i] end
  end
  for i = 1, #soft.names do
    local name = soft.names[i]
    if name ~= '*' and not hard.at[name] then names[#names + 1] = name end
  end
  return names
end

-- The families with a changed member of either kind.
local function families(hard, soft)
  local names = {}
  for family in pairs(hard.members) do names[#names + 1] = family end
  for family in pairs(soft.members) do
    if not hard.members[family] then names[#names + 1] = family end
  end
  return names
end

-- Appends one record to the log and cuts the log when it is too long. Returns the state's new log_from, log_len and log_bytes.
local function append(prefix, s, from, to, hard, soft)
  local key = prefix .. 'log'
  local log_from, length, bytes = s.log_from, pcall_redis('XLEN', key), tonumber(s.log_bytes or nil) or 0
  local record = { 'from', from }
  local function add(field, list)
    if #list.names > 0 then
      local text = '\n' .. concat(list.names, '\n') .. '\n'
      record[#record + 1], record[#record + 2] = field, text
      bytes = bytes + #text
    end
  end
  add('hard', hard)
  add('soft', soft)
  local id = match(sub(to, 12), '^0*(%d+)$') .. '-0'
  -- A log that is not as we left it (evicted, deleted, not a stream) has lost records: it begins anew with this one.
  local intact = log_from and length == (tonumber(s.log_len or nil) or 0)
  local added = intact and pcall_redis('XADD', key, id, unpack(record))
  if not added or added.err then
    call('DEL', key)
    call('XADD', key, id, unpack(record))
    log_from, length, bytes = from, 0, bytes - (tonumber(s.log_bytes or nil) or 0)
  end
  length = length + 1

  local keep = length
  if length > LOG_RECORDS * 1.1 then keep = LOG_RECORDS end
  if bytes > LOG_BYTES then keep = min(keep, max(1, whole(length / 2))) end
  if keep < length then
    call('XTRIM', key, 'MAXLEN', '=', keep)
    -- Complete after where the first record that is left continues from, which is no earlier than the last that was cut.
    log_from = call('XRANGE', key, '-', '+', 'COUNT', 1)[1][2][2]
    bytes = whole(bytes * keep / length)
    length = keep
  end
  return log_from, length, bytes
end

-- FCALL cachetag_apply 1 {ct}:w claimant from to [version nhard nsoft hard-tag… soft-tag…]…
--   → ['applied', now_ms, moved]        moved: how many of the tags were registered and have a new version
--   → ['fenced', claimant]              another daemon has claimed the state
--   → ['discontinuity', applied]        the state's position is not `from` ('' if there is none): restored, failed over or flushed
--
--   Applies the bumps of the commits in (from, to] in one step: registered tags get the versions, one record goes to the log, applied
--   becomes `to`. Groups ascend by version, within (from, to]; without a group, `to` may equal `from`. product:* bumps the whole family;
--   * raises the floor (softly: soft_floor).
--
-- Errors: KEYS, claimant, from, to, version, nhard, nsoft, tags. O(number of tags). Redis wants at most 1024*1024 arguments; 10,000 tags a
-- call keep other clients' waiting in the range of ten milliseconds.
local function cachetag_apply(keys, args)
  local prefix, key = prefix_of_state(keys), keys[1]
  local claimant, from, to = name_argument('claimant', args[1], 256), args[2], args[3]
  span(from, to)
  local hard, soft = read_groups(args, from, to)
  local w = read_state(key, 'claimant', 'applied', 'floor', 'soft_floor', 'log_from', 'log_len', 'log_bytes')
  local s = { claimant = w[1], applied = w[2], floor = w[3], soft_floor = w[4], log_from = w[5], log_len = w[6], log_bytes = w[7] }
  local refused = refusal(s, claimant, from)
  if refused then return refused end

  local change, moved = { 'applied', to }, 0
  if #hard.names > 0 or #soft.names > 0 then
    local log_from, length, bytes = append(prefix, s, from, to, hard, soft)
    local epoch = sub(to, 1, 10)
    moved = bump(prefix .. 't:', names_of_keys(hard, soft), hard.at, soft.at, epoch)
    bump(prefix .. 'a:', families(hard, soft), hard.members, soft.members, epoch)
    change = { 'applied', to, 'log_from', log_from, 'log_len', length, 'log_bytes', format('%.0f', bytes) }
    local floor, soft_floor = hard.at['*'], soft.at['*']
    if floor and (not s.floor or floor > s.floor) then
      change[#change + 1] = 'floor'
      change[#change + 1] = floor
    end
    if soft_floor and (not s.soft_floor or soft_floor > s.soft_floor) then
      change[#change + 1] = 'soft_floor'
      change[#change + 1] = soft_floor
    end
  end
  call('HSET', key, unpack(change))
  return { 'applied', (now_ms()), moved }
end

-- FCALL cachetag_advance 1 {ct}:w claimant from to watermark fresh_at_ms
--   → replies of cachetag_apply (moved is 0)
--
--   For a stretch of WAL without bumps, and to publish the watermark. applied becomes `to`; the watermark rises to the given one ('' leaves
--   it; it never falls); fresh_at becomes the given one ('' leaves it), which is a TIME that this Redis gave (now_ms of a reply) before the
--   daemon asked PostgreSQL how far it was.
--
-- Errors: KEYS, claimant, from, to, watermark (above `to`, or of another epoch), fresh_at_ms. O(1).
local function cachetag_advance(keys, args)
  prefix_of_state(keys)
  local key, claimant, from, to, watermark, fresh_at = keys[1], name_argument('claimant', args[1], 256), args[2], args[3], args[4], args[5]
  span(from, to)
  if watermark ~= '' then
    version('watermark', watermark)
    if sub(watermark, 1, 10) ~= sub(to, 1, 10) then fail('watermark', 'epoch differs from that of to') end
    if watermark > to then fail('watermark', watermark .. ' is above to ' .. to) end
  end
  if fresh_at ~= '' then fresh_at = format('%.0f', natural('fresh_at_ms', fresh_at, 0, 'milliseconds', TIME_MAX)) end
  no_more(args, 6)
  local w = read_state(key, 'claimant', 'applied', 'watermark')
  local refused = refusal({ claimant = w[1], applied = w[2] }, claimant, from)
  if refused then return refused end

  local change = { 'applied', to }
  if watermark ~= '' and (not w[3] or watermark > w[3]) then
    change[#change + 1] = 'watermark'
    change[#change + 1] = watermark
  end
  if fresh_at ~= '' then
    change[#change + 1] = 'fresh_at'
    change[#change + 1] = fresh_at
  end
  call('HSET', key, unpack(change))
  return { 'applied', (now_ms()), 0 }
end

-- FCALL cachetag_mark 1 {ct}:w claimant
--   → replies of cachetag_apply (moved is 0)
--
--   Writes, and changes nothing that counts: a WAIT behind it, on the same connection, waits for every write before it, on any.
--
-- Errors: KEYS, claimant. O(1).
local function cachetag_mark(keys, args)
  prefix_of_state(keys)
  local key, claimant = keys[1], name_argument('claimant', args[1], 256)
  no_more(args, 2)
  local held = read_state(key, 'claimant')[1]
  if held ~= claimant then
    if held then return { 'fenced', held } end
    return { 'discontinuity', '' }
  end
  local now = now_ms()
  call('HSET', key, 'marked', format('%.0f', now))
  return { 'applied', now, 0 }
end

-- FCALL cachetag_reset 1 {ct}:w claimant source lsn min_epoch
--   → ['reset', version, now_ms]    version: the new epoch and the LSN: the floor, applied, and where the log begins
--   → ['fenced', claimant]          another daemon has claimed the state, or ('') nobody has: claim first
--
--   Opens an epoch: everything older is invalid, in O(1). The epoch is the Unix second, or one more than the state's last, or `min_epoch`,
--   whichever is highest. There is no watermark until cachetag_advance gives the first.
--
--   lsn  twenty decimal digits (or fewer), or X/Y
--
-- Errors: KEYS, claimant, source, lsn, min_epoch (0 to 9999999999).
local function cachetag_reset(keys, args)
  local prefix, key = prefix_of_state(keys), keys[1]
  local claimant, source = name_argument('claimant', args[1], 256), name_argument('source', args[2], 1024)
  local lsn = args[3] and lsn_digits(args[3])
  if not lsn then fail('lsn', 'expected twenty decimal digits or X/Y, got ' .. shown(args[3])) end
  local least = args[4] and find(args[4], '^%d+$') and #args[4] <= 10 and tonumber(args[4])
  if not least then fail('min_epoch', 'expected an integer from 0 to 9999999999, got ' .. shown(args[4])) end
  no_more(args, 5)
  local w = read_state(key, 'claimant', 'epoch')
  if w[1] ~= claimant then return { 'fenced', w[1] or '' } end
  local now = now_ms()
  local epoch = max(whole(now / 1000), (tonumber(w[2] or nil) or 0) + 1, least)
  if epoch > 9999999999 then fail('min_epoch', 'no epoch is left: ' .. format('%.0f', epoch) .. ' has more than ten digits') end

  epoch = format('%010.0f', epoch)
  local start = epoch .. '.' .. lsn
  call('DEL', prefix .. 'log')
  call('HDEL', key, 'watermark', 'fresh_at', 'soft_floor')
  call('HSET', key, 'epoch', epoch, 'floor', start, 'applied', start, 'source', source, 'log_from', start, 'log_len', 0, 'log_bytes', 0)
  return { 'reset', start, now }
end

---------------------------------------------------------------------------------------------------------------------------------------

local function register(name, flags, body)
  redis.register_function {
    function_name = name,
    flags = flags,
    callback = function(keys, args)
      if not call then bind() end
      local ok, reply = pcall(body, keys, args)
      if ok then return reply end
      if type(reply) == 'table' and reply.cachetag then return error_reply(reply.cachetag) end
      error(reply)
    end,
  }
end

register('cachetag_get', { 'allow-oom' }, cachetag_get)
register('cachetag_peek', { 'no-writes' }, cachetag_peek)
register('cachetag_put', {}, cachetag_put)
register('cachetag_drop', { 'allow-oom' }, cachetag_drop)
register('cachetag_release', { 'allow-oom' }, cachetag_release)
register('cachetag_explain', { 'no-writes' }, cachetag_explain)
register('cachetag_claim', { 'allow-oom' }, cachetag_claim)
register('cachetag_apply', { 'allow-oom' }, cachetag_apply)
register('cachetag_advance', { 'allow-oom' }, cachetag_advance)
register('cachetag_mark', { 'allow-oom' }, cachetag_mark)
register('cachetag_reset', { 'allow-oom' }, cachetag_reset)
register('cachetag_state', { 'no-writes' }, cachetag_state)
register('cachetag_version', { 'no-writes' }, cachetag_version)
