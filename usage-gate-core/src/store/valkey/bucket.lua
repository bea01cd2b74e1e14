-- A bucket of class R. `rates/bucket.rs` is the specification; this does the same in the same order, and is compared with it on random calls.
--
-- KEYS[1]  the bucket: a hash of
--            i  the incarnation it was made in        l  its level, in parts of a unit        s  how many parts a unit has
--            t  up to when it has refilled            f  from when on it is as good as absent
--            and for each lease its id: "units:spent:ends"
-- ARGV     now in microseconds, or 0 for the server's clock
--          for how long units are lent, the longest of all such times, and after how long an idle bucket is as good as absent, in microseconds
--          time to live after this call in milliseconds, or 0 for ever
--          parts of a unit        parts that a microsecond refills        burst in units        lease id, units wished for
--          n, then n times: an incarnation that is known, and for how many microseconds at least
--          n, then n times: lease id, spent of it so far
--          n, then n times: id of a lease that ends, spent of it
-- Answers  units lent, level, outstanding, microseconds until there is one unit more        or: "unknown", the present incarnation
--
-- Numbers are doubles: exact up to 2^53, and no rate comes here that holds more (`RateTerms::are_short_lived`).

local at = 0
local function word() at = at + 1; return ARGV[at] end
local function number() return tonumber(word()) end
local function digits(n) return string.format('%.0f', n) end

local now = number()
if now == 0 then
  local time = redis.call('TIME')
  now = time[1] * 1000000 + time[2]
end
local lease_time, longest, idle, ttl = number(), number(), number(), number()
local scale, rate, burst = number(), number(), number()
local lease, want = word(), number()

local incarnation = string.match(redis.call('INFO', 'replication'), 'master_replid:(%x+)')
local age
for _ = 1, number() do
  local known, since = word(), number()
  if known == incarnation then age = since end
end
if not age then return { 'unknown', incarnation } end

-- 1. A bucket that is absent, forgotten, or of another incarnation, begins.
local key = KEYS[1]
local stored, fields = redis.call('HGETALL', key), {}
for i = 1, #stored, 2 do fields[stored[i]] = stored[i + 1] end
local level, last, leases = 0, math.max(0, now - age) + longest, {}
local changed, gone = {}, {}
if fields.i == incarnation and now < tonumber(fields.f) then
  level, last = tonumber(fields.l), tonumber(fields.t)
  -- 2. In the new parts, by way of millionths, rounded down.
  local before = tonumber(fields.s)
  if before ~= scale then
    local millionths = math.floor(level % before * 1000000 / before)
    level = math.floor(level / before) * scale + math.floor(millionths * scale / 1000000)
  end
  for id, text in pairs(fields) do
    local units, spent, ends = string.match(text, '^(%d+):(%d+):(%d+)$')
    if units then
      leases[#leases + 1] = { id = id, units = tonumber(units), spent = tonumber(spent), ends = tonumber(ends) }
    end
  end
  table.sort(leases, function(a, b) return a.ends < b.ends or (a.ends == b.ends and a.id < b.id) end)
elseif fields.i then
  redis.call('DEL', key)
end

local outstanding = 0
for _, lent in ipairs(leases) do outstanding = outstanding + lent.units - lent.spent end
local function room() return math.max(0, burst - outstanding) * scale end
local function refill(instant)
  level = math.min(level + math.max(0, instant - last) * rate, room())
  last = math.max(last, instant)
end
local function place(id)
  for i, lent in ipairs(leases) do
    if lent.id == id then return i, lent end
  end
end
local function note(id, spent)
  local _, lent = place(id)
  if lent and spent > lent.spent then
    spent = math.min(spent, lent.units)
    outstanding = outstanding - (spent - lent.spent)
    lent.spent = spent
    changed[id] = lent
  end
end
local function drop(i)
  local lent = table.remove(leases, i)
  outstanding = outstanding - (lent.units - lent.spent)
  changed[lent.id] = nil
  gone[#gone + 1] = lent.id
end

-- 3. Leases end in the order of time, with the refill until each end before it.
while leases[1] and leases[1].ends <= now do
  refill(leases[1].ends)
  drop(1)
end
-- 4. And until now.
refill(now)

-- 5. Reports, then returns.
for _ = 1, number() do note(word(), number()) end
for _ = 1, number() do
  local id, spent = word(), number()
  note(id, spent)
  local i, lent = place(id)
  if i then
    local rest = (lent.units - lent.spent) * scale
    drop(i)
    level = math.min(level + rest, room())
  end
end

-- 6. What is wished for.
local _, known = place(lease)
local granted = known and known.units or math.min(want, math.floor(level / scale))
if not known and granted > 0 then
  level = level - granted * scale
  outstanding = outstanding + granted
  local lent = { id = lease, units = granted, spent = 0, ends = now + lease_time }
  leases[#leases + 1] = lent
  changed[lease] = lent
end

if #gone > 0 then redis.call('HDEL', key, unpack(gone)) end
local write = { 'i', incarnation, 'l', digits(level), 's', digits(scale), 't', digits(last), 'f', digits(last + idle) }
for id, lent in pairs(changed) do
  write[#write + 1] = id
  write[#write + 1] = digits(lent.units) .. ':' .. digits(lent.spent) .. ':' .. digits(lent.ends)
end
redis.call('HSET', key, unpack(write))
if ttl > 0 then redis.call('PEXPIRE', key, ttl) end

local whole = math.floor(level / scale)
local next_in = 0
if (whole + 1) * scale <= room() then
  next_in = math.max(0, last - now) + math.ceil(((whole + 1) * scale - level) / rate)
else
  -- All of it is lent: the first lease that ends makes room.
  local first
  for _, lent in ipairs(leases) do
    if lent.spent < lent.units and (not first or lent.ends < first) then first = lent.ends end
  end
  if first then next_in = math.max(0, first - now) end
end
return { digits(granted), digits(whole), digits(outstanding), digits(next_in) }
