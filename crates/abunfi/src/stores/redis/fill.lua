-- Stores a value if the lease is still there, and returns whether it did.
--
-- KEYS: the value; its tags, those in the same slot, in the order in which the lease was taken.
-- ARGV: the token; the value; stored_at; fresh_until; how long it is fresh, in microseconds; how long it is
--       kept, in ms; then the versions of tags in other slots.
local entry = redis.call('HMGET', KEYS[1], 'lease', 'lease_until', 'lease_tags')
if entry[1] ~= ARGV[1] then
  return 0
end
local versions = {}
for i = 2, #KEYS do
  versions[#versions + 1] = redis.call('GET', KEYS[i]) or ''
end
for i = 7, #ARGV do
  versions[#versions + 1] = ARGV[i]
end
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
if now >= tonumber(entry[2]) or table.concat(versions, ' ') ~= entry[3] then
  redis.call('HDEL', KEYS[1], 'lease', 'lease_until', 'lease_tags')
  return 0
end
redis.call('HSET', KEYS[1], 'value', ARGV[2], 'stored_at', ARGV[3], 'fresh_until', ARGV[4],
  'tags', entry[3], 'stale_at', string.format('%.0f', now + ARGV[5]))
redis.call('HDEL', KEYS[1], 'lease', 'lease_until', 'lease_tags')
redis.call('PEXPIRE', KEYS[1], ARGV[6])
return 1
