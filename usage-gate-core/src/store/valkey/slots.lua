-- Places of one limit of requests open at once: `rates/slots.rs` is the specification, and runs the same calls.
--
-- KEYS[1]  a hash of  @i  the incarnation it was made in        @u  nothing is added before this instant
--                     and for each node n: and its name: "places:expires"
-- ARGV     now in microseconds, or 0 for the server's clock        lease time in microseconds        time to live (0: for ever)
--          the node        the limit        places it keeps        places wished for
--          n, then n times: an incarnation that is known, and for how many microseconds at least
-- Answers  places of the node, places of all others        or: "unknown", the present incarnation

local at = 0
local function word() at = at + 1; return ARGV[at] end
local function number() return tonumber(word()) end
local function digits(n) return string.format('%.0f', n) end

local now = number()
if now == 0 then
  local time = redis.call('TIME')
  now = time[1] * 1000000 + time[2]
end
local lease_time, ttl = number(), number()
local node, limit, keep, more = 'n:' .. word(), number(), number(), number()

local incarnation = string.match(redis.call('INFO', 'replication'), 'master_replid:(%x+)')
local age
for _ = 1, number() do
  local known, since = word(), number()
  if known == incarnation then age = since end
end
if not age then return { 'unknown', incarnation } end

local key = KEYS[1]
local stored = redis.call('HGETALL', key)
local made, from, elsewhere = nil, now - age + lease_time, 0
local others, gone = {}, {}
for i = 1, #stored, 2 do
  local field, text = stored[i], stored[i + 1]
  if field == '@i' then
    made = text
  elseif field == '@u' then
    others[field] = tonumber(text)
  elseif field ~= node then
    local places, expires = string.match(text, '(%d+):(%d+)')
    if tonumber(expires) <= now then
      gone[#gone + 1] = field
    else
      elsewhere = elsewhere + tonumber(places)
    end
  end
end
if made == incarnation then
  from = others['@u']
elseif made then
  redis.call('DEL', key)
  elsewhere, gone = 0, {}
end

local slots = keep
if now >= from then
  slots = keep + math.max(0, math.min(more, limit - elsewhere - keep))
end
for _, field in ipairs(gone) do redis.call('HDEL', key, field) end
redis.call('HSET', key, '@i', incarnation, '@u', digits(from))
if slots > 0 then
  redis.call('HSET', key, node, digits(slots) .. ':' .. digits(now + lease_time))
else
  redis.call('HDEL', key, node)
end
if ttl > 0 then redis.call('PEXPIRE', key, math.ceil(ttl / 1000)) end
return { digits(slots), digits(elsewhere) }
