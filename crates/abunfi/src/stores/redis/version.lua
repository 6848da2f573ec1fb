-- The version of a tag, made if there is none. KEYS: the tag. ARGV: a version; how long it is kept, in ms.
local version = redis.call('GET', KEYS[1])
if version then
  redis.call('PEXPIRE', KEYS[1], ARGV[2])
  return version
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return ARGV[1]
