-- The value of a key, or the lease to fill it.
--
-- Every tag has a version: random, and another one after each invalidation. A value and a lease are valid
-- only while the versions of their tags are those that they were made under, so invalidating a tag voids
-- all that carries it by one SET, however much that is. A tag that is not there (new, expired, evicted)
-- gets a version that nothing was made under.
--
-- KEYS: the value; its tags, those in the same slot.
-- ARGV: the token; how long it leases, in ms (0: only look); how long tags are kept, in ms; a version for
--       tags that have none; then the versions of tags in other slots.
-- Returns {state, value, stored_at, fresh_until, token}; state is one of fresh, stale, leased, busy, none.
local token, lease_ms, tag_ms = ARGV[1], tonumber(ARGV[2]), ARGV[3]

local versions = {}
for i = 2, #KEYS do
  local version = redis.call('GET', KEYS[i])
  versions[#versions + 1] = version or ARGV[4]
  if not version and lease_ms > 0 then
    redis.call('SET', KEYS[i], ARGV[4], 'PX', tag_ms)
  end
end
for i = 5, #ARGV do
  versions[#versions + 1] = ARGV[i]
end
local tags = table.concat(versions, ' ')

local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local entry = redis.call('HMGET', KEYS[1],
  'value', 'stored_at', 'fresh_until', 'tags', 'stale_at', 'lease', 'lease_until', 'lease_tags')
local valid = entry[1] and entry[4] == tags
local value, stored_at, fresh_until = '', '', ''
if valid then
  value, stored_at, fresh_until = entry[1], entry[2], entry[3]
  if now < tonumber(entry[5]) then
    return { 'fresh', value, stored_at, fresh_until, '' }
  end
end

local leased = entry[6] and entry[8] == tags and now < tonumber(entry[7])
if leased or lease_ms == 0 then
  local state = valid and 'stale' or (leased and 'busy' or 'none')
  return { state, value, stored_at, fresh_until, '' }
end

if not valid then
  redis.call('DEL', KEYS[1])
end
redis.call('HSET', KEYS[1], 'lease', token, 'lease_tags', tags,
  'lease_until', string.format('%.0f', now + lease_ms * 1000))
-- A stale value keeps its own time, if that is longer.
if redis.call('PTTL', KEYS[1]) < lease_ms then
  redis.call('PEXPIRE', KEYS[1], lease_ms)
end
-- Longer than whatever is filled under this lease.
for i = 2, #KEYS do
  redis.call('PEXPIRE', KEYS[i], tag_ms)
end
return { valid and 'stale' or 'leased', value, stored_at, fresh_until, token }
