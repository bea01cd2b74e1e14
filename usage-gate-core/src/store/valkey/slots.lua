-- Places of one limit of requests open at once. `rates/slots.rs` is the specification; this does the same in the same order, and is compared with it on random calls.
--
-- KEYS[1]  a hash of  @i  the incarnation it was made in        @o  no place is added before this instant
--                     and for each node n: and its name: "places:sequence:ends"
-- ARGV     now in microseconds, or 0 for the server's clock        for how long places are lent, in microseconds
--          time to live after this call in milliseconds, or 0 for ever
--          the node        the number of this call        the limit        places it keeps        places wished for
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
local node, sequence, limit, keep, more = 'n:' .. word(), number(), number(), number(), number()

local incarnation = string.match(redis.call('INFO', 'replication'), 'master_replid:(%x+)')
local age
for _ = 1, number() do
  local known, since = word(), number()
  if known == incarnation then age = since end
end
if not age then return { 'unknown', incarnation } end

-- 1. What is absent, or of another incarnation, begins.
local key = KEYS[1]
local stored, fields = redis.call('HGETALL', key), {}
for i = 1, #stored, 2 do fields[stored[i]] = stored[i + 1] end
local opens = math.max(0, now - age) + lease_time
local own, elsewhere, gone = nil, 0, {}
if fields['@i'] == incarnation then
  opens = tonumber(fields['@o'])
  -- 2. Nodes that were not heard of for too long.
  for field, text in pairs(fields) do
    local places, number_of_call, ends = string.match(text, '^(%d+):(%d+):(%d+)$')
    if places and tonumber(ends) <= now then
      gone[#gone + 1] = field
    elseif places and field == node then
      own = { places = tonumber(places), sequence = tonumber(number_of_call) }
    elseif places then
      elsewhere = elsewhere + tonumber(places)
    end
  end
elseif fields['@i'] then
  redis.call('DEL', key)
end
if #gone > 0 then redis.call('HDEL', key, unpack(gone)) end

-- 3. A late call changes nothing, nor does the same one again, which gets the same answer.
if own and own.sequence >= sequence then
  local told = own.places
  if own.sequence > sequence then told = math.min(own.places, keep) end
  return { digits(told), digits(elsewhere) }
end

-- 4. and 5. What it keeps, and what the limit leaves.
local free = 0
if now >= opens then free = math.max(0, limit - elsewhere) end
local places = keep + math.min(more, math.max(0, free - keep))
redis.call('HSET', key, '@i', incarnation, '@o', digits(opens), node,
  digits(places) .. ':' .. digits(sequence) .. ':' .. digits(now + lease_time))
if ttl > 0 then redis.call('PEXPIRE', key, ttl) end
return { digits(places), digits(elsewhere) }
