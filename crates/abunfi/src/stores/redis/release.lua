-- Gives a lease back unfilled. KEYS: the value. ARGV: the token.
if redis.call('HGET', KEYS[1], 'lease') == ARGV[1] then
  redis.call('HDEL', KEYS[1], 'lease', 'lease_until', 'lease_tags')
end
return 0
