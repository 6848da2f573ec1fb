-- Says the number of the newest invalidation again, so that whoever missed it learns of it.
-- KEYS: the counter. ARGV: the channel.
local sequence = redis.call('GET', KEYS[1]) or '0'
return redis.call('PUBLISH', ARGV[1], sequence .. ' ')
