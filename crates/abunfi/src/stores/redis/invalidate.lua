-- Removes values and leases, and tells the other instances, in one step.
--
-- KEYS: the counter of invalidations; values; tags.
-- ARGV: how many of KEYS are values; a new version for the tags; how long tags are kept, in ms; the
--       channel; the message without its number.
local values = tonumber(ARGV[1])
for i = 2, #KEYS do
  if i <= values + 1 then
    redis.call('DEL', KEYS[i])
  else
    redis.call('SET', KEYS[i], ARGV[2], 'PX', ARGV[3])
  end
end
local sequence = redis.call('INCR', KEYS[1])
redis.call('PUBLISH', ARGV[4], sequence .. ' ' .. ARGV[5])
return sequence
