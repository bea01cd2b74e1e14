-- Which nodes were heard of of late.
--
-- KEYS[1]  a sorted set of their names by instant
-- ARGV     now in microseconds, or 0 for the server's clock        the node        for how long a node counts, in microseconds
-- Answers  how many

local now = tonumber(ARGV[1])
if now == 0 then
  local time = redis.call('TIME')
  now = time[1] * 1000000 + time[2]
end
redis.call('ZADD', KEYS[1], string.format('%.0f', now), ARGV[2])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', string.format('%.0f', now - ARGV[3]))
return { string.format('%.0f', redis.call('ZCARD', KEYS[1])) }
