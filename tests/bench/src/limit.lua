-- What limiters with a central store run for each request: a rate as GCRA and a quota as a counter of its period.
-- KEYS: the rate, the quota. ARGV: microseconds a request, microseconds of burst, units a period, seconds until its end.
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local arrival = math.max(tonumber(redis.call('GET', KEYS[1]) or now), now) + tonumber(ARGV[1])
local wait = arrival - tonumber(ARGV[2]) - now
if wait > 0 then
    return {0, wait, 0}
end
local used = tonumber(redis.call('GET', KEYS[2]) or 0)
if used >= tonumber(ARGV[3]) then
    return {0, 0, used}
end
redis.call('SET', KEYS[1], arrival, 'PX', math.ceil((arrival - now) / 1000) + 1)
used = redis.call('INCR', KEYS[2])
if used == 1 then
    redis.call('EXPIRE', KEYS[2], ARGV[4])
end
return {1, 0, used}
