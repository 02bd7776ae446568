//! What has to happen in Redis at once.

/// KEYS operations; ARGV limit, then key, kind, text, params of each operation. Answers `{0, length}` if they do not fit, else `{1, id, …}`.
pub(super) const ENQUEUE: &str = "
local length, count = redis.call('XLEN', KEYS[1]), (#ARGV - 1) / 4
if length + count > tonumber(ARGV[1]) then return {0, length} end
local answer = {1}
for i = 2, #ARGV, 4 do
  answer[#answer + 1] = redis.call('XADD', KEYS[1], '*', 'key', ARGV[i], 'kind', ARGV[i + 1], 'text', ARGV[i + 2], 'params', ARGV[i + 3])
end
return answer";

/// KEYS operations, dead letters; ARGV group, id, limit, then fields and values of the dead letter. Answers 1; 0 if the operation is settled already;
/// -1 if there are too many dead letters.
pub(super) const BURY: &str = "
if redis.call('XLEN', KEYS[2]) >= tonumber(ARGV[3]) then return -1 end
if redis.call('XACK', KEYS[1], ARGV[1], ARGV[2]) == 0 then return 0 end
redis.call('XADD', KEYS[2], '*', unpack(ARGV, 4))
redis.call('XDEL', KEYS[1], ARGV[2])
return 1";

/// KEYS dead letters, operations; ARGV id, limit. Answers 1; 0 if there is no such dead letter; -1 if the queue is full.
pub(super) const REPLAY: &str = "
local found = redis.call('XRANGE', KEYS[1], ARGV[1], ARGV[1])[1]
if not found then return 0 end
if redis.call('XLEN', KEYS[2]) >= tonumber(ARGV[2]) then return -1 end
local fields, kept = found[2], {}
for i = 1, #fields, 2 do
  local name = fields[i]
  if name == 'key' or name == 'kind' or name == 'text' or name == 'params' then
    kept[#kept + 1] = name
    kept[#kept + 1] = fields[i + 1]
  end
end
if #kept > 0 then redis.call('XADD', KEYS[2], '*', unpack(kept)) end
redis.call('XDEL', KEYS[1], ARGV[1])
return 1";
