-- GCRA (ATM Forum af-tm-0056.000, §4.4.2), the arithmetic of rate_limit::gcra in whole microseconds of the
-- server's clock. Doubles are exact up to 2^53, the year 2255.
--
-- KEYS: the theoretical arrival time (TAT) of one key. ARGV: interval, limit, cost.
-- Returns {allowed, remaining, retry_after (-1: never), reset_after, new TAT (-1: unchanged)}.
local interval, limit, cost = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local ceiling = now + interval * limit

local tat = tonumber(redis.call('GET', KEYS[1])) or now
-- Further ahead than any admission leaves it: the clock was set back, or the limit was lowered.
tat = math.min(math.max(tat, now), ceiling)

local charged = tat + interval * cost
local allowed = cost == 0 or (cost <= limit and charged <= ceiling)
local after = allowed and charged or tat
local retry_after, new_tat = 0, -1
if not allowed then
  retry_after = cost <= limit and charged - ceiling or -1
elseif cost > 0 then
  new_tat = charged
  redis.call('SET', KEYS[1], string.format('%.0f', charged),
    'PX', math.ceil((charged - now) / 1000))
end
local remaining = math.min(math.floor((ceiling - after) / interval), limit)
return { allowed and 1 or 0, remaining, retry_after, after - now, new_tat }
